"""What ``mae finetune --task classify`` does: trains classifiers one after another, scores and
records them."""

from __future__ import annotations

from datetime import timedelta

from mae_lib.base.errors import InputError
from mae_lib.base.files import cache_directory
from mae_lib.base.intervals import Interval
from mae_lib.base.records import own_record, write_result
from mae_lib.commands.common import (
    name_and_folder,
    named_checkpoints,
    require_places,
    use_threads,
)
from mae_lib.commands.options import Classify
from mae_lib.evaluation.classification import (
    classify_config,
    identity,
    obtain_classifier,
    record_of,
    training_images,
)
from mae_lib.evaluation.inputs import Options
from mae_lib.training import distributed
from mae_lib.training.classifier import StoredClassifier
from mae_lib.training.loop import check_share
from mae_lib.training.pretrain import resolve_device
from mae_lib.training.stored import require_free

SCORING = timedelta(hours=6)
"""How long the other processes wait, while the first one scores, before they take it for hung."""


CHANGES = (
    "seed",
    "steps",
    "batch",
    "base_lr",
    "layer_decay",
    "mixup",
    "cutmix",
    "label_smoothing",
)
"""Options that are fields of a `ClassifyConfig`."""


def run(options: Classify) -> int:
    """``mae finetune --task classify``: the exit status."""
    use_threads(options.threads)
    if not options.checkpoint and not options.scratch:
        raise InputError(
            "nothing to fine-tune: give --checkpoint a .safetensors or a folder of them, or"
            " --scratch a ViT patch in pixels"
        )
    models, results, tier = (
        options.out or cache_directory() / "classifiers",
        options.results,
        options.tier,
    )
    require_places(models, results)
    changes = {name: getattr(options, name) for name in CHANGES}
    with distributed.joined(resolve_device(options.device), SCORING) as device:
        where, first = str(device), distributed.rank() == 0
        shifted = dict(map(name_and_folder, options.shifted))
        settings = Options(options.data, shifted, device=where)
        found = named_checkpoints(options.checkpoint) if options.checkpoint else []
        starts = [(each, None) for each in found] + [(None, patch) for patch in options.scratch]
        tasks = []
        for start, patch in starts:
            images = training_images(settings, start, tier)
            config = classify_config(images, start, tier, patch, **changes)
            check_share(config.batch, distributed.world())
            tasks.append((config, start, images))

        def known(config) -> dict | None:
            wanted = identity(config, tier, settings, options.images)
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
                    out=options.out,
                    save_every=options.save_every,
                )
                if not first:
                    continue
                record = record_of(stored, settings, options.images)
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
