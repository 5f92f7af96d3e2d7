"""What the map between paper and code is drawn from: the library's docstrings and names, the tests
and what they use, the chapters' text, captions and imports, and which item of the paper each claim
of the ledger is about. Files are read, nothing is run; only the claims are imported.
"""

from __future__ import annotations

import ast
import functools
import importlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sphinx.errors import ExtensionError

from paper_items import ITEMS

NUMBERED = re.compile(
    r"(Assumption|Theorem|Algorithm|Equation|Eq|Figure|Fig|Table)(?:s|\.|s\.)? (\d+)((?:(?:, | and"
    r" | to |–)\d+)*)(?!\d| there|\.\d)",
    re.IGNORECASE,
)
SECTION = re.compile(r"§(\d(?:\.\d)?)((?:(?:, | and | to |–)§?\d\.\d)*)(?!\.?\d| there)")
"""How text names an item; followed by "there", it is an item of another paper."""

WORDS = {"eq": "Equation", "fig": "Figure"}


def mentions(text: str) -> set[str]:
    """The paper's items that a text names: ids as in `paper_items`, ranges and lists spelled
    out."""
    text = " ".join(text.split())
    found = {f"Equation {number}" for number in re.findall(r"\{eq\}`eq-(\d+)`", text)}
    for word, first, more in NUMBERED.findall(text):
        for number in _spelled_out(first, more):
            found.add(f"{WORDS.get(word.lower(), word.capitalize())} {number}")
    for first, more in SECTION.findall(text):
        found |= {f"§{number}" for number in _spelled_out(first, more)}
    return found & {item.id for item in ITEMS}


def _spelled_out(first: str, more: str) -> Iterator[str]:
    """ "3.1", "–§3.4" → 3.1, 3.2, 3.3, 3.4; "1", ", 2 and 5" → 1, 2, 5."""
    last = first
    yield first
    for joint, number in re.findall(r"(, | and | to |–)§?(\d+(?:\.\d)?)", more):
        if joint in (" to ", "–"):
            chapter, _, low = last.rpartition(".")
            for k in range(int(low) + 1, int(number.rpartition(".")[2])):
                yield f"{chapter}.{k}" if chapter else str(k)
        yield number
        last = number


@dataclass(frozen=True)
class Code:
    """A module, or a public function, class, method or field in it. entry: the dotted name that the
    API pages have an entry for."""

    module: str
    name: str
    doc: str
    entry: str

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class TestFile:
    """A file of tests: its opening, the modules it imports, and each test with its docstring and
    every name used in it or in its helpers."""

    name: str
    doc: str
    modules: frozenset[str]
    tests: dict[str, tuple[str, frozenset[str]]]


@dataclass(frozen=True)
class Figure:
    """A figure of a chapter: its label, what its caption names, and the names that its cell
    uses."""

    label: str
    mentions: frozenset[str]
    names: frozenset[str]


@dataclass(frozen=True)
class Page:
    """A chapter or a page of text: where, how it is called, what its opening and all of its text
    name, its equations and figures."""

    document: str
    label: str
    title: str
    opening: frozenset[str]
    mentions: frozenset[str]
    equations: frozenset[str]
    figures: tuple[Figure, ...] = ()
    modules: frozenset[str] = frozenset()


PACKAGES = {"mae_lib": "mae_lib", "mae_book": "book/mae_book"}
"""package → its folder under the root."""


def modules(root: Path) -> dict[str, Path]:
    """Dotted name → file of every module of the packages, wing by wing."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted((root / folder).rglob("*.py")):
            if not path.stem.startswith("__"):
                found[
                    ".".join((package, *path.relative_to(root / folder).with_suffix("").parts))
                ] = path
    return found


def read_module(full: str, path: Path) -> list[Code]:
    """The module and what is public in it, with docstrings: the module first, then in the order of
    the file."""
    tree, module = ast.parse(path.read_text(encoding="utf-8")), full
    found = [Code(module, "", ast.get_docstring(tree) or "", full)]
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        doc = ast.get_docstring(node) or ""
        own = f"{full}.{node.name}" if doc else full
        found.append(Code(module, node.name, doc, own))
        for part in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
                text = ast.get_docstring(part) or ""
                found.append(
                    Code(
                        module,
                        f"{node.name}.{part.name}",
                        text,
                        f"{own}.{part.name}" if text else own,
                    )
                )
            elif (
                isinstance(part, ast.AnnAssign)
                and isinstance(part.target, ast.Name)
                and not part.target.id.startswith("_")
            ):
                found.append(Code(module, f"{node.name}.{part.target.id}", "", own))
            elif isinstance(part, ast.FunctionDef) and part.name == "__init__":
                targets = (
                    t
                    for a in ast.walk(part)
                    if isinstance(a, (ast.Assign, ast.AnnAssign))
                    for t in getattr(a, "targets", None) or [a.target]
                )
                names = dict.fromkeys(
                    t.attr
                    for t in targets
                    if isinstance(t, ast.Attribute) and not t.attr.startswith("_")
                )
                found += [Code(module, f"{node.name}.{name}", "", own) for name in names]
    return found


def _imported(tree: ast.AST) -> set[str]:
    """Modules of the packages that a file may import: also the dotted names of what it takes from
    them."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES}
    return found


def _names(node: ast.AST) -> set[str]:
    """Every name, attribute and keyword used in a piece of code."""
    found = set()
    for part in ast.walk(node):
        found |= {
            getattr(part, key)
            for key in ("id", "attr", "arg")
            if isinstance(getattr(part, key, None), str)
        }
    return found


def read_tests(path: Path) -> TestFile:
    """A file of tests. A test uses what its helpers in the same file use."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    own = {name: _names(node) for name, node in functions.items()}
    tests = {}
    for name, node in functions.items():
        if name.startswith("test_"):
            used, waiting = set(), [name]
            while waiting:
                used |= own[waiting.pop()]
                waiting += [helper for helper in used & own.keys() if not own[helper] <= used]
            tests[name] = (ast.get_docstring(node) or "", frozenset(used))
    return TestFile(path.name, ast.get_docstring(tree) or "", frozenset(_imported(tree)), tests)


def _page(document: str, texts: list[str], captions: Iterable[str] = (), **rest: object) -> Page:
    head = re.search(r"^\((?P<label>[\w-]+)\)=\n# (?P<title>.+)$", texts[0], re.MULTILINE)
    if head is None:
        raise ExtensionError(
            f"{document} does not open with a label and a title, so the map cannot link to it"
        )
    everything = "\n\n".join((*texts, *captions))
    equations = frozenset(re.findall(r"^\$\$ \((eq-\d+)\)", everything, re.MULTILINE))
    return Page(
        document,
        head["label"],
        head["title"],
        frozenset(mentions(texts[0])),
        frozenset(mentions(everything)),
        equations,
        **rest,
    )


def read_chapter(path: Path, document: str) -> Page:
    """A notebook as the map needs it."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = [
        (cell["cell_type"], "".join(cell["source"]), cell.get("metadata", {})) for cell in cells
    ]
    figures, captions, modules = [], [], set()
    for kind, source, metadata in sources:
        if kind != "code":
            continue
        tree = ast.parse(re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE))
        modules |= _imported(tree)
        figure = metadata.get("mystnb", {}).get("figure", {})
        if "name" in figure:
            captions.append(figure.get("caption", ""))
            figures.append(
                Figure(figure["name"], frozenset(mentions(captions[-1])), frozenset(_names(tree)))
            )
    texts = [source for kind, source, _ in sources if kind == "markdown"]
    return _page(document, texts, captions, figures=tuple(figures), modules=frozenset(modules))


@dataclass(frozen=True)
class Sources:
    """Everything that the map is made from."""

    code: tuple[Code, ...]
    tests: tuple[TestFile, ...]
    pages: tuple[Page, ...]
    claims: dict[str, str]
    """claim id → the part of the paper that it is about."""

    def own_tests(self, module: str) -> list[TestFile]:
        """The test file named after a module; where there is none, those that import it."""
        named = [file for file in self.tests if file.name == f"test_{module.rpartition('.')[2]}.py"]
        return named or [file for file in self.tests if module in file.modules]


def read_sources(root: Path, documents: Iterable[str]) -> Sources:
    """Library, tests, chapters and claims under ``root``; of pages only those among ``documents``,
    the book's."""
    code = [entry for full, path in modules(root).items() for entry in read_module(full, path)]
    tests = [read_tests(path) for path in sorted((root / "tests").rglob("test_*.py"))]
    pages = [
        read_chapter(root / f"{name}.ipynb", name)
        for name in sorted(documents)
        if name.startswith("notebooks/")
    ]
    pages += [
        _page(name, [(root / f"{name}.md").read_text(encoding="utf-8")])
        for name in sorted(documents)
        if name == "book/proofs"
    ]
    return Sources(
        tuple(code),
        tuple(tests),
        tuple(pages),
        {claim.id: claim.where for claim in claims().values()},
    )


@functools.cache
def claims() -> dict:
    """All claims of the ledger by their ids."""
    return importlib.import_module("mae_book.verdicts.ledger").every_claim()
