"""Runs the commands of one job of the workflow one after another, one thread each, and keeps what
they say (--log) and how they ended (--status).

The exit status is that of the first command that fails. The status file is there from the start,
with no exit status in it: what is left so was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

PROGRAMS = {"mae": [sys.executable, "-m", "mae_lib"], "python": [sys.executable]}
"""Words that stand for this interpreter's own programs; any other is looked up by the system."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def run(commands: list[str], log: Path, status: Path, stamp: Path | None, made: Path) -> int:
    """Runs the commands; returns the exit status of the first that fails, or 0. ``stamp`` is
    touched at the end if all is well.

    ``made``: the file that the job is for, as a note for the report.
    """
    for folder in (log.parent, status.parent):
        folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    note = {
        "file": str(made),
        "log": str(log),
        "host": platform.node(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "exit": None,
    }
    _write(status, note)
    code = 0
    with log.open("w", encoding="utf-8") as out:
        for command in commands:
            note["command"] = command
            print(f"$ {command}", file=out, flush=True)
            if code := _call(command, out):
                break
    if not code and stamp is not None:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    largest_mb = largest // (2**20 if sys.platform == "darwin" else 2**10)
    _write(
        status,
        note
        | {
            "exit": code,
            "minutes": round((time.monotonic() - began) / 60, 2),
            "memory_mb": largest_mb,
        },
    )
    return code


def _call(command: str, out) -> int:
    """One command's exit status, as a shell gives it: 128 + N where signal N ended it. Signals are
    passed on, so that it can save its state."""
    program, *words = shlex.split(command)
    try:
        child = subprocess.Popen(
            [*PROGRAMS.get(program, [program]), *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | ONE_THREAD,
        )
    except OSError as error:
        print(f"{program}: {error.strerror}", file=out, flush=True)
        return 127
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: child.send_signal(got))
    code = child.wait()
    return code if code >= 0 else 128 - code


def _write(path: Path, note: dict) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--status", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument(
        "--stamp", type=Path, help="a file to touch when all commands have ended well"
    )
    parser.add_argument("--made", type=Path, required=True, help="the file that the commands make")
    parser.add_argument(
        "commands",
        nargs="+",
        help="each one word to the shell, for instance 'mae pretrain --seed 1'",
    )
    words = parser.parse_args()
    sys.exit(run(words.commands, words.log, words.status, words.stamp, words.made))


if __name__ == "__main__":
    main()
