"""What ``mae finetune --task classify`` does: trains classifiers one after another, scores and
records them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch

from mae_lib.base.errors import InputError
from mae_lib.base.files import cache_directory
from mae_lib.base.intervals import Interval
from mae_lib.base.records import own_record, write_result
from mae_lib.evaluation.classification import (
    classify_config,
    identity,
    obtain_classifier,
    record_of,
    training_images,
)
from mae_lib.evaluation.evaluate import Options
from mae_lib.training import distributed
from mae_lib.training.classifier import StoredClassifier
from mae_lib.training.pretrain import check_share, resolve_device
from mae_lib.training.store import checkpoint_at, require_free

SCORING = timedelta(hours=6)
"""How long the other processes wait, while the first one scores, before they take it for hung."""


def run(
    checkpoint: tuple[Path, ...],
    scratch: tuple[int, ...],
    *,
    data: Path | None,
    shifted: tuple[str, ...],
    tier: str,
    out: Path | None,
    results: Path | None,
    device: str,
    threads: int,
    save_every: float,
    **changes: object,
) -> int:
    """The command with its options (`mae_lib.commands.classify_options.Classify`)."""
    if threads < 1:
        raise InputError(f"--threads {threads} must be at least 1")
    if not checkpoint and not scratch:
        raise InputError(
            "nothing to fine-tune: give --checkpoint a .safetensors, or --scratch a ViT patch in"
            " pixels"
        )
    torch.set_num_threads(threads)
    models = out or cache_directory() / "classifiers"
    if results is not None and results.resolve() == models.resolve():
        raise InputError(f"models and results cannot both go to {results}: give a folder each")
    with distributed.joined(resolve_device(device), SCORING) as own:
        where, first = str(own), distributed.rank() == 0
        options = Options(data, dict(map(_name_and_folder, shifted)), device=where)
        starts = [(checkpoint_at(path), None) for path in checkpoint]
        starts += [(None, patch) for patch in scratch]
        tasks = []
        for start, patch in starts:
            images = training_images(options, start, tier)
            config = classify_config(images, start, tier, patch, **changes)
            check_share(config.batch, distributed.world())
            tasks.append((config, start, images))

        def known(config) -> dict | None:
            wanted = identity(config, tier, options)
            record = None if results is None else own_record(results, wanted)
            if record is None:
                require_free(StoredClassifier, config, models)
            return record

        # all is checked before anything is trained
        records = distributed.first_tries(lambda: [known(config) for config, _, _ in tasks])
        for (config, start, images), record in zip(tasks, records):
            if record is None:
                stored = obtain_classifier(
                    config,
                    start,
                    images,
                    tier_name=tier,
                    device=where,
                    out=out,
                    save_every=save_every,
                )
                if not first:
                    continue
                record = record_of(stored, options)
                if results is not None:
                    write_result(results, record)
            if first:
                print(
                    f"{record['name']}-{record['hash']}  trained {record['minutes']:.1f} min",
                    *(
                        f"  {name:<20} {Interval.from_dict(value):.4f}"
                        for name, value in record["measures"].items()
                    ),
                    sep="\n",
                    flush=True,
                )
    return 0


def _name_and_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise InputError(f"--shifted {text!r} must be NAME=DIR, for instance imagenet-r=DIR")
    return name, Path(folder)
