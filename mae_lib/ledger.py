"""From the results of the sweep to verdicts: what each claim's tests say of the records in `results/`. Nothing here is typed: a verdict is
computed when it is asked for.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from scipy import stats

from mae_lib.claims import CLAIMS, RATIO_RUNS, RUNS, SIZE_RUNS, Claim, claim
from mae_lib.comparisons import SEEDS, Comparison, Verdict
from mae_lib.errors import InputError
from mae_lib.intervals import LEVEL, Interval
from mae_lib.tiers import PretrainConfig, tier


@dataclass(frozen=True)
class Decision:
    """A claim's verdict, and for each of its tests the difference with its interval over seeds and what it says alone."""

    claim: Claim
    verdict: Verdict
    rows: tuple[tuple[Comparison, Interval, Verdict], ...]


def run_name(config: PretrainConfig, tier_name: str) -> str:
    """A pretraining's place in the sweep of its tier, one of `RUNS`. InputError if it is none of the eight."""
    sizes = tier(tier_name).at(config.model.image_size[0])
    if config.design != "random" or config.margin:
        raise InputError(f"{config.name} is none of the eight pretrainings: its masks are of another design")
    if config.model.patch == sizes.small_patch and config.unit in sizes.units and config.ratio == 0.75:
        return SIZE_RUNS[sizes.units.index(config.unit)]
    name = f"r{round(config.ratio * 100)}"
    if config.model.patch == config.unit == sizes.model.patch and name in RATIO_RUNS:
        return name
    raise InputError(f"{config.name} is none of the eight pretrainings of tier {tier_name}")


def by_run(records: Iterable[dict], measure: str) -> dict[str, dict[int, float]]:
    """run → seed → value of one measure. InputError where a record lacks it, or two records are of the same run and seed."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        if measure not in record["measures"]:
            raise InputError(f"the result of {record['name']} has no measure {measure!r}: it has {', '.join(record['measures'])}")
        seeds = found.setdefault(record["run"], {})
        if record["seed"] in seeds:
            raise InputError(f"two results are of run {record['run']}, seed {record['seed']}: delete the older one")
        seeds[record["seed"]] = record["measures"][measure]["value"]
    return found


def decide(claim: Claim, records: Sequence[dict]) -> Decision:
    """The verdict on a claim from the records of `results/KIND/DATA` (see :mod:`mae_lib.evaluate`).

    *Reproduced*: every test comes out. *Not reproduced*: at least one test comes out the other way round, its whole interval on the wrong
    side. *Undecided*: neither, for instance with fewer than three seeds. *Not attempted*: there are no records.
    """
    if not records:
        return Decision(claim, "not attempted", ())
    rows = []
    for test in claim.tests:
        values = by_run(records, test.measure)
        if missing := set(test.runs) - values.keys():
            raise InputError(f"claim {claim.id} needs {', '.join(test.runs)}, and there is no result of {', '.join(sorted(missing))}: evaluate it")
        found = test.difference(values)
        rows.append((test, found, test.outcome(found)))
    outcomes = {outcome for _, _, outcome in rows}
    verdict: Verdict = "not reproduced" if "not reproduced" in outcomes else "undecided" if "undecided" in outcomes else "reproduced"
    return Decision(claim, verdict, tuple(rows))


def under(claim: Claim, prefix: str) -> Claim:
    """The same tests on measures of another prefix (another protocol, control or pooling): what these would have decided."""
    return replace(claim, tests=tuple(replace(test, measure=f"{prefix}/{test.measure.partition('/')[2]}") for test in claim.tests))


def spreads(values: Mapping[str, Mapping[int, float]]) -> tuple[float, float]:
    """How far a measure moves with the mask, and how far with the seed alone.

    Args:
        values: run → seed → value, as :func:`by_run` gives, at least two runs of at least two seeds each.

    Returns:
        the standard deviation of the runs' means over seeds, and the one over seeds within a run (root of the mean variance).
    """
    if len(values) < 2 or any(len(seeds) < 2 for seeds in values.values()):
        raise InputError("a spread needs at least two runs, each of at least two seeds")
    runs = [list(seeds.values()) for seeds in values.values()]
    return statistics.stdev(map(statistics.fmean, runs)), math.sqrt(statistics.fmean(map(statistics.variance, runs)))


def seeds_needed(difference: Interval) -> int:
    """From how many seeds on (at least `SEEDS`) a mean difference would be told from 0, if mean and deviation stayed as found.

    Args:
        difference: of :func:`mae_lib.intervals.over_seeds`, from at least two seeds. InputError without an interval or where the mean is 0.
    """
    if difference.value == 0 or not math.isfinite(difference.low):
        raise InputError(f"no number of seeds follows from {difference}: give a difference other than 0 with its interval")

    def half(n: int) -> float:  # of the interval, in standard deviations
        return float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) / math.sqrt(n)

    deviation = (difference.high - difference.value) / half(difference.n)
    return bisect.bisect_left(range(10**9), True, lo=SEEDS, key=lambda n: half(n) * deviation < abs(difference.value))
