"""What Theorem 1 predicts of the mask designs of §3.6, before anything is trained: three-valued
masks for the margin at the boundary (S1), and the hierarchy of one image of the embedded world for
masks that follow it (S2). Algorithm 1 itself is :mod:`mae_lib.theory.shared`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from mae_lib.base.errors import InputError
from mae_lib.masks.designs import Design, margin_maps, sample_design
from mae_lib.masks.masking import MaskSpec, hidden_map
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.shared import locate_shared_batch
from mae_lib.training.config import PretrainConfig

CLASS = "class"


def cell_masks(
    config: PretrainConfig, cell: int, masks: int, seed: int = 0, shift: int = 0, batch: int = 512
) -> Iterator[tuple[Tensor, Tensor]]:
    """Masks of a pretraining with random units and its margin, as pairs (masked, ignored) over
    square cells of pixels: what `shared.membership` takes.

    A cell is masked where its pixels are predicted, visible where the encoder sees them, and
    ignored where the margin leaves them out.

    Args:
        config: its ratio, unit, margin and strict count. cell: side in pixels; it must divide patch
            and margin, so that no cell is of two kinds.
        masks: how many in all. shift: the image's place, in cells from the top and from the left,
            on a canvas as much larger; what lies beside the image is ignored. A hierarchy over the
            canvas then has its blocks elsewhere than the mask has its units.

    Yields:
        bool [≤ batch, n²] each, n = image side / cell + shift, row-major.

    Raises:
        InputError: another design than random units, an image that is not square, or a cell that
            does not divide patch and margin.
    """
    patch, spec, (height, width) = config.model.patch, config.mask, config.model.image_size
    if config.design != "random" or height != width:
        raise InputError(
            f"{config.name} on {height} × {width} px: margins are predicted for random units on"
            " square images"
        )
    if cell < 1 or patch % cell or config.margin % cell or shift < 0:
        raise InputError(
            f"cells of {cell} px, shift {shift}: the cell must divide the patch of {patch} px and"
            f" the margin of {config.margin} px, and the shift be at least 0"
        )
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, masks, batch):
        hidden = spec.sample(min(batch, masks - start), generator)[1]
        counted, shown = (
            kind[:, 0, ::cell, ::cell]
            for kind in margin_maps(hidden, spec.grid, patch, config.margin)
        )
        covered = (
            hidden_map(hidden, spec.patches)
            .view(-1, *spec.grid)
            .repeat_interleave(patch // cell, 1)
            .repeat_interleave(patch // cell, 2)
        )
        masked, visible = covered & counted, ~covered & (shown if config.strict else True)
        ignored = pad(~(masked | visible), (shift, 0, shift, 0), value=True)
        yield pad(masked, (shift, 0, shift, 0)).flatten(1), ignored.flatten(1)


def object_graph(parts: Tensor) -> LatentGraph:
    """The hierarchy over one image's patches: class → parts → the patches that show them; a ground
    → its patches.

    Pose, texture and colour, which the whole object shares, are not told apart from the class: the
    latent ``class`` stands for all that is shared.

    Args:
        parts: int64 [L], as :meth:`mae_lib.worlds.world.World.patch_parts` gives: 0 for the ground,
            p + 1 for part p. InputError if no patch shows a part.
    """
    found = sorted(set(parts.tolist()) - {0})
    if not found:
        raise InputError("no patch shows a part of an object: there is no hierarchy to draw")
    edges = [(CLASS, f"part{p}") for p in found]
    edges += [(f"part{p}" if p else "ground", f"x{k}") for k, p in enumerate(parts.tolist())]
    return LatentGraph(edges, [f"x{k}" for k in range(len(parts))])


def shared_by_design(
    parts: Tensor,
    spec: MaskSpec,
    design: Design,
    masks: int = 64,
    seed: int = 0,
    groups: tuple[int, ...] = (),
) -> tuple[float, float]:
    """What masks of a design leave in c, over images and masks.

    Args:
        parts: int64 [N, L] of N images. masks: drawn for each image. groups: as for
            :func:`mae_lib.masks.designs.sample_design`.

    Returns:
        the share of masks in which the class is in c, and the mean share of an image's parts that
        are.
    """
    generator, counts = torch.Generator().manual_seed(seed), torch.zeros(2, dtype=torch.float64)
    for row in parts:
        graph = object_graph(row)
        hidden = sample_design(design, spec, masks, generator, groups, row.expand(masks, -1))[1]
        c = locate_shared_batch(graph, hidden_map(hidden, spec.patches))
        of_parts = [k for k, z in enumerate(graph.latents) if z.startswith("part")]
        counts += torch.tensor(
            [c[:, graph.latents.index(CLASS)].double().mean(), c[:, of_parts].double().mean()]
        )
    return tuple((counts / len(parts)).tolist())
