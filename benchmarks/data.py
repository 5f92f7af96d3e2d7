"""The data path beside the training step: images/s of drawing, of decoding and of the
memory-resident set that training reads.

`mae pretrain` draws or decodes every image once into memory (`Resident`) and takes its batches from
there. Timed in turns:

- *step*: `Run.train_step` of each of the tier's eight pretrainings, less the preparation that it
  holds;
- *resident*: order of the images, batch out of the resident set, transfer, normalisation and
  augmentation, as the loop does them;
- *drawing*: the embedded world's images, made anew for each batch;
- *decoding*: image files of `--data DIR`, class folders or shards, and what the resident path does
  to a batch besides: normalisation, crop and mirror image on the device; on one thread and with the
  source's own pool;
- *cropping*: the same files, the random crop cut out of the file while it is decoded, as training
  does where a set is too large for memory.

All but the resident set are what training would pay without one. `--synthetic N` makes N JPEG files
of ImageNet's usual size out of the embedded world, as class folders and as shards, so that files
can be timed where there are none. The files are read in random order; after the first epoch the
system's cache may serve them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import common
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.data.datasets import Resident, nbytes
from mae_lib.data.encoded import EncodedImages
from mae_lib.data.formats.decoding import Member
from mae_lib.data.shards import ShardImages, pack
from mae_lib.data.sources import image_source
from mae_lib.model.autoencoder import normalise_pixels
from mae_lib.training.config import PretrainConfig
from mae_lib.training.feeding import DataOrder, augment, step_generator
from mae_lib.training.loop import Run
from mae_lib.training.pretrain import RESIDENT_LIMIT
from mae_lib.training.tiers import tier
from mae_lib.worlds.world import World

WANTED = 2.0  # the resident path's rate over the step's, at least
FILE = (500, 375)  # pixels, width and height: ImageNet's usual size
# standard deviation of the noise that gives a drawn file about the bytes of a photograph
GRAIN = 14
CROP = 0.2  # smallest share of the area, of MAE's recipe; for tiers that do not crop


def batches(
    source: ImageSource, order: DataOrder, device: torch.device, steps: Iterator[int]
) -> Callable[[], Tensor]:
    """A function that reads the next batch in the training loop's order, uint8 [B, C, H, W] on the
    device."""
    return lambda: source.images(order.at(next(steps))).to(device, non_blocking=True)


def stepper(config: PretrainConfig, device: torch.device, images: Tensor) -> Callable[[], None]:
    """The next training step of a fresh run, always on the same images."""
    run = Run(replace(config, steps=10**6), device)  # so that no number of rounds runs past the end
    return lambda: run.train_step(images)


def crops(
    source: EncodedImages,
    order: DataOrder,
    device: torch.device,
    steps: Iterator[int],
    smallest: float,
) -> Callable[[], Tensor]:
    """As `batches`, but each image a random crop made while decoding."""
    generator = torch.Generator().manual_seed(0)

    def read() -> Tensor:
        indices = order.at(next(steps))
        return source.crops(
            indices, torch.rand(len(indices), 4, generator=generator, dtype=torch.float64), smallest
        ).to(device, non_blocking=True)

    return read


def preparation(
    config: PretrainConfig, device: torch.device, images: Tensor, crop: float
) -> Callable[[], Tensor]:
    """What a training step that crops on the device does to its images before the model sees
    them."""
    return lambda: augment(
        normalise_pixels(images),
        crop,
        config.flip,
        step_generator(config.seed, "augment", 0, device),
    )


def synthesise(directory: Path, count: int) -> tuple[Path, Path]:
    """`count` JPEG files drawn from the embedded world, as class folders and as shards: the two
    folders."""
    world = World(size=256, length=count)
    for k, label in enumerate(world.labels.tolist()):
        drawn = Image.fromarray(world.images([k])[0].permute(1, 2, 0).numpy()).resize(
            FILE, Image.Resampling.BICUBIC
        )
        grain = np.random.default_rng(k).normal(0, GRAIN, (FILE[1], FILE[0], 3))
        path = directory / "folder" / "train" / world.classes[label] / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.asarray(drawn) + grain).clip(0, 255).astype(np.uint8)).save(
            path, quality=90
        )
    pack(directory / "folder", directory / "shards", ("train",), progress=False)
    return directory / "folder", directory / "shards"


def encoded(folders: Sequence[Path], size: tuple[int, int], unit: int) -> dict[str, EncodedImages]:
    """The files of each folder, read on one thread and with the source's own pool, by what the rows
    are called."""
    found: dict[str, EncodedImages] = {}
    for folder in folders:
        own = image_source(folder, "train", size, min_side=unit)
        place = "shards, " if isinstance(own, ShardImages) else ""
        found |= {
            f"{place}1 thread": type(own)(folder, "train", size, min_side=unit, workers=1),
            f"{place}its pool": own,
        }
    return found


def main() -> None:
    options = common.parser(__doc__.splitlines()[0], rounds=15)
    files = options.add_mutually_exclusive_group()
    files.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="a folder of class folders or of shards: train on it, and time its files too",
    )
    files.add_argument(
        "--synthetic",
        type=common._positive,
        metavar="N",
        help="the same with N JPEG files drawn for it, in class folders and in shards",
    )
    options.add_argument("--tier", default="laptop", help="whose eight pretrainings (laptop)")
    options.add_argument(
        "--image-size",
        type=common._positive,
        metavar="PX",
        help="side of the images; patches and units scale with it; default: the tier's",
    )
    options.add_argument(
        "--images",
        type=common._positive,
        help="images of the world, for a short trial (default: all of its training split)",
    )
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(chosen, Path(scratch))


def measure(chosen: argparse.Namespace, scratch: Path) -> None:
    """All of it; files that are drawn for it go into ``scratch``."""
    device = common.prepare(chosen.threads, chosen.device)
    try:
        sizes = tier(chosen.tier)
        if chosen.image_size is not None:
            sizes = sizes.at(chosen.image_size)
        size = sizes.model.image_size
        folders = (
            synthesise(scratch, chosen.synthetic)
            if chosen.synthetic
            else [chosen.data]
            if chosen.data
            else []
        )
        files = encoded(folders, size, max(sizes.units))
        world = World(size=size[0], device=str(device), length=chosen.images)
        print(common.machine(device), end="\n\n")
        trained_on = next(
            (source for name, source in files.items() if name.endswith("its pool")), world
        )
        configs = [c for half in sizes.sweep(trained_on.identity).values() for c in half]
        configs = [replace(c, batch=chosen.batch or c.batch) for c in configs]
        first, steps = configs[0], count()
        from_file = first.crop_from == "file"
        began = time.perf_counter()
        resident = (
            Resident(trained_on, device=device)
            if not from_file and nbytes(trained_on) <= RESIDENT_LIMIT
            else None
        )
        once = time.perf_counter() - began if resident is not None else 0.0
    except InputError as error:
        sys.exit(f"error: {error}")
    short = chosen.images is not None and not files
    if short:
        once *= len(World(size=size[0])) / len(trained_on)

    order, smallest = (
        DataOrder(len(trained_on), first.batch, first.seed),
        first.crop if first.crop < 1 else CROP,
    )
    read = (
        crops(trained_on, order, device, steps, smallest)
        if from_file
        else batches(resident or trained_on, order, device, steps)
    )
    images = read()
    works: dict[str, Callable[[], object]] = {c.name: stepper(c, device, images) for c in configs}
    works |= {
        "prepare": preparation(first, device, images, 1.0 if from_file else first.crop),
        "read": read,
    }
    works["drawing"] = batches(world, DataOrder(len(world), first.batch, first.seed), device, steps)
    if files:
        works |= {
            "crop": preparation(first, device, images, smallest),
            "mirror": preparation(first, device, images, 1.0),
        }
    for name, one in files.items():
        works[f"decoding, {name}"] = batches(one, order, device, steps)
        works[f"cropping, {name}"] = crops(one, order, device, steps, smallest)
    times = common.alternate(works, chosen.rounds, device)

    path = [a + b for a, b in zip(times["read"], times["prepare"])]
    fetched = "resident" if resident is not None else "training's reads"
    paths = {fetched: path, "drawing": times["drawing"]}
    for name in files:
        for way, rest in (("decoding", "crop"), ("cropping", "mirror")):
            paths[f"{way}, {name}"] = [a + b for a, b in zip(times[f"{way}, {name}"], times[rest])]
    columns = [name for name in paths if not name.endswith("1 thread")]
    rows, result = [], {}
    for config in configs:
        step = [
            max(whole - part, 1e-9) for whole, part in zip(times[config.name], times["prepare"])
        ]
        ratios = {name: common.ratio(step, taken) for name, taken in paths.items()}
        training, reading = (
            config.steps * statistics.median(step),
            config.steps * statistics.median(path),
        )
        share, amortised = once / (once + training + reading), training / (once + reading)
        rows.append(
            [
                config.name,
                _rate(config.batch, step),
                *(str(ratios[name]) for name in columns),
                f"{amortised:.1f}",
                f"{share:.1%}",
            ]
        )
        result[config.name] = {
            "ratios": {name: asdict(value) for name, value in ratios.items()},
            "amortised": amortised,
            "once_share": share,
        }
    head = [
        "pretraining",
        "step, images/s",
        *(f"{name} / step" for name in columns),
        "filling and reading / step",
        "filling's share of a run",
    ]
    print(
        common.table(
            ["path", "images/s", "ms a batch: median [quartiles]"],
            [[name, _rate(first.batch, t), common.spread(t)] for name, t in paths.items()],
        )
    )
    print("\n" + common.table(head, rows))
    print(
        "\nRatios of images/s with 95 % intervals: above 1, the data are faster than the step."
        f" Filling memory once is spread over the whole run. Batch {first.batch}, {chosen.rounds}"
        " rounds."
    )

    if files:
        print(_files_in_words(files, paths, result, smallest))
    kind = "drawing" if not files else "cropping while decoding" if from_file else "decoding"
    worst_name, worst = min(
        ((name, one["ratios"][fetched]) for name, one in result.items()),
        key=lambda pair: pair[1]["median"],
    )
    if resident is not None:
        shares = [one["once_share"] for one in result.values()]
        print(
            f"Filling memory by {kind} takes {once:.1f}"
            f" s ({'estimated from' if short else 'for'} {len(resident):,} images),"
            f" once a process: {min(shares):.1%} to {max(shares):.1%} of one pretraining of"
            f" {first.steps} steps, {once / _total(configs, times, path, once):.1%} of all eight in"
            " one process."
        )
    elif from_file:
        print(
            "Crops are cut out of the files, so that no image is kept in memory: each batch is read"
            " anew."
        )
    else:
        print(
            f"{nbytes(trained_on) / 2**30:.1f} GiB of images exceed the"
            f" {RESIDENT_LIMIT / 2**30:.0f} GiB kept in memory: each batch is read anew by {kind}."
        )
    holds, whole = worst["low"] >= WANTED, min(one["amortised"] for one in result.values())
    print(
        f"The bottleneck is {'the training step' if whole > 1 else 'the data path'}: over a whole"
        f" run, filling included, data come at {whole:.1f}× the step's rate or more. Without it, at"
        f" {worst['median']:.1f}× or more (least for {worst_name}, interval from"
        f" {worst['low']:.1f}×); that this is never below {WANTED:.0f}×"
        f" {'holds' if holds else 'DOES NOT HOLD'}."
    )
    common.save(
        chosen.json,
        device,
        {
            "benchmark": "data",
            "tier": chosen.tier,
            "rounds": chosen.rounds,
            "batch": first.batch,
            "images": len(trained_on),
            "drawn": not files,
            "synthetic": chosen.synthetic,
            "image_size": size[0],
            "resident": resident is not None,
            "fill_seconds": once,
            "seconds": times,
            "pretrainings": result,
            "holds": holds,
        },
    )


def _files_in_words(
    files: dict[str, EncodedImages],
    paths: dict[str, list[float]],
    result: dict[str, dict],
    smallest: float,
) -> str:
    """What the files' rows mean: the two ways of cropping, folder and shards, and what would hold
    up a training that keeps nothing in memory."""
    source = next(iter(files.values()))
    whole = [source.encoded(k) for k in range(0, len(source), max(1, len(source) // 100))]
    kilobytes = (
        statistics.mean(
            len(one.content) if isinstance(one, Member) else one.stat().st_size for one in whole
        )
        / 1e3
    )
    lines = [
        f"Files: {len(source):,}, of {kilobytes:.0f} kB on average. Crops of at least"
        f" {smallest:.0%} of the area."
    ]
    for name in files:
        gain = common.ratio(paths[f"decoding, {name}"], paths[f"cropping, {name}"])
        lines.append(
            f"{name}: cropping while decoding comes at {gain} times the rate of decoding, then"
            " cropping on the device."
        )
        least = min(
            (one["ratios"][f"cropping, {name}"]["median"], config) for config, one in result.items()
        )
        held = "the training step" if least[0] > 1 else "the data path"
        lines.append(
            f"{name}: with nothing in memory the bottleneck would be {held}: crops come at"
            f" {least[0]:.2f}× the step's rate or more (least for {least[1]})."
        )
    for name in ("1 thread", "its pool"):
        if name in files and f"shards, {name}" in files:
            gain = common.ratio(paths[f"cropping, {name}"], paths[f"cropping, shards, {name}"])
            lines.append(
                f"{name}: out of shards crops come at {gain} times the rate out of class folders,"
                " both on this disk and in the system's cache."
            )
    return "\n".join(lines)


def _rate(batch: int, times: list[float]) -> str:
    return f"{batch / statistics.median(times):,.0f}"


def _total(
    configs: list[PretrainConfig], times: dict[str, list[float]], path: list[float], once: float
) -> float:
    """Seconds of all pretrainings one after another, the resident set made once."""
    read = statistics.median(path) - statistics.median(times["prepare"])
    return once + sum(c.steps * (statistics.median(times[c.name]) + read) for c in configs)


if __name__ == "__main__":
    main()
