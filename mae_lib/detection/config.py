"""How a detector is built and fine-tuned: `DetectorConfig` and `FinetuneConfig`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property

from mae_lib.base.errors import InputError
from mae_lib.model.autoencoder import ModelConfig


@dataclass(frozen=True)
class DetectorConfig:
    """Sizes of a detector, beside those of its encoder. Raises InputError for sizes that do not fit
    together.

    Attributes:
        image_size: side S, pixels. Images are scaled until the longer side is S and padded at the
            right and the bottom to S × S, so that nothing found in an image depends on the others
            of its batch.
        strides: pixels a cell of each level of the pyramid, powers of two, alike for every ViT
            patch. width: its channels.
        anchors: side of the anchors of each level, pixels, each in three shapes (1:2, 1:1, 2:1).
        canonical: side of a box, pixels, that is looked at on the level of stride 16; at half of
            it, on that of stride 8.
        window: side of the attention's windows, tokens (ViTDet: the pretraining grid's); None, or a
            side no shorter than the grid's: global. The last block of each quarter of the depth is
            always global.
        pre_nms, post_nms: proposals kept before (a level) and after (an image) suppression.
            rpn_samples, roi_samples: anchors and proposals that enter the losses, an image.
            box_width: of the two hidden layers of the box head. mask_layers, mask_width: its 3×3
            convolutions.
        drop_path: stochastic depth of the last block; it grows linearly from 0 at the first.
        least_score: detections below it are left out.
    """

    image_size: int = 96
    strides: tuple[int, ...] = (4, 8, 16, 32)
    width: int = 256
    anchors: tuple[float, ...] = (32, 64, 128, 256)
    canonical: float = 224.0
    window: int | None = None
    pre_nms: int = 1000
    post_nms: int = 1000
    rpn_samples: int = 256
    roi_samples: int = 512
    box_width: int = 1024
    mask_layers: int = 4
    mask_width: int = 256
    drop_path: float = 0.0
    least_score: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "strides", tuple(self.strides))
        object.__setattr__(self, "anchors", tuple(float(side) for side in self.anchors))
        for name in ("canonical", "drop_path", "least_score"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if not self.strides or any(
            s < 1 or s & (s - 1) or s != self.strides[0] << k for k, s in enumerate(self.strides)
        ):
            raise InputError(
                f"pyramid strides {list(self.strides)} must be powers of two, each twice the one"
                " before, for instance 4, 8, 16, 32"
            )
        if self.image_size < 1 or self.image_size % self.strides[-1]:
            raise InputError(
                f"images of {self.image_size} px do not divide into the pyramid's cells of"
                f" {self.strides[-1]} px: choose a multiple of {self.strides[-1]}"
            )
        if len(self.anchors) != len(self.strides):
            raise InputError(
                f"{len(self.anchors)} anchor sizes for {len(self.strides)} levels of the pyramid:"
                " give one a level"
            )
        counts = (
            "width",
            "pre_nms",
            "post_nms",
            "rpn_samples",
            "roi_samples",
            "box_width",
            "mask_layers",
            "mask_width",
        )
        for name in counts + (("window",) if self.window is not None else ()):
            if getattr(self, name) < 1:
                raise InputError(f"detector {name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.drop_path < 1:
            raise InputError(f"drop path {self.drop_path} must be in [0, 1)")


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning, completely. Raises InputError for sizes that do not fit together.

    Attributes:
        model: sizes of the encoder. detector: sizes of the rest. classes: names, in the order of
            the labels. data: identity of the training images.
        pretrained: digest of the checkpoint that the encoder comes from, None: from scratch.
            origin: that checkpoint's name.
        seed: of fresh weights, data order, augmentation and the draw of proposals. steps, batch:
            optimiser steps, images a step (of all processes).
        learning_rate: peak rate of the heads. layer_decay: see
            :func:`mae_lib.detection.mask_rcnn.parameter_groups`. warmup: share of the steps; then
            half a cosine to zero (ViTDet's own schedule falls in steps). weight_decay, betas:
            AdamW's. clip: largest norm of the gradient, 0: any.
        flip: mirror half of the images. jitter: range of a random factor on the images' scale; what
            no longer fits is cropped (ViTDet's large-scale jitter); (1, 1): none. precision:
            float32, or bfloat16 autocast of the backbone on a GPU.
    """

    model: ModelConfig
    detector: DetectorConfig
    classes: tuple[str, ...]
    data: dict
    pretrained: str | None = None
    origin: str | None = None
    seed: int = 0
    steps: int = 1000
    batch: int = 8
    learning_rate: float = 1e-4
    layer_decay: float = 0.7
    warmup: float = 0.05
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    flip: bool = True
    jitter: tuple[float, float] = (1.0, 1.0)
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "layer_decay", "warmup", "weight_decay", "clip"):
            # 1 and 1.0 are equal, so their hashes have to be
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("betas", "jitter"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        object.__setattr__(self, "classes", tuple(self.classes))
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not self.learning_rate > 0:
            raise InputError(f"learning rate {self.learning_rate} must be positive")
        if not 0 < self.layer_decay <= 1:
            raise InputError(
                f"layer decay {self.layer_decay} must be in (0, 1]: the learning rate's factor from"
                " one block to the one below it"
            )
        if not 0 < self.jitter[0] <= self.jitter[1]:
            raise InputError(
                f"scale jitter {list(self.jitter)} must be a range of positive factors, for"
                " instance 0.1 and 2"
            )
        if not self.classes:
            raise InputError("there is no class to detect: the annotations list no category")
        if self.precision not in ("float32", "bfloat16"):
            raise InputError(f"precision {self.precision!r} is unknown: choose float32 or bfloat16")
        if (self.pretrained is None) != (self.origin is None):
            raise InputError(
                "a pretrained encoder has both a digest and a name, and from scratch there is"
                " neither"
            )

    @cached_property
    def hash(self) -> str:
        """16 hex digits of SHA-256 over every field: equal configs, equal names."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Readable name: ``r75-u8-p8-s0-detector`` of the pretraining r75-u8-p8-s0, or
        ``scratch-p8-s0-detector``; with the seed, where it is not the pretraining's."""
        origin = self.origin or f"scratch-p{self.model.patch}-s{self.seed}"
        return f"{origin}-detector" + (
            "" if origin.endswith(f"-s{self.seed}") else f"-s{self.seed}"
        )

    def to_dict(self) -> dict:
        """As plain JSON values; :meth:`from_dict` undoes it."""
        return json.loads(json.dumps(asdict(self))) | {"model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, values: dict) -> FinetuneConfig:
        """The config whose :meth:`to_dict` is ``values``; InputError for unknown or missing
        fields."""
        try:
            sizes, own = dict(values["detector"]), dict(values)
            model = ModelConfig.from_dict(values["model"])
            config = cls(**(own | {"model": model, "detector": DetectorConfig(**sizes)}))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"not a fine-tuning config of this version of mae_lib: {error}"
            ) from error
        known = ((cls, own), (DetectorConfig, sizes))
        # a default in its place would be a guess
        if missing := {
            f.name for kind, given in known for f in fields(kind) if f.name not in given
        }:
            raise InputError(
                "not a fine-tuning config of this version of mae_lib: it lacks"
                f" {', '.join(sorted(missing))}"
            )
        return config
