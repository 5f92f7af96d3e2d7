"""Drawing and tabulating of detectors (§3.5, chapter 10): scenes with their instances and what was
found in them, average precision over the eight pretrainings beside training from scratch, and
COCO's numbers with their intervals over seeds. Takes numbers, returns Matplotlib figures and
tables; computes and reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from mae_book.chapters.evaluation_figures import LABELS as RUN_LABELS
from mae_book.chapters.evaluation_figures import sweep_panels
from mae_book.verdicts.ledger import by_run
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import over_seeds
from mae_lib.base.runs import RATIO_RUNS, RUNS
from mae_lib.base.tables import Table
from mae_lib.data.coco import Instances
from mae_lib.detection.average_precision import Detections
from mae_lib.drawing.figures import PALETTE, _as_picture

BASELINES = {"scratch": "from scratch", "scratch-small": "from scratch, small patch"}
"""Runs without pretraining: with the ratio sweep's ViT patch, and with the size sweep's."""

LABELS = RUN_LABELS | BASELINES
"""How a run is written in a table."""

TABLE_RUNS = (
    "scratch",
    *RATIO_RUNS,
    "scratch-small",
    *(run for run in RUNS if run not in RATIO_RUNS),
)
"""The order of rows: each half of the sweep below its own baseline."""

UNDEFINED = "—"
_TINT = 0.45


def instance_rows(
    images: Sequence[Tensor],
    rows: Mapping[str, Sequence[Instances | Detections | None]],
    classes: Sequence[str],
    least_score: float = 0.5,
    size: float = 1.75,
) -> Figure:
    """One row of pictures for each name, one column an image: masks tinted and boxes outlined in
    the colour of the class, whose name stands above.

    Args:
        images: uint8 or float in [0, 1], [3, H, W] each. rows: name → for each image its instances,
            or what was found in it, drawn with its score in percent if that is at least
            ``least_score``, the best on top; None: the picture alone. classes: names in the order
            of the labels 1, 2, ….
        size: inches a picture.
    """
    if not images or not rows or any(len(found) != len(images) for found in rows.values()):
        raise InputError(
            "instances need at least one image and one row, and one entry of each row for each of"
            f" the {len(images)} images"
        )
    figure, axes = plt.subplots(
        len(rows), len(images), figsize=(size * len(images) + 1.05, size * len(rows)), squeeze=False
    )
    for line, (name, row) in zip(axes, rows.items()):
        for axis, image, found in zip(line, images, row):
            _draw(axis, image, found, classes, least_score)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(
        left=1.0 / figure.get_figwidth(),
        right=0.995,
        bottom=0.01,
        top=0.99,
        wspace=0.04,
        hspace=0.04,
    )
    return figure


def _draw(
    axis: plt.Axes,
    image: Tensor,
    found: Instances | Detections | None,
    classes: Sequence[str],
    least_score: float,
) -> None:
    if found is not None and tuple(found.masks.shape[1:]) != tuple(image.shape[1:]):
        raise InputError(
            f"masks of {list(found.masks.shape[1:])} do not lie on an image of"
            f" {list(image.shape[1:])}: give those of this image"
        )
    picture = np.atleast_3d(_as_picture(image)).copy()
    count = 0 if found is None else len(found.labels)
    order, texts = list(range(count)), [""] * count
    if isinstance(found, Detections):
        order = [
            k for k in found.scores.argsort(stable=True).tolist() if found.scores[k] >= least_score
        ]
        texts = [f" {100 * score:.0f}" for score in found.scores.tolist()]
    for k in order:
        colour = np.array(plt.matplotlib.colors.to_rgb(_colour(found.labels[k])))
        inside = found.masks[k].numpy()
        picture[inside] = (1 - _TINT) * picture[inside] + _TINT * colour
    axis.imshow(picture, vmin=0, vmax=1, interpolation="nearest")
    for k in order:
        x0, y0, x1, y1 = found.boxes[k].tolist()
        axis.add_patch(
            plt.Rectangle(
                (x0 - 0.5, y0 - 0.5),
                x1 - x0,
                y1 - y0,
                fill=False,
                edgecolor=_colour(found.labels[k]),
                lw=1.3,
            )
        )
        style = {
            "facecolor": _colour(found.labels[k]),
            "edgecolor": "none",
            "pad": 0.8,
            "alpha": 0.85,
        }
        text = f"{classes[int(found.labels[k]) - 1]}{texts[k]}"
        axis.text(
            max(x0, 0.0),
            max(y0, 6.0),
            text,
            fontsize=6,
            color="white",
            va="bottom",
            bbox=style,
            clip_on=True,
        )
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _colour(label: Tensor) -> str:
    return PALETTE[(int(label) - 1) % len(PALETTE)]


def transfer_panels(
    measures: Mapping[str, Mapping[str, Mapping[int, float]]],
    paper: Mapping[str, Mapping[str, float]] | None = None,
    size: float = 2.9,
) -> Figure:
    """As :func:`mae_book.chapters.evaluation_figures.sweep_panels`, with training from scratch as a
    dashed line at its mean over seeds and a band, its 95 % interval.

    Args:
        measures: title → run → seed → value; the runs `BASELINES` are the baselines of the two
            halves. paper, size: as there.
    """
    figure = sweep_panels(measures, paper, size)
    # row by row; the paper's own axes have no label
    titles, panels = list(measures), [axis for axis in figure.axes if axis.get_xlabel()]
    for k, axis in enumerate(panels):
        values = measures[titles[k % len(titles)]].get(
            "scratch" if axis.get_xlabel() == "masking ratio" else "scratch-small"
        )
        if values:
            found = over_seeds(list(values.values()))
            axis.axhline(found.value, color="black", ls="--", lw=1.1, label="from scratch")
            if found.n > 1:
                axis.axhspan(found.low, found.high, color="black", alpha=0.1, lw=0)
    return figure


def precision_table(
    records: Sequence[dict],
    measures: Mapping[str, str],
    spec: str = ".3f",
    paper: Mapping[str, Mapping[str, float]] | None = None,
) -> Table:
    """One row a run, one column a measure: mean [95 % interval] over seeds, the value alone from
    one seed; "—" where COCO leaves it undefined.

    Args:
        records: of `results/detection/DATA`. measures: name → title of its column. spec: format of
            a number. paper: measure → run → the paper's number, which follows in brackets as it is.
    """
    columns = {
        measure: by_run([record for record in records if measure in record["measures"]], measure)
        for measure in measures
    }
    seeds = by_run(
        [record | {"measures": {"seed": {"value": record["seed"]}}} for record in records], "seed"
    )
    rows = []
    for run in (run for run in TABLE_RUNS if run in seeds):
        cells = []
        for measure in measures:
            values = columns[measure].get(run)
            cell = format(over_seeds(list(values.values())), spec) if values else UNDEFINED
            theirs = (paper or {}).get(measure, {}).get(run)
            cells.append(cell if theirs is None else f"{cell} (paper\N{NO-BREAK SPACE}{theirs:g})")
        rows.append([LABELS[run], str(len(seeds[run])), *cells])
    return Table(["run", "seeds", *measures.values()], rows)


def gain_table(records: Sequence[dict], measures: Mapping[str, str], spec: str = "+.3f") -> Table:
    """Each pretraining minus training from scratch with the same ViT patch, paired by seed: one row
    a run, one column a measure, mean [95 % interval]."""
    rows = []
    columns = {measure: by_run(records, measure) for measure in measures}
    first = next(iter(columns.values()), {})
    for run in (run for run in RUNS if run in first):
        base = "scratch" if run in RATIO_RUNS else "scratch-small"
        if base not in first:
            continue
        seeds = sorted(first[run].keys() & first[base].keys())
        if seeds:
            found = [
                over_seeds([values[run][s] - values[base][s] for s in seeds])
                for values in columns.values()
            ]
            rows.append(
                [LABELS[run], LABELS[base], str(len(seeds)), *(format(one, spec) for one in found)]
            )
    return Table(["run", "minus", "seeds", *measures.values()], rows)
