"""What a design of masks does to c, by Theorem 1 alone (§3.6, claims S1 and S2): the level of the
shared latents, and how much is still predicted, for masks with a margin at their boundary and for
masks that hide whole groups of patches. Algorithm 1 runs unchanged: a patch in the margin is
ignored, neither masked nor visible. Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, bootstrap
from mae_lib.masks.designs import check_groups, sample_design
from mae_lib.masks.masking import Law, MaskSpec, boundary, mask_batches
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.shared import common_ancestors_batch, locate_shared_batch

LAWS: tuple[tuple[str, Law, int], ...] = (
    ("unit 1", "random", 1),
    ("unit 2", "random", 2),
    ("unit 4", "random", 4),
    ("independent", "independent", 1),
    ("block", "block", 1),
)
"""Name, law and mask unit of the rows of `margin_table`."""


@dataclass(frozen=True)
class MaskLevels:
    """What the masks of one design share, with 95 % bootstrap intervals over masks.

    Attributes:
        level: mean level of the members of c, all masks' members together; NaN where c is always
            empty.
        nearest: mean over the predicted patches of the level at which each meets the visible part,
            the lowest latent above it that is in CA.
        empty: share of the masks whose c is empty. predicted: share of the hidden patches that are
            still predicted, 1 without a margin.
    """

    level: Interval
    nearest: Interval
    empty: Interval
    predicted: Interval


@dataclass(frozen=True)
class MarginRow:
    """One row of `margin_table`."""

    law: str
    ratio: float
    margin: int
    levels: MaskLevels


def mask_levels(
    graph: LatentGraph, batches: Iterable[tuple[Tensor, Tensor]], seed: int = 0
) -> MaskLevels:
    """The levels of c under masks that come as pairs (masked, ignored), bool [B, n_observables]
    each, as `masking.mask_batches` makes them.

    A mask that hides nothing counts as one with an empty c. InputError for no mask at all.
    """
    heights = torch.tensor([graph.levels[z] for z in graph.latents], dtype=torch.float64)
    above = torch.tensor(
        [[z in graph.ancestors[x] for z in graph.latents] for x in graph.observables]
    )
    rows = []
    for masked, ignored in batches:
        c, common = (
            locate_shared_batch(graph, masked, ignored).double(),
            common_ancestors_batch(graph, masked, ignored),
        )
        # Level of the lowest member of CA above each patch; infinite where it meets nothing
        # visible.
        meets = torch.full(masked.shape, torch.inf, dtype=torch.float64)
        for k, height in enumerate(heights):
            meets = torch.where(common[:, k, None] & above[:, k], meets.clamp_max(height), meets)
        meets = torch.where(masked & meets.isfinite(), meets, 0)
        rows.append(
            torch.stack(
                [
                    c @ heights,
                    c.sum(1),
                    meets.sum(1),
                    (meets > 0).sum(1),
                    masked.sum(1),
                    (masked | ignored).sum(1),
                ],
                1,
            )
        )
    if not rows:
        raise InputError("the levels of c need at least one mask")
    table = torch.cat(rows)
    ratio = lambda a, b: bootstrap(
        table[:, [a, b]], lambda x: x[..., 0].sum(1) / x[..., 1].sum(1), seed=seed
    )
    return MaskLevels(
        ratio(0, 1), ratio(2, 3), bootstrap((table[:, 1] == 0).double(), seed=seed), ratio(4, 5)
    )


def margin_table(
    graph: LatentGraph,
    grid: tuple[int, int],
    ratios: Sequence[float] = (0.25, 0.5, 0.75),
    margins: Sequence[int] = (0, 1, 2),
    masks: int = 1024,
    seed: int = 0,
) -> list[MarginRow]:
    """S1's prediction: `mask_levels` for every law of `LAWS` that fits the grid, every ratio and
    margin (patches).

    Args:
        graph: over the patches of ``grid``. masks: drawn for each row; the same masks for every
            margin.
    """
    return [
        MarginRow(
            name,
            ratio,
            margin,
            mask_levels(graph, mask_batches(law, grid, ratio, unit, margin, masks, seed), seed),
        )
        for name, law, unit in LAWS
        if grid[0] % unit == grid[1] % unit == 0 and unit < min(grid)
        for ratio in ratios
        for margin in margins
    ]


def group_batches(
    groups: Sequence[int] | None,
    grid: tuple[int, int],
    ratio: float,
    margin: int = 0,
    masks: int = 1024,
    seed: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Masks that hide whole groups of patches at random, as pairs (masked, ignored); a group is cut
    where the ratio asks for it.

    Args:
        groups: a number for each patch; None hides random patches. ratio: share of the patches to
            hide. margin: as in `masking.mask_batches`.
    """
    spec = MaskSpec(grid, ratio)
    if groups is not None:
        check_groups(groups, spec)
    hidden = sample_design(
        "random" if groups is None else "groups",
        spec,
        masks,
        torch.Generator().manual_seed(seed),
        groups or (),
    )[1]
    covered = torch.zeros(masks, spec.patches, dtype=torch.bool).scatter_(1, hidden, True)
    ignored = boundary(covered, grid, margin) if margin else torch.zeros_like(covered)
    yield covered & ~ignored, ignored


def subtree_groups(graph: LatentGraph, level: int) -> tuple[int, ...]:
    """For each observable the number of the subtree at ``level`` that it belongs to, from 0 in the
    order of first observables.

    InputError for a level that is not between the observables and the top, or where an observable
    has not exactly one ancestor of it.
    """
    if not 1 <= level < graph.height:
        raise InputError(
            f"level {level!r} has no subtrees to hide and to keep: choose 1 to {graph.height - 1}"
        )
    roots = [[z for z in graph.ancestors[x] if graph.levels[z] == level] for x in graph.observables]
    if bad := [x for x, found in zip(graph.observables, roots) if len(found) != 1]:
        raise InputError(
            f"observable {bad[0]!r} has not exactly one ancestor at level {level}: the subtrees of"
            " that level are no partition"
        )
    numbers = {z: k for k, z in enumerate(dict.fromkeys(found[0] for found in roots))}
    return tuple(numbers[found[0]] for found in roots)


def shifted_groups(
    groups: Sequence[int], grid: tuple[int, int], rows: int, columns: int
) -> tuple[int, ...]:
    """The same groups moved over the grid, around its ends, and numbered anew: as large, as
    contiguous but for the rim, and off the tree."""
    moved = np.roll(np.array(groups).reshape(grid), (rows, columns), (0, 1)).ravel()
    numbers = {g: k for k, g in enumerate(dict.fromkeys(moved.tolist()))}
    return tuple(numbers[g] for g in moved.tolist())
