"""How many trainings are to come and about how many minutes they take, said before the first
begins: a few steps of each kind are timed here."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import torch

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.data.datasets import Resident, nbytes
from mae_lib.data.image_files import cores
from mae_lib.model.autoencoder import MaskedAutoencoder, normalise_pixels
from mae_lib.training import distributed
from mae_lib.training.config import PretrainConfig
from mae_lib.training.feeding import augment
from mae_lib.training.pretrain import RESIDENT_LIMIT, resolve_device
from mae_lib.training.store import Checkpoint, cache_directory, find, world_of

if TYPE_CHECKING:
    from mae_lib.data.coco import CocoFolder
    from mae_lib.detection.config import FinetuneConfig

_STEPS = 3  # that are timed, after one that is not
_FEW = 4  # images of the first trial, which decides how many the timed steps may have
_LONGEST = 2.0  # seconds that one timed step may take on a CPU


def announce(
    configs: Sequence[PretrainConfig],
    source: ImageSource | None = None,
    *,
    device: str = "auto",
    train_missing: bool = True,
) -> None:
    """Prints how many of ``configs`` `mae_lib.training.store.obtain` would have to train, and about
    how long that takes; nothing if all are stored.

    Args:
        configs: what is to be had. source: the images, needed for a folder's. device: as of
            `obtain`. train_missing: whether what is not stored may be trained now.

    Raises:
        InputError: something is not stored, and is not to be trained: what, how long it would take
            here, and how to have it.
    """
    pending = [config for config in configs if find(config) is None]
    if pending:
        _announce(
            len(configs),
            [config.name for config in pending],
            forecast(pending, source, device),
            train_missing,
            "`mae pretrain` (`--sweep` for all of a sweep)",
        )


def announce_detectors(
    configs: Sequence[tuple[FinetuneConfig, Checkpoint | None]],
    folder: CocoFolder,
    *,
    device: str = "auto",
    out: str | Path | None = None,
    train_missing: bool = True,
) -> None:
    """The same of detectors and the encoders that they start from, as of
    `mae_lib.detection.detectors.obtain_detector`. ``folder``: the training images. Where processes
    share a batch, whose steps no process can time alone, the line says how many only."""
    # torchvision's detectors: slow to import, and no pretraining needs them
    from mae_lib.detection.detectors import find_detector

    pending = [
        (config, checkpoint) for config, checkpoint in configs if find_detector(config, out) is None
    ]
    if pending and distributed.rank() == 0:
        said = f"{len(pending)} to train"
        if distributed.world() == 1:
            said = _to_train(
                len(pending),
                sum(
                    finetuning_seconds(config, checkpoint, folder, resolve_device(device))
                    for config, checkpoint in pending
                ),
            )
        _announce(
            len(configs),
            [config.name for config, _ in pending],
            said,
            train_missing,
            "`mae finetune`",
        )


def _announce(count: int, pending: list[str], said: str, train_missing: bool, ahead: str) -> None:
    """Says what is to come, or refuses it: ``said`` of the ``pending`` ones of ``count``; ``ahead``
    makes them beforehand."""
    line = f"{count} to have, {count - len(pending)} already stored: {said}"
    if not train_missing:
        raise InputError(
            f"{line}, and nothing is trained unasked. Not stored: {', '.join(pending)}. Give"
            f" train_missing=True (papermill: -p train_missing True), or run {ahead} ahead with the"
            " same tier, data and seed"
        )
    print(line, flush=True)


def forecast(
    configs: Sequence[PretrainConfig],
    source: ImageSource | None = None,
    device: str = "auto",
    jobs: int = 1,
    accumulate: int = 1,
) -> str:
    """Of trainings that are all to be made, "5 to train, about 40 min here (…), 2 at a time".
    Arguments as of :func:`announce` and of `mae pretrain`."""
    where = resolve_device(device)
    images = world_of(configs[0], where) if source is None else source
    seconds = pretraining_seconds(configs, images, where, accumulate)
    # a GPU is shared, not multiplied
    ways = min(jobs, max(1, cores() // torch.get_num_threads())) if where.type == "cpu" else 1
    return _to_train(len(configs), max(*seconds, sum(seconds) / ways, 0.0)) + (
        f", {jobs} at a time" if jobs > 1 and len(configs) > 1 else ""
    )


def _to_train(count: int, seconds: float) -> str:
    return f"{count} to train, {spoken(seconds)} here (an estimate from a few timed steps)"


def spoken(seconds: float) -> str:
    """A duration in words."""
    if seconds < 60:
        return "less than a minute"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def pretraining_seconds(
    configs: Sequence[PretrainConfig],
    source: ImageSource,
    device: torch.device,
    accumulate: int = 1,
) -> list[float]:
    """About how long each of these trainings takes on this machine, from where its saved state
    stands, one after another.

    Steps are timed without `torch.compile`, so that a GPU's are overestimated by what that gains.
    Reading the images counts: once where they are then kept in memory, else where it takes longer
    than the steps that it runs beside.
    """
    timed: dict[str, float] = {}
    found, read = [], None
    for config in configs:
        kind = json.dumps(
            [
                config.to_dict()["model"],
                config.mask.visible_patches,
                config.batch,
                config.crop,
                config.flip,
                config.precision,
            ]
        )
        if kind not in timed:
            timed[kind] = _step(config, device, accumulate)
        left, resident = config.steps - steps_done(config), isinstance(source, Resident)
        if not resident and read is None:
            few = range(min(32, len(source)))
            began = time.perf_counter()
            source.images(few)
            read = (time.perf_counter() - began) / len(few)
        kept = (
            config.crop_from == "image"
            and left * config.batch >= len(source)
            and nbytes(source) <= RESIDENT_LIMIT
        )
        reading = 0.0 if resident or read is None else read
        waiting = 0.0 if kept else reading * config.batch / distributed.world()
        found.append(left * max(timed[kind], waiting) + (len(source) * reading if kept else 0.0))
    return found


def finetuning_seconds(
    config: FinetuneConfig, checkpoint: Checkpoint | None, folder: CocoFolder, device: torch.device
) -> float:
    """About how long this fine-tuning of a detector takes on this machine, from where its saved
    state stands. ``folder``: its images."""
    from mae_lib.detection.examples import Examples
    from mae_lib.detection.finetune import FinetuneRun

    def trial(images: int) -> Callable[[], None]:
        own = replace(config, batch=images, steps=_STEPS + 1)
        run = FinetuneRun(own, checkpoint, device)
        batches = Examples(own, folder).batches(0, 0, 1, 0)
        return lambda: run.train_step(next(batches))

    return (config.steps - steps_done(config)) * _scaled(trial, config.batch, device)


def steps_done(config: PretrainConfig | FinetuneConfig) -> int:
    """How far the saved state of a training has come; 0 without one that can be read."""
    with suppress(OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError):
        with safetensors.safe_open(
            cache_directory() / "states" / f"{config.name}-{config.hash}.safetensors",
            framework="pt",
        ) as file:
            return min(config.steps, int(file.metadata()["step"]))
    return 0


def _step(config: PretrainConfig, device: torch.device, accumulate: int) -> float:
    """Seconds of one step: of this process's share of the batch."""
    with torch.random.fork_rng(devices=[]):
        model = MaskedAutoencoder(config.model).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    random = torch.Generator(device).manual_seed(0)

    def trial(images: int) -> Callable[[], None]:
        pixels = torch.randint(
            0,
            256,
            (images, config.model.channels, *config.model.image_size),
            dtype=torch.uint8,
            device=device,
            generator=random,
        )

        def step() -> None:
            x = augment(
                normalise_pixels(pixels),
                config.crop if config.crop_from == "image" else 1.0,
                config.flip,
                random,
            )
            visible, hidden = config.mask.sample(images, random)  # every design hides as many
            with torch.autocast(
                device.type,
                dtype=torch.bfloat16,
                enabled=config.precision == "bfloat16" and device.type == "cuda",
            ):
                loss, _ = model(x, visible, hidden)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        return step

    share = -(-config.batch // distributed.world())
    return accumulate * _scaled(trial, -(-share // accumulate), device)


def _scaled(trial: Callable[[int], Callable[[], None]], images: int, device: torch.device) -> float:
    """Seconds of a step on ``images``: timed with fewer where a whole one is long on a CPU, and
    scaled up."""
    some = images
    if device.type == "cpu" and images > _FEW:
        once = _timed(trial(_FEW), device) / _FEW
        some = min(images, max(_FEW, int(_LONGEST / once)))
        if some == _FEW:
            return once * images
    return _timed(trial(some), device) * images / some


def _timed(step: Callable[[], None], device: torch.device) -> float:
    """Median seconds of a few steps, after one that does not count."""
    seconds = []
    for _ in range(_STEPS + 1):
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
        if sum(seconds) > 2 * _LONGEST and len(seconds) > 1:
            break
    return statistics.median(seconds[1:])
