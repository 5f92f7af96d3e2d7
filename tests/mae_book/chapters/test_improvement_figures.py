"""Chapter 11's drawings and tables show the pixels, differences and costs they were given: the
right arm, the right seed, the right way round."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from looking import drawn  # noqa: F401 (renders and closes every figure)
from mae_book.chapters.improvement_figures import (
    KINDS,
    drawn_kinds,
    kept_shares,
    margin_rows,
    paired_differences,
    partitions,
    pixel_kinds,
    readout_against_cost,
)
from mae_book.chapters.improvement_tables import (
    arms_table,
    cost_table,
    live_table,
    minutes_table,
    ratio_cost_table,
    readout_differences,
    readouts,
    tree_table,
)
from mae_book.verdicts.claim import Claim
from mae_book.verdicts.claims import claim
from mae_book.verdicts.comparisons import Above, AtLeast, Grows, NotBelow
from mae_book.verdicts.ledger import decide
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, over_seeds
from mae_lib.masks.designs import margin_maps
from mae_lib.masks.masking import hidden_map
from mae_lib.theory.levels import MaskLevels

S = "\N{NO-BREAK SPACE}"


def masks(margin: int, patch: int = 4):
    """Two masks of a 4 × 4 grid: the left half hidden, and one patch in the middle."""
    hidden = torch.tensor([[0, 1, 4, 5, 8, 9, 12, 13], [0, 1, 4, 5, 8, 9, 12, 13]])
    hidden[1] = torch.tensor([5, 6, 9, 10, 0, 3, 12, 15])
    counted, shown = margin_maps(hidden, (4, 4), patch, margin)
    pixels = (
        hidden_map(hidden, 16)
        .view(2, 1, 4, 4)
        .repeat_interleave(patch, 2)
        .repeat_interleave(patch, 3)
    )
    return pixels, counted, shown


def test_every_pixel_is_of_the_kind_that_the_mask_makes_it():
    pixels, counted, shown = masks(2)
    loose, strict = pixel_kinds(pixels, counted), pixel_kinds(pixels, counted, shown)
    # Of the left half, columns 0 … 7 are hidden; 6 and 7 lie at the boundary, on the other side 8
    # and 9.
    assert loose[0, 0].tolist() == [3] * 6 + [2] * 2 + [0] * 8
    assert strict[0, 0].tolist() == [3] * 6 + [2] * 2 + [1] * 2 + [0] * 6
    for kinds in (loose, strict):
        assert torch.equal(kinds >= 2, pixels[:, 0]) and torch.equal(
            kinds == 3, (pixels & counted)[:, 0]
        )
    assert torch.equal(strict == 1, (~pixels & ~shown)[:, 0]) and not (loose == 1).any()
    with pytest.raises(InputError, match=r"must both be \[B, 1, H, W\]"):
        pixel_kinds(pixels[:, 0], counted)


def test_drawn_masks_have_the_designs_margin():
    plain, margin, strict = (
        drawn_kinds(tiny.config(ratio=0.5, unit=16, margin=m, strict=s), 40, seed=3)
        for m, s in ((0, False), (4, False), (4, True))
    )
    assert (
        plain.shape == (40, 32, 32)
        and set(plain.unique().tolist()) == {0, 3}
        and kept_shares(plain) == (1.0, 1.0)
    )
    # the same masks, of one seed
    assert torch.equal(plain >= 2, margin >= 2) and torch.equal(plain >= 2, strict >= 2)
    assert not torch.equal(plain, drawn_kinds(tiny.config(ratio=0.5, unit=16), 40, seed=4))
    assert set(margin.unique().tolist()) == {0, 2, 3} and set(strict.unique().tolist()) == {
        0,
        1,
        2,
        3,
    }
    hidden = (plain[0] >= 2).float()[None, None]
    # within 4 px of a visible pixel
    near = torch.nn.functional.max_pool2d(1 - hidden, 9, 1, 4)[0, 0].bool()
    assert torch.equal(margin[0] == 2, near & hidden[0, 0].bool())


def test_shares_are_of_hidden_and_of_visible_pixels():
    assert kept_shares(torch.tensor([[3, 3, 3, 2], [0, 1, 1, 1]])) == (0.75, 0.25)
    for bad in (torch.tensor([0, 1]), torch.tensor([2, 3])):
        with pytest.raises(InputError, match="hide a part"):
            kept_shares(bad)


def test_a_row_tints_what_does_not_reach_the_encoder_and_nothing_else():
    images = torch.full((2, 3, 16, 16), 128, dtype=torch.uint8)
    kinds = pixel_kinds(*masks(2))
    figure = margin_rows(images, {"strict": kinds, "none": torch.zeros_like(kinds)})
    image, tinted, plain = (figure.axes[k].images[0].get_array() for k in (0, 2, 4))
    assert (plain == image).all()
    assert ((tinted != image).any(2) == (kinds[0] != 0).numpy()).all()
    assert (
        len({tuple(colour) for colour in tinted[kinds[0] == 3]}) == 1
        and len({tuple(c) for c in tinted.reshape(-1, 3)}) == 4
    )
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == list(KINDS)[1:]
    with pytest.raises(InputError, match="row 'wrong'"):
        margin_rows(images, {"wrong": kinds[:1]})


def test_each_group_has_its_number_and_a_colour():
    groups = torch.tensor([[0, 0, 1], [2, 2, 1]])
    figure = partitions({"few": groups, "many": torch.arange(12).view(3, 4)})
    assert [text.get_text() for text in figure.axes[0].texts] == [
        str(n) for n in groups.flatten().tolist()
    ]
    assert (figure.axes[0].images[0].get_array() == groups.numpy()).all() and figure.axes[
        1
    ].get_title() == "many"
    for bad in ({}, {"flat": torch.arange(4)}):
        with pytest.raises(InputError, match="group numbers"):
            partitions(bad)


def test_differences_are_drawn_seed_by_seed_with_their_mean():
    rows = [
        ("S1", "margin", [0.1, 0.2, 0.3]),
        ("S1", "strict", [-0.1]),
        ("S2", "parts", [0.0, 0.05]),
    ]
    axis = paired_differences(rows, "difference").axes[0]
    dots = [line for line in axis.lines if line.get_marker() in "os"]
    assert [list(line.get_xdata()) for line in dots] == [list(values) for *_, values in rows]
    assert next(line.get_color() for line in dots) == dots[1].get_color() != dots[2].get_color()
    means = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "|"]
    assert means == pytest.approx([0.2, -0.1, 0.025])
    assert [text.get_text() for text in axis.get_yticklabels()] == [
        "margin",
        "strict",
        "parts",
    ] and axis.get_ylim()[0] > axis.get_ylim()[1]
    for bad in ([], [("S1", "none", [])]):
        with pytest.raises(InputError, match="no differences"):
            paired_differences(bad, "difference")


def test_points_stand_at_their_cost():
    runs = {
        "r10": Interval(0.3, 0.2, 0.4, 3),
        "r90": Interval(0.2, 0.15, 0.25, 3),
        "r75": Interval(0.25, math.nan, math.nan, 1),
    }
    figure = readout_against_cost(
        {"texture": runs, "colour": {"r90": runs["r90"]}},
        {"r10": 99.0, "r75": 38.0, "r90": 25.0},
        {"r10": "0.1", "r75": "0.75", "r90": "0.9"},
        {"texture": 0.1},
        "MFLOP",
    )
    first, second = figure.axes
    line = first.containers[0].lines[0]
    assert list(line.get_xdata()) == [25, 38, 99] and list(line.get_ydata()) == [0.2, 0.25, 0.3]
    assert [text.get_text() for text in first.texts] == ["0.9", "0.75", "0.1"]
    assert [l.get_ydata()[0] for l in first.lines if l.get_linestyle() == ":"] == [0.1] and not [
        l for l in second.lines if l.get_linestyle() == ":"
    ]
    for bad in ({}, {"texture": {"r50": runs["r10"]}}):
        with pytest.raises(InputError, match="cost of every run"):
            readout_against_cost(bad, {"r10": 1.0}, {}, {}, "MFLOP")


# --------------------------------------------------------------------------------------------------
# Tables

ARMS = ("r75-u16-p8", "r75-u16-p8-margin8", "r75")


def answer(arm: int, seed: int, latent: str) -> float:
    """A known value of its own for each arm, seed and latent; seeds differ more than arms, so that
    pairing shows, and arms twice as much in colour."""
    effect = (0, 0.04, -0.02)[arm] + 0.001 * arm * seed
    return {"class": 0.1 + effect, "colour": 0.5 + 2 * effect}[latent] + (0, 0.2, 0.1)[seed]


def records(seeds=(0, 1, 2), runs=ARMS) -> list[dict]:
    """Readouts of `answer`, given in no particular order; the controls of each arm and seed tell
    which they are."""
    made = []
    for seed in reversed(seeds):
        for arm, run in enumerate(runs):
            values = {f"mean/{latent}": answer(arm, seed, latent) for latent in ("class", "colour")}
            values |= {
                f"untrained/{latent}": 0.2 + 0.1 * arm + 0.01 * seed
                for latent in ("class", "colour")
            }
            values |= {
                f"pixels/{latent}": 0.6 + 0.1 * arm + 0.01 * seed for latent in ("class", "colour")
            }
            made.append(
                {
                    "name": f"{run}-s{seed}",
                    "run": run,
                    "seed": seed,
                    "measures": {
                        k: {"value": v, "low": v, "high": v, "n": 9} for k, v in values.items()
                    },
                }
            )
    return made


def test_arms_stand_in_the_order_asked_with_the_first_arms_controls_below():
    table = arms_table(records(), [ARMS[1], ARMS[0]], ["class", "colour"])
    assert table.header == ["run", "seeds", "class", "colour"]
    assert [row[:2] for row in table.rows[:2]] == [
        ["unit 16 px, margin 8 px", "3"],
        ["unit 16 px", "3"],
    ]
    for row, arm in zip(table.rows, (1, 0)):
        assert row[2:] == [
            format(over_seeds([answer(arm, seed, latent) for seed in range(3)]), ".3f")
            for latent in ("class", "colour")
        ]
    # 0.14, 0.341, 0.242: mean ± 4.303 · 0.1005 / √3
    assert table.rows[0][2] == f"0.241 [-0.009,{S}0.491]"
    assert table.rows[2:] == [
        ["first weights", "", "0.310", "0.310"],
        ["raw pixels", "", "0.710", "0.710"],
        ["nothing", "", "0.100", "0.000"],
    ]
    assert arms_table(records(), ARMS[:2], ["colour"]).rows[2] == ["first weights", "", "0.210"]
    with pytest.raises(InputError, match="no result of r90"):
        arms_table(records(), [ARMS[0], "r90"], ["class"])


def test_single_readouts_stand_beside_one_another():
    one, two = records(runs=ARMS[:2], seeds=(1,))
    table = live_table(
        [("without", one, "mean"), ("with", two, "mean"), ("first weights", one, "untrained")],
        ["colour", "class"],
    )
    assert table.header == ["read out from", "colour", "class"]
    assert table.rows == [
        ["without", "0.700", "0.300"],
        ["with", "0.782", "0.341"],
        ["first weights", "0.210", "0.210"],
    ]


def test_differences_are_of_one_seed_and_of_the_claimed_side_less_the_other():
    rows = readout_differences(records(), [claim("S1")], ["class", "colour"])
    assert claim("S1").tests[0].runs == (ARMS[1], ARMS[0])
    assert [row[:2] for row in rows] == [
        ("S1", f"S1: {latent}, unit 16 px, margin 8 px − unit 16 px")
        for latent in ("class", "colour")
    ]
    # seeds 0, 1, 2 in this order; of unlike seeds, values would be ±0.1 and more
    assert rows[0][2] == pytest.approx([0.04, 0.041, 0.042])
    assert rows[1][2] == pytest.approx([0.08, 0.082, 0.084])
    # The same number as the ledger's verdict is made from.
    assert over_seeds(rows[0][2]) == decide(claim("S1"), records()).rows[0][1]


def test_differences_of_the_seeds_that_both_runs_have():
    few = [
        record
        for record in records()
        if (record["run"], record["seed"]) not in ((ARMS[1], 0), (ARMS[0], 2))
    ]
    assert readout_differences(few, [claim("S1")], ["class"])[0][2] == pytest.approx([0.041])
    none = [record for record in few if (record["run"], record["seed"]) != (ARMS[0], 1)]
    with pytest.raises(InputError, match="no seed in common"):
        readout_differences(none, [claim("S1")], ["class"])


def test_every_test_of_a_claim_has_its_rows_and_runs_without_a_label_go_by_name():
    own = lambda *tests: Claim("own", "§3.6", "ours", "latents", "improvements", tests)
    tests = Above("mean/class", "other", ARMS[2]), NotBelow("mean/colour", ARMS[0], "other", 0.1)
    given_records = records(runs=(ARMS[0], "other", ARMS[2]))
    rows = readout_differences(given_records, [own(*tests), own(tests[0])], ["class", "colour"])
    assert [row[1] for row in rows] == [
        f"own: {name}, {pair}"
        for pair in ("other − ratio 0.75", "unit 16 px − other", "other − ratio 0.75")
        for name in ("class", "colour")
    ]
    assert (
        rows[0][2] == pytest.approx([0.06, 0.059, 0.058])
        and rows[3][2] == pytest.approx([-0.08, -0.082, -0.084])
        and rows[4][2] == rows[0][2]
    )
    for bad in (
        AtLeast("mean/class", ARMS[0], 0.1),
        Grows("mean/class", ARMS[0], ARMS[2], variant="long"),
    ):
        with pytest.raises(InputError, match="claim own compares .*two runs"):
            readout_differences(given_records, [own(bad)], ["class"])
    with pytest.raises(InputError, match="no result of r75-u16-p8-margin8"):
        readout_differences(given_records, [claim("S1")], ["class"])


@given(st.permutations(range(9)), st.lists(st.floats(-1, 1), min_size=9, max_size=9))
@settings(max_examples=25, deadline=None)
def test_the_order_of_records_says_nothing_and_swapped_arms_change_every_sign(order, values):
    own = lambda high, low: Claim(
        "own", "§3.6", "ours", "latents", "improvements", (Above("mean/class", high, low),)
    )
    made = [
        record | {"measures": {"mean/class": {"value": value}}}
        for record, value in zip(records(), values)
    ]
    shuffled = [made[k] for k in order]
    (forth,), (back,) = (
        readout_differences(shuffled, [own(*pair)], ["class"]) for pair in (ARMS[:2], ARMS[1::-1])
    )
    assert forth == readout_differences(made, [own(*ARMS[:2])], ["class"])[0] and forth[2] == [
        -difference for difference in back[2]
    ]
    by = {
        (record["run"], record["seed"]): record["measures"]["mean/class"]["value"]
        for record in made
    }
    assert forth[2] == [by[ARMS[0], seed] - by[ARMS[1], seed] for seed in range(3)]


def test_readouts_are_means_over_the_seeds_of_each_run():
    found = readouts(records(), ["colour", "class"])
    assert list(found) == ["colour", "class"] and set(found["colour"]) == set(ARMS)
    for arm, run in enumerate(ARMS):
        assert found["class"][run] == over_seeds([answer(arm, seed, "class") for seed in (2, 1, 0)])


def tree_records() -> list[dict]:
    """Two designs at ratio 0.5 and one of them at 0.25; level k of design d at seed s: 0.1 k + 0.02
    d + 0.01 s."""
    made = []
    for seed in (1, 0):
        for design, run in enumerate(("random-r50", "margin1-r50", "random-r25")):
            values = {
                f"{prefix}/level{k}": {"value": 0.1 * k + 0.02 * design + 0.01 * seed + shift}
                for prefix, shift in (("mean", 0), ("untrained", 0.4), ("pixels", 0.5))
                for k in range(3)
            }
            made.append(
                {
                    "name": f"{run}-s{seed}",
                    "run": run,
                    "seed": seed,
                    "measures": {
                        k: v | {"low": None, "high": None, "n": 9} for k, v in values.items()
                    },
                }
            )
    return made


def test_the_tree_worlds_table_puts_exact_levels_beside_what_is_read_out():
    one = Interval(0.25, 0.2, 0.3, 9)
    exact = {
        "random": MaskLevels(Interval(1.0, 1, 1, 9), one, one, Interval(1.0, 1, 1, 9)),
        "margin1": MaskLevels(Interval(2.004, 2, 3, 9), one, one, Interval(0.414, 0.4, 0.5, 9)),
    }
    table = tree_table(tree_records(), exact, ["margin1", "random"], levels=2)
    assert table.header == [
        "masks",
        "level of c",
        "hidden pixels that count",
        "seeds",
        "R² of level 2",
        "R² of level 1",
        "R² of level 0",
    ]
    assert [row[:4] for row in table.rows] == [
        ["margin1", "2.00", "41%", "2"],
        ["random", "1.00", "100%", "2"],
        ["first weights", "", "", ""],
        ["raw pixels", "", "", ""],
    ]
    # level 2, the highest, first; controls of the random masks
    assert [row[4].split(" ")[0] for row in table.rows] == ["0.225", "0.205", "0.605", "0.705"]
    assert [row[6].split(" ")[0] for row in table.rows] == ["0.025", "0.005", "0.405", "0.505"]
    assert table.rows[1][4] == format(over_seeds([0.2, 0.21]), ".3f")
    assert (
        tree_table(tree_records(), exact, ["random"], levels=2, ratio=0.25)
        .rows[0][4]
        .startswith("0.245")
    )
    with pytest.raises(InputError, match="no result of shifted2-r50"):
        tree_table(tree_records(), exact, ["random", "shifted2"], levels=2)


def timed(speed: float, time: float, memory: float, flops: float, against: str) -> dict:
    return {
        "visible_patches": round(flops / 1e6),
        "flops": flops,
        "images_a_second": speed,
        "kept_bytes_an_image": memory * 2**20,
        "against": against,
        "time": {"median": time, "low": time - 0.01, "high": time + 0.02},
    }


TIMED = {
    "r10": timed(500.4, 2.0, 1.2, 8e6, "r75"),
    "r75": timed(1000, 1.0, 0.5, 4e6, "r75"),
    "margin": timed(900, 1.25, 0.6, 4e6, "r75"),
    "coarse-margin": timed(800, 1.5, 0.7, 4e6, "coarse"),
}


def test_costs_are_ratios_to_the_right_baseline():
    table = cost_table(TIMED, {"with a margin": "margin", "coarse": "coarse-margin"})
    assert table.rows == [
        ["with a margin", "900", "1.25 [1.24, 1.27]", "unit 8 px", "0.60"],
        ["coarse", "800", "1.50 [1.49, 1.52]", "unit 16 px", "0.70"],
    ]
    with pytest.raises(InputError, match="r90 was not timed: choose of r10"):
        cost_table(TIMED, {"ratio 0.9": "r90"})


def test_a_ratios_cost_is_a_share_of_the_first():
    table = ratio_cost_table(TIMED, {"r10": 30.0, "r75": 12.0}, ["r10", "r75"])
    assert table.header[3] == "of ratio 0.1's"
    assert table.rows == [
        ["0.1", "8", "8", "1.00", "1.00", "500", "2.00 [1.99, 2.02]", "1.20"],
        ["0.75", "4", "4", "0.50", "0.40", "1000", "1.00 [0.99, 1.02]", "0.50"],
    ]
    assert ratio_cost_table(TIMED, {"r10": 30.0, "r75": 12.0}, ["r75", "r10"]).rows[1][3:5] == [
        "2.00",
        "2.50",
    ]


def test_minutes_are_of_a_familys_seeds():
    made = [
        {"name": f"{name}-s{seed}", "seconds": 60 * minutes}
        for name, seed, minutes in (
            ("r75-u8-p8-parts", 0, 2),
            ("r50", 0, 9),
            ("r75-u8-p8-parts", 12, 5),
            ("r75-u8-p8", 1, 4),
        )
    ]
    table = minutes_table(made, ["r75-u8-p8", "r75-u8-p8-parts"])
    assert table.rows == [
        ["r75-u8-p8-parts", "2", "3.5", "2.0", "5.0"],
        ["r75-u8-p8", "1", "4.0", "4.0", "4.0"],
    ]
