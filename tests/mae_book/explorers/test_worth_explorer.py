"""The explorer of what a level is worth: every setting as the library computes it, in tables,
figure and browser; its command is one that the chapter takes. What holds of every explorer is
tested beside."""

from __future__ import annotations

import shlex
from itertools import product

import numpy as np
import pytest

from browser import in_browser, tab, write  # noqa: F401 (tab is a fixture)
from explorers import explorer, follow, look
from looking import Page, drawn  # noqa: F401 (renders and closes every figure)
from mae_book.chapters.why_75 import GRID, gains, top
from mae_book.explorers.worth_explorer import NUS, RHOS, UNITS, WorthExplorer
from mae_book.verdicts.results import repository
from mae_lib import context_gain
from mae_lib.base.errors import InputError
from mae_lib.base.parameters import check_notebook_parameters

MASKS = 4


def test_every_setting_is_tabulated_as_the_library_computes_it():
    shown = explorer("worth")
    data = Page(shown.html()).data()
    offered = {role: [row[0] for row in rows] for role, rows in data["choices"].items()}
    assert offered == {
        "rho": sorted([*RHOS, 0.85]), "nu": list(NUS), "unit": list(UNITS), "ratio": list(GRID)
    }  # fmt: skip
    states = {f"{r},{n},{u}": (r, n, u) for r, n, u in product(sorted([*RHOS, 0.85]), NUS, UNITS)}
    assert list(data["settings"]) == list(states)
    for key, setting in data["settings"].items():
        values = np.array(setting["curves"], float)
        assert values.shape == (4, len(GRID)) and 0 <= values.min() <= values.max()
        assert values.max() <= setting["height"] <= max(0.01, 2.6 * values.max())
        assert [curve[best] for curve, best in zip(values, setting["tops"])] == list(values.max(1))
        rho, nu, unit = states[key]
        if states[key] in ((0.85, 0.2, 1), (0.5, 0.0, 0), (0.95, 0.5, 2)):
            for height, curve in zip((None, 1, 2, 3), values):
                for ratio in (0.25, 0.75):
                    mean, _ = context_gain(4, 4, rho, nu, ratio, height, MASKS, 0, unit)
                    assert curve[GRID.index(ratio)] == pytest.approx(mean, abs=6e-5)


def test_a_seed_of_its_own_reaches_the_masks():
    one, other = (WorthExplorer(masks=MASKS, seed=seed).curves(0.8, 0.2, 0) for seed in (0, 1))
    assert list(one) == list(WorthExplorer.SAYS) and one == gains(0.8, 0.2, masks=MASKS)
    assert one["EV"] != other["EV"] and np.allclose(one["EV"], other["EV"], atol=0.03)
    assert top([0.0, 2.0, float("nan"), 1.0]) == GRID[1]


def test_the_figure_shows_the_first_setting():
    (axis,) = explorer("worth").figure().axes
    curves = explorer("worth").curves(0.85, 0.2, 1)
    lines = [line.get_ydata() for line in axis.get_lines()]
    assert [list(line) for line in lines[::2]] == list(curves.values())
    assert [line[0] for line in lines[1::2]] == [max(curve) for curve in curves.values()]


def test_the_command_is_one_that_the_chapter_takes():
    program, notebook, _, *options = shlex.split(explorer("worth").command(0.7, 0.0, 2))
    assert (program, notebook) == ("papermill", WorthExplorer.CHAPTER)
    found = dict(zip(options[1::3], map(float, options[2::3]), strict=True))
    assert found == {"rho": 0.7, "nu": 0.0, "unit_height": 2}
    check_notebook_parameters(repository() / notebook, {**found, "unit_height": 2})


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"rho": 1.0}, "rho 1.0"),
        ({"rho": 0.0}, "rho 0.0"),
        ({"nu": 1.0}, "nu 1.0"),
        ({"unit_height": 3}, "no unit 3: choose one of 0, 1, 2"),
        ({"unit_height": -1}, "mask unit -1 must be"),
    ],
)
def test_wrong_settings_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        WorthExplorer(**wrong, masks=2)


@in_browser
def test_the_page_reads_out_every_curve_at_every_kind_of_setting(tab, tmp_path):
    shown = explorer("worth")
    tab.open(write(tmp_path, shown.html()))
    for rho, nu, unit, ratio in product((0.5, 0.95), (0.0, 0.5), UNITS, (GRID[0], GRID[-1])):
        follow(tab, shown.link(rho, nu, unit, ratio))
        found = look(tab, shown)
        assert found["state"] == (rho, nu, unit, ratio)
        for name, curve in gains(rho, nu, unit, MASKS).items():
            said = f"{curve[GRID.index(ratio)]:.4f}, highest at ratio {top(curve):g}"
            assert found["texts"][name] == said
