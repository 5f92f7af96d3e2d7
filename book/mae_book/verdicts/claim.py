"""What a claim is: its statement, its tests, the paper's numbers; and the paper's tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mae_book.verdicts.comparisons import Above, Comparison
from mae_lib.base.runs import RATIO_RUNS, SIZE_RUNS


@dataclass(frozen=True)
class Claim:
    """One row of the ledger.

    Attributes:
        id, where, statement: the claim. kind: folder under results/ with its measures. chapter: its
            page. tests: all must come out.
        paper: measure → run → the paper's number, where it gives numbers (accuracies in percent).
        data: folder under results/KIND/ that decides; none where a kind has no images (the
            theory's).
    """

    id: str
    where: str
    statement: str
    kind: str
    chapter: str
    tests: tuple[Comparison, ...]
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    data: str = "world"


def peak(measure: str, peak: str, others: Iterable[str]) -> tuple[Above, ...]:
    return tuple(Above(measure, peak, other) for other in others)


def rising(measure: str, runs: Sequence[str]) -> tuple[Above, ...]:
    return tuple(Above(measure, high, low) for low, high in zip(runs, runs[1:]))


def percent(rows: Mapping[str, str], runs: Sequence[str]) -> dict[str, dict[str, float]]:
    return {
        measure: dict(zip(runs, map(float, numbers.split()))) for measure, numbers in rows.items()
    }


IDENTIFIED = ("c = z1", "c = z2", "c = z3", "c = z2, z3")
"""The cases of `mae_lib.identification.identify` that meet the conditions of Theorem 2."""


WIDE_MASKS = ("xx..", "x...", "xxx.", "x.x.")
"""Masks that the one wide model of `mae_lib.identification.identify` is measured on: c as in
`IDENTIFIED`."""


def wide(which: str) -> tuple[str, ...]:
    return tuple(f"one model, {which}, {mask}" for mask in WIDE_MASKS)


SHIFTED = ("v2", "viewpoint", "rendition", "hard", "sketch")
"""The embedded world's counterparts of ImageNet-v2, ObjectNet, ImageNet-R, ImageNet-A and
ImageNet-Sketch, in the order of Table 1."""


TABLE_1_RATIO = percent(
    {
        "mean/validation": "47.45 53.58 60.07 67.41 62.97",
        "mean/v2": "34.72 40.34 46.71 54.23 49.52",
        "mean/viewpoint": "9.42 11.54 13.94 18.24 15.87",
        "mean/rendition": "14.63 18.68 22.44 25.20 19.11",
        "mean/hard": "2.00 2.49 2.89 3.76 2.76",
        "mean/sketch": "7.25 10.27 12.58 15.51 10.46",
    },
    RATIO_RUNS,
)


TABLE_1_SIZE = percent(
    {
        "mean/validation": "62.57 68.96 73.31",
        "mean/v2": "49.17 55.94 61.35",
        "mean/viewpoint": "13.44 13.73 19.03",
        "mean/rendition": "19.42 24.23 27.84",
        "mean/hard": "3.73 6.29 12.69",
        "mean/sketch": "10.73 18.81 28.30",
    },
    SIZE_RUNS,
)


TABLE_3 = percent(
    {"box/AP": "30.47 32.38 34.87 39.72 37.17", "mask/AP": "28.24 29.95 32.11 36.35 34.35"},
    RATIO_RUNS,
)


TABLE_2 = {"mean/bias": dict(zip(RATIO_RUNS, (0.1352, 0.2545, 0.2458, 0.2563, 0.2014)))}
