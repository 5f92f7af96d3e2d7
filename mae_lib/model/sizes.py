"""`ModelConfig`: the sizes of a masked autoencoder, checked, and as plain values for a hash or a
record."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Literal

from mae_lib.base.errors import InputError


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a masked autoencoder. Everything here changes the weights' meaning, so all of it
    enters the checkpoint's hash; what weights from elsewhere need (`ELSEWHERE`), only where it is
    not at its default."""

    image_size: tuple[int, int] = (64, 64)  # pixels (height, width)
    patch: int = 8  # side of the ViT patch, pixels
    channels: int = 3
    width: int = 64  # encoder token size D
    depth: int = 4  # encoder blocks
    heads: int = 4
    decoder_width: int = 64  # all three 0: an encoder alone
    decoder_depth: int = 1
    decoder_heads: int = 4
    mlp_ratio: float = 4.0
    # predict each patch's pixels less their mean, over their deviation
    normalise_target: bool = False
    norm_eps: float = 1e-6  # of every layer norm
    positions: Literal["sincos", "stored"] = "sincos"  # fixed, or kept with the weights
    # of pixels in [0, 1], one a channel: the weights' own units, in which the loss is taken too;
    # none: (x − 0.5) / 0.25, which images are given in
    pixel_mean: tuple[float, ...] = ()
    pixel_deviation: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.mlp_ratio, int):
            # 4 and 4.0 are equal, so their hashes have to be
            object.__setattr__(self, "mlp_ratio", float(self.mlp_ratio))
        for name in ("pixel_mean", "pixel_deviation"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        height, columns = self.image_size
        decoder = ("decoder_width", "decoder_depth", "decoder_heads")
        alone = not any(getattr(self, name) for name in decoder)
        for name in ("patch", "channels", "width", "depth", "heads", *(() if alone else decoder)):
            if getattr(self, name) < 1:
                raise InputError(f"model {name} is {getattr(self, name)}: it must be at least 1")
        if min(height, columns) < self.patch:
            raise InputError(
                f"image {height}×{columns} is smaller than one {self.patch} px patch: use larger"
                " images or a smaller patch"
            )
        if height % self.patch or columns % self.patch:
            raise InputError(
                f"patch of {self.patch} px does not divide the {height}×{columns} image: choose a"
                " patch that divides both sides"
            )
        sides = [("encoder", self.width, self.heads)]
        if not alone:
            sides.append(("decoder", self.decoder_width, self.decoder_heads))
        for side, width, heads in sides:
            if width % heads or width % 4:
                raise InputError(
                    f"{side} width {width} must be divisible by its {heads} heads and by 4"
                    " (sine-cosine positions)"
                )
        if self.normalise_target and self.patch_values == 1:
            raise InputError(
                "normalise_target needs patches of more than one number: a single pixel has no"
                " deviation"
            )
        if self.positions not in ("sincos", "stored"):
            raise InputError(f"positions {self.positions!r} are unknown: choose sincos or stored")
        counts = {len(self.pixel_mean), len(self.pixel_deviation)}
        if counts not in ({0}, {self.channels}) or not all(d > 0 for d in self.pixel_deviation):
            raise InputError(
                f"pixels need a mean and a positive deviation for each of {self.channels} channels,"
                f" not {list(self.pixel_mean)} and {list(self.pixel_deviation)}"
            )

    def to_dict(self) -> dict:
        """As plain JSON values, without what weights from elsewhere need where it is at its
        default; :meth:`from_dict` undoes it."""
        values = json.loads(json.dumps(asdict(self)))
        defaults = {f.name: f.default for f in fields(self) if f.name in ELSEWHERE}
        return {
            name: value
            for name, value in values.items()
            if name not in ELSEWHERE or getattr(self, name) != defaults[name]
        }

    @classmethod
    def from_dict(cls, values: dict) -> ModelConfig:
        """The config whose :meth:`to_dict` is ``values``; TypeError for unknown or missing
        fields."""
        missing = {f.name for f in fields(cls)} - {*values, *ELSEWHERE}
        if missing:  # a default in its place would be a guess
            raise TypeError(f"it lacks {', '.join(sorted(missing))}")
        return cls(**values | {"image_size": tuple(values["image_size"])})

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch

    @property
    def patch_values(self) -> int:
        """Numbers in one patch: channels · patch²."""
        return self.channels * self.patch**2

    @property
    def has_decoder(self) -> bool:
        """Whether there is a decoder, or an encoder alone."""
        return self.decoder_depth > 0

    def require_decoder(self) -> None:
        """InputError where there is none."""
        if not self.has_decoder:
            raise InputError(
                "this model is an encoder alone, and rebuilds nothing: import a file that holds the"
                " decoder too, or pretrain on from it"
            )


ELSEWHERE = ("norm_eps", "positions", "pixel_mean", "pixel_deviation")
"""Fields of `ModelConfig` that only weights from elsewhere need
(:mod:`mae_lib.training.config`)."""
