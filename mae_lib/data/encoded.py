"""Sources of image files. What lives here: `EncodedImages`, what all of them share, which decode
files on demand, whole or cropped at random; and `FolderImages`, such a source for a folder or a
list of files (for shards: `mae_lib.data.shards`). Images are uint8 throughout, so that
normalisation stays with the model.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.data.contents import file_digests, fingerprint
from mae_lib.data.datasets import checked
from mae_lib.data.formats.decoding import Member, crop_box, decode
from mae_lib.data.formats.selection import select
from mae_lib.data.image_files import cores, existing

__all__ = ["EncodedImages", "FolderImages"]


class EncodedImages(ABC):
    """What sources of encoded image files share. A subclass says which files there are (`encoded`),
    with which labels, classes and identity.

    Each image is turned upright (EXIF), laid on white where transparent, brought to 8 bits and
    `channels` channels, and resized (antialiased bicubic): by `images` until it just covers
    `image_size`, then cropped about its centre; by `crops` from a random part to `image_size`. Of
    an animation the first frame is taken. 16 bits are scaled by 255/65535; floats must lie in
    [0, 1]. With other than 1 or 3 channels, a file (TIFF, `.npy`, PNG with alpha) must hold as many
    bands, which are taken as they are.

    `images` and `crops` may be called from many threads at once.

    Args:
        image_size: `(H, W)` in pixels, or one number for both.
        channels: 3 (RGB), 1 (grey), or the number of bands that every file has.
        min_side: least short side of a file's image, in pixels; callers pass the mask unit.
        workers: threads that share one call of `images` or `crops`; by default one per available
            core.
        border: pixels cut off each side of a file's image before anything else.

    Raises:
        InputError: a size, a channel count or a border that makes no sense.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        channels: int,
        min_side: int,
        workers: int | None,
        border: int = 0,
    ) -> None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if height < 1 or width < 1:
            raise InputError(
                f"image size {height}×{width}: give a height and a width of at least 1 pixel"
            )
        if channels < 1:
            raise InputError(
                f"{channels} channels: give 3 (RGB), 1 (grey), or the number of bands of the files"
            )
        if border < 0:
            raise InputError(f"a border of {border} pixels: give 0 or more")
        self._shape = (channels, int(height), int(width))
        self._min_side = min_side
        self._border = border
        self._workers = workers or cores()

    @abstractmethod
    def encoded(self, index: int) -> Path | Member:
        """The file behind one index."""

    @property
    def labels(self) -> Tensor:
        """int64 `[N]`, in `[0, len(classes))`; InputError where the images have none."""
        if self._unlabelled:
            raise InputError(
                f"this needs the images' classes, and they have none: {self._unlabelled}"
            )
        return self._labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels; empty where the images have none."""
        return self._classes

    @property
    def unlabelled(self) -> str:
        """Why the images have no labels, and the remedy; empty where they have."""
        return self._unlabelled

    def _label(self, labels: Sequence[int], classes: Sequence[str], unlabelled: str) -> None:
        """What `labels`, `classes` and `unlabelled` say; called once, by a subclass."""
        self._labels = torch.tensor(labels, dtype=torch.int64)
        self._classes, self._unlabelled = tuple(classes), unlabelled

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Names the data exactly, as `ImageSource` has it."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` in pixels."""
        return self._shape

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Decode the images at `indices`.

        Args:
            indices: int64 `[B]`, each in `[0, N)`.

        Returns:
            uint8 `[B, C, H, W]` in 0..255, on the CPU.

        Raises:
            InputError: a file cannot be used; it is named, the first in the order of `indices`.
            IndexError: an index out of range.
        """
        wanted = checked(indices, len(self)).tolist()
        return self._filled(
            len(wanted),
            lambda row: decode(
                self.encoded(wanted[row]), self._shape, self._min_side, self._border
            ),
        )

    def crops(self, indices: Tensor | Sequence[int], draws: Tensor, smallest: float) -> Tensor:
        """Decode random parts of the images at `indices`, each resized once, out of the file at its
        full resolution: the random resized crops of MAE's recipe, for sets too large to be held in
        memory.

        Args:
            indices: int64 `[B]`, each in `[0, N)`.
            draws: float64 `[B, 4]`, each in `[0, 1)`: area, aspect, left, top, as
                `mae_lib.data.image_files.crop_box` takes them.
            smallest: least share of the upright image's area, in (0, 1].

        Returns:
            uint8 `[B, C, H, W]` in 0..255, on the CPU; the same arguments always give the same
            crops.

        Raises:
            InputError, IndexError: as `images`.
            ValueError: draws of another shape or outside `[0, 1)`; a share outside (0, 1].
        """
        wanted = checked(indices, len(self)).tolist()
        drawn = torch.as_tensor(draws, dtype=torch.float64).cpu()
        if drawn.shape != (len(wanted), 4) or not ((drawn >= 0) & (drawn < 1)).all():
            raise ValueError(
                f"draws must be [{len(wanted)}, 4] numbers in [0, 1), not {list(drawn.shape)} or"
                " beyond"
            )
        if not 0 < smallest <= 1:
            raise ValueError(f"the smallest share of the area is {smallest}: it must be in (0, 1]")
        rows = drawn.tolist()

        def crop(row: int) -> np.ndarray:
            box = lambda width, height: crop_box(width, height, rows[row], smallest)
            return decode(self.encoded(wanted[row]), self._shape, self._min_side, self._border, box)

        return self._filled(len(wanted), crop)

    def _filled(self, count: int, make: Callable[[int], np.ndarray]) -> Tensor:
        """uint8 `[count, C, H, W]` of what `make` gives for each row, in as many threads as there
        are workers."""
        pixels = np.empty((count, *self._shape), dtype=np.uint8)

        def fill(rows: range) -> None:
            for row in rows:
                pixels[row] = make(row)

        # A pool for each call costs less than a millisecond, and leaves nothing behind that a fork
        # or a pickle could break.
        threads = min(self._workers, count)
        if threads <= 1:
            fill(range(count))
        else:
            bounds = [count * i // threads for i in range(threads + 1)]
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(fill, map(range, bounds[:-1], bounds[1:])))
        return torch.from_numpy(pixels)

    def _identity(self, kind: str, split: str | None, sha256: str) -> dict[str, Any]:
        """The identity of files of this `kind` whose paths and contents have this hash."""
        channels, height, width = self._shape
        return {
            "kind": kind,
            "split": split,
            "image_size": [height, width],
            "channels": channels,
            "images": len(self),
            "classes": len(self.classes),
            "fingerprint": sha256,
        } | ({"border": self._border} if self._border else {})


class FolderImages(EncodedImages):
    """A folder of images, or a list of them, decoded on demand.

    Layouts: `DIR/{train,val}/<class>/**` as torchvision has it (other names of a split, such as
    `Training` or `validation`, are found too; any other split by its own name), or
    `DIR/<class>/**`, of which `train` and `val` are a fixed 90/10 cut of each class by the hash of
    the file names. With `split=None`, `DIR` itself holds the class folders and all of it is used.
    Classes are sorted by name; those of another split are numbered as `train` numbers them.

    Where the folders do not say classes (images beside the folders, one folder only, images
    directly in `DIR/train` or `DIR`), all images under the folder are used, sorted by path, and
    have no labels. So it is with a text file of paths, one a line, absolute or from its own folder.

    Hidden files, what systems leave, and files with other extensions are passed over; `.npy` files
    too, where there are images. What is made of each file: `EncodedImages`.

    Args:
        data: the folder, or the text file.
        split: `'train'`, `'val'`, the name of another subfolder, or None for all that is there.
        image_size, channels, min_side, workers: as `EncodedImages` has them.
        only: the class folders to use; the others are passed over. None for all.
        border: pixels cut off each side of a file's image before anything else (ObjectNet's have a
            red frame).

    Raises:
        InputError: no such folder, or one without images; a split that is missing; a list with a
            path that is not there; a class of `only` that is not there; a size, a channel count or
            a border that makes no sense. From `images` and `crops`: a file that is unreadable,
            truncated, too large, too small, has other bands, or holds NaN or infinity.
    """

    def __init__(
        self,
        data: str | os.PathLike[str],
        split: str | None = "train",
        image_size: int | tuple[int, int] = (64, 64),
        channels: int = 3,
        min_side: int = 1,
        workers: int | None = None,
        only: Collection[str] | None = None,
        border: int = 0,
    ) -> None:
        super().__init__(image_size, channels, min_side, workers, border)
        self._split = split
        found = select(existing(data), split, only)
        self._root, self._files = found.root, found.files
        self._label(found.labels, found.classes, found.reason)

    def __len__(self) -> int:
        return len(self._files)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Kind, split, size, channels, counts, and `fingerprint`: the sha256 of the sorted relative
        paths and the files' contents (what reading these costs: `mae_lib.data.contents`); the
        border where one is cut off. Asked for once: a changed folder has to be opened again.

        Raises:
            InputError: a file has gone, is a broken link, or cannot be read.
        """
        return self._identity(
            "folder",
            self._split,
            fingerprint(zip(self._files, file_digests(self._root, self._files))),
        )

    def path(self, index: int) -> Path:
        """The file behind one index."""
        return self._root / self._files[index]

    def encoded(self, index: int) -> Path:
        """The same as `path`."""
        return self.path(index)
