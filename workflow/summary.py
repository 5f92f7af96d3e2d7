"""What is to come of the workflow, said at its head, and what became of each job, said at its end:
one line of counts, ``runs/report.tsv`` and the page ``runs/report.html``."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from plan import RUNS, Job

from mae_lib.base.pages import Link, filter_field, page, table

STATES = ("done", "found", "failed", "stopped", "not run")


def expected(planned: Sequence[Job], cores: int = 2) -> str:
    """One line: how many files there are to be, how many are there, and about how long the others
    take."""
    there = sum(Path(target).is_file() for job in planned for target in job.targets)
    missing = [job for job in planned if not all(Path(target).is_file() for target in job.targets)]
    said = (
        f"{_size(planned)}: {there} found, {sum(len(j.targets) for j in planned) - there} to make"
    )
    if not missing:
        return said
    hours = sum(job.seconds for job in missing) / 3600 / cores
    took = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    return f"{said} by {len(missing)} jobs: about {took} on {cores} cores, by what such took before"


def _size(planned: Sequence[Job]) -> str:
    chapters = sum(job.group == "chapters" for job in planned)
    cells = sum(len(job.targets) for job in planned) - chapters
    return f"{cells} cells and {chapters} chapters"


def state(job: Job, known: Mapping[str, str]) -> tuple[str, dict]:
    """(done, found, failed (N), stopped, or not run, and for what; the note that `job.py` left).
    ``known``: file → state of the jobs before it."""
    note = json.loads(job.status.read_text(encoding="utf-8")) if job.status.is_file() else {}
    note = note if note.get("file") == job.output or job.stamp else {}  # of another config
    if Path(job.target).is_file():
        return ("done" if note.get("exit") == 0 else "found"), note
    if note:
        return ("stopped" if note["exit"] is None else f"failed ({note['exit']})"), note
    lacking = next(
        (need for need in job.needs if not known.get(need, "done").startswith(("done", "found"))),
        None,
    )
    return ("not run" if lacking is None else f"not run: needs {lacking}"), {}


def report(planned: Sequence[Job]) -> str:
    """Writes runs/report.html and runs/report.tsv from what is there; returns one line: how many
    cells and chapters are done, found, failed, and not run."""
    known: dict[str, str] = {}
    rows = []
    for job in planned:
        known[job.output], note = state(job, known)
        took = note.get("minutes", ""), note.get("memory_mb", ""), note.get("host", "")
        rows.append((job.id, job.group, known[job.output], *took, job.output, note.get("log", "")))
        for identity, file in job.also:
            ended = known[job.output].startswith(("done", "found"))
            known[file] = known[job.output] if Path(file).is_file() or not ended else "not run"
            host, log = note.get("host", ""), note.get("log", "")
            rows.append((identity, job.group, known[file], "", "", host, file, log))
    RUNS.mkdir(exist_ok=True)
    columns = ("cell", "kind", "status", "minutes", "memory, MB", "host", "file", "log")
    with (RUNS / "report.tsv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([columns, *rows])
    counts = Counter(next(word for word in STATES if row[2].startswith(word)) for row in rows)
    said = ", ".join(f"{counts[word]} {word}" for word in STATES if counts[word])
    text = f"{_size(planned)}: {said}"
    (RUNS / "report.html").write_text(_page(columns, rows, text), encoding="utf-8")
    return f"{text}. Each with its status: {RUNS / 'report.html'}"


def _page(columns: Sequence[str], rows: Sequence[tuple], said: str) -> str:
    def cell(column: str, value: object) -> object:
        if column in ("file", "log") and value and Path(str(value)).is_file():
            return Link(str(value), os.path.relpath(str(value), RUNS))
        return value

    looks = {"f": "bad", "s": "bad", "n": "idle"}  # failed, stopped, not run
    sums = []
    for kind in dict.fromkeys(row[1] for row in rows):
        own = [row for row in rows if row[1] == kind]
        counts = [sum(row[2].startswith(word) for row in own) for word in STATES]
        sums.append([kind, *counts, round(sum(row[3] or 0 for row in own), 1)])
    total = ["all", *(sum(row[k] for row in sums) for k in range(1, len(STATES) + 2))]
    return page(
        "The sweep",
        f"<p>{said}.</p><p>done: made by this workflow; found: was there; failed (N): exit status"
        " N, see its log; stopped: was killed. A click on a head sorts.</p><h2>By kind</h2>"
        + table("kinds", ["kind", *STATES, "minutes"], [*sums, total])
        + "<h2>Every cell and chapter</h2>"
        + filter_field("cells")
        + table(
            "cells",
            columns,
            [[cell(column, value) for column, value in zip(columns, row)] for row in rows],
            [looks.get(row[2][0], "") for row in rows],
        ),
    )
