"""Intervals: Student's t over seeds and the bootstrap over images, against scipy and against their
own coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, bootstrap, over_seeds


def test_over_seeds_is_scipys_t_interval():
    values = [0.41, 0.47, 0.39, 0.44]
    found = over_seeds(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.value, found.low, found.high, found.n) == (
        pytest.approx(np.mean(values)),
        pytest.approx(low),
        pytest.approx(high),
        4,
    )


def test_an_interval_is_written_without_a_break_inside_its_brackets():
    assert format(Interval(0.5, 0.25, 0.75, 9), ".2f") == "0.50 [0.25,\N{NO-BREAK SPACE}0.75]"


def test_one_seed_has_no_interval_and_equal_seeds_none_to_speak_of():
    assert math.isnan(over_seeds([0.3]).low) and format(over_seeds([0.3]), ".2f") == "0.30"
    assert over_seeds([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5, 3)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(200):
        found = bootstrap(torch.randn(60, generator=generator), draws=300, seed=seed)
        covered += found.low <= 0 <= found.high
    assert 0.90 <= covered / 200 <= 0.985


def test_the_bootstrap_of_a_mean_agrees_with_scipys():
    values = torch.rand(150, generator=torch.Generator().manual_seed(1)).double()
    found = bootstrap(values, draws=4000)
    theirs = stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=4000, method="percentile", rng=0
    ).confidence_interval
    assert (
        found.value == pytest.approx(float(values.mean()))
        and found.low == pytest.approx(theirs.low, abs=4e-3)
        and found.high == pytest.approx(theirs.high, abs=4e-3)
    )


def test_a_ratio_without_denominator_in_some_resamplings_or_all():
    ratio = lambda rows: rows[..., 0].sum(1) / rows.sum((1, 2))
    few = torch.zeros(8, 2)
    few[0, 0] = 1
    found = bootstrap(few, ratio)
    # resamplings without the one stimulus are left out
    assert found.value == 1 and found.low == found.high == 1
    nothing = bootstrap(torch.zeros(8, 2), ratio)
    assert (
        math.isnan(nothing.value)
        and math.isnan(nothing.low)
        and format(nothing, ".2f") == "undefined"
    )


def test_the_same_seed_gives_the_same_interval():
    values = torch.rand(40, generator=torch.Generator().manual_seed(2))
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3) != bootstrap(values, seed=4)


@pytest.mark.parametrize(
    "values",
    [torch.empty(0), torch.tensor([1.0, math.nan]), torch.tensor(1.0)],
    ids=["none", "nan", "scalar"],
)
def test_what_has_no_interval_is_refused(values):
    with pytest.raises(InputError, match="finite values"):
        bootstrap(values)


def test_seeds_must_be_finite():
    for values in ([], [0.1, math.inf]):
        with pytest.raises(InputError, match="finite values"):
            over_seeds(values)


def test_json_round_trip_keeps_what_is_undefined():
    for interval in (Interval(0.5, 0.4, 0.6, 9), Interval(math.nan, math.nan, math.nan, 1)):
        assert str(Interval.from_dict(interval.to_dict())) == str(interval) and None not in {
            interval.to_dict()["n"]
        }
    assert Interval(math.nan, math.nan, math.nan, 1).to_dict()["value"] is None
