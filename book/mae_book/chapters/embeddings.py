"""Figure 8: images' features in the plane, by t-SNE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.drawing.figures import MARKERS, PALETTE


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
