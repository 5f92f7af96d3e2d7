"""`image_source`: the images a user asked for, of a folder, shards or the embedded world."""

from __future__ import annotations

import os

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.data.encoded import FolderImages
from mae_lib.data.formats.tars import holds_shards
from mae_lib.data.image_files import existing
from mae_lib.data.shards import ShardImages
from mae_lib.worlds.world import World

__all__ = ["image_source"]


def image_source(
    data: str | os.PathLike[str] | None,
    split: str,
    image_size: tuple[int, int],
    channels: int = 3,
    min_side: int = 1,
) -> ImageSource:
    """The images a user asked for: a folder's, with or without class folders, a list's, those of
    shards, or the embedded world's when `data` is None or empty.

    Args:
        data: folder of images, a text file of their paths, or nothing.
        split: `train` or `validation` (a folder's `val`), or a further set of the world.
        image_size: `(H, W)` in pixels. min_side: least short side of a file's image, in pixels.

    Raises:
        InputError: a size or channel count that the embedded world does not draw, and all that
            `FolderImages`, `mae_lib.data.shards.ShardImages` and `World` refuse.
    """
    if data is not None and str(data):
        path = existing(data)
        kind = ShardImages if path.is_dir() and holds_shards(path) else FolderImages
        return kind(data, "val" if split == "validation" else split, image_size, channels, min_side)
    if image_size[0] != image_size[1] or channels != 3:
        raise InputError(
            "the embedded world draws square RGB images, not"
            f" {channels}×{image_size[0]}×{image_size[1]}: name a folder of images"
        )
    return World(split, image_size[0])
