"""Sphinx extension: the pages fetch nothing from the network.

MathJax comes from an installed package instead of a CDN, as the one file that holds every TeX
extension and draws SVG, so that it has no fonts and no further scripts to ask for. The live
widgets' scripts are left out, since a page has no kernel to talk to: a cell's HTML face is shown
instead of its widget (see `nb_mime_priority_overrides` in _config.yml). So is sphinx-thebe, which
Jupyter Book always loads: it would run cells on a server elsewhere, puts that server's address into
every page, and declares its constants twice, which is an error in the browser.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

PACKAGE = "sphinx-mathjax-offline"
"""The distribution that carries MathJax; its import name has the dashes too, so it is only ever
looked up."""

SCRIPT = "tex-svg-full.js"


def find_mathjax() -> Path:
    """The installed MathJax file; ExtensionError where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    script = (
        Path(spec.origin).parent / "static" / "mathjax" / SCRIPT if spec and spec.origin else None
    )
    if script is None or not script.is_file():
        raise ExtensionError(
            f"{PACKAGE} is not installed, so formulas could not be shown offline: pip install -r"
            " requirements.txt"
        )
    return script


def use_local_mathjax(app: Sphinx, config: Config) -> None:
    """Copy MathJax beside the pages and make them load it from there."""
    config.html_static_path = [*config.html_static_path, str(find_mathjax())]
    config.mathjax_path = SCRIPT


def leave_out_thebe(app: Sphinx, config: Config) -> None:
    """Undo what sphinx-thebe has set up: its scripts, its style sheet and what it adds to each
    page."""
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)
    app.registry.css_files[:] = [
        (name, attributes)
        for name, attributes in app.registry.css_files
        if name != "sphinx-thebe.css"
    ]


SUMMARIES = "DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY &&= location.protocol !== 'file:'"
"""The search fetches every page that it lists, for an excerpt; a browser lets no page fetch a
file."""


def setup(app: Sphinx) -> dict[str, bool | str]:
    """Register with Sphinx."""
    app.connect("config-inited", use_local_mathjax)
    app.connect("config-inited", leave_out_thebe)
    app.add_js_file(None, body=SUMMARIES)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
