"""Sphinx extension: the directive ``house``, a picture of the two packages drawn from the code: a
row a wing, in the order of the imports, with what lives there, its rooms and the wings that it
imports from.
"""

from __future__ import annotations

import ast
import html
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from map_sources import PACKAGES, modules


def wings(root: Path) -> dict[str, list[str]]:
    """package → its wings, those first that import nothing, as the contracts in pyproject.toml have
    them."""
    tool = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]
    layers = [contract for contract in tool["contracts"] if contract["type"] == "layers"]
    return {contract["containers"][0]: contract["layers"][::-1] for contract in layers}


def draw(root: Path) -> str:
    """The picture as HTML: a list of wings a package, each with its rooms; a room's length is in
    its title."""
    found, rows = modules(root), []
    for package, names in wings(root).items():
        rows.append(f'<h3>{package}</h3><ol class="house">')
        for wing in names:
            folder = root / PACKAGES[package] / wing
            says = ast.get_docstring(
                ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
            )
            rooms = {name: path for name, path in found.items() if path.parent == folder}
            below = sorted(
                {used for path in rooms.values() for used in _wings_used(path)}
                - {f"{package}.{wing}"}
            )
            chips = "".join(
                f'<li title="{len(path.read_text(encoding="utf-8").splitlines())}'
                f' lines">{name.rpartition(".")[2]}</li>'
                for name, path in rooms.items()
            )
            imports = f"imports {', '.join(below)}" if below else "imports nothing of these"
            rows.append(
                f"<li><p><strong>{wing}</strong> {html.escape(says.replace('``', ''))}</p>"
                f'<ul>{chips}</ul><p class="house-below">{imports}</p></li>'
            )
        rows.append("</ol>")
    return "".join(rows)


def _wings_used(path: Path) -> set[str]:
    """``package.wing`` of everything that a module imports from the packages, at its top or
    later."""
    used = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            parts = node.module.split(".")
            used |= (
                {".".join(parts[:2])}
                if len(parts) > 1
                else {f"{node.module}.{a.name}" for a in node.names}
            )
    return used


class House(SphinxDirective):
    """``house``: the picture, in place of the directive."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        for path in (root / "pyproject.toml", *modules(root).values()):
            self.env.note_dependency(str(path))
        return [nodes.raw("", draw(root), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("house", House)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
