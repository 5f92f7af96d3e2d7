"""From an object's latents to its pixels: the last level of the embedded world (``worlds``).

Objects are unions of up to six parts. A part is an ellipse, a box or a trapezoid, all from one
formula: with part coordinates (u, v) scaled to ±1, f = (1 − k)·√(u² + v²) + k·max(|u|, |v|) is 1 on
the outline, k blending from ellipse (0) to box (1). Everything is evaluated per pixel for a batch
of images in float32 and depends on nothing but the image's own latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# A few dozen images at a time: enough to hide the cost of each call, few enough for the CPU's
# cache.
CPU_CHUNK = 32

TEXTURES = (
    "stripes",
    "bars",
    "diagonal",
    "checks",
    "grid",
    "dots",
    "rings",
    "waves",
    "speckle",
    "scales",
)
# One row a texture: frequency and angle of two plane waves p, q (cycles per object unit, radians);
# the weights of sin p, sin q, sin p · sin q and of a radial wave; how far sin q bends p; offset and
# sharpness of the final tanh.
_TEXTURE_TABLE = torch.tensor(
    [
        # f1   a1    f2    a2     sin p  sin q  both  ring  bend  bias  sharp
        [3.36, 1.57, 0.80, 0.00, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0],  # stripes: fine, across
        [1.92, 0.00, 0.80, 1.57, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0],  # bars: coarse, upright
        [2.56, 0.79, 0.80, 2.36, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0],  # diagonal
        [2.08, 0.00, 2.08, 1.57, 0.0, 0.0, 1.4, 0.0, 0.0, 0.0, 4.0],  # checks
        # grid: bright crossings on dark
        [2.88, 0.00, 2.88, 1.57, 0.8, 0.8, 0.0, 0.0, 0.0, -0.8, 3.0],
        # dots: dark spots on bright
        [2.40, 0.79, 2.40, 2.36, 0.8, 0.8, 0.0, 0.0, 0.0, 0.9, 3.0],
        [0.80, 0.00, 0.80, 1.57, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 3.0],  # rings
        [2.40, 1.57, 1.44, 0.00, 1.0, 0.0, 0.0, 0.0, 1.5, 0.0, 2.5],  # waves
        [4.24, 0.40, 3.76, 1.90, 0.5, 0.5, 0.9, 0.0, 0.9, 0.0, 2.0],  # speckle
        [2.24, 1.05, 2.24, 2.09, 0.5, -0.5, 1.0, 0.0, 0.0, 0.0, 2.5],  # scales
    ]
)
_RING_FREQUENCY = 2.7


@dataclass(frozen=True)
class Drawing:
    """Latents of a batch of B single objects, ready to be drawn. Lengths are in object units: an
    unscaled object fits in [−1, 1]².

    Attributes:
        parts: [B, P, 9] per part: centre x, y; half-width; half-height; angle; squareness k; taper;
            hole; presence (0 or 1).
        part_light: [B, P] brightness added to each part. part_phase: [B, P] texture phase, radians.
        pose: [B, 5] scale, rotation (radians), offset x, y (in half-images), foreshortening of x.
        texture: int64 [B], row of :data:`TEXTURES`. texture_shape: [B, 3] frequency factor, turn
            (radians), amplitude.
        object_colour, texture_colour, ground_colour: [B, 3] in [0, 1] units of brightness;
            texture_colour is added times ±amplitude.
        shade: [B, 2] brightness gradient over the object. ground_gradient: [B, 2] over the ground,
            per half-image.
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

    def select(self, rows: Tensor) -> Drawing:
        """The images of int64 ``rows``."""
        return Drawing(
            **{k: v[rows] if isinstance(v, Tensor) else v for k, v in self.__dict__.items()}
        )


def _column(values: Tensor) -> Tensor:
    return values[:, None, None]


def _affine(x: Tensor, y: Tensor, along_x: Tensor, along_y: Tensor, constant: Tensor) -> Tensor:
    """[B, H, W] along_x · x + along_y · y + constant, coefficients [B]; as an outer sum, one pass
    over the pixels instead of four."""
    return (along_x[:, None] * x + constant[:, None])[:, None, :] + (along_y[:, None] * y)[
        :, :, None
    ]


def texture_values(texture: Tensor, shape: Tensor, ox: Tensor, oy: Tensor, phase: Tensor) -> Tensor:
    """Texture in [−1, 1] at object coordinates.

    Args:
        texture: int64 [B]; shape: [B, 3] (see :class:`Drawing`; the amplitude is not applied); ox,
            oy, phase: [B, H, W].
    """
    row = _TEXTURE_TABLE.to(ox.device)[texture]
    f1, a1, f2, a2, w1, w2, both, ring, bend, bias, sharp = (_column(c) for c in row.unbind(1))
    factor, turn = 2 * math.pi * _column(shape[:, 0]), _column(shape[:, 1])
    q = torch.sin(
        f2 * factor * torch.cos(a2 + turn) * ox
        + f2 * factor * torch.sin(a2 + turn) * oy
        + 1.7 * phase
    )
    p = torch.sin(
        f1 * factor * torch.cos(a1 + turn) * ox
        + f1 * factor * torch.sin(a1 + turn) * oy
        + phase
        + bend * q
    )
    total = sharp * (w1 * p + w2 * q + both * p * q + bias)
    if bool(ring.any()):
        total = total + sharp * ring * torch.sin(
            _RING_FREQUENCY * factor * torch.sqrt(ox * ox + oy * oy) + phase
        )
    return torch.tanh(total)


def ground(drawing: Drawing, x: Tensor, y: Tensor) -> Tensor:
    """[B, 3, H, W] the ground alone, on pixel centres x [W], y [H] in [−1, 1]."""
    along_x, along_y = drawing.ground_gradient.unbind(1)
    light = _affine(x, y, along_x, along_y, torch.zeros_like(along_x))
    for wave in drawing.ground_waves.unbind(1):
        fx, fy, phase, amplitude = wave.unbind(1)
        light = light + _column(amplitude) * torch.sin(
            _affine(x, y, 2 * math.pi * fx, 2 * math.pi * fy, phase)
        )
    return drawing.ground_colour[:, :, None, None] + light[:, None]


def _part_distance(part: Tensor, to_object: tuple[Tensor, ...], x: Tensor, y: Tensor) -> Tensor:
    """[B, H, W] signed distance to a part's outline, object units, negative inside.

    Args:
        part: [B, 9] rows of :class:`Drawing`'s ``parts``; to_object: coefficients (xx, xy, x0, yx,
            yy, y0), each [B], of the map from image to object coordinates.
    """
    cx, cy, a, b, angle, square, taper, hole, _ = part.unbind(1)
    xx, xy, x0, yx, yy, y0 = to_object
    c, s = torch.cos(angle), torch.sin(angle)
    u = _affine(x, y, c * xx + s * yx, c * xy + s * yy, c * (x0 - cx) + s * (y0 - cy))
    v = _affine(
        x, y, (c * yx - s * xx) / b, (c * yy - s * xy) / b, (c * (y0 - cy) - s * (x0 - cx)) / b
    )
    half = (_column(a) + _column(a * taper) * v.clamp(-1, 1)).clamp_min(0.02)
    u = u / half
    u2, v2 = u * u, v * v
    round_ = torch.sqrt(u2 + v2)
    f = torch.lerp(round_, torch.maximum(u.abs(), v.abs()), _column(square))
    # One Newton step turns f − 1 into a length: along u the outline's slope is 1/half, along v it
    # is 1/b.
    length = round_ / torch.sqrt(u2 / (half * half) + v2 * _column(1 / (b * b))).clamp_min(1e-6)
    distance = (f - 1) * length
    if bool((hole > 0).any()):
        distance = torch.maximum(
            distance, (_column(hole) - f) * length - _column((hole == 0) * 1e6)
        )
    # Beyond a trapezoid's apex the step above sees the two sides run on; above and below the part,
    # the height alone is a bound.
    return torch.maximum(distance, (v.abs() - 1) * _column(b))


def paint(
    drawing: Drawing, canvas: Tensor, x: Tensor, y: Tensor, labelled: bool = True
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Paints one object an image over ``canvas``.

    Args:
        drawing: B objects; canvas: [B, 3, H, W] brightness so far; x [W], y [H]: pixel centres in
            [−1, 1].
        labelled: whether to work out the part labels too.

    Returns:
        (image [B, 3, H, W], coverage [B, H, W] in [0, 1], part labels uint8 [B, H, W]: 0 is not the
        object, p + 1 its part p).
    """
    scale, turn, dx, dy, squeeze = drawing.pose.unbind(1)
    cos, sin, wide = torch.cos(turn), torch.sin(turn), scale * squeeze
    to_object = (
        cos / wide,
        sin / wide,
        -(cos * dx + sin * dy) / wide,
        -sin / scale,
        cos / scale,
        (sin * dx - cos * dy) / scale,
    )
    ox, oy = _affine(x, y, *to_object[:3]), _affine(x, y, *to_object[3:])
    pixels = _column(scale * canvas.shape[-1] / 2)

    coverage, light, phase = torch.zeros_like(ox), torch.zeros_like(ox), torch.zeros_like(ox)
    labels = torch.zeros_like(ox) if labelled else None
    edge = torch.zeros_like(ox) if bool(drawing.ink[:, 1].any()) else None
    for p in range(drawing.parts.shape[1]):
        present = _column(drawing.parts[:, p, 8])
        if not bool(present.any()):
            continue
        distance = _part_distance(drawing.parts[:, p], to_object, x, y) * pixels
        inside = (0.5 - distance).clamp(0, 1) * present
        light = torch.lerp(light, _column(drawing.part_light[:, p]).expand_as(light), inside)
        phase = torch.lerp(phase, _column(drawing.part_phase[:, p]).expand_as(phase), inside)
        if labels is not None:
            labels = torch.where(inside > 0.5, p + 1.0, labels)
        if edge is not None:  # a part hides the outlines beneath it, then adds its own
            line = (_column(drawing.ink[:, 0]) + 0.5 - distance.abs()).clamp(0, 1) * present
            edge = torch.maximum(edge * (1 - inside), line)
        coverage = torch.maximum(coverage, inside)

    pattern = texture_values(drawing.texture, drawing.texture_shape, ox, oy, phase) * _column(
        drawing.texture_shape[:, 2]
    )
    light = light + _column(drawing.shade[:, 0]) * ox + _column(drawing.shade[:, 1]) * oy
    body = (
        drawing.object_colour[:, :, None, None]
        + light[:, None]
        + pattern[:, None] * drawing.texture_colour[:, :, None, None]
    )
    image = torch.lerp(canvas, body, coverage[:, None])
    if edge is not None:
        image = torch.lerp(
            image,
            drawing.ink[:, 2, None, None, None].expand_as(image),
            (edge * _column(drawing.ink[:, 1]))[:, None],
        )
    return image, coverage, None if labels is None else labels.to(torch.uint8)


def pixel_centres(size: int, device: torch.device | str = "cpu") -> Tensor:
    """float [size]: the pixel centres of one axis, in [−1, 1]."""
    return (torch.arange(size, device=device, dtype=torch.float32) * 2 + 1) / size - 1


def to_bytes(image: Tensor, noise_seed: Tensor, noise: float) -> Tensor:
    """Adds each image's own pixel noise, clips to [0, 1] and rounds to uint8 [B, 3, H, W]."""
    image = image + noise * pixel_noise(noise_seed, image[0].numel()).view(image.shape)
    return image.clamp_(0, 1).mul_(255).add_(0.5).to(torch.uint8)


@lru_cache(maxsize=4)
def _noise_table(device: torch.device) -> Tensor:
    return hashed_normal(torch.arange(512, device=device), 2048).flatten()


def pixel_noise(key: Tensor, count: int) -> Tensor:
    """float [B, count] standard noise: a stretch of one fixed table, from a place that ``key``
    (int64 [B]) chooses.

    Hashing every pixel would cost more than drawing the object. Two images' stretches may overlap,
    but almost never pixel on pixel.
    """
    table = _noise_table(key.device)
    if count > len(table) // 2:
        table = table.repeat(2 * count // len(table) + 1)
    stretches = table.unfold(0, count, 1)
    return stretches[hashed_bits(key, 1)[:, 0] % len(stretches)]


def hashed_bits(key: Tensor, count: int) -> Tensor:
    """int64 [B, count] of 53 random bits each: SplitMix64 of (key, position). A pure function, the
    same on every device."""
    z = (
        key[:, None]
        + (torch.arange(1, count + 1, device=key.device, dtype=torch.int64) * -7046029254386353131)[
            None
        ]
    )
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * factor
    z = z ^ ((z >> 31) & ((1 << 33) - 1))
    return (z >> 11) & ((1 << 53) - 1)


def hashed_uniform(key: Tensor, count: int) -> Tensor:
    """float32 [B, count] uniform in [0, 1), a pure function of key (int64 [B])."""
    # 24 bits are exact in float32 and cannot round up to 1.
    return (hashed_bits(key, count) >> 29).float() * 2.0**-24


def hashed_normal(key: Tensor, count: int) -> Tensor:
    """float32 [B, count] nearly normal: the sum of four 12-bit uniforms of one hash, standardised;
    its tails end at ±3.46."""
    bits = hashed_bits(key, count)
    total = sum(((bits >> shift) & 4095) for shift in (0, 12, 24, 36))
    return (total.float() - 2 * 4095) / (math.sqrt(4 / 12) * 4096)
