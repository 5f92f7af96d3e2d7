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
    one_checkpoint,
    require_writable,
    use_threads,
)
from mae_lib.commands.forecast import spoken
from mae_lib.commands.options import Evaluate, Features
from mae_lib.evaluation.evaluate import evaluate, identity
from mae_lib.evaluation.exported import evaluate_exported, export_features, read_exported
from mae_lib.evaluation.inputs import Options
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
        options.neighbours,
    )
    if options.features is not None:
        return _of_features(options, settings)
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
            _say(record)
    if options.as_json:
        print(json.dumps(records, indent=1))
    return 0


def _say(record: dict) -> None:
    print(
        f"{record['name']}-{record['hash']}",
        *(
            f"  {name:<24} {Interval.from_dict(value):.4f}"
            for name, value in record["measures"].items()
        ),
        sep="\n",
        flush=True,
    )


def _of_features(options: Evaluate, settings: Options) -> int:
    """The evaluation of a file of features."""
    given = (options.checkpoint, options.data, options.shifted, options.stimuli)
    if any(given):
        raise InputError(
            "--features is in place of --checkpoint, --data, --shifted and --stimuli: its record"
            " says what it is of"
        )
    record = evaluate_exported(options.what, read_exported(options.features), settings)
    if options.results is not None and own_record(options.results, record) is None:
        write_result(options.results, record)
    if options.as_json:
        print(json.dumps([record], indent=1))
    else:
        _say(record)
    return 0


def export(options: Features) -> int:
    """``mae features``: the exit status."""
    use_threads(options.threads)
    resolve_device(options.device)
    require_writable(options.out.expanduser().parent)
    settings = Options(
        options.data,
        dict(map(name_and_folder, options.shifted)),
        options.stimuli,
        train_images=options.train_images,
        device=options.device,
    )
    out = export_features(one_checkpoint(options.checkpoint), settings, options.out)
    print(out)
    print(f"read it back: mae evaluate probe --features {out}")
    return 0
