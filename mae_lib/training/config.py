"""What one training is: `PretrainConfig`, which says all that decides a model's weights and nothing
else, its hash the checkpoint's name; and `ImportedConfig`, which stands where weights come from
elsewhere. What nobody told stays unknown."""

from __future__ import annotations

import hashlib
import json
import numbers
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import ClassVar, Literal, get_args

from mae_lib.base.errors import InputError
from mae_lib.base.names import Design
from mae_lib.masks.designs import check_groups, check_margin, check_spread
from mae_lib.masks.masking import MaskSpec
from mae_lib.model.autoencoder import ModelConfig


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining, completely. Raises InputError for sizes that do not fit together.

    Attributes:
        model: the masked autoencoder's sizes. ratio: share of units hidden, in (0, 1). unit: mask
            unit in *pixels*.
        data: identity of the training images (``source.identity``). seed: of weights, data order,
            masks and augmentation.
        steps, batch: optimiser steps, images a step. base_lr: learning rate per 256 images of
            batch. warmup: share of the steps.
        weight_decay: on matrices. betas: AdamW's. crop: smallest area of a random resized crop (1:
            no crop). flip: mirror half of them.
        crop_from: what crops are cut out of: the ``image`` as the source gives it, or the ``file``
            at its own resolution, while it is decoded; at its default it enters neither the hash
            nor the record.
        precision: float32, or bfloat16 autocast on a GPU.
        design, groups, margin, strict: what §3.6 would change about the mask
            (:mod:`mae_lib.masks.designs`): which patches are hidden together, by which partition of
            the grid; how many *pixels* next to the mask's boundary the loss leaves out, and whether
            the encoder's side of the boundary is left out too. At their defaults, the paper's
            masks, they enter neither the hash nor the name.
        spread: each step draws its own ratio, uniform in ``ratio`` ± ``spread``
            (:func:`mae_lib.masks.designs.drawn_ratio`); at 0 it enters neither.
        start: digest of the checkpoint whose weights are the first ones
            (:func:`mae_lib.training.store.continued`); None, fresh weights of the seed, enters
            neither.
    """

    model: ModelConfig
    ratio: float
    unit: int
    data: dict
    seed: int = 0
    steps: int = 1000
    batch: int = 128
    base_lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    crop: float = 1.0
    flip: bool = False
    crop_from: Literal["image", "file"] = "image"
    precision: str = "float32"
    design: Design = "random"
    groups: tuple[int, ...] = ()
    margin: int = 0
    strict: bool = False
    spread: float = 0.0
    start: str | None = None

    def __post_init__(self) -> None:
        if not self.model.has_decoder:
            raise InputError("a pretraining needs a decoder: give the model one of depth 1 or more")
        for name in ("ratio", "base_lr", "warmup", "weight_decay", "crop", "spread"):
            if isinstance(value := getattr(self, name), numbers.Real):
                # 1 and 1.0 are equal, so their hashes have to be
                object.__setattr__(self, name, float(value))
        object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))
        if self.unit % self.model.patch:
            raise InputError(
                f"mask unit of {self.unit} px is not a multiple of the {self.model.patch} px ViT"
                " patch: choose a multiple"
            )
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not self.base_lr > 0:
            raise InputError(f"base learning rate {self.base_lr} must be positive")
        if not 0 < self.crop <= 1:
            raise InputError(
                f"crop {self.crop} must be in (0, 1]: the smallest share of the image's area"
            )
        if self.crop_from not in ("image", "file"):
            raise InputError(f"crop_from {self.crop_from!r} is unknown: choose image or file")
        if self.crop_from == "file" and (self.crop == 1 or self.data.get("kind") == "world"):
            raise InputError(
                "crop_from 'file' needs a crop below 1, and a folder of images or shards to cut it"
                " out of"
            )
        if self.precision not in ("float32", "bfloat16"):
            raise InputError(f"precision {self.precision!r} is unknown: choose float32 or bfloat16")
        self._check_design()

    def _check_design(self) -> None:
        mask = self.mask  # its own checks
        object.__setattr__(self, "groups", tuple(self.groups))
        if self.design not in get_args(Design):
            raise InputError(
                f"there is no mask design {self.design!r}: choose {', '.join(get_args(Design))}"
            )
        if (self.design == "groups") != bool(self.groups):
            raise InputError(
                "mask design 'groups' needs a group number for every patch, and no other design"
                " takes them"
            )
        if self.design == "groups":
            check_groups(self.groups, mask)
        if self.design != "random" and mask.unit != 1:
            raise InputError(
                f"mask design {self.design!r} has no mask units: leave the unit at the ViT patch of"
                f" {self.model.patch} px"
            )
        if self.design in ("parts", "object") and (
            self.data.get("kind") != "world" or self.crop < 1 or self.flip
        ):
            raise InputError(
                f"mask design {self.design!r} needs every pixel's part: train on the embedded"
                " world, without crops and flips"
            )
        check_spread(mask, self.spread)
        check_margin(mask, self.design, self.groups, self.model.patch, self.margin, self.strict)

    @property
    def mask(self) -> MaskSpec:
        """The law of the masks, on the model's grid of patches."""
        return MaskSpec(self.model.grid, self.ratio, self.unit // self.model.patch)

    @cached_property
    def hash(self) -> str:
        """16 hex digits of SHA-256 over all of :meth:`to_dict`: equal configs, equal names."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Readable name, for instance ``r75-u8-p8-s0``: ratio in percent, mask unit and ViT patch
        in pixels, seed."""
        return f"{self.family}-s{self.seed}"

    @property
    def family(self) -> str:
        """The name without the seed; with what §3.6 changes about the mask, for instance
        ``r75-u16-p8-margin8``, ``…-strict4``, ``…-parts``."""
        name = f"r{round(self.ratio * 100)}-u{self.unit}-p{self.model.patch}"
        if self.design != "random":
            name += f"-{self.design}{len(set(self.groups)) or ''}"
        if self.margin:
            name += f"-{'strict' if self.strict else 'margin'}{self.margin}"
        if self.spread:
            name += f"-spread{round(self.spread * 100)}"
        if self.start is not None:
            name += f"-from{self.start[:8]}"
        return name

    @property
    def learning_rate(self) -> float:
        """Peak learning rate: base_lr · batch / 256."""
        return self.base_lr * self.batch / 256

    def to_dict(self) -> dict:
        """As plain JSON values, without the mask's design where it is the paper's;
        :meth:`from_dict` undoes it."""
        values = json.loads(json.dumps(asdict(self))) | {"model": self.model.to_dict()}
        for name in _DESIGN if self.design == "random" and not self.margin else ():
            del values[name]
        if self.crop_from == "image":
            del values["crop_from"]
        for name, default in (("start", None), ("spread", 0)):
            if values[name] == default:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: dict) -> PretrainConfig:
        """The config whose :meth:`to_dict` is ``values``; InputError for unknown or missing
        fields."""
        try:
            config = cls(
                **dict(
                    values,
                    model=ModelConfig.from_dict(values["model"]),
                    betas=tuple(values["betas"]),
                    groups=tuple(values.get("groups", ())),
                )
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"not a pretraining config of this version of mae_lib: {error}"
            ) from error
        missing = (
            {f.name for f in fields(cls)} - set(values) - {"crop_from", "spread", "start", *_DESIGN}
        )
        if missing:  # a default in its place would be a guess
            raise InputError(
                "not a pretraining config of this version of mae_lib: it lacks"
                f" {', '.join(sorted(missing))}"
            )
        return config


_DESIGN = ("design", "groups", "margin", "strict")


@dataclass(frozen=True)
class ImportedConfig:
    """An imported model, completely.

    Attributes:
        model: its sizes. source: where it came from, as plain JSON values: ``library``, ``file``,
            ``sha256`` of that file, and how what the weights do not say was settled. name: of the
            checkpoint.
        ratio: share of patches that was hidden in its training, in (0, 1), where the file or the
            user told; None: unknown.
        data, seed: unknown, always.
    """

    model: ModelConfig
    source: dict
    name: str
    ratio: float | None = None
    data: ClassVar[dict] = {"kind": "unknown"}
    seed: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.ratio is not None:
            object.__setattr__(self, "ratio", float(self.ratio))
            _ = self.mask  # its own checks

    @property
    def family(self) -> str:
        """The name: there are no seeds of it."""
        return self.name

    @property
    def unit(self) -> int:
        """Mask unit in pixels: the ViT patch, in every masked autoencoder that can be imported."""
        return self.model.patch

    @property
    def mask(self) -> MaskSpec:
        """The law of its masks; InputError where the ratio is unknown."""
        if self.ratio is None:
            raise InputError(
                f"nobody knows at which masking ratio {self.name} was trained: import it again with"
                " --ratio, if you do"
            )
        return MaskSpec(self.model.grid, self.ratio)

    @cached_property
    def hash(self) -> str:
        """16 hex digits of SHA-256 over all of :meth:`to_dict`."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict:
        """As plain JSON values; :meth:`from_dict` undoes it."""
        return {
            "name": self.name,
            "model": self.model.to_dict(),
            "source": self.source,
            "ratio": self.ratio,
        }

    @classmethod
    def from_dict(cls, values: dict) -> ImportedConfig:
        """The config whose :meth:`to_dict` is ``values``; InputError for unknown or missing
        fields."""
        try:
            model = ModelConfig.from_dict(values["model"])
            return cls(**values | {"model": model, "ratio": values["ratio"]})
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"not an imported model's config of this version of mae_lib: {error}"
            ) from error
