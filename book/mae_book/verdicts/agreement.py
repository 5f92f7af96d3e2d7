"""How far a result that was made again agrees with the recorded one, and by which rule."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval

TRAINED = frozenset({"pretraining", "detection", "identify", "tree_world"})
"""Kinds whose cells train something: every step magnifies the last digit of the one before, so that
on another processor they end as another seed might."""

MAPPED = frozenset({"separability"})
"""Kinds that lay out a map by t-SNE, which magnifies likewise: it differs even between processors
that go by one name."""

SHARE = 0.25
"""Of given weights, what part of chance a number may move by on another processor: see
:func:`allowed`."""

DEVIATIONS = 4
"""How many standard deviations over seeds a training may move by on another processor. Two seeds
differ by more once in two hundred times."""


@dataclass(frozen=True)
class Agreement:
    """A record beside the same cell made again.

    Attributes:
        numbers: how many were compared. equal: how many are the same to nine digits, all that a sum
            keeps whose terms come in another order.
        outside: names of those that differ by more than is allowed (:func:`allowed`), or that only
            one of the two has.
    """

    numbers: int
    equal: int
    outside: tuple[str, ...]

    @property
    def exact(self) -> bool:
        return self.equal == self.numbers

    def __str__(self) -> str:
        if self.exact:
            return f"{self.numbers} numbers, all the same to nine digits"
        within = self.numbers - self.equal - len(self.outside)
        text = (
            f"{self.numbers} numbers: {self.equal} the same to nine digits, {within} as near as"
            f" another processor comes, {len(self.outside)} outside"
        )
        return text + (
            f" ({', '.join(self.outside[:5])}{' …' if len(self.outside) > 5 else ''})"
            if self.outside
            else ""
        )


def numbers(record: Mapping) -> dict[str, Interval]:
    """Every number that a record states: its measures; of a pretraining the points of its curve and
    the errors on held-out images."""
    if "measures" in record:
        return {name: Interval.from_dict(value) for name, value in record["measures"].items()}
    held_out = {f"held_out/{name}": value for name, value in _flat(record["held_out"]).items()}
    curve = {
        f"loss at step {step}": loss
        for step, loss in zip(record["curve"]["step"], record["curve"]["loss"])
    }
    return {
        name: Interval(value, math.nan, math.nan, 1) for name, value in (held_out | curve).items()
    }


def _flat(values: object) -> dict[str, float]:
    if not isinstance(values, Mapping):
        return {"": float(values)}
    return {
        f"{name}/{rest}".rstrip("/"): number
        for name, value in values.items()
        if isinstance(value, (int, float, Mapping))
        for rest, number in _flat(value).items()
    }


def same_arithmetic(record: Mapping, again: Mapping) -> bool:
    """Whether two records come from the same processor or GPU, instruction set, number of threads
    and PyTorch, so that every sum keeps its order. A record that does not name its instruction set
    may be of any: processors that go by one name differ in it.
    """
    then, now = (
        {**one["hardware"], "torch": one.get("versions", {}).get("torch")}
        for one in (record, again)
    )
    named = then.get("instructions") is not None
    return named and all(
        then.get(name) == now.get(name)
        for name in ("gpu", "cpu", "threads", "instructions", "torch")
    )


def allowed(
    kind: str, record: Mapping, again: Mapping, recorded: Sequence[Mapping]
) -> dict[str, float]:
    """name → how far a number made again may lie from the recorded one. Empty, so to nine digits,
    where the arithmetic is the same (`MAPPED` kinds aside).

    Elsewhere a number may move by a part of what chance would move it by, and by a unit in the
    sixth digit in any case:

    - Of given weights: a quarter (`SHARE`) of half its recorded interval; where it has none, a
      quarter of what follows.
    - Of `TRAINED` and `MAPPED` kinds: as far as chance puts two seeds of one run apart,
      `DEVIATIONS` standard deviations over the seeds of this run or of the median run among
      ``recorded`` (the records beside this one), whichever varies more. Half the recorded interval,
      if that is more.
    """
    if same_arithmetic(record, again) and kind not in MAPPED:
        return {}
    found, others = numbers(record), [(_run(other), numbers(other)) for other in recorded]
    widths = {}
    for name, interval in found.items():
        seeds = DEVIATIONS * _deviation(
            _run(record), [(run, other[name].value) for run, other in others if name in other]
        )
        half = (interval.high - interval.low) / 2  # NaN where it has none
        if kind in TRAINED | MAPPED:
            chance = seeds if math.isnan(half) else max(half, seeds)
        else:
            chance = SHARE * (seeds if math.isnan(half) else half)
        widths[name] = max(chance, 1e-6 * abs(interval.value))
    return widths


def _run(record: Mapping) -> str:
    """The name without its seed."""
    return re.sub(r"-s\d+(?=-|$)", "", record["name"])


def _deviation(own: str, values: Sequence[tuple[str, float]]) -> float:
    """Standard deviation over seeds, from (run, value) of all runs: the ``own`` run's or, if that
    is more, the median run's; 0 where no run has two."""
    runs: dict[str, list[float]] = {}
    for run, value in values:
        if math.isfinite(value):
            runs.setdefault(run, []).append(value)
    found = {run: statistics.stdev(seeds) for run, seeds in runs.items() if len(seeds) > 1}
    return max(found.get(own, 0.0), statistics.median(found.values())) if found else 0.0


def compare(
    record: Mapping, again: Mapping, widths: Mapping[str, float] = MappingProxyType({})
) -> Agreement:
    """How far two records of one cell state the same numbers; ``widths``: by how much which may
    differ (:func:`allowed`). InputError if they are not of one cell."""
    if (record["name"], record["hash"]) != (again["name"], again["hash"]):
        raise InputError(
            f"{record['name']}-{record['hash']} was to be made again, and"
            f" {again['name']}-{again['hash']} came: its config has changed"
        )
    old, new = numbers(record), numbers(again)
    equal, outside = 0, []
    for name, value in old.items():
        if name in new and _same(value, new[name]):
            equal += 1
        elif name not in new or not abs(new[name].value - value.value) <= widths.get(name, 0.0):
            outside.append(name)
    outside += [name for name in new if name not in old]
    return Agreement(len(old.keys() | new.keys()), equal, tuple(outside))


def _same(old: Interval, new: Interval) -> bool:
    """Whether two values and their ends are the same to nine digits; NaN is the same as NaN."""
    pairs = ((old.value, new.value), (old.low, new.low), (old.high, new.high))
    return old.n == new.n and all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))
        for a, b in pairs
    )
