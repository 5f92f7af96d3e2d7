"""What the loss asks of each level, and what a level is worth to it: why the masking ratio matters
although c, by Theorem 1, is the same for a mask and its complement (ours, not the paper's; proofs
on the book's *Proofs* page, sections 7 and 8).

A hidden patch i needs E[x_i | c_i] and nothing else, c_i being Theorem 1's c for the mask {i} with
all other hidden patches ignored. So c counts latents, but the loss counts hidden patches: a level
weighs as much as the patches whose c_i stands there. How much a level can save them is exact on a
Gaussian tree, where the loss falls by what the visible patches explain. Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.masks.masking import MaskSpec, hidden_map
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.shared import common_ancestors_batch

LARGEST = 1 << 16
"""The most leaves of a tree here: a picture of 256 × 256 patches."""

CHUNK = 1 << 21
"""Leaves times masks worked on at a time, some 100 MB."""


def locate_shared_patches(
    graph: LatentGraph, masks: Tensor | np.ndarray, ignored: Tensor | np.ndarray | None = None
) -> Tensor | np.ndarray:
    """c_i of every hidden patch i, for many masks at once: the sinks of the latents above i that
    have a visible descendant.

    Args:
        masks, ignored: as for `shared.locate_shared_batch`.

    Returns:
        bool [B, n_observables, n_latents], of the masks' kind, True where the latent is in the
        patch's c_i; all False for a patch that is not masked. That much memory is taken twice: give
        many masks of a large graph in batches.

    Raises:
        InputError: as `shared.locate_shared_batch`.
    """
    common = common_ancestors_batch(graph, masks, ignored)
    over = [[z in graph.ancestors[x] for z in graph.latents] for x in graph.observables]
    above = np.array(over, bool).reshape(len(graph.observables), len(graph.latents))
    if isinstance(masks, Tensor):
        above = torch.from_numpy(above).to(masks.device)  # type: ignore[assignment]
    # i is hidden, so a latent above it is in CA exactly if it has a visible descendant.
    known = common[:, None, :] & above & masks[:, :, None]
    found = known & True
    row = {z: k for k, z in enumerate(graph.latents)}
    for parent, child in graph.edges:
        if child in row:
            found[:, :, row[parent]] &= ~known[:, :, row[child]]
    return found


def patch_spectrum(graph: LatentGraph, batches: Iterable[tuple[Tensor, Tensor]]) -> np.ndarray:
    """What each level weighs under drawn masks: the share of all patches that are masked and have
    the lowest member of their c_i there.

    On trees c_i has one member at most. The closed forms of this are `height_shares` and
    `finite_height_shares`.

    Args:
        batches: pairs (masked, ignored), bool [B, n_observables] each, as `masking.mask_batches`
            makes them.

    Returns:
        float64 [height + 1], index = level; at 0 the share of the patches that are masked and have
        an empty c_i.
    """
    levels = np.array([graph.levels[z] for z in graph.latents], np.int64)
    beyond = graph.height + 1
    counts, seen = np.zeros(beyond, np.int64), 0
    for masked, ignored in batches:
        c = locate_shared_patches(graph, masked, ignored)[masked].cpu().numpy()
        lowest = np.where(c, levels, beyond).min(1, initial=beyond)
        counts += np.bincount(np.where(lowest == beyond, 0, lowest), minlength=beyond)
        seen += masked.numel()
    if not seen:
        raise InputError("what each level weighs needs at least one mask")
    return counts / seen


def height_shares(ratio: float, arity: int, heights: int, unit_height: int = 0) -> list[float]:
    """What each height weighs on a deep tree: the share of all leaves that are hidden and have c_i
    there, w_h(r) = r^(k^(h−1)) − r^(k^h).

    Args:
        ratio: chance r of each mask unit to be hidden, each by itself; in (0, 1). arity: k,
            children of a latent, ≥ 2; 4 for a quad-tree.
        heights: how many to return, ≥ 1; the parents of leaves have height 1.
        unit_height: mask units are whole subtrees of this height, on a quad-tree squares of 2^l
            patches a side, l = unit_height; 0: patches. Every height moves up by it.

    Returns:
        [w_1 … w_heights]; on a deep tree all together make up r. InputError for an argument out of
        its range.
    """
    _check_ratio(ratio)
    _check_whole("arity", arity, 2)
    _check_whole("number of heights", heights, 1)
    _check_whole("height of the mask unit", unit_height, 0)
    hidden = [float(ratio)]  # that a whole subtree of height 0, 1, … is hidden, counted in units
    for _ in range(heights):
        hidden.append(hidden[-1] ** arity)
    return ([0.0] * unit_height + [low - high for low, high in zip(hidden, hidden[1:])])[:heights]


def finite_height_shares(ratio: float, arity: int, depth: int, unit_height: int = 0) -> list[float]:
    """`height_shares` of the tree of ``arity ** depth`` leaves when a fixed number of units, drawn
    at random, is hidden, as `MaskSpec` does.

    Of N units H are hidden; all of a given n are with probability C(N − n, H − n) / C(N, H), so w_h
    is the difference of two of these.

    Args:
        ratio: share of the units to hide, in (0, 1); rounded to a whole number of kept units as in
            `MaskSpec`. depth: height of the root, ≥ 1. arity, unit_height: as for `height_shares`;
            unit_height < depth.

    Returns:
        [w_1 … w_depth], which add up to the share truly hidden.

    Raises:
        InputError: an argument out of its range, a ratio that hides no unit or all of them, a tree
            of more than `LARGEST` leaves.
    """
    units = _check_tree(arity, depth, unit_height)
    kept = MaskSpec((1, units), ratio).kept_units
    taken = np.arange(units)
    # The chance that all of the first n = 1, 2, … units are hidden.
    hidden = np.cumprod(np.maximum(units - kept - taken, 0) / (units - taken))
    whole = [float(hidden[arity**h - 1]) for h in range(depth - unit_height + 1)]
    return [0.0] * unit_height + [low - high for low, high in zip(whole, whole[1:])]


def peak_ratio(height: int, arity: int, unit_height: int = 0) -> float:
    """The ratio at which a height weighs most, k^(−1 / ((k − 1) · k^(h − 1))): where w_h of
    `height_shares` has its one top.

    Args:
        height: > ``unit_height``, for at the heights below nothing stands. arity, unit_height: as
            for `height_shares`.
    """
    _check_whole("arity", arity, 2)
    _check_whole("height of the mask unit", unit_height, 0)
    _check_whole("height", height, unit_height + 1)
    return float(arity ** (-1 / ((arity - 1) * arity ** (height - unit_height - 1))))


def explained_variance(
    hidden: np.ndarray,
    arity: int,
    rho: float | Sequence[float],
    nu: float,
    height: int | None = None,
) -> np.ndarray:
    """How much of each hidden leaf's variance, which is 1, the visible leaves explain on a Gaussian
    tree: exact, in linear time.

    Every latent has variance 1 and correlation ρ with its parent, and a leaf is √(1 − ν) of one
    more such node plus √ν of its own noise. So two leaves that meet at height h have the covariance
    (1 − ν) · ρ^(2h), and nothing else matters here. Evidence goes up the tree and down again: of a
    node that n independent pieces of evidence explain by q_j, they together explain Λ / (1 + Λ), Λ
    being Σ q_j / (1 − q_j); and what explains q of a node explains ρ² · q of its neighbour.

    Args:
        hidden: bool [B, arity ** depth], True where hidden, the leaves in the order of
            `graph.tree`. arity: ≥ 2.
        rho: correlation along an edge, in (−1, 1), or one for each height of the lower end, leaves
            first: [depth] numbers.
        nu: share of a leaf's variance that is its own noise, in [0, 1).
        height: a leaf may use only what is visible below its ancestor of this height, 0 to depth;
            None: all that is visible.

    Returns:
        float64 [B, arity ** depth]: in [0, 1), and 0 where the leaf is visible.

    Raises:
        InputError: an argument of another shape or out of its range.
    """
    _check_whole("arity", arity, 2)
    if not isinstance(hidden, np.ndarray) or hidden.dtype != np.bool_ or hidden.ndim != 2:
        raise InputError(
            "hidden must be a bool array [B, leaves], True where a leaf is hidden: convert with "
            "np.array(…, dtype=bool)"
        )
    depth = 0
    while arity**depth < hidden.shape[1]:
        depth += 1
    if depth < 1 or arity**depth != hidden.shape[1]:
        raise InputError(
            f"{hidden.shape[1]} leaves are no power of the arity {arity}: give masks of arity ** "
            "depth leaves"
        )
    squares = _squares(rho, nu, depth)
    _check_height(height, depth)
    return _explained(hidden, arity, squares, nu, depth if height is None else height)


def context_gain(
    depth: int,
    arity: int,
    rho: float | Sequence[float],
    nu: float,
    ratio: float,
    height: int | None,
    masks: int = 256,
    seed: int = 0,
    unit_height: int = 0,
) -> tuple[float, float]:
    """What context from beyond a height is worth to the loss on the Gaussian tree of
    `explained_variance`, over masks that hide a fixed number.

    EV(r) is the explained variance summed over the hidden leaves and divided by the number of *all*
    leaves: what a masked autoencoder's squared loss can fall by, for each patch of the picture.
    EV_H(r) is the same where a leaf may use only what is visible below its ancestor of height H.
    G_H = EV − EV_H: 0 for H = depth, EV itself for H = 0.

    Args:
        depth, arity: of a tree of ``arity ** depth`` leaves, at most `LARGEST`. rho, nu: as for
            `explained_variance`.
        ratio: share of the units to hide, in (0, 1), rounded to a whole number of kept units as in
            `MaskSpec`; units are drawn uniformly.
        height: H, 0 to depth; None: EV itself. masks: drawn, ≥ 2. seed: of the draw; the same masks
            for every rho, nu and height.
        unit_height: mask units are whole subtrees of this height, on a quad-tree squares of 2^l
            patches a side, l = unit_height; 0: patches.

    Returns:
        (mean over masks, its standard error), in units of a leaf's variance.

    Raises:
        InputError: an argument out of its range, a ratio that hides no unit or all of them, a tree
            that is too large.
    """
    units = _check_tree(arity, depth, unit_height)
    squares = _squares(rho, nu, depth)
    _check_height(height, depth)
    _check_whole("number of masks", masks, 2)
    _check_whole("seed", seed, 0)
    spec, generator = MaskSpec((1, units), ratio), torch.Generator().manual_seed(seed)
    gains = []
    step = max(1, CHUNK // arity**depth)
    for start in range(0, masks, step):
        drawn = hidden_map(spec.sample(min(step, masks - start), generator)[1], units).numpy()
        hidden = drawn.repeat(arity**unit_height, axis=1)
        gain = _explained(hidden, arity, squares, nu, depth).mean(1)
        if height is not None:
            gain -= _explained(hidden, arity, squares, nu, height).mean(1)
        gains.append(gain)
    gain = np.concatenate(gains)
    return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(masks))


def _explained(
    hidden: np.ndarray, arity: int, squares: list[float], nu: float, top: int
) -> np.ndarray:
    """`explained_variance` of checked arguments; squares: ρ² of the edges from height 0 up; top:
    the height whose subtree may be used."""
    masks, leaves = hidden.shape
    explained, up = np.where(hidden, 0.0, 1 - nu), []
    for square in squares[:top]:
        up.append(_evidence(square * explained))
        total = up[-1].reshape(masks, -1, arity).sum(2)
        explained = total / (1 + total)
    beyond = np.zeros((masks, leaves // arity**top))
    outside = np.zeros_like(beyond)  # what all outside a node's subtree explains of the node
    for square, own in zip(reversed(squares[:top]), reversed(up)):
        total = beyond + own.reshape(masks, -1, arity).sum(2)
        other = np.maximum(total.repeat(arity, axis=1) - own, 0)
        outside = square * other / (1 + other)
        beyond = _evidence(outside)
    return np.where(hidden, (1 - nu) * outside, 0.0)


def _evidence(explained: np.ndarray) -> np.ndarray:
    """q / (1 − q), the precision that evidence adds to a node of variance 1 if it explains q."""
    return explained / (1 - explained)


def _squares(rho: float | Sequence[float], nu: float, depth: int) -> list[float]:
    """ρ² of the edges from height 0 up, [depth]; InputError for a rho or nu out of range."""
    several = isinstance(rho, (Sequence, np.ndarray)) and not isinstance(rho, str)
    given: list = list(rho) if several else [rho] * depth
    if len(given) != depth:
        raise InputError(
            f"{len(given)} edge correlations rho do not fit a tree of depth {depth}: give one "
            f"number, or {depth}, leaves first"
        )
    for value in given:
        if not _is_number(value) or not -1 < value < 1:
            raise InputError(
                f"edge correlation rho {value!r} must be a number strictly between -1 and 1, for "
                "instance 0.8"
            )
    if not _is_number(nu) or not 0 <= nu < 1:
        raise InputError(
            f"noise share nu {nu!r} must be a number in [0, 1): at 1 a leaf would tell nothing of "
            "the tree"
        )
    return [float(value) ** 2 for value in given]


def _check_tree(arity: int, depth: int, unit_height: int) -> int:
    """How many mask units the tree has; InputError for a shape out of range."""
    _check_whole("arity", arity, 2)
    _check_whole("depth", depth, 1)
    if depth > LARGEST.bit_length() or arity**depth > LARGEST:
        raise InputError(
            f"a tree of {arity} ** {depth} leaves is too large: take a depth or an arity of at "
            f"most {LARGEST} leaves"
        )
    _check_whole("height of the mask unit", unit_height, 0)
    if unit_height >= depth:
        raise InputError(
            f"a mask unit of height {unit_height} covers the whole tree of depth {depth}: take one "
            f"of at most {depth - 1}"
        )
    return arity ** (depth - unit_height)


def _check_height(height: int | None, depth: int) -> None:
    if height is not None:
        _check_whole("height", height, 0)
        if height > depth:
            raise InputError(
                f"height {height} lies beyond the tree, whose root has height {depth}: take 0 to "
                f"{depth}, or None for EV itself"
            )


def _check_ratio(ratio: float) -> None:
    if not _is_number(ratio) or not 0 < ratio < 1:
        raise InputError(
            f"masking ratio {ratio!r} must be a number strictly between 0 and 1, for instance 0.75"
        )


def _check_whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name} {value!r} must be a whole number of at least {least}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
