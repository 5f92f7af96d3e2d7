"""``mae evaluate``: what pretrained encoders have learned."""

from __future__ import annotations

import json
from collections import Counter

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval
from mae_lib.base.records import own_record, write_result
from mae_lib.commands.common import (
    name_and_folder,
    named_checkpoints,
    require_writable,
    use_threads,
)
from mae_lib.commands.forecast import spoken
from mae_lib.commands.options import Evaluate
from mae_lib.evaluation.evaluate import Options, evaluate, identity
from mae_lib.training.pretrain import resolve_device


def run(options: Evaluate) -> int:
    """``mae evaluate``: the exit status."""
    use_threads(options.threads)
    resolve_device(options.device)
    if options.results is not None:
        require_writable(options.results)
    pairs = [name_and_folder(text) for text in options.shifted]
    settings = Options(
        options.data,
        dict(pairs),
        options.stimuli,
        options.images,
        options.train_images,
        options.device,
        options.seed,
    )
    found = named_checkpoints(options.checkpoint)
    # all is checked before anything is measured
    wanted = [identity(options.what, checkpoint, settings) for checkpoint in found]
    kept = [None] * len(found)
    if options.results is not None:
        [(stem, count)] = Counter(f"{each['name']}-{each['hash']}" for each in wanted).most_common(
            1
        )
        if count > 1:
            what = (
                f"two checkpoints with other weights are both called {stem}, as their records"
                " would be"
            )
            raise InputError(f"{what}: evaluate one, or each into its own --results")
        kept = [own_record(options.results, each) for each in wanted]
    pending = [checkpoint for checkpoint, record in zip(found, kept) if record is None]
    for checkpoint in pending:
        checkpoint.load()
    if len(found) > 1 and not options.as_json:
        print(
            f"{len(pending)} to measure, {len(found) - len(pending)} already recorded",
            flush=True,
        )
    records, left = [], len(pending)
    for checkpoint, record in zip(found, kept):
        if record is None:
            record, left = evaluate(options.what, checkpoint, settings), left - 1
            if left and left == len(pending) - 1 and not options.as_json:
                print(
                    f"{left} more to measure, {spoken(left * record['seconds'])} at the pace of"
                    " the first",
                    flush=True,
                )
            if options.results is not None:
                write_result(options.results, record)
        records.append(record)
        if not options.as_json:
            print(
                f"{record['name']}-{record['hash']}",
                *(
                    f"  {name:<24} {Interval.from_dict(v):.4f}"
                    for name, v in record["measures"].items()
                ),
                sep="\n",
                flush=True,
            )
    if options.as_json:
        print(json.dumps(records, indent=1))
    return 0
