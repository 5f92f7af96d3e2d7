"""A table as a page, in a real headless Chromium: it sorts, filters, fits a narrow window, and
takes what stands in it for text."""

from __future__ import annotations

from browser import in_browser, tab  # noqa: F401 (tab is a fixture)
from mae_lib.base.pages import Link, filter_field, page, table

pytestmark = in_browser

ROWS = [
    ["r75 <b>", 10, 0.5, Link("b.json", "runs/b.json")],
    ["r9", 9, 2.25, "no file"],
    ["r10", 100, -1e-7, "a/very/long/path" * 40],
]
SHOWN = "return [...document.querySelectorAll('tbody tr')].filter(r => !r.hidden).map("


def test_it_sorts_filters_and_fits_its_window(tab, tmp_path):
    made = table("cells", ["run", "n", "x", "file"], ROWS, ["", "bad", "idle"])
    tab.screen(400, 700)
    path = tmp_path / "page.html"
    path.write_text(page("A <title>", filter_field("cells") + made), encoding="utf-8")
    tab.open(path.as_uri())
    first = SHOWN + "r => r.cells[0].textContent)"
    assert tab.js(first) == ["r75 <b>", "r9", "r10"]
    assert tab.js("return document.querySelector('h1').textContent") == "A <title>"
    for column, up in ((0, ["r9", "r10", "r75 <b>"]), (1, ["r9", "r75 <b>", "r10"])):
        head = tab.find(f"th:nth-child({column + 1}) button")
        tab.click(head)
        assert tab.js(first) == up  # numbers as numbers, in words too
        tab.click(head)
        assert tab.js(first) == up[::-1]
    tab.click(tab.find("th:nth-child(3) button"))
    assert tab.js(first) == ["r10", "r75 <b>", "r9"]
    tab.click(tab.find("input"))
    tab.cdp("Input.insertText", text="R b.json")
    assert tab.js(first) == ["r75 <b>"]
    assert tab.js("return document.querySelector('output').textContent") == " 1 of 3 rows"
    assert tab.js("return document.querySelector('tbody a').getAttribute('href')") == "runs/b.json"
    wide = "return [document.documentElement.scrollWidth, window.innerWidth]"
    found, window = tab.js(wide)
    assert found <= window
