"""The explorer of levels: every number of its tables is what `locate_shared` says of masks drawn
anew, and its faces agree; in a browser, its page keeps a unit where the next hierarchy has it."""

from __future__ import annotations

import base64
import math
import re
import shlex

import numpy as np
import pytest
from bs4 import BeautifulSoup
from test_level_spectra import SETTINGS

from browser import in_browser, tab, tab_to, write  # noqa: F401 (tab is a fixture)
from explorers import READ, SMALL, explorer, follow, levels, look
from looking import Page, drawn  # noqa: F401 (renders and closes every figure)
from mae_book.explorers.level_explorer import LevelExplorer
from mae_book.explorers.level_spectra import (
    EXAMPLES,
    MEASURES,
    MOST_MASKS,
    Levels,
    level_graphs,
    sampled_levels,
)
from mae_book.verdicts.results import repository
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval
from mae_lib.base.parameters import check_notebook_parameters
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import quad_tree


@pytest.fixture(scope="module")
def shown() -> LevelExplorer:
    return levels(selected="pairs", law="random", unit=2, ratio=0.25, example=1)


def words(interval: Interval) -> str:
    return f"{interval:.4f}" if interval.value else "none seen"


def test_a_mask_that_shares_nothing_leaves_no_share():
    graph = LatentGraph(
        [("z", "x0"), ("z", "x1"), ("w", "x2"), ("w", "x3")], ["x0", "x1", "x2", "x3"]
    )
    found = sampled_levels(graph, (2, 2), "random", 1, 0.5, 400)
    # 4 of 6 masks split both pairs
    assert found.share[0].value == 1 and 0.6 < found.chance[0].value < 0.73
    halves = LatentGraph([("z", "x0"), ("w", "x1")], ["x0", "x1"])
    empty = sampled_levels(halves, (1, 2), "random", 1, 0.5, 20)
    assert (
        math.isnan(empty.share[0].value)
        and math.isnan(empty.level.value)
        and empty.chance[0].value == 0 == empty.members.value
    )
    alone = LevelExplorer({"halves": (halves, (1, 2))}, ratios=(0.5,), masks=20)
    assert alone.beside_the_paper("halves", "random", 1) == "these masks leave no c at any ratio"
    assert alone.example_words("halves", "random", 1, 0.5, 0) == "hides 1 of 2 patches; c is empty"
    table = Page(alone.html()).data()["graphs"][0]["masks"][0]["settings"][0]
    assert table["share"] == ["undefined"] and table["level"] == "undefined"
    alone.figure()


def test_every_entry_of_the_page_is_the_librarys(shown):
    data, seen = Page(shown.html()).data(), 0
    assert [row[0] for row in data["choices"]["ratio"]] == [0.1, 0.25, 0.5, 0.75]
    assert [table["name"] for table in data["graphs"]] == list(SMALL)
    for table in data["graphs"]:
        graph, (rows, columns) = SMALL[table["name"]]
        assert table["levels"] == [graph.levels[z] for z in graph.latents] and (
            table["columns"],
            table["patches"],
        ) == (columns, rows * columns)
        assert [(m["law"], m["unit"]) for m in table["masks"]] == shown.rows(table["name"])
        for masks in table["masks"]:
            assert masks["paper"] == shown.beside_the_paper(
                table["name"], masks["law"], masks["unit"]
            )
            for ratio, setting in zip(shown.ratios, masks["settings"], strict=True):
                key = (table["name"], masks["law"], masks["unit"], ratio)
                try:
                    found = sampled_levels(graph, (rows, columns), *key[1:], 60)
                except InputError as error:
                    assert setting == {
                        "hidden": f"no such mask: {error}",
                        "level": "–",
                        "members": "–",
                    } and shown.levels(*key) == str(error)
                    continue
                seen += 1
                assert (
                    setting["level"] == f"{found.level:.4f}"
                    and setting["members"] == f"{found.members:.2f} of {len(graph.latents)} latents"
                )
                assert setting["share"] == [words(v) for v in found.share] and setting[
                    "chance"
                ] == [words(v) for v in found.chance]
                assert float(setting["hidden"].split(" ")[0]) == pytest.approx(
                    found.hidden, abs=5e-5
                )
                for (mask, c), wanted in zip(
                    setting["examples"], zip(found.masks, found.c), strict=True
                ):
                    bits = [
                        np.unpackbits(
                            np.frombuffer(base64.b64decode(b), np.uint8), bitorder="little"
                        )
                        for b in (mask, c)
                    ]
                    assert all((b[: len(w)] == w.numpy()).all() for b, w in zip(bits, wanted))
    assert seen > 20


def test_an_outline_is_the_border_of_the_patches_below_a_latent(shown):
    for table in Page(shown.html()).data()["graphs"]:
        graph, (_, columns) = SMALL[table["name"]]
        for z, path in zip(graph.latents, table["outlines"], strict=True):
            places = [
                divmod(k, columns)
                for k, x in enumerate(graph.observables)
                if x in graph.descendants[z]
            ]
            (top, left), (bottom, right) = min(places), max(places)
            assert (
                path
                == f"M{left} {top}h{right - left + 1}M{left} {bottom + 1}h{right - left + 1}M{left}"
                f" {top}v{bottom - top + 1}M{right + 1} {top}v{bottom - top + 1}"
            )


def test_a_chart_has_a_point_a_setting_and_a_gap_where_there_is_none(shown):
    soup = BeautifulSoup(shown.picture(*shown.start), "html.parser")
    for chart in soup.select(".chart"):
        for group, row in zip(chart.select("g"), shown.rows("pairs"), strict=True):
            means = shown.means("pairs", *row)
            path = group.select_one(".line")["d"]
            points = [list(map(float, p.split())) for p in re.split("[ML]", path)[1:]]
            assert points == [[r, round(-p.value, 4)] for r, p in means.items()]
            here = row == ("random", 2)
            assert group.has_attr("data-on") == here
            mark = f"M0.25 {-means[0.25].value:.4f}h0" if here else ""
            assert group.select_one(".mark")["d"] == mark
    # of the 4 units of 2 × 2 patches a ratio of 0.1 hides none
    assert list(shown.means("quad", "random", 2)) == [0.25, 0.5, 0.75]


def test_the_books_own_page_is_light_enough():
    assert len(LevelExplorer(masks=10).html().encode()) < 400_000


# --------------------------------------------------------------------------------------------------
# The other faces, and the command


def test_the_drawing_shows_the_librarys_answer(shown):
    for name, law, unit, ratio in [*SETTINGS, ("quad", "random", 2, 0.1)]:
        for measure in MEASURES:
            soup = BeautifulSoup(shown.picture(name, law, unit, ratio, 2, measure), "html.parser")
            found = shown.levels(name, law, unit, ratio)
            assert soup.select_one(".measure").get_text() == MEASURES[measure]
            values = [cell.get_text() for cell in soup.select(".value")]
            if isinstance(found, str):
                assert set(values) == {"–"} and found.startswith("masking ratio 0.1 hides no unit")
                continue
            assert values == [words(v) for v in getattr(found, measure)][::-1]
            lengths = [
                float(re.search(r"width:([\d.]+)", bar["style"])[1])
                for bar in soup.select(".track .fill")
            ]
            shares = [100 * v.value for v in getattr(found, measure)][::-1]
            assert lengths == pytest.approx(shares, abs=0.011)
            hidden, columns = soup.select_one(".mask .hidden")["d"], SMALL[name][1][1]
            places = [int(y) * columns + int(x) for x, y in re.findall(r"M(\d+) (\d+)", hidden)]
            assert sorted(places) == found.masks[2].nonzero()[:, 0].tolist()


def test_the_widget_answers_every_control(shown):
    *controls, error, view = shown.widget().children
    graph, law, unit, ratio, example, measure = controls
    state = lambda: tuple(control.value for control in controls)
    assert state() == shown.start == ("pairs", "random", 2, 0.25, 1, "share")
    for control, value in (
        (ratio, 0.5),
        (unit, 1),
        (example, 2),
        (measure, "chance"),
        (law, "block"),
        (graph, "quad"),
        (law, "random"),
        (unit, 2),
        (graph, "pairs"),
    ):
        control.value = value
        assert view.value == shown.live_html(*state()) and not error.value
        offered = [u for kind, u in shown.rows(graph.value) if kind == law.value]
        assert [u for _, u in unit.options] == offered and unit.disabled == (law.value != "random")
    assert state() == ("pairs", "random", 2, 0.5, 2, "chance")


def test_the_figure_is_the_selected_state(shown):
    left, middle, right = shown.figure().axes
    found = shown.levels(*shown.start[:4])
    lengths = [bar.get_width() for bar in left.patches]
    assert lengths == pytest.approx([v.value for v in found.share])
    assert np.array_equal(middle.images[0].get_array().reshape(-1), found.masks[1])
    assert len(right.lines) == len(shown.rows("pairs")) + 1
    assert [float(v[0]) for v in right.lines[0].get_data()] == pytest.approx(
        [0.25, found.level.value]
    )
    levels(unit=2, ratio=0.1).figure()  # of which there is no mask


def test_what_is_said_beside_the_paper_follows_from_the_intervals(shown, monkeypatch):
    real = shown.levels("pairs", "random", 1, 0.5)

    def faked(*levels):
        found = {
            r: Levels(
                real.share,
                real.chance,
                type(real.level)(v, v - 0.1, v + 0.1, 60),
                real.members,
                0.5,
                real.masks,
                real.c,
            )
            for r, v in zip(shown.ratios, levels)
        }
        monkeypatch.setattr(shown, "levels", lambda name, law, unit, ratio: found[ratio])
        return shown.beside_the_paper("pairs", "random", 1)

    assert faked(1, 2, 2, 1).endswith("lower at both ends, as the paper says")
    assert faked(3, 2, 2, 3).endswith("higher at both ends: the other way round")
    for values in ((1, 2, 2, 2), (2, 2, 2, 1), (2, 2, 2.1, 2), (1, 2, 2, 3)):
        assert faked(*values).endswith(
            "not lower at both ends, or by less than these masks can tell"
        )
    assert faked(1, 3, 2, 1).startswith(
        "1.0000 [0.9000,\xa01.1000] at ratio 0.1, 2.0000 [1.9000,\xa02.1000] at ratio 0.5, 1.0000"
    )


@pytest.mark.parametrize(
    "arguments, given",
    [({"masks": 4000}, {}), ({"masks": 200, "seed": 7}, {"tier": "smoke", "seed": 7})],
)
def test_the_command_gives_the_state_back(arguments, given):
    shown = LevelExplorer(**arguments)
    state = ("quad-tree-14", "random", 7, 0.35, 2, "chance")
    program, notebook, output, *options = shlex.split(shown.command(*state))
    assert (program, notebook, output) == ("papermill", LevelExplorer.CHAPTER, "out.ipynb") and set(
        options[::3]
    ) == {"-p"}
    kinds = {"level_unit": int, "level_example": int, "level_ratio": float, "seed": int}
    found = {
        name: kinds.get(name, str)(value)
        for name, value in zip(options[1::3], options[2::3], strict=True)
    }
    assert found == given | dict(
        zip(
            (
                "level_graph",
                "level_law",
                "level_unit",
                "level_ratio",
                "level_example",
                "level_measure",
            ),
            state,
        )
    )
    check_notebook_parameters(repository() / LevelExplorer.CHAPTER, found)


def test_what_the_chapter_does_not_have_has_a_call_instead():
    graph, _grid = SMALL["pairs"]
    shown = levels(selected="pairs")
    call = shown.command("pairs", "random", 2, 0.25, 1)
    assert call == "sampled_levels(graph, (4, 8), 'random', 2, 0.25, masks=60, seed=0)"
    assert eval(call).level == shown.levels("pairs", "random", 2, 0.25).level
    assert (
        LevelExplorer(masks=77)
        .command("quad-tree-16", "block", 1, 0.5)
        .startswith("sampled_levels(graph, (16, 16), 'block'")
    )
    assert (
        LevelExplorer(ratios=(0.33,), ratio=0.33)
        .command("quad-tree-16", "block", 1, 0.33)
        .startswith("sampled_levels(")
    )
    for name, (graph, (rows, columns)) in level_graphs().items():
        assert (
            len(graph.observables) == rows * columns
            and name.endswith(str(rows))
            and graph.height >= 4
        )


def test_bad_input_is_named(shown):
    for arguments, says in (
        ({"graphs": {}}, "at least one hierarchy"),
        ({"ratios": ()}, "and one ratio"),
        ({"masks": MOST_MASKS + 1}, f"{EXAMPLES} to {MOST_MASKS}"),
        ({"masks": 2}, f"{EXAMPLES} to {MOST_MASKS}"),
        (
            {"graphs": {"q": (quad_tree((4, 4)), (4, 5))}},
            "grid of 4 × 5 patches does not fit graph 'q', which has 16",
        ),
        ({"selected": "nothing"}, "no graph 'nothing': choose one of 'quad-tree-16'"),
        ({"law": "none"}, "no law 'none': choose one of 'random'"),
        ({"unit": 3}, "no unit 3: choose one of 1, 2, 4, 8"),
        (
            {"law": "block", "unit": 2},
            "no unit 2: choose one of 1",
        ),
        ({"ratio": 0.51}, "no ratio 0.51: choose one of 0.05, 0.1, 0.15, 0.2, …, 0.95"),
        ({"example": 3}, "no example 3"),
        ({"measure": "mean"}, "no measure 'mean': choose one of 'share', 'chance'"),
    ):
        with pytest.raises(InputError, match=re.escape(says)):
            LevelExplorer(**arguments)
    with pytest.raises(InputError, match="no graph 'nothing'"):
        shown.levels("nothing", "random", 1, 0.5)
    with pytest.raises(InputError, match="draw 1 to 4000"):
        sampled_levels(*SMALL["quad"], "random", 1, 0.5, 5000)
    with pytest.raises(InputError, match="hides no unit"):
        sampled_levels(*SMALL["quad"], "random", 2, 0.1)


# --------------------------------------------------------------------------------------------------
# In a browser


@in_browser
def test_every_setting_by_link(tab, tmp_path):
    shown, k = explorer("levels"), 0
    tab.screen(1100, 1500)
    tab.open(write(tmp_path, shown.html()))
    for name in SMALL:
        for law, unit in shown.rows(name):
            for ratio in shown.ratios:
                state = (name, law, unit, ratio, k % EXAMPLES, list(MEASURES)[k % 2])
                follow(tab, shown.link(*state))
                found, k = look(tab, shown), k + 1
                assert found["state"] == state and not found["note"]
    assert k > 30


@in_browser
def test_a_unit_that_the_next_hierarchy_lacks_becomes_the_nearest(tab, tmp_path):
    shown = explorer("levels")
    focus = f"const read = function () {{ {READ} }}; return read('levels');"
    tab.open(write(tmp_path, shown.html()) + shown.link("pairs", "random", 4, 0.5, 0, "share"))
    for role, keys, state in (
        ("graph", ["Home"], ("quad", "random", 2)),
        ("law", ["Home", "Down", "Down"], ("quad", "block", 1)),
        ("law", ["Home"], ("quad", "random", 2)),
        ("graph", ["Down"], ("pairs", "random", 4)),  # what was asked for is there again
    ):
        tab_to(tab, focus, role, "Shift+Tab" if keys == ["Down"] else "Tab")
        tab.press(*keys)
        assert look(tab, shown)["state"] == (*state, 0.5, 0, "share")
