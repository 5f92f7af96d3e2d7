"""How often each latent is in c under a law of masks, and at which levels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.masks.masking import mask_batches
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.shared import locate_shared_batch


def membership(graph: LatentGraph, batches: Iterable[Tensor | tuple[Tensor, Tensor]]) -> np.ndarray:
    """How often each latent is in c, over masks that come in batches and need never be in memory
    together.

    Args:
        batches: bool masks [B, n_observables], or pairs of them and what they ignore, as for
            `locate_shared_batch`.

    Returns:
        float64 [n_latents], the share of all masks whose c holds the latent.
    """
    counts, masks = np.zeros(len(graph.latents), np.int64), 0
    for batch in batches:
        c = (
            locate_shared_batch(graph, *batch)
            if isinstance(batch, tuple)
            else locate_shared_batch(graph, batch)
        )
        counts += _column_sums(c)
        masks += len(c)
    if not masks:
        raise InputError("membership needs at least one mask")
    return counts / masks


def tree_membership(graph: LatentGraph, ratio: float) -> np.ndarray:
    """P(z ∈ c) in a tree, in closed form, where each observable is masked by itself with
    probability ``ratio`` (ours, not the paper's).

    A latent with N observables below it, shared out to its children as n₁ + … + n_k, is in c unless
    all N are masked, or all visible, or a child is mixed: P = ∏ᵢ (r^nᵢ + (1 − r)^nᵢ) − r^N − (1 −
    r)^N.

    Returns:
        float64 [n_latents]. InputError if a node has several parents, or for a ratio outside [0,
        1].
    """
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= 1:
        raise InputError(f"masking ratio {ratio!r} must be a number in [0, 1]")
    for v, parents in graph.parents.items():
        if len(parents) > 1:
            raise InputError(
                f"the closed form holds for trees, and {v!r} has {len(parents)} parents: use"
                " membership() on random masks"
            )
    leaves = dict.fromkeys(graph.observables, 1)
    found = {}
    for z in reversed(graph.latents):
        below = [leaves[w] for w in graph.children[z]]
        leaves[z] = sum(below)
        pure = np.prod([ratio**n + (1 - ratio) ** n for n in below])
        found[z] = max(0.0, float(pure - ratio ** leaves[z] - (1 - ratio) ** leaves[z]))
    return np.array([found[z] for z in graph.latents])


def expected_spectrum(graph: LatentGraph, probabilities: np.ndarray) -> np.ndarray:
    """Expected number of members of c at each level, from the chance of each latent: float64
    [height + 1], index = level."""
    levels = np.array([graph.levels[z] for z in graph.latents], np.int64)
    return np.bincount(levels, weights=probabilities, minlength=graph.height + 1)


def mean_level(spectrum: np.ndarray) -> float:
    """Mean level of the members of c under an expected spectrum; NaN where c is always empty."""
    return (
        float((spectrum * np.arange(len(spectrum))).sum() / spectrum.sum())
        if spectrum.sum()
        else float("nan")
    )


def share_above(spectrum: np.ndarray, level: int = 1) -> float:
    """Share of the members of c that lie above ``level``, under an expected spectrum; NaN where c
    is always empty."""
    return float(spectrum[level + 1 :].sum() / spectrum.sum()) if spectrum.sum() else float("nan")


def level_map(
    graph: LatentGraph,
    grid: tuple[int, int],
    rows: Sequence[int | str],
    ratios: Sequence[float],
    margin: int = 0,
    masks: int = 4096,
    seed: int = 0,
) -> np.ndarray:
    """Mean level of c under random masks, for each law and ratio.

    Args:
        graph: over the patches of ``grid``. rows: mask units, or "block" for one contiguous block.
            margin: masked patches that near to the visible part are ignored. masks: drawn for each
            entry.

    Returns:
        float64 [len(rows), len(ratios)]; NaN where the ratio hides no unit or all of them, and
        where c has fewer than 0.05 members on average.
    """
    values = np.full((len(rows), len(ratios)), np.nan)
    for (i, j), _ in np.ndenumerate(values):
        law, unit = ("block", 1) if rows[i] == "block" else ("random", rows[i])
        try:
            batches = list(
                mask_batches(law, grid, ratios[j], unit, margin=margin, masks=masks, seed=seed)
            )
        except InputError as error:
            if "hides no unit" in str(error) or "keeps no unit" in str(error):
                continue
            raise
        spectrum = expected_spectrum(graph, membership(graph, batches))
        if spectrum.sum() >= 0.05:
            values[i, j] = mean_level(spectrum)
    return values


def _column_sums(rows: Tensor | np.ndarray) -> np.ndarray:
    """bool [B, n] → int64 [n]: how often each column is True."""
    if isinstance(rows, Tensor) and rows.device.type != "cpu":
        return rows.sum(0).cpu().numpy()
    ones, sums = np.asarray(rows).view(np.uint8), np.zeros(rows.shape[1], np.int64)
    for start in range(0, len(ones), 255):  # as many as a byte can count
        sums += ones[start : start + 255].sum(0, dtype=np.uint8)
    return sums
