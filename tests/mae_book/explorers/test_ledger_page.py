"""The page of the explorer of the ledger in a real headless Chromium without a network: rows are
sorted, filtered and opened as the library does."""

from __future__ import annotations

import pytest

from browser import IN_JUPYTER, Browser, in_browser, tab, tab_to, write  # noqa: F401 (tab is a fixture)
from explorers import look
from mae_book.explorers.ledger_explorer import COLUMNS, SIGNS, LedgerExplorer
from mae_book.verdicts.ledger import entries

pytestmark = in_browser

EXPLORER = LedgerExplorer(entries(), {"chapter-separability": "08_linear_separability.html"})

READ = """
const rows = [...document.querySelectorAll("tbody")], name = b => b.rows[0].cells[0].textContent;
return { ids: rows.filter(b => !b.hidden).map(name),
  open: rows.filter(b => b.querySelector("details").open).map(name),
  sorted: [...document.querySelectorAll("th")].filter(h => h.getAttribute("aria-sort") !== "none")
    .map(h => h.textContent + " " + h.getAttribute("aria-sort")),
  focus: document.activeElement.dataset.role || document.activeElement.textContent.trim() };
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("page"), EXPLORER.html())


def check(tab: Browser, *state) -> dict:
    """The page shows the rows that the library selects, in its order."""
    found = look(tab, EXPLORER) | tab.js(READ)
    assert found["state"] == state
    rows = [row.claim.id for row in EXPLORER.selected(*state)]
    assert found["ids"] == rows
    assert found["texts"]["count"] == f"{len(rows)} of {len(EXPLORER.rows)} claims"
    return found


def test_verdicts_texts_and_every_column_by_mouse_and_keys(tab, page):
    tab.screen(1100, 1400)
    tab.open(page)
    every = tuple(SIGNS)
    for column in [column for column in COLUMNS if column != "order"]:
        head = tab.find(f'th[data-sort="{column}"] button')
        tab.click(head)
        check(tab, every, "", "", column, False)
        tab.click(head)
        found = check(tab, every, "", "", column, True)
        assert found["sorted"] == [f"{COLUMNS[column]} descending"]
    tab.click(tab.find('input[value="undecided"]'))
    kept = tuple(verdict for verdict in SIGNS if verdict != "undecided")
    check(tab, kept, "", "", "chapter", True)
    tab.click(tab.find('[data-role="reset"]'))
    check(tab, every, "", "", "order", False)
    tab_to(tab, READ, "search", "Shift+Tab")
    tab.cdp("Input.insertText", text="LOW")
    check(tab, every, "", "LOW", "order", False)


def test_a_row_is_opened_by_keys_and_by_its_own_address(tab, page):
    tab.open(page)
    tab_to(tab, READ, "id")
    tab.press("Enter")
    first = check(tab, tuple(SIGNS), "", "", "id", False)["ids"][0]
    tab_to(tab, READ, f"{first}: tests, numbers, command")
    tab.press("Enter")
    assert tab.js(READ)["open"] == [first]
    tab.open(page + "#ledger-T1r")
    assert tab.js(READ)["open"] == ["T1r"]
    top = tab.js('return document.querySelector("#ledger-T1r").getBoundingClientRect().top')
    assert -5 <= top < 1400
    tab.screen(390, 844)
    assert tab.js("return document.documentElement.scrollWidth") <= 390


def test_without_scripts_every_claim_is_there(tab, tmp_path):
    tab.open(write(tmp_path, EXPLORER.html().replace("<script>", '<script type="text/none">')))
    assert tab.js(READ)["ids"] == [row.claim.id for row in EXPLORER.rows]


def test_its_chapters_are_pages_in_the_book_and_notebooks_in_jupyter(tab, page, tmp_path):
    """A click in Jupyter must not lead to a page that is not there: nor one of the live widget."""
    hrefs = (
        "return [...new Set([...document.querySelectorAll('a[data-page]')]"
        ".map(a => a.getAttribute('href')))]"
    )
    tab.open(page)
    assert tab.js(hrefs) == ["08_linear_separability.html"]
    lab = "<script>document.body.dataset.jpThemeLight = 'true'</script>"
    tab.open(write(tmp_path, lab + IN_JUPYTER % EXPLORER.html()))
    assert tab.js(hrefs) == ["08_linear_separability.ipynb"]
    tab.open(write(tmp_path, EXPLORER.live_html(*EXPLORER.start)))
    assert tab.js(hrefs) == ["08_linear_separability.ipynb"]
