"""What context is worth in pictures whose hierarchy nobody knows, from their second moments alone:
the best *linear* prediction of hidden patches from visible ones, with and without the patches far
away (ours, not the paper's). It is `worth.context_gain` for any covariance, distance on the grid in
the place of the tree; on a Gaussian tree the two agree. Nothing is trained here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.masks.masking import MaskSpec, hidden_map

RIDGE = 1e-6
"""Added to the covariance's diagonal, in units of its mean: directions without variance would make
it singular."""

STEP = 16
"""Masks worked on at a time."""


def patch_covariance(features: Tensor) -> Tensor:
    """Covariance of all features of all patches, float64 [P, d, P, d].

    Args:
        features: float [N, P, d] of N ≥ 2 pictures, for instance the mean colours of their patches.

    Raises:
        InputError: another shape, or values that are not finite.
    """
    if features.ndim != 3 or len(features) < 2 or not features.numel():
        raise InputError(
            f"features of shape {list(features.shape)}: give [N, P, d] of at least two pictures"
        )
    if not bool(features.isfinite().all()):
        raise InputError("features hold NaN or infinity: drop those pictures")
    rows = features.double().flatten(1)
    rows = rows - rows.mean(0)
    return (rows.T @ rows / (len(rows) - 1)).view(*features.shape[1:], *features.shape[1:])


def linear_explained(
    covariance: Tensor, hidden: Tensor, grid: tuple[int, int], distance: int | None = None
) -> Tensor:
    """How much of all patches' variance the best linear prediction of the hidden ones explains.

    Args:
        covariance: [P, d, P, d], of `patch_covariance`. hidden: bool [B, P], row-major on the grid.
        grid: (rows, columns) of patches, P in all.
        distance: a hidden patch may use only visible patches so many rows and columns away at most,
            ≥ 0; 1: its eight neighbours; None: all that is visible.

    Returns:
        float64 [B]: variance explained, summed over the hidden patches, over that of *all* patches.

    Raises:
        InputError: shapes that do not fit, a distance below 0, pictures without variance.
    """
    C, total = _checked(covariance, grid)
    P = len(C)
    if hidden.dtype != torch.bool or hidden.ndim != 2 or hidden.shape[1] != P:
        raise InputError(f"hidden must be bool [B, {P}], not {hidden.dtype} {list(hidden.shape)}")
    if distance is not None and (type(distance) is not int or distance < 0):
        raise InputError(f"distance {distance!r} must be a whole number of patches, at least 0")
    found = torch.cat(
        [
            _all(C, part) if distance is None else _near(C, part, grid, distance)
            for part in hidden.split(STEP)
        ]
    )
    return found / total


def linear_gain(
    covariance: Tensor,
    grid: tuple[int, int],
    ratio: float,
    distance: int | None,
    masks: int = 64,
    seed: int = 0,
    unit: int = 1,
) -> tuple[float, float]:
    """What linear context is worth to the loss, over random masks: EV itself, or what patches
    farther away than a distance add to it.

    Args:
        covariance, grid: as for `linear_explained`. ratio, unit: of the masks, as in `MaskSpec`.
        distance: None: EV, what is explained of all patches' variance; else EV less what visible
            patches within that distance explain.
        masks: drawn, ≥ 2. seed: of the draw, the same masks for every distance.

    Returns:
        (mean over masks, its standard error). InputError as of `MaskSpec` and `linear_explained`.
    """
    if type(masks) is not int or masks < 2:
        raise InputError(f"number of masks {masks!r} must be a whole number of at least 2")
    spec = MaskSpec(grid, ratio, unit)
    drawn = spec.sample(masks, torch.Generator().manual_seed(seed))[1]
    hidden = hidden_map(drawn, spec.patches)
    gain = linear_explained(covariance, hidden, grid)
    if distance is not None:
        gain = gain - linear_explained(covariance, hidden, grid, distance)
    return float(gain.mean()), float(gain.std() / np.sqrt(masks))


def one_map_explained(covariance: Tensor, grid: tuple[int, int], ratio: float) -> float:
    """EV of *one* linear map for all masks of a ratio, hidden patches set to 0 at its input: what a
    linear masked autoencoder of full rank can reach, in closed form.

    A map that is fitted to each mask, as in `linear_explained`, explains at least as much.

    Args:
        covariance, grid: as for `linear_explained`. ratio: of masks of single patches, as in
            `MaskSpec`.

    Returns:
        variance explained, over that of all patches. InputError as of `MaskSpec` and
        `linear_explained`.
    """
    C, total = _checked(covariance, grid)
    P, d = C.shape[:2]
    shown = MaskSpec(grid, ratio).kept_units
    # of two other patches, given that one is hidden: that one is seen, and that both are
    one, both = shown / (P - 1), shown * (shown - 1) / ((P - 1) * max(P - 2, 1))
    seen = both * C + (one - both) * torch.einsum("ij,iajb->iajb", torch.eye(P, dtype=C.dtype), C)
    found = 0.0
    for i in range(P):
        others = [j for j in range(P) if j != i]
        matrix = seen[others][:, :, others].reshape((P - 1) * d, -1)
        cross = one * C[others][:, :, i].reshape(-1, d)
        found += float((cross * torch.linalg.solve(matrix, cross)).sum())
    return (1 - shown / P) * found / total


def _checked(covariance: Tensor, grid: tuple[int, int]) -> tuple[Tensor, float]:
    """The covariance with the ridge, and the variance of all patches together."""
    C = covariance.double()
    P, d = (C.shape[0], C.shape[1]) if C.ndim == 4 else (0, 0)
    if C.shape != (P, d, P, d) or P != grid[0] * grid[1] or not P * d:
        raise InputError(
            f"covariance of shape {list(C.shape)} does not fit a grid of {grid[0]} × {grid[1]}:"
            " make it with patch_covariance"
        )
    total = float(torch.einsum("idid->", C))
    if not total > 0:
        raise InputError("the patches have no variance: there is nothing to predict")
    ridge = RIDGE * total / (P * d) * torch.eye(P * d, dtype=C.dtype)
    return C + ridge.view(P, d, P, d), total


def _all(C: Tensor, hidden: Tensor) -> Tensor:
    P, d = C.shape[:2]
    flat = C.reshape(P * d, P * d)
    return _explained(flat, flat, ~hidden.repeat_interleave(d, 1), hidden.repeat_interleave(d, 1))


def _near(C: Tensor, hidden: Tensor, grid: tuple[int, int], distance: int) -> Tensor:
    P, d = C.shape[:2]
    rows, columns = torch.arange(P) // grid[1], torch.arange(P) % grid[1]
    total = hidden.new_zeros(len(hidden), dtype=C.dtype)
    for i in range(P):
        apart = torch.maximum((rows - rows[i]).abs(), (columns - columns[i]).abs())
        near = ((apart <= distance) & (apart > 0)).nonzero()[:, 0]
        masks = hidden[:, i].nonzero()[:, 0]
        if len(near) and len(masks):
            own = C[near][:, :, near].reshape(len(near) * d, -1)
            visible = (~hidden[masks][:, near]).repeat_interleave(d, 1)
            cross = C[near][:, :, i].reshape(-1, d)
            every = hidden.new_ones(len(masks), d)
            total[masks] += _explained(own, cross, visible, every)
    return total


def _explained(own: Tensor, cross: Tensor, visible: Tensor, wanted: Tensor) -> Tensor:
    """Variance of the wanted columns that the visible rows explain, [B]; own [n, n], cross [n, k],
    visible bool [B, n], wanted bool [B, k]. A row that is not visible becomes one of its own, which
    tells nothing."""
    v, w = visible.to(own.dtype), wanted.to(own.dtype)
    matrix = own * v[:, :, None] * v[:, None, :] + torch.diag_embed(1 - v)
    seen = cross * v[:, :, None] * w[:, None, :]
    return (seen * torch.linalg.solve(matrix, seen)).sum((1, 2))
