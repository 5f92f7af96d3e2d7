"""Every benchmark with its defaults, one after another: `python benchmarks/run.py`. Their tables on
the screen, every time measured and the hardware in `results/benchmarks/NAME/HARDWARE.json`, and at
the end what has been measured where.

`--quick` only shows that they run here: one round of the smallest cases, numbers that mean nothing,
and no file unless `--results` names a folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import common
import torch

from mae_book.verdicts.results import results_directory

HERE = Path(__file__).resolve().parent

BENCHMARKS = ("training_step", "masking_cost", "data", "shared", "scaling", "book_time")
"""Scripts in this folder, in the order in which they run."""

CPU_ONLY = ("book_time",)
"""Take no --device."""

QUICK = {
    "training_step": ["--case", "laptop-p8-r75", "--batch", "4"],
    "masking_cost": ["--tier", "smoke", "--batch", "4"],
    "data": ["--tier", "smoke", "--images", "64", "--batch", "4"],
    "shared": ["--most", "1000", "--batch", "10000"],
    "scaling": ["--factor", "visible patches", "--factor", "masks", "--batch", "2"],
}
"""benchmark → options of a trial. A build of the book has no small case."""


def file_of(name: str, hardware: str) -> str:
    """A result's file name. The data path's record of the CPU is named for its data, the embedded
    world."""
    return "world.json" if (name, hardware) == ("data", "cpu") else f"{hardware}.json"


def measured(folder: Path) -> list[list[str]]:
    """Rows of a table: what the files in ``folder`` hold, and for each benchmark that a GPU could
    run and has not, that it was not measured there."""
    rows = []
    for name in BENCHMARKS:
        devices = set()
        for path in sorted((folder / name).glob("*.json")):
            origin = json.loads(path.read_text(encoding="utf-8"))["provenance"]
            hardware = origin["hardware"]
            devices.add(hardware["device"])
            where = hardware["gpu"] or f"{hardware['cpu']}, {hardware['threads']} thread(s)"
            rows.append(
                [name, where, origin["finished"][:10], str(origin["commit"]), f"{name}/{path.name}"]
            )
        kinds = {"cpu": "a CPU"} if name in CPU_ONLY else {"cpu": "a CPU", "cuda": "a GPU"}
        rows += [
            [name, words, "not measured", "", ""]
            for kind, words in kinds.items()
            if kind not in devices
        ]
    return rows


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--only", action="append", choices=BENCHMARKS, help="only this benchmark (may be repeated)"
    )
    options.add_argument(
        "--device", default="cpu", help="cpu (float32) or cuda (bfloat16 by autocast)"
    )
    options.add_argument("--rounds", type=common._positive, help="rounds of each; default: its own")
    options.add_argument(
        "--results", type=Path, metavar="DIR", help="where the files go (results/benchmarks)"
    )
    options.add_argument(
        "--quick", action="store_true", help="a trial: one round of the smallest cases"
    )
    chosen = options.parse_args()
    device = common.prepare(torch.get_num_threads(), chosen.device)
    folder = chosen.results or (None if chosen.quick else results_directory() / "benchmarks")
    left_out = {
        *(CPU_ONLY if device.type != "cpu" else ()),
        *(set(BENCHMARKS) - set(QUICK) if chosen.quick else ()),
    }
    names = [
        name for name in BENCHMARKS if name in (chosen.only or BENCHMARKS) and name not in left_out
    ]
    rows, failed = [], False
    for name in names:
        print(f"== {name} ==\n", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *(QUICK[name] if chosen.quick else [])]
        command += [] if name in CPU_ONLY else ["--device", chosen.device]
        if rounds := chosen.rounds or (1 if chosen.quick else None):
            command += ["--rounds", str(rounds)]
        if folder is not None:
            command += ["--json", str(folder / name / file_of(name, common.label(device)))]
        began = time.perf_counter()
        status = subprocess.run(command).returncode
        failed |= bool(status)
        rows.append(
            [
                name,
                f"{(time.perf_counter() - began) / 60:.1f}",
                f"FAILED with status {status}" if status else "done",
            ]
        )
        print(flush=True)
    print(common.table(["benchmark", "minutes", "ended"], rows))
    if folder is not None:
        print(
            "\n"
            + common.table(["benchmark", "measured on", "when", "commit", "file"], measured(folder))
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
