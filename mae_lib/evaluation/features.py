"""What a frozen encoder makes of images (§3.3): its [CLS] token and the mean of its patch tokens,
nothing masked. Features are computed once for each pair of weights and images and kept in the cache
under a hash of both and of the code that makes them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.files import DamagedFile, set_aside
from mae_lib.base.image_source import ImageSource
from mae_lib.base.tensors import read_safetensors, write_safetensors
from mae_lib.data.datasets import Subset
from mae_lib.model import autoencoder as model_module
from mae_lib.model.autoencoder import MaskedAutoencoder, normalise_pixels
from mae_lib.training.pretrain import resolve_device
from mae_lib.training.store import Checkpoint, cache_directory

POOLS = ("mean", "cls")
"""How an image's tokens become one vector: the mean over its patch tokens (the default everywhere),
or the [CLS] token."""


@dataclass(frozen=True)
class Features:
    """Features of N images.

    Attributes:
        mean, cls: float32 [N, D] on the CPU. labels: int64 [N], −1 where the images have none.
        classes: the names of the labels, none then.
    """

    mean: Tensor
    cls: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def pooled(self, pool: str) -> Tensor:
        """[N, D] by the name of the pooling; InputError for one that is not in `POOLS`."""
        if pool not in POOLS:
            raise InputError(f"there is no pooling {pool!r}: choose one of {', '.join(POOLS)}")
        return self.mean if pool == "mean" else self.cls

    def __len__(self) -> int:
        return len(self.labels)


@torch.no_grad()
def encode(
    model: MaskedAutoencoder, source: ImageSource, count: int | None = None, batch: int = 250
) -> Features:
    """Features of ``count`` images spread evenly over ``source`` (`Subset`; all by default), made
    on the model's device; nothing is kept.

    Raises:
        InputError: ``count`` below 1 or beyond the source's images, or images of another size than
            the model's.
    """
    source = source if count is None else Subset(source, count)
    device = next(model.parameters()).device
    mean, cls = [], []
    for index in torch.arange(len(source)).split(batch):
        tokens = model.encode(normalise_pixels(source.images(index)).to(device))
        mean.append(tokens[:, 1:].mean(1).float().cpu())
        cls.append(tokens[:, 0].float().cpu())
    return _labelled(torch.cat(mean), torch.cat(cls), source)


def _labelled(mean: Tensor, cls: Tensor, source: ImageSource) -> Features:
    classes = tuple(source.classes)
    labels = source.labels if classes else torch.full((len(source),), -1)
    return Features(mean, cls, labels, classes)


def features(
    checkpoint: Checkpoint, source: ImageSource, count: int | None = None, device: str = "auto"
) -> Features:
    """As :func:`encode`, of a stored model: from the cache if these weights have met these images
    before, else computed and kept there.

    A damaged file of the cache is named in a warning, set aside and made anew.
    """
    source = source if count is None else Subset(source, count)
    path = cache_directory() / "features" / f"{_key(checkpoint, source)}.safetensors"
    if path.exists():
        try:
            tensors, _ = read_safetensors(path)
            return _labelled(tensors["mean"], tensors["cls"], source)
        except (DamagedFile, KeyError) as error:
            warnings.warn(
                f"{error}. Set aside as {set_aside(path).name}; the features are computed anew.",
                stacklevel=2,
            )
    found = encode(checkpoint.load(resolve_device(device)), source)
    write_safetensors(
        path, {"mean": found.mean, "cls": found.cls}, {"weights": checkpoint.record["digest"]}
    )
    return found


def pixel_features(source: ImageSource, count: int, side: int = 32) -> Tensor:
    """float [count, C · side · side]: ``count`` images spread evenly over the source, averaged down
    to ``side`` pixels; the control for any learned feature. InputError for a count out of range."""
    images = normalise_pixels(Subset(source, count).images(range(count)))
    return torch.nn.functional.adaptive_avg_pool2d(images, side).flatten(1)


def _key(checkpoint: Checkpoint, source: ImageSource) -> str:
    code = "".join(
        Path(inspect.getfile(module)).read_text(encoding="utf-8")
        for module in (model_module, inspect.getmodule(encode))
    )
    named = [
        checkpoint.record["digest"],
        source.identity,
        hashlib.sha256(code.encode()).hexdigest(),
    ]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:24]
