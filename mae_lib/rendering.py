"""From an object's latents to its pixels: the last level of the embedded world (``worlds``).

Objects are unions of up to six parts. A part is an ellipse, a box or a trapezoid, all from one formula: with part coordinates (u, v)
scaled to ±1, f = (1 − k)·√(u² + v²) + k·max(|u|, |v|) is 1 on the outline, k blending from ellipse (0) to box (1). Everything is
evaluated per pixel for a batch of images in float32 and depends on nothing but the image's own latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# A few images at a time keep the working set inside the CPU's cache: about 2× faster than one large batch.
CPU_CHUNK = 8

TEXTURES = ("stripes", "bars", "diagonal", "checks", "grid", "dots", "rings", "waves", "speckle", "scales")
# One row a texture: frequency and angle of two plane waves p, q (cycles per object unit, radians); the weights of sin p, sin q,
# sin p · sin q and of a radial wave; how far sin q bends p; offset and sharpness of the final tanh.
_TEXTURE_TABLE = torch.tensor([
    # f1   a1    f2    a2     sin p  sin q  both  ring  bend  bias  sharp
    [4.2, 1.57, 1.0, 0.00,   1.0,   0.0,  0.0,  0.0,  0.0,  0.0,  3.0],  # stripes: fine, across
    [2.4, 0.00, 1.0, 1.57,   1.0,   0.0,  0.0,  0.0,  0.0,  0.0,  3.0],  # bars: coarse, upright
    [3.2, 0.79, 1.0, 2.36,   1.0,   0.0,  0.0,  0.0,  0.0,  0.0,  3.0],  # diagonal
    [2.6, 0.00, 2.6, 1.57,   0.0,   0.0,  1.4,  0.0,  0.0,  0.0,  4.0],  # checks
    [3.6, 0.00, 3.6, 1.57,   0.8,   0.8,  0.0,  0.0,  0.0, -0.8,  3.0],  # grid: bright crossings on dark
    [3.0, 0.79, 3.0, 2.36,   0.8,   0.8,  0.0,  0.0,  0.0,  0.9,  3.0],  # dots: dark spots on bright
    [1.0, 0.00, 1.0, 1.57,   0.0,   0.0,  0.0,  1.0,  0.0,  0.0,  3.0],  # rings
    [3.0, 1.57, 1.8, 0.00,   1.0,   0.0,  0.0,  0.0,  1.5,  0.0,  2.5],  # waves
    [5.3, 0.40, 4.7, 1.90,   0.5,   0.5,  0.9,  0.0,  0.9,  0.0,  2.0],  # speckle
    [2.8, 1.05, 2.8, 2.09,   0.5,  -0.5,  1.0,  0.0,  0.0,  0.0,  2.5],  # scales
])
_RING_FREQUENCY = 3.4


@dataclass(frozen=True)
class Drawing:
    """Latents of a batch of B single objects, ready to be drawn. Lengths are in object units: an unscaled object fits in [−1, 1]².

    Attributes:
        parts: [B, P, 9] per part: centre x, y; half-width; half-height; angle; squareness k; taper; hole; presence (0 or 1).
        part_light: [B, P] brightness added to each part. part_phase: [B, P] texture phase, radians.
        pose: [B, 5] scale, rotation (radians), offset x, y (in half-images), foreshortening of x.
        texture: int64 [B], row of :data:`TEXTURES`. texture_shape: [B, 3] frequency factor, turn (radians), amplitude.
        object_colour, texture_colour, ground_colour: [B, 3] in [0, 1] units of brightness; texture_colour is added times ±amplitude.
        shade: [B, 2] brightness gradient over the object. ground_gradient: [B, 2] over the ground, per half-image.
        ground_waves: [B, K, 4] frequency x, y (cycles per half-image), phase, amplitude.
        ink: [B, 3] outline's half-width in pixels, its strength in [0, 1], and its brightness.
        noise_seed: int64 [B] seed of each image's pixel noise; noise: its standard deviation.
    """

    parts: Tensor
    part_light: Tensor
    part_phase: Tensor
    pose: Tensor
    texture: Tensor
    texture_shape: Tensor
    object_colour: Tensor
    texture_colour: Tensor
    ground_colour: Tensor
    shade: Tensor
    ground_gradient: Tensor
    ground_waves: Tensor
    ink: Tensor
    noise_seed: Tensor
    noise: float = 0.02

    def __len__(self) -> int:
        return self.parts.shape[0]

    def slice(self, start: int, stop: int) -> Drawing:
        """Images start … stop − 1."""
        return Drawing(**{k: v[start:stop] if isinstance(v, Tensor) else v for k, v in self.__dict__.items()})


def texture_values(texture: Tensor, shape: Tensor, x: Tensor, y: Tensor, phase: Tensor) -> Tensor:
    """Texture in [−1, 1] at object coordinates x, y.

    Args:
        texture: int64 [B]; shape: [B, 3] (see :class:`Drawing`; the amplitude is not applied); x, y, phase: [B, H, W].
    """
    row = _TEXTURE_TABLE.to(x.device)[texture]
    f1, a1, f2, a2, w1, w2, both, ring, bend, bias, sharp = (row[:, i, None, None] for i in range(11))
    factor, turn = shape[:, 0, None, None], shape[:, 1, None, None]
    k1, k2 = 2 * math.pi * f1 * factor, 2 * math.pi * f2 * factor
    q = torch.sin(k2 * torch.cos(a2 + turn) * x + k2 * torch.sin(a2 + turn) * y + 1.7 * phase)
    p = torch.sin(k1 * torch.cos(a1 + turn) * x + k1 * torch.sin(a1 + turn) * y + phase + bend * q)
    radial = torch.sin(2 * math.pi * _RING_FREQUENCY * factor * torch.sqrt(x * x + y * y) + phase)
    return torch.tanh(sharp * (w1 * p + w2 * q + both * p * q + ring * radial + bias))


def ground(drawing: Drawing, x: Tensor, y: Tensor) -> Tensor:
    """[B, 3, H, W] the ground alone at image coordinates x, y [H, W] in [−1, 1]."""
    light = drawing.ground_gradient[:, 0, None, None] * x + drawing.ground_gradient[:, 1, None, None] * y
    for k in range(drawing.ground_waves.shape[1]):
        fx, fy, phase, amplitude = (drawing.ground_waves[:, k, i, None, None] for i in range(4))
        light = light + amplitude * torch.sin(2 * math.pi * (fx * x + fy * y) + phase)
    return drawing.ground_colour[:, :, None, None] + light[:, None]


def paint(drawing: Drawing, canvas: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Paints one object an image over ``canvas``.

    Args:
        drawing: B objects; canvas: [B, 3, H, W] brightness so far; x, y: [H, W] image coordinates in [−1, 1].

    Returns:
        (image [B, 3, H, W], coverage [B, H, W] in [0, 1], part labels uint8 [B, H, W]: 0 is not the object, p ≥ 1 its part p − 1).
    """
    scale, turn, dx, dy, squeeze = (drawing.pose[:, i, None, None] for i in range(5))
    pixels_per_unit = scale * canvas.shape[-1] / 2
    cos, sin = torch.cos(turn), torch.sin(turn)
    px, py = x - dx, y - dy
    ox, oy = (cos * px + sin * py) / (scale * squeeze), (cos * py - sin * px) / scale

    coverage = torch.zeros_like(ox)
    labels = torch.zeros(ox.shape, dtype=torch.uint8, device=ox.device)
    light, phase, edge = torch.zeros_like(ox), torch.zeros_like(ox), torch.zeros_like(ox)
    ink_width = drawing.ink[:, 0, None, None]
    for p in range(drawing.parts.shape[1]):
        cx, cy, a, b, angle, square, taper, hole, present = (drawing.parts[:, p, i, None, None] for i in range(9))
        c, s = torch.cos(angle), torch.sin(angle)
        qx, qy = ox - cx, oy - cy
        v = (c * qy - s * qx) / b
        half = a * (1 + taper * v.clamp(-1, 1)).clamp_min(0.02)
        u = (c * qx + s * qy) / half
        round_, box = torch.sqrt(u * u + v * v), torch.maximum(u.abs(), v.abs())
        f = round_ + square * (box - round_)
        # One Newton step turns f − 1 into a length; box sides have slope 1/a or 1/b, an ellipse between them.
        slope = torch.sqrt((u / half) ** 2 + (v / b) ** 2) / round_.clamp_min(1e-4)
        distance = (f - 1) / slope
        distance = torch.maximum(distance, (hole - f) / slope)
        distance = distance * pixels_per_unit
        inside = (0.5 - distance).clamp(0, 1) * present
        owns = inside > 0.5
        labels = torch.where(owns, p + 1, labels)
        light = torch.lerp(light, drawing.part_light[:, p, None, None].expand_as(light), inside)
        phase = torch.where(owns, drawing.part_phase[:, p, None, None], phase)
        # A part hides the outlines beneath it, then adds its own.
        line = (ink_width + 0.5 - distance.abs()).clamp(0, 1) * present
        edge = torch.maximum(edge * (1 - inside), line)
        coverage = torch.maximum(coverage, inside)

    pattern = texture_values(drawing.texture, drawing.texture_shape, ox, oy, phase) * drawing.texture_shape[:, 2, None, None]
    shade = drawing.shade[:, 0, None, None] * ox + drawing.shade[:, 1, None, None] * oy
    body = drawing.object_colour[:, :, None, None] + (light + shade)[:, None] + pattern[:, None] * drawing.texture_colour[:, :, None, None]
    image = torch.lerp(canvas, body, coverage[:, None])
    inked = edge * drawing.ink[:, 1, None, None]
    image = image + inked[:, None] * (drawing.ink[:, 2, None, None, None] - image)
    return image, coverage, labels


def pixel_grid(size: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """(x, y), each [size, size]: pixel centres in [−1, 1], x to the right, y down."""
    axis = (torch.arange(size, device=device, dtype=torch.float32) * 2 + 1) / size - 1
    return axis[None, :].expand(size, size), axis[:, None].expand(size, size)


def to_bytes(image: Tensor, noise_seed: Tensor, noise: float) -> Tensor:
    """Adds each image's own pixel noise, clips to [0, 1] and rounds to uint8 [B, 3, H, W]."""
    if noise:
        image = image + noise * hashed_normal(noise_seed, image[0].numel()).view(image.shape)
    return (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8)


def hashed_bits(key: Tensor, count: int) -> Tensor:
    """int64 [B, count] of 53 random bits each: SplitMix64 of (key, position). A pure function, the same on every device."""
    z = key[:, None] + (torch.arange(1, count + 1, device=key.device, dtype=torch.int64) * -7046029254386353131)[None]
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * factor
    z = z ^ ((z >> 31) & ((1 << 33) - 1))
    return (z >> 11) & ((1 << 53) - 1)


def hashed_uniform(key: Tensor, count: int) -> Tensor:
    """float32 [B, count] uniform in [0, 1), a pure function of key (int64 [B])."""
    # 24 bits are exact in float32 and cannot round up to 1.
    return (hashed_bits(key, count) >> 29).float() * 2.0**-24


def hashed_normal(key: Tensor, count: int) -> Tensor:
    """float32 [B, count] nearly normal: the sum of four 12-bit uniforms of one hash, standardised; its tails end at ±3.46."""
    bits = hashed_bits(key, count)
    total = sum(((bits >> shift) & 4095) for shift in (0, 12, 24, 36))
    return (total.float() - 2 * 4095) / (math.sqrt(4 / 12) * 4096)
