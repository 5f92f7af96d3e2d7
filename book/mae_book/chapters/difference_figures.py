"""Drawing and tabulating of chapter 13: what a change of the setting does to the mask's effect, and
what the theory predicts beside what was measured. Takes numbers, returns Matplotlib figures and
tables; computes and reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mae_book.chapters.differences import Effect, verdict
from mae_book.chapters.evaluation_figures import LABELS, TICKS
from mae_book.verdicts.ledger import Entry
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, over_seeds
from mae_lib.base.tables import Table
from mae_lib.drawing.figures import MARKERS, PALETTE

TITLES = {
    "mean/validation": "probe accuracy",
    "mean/purity": "purity",
    "readout/ssim": "SSIM",
    "readout/fsim": "FSIM",
    "cls/lift": "[CLS] on the object",
    "mean/bias": "shape bias",
    "box/AP": "box AP",
    "mask/AP": "mask AP",
}
"""How measures are written over a panel and in a table."""


def effect_panels(found: Mapping[str, Sequence[Effect]], size: float = 1.3) -> Figure:
    """The advantage of ratio 0.75 over each end, in the sweep (first row of a panel) and under each
    change: mean with its 95 % interval over seeds.

    One column a measure, ratio 0.1 above, 0.9 below; the line at 0 is no advantage.

    Args:
        found: experiment → its effects; those that were not run are left out. size: inches a panel.
    """
    run = {name: effects for name, effects in found.items() if effects}
    if not run:
        raise InputError(
            "there is no experiment to draw: run one of mae_book.sweep.experiments first"
        )
    measures = list(
        dict.fromkeys(effect.test.measure for effects in run.values() for effect in effects)
    )
    ends = list(dict.fromkeys(effect.test.low for effects in run.values() for effect in effects))
    names = ["the sweep", *run]
    figure, axes = plt.subplots(
        len(ends),
        len(measures),
        figsize=(size * len(measures) + 1.7, 0.33 * len(names) * len(ends) + 1.2),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for row, end in zip(axes, ends):
        for axis, measure in zip(row, measures):
            here = {
                name: effect
                for name, effects in run.items()
                for effect in effects
                if (effect.test.measure, effect.test.low) == (measure, end)
            }
            drawn = {"the sweep": next(iter(here.values())).sweep} | {
                name: effect.changed for name, effect in here.items()
            }
            for name, interval in drawn.items():
                k = names.index(name)
                half = 0.0 if interval.n == 1 else interval.high - interval.value
                axis.errorbar(
                    [interval.value],
                    [k],
                    xerr=[half],
                    color=PALETTE[k % 8],
                    marker=MARKERS[k % 8],
                    ms=5,
                    lw=1.4,
                    capsize=2.5,
                )
            axis.axvline(0, color="#555555", lw=0.8, ls=":")
            axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
            axis.tick_params(labelsize=8)
            axis.locator_params(axis="x", nbins=3)
            axis.grid(alpha=0.25, axis="x")
        row[0].set_ylabel(f"0.75 less {TICKS[end]}", fontsize=9)
    for axis, measure in zip(axes[0], measures):
        axis.set_title(TITLES.get(measure, measure), fontsize=9)
    return figure


def effect_table(found: Mapping[str, Sequence[Effect]], spec: str = "+.3f") -> Table:
    """One row a test: the advantage of 0.75 in the sweep, under the change, the number that
    decides, and what it says; the cause's verdict in its first row, behind the change. An
    experiment that was not run has one row."""
    rows = []
    for name, effects in found.items():
        if not effects:
            rows.append([f"{name}: not run", "–", "–", "–", "–"])
        for k, effect in enumerate(effects):
            said = (
                {"reproduced": "grows", "not reproduced": "shrinks"}
                if effect.found != effect.changed
                else {"reproduced": "above", "not reproduced": "below"}
            )
            what = (
                f"{TITLES.get(effect.test.measure, effect.test.measure)}, over"
                f" {TICKS[effect.test.low]}"
            )
            rows.append(
                [
                    f"{name}: {verdict(effects)}" if k == 0 else "",
                    what,
                    format(effect.sweep, spec),
                    format(effect.changed, spec),
                    f"{format(effect.found, spec)} {said.get(effect.outcome, effect.outcome)}",
                ]
            )
    return Table(
        [
            "change: cause",
            "advantage of 0.75",
            "in the sweep",
            "with the change",
            "what decides, and what it says",
        ],
        rows,
    )


def paper_table(rows: Sequence[Entry], measures: Sequence[str]) -> Table:
    """The paper's differences beside ours, one row a test on one of ``measures`` for which the
    paper gives both numbers; ours in the paper's unit (accuracies and average precision in percent,
    shape bias as it is), with the interval over seeds.
    """
    lines = []
    for row in rows:
        for test, found, _ in row.decision.rows:
            theirs = row.claim.paper.get(test.measure, {})
            if test.measure in measures and set(test.runs) <= theirs.keys():
                factor = 1 if max(theirs.values()) <= 1 else 100
                value, low, high = (factor * x for x in (found.value, found.low, found.high))
                ours = Interval(value, low, high, found.n)
                spec = "+.2f" if factor == 100 else "+.3f"
                first, second = (LABELS[run] for run in test.runs)
                lines.append(
                    [
                        row.claim.id,
                        f"{TITLES.get(test.measure, test.measure)}: {first} less {second}",
                        format(theirs[test.high] - theirs[test.low], spec),
                        format(ours, spec),
                    ]
                )
    return Table(["claim", "difference", "paper", "ours"], lines)


def beside(
    predicted: Mapping[str, float],
    measured: Mapping[str, Mapping[str, Mapping[int, float]]],
    runs: Sequence[str],
    xlabel: str,
    colours: int = 0,
    size: float = 2.0,
) -> Figure:
    """Measures against a prediction: one panel a measure, a point a run with its 95 % interval over
    seeds, named by its place in the sweep.

    Args:
        predicted: run → the prediction. measured: title → run → seed → value. runs: of one half of
            the sweep, in its order. xlabel: what the prediction is. colours: which of the palette.
    """
    if not measured or any(
        run not in predicted or run not in values for values in measured.values() for run in runs
    ):
        raise InputError(f"a panel needs a prediction and a measure for each of {', '.join(runs)}")
    columns = min(4, len(measured))
    lines = -(-len(measured) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(size * columns + 0.3, 0.85 * size * lines + 0.3),
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    for axis in axes.flat[len(measured) :]:
        axis.set_visible(False)
    for axis, (title, values) in zip(axes.flat, measured.items()):
        found = [over_seeds(list(values[run].values())) for run in runs]
        half = [0.0 if i.n == 1 else i.high - i.value for i in found]
        axis.errorbar(
            [predicted[run] for run in runs],
            [i.value for i in found],
            yerr=half,
            color=PALETTE[colours],
            marker="o",
            ms=4.5,
            lw=1.2,
            capsize=2.5,
        )
        for run, interval in zip(runs, found):
            axis.annotate(
                TICKS[run],
                (predicted[run], interval.value),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7.5,
            )
        axis.set_title(title, fontsize=9.5)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.2)
        axis.grid(alpha=0.25)
    figure.supxlabel(xlabel, fontsize=9)
    return figure


def agreement_table(found: Mapping[str, Mapping[str, Interval]]) -> Table:
    """Rank correlations of `differences.beside_theory`: one row a measure."""
    rows = [
        [name, *(format(halves[half], "+.2f") for half in ("ratio", "size"))]
        for name, halves in found.items()
    ]
    return Table(["measure", "over the five ratios", "over the three units"], rows)
