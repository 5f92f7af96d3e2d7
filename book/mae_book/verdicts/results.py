"""Numbers of finished runs: one JSON file a run under ``results/KIND/DATA/``, from which tables,
prose and figures are made.

A result carries its origin: config and hash, tier, data, seed, commit, hardware, versions, time.
Nothing in the book is typed by hand that could be read from here. No record is ever replaced: who
wants one made anew moves the old one away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mae_lib.base.errors import InputError
from mae_lib.base.files import cache_directory
from mae_lib.base.records import read_record


def repository() -> Path:
    """Where results and chapters lie: the project's root, wherever the notebook was started
    (papermill runs it in the launch directory, the book in its own); for a package that lies in no
    checkout, the place where `mae unpack` has put them.

    Raises:
        InputError: there are none in either place.
    """
    package = Path(__file__).resolve().parents[1]
    root = package.parents[1]
    if (root / "_toc.yml").is_file():
        return root
    if (unpacked() / "results").is_dir():
        return unpacked()
    raise InputError(
        f"mae_book is installed in {package.parent}, which is no checkout of the project, and the"
        " book's results and checkpoints are not unpacked: download mae-book.zip from the chapter's"
        " page and run `mae unpack mae-book.zip`, or `pip install -e .` in a checkout"
    )


def unpacked() -> Path:
    """Where `mae unpack` puts the book's data."""
    return cache_directory() / "book"


def results_directory() -> Path:
    """``results/``. InputError as of :func:`repository`."""
    return repository() / "results"


def read_results(kind: str, data: str = "") -> list[dict]:
    """All results of ``results/KIND/DATA`` (or of ``results/KIND`` itself), sorted by file name.
    InputError if there are none, or one is no JSON."""
    folder = results_directory() / kind / data
    records = [read_record(path) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise InputError(
            f"no results in results/{kind}/{data}: make them with the command the chapter gives"
        )
    return records


@dataclass(frozen=True)
class Origin:
    """Where the results of one folder come from: how many, of which seeds, on which processors or
    GPUs, at which commits, and the hours that they took."""

    folder: str
    files: int
    seeds: tuple[int, ...]
    hardware: tuple[str, ...]
    commits: tuple[str, ...]
    hours: float


def origins() -> list[Origin]:
    """One row a folder of finished runs under `results/`, by name; files that are no runs' (without
    a seed) are passed over."""
    found: dict[str, list[dict]] = {}
    for path in sorted(results_directory().glob("*/**/*.json")):
        record = read_record(path)
        if "hardware" in record and ("seed" in record or "seed" in record.get("config", {})):
            found.setdefault(path.parent.relative_to(results_directory()).as_posix(), []).append(
                record
            )
    rows = []
    for folder, records in found.items():
        seeds = {
            record["seed"] if "seed" in record else record["config"]["seed"] for record in records
        }
        machines = {record["hardware"]["gpu"] or record["hardware"]["cpu"] for record in records}
        seconds = sum(record["seconds"] + 60 * record.get("minutes", 0) for record in records)
        rows.append(
            Origin(
                folder,
                len(records),
                tuple(sorted(seeds)),
                tuple(sorted(machines)),
                tuple(sorted({record["commit"] for record in records})),
                seconds / 3600,
            )
        )
    return rows
