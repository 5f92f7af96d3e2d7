"""What an evaluation is given: its options; the images that they name, opened once and held in
memory where they fit; and cue-conflict stimuli (§3.4), the shape of one class with the texture of
another."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.data.datasets import Resident, Subset
from mae_lib.data.encoded import FolderImages
from mae_lib.data.image_files import shown
from mae_lib.data.shifted import open_shifted
from mae_lib.data.sources import image_source
from mae_lib.evaluation.shape_bias import category_groups
from mae_lib.training.store import Checkpoint
from mae_lib.worlds.world import EVALUATION_SETS, World


@dataclass(frozen=True)
class Options:
    """What the evaluations are run on.

    Attributes:
        data: folder with train/ and val/ of class folders; None: the embedded world.
        shifted: name → folder of a shifted set for the probe (see `mae_lib.data.shifted`); the
            embedded world brings its own five.
        stimuli: folder of Geirhos's cue-conflict stimuli; needed with ``data``, the embedded world
            brings its own.
        images: validation images of the reconstruction and the attention. train_images: images that
            a probe is trained on; both at most.
        neighbours: how many training images vote in knn.
        device: auto, cpu, cuda or cuda:N. seed: of masks, probes and the draw of ten classes.
    """

    data: Path | None = None
    shifted: Mapping[str, Path] = field(default_factory=dict)
    stimuli: Path | None = None
    images: int = 1000
    train_images: int = 8192
    device: str = "auto"
    seed: int = 0
    neighbours: int = 20

    def __post_init__(self) -> None:
        for name in ("images", "train_images"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: an evaluation needs at least 1")


DEFAULTS = Options()


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Named:
    """A source that stands for its identity: equal to any other of the same images."""

    identity: str
    source: ImageSource = field(compare=False)


@lru_cache(maxsize=16)
def _held(named: _Named) -> ImageSource:
    return Resident(named.source)


def resident(source: ImageSource) -> ImageSource:
    """The images of a source, decoded or drawn once in a process, however many models look at them,
    and anew where they have changed."""
    return _held(_Named(digest(source.identity), source))


def open_named(
    data: Path | None, split: str, size: tuple[int, int], channels: int, count: int | None
) -> ImageSource:
    """``count`` images of a split at most, spread evenly over it."""
    return resident(thinned(image_source(data, split, size, channels), count))


def thinned(source: ImageSource, count: int | None) -> ImageSource:
    return source if count is None or count >= len(source) else Subset(source, count)


def images_of(
    checkpoint: Checkpoint, options: Options, split: str, count: int | None = None
) -> ImageSource:
    model = checkpoint.config.model
    return open_named(options.data, split, model.image_size, model.channels, count)


def probe_sources(
    options: Options, size: tuple[int, int], channels: int
) -> dict[str, tuple[ImageSource, Tensor]]:
    """name → (images, which classes count as right for each label), of every set that a probe is
    scored on."""
    names = EVALUATION_SETS if options.data is None else ("validation",)
    sources = {name: open_named(options.data, name, size, channels, None) for name in names}
    classes = tuple(sources["validation"].classes)
    own = torch.eye(len(classes), dtype=torch.bool)
    sets = {name: (source, own) for name, source in sources.items()}
    for name, directory in options.shifted.items():
        shifted = open_shifted(name, directory, classes, size, channels)
        sets[name] = resident(shifted.source), shifted.accepts
    return sets


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


def stimuli_of(options: Options, size: tuple[int, int], channels: int) -> Stimuli:
    """The cue-conflict stimuli that the options name; by default the embedded world's."""
    if options.stimuli is None:
        opened = _world_stimuli(size[0])
    else:
        opened = read_stimuli(options.stimuli, size, channels)
    return replace(opened, source=resident(opened.source))


_world_stimuli = lru_cache(maxsize=4)(world_stimuli)
