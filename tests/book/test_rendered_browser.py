"""The rendered book in a real headless Chromium without a network: every page on a desk and on a
phone, in the light and in the dark, without scripts, by axe-core, and its search."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from book_pages import ROOT, book, chapter_names, page_names  # noqa: F401 (book is a fixture)
from browser import ELEMENT, HEAD, KEYS, Browser, in_browser, tab  # noqa: F401 (tab is a fixture)
from mae_book.chapters.pages import chapter_pages
from mae_book.verdicts.claims import CLAIMS

# the build is in the first test's time, on a machine that may be busy with others
pytestmark = [in_browser, pytest.mark.timeout(1200)]

DESK, PHONE = (1280, 900), (390, 844)

FEW = """
for (const [group, kept] of [["section", "dl.py"], ["tbody", "tr"], [".indextable ul", "li"],
  ["article", "mjx-container"]])
  for (const each of document.querySelectorAll(group))
    [...each.querySelectorAll(kept)].filter(entry =>
      entry.closest(group) === each).slice(5).forEach(entry => entry.remove());
"""
"""Of entries that one template writes (of the API, of tables, of the index, formulas) axe sees the
first five of a group: it takes seconds for hundreds."""

AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"], runOnly: arguments[0]}).then(
  found => done(found.violations.flatMap(v => v.nodes.map(n => [v.impact,
    `${v.id}: ${n.html.slice(0, 160)} ${n.failureSummary.replace(/\\s+/g, " ")}`]))), error =>
    done([["critical", `axe failed: ${error}`]]));
"""

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]

WIDE = """
const wide = [...document.querySelectorAll("article *")].filter(e =>
  e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120));
return document.documentElement.scrollWidth > innerWidth ? [document.documentElement.scrollWidth,
  ...wide.slice(-3)] : null;
"""


@pytest.fixture(scope="module")
def axe() -> str:
    return (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def afresh(tab: Browser) -> None:
    tab.post("/timeouts", script=50_000)  # axe on a machine that is busy
    tab.screen(*DESK)
    tab.log()


def settle(tab: Browser, size: tuple[int, int], scheme: str) -> None:
    """The page on another screen, its transitions at their end."""
    tab.screen(*size, scheme)
    for _ in range(40):
        if tab.js(
            "document.getAnimations().forEach(a => a.finish()); return"
            " [document.documentElement.dataset.theme, innerWidth]"
        ) == [scheme, size[0]]:
            break
        time.sleep(0.02)
    tab.js("document.getAnimations().forEach(a => a.finish())")


def violations(tab: Browser, rules: list[str]) -> list[str]:
    """What axe-core, which the page must hold, calls serious or critical."""
    return [
        said
        for impact, said in tab.post("/execute/async", script=AXE, args=[rules])
        if impact in ("serious", "critical")
    ]


def fetched(tab: Browser, root: str) -> list[str]:
    """What the page asked for outside the folder at the address ``root``."""
    return [
        name
        for name in tab.js(
            "return performance.getEntriesByType('resource').map(entry => entry.name)"
        )
        if not name.startswith((root, "data:", "blob:"))
    ]


def keep(tab: Browser, name: str, failed: bool = False) -> None:
    """A screenshot: of a failure under _build/screenshots, or, of every page, in the folder that
    MAE_SCREENSHOTS names."""
    named = os.environ.get("MAE_SCREENSHOTS")
    if failed or named:
        folder = Path(named or ROOT / "_build" / "screenshots")
        folder.mkdir(parents=True, exist_ok=True)
        tab.picture(
            folder / f"{'FAILED-' if failed else ''}{re.sub(r'[^A-Za-z0-9]+', '-', name)}.png"
        )


def look(
    tab: Browser, address: str, root: str, name: str, axe: str, keep_failures: bool = True
) -> list[str]:
    """Every defect of one page that a browser sees, on both screens and in both colour schemes."""
    found: list[str] = []
    tab.open(address)
    for size in (DESK, PHONE):
        for scheme in ("light", "dark"):
            settle(tab, size, scheme)
            where, before = f"{name} at {size[0]} px, {scheme}", len(found)
            if tab.js("return document.documentElement.dataset.theme") != scheme:
                found.append(f"{where}: the page does not follow the reader's system")
            if wide := tab.js(WIDE):
                found.append(f"{where}: wider than the screen, {wide}")
            keep(tab, where, failed=keep_failures and len(found) > before)
    found += [f"{name}: on the console, {message}" for message in tab.errors()]
    found += [f"{name}: asked for {other}" for other in fetched(tab, root)]
    tab.js(axe)
    tab.js(FEW)
    # no other rule looks at colours
    for scheme, rules in (("light", RULES), ("dark", ["color-contrast"])):
        settle(tab, DESK, scheme)
        if seen := violations(tab, rules):
            found += [f"{name}, {scheme}: {said}" for said in seen]
            keep(tab, f"{name} by axe, {scheme}", failed=keep_failures)
    return found


def test_every_page_is_quiet_fits_both_screens_and_passes_axe(
    book: Path, tab: Browser, axe: str
) -> None:
    root = book.as_uri()
    found = [
        defect
        for name in page_names(book)
        for defect in look(tab, f"{root}/{name}", root, name, axe)
    ]
    assert not found, "\n".join(found)


def test_the_first_address_leads_to_the_preface(book: Path, tab: Browser) -> None:
    tab.post("/url", url=f"{book.as_uri()}/index.html")
    for _ in range(200):
        with contextlib.suppress(AssertionError):
            if tab.js(
                "return location.pathname.endsWith('/book/preface.html') &&"
                " document.querySelector('h1') !== null"
            ):
                break
        time.sleep(0.05)
    assert tab.js("return document.querySelector('h1').textContent").startswith("What does hiding")


@contextlib.contextmanager
def without_scripts(tab: Browser) -> Iterator[None]:
    tab.cdp("Emulation.setScriptExecutionDisabled", value=True)
    try:
        yield
    finally:
        tab.cdp("Emulation.setScriptExecutionDisabled", value=False)


FIRST_VIEW = """
const inside = e => { const r = e.getBoundingClientRect(); return r.width > 0 && r.top >= 0
  && r.bottom <= innerHeight && r.right <= innerWidth
  && getComputedStyle(e).visibility === "visible"; };
const title = document.querySelector("article h1"),
  text = [...document.querySelectorAll("article p")].filter(inside);
const style = getComputedStyle(document.documentElement),
  coloured = style.getPropertyValue("--pst-color-text-base") !== "";
return [title !== null && inside(title), text.length > 0,
  document.documentElement.scrollWidth <= innerWidth, coloured];
"""


def test_title_and_text_are_in_the_first_view_without_scripts(book: Path, tab: Browser) -> None:
    with without_scripts(tab):
        for name in chapter_names(book) + ["book/preface.html", "book/running.html"]:
            for size in (DESK, PHONE):
                tab.screen(*size)
                tab.open(f"{book.as_uri()}/{name}")
                assert tab.js(FIRST_VIEW) == [True] * 4, f"{name} at {size[0]} px"
                keep(tab, f"{name} at {size[0]} px, no scripts")


# --------------------------------------------------------------------------------------------------
# The search


def search(tab: Browser, book: Path, words: str) -> list[str]:
    """Addresses, relative to the book's folder, of what the page *Search* lists for ``words``,
    typed into its field."""
    tab.open(f"{book.as_uri()}/search.html")
    field = tab.js(
        "return [...document.querySelectorAll('input[name=q]')].find(field => field.offsetParent)"
    )
    tab.post(f"/element/{field[ELEMENT]}/value", text=words + KEYS["Enter"])
    for _ in range(400):
        with contextlib.suppress(AssertionError):  # the page that is left cannot answer any more
            if re.search(
                r"found|match",
                tab.js(
                    "return location.search && (document.querySelector('#search-results"
                    " .search-summary') || {}).textContent || ''"
                ),
            ):
                break
        time.sleep(0.05)
    return [
        address.removeprefix(f"{book.as_uri()}/")
        for address in tab.js(
            "return [...document.querySelectorAll('#search-results ul.search li > a')].map(a =>"
            " a.href)"
        )
    ]


def test_the_search_finds_the_terms_and_every_claim_in_its_chapter(
    book: Path, tab: Browser
) -> None:
    wanted = {
        "masking ratio": "02_masked_autoencoder.html",
        "Algorithm 1": "03_locating_shared_information.html",
        "shape bias": "09_shape_bias.html",
    }
    wanted |= {identity: chapter_pages()[claim.chapter] for identity, claim in CLAIMS.items()}
    missing = [
        words
        for words, page in wanted.items()
        if not any(address.startswith(f"notebooks/{page}") for address in search(tab, book, words))
    ]
    assert not missing
    assert search(tab, book, "quetzalcoatlus") == [] and tab.errors() == []


# --------------------------------------------------------------------------------------------------
# Each check, on a page that has the one defect

GOOD = (
    HEAD.replace(
        "<head>",
        "<head><script>const set = () => { document.documentElement.dataset.theme ="
        " matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light' };set();"
        " matchMedia('(prefers-color-scheme: dark)').addEventListener('change',"
        " set)</script><style>:root { color-scheme: light dark }</style>",
    )
    + '<body><main><article><h1>Title</h1><p id="text">Text.</p><!-- more'
    " --></article></main></body></html>"
)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", ""),
        ("<!-- more -->", "<script>undefined_name()</script>", "on the console"),
        ("<!-- more -->", "<script>console.error('went wrong')</script>", "on the console"),
        ("<!-- more -->", '<img alt="a picture" src="gone.png">', "on the console"),
        (
            "<!-- more -->",
            '<img alt="a picture" src="http://example.org/x.png">',
            "asked for http://example.org",
        ),
        ("<!-- more -->", "<pre>" + "wide " * 100 + "</pre>", "wider than the screen"),
        (
            "<!-- more -->",
            '<div style="width: 600px">x</div>',
            "at 390 px, light: wider than the screen",
        ),
        ("addEventListener('change', set)", "toString()", "does not follow"),
        ("<!-- more -->", "<button></button>", "button-name"),
        ("<!-- more -->", '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">', "image-alt"),
        ('<p id="text">', '<p style="color: #bbb; background: white">', "light: color-contrast"),
        (
            '<p id="text">',
            '<p style="color: light-dark(black, #333); background: light-dark(white, black)">',
            "dark: color-contrast",
        ),
    ],
)
def test_a_defect_is_seen(
    tab: Browser, axe: str, tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert not old or GOOD.count(old) == 1
    (tmp_path / "page.html").write_text(GOOD.replace(old, new) if old else GOOD, encoding="utf-8")
    found = look(
        tab, (tmp_path / "page.html").as_uri(), tmp_path.as_uri(), "page", axe, keep_failures=False
    )
    assert any(said in defect for defect in found) if said else found == [], found
