"""One notebook over a grid of parameters: papermill in a process a run, each run's real status, a
report that survives a stop.

A run's status is papermill's exit code: the metadata inside a notebook says "completed" after a
dead kernel too.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from tqdm import tqdm

from mae_lib.base.errors import InputError
from mae_lib.base.files import write_json
from mae_lib.base.parameters import check_notebook_parameters
from mae_lib.commands.common import require_writable
from mae_lib.commands.options import Sweep
from mae_lib.data.image_files import existing
from mae_lib.training.pretrain import resolve_device


def run(options: Sweep) -> int:
    """``mae sweep``: the exit status."""
    require_writable(options.out)
    return run_sweep(options.notebook, options.over, options.set, options.out, options.jobs)


@dataclass(frozen=True)
class RunReport:
    """What became of one run: its parameters, the executed notebook, papermill's exit code,
    minutes, and the last line of its error."""

    parameters: dict
    notebook: str
    exit_code: int
    minutes: float
    error: str


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
    """Runs every combination and writes ``report.json`` in ``out`` after each. Returns 0 if all
    succeeded, else 1.

    Raises:
        InputError: before anything starts, for an unknown parameter name or type, a missing
            notebook, ``data_root`` or ``device``, a bad ``jobs``, or an ``out`` that holds the
            report or a notebook of another sweep, which is not replaced.
    """
    if not notebook.is_file():
        raise InputError(f"no notebook at {notebook}")
    if jobs < 1:
        raise InputError(f"--jobs {jobs} must be at least 1")
    runs = grid(parse_assignments(over, lists=True), parse_assignments(fixed, lists=False))
    for parameters in runs:
        check_notebook_parameters(notebook, parameters)
        if folder := parameters.get("data_root"):  # two names that mean the same in every chapter
            existing(folder)
        if device := parameters.get("device"):
            resolve_device(device)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {out}: {error.strerror}; choose another with --out"
        ) from error
    if taken := next(
        (
            path
            for number, parameters in enumerate(runs)
            if (path := _target(notebook, parameters, out, number)).exists()
        ),
        None,
    ):
        raise InputError(
            f"{taken} is there already, and is not replaced: choose another folder with --out"
        )
    write_json(out / "report.json", [], replace=False)  # which is this sweep's from here on
    together = f", {jobs} at a time" if jobs > 1 else ""
    print(
        f"{len(runs)} runs of {notebook.name}{together}; the bar shows the time left once the first"
        " has ended",
        flush=True,
    )
    reports: dict[int, RunReport] = {}
    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(runs), unit="run", desc=notebook.stem) as bar,
    ):
        futures = {
            pool.submit(_run, notebook, parameters, out, number): number
            for number, parameters in enumerate(runs)
        }
        try:
            for future in as_completed(futures):
                reports[futures[future]] = future.result()
                write_json(out / "report.json", [asdict(reports[k]) for k in sorted(reports)])
                bar.update()
        except BaseException:  # Ctrl-C, or a full disk: start nothing more
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    failed = [reports[k] for k in sorted(reports) if reports[k].exit_code]
    for report in failed:
        print(f"FAILED ({report.exit_code}) {report.notebook}: {report.error}", file=sys.stderr)
    print(f"{len(runs) - len(failed)} of {len(runs)} runs succeeded; report: {out / 'report.json'}")
    return 1 if failed else 0


def _target(notebook: Path, parameters: dict, out: Path, number: int) -> Path:
    """The executed notebook of one run."""
    words = re.sub(
        r"[^A-Za-z0-9.]+", "-", "_".join(f"{k}-{v}" for k, v in parameters.items())
    ).strip("-")
    return out / f"{notebook.stem}_{number:03d}_{words[:80]}.ipynb"


def _run(notebook: Path, parameters: dict, out: Path, number: int) -> RunReport:
    target = _target(notebook, parameters, out, number)
    # YAML, not -p: papermill turns "-p quick false" into the string "false".
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(notebook),
        str(target),
        "-y",
        yaml.safe_dump(parameters),
        "--no-progress-bar",
    ]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    error = lines[-1] if done.returncode and lines else ""
    return RunReport(
        parameters, target.name, done.returncode, round((time.monotonic() - began) / 60, 2), error
    )
