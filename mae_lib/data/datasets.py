"""Sources of images. What lives here: `EncodedImages`, what sources of image files share, which
decode them on demand, whole or cropped at random; `FolderImages`, such a source for a folder of
class folders (for shards: `mae_lib.data.shards`); `Subset`, an even thinning of any source;
`Resident`, which holds any source decoded in memory; and `image_source`, which picks the one a user
asked for. Images are uint8 throughout, so that normalisation stays with the model.
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
from tqdm import tqdm

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.data.contents import file_digests, fingerprint
from mae_lib.data.image_files import Member, cores, crop_box, decode, existing_folder, select

__all__ = ["EncodedImages", "FolderImages", "Subset", "Resident", "nbytes"]


class EncodedImages(ABC):
    """What sources of encoded image files share. A subclass says which files there are (`encoded`),
    with which labels, classes and identity.

    Each image is turned upright (EXIF), laid on white where transparent, brought to 8 bits and
    `channels` channels, and resized (antialiased bicubic): by `images` until it just covers
    `image_size`, then cropped about its centre; by `crops` from a random part to `image_size`. Of
    an animation the first frame is taken. 16-bit greys are scaled by 255/65535; floats must lie in
    [0, 1].

    `images` and `crops` may be called from many threads at once.

    Args:
        image_size: `(H, W)` in pixels, or one number for both.
        channels: 3 (RGB) or 1 (grey).
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
        if channels not in (1, 3):
            raise InputError(f"{channels} channels: an image file is read with 3 (RGB) or 1 (grey)")
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
    @abstractmethod
    def labels(self) -> Tensor:
        """int64 `[N]`, in `[0, len(classes))`."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Names the data exactly, as `ImageSource` has it."""

    def __len__(self) -> int:
        return len(self.labels)

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
        wanted = _checked(indices, len(self)).tolist()
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
        wanted = _checked(indices, len(self)).tolist()
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
    """A folder of class folders, decoded on demand.

    Layouts: `DIR/{train,val}/<class>/**` as torchvision has it (`validation` and `valid` are found
        for `val`, any other split by
    its own name), or `DIR/<class>/**`, of which `train` and `val` are a fixed 90/10 cut of each
    class by the hash of the file names. With `split=None`, `DIR` itself holds the class folders and
    all of it is used. Classes are sorted by name; those of another split are numbered as `train`
    numbers them. Hidden files and files with other extensions are passed over. What is made of each
    file: `EncodedImages`.

    Args:
        directory: the folder.
        split: `'train'`, `'val'`, the name of another subfolder of class folders, or None.
        image_size, channels, min_side, workers: as `EncodedImages` has them.
        only: the class folders to use; the others are passed over. None for all.
        border: pixels cut off each side of a file's image before anything else (ObjectNet's have a
            red frame).

    Raises:
        InputError: no such folder, or one without images, class folders or a second class; an empty
            class folder; a split that is missing or has a class that `train` lacks; a class of
            `only` that is not there; a size, a channel count or a border that makes no sense. From
            `images` and `crops`: a file that is unreadable, truncated, too large, too small, or
            holds NaN or infinity.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
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
        self._root, self._classes, members = select(existing_folder(directory), split, only)
        self._files = [name for names in members for name in names]
        self._labels = torch.repeat_interleave(
            torch.arange(len(members)), torch.tensor([len(names) for names in members])
        )

    @property
    def labels(self) -> Tensor:
        """int64 `[N]`, in `[0, len(classes))`."""
        return self._labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names: the folder names, sorted."""
        return self._classes

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


class Subset:
    """`count` images spread evenly over a source: a folder's files are sorted by class, so its
    first ones would be of few classes.

    Image k is the source's image ⌊k · N / count⌋. Labels and classes keep the source's numbering;
    the identity names the thinning.

    Args:
        source: what to thin. count: how many images to keep, in `[1, N]`.

    Raises:
        InputError: `count` out of range.
    """

    def __init__(self, source: ImageSource, count: int) -> None:
        if not 1 <= count <= len(source):
            raise InputError(
                f"{count} images were asked for, and the source holds {len(source)}: ask for 1 to"
                f" {len(source)}"
            )
        self._source = source
        self._index = torch.arange(count, dtype=torch.int64) * len(source) // count

    def __len__(self) -> int:
        return len(self._index)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` in pixels."""
        return self._source.shape

    @property
    def labels(self) -> Tensor:
        """int64 `[count]` on the CPU."""
        return self._source.labels[self._index]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the source, those without an image in the subset too."""
        return self._source.classes

    @property
    def identity(self) -> dict[str, Any]:
        """The source's identity, and how many of its images are kept."""
        return (
            {**self._source.identity, "subset": len(self)}
            if len(self) < len(self._source)
            else self._source.identity
        )

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        """uint8 `[B, C, H, W]` in 0..255 for `indices` `[B]`, each in `[0, count)`; IndexError for
        one out of range."""
        return self._source.images(self._index[_checked(indices, len(self))])


class Resident:
    """Any source, decoded once into one uint8 tensor in memory.

    It has the labels, classes, shape and identity of its source; its images are equal to the
    source's.

    Args:
        source: what to read.
        threads: batches asked of the source at one time. One is enough for `FolderImages`, which
            spreads each batch over its own workers.
        device: where the images lie, and where `images` returns them.
        progress: show a progress bar; by default only where stderr is a terminal.

    Raises:
        InputError: as the source does.
    """

    _BATCH = 256

    def __init__(
        self,
        source: ImageSource,
        threads: int = 1,
        device: str | torch.device = "cpu",
        progress: bool | None = None,
    ) -> None:
        self._labels, self._classes, self._identity = source.labels, source.classes, source.identity
        self._pixels = torch.empty((len(source), *source.shape), dtype=torch.uint8, device=device)
        parts = torch.arange(len(source)).split(self._BATCH)

        def fill(part: Tensor) -> int:
            self._pixels[part[0] : part[-1] + 1] = source.images(part).to(device)
            return len(part)

        bar = tqdm(
            total=len(source),
            desc="reading",
            unit="image",
            disable=None if progress is None else not progress,
        )
        with bar, ThreadPoolExecutor(threads) as pool:
            try:
                for done in pool.map(fill, parts):
                    bar.update(done)
            except BaseException:
                # A bad file or Ctrl-C must not wait for the rest of the data set.
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def __len__(self) -> int:
        return len(self._pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` in pixels."""
        channels, height, width = self._pixels.shape[1:]
        return channels, height, width

    @property
    def labels(self) -> Tensor:
        """int64 `[N]` on the CPU."""
        return self._labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self._classes

    @property
    def identity(self) -> dict[str, Any]:
        """The source's identity: where images are held does not change them."""
        return self._identity

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        """uint8 `[B, C, H, W]` in 0..255, on the device, for `indices` `[B]`; IndexError for an
        index out of range."""
        return self._pixels.index_select(
            0, _checked(indices, len(self)).to(self._pixels.device, non_blocking=True)
        )


def nbytes(source: ImageSource) -> int:
    """Bytes that `Resident(source)` would take: `N × C × H × W`."""
    channels, height, width = source.shape
    return len(source) * channels * height * width


def _checked(indices: Tensor | Sequence[int], length: int) -> Tensor:
    """`indices` as int64 `[B]` on the CPU, all in `[0, length)`."""
    given = torch.as_tensor(indices).cpu()
    if given.numel() == 0:
        return torch.empty(0, dtype=torch.int64)
    if given.ndim != 1 or given.is_floating_point() or given.dtype == torch.bool:
        raise TypeError(
            f"indices must be whole numbers in one dimension, not {given.dtype} {list(given.shape)}"
        )
    if given.min() < 0 or given.max() >= length:
        raise IndexError(
            f"index {int(given.min() if given.min() < 0 else given.max())} is outside"
            f" 0..{length - 1}"
        )
    return given.to(torch.int64)
