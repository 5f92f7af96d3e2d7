"""What longer training changes: measures of the ratio sweep at each length that has whole seeds,
and the paper's own numbers on the same axis."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mae_book.chapters.evaluation_figures import LABELS, TICKS
from mae_book.chapters.why_75 import records, whole
from mae_book.verdicts.ladder import RUNGS
from mae_book.verdicts.ledger import by_run
from mae_lib.base.intervals import over_seeds
from mae_lib.base.runs import RATIO_RUNS
from mae_lib.base.tables import Table
from mae_lib.drawing.figures import MARKERS, PALETTE

FIRST = "1,200 × 128"
"""The first sweep's steps and images a step."""

Lengths = Mapping[str, Mapping[str, Mapping[int, float]]]
"""length → run → seed → value."""


def by_length(kind: str, measure: str) -> dict[str, dict[str, dict[int, float]]]:
    """length, as "steps × images a step" → run of the ratio sweep → seed → value, of the seeds for
    which all five ratios are there; a length without any is left out."""
    folders = {FIRST: "world"} | {f"{one.steps:,} × 16": one.data for one in RUNGS.values()}
    found = {length: whole(records(kind, data), RATIO_RUNS) for length, data in folders.items()}
    return {length: by_run(some, measure) for length, some in found.items() if some}


def length_panels(
    measures: Mapping[str, Lengths],
    paper: Mapping[str, Mapping[str, float]] | None = None,
    size: float = 3.6,
) -> Figure:
    """A panel a measure, a line a length over the masking ratio: mean over seeds with its 95 %
    interval, a dash for each seed, and the paper's numbers as crosses on the same axis.

    Args:
        measures: title → what `by_length` gives. paper: title → run → the paper's number, in the
            measure's own unit. size: inches a panel.
    """
    figure, axes = plt.subplots(
        1,
        len(measures),
        figsize=(size * len(measures), 0.85 * size),
        squeeze=False,
        layout="constrained",
    )
    places = range(len(RATIO_RUNS))
    for axis, (title, lengths) in zip(axes[0], measures.items()):
        for k, (length, runs) in enumerate(lengths.items()):
            found = [over_seeds(list(runs[run].values())) for run in RATIO_RUNS]
            seeds = found[0].n
            axis.errorbar(
                places,
                [each.value for each in found],
                yerr=[
                    [each.value - each.low if each.n > 1 else 0.0 for each in found],
                    [each.high - each.value if each.n > 1 else 0.0 for each in found],
                ],
                color=PALETTE[k],
                marker=MARKERS[k],
                ms=4.5,
                lw=1.5,
                capsize=2.5,
                label=f"{length}, {seeds} seed{'s' * (seeds > 1)}",
            )
            for place, run in zip(places, RATIO_RUNS):
                values = list(runs[run].values())
                axis.plot([place] * len(values), values, "_", ms=8, color=PALETTE[k], alpha=0.5)
        if theirs := (paper or {}).get(title):
            axis.plot(
                places,
                [theirs[run] for run in RATIO_RUNS],
                color="#555555",
                marker="x",
                lw=0.9,
                ls=":",
                label="the paper",
            )
        axis.set(xticks=places, xticklabels=[TICKS[run] for run in RATIO_RUNS])
        axis.set_xlabel("masking ratio")
        axis.set_title(title, fontsize=11)
        axis.grid(alpha=0.25)
    lines = {}
    for axis in axes[0]:
        lines |= {label: line for line, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=4, frameon=False)
    return figure


def length_table(lengths: Lengths, spec: str = ".3f") -> Table:
    """A row a length: its seeds, and each ratio's mean [interval]."""
    return Table(
        ["steps × images a step", "seeds", *(LABELS[run] for run in RATIO_RUNS)],
        [
            [
                length,
                str(len(runs[RATIO_RUNS[0]])),
                *(format(over_seeds(list(runs[run].values())), spec) for run in RATIO_RUNS),
            ]
            for length, runs in lengths.items()
        ],
    )
