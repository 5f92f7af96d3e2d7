"""Curves at each length of training: whole seeds only, each number in its place, and the paper's on
the same axis."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import pytest

from mae_book.chapters import why_75
from mae_book.chapters.evaluation_figures import length_panels, length_table
from mae_book.chapters.why_75 import FIRST, by_length
from mae_book.verdicts import results
from mae_lib.base.runs import RATIO_RUNS


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Five ratios of seeds 0 and 1 at the first length; at the second seed 3, and one run of 4."""
    for module in (results, why_75):
        monkeypatch.setattr(module, "results_directory", lambda: tmp_path)
    for data, seed, runs, add in (
        ("world", 0, RATIO_RUNS, 0.0),
        ("world", 1, RATIO_RUNS, 0.02),
        ("world-9600x16", 3, RATIO_RUNS, 0.3),
        ("world-9600x16", 4, RATIO_RUNS[:1], 0.3),
    ):
        folder = tmp_path / "probe" / data
        folder.mkdir(parents=True, exist_ok=True)
        for run in runs:
            value = int(run[1:]) / 1000 + 0.5 + add
            record = {
                "name": f"{run}-s{seed}",
                "run": run,
                "seed": seed,
                "measures": {"mean/validation": {"value": value}},
            }
            (folder / f"{run}-s{seed}.json").write_text(json.dumps(record))
    return by_length("probe", "mean/validation")


def test_only_whole_seeds_count_and_empty_lengths_are_left_out(made_up):
    assert {
        length: {run: sorted(seeds) for run, seeds in runs.items()}
        for length, runs in made_up.items()
    } == {
        FIRST: {key: [0, 1] for key in RATIO_RUNS},
        "9,600 × 16": {key: [3] for key in RATIO_RUNS},
    }


def test_table_and_figure_hold_the_means_and_the_paper(made_up):
    rows = length_table(made_up).rows
    assert [row[:2] for row in rows] == [[FIRST, "2"], ["9,600 × 16", "1"]]
    assert rows[0][3].startswith("0.535") and rows[1][3].startswith("0.825")
    theirs = dict(zip(RATIO_RUNS, (0.1, 0.2, 0.3, 0.4, 0.35)))
    figure = length_panels({"probe": made_up}, {"probe": theirs})
    (axis,) = figure.axes
    means = [container.lines[0].get_ydata().tolist() for container in axis.containers]
    assert means[0] == pytest.approx([0.52, 0.535, 0.56, 0.585, 0.6])
    drawn = [line.get_ydata() for line in axis.lines if line.get_label() == "the paper"]
    assert list(drawn[0]) == list(theirs.values())
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["the paper", f"{FIRST}, 2 seeds", "9,600 × 16, 1 seed"]
    plt.close(figure)
