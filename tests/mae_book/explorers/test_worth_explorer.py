"""The explorer of what a level is worth: every setting as the library computes it, three faces that
agree, and in a real headless Chromium by keyboard and by link."""

from __future__ import annotations

import shlex
import time

import numpy as np
import pytest

from browser import in_browser, tab, tab_to, write  # noqa: F401 (fixture)
from looking import Page, drawn  # noqa: F401 (fixture)
from mae_book.chapters.why_75 import GRID, gains, top
from mae_book.explorers.worth_explorer import CHAPTER, NUS, RHOS, UNITS, WorthExplorer
from mae_book.verdicts.results import repository
from mae_lib import context_gain
from mae_lib.base.errors import InputError
from mae_lib.base.parameters import declared_parameters

MASKS = 4


@pytest.fixture(scope="module")
def explorer() -> WorthExplorer:
    return WorthExplorer(0.85, 0.2, 1, masks=MASKS)


@pytest.fixture(scope="module")
def data(explorer) -> dict:
    return Page(explorer.html()).data()


def test_every_setting_is_tabulated_as_the_library_computes_it(explorer, data):
    assert data["rhos"] == sorted([*RHOS, 0.85]) and data["nus"] == list(NUS)
    assert data["units"] == list(UNITS) and data["ratios"] == list(GRID)
    assert np.isfinite(np.array(data["table"])).all()
    assert np.shape(data["table"]) == (len(RHOS) + 1, len(NUS), len(UNITS), 4, len(GRID))
    for rho, nu, unit in ((0.85, 0.2, 1), (0.5, 0.0, 0), (0.95, 0.5, 2)):
        shown = data["table"][data["rhos"].index(rho)][data["nus"].index(nu)][unit]
        for name, curve in zip((None, 1, 2, 3), shown):
            for ratio in (0.25, 0.75):
                mean, _ = context_gain(4, 4, rho, nu, ratio, name, MASKS, 0, unit)
                assert curve[GRID.index(ratio)] == pytest.approx(mean, abs=6e-5)
        assert list(explorer.curves(rho, nu, unit)) == ["EV", "G1", "G2", "G3"]


def test_a_seed_of_its_own_reaches_the_masks():
    one, other = (gains(0.8, 0.2, masks=MASKS, seed=seed)["EV"] for seed in (0, 1))
    assert one != other and np.allclose(one, other, atol=0.03)
    assert top([0.0, 2.0, float("nan"), 1.0]) == GRID[1]


def test_the_figure_shows_the_opening_setting(explorer):
    (axis,) = explorer.figure().axes
    curves = explorer.curves(0.85, 0.2, 1)
    lines = [line.get_ydata() for line in axis.get_lines()]
    assert [list(line) for line in lines[::2]] == list(curves.values())
    assert [line[0] for line in lines[1::2]] == [max(curve) for curve in curves.values()]


def test_the_command_is_one_that_the_chapter_takes(explorer):
    words = shlex.split(explorer.command(0.7, 0.2, 2))
    names = {words[k + 1] for k, word in enumerate(words) if word == "-p"}
    assert words[1] == CHAPTER and names == {"rho", "nu", "unit_height"}
    assert names <= set(declared_parameters(repository() / CHAPTER))


@pytest.mark.parametrize(
    "wrong, said",
    [({"rho": 1.0}, "rho 1.0"), ({"nu": 1.0}, "nu 1.0"), ({"unit_height": 3}, "unit_height 3")],
)
def test_wrong_settings_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        WorthExplorer(**wrong, masks=2)


READ = """
const root = document.querySelector(".worth-explorer"), at = role =>
  root.querySelector('[data-role="' + role + '"]'), found = {};
for (const role of ["rho", "nu", "unit", "ratio"]) found[role] = [+at(role).value,
  at(role).getAttribute("aria-valuetext")];
found.rows = [...at("rows").children].map(row => [...row.children].map(c => c.textContent));
found.curves = at("plot").querySelectorAll("polyline").length;
found.command = at("command").textContent;
found.hash = location.hash;
found.note = at("note").hidden ? "" : at("note").textContent;
found.focus = document.activeElement.dataset.role || document.activeElement.tagName;
return found;
"""


@in_browser
def test_by_keyboard_and_by_link(tab, explorer, tmp_path):
    tab.screen(900, 1000)
    tab.log()
    page = write(tmp_path, explorer.html())
    tab.open(page)
    found = tab.js(READ)
    assert found["curves"] == 4 and found["rho"][1] == "0.85" and found["ratio"][1] == "0.75"
    for role, place in (("rho", 6), ("nu", 0), ("unit", 0), ("ratio", 18)):
        tab_to(tab, READ, role)
        tab.press("Home", *["Right"] * place)
    for _ in range(50):
        found = tab.js(READ)
        if found["hash"] == "#worth=0.95:0:0:0.95":
            break
        time.sleep(0.02)
    curves = explorer.curves(0.95, 0.0, 0)
    assert [row[1:] for row in found["rows"]] == [
        [f"{curve[-1]:.4f}", f"{top([round(v, 4) for v in curve]):g}"] for curve in curves.values()
    ]
    assert found["command"] == explorer.command(0.95, 0, 0)
    assert found["hash"] == "#worth=0.95:0:0:0.95", "the address follows a little later"
    tab.open("about:blank")
    tab.open(page + "#worth=0.7:0.2:2:0.5")
    found = tab.js(READ)
    assert [found[role][1] for role in ("rho", "nu", "unit", "ratio")] == [
        "0.7",
        "0.2",
        "4 × 4 patches",
        "0.5",
    ]
    tab.open("about:blank")
    tab.open(page + "#worth=0.7:0.2:9:0.5")
    assert tab.js(READ)["note"] == "The link asks for a setting that is not here."
    assert tab.log() == []
