"""The explorer of levels: every number of its tables is what `locate_shared` says of masks drawn
anew, and its faces agree. The browser is in another file."""

from __future__ import annotations

import base64
import html as markup
import math
import re
import shlex

import numpy as np
import pytest
import torch

from looking import Page, drawn  # noqa: F401 (renders and closes every figure)
from mae_book.explorers.level_explorer import (
    EXAMPLES,
    MEASURES,
    MOST_MASKS,
    RATIOS,
    LevelExplorer,
    Levels,
    level_graphs,
    sampled_levels,
)
from mae_book.explorers.shared_explorer import CHAPTER
from mae_book.verdicts.results import repository
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, bootstrap
from mae_lib.base.parameters import check_notebook_parameters
from mae_lib.masks.masking import mask_batches
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import quad_tree
from mae_lib.theory.levels import mask_levels
from mae_lib.theory.shared import locate_shared
from mae_lib.theory.spectra import expected_spectrum, tree_membership

SMALL = {"quad": (quad_tree((4, 4)), (4, 4)), "pairs": (quad_tree((4, 8), 2), (4, 8))}
SETTINGS = [
    ("quad", "random", 1, 0.25),
    ("quad", "random", 2, 0.75),
    ("pairs", "random", 2, 0.5),
    ("pairs", "independent", 1, 0.1),
    ("pairs", "block", 1, 0.5),
]


def small(**arguments) -> LevelExplorer:
    return LevelExplorer(SMALL, **{"ratios": (0.1, 0.25, 0.5, 0.75), "masks": 60, **arguments})


@pytest.fixture(scope="module")
def explorer() -> LevelExplorer:
    return small(selected="pairs", law="random", unit=2, ratio=0.25, example=1)


@pytest.fixture(scope="module")
def text(explorer) -> str:
    return explorer.html()


def words(interval: Interval) -> str:
    return f"{interval:.4f}" if interval.value else "none seen"


def drawn_masks(
    name: str, law: str, unit: int, ratio: float, masks: int, seed: int = 0
) -> torch.Tensor:
    return torch.cat(
        [m for m, _ in mask_batches(law, SMALL[name][1], ratio, unit, masks=masks, seed=seed)]
    )


# --------------------------------------------------------------------------------------------------
# The numbers


@pytest.mark.parametrize("name, law, unit, ratio", SETTINGS)
def test_every_number_is_that_of_locate_shared_one_mask_at_a_time(name, law, unit, ratio):
    graph, grid = SMALL[name]
    found, masks = (
        sampled_levels(graph, grid, law, unit, ratio, 150, seed=3),
        drawn_masks(name, law, unit, ratio, 150, seed=3),
    )
    counts = torch.zeros(150, graph.height, dtype=torch.float64)
    for k, mask in enumerate(masks):
        shared = locate_shared(
            graph, [x for x, hidden in zip(graph.observables, mask.tolist()) if hidden]
        )
        for level, count in shared.level_spectrum.items():
            counts[k, level - 1] = count
        if k < EXAMPLES:
            assert torch.equal(found.masks[k], mask)
            assert {
                z for z, inside in zip(graph.latents, found.c[k].tolist()) if inside
            } == shared.c
    total, levels = counts.sum(), torch.arange(1, graph.height + 1)
    assert found.hidden == pytest.approx(float(masks.double().mean()))
    assert (
        len(found.masks) == len(found.c) == EXAMPLES
        and len(found.share) == len(found.chance) == graph.height
    )
    for level in range(graph.height):
        latents = sum(graph.levels[z] == level + 1 for z in graph.latents)
        pair = torch.stack([counts[:, level], counts.sum(1)], 1)
        for interval, expected in (
            (found.share[level], bootstrap(pair, lambda x: x[..., 0].sum(1) / x[..., 1].sum(1))),
            (found.chance[level], bootstrap(counts[:, level] / latents)),
        ):
            assert [interval.value, interval.low, interval.high] == pytest.approx(
                [expected.value, expected.low, expected.high], abs=1e-12
            ) and interval.n == 150
    assert found.level.value == pytest.approx(float((counts * levels).sum() / total))
    members = bootstrap(counts.sum(1))
    assert [found.members.value, found.members.low, found.members.high] == pytest.approx(
        [members.value, members.low, members.high]
    )
    assert sum(share.value for share in found.share) == pytest.approx(1)


def test_the_mean_level_is_mask_levels_own():
    for name, law, unit, ratio in SETTINGS:
        graph, grid = SMALL[name]
        mine, theirs = (
            sampled_levels(graph, grid, law, unit, ratio, 80).level,
            mask_levels(graph, mask_batches(law, grid, ratio, unit, masks=80)).level,
        )
        assert [mine.value, mine.low, mine.high] == pytest.approx(
            [theirs.value, theirs.low, theirs.high], abs=1e-12
        )


def test_chances_are_the_closed_form_within_their_intervals():
    graph, grid = SMALL["pairs"]
    latents = np.array(
        [
            sum(graph.levels[z] == level for z in graph.latents)
            for level in range(1, graph.height + 1)
        ]
    )
    inside = []
    for seed, ratio in enumerate(RATIOS):
        exact = expected_spectrum(graph, tree_membership(graph, ratio))[1:]
        found = sampled_levels(graph, grid, "independent", 1, ratio, seed=seed).chance
        # An interval means something where the event is seen now and then: 30 times in all masks.
        inside += [
            f.low <= value / n <= f.high
            for f, value, n in zip(found, exact, latents)
            if value * MOST_MASKS > 30
        ]
    assert len(inside) > 45 and np.mean(inside) > 0.87


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
    explorer = LevelExplorer({"halves": (halves, (1, 2))}, ratios=(0.5,), masks=20)
    assert explorer.beside_the_paper("halves", "random", 1) == "these masks leave no c at any ratio"
    assert (
        explorer.example_words("halves", "random", 1, 0.5, 0) == "hides 1 of 2 patches; c is empty"
    )
    table = Page(explorer.html()).data()["graphs"][0]["masks"][0]["settings"][0]
    assert (
        table["share"] == ["undefined"]
        and table["level"] == "undefined"
        and table["at"] == [None, None]
    )
    explorer.figure()


# --------------------------------------------------------------------------------------------------
# The page


def test_every_entry_of_the_page_is_the_librarys(text, explorer):
    page = Page(text)
    assert page.open == [] and len(page.scripts) == 1 and len(set(page.ids)) == len(page.ids)
    data, seen = page.data(), 0
    assert data["ratios"] == [0.1, 0.25, 0.5, 0.75] and [g["name"] for g in data["graphs"]] == list(
        SMALL
    )
    assert data["selected"] == {
        "graph": 1,
        "law": "random",
        "unit": 2,
        "ratio": 1,
        "example": 1,
        "measure": "share",
    }
    for table in data["graphs"]:
        graph, (rows, columns) = SMALL[table["name"]]
        assert table["levels"] == [graph.levels[z] for z in graph.latents] and (
            table["columns"],
            table["patches"],
        ) == (columns, rows * columns)
        assert [(m["law"], m["unit"]) for m in table["masks"]] == explorer.rows(table["name"])
        for masks in table["masks"]:
            assert masks["paper"] == explorer.beside_the_paper(
                table["name"], masks["law"], masks["unit"]
            )
            for ratio, setting in zip(data["ratios"], masks["settings"], strict=True):
                key = (table["name"], masks["law"], masks["unit"], ratio)
                try:
                    found = sampled_levels(graph, (rows, columns), *key[1:], 60)
                except InputError as error:
                    assert setting == {
                        "hidden": f"no such mask: {error}",
                        "level": "–",
                        "members": "–",
                    } and explorer.levels(*key) == str(error)
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


def test_an_outline_is_the_border_of_the_patches_below_a_latent(text):
    for table in Page(text).data()["graphs"]:
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


def test_a_chart_has_a_point_a_setting_and_a_gap_where_there_is_none(text, explorer):
    table = Page(text).data()["graphs"][0]
    lines = re.findall(
        r'<g data-row="(\d)"[^>]*>(?:(?!</g>).)*?<path class="line" d="([^"]*)"', text
    )[: 2 * len(table["masks"])]
    for k, masks in enumerate(table["masks"]):
        for chart, offset in ((0, 0), (1, len(table["masks"]))):
            row, path = lines[k + offset]
            points = [s["at"][chart] for s in masks["settings"] if "at" in s]
            assert (
                int(row) == k
                and [list(map(float, p.split())) for p in re.split("[ML]", path)[1:]] == points
            )
    without = [m["unit"] for m in table["masks"] if any("at" not in s for s in m["settings"])]
    assert without == [2]  # of the 4 units of 2 × 2 patches a ratio of 0.1 hides none
    level = [
        s["at"][0][1]
        for s in next(m for m in table["masks"] if m["law"] == "random" and m["unit"] == 2)[
            "settings"
        ][1:]
    ]
    assert level == pytest.approx([10.0] * 3)  # level 2 of 2, at the top


def test_the_page_is_one_fragment_that_keeps_to_itself(text, explorer):
    assert not re.search(
        r"https?:(?!//www\.w3\.org/2000/svg)|@import|url\(|innerHTML|fetch|XMLHttp", text
    )
    for _, attributes in Page(text).elements:
        assert not {"src", "href", "onclick"} & attributes.keys()
    assert f'[id="{Page(text).ids[0]}"]' in Page(text).scripts[0]
    # the same at every build
    assert (
        text
        == small(selected="pairs", law="random", unit=2, ratio=0.25, example=1).html()
        == explorer._repr_html_()
    )
    assert Page(small().html()).ids != Page(text).ids


def test_the_books_own_page_is_light_enough():
    assert len(LevelExplorer(masks=10).html().encode()) < 400_000


def test_without_scripts_the_page_shows_its_first_state(text, explorer):
    before_script = text.split("<script>")[0]
    shown = before_script.split('<div data-graph="1">')[1]
    assert '<div data-graph="0" hidden>' in before_script
    assert explorer.example_words("pairs", "random", 2, 0.25, 1) in markup.unescape(shown)
    found = explorer.levels("pairs", "random", 2, 0.25)
    assert re.findall(r'class="value">([^<]*)', shown) == [words(v) for v in found.share][::-1]


@pytest.mark.parametrize(
    "name",
    ["</script><b id=out>", "<!--<script>", '"}];alert(1);//', "$id ${data} $$", "日本 & <i>"],
)
def test_a_name_cannot_break_out(name):
    page = Page(LevelExplorer({name: SMALL["quad"]}, ratios=(0.5,), masks=5).html())
    assert page.open == [] and len(page.scripts) == 1 and len(page.ids) == 1
    assert (
        page.data()["graphs"][0]["name"] == name
        and "<" not in page.scripts[0].split("const data")[1].split("const at")[0]
    )


# --------------------------------------------------------------------------------------------------
# The other faces, and the command


def test_the_live_face_shows_the_librarys_answer(explorer):
    for name, law, unit, ratio in SETTINGS + [("quad", "random", 2, 0.1)]:
        for measure in MEASURES:
            shown = explorer.live_html(name, law, unit, ratio, 2, measure)
            found = explorer.levels(name, law, unit, ratio)
            assert (
                markup.escape(explorer.command(name, law, unit, ratio, 2, measure)) in shown
                and MEASURES[measure] in shown
            )
            for text in (
                *explorer.reading(name, law, unit, ratio).values(),
                explorer.example_words(name, law, unit, ratio, 2),
            ):
                assert markup.escape(text) in shown
            values = re.findall(r'class="value">([^<]*)', shown)
            if isinstance(found, str):
                assert set(values) == {"–"} and found.startswith(
                    "masking ratio 0.1 hides no unit of 4"
                )
                continue
            assert values == [words(v) for v in getattr(found, measure)][::-1]
            hidden = re.search(r'class="hidden" d="([^"]*)"', shown)[1]
            columns = SMALL[name][1][1]
            assert (
                sorted(int(y) * columns + int(x) for x, y in re.findall(r"M(\d+) (\d+)", hidden))
                == found.masks[2].nonzero()[:, 0].tolist()
            )


def test_the_widget_answers_every_control(explorer):
    graph, law, unit, ratio, example, measure, shown = explorer.widget().children
    state = lambda: (
        graph.value,
        law.value,
        unit.value if law.value == "random" else 1,
        ratio.value,
        example.value,
        measure.value,
    )
    assert state() == explorer.selected == (
        "pairs",
        "random",
        2,
        0.25,
        1,
        "share",
    ) and shown.value == explorer.live_html(*state())
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
        assert shown.value == explorer.live_html(*state())
        assert unit.disabled == (law.value != "random") and list(unit.options) == [
            u for kind, u in explorer.rows(graph.value) if kind == "random"
        ]
    assert state() == ("pairs", "random", 2, 0.5, 2, "chance")


def test_the_figure_is_the_selected_state(explorer):
    left, middle, right = explorer.figure().axes
    found = explorer.levels(*explorer.selected[:4])
    assert [bar.get_width() for bar in left.patches] == pytest.approx(
        [v.value for v in found.share]
    )
    assert (
        sorted(int(p.get_y()) * 8 + int(p.get_x()) for p in middle.patches[1:])
        == found.masks[1].nonzero()[:, 0].tolist()
    )
    assert len(right.lines) == len(explorer.rows("pairs")) + 1
    assert [float(v[0]) for v in right.lines[-1].get_data()] == pytest.approx(
        [0.25, found.level.value]
    )
    small(unit=2, ratio=0.1).figure()  # of which there is no mask


def test_what_is_said_beside_the_paper_follows_from_the_intervals(explorer, monkeypatch):
    real = explorer.levels("pairs", "random", 1, 0.5)

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
            for r, v in zip(explorer.ratios, levels)
        }
        monkeypatch.setattr(explorer, "levels", lambda name, law, unit, ratio: found[ratio])
        return explorer.beside_the_paper("pairs", "random", 1)

    assert faked(1, 2, 2, 1).endswith("lower at both ends, as the paper says")
    assert faked(3, 2, 2, 3).endswith("higher at both ends: the other way round")
    for levels in ((1, 2, 2, 2), (2, 2, 2, 1), (2, 2, 2.1, 2), (1, 2, 2, 3)):
        assert faked(*levels).endswith(
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
    explorer = LevelExplorer(**arguments)
    state = ("quad-tree-14", "random", 7, 0.35, 2, "chance")
    program, notebook, output, *options = shlex.split(explorer.command(*state))
    assert (program, notebook, output) == ("papermill", CHAPTER, "out.ipynb") and set(
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
    check_notebook_parameters(repository() / CHAPTER, found)


def test_what_the_chapter_does_not_have_has_a_call_instead():
    graph, _grid = SMALL["pairs"]
    explorer = small(selected="pairs")
    call = explorer.command("pairs", "random", 2, 0.25, 1)
    assert call == "sampled_levels(graph, (4, 8), 'random', 2, 0.25, masks=60, seed=0)"
    assert eval(call).level == explorer.levels("pairs", "random", 2, 0.25).level
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


def test_bad_input_is_named(explorer):
    for arguments, says in (
        ({"graphs": {}}, "at least one hierarchy"),
        ({"ratios": ()}, "and one ratio"),
        ({"masks": MOST_MASKS + 1}, f"{EXAMPLES} to {MOST_MASKS}"),
        ({"masks": 2}, f"{EXAMPLES} to {MOST_MASKS}"),
        (
            {"graphs": {"q": (quad_tree((4, 4)), (4, 5))}},
            "grid of 4 × 5 patches does not fit graph 'q', which has 16",
        ),
        ({"selected": "nothing"}, "no hierarchy 'nothing': choose one of quad-tree-16"),
        ({"law": "none"}, "no law of masks 'none': choose one of random"),
        ({"unit": 3}, "'random' over 'quad-tree-16' have no unit 3: choose one of 1, 2, 4, 8"),
        (
            {"law": "block", "unit": 2},
            "'block' over 'quad-tree-16' have no unit 2: choose one of 1",
        ),
        ({"ratio": 0.51}, "0.51 is not tabulated: choose one of 0.05"),
        ({"example": 3}, "no example mask 3"),
        ({"measure": "mean"}, "no measure 'mean': choose one of share, chance"),
    ):
        with pytest.raises(InputError, match=re.escape(says)):
            LevelExplorer(**arguments)
    with pytest.raises(InputError, match="no hierarchy 'nothing'"):
        explorer.levels("nothing", "random", 1, 0.5)
    with pytest.raises(InputError, match="draw 1 to 4000"):
        sampled_levels(*SMALL["quad"], "random", 1, 0.5, 5000)
    with pytest.raises(InputError, match="hides no unit"):
        sampled_levels(*SMALL["quad"], "random", 2, 0.1)
