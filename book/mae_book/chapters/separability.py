"""What chapter 8 shows: images' features in the plane (Figure 8), accuracy on a shifted set
relative to that on validation images, and against the severity of the shift."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from mae_book.chapters.evaluation_figures import LABELS, whiskers
from mae_book.verdicts.ledger import by_run
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, over_seeds
from mae_lib.base.runs import RATIO_RUNS
from mae_lib.base.tables import Table
from mae_lib.drawing.figures import MARKERS, PALETTE
from mae_lib.worlds.graded import GRADED, SEVERITIES


def embeddings(
    points: Mapping[str, Tensor],
    labels: Tensor,
    classes: Sequence[str],
    columns: int = 5,
    size: float = 1.9,
) -> Figure:
    """Scatter plots of embedded images, one panel an embedding, one colour and marker a class, as
    the paper's Figure 8.

    Args:
        points: title → [N, 2], on scales of their own without ticks, since t-SNE's have no meaning.
            labels: int64 [N]. classes: their names.
        columns: panels in a row. size: inches a panel.
    """
    for title, drawn in points.items():
        if drawn.shape != (len(labels), 2):
            raise InputError(
                f"the embedding {title!r} is {list(drawn.shape)}, for {len(labels)} images: give"
                " [images, 2]"
            )
    if not points or columns < 1:
        raise InputError("there are no embeddings to draw, or no columns to draw them in")
    columns, shown = min(columns, len(points)), labels.unique().tolist()
    # inches for the legend, two names a panel
    lines, below = -(-len(points) // columns), 0.15 + 0.2 * -(-len(shown) // (2 * columns))
    figure, axes = plt.subplots(
        lines, columns, figsize=(size * columns, (size + 0.3) * lines + below), squeeze=False
    )
    for axis in axes.flat[len(points) :]:
        axis.set_visible(False)
    for axis, (title, drawn) in zip(axes.flat, points.items()):
        for k, name in enumerate(shown):
            own = drawn[labels == name]
            axis.scatter(
                own[:, 0],
                own[:, 1],
                s=7,
                lw=0,
                color=PALETTE[k % 8],
                marker=MARKERS[(k + k // 8) % 8],
                label=classes[name],
            )
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=9)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.subplots_adjust(
        left=0.01,
        right=0.99,
        top=1 - 0.3 / figure.get_figheight(),
        bottom=below / figure.get_figheight(),
        wspace=0.06,
        hspace=0.18,
    )
    figure.legend(
        handles,
        names,
        loc="lower center",
        ncols=2 * columns,
        fontsize=8,
        frameon=False,
        markerscale=2,
        columnspacing=1.1,
        handletextpad=0.2,
    )
    return figure


def relative_to_validation(records: Sequence[dict], chance: float) -> list[dict]:
    """Records of the probe with measures ``POOL/NAME/kept`` added: the share of validation's
    accuracy above chance that is left on a shifted set.

    Accuracy alone cannot tell a robust model from one that is good everywhere. Here 1 is no drop,
    and 0 is chance.

    Args:
        records: of `results/probe/DATA`. chance: accuracy of guessing, on every set.

    Raises:
        InputError: a record without a validation accuracy, or with one at chance or below, of which
            no share can be kept.
    """
    found = []
    for record in records:
        values = {name: measure["value"] for name, measure in record["measures"].items()}
        measures = dict(record["measures"])
        for name, value in values.items():
            pool, _, shifted = name.partition("/")
            if shifted == "validation":
                continue
            base = values.get(f"{pool}/validation")
            if base is None or base <= chance:
                raise InputError(
                    f"the result of {record['name']} has no {pool}/validation above chance"
                    f" ({chance:g}): nothing that a shifted set could keep"
                )
            measures[f"{name}/kept"] = Interval(
                (value - chance) / (base - chance),
                math.nan,
                math.nan,
                record["measures"][name]["n"],
            ).to_dict()
        found.append(record | {"measures": measures})
    return found


def severity_curves(
    graded: Sequence[dict], probes: Sequence[dict] = ()
) -> dict[str, dict[str, list[Interval]]]:
    """set → run of the ratio sweep → accuracy of the mean token at each severity, over seeds.

    Args:
        graded: of `results/severity/DATA`. probes: of `results/probe/DATA`, whose validation
            accuracy of the same runs and seeds stands in front, as severity 0.

    Raises:
        InputError: records without a measure that is asked of them.
    """
    seeds = {(record["run"], record["seed"]) for record in graded}
    plain = by_run(
        [each for each in probes if (each["run"], each["seed"]) in seeds], "mean/validation"
    )
    curves: dict[str, dict[str, list[Interval]]] = {}
    for name in GRADED:
        steps = [plain] if probes else []
        steps += [by_run(graded, f"mean/{name}-{k}") for k in SEVERITIES]
        curves[name] = {
            run: [over_seeds(list(step[run].values())) for step in steps]
            for run in RATIO_RUNS
            if all(run in step for step in steps)
        }
    return curves


def severity_panels(
    curves: Mapping[str, Mapping[str, Sequence[Interval]]], chance: float, size: float = 3.1
) -> Figure:
    """Accuracy against the severity of a shift, a panel a set and a line a masking ratio, with
    intervals over seeds; `severity_curves` gives the curves, guessing the dotted line."""
    figure, axes = plt.subplots(
        1, len(curves), figsize=(size * len(curves), 1.05 * size), sharey=True, layout="constrained"
    )
    for axis, (name, runs) in zip(axes, curves.items()):
        for k, (run, found) in enumerate(runs.items()):
            places = range(SEVERITIES[-1] + 1 - len(found), SEVERITIES[-1] + 1)
            axis.errorbar(
                # beside each other, so that intervals do not hide intervals
                [place + 0.06 * (k - 2) for place in places],
                [each.value for each in found],
                yerr=whiskers(found),
                color=PALETTE[k],
                marker=MARKERS[k],
                ms=4,
                lw=1.3,
                label=LABELS[run],
            )
        axis.axhline(chance, color="#555555", lw=0.9, ls=":", label="guessing")
        axis.set(xlabel="severity", ylim=(0, 1), xticks=range(SEVERITIES[-1] + 1))
        axis.set_title(name, fontsize=11)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("accuracy of the linear probe")
    axes[-1].legend(fontsize=9, frameon=False)
    return figure


def severity_table(graded: Sequence[dict], spec: str = ".3f") -> Table:
    """Each ratio's accuracy over the images of all five severities of a set, mean [interval] over
    seeds."""
    columns = [by_run(graded, f"mean/{name}") for name in GRADED]
    return Table(
        ["run", "seeds", *GRADED],
        [
            [
                LABELS[run],
                str(len(columns[0][run])),
                *(format(over_seeds(list(column[run].values())), spec) for column in columns),
            ]
            for run in RATIO_RUNS
            if run in columns[0]
        ],
    )
