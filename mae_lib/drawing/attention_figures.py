"""Attention maps drawn beside their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.drawing.figures import _as_picture


def attention_rows(
    images: Tensor,
    maps: Mapping[str, Tensor],
    patches: Mapping[str, Sequence[int]] | None = None,
    masks: Tensor | None = None,
    size: float = 0.95,
) -> Figure:
    """Attention maps as in the paper's Figures 6 and 7: one row an image, the image first, then its
    maps, for instance of several models, or of several heads.

    Each map has a scale of its own, from no attention (dark) to its greatest (bright). Where the
    attention is a patch's, a red square marks the patch.

    Args:
        images: uint8 or float in [0, 1], [N, C, H, W]. maps: title → [N, rows, columns] on the grid
            of the model's patches.
        patches: title → for each image the patch whose attention it is, −1 for [CLS]. masks: bool
            [N, H, W], whose outlines are drawn in white.
        size: width of a picture, inches.
    """
    if not maps or not len(images):
        raise InputError("attention maps need at least one image and one model to be drawn")
    for title, drawn in maps.items():
        marks = len(images) if patches is None else len(patches[title])
        if drawn.ndim != 3 or len(drawn) != len(images) or marks != len(images):
            raise InputError(
                f"the maps {title!r} are {list(drawn.shape)} with {marks} patches, for"
                f" {len(images)} images: give [N, rows, columns] and a patch an image"
            )
    height, width = images.shape[2:]
    figure, axes = plt.subplots(
        len(images),
        1 + len(maps),
        figsize=(size * (1 + len(maps)) + 0.1, size * height / width * len(images) + 0.55),
        squeeze=False,
    )
    for k, row in enumerate(axes):
        picture = _as_picture(images[k])
        row[0].imshow(picture, cmap="gray" if picture.ndim == 2 else None, vmin=0, vmax=1)
        first = next(iter(maps))
        for axis, title in zip(row, (first, *maps)):
            grid = maps[title].shape[1:]
            if axis is not row[0]:
                axis.imshow(
                    maps[title][k].detach().cpu().numpy(),
                    cmap="viridis",
                    vmin=0,
                    extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                    interpolation="nearest",
                )
            if masks is not None and bool(masks[k].any()) and not bool(masks[k].all()):
                axis.contour(masks[k].float().numpy(), [0.5], colors="white", linewidths=0.7)
            if patches is not None and patches[title][k] >= 0:
                high, wide = height / grid[0], width / grid[1]
                y, x = divmod(patches[title][k], grid[1])
                axis.add_patch(
                    plt.Rectangle(
                        (x * wide - 0.5, y * high - 0.5),
                        wide,
                        high,
                        fill=False,
                        edgecolor="#ff2b2b",
                        lw=1.3,
                    )
                )
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    for axis, title in zip(axes[0], ("image", *maps)):
        axis.set_title(title, fontsize=8)
    figure.subplots_adjust(
        left=0.005,
        right=0.995,
        bottom=0.01,
        top=1 - 0.5 / figure.get_figheight(),
        wspace=0.04,
        hspace=0.04,
    )
    return figure
