"""Records of finished runs: one JSON file a run, named by the run and its hash, with all that says
where its numbers come from. No record is ever replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mae_lib.base.errors import InputError
from mae_lib.base.files import TakenName, write_json


def _path(folder: Path, name: str, identity: str) -> Path:
    return folder / f"{name}-{identity}.json"


def write_result(folder: Path, record: dict) -> Path:
    """Writes one run's numbers as ``folder/NAME-HASH.json``; ``record`` must hold ``name`` and
    ``hash``. No file is ever replaced: what another process has recorded of the same in the
    meantime stays, and anything else under that name is an InputError, as in :func:`own_record`."""
    path = _path(folder, record["name"], record["hash"])
    try:
        write_json(path, record, replace=False)
    except TakenName:
        own_record(folder, record)
    return path


def recorded(folder: Path, name: str, identity: str) -> dict | None:
    """What lies in ``folder`` under a run's name and hash, or None. InputError if it is no JSON."""
    path = _path(folder, name, identity)
    return read_record(path) if path.exists() else None


SUBJECT = ("kind", "name", "hash", "key", "digest", "validation")
"""What a record is of: an evaluation's kind and key, a pretraining's weights and held-out
images."""


def own_record(folder: Path, wanted: Mapping) -> dict | None:
    """The record in ``folder`` of just what ``wanted`` names by the fields of `SUBJECT`, or None
    where its name is free. To be asked before the work, so that no work is lost. InputError where
    the file of that name is anything else: it says what, for it will not be replaced."""
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


def read_record(path: Path) -> dict:
    """What a record's file holds; InputError if it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{'/'.join(path.parts[-4:])} is damaged ({error}): restore it from Git, or delete it"
            " and measure again"
        ) from error
