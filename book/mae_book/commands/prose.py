"""The numbers that the book's prose says, page by page, in ``book/numbers.json``: a number that was
changed by hand is named by `mae ledger --check` and by the tests, until `mae ledger --seal` takes
it over and says what changed. That what is measured among them is true, the pages' own cells
assert; the tests look for each there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from mae_book.verdicts.results import repository
from mae_lib.base.files import write_json

_NUMBER = re.compile(r"(?<![\w.])[-−+]?\d+(?:[.,\u2009\u202f\u00a0 ]\d{3}(?!\d)|\.\d+)*")
_CODE = re.compile(
    r"^ *```(?!\{dropdown|\{note|\{tip|\{warning|\{admonition).*?^ *```"  # fenced, not prose
    r"|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)\n]+\)|<[^>\n]+>",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Number:
    """A number as the prose says it, and the words around it."""

    said: str
    before: str
    after: str

    @property
    def percent(self) -> bool:
        return re.match(r"\s?%", self.after) is not None

    @property
    def measured(self) -> bool:
        """Whether it looks like a result: with decimals, or in percent. No number of a section of
        the paper."""
        section = re.search(r"§+\s?(?:[\d.]+[–, to]+)?$", self.before)
        return section is None and ("." in self.said or self.percent)

    def __str__(self) -> str:
        return f"“…{self.before[-40:]}{self.said}{self.after[:12]}…”".replace("\n", " ")


def numbers(text: str) -> list[Number]:
    """All numbers of a piece of Markdown but those in code, formulas and links."""
    prose = _CODE.sub(" ", text)
    return [
        Number(
            found[0], prose[max(0, found.start() - 60) : found.start()], prose[found.end() :][:30]
        )
        for found in _NUMBER.finditer(prose)
    ]


def cells(path: Path) -> list[str]:
    """The prose of a page: a notebook's Markdown cells, its figures' captions and alt texts; or the
    file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return [text]
    found = []
    for cell in json.loads(text)["cells"]:
        shown = cell["metadata"].get("mystnb", {})
        found += [
            "".join(cell["source"]) if cell["cell_type"] == "markdown" else "",
            shown.get("figure", {}).get("caption", ""),
            shown.get("image", {}).get("alt", ""),
        ]
    return found


def pages() -> list[Path]:
    """The chapters, the README, and the pages without code but those of years and versions."""
    root = repository()
    plain = {*(root / "book").glob("*.md")} - {
        root / "book" / name for name in ("bibliography.md", "changelog.md")
    }
    return [*sorted((root / "notebooks").glob("*.ipynb")), *sorted(plain), root / "README.md"]


def numbers_file() -> Path:
    """``book/numbers.json``: page → its numbers in order, a string a paragraph."""
    return repository() / "book" / "numbers.json"


def said() -> dict[str, list[list[Number]]]:
    """Page → the numbers of each of its paragraphs that has any."""
    return {
        path.relative_to(repository()).as_posix(): [
            found
            for cell in cells(path)
            for paragraph in re.split(r"\n\s*\n", _CODE.sub(" ", cell))
            if (found := numbers(paragraph))
        ]
        for path in pages()
    }


def changes() -> list[str]:
    """One line a place at which the prose says other numbers than ``book/numbers.json`` has."""
    if not (repository() / "_toc.yml").is_file():  # a library from a wheel has no pages
        return []
    kept = json.loads(numbers_file().read_text(encoding="utf-8")) if numbers_file().exists() else {}
    now = said()
    gone = [f"{page}: the page is gone" for page in sorted(kept.keys() - now.keys())]
    return gone + [
        line for page, found in now.items() for line in _moved(page, kept.get(page, []), found)
    ]


def faults() -> list[str]:
    """:func:`changes`, with the remedy."""
    return [
        f"{line}: correct it, or see that a cell asserts it and `mae ledger --seal`"
        for line in changes()
    ]


def seal() -> list[str]:
    """Takes the numbers over as the prose says them now; what that changes, as :func:`changes`."""
    if not (repository() / "_toc.yml").is_file():  # a library from a wheel has no pages
        return []
    found = changes()
    write_json(
        numbers_file(),
        {
            page: [" ; ".join(number.said for number in part) for part in parts]
            for page, parts in said().items()
        },
    )
    return found


def _moved(page: str, kept: list[str], found: list[list[Number]]) -> Iterator[str]:
    before = [number for part in kept for number in part.split(" ; ")]
    now = [number for part in found for number in part]
    matcher = SequenceMatcher(None, before, [number.said for number in now], autojunk=False)
    for kind, i, j, k, l in matcher.get_opcodes():
        if kind == "equal":
            continue
        where = now[min(k, len(now) - 1)] if now else "an empty page"
        yield (
            f"{page}: the prose says {', '.join(n.said for n in now[k:l]) or 'nothing'} where it"
            f" said {', '.join(before[i:j]) or 'nothing'}, at {where}"
        )
