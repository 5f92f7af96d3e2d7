"""What can be told to the subcommands that bring a model in, show what it does and train a
classifier on it, as `mae_lib.commands.options` has them for the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mae_lib.base.names import TierName
from mae_lib.commands.options import Command


@dataclass(frozen=True)
class Import(Command):
    """Make a checkpoint of weights from elsewhere: timm's MAE ViTs, transformers' ViTMAE, and the
    files of Meta's own code. Its features, reconstructions and loss are the source's; everything
    here that reads a checkpoint reads it.
    """

    work = "mae_lib.commands.import_weights:run"

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """a .safetensors of timm's, a folder of transformers or timm (config.json and
    model.safetensors), or a .pth of Meta's"""
    out: Path
    """folder for the checkpoint"""
    pickled: bool = False
    """open a .pth or .bin, which is a pickle: only if you trust where it is from; its tensors alone
    are read"""
    image_size: str | None = None
    """HEIGHTxWIDTH in pixels, if not the source's own: positions are interpolated"""
    patch: int | None = None
    """ViT patch in pixels, if not the source's own: the patch embedding is resampled (of an encoder
    alone)"""
    encoder_only: bool = False
    """leave the decoder out"""
    ratio: float | None = None
    """masking ratio of its training, where you know it and the source does not say"""
    normalise_target: bool | None = None
    """whether its decoder predicts normalised patches (norm_pix_loss), where the source does not
    say"""
    heads: int | None = None
    """attention heads of the encoder, where the source does not say; known for ViT-B, -L and -H"""
    decoder_heads: int | None = None
    """attention heads of the decoder, where the source does not say; known for MAE's own, 8 blocks
    of width 512"""
    mean: tuple[float, ...] = ()
    """of the pixels in [0, 1] that it was given, a number a channel; default: the source's, else
    ImageNet's"""
    deviation: tuple[float, ...] = ()
    """the same, of their standard deviation"""


@dataclass(frozen=True)
class Show(Command):
    """Draw one picture: what a model rebuilds of images (reconstruction), where its encoder looks
    (attention), or which patches are hidden (mask).
    """

    work = "mae_lib.commands.show:run"

    what: Annotated[
        Literal["reconstruction", "attention", "mask"],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="WHAT"),
    ]
    """reconstruction, attention or mask"""
    checkpoint: Path
    """a checkpoint (its .safetensors or .json), or a bare name (NAME-HASH) of what is in
    checkpoints/ or in the cache"""
    image: tuple[Path, ...]
    """files of images; each is resized, and cut about its centre, to the model's own shape"""
    out: Path
    """the picture, a .png that is not there yet"""
    ratio: tuple[float, ...] = ()
    """masking ratios, a row each; default: the model's own"""
    unit: int | None = None
    """mask unit in pixels, a multiple of the ViT patch; default: the model's own"""
    layer: int = -1
    """the encoder block whose attention is drawn, counted from 0, or from the end: -1 is the
    last"""
    seed: int = 0
    """of the masks"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""


@dataclass(frozen=True)
class Classify(Command):
    """Fine-tune a classifier end to end on each checkpoint, and from scratch, by MAE's recipe, and
    score its top-1 accuracy on validation images and shifted sets. What is already recorded in
    --results, or stored, is not trained again; what was stopped goes on.
    """

    work = "mae_lib.commands.classify:run"

    checkpoint: tuple[Path, ...] = ()
    """pretrained encoders (their .safetensors or .json, or bare names)"""
    scratch: tuple[int, ...] = ()
    """ViT patches, in pixels, of encoders that are trained from scratch at the tier's sizes"""
    data: Path | None = None
    """folder of images with train/ and val/ of class folders; default: the embedded world"""
    shifted: tuple[str, ...] = ()
    """shifted sets to score on: NAME=DIR, as `mae evaluate probe` takes them"""
    tier: TierName = "laptop"
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
