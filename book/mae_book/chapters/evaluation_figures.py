"""Drawing and tabulating of the evaluations (§3, chapters 6 to 9): measures of the eight
pretrainings with their intervals over seeds, verdicts, and what single chapters show. Takes
numbers, returns Matplotlib figures and tables; computes and reads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mae_book.verdicts.ledger import Decision, by_run
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, over_seeds
from mae_lib.base.runs import RATIO_RUNS, RUNS, SIZE_RUNS
from mae_lib.base.tables import Table
from mae_lib.drawing.figures import MARKERS, PALETTE

TICKS = {
    "r10": "0.1",
    "r25": "0.25",
    "r50": "0.5",
    "r75": "0.75",
    "r90": "0.9",
    "small": "small",
    "middle": "middle",
    "large": "large",
}
"""How a run of the sweep is written on an axis."""

LABELS = {
    run: f"ratio {tick}" if run in RATIO_RUNS else f"unit: {tick}" for run, tick in TICKS.items()
} | {
    "r75-u16-p8": "unit 16 px",
    "r75-u16-p8-margin8": "unit 16 px, margin 8 px",
    "r75-u16-p8-strict4": "unit 16 px, strict margin 4 px",
    "r75-u8-p8-margin4": "margin 4 px",
    "r75-u8-p8-parts": "parts",
    "r75-u8-p8-object": "whole object",
    "r75-u8-p8-groups8": "8 estimated groups",
}
"""How a run of the sweep, or of chapter 11 (ratio 0.75), is written in a table; any other run goes
by its name."""


Lengths = Mapping[str, Mapping[str, Mapping[int, float]]]
"""length of training → run → seed → value, as `why_75.by_length` gives."""


def whiskers(found: Sequence[Interval]) -> list[list[float]]:
    """How far the intervals reach below and above their values; nowhere from a single seed."""
    return [
        [0.0 if each.n == 1 else each.value - each.low for each in found],
        [0.0 if each.n == 1 else each.high - each.value for each in found],
    ]


def sweep_panels(
    measures: Mapping[str, Mapping[str, Mapping[int, float]]],
    paper: Mapping[str, Mapping[str, float]] | None = None,
    size: float = 2.35,
) -> Figure:
    """Measures of the eight runs: one column a measure, the ratio sweep above, the size sweep
    below, as in the paper's Figure 5.

    Mean over seeds with its 95 % interval (from two seeds on), a dot for each seed, and the paper's
    value as a cross on an axis of its own at the right, since its scale is another.

    Args:
        measures: title → run → seed → value, as `ledger.by_run` gives; a half of the sweep without
            any run is left out.
        paper: title → run → the paper's number. size: inches a panel.
    """
    halves = [
        half
        for half in (RATIO_RUNS, SIZE_RUNS)
        if any(run in half for runs in measures.values() for run in runs)
    ]
    if not halves:
        raise InputError(
            "there are no runs of the sweep to draw: give each measure the values of one run at"
            " least"
        )
    paper = paper or {}
    figure, axes = plt.subplots(
        len(halves),
        len(measures),
        figsize=(size * len(measures) + 0.3, 0.9 * size * len(halves) + 0.2),
        squeeze=False,
        layout="constrained",
    )
    for k, (title, runs) in enumerate(measures.items()):
        for axis, half in zip(axes[:, k], halves):
            here = [run for run in half if runs.get(run)]
            found = [over_seeds(list(runs[run].values())) for run in here]
            places = [half.index(run) for run in here]
            colour = PALETTE[0] if half is RATIO_RUNS else PALETTE[1]
            if found:
                axis.errorbar(
                    places,
                    [i.value for i in found],
                    yerr=whiskers(found),
                    color=colour,
                    marker="o",
                    ms=4,
                    lw=1.3,
                    capsize=2.5,
                    label="ours",
                )
            for place, run in zip(places, here):
                axis.plot(
                    [place] * len(runs[run]),
                    list(runs[run].values()),
                    ls="none",
                    marker="_",
                    ms=8,
                    color=colour,
                    alpha=0.6,
                )
            theirs = [
                (half.index(run), value)
                for run, value in paper.get(title, {}).items()
                if run in half
            ]
            if theirs:
                other = axis.twinx()
                other.plot(
                    *zip(*theirs),
                    color="#555555",
                    marker="x",
                    ms=5,
                    lw=0.9,
                    ls=":",
                    label="paper (right axis)",
                )
                other.tick_params(labelsize=7, colors="#555555")
            axis.set(
                xticks=range(len(half)),
                xticklabels=[TICKS[run] for run in half],
                xlim=(-0.4, len(half) - 0.6),
            )
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.25)
            axis.set_xlabel("masking ratio" if half is RATIO_RUNS else "mask unit", fontsize=9)
        axes[0, k].set_title(title, fontsize=10)
    return figure


def _shown(values: Sequence[float], spec: str) -> str:
    return format(over_seeds(values), spec)


def sweep_table(
    records: Sequence[dict],
    measures: Sequence[str],
    titles: Sequence[str],
    spec: str = ".3f",
    paper: Mapping[str, Mapping[str, float]] | None = None,
    runs: Sequence[str] = RUNS,
) -> Table:
    """One row a run of the sweep, one column a measure: mean [interval] over seeds, or the value
    with its interval over images where there is one seed.

    Args:
        records: of `results/KIND/DATA`. measures: their names, in columns called ``titles``. spec:
            format of a number. paper: measure → run → the paper's number, which follows in brackets
            as it is. runs: which to show, in this order, as far as there are records of them.
    """
    columns = [by_run(records, measure) for measure in measures]
    single = {
        (record["run"], measure): Interval.from_dict(record["measures"][measure])
        for record in records
        for measure in measures
    }
    rows = []
    for run in (run for run in runs if run in columns[0]):
        cells = []
        for measure, column in zip(measures, columns):
            values = list(column[run].values())
            cell = format(single[run, measure], spec) if len(values) == 1 else _shown(values, spec)
            theirs = (paper or {}).get(measure, {}).get(run)
            cells.append(cell if theirs is None else f"{cell} (paper\N{NO-BREAK SPACE}{theirs:g})")
        rows.append([LABELS.get(run, run), str(len(columns[0][run])), *cells])
    return Table(["run", "seeds", *titles], rows)


def decision_table(decisions: Sequence[Decision], spec: str = "+.4f") -> Table:
    """Verdicts: one row a test, its difference with the interval over seeds, what it says alone;
    the claim's verdict in its first row."""
    rows = []
    for decision in decisions:
        if not decision.rows:
            rows.append([decision.claim.id, decision.verdict, "–", "–", "–"])
        for k, (test, found, outcome) in enumerate(decision.rows):
            first = (decision.claim.id, decision.verdict) if k == 0 else ("", "")
            rows.append(
                [*first, test.said(lambda run: LABELS.get(run, run)), format(found, spec), outcome]
            )
    return Table(
        ["claim", "verdict", "test", "difference, mean [95 % interval over seeds]", "alone"], rows
    )


def category_dots(
    series: Mapping[str, Mapping[str, float]],
    averages: Mapping[str, float] | None = None,
    references: Mapping[str, float] | None = None,
    labels: tuple[str, str] = ("fraction of shape decisions", "shape category"),
) -> Figure:
    """One row a category, one marker a series, as in Geirhos et al.'s figure of shape bias; the
    categories sorted by their mean over the series.

    Args:
        series: name → category → value in [0, 1]; NaN (undefined) is left out. averages: name → its
            value over all categories, a line in the colour of the series. references: name → value,
            a dashed black line with its name.
    """
    categories = list(dict.fromkeys(name for values in series.values() for name in values))
    if not categories:
        raise InputError(
            "there are no categories to draw: give at least one series with one category"
        )

    def mean(category: str) -> float:
        known = [
            v for values in series.values() if not math.isnan(v := values.get(category, math.nan))
        ]
        return sum(known) / len(known) if known else -1.0

    categories.sort(key=mean)
    figure, axis = plt.subplots(figsize=(7.6, 0.27 * len(categories) + 1.5), layout="constrained")
    for k, (name, values) in enumerate(series.items()):
        known = [
            (v, row)
            for row, category in enumerate(categories)
            if not math.isnan(v := values.get(category, math.nan))
        ]
        axis.plot(
            [v for v, _ in known],
            [row for _, row in known],
            ls="none",
            marker=MARKERS[k % 8],
            ms=5.5,
            alpha=0.85,
            color=PALETTE[k % 8],
            label=name,
        )
        if not math.isnan(average := (averages or {}).get(name, math.nan)):
            axis.axvline(average, color=PALETTE[k % 8], lw=1.1, alpha=0.7)
    for name, value in (references or {}).items():
        axis.axvline(value, color="black", lw=1.1, ls="--")
        axis.annotate(
            name,
            (value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axis.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.6, len(categories) - 0.4),
        yticks=range(len(categories)),
        yticklabels=categories,
        xlabel=labels[0],
        ylabel=labels[1],
    )
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


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
                yerr=whiskers(found),
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
