"""What the benchmarks share: alternating timers, ratios with their intervals, a table, and the line that names the machine."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

# The checkout that holds this file is what gets timed, not a copy of mae_lib installed elsewhere.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from mae_lib.errors import InputError
from mae_lib.files import write_json
from mae_lib.pretrain import resolve_device
from mae_lib.provenance import hardware, provenance


@dataclass(frozen=True)
class Ratio:
    """A ratio of two times, taken round by round: its median and the 95 % bootstrap interval of that median."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """Options that all benchmarks take."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--rounds", type=_positive, default=rounds, help=f"timed rounds, each with every row once in random order ({rounds})")
    options.add_argument("--batch", type=_positive, help="images a step; default: the tier's")
    options.add_argument("--device", default="cpu", help="cpu (float32) or cuda (bfloat16 autocast)")
    options.add_argument("--threads", type=_positive, default=1, help="CPU threads (1)")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write every time measured to FILE")
    return options


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def prepare(threads: int, device: str) -> torch.device:
    """Fixes the number of threads and the seed; the device, if it is there."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    try:
        return resolve_device(device)
    except InputError as error:
        sys.exit(f"error: {error}")


def machine(device: torch.device) -> str:
    """One line: processor or GPU, threads, precision, versions, and how busy the machine was."""
    facts = hardware(device)
    precision = "bfloat16 autocast" if device.type == "cuda" else "float32"
    parts = [facts["gpu"] or facts["cpu"], f"{facts['cores']} cores, {facts['threads']} thread(s) used", precision, f"torch {metadata.version('torch')}"]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    # Our own thread counts as one once it has run a while.
    busy = " (BUSY: other work runs here, so the numbers are provisional)" if load > facts["threads"] + 0.5 else ""
    return ", ".join(parts) + f", load {load:.1f}{busy}"


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call of ``work``, the mean of ``repeats`` calls; by ``clock`` on a CPU, by its own clock on a GPU."""
    if device.type != "cuda":
        began = clock()
        for _ in range(repeats):
            work()
        return (clock() - began) / repeats
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    for _ in range(repeats):
        work()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1e3 / repeats


def alternate(
    works: dict[str, Callable[[], object]], rounds: int, device: torch.device, clock: Callable[[], float] = time.perf_counter, warmup: int = 2
) -> dict[str, list[float]]:
    """Times every work once a round, in a fresh random order, so that slow drifts of the machine fall on all alike.

    Returns:
        for each name, one time a round in seconds, after ``warmup`` rounds that are thrown away.
    """
    order, times = np.random.default_rng(0), {name: [] for name in works}
    # Kernels of a small model on a GPU are shorter than the clock's grain.
    repeats = 10 if device.type == "cuda" else 1
    names = list(works)
    for turn in range(-warmup, rounds):
        for i in order.permutation(len(names)):
            taken = seconds(works[names[i]], device, repeats, clock)
            if turn >= 0:
                times[names[i]].append(taken)
        if sys.stderr.isatty():
            print(f"\rround {max(turn + 1, 0)}/{rounds} ", end="\n" if turn + 1 == rounds else "", file=sys.stderr, flush=True)
    return times


def ratio(above: list[float], below: list[float]) -> Ratio:
    """``above`` / ``below``: times of the same rounds, so that what slowed a whole round cancels."""
    each = np.array(above) / np.array(below)
    draws = np.random.default_rng(0).integers(len(each), size=(4000, len(each)))
    low, high = np.percentile(np.median(each[draws], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(each)), float(low), float(high))


def spread(times: list[float]) -> str:
    """Milliseconds: the median and, in brackets, the quartiles."""
    low, high = np.percentile(times, [25, 75])
    return f"{1e3 * statistics.median(times):.1f} [{1e3 * low:.1f}, {1e3 * high:.1f}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    """An aligned Markdown table."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths)) + " |" for line in lines)


def save(path: Path | None, device: torch.device, result: dict) -> None:
    """Writes the result with its origin, if a file was asked for."""
    if path is not None:
        write_json(path, {"provenance": provenance(device), **result})
        print(f"\nwritten: {path}")
