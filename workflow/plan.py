"""What the workflow runs, as a list of jobs for the Snakefile to turn into rules: the cells of the
sweep and the chapters. `summary.py` says what became of them.

A job is a file and the commands that make it. Everything is checked here, before anything starts.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from mae_book.sweep.cell import Cell
from mae_book.sweep.cells import SEEDS, real_cells, world_cells
from mae_book.verdicts.claims import CLAIMS
from mae_book.verdicts.results import results_directory
from mae_lib.base.errors import InputError
from mae_lib.base.parameters import check_notebook_parameters, declared_parameters
from mae_lib.data.sources import image_source
from mae_lib.model.autoencoder import training_flops
from mae_lib.training import tiers
from mae_lib.training.config import PretrainConfig

RUNS = Path("runs")
FOLDERS = ("in20", "tinyin32", "pacs", "stimuli", "dsb2018")
SCHEMA = Path(__file__).with_name("config.schema.yaml")

MEMORY = 3000
"""MB asked for a job; twice as much when it is tried again. `runs/report.tsv` says what each
took."""

PATIENCE = 4
"""A job may take so many times the longest of its kind that is recorded, and five minutes for its
start."""

LEAST_MINUTES = 120
"""What a job may take at other tiers than the recorded one, where the estimate is rough."""

BOOK_TIME = Path("results/benchmarks/book_time/cpu.json")
"""What each chapter took, in seconds."""

CHAPTER_MINUTES = 60
"""A chapter takes minutes at the tiers that it is for."""

STARTING = 10.0
"""Seconds that a command takes before it begins to work: Python, PyTorch, and finding what is
stored."""


@dataclass(frozen=True)
class Job:
    """What one command line makes.

    Attributes:
        id: the cell's id, or ``chapters/08``. group: its kind, or ``chapters``. needs: files that
            must be there first. output: the file it makes. commands: run one after another. stamp:
            stands for the output where its name may not be known yet, else "". seconds: what it is
            expected to take. minutes: how long it may take. place: the folder of the output that
            its key leaves out. also: further cells that the same commands make, id → file. pages:
            further files of the same name, by their suffix.
    """

    id: str
    group: str
    needs: tuple[str, ...]
    output: str
    commands: tuple[str, ...]
    stamp: str
    seconds: float
    minutes: int
    place: Path
    also: tuple[tuple[str, str], ...] = ()
    pages: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """Its id as the name of a rule."""
        return re.sub(r"[^A-Za-z0-9]+", "_", self.id)

    @property
    def status(self) -> Path:
        return RUNS / "status" / f"{self.id}.json"

    @property
    def log(self) -> str:
        return str(RUNS / "logs" / f"{self.key}.log")

    @property
    def key(self) -> str:
        """What its target has for a wildcard: ``probe/world/r75-u8-p8-s0-HASH``."""
        return self.id if self.target == self.stamp else self.output_key

    @property
    def output_key(self) -> str:
        return str(Path(self.output).relative_to(self.place).with_suffix(""))

    @property
    def patterns(self) -> tuple[str, ...]:
        """Its target, with the wildcard in place of its key, and its pages."""
        if self.target == self.stamp:
            return (self.stamp.removesuffix(self.id) + "{cell}",)
        return tuple(
            str(self.place / ("{cell}" + end)) for end in (Path(self.output).suffix, *self.pages)
        )

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


@cache
def _schema() -> dict:
    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


def settings(config: Mapping[str, object]) -> tuple[str, tuple[int, ...], Path, dict[str, str]]:
    """(tier, seeds, folder of results, folders of photographs) of ``--config``; InputError where it
    does not keep to config.schema.yaml.

    Results of another tier than the laptop's go to runs/TIER/results: those in results/ are what
    the book is made of.
    """
    known = _schema()["properties"]
    for name in config:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"did you mean {near[0]}? " if near else ""
            raise InputError(f"--config {name}=… is unknown: {guess}choose of {', '.join(known)}")
    error = best_match(Draft202012Validator(_schema()).iter_errors(dict(config)))
    if error:
        name = error.absolute_path[0]
        lists = {
            "seeds": "a list of whole numbers, for instance 'seeds=[0,1,2]'",
            "only": "a list of ids, for instance 'only=[probe/world/r75*]'",
        }
        wanted = lists.get(name, "a word" if name == "tier" else "a folder")
        raise InputError(f"--config {name}={config[name]!r} must be {wanted}")
    tier, seeds = str(config.get("tier", "laptop")), config.get("seeds", list(SEEDS))
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


def wanted(planned: Sequence[Job], config: Mapping[str, object]) -> list[Job]:
    """The jobs that ``--config only=[…]`` names by their ids, or by those of cells that come with
    them; all without it. InputError for a pattern that names none."""
    patterns = [str(pattern) for pattern in config.get("only", ["*"])]
    ids = {job.id: (job.id, *(identity for identity, _ in job.also)) for job in planned}
    for pattern in patterns:
        if not any(fnmatchcase(each, pattern) for own in ids.values() for each in own):
            near = difflib.get_close_matches(pattern, [i for own in ids.values() for i in own], n=1)
            guess = f": did you mean {near[0]}?" if near else ""
            raise InputError(f"--config only={pattern} names no cell and no chapter{guess}")
    return [
        job
        for job in planned
        if any(fnmatchcase(each, pattern) for each in ids[job.id] for pattern in patterns)
    ]


def with_needs(planned: Sequence[Job], some: Sequence[Job]) -> list[Job]:
    """``some`` of the jobs and all that they need, in the order of ``planned``."""
    makers = {target: job for job in planned for target in job.targets}
    found: set[str] = set()
    waiting = list(some)
    while waiting:
        job = waiting.pop()
        if job.id not in found:
            found.add(job.id)
            waiting += [makers[need] for need in job.needs]
    return [job for job in planned if job.id in found]


def patterns(planned: Iterable[Job]) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """(kind, patterns of what its jobs make) → the keys that the wildcard may have. Without jobs
    that make several cells, whose names have no wildcard in common."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for job in planned:
        if not job.also:
            found.setdefault((job.group, job.patterns), []).append(job.key)
    return found


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
    needs = tuple(str(cells[name].path(results)) for name in cell.needs)
    taken, factor = _recorded(cell.kind) or _recorded(""), _work(tier) / _work("laptop")
    if cell.kind == "pretraining":
        words = dict(zip(cell.last, cell.last[1:]))
        factor *= _images(int(words.get("--steps", 0)), int(words.get("--batch", 0)))
    seconds = factor * sum(taken) / len(taken) + STARTING * len(commands)
    minutes = math.ceil(PATIENCE * max(factor * max(taken), seconds) / 60 + 5)
    if tier != "laptop":
        minutes = max(minutes, LEAST_MINUTES)
    return Job(cell.id, cell.kind, needs, output, commands, stamp, seconds, minutes, results)


@cache
def _training(tier: str) -> PretrainConfig:
    """A tier's pretraining."""
    sizes = tiers.tier(tier)
    return sizes.config(image_source(None, "train", sizes.model.image_size).identity)


@cache
def _work(tier: str) -> float:
    """Floating-point operations of one pretraining of a tier."""
    config = _training(tier)
    flops = training_flops(config.model, config.mask.visible_patches)
    return flops * config.steps * config.batch


def _images(steps: int, batch: int) -> float:
    """How many images a pretraining sees, in units of the laptop tier's; 0 stands for the tier's
    own."""
    own = _training("laptop")
    return (steps or own.steps) * (batch or own.batch) / (own.steps * own.batch)


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
                seconds=first.seconds + job.seconds,
            )
        )
    return list(found.values())


@cache
def _recorded(kind: str) -> tuple[float, ...]:
    """Seconds of every recorded run of a kind, or of all, training and scoring; of pretrainings, of
    as many images as the laptop tier's."""
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((results_directory() / kind).rglob("*.json"))
    ]
    return tuple(
        (record["seconds"] + 60 * record.get("minutes", 0))
        / (_images(record["config"]["steps"], record["config"]["batch"]) if trained else 1)
        for record in records
        for trained in [kind == "pretraining"]
        if isinstance(record, dict) and isinstance(record.get("seconds"), (int, float))
    )


def _of_chapter(path: Path, tier: str, cells: Sequence[Job]) -> Job:
    """A chapter, run by papermill, and its page; it needs the cells that it reads. What a failing
    one got to stays as NN.failed.ipynb."""
    number = path.name.partition("_")[0]
    output = str(RUNS / "chapters" / f"{number}.ipynb")
    parameters = {"tier": tier} if "tier" in declared_parameters(path) else {}
    check_notebook_parameters(path, parameters)
    module = "mae_lib.commands.papermill_engine"
    words = ["python", "-m", module, str(path), output, "--no-progress-bar"]
    words += ["-y", json.dumps(parameters)] if parameters else []
    printed = ["python", "-m", "nbconvert", "--to", "html", "--log-level", "WARN", output]
    read = kinds_read(path)
    needs = tuple(target for job in cells if job.group in read for target in job.targets)
    commands = shlex.join(words), shlex.join(printed)
    times = json.loads(BOOK_TIME.read_text(encoding="utf-8"))["chapters"]
    seconds = sum(times.get(path.stem, [0])) + STARTING * len(commands)
    return Job(
        f"chapters/{number}",
        "chapters",
        needs,
        output,
        commands,
        "",
        seconds,
        CHAPTER_MINUTES,
        RUNS,
        pages=(".html",),
    )


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
