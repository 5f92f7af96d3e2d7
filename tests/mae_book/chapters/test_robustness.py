"""Curves against the severity of a shift: every number of the records, in its place."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from mae_book.chapters.separability import severity_curves, severity_panels, severity_table
from mae_lib.base.errors import InputError
from mae_lib.worlds.graded import GRADED, SEVERITIES


def record(run: str, seed: int, **measures: float) -> dict:
    return {
        "name": f"{run}-s{seed}",
        "run": run,
        "seed": seed,
        "measures": {name: {"value": value} for name, value in measures.items()},
    }


def graded(run: str, seed: int) -> dict:
    """Accuracies that tell the run, the set and the severity."""
    base = int(run[1:]) / 100 + seed / 1000
    return record(
        run,
        seed,
        **{f"mean/{s}-{k}": base + i / 100 for i, s in enumerate(GRADED) for k in SEVERITIES},
        **{f"mean/{s}": base + i / 100 for i, s in enumerate(GRADED)},
    )


RECORDS = [graded(run, seed) for run in ("r10", "r75") for seed in (3, 4)]
PROBES = [
    record(run, seed, **{"mean/validation": 0.9}) for run in ("r10", "r75") for seed in (3, 5)
]


def test_validation_of_the_same_seeds_stands_in_front():
    curves = severity_curves(RECORDS, PROBES)
    assert list(curves) == list(GRADED) and list(curves["sketch"]) == ["r10", "r75"]
    first, *rest = curves["viewpoint"]["r75"]
    assert (first.value, first.n) == (0.9, 1) and len(rest) == len(SEVERITIES)
    assert all(found.n == 2 and found.value == pytest.approx(0.7535) for found in rest)


def test_the_figure_has_a_panel_a_set_and_a_line_a_ratio():
    figure = severity_panels(severity_curves(RECORDS), chance=0.1)
    for axis, name in zip(figure.axes, GRADED, strict=True):
        assert axis.get_title() == name and len(axis.containers) == 2
        assert [round(x) for x in axis.containers[0].lines[0].get_xdata()] == list(SEVERITIES)
    plt.close(figure)


def test_the_table_has_the_mean_over_severities():
    table = severity_table(RECORDS)
    assert [row[:2] for row in table.rows] == [["ratio 0.1", "2"], ["ratio 0.75", "2"]]
    assert table.rows[1][2].startswith("0.753") or table.rows[1][2].startswith("0.754")


def test_a_record_without_severities_is_named():
    with pytest.raises(InputError, match="r10-s3 has no measure 'mean/viewpoint-1'"):
        severity_curves([record("r10", 3, other=1.0)])
