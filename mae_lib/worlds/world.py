"""The embedded world: images whose whole latent hierarchy is known.

A hierarchical process in the sense of §2.1 (eq. 1): class → part layout → pose, textures, colours →
pixels, every step with its own exogenous noise. It needs no download and returns what real data
sets lack: object masks, boxes, part labels and the latents that made each image. Image i of a split
is a pure function of (world version, seed, split, i, size), on any device and in any batch: classes
and places to the bit, colours to the last digit of a float, pixels but for one in a million or so,
which another processor's sines round to the neighbouring level. The rationale, written before any
sweep was run, is the book's page *The embedded world*; :data:`WORLD_VERSION` names the law, and any
change of the law must change it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from importlib import resources

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.model.autoencoder import patchify
from mae_lib.worlds import rendering
from mae_lib.worlds.latents import Noise, draw_latents
from mae_lib.worlds.law import CLASSES, LAWS, PARTS, TRAINING, WORLD_VERSION
from mae_lib.worlds.rendering import Drawing

EVALUATION_SETS = ("validation", "v2", "viewpoint", "rendition", "sketch", "hard")
LENGTHS = {"train": 32768, "reference": 32768, "candidates": 262144}
EVALUATION_LENGTH = 2000


@dataclass(frozen=True)
class WorldBatch:
    """B images and everything that made them.

    Attributes:
        images: uint8 [B, 3, S, S]. labels: int64 [B] shape class. textures: int64 [B] texture class
            (equal numbers: that class's own).
        object_mask: bool [B, S, S]. box: float [B, 4] x0, y0, x1, y1 in pixels, end exclusive;
            zeros if nothing is in view.
        part_labels: uint8 [B, S, S], 0 for the ground, p + 1 for part p of the class's template.
        latents: the exogenous choices by name, as drawn: pose, parts, colours, texture_shape, …
    """

    images: Tensor
    labels: Tensor
    textures: Tensor
    object_mask: Tensor
    box: Tensor
    part_labels: Tensor
    latents: dict[str, Tensor]


@dataclass(frozen=True)
class SceneBatch:
    """B scenes of up to K objects.

    Attributes:
        images: uint8 [B, 3, S, S]. labels: int64 [B, K], −1 where there is no object (absent, or
            too little of it in view).
        masks: bool [B, K, S, S], the visible part of each object: they are disjoint. boxes: float
            [B, K, 4] of the visible part.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    boxes: Tensor


def boxes_of(masks: Tensor) -> Tensor:
    """float [..., 4]: x0, y0, x1, y1 (end exclusive) around the True pixels of bool [..., H, W];
    zeros for an empty mask."""
    edges = []
    for axis in (-2, -1):  # columns first: x
        line = masks.any(axis)
        n = line.shape[-1]
        first, last = line.float().argmax(-1), n - line.flip(-1).float().argmax(-1)
        edges.append((torch.where(line.any(-1), first, 0), torch.where(line.any(-1), last, 0)))
    (x0, x1), (y0, y1) = edges
    return torch.stack([x0, y0, x1, y1], dim=-1).float()


def _check(split: str, size: int, known: tuple[str, ...]) -> None:
    if split not in known:
        raise InputError(
            f"the embedded world has no split {split!r}: choose one of {', '.join(known)}"
        )
    if size < 16:
        raise InputError(
            f"image size {size} px is too small to draw the embedded world's objects: use at"
            " least 16"
        )


def _indices(indices, length: int, device: torch.device | str) -> Tensor:
    index = torch.as_tensor(indices, device=device).reshape(-1)
    if not len(index):
        raise InputError("no image index was given")
    if index.is_floating_point() or index.dtype == torch.bool:
        raise InputError(f"image indices must be whole numbers, not {index[0].item()!r}")
    if int(index.min()) < 0 or int(index.max()) >= length:
        raise InputError(f"image index out of range: this split holds images 0 … {length - 1}")
    return index.to(torch.int64)


def _chunk(device: torch.device) -> int:
    return rendering.CPU_CHUNK if device.type == "cpu" else 1024


def hard_indices() -> Tensor:
    """int64 [N]: which images of the candidate stream make up *hard*, those that the fixed
    reference classifier gets wrong."""
    record = json.loads(resources.files("mae_lib.worlds").joinpath("assets/hard.json").read_text())
    if record["world_version"] != WORLD_VERSION:
        raise InputError(
            "the hard set was chosen for another version of the embedded world: run `python -m"
            " mae_lib.training.reference`"
        )
    return torch.tensor(record["indices"], dtype=torch.int64)


@dataclass(frozen=True)
class World:
    """One split of the embedded world, an image source (see
    :class:`mae_lib.data.datasets.ImageSource`).

    Args:
        split: train, validation, v2, viewpoint, rendition, sketch, hard or conflict.
        size: side S of the square images, pixels, at least 16.
        seed: which world; the training and evaluation sets of a seed share its law and no image.
        device: where images are drawn and returned.
        length: number of images; by default 32 768 for training, 2 000 for an evaluation set.

    Raises:
        InputError: for an unknown split, a size below 16, an index outside the split; for a seed or
            length that the hard set does not have.
    """

    split: str = "train"
    size: int = 64
    seed: int = 0
    device: str = "cpu"
    length: int | None = None
    classes: tuple[str, ...] = field(default=CLASSES, init=False)

    def __post_init__(self) -> None:
        _check(self.split, self.size, tuple(LAWS))
        if self.length is not None and self.length < 1:
            raise InputError(f"length {self.length}: a split holds at least one image")
        if self.split == "hard":
            if self.seed != 0:
                raise InputError(
                    f"the hard set was chosen among the images of seed 0, not of seed {self.seed}:"
                    " leave the seed out"
                )
            if self.length is not None and self.length > len(hard_indices()):
                raise InputError(
                    f"length {self.length}: the hard set holds {len(hard_indices())} images"
                )

    def __len__(self) -> int:
        if self.length is not None:
            return self.length
        return (
            len(hard_indices())
            if self.split == "hard"
            else LENGTHS.get(self.split, EVALUATION_LENGTH)
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, S, S)."""
        return 3, self.size, self.size

    @property
    def identity(self) -> dict:
        """What names these images exactly; enters the checkpoint's hash."""
        return {
            "kind": "world",
            "version": WORLD_VERSION,
            "split": self.split,
            "seed": self.seed,
            "size": self.size,
            "length": len(self),
        }

    @property
    def labels(self) -> Tensor:
        """int64 [N]: the shape class of every image."""
        return self._noise(range(len(self))).integers("class", len(CLASSES)).cpu()

    def images(self, indices) -> Tensor:
        """uint8 [B, 3, S, S]: images ``indices`` (a sequence or int64 tensor, each in [0, len))."""
        return self._render(
            draw_latents(LAWS[self.split], self._noise(indices), self.size)[1], labelled=False
        )[0]

    def sample(self, indices) -> WorldBatch:
        """Images with their class, texture, object mask, box, part labels and latents."""
        label, drawing = draw_latents(LAWS[self.split], self._noise(indices), self.size)
        images, mask, parts = self._render(drawing, labelled=True)
        latents = {k: v for k, v in drawing.__dict__.items() if isinstance(v, Tensor)}
        return WorldBatch(images, label, drawing.texture, mask, boxes_of(mask), parts, latents)

    def patch_parts(self, patch: int) -> Tensor:
        """uint8 [N, rows · columns] on the CPU: which part each patch of ``patch`` px shows most
        of, in every image: p + 1 for part p, and 0 for the ground where no pixel of the patch is
        the object's. InputError where the patch does not divide the image.
        """
        if patch < 1 or self.size % patch:
            raise InputError(
                f"patches of {patch} px do not divide images of {self.size} px: choose a divisor"
            )
        found = []
        for rows in torch.arange(len(self)).split(_chunk(torch.device(self.device)) * 8):
            parts = self.sample(rows).part_labels.unsqueeze(1)
            pixels = torch.stack(
                [patchify(parts == p + 1, patch).sum(2) for p in range(PARTS)], dim=2
            )
            found.append(torch.where(pixels.any(2), 1 + pixels.argmax(2), 0).to(torch.uint8).cpu())
        return torch.cat(found)

    @classmethod
    def named(cls, identity: dict, device: str = "cpu") -> World:
        """The split whose :attr:`identity` is ``identity``; InputError if it is another version of
        the world, or no world at all."""
        if identity.get("kind") != "world":
            raise InputError(f"{identity} names no split of the embedded world")
        world = cls(
            identity["split"], identity["size"], identity["seed"], device, identity["length"]
        )
        if world.identity != identity:
            raise InputError(
                f"these images are of version {identity['version']} of the embedded world; this"
                f" mae_lib draws version {WORLD_VERSION}"
            )
        return world

    def _noise(self, indices) -> Noise:
        index = _indices(indices, len(self), self.device)
        if self.split == "hard":
            return Noise(self.seed, "candidates", hard_indices().to(index.device)[index])
        return Noise(self.seed, self.split, index)

    def _render(self, drawing: Drawing, labelled: bool) -> tuple[Tensor, ...]:
        """(images,) or (images, object masks, part labels)."""
        x = rendering.pixel_centres(self.size, self.device)
        # Images with the same number of parts side by side: a chunk skips the parts that none of
        # its images has.
        order = drawing.parts[:, :, 8].sum(1).argsort(stable=True)
        ordered, pieces = drawing.select(order), []
        for rows in torch.arange(len(drawing), device=order.device).split(_chunk(order.device)):
            piece = ordered.select(rows)
            painted, coverage, parts = rendering.paint(
                piece, rendering.ground(piece, x, x), x, x, labelled
            )
            images = rendering.to_bytes(painted, piece.noise_seed, piece.noise)
            pieces.append((images, coverage > 0.5, parts) if labelled else (images,))
        back = order.argsort()
        return tuple(torch.cat(column)[back] for column in zip(*pieces))


@dataclass(frozen=True)
class Scenes:
    """Scenes of one to ``most`` objects of the training law, smaller and anywhere in the image; for
    detection (§3.5).

    Args:
        split: train or validation. size: side S in pixels, at least 32. most: largest number of
            objects K.
        least_pixels: objects with fewer visible pixels (at 64 px; scaled with the area) are left
            out of the labels.
    """

    split: str = "train"
    size: int = 96
    seed: int = 0
    device: str = "cpu"
    most: int = 4
    least_pixels: int = 20
    length: int = 4096
    classes: tuple[str, ...] = field(default=CLASSES, init=False)

    def __post_init__(self) -> None:
        _check(self.split, self.size, ("train", "validation"))
        if self.most < 1 or self.length < 1:
            raise InputError(
                f"at most {self.most} objects, {self.length} scenes: both must be at least 1"
            )

    def __len__(self) -> int:
        return self.length

    def sample(self, indices) -> SceneBatch:
        """Scenes ``indices``, drawn back to front."""
        index = _indices(indices, len(self), self.device)
        x = rendering.pixel_centres(self.size, self.device)
        pieces = [self._draw(piece, x) for piece in index.split(_chunk(index.device))]
        return SceneBatch(*(torch.cat(column) for column in zip(*pieces)))

    def _draw(self, index: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        law = replace(TRAINING, scale=(0.26, 0.42))
        scene = Noise(self.seed, f"scenes-{self.split}", index)
        count = 1 + scene.integers("count", self.most)
        canvas = owner = None
        labels, seeds = [], None
        for k in range(self.most):
            label, drawing = draw_latents(
                law, replace(scene, stream=f"scenes-{self.split}-{k}"), self.size
            )
            present = k < count
            place = torch.cat(
                [
                    drawing.pose[:, :2],
                    scene.uniform(f"place-{k}", 2, -0.68, 0.68),
                    drawing.pose[:, 4:],
                ],
                dim=1,
            )
            drawing = replace(drawing, pose=place)
            if canvas is None:  # the first object's ground is the scene's
                canvas, seeds = rendering.ground(drawing, x, x), drawing.noise_seed
                owner = torch.zeros(canvas[:, 0].shape, dtype=torch.int64, device=canvas.device)
            painted, covered, _ = rendering.paint(drawing, canvas, x, x, labelled=False)
            canvas = torch.where(present[:, None, None, None], painted, canvas)
            owner = torch.where(present[:, None, None] & (covered > 0.5), k + 1, owner)
            labels.append(label)
        masks = torch.stack([owner == k + 1 for k in range(self.most)], dim=1)
        seen = masks.flatten(2).sum(2) >= self.least_pixels * (self.size / 64) ** 2
        masks = masks & seen[:, :, None, None]
        images = rendering.to_bytes(canvas, seeds, 0.02)
        return images, torch.where(seen, torch.stack(labels, dim=1), -1), masks, boxes_of(masks)
