"""The ``mae`` command: what one does without a notebook. Each subcommand checks its input, calls
the library and prints; no logic lives here.

Bad input ends with one line on standard error and exit status 2, a diverged training with status 3.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from mae_book.commands.ledger_command import Ledger, Rerun
from mae_lib.base.errors import InputError
from mae_lib.base.files import cache_directory
from mae_lib.base.image_source import ImageSource
from mae_lib.base.intervals import Interval
from mae_lib.base.records import own_record, write_result
from mae_lib.commands.finetune_command import Finetune
from mae_lib.commands.forecast import forecast, spoken
from mae_lib.commands.shard_command import Shard
from mae_lib.data.datasets import Resident, nbytes
from mae_lib.data.describe import describe
from mae_lib.data.sources import image_source
from mae_lib.masks.designs import Design
from mae_lib.model.autoencoder import training_flops
from mae_lib.training import distributed
from mae_lib.training.pretrain import (
    RESIDENT_LIMIT,
    TrainingDiverged,
    check_share,
    held_out_error,
    resolve_device,
)
from mae_lib.training.store import Checkpoint, checkpoints, find, named, obtain, read, require_free
from mae_lib.training.tiers import SIZE_RATIO, PretrainConfig, tier

HELD_OUT = 1000
"""Validation images that --results measures the error on, at most."""


@dataclass(frozen=True)
class Pretrain:
    """Pretrain one masked autoencoder, or with --sweep the paper's eight. What is already stored is
    not trained again; what was stopped goes on. For many GPUs: torchrun --nproc-per-node N -m
    mae_lib pretrain …, also with another N than before.
    """

    tier: Literal["smoke", "laptop", "gpu", "paper"] = "laptop"
    """sizes and lengths (mae_lib/training/tiers.py)"""
    data: Path | None = None
    """folder of images (see `mae data describe`); default: the embedded world"""
    image_size: int | None = None
    """side of the images in pixels; patches and mask units scale with it; default: the tier's"""
    sweep: bool = False
    """all eight: five ratios with unit = ViT patch, three mask units at ratio 0.75 with the small
    patch"""
    ratio: float = SIZE_RATIO
    """share of mask units that is hidden, between 0 and 1"""
    unit: int | None = None
    """mask unit in pixels, a multiple of the ViT patch; default: the patch"""
    patch: int | None = None
    """ViT patch in pixels; default: the tier's"""
    design: Design = "random"
    """which patches are hidden together (§3.6): random mask units; groups of patches estimated from
    the images; parts of the object or the whole object, which only the embedded world can tell"""
    groups: int = 8
    """how many groups, for --design groups"""
    margin: int = 0
    """pixels next to the mask's boundary that the loss leaves out (§3.6)"""
    strict: bool = False
    """leave the margin out on the encoder's side of the boundary too"""
    seed: int = 0
    """of weights, data order, masks and augmentation"""
    steps: int | None = None
    """optimiser steps; default: the tier's"""
    batch: int | None = None
    """images a step; default: the tier's"""
    base_lr: float | None = None
    """learning rate per 256 images of batch; default: the tier's"""
    decoder_depth: int | None = None
    """Transformer blocks of the decoder; default: the tier's"""
    out: Path | None = None
    """folder for the checkpoints; default: the cache ($MAE_CACHE)"""
    results: Path | None = None
    """folder for one JSON of numbers a run: curve, speed and the error on held-out images"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    jobs: int = 1
    """trainings side by side, each in a process of its own"""
    threads: int = 1
    """CPU threads a process; models of the smoke and laptop tiers are slower on two than on one"""
    save_every: float = 60.0
    """seconds between resumable states"""
    accumulate: int = 1
    """pieces that a batch is worked on in, one after another, where memory is short; the result is
    the same"""
    compile: bool | None = None
    """make the model's kernels by torch.compile; default: on a GPU"""
    patience: float = 30.0
    """minutes without a step after which, under torchrun, a process is taken for hung and named"""

    def run(self) -> int:
        if not self.patience > 0:
            raise InputError(f"--patience {self.patience:g} must be above 0: minutes")
        with distributed.joined(
            resolve_device(self.device), datetime.timedelta(minutes=self.patience)
        ) as device:
            return dataclasses.replace(self, device=str(device))._run()

    def _run(self) -> int:
        if self.jobs < 1:
            raise InputError(f"--jobs {self.jobs} must be at least 1")
        if self.jobs > 1 and distributed.world() > 1:
            raise InputError(
                "under torchrun all processes share one training after another: leave out --jobs"
            )
        if self.threads < 1:
            raise InputError(f"--threads {self.threads} must be at least 1")
        torch.set_num_threads(self.threads)
        for folder in (self.out, self.results, cache_directory()):
            if folder is not None:
                _require_writable(folder)
        _require_apart(self.out or cache_directory() / "checkpoints", self.results)
        configs = self._configs()
        model, unit = configs[0].model, max(config.unit for config in configs)
        if self.results is not None:
            validation = image_source(
                self.data, "validation", model.image_size, model.channels, min_side=unit
            )
            for part in torch.arange(min(HELD_OUT, len(validation))).split(250):
                # those that the error will be measured on: a damaged one is named now
                validation.images(part)
        there = {c.hash: find(c, None if self.out is None else [self.out]) for c in configs}
        pending = [c for c in configs if there[c.hash] is None]
        for config in pending:
            require_free(Checkpoint, config, self.out or cache_directory() / "checkpoints")
        if self.results is not None:
            distributed.first_tries(
                lambda: [
                    own_record(self.results, _wanted(self, c, unit, there[c.hash])) for c in configs
                ]
            )
        apart = self.jobs > 1 and len(pending) > 1  # each process then reads the images for itself
        said = f"{len(configs)} to have, {len(configs) - len(pending)} already stored"
        if pending:
            check_share(pending[0].batch, distributed.world(), self.accumulate)
            source = (
                image_source(self.data, "train", model.image_size, model.channels, unit)
                if apart
                else self._images(pending[0], unit)
            )
            if distributed.rank() == 0:
                said += f": {forecast(pending, source, self.device, self.jobs, self.accumulate)}"
        if distributed.rank() == 0:
            print(said, flush=True)
        tasks = [(self, config, unit) for config in configs]
        results = _side_by_side(tasks, self.jobs) if apart else [_obtain(*task) for task in tasks]
        for checkpoint in results if distributed.rank() == 0 else ():
            steps, loss = checkpoint.curve
            speed = checkpoint.record["images_per_second"]
            rate = speed * training_flops(
                checkpoint.config.model, checkpoint.config.mask.visible_patches
            )
            print(
                f"{checkpoint.path}  loss {loss[-1]:.4f} after {steps[-1]} steps,"
                f" {checkpoint.record['seconds'] / 60:.1f} min, {speed:.0f} images/s,"
                f" {rate / 1e12:.3g} TFLOP/s of the model"
            )
        return 0

    def _images(self, config: PretrainConfig, min_side: int) -> ImageSource:
        """What ``config`` is trained on, of no image with a side below ``min_side`` pixels: the
        sweep's largest unit for all of its runs."""
        looks = config.steps * config.batch if config.crop_from == "image" else 0
        device = str(resolve_device(self.device))
        return _training_images(
            self.data,
            json.dumps(config.data),
            config.model.image_size,
            config.model.channels,
            min_side,
            device,
            looks,
        )

    def _configs(self) -> list[PretrainConfig]:
        sizes = tier(self.tier)
        if self.image_size is not None:
            sizes = sizes.at(self.image_size)
        unit = max(sizes.units) if self.sweep else (self.unit or self.patch or sizes.model.patch)
        data = image_source(
            self.data, "train", sizes.model.image_size, sizes.model.channels, min_side=unit
        ).identity
        if self.sweep:
            if (self.unit, self.patch, self.ratio, self.design, self.margin) != (
                None,
                None,
                SIZE_RATIO,
                "random",
                0,
            ):
                raise InputError(
                    "--sweep sets the masks itself: leave out --ratio, --unit, --patch, --design"
                    " and --margin, or --sweep"
                )
            configs = [c for half in sizes.sweep(data, self.seed).values() for c in half]
        else:
            design = {"design": self.design, "margin": self.margin, "strict": self.strict}
            if self.design == "groups":
                from mae_lib.theory.structure import estimate_groups

                source = image_source(
                    self.data, "train", sizes.model.image_size, sizes.model.channels, min_side=unit
                )
                design["groups"] = estimate_groups(
                    source, self.patch or sizes.model.patch, self.groups
                )
            configs = [sizes.config(data, self.ratio, self.unit, self.patch, self.seed, **design)]
        changes = {
            k: getattr(self, k)
            for k in ("steps", "batch", "base_lr")
            if getattr(self, k) is not None
        }
        if self.decoder_depth is not None:
            configs = [
                dataclasses.replace(
                    c, model=dataclasses.replace(c.model, decoder_depth=self.decoder_depth)
                )
                for c in configs
            ]
        return [dataclasses.replace(c, **changes) for c in configs]


def _require_writable(folder: Path) -> None:
    """InputError before the training, not after it, if nothing can be written in ``folder``; makes
    nothing."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot write in {folder}: {there} is no folder that you may write in; choose another"
        )


def _require_apart(models: Path, results: Path | None) -> None:
    """InputError if models and results are to go into one folder."""
    if results is not None and models.resolve() == results.resolve():
        what = (
            f"models and results cannot both go to {results}, where their files would have one name"
        )
        raise InputError(f"{what}: give --out and --results a folder each")


def _side_by_side(tasks: list[tuple[Pretrain, PretrainConfig, int]], jobs: int) -> list[Checkpoint]:
    """``_obtain`` of every task, each in one of ``jobs`` processes. Ctrl-C stops them all, their
    states saved; an error waits for the others."""
    # "spawn": a forked child cannot use CUDA, nor PyTorch's threads once the parent has.
    with ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_obey_parent
    ) as pool:
        futures = [pool.submit(_obtain_in_child, *task) for task in tasks]
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():
                child.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _obey_parent() -> None:
    """A terminal's Ctrl-C reaches parent and children alike: children leave it to the parent, which
    passes on SIGTERM once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, frame: object) -> None:
    # a second one must not break into the saving of the state
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(130)


def _obtain_in_child(command: Pretrain, config: PretrainConfig, min_side: int) -> Checkpoint:
    # stopped, and this task was already in the queue
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        raise SystemExit(130)
    return _obtain(command, config, min_side)


@lru_cache(maxsize=1)
def _training_images(
    data: Path | None,
    identity: str,
    image_size: tuple[int, int],
    channels: int,
    min_side: int,
    device: str,
    looks: int,
) -> ImageSource:
    """Opened once in each process: runs that follow one another share the decoded images, as long
    as these are the same (``identity``).
    ``looks``: how many images one run will see."""
    source = image_source(data, "train", image_size, channels, min_side=min_side)
    return (
        Resident(source, device=device)
        if looks >= len(source) and nbytes(source) <= RESIDENT_LIMIT
        else source
    )


def _obtain(command: Pretrain, config: PretrainConfig, min_side: int) -> Checkpoint:
    torch.set_num_threads(command.threads)
    device = str(resolve_device(command.device))
    source = None
    if distributed.first_says(
        lambda: find(config, None if command.out is None else [command.out]) is None
    ):
        source = command._images(config, min_side)
    checkpoint = obtain(
        config,
        source,
        device=device,
        folder=command.out,
        tier=command.tier,
        save_every=command.save_every,
        accumulate=command.accumulate,
        compiled=command.compile,
    )
    if command.results is not None and distributed.rank() == 0:
        wanted = _wanted(command, config, min_side, checkpoint)
        if own_record(command.results, wanted) is None:
            held_out = held_out_error(
                checkpoint.load(device), config.mask, _held_out(command, config, min_side), HELD_OUT
            )
            write_result(
                command.results,
                checkpoint.record | {"held_out": held_out, "validation": wanted["validation"]},
            )
    return checkpoint


def _held_out(command: Pretrain, config: PretrainConfig, min_side: int) -> ImageSource:
    return image_source(
        command.data,
        "validation",
        config.model.image_size,
        config.model.channels,
        min_side=min_side,
    )


def _wanted(
    command: Pretrain, config: PretrainConfig, min_side: int, checkpoint: Checkpoint | None
) -> dict:
    """What the record of a pretraining is of (`mae_book.verdicts.results.SUBJECT`); of weights that
    are still to be trained there can be none."""
    named = {
        "name": config.name,
        "hash": config.hash,
        "validation": _held_out(command, config, min_side).identity,
    }
    return named | {"digest": None if checkpoint is None else checkpoint.record["digest"]}


@dataclass(frozen=True)
class Evaluate:
    """Measure what pretrained encoders have learned: reconstruction (§3.1), attention (§3.2),
    separability, probe and few_labels (§3.3), shape_bias (§3.4), latents (§3.6). What is already
    recorded in --results for these weights, data and settings is not measured again.
    """

    what: Annotated[
        Literal[
            "reconstruction",
            "attention",
            "separability",
            "probe",
            "few_labels",
            "shape_bias",
            "latents",
        ],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="WHAT"),
    ]
    """reconstruction, attention, separability, probe, few_labels (20 a class), shape_bias or
    latents (of the embedded world)"""
    checkpoint: tuple[Path, ...]
    """checkpoints (their .safetensors or .json), folders of them, or bare names (NAME-HASH) of what
    is in checkpoints/ or in the cache"""
    data: Path | None = None
    """folder of images with train/ and val/; default: the embedded world"""
    shifted: tuple[str, ...] = ()
    """shifted sets for the probe: NAME=DIR, NAME one of imagenet-v2, imagenet-r, imagenet-a,
    imagenet-sketch, objectnet, or any other for a folder whose class folders are named as in
    --data"""
    stimuli: Path | None = None
    """folder of cue-conflict stimuli, <shape>/<shape>N-<texture>N.png, for shape_bias with
    --data"""
    images: int = 1000
    """validation images of reconstruction and attention, at most"""
    train_images: int = 8192
    """training images of a probe, at most"""
    seed: int = 0
    """of masks, probes and the draw of ten classes"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    threads: int = 1
    """CPU threads"""
    results: Path | None = None
    """folder for one JSON of numbers a checkpoint, for instance results/probe/world; each kind,
    data set and setting wants its own"""
    as_json: bool = False
    """print the records as JSON"""

    def run(self) -> int:
        from mae_lib.evaluation.evaluate import Options, evaluate, identity

        if self.threads < 1:
            raise InputError(f"--threads {self.threads} must be at least 1")
        torch.set_num_threads(self.threads)
        resolve_device(self.device)
        if self.results is not None:
            _require_writable(self.results)
        pairs = [_name_and_folder(text) for text in self.shifted]
        options = Options(
            self.data,
            dict(pairs),
            self.stimuli,
            self.images,
            self.train_images,
            self.device,
            self.seed,
        )
        found = _checkpoints(self.checkpoint)
        # all is checked before anything is measured
        wanted = [identity(self.what, checkpoint, options) for checkpoint in found]
        kept = [None] * len(found)
        if self.results is not None:
            [(stem, count)] = Counter(
                f"{each['name']}-{each['hash']}" for each in wanted
            ).most_common(1)
            if count > 1:
                what = (
                    f"two checkpoints with other weights are both called {stem}, as their records"
                    " would be"
                )
                raise InputError(f"{what}: evaluate one, or each into its own --results")
            kept = [own_record(self.results, each) for each in wanted]
        pending = [checkpoint for checkpoint, record in zip(found, kept) if record is None]
        for checkpoint in pending:
            checkpoint.load()
        if len(found) > 1 and not self.as_json:
            print(
                f"{len(pending)} to measure, {len(found) - len(pending)} already recorded",
                flush=True,
            )
        records, left = [], len(pending)
        for checkpoint, record in zip(found, kept):
            if record is None:
                record, left = evaluate(self.what, checkpoint, options), left - 1
                if left and left == len(pending) - 1 and not self.as_json:
                    print(
                        f"{left} more to measure, {spoken(left * record['seconds'])} at the pace of"
                        " the first",
                        flush=True,
                    )
                if self.results is not None:
                    write_result(self.results, record)
            records.append(record)
            if not self.as_json:
                print(
                    f"{record['name']}-{record['hash']}",
                    *(
                        f"  {name:<24} {Interval.from_dict(v):.4f}"
                        for name, v in record["measures"].items()
                    ),
                    sep="\n",
                    flush=True,
                )
        if self.as_json:
            print(json.dumps(records, indent=1))
        return 0


def _name_and_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise InputError(f"--shifted {text!r} must be NAME=DIR, for instance imagenet-r=DIR")
    return name, Path(folder)


def _checkpoints(paths: tuple[Path, ...]) -> list[Checkpoint]:
    """All that ``paths`` name, each once, in their order; InputError for a path without any."""
    if not paths:
        raise InputError(
            "no checkpoint was named: give --checkpoint a .safetensors, or a folder of them such as"
            " checkpoints/world"
        )
    found: dict[str, Checkpoint] = {}
    for path in paths:
        if path.is_dir():
            here = checkpoints(path)
        else:
            here = [
                (
                    named(path.name)
                    if path.parent == Path() and not path.suffix and not path.exists()
                    else read(path)
                )
            ]
        if not here:
            raise InputError(
                f"there is no checkpoint in {path}: name a .safetensors, or a folder that `mae"
                " pretrain --out` wrote"
            )
        found |= {checkpoint.record["digest"]: checkpoint for checkpoint in here}
    return list(found.values())


@dataclass(frozen=True)
class Sweep:
    """Run one notebook by papermill for every combination of parameter values, each run in a
    process of its own."""

    notebook: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="NOTEBOOK")]
    """the chapter to run"""
    over: tuple[str, ...] = ()
    """what varies: NAME=[VALUE, …] in YAML, for instance 'seed=[0, 1, 2]'"""
    set: tuple[str, ...] = ()
    """what stays: NAME=VALUE in YAML, for instance tier=smoke"""
    out: Path = Path("runs")
    """folder for the executed notebooks and the report; another one for each sweep"""
    jobs: int = 1
    """runs side by side"""

    def run(self) -> int:
        from mae_lib.commands.sweeps import run_sweep

        _require_writable(self.out)
        return run_sweep(self.notebook, self.over, self.set, self.out, self.jobs)


@dataclass(frozen=True)
class Describe:
    """Say what a folder of images holds, and whether it can be used."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """the data set's folder: class folders, or train/ and val/ with class folders or shards in
    them; or COCO's layout, with annotations/"""
    as_json: bool = False
    """print JSON"""

    def run(self) -> int:
        description = describe(self.directory)
        print(json.dumps(description.to_dict(), indent=1) if self.as_json else description)
        return 0 if description.usable else 2


@dataclass(frozen=True)
class Data:
    """Folders of images."""

    command: (
        Annotated[Describe, tyro.conf.subcommand(name="describe")]
        | Annotated[Shard, tyro.conf.subcommand(name="shard")]
    )

    def run(self) -> int:
        return self.command.run()


COMMANDS = {
    "pretrain": Pretrain,
    "evaluate": Evaluate,
    "finetune": Finetune,
    "sweep": Sweep,
    "ledger": Ledger,
    "rerun": Rerun,
    "data": Data,
}


def parse(
    arguments: list[str] | None = None,
) -> Pretrain | Evaluate | Finetune | Sweep | Ledger | Rerun | Data:
    """The command that ``arguments`` (default: the command line's) spell; SystemExit for --help and
    for what they misspell."""
    flat = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="mae",
        description="Masked autoencoders, pretrained and examined.",
        args=arguments,
        config=flat,
    )


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``mae``; ``arguments`` default to the command line's. Always ends by
    SystemExit."""
    command = parse(arguments)
    try:
        status = command.run()
    except InputError as error:
        print(f"mae: {error}", file=sys.stderr)
        status = 2
    except TrainingDiverged as error:
        print(f"mae: {error}", file=sys.stderr)
        status = 3
    except distributed.ProcessLost as error:
        print(f"mae: {error}", file=sys.stderr)
        status = 1
    except BrokenProcessPool:
        print(
            "mae: a training process was killed, perhaps for memory: try fewer --jobs; run the same"
            " command to go on",
            file=sys.stderr,
        )
        status = 1
    except KeyboardInterrupt:
        print("mae: stopped; run the same command to go on", file=sys.stderr)
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
