"""Compute tiers: every size and length of the project in one place, and the eight pretrainings of
§3 at each.

A :class:`PretrainConfig` says all that decides a model's weights and nothing else; its hash names
the checkpoint. The sweep is the paper's: five masking ratios with the mask unit equal to the ViT
patch, and three mask units at ratio 0.75 with the smallest ViT patch. Data, steps, decoder and
learning rate are equal for all eight: only the mask (and, between the two halves, the ViT patch)
differs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from mae_lib.base.errors import InputError
from mae_lib.base.runs import RATIO_RUNS, SIZE_RUNS
from mae_lib.model.autoencoder import ModelConfig
from mae_lib.training.config import PretrainConfig

RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9)
SIZE_RATIO = 0.75


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
