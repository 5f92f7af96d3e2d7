"""``mae finetune``: Mask R-CNN on pretrained encoders and from scratch (§3.5), trained, scored and
recorded one after another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from mae_lib.base.errors import InputError
from mae_lib.base.files import cache_directory
from mae_lib.base.intervals import Interval
from mae_lib.base.records import own_record, write_result
from mae_lib.commands.common import named_checkpoints, require_places, use_threads
from mae_lib.commands.forecast import announce_detectors
from mae_lib.commands.options import Finetune
from mae_lib.data.coco import CocoFolder, open_coco, write_scenes
from mae_lib.data.coco_description import faults_of
from mae_lib.data.image_files import cores
from mae_lib.detection.config import FinetuneConfig
from mae_lib.detection.detectors import (
    StoredDetector,
    finetune_config,
    identity,
    obtain_detector,
    record_of,
    run_of,
)
from mae_lib.detection.finetune import build
from mae_lib.training import distributed
from mae_lib.training.loop import check_share
from mae_lib.training.pretrain import resolve_device
from mae_lib.training.store import Checkpoint
from mae_lib.training.stored import require_free
from mae_lib.training.tiers import tier
from mae_lib.worlds.world import Scenes

SCORING = timedelta(hours=6)
"""How long the other processes wait, while the first one scores, before they take it for hung."""


def run(options: Finetune) -> int:
    """``mae finetune``: the exit status."""
    with distributed.joined(resolve_device(options.device), SCORING) as device:
        return _run(options, str(device))


def _run(options: Finetune, device: str) -> int:

    if not options.checkpoint and not options.scratch:
        raise InputError(
            "nothing to fine-tune: give --checkpoint a .safetensors or a folder of them, or"
            " --scratch a ViT patch in pixels"
        )
    use_threads(options.threads)
    first = distributed.rank() == 0
    models = options.out or cache_directory() / "detectors"
    require_places(models, options.results)
    train, validation = _data(options)
    starts = [
        (found, None)
        for found in (named_checkpoints(options.checkpoint) if options.checkpoint else [])
    ] + [(None, patch) for patch in options.scratch]
    changes = {
        "seed": options.seed,
        "steps": options.steps,
        "batch": options.batch,
        "learning_rate": options.lr,
        "layer_decay": options.layer_decay,
    }
    sizes = {
        "image_size": options.image_size,
        "anchors": options.anchors,
        "proposals": options.proposals,
    }
    configs = [
        finetune_config(train, checkpoint, options.tier, patch, **sizes, **changes)
        for checkpoint, patch in starts
    ]

    def known(config: FinetuneConfig, checkpoint: Checkpoint | None) -> dict | None:
        """What is recorded; InputError, before anything is trained, where it or the detector
        could not be written."""
        wanted = identity(
            config,
            run_of(config, checkpoint, options.tier),
            options.tier,
            validation,
            options.images,
        )
        record = None if options.results is None else own_record(options.results, wanted)
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
    _prepare(options, fresh, len(starts), train, validation, device)
    for config, (checkpoint, _), record in zip(configs, starts, records):
        if record is None:
            stored = obtain_detector(
                config,
                checkpoint,
                train,
                device=device,
                out=options.out,
                tier_name=options.tier,
                save_every=options.save_every,
            )
            if not first:
                continue
            record = record_of(stored, validation, options.images, device)
            if options.results is not None:
                write_result(options.results, record)
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
    options: Finetune,
    fresh: list[tuple[FinetuneConfig, Checkpoint | None]],
    total: int,
    train: CocoFolder,
    validation: CocoFolder,
    device: str,
) -> None:
    """InputError for whatever can be known before the first step; and a line on how many are to
    be trained, and for about how long."""

    for config, checkpoint in fresh:
        check_share(config.batch, distributed.world())
        build(config, checkpoint)
    if fresh:
        _check_scored(options, validation)
    if distributed.rank() == 0:
        print(f"{total} to record, {total - len(fresh)} already recorded", flush=True)
    announce_detectors(fresh, train, device=device, out=options.out)


def _check_scored(options: Finetune, validation: CocoFolder) -> None:
    """InputError for an image that is to be scored and cannot be decoded, or a mask of it that
    cannot be drawn."""

    with ThreadPoolExecutor(cores()) as pool:
        for faults in pool.map(
            lambda i: list(faults_of(validation, i)),
            range(min(len(validation), options.images or len(validation))),
        ):
            if faults:
                raise InputError(faults[0])


def _data(options: Finetune) -> tuple[CocoFolder, CocoFolder]:
    """Training and validation images; scenes are written if they are not there, by whichever
    process comes first."""

    if options.data is not None:
        train = open_coco(options.data, options.train)
        return train, open_coco(options.data, options.validation, train.classes)
    sizes = tier(options.tier).detection["scenes"]
    folder = cache_directory() / "scenes" / f"{options.tier}-{sizes['size']}px"
    train, validation = (
        write_scenes(Scenes(split, sizes["size"], length=sizes[split]), folder, split)
        for split in ("train", "validation")
    )
    return train, validation
