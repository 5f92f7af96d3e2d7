"""Numbers of finished runs: one JSON file a run under ``results/KIND/DATA/``, from which tables, prose and figures are made.

A result carries its origin: config and hash, tier, data, seed, commit, hardware, versions, time. Nothing in the book is typed by hand
that could be read from here. No record is ever replaced: who wants one made anew moves the old one away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mae_lib.chapters import repository
from mae_lib.errors import InputError
from mae_lib.files import TakenName, write_json


def results_directory() -> Path:
    """The project's ``results/``. InputError where the package in use lies in no clone, and so has no results beside it."""
    return repository() / "results"


def _path(folder: Path, name: str, identity: str) -> Path:
    return folder / f"{name}-{identity}.json"


def write_result(folder: Path, record: dict) -> Path:
    """Writes one run's numbers as ``folder/NAME-HASH.json``; ``record`` must hold ``name`` and
    ``hash``. No file is ever replaced: what another process has recorded of the same in the meantime
    stays, and anything else under that name is an InputError, as in :func:`own_record`."""
    path = _path(folder, record["name"], record["hash"])
    try:
        write_json(path, record, replace=False)
    except TakenName:
        own_record(folder, record)
    return path


def recorded(folder: Path, name: str, identity: str) -> dict | None:
    """What lies in ``folder`` under a run's name and hash, or None. InputError if it is no JSON."""
    path = _path(folder, name, identity)
    return _read(path) if path.exists() else None


SUBJECT = ("kind", "name", "hash", "key", "digest", "validation")
"""What a record is of: an evaluation's kind and key, a pretraining's weights and held-out images."""


def own_record(folder: Path, wanted: Mapping) -> dict | None:
    """The record in ``folder`` of just what ``wanted`` names by the fields of `SUBJECT`, or None
    where its name is free. To be asked before the work, so that no work is lost. InputError where the
    file of that name is anything else: it says what, for it will not be replaced."""
    there = recorded(folder, wanted["name"], wanted["hash"])
    sought = json.loads(json.dumps({name: wanted.get(name) for name in SUBJECT}))
    if there is None:
        return None
    if isinstance(there, dict) and all(there.get(name) == value for name, value in sought.items()):
        return there
    raise InputError(refusal(_path(folder, wanted["name"], wanted["hash"]), there))


def refusal(path: Path, contents: object) -> str:
    """One line on a JSON file that lies where another was to be written: what it holds."""
    held = contents if isinstance(contents, dict) else {}
    if "measures" in held:
        kind = held.get("kind", "another kind")
        what = f"a record of {kind}, of its own weights, data and settings"
    elif "held_out" in held:
        what = "a record of pretraining"
    elif "digest" in held and "curve" in held:
        what = "the record of a model beside it"
    else:
        what = "something else"
    return f"{path} holds {what}, and no command replaces it: give another folder, or move it away"


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{'/'.join(path.parts[-4:])} is damaged ({error}): restore it from Git, or delete it and measure again") from error


def read_results(kind: str, data: str = "") -> list[dict]:
    """All results of ``results/KIND/DATA`` (or of ``results/KIND`` itself), sorted by file name. InputError if there are none, or one is no JSON."""
    folder = results_directory() / kind / data
    records = [_read(path) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise InputError(f"no results in results/{kind}/{data}: make them with the command the chapter gives")
    return records


@dataclass(frozen=True)
class Origin:
    """Where the results of one folder come from: how many, of which seeds, on which processors or GPUs, at which commits, and the hours that they took."""

    folder: str
    files: int
    seeds: tuple[int, ...]
    hardware: tuple[str, ...]
    commits: tuple[str, ...]
    hours: float


def origins() -> list[Origin]:
    """One row a folder of finished runs under `results/`, by name; files that are no runs' (without a seed) are passed over."""
    found: dict[str, list[dict]] = {}
    for path in sorted(results_directory().glob("*/**/*.json")):
        record = _read(path)
        if "hardware" in record and ("seed" in record or "seed" in record.get("config", {})):
            found.setdefault(path.parent.relative_to(results_directory()).as_posix(), []).append(record)
    rows = []
    for folder, records in found.items():
        seeds = {record["seed"] if "seed" in record else record["config"]["seed"] for record in records}
        machines = {record["hardware"]["gpu"] or record["hardware"]["cpu"] for record in records}
        seconds = sum(record["seconds"] + 60 * record.get("minutes", 0) for record in records)
        rows.append(Origin(folder, len(records), tuple(sorted(seeds)), tuple(sorted(machines)), tuple(sorted({record["commit"] for record in records})), seconds / 3600))
    return rows
