"""The explorer of the ledger in a real headless Chromium without a network: by mouse, by keyboard
alone, by link, on a phone, in the dark, and without scripts."""

from __future__ import annotations

import re

import pytest

from browser import IN_JUPYTER, in_browser, tab, tab_to, write  # noqa: F401 (tab is a fixture)
from mae_book.explorers.ledger_explorer import SIGNS, LedgerExplorer
from mae_book.verdicts.ledger import entries

pytestmark = in_browser

EXPLORER = LedgerExplorer(entries(), {"chapter-separability": "08_linear_separability.html"})
IDS = [row.claim.id for row in EXPLORER.rows]

READ = """
const root = document.querySelector(".ledger-explorer"), at = role =>
  root.querySelector('[data-role="' + role + '"]');
return {
  ids: [...root.querySelectorAll("tbody")].filter(b => !b.hidden).map(b =>
    b.rows[0].cells[0].textContent),
  open: [...root.querySelectorAll("details[open]")].map(d =>
    d.closest("tbody").rows[0].cells[0].textContent),
  count: at("count").textContent, link: at("link").getAttribute("href"), hash: location.hash,
  sorted: [...root.querySelectorAll("th")].filter(h =>
    h.getAttribute("aria-sort") !== "none").map(h => h.textContent + " "
    + h.getAttribute("aria-sort")),
  focus: document.activeElement.dataset.role || document.activeElement.textContent.trim(),
};
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("page"), EXPLORER.html())


@pytest.fixture(autouse=True)
def quiet(tab):
    tab.screen(1100, 1400)
    tab.log()
    yield
    assert tab.log() == []
    assert tab.js(
        "return [navigator.onLine, performance.getEntriesByType('resource').map(e => e.name)]"
    ) == [False, []]


def ids(**choice) -> list[str]:
    return [row.claim.id for row in EXPLORER.selected(**choice)]


def test_a_verdict_is_filtered_and_a_column_sorted_by_mouse(tab, page):
    tab.open(page)
    assert tab.js(READ)["ids"] == IDS
    tab.click(tab.find('[data-verdict-box][value="undecided"]'))
    kept = [verdict for verdict in SIGNS if verdict != "undecided"]
    found = tab.js(READ)
    assert (
        found["ids"] == ids(verdicts=kept)
        and found["count"] == f"{len(found['ids'])} of {len(IDS)} claims"
    )
    tab.click(tab.find('th[data-sort="id"] button') * 2)
    found = tab.js(READ)
    assert found["ids"] == ids(verdicts=kept, sort="id", down=True) and found["sorted"] == [
        "id descending"
    ]
    tab.click(tab.find('[data-role="reset"]'))
    assert tab.js(READ)["ids"] == IDS


def test_every_column_sorts_as_the_library_does(tab, page):
    tab.open(page)
    for column in tab.js('return [...document.querySelectorAll("th")].map(h => h.dataset.sort)'):
        tab.click(tab.find(f'th[data-sort="{column}"] button'))
        assert tab.js(READ)["ids"] == ids(sort=column), column


def test_a_row_is_opened_and_the_table_sorted_by_keyboard(tab, page):
    tab.open(page)
    tab.js(
        'document.querySelector("#section").tabIndex = -1;'
        ' document.querySelector("#section").focus()'
    )
    tab_to(tab, READ, "id")
    tab.press("Enter")
    assert tab.js(READ)["sorted"] == ["id ascending"] and tab.js(READ)["ids"] == ids(sort="id")
    first = ids(sort="id")[0]
    tab_to(tab, READ, f"{first}: tests, numbers, command")
    tab.press("Enter")
    assert tab.js(READ)["open"] == [first]


def test_the_state_is_in_the_link_and_comes_back(tab, page):
    tab.open(page)
    tab.click(tab.find('[data-verdict-box][value="reproduced"]'))
    tab.js(
        'const part = document.querySelector(\'[data-role="part"]\'); part.value = "§3.3";'
        ' part.dispatchEvent(new Event("change"))'
    )
    tab.click(tab.find('th[data-sort="claim"] button'))
    before = tab.js(READ)
    assert before["hash"] == before["link"] and before["ids"] == ids(
        verdicts=[v for v in SIGNS if v != "reproduced"], part="§3.3", sort="claim"
    )
    tab.open("about:blank")
    tab.open(page + before["hash"])
    after = tab.js(READ)
    assert (after["ids"], after["sorted"], after["count"]) == (
        before["ids"],
        before["sorted"],
        before["count"],
    )
    tab.open(page + "#ledger?verdict=undecided&text=separab&sort=nonsense")
    assert tab.js(READ)["ids"] == ids(verdicts=["undecided"], text="separab")


def test_a_claims_address_opens_its_row_and_other_addresses_change_nothing(tab, page):
    tab.open(page + "#ledger-T1r")
    assert tab.js(READ)["open"] == ["T1r"]
    top = tab.js('return document.querySelector("#ledger-T1r").getBoundingClientRect().top')
    assert -5 <= top < 1400
    tab.open(page + "#section")
    assert (
        tab.js(READ)["open"] == []
        and tab.js(READ)["ids"] == IDS
        and tab.js(READ)["hash"] == "#section"
    )


def test_on_a_phone_nothing_is_wider_than_the_screen(tab, page):
    tab.screen(390, 844)
    tab.open(page + "#ledger-T1p")
    assert tab.js("return document.documentElement.scrollWidth") <= 390


def test_its_words_can_be_read_in_light_and_in_the_dark(tab, tmp_path):
    ratio = """
    const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).slice(0, 3).map(v =>
      v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const back = e => { while (e) { const c = getComputedStyle(e).backgroundColor; if (!/,
      0\\)$|transparent/.test(c)) return c; e = e.parentElement; } return "rgb(255, 255, 255)"; };
    const worst = {};
    for (const e of document.querySelector(".ledger-explorer")
        .querySelectorAll(".verdict, td, a, summary")) {
      const [a, b] = [light(getComputedStyle(e).color), light(back(e))].sort((x, y) => y - x),
        r = (a + 0.05) / (b + 0.05), name = e.dataset.is || e.tagName;
      worst[name] = Math.min(worst[name] || 99, r);
    }
    return worst;
    """
    for theme in ("light", "dark"):
        tab.open(write(tmp_path, EXPLORER.html(), f'data-theme="{theme}"'))
        found = tab.js(ratio)
        assert {"reproduced", "undecided", "TD", "A"} <= set(found) and min(
            found.values()
        ) >= 4.5, (theme, found)


def test_without_scripts_every_claim_is_there(tab, tmp_path):
    tab.open(write(tmp_path, re.sub(r"<script>.*?</script>", "", EXPLORER.html(), flags=re.S)))
    assert (
        tab.js(
            "return [...document.querySelectorAll('tbody')].map(b =>"
            " b.rows[0].cells[0].textContent)"
        )
        == IDS
    )
    assert tab.js("return document.querySelectorAll('details').length") == len(IDS)
    assert tab.js("return getComputedStyle(document.querySelector('.controls')).display") == "none"


def test_it_comes_alive_as_jupyter_shows_it(tab, tmp_path):
    tab.open(write(tmp_path, IN_JUPYTER % EXPLORER.html()))
    tab.click(tab.find('[data-verdict-box][value="undecided"]'))
    assert tab.js(READ)["ids"] == ids(verdicts=[v for v in SIGNS if v != "undecided"])
    assert tab.js("return document.body.dataset.globals") == "0"
