"""The tests that decide: one comparison of runs on one measure, over seeds, with its 95 % interval,
and what it says. A claim of the ledger holds one or more of them (`mae_book.verdicts.claims`); so
does an experiment on why we differ from the paper (`mae_book.sweep.experiments`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from scipy import stats

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, over_seeds

SEEDS = 3
"""The least number of seeds that a verdict needs."""

Verdict = Literal["reproduced", "not reproduced", "undecided", "not attempted"]
Values = Mapping[str, Mapping[int, float]]
"""run → seed → value of one measure."""


class Comparison(Protocol):
    """What every test has: the measure, the runs that it needs, the number it looks at, and what
    that number says."""

    @property
    def measure(self) -> str:
        """What is compared, as records call it."""

    @property
    def runs(self) -> tuple[str, ...]:
        """Every run that must have been evaluated."""

    def difference(self, values: Values) -> Interval:
        """The number with its interval over the seeds that all runs have; InputError if they have
        none in common."""

    def outcome(self, found: Interval) -> Verdict:
        """What it says; undecided from fewer than `SEEDS` seeds."""

    def said(self, label: Callable[[str], str] = str) -> str:
        """The test in words; ``label`` writes a run."""


def _common(values: Values, runs: tuple[str, ...]) -> list[int]:
    seeds = sorted(set.intersection(*(set(values[run]) for run in runs)))
    if not seeds:
        raise InputError(
            f"the runs {' and '.join(runs)} have no seed in common: evaluate all with the same"
            " seeds"
        )
    return seeds


@dataclass(frozen=True)
class Above:
    """``measure`` is larger for the run ``high`` than for ``low``: the mean difference over seeds,
    paired by seed, is above 0 with its interval."""

    measure: str
    high: str
    low: str

    @property
    def runs(self) -> tuple[str, ...]:
        return self.high, self.low

    def difference(self, values: Values) -> Interval:
        return over_seeds(
            [values[self.high][s] - values[self.low][s] for s in _common(values, self.runs)]
        )

    def outcome(self, found: Interval) -> Verdict:
        if found.n < SEEDS:
            return "undecided"
        return (
            "reproduced" if found.low > 0 else "not reproduced" if found.high < 0 else "undecided"
        )

    def said(self, label: Callable[[str], str] = str) -> str:
        return f"{self.measure}: {label(self.high)} above {label(self.low)}"


@dataclass(frozen=True)
class Alike(Above):
    """``measure`` differs by no more than ``margin`` between the two runs: reproduced if the whole
    interval lies within, not if all lies outside."""

    margin: float = 0.0

    def outcome(self, found: Interval) -> Verdict:
        if found.n < SEEDS:
            return "undecided"
        if -self.margin < found.low and found.high < self.margin:
            return "reproduced"
        return (
            "not reproduced"
            if found.low > self.margin or found.high < -self.margin
            else "undecided"
        )

    def said(self, label: Callable[[str], str] = str) -> str:
        return (
            f"{self.measure}: {label(self.high)} and {label(self.low)} differ by < {self.margin:g}"
        )


@dataclass(frozen=True)
class NotBelow(Alike):
    """``measure`` of the run ``high`` is at most ``margin`` lower than that of ``low``: reproduced
    if the whole interval is above −margin, not if all is below."""

    def outcome(self, found: Interval) -> Verdict:
        if found.n < SEEDS:
            return "undecided"
        return (
            "reproduced"
            if found.low > -self.margin
            else "not reproduced"
            if found.high < -self.margin
            else "undecided"
        )

    def said(self, label: Callable[[str], str] = str) -> str:
        return f"{self.measure}: {label(self.high)} at most {self.margin:g} below {label(self.low)}"


@dataclass(frozen=True)
class Grows(Above):
    """The difference high − low is larger under a ``variant`` of the sweep than in the sweep
    itself: a difference of differences, paired by seed. The variant's runs are called
    ``RUN@VARIANT``, as `mae_book.chapters.differences.as_variant` names them.
    """

    variant: str = ""

    @property
    def runs(self) -> tuple[str, ...]:
        return self.high, self.low, f"{self.high}@{self.variant}", f"{self.low}@{self.variant}"

    def difference(self, values: Values) -> Interval:
        high, low, high_there, low_there = (values[run] for run in self.runs)
        return over_seeds(
            [high_there[s] - low_there[s] - (high[s] - low[s]) for s in _common(values, self.runs)]
        )

    def said(self, label: Callable[[str], str] = str) -> str:
        return (
            f"{self.measure}: {label(self.high)} less {label(self.low)} is larger with"
            f" {self.variant}"
        )


@dataclass(frozen=True)
class AtLeast:
    """``measure`` of one run is ``least`` or more: reproduced if its whole interval is, not if all
    of it is below."""

    measure: str
    run: str
    least: float

    @property
    def runs(self) -> tuple[str, ...]:
        return (self.run,)

    def difference(self, values: Values) -> Interval:
        """The measure itself."""
        return over_seeds(list(values[self.run].values()))

    def outcome(self, found: Interval) -> Verdict:
        if found.n < SEEDS:
            return "undecided"
        return (
            "reproduced"
            if found.low >= self.least
            else "not reproduced"
            if found.high < self.least
            else "undecided"
        )

    def said(self, label: Callable[[str], str] = str) -> str:
        return f"{self.measure}: {label(self.run)} at least {self.least:g}"


@dataclass(frozen=True)
class Ordered:
    """``measure`` orders the runs as a prediction does, whatever the scales: Kendall's τ between
    the predicted values and the measured ones, seed by seed, is above ``least`` in the mean with
    its interval; not reproduced if the whole interval is below. A monotone map changes nothing.

    Attributes:
        predicted: run → predicted value, of at least three runs.
    """

    measure: str
    predicted: Mapping[str, float]
    least: float = 0.0

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(self.predicted)

    def difference(self, values: Values) -> Interval:
        """τ, in [−1, 1]; 0 where a seed gives the same number for every run."""
        wanted = list(self.predicted.values())
        found = [
            stats.kendalltau(wanted, [values[run][seed] for run in self.runs]).statistic
            for seed in _common(values, self.runs)
        ]
        return over_seeds([0.0 if math.isnan(one) else float(one) for one in found])

    def outcome(self, found: Interval) -> Verdict:
        if found.n < SEEDS:
            return "undecided"
        return (
            "reproduced"
            if found.low > self.least
            else "not reproduced"
            if found.high < self.least
            else "undecided"
        )

    def said(self, label: Callable[[str], str] = str) -> str:
        rising = " < ".join(label(run) for run in sorted(self.runs, key=self.predicted.__getitem__))
        return f"{self.measure}: ordered as {rising}, τ above {self.least:g}"
