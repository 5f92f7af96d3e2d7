"""``mae pretrain``: one masked autoencoder, or the paper's eight."""

from __future__ import annotations

import dataclasses
import datetime
import json
import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

import torch

from mae_lib.base.errors import InputError
from mae_lib.base.files import cache_directory
from mae_lib.base.image_source import ImageSource
from mae_lib.base.records import own_record, write_result
from mae_lib.commands.common import require_places, use_threads
from mae_lib.commands.forecast import forecast
from mae_lib.commands.options import Pretrain
from mae_lib.data.datasets import Resident, nbytes
from mae_lib.data.sources import image_source
from mae_lib.identification.image_groups import estimate_groups
from mae_lib.model.autoencoder import training_flops
from mae_lib.training import distributed
from mae_lib.training.config import PretrainConfig
from mae_lib.training.loop import check_share
from mae_lib.training.pretrain import RESIDENT_LIMIT, held_out_error, resolve_device
from mae_lib.training.store import Checkpoint, checkpoint_at, continuing, find, obtain
from mae_lib.training.stored import require_free
from mae_lib.training.tiers import parse_size, tier

HELD_OUT = 1000
"""Validation images that --results measures the error on, at most."""


def run(options: Pretrain) -> int:
    """``mae pretrain``: the exit status."""
    if not options.patience > 0:
        raise InputError(f"--patience {options.patience:g} must be above 0: minutes")
    with distributed.joined(
        resolve_device(options.device), datetime.timedelta(minutes=options.patience)
    ) as device:
        return _run(dataclasses.replace(options, device=str(device)))


def _run(options: Pretrain) -> int:
    if options.jobs < 1:
        raise InputError(f"--jobs {options.jobs} must be at least 1")
    if options.jobs > 1 and distributed.world() > 1:
        raise InputError(
            "under torchrun all processes share one training after another: leave out --jobs"
        )
    use_threads(options.threads)
    models = options.out or cache_directory() / "checkpoints"
    require_places(models, options.results)
    configs = _configs(options)
    model, unit = configs[0].model, max(config.unit for config in configs)
    if options.results is not None:
        validation = image_source(
            options.data, "validation", model.image_size, model.channels, min_side=unit
        )
        for part in torch.arange(min(HELD_OUT, len(validation))).split(250):
            # those that the error will be measured on: a damaged one is named now
            validation.images(part)
    there = {c.hash: find(c, None if options.out is None else [options.out]) for c in configs}
    pending = [c for c in configs if there[c.hash] is None]
    for config in pending:
        require_free(Checkpoint, config, models)
    if options.results is not None:
        distributed.first_tries(
            lambda: [
                own_record(options.results, _wanted(options, c, unit, there[c.hash]))
                for c in configs
            ]
        )
    apart = options.jobs > 1 and len(pending) > 1  # each process then reads the images for itself
    said = f"{len(configs)} to have, {len(configs) - len(pending)} already stored"
    if pending:
        check_share(pending[0].batch, distributed.world(), options.accumulate)
        source = (
            image_source(options.data, "train", model.image_size, model.channels, unit)
            if apart
            else _images(options, pending[0], unit)
        )
        if distributed.rank() == 0:
            said += (
                f": {forecast(pending, source, options.device, options.jobs, options.accumulate)}"
            )
    if distributed.rank() == 0:
        print(said, flush=True)
    tasks = [(options, config, unit) for config in configs]
    results = _side_by_side(tasks, options.jobs) if apart else [_obtain(*task) for task in tasks]
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


def _images(options: Pretrain, config: PretrainConfig, min_side: int) -> ImageSource:
    """What ``config`` is trained on, of no image with a side below ``min_side`` pixels: the
    sweep's largest unit for all of its runs."""
    looks = config.steps * config.batch if config.crop_from == "image" else 0
    device = str(resolve_device(options.device))
    return _training_images(
        options.data,
        json.dumps(config.data),
        config.model.image_size,
        config.model.channels,
        min_side,
        device,
        looks,
    )


def _configs(options: Pretrain) -> list[PretrainConfig]:
    sizes, start = tier(options.tier), None
    if options.start is not None:
        if options.sweep or options.image_size or options.patch or options.channels != 3:
            raise InputError(
                "--from brings its own sizes: leave out --sweep, --image-size, --channels and"
                " --patch (`mae import` has sizes and patches)"
            )
        start = checkpoint_at(options.start)
        sizes = continuing(sizes, start)
    elif options.image_size is not None or options.channels != 3:
        size = parse_size(options.image_size) if options.image_size else sizes.model.image_size
        sizes = sizes.at(size, options.channels)
    unit = (
        max(sizes.units) if options.sweep else (options.unit or options.patch or sizes.model.patch)
    )
    data = image_source(
        options.data, "train", sizes.model.image_size, sizes.model.channels, min_side=unit
    ).identity
    if options.sweep:
        masks = ("unit", "patch", "ratio", "design", "margin", "spread")
        if any(getattr(options, name) != getattr(Pretrain, name) for name in masks):
            raise InputError(
                "--sweep sets the masks itself: leave out --ratio, --unit, --patch, --design,"
                " --margin and --spread, or --sweep"
            )
        configs = [c for half in sizes.sweep(data, options.seed).values() for c in half]
    else:
        names = ("design", "margin", "strict", "spread")
        design: dict = {name: getattr(options, name) for name in names}
        if start is not None:
            design["start"] = start.record["digest"]
        if options.design == "groups":
            source = image_source(
                options.data, "train", sizes.model.image_size, sizes.model.channels, min_side=unit
            )
            design["groups"] = estimate_groups(
                source, options.patch or sizes.model.patch, options.groups
            )
        configs = [
            sizes.config(data, options.ratio, options.unit, options.patch, options.seed, **design)
        ]
    changes = {
        k: getattr(options, k)
        for k in ("steps", "batch", "base_lr")
        if getattr(options, k) is not None
    }
    if options.decoder_depth is not None:
        configs = [
            dataclasses.replace(
                c, model=dataclasses.replace(c.model, decoder_depth=options.decoder_depth)
            )
            for c in configs
        ]
    return [dataclasses.replace(c, **changes) for c in configs]


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


def _obtain_in_child(options: Pretrain, config: PretrainConfig, min_side: int) -> Checkpoint:
    # stopped, and this task was already in the queue
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        raise SystemExit(130)
    return _obtain(options, config, min_side)


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


def _obtain(options: Pretrain, config: PretrainConfig, min_side: int) -> Checkpoint:
    torch.set_num_threads(options.threads)
    device = str(resolve_device(options.device))
    source = None
    if distributed.first_says(
        lambda: find(config, None if options.out is None else [options.out]) is None
    ):
        source = _images(options, config, min_side)
    checkpoint = obtain(
        config,
        source,
        start=None if options.start is None else checkpoint_at(options.start),
        device=device,
        folder=options.out,
        tier=options.tier,
        save_every=options.save_every,
        accumulate=options.accumulate,
        compiled=options.compile,
    )
    if options.results is not None and distributed.rank() == 0:
        wanted = _wanted(options, config, min_side, checkpoint)
        if own_record(options.results, wanted) is None:
            held_out = held_out_error(
                checkpoint.load(device), config.mask, _held_out(options, config, min_side), HELD_OUT
            )
            write_result(
                options.results,
                checkpoint.record | {"held_out": held_out, "validation": wanted["validation"]},
            )
    return checkpoint


def _held_out(options: Pretrain, config: PretrainConfig, min_side: int) -> ImageSource:
    return image_source(
        options.data,
        "validation",
        config.model.image_size,
        config.model.channels,
        min_side=min_side,
    )


def _wanted(
    options: Pretrain, config: PretrainConfig, min_side: int, checkpoint: Checkpoint | None
) -> dict:
    """What the record of a pretraining is of (`mae_lib.base.records.SUBJECT`); of weights that
    are still to be trained there can be none."""
    named = {
        "name": config.name,
        "hash": config.hash,
        "validation": _held_out(options, config, min_side).identity,
    }
    return named | {"digest": None if checkpoint is None else checkpoint.record["digest"]}
