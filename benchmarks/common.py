"""What the benchmarks share: alternating timers, ratios with their intervals, memory of a step, the
machine's ceiling, a table, and the line that names the machine."""

from __future__ import annotations

import argparse
import math
import os
import re
import resource
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
from torch import Tensor, nn

from mae_lib.base.errors import InputError
from mae_lib.base.files import write_json
from mae_lib.base.provenance import hardware, provenance
from mae_lib.training.pretrain import resolve_device

ENOUGH_ROUNDS = 6
"""The widest interval that n rounds can give, from the least to the largest, misses the median with
chance 2¹⁻ⁿ: below six, that is over 5 %."""


@dataclass(frozen=True)
class Estimate:
    """What a number of rounds say of a quantity: the median and its 95 % bootstrap interval over
    rounds."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        """``median [low, high]``, without the interval where the rounds are too few for one."""
        return f"{self.median:.2f}" + (
            f" [{self.low:.2f}, {self.high:.2f}]" if self.rounds >= ENOUGH_ROUNDS else ""
        )

    def differs(self, value: float) -> bool:
        """Whether there is an interval and it does not hold ``value``."""
        return self.rounds >= ENOUGH_ROUNDS and not self.low <= value <= self.high


def parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """Options that all benchmarks take."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument(
        "--rounds",
        type=_positive,
        default=rounds,
        help=f"timed rounds, each with every row once in random order ({rounds})",
    )
    options.add_argument("--batch", type=_positive, help="images a step; default: the tier's")
    options.add_argument(
        "--device", default="cpu", help="cpu (float32) or cuda (bfloat16 by autocast)"
    )
    options.add_argument("--threads", type=_positive, default=1, help="CPU threads (1)")
    options.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every time measured to FILE"
    )
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


def precision(device: torch.device) -> str:
    """Of the steps that are timed: autocast's bfloat16 on a GPU, float32 elsewhere."""
    return "bfloat16" if device.type == "cuda" else "float32"


def machine(device: torch.device) -> str:
    """One line: processor or GPU, threads, precision, versions, and how busy the machine was."""
    facts = hardware(device)
    parts = [
        facts["gpu"] or facts["cpu"],
        f"{facts['cores']} cores, {facts['threads']} thread(s) used",
        precision(device),
        f"torch {metadata.version('torch')}",
    ]
    load = _load()
    # Our own thread counts as one once it has run a while.
    busy = (
        " (BUSY: other work runs here, so the numbers are provisional)"
        if load > facts["threads"] + 0.5
        else ""
    )
    return ", ".join(parts) + f", load {load:.1f}{busy}"


def _load() -> float:
    """Threads that ran or waited in the last minute; 0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def label(device: torch.device) -> str:
    """The name of a result's file: ``cpu``, or the GPU's name in lower case with hyphens."""
    if device.type != "cuda":
        return device.type
    return "-".join(re.findall(r"[a-z0-9]+", torch.cuda.get_device_name(device).lower()))


def processor_clock(threads: int) -> Callable[[], float]:
    """The clock for work on the CPU: one busy thread's processor time is its wall time, less the
    moments in which the system ran something else."""
    return time.process_time if threads == 1 else time.perf_counter


def seconds(
    work: Callable[[], object],
    device: torch.device,
    repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of one call of ``work``, the mean of ``repeats`` calls; by ``clock`` on a CPU, by its
    own clock on a GPU."""
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


GPU_SECONDS = 0.25
"""That a measurement on a GPU lasts at least, by as many calls in a row, ten at most."""


def alternate(
    works: dict[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
    warmup: int = 2,
) -> dict[str, list[float]]:
    """Times every work once a round, in a fresh random order, so that slow drifts of the machine
    fall on all alike.

    Returns:
        for each name, one time a round in seconds, after ``warmup`` rounds that are thrown away.
    """
    order, times = np.random.default_rng(0), {name: [] for name in works}
    names, repeats = list(works), dict.fromkeys(works, 1)
    for turn in range(-warmup, rounds):
        for i in order.permutation(len(names)):
            taken = seconds(works[names[i]], device, repeats[names[i]], clock)
            if turn >= 0:
                times[names[i]].append(taken)
            elif device.type == "cuda":
                # a small model's step is over before the next is launched: only several in a row
                # show its speed
                repeats[names[i]] = min(10, math.ceil(GPU_SECONDS / taken))
        if sys.stderr.isatty():
            print(
                f"\rround {max(turn + 1, 0)}/{rounds} ",
                end="\n" if turn + 1 == rounds else "",
                file=sys.stderr,
                flush=True,
            )
    return times


def kept_bytes(step: Callable[[], object], model: nn.Module) -> int:
    """Bytes that a step's forward pass keeps for its backward pass, each storage once, the model's
    weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # held, so that its address is not given to another
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(size for size, _ in kept.values())


def peak_bytes(step: Callable[[], object], device: torch.device) -> int | None:
    """Most memory allocated during a step beyond what lay there before it; None on a CPU, where
    PyTorch does not count."""
    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device) - before


CPU_SIDES, GPU_SIDES = (1024, 2048), (4096, 8192, 16384)


def matmul_ceiling(
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
    sides: tuple[int, ...] | None = None,
    turns: int = 10,
) -> float:
    """The fastest product of two square matrices in floating-point operations a second: bfloat16 on
    a GPU, float32 elsewhere.

    Args:
        sides: of the matrices; the best of them counts, each at its fastest turn.
    """
    dtype, usual = (
        (torch.bfloat16, GPU_SIDES) if device.type == "cuda" else (torch.float32, CPU_SIDES)
    )
    found = []
    for side in sides or usual:
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        product = torch.empty_like(left)
        multiply = lambda: torch.mm(left, right, out=product)
        multiply()
        found.append(
            2 * side**3 / min(seconds(multiply, device, clock=clock) for _ in range(turns))
        )
    return max(found)


def peak_mib(device: torch.device) -> float:
    """MiB in use at most so far: by the process, or on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )


def ratio(above: list[float], below: list[float]) -> Estimate:
    """``above`` / ``below``, round by round, so that what slowed a whole round cancels."""
    each = np.array(above) / np.array(below)
    draws = np.random.default_rng(0).integers(len(each), size=(4000, len(each)))
    low, high = np.percentile(np.median(each[draws], axis=1), [2.5, 97.5])
    return Estimate(float(np.median(each)), float(low), float(high), len(each))


def spread(times: list[float]) -> str:
    """Milliseconds: the median and, in brackets, the quartiles."""
    low, high = np.percentile(times, [25, 75])
    return f"{1e3 * statistics.median(times):.1f} [{1e3 * low:.1f}, {1e3 * high:.1f}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    """An aligned Markdown table."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths)) + " |"
        for line in lines
    )


def save(path: Path | None, device: torch.device, result: dict) -> None:
    """Writes the result with its origin and the load at the end, in which our own threads count, if
    a file was asked for."""
    if path is not None:
        write_json(path, {"provenance": provenance(device), "load": round(_load(), 2), **result})
        print(f"\nwritten: {path}")
