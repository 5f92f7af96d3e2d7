"""`ImageSource`, the protocol that every source of images meets: folders, shards, the embedded
world, a user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class ImageSource(Protocol):
    """A finite, indexable set of labelled images of one size. The same index always gives the same
    image, in any batch; where images are computed, as the embedded world's are, another processor
    may round single values to the neighbouring level.

    Attributes:
        shape: `(C, H, W)` of every image, in pixels.
        labels: int64 `[N]` on the CPU, each in `[0, len(classes))`; InputError where the images
            have none.
        classes: the class names, in the order of the labels; empty then.
        identity: a dict that JSON can hold and that names the data exactly, free of machine paths;
            equal identities mean equal images. It is hashed into a checkpoint's address.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def labels(self) -> Tensor: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    def __len__(self) -> int: ...

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        """uint8 `[B, C, H, W]` in 0..255 for int64 `indices` `[B]`, each in `[0, N)`."""
        ...
