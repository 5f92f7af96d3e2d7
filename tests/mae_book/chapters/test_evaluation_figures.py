"""Drawings and tables of the evaluations show the numbers they were given, at any number of runs
and seeds."""

from __future__ import annotations

import math

import pytest

from looking import drawn  # noqa: F401 (renders and closes every figure)
from mae_book.chapters.evaluation_figures import (
    LABELS,
    TICKS,
    category_dots,
    decision_table,
    sweep_panels,
    sweep_table,
)
from mae_book.verdicts.claims import claim
from mae_book.verdicts.ledger import decide
from mae_lib.base.errors import InputError
from mae_lib.base.runs import RATIO_RUNS, RUNS, SIZE_RUNS

VALUES = {run: {seed: 0.1 * k + 0.01 * seed for seed in range(3)} for k, run in enumerate(RUNS)}


def as_records(values, measure: str) -> list[dict]:
    return [
        {
            "name": run,
            "run": run,
            "seed": seed,
            "measures": {measure: {"value": v, "low": v - 0.05, "high": v + 0.05, "n": 10}},
        }
        for run, seeds in values.items()
        for seed, v in seeds.items()
    ]


def test_panels_hold_both_halves_and_each_mean():
    figure = sweep_panels({"a": VALUES, "b": VALUES}, {"a": dict.fromkeys(RATIO_RUNS, 60.0)})
    panels = [axis for axis in figure.axes if axis.get_xlabel()]
    assert [axis.get_xlabel() for axis in panels] == [
        "masking ratio",
        "masking ratio",
        "mask unit",
        "mask unit",
    ]
    assert list(panels[0].containers[0].lines[0].get_ydata()) == pytest.approx(
        [0.1 * k + 0.01 for k in range(5)]
    )
    assert list(panels[2].containers[0].lines[0].get_ydata()) == pytest.approx(
        [0.1 * k + 0.01 for k in range(5, 8)]
    )
    assert [label.get_text() for label in panels[0].get_xticklabels()] == [
        TICKS[run] for run in RATIO_RUNS
    ]
    others = [axis for axis in figure.axes if not axis.get_xlabel()]
    # the paper's points, on their own axis
    assert len(others) == 1 and list(others[0].lines[0].get_ydata()) == [60.0] * 5


def test_panels_of_one_half_and_of_single_seeds():
    assert len(sweep_panels({"a": {run: {0: 0.5} for run in SIZE_RUNS}}).axes) == 1
    assert len(sweep_panels({"a": {"r10": {0: 0.5}, "r75": {0: 0.4, 1: 0.6}}}).axes) == 1
    with pytest.raises(InputError, match="no runs"):
        sweep_panels({"a": {}})


def test_a_table_has_a_row_a_run_and_the_papers_number_beside():
    table = sweep_table(as_records(VALUES, "m"), ["m"], ["title"], ".2f", {"m": {"r75": 67.41}})
    assert [row[0] for row in table.rows] == [LABELS[run] for run in RUNS] and table.header == [
        "run",
        "seeds",
        "title",
    ]
    assert (
        table.rows[0][2].startswith("0.01 [")
        and table.rows[3][2].endswith("(paper\N{NO-BREAK SPACE}67.41)")
        and table.rows[0][1] == "3"
    )


def test_a_single_seed_shows_its_interval_over_images():
    table = sweep_table(as_records({"r10": {0: 0.5}}, "m"), ["m"], ["title"], ".2f")
    assert table.rows == [["ratio 0.1", "1", "0.50 [0.45,\N{NO-BREAK SPACE}0.55]"]]


def test_verdicts_name_the_runs_in_words():
    rows = decision_table(
        [decide(claim("F8a"), as_records(VALUES, "mean/purity")), decide(claim("T1r"), [])]
    ).rows
    assert (
        rows[0][:3] == ["F8a", "not reproduced", "mean/purity: ratio 0.25 above ratio 0.1"]
        and rows[1][0] == ""
    )
    assert (
        rows[3][2] == "mean/purity: ratio 0.75 and ratio 0.9 differ by < 0.02"
        and rows[3][4] == "not reproduced"
    )
    assert rows[4][:2] == ["T1r", "not attempted"]


def test_runs_beyond_the_sweep_are_chosen_by_name_and_ordered_as_asked():
    values = {
        "r75": {0: 0.5},
        "r75-u8-p8-parts": {0: 0.6},
        "r75-u8-p8-groups5": {0: 0.4},
        "r10": {0: 0.1},
    }
    table = sweep_table(
        as_records(values, "m"),
        ["m"],
        ["title"],
        ".1f",
        runs=["r75-u8-p8-groups5", "r75-u8-p8-parts", "r75", "r50"],
    )
    assert [row[0] for row in table.rows] == ["r75-u8-p8-groups5", "parts", "ratio 0.75"]
    found = {run: {seed: v[0] + 0.01 * seed for seed in range(3)} for run, v in values.items()}
    (row,) = decision_table([decide(claim("S2"), as_records(found, "mean/class"))]).rows
    assert row[:3] == ["S2", "reproduced", "mean/class: parts above ratio 0.75"]


def test_dots_stand_at_their_values_sorted_by_the_mean():
    figure = category_dots(
        {"one": {"a": 0.9, "b": 0.2}, "two": {"a": 0.7, "b": math.nan, "c": 0.4}},
        {"one": 0.6, "two": math.nan},
        {"humans": 0.959},
    )
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["b", "c", "a"]
    dots = {
        line.get_label(): line.get_xydata().tolist()
        for line in axis.lines
        if line.get_marker() != "None"
    }
    assert dots == {"one": [[0.2, 0], [0.9, 2]], "two": [[0.4, 1], [0.7, 2]]}
    assert [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "None"] == [
        0.6,
        0.959,
    ]
    assert [text.get_text() for text in axis.texts] == ["humans"]
    category_dots({"never decided": {"a": math.nan}})
    for nothing in ({}, {"a": {}}):
        with pytest.raises(InputError, match="no categories"):
            category_dots(nothing)
