"""The test of an order: Kendall's τ by counting pairs, any monotone map, and what it says."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from mae_book.verdicts.comparisons import Ordered
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval

RUNS = ("a", "b", "c", "d", "e")


def tau(wanted, found) -> float:
    """By counting pairs; no ties."""
    signs = [
        math.copysign(1, (wanted[i] - wanted[j]) * (found[i] - found[j]))
        for i, j in itertools.combinations(range(len(wanted)), 2)
    ]
    return sum(signs) / len(signs)


def test_the_order_is_counted_pair_by_pair_and_a_monotone_map_changes_nothing():
    draw = random.Random(0)
    for _ in range(50):
        wanted, found = ([draw.random() for _ in RUNS] for _ in range(2))
        test = Ordered("m", dict(zip(RUNS, wanted)))
        one = test.difference({run: {0: v} for run, v in zip(RUNS, found)})
        assert one.value == pytest.approx(tau(wanted, found)) and one.n == 1
        bent = {run: {0: math.exp(5 * v) - 3} for run, v in zip(RUNS, found)}
        assert test.difference(bent).value == one.value


def test_seeds_are_taken_one_by_one_and_runs_must_share_them():
    test = Ordered("m", dict(zip(RUNS, range(5))))
    values = {run: {1: float(k), 2: float(-k), 3: 7.0} for k, run in enumerate(RUNS)}
    found = test.difference(values)
    assert (found.value, found.n) == (0.0, 3), "as predicted, the other way round, all alike"
    values["a"][4] = 0.0  # a seed that only one run has
    assert test.difference(values).n == 3
    with pytest.raises(InputError, match="no seed in common"):
        test.difference({run: {k: 0.0} for k, run in enumerate(RUNS)})


@pytest.mark.parametrize(
    "low, high, n, least, said",
    [
        (0.1, 0.9, 5, 0.0, "reproduced"),
        (0.1, 0.9, 5, 0.5, "undecided"),
        (-0.9, -0.1, 5, 0.0, "not reproduced"),
        (-0.1, 0.9, 5, 0.0, "undecided"),
        (0.5, 0.9, 2, 0.0, "undecided"),
    ],
)
def test_what_it_says(low, high, n, least, said):
    test = Ordered("m", dict(zip(RUNS, range(5))), least)
    assert test.outcome(Interval((low + high) / 2, low, high, n)) == said
    assert test.said() == f"m: ordered as a < b < c < d < e, τ above {least:g}"
