"""Sphinx extension: what the pages' frame gets wrong for readers, put right.

docutils marks each entry of the bibliography by a role that ARIA has since withdrawn, inside a
list, which then has no items. The theme takes the colours from the reader's system, but logs an
error while the reader has chosen none; its own setting for that takes all colours from a page
without scripts.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

COLOURS = "document.documentElement.dataset.mode ||= 'auto'"


def mark_entries(app: Sphinx, name: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Handler of `html-page-context`: entries of a bibliography are items of its list."""
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Sphinx) -> dict[str, bool | str]:
    """Register with Sphinx."""
    app.connect("html-page-context", mark_entries)
    app.add_js_file(None, body=COLOURS)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
