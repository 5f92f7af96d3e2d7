"""What the workflow runs, as a list of jobs for the Snakefile to turn into rules: the cells of the
sweep and the chapters; and the report on them.

A job is a file and the commands that make it. Everything is checked here, before anything starts.
"""

from __future__ import annotations

import csv
import html
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from mae_book.sweep.cell import Cell
from mae_book.sweep.cells import SEEDS, real_cells, world_cells
from mae_book.verdicts.claims import CLAIMS
from mae_book.verdicts.results import results_directory
from mae_lib.base.errors import InputError
from mae_lib.base.parameters import check_notebook_parameters, declared_parameters

RUNS = Path("runs")
FOLDERS = ("in20", "tinyin32", "pacs", "stimuli", "dsb2018")
KNOWN = ("tier", "seeds", "results", *FOLDERS)

MEMORY = 3000
"""MB asked for a job; twice as much when it is tried again. `runs/report.tsv` says what each
took."""

PATIENCE = 4
"""A job may take so many times the longest of its kind that is recorded, and five minutes for its
start."""

UNKNOWN_MINUTES = 120
"""For kinds without records, and for other tiers than the recorded one."""

CHAPTER_MINUTES = 60
"""A chapter takes minutes at the tiers that it is for."""

STARTING = 10.0
"""Seconds that a command takes before it begins to work: Python, PyTorch, and finding what is
stored."""


@dataclass(frozen=True)
class Job:
    """One rule.

    Attributes:
        id: the cell's id, or ``chapters/08``. group: its kind, or ``chapters``. needs: files that
            must be there first. output: the file it makes.
            commands: run one after another. stamp: stands for the output where its name may not be
                known yet, else "". seconds: what it is expected to
            take, None if unknown. minutes: how long it may take. also: further cells that the same
            commands make, id → file.
    """

    id: str
    group: str
    needs: tuple[str, ...]
    output: str
    commands: tuple[str, ...]
    stamp: str
    seconds: float | None
    minutes: int
    also: tuple[tuple[str, str], ...] = ()

    @property
    def rule(self) -> str:
        """Its id as the name of a rule."""
        return re.sub(r"[^A-Za-z0-9]+", "_", self.id)

    @property
    def status(self) -> Path:
        return RUNS / "status" / f"{self.id}.json"

    @property
    def log(self) -> str:
        return str(RUNS / "logs" / f"{self.id}.log")

    @property
    def target(self) -> str:
        """The file whose being there means that it is done."""
        return self.output if Path(self.output).is_file() or not self.stamp else self.stamp

    @property
    def targets(self) -> tuple[str, ...]:
        """:attr:`target` and the further cells' files."""
        return self.target, *(file for _, file in self.also)

    @property
    def shell(self) -> str:
        """One line for a shell."""
        words = [
            sys.executable,
            str(Path(__file__).with_name("job.py")),
            "--status",
            str(self.status),
            "--log",
            self.log,
            "--made",
            self.output,
        ]
        words += ["--stamp", self.stamp] if self.stamp else []
        return shlex.join([*words, *self.commands])


def settings(config: Mapping[str, object]) -> tuple[str, tuple[int, ...], Path, dict[str, str]]:
    """(tier, seeds, folder of results, folders of photographs) of ``--config``; InputError for an
    unknown name or a wrong type.

    Results of another tier than the laptop's go to runs/TIER/results: those in results/ are what
    the book is made of.
    """
    for name, value in config.items():
        if name not in KNOWN:
            raise InputError(f"--config {name}=… is unknown: choose of {', '.join(KNOWN)}")
        if name != "seeds" and not (isinstance(value, str) and value):
            raise InputError(
                f"--config {name}={value!r} must be {'a word' if name == 'tier' else 'a folder'}"
            )
    tier, seeds = str(config.get("tier", "laptop")), config.get("seeds", list(SEEDS))
    # Snakemake makes words of a list's numbers
    if (
        not isinstance(seeds, list)
        or not seeds
        or not all(re.fullmatch("[0-9]+", str(seed)) for seed in seeds)
    ):
        raise InputError(
            f"--config seeds={seeds!r} must be a list of whole numbers, for instance"
            " 'seeds=[0,1,2]'"
        )
    results = Path(
        str(config.get("results", "results" if tier == "laptop" else RUNS / tier / "results"))
    )
    folders = {name: str(config[name]) for name in FOLDERS if name in config}
    if folders and tier != "laptop":
        raise InputError(
            f"--config {next(iter(folders))}=… belongs to the laptop tier's list, the only one with"
            f" photographs: leave out tier={tier}"
        )
    return tier, tuple(dict.fromkeys(map(int, seeds))), results, folders


def jobs(config: Mapping[str, object]) -> list[Job]:
    """All jobs, those of cells first. InputError as of :func:`settings`, `world_cells` and
    `real_cells`."""
    tier, seeds, results, folders = settings(config)
    cells = world_cells(tier, seeds) | (real_cells(**folders, seeds=seeds) if folders else {})
    if taken := next(
        (cell.path(results) for cell in cells.values() if not _usable(cell.path(results).parent)),
        None,
    ):
        raise InputError(
            f"cannot write in {taken.parent}: it is no folder; choose another by --config"
            " results=DIR"
        )
    planned = _merged(_of_cell(cell, cells, results, tier) for cell in cells.values())
    own = results.resolve() == results_directory().resolve()  # chapters read these, and no others
    return planned + [
        _of_chapter(path, tier, planned if own else [])
        for path in sorted(Path("notebooks").glob("[0-9][0-9]*.ipynb"))
    ]


def _usable(folder: Path) -> bool:
    return next(
        path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()
    ).is_dir()


def _of_cell(cell: Cell, cells: Mapping[str, Cell], results: Path, tier: str) -> Job:
    output, stamp = str(cell.path(results)), ""
    if cell.kind == "detection" and cell.needs:
        # Its name follows from the weights, which may not be there yet; on a cluster, they may be
        # there when the job itself lists the cells again.
        stamp = str(RUNS / "stamps" / f"{results}".strip("/") / cell.id)
        if cell.hash and not Path(output).is_file():
            Path(stamp).unlink(missing_ok=True)  # of other weights, or of a file that was deleted
    commands = tuple(shlex.join(words) for words in cell.commands(results))
    taken = _recorded(cell.kind) if tier == "laptop" else ()  # the records are of that tier
    needs = tuple(str(cells[name].path(results)) for name in cell.needs)
    if not taken:
        return Job(cell.id, cell.kind, needs, output, commands, stamp, None, UNKNOWN_MINUTES)
    seconds = sum(taken) / len(taken) + STARTING * len(commands)
    return Job(
        cell.id,
        cell.kind,
        needs,
        output,
        commands,
        stamp,
        seconds,
        math.ceil(PATIENCE * max(taken) / 60 + 5),
    )


def _merged(planned: Iterable[Job]) -> list[Job]:
    """Jobs of the same commands as one, under the id of the first."""
    found: dict[tuple[str, ...], Job] = {}
    for job in planned:
        first = found.get(job.commands)
        found[job.commands] = (
            job
            if first is None
            else replace(
                first,
                also=(*first.also, (job.id, job.output)),
                minutes=first.minutes + job.minutes,
                seconds=_sum(first.seconds, job.seconds),
            )
        )
    return list(found.values())


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


@cache
def _recorded(kind: str) -> tuple[float, ...]:
    """Seconds of every recorded run of a kind, training and scoring."""
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((results_directory() / kind).rglob("*.json"))
    ]
    return tuple(record["seconds"] + 60 * record.get("minutes", 0) for record in records)


def _of_chapter(path: Path, tier: str, cells: Sequence[Job]) -> Job:
    """A chapter, run by papermill; it needs the cells that it reads. What a failing one got to
    stays as NN.unfinished.ipynb."""
    number = path.name.partition("_")[0]
    output, unfinished = (
        str(RUNS / "chapters" / f"{number}{end}") for end in (".ipynb", ".unfinished.ipynb")
    )
    given, declared = {"tier": tier, "train_missing": True}, declared_parameters(path)
    parameters = {name: value for name, value in given.items() if name in declared}
    check_notebook_parameters(path, parameters)
    words = [
        "python",
        "-m",
        "papermill",
        str(path),
        unfinished,
        "--no-progress-bar",
        *(["-y", json.dumps(parameters)] if parameters else []),
    ]
    read = kinds_read(path)
    needs = tuple(target for job in cells if job.group in read for target in job.targets)
    commands = shlex.join(words), shlex.join(["mv", unfinished, output])
    return Job(f"chapters/{number}", "chapters", needs, output, commands, "", None, CHAPTER_MINUTES)


def kinds_read(notebook: Path) -> set[str]:
    """Kinds of results that a chapter reads: those it names, those of the claims that it decides,
    or all where it goes through every claim."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code, prose = (
        "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == kind)
        for kind in ("code", "markdown")
    )
    if re.search(r"\b(entries|every_claim|EXPERIMENTS)\b", code):
        return {claim.kind for claim in CLAIMS.values()} | {"pretraining", "tree_world"}
    decided = {claim.kind for claim in CLAIMS.values() if f"({claim.chapter})=" in prose}
    return decided | set(re.findall(r"""read_results\(["'](\w+)["']""", code))


# --------------------------------------------------------------------------------------------------
# The report


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
    jobs are done, failed, and not run."""
    known: dict[str, str] = {}
    rows = []
    for job in planned:
        known[job.output], note = state(job, known)
        took = note.get("minutes", ""), note.get("memory_mb", ""), note.get("host", "")
        rows.append((job.id, known[job.output], *took, job.output, note.get("log", "")))
        for identity, file in job.also:
            known[file] = (
                known[job.output]
                if Path(file).is_file() or not known[job.output].startswith(("done", "found"))
                else "not run"
            )
            rows.append(
                (identity, known[file], "", "", note.get("host", ""), file, note.get("log", ""))
            )
    RUNS.mkdir(exist_ok=True)
    columns = ("cell", "status", "minutes", "memory, MB", "host", "file", "log")
    with (RUNS / "report.tsv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([columns, *rows])
    counts = {
        word: sum(row[1].startswith(word) for row in rows)
        for word in ("done", "found", "failed", "stopped", "not run")
    }
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    (RUNS / "report.html").write_text(_page(columns, rows, said), encoding="utf-8")
    return f"{len(rows)} jobs: {said}. Each with its status: {RUNS / 'report.html'}"


def _page(columns: Sequence[str], rows: Sequence[tuple], said: str) -> str:
    def cell(column: str, value: object) -> str:
        text = html.escape(str(value))
        if column in ("file", "log") and value and Path(str(value)).is_file():
            return f'<a href="{html.escape(os.path.relpath(str(value), RUNS))}">{text}</a>'
        return text

    body = "".join(
        f'<tr class="{html.escape(row[1].split(" ")[0])}">'
        + "".join(f"<td>{cell(column, value)}</td>" for column, value in zip(columns, row))
        + "</tr>\n"
        for row in rows
    )
    head = "".join(f"<th>{column}</th>" for column in columns)
    style = (
        "body{font:15px sans-serif;margin:2em}td,th{padding:.2em"
        " .8em;text-align:left}tr.failed,tr.stopped{background:#fbe3e0}tr.not{color:#666}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>The'
        f" sweep</title><style>{style}</style></head><body><h1>The sweep</h1>"
        f"<p>{html.escape(said)}.</p><p>done: made by this workflow; found: was there; failed (N):"
        " exit status N, see its log; stopped: was killed.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></body></html>\n"
    )


def expected(planned: Sequence[Job], cores: int = 2) -> str:
    """One line: how many cells there are, how many jobs lack a file, and, where all their kinds are
    recorded, how long they take by the seconds of those records."""
    cells = [job for job in planned if job.group != "chapters"]
    missing = [
        job.seconds for job in cells if not all(Path(target).is_file() for target in job.targets)
    ]
    said = f"{sum(len(job.targets) for job in cells)} cells, {len(missing)} jobs to run"
    if not missing or None in missing:
        return said
    return (
        f"{said}: about {sum(missing) / 3600 / cores:.1f} hours on {cores} cores, by what their"
        " kinds took before"
    )
