"""Cue-conflict stimuli (§3.4): the shape of one class with the texture of another, read from a
published folder or drawn by the embedded world."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.data.encoded import FolderImages
from mae_lib.data.image_files import shown
from mae_lib.evaluation.shape_bias import category_groups
from mae_lib.worlds.world import World

_NAME = re.compile(r"([a-z]+)\d+-([a-z]+)\d+")


@dataclass(frozen=True, eq=False)
class Stimuli:
    """Images with two cues.

    Attributes:
        source: the N images. shape, texture: int64 [N], the two cues of each, in [0,
            len(categories)). categories: their names.
    """

    source: ImageSource
    shape: Tensor
    texture: Tensor
    categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.source)


def read_stimuli(
    directory: str | Path, image_size: int | tuple[int, int] = (64, 64), channels: int = 3
) -> Stimuli:
    """Geirhos et al.'s cue-conflict stimuli, ``DIR/<shape category>/<shape><n>-<texture><n>.png``,
    as in their repository's folder ``stimuli/style-transfer-preprocessed-512``: 1 280 files, 1 200
    of them with shape ≠ texture.

    Categories are numbered as in :func:`category_groups`, whichever of their folders are there.
    ``image_size``: (H, W) in pixels, or one number. ``channels``: 3 (RGB) or 1 (grey).

    Raises:
        InputError: a file's name is not of that form, names a category that is none of the 16, or
            another shape than its folder; and all that `FolderImages` refuses.
    """
    source, categories = (
        FolderImages(directory, None, image_size, channels),
        tuple(category_groups()),
    )
    cues = []
    for path in map(source.path, range(len(source))):
        found = _NAME.fullmatch(path.stem)
        if not found or (strangers := sorted(set(found.groups()) - set(categories))):
            what = (
                f"names the category {strangers[0]!r}, which is none of the 16"
                if found
                else "is not called <shape><n>-<texture><n>"
            )
            raise InputError(
                f"{shown(path)} {what}: give the folder of cue-conflict stimuli, DIR/<shape"
                " category>/*.png, with its own names"
            )
        if path.parent.name != found[1]:
            raise InputError(
                f"{shown(path)} has the shape {found[1]!r} and lies in {shown(path.parent.name)!r}:"
                f" move it to {found[1]!r}, or restore its name"
            )
        cues.append([categories.index(name) for name in found.groups()])
    shape, texture = torch.tensor(cues).unbind(1)
    return Stimuli(source, shape, texture, categories)


def world_stimuli(
    size: int = 64,
    count: int | None = None,
    split: str = "conflict",
    seed: int = 0,
    device: str = "cpu",
) -> Stimuli:
    """The first ``count`` images of a split of the embedded world
    (:class:`mae_lib.worlds.world.World`) with both of their cues; in *conflict* they never agree. A
    texture's category is the class of which it is the own texture, worn by seven in ten of its
    training images.
    """
    world = World(split, size, seed, device, count)
    # an image's cues do not depend on its size
    batch = replace(world, size=16).sample(range(len(world)))
    return Stimuli(world, batch.labels.cpu(), batch.textures.cpu(), world.classes)
