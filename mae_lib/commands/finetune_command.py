"""``mae finetune``: Mask R-CNN on pretrained encoders and from scratch (§3.5), trained, scored and
recorded one after another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from mae_lib.base.errors import InputError
from mae_lib.base.files import cache_directory
from mae_lib.base.intervals import Interval
from mae_lib.base.records import own_record, write_result
from mae_lib.data.image_files import cores
from mae_lib.training import distributed
from mae_lib.training.pretrain import check_share, resolve_device
from mae_lib.training.store import Checkpoint, require_free
from mae_lib.training.tiers import tier
from mae_lib.worlds.world import Scenes

if TYPE_CHECKING:
    from mae_lib.data.coco import CocoFolder
    from mae_lib.detection.finetune import FinetuneConfig


SCORING = timedelta(hours=6)
"""How long the other processes wait, while the first one scores, before they take it for hung."""


@dataclass(frozen=True)
class Finetune:
    """Fine-tune a detector on each checkpoint, and from scratch, and score it by COCO's average
    precision (§3.5). What is already recorded in --results, or stored, is not trained again; what
    was stopped goes on. For many GPUs: torchrun --nproc-per-node N -m mae_lib finetune …
    """

    checkpoint: tuple[Path, ...] = ()
    """pretrained encoders (their .safetensors or .json), folders of them, or bare names (NAME-HASH)
    of what is in checkpoints/ or in the cache"""
    scratch: tuple[int, ...] = ()
    """ViT patches, in pixels, of encoders that are trained from scratch at the tier's sizes"""
    data: Path | None = None
    """folder in COCO's layout; default: scenes of the embedded world, written to the cache"""
    train: str = "train"
    """split to train on: its name, or the beginning of it"""
    validation: str = "val"
    """split to score on"""
    tier: Literal["smoke", "laptop", "gpu", "paper"] = "laptop"
    """sizes and lengths (mae_lib/training/tiers.py)"""
    seed: int | None = None
    """of heads, data order, augmentation and proposals; default: the checkpoint's own, 0 from
    scratch"""
    image_size: int | None = None
    """longer side of the images, pixels; default: the tier's"""
    anchors: tuple[float, ...] = ()
    """side of the anchors on each level of the pyramid (strides 4, 8, 16, 32), pixels; default: the
    tier's, scaled as the images are"""
    proposals: int | None = None
    """boxes an image that are looked at; more for crowded images; default: the tier's"""
    steps: int | None = None
    """optimiser steps; default: the tier's"""
    batch: int | None = None
    """images a step, of all processes together; default: the tier's"""
    lr: float | None = None
    """peak learning rate; default: the tier's"""
    layer_decay: float | None = None
    """factor on the learning rate from one block to the one below it; default: the tier's, 1 from
    scratch"""
    images: int | None = None
    """validation images to score on, at most; default: all"""
    out: Path | None = None
    """folder for the detectors; default: the cache ($MAE_CACHE)"""
    results: Path | None = None
    """folder for one JSON of numbers a detector, for instance results/detection/world"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; under torchrun each process takes its own GPU"""
    threads: int = 1
    """CPU threads a process"""
    save_every: float = 60.0
    """seconds between resumable states"""

    def run(self) -> int:
        with distributed.joined(resolve_device(self.device), SCORING) as device:
            return self._run(str(device))

    def _run(self, device: str) -> int:
        from mae_lib.commands.cli import _checkpoints, _require_apart, _require_writable
        from mae_lib.detection.detectors import (
            StoredDetector,
            finetune_config,
            identity,
            obtain_detector,
            record_of,
            run_of,
        )

        if self.threads < 1:
            raise InputError(f"--threads {self.threads} must be at least 1")
        if not self.checkpoint and not self.scratch:
            raise InputError(
                "nothing to fine-tune: give --checkpoint a .safetensors or a folder of them, or"
                " --scratch a ViT patch in pixels"
            )
        torch.set_num_threads(self.threads)
        first = distributed.rank() == 0
        for folder in (self.out, self.results, cache_directory()):
            if folder is not None:
                _require_writable(folder)
        models = self.out or cache_directory() / "detectors"
        _require_apart(models, self.results)
        train, validation = self._data()
        starts = [
            (found, None) for found in (_checkpoints(self.checkpoint) if self.checkpoint else [])
        ] + [(None, patch) for patch in self.scratch]
        changes = {
            "seed": self.seed,
            "steps": self.steps,
            "batch": self.batch,
            "learning_rate": self.lr,
            "layer_decay": self.layer_decay,
        }
        sizes = {
            "image_size": self.image_size,
            "anchors": self.anchors,
            "proposals": self.proposals,
        }
        configs = [
            finetune_config(train, checkpoint, self.tier, patch, **sizes, **changes)
            for checkpoint, patch in starts
        ]

        def known(config: FinetuneConfig, checkpoint: Checkpoint | None) -> dict | None:
            """What is recorded; InputError, before anything is trained, where it or the detector
            could not be written."""
            wanted = identity(
                config, run_of(config, checkpoint, self.tier), self.tier, validation, self.images
            )
            record = None if self.results is None else own_record(self.results, wanted)
            if record is None:
                require_free(StoredDetector, config, models)
            return record

        records = distributed.first_tries(
            lambda: [known(config, checkpoint) for config, (checkpoint, _) in zip(configs, starts)]
        )
        fresh = [
            (config, checkpoint)
            for config, (checkpoint, _), record in zip(configs, starts, records)
            if record is None
        ]
        self._prepare(fresh, len(starts), train, validation, device)
        for config, (checkpoint, _), record in zip(configs, starts, records):
            if record is None:
                stored = obtain_detector(
                    config,
                    checkpoint,
                    train,
                    device=device,
                    out=self.out,
                    tier_name=self.tier,
                    save_every=self.save_every,
                )
                if not first:
                    continue
                record = record_of(stored, validation, self.images, device)
                if self.results is not None:
                    write_result(self.results, record)
            if first:
                numbers = (
                    f"  {name:<12} {Interval.from_dict(value):.4f}"
                    for name, value in record["measures"].items()
                )
                print(
                    f"{record['name']}-{record['hash']}  trained {record['minutes']:.1f} min,"
                    f" scored {record['seconds']:.0f} s",
                    *numbers,
                    sep="\n",
                    flush=True,
                )
        return 0

    def _prepare(
        self,
        fresh: list[tuple[FinetuneConfig, Checkpoint | None]],
        total: int,
        train: CocoFolder,
        validation: CocoFolder,
        device: str,
    ) -> None:
        """InputError for whatever can be known before the first step; and a line on how many are to
        be trained, and for about how long."""
        from mae_lib.commands.forecast import announce_detectors
        from mae_lib.detection.finetune import build

        for config, checkpoint in fresh:
            check_share(config.batch, distributed.world())
            build(config, checkpoint)
        if fresh:
            self._check_scored(validation)
        if distributed.rank() == 0:
            print(f"{total} to record, {total - len(fresh)} already recorded", flush=True)
        announce_detectors(fresh, train, device=device, out=self.out)

    def _check_scored(self, validation: CocoFolder) -> None:
        """InputError for an image that is to be scored and cannot be decoded, or a mask of it that
        cannot be drawn."""
        from mae_lib.data.coco_description import faults_of

        with ThreadPoolExecutor(cores()) as pool:
            for faults in pool.map(
                lambda i: list(faults_of(validation, i)),
                range(min(len(validation), self.images or len(validation))),
            ):
                if faults:
                    raise InputError(faults[0])

    def _data(self) -> tuple[CocoFolder, CocoFolder]:
        """Training and validation images; scenes are written if they are not there, by whichever
        process comes first."""
        from mae_lib.data.coco import open_coco, write_scenes

        if self.data is not None:
            train = open_coco(self.data, self.train)
            return train, open_coco(self.data, self.validation, train.classes)
        sizes = tier(self.tier).detection["scenes"]
        folder = cache_directory() / "scenes" / f"{self.tier}-{sizes['size']}px"
        return tuple(
            write_scenes(Scenes(split, sizes["size"], length=sizes[split]), folder, split)
            for split in ("train", "validation")
        )
