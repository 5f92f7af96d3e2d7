"""One notebook over a grid of parameters: papermill in a process a run, each run's real status, and
a report that grows with every run.

A run is known by its parameters: a sweep that was stopped goes on, and what succeeded is not run
again. A run's status is papermill's exit code: the metadata inside a notebook says "completed"
after a dead kernel too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import yaml
from filelock import FileLock, Timeout
from tqdm import tqdm

from mae_lib.base.errors import InputError
from mae_lib.base.parameters import check_notebook_parameters
from mae_lib.commands.common import require_writable
from mae_lib.commands.options import Sweep
from mae_lib.commands.sweep_report import (
    RunReport,
    read_report,
    report_files,
    scalars,
    write_report,
)
from mae_lib.data.image_files import existing
from mae_lib.training.pretrain import resolve_device


def run(options: Sweep) -> int:
    """``mae sweep``: the exit status."""
    require_writable(options.out)
    return run_sweep(options.notebook, options.over, options.set, options.out, options.jobs)


def parse_assignments(words: Sequence[str], lists: bool) -> dict:
    """``["seed=[0, 1]"]`` → ``{"seed": [0, 1]}``, values in YAML. ``lists``: each must be a
    non-empty list. InputError otherwise."""
    values: dict = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(
                f"{word!r} is not NAME=VALUE: write for instance"
                f" {'seed=[0,1,2]' if lists else 'tier=smoke'}"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"the value of {name} is not YAML: {text!r}") from None
        if lists and (not isinstance(value, list) or not value):
            raise InputError(
                f"--over {name} needs a list of values, for instance '{name}=[0, 1, 2]'; it got"
                f" {text!r}"
            )
        if name in values:
            raise InputError(f"{name} is given twice")
        values[name] = value
    return values


def grid(over: dict[str, list], fixed: dict) -> list[dict]:
    """Every combination of the values in ``over``, each with ``fixed`` added. InputError if a name
    is in both."""
    twice = sorted(over.keys() & fixed.keys())
    if twice:
        raise InputError(f"{twice[0]} is in --over and in --set: leave it in one")
    return [dict(fixed, **dict(zip(over, values))) for values in itertools.product(*over.values())]


def run_sweep(
    notebook: Path, over: Sequence[str], fixed: Sequence[str], out: Path, jobs: int = 1
) -> int:
    """Runs every combination that has not succeeded yet, and writes the report in ``out`` after
    each: ``report.json``, ``report.csv``, ``report.html``. Returns 0 if all succeeded, else 1.

    A folder may be given again, with the same values or with more: its runs are kept.

    Raises:
        InputError: before anything starts, for an unknown parameter name, type or value, a missing
            notebook, ``data_root`` or ``device``, a bad ``jobs``, an ``out`` with another
            notebook's sweep, or one that is at work.
    """
    if not notebook.is_file():
        raise InputError(f"no notebook at {notebook}")
    if jobs < 1:
        raise InputError(f"--jobs {jobs} must be at least 1")
    varied = parse_assignments(over, lists=True)
    runs = {
        key(parameters): parameters
        for parameters in grid(varied, parse_assignments(fixed, lists=False))
    }
    for parameters in runs.values():
        check_notebook_parameters(notebook, parameters)
        if folder := parameters.get("data_root"):  # two names that mean the same in every chapter
            existing(folder)
        if device := parameters.get("device"):
            resolve_device(device)
    code = _code(notebook)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".sweep.lock", timeout=0):
            return _sweep(notebook, code, runs, list(varied), out, jobs)
    except Timeout:
        raise InputError(
            f"another mae sweep is at work in {out}: wait for it, or choose another with --out"
        ) from None
    except OSError as error:
        raise InputError(
            f"cannot work in the folder {out}: {error.strerror}; choose another with --out"
        ) from error


def _sweep(
    notebook: Path, code: str, runs: dict[str, dict], over: list[str], out: Path, jobs: int
) -> int:
    """As of :func:`run_sweep`; ``runs``: key → parameters, all of them checked."""
    targets = {k: _target(notebook, parameters, out) for k, parameters in runs.items()}
    reports: dict[str, RunReport] = {}
    if (out / "report.json").exists():
        reports = {key(run.parameters): run for run in read_report(out, notebook.name, code)}
        for k, target in targets.items():
            if target.is_file() and (k not in reports or reports[k].exit_code):
                reports[k] = _finished(runs[k], target)  # killed before it could be noted
    elif taken := next(filter(Path.exists, [*targets.values(), *report_files(out)]), None):
        raise InputError(
            f"{taken} is there already, and is not replaced: choose another folder with --out"
        )

    def write() -> None:
        listed = [reports[k] for k in dict.fromkeys([*runs, *reports]) if k in reports]
        write_report(out, notebook.name, code, listed, over)

    done = [k for k in runs if k in reports and not reports[k].exit_code and targets[k].is_file()]
    pending = {k: parameters for k, parameters in runs.items() if k not in done}
    write()
    print(_forecast(notebook, len(pending), [reports[k].minutes for k in done], jobs), flush=True)
    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(runs), initial=len(done), unit="run", desc=notebook.stem) as bar,
    ):
        futures = {
            pool.submit(_run, notebook, parameters, targets[k]): k
            for k, parameters in pending.items()
        }
        try:
            for future in as_completed(futures):
                reports[futures[future]] = future.result()
                write()
                bar.update()
        except BaseException:  # Ctrl-C, or a full disk: start nothing more
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    failed = [reports[k] for k in runs if reports[k].exit_code]
    for report in failed:
        print(f"FAILED ({report.exit_code}) {report.notebook}: {report.error}", file=sys.stderr)
    print(f"{len(runs) - len(failed)} of {len(runs)} runs succeeded; report: {out / 'report.html'}")
    return 1 if failed else 0


def key(parameters: dict) -> str:
    """What a run is known by: eight digits of its parameters."""
    text = json.dumps(parameters, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _code(notebook: Path) -> str:
    """The hash of a notebook's code, whatever its outputs and its prose are."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def _forecast(notebook: Path, pending: int, took: list[float], jobs: int) -> str:
    """One line: how many runs are to come, and about how long they take by those that ended."""
    together = f", {jobs} at a time" if jobs > 1 else ""
    if not took:
        left = "the bar shows the time left once the first has ended"
    else:
        minutes = pending * sum(took) / len(took) / jobs
        left = f"{len(took)} are there already; about {minutes:.0f} min to go"
    return f"{pending} runs of {notebook.name}{together}; {left}"


def _target(notebook: Path, parameters: dict, out: Path) -> Path:
    """The executed notebook of one run."""
    words = re.sub(
        r"[^A-Za-z0-9.]+", "-", "_".join(f"{k}-{v}" for k, v in parameters.items())
    ).strip("-")
    return out / f"{notebook.stem}_{words[:80]}_{key(parameters)}.ipynb"


def _run(notebook: Path, parameters: dict, target: Path) -> RunReport:
    # YAML, not -p: papermill turns "-p quick false" into the string "false".
    command = [
        sys.executable,
        "-c",
        "from mae_lib.commands.papermill_engine import papermill_for_a_parent as run; run()",
        str(notebook),
        str(target),
        "-y",
        yaml.safe_dump(parameters),
        "--no-progress-bar",
    ]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    minutes = round((time.monotonic() - began) / 60, 2)
    if not done.returncode:
        return replace(_finished(parameters, target), minutes=minutes)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    left = [target.with_suffix(f".{word}.ipynb") for word in ("failed", "unfinished")]
    found = next((path.name for path in left if path.exists()), "")
    return RunReport(parameters, found, done.returncode, minutes, lines[-1] if lines else "")


def _finished(parameters: dict, target: Path) -> RunReport:
    """The report of a run whose notebook is there, and so ended well."""
    executed = json.loads(target.read_text(encoding="utf-8"))
    minutes = round(executed["metadata"]["papermill"]["duration"] / 60, 2)
    return RunReport(parameters, target.name, 0, minutes, "", scalars(executed))
