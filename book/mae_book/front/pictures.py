"""The two pictures of the first page: the whole story in one row, and what was asked of the masking
ratio beside what was found."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mae_book.chapters import why_75
from mae_book.explorers.mask_models import READ
from mae_book.explorers.mask_scene import Scenes
from mae_book.sweep.ratio_prediction import RATIOS
from mae_book.verdicts.claims import TABLE_1_RATIO
from mae_book.verdicts.ladder import RUNGS
from mae_lib.base.intervals import over_seeds
from mae_lib.base.runs import RATIO_RUNS
from mae_lib.drawing.figures import HIDDEN_GREY, PALETTE
from mae_lib.drawing.graph_figures import node_kinds
from mae_lib.masks.masking import MaskSpec
from mae_lib.worlds.law import CLASSES

LENGTHS = {"world": "1,200 steps of 128"} | {
    rung.data: f"{steps:,} steps of 16" for steps, rung in RUNGS.items()
}
"""Folder under results/probe → its training in words."""

KINDS = {
    "c": (PALETTE[2], "*"),
    "common": (PALETTE[2], "D"),
    "s_m": (PALETTE[1], "v"),
    "s_mc": (PALETTE[0], "^"),
    "masked": (PALETTE[1], "s"),
    "visible": (PALETTE[0], "s"),
}
"""Kind of node → its colour and marker; filled where it is in c or masked."""


WIDTHS = (1, 1, 1.9, 1, 0.9)
"""Of the story's panels, in heights."""


def probes() -> dict[str, dict[str, dict[int, float]]]:
    """Folder → run → seed → accuracy, of the lengths of training of which there are results."""
    return {data: found for data in LENGTHS if (found := why_75.probes(data))}


def story(length: int = 9600, ratio: float = 0.75, image: int = 8, seed: int = 3) -> Figure:
    """Image → mask → c in the hierarchy → what is rebuilt → what the encoder knows, of one model
    and one mask; by `mae_book.explorers.mask_scene`."""
    scenes = Scenes()
    hidden = MaskSpec(scenes.size.grid, 0.75).sample(1, torch.Generator().manual_seed(seed))[1]
    mask = sum(1 << k for k in hidden[0].tolist())
    seen, gone = scenes.view(length, ratio, image, mask), scenes.hidden(mask)
    patch = torch.ones(scenes.size.patch, scenes.size.patch)
    covered = torch.kron(gone.view(scenes.side, scenes.side).float(), patch) > 0
    original = scenes.original(image)
    figure, axes = plt.subplots(
        1, 5, figsize=(8.8, 1.85), layout="constrained",
        gridspec_kw={"width_ratios": WIDTHS},
    )  # fmt: skip
    pictures = {0: original, 1: torch.where(covered, HIDDEN_GREY, original), 3: seen.rebuilt}
    for place, picture in pictures.items():
        axes[place].imshow(picture.permute(1, 2, 0).numpy())
    titles = ("1  an image", "2  its mask", "3  c: what both parts share",
              "4  rebuilt", "5  its code says")  # fmt: skip
    for axis, title, width in zip(axes, titles, WIDTHS):
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
        axis.set_box_aspect(1 / width)
    _tree(axes[2], scenes, mask)
    shares = seen.readouts[: READ["class"]].softmax(0)
    best = shares.argsort(descending=True)[:4].tolist()
    label = int(scenes.batch.labels[image])
    axis = axes[4]
    axis.set_axis_on()
    colours = [PALETTE[2] if k == label else "#aab2bb" for k in best]
    axis.barh([CLASSES[k] for k in best], shares[best].tolist(), 0.62, color=colours)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xticks=[])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, labelsize=9)
    for row, k in enumerate(best):
        axis.text(float(shares[k]) + 0.02, row, f"{100 * shares[k]:.0f} %", va="center", fontsize=9)
    return figure


def _tree(axis: Axes, scenes: Scenes, mask: int) -> None:
    """The quad-tree over the patches, c lit."""
    kinds, order = node_kinds(scenes.graph, scenes.shared(mask)), scenes.order()
    for h in range(scenes.heights + 1):
        for k in range(scenes.patches >> 2 * h):
            first, x = order[k * 4**h], 4**h * (k + 0.5)
            row, column = first // scenes.side >> h, first % scenes.side >> h
            colour, marker = KINDS[kinds[f"z{h}_{row}_{column}" if h else f"x{first}"]]
            filled = kinds[f"z{h}_{row}_{column}" if h else f"x{first}"] not in ("common", "s_mc")
            if h < scenes.heights:
                over = 4 ** (h + 1) * (k // 4 + 0.5)
                axis.plot([x, over], [h, h + 1], color="#d5dae0", lw=0.8, zorder=1)
            size = (9, 90, 110, 130)[min(h, 3)] * (1 if marker in "*s" else 0.5)
            face = colour if filled else "white"
            axis.scatter(
                [x], [h], size, face, marker=marker, edgecolors=colour, linewidths=1, zorder=2
            )
    axis.margins(0.02, 0.12)


def ratio_curves() -> Figure:
    """Left, the worth of far context that was computed from the images' second moments; middle, our
    linear probes at each length of training; right, the paper's Table 1."""
    figure, axes = plt.subplots(1, 3, figsize=(9.2, 2.8), layout="constrained")
    places, far = range(len(RATIOS)), why_75.far("world")
    axes[0].plot(places, [far[run] for run in RATIO_RUNS], color=PALETTE[2], marker="x", lw=1.6)
    for k, (data, runs) in enumerate(probes().items()):
        _measured(axes[1], runs, LENGTHS[data], PALETTE[(5, 0, 6, 3)[k]])
    theirs = TABLE_1_RATIO["mean/validation"]
    axes[2].plot(places, [theirs[run] / 100 for run in RATIO_RUNS], color=PALETTE[1], marker="s",
                 ms=5, lw=1.6)  # fmt: skip
    for axis, title, label in zip(
        axes,
        ("theory: worth of far context", "measured: our models", "the paper: ImageNet, Table 1"),
        ("share of variance, G₁", "accuracy of a linear probe", "accuracy of a linear probe"),
    ):
        axis.set_title(title, fontsize=11)
        axis.set_xticks(places, [f"{ratio:g}" for ratio in RATIOS])
        axis.set(xlabel="masking ratio", ylabel=label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.25)
    axes[1].set_ylim(0.35, 1)
    axes[1].legend(fontsize=9, frameon=False, loc="lower center")
    return figure


def _measured(axis: Axes, runs: Mapping[str, Mapping[int, float]], name: str, colour: str) -> None:
    found = [over_seeds(list(runs[run].values())) for run in RATIO_RUNS]
    half = [0.0 if one.n == 1 else one.high - one.value for one in found]
    axis.errorbar(range(len(found)), [one.value for one in found], half, color=colour, marker="o",
                  ms=5, lw=1.6, capsize=3, label=f"{name}, {found[0].n} seeds")  # fmt: skip
