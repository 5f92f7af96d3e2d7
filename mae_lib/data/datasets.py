"""What is made of any source of images. What lives here: `Subset`, an even thinning; `Resident`,
which holds a source decoded in memory; and `checked`, the indices that sources are asked for. Files
as a source: `mae_lib.data.encoded`; the one a user asked for: `mae_lib.data.sources`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource

__all__ = ["Subset", "Resident", "nbytes", "checked"]


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
        """int64 `[count]` on the CPU; InputError as the source."""
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
        return self._source.images(self._index[checked(indices, len(self))])


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
        self._source, self._identity = source, source.identity
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

    @cached_property
    def labels(self) -> Tensor:
        """int64 `[N]` on the CPU; InputError as the source."""
        return self._source.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self._source.classes

    @property
    def identity(self) -> dict[str, Any]:
        """The source's identity: where images are held does not change them."""
        return self._identity

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        """uint8 `[B, C, H, W]` in 0..255, on the device, for `indices` `[B]`; IndexError for an
        index out of range."""
        return self._pixels.index_select(
            0, checked(indices, len(self)).to(self._pixels.device, non_blocking=True)
        )


def nbytes(source: ImageSource) -> int:
    """Bytes that `Resident(source)` would take: `N × C × H × W`."""
    channels, height, width = source.shape
    return len(source) * channels * height * width


def checked(indices: Tensor | Sequence[int], length: int) -> Tensor:
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
