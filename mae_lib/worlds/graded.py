"""The embedded world's shifted sets at five severities, as the common corruption benchmarks have
them (Hendrycks and Dietterich 2019): how far an image is moved from the training law towards a
set's own. The strongest is the set itself. The steps are equal, and no model was looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.worlds.latents import Noise, draw_latents
from mae_lib.worlds.law import LAWS, TRAINING
from mae_lib.worlds.rendering import Drawing
from mae_lib.worlds.world import EVALUATION_LENGTH, World, WorldBatch, boxes_of

SEVERITIES = (1, 2, 3, 4, 5)
GRADED = ("viewpoint", "rendition", "sketch")
"""Sets with a law of their own; *v2* follows the training law, and *hard* is chosen, not drawn."""


@dataclass(frozen=True)
class Graded(World):
    """A shifted set at one severity, an image source as `World` is.

    Each image's noises are turned into latents twice, by the training law and by the set's, and the
    image has the latents that lie severity / 5 of the way from the one to the other: pose, colours,
    contrast, the strength and width of the outlines. No two severities share an image.

    Args:
        split: one of `GRADED`. severity: 1 to 5; 5 is ``World(split)``, image by image.

    Raises:
        InputError: another split or severity, and what `World` refuses.
    """

    split: str = "viewpoint"
    severity: int = SEVERITIES[-1]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in GRADED:
            raise InputError(f"{self.split!r} has no severities: choose one of {', '.join(GRADED)}")
        if self.severity not in SEVERITIES:
            raise InputError(
                f"severity {self.severity!r}: choose {SEVERITIES[0]} to {SEVERITIES[-1]}"
            )
        if len(self) > EVALUATION_LENGTH:
            raise InputError(f"length {len(self)}: a severity has {EVALUATION_LENGTH} images")

    @property
    def identity(self) -> dict:
        """What names these images exactly."""
        return super().identity | {"severity": self.severity}

    def images(self, indices) -> Tensor:
        """uint8 [B, 3, S, S]: images ``indices`` (a sequence or int64 tensor, each in [0, len))."""
        return self._render(self._between(indices)[1], labelled=False)[0]

    def sample(self, indices) -> WorldBatch:
        """Images with their class, texture, object mask, box, part labels and latents."""
        label, drawing = self._between(indices)
        images, mask, parts = self._render(drawing, labelled=True)
        latents = {k: v for k, v in drawing.__dict__.items() if isinstance(v, Tensor)}
        return WorldBatch(images, label, drawing.texture, mask, boxes_of(mask), parts, latents)

    def _noise(self, indices) -> Noise:
        noise = super()._noise(indices)
        further = EVALUATION_LENGTH * (SEVERITIES[-1] - self.severity)
        return replace(noise, indices=noise.indices + further)

    def _between(self, indices) -> tuple[Tensor, Drawing]:
        noise, share = self._noise(indices), self.severity / SEVERITIES[-1]
        label, near = draw_latents(TRAINING, noise, self.size)
        _, far = draw_latents(LAWS[self.split], noise, self.size)
        mixed = {}
        for field in fields(Drawing):
            a, b = getattr(near, field.name), getattr(far, field.name)
            if isinstance(a, Tensor) and a.is_floating_point():
                mixed[field.name] = torch.lerp(a, b, share)
        return label, replace(far, **mixed)
