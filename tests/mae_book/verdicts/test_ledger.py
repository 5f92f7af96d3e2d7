"""The ledger's verdicts on made-up results of which the answer is known, and the tests it holds
against the claims they decide."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mae_book.verdicts.claim import Claim
from mae_book.verdicts.claims import CLAIMS, claim
from mae_book.verdicts.comparisons import SEEDS, Above, Alike, AtLeast, Grows, NotBelow
from mae_book.verdicts.further_claims import REAL
from mae_book.verdicts.ledger import by_run, decide, seeds_needed, spreads, under
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, over_seeds
from mae_lib.base.runs import RATIO_RUNS, RUNS, SIZE_RUNS
from mae_lib.training.tiers import TIERS, run_name, tier

PEAK = Claim(
    "T1r", "", "", "probe", "", tuple(Above("accuracy", "r75", other) for other in ("r10", "r90"))
)


def records(values: dict[str, list[float]], measure: str = "accuracy") -> list[dict]:
    """One record a run and seed."""
    return [
        {
            "name": f"{run}-s{seed}",
            "run": run,
            "seed": seed,
            "measures": {measure: {"value": value}},
        }
        for run, numbers in values.items()
        for seed, value in enumerate(numbers)
    ]


@pytest.mark.parametrize(
    ("r75", "r90", "verdict"),
    [
        ([0.60, 0.61, 0.62], [0.50, 0.51, 0.53], "reproduced"),
        ([0.60, 0.61, 0.62], [0.70, 0.71, 0.73], "not reproduced"),
        ([0.60, 0.61, 0.62], [0.55, 0.63, 0.58], "undecided"),
        ([0.60, 0.61], [0.50, 0.51], "undecided"),  # two seeds are too few, however clear
    ],
)
def test_verdicts(r75, r90, verdict):
    assert (
        decide(PEAK, records({"r10": [0.4] * len(r75), "r75": r75, "r90": r90})).verdict == verdict
    )


def test_runs_that_a_test_does_not_name_need_not_have_its_measure():
    rows = records({"r10": [0.4] * 3, "r75": [0.6] * 3, "r90": [0.5] * 3}) + records(
        {"other": [1.0] * 3}, "share"
    )
    assert decide(PEAK, rows).verdict == "reproduced"


def test_one_test_the_wrong_way_round_outweighs_all_that_came_out():
    decision = decide(
        PEAK, records({"r10": [0.1, 0.1, 0.1], "r75": [0.6, 0.6, 0.6], "r90": [0.61, 0.61, 0.61]})
    )
    assert decision.verdict == "not reproduced" and [
        outcome for _, _, outcome in decision.rows
    ] == ["reproduced", "not reproduced"]


def test_differences_are_paired_by_seed():
    """Seeds that differ much, runs that differ little but always alike: unpaired intervals would
    overlap."""
    found = decide(
        PEAK,
        records({"r10": [0.1, 0.4, 0.7], "r75": [0.15, 0.46, 0.75], "r90": [0.12, 0.42, 0.71]}),
    )
    assert found.verdict == "reproduced"
    assert found.rows[0][1].value == pytest.approx((0.05 + 0.06 + 0.05) / 3)


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [
        ([0.05, 0.1, 0.07], "reproduced"),
        ([-0.001, -0.006, 0.002], "reproduced"),
        ([-0.05, -0.051, -0.052], "not reproduced"),
        ([-0.02, 0.01, -0.03], "undecided"),
    ],
)
def test_not_below_means_the_whole_interval_above_minus_the_margin(differences, outcome):
    test = NotBelow("accuracy", "r90", "r10", margin=0.02)
    rows = records({"r90": [0.5 + d for d in differences], "r10": [0.5] * 3})
    assert decide(replace(PEAK, tests=(test,)), rows).rows[0][2] == outcome
    assert (
        decide(replace(PEAK, tests=(test,)), records({"r90": [0.9] * 2, "r10": [0.5] * 2})).rows[0][
            2
        ]
        == "undecided"
    )


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [
        ([0.001, -0.001, 0.002], "reproduced"),
        ([0.05, 0.051, 0.052], "not reproduced"),
        ([-0.05, -0.051, -0.052], "not reproduced"),
        ([0.0, 0.03, -0.03], "undecided"),
    ],
)
def test_alike_means_the_whole_interval_within_the_margin(differences, outcome):
    test = Alike("accuracy", "r75", "r90", margin=0.02)
    rows = records({"r75": [0.5 + d for d in differences], "r90": [0.5] * 3})
    assert decide(replace(PEAK, tests=(test,)), rows).rows[0][2] == outcome


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([1.0, 1.0, 1.0], "reproduced"),
        ([0.95, 0.96, 0.97], "not reproduced"),
        ([0.999, 1.0, 1.0], "undecided"),
        ([1.0, 1.0], "undecided"),
    ],
)
def test_at_least_means_the_whole_interval(values, outcome):
    assert (
        decide(
            replace(PEAK, tests=(AtLeast("accuracy", "r75", 1.0),)), records({"r75": values})
        ).rows[0][2]
        == outcome
    )


@pytest.mark.parametrize(
    ("there", "outcome"),
    [
        ([0.30, 0.31, 0.32], "reproduced"),
        ([0.00, 0.01, 0.02], "not reproduced"),
        ([0.10, 0.11, 0.12], "undecided"),
        ([0.3, 0.3], "undecided"),
    ],
)
def test_a_difference_grows_where_it_is_larger_under_the_variant(there, outcome):
    """0.1 in the sweep itself; what all runs gain alike explains nothing."""
    test = Grows("accuracy", "r75", "r10", "long")
    rows = records(
        {
            "r75": [0.5] * 3,
            "r10": [0.4] * 3,
            "r75@long": [0.5 + d for d in there],
            "r10@long": [0.5] * len(there),
        }
    )
    assert decide(replace(PEAK, tests=(test,)), rows).rows[0][2] == outcome
    both = records(
        {
            "r75": [0.5, 0.6, 0.7],
            "r10": [0.4, 0.5, 0.6],
            "r75@long": [0.7, 0.8, 0.9],
            "r10@long": [0.6, 0.7, 0.8],
        }
    )
    found = decide(replace(PEAK, tests=(test,)), both).rows[0][1]
    assert found.value == pytest.approx(0) and found.n == 3


def test_no_records_no_attempt_and_missing_runs_are_named():
    assert decide(PEAK, []).verdict == "not attempted"
    with pytest.raises(InputError, match="r10"):
        decide(PEAK, records({"r75": [0.5] * 3, "r90": [0.4] * 3}))
    with pytest.raises(InputError, match="no measure 'accuracy'"):
        by_run(records({"r75": [0.5]}, "other"), "accuracy")
    with pytest.raises(InputError, match="two results"):
        by_run(records({"r75": [0.5]}) * 2, "accuracy")
    with pytest.raises(InputError, match="no seed in common"):
        Above("m", "a", "b").difference({"a": {0: 1.0}, "b": {1: 1.0}})
    with pytest.raises(InputError, match="T2s"):
        claim("T9")


def test_every_test_compares_runs_of_one_half_of_the_sweep_or_of_one_patch():
    """The halves differ in the ViT patch, and a difference between them would not be the mask's
    alone."""
    own = RATIO_RUNS + ("scratch",)
    for each in CLAIMS.values():
        assert each.tests, each.id
        for test in each.tests if each.data else ():
            # the laptop tier's patch in the ratio sweep
            designed = {run for run in (test.high, test.low) if "-p8" in run}
            assert {test.high, test.low} - designed <= set(own) or {test.high, test.low} <= set(
                SIZE_RUNS
            ), each.id
            assert test.high != test.low
        for measure, numbers in each.paper.items():
            assert set(numbers) <= set(RUNS) and measure in {test.measure for test in each.tests}


def test_the_papers_own_numbers_pass_the_tests_of_its_claims():
    """With no spread, Tables 1 to 3 must come out: a test turned round would not."""
    for identity in ("T1r", "T1v", "T1p", "T2s", "T3"):
        each = claim(identity)
        by_seed = {
            run: {
                measure: numbers[run] for measure, numbers in each.paper.items() if run in numbers
            }
            for run in RUNS
        }
        rows = [
            {
                "name": run,
                "run": run,
                "seed": seed,
                "measures": {measure: {"value": value} for measure, value in by_seed[run].items()},
            }
            for run in RUNS
            if by_seed[run]
            for seed in range(SEEDS)
        ]
        assert decide(each, rows).verdict == "reproduced", identity


def test_on_photographs_the_same_runs_are_compared():
    for identity, each in REAL.items():
        own = CLAIMS[identity]
        assert each.data != own.data and {test.runs for test in each.tests} == {
            test.runs for test in own.tests
        }
        assert {type(test) for test in each.tests} == {type(test) for test in own.tests}
    assert len(REAL["T1v"].tests) == 3 * 4 and len(REAL["T1p"].tests) == 2


@pytest.mark.parametrize("name", list(TIERS))
def test_each_pretraining_of_a_tier_has_its_place_in_the_sweep(name):
    data = {"kind": "folder"}
    for sizes in (tier(name), tier(name).at(2 * tier(name).model.image_size[0])):
        configs = [config for half in sizes.sweep(data).values() for config in half]
        assert [run_name(config, name) for config in configs] == list(RUNS)
    for other in ({"ratio": 0.6}, {"margin": 2}):  # a mask of another design is not the ratio's run
        with pytest.raises(InputError, match="none of the eight"):
            run_name(tier(name).config(data, **other), name)


@pytest.mark.parametrize("name", list(TIERS))
def test_a_tier_at_another_image_size_keeps_its_tokens_and_masks(name):
    own = tier(name)
    other = own.at(own.model.image_size[0] * 2)
    for half in ("ratio", "size"):
        for before, after in zip(own.sweep({})[half], other.sweep({})[half]):
            assert (
                before.mask == after.mask
                and before.model.grid == after.model.grid
                and after.model.patch == 2 * before.model.patch
            )
    assert own.at(own.model.image_size[0]) == own
    with pytest.raises(InputError, match="whole pixels"):
        own.at(own.model.image_size[0] + 1)


def test_a_claim_under_another_protocol_differs_in_nothing_else() -> None:
    for identity in ("F5a", "F5b", "F5c"):
        own = claim(identity)
        assert under(own, "readout") == own
        other = under(own, "masked")
        assert [t.measure for t in other.tests] == [
            t.measure.replace("readout/", "masked/") for t in own.tests
        ]
        assert under(other, "readout") == own


def test_spreads_tell_the_mask_from_the_seed() -> None:
    means, offsets = {"r10": 1.0, "r50": 4.0, "r90": 7.0}, {0: -0.5, 1: 0.0, 2: 0.5}
    between, within = spreads(
        {
            run: {seed: mean + offset for seed, offset in offsets.items()}
            for run, mean in means.items()
        }
    )
    assert between == pytest.approx(3) and within == pytest.approx(0.5)
    noisy = spreads({"r10": {0: 0.0, 1: 2.0}, "r90": {0: 0.0, 1: 14.0}})
    assert noisy == pytest.approx((np.std([1, 7], ddof=1), math.sqrt((2 + 98) / 2)))
    for few in ({"r10": {0: 1.0, 1: 2.0}}, {"r10": {0: 1.0}, "r90": {0: 1.0, 1: 2.0}}):
        with pytest.raises(InputError, match="at least two runs, each of at least two seeds"):
            spreads(few)


@pytest.mark.parametrize("mean", [-9.0, 3.0, 1.0, 0.4, -0.1])
def test_the_seeds_needed_are_the_first_that_decide(mean: float) -> None:
    def found(n: int) -> Interval:
        x = np.arange(n, dtype=float)
        return over_seeds(mean + (x - x.mean()) / x.std(ddof=1))  # the given mean, deviation 1

    needed = seeds_needed(found(3))
    assert needed == seeds_needed(found(5)), "from whatever number it is judged"
    decides = [not found(n).low <= 0 <= found(n).high for n in (needed - 1, needed)]
    assert decides[1] and (needed == 3 or not decides[0])
    assert needed > 3 or abs(mean) > 2


def test_seeds_needed_of_nothing_are_refused() -> None:
    for difference in (over_seeds([1.0]), over_seeds([-1.0, 0.0, 1.0])):
        with pytest.raises(InputError, match="no number of seeds follows"):
            seeds_needed(difference)
