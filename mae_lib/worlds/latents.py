"""The embedded world's latents: class, parts, pose, texture and light of each image, drawn by a law
from noise that is a function of the image's index."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mae_lib.worlds.law import CLASSES, PARTS, TEMPLATES, WORLD_VERSION, Law
from mae_lib.worlds.rendering import TEXTURES, Drawing, hashed_bits, hashed_normal, hashed_uniform


def _keys(seed: int, stream: str, name: str, indices: Tensor) -> Tensor:
    """int64 [B]: one key for each image, for the latent called ``name``."""
    digest = hashlib.sha256(f"{WORLD_VERSION}/{seed}/{stream}/{name}".encode()).digest()
    base = int.from_bytes(digest[:8], "little", signed=True)
    return hashed_bits(indices * 2862933555777941757 + base, 1)[:, 0]


@dataclass(frozen=True)
class Noise:
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
    for c, parts in enumerate(TEMPLATES.values()):
        rows[c, : len(parts), :8] = torch.tensor(parts)
        rows[c, : len(parts), 8] = 1.0
    return rows


def _signed(noise: Noise, name: str, low: float, high: float) -> Tensor:
    u = noise.uniform(name, 2)
    return torch.where(u[:, 0] < 0.5, -1.0, 1.0) * (low + (high - low) * u[:, 1])


def draw_latents(law: Law, noise: Noise, size: int) -> tuple[Tensor, Drawing]:
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
