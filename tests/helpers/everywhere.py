"""Runs tests, and with ``--book`` the book, under every arithmetic that this machine can stand in
for: PyTorch's instruction sets, one thread and two, and matrix products summed as on the plainest
processor. What hangs on the order of a sum fails under one of them, here or on another's machine.

    make test-everywhere                                   # every test; BOOK=1: and the book
    python tests/helpers/everywhere.py tests/test_worlds.py -x     # arguments are pytest's

Ends with a table of how each ended; exits with 1 if any failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHOSEN = "ATEN_CPU_CAPABILITY"


def settings() -> dict[str, dict[str, str]]:
    """name → environment variables. What would be the same twice on this processor is there
    once."""
    bare = {name: value for name, value in os.environ.items() if name != CHOSEN}
    ask = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    natural = subprocess.run(
        [sys.executable, "-c", ask], env=bare, capture_output=True, text=True, check=True
    ).stdout.strip()
    sets = {f"unset ({natural})": {}}
    if natural == "AVX512":
        sets["avx2"] = {CHOSEN: "avx2"}
    if natural != "DEFAULT":
        sets["default"] = {CHOSEN: "default"}
    # waiting threads leave the cores alone
    threads = {
        "1 thread": {"OMP_NUM_THREADS": "1"},
        "2 threads": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    }
    found = {
        f"{name}, {count}": chosen | own
        for count, own in threads.items()
        for name, chosen in sets.items()
    }
    # The instruction set above is of PyTorch's own loops; matrix products are MKL's, which chooses
    # by itself.
    return found | {
        "default and MKL's plainest sums, 1 thread": {
            CHOSEN: "default",
            "MKL_CBWR": "COMPATIBLE",
            "OMP_NUM_THREADS": "1",
        }
    }


def ended(command: list[str], chosen: dict[str, str]) -> tuple[bool, str]:
    """(whether it succeeded, its last line), its output passed on as it comes."""
    environment = {name: value for name, value in os.environ.items() if name != CHOSEN} | chosen
    last = "no output"
    with subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip(" =\n") or last
    return process.returncode == 0, last


def main(words: list[str]) -> int:
    book, words = "--book" in words, [word for word in words if word != "--book"]
    rows = []
    for number, (name, chosen) in enumerate(settings().items()):
        jobs = {"tests": [sys.executable, "-m", "pytest", *words]}
        # in a new folder: of a chapter that has run before, whatever the setting, the outputs would
        # come from the cache
        if book:
            folder = ROOT / "_build" / "everywhere" / str(number)
            shutil.rmtree(folder, ignore_errors=True)
            builder = str(Path(sys.executable).with_name("jupyter-book"))
            jobs["book"] = [
                builder,
                "build",
                ".",
                "-n",
                "-W",
                "--keep-going",
                "--path-output",
                str(folder),
            ]
        for what, command in jobs.items():
            print(
                f"\n{what} under {name}:"
                f" {' '.join(f'{key}={value}' for key, value in chosen.items())}",
                flush=True,
            )
            start = time.monotonic()
            succeeded, last = ended(command, chosen)
            rows.append(
                (
                    name,
                    what,
                    "passed" if succeeded else "FAILED",
                    f"{(time.monotonic() - start) / 60:.1f} min",
                    last,
                )
            )
    widths = [max(map(len, column)) for column in zip(*rows)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    return int(any(row[2] == "FAILED" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
