"""Numbers of finished runs: one JSON file a run under ``results/KIND/DATA/``, from which tables, prose and figures are made.

A result carries its origin: config and hash, tier, data, seed, commit, hardware, versions, time. Nothing in the book is typed by hand
that could be read from here.
"""

from __future__ import annotations

import json
from pathlib import Path

from mae_lib.errors import InputError
from mae_lib.files import write_json


def results_directory() -> Path:
    """The project's ``results/`` (in a clone)."""
    return Path(__file__).resolve().parent.parent / "results"


def write_result(folder: Path, record: dict) -> Path:
    """Writes one run's numbers as ``folder/NAME-HASH.json``; ``record`` must hold ``name`` and ``hash``."""
    path = folder / f"{record['name']}-{record['hash']}.json"
    write_json(path, record)
    return path


def read_results(kind: str, data: str = "") -> list[dict]:
    """All results of ``results/KIND/DATA`` (or of ``results/KIND`` itself), sorted by file name. InputError if there are none, or one is no JSON."""
    folder = results_directory() / kind / data
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise InputError(f"results/{kind}/{data}/{path.name} is damaged ({error}): restore it from Git") from error
    if not records:
        raise InputError(f"no results in results/{kind}/{data}: make them with the command the chapter gives")
    return records
