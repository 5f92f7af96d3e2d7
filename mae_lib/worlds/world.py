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

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from importlib import resources

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.model.autoencoder import patchify
from mae_lib.worlds import rendering
from mae_lib.worlds.rendering import TEXTURES, Drawing, hashed_bits, hashed_normal, hashed_uniform

WORLD_VERSION = "1"

# Each part: centre x, y; half-width; half-height; angle; squareness (0 ellipse, 1 box); taper (+1:
# apex on top); hole (share of the part).
_TEMPLATES: dict[str, tuple[tuple[float, ...], ...]] = {
    "boat": (
        (0.00, 0.48, 0.62, 0.24, 0.00, 1.0, -0.35, 0.0),  # hull
        (0.02, -0.25, 0.05, 0.55, 0.00, 1.0, 0.0, 0.0),  # mast
        (0.34, -0.22, 0.24, 0.45, 0.00, 1.0, 0.95, 0.0),  # fore sail
        (-0.28, -0.12, 0.19, 0.34, 0.00, 1.0, 0.95, 0.0),  # aft sail
    ),
    "car": (
        (0.00, 0.15, 0.85, 0.25, 0.00, 0.8, 0.0, 0.0),  # body
        (-0.05, -0.22, 0.42, 0.22, 0.00, 0.9, 0.35, 0.0),  # cabin
        (-0.48, 0.42, 0.22, 0.22, 0.00, 0.0, 0.0, 0.0),  # rear wheel
        (0.48, 0.42, 0.22, 0.22, 0.00, 0.0, 0.0, 0.0),  # front wheel
    ),
    "dog": (
        (-0.08, 0.00, 0.55, 0.26, 0.00, 0.3, 0.0, 0.0),  # trunk
        (0.58, -0.34, 0.26, 0.21, 0.20, 0.1, 0.0, 0.0),  # head
        (-0.46, 0.48, 0.10, 0.36, 0.00, 0.8, 0.0, 0.0),  # hind leg
        (0.30, 0.48, 0.10, 0.36, 0.00, 0.8, 0.0, 0.0),  # fore leg
        (-0.70, -0.28, 0.07, 0.30, -0.60, 0.6, 0.0, 0.0),  # tail
        (0.48, -0.56, 0.10, 0.18, -0.30, 0.4, 0.6, 0.0),  # ear
    ),
    "fish": (
        (0.12, 0.00, 0.62, 0.36, 0.00, 0.0, 0.0, 0.0),  # body
        (-0.66, 0.00, 0.28, 0.26, 1.571, 1.0, 0.9, 0.0),  # tail
        (0.08, -0.42, 0.22, 0.16, -0.30, 0.9, 0.8, 0.0),  # back fin
        (0.05, 0.40, 0.14, 0.14, 0.30, 0.9, -0.8, 0.0),  # belly fin
        (0.46, -0.08, 0.08, 0.08, 0.00, 0.0, 0.0, 0.0),  # eye
    ),
    "flower": (
        (0.00, 0.46, 0.05, 0.48, 0.00, 1.0, 0.0, 0.0),  # stem
        (0.00, -0.36, 0.52, 0.20, 0.00, 0.0, 0.0, 0.0),  # petals across
        (0.00, -0.36, 0.52, 0.20, 1.047, 0.0, 0.0, 0.0),  # petals
        (0.00, -0.36, 0.52, 0.20, 2.094, 0.0, 0.0, 0.0),  # petals
        (0.00, -0.36, 0.18, 0.18, 0.00, 0.0, 0.0, 0.0),  # centre
        (0.22, 0.50, 0.24, 0.10, -0.60, 0.0, 0.0, 0.0),  # leaf
    ),
    "house": (
        (0.00, 0.35, 0.56, 0.45, 0.00, 1.0, 0.0, 0.0),  # walls
        (0.00, -0.36, 0.38, 0.30, 0.00, 1.0, 0.95, 0.0),  # roof
        (0.34, -0.52, 0.09, 0.24, 0.00, 1.0, 0.0, 0.0),  # chimney
        (-0.20, 0.52, 0.13, 0.28, 0.00, 1.0, 0.0, 0.0),  # door
        (0.24, 0.30, 0.14, 0.14, 0.00, 1.0, 0.0, 0.0),  # window
    ),
    "lamp": (
        (0.00, 0.72, 0.42, 0.12, 0.00, 0.3, 0.4, 0.0),  # foot
        (0.00, 0.20, 0.06, 0.48, 0.00, 1.0, 0.0, 0.0),  # pole
        (0.00, -0.46, 0.42, 0.36, 0.00, 1.0, 0.45, 0.0),  # shade
    ),
    "mug": (
        (-0.14, 0.06, 0.46, 0.56, 0.00, 0.9, -0.08, 0.0),  # body
        (0.42, 0.06, 0.32, 0.34, 0.00, 0.2, 0.0, 0.62),  # handle
        (-0.14, -0.50, 0.48, 0.12, 0.00, 0.0, 0.0, 0.0),  # rim
    ),
    "mushroom": (
        (0.00, 0.42, 0.19, 0.46, 0.00, 0.7, 0.15, 0.0),  # stem
        (0.00, -0.20, 0.62, 0.40, 0.00, 0.35, 0.55, 0.0),  # cap
        (-0.24, -0.20, 0.11, 0.10, 0.00, 0.0, 0.0, 0.0),  # spot
        (0.18, -0.34, 0.12, 0.10, 0.00, 0.0, 0.0, 0.0),  # spot
    ),
    "tree": (
        (0.00, 0.60, 0.12, 0.36, 0.00, 1.0, 0.2, 0.0),  # trunk
        (-0.32, 0.02, 0.34, 0.32, 0.00, 0.1, 0.0, 0.0),  # crown, left
        (0.34, 0.00, 0.34, 0.32, 0.00, 0.1, 0.0, 0.0),  # crown, right
        (0.00, -0.42, 0.38, 0.36, 0.00, 0.1, 0.0, 0.0),  # crown, top
    ),
}
CLASSES: tuple[str, ...] = tuple(_TEMPLATES)
PARTS = max(len(parts) for parts in _TEMPLATES.values())


@dataclass(frozen=True)
class Law:
    """Ranges of the exogenous noises; each evaluation set is the training law with some of them
    changed."""

    turn: tuple[float, float] = (0.0, 0.25)  # size of the rotation, radians, either sign
    scale: tuple[float, float] = (0.72, 0.92)  # half-images per object unit
    offset: float = 0.1  # largest shift of the centre, half-images
    squeeze: tuple[float, float] = (0.9, 1.1)  # foreshortening of the object's width
    joint: float = 0.05  # part centres, object units
    girth: float = 0.14  # part sizes, relative
    bend: float = 0.15  # part angles, radians
    texture_match: float = 0.7  # probability that the texture is the class's own
    amplitude: tuple[float, float] = (0.1, 0.16)  # texture contrast, brightness
    contrast: tuple[float, float] = (0.25, 0.45)  # |object − ground|, brightness; the sign is free
    chroma: float = 0.1  # colour away from grey
    clutter: float = 0.03  # amplitude of each ground wave
    # outline: half-width in pixels at 64 px, strength, brightness
    ink: tuple[float, float, float] = (0.0, 0.0, 0.0)
    flat: bool = False  # white ground and body, no texture: nothing but the outlines


TRAINING = Law()
LAWS: dict[str, Law] = {
    "train": TRAINING,
    "validation": TRAINING,
    "v2": TRAINING,
    "viewpoint": replace(
        TRAINING,
        turn=(0.5, 1.1),
        scale=(0.55, 0.72),
        offset=0.25,
        squeeze=(0.65, 0.9),
        clutter=0.08,
    ),
    "rendition": replace(
        TRAINING, amplitude=(0.0, 0.0), chroma=0.34, clutter=0.0, ink=(0.9, 1.0, 0.05)
    ),
    "sketch": replace(
        TRAINING, amplitude=(0.0, 0.0), chroma=0.0, clutter=0.0, ink=(0.7, 0.9, 0.05), flat=True
    ),
    "hard": TRAINING,
    "conflict": replace(TRAINING, texture_match=0.0),
    # Candidates from which the hard set is chosen (``mae_lib.training.reference``), and its
    # classifier's training images.
    "candidates": TRAINING,
    "reference": TRAINING,
}
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


def _keys(seed: int, stream: str, name: str, indices: Tensor) -> Tensor:
    """int64 [B]: one key for each image, for the latent called ``name``."""
    digest = hashlib.sha256(f"{WORLD_VERSION}/{seed}/{stream}/{name}".encode()).digest()
    base = int.from_bytes(digest[:8], "little", signed=True)
    return hashed_bits(indices * 2862933555777941757 + base, 1)[:, 0]


@dataclass(frozen=True)
class _Noise:
    """Exogenous noises of images ``indices`` of a stream; each name is an independent source."""

    seed: int
    stream: str
    indices: Tensor

    def key(self, name: str) -> Tensor:
        return _keys(self.seed, self.stream, name, self.indices)

    def uniform(self, name: str, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * hashed_uniform(self.key(name), count)

    def normal(self, name: str, count: int) -> Tensor:
        return hashed_normal(self.key(name), count)

    def integers(self, name: str, bound: int) -> Tensor:
        return hashed_bits(self.key(name), 1)[:, 0] % bound


def _template_tensor() -> Tensor:
    rows = torch.zeros(len(CLASSES), PARTS, 9)
    rows[..., 2:4] = 1.0  # absent parts keep harmless sizes
    for c, parts in enumerate(_TEMPLATES.values()):
        rows[c, : len(parts), :8] = torch.tensor(parts)
        rows[c, : len(parts), 8] = 1.0
    return rows


def _signed(noise: _Noise, name: str, low: float, high: float) -> Tensor:
    u = noise.uniform(name, 2)
    return torch.where(u[:, 0] < 0.5, -1.0, 1.0) * (low + (high - low) * u[:, 1])


def draw_latents(law: Law, noise: _Noise, size: int) -> tuple[Tensor, Drawing]:
    """Top-down, parents before children (eq. 1): class, layout, pose, texture, colours.

    Returns:
        (labels int64 [B], drawing): the class, and all that the renderer needs.
    """
    b, device = noise.indices.shape[0], noise.indices.device
    label = noise.integers("class", len(CLASSES))
    own = noise.uniform("texture-match", 1)[:, 0] < law.texture_match
    other = (label + 1 + noise.integers("texture-other", len(TEXTURES) - 1)) % len(TEXTURES)
    texture = torch.where(own, label, other)

    parts = _template_tensor().to(device)[label]
    parts[..., 0:2] += law.joint * noise.uniform("joints", PARTS * 2, -1, 1).view(b, PARTS, 2)
    parts[..., 2:4] *= 1 + law.girth * noise.uniform("girths", PARTS * 2, -1, 1).view(b, PARTS, 2)
    parts[..., 4] += law.bend * noise.uniform("bends", PARTS, -1, 1)
    pose = torch.stack(
        [
            noise.uniform("scale", 1, *law.scale)[:, 0],
            _signed(noise, "turn", *law.turn),
            *noise.uniform("offset", 2, -law.offset, law.offset).unbind(1),
            noise.uniform("squeeze", 1, *law.squeeze)[:, 0],
        ],
        dim=1,
    )

    # Brightness: a free ground, and an object brighter or darker by the contrast, whichever sign
    # was drawn if it fits, else the other.
    level = noise.uniform("ground-level", 1, 0.25, 0.75)[:, 0]
    contrast = _signed(noise, "contrast", *law.contrast)
    contrast = torch.where((level + contrast < 0.1) | (level + contrast > 0.9), -contrast, contrast)
    tint = law.chroma * noise.uniform("tint", 9, -1, 1).view(b, 3, 3)
    tint = tint - tint.mean(2, keepdim=True)
    amplitude = noise.uniform("amplitude", 1, *law.amplitude)
    ground_colour, object_colour = (
        level[:, None] + tint[:, 0],
        (level + contrast)[:, None] + tint[:, 1],
    )
    waves = torch.stack(
        [
            noise.uniform("wave-x", 3, -2.2, 2.2),
            noise.uniform("wave-y", 3, -2.2, 2.2),
            noise.uniform("wave-phase", 3, 0, 2 * math.pi),
            law.clutter * noise.uniform("wave-amplitude", 3, 0.3, 1),
        ],
        dim=2,
    )
    if law.flat:
        ground_colour, object_colour = (
            torch.full_like(ground_colour, 0.95),
            torch.full_like(object_colour, 0.95),
        )
    ink = torch.tensor(law.ink, device=device).expand(b, 3).clone()
    ink[:, 0] *= size / 64
    quiet = 0.0 if law.flat else 1.0
    drawing = Drawing(
        parts=parts,
        part_light=quiet * 0.07 * noise.uniform("part-light", PARTS, -1, 1),
        part_phase=noise.uniform("part-phase", PARTS, 0, 2 * math.pi),
        pose=pose,
        texture=texture,
        texture_shape=torch.cat(
            [
                noise.uniform("frequency", 1, 0.85, 1.15),
                noise.uniform("grain", 1, -0.2, 0.2),
                amplitude,
            ],
            dim=1,
        ),
        object_colour=object_colour,
        texture_colour=1 + 2 * tint[:, 2],
        ground_colour=ground_colour,
        shade=quiet * noise.uniform("shade", 2, -0.06, 0.06),
        ground_gradient=quiet * noise.uniform("gradient", 2, -0.1, 0.1),
        ground_waves=waves,
        ink=ink,
        noise_seed=noise.key("pixels"),
    )
    return label, drawing


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
    record = json.loads(
        resources.files("mae_lib.worlds.world").joinpath("assets/hard.json").read_text()
    )
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

    def _noise(self, indices) -> _Noise:
        index = _indices(indices, len(self), self.device)
        if self.split == "hard":
            return _Noise(self.seed, "candidates", hard_indices().to(index.device)[index])
        return _Noise(self.seed, self.split, index)

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
        scene = _Noise(self.seed, f"scenes-{self.split}", index)
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
