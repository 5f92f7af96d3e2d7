"""Groups of patches that belong together, estimated from images (§3.6): distances between patches'
colours, the latent tree over them, and its cut."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.identification.structure import information_distances, neighbour_joining, partition


def patch_features(images: Tensor, patch: int) -> Tensor:
    """A few linear features of every patch: mean of each channel, and the lowest coefficients of
    the grey values' cosine transform.

    Args:
        images: uint8 or float [B, C, H, W]. patch: side in pixels; it must divide both sides.

    Returns:
        float64 [B, patches, C + 2]: the means, then the coefficients (1, 0) and (0, 1), the slopes
        down and across; for a patch of one pixel the means alone.
    """
    B, C, H, W = images.shape
    if patch < 1 or H % patch or W % patch:
        raise InputError(
            f"patch of {patch} px does not divide the {H}×{W} image: choose a patch that divides"
            " both sides"
        )
    x = (
        images.double()
        .reshape(B, C, H // patch, patch, W // patch, patch)
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(B, -1, C, patch, patch)
    )
    means = x.mean((3, 4))
    if patch == 1:
        return means
    grey = x.mean(2)
    wave = torch.cos(math.pi * (torch.arange(patch, dtype=torch.float64) + 0.5) / patch)
    return torch.cat(
        [means, (grey.mean(3) @ wave)[..., None], (grey.mean(2) @ wave)[..., None]], dim=2
    )


def image_distances(
    source: ImageSource, patch: int, images: int = 8192, seed: int = 0
) -> np.ndarray:
    """Information distances between the patches of images by their `patch_features`, float64 [L,
    L]; arguments as of `estimate_groups`."""
    if images < 1 or len(source) < 1:
        raise InputError(f"{images} images of {len(source)}: give at least 1")
    index = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:images]
    features = torch.cat([patch_features(source.images(part), patch) for part in index.split(512)])
    return information_distances(features)


def estimate_groups(
    source: ImageSource, patch: int, groups: int, images: int = 8192, seed: int = 0
) -> tuple[int, ...]:
    """Groups of patches from images alone, to be hidden as a whole (§3.6): distances, neighbour
    joining, cut.

    Args:
        source: images of one size; labels are not used. patch: side in pixels. groups: how many,
            from 2 to the number of patches.
        images: how many to look at, at most. seed: of the draw of images.

    Returns:
        a group number for each patch, row-major on the grid.

    Raises:
        InputError: as `information_distances`, `patch_features` and `partition`.
    """
    _, H, W = source.shape
    if patch >= 1 and not 2 <= groups <= (H // patch) * (W // patch):
        raise InputError(
            f"{groups} groups of {(H // patch) * (W // patch)} patches: give a whole number from 2"
            " to the number of patches"
        )
    return tuple(
        partition(neighbour_joining(image_distances(source, patch, images, seed)), groups).tolist()
    )
