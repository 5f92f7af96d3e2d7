"""The page of the explorer of attention in a real headless Chromium without a network: patches are
clicked and walked over, and what stands there is what `attention_maps` gives."""

from __future__ import annotations

import random

import numpy as np
import pytest
from test_attention_explorer import SHOWN, expected, text  # noqa: F401 (text is a fixture)

from browser import Browser, in_browser, tab, tab_to, write  # noqa: F401 (tab is a fixture)
from explorers import NUMBER, READ, follow, look, runs
from mae_book.explorers.attention_explorer import COLOURS

pytestmark = in_browser

MAP = """
const at = role => document.querySelector('.attention-explorer [data-role="' + role + '"]');
return { fills: [...at("map").querySelectorAll("rect.patch")].map(r => r.getAttribute("fill")),
  marks: [...document.querySelectorAll("rect.mark")].filter(r => !r.hasAttribute("hidden"))
    .map(r => ["x", "y", "width"].map(k => +r.getAttribute(k))),
  disabled: ["run", "image", "layer", "head"].filter(role => at(role).disabled),
  left: at("left").hidden, cls: at("cls").getAttribute("aria-pressed") };
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory, text) -> str:
    return write(tmp_path_factory.mktemp("page"), text)


def check(tab: Browser, state, linked: bool = True) -> dict:
    """What stands on the page is what `attention_maps` gives, to the page's levels."""
    found = look(tab, SHOWN(), linked=linked) | tab.js(MAP)
    assert found["state"] == state
    run, image, layer, head, patch = state
    wanted, model = expected(state), runs()[run].config.model
    most = wanted[1:].max()
    levels = np.array([COLOURS.index(fill) for fill in found["fills"]])
    # Half a level in the table, where heads are averaged of the greatest in each, and half a level
    # of colour.
    heads = range(model.heads) if head < 0 else [head]
    tops = [expected((run, image, layer, h, patch)).max() for h in heads]
    slack = float(0.51 / 255 * (np.mean(tops) * (1 + (head < 0)) + most))
    assert len(levels) == model.grid[0] * model.grid[1]
    assert np.abs(levels * most / 255 - wanted[1:]).max() <= slack
    for role, said in SHOWN().reading(*state).items():
        for number, true in zip(
            NUMBER.findall(found["texts"][role]), NUMBER.findall(said), strict=True
        ):
            assert float(number) == pytest.approx(float(true), abs=100 * slack * 4 + 0.11)
    side = 32 / model.grid[1]
    assert len(found["marks"]) == 2 * (patch >= 0) and (found["cls"] == "true") == (patch < 0)
    for x, y, width in found["marks"]:
        assert (int(y / side), int(x / side)) == divmod(patch, model.grid[1])
        assert 0.5 * side < width < side
    return found


def click_patch(tab: Browser, which: str, row: float, column: float) -> None:
    """A real click at a place of a picture, in shares of its height and width."""
    at = "document.querySelector(`[data-role=${arguments[0]}]`).getBoundingClientRect()"
    left, top, side = tab.js(f"const b = {at}; return [b.left, b.top, b.width]", which)
    place = {"x": round(left + column * side), "y": round(top + row * side)}
    for kind in ("mousePressed", "mouseReleased"):
        tab.cdp("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)


@pytest.mark.parametrize(
    "start", [(0, 1, 0, 1, 0), (1, 0, 1, 2, 0), (1, 1, 2, -1, 0), (2, 0, 0, -1, 0)]
)
def test_clicking_patches_gives_what_attention_maps_gives(tab, page, start):
    tab.screen(*((360, 1500) if start[0] else (1100, 1300)))  # a finger finds a patch
    tab.open(page + SHOWN().link(*start))
    draw, side = random.Random(str(start)), runs()[start[0]].config.model.grid[0]
    for k in range(6):
        row, column = draw.randrange(side), draw.randrange(side)
        within = [(place + draw.uniform(0.1, 0.9)) / side for place in (row, column)]
        click_patch(tab, ("picture", "map")[k % 2], *within)
        check(tab, (*start[:4], row * side + column), linked=k == 5)
    tab.click(tab.find('[data-role="cls"]'))
    check(tab, (*start[:4], -1))
    tab.click(tab.find('[data-role="cls"]'))  # and back
    check(tab, (*start[:4], row * side + column))


FOCUS = f"const read = function () {{ {READ} }}; return read('attention');"


def test_arrows_walk_over_the_patches(tab, page):
    tab.screen(1100, 1300)
    tab.open(page)
    check(tab, (1, 0, 2, -1, 6), linked=False)
    tab_to(tab, FOCUS, "pictures")
    row, column, draw = 1, 2, random.Random(0)
    for _ in range(14):  # the edges stop it
        key = draw.choice(("Left", "Right", "Up", "Down"))
        tab.press(key)
        row = min(3, max(0, row + {"Up": -1, "Down": 1}.get(key, 0)))
        column = min(3, max(0, column + {"Left": -1, "Right": 1}.get(key, 0)))
        check(tab, (1, 0, 2, -1, 4 * row + column), linked=False)
    tab.press("Home")
    check(tab, (1, 0, 2, -1, -1))
    tab.press("Down")
    check(tab, (1, 0, 2, -1, 10))
    tab_to(tab, FOCUS, "run", "Shift+Tab")
    tab.press("Left")
    check(tab, (0, 0, 0, -1, 10))
    tab.press("Right")  # back at the deeper run the layer asked for is there again
    check(tab, (1, 0, 2, -1, 10))


def test_a_run_of_which_the_page_holds_little_says_so(tab, page):
    tab.open(page + SHOWN().link(1, 0, 0, 2, 6))
    tab_to(tab, FOCUS, "run")
    tab.press("Right")
    found = check(tab, (2, 0, 0, -1, SHOWN().moved(6, 1, 2)))
    assert "the last layer alone" in found["note"] and found["disabled"] == ["layer", "head"]
    assert found["left"]
    tab.press("Left")
    found = check(tab, (1, 0, 0, 2, 6))
    assert found["note"] == "" and found["disabled"] == []
    follow(tab, "#attention=r75-u16-p4-s0:0:0:1:5")  # a head that the page has no room for
    assert tab.js(FOCUS)["note"] == "The link asks for something that is not here."
