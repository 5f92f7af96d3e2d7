"""Drawing and tabulating of chapter 11 (§3.6): which pixels count once a mask's boundary is left
out, comparisons of arms paired by seed, what can be read out and what it costs. Takes records,
numbers and images, returns Matplotlib figures and tables; reads no file and trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, over_seeds
from mae_lib.drawing.figures import HIDDEN_GREY, MARKERS, PALETTE, image_rows
from mae_lib.masks.designs import margin_maps
from mae_lib.masks.masking import hidden_map
from mae_lib.training.config import PretrainConfig

KINDS = {
    "shown to the encoder": None,
    "visible, but left out": "#F0E442",
    "hidden, but left out of the loss": PALETTE[4],
    "hidden and counted": PALETTE[0],
}
"""What becomes of a pixel under a mask with a margin, in the order of their numbers, and the colour
it is drawn in; None: its own."""


def pixel_kinds(hidden: Tensor, counted: Tensor, shown: Tensor | None = None) -> Tensor:
    """Each pixel's number in `KINDS`.

    Args:
        hidden: bool [B, 1, H, W], True where a pixel is hidden. counted, shown: as
            :func:`mae_lib.masks.designs.margin_maps` gives; without ``shown`` the encoder gets all
            visible pixels.

    Returns:
        uint8 [B, H, W].
    """
    if (
        hidden.shape != counted.shape
        or (shown is not None and shown.shape != hidden.shape)
        or hidden.ndim != 4
        or hidden.shape[1] != 1
    ):
        raise InputError(
            f"hidden {list(hidden.shape)} and counted {list(counted.shape)} must both be [B, 1, H,"
            " W], and shown too"
        )
    visible = torch.where(torch.ones_like(hidden) if shown is None else shown, 0, 1)
    return torch.where(hidden, torch.where(counted, 3, 2), visible)[:, 0].to(torch.uint8)


def drawn_kinds(config: PretrainConfig, masks: int, seed: int = 0) -> Tensor:
    """`pixel_kinds` under masks drawn as one pretraining draws them.

    Args:
        config: of random masks, with its margin, which may be 0. masks: how many. seed: of the
            masks.

    Returns:
        uint8 [masks, H, W].
    """
    hidden = config.mask.sample(masks, torch.Generator().manual_seed(seed))[1]
    patch, grid = config.model.patch, config.model.grid
    counted, shown = margin_maps(hidden, grid, patch, config.margin)
    covered = (
        hidden_map(hidden, config.mask.patches)
        .view(-1, 1, *grid)
        .repeat_interleave(patch, 2)
        .repeat_interleave(patch, 3)
    )
    return pixel_kinds(covered, counted, shown if config.strict else None)


def kept_shares(kinds: Tensor) -> tuple[float, float]:
    """What a margin leaves: the share of the hidden pixels that count, and of the visible ones that
    are shown to the encoder.

    Args:
        kinds: each pixel's number in `KINDS`, any shape. InputError where nothing is hidden, or
            everything.
    """
    hidden, visible = (kinds >= 2).sum(), (kinds < 2).sum()
    if not hidden or not visible:
        raise InputError(
            "the shares that a margin leaves need hidden pixels and visible ones: give masks that"
            " hide a part of the image"
        )
    return float((kinds == 3).sum() / hidden), float((kinds == 0).sum() / visible)


def margin_rows(images: Tensor, rows: Mapping[str, Tensor], size: float = 1.15) -> Figure:
    """Images under masks, each pixel in the colour of what becomes of it.

    Args:
        images: uint8 or float in [0, 1], [N, 3, H, W]. rows: name → :func:`pixel_kinds`, [N, H, W].
            size: inches a picture.
    """
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    painted = {"image": x}
    for name, kinds in rows.items():
        if kinds.shape != (len(x), *x.shape[2:]) or int(kinds.max()) >= len(KINDS):
            raise InputError(
                f"row {name!r} is {list(kinds.shape)}, for images {list(x.shape)}: give each"
                f" pixel's number, 0 … {len(KINDS) - 1}"
            )
        picture = x
        for number, colour in enumerate(KINDS.values()):
            if colour is not None:
                tint = 0.25 * x + 0.75 * torch.tensor(to_rgb(colour)).view(1, 3, 1, 1)
                picture = torch.where((kinds == number)[:, None], tint, picture)
        painted[name] = picture
    figure = image_rows(painted, size=size)
    numbers = torch.cat([kinds.flatten() for kinds in rows.values()]).unique().tolist()
    handles = [
        Patch(color=colour or str(HIDDEN_GREY), label=words)
        for k, (words, colour) in enumerate(KINDS.items())
        if k in numbers and colour is not None
    ]
    below = 0.3 / (figure.get_figheight() + 0.3)
    figure.set_figheight(figure.get_figheight() + 0.3)
    figure.subplots_adjust(bottom=below)
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), fontsize=8, frameon=False
    )
    return figure


def partitions(panels: Mapping[str, Tensor], size: float = 1.6) -> Figure:
    """Groups of patches on their grid, each group in a colour and with its number.

    Args:
        panels: title → int64 [rows, columns], group numbers from 0. size: inches a panel.
    """
    if not panels or not all(groups.ndim == 2 for groups in panels.values()):
        raise InputError("partitions need at least one panel of group numbers, [rows, columns]")
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(size * len(panels), size + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, groups) in zip(axes[0], panels.items()):
        few = int(groups.max()) < 8
        axis.imshow(
            groups.numpy(),
            cmap=ListedColormap(["#ffffff", *PALETTE[:7]]) if few else "turbo",
            vmin=0,
            vmax=7 if few else None,
            alpha=0.55,
        )
        for r, row in enumerate(groups.tolist()):
            for c, number in enumerate(row):
                axis.text(c, r, str(number), ha="center", va="center", fontsize=6)
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=9)
    return figure


def paired_differences(rows: Sequence[tuple[str, str, Sequence[float]]], xlabel: str) -> Figure:
    """One row a comparison: each seed's difference as a dot, their mean with its 95 % interval as a
    line, zero as a dashed line.

    Args:
        rows: (group, label, differences, one a seed); rows of a group share a colour and stand
            together. xlabel: what differs, with its unit.
    """
    if not rows or not all(len(values) for _, _, values in rows):
        raise InputError(
            "there are no differences to draw: give at least one comparison with one seed"
        )
    groups = list(dict.fromkeys(group for group, _, _ in rows))
    figure, axis = plt.subplots(figsize=(7.6, 0.34 * len(rows) + 0.9), layout="constrained")
    axis.axvline(0, color="black", lw=1, ls="--")
    for place, (group, _, values) in enumerate(rows):
        colour, found = PALETTE[groups.index(group) % 8], over_seeds(values)
        if found.n > 1:
            axis.plot(
                [found.low, found.high],
                [place, place],
                color=colour,
                lw=2,
                alpha=0.5,
                solid_capstyle="butt",
            )
        axis.plot([found.value], [place], ls="none", marker="|", ms=13, mew=2, color=colour)
        axis.plot(
            list(values),
            [place] * len(values),
            ls="none",
            marker=MARKERS[groups.index(group) % 8],
            ms=4.5,
            color=colour,
        )
    axis.set(
        yticks=range(len(rows)),
        yticklabels=[label for _, label, _ in rows],
        ylim=(len(rows) - 0.4, -0.6),
        xlabel=xlabel,
    )
    axis.tick_params(labelsize=8)
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right", "left"]].set_visible(False)
    return figure


def readout_against_cost(
    readouts: Mapping[str, Mapping[str, Interval]],
    costs: Mapping[str, float],
    ticks: Mapping[str, str],
    floors: Mapping[str, float],
    xlabel: str,
    size: float = 2.5,
) -> Figure:
    """What can be read out against what training an image costs: one panel a latent, a point a run,
    joined in the order of the cost.

    Args:
        readouts: title → run → value with its interval. costs: run → cost, above 0. ticks: run →
            what is written at its point. floors: title → what features that say nothing give, a
            dotted line. size: inches a panel.
    """
    if not readouts or not all(runs and runs.keys() <= costs.keys() for runs in readouts.values()):
        raise InputError(
            "readouts against cost need at least one panel, a run in each, and the cost of"
            " every run"
        )
    figure, axes = plt.subplots(
        1,
        len(readouts),
        figsize=(size * len(readouts) + 0.3, size + 0.35),
        squeeze=False,
        layout="constrained",
    )
    for k, (axis, (title, runs)) in enumerate(zip(axes[0], readouts.items())):
        order = sorted(runs, key=costs.get)
        x, found = [costs[run] for run in order], [runs[run] for run in order]
        errors = [
            [0.0 if i.n == 1 else i.value - i.low for i in found],
            [0.0 if i.n == 1 else i.high - i.value for i in found],
        ]
        axis.errorbar(
            x,
            [i.value for i in found],
            yerr=errors,
            color=PALETTE[k % 8],
            marker=MARKERS[k % 8],
            ms=5,
            lw=1.3,
            capsize=2.5,
        )
        for place, run, interval in zip(x, order, found):
            axis.annotate(
                ticks[run],
                (place, interval.value),
                xytext=(4, 5),
                textcoords="offset points",
                fontsize=7.5,
            )
        if title in floors:
            axis.axhline(floors[title], color="#555555", lw=0.9, ls=":")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(xlabel, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.16)
        axis.grid(alpha=0.25)
    return figure


# --------------------------------------------------------------------------------------------------
# Tables, and the numbers that figures are drawn from
