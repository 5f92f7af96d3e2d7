"""Chapter 13's figures and tables show the numbers that they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from mae_book.chapters.difference_figures import (
    agreement_table,
    beside,
    effect_panels,
    effect_table,
    paper_table,
)
from mae_book.chapters.differences import Effect
from mae_book.verdicts.claim import Claim
from mae_book.verdicts.comparisons import Above, Grows
from mae_book.verdicts.ledger import Decision, Entry
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def effect(
    measure: str, low: str, changed: float, outcome: str = "undecided", grows: bool = True
) -> Effect:
    sweep, there = Interval(0.1, 0.0, 0.2, 3), Interval(changed, changed - 0.1, changed + 0.1, 3)
    test = Grows(measure, "r75", low, "long") if grows else Above(measure, "r75", low)
    return Effect(
        "probe",
        test,
        sweep,
        there,
        Interval(changed - 0.1, changed - 0.2, changed, 3) if grows else there,
        outcome,
    )


FOUND = {
    "long": [
        effect("mean/validation", "r10", 0.4, "reproduced"),
        effect("mean/validation", "r90", 0.2),
        effect("mean/purity", "r10", 0.3),
        effect("mean/purity", "r90", 0.15),
    ],
    "wide": [
        effect("mean/validation", "r10", -0.3, "not reproduced"),
        effect("mean/validation", "r90", 0.12),
    ],
    "later": [],
}


def test_each_panel_shows_the_sweep_and_the_changes_that_were_run():
    figure = effect_panels(FOUND)
    axes = figure.axes
    assert len(axes) == 4 and [axis.get_title() for axis in axes[:2]] == [
        "probe accuracy",
        "purity",
    ]
    points = lambda axis: sorted(
        round(float(line.get_xdata()[0]), 3)
        for line in axis.lines
        if line.get_marker() in "os^" and len(line.get_xdata()) == 1
    )
    assert points(axes[0]) == [-0.3, 0.1, 0.4] and points(axes[3]) == [0.1, 0.15]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == [
        "the sweep",
        "long",
        "wide",
    ]
    with pytest.raises(InputError, match="no experiment to draw"):
        effect_panels({"later": []})


def test_the_table_says_what_decides():
    table = effect_table(
        FOUND | {"fresh": [effect("mean/validation", "r10", 0.4, "reproduced", grows=False)]}
    )
    assert [row[0] for row in table.rows if row[0]] == [
        "long: undecided",
        "wide: contradicted",
        "later: not run",
        "fresh: supported",
    ]
    assert table.rows[0][1:] == [
        "probe accuracy, over 0.1",
        "+0.100 [+0.000,\xa0+0.200]",
        "+0.400 [+0.300,\xa0+0.500]",
        "+0.300 [+0.200,\xa0+0.400] grows",
    ]
    assert [row[-1].split()[-1] for row in table.rows] == [
        "grows",
        "undecided",
        "undecided",
        "undecided",
        "shrinks",
        "undecided",
        "–",
        "above",
    ]


def test_measures_stand_over_the_prediction():
    predicted, values = (
        {"r10": 1.0, "r50": 1.2, "r90": 2.0},
        {run: {0: y, 1: y + 0.2} for run, y in (("r10", 0.3), ("r50", 0.5), ("r90", 0.4))},
    )
    figure = beside(predicted, {"a": values, "b": values}, list(predicted), "level")
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [1.0, 1.2, 2.0] and [
        round(y, 3) for y in line.get_ydata()
    ] == [0.4, 0.6, 0.5]
    assert {text.get_text() for text in figure.axes[1].texts} == {
        "0.1",
        "0.5",
        "0.9",
    } and figure.get_supxlabel() == "level"
    with pytest.raises(InputError, match="r75"):
        beside(predicted, {"a": values}, ["r10", "r75"], "level")
    table = agreement_table(
        {"a": {"ratio": Interval(0.5, 0.1, 0.9, 3), "size": Interval(-1, -1, -1, 3)}}
    )
    assert table.rows == [["a", "+0.50 [+0.10,\xa0+0.90]", "-1.00 [-1.00,\xa0-1.00]"]]


def test_the_papers_differences_stand_beside_ours_in_its_own_unit():
    claim = Claim(
        "T1r",
        "",
        "",
        "probe",
        "",
        (Above("mean/validation", "r75", "r10"), Above("mean/v2", "r75", "r10")),
        {"mean/validation": {"r10": 47.45, "r75": 67.41}},
    )
    bias = Claim(
        "T2s",
        "",
        "",
        "shape_bias",
        "",
        (Above("mean/bias", "r75", "r10"),),
        {"mean/bias": {"r10": 0.1352, "r75": 0.2563}},
    )
    rows = [
        Entry(
            each,
            Decision(
                each,
                "undecided",
                tuple((test, Interval(0.03, -0.1, 0.16, 3), "undecided") for test in each.tests),
            ),
            {},
            None,
        )
        for each in (claim, bias)
    ]
    assert paper_table(rows, ("mean/validation", "mean/v2", "mean/bias")).rows == [
        ["T1r", "probe accuracy: ratio 0.75 less ratio 0.1", "+19.96", "+3.00 [-10.00,\xa0+16.00]"],
        ["T2s", "shape bias: ratio 0.75 less ratio 0.1", "+0.121", "+0.030 [-0.100,\xa0+0.160]"],
    ]
