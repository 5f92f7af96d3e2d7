"""What one fine-tuning of a classifier is: `ClassifyConfig`, and the tiers' recipes, MAE's own
(He et al. 2022, Table 9) at the paper's."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

from mae_lib.base.errors import InputError
from mae_lib.model.sizes import ModelConfig

RECIPES: dict[str, dict] = {
    "smoke": {"steps": 6, "batch": 8, "base_lr": 4e-3, "crop": 0.5, "flip": True},
    "laptop": {"steps": 2000, "batch": 64, "base_lr": 2e-3, "crop": 0.35, "flip": True},
    "gpu": {
        "steps": 10_000,
        "batch": 512,
        "crop": 0.2,
        "flip": True,
        "drop_path": 0.1,
        "precision": "bfloat16",
    },
    # He et al. 2022, Table 9, written down from memory and not yet checked against it, for ViT-B:
    # 100 epochs of 1 281 167 images in batches of 1024, 5 of them warm-up, base rate 1e-3, layer
    # decay 0.75, RandAugment (9, 0.5), mixup 0.8, cutmix 1, label smoothing 0.1, drop path 0.1
    "paper": {
        "steps": 125_114,
        "batch": 1024,
        "crop": 0.08,
        "flip": True,
        "crop_from": "file",
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "drop_path": 0.1,
        "precision": "bfloat16",
    },
}
"""tier → fields of `ClassifyConfig`; the other fields are Table 9's at every tier."""


@dataclass(frozen=True)
class ClassifyConfig:
    """One fine-tuning, completely. Raises InputError for values that make no sense.

    Attributes:
        model: the encoder's sizes. classes: names, in the order of the labels. data: identity of
            the training images.
        pretrained, origin: digest and name of the checkpoint that it starts from; None: fresh
            weights of the seed. seed: of weights, data order and augmentation.
        steps, batch: optimiser steps, images a step. base_lr: peak rate of the head, per 256 images
            of batch. layer_decay: factor on the rate from one block to the one below it. warmup:
            share of the steps; then half a cosine to zero. weight_decay, betas: AdamW's.
        crop, flip, crop_from: as of `mae_lib.training.config.PretrainConfig`. rand_augment: timm's
            name of a RandAugment, none where empty. mixup, cutmix: the parameters of their beta
            laws, 0: none. label_smoothing: in [0, 1). drop_path: of the last block; it grows
            linearly from 0.
        precision: float32, or bfloat16 autocast on a GPU.
    """

    model: ModelConfig
    classes: tuple[str, ...]
    data: dict
    pretrained: str | None = None
    origin: str | None = None
    seed: int = 0
    steps: int = 1000
    batch: int = 64
    base_lr: float = 1e-3
    layer_decay: float = 0.75
    warmup: float = 0.05
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    crop: float = 1.0
    flip: bool = False
    crop_from: str = "image"
    rand_augment: str = ""
    mixup: float = 0.8
    cutmix: float = 1.0
    label_smoothing: float = 0.1
    drop_path: float = 0.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.type == "float":
                # 1 and 1.0 are equal, so their hashes have to be
                object.__setattr__(self, each.name, float(getattr(self, each.name)))
        object.__setattr__(self, "betas", tuple(float(value) for value in self.betas))
        object.__setattr__(self, "classes", tuple(self.classes))
        if len(self.classes) < 2:
            raise InputError(
                f"a classifier tells classes apart, and there is {len(self.classes)}: give images"
                " of two at least"
            )
        for name, low, high in (
            ("steps", 1, None),
            ("batch", 1, None),
            ("mixup", 0, None),
            ("cutmix", 0, None),
            ("label_smoothing", 0, 1),
            ("drop_path", 0, 1),
        ):
            value = getattr(self, name)
            if not value >= low or (high is not None and not value < high):
                what = f"at least {low}" + ("" if high is None else f" and below {high}")
                raise InputError(f"{name} is {value}: it must be {what}")
        for name in ("base_lr", "layer_decay", "crop"):
            value = getattr(self, name)
            if not value > 0 or (name != "base_lr" and value > 1):
                raise InputError(
                    f"{name} is {value}: it must be above 0"
                    + ("" if name == "base_lr" else " and at most 1")
                )
        if (self.mixup or self.cutmix) and self.batch % 2:
            raise InputError(f"mixup pairs images: a batch of {self.batch} must be even")
        if self.rand_augment and self.model.channels != 3:
            raise InputError(
                f"RandAugment takes RGB images, and this encoder {self.model.channels} channel(s):"
                " leave rand_augment empty"
            )
        if self.crop_from not in ("image", "file") or self.precision not in (
            "float32",
            "bfloat16",
        ):
            raise InputError(
                f"crop_from {self.crop_from!r} and precision {self.precision!r}: choose image or"
                " file, and float32 or bfloat16"
            )

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of the head: base_lr · batch / 256."""
        return self.base_lr * self.batch / 256

    @cached_property
    def hash(self) -> str:
        """16 hex digits of SHA-256 over every field."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Readable name, for instance ``r75-u8-p8-s0-classifier``, with the seed where it is not
        the pretraining's; ``scratch-p8-s0-classifier``."""
        origin = self.origin or f"scratch-p{self.model.patch}-s{self.seed}"
        own = origin.endswith(f"-s{self.seed}")
        return f"{origin}-classifier" + ("" if own else f"-s{self.seed}")

    def to_dict(self) -> dict:
        """As plain JSON values; :meth:`from_dict` undoes it."""
        return json.loads(json.dumps(asdict(self))) | {"model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, values: dict) -> ClassifyConfig:
        """The config whose :meth:`to_dict` is ``values``; InputError for unknown or missing
        fields."""
        try:
            if missing := {each.name for each in fields(cls)} - set(values):
                raise TypeError(f"it lacks {', '.join(sorted(missing))}")
            return cls(**values | {"model": ModelConfig.from_dict(values["model"])})
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"not a classifier's config of this version of mae_lib: {error}"
            ) from error


def encoder_alone(model: ModelConfig) -> ModelConfig:
    """A model's sizes without its decoder."""
    return replace(model, decoder_width=0, decoder_depth=0, decoder_heads=0, normalise_target=False)
