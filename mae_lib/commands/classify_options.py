"""Options of ``mae finetune --task classify``: classifiers trained end to end on pretrained
encoders and from scratch, by :mod:`mae_lib.commands.classify`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Classify:
    """Fine-tune a classifier end to end on each checkpoint, and from scratch, by MAE's recipe, and
    score its top-1 accuracy on validation images and shifted sets. What is already recorded in
    --results, or stored, is not trained again; what was stopped goes on.
    """

    checkpoint: tuple[Path, ...] = ()
    """pretrained encoders (their .safetensors or .json, or bare names)"""
    scratch: tuple[int, ...] = ()
    """ViT patches, in pixels, of encoders that are trained from scratch at the tier's sizes"""
    data: Path | None = None
    """folder of images with train/ and val/ of class folders; default: the embedded world"""
    shifted: tuple[str, ...] = ()
    """shifted sets to score on: NAME=DIR, as `mae evaluate probe` takes them"""
    tier: Literal["smoke", "laptop", "gpu", "paper"] = "laptop"
    """the recipe; paper: Table 9 of He et al. 2022, for many GPUs"""
    seed: int | None = None
    """of the head, data order and augmentation; default: the checkpoint's own, 0 from scratch"""
    steps: int | None = None
    """optimiser steps; default: the tier's"""
    batch: int | None = None
    """images a step; default: the tier's"""
    base_lr: float | None = None
    """peak learning rate per 256 images of batch; default: the tier's"""
    layer_decay: float | None = None
    """factor on the learning rate from one block to the one below it; default: 0.75"""
    mixup: float | None = None
    """of its beta law, 0: none; default: 0.8"""
    cutmix: float | None = None
    """of its beta law, 0: none; default: 1"""
    label_smoothing: float | None = None
    """share of the target that all classes get alike; default: 0.1"""
    out: Path | None = None
    """folder for the classifiers; default: the cache ($MAE_CACHE)"""
    results: Path | None = None
    """folder for one JSON of numbers a classifier"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; under torchrun each process takes its own GPU"""
    threads: int = 1
    """CPU threads a process"""
    save_every: float = 60.0
    """seconds between resumable states"""

    def run(self) -> int:
        from mae_lib.commands.classify import run

        return run(**vars(self))
