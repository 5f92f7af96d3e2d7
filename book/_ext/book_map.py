"""Sphinx extension: the map between the paper and the code, both ways, drawn from what is there.

`paper_items` lists what the paper has. Where each item is in the code is read from the docstrings
of `mae_lib`, which name the paper's sections, equations and figures, and from the names of
functions and fields; in the tests, from their docstrings and from which tests use the code found;
in the book, from the text and the figure captions of the chapters; and the ledger's claims say
which item each is about (`map_sources`). The directive ``paper-map`` writes the three tables:
``items``, ``modules`` and ``claims``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from map_sources import Code, Figure, Page, Sources, claims, mentions, modules, read_sources
from paper_items import ITEMS, KINDS, Item

SHOWN = 8
"""Most functions and classes that are named for an item; for the rest there is their module."""


@dataclass
class Found:
    """Where one item is."""

    item: Item
    code: list[Code] = field(default_factory=list)
    tests: dict[str, list[str]] = field(default_factory=dict)
    pages: list[Page] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)


def find_code(item: Item, sources: Sources, pages: Iterable[Page]) -> list[Code]:
    """Modules, classes, functions and fields that an item is in: the modules first, then what has
    the symbol's own name, then the rest."""
    named = {entry.module: mentions(entry.doc) for entry in sources.code if not entry.name}
    if item.kind == "symbol":
        there = [entry for entry in sources.code if f"§{item.section}" in named[entry.module]]
        by_name = [entry for entry in there if entry.last in item.names and entry.name]
        if missing := set(item.names) - {entry.last for entry in by_name}:
            raise ExtensionError(
                f"{item.id}: no module of §{item.section} has a function or field called"
                f" {', '.join(sorted(missing))}"
            )
        by_doc = [
            entry
            for entry in there
            if item.written and item.written.search(" ".join(entry.doc.split()))
        ]
        return list(dict.fromkeys((*by_name, *by_doc)))
    found = [entry for entry in sources.code if item.id in mentions(entry.doc)]
    if item.kind == "section":
        return [entry for entry in found if not entry.name]
    # What draws a chapter's counterpart of the paper's figure or table, and what of the same
    # section it is drawn from.
    drawn = {
        name
        for page in pages
        for figure in page.figures
        if item.id in figure.mentions
        for name in figure.names
    }
    modules = {
        name
        for page in pages
        for name in page.modules
        if name.endswith("figures") or f"§{item.section}" in named.get(name, ())
    }
    found += [
        entry
        for entry in sources.code
        if entry.name in drawn and entry.module in modules and entry not in found
    ]
    return sorted(found, key=lambda entry: bool(entry.name))


def find_tests(item: Item, code: Iterable[Code], sources: Sources) -> dict[str, list[str]]:
    """file → its tests that name the item, or that are of the code found and use it."""
    found: dict[str, list[str]] = {}
    code = list(code)
    for file in sources.tests:
        of_file = [entry for entry in code if file in sources.own_tests(entry.module)]
        names = {entry.last for entry in of_file if entry.name}
        whole = item.kind != "symbol" and (
            item.id in mentions(file.doc)
            or (any(not entry.name for entry in of_file) and not names)
        )
        chosen = [
            name
            for name, (doc, used) in file.tests.items()
            if whole or names & used or item.id in mentions(doc)
        ]
        if chosen:
            found[file.name] = chosen
    return found


def draw_map(sources: Sources, items: Iterable[Item] = ITEMS) -> dict[str, Found]:
    """id → where the item is. ExtensionError naming an item that has no code or no test."""
    drawn: dict[str, Found] = {}
    sections = {item.id: item.section for item in ITEMS}
    for item in items:
        if item.kind == "symbol":
            pages = [page for page in sources.pages if f"§{item.section}" in page.opening]
        else:
            pages = [page for page in sources.pages if item.id in page.mentions]
        found = Found(item, find_code(item, sources, pages))
        found.tests = find_tests(item, found.code, sources)
        found.pages = sorted(pages, key=lambda page: item.id not in page.opening)
        found.figures = [
            figure for page in pages for figure in page.figures if item.id in figure.mentions
        ]
        found.claims = [
            identity
            for identity, where in sources.claims.items()
            if item.id in mentions(where)
            or (
                item.kind == "section"
                and item.section in {sections[other] for other in mentions(where)}
            )
        ]
        drawn[item.id] = found
    for found in drawn.values():
        whole = drawn.get(found.item.of)
        if whole:
            found.code, found.tests = found.code or whole.code, found.tests or whole.tests
        if not found.code:
            raise ExtensionError(
                f"{found.item.id} of the paper is in no docstring of mae_lib: name it where it is"
                " done"
            )
        if not found.tests:
            raise ExtensionError(
                f"{found.item.id} of the paper has no test: no test uses"
                f" {', '.join(sorted({c.entry for c in found.code}))}"
            )
    return drawn


def _listed(pieces: Iterable[str], most: int, more: str) -> str:
    """ "a, b and 3 more tests"."""
    pieces = list(pieces)
    rest = len(pieces) - most
    return ", ".join(pieces) if rest <= 1 else f"{', '.join(pieces[:most])} and {rest} {more}"


def _code(entry: Code) -> str:
    return f"{{py:obj}}`{entry.name or entry.module.rpartition('.')[2]} <{entry.entry}>`"


def _tests(tests: dict[str, list[str]]) -> str:
    files = sorted(tests.items(), key=lambda pair: -len(pair[1]))
    said = [f"`{name}` ({len(chosen)})" for name, chosen in files]
    first, chosen = files[0]
    if len(chosen) > 1:
        said[0] = f"`{first}` ({len(chosen)}, the first `{chosen[0]}`)"
    return _listed(said, 3, "more files")


def _page_link(page: Page) -> str:
    number = re.match(r"\d+", page.title)
    return f"{{ref}}`{'chapter ' + number[0] if number else page.title} <{page.label}>`"


def _book(found: Found) -> str:
    item = found.item.id.replace("Equation ", "eq-")
    first = [
        page for page in found.pages if found.item.id in page.opening or found.item.kind == "symbol"
    ]
    rest = [page for page in found.pages if page not in first]
    said = ", ".join(map(_page_link, first or rest))
    if first and rest:
        said += "; also in " + ", ".join(map(_page_link, rest))
    figures = [f"{{numref}}`our Figure {{number}} <{figure.label}>`" for figure in found.figures]
    equations = [f"equation {{eq}}`{item}`" for page in found.pages if item in page.equations]
    return "; ".join(filter(None, [said, *equations, *figures]))


def write_items(drawn: dict[str, Found]) -> str:
    """From the paper to the code: MyST, one definition an item."""
    lines = []
    for kind, heading in KINDS.items():
        lines += [f"### {heading}", ""]
        for found in (each for each in drawn.values() if each.item.kind == kind):
            item = found.item
            title = f"${item.tex}$ {item.id}" if item.tex else item.id
            meaning = f"{item.meaning[0].upper()}{item.meaning[1:]}"
            said = [f"{meaning} (§{item.section})." if kind != "section" else f"{meaning}."]
            said.append(
                f"*Code:* {_listed(map(_code, found.code), SHOWN, 'more')}"
                + (f"; see also *{item.of}*" if item.of else "")
            )
            said.append(f"*Tests:* {_tests(found.tests)}")
            if book := _book(found):
                said.append(f"*Book:* {book}")
            if found.claims:
                links = (f"{{ref}}`{identity} <map-claims>`" for identity in found.claims)
                said.append(f"*Claims:* {', '.join(links)}")
            lines += [title, ": " + "\\\n  ".join(said), ""]
    return "\n".join(lines)


def write_modules(sources: Sources, drawn: dict[str, Found]) -> str:
    """From the code to the paper: a table with one row a module."""
    lines = ["| module | of the paper | chapters that use it | tests |", "|---|---|---|---|"]
    for entry in (each for each in sources.code if not each.name):
        items = [
            found.item
            for found in drawn.values()
            if any(code.module == entry.module for code in found.code)
        ]
        said = [f"${item.tex}$" if item.kind == "symbol" else item.id for item in items]
        pages = [
            _page_link(page).replace("chapter ", "")
            for page in sources.pages
            if entry.module in page.modules
        ]
        files = [f"`{file.name}`" for file in sources.own_tests(entry.module)]
        tests = ", ".join(files) if len(files) <= 3 else f"{len(files)} files"
        lines.append(
            f"| {_code(entry)} | {', '.join(said) or '–'} | {', '.join(pages) or '–'} |"
            f" {tests or '–'} |"
        )
    return "\n".join(lines)


def write_claims(sources: Sources, drawn: dict[str, Found]) -> str:
    """The ledger's claims: what each says, what measures it, in which chapter it is decided."""
    pages = {page.label: page for page in sources.pages}
    known = {entry.module: entry for entry in sources.code if not entry.name}
    lines = [
        "| claim | of the paper | what it says | measured by | chapter |",
        "|---|---|---|---|---|",
    ]
    for identity, claim in claims().items():
        page = pages.get(claim.chapter)
        measured = [name for name in known if name.rpartition(".")[2] == claim.kind]
        # no module of that name: what the chapter uses of the code that the item is in
        if not measured:
            there = {
                code.module
                for found in drawn.values()
                if found.item.id in mentions(claim.where)
                for code in found.code
            }
            measured = [
                name
                for name in known
                if name in there and page and name in page.modules and not name.endswith("figures")
            ]
        if not measured:  # ours, about no item: the wing of that name
            measured = [
                name
                for name in known
                if page and name in page.modules and name.split(".")[1] == claim.kind
            ]
        by = ", ".join(_code(known[name]) for name in measured)
        number = _page_link(page).replace("chapter ", "") if page else "–"
        lines.append(f"| {identity} | {claim.where} | {claim.statement} | {by or '–'} | {number} |")
    return "\n".join(lines)


class PaperMap(SphinxDirective):
    """``paper-map``: one of the three tables, in place of the directive."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        for path in (
            *modules(root).values(),
            *(root / "tests").rglob("test_*.py"),
            *(root / "notebooks").glob("*.ipynb"),
        ):
            self.env.note_dependency(str(path))
        sources = read_sources(root, self.env.found_docs)
        drawn = draw_map(sources)
        writers = {
            "items": lambda: write_items(drawn),
            "modules": lambda: write_modules(sources, drawn),
            "claims": lambda: write_claims(sources, drawn),
        }
        if self.arguments[0] not in writers:
            raise self.error(
                f"paper-map writes one of {', '.join(writers)}, not {self.arguments[0]!r}"
            )
        place = nodes.section()
        place.document = self.state.document
        self.state.nested_parse(
            StringList(writers[self.arguments[0]]().splitlines(), source="paper-map"),
            self.content_offset,
            place,
            match_titles=True,
        )
        return place.children


def setup(app: Sphinx) -> dict[str, bool | str]:
    """Register with Sphinx."""
    app.add_directive("paper-map", PaperMap)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
