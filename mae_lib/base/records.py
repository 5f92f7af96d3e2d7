"""Records of finished runs: one JSON file a run, named by the run and its hash, with all that says where its numbers come from."""

from __future__ import annotations

import json
from pathlib import Path

from mae_lib.base.errors import InputError
from mae_lib.base.files import write_json


def _path(folder: Path, name: str, identity: str) -> Path:
    return folder / f"{name}-{identity}.json"


def write_result(folder: Path, record: dict) -> Path:
    """Writes one run's numbers as ``folder/NAME-HASH.json``; ``record`` must hold ``name`` and ``hash``."""
    path = _path(folder, record["name"], record["hash"])
    write_json(path, record)
    return path


def recorded(folder: Path, name: str, identity: str) -> dict | None:
    """What :func:`write_result` wrote in ``folder`` for a run's name and hash, or None. InputError if it is no JSON."""
    path = _path(folder, name, identity)
    return read_record(path) if path.exists() else None


def read_record(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{'/'.join(path.parts[-4:])} is damaged ({error}): restore it from Git, or delete it and measure again") from error
