"""What keeps numbers from outliving the code that makes them. For each kind of result: a
fingerprint of the source that decides its numbers, and, in ``results/code.json``, the fingerprint
under which a result of that kind was last made again with the same numbers. The two differ as soon
as that source changes, and the check fails until a cell is made again: `mae rerun --changed`. What
counts as the same numbers, here and on another processor: `mae_book.verdicts.agreement`.

The fingerprint (`mae_book.verdicts.fingerprints`) covers the modules of `SOURCES` and all that they
import from these packages: what they do, not how it is written down and where.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mae_book.verdicts.agreement import Agreement
from mae_book.verdicts.claims import CLAIMS
from mae_book.verdicts.fingerprints import SOURCES, fingerprint
from mae_book.verdicts.ledger import Entry, drift
from mae_book.verdicts.results import results_directory
from mae_book.verdicts.seals import changes, seal_again
from mae_lib.base.errors import InputError
from mae_lib.base.files import write_json
from mae_lib.base.records import recorded
from mae_lib.evaluation.evaluate import EVALUATIONS, identity
from mae_lib.evaluation.inputs import Options
from mae_lib.training.store import checkpoints


def code_file() -> Path:
    """``results/code.json``."""
    return results_directory() / "code.json"


def confirmed() -> dict[str, dict]:
    """kind → what was last made again with which code: ``code``, ``cell``, ``agreement``,
    ``commit``, ``finished``."""
    return json.loads(code_file().read_text(encoding="utf-8")) if code_file().is_file() else {}


def confirm(kind: str, cell: str, agreement: Agreement, again: Mapping) -> None:
    """Notes that the present code makes ``cell`` again. InputError if it does not: a number is
    outside."""
    if agreement.outside:
        raise InputError(
            f"{cell} was not made again: {agreement}; results/{kind} is of older code: make it"
            " again (`make results` after deleting it)"
        )
    entry = {
        "code": fingerprint(kind),
        "cell": cell,
        "agreement": str(agreement),
        "commit": again["commit"],
        "finished": again["finished"],
    }
    write_json(code_file(), dict(sorted((confirmed() | {kind: entry}).items())))
    seal_again(code_file())


def stale() -> dict[str, str]:
    """kind, or a result's file, → what is wrong: for every kind of result whose code has changed
    since a cell of it was last made again, and for every evaluation of weights that are no longer
    the shipped ones. Empty where all is well."""
    seen, found = confirmed(), dict(_of_other_weights())
    for kind in SOURCES:
        if not (results_directory() / kind).is_dir() or seen.get(kind, {}).get(
            "code"
        ) == fingerprint(kind):
            continue
        claims = ", ".join(claim.id for claim in CLAIMS.values() if claim.kind == kind)
        found[kind] = (
            f"results/{kind} is older than the code that makes it"
            + (f" (claims {claims})" if claims else "")
            + ": run `mae rerun --changed`, which makes one of its cells again and compares"
        )
    return found


def check(rows: Sequence[Entry]) -> None:
    """Raises InputError, one line a fault, if what the book states of these claims is no longer
    what the results say, or a result is older than its code, of other weights or not what was
    sealed."""
    if faults := [*drift(rows), *stale().values(), *changes().faults()]:
        raise InputError(
            "\n".join(
                [
                    *faults,
                    (
                        f"{len(faults)} faults: run what they say; where a result was made anew on"
                        " purpose, `mae ledger --state` states it"
                    ),
                ]
            )
        )


def _of_other_weights() -> Iterator[tuple[str, str]]:
    """Evaluations on the embedded world whose weights, data or settings are not those of the
    checkpoint that is shipped under their name."""
    for folder in sorted((results_directory().parent / "checkpoints").glob("*/")):
        for checkpoint in checkpoints(folder) if folder.name in ("world", "designs") else ():
            for kind in EVALUATIONS:
                record = recorded(
                    results_directory() / kind / "world",
                    checkpoint.config.name,
                    checkpoint.config.hash,
                )
                if (
                    record is not None
                    and identity(kind, checkpoint, Options(**record["settings"]))["key"]
                    != record["key"]
                ):
                    file = f"results/{kind}/world/{checkpoint.path.stem}.json"
                    yield (
                        file,
                        (
                            f"{file} is not of the weights in checkpoints/{folder.name}: delete it"
                            f" and run `mae evaluate {kind} --checkpoint {checkpoint.path.stem}"
                            f" --results results/{kind}/world`"
                        ),
                    )
