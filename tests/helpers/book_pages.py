"""The rendered book as tests walk it: built once a session from the committed outputs, each page
parsed once, and one function for each kind of defect.

A check takes a page and says what is wrong with it, one line a defect. Nothing here runs a chapter
or a browser.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from bs4.element import NavigableString, PageElement, Tag
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]

SOURCES = (
    "_config.yml",
    "_toc.yml",
    "pyproject.toml",
    "requirements.txt",
    "book",
    "notebooks",
    "mae_lib",
    "tests",
)
"""What pages are made from: the map of paper and code reads library and tests as well."""

MOST_BYTES = 3_000_000
"""Of a page with what it loads that is not shared by all pages."""

HEAVY = {"book/explorer.html": 5_000_000}
"""Page that holds trained models → what it may weigh."""

FEWEST_LETTERS = 200

EXPLORER = re.compile(r"-explorer$")
"""Class of the element that holds an interactive explorer."""


def copy_sources(folder: Path) -> None:
    """The book's sources in ``folder``, set to show the outputs that the notebooks hold instead of
    running them."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name,
                folder / name,
                ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
            )
        else:
            shutil.copy(ROOT / name, folder)
    settings = (folder / "_config.yml").read_text(encoding="utf-8")
    assert settings.count("execute_notebooks: cache") == 1
    (folder / "_config.yml").write_text(
        settings.replace("execute_notebooks: cache", 'execute_notebooks: "off"'), encoding="utf-8"
    )


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Path:
    """The folder of the built book's pages; processes of one session that want it build it once. A
    warning of Sphinx fails the build."""
    own = tmp_path_factory.getbasetemp()
    # beside the workers' own folders
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    root, report = shared / "rendered", shared / "rendered.json"
    with FileLock(shared / "rendered.lock"):
        if not report.exists():
            root.mkdir()
            copy_sources(root)
            command = [
                sys.executable,
                "-c",
                "from jupyter_book.cli.main import main; main()",
                "build",
                ".",
                "-n",
                "-W",
                "--keep-going",
            ]
            environment = {
                **os.environ,
                "PYTHONPATH": f"{root}:{root / 'book'}",
            }  # the docstrings of the copy
            done = subprocess.run(
                command,
                cwd=root,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            report.write_text(json.dumps([done.returncode, done.stdout]))
    status, screen = json.loads(report.read_text())
    assert status == 0, screen[-5000:]
    return root / "_build" / "html"


class Page:
    """One page of a built book: ``name`` relative to the book's folder, the parsed ``whole``, and
    its ``article``, what is not the theme's frame."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name, self.path = root, name, root / name
        self.whole = BeautifulSoup(self.path.read_text(encoding="utf-8"), "html.parser")
        self.article = self.whole.find("article") or self.whole

    @functools.cached_property
    def anchors(self) -> set[str]:
        return {tag["id"] for tag in self.whole.find_all(id=True)}

    @functools.cached_property
    def prose(self) -> str:
        """The article's text without code, formulas and scripts."""
        pieces: list[str] = []
        left: list[PageElement] = [self.article]
        while left:
            part = left.pop()
            if isinstance(part, NavigableString):
                pieces.append(str(part))
            elif part.name not in (
                "code",
                "pre",
                "script",
                "style",
                "template",
                "option",
            ) and "math" not in part.get("class", ()):
                left += reversed(part.contents)
        return " ".join(pieces)

    @functools.cached_property
    def scripts(self) -> str:
        return "\n".join(tag.get_text() for tag in self.whole.find_all("script"))

    def local(self, address: str) -> Path | None:
        """The file that an address on this page means; None for another host's, and for data in the
        address itself."""
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            return None
        return (self.path.parent / unquote(parts.path)).resolve() if parts.path else self.path


@functools.cache
def read_page(root: Path, name: str) -> Page:
    return Page(root, name)


def page_names(root: Path) -> list[str]:
    """Every page but the redirect at the top, sorted."""
    return sorted(
        name
        for path in root.rglob("*.html")
        if not (name := path.relative_to(root).as_posix()).startswith("_") and name != "index.html"
    )


def chapter_names(root: Path) -> list[str]:
    return [name for name in page_names(root) if name.startswith("notebooks/")]


def shown(tag: Tag) -> str:
    return " ".join(str(tag).split())[:160]


# --------------------------------------------------------------------------------------------------
# The checks


def images(page: Page) -> list[str]:
    """Images whose alt text nobody wrote: none, one word, or a file's name."""
    written = re.compile(r"\S+\s+\S+")
    found = [
        tag
        for tag in page.whole.find_all("img")
        if not written.search(tag.get("alt") or "")
        or re.search(r"\.(png|svg|jpe?g|gif)\b", tag["alt"])
    ]
    return [f"no alt text: {shown(tag)}" for tag in found]


def figures(page: Page) -> list[str]:
    """Figures without number and caption, and images that are in no figure; an explorer's own
    pictures are parts of one whole."""
    found = []
    for tag in page.article.find_all("figure"):
        if tag.find_parent(class_=EXPLORER):
            continue
        number, caption = (
            tag.select_one("figcaption .caption-number"),
            tag.select_one("figcaption .caption-text"),
        )
        if (
            not number
            or not re.fullmatch(r"(Figure|Table) \d+", number.get_text(strip=True))
            or not caption
            or not caption.get_text(strip=True)
        ):
            found.append(f"no number or no caption: {shown(tag)}")
    return found + [
        f"in no figure: {shown(tag)}"
        for tag in page.article.find_all("img")
        if not tag.find_parent("figure")
    ]


def links(page: Page) -> list[str]:
    """Links and files that are not there; a fragment with an equals sign or a question mark is the
    state of an explorer, whose script has to know its key."""
    found = []
    for tag in page.whole.find_all(["a", "link", "script", "img", "source", "iframe", "area"]):
        address = tag.get("href") or tag.get("src")
        target = page.local(address) if address else None
        if target is None:
            continue
        if not target.is_file():
            found.append(f"no such file: {shown(tag)}")
        elif (fragment := unquote(urlsplit(address).fragment)) and target.suffix == ".html":
            other = read_page(page.root, target.relative_to(page.root.resolve()).as_posix())
            state = re.match(r"([a-z]+)(-\d+)?[=?]", fragment)
            if not (
                re.search(rf"[\"'`]{state[1]}\b", other.scripts)
                if state
                else fragment in other.anchors
            ):
                found.append(f"no such anchor: {shown(tag)}")
    return found


def references(page: Page) -> list[str]:
    """References that were not resolved, and citations that lead to no entry of the
    bibliography."""
    found = [
        f"unresolved: {match[0]}"
        for match in re.finditer(
            r"\?\?|\[\?\]|\{(ref|numref|eq|doc|term|math|cite(:\w+)?|py:\w+)\}\S*", page.prose
        )
    ]
    found += [
        f"unresolved: {shown(tag)}"
        for tag in page.article.select(".problematic, .system-message, .xref.myst, .pending-xref")
    ]
    for tag in page.article.select("a.bibtex"):
        target = page.local(tag["href"])
        entry = read_page(page.root, target.relative_to(page.root.resolve()).as_posix()).whole.find(
            id=urlsplit(tag["href"]).fragment
        )
        if entry is None or not entry.find_parent(class_="citation-list"):
            found.append(f"no entry in the bibliography: {shown(tag)}")
    return found


def emptiness(page: Page) -> list[str]:
    """A page that says nothing."""
    return (
        [f"{letters} letters of text"]
        if (letters := len("".join(page.article.get_text().split()))) < FEWEST_LETTERS
        else []
    )


def raw_output(page: Page) -> list[str]:
    """What Python prints of an object that has no face here, and what a cell wrote to the error
    stream."""
    printed = "\n".join(tag.get_text() for tag in page.article.select(".cell_output"))
    pattern = (
        r"\bOutput\(\)|\b[A-Z]\w+\(children=|\bFigure\(\d+x\d+\)|<Figure size|<[\w.]+ object at"
        r" 0x|<[\w.]+ at 0x|<(matplotlib|IPython|torch|mae_lib)\.[^>]*>"
    )
    found = [
        f"raw: {match[0]}" for text in (page.prose, printed) for match in re.finditer(pattern, text)
    ]
    return found + [f"error stream: {shown(tag)}" for tag in page.article.select(".output.stderr")]


def tracebacks(page: Page) -> list[str]:
    """A failure shown as an output."""
    failures = page.article.select(".output.traceback, .cell_output .gt")
    return [f"traceback: {shown(tag)}" for tag in failures] + ["traceback"] * (
        "Traceback (most recent call last)" in page.article.get_text()
    )


def weight(page: Page) -> list[str]:
    """A page that is too large with what it alone loads."""
    own = {
        target
        for tag in page.whole.find_all(["img", "script", "source", "link"])
        if (target := page.local(tag.get("src") or tag.get("href") or "#"))
        and target.suffix != ".html"
    }
    files = [page.path, *(path for path in own if path.is_file() and "_static" not in path.parts)]
    size = sum(path.stat().st_size for path in set(files))
    return [f"{size / 1e6:.1f} MB"] if size > HEAVY.get(page.name, MOST_BYTES) else []


def network(page: Page) -> list[str]:
    """What a browser would fetch from another host, and addresses in the page's own scripts, which
    could; a link that is followed may lead anywhere."""
    remote = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
    found = []
    for tag in page.whole.find_all(True):
        for key in (
            "src",
            "srcset",
            "data",
            "poster",
            *(("href",) if tag.name in ("link", "image", "use") else ()),
        ):
            if remote.match(str(tag.get(key) or "")):
                found.append(f"fetched: {shown(tag)}")
        if remote_style(tag.get("style") or ""):
            found.append(f"fetched by a style: {shown(tag)}")
    found += [
        f"fetched by a style: {shown(tag)}"
        for tag in page.whole.find_all("style")
        if remote_style(tag.get_text())
    ]
    for tag in page.whole.find_all("script"):
        found += [
            f"address in a script: {address}"
            for address in re.findall(r"https?://[^\s\"'`]+", tag.get_text())
            if not address.startswith("http://www.w3.org/")
        ]
    return found


def remote_style(css: str) -> bool:
    return bool(re.search(r"(url\(\s*|@import\s+)[\"']?\s*(https?:)?//", css, re.IGNORECASE))


CHECKS: dict[str, Callable[[Page], list[str]]] = {
    check.__name__: check
    for check in (
        images,
        figures,
        links,
        references,
        emptiness,
        raw_output,
        tracebacks,
        weight,
        network,
    )
}


# --------------------------------------------------------------------------------------------------
# A chapter's skeleton


def skeleton(page: Page, claims: tuple[str, ...]) -> list[str]:
    """What a chapter lacks of the parts that every chapter has.

    Args:
        page: the chapter. claims: ids of the claims that are decided in it, which its opening has
            to name.
    """
    found = []
    title = page.article.find("h1")
    if not title or not re.match(r"\d+[a-z]? \S", title.get_text()):
        found.append("no title with a number")
    opening = [
        tag for tag in (title.find_next_siblings() if title else ()) if tag.name != "section"
    ]
    text = " ".join(tag.get_text(" ") for tag in opening)
    lead = opening[0].find("strong") if opening else None
    if not lead or not re.search(
        r"§\d|[Tt]he whole paper|paper", lead.get_text() + opening[0].get_text()
    ):
        found.append("the opening does not say what it is about in the paper")
    found += [
        f"the opening does not name claim {claim}"
        for claim in claims
        if not re.search(rf"\b{claim}\b", text)
    ]
    if not re.search(r"\b[Cc]laims?\b", text):
        found.append("the opening says nothing about claims")
    objectives = next(
        (
            tag.find_next_sibling()
            for tag in opening
            if tag.get_text(strip=True).startswith("You will be able to")
        ),
        None,
    )
    if (
        objectives is None
        or objectives.name != "ul"
        or len(objectives.find_all("li", recursive=False)) < 3
    ):
        found.append("no list of at least three objectives")
    if not any(tag.get_text(strip=True).startswith("Prerequisites:") for tag in opening):
        found.append("no prerequisites")
    badges = page.article.select(".tier-badge")
    if len(badges) != 1 or not re.search(
        r"tier \w+ · .*made in [\d.]+ (s|min|h)\b", badges[0].get_text()
    ):
        found.append("no badge, or not one, with tier and time")
    headings = {tag.get_text().rstrip("#"): tag.parent for tag in page.article.find_all("h2")}
    found += [f"no section {name!r}" for name in ("Takeaways", "Exercises") if name not in headings]
    if not any(name.startswith("Where it fails") for name in headings):
        found.append("no section 'Where it fails'")
    exercises = headings.get("Exercises") or Tag(name="section")
    tasks = sum(
        len(tag.find_all("li", recursive=False))
        for tag in exercises.find_all("ol", recursive=False)
    )
    solutions = [
        tag
        for tag in exercises.find_all("details")
        if tag.summary.get_text(strip=True).startswith("Solution")
    ]
    if not tasks or tasks != len(solutions):
        found.append(f"{tasks} exercises and {len(solutions)} solutions")
    if any(tag.has_attr("open") for tag in solutions):
        found.append("a solution is not folded")
    sources = [page.local(tag["href"]) for tag in page.whole.select("a.btn-download-source-button")]
    if len(sources) != 1 or sources[0].suffix != ".ipynb" or not sources[0].is_file():
        found.append("no notebook to download")
    return found
