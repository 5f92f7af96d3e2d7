"""``mae rerun``: cells of the sweep made again, and compared with what is recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mae_book.commands.options import Rerun
from mae_book.sweep.cells import world_cells
from mae_book.verdicts.agreement import allowed, compare, same_arithmetic
from mae_book.verdicts.fingerprints import SOURCES, fingerprint
from mae_book.verdicts.results import results_directory
from mae_book.verdicts.staleness import confirm, confirmed
from mae_lib.base.errors import InputError
from mae_lib.training.store import cache_directory


def run(options: Rerun) -> int:
    """``mae rerun``: the exit status."""
    known = world_cells()
    if options.show:
        for name, cell in known.items():
            print("recorded" if cell.path(results_directory()).is_file() else "missing ", name)
        return 0
    wanted = list(options.cells)
    if options.changed:
        kinds = [
            kind for kind in SOURCES if confirmed().get(kind, {}).get("code") != fingerprint(kind)
        ]
        wanted += [found for kind in kinds if (found := _quickest(kind, known)) is not None]
    elif not wanted:
        raise InputError(
            "nothing to make again: name a cell (`mae rerun --show` lists them), or give --changed"
        )
    if unknown := [name for name in wanted if name not in known]:
        raise InputError(f"there is no cell {unknown[0]!r}: `mae rerun --show` lists all")
    differ = 0
    for name in wanted:
        agreement, again = made_again(known[name])
        print(f"{name}: {agreement}", flush=True)
        if not agreement.exact and (elsewhere := _elsewhere(known[name], again)):
            print(
                f"  {elsewhere}: sums come in another order there, so digits need not agree",
                flush=True,
            )
        if not agreement.outside:
            confirm(known[name].kind, name, agreement, again)
        differ += bool(agreement.outside)
    return 1 if differ else 0


def _quickest(kind: str, known: dict) -> str | None:
    """The recorded cell of a kind that took the least time and whose model is shipped."""

    def seconds(name: str) -> float:
        return json.loads(known[name].path(results_directory()).read_text(encoding="utf-8"))[
            "seconds"
        ]

    recorded = [
        name
        for name, cell in known.items()
        if cell.kind == kind
        and cell.data in ("world", "")
        and cell.path(results_directory()).is_file()
    ]
    return min(recorded, key=seconds, default=None)


def _elsewhere(cell, again: dict) -> str:
    """On what a cell was recorded and made again, where that is not the same arithmetic."""
    record = json.loads(cell.path(results_directory()).read_text(encoding="utf-8"))
    if same_arithmetic(record, again):
        return ""
    then, now = (
        ", ".join(
            str(one["hardware"][name])
            for name in ("gpu", "cpu", "instructions", "threads")
            if one["hardware"].get(name)
        )
        for one in (record, again)
    )
    return f"recorded on {then}, made again on {now} (processor, instruction set, threads)"


def made_again(cell) -> tuple:
    """(how far the cell's recorded numbers and those made now agree, the new record). In a folder
    of its own, which is removed; a training starts from nothing, an evaluation computes its
    features anew. InputError where nothing is recorded, or a command fails.
    """
    recorded = cell.path(results_directory())
    if not recorded.is_file():
        raise InputError(
            f"{cell.id} is not recorded: there is nothing to compare with; `make results` makes"
            " what is missing"
        )
    with tempfile.TemporaryDirectory(prefix="mae-rerun-") as folder:
        fresh = Path(folder)
        environment = os.environ | {"MAE_CACHE": str(fresh / "cache"), "OMP_NUM_THREADS": "1"}
        trains = cell.kind in ("pretraining", "detection")
        # weights may come from the cache; features and scenes may not
        if not trains and (cache_directory() / "checkpoints").is_dir():
            (fresh / "cache").mkdir()
            (fresh / "cache" / "checkpoints").symlink_to(
                (cache_directory() / "checkpoints").resolve()
            )
        *before, last = cell.commands(fresh / "results")
        for words in (*before, [*last, *(["--out", str(fresh / "models")] if trains else [])]):
            _call(words, environment)
        made = cell.path(fresh / "results")
        if not made.is_file():
            raise InputError(
                f"{cell.id} was made under another name than {made.name}: its config has changed;"
                f" delete {recorded.name} and make it anew"
            )
        again = json.loads(made.read_text(encoding="utf-8"))
        record = json.loads(recorded.read_text(encoding="utf-8"))
        beside = [
            json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(recorded.parent.glob("*.json"))
        ]
        return compare(record, again, allowed(cell.kind, record, again, beside)), again


def _call(words: Iterable[str], environment: dict[str, str]) -> None:
    """Runs one command with this interpreter; InputError with its last line if it fails."""
    program, *rest = words
    start = [sys.executable, "-m", "mae_lib"] if program == "mae" else [sys.executable]
    done = subprocess.run([*start, *rest], env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()] or [
            "no message"
        ]
        raise InputError(
            f"`{' '.join([program, *rest])}` ended with status {done.returncode}: {lines[-1]}"
        )
