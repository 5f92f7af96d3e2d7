"""How long the book takes to build, chapter by chapter: a build as `make book` does it, with no
execution cached, into a temporary folder.

The chapters are executed one after another in fresh kernels; the seconds of each are those that
jupyter-cache stores. What is left of the build is Sphinx: reading, drawing and writing the pages.
The notebooks stay as they are.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import common
import numpy as np
import torch
from jupyter_cache import get_cache

COMMAND = "from jupyter_book.cli.main import main; main()"
"""What the console script `jupyter-book` runs: of this interpreter, whichever is first on the
path."""


def build(book: Path, into: Path) -> tuple[float, dict[str, float]]:
    """Builds ``book`` into ``into``: wall seconds of the whole, and of each chapter that was
    executed, by the notebook's name.

    Raises:
        SystemExit: the build failed; the end of what it printed is shown.
    """
    # as the Makefile does
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MPLBACKEND", "PYTHONHOME")
    }
    environment = inherited | {
        "IPYTHONDIR": str(into / "ipython"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(book), inherited.get("PYTHONPATH")])),
    }
    command = [
        sys.executable,
        "-c",
        COMMAND,
        "build",
        str(book),
        "--path-output",
        str(into),
        "-n",
        "-W",
        "--keep-going",
    ]
    began = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=book,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    taken = time.perf_counter() - began
    if done.returncode:
        sys.exit(
            f"{done.stdout[-3000:]}\nerror: the book was not built, so there is nothing to time"
        )
    [cache] = (into / "_build" / ".jupyter_cache").iterdir()
    records = get_cache(str(cache)).list_cache_records()
    return taken, {Path(record.uri).stem: record.data["execution_seconds"] for record in records}


def chapters(book: Path) -> list[str]:
    """Names of the notebooks in the book's order, by its table of contents."""
    return [
        Path(name).stem
        for name in re.findall(r"file: (\S+)", (book / "_toc.yml").read_text(encoding="utf-8"))
        if (book / f"{name}.ipynb").is_file()
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--rounds", type=common._positive, default=1, help="builds, each from nothing (1)"
    )
    options.add_argument(
        "--threads",
        type=common._positive,
        help="CPU threads of each chapter (default: as many as PyTorch takes)",
    )
    options.add_argument(
        "--book",
        type=Path,
        default=Path(__file__).resolve().parent.parent,
        metavar="DIR",
        help="the book's root (this checkout)",
    )
    options.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every time measured to FILE"
    )
    chosen = options.parse_args()
    if chosen.threads:
        os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    device = common.prepare(chosen.threads or torch.get_num_threads(), "cpu")
    print(common.machine(device), end="\n\n")
    book = chosen.book.resolve()
    builds = []
    for _ in range(chosen.rounds):
        with TemporaryDirectory() as folder:
            builds.append(build(book, Path(folder)))
    seconds = {name: [executed[name] for _, executed in builds] for name in chapters(book)}
    total = [whole for whole, _ in builds]
    pages = [whole - sum(executed.values()) for whole, executed in builds]
    shown = [
        *seconds.items(),
        ("all chapters", [sum(executed.values()) for _, executed in builds]),
        ("the pages, by Sphinx", pages),
        ("the whole build", total),
    ]
    rows = [
        [name, _seconds(taken), f"{np.median(taken) / np.median(total):.0%}"]
        for name, taken in shown
    ]
    print(common.table(["chapter", "seconds: median [quartiles]", "of the build"], rows))
    common.save(
        chosen.json,
        device,
        {
            "benchmark": "book_time",
            "rounds": chosen.rounds,
            "chapters": seconds,
            "pages": pages,
            "build": total,
        },
    )


def _seconds(taken: list[float]) -> str:
    low, middle, high = np.percentile(taken, [25, 50, 75])
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
