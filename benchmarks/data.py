"""The data path beside the training step: images/s of drawing, of decoding and of the memory-resident set that training reads.

`mae pretrain` draws or decodes every image once into memory (`Resident`) and takes its batches from there. Timed in turns:

- *step*: `Run.train_step` of each of the tier's eight pretrainings, less the preparation that it holds;
- *resident*: order of the images, batch out of the resident set, transfer, normalisation and augmentation, as the loop does them;
- *drawing*: the embedded world's images, made anew for each batch;
- *decoding*: files of `--data DIR`, on one thread and with `FolderImages`' own pool.

All but the resident set are what training would pay without one. The files are read in random order; after the first epoch the
system's cache may serve them.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import common
import torch
from torch import Tensor

from mae_lib.datasets import FolderImages, ImageSource, Resident, nbytes
from mae_lib.errors import InputError
from mae_lib.model import normalise_pixels
from mae_lib.pretrain import RESIDENT_LIMIT, DataOrder, Run, augment, step_generator
from mae_lib.tiers import PretrainConfig, tier
from mae_lib.worlds import World

WANTED = 2.0  # the resident path's rate over the step's, at least


def batches(source: ImageSource, order: DataOrder, device: torch.device, steps: Iterator[int]) -> Callable[[], Tensor]:
    """A function that reads the next batch in the training loop's order, uint8 [B, C, H, W] on the device."""
    return lambda: source.images(order.at(next(steps))).to(device, non_blocking=True)


def stepper(config: PretrainConfig, device: torch.device, images: Tensor) -> Callable[[], None]:
    """The next training step of a fresh run, always on the same images."""
    run = Run(replace(config, steps=10**6), device)  # so that no number of rounds runs past the end
    return lambda: run.train_step(images)


def preparation(config: PretrainConfig, device: torch.device, images: Tensor) -> Callable[[], Tensor]:
    """What a training step does to its images before the model sees them."""
    return lambda: augment(normalise_pixels(images), config.crop, config.flip, step_generator(config.seed, "augment", 0, device))


def sources(data: Path | None, size: tuple[int, int], unit: int, images: int | None, device: torch.device) -> dict[str, ImageSource]:
    """Where images can come from: the world, and a folder if there is one."""
    found: dict[str, ImageSource] = {"drawing": World(size=size[0], device=str(device), length=images)}
    if data is not None:
        found["decoding, 1 thread"] = FolderImages(data, "train", size, min_side=unit, workers=1)
        found["decoding, its pool"] = FolderImages(data, "train", size, min_side=unit)
    return found


def main() -> None:
    options = common.parser(__doc__.splitlines()[0], rounds=15)
    options.add_argument("--data", type=Path, metavar="DIR", help="a folder of class folders: train on it, and time its decoding too")
    options.add_argument("--tier", default="laptop", help="whose eight pretrainings (laptop)")
    options.add_argument("--images", type=common._positive, help="images of the world, for a short trial (default: all of its training split)")
    chosen = options.parse_args()
    device = common.prepare(chosen.threads, chosen.device)
    try:
        sizes = tier(chosen.tier)
        source = sources(chosen.data, sizes.model.image_size, max(sizes.units), chosen.images, device)
        print(common.machine(device), end="\n\n")
        kind, trained_on = list(source.items())[-1]
        began = time.perf_counter()
        resident = Resident(trained_on, device=device) if nbytes(trained_on) <= RESIDENT_LIMIT else None
        once = time.perf_counter() - began if resident is not None else 0.0
    except InputError as error:
        sys.exit(f"error: {error}")
    short = chosen.images is not None and chosen.data is None
    if short:
        once *= len(World(size=sizes.model.image_size[0])) / len(trained_on)

    configs = [c for half in sizes.sweep(trained_on.identity).values() for c in half]
    configs = [replace(c, batch=chosen.batch or c.batch) for c in configs]
    first, steps = configs[0], count()
    order = DataOrder(len(trained_on), first.batch, first.seed)
    read = batches(resident or trained_on, order, device, steps)
    images = read()
    prepare = preparation(first, device, images)
    works: dict[str, Callable[[], object]] = {c.name: stepper(c, device, images) for c in configs}
    works |= {"prepare": prepare, "read": read}
    for name, one in source.items():
        works[name] = batches(one, DataOrder(len(one), first.batch, first.seed), device, steps)
    times = common.alternate(works, chosen.rounds, device)

    path = [a + b for a, b in zip(times["read"], times["prepare"])]
    fetched = "resident" if resident is not None else "training's reads"
    paths = {fetched: path} | {name: times[name] for name in source}
    rows, result = [], {}
    for config in configs:
        step = [max(whole - part, 1e-9) for whole, part in zip(times[config.name], times["prepare"])]
        ratios = {name: common.ratio(step, taken) for name, taken in paths.items()}
        training, reading = config.steps * statistics.median(step), config.steps * statistics.median(path)
        share, amortised = once / (once + training + reading), training / (once + reading)
        rows.append([config.name, _rate(config.batch, step), *map(str, ratios.values()), f"{amortised:.1f}", f"{share:.1%}"])
        result[config.name] = {"ratios": {name: asdict(value) for name, value in ratios.items()}, "amortised": amortised, "once_share": share}
    head = ["pretraining", "step, images/s", *(f"{name} / step" for name in paths), "filling and reading / step", "filling's share of a run"]
    print(common.table(["path", "images/s", "ms a batch: median [quartiles]"], [[name, _rate(first.batch, t), common.spread(t)] for name, t in paths.items()]))
    print("\n" + common.table(head, rows))
    print(f"\nRatios of images/s with 95 % intervals: above 1, the data are faster than the step. Filling memory once is spread over the whole run. Batch {first.batch}, {chosen.rounds} rounds.")

    worst_name, worst = min(((name, one["ratios"][fetched]) for name, one in result.items()), key=lambda pair: pair[1]["median"])
    if resident is not None:
        shares = [one["once_share"] for one in result.values()]
        print(
            f"Filling memory by {kind} takes {once:.1f} s{f' (estimated from {len(resident):,} images)' if short else f' for {len(resident):,} images'}, once a process: {min(shares):.1%} to {max(shares):.1%} "
            f"of one pretraining of {first.steps} steps, {once / _total(configs, times, path, once):.1%} of all eight in one process."
        )
    else:
        print(f"{nbytes(trained_on) / 2**30:.1f} GiB of images exceed the {RESIDENT_LIMIT / 2**30:.0f} GiB kept in memory: each batch is read anew by {kind}.")
    holds, whole = worst["low"] >= WANTED, min(one["amortised"] for one in result.values())
    print(
        f"The bottleneck is {'the training step' if whole > 1 else 'the data path'}: over a whole run, filling included, data come at {whole:.1f}× the step's "
        f"rate or more. Without it, at {worst['median']:.1f}× or more (least for {worst_name}, interval from {worst['low']:.1f}×); "
        f"that this is never below {WANTED:.0f}× {'holds' if holds else 'DOES NOT HOLD'}."
    )
    common.save(chosen.json, device, {
        "benchmark": "data", "tier": chosen.tier, "rounds": chosen.rounds, "batch": first.batch, "images": len(trained_on),
        "drawn": chosen.data is None, "resident": resident is not None, "fill_seconds": once, "seconds": times, "pretrainings": result, "holds": holds,
    })


def _rate(batch: int, times: list[float]) -> str:
    return f"{batch / statistics.median(times):,.0f}"


def _total(configs: list[PretrainConfig], times: dict[str, list[float]], path: list[float], once: float) -> float:
    """Seconds of all pretrainings one after another, the resident set made once."""
    read = statistics.median(path) - statistics.median(times["prepare"])
    return once + sum(c.steps * (statistics.median(times[c.name]) + read) for c in configs)


if __name__ == "__main__":
    main()
