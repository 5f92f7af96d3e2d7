"""How the levels of c are spread under random masks of one setting (§2.3, Figure 4): what the
explorer of levels tabulates, and what it offers to choose from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import DRAWS, LEVEL, Interval
from mae_lib.masks.masking import Law, mask_batches
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import quad_tree
from mae_lib.theory.shared import locate_shared_batch

RATIOS = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""The masking ratios that are offered where none are given: 0.05, 0.1, … 0.95."""

MOST_MASKS = 4_000
"""Masks drawn for a setting, at most: a share's interval is then no wider than 0.03, and a page of
some 300 settings is made in half a minute."""

EXAMPLES = 3
"""Masks of a setting that are drawn: the first of its sample."""

MEASURES = {"share": "share of c's members", "chance": "a latent's chance to be in c"}
"""What the spectrum shows, level by level → its words."""

LAW_WORDS = {
    "random": "random units, an exact number",
    "independent": "every patch by itself",
    "block": "one contiguous block",
}
"""Law of masks → its words in the explorer."""


def level_graphs() -> dict[str, tuple[LatentGraph, tuple[int, int]]]:
    """The hierarchies to choose from in the explorer and by chapter 3's parameter ``level_graph``:
    name → graph and its grid of patches."""
    return {
        "quad-tree-16": (quad_tree((16, 16)), (16, 16)),
        "binary-tree-16": (quad_tree((16, 16), 2), (16, 16)),
        "quad-tree-14": (quad_tree((14, 14)), (14, 14)),
    }


@dataclass(frozen=True)
class Levels:
    """The levels of c under random masks of one setting, with 95 % bootstrap intervals over the
    masks.

    Attributes:
        share, chance: one a level, from level 1: the share of all masks' members of c that are at
            the level, and the chance that a latent of the level is in c. A share is NaN where c is
            always empty. Where no mask has a latent of the level in c, the interval is 0 to 0: a
            bootstrap cannot tell how rare that is.
        level: mean level of the members; NaN where c is always empty. members: how many c has.
        hidden: share of the patches that the masks hide, their mean.
        masks, c: bool [`EXAMPLES`, patches] and [`EXAMPLES`, latents]: the first masks, and what is
            in their c.
    """

    share: tuple[Interval, ...]
    chance: tuple[Interval, ...]
    level: Interval
    members: Interval
    hidden: float
    masks: Tensor
    c: Tensor


def sampled_levels(
    graph: LatentGraph,
    grid: tuple[int, int],
    law: Law,
    unit: int,
    ratio: float,
    masks: int = MOST_MASKS,
    seed: int = 0,
) -> Levels:
    """The levels of c under ``masks`` masks of `masking.mask_batches`, by `locate_shared_batch`.

    Raises:
        InputError: masks that there are none of (a ratio that hides no unit, for instance), or more
            than `MOST_MASKS` of them.
    """
    if not 1 <= masks <= MOST_MASKS:
        raise InputError(f"{masks} masks a setting: draw 1 to {MOST_MASKS}")
    hidden = torch.cat(
        [masked for masked, _ in mask_batches(law, grid, ratio, unit, masks=masks, seed=seed)]
    )
    c = locate_shared_batch(graph, hidden)
    at_level = torch.tensor(
        [[graph.levels[z] == level for level in range(1, graph.height + 1)] for z in graph.latents],
        dtype=torch.float64,
    )
    counts = c.double() @ at_level

    def measures(totals: Tensor) -> Tensor:
        """[draws, levels] members of c in all masks → [draws, 2 · levels + 2]."""
        whole = totals.sum(1, keepdim=True)
        mean = totals @ torch.arange(1, graph.height + 1, dtype=torch.float64)[:, None] / whole
        return torch.cat(
            [totals / whole, totals / (masks * at_level.sum(0)), mean, whole / masks], 1
        )

    values = measures(counts.sum(0, keepdim=True))[0]
    ends = torch.full((2, len(values)), math.nan, dtype=torch.float64)
    if masks > 1:
        # A resampling whose c are all empty has no shares: it is left out, as `intervals.bootstrap`
        # does.
        ends = torch.nanquantile(
            measures(_resamplings(masks) @ counts),
            torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64),
            dim=0,
        )
    found = [Interval(*each, masks) for each in zip(values.tolist(), *ends.tolist())]
    n = graph.height
    return Levels(
        tuple(found[:n]),
        tuple(found[n : 2 * n]),
        found[-2],
        found[-1],
        float(hidden.double().mean()),
        hidden[:EXAMPLES],
        c[:EXAMPLES],
    )


@lru_cache(maxsize=1)
def _resamplings(n: int) -> Tensor:
    """float64 [`DRAWS`, n]: how often each resampling of `intervals.bootstrap` takes each of n
    rows, so that one product serves every measure."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(n, (50, n), generator=generator) for _ in range(0, DRAWS, 50)]
    return torch.stack(
        [torch.bincount(row, minlength=n) for rows in drawn for row in rows]
    ).double()
