"""Means and how sure they are: intervals over seeds (Student's t) and over images or stimuli
(bootstrap). Every number that a chapter or the ledger states with a spread comes from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy import special

from mae_lib.base.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

LEVEL = 0.95
"""Of every interval in the project."""

DRAWS = 1000
"""Resamplings of a bootstrap."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval from ``n`` observations; ``low`` and ``high`` are NaN
    where n does not allow one."""

    value: float
    low: float
    high: float
    n: int

    def __format__(self, spec: str) -> str:
        """``value [low, high]``, each number by ``spec``; the value alone where there is no
        interval. No line breaks within the brackets."""
        if math.isnan(self.value):
            return "undefined"
        one = format(self.value, spec)
        return (
            one
            if math.isnan(self.low)
            else f"{one} [{format(self.low, spec)},\N{NO-BREAK SPACE}{format(self.high, spec)}]"
        )

    def __str__(self) -> str:
        return format(self, ".4g")

    def to_dict(self) -> dict[str, float | int | None]:
        """As JSON holds it: NaN becomes None."""
        return {
            name: None if isinstance(v := getattr(self, name), float) and math.isnan(v) else v
            for name in ("value", "low", "high", "n")
        }

    @classmethod
    def from_dict(cls, values: dict) -> Interval:
        """The inverse of :meth:`to_dict`."""
        return cls(
            **{
                name: math.nan if values[name] is None else values[name]
                for name in ("value", "low", "high", "n")
            }
        )


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean of independent replicates with Student's t interval; no interval from a single one.
    InputError for no value or one that is not finite."""
    numbers = [float(v) for v in values]
    if not numbers or not all(map(math.isfinite, numbers)):
        raise InputError(f"an interval over seeds needs finite values, at least one: {numbers}")
    n, mean = len(numbers), math.fsum(numbers) / len(numbers)
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in numbers) / (n - 1))
    half = half_width(n) * deviation
    return Interval(mean, mean - half, mean + half, n)


def half_width(n: int) -> float:
    """Half of Student's interval for a mean of ``n`` values, n ≥ 2, in their standard
    deviations."""
    return float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) / math.sqrt(n)


def bootstrap(
    values: Tensor,
    statistic: Callable[[Tensor], Tensor] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over the first dimension.

    Args:
        values: [N] or [N, K], one row an image, finite. statistic: [draws, N] or [draws, N, K] →
            [draws], vectorised over its first dimension; the mean of [N] by default. A statistic
            may be NaN in some resamplings (a ratio without a denominator): they are left out.
        draws: resamplings. seed: of them.

    Returns:
        the statistic of the values with its interval; no interval if N is 1 or every resampling is
        NaN.

    Raises:
        InputError: no rows, or a value that is not finite.
    """
    import torch  # late: who only reads intervals need not wait for it

    rows = torch.as_tensor(values, dtype=torch.float64)
    if not rows.ndim or not len(rows) or not bool(rows.isfinite().all()):
        raise InputError("an interval needs finite values, at least one")
    measure = statistic or (lambda x: x.mean(1))
    value, n = float(measure(rows[None])[0]), len(rows)
    generator, found = torch.Generator().manual_seed(seed), []
    for start in range(0, draws, 50):  # 50 resamplings at a time: memory stays small for any N
        index = torch.randint(n, (min(50, draws - start), n), generator=generator)
        found.append(measure(rows[index]))
    drawn = torch.cat(found)
    drawn = drawn[~drawn.isnan()]
    if n == 1 or not len(drawn):
        return Interval(value, math.nan, math.nan, n)
    low, high = torch.quantile(
        drawn, torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    ).tolist()
    return Interval(value, low, high, n)
