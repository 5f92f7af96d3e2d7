"""Compute tiers: every size and length of the project in one place, and the eight pretrainings of
§3 at each.

A :class:`PretrainConfig` says all that decides a model's weights and nothing else; its hash names
the checkpoint. The sweep is the paper's: five masking ratios with the mask unit equal to the ViT
patch, and three mask units at ratio 0.75 with the smallest ViT patch. Data, steps, decoder and
learning rate are equal for all eight: only the mask (and, between the two halves, the ViT patch)
differs.
"""

from __future__ import annotations

import hashlib
import json
import numbers
import re
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Literal, get_args

from mae_lib.base.errors import InputError
from mae_lib.base.names import Design
from mae_lib.base.runs import RATIO_RUNS, SIZE_RUNS
from mae_lib.masks.designs import check_groups, check_margin, check_spread
from mae_lib.masks.masking import MaskSpec
from mae_lib.model.autoencoder import ModelConfig

RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9)
SIZE_RATIO = 0.75


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
class TheorySizes:
    """How much the chapters on the theory compute: random masks of a law, optimiser steps and
    replicates of the identifiability experiment."""

    masks: int
    steps: int
    replicates: int


@dataclass(frozen=True)
class Tier:
    """Sizes of one compute tier. Lengths in pixels; ``model``'s patch is the ratio sweep's,
    ``small_patch`` the size sweep's."""

    name: str
    purpose: str
    model: ModelConfig
    small_patch: int
    units: tuple[int, int, int]
    theory: TheorySizes
    training: dict = field(default_factory=dict)  # fields of PretrainConfig
    folder: dict = field(default_factory=dict)  # what changes for a folder of images
    # §3.5: fields of DetectorConfig and FinetuneConfig, what changes from scratch, and the scenes
    detection: dict = field(default_factory=dict)

    def at(self, size: int | tuple[int, int], channels: int = 3) -> Tier:
        """The same tier for images of ``size`` pixels, one number or (height, width), and so many
        ``channels``: patches and mask units scale with the longer side, so that tokens, masks in
        patches and all other sizes stay, or, where that divides not both sides, with the shorter.
        InputError where a patch or a unit would not be a whole number of pixels.
        """
        own = self.model.image_size[0]
        height, width = (size, size) if isinstance(size, int) else size
        lengths = (self.model.patch, self.small_patch, *self.units)
        for side in (max(height, width), min(height, width)):
            if side < 1 or any(length * side % own for length in lengths):
                continue
            patch, small_patch, *units = (length * side // own for length in lengths)
            if any(each % length for each in (height, width) for length in (patch, small_patch)):
                continue
            sizes = {"image_size": (height, width), "patch": patch, "channels": channels}
            model = replace(self.model, **sizes)
            return replace(self, model=model, small_patch=small_patch, units=tuple(units))
        raise InputError(
            f"tier {self.name} has no patches of whole pixels at {height}×{width} px: its images"
            f" are {own}×{own} px, its patches and units {sorted(set(lengths))} px"
        )

    def config(
        self,
        data: dict,
        ratio: float = SIZE_RATIO,
        unit: int | None = None,
        patch: int | None = None,
        seed: int = 0,
        **design,
    ) -> PretrainConfig:
        """One pretraining at this tier.

        Args:
            data: identity of the training images (``source.identity``), whose size must be the
                tier's.
            ratio: masking ratio. patch: ViT patch, pixels, default the ratio sweep's. unit: mask
                unit, pixels, default the patch.
            design: fields of `PretrainConfig` by name: design, groups, margin, strict.
        """
        patch = self.model.patch if patch is None else patch
        training = (
            dict(self.training)
            if data.get("kind") == "world"
            else dict(self.training, **self.folder)
        )
        model = replace(self.model, patch=patch)
        return PretrainConfig(
            model=model,
            ratio=ratio,
            unit=patch if unit is None else unit,
            data=data,
            seed=seed,
            **training,
            **design,
        )

    def sweep(
        self,
        data: dict,
        seed: int = 0,
        ratios: tuple[float, ...] = RATIOS,
        units: tuple[int, ...] | None = None,
    ) -> dict[str, list[PretrainConfig]]:
        """The paper's two halves (§3, "Pretraining overview"): ``{"ratio": [five configs], "size":
        [three configs]}``."""
        units = self.units if units is None else units
        return {
            "ratio": [self.config(data, ratio, seed=seed) for ratio in ratios],
            "size": [self.config(data, SIZE_RATIO, unit, self.small_patch, seed) for unit in units],
        }


_NATURAL = {"crop": 0.35, "flip": True}

_SMALL_DETECTOR = {
    "image_size": 96,
    "strides": (4, 8, 16, 32),
    "width": 48,
    "anchors": (16, 24, 36, 56),
    "canonical": 64.0,
    "pre_nms": 100,
    "post_nms": 100,
    "rpn_samples": 64,
    "roi_samples": 32,
    "box_width": 128,
    "mask_layers": 2,
    "mask_width": 48,
}
# From scratch all layers learn at the same rate: a decay towards random layers would handicap the
# baseline.
_DETECTION = {
    "smoke": {
        "detector": (
            _SMALL_DETECTOR
            | {
                "image_size": 64,
                "width": 16,
                "box_width": 32,
                "mask_layers": 1,
                "mask_width": 16,
                "pre_nms": 30,
                "post_nms": 30,
            }
        ),
        "training": {"steps": 6, "batch": 4, "learning_rate": 1e-3},
        "scratch": {"layer_decay": 1.0},
        "scenes": {"size": 64, "train": 16, "validation": 8},
    },
    # Both rates were chosen before any comparison, by box AP after 450 steps on 300 scenes of
    # another draw (validation, seed 1), seed 0, one run each: of the pretraining at ratio 0.5 with
    # 8e-4, 2e-3, 5e-3: .194, .254, .156; from scratch with 4e-4, 8e-4, 2e-3, 5e-3: .130, .202,
    # .198, .030.
    "laptop": {
        "detector": _SMALL_DETECTOR,
        "training": {"steps": 600, "batch": 8, "learning_rate": 2e-3},
        "scratch": {"layer_decay": 1.0, "learning_rate": 8e-4},
        "scenes": {"size": 96, "train": 2000, "validation": 500},
    },
    "gpu": {
        "detector": {
            "image_size": 224,
            "strides": (4, 8, 16, 32),
            "width": 128,
            "anchors": (24, 48, 80, 128),
            "canonical": 112.0,
            "window": 16,
            "pre_nms": 500,
            "post_nms": 500,
            "rpn_samples": 128,
            "roi_samples": 128,
            "box_width": 512,
            "mask_layers": 4,
            "mask_width": 128,
            "drop_path": 0.1,
        },
        "training": {"steps": 10000, "batch": 32, "learning_rate": 3e-4, "precision": "bfloat16"},
        "scratch": {"layer_decay": 1.0},
        "scenes": {"size": 224, "train": 20000, "validation": 2000},
    },
    # ViTDet's recipe for ViT-B (Li et al. 2022, appendix): 1024 px, batch 64, AdamW at 1e-4, layer
    # decay 0.7, weight decay 0.1, drop path 0.1, large-scale jitter 0.1-2; windows of the
    # pretraining grid's 14 patches. Length: the paper's 45 epochs of train2017, 118 287 images: 83
    # 170 steps. The cosine stands for ViTDet's step decay. The fifth level, for ViTDet's pooled p6,
    # is also read by the box and mask heads.
    "paper": {
        "detector": {
            "image_size": 1024,
            "strides": (4, 8, 16, 32, 64),
            "width": 256,
            "anchors": (32, 64, 128, 256, 512),
            "canonical": 224.0,
            "window": 14,
            "pre_nms": 1000,
            "post_nms": 1000,
            "rpn_samples": 256,
            "roi_samples": 512,
            "box_width": 1024,
            "mask_layers": 4,
            "mask_width": 256,
            "drop_path": 0.1,
        },
        "training": {
            "steps": 83170,
            "batch": 64,
            "learning_rate": 1e-4,
            "warmup": 0.003,
            "weight_decay": 0.1,
            "jitter": (0.1, 2.0),
            "precision": "bfloat16",
        },
        "scratch": {"layer_decay": 1.0},
        "scenes": {"size": 1024, "train": 20000, "validation": 2000},
    },
}

TIERS: dict[str, Tier] = {
    tier.name: tier
    for tier in (
        Tier(
            "smoke",
            "tests and CI: seconds; its numbers mean nothing",
            ModelConfig(
                image_size=(32, 32),
                patch=8,
                width=32,
                depth=1,
                heads=2,
                decoder_width=32,
                decoder_depth=1,
                decoder_heads=2,
            ),
            small_patch=4,
            units=(4, 8, 16),
            theory=TheorySizes(masks=200, steps=100, replicates=2),
            detection=_DETECTION["smoke"],
            training={"steps": 30, "batch": 16, "base_lr": 4e-3},
            folder=_NATURAL,
        ),
        Tier(
            "laptop",
            "the default: embedded world, shipped checkpoints",
            ModelConfig(
                image_size=(64, 64),
                patch=8,
                width=64,
                depth=4,
                heads=2,
                decoder_width=48,
                decoder_depth=1,
                decoder_heads=2,
            ),
            small_patch=4,
            units=(4, 8, 16),
            theory=TheorySizes(masks=4_000, steps=2_000, replicates=3),
            detection=_DETECTION["laptop"],
            training={"steps": 1200, "batch": 128, "base_lr": 2.5e-3},
            folder=_NATURAL | {"steps": 500},
        ),
        Tier(
            "gpu",
            "one GPU, the embedded world or a folder of images of 64 px and more",
            ModelConfig(
                image_size=(64, 64),
                patch=8,
                width=192,
                depth=12,
                heads=3,
                decoder_width=128,
                decoder_depth=2,
                decoder_heads=4,
            ),
            small_patch=4,
            units=(4, 8, 16),
            theory=TheorySizes(masks=100_000, steps=2_000, replicates=10),
            detection=_DETECTION["gpu"],
            training={"steps": 20000, "batch": 512, "base_lr": 1e-3, "precision": "bfloat16"},
            folder=_NATURAL,
        ),
        # He et al. 2022, Table 8: AdamW (0.9, 0.95), weight decay 0.05, base lr 1.5e-4, batch 4096,
        # 40 warm-up epochs of 800, random resized crops of area ≥ 0.2, flips, normalised targets.
        # 800 epochs of 1 281 167 images are 250 228 steps.
        Tier(
            "paper",
            "ImageNet-1K at 224 px, ViT-B, many GPUs",
            ModelConfig(
                image_size=(224, 224),
                patch=16,
                width=768,
                depth=12,
                heads=12,
                decoder_width=512,
                decoder_depth=8,
                decoder_heads=16,
                normalise_target=True,
            ),
            small_patch=8,
            units=(8, 16, 32),
            theory=TheorySizes(masks=100_000, steps=2_000, replicates=10),
            detection=_DETECTION["paper"],
            training={
                "steps": 250228,
                "batch": 4096,
                "base_lr": 1.5e-4,
                "crop": 0.2,
                "flip": True,
                "precision": "bfloat16",
            },
            folder={"crop_from": "file"},
        ),
    )
}


def tier(name: str) -> Tier:
    """The tier called ``name``; InputError with the known names otherwise."""
    if name not in TIERS:
        raise InputError(f"unknown tier {name!r}: choose one of {', '.join(TIERS)}")
    return TIERS[name]


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) in pixels of ``64`` or ``48x64``; InputError for anything else."""
    found = re.fullmatch(r"\s*(\d{1,5})\s*(?:[xX×]\s*(\d{1,5})\s*)?", text)
    if not found:
        raise InputError(
            f"image size {text!r}: give a side in pixels, as 64, or height and width, as 48x64"
        )
    return int(found[1]), int(found[2] or found[1])


def run_name(config: PretrainConfig, tier_name: str) -> str:
    """A pretraining's place in the sweep of its tier, one of `RUNS`. InputError if it is none of
    the eight."""
    sizes = tier(tier_name).at(config.model.image_size)
    own = config.design == "random" and not config.margin and not config.spread
    if not own or config.start is not None:
        raise InputError(
            f"{config.name} is none of the eight pretrainings: its masks are of another design, or"
            " its first weights another run's"
        )
    if (
        config.model.patch == sizes.small_patch
        and config.unit in sizes.units
        and config.ratio == 0.75
    ):
        return SIZE_RUNS[sizes.units.index(config.unit)]
    name = f"r{round(config.ratio * 100)}"
    if config.model.patch == config.unit == sizes.model.patch and name in RATIO_RUNS:
        return name
    raise InputError(f"{config.name} is none of the eight pretrainings of tier {tier_name}")
