"""Drawing. Every function takes numbers or images and returns a Matplotlib figure; nothing is
computed, trained or saved here.

The palette is Okabe and Ito's, which colour-blind readers can tell apart; lines differ by marker as
well as by colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mae_lib.base.errors import InputError

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HIDDEN_GREY = 0.72


def _as_picture(image: Tensor) -> np.ndarray:
    """uint8 or float-in-[0, 1] [C, H, W], C 1 or 3 → float array that imshow takes."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise InputError(
            f"a picture must be [1 or 3, H, W], not {list(image.shape)}: pick channels to draw"
        )
    x = image.detach().cpu().float() / (255 if image.dtype == torch.uint8 else 1)
    return x.clamp(0, 1).permute(1, 2, 0).squeeze(-1).numpy()


def masked_pictures(images: Tensor, hidden: Tensor, grid: tuple[int, int]) -> Tensor:
    """Images as the encoder sees them: hidden patches grey.

    Args:
        images: uint8 or float in [0, 1], [B, C, H, W]. hidden: int64 [B, M] patch indices. grid:
            (rows, columns) of patches.

    Returns:
        float [B, C, H, W] in [0, 1].
    """
    x = images.float() / 255 if images.dtype == torch.uint8 else images.clone()
    rows, columns = grid
    gone = (
        torch.zeros(len(x), rows * columns, dtype=torch.bool, device=x.device)
        .scatter_(1, hidden, True)
        .view(-1, 1, rows, columns)
    )
    gone = gone.repeat_interleave(x.shape[2] // rows, 2).repeat_interleave(x.shape[3] // columns, 3)
    return torch.where(gone, HIDDEN_GREY, x)


def image_rows(
    rows: Mapping[str, Tensor], columns: Sequence[str] = (), size: float = 0.85
) -> Figure:
    """Rows of pictures with the row's name at the left.

    Args:
        rows: name → uint8 or float-in-[0, 1] images [N, C, H, W], the same N, H and W in each row.
            columns: titles above. size: width of a picture, inches.
    """
    counts = {len(images) for images in rows.values()}
    if len(counts) != 1 or not (count := counts.pop()) or (columns and len(columns) != count):
        raise InputError(
            "rows of pictures need at least one row, the same number (at least one) of pictures in"
            " each, and a title for each column or none"
        )
    first = next(iter(rows.values()))
    high = size * first.shape[-2] / first.shape[-1]
    figure, axes = plt.subplots(
        len(rows),
        count,
        figsize=(size * count + 1.25, high * len(rows) + 0.3 * bool(columns)),
        squeeze=False,
    )
    for row, (name, images) in zip(axes, rows.items()):
        for axis, image in zip(row, images):
            picture = _as_picture(image)
            axis.imshow(
                picture,
                interpolation="nearest",
                cmap="gray" if picture.ndim == 2 else None,
                vmin=0,
                vmax=1,
            )
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for axis, title in zip(axes[0], columns):
        axis.set_title(title, fontsize=9)
    figure.subplots_adjust(
        left=1.2 / figure.get_figwidth(),
        right=0.995,
        bottom=0.01,
        top=1 - 0.3 * bool(columns) / figure.get_figheight(),
        wspace=0.04,
        hspace=0.04,
    )
    return figure


def mask_grid(masks: Mapping[str, Tensor], columns: int = 5) -> Figure:
    """Masks drawn patch by patch: visible patches light, hidden ones dark.

    Args:
        masks: title → bool [rows, columns of the patch grid], True where hidden. columns: pictures
            in one row.
    """
    if not masks or columns < 1:
        raise InputError("there are no masks to draw, or no columns to draw them in")
    for title, mask in masks.items():
        if mask.ndim != 2:
            raise InputError(f"mask {title!r} must be [rows, columns], not {list(mask.shape)}")
    lines = -(-len(masks) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(1.75 * columns, 2.1 * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(masks) :]:
        axis.set_visible(False)
    for axis, (title, mask) in zip(axes.flat, masks.items()):
        axis.pcolormesh(
            mask.flip(0).float().numpy(),
            cmap="Blues",
            vmin=-0.15,
            vmax=1.25,
            edgecolors="#9aa5b1",
            linewidth=0.4,
        )
        axis.set(xticks=[], yticks=[], aspect="equal")
        axis.set_title(title, fontsize=9)
    return figure


def learning_curves(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    ylabel: str = "loss",
    skip: float = 0.02,
) -> Figure:
    """Loss against step, one panel a group of runs, logarithmic loss axis shared by the panels.

    Args:
        panels: title → run name → (steps, losses). skip: share of the steps left out at the start,
            where the loss is off the scale.
    """
    if not panels or not all(panels.values()):
        raise InputError("learning curves need at least one panel, and one run in each")
    for name, (steps, losses) in (run for runs in panels.values() for run in runs.items()):
        if not len(steps) or len(steps) != len(losses):
            raise InputError(
                f"the curve of {name!r} has {len(steps)} steps and {len(losses)} losses: it needs"
                " as many of both, at least one"
            )
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(4.4 * len(panels), 3.1),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, (title, runs) in zip(axes[0], panels.items()):
        for k, (name, (steps, losses)) in enumerate(runs.items()):
            s, v = np.asarray(steps, float), np.asarray(losses, float)
            keep = s > skip * s.max()
            every = max(1, int(keep.sum()) // 8)
            axis.plot(
                s[keep],
                v[keep],
                color=PALETTE[k % 8],
                marker=MARKERS[k % 8],
                markevery=(k % every, every),
                ms=4,
                lw=1.3,
                label=name,
            )
        axis.set_yscale("log")
        for set_formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            set_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.tick_params(axis="y", which="both", labelsize=8)
        axis.set(title=title, xlabel="optimiser step")
        axis.grid(alpha=0.25, which="both")
        axis.legend(fontsize=8, frameon=False)
    axes[0][0].set_ylabel(ylabel)
    return figure


def bars(values: Mapping[str, Mapping[str, float]], ylabel: str, labels: str = "{:.0f}") -> Figure:
    """Bar charts side by side: panel title → bar name → value; each bar carries its value, written
    by the format ``labels``."""
    if not values or not all(values.values()):
        raise InputError("bar charts need at least one panel, and one bar in each")
    figure, axes = plt.subplots(
        1,
        len(values),
        figsize=(4.4 * len(values), 2.7),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for k, (axis, (title, panel)) in enumerate(zip(axes[0], values.items())):
        drawn = axis.bar(list(panel), list(panel.values()), color=PALETTE[k % 8], width=0.65)
        axis.bar_label(
            drawn, labels=[labels.format(v) for v in panel.values()], fontsize=8, padding=2
        )
        axis.set(title=title)
        axis.margins(y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel(ylabel)
    return figure


def world_anatomy(images: Tensor, masks: Tensor, boxes: Tensor, parts: Tensor) -> Figure:
    """What the embedded world knows of its images: picture, object mask, box, parts, in four rows.

    Args:
        images: uint8 [N, 3, S, S]; masks: bool [N, S, S]; boxes: float [N, 4] in pixels; parts:
            uint8 [N, S, S].
    """
    size = (len(images), *images.shape[-2:])
    if (
        tuple(masks.shape) != size
        or tuple(parts.shape) != size
        or tuple(boxes.shape) != (len(images), 4)
    ):
        raise InputError(
            f"images {list(images.shape)}, masks {list(masks.shape)}, boxes {list(boxes.shape)} and"
            f" parts {list(parts.shape)} are not of one batch"
        )
    figure = image_rows(
        {
            "image": images,
            "object mask": masks[:, None].float(),
            "box": images,
            "parts": torch.zeros_like(images),
        }
    )
    axes = np.array(figure.axes).reshape(4, len(images))
    for axis, (x0, y0, x1, y1) in zip(axes[2], boxes.tolist()):
        axis.add_patch(
            plt.Rectangle(
                (x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=PALETTE[1], lw=1.6
            )
        )
    for axis, part in zip(axes[3], parts):
        axis.clear()
        axis.imshow(
            part.numpy(),
            interpolation="nearest",
            cmap=plt.matplotlib.colors.ListedColormap(["#f2f2f2", *PALETTE]),
            vmin=0,
            vmax=8,
        )
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[3][0].set_ylabel("parts", rotation=0, ha="right", va="center", fontsize=9)
    return figure


def curves(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    xlabel: str,
    ylabel: str,
    points: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]] | None = None,
    share_y: bool = True,
) -> Figure:
    """Lines in panels, and with ``points`` markers over them (theory and measurement).

    Args:
        panels: title → name → (x, y). points: title → name → (x, y), in the colours of the lines in
            their order; without any, the lines carry markers themselves. share_y: one scale for all
            panels.
    """
    points = points or {}
    if not panels or not all(panels.values()) or not points.keys() <= panels.keys():
        raise InputError(
            "curves need at least one panel with a line in each, and points only in these panels"
        )
    for title, name, (x, y) in (
        (t, n, xy)
        for group in (panels, points)
        for t, lines in group.items()
        for n, xy in lines.items()
    ):
        if len(x) != len(y) or not len(x):
            raise InputError(
                f"curve {name!r} of panel {title!r} has {len(x)} x and {len(y)} y: give as many of"
                " both, at least one"
            )
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(min(9.6, 4.4 * len(panels) + 0.6), 3.1),
        squeeze=False,
        sharey=share_y,
        layout="constrained",
    )
    for axis, (title, lines) in zip(axes[0], panels.items()):
        for k, (name, (x, y)) in enumerate(lines.items()):
            axis.plot(
                x,
                y,
                color=PALETTE[k % 8],
                marker=None if points else MARKERS[k % 8],
                ms=4,
                lw=1.4,
                label=name,
            )
        for k, (name, (x, y)) in enumerate(points.get(title, {}).items()):
            axis.plot(
                x, y, color=PALETTE[(k + 1) % 8], marker=MARKERS[k % 8], ls="none", ms=5, label=name
            )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(xlabel)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, frameon=False)
    axes[0][0].set_ylabel(ylabel)
    return figure


def heatmaps(
    panels: Mapping[str, np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    xlabel: str,
    ylabel: str,
    label: str,
    number: str = "{:.2f}",
) -> Figure:
    """Tables of numbers as coloured squares, one scale for all panels; each square carries its
    number, NaN is left blank.

    Args:
        panels: title → float [len(rows), len(columns)]. rows, columns: names of their values.
            label: what the numbers are. number: their format.
    """
    grids = {title: np.asarray(values, float) for title, values in panels.items()}
    for title, values in grids.items():
        if values.shape != (len(rows), len(columns)):
            raise InputError(
                f"heatmap {title!r} is {list(values.shape)}, but there are {len(rows)} rows and"
                f" {len(columns)} columns"
            )
    if not grids or not any(np.isfinite(values).any() for values in grids.values()):
        raise InputError("heatmaps need at least one panel and one finite number")
    low, high = (
        f([f(v[np.isfinite(v)]) for v in grids.values() if np.isfinite(v).any()])
        for f in (np.min, np.max)
    )
    figure, axes = plt.subplots(
        1,
        len(grids),
        figsize=(min(9.6, (0.62 * len(columns) + 0.5) * len(grids) + 1.4), 0.42 * len(rows) + 1.25),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, (title, values) in zip(axes[0], grids.items()):
        drawn = axis.imshow(values, cmap="viridis", vmin=low, vmax=high, aspect="auto")
        for (r, c), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = value < low + 0.6 * (high - low) or high == low
                axis.text(
                    c,
                    r,
                    number.format(value),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                )
        axis.set(
            title=title,
            xlabel=xlabel,
            xticks=range(len(columns)),
            yticks=range(len(rows)),
            xticklabels=columns,
            yticklabels=rows,
        )
        axis.tick_params(labelsize=8, length=0)
        axis.spines[:].set_visible(False)
    axes[0][0].set_ylabel(ylabel)
    figure.colorbar(drawn, ax=list(axes[0]), label=label, fraction=0.05, pad=0.02)
    return figure
