"""How a training step's time and memory grow, one factor at a time, from the laptop tier's model at
64 px, patch 8, ratio 0.75.

- *image size*: the patch stays, so tokens grow with it;
- *tokens*: the image stays, the patch gets smaller;
- *visible patches*: the image and the patch stay, the masking ratio gets smaller;
- *masks*: how many are drawn on a 14×14 grid, by each of the laws of `mask_batches`;
- *runs*: seeds trained side by side, one process with one thread each, as `mae pretrain --jobs`
  does.

A factor's cases take turns. Its exponent is the least-squares slope of log time against log size,
with a 95 % interval over rounds: that holds the noise of the clock, not the bend of the curve,
which the exponent between the two largest sizes shows.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from typing import get_args

import common
import numpy as np
import torch

from mae_lib.masks.masking import Law, mask_batches
from mae_lib.training.config import PretrainConfig
from mae_lib.training.loop import Run
from mae_lib.training.tiers import RATIOS, SIZE_RATIO, tier

IMAGE_SIZES, PATCHES = (32, 48, 64, 96, 128), (16, 8, 4, 2)
MASKS, MASK_GRID = (4096, 16384, 65536), (14, 14)
MOST_RUNS = 16
RUN_STEPS = 10
"""Training steps of each run between two looks at the clock."""

FACTORS = {
    "image size": "side",
    "tokens": "tokens",
    "visible patches": "(visible patches)",
    "masks": "masks",
    "runs": "runs",
}
"""factor → what its exponents are of."""


def configs(factor: str) -> dict[int, PretrainConfig]:
    """Size → config, for a factor that changes the training step itself, from small to large."""
    sizes, data = tier("laptop"), {"kind": "world"}
    base = replace(sizes.config(data), steps=10**6)  # so that no number of rounds runs past the end
    with_model = lambda **changes: replace(
        base, model=replace(base.model, **changes), unit=changes.get("patch", base.unit)
    )
    if factor == "image size":
        return {size: with_model(image_size=(size, size)) for size in IMAGE_SIZES}
    if factor == "tokens":
        return {
            config.mask.patches: config for config in (with_model(patch=patch) for patch in PATCHES)
        }
    return {
        config.mask.visible_patches: config
        for config in (replace(base, ratio=ratio) for ratio in sorted(RATIOS, reverse=True))
    }


def stepper(
    config: PretrainConfig, batch: int, device: torch.device
) -> tuple[Run, Callable[[], None]]:
    """A run, and its next training step, always on the same images."""
    images = torch.randint(
        256,
        (batch, config.model.channels, *config.model.image_size),
        dtype=torch.uint8,
        device=device,
    )
    run = Run(replace(config, precision=common.precision(device)), device)
    return run, lambda: run.train_step(images)


def _run_in_process(
    connection: Connection, config: PretrainConfig, batch: int, device: torch.device
) -> None:
    """Trains for `RUN_STEPS` steps whenever told to, and answers with the most memory held so far
    in MiB."""
    torch.set_num_threads(1)
    _, step = stepper(config, batch, device)
    step()
    connection.send(None)
    while connection.recv():
        for _ in range(RUN_STEPS):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        connection.send(common.peak_mib(device))


@contextmanager
def processes(
    count: int, config: PretrainConfig, batch: int, device: torch.device
) -> Iterator[list[Connection]]:
    """Connections to ``count`` processes with a run each, of seeds 0, 1, …; they end with the
    block."""
    context, connections, started = multiprocessing.get_context("spawn"), [], []
    try:
        for seed in range(count):
            ours, theirs = context.Pipe()
            started.append(
                context.Process(
                    target=_run_in_process,
                    args=(theirs, replace(config, seed=seed), batch, device),
                    daemon=True,
                )
            )
            started[-1].start()
            theirs.close()  # so that the death of its process is seen here
            connections.append(ours)
        for connection in connections:
            connection.recv()
        yield connections
        for connection in connections:
            connection.send(False)
    finally:
        for connection in connections:
            connection.close()
        for process in started:
            process.join()


def exponent(x: Sequence[float], times: Sequence[list[float]]) -> common.Estimate:
    """k of time ∝ xᵏ: the slope of log median time against log x, with its interval over resampled
    rounds.

    Args:
        x: sizes, at least two. times: for each, one time a round, the same number for all.
    """
    taken = np.array(times)
    logs = np.log(x) - np.log(x).mean()
    draws = np.random.default_rng(0).integers(taken.shape[1], size=(4000, taken.shape[1]))
    slopes = logs @ np.log(np.median(taken[:, draws], axis=2)) / (logs @ logs)
    low, high = np.percentile(slopes, [2.5, 97.5])
    return common.Estimate(
        float(logs @ np.log(np.median(taken, axis=1)) / (logs @ logs)),
        float(low),
        float(high),
        taken.shape[1],
    )


def growth(what: str, unit: str, k: common.Estimate) -> str:
    """An exponent in words."""
    if k.rounds < common.ENOUGH_ROUNDS:
        return f"{what} as {unit}^{k}, from fewer than {common.ENOUGH_ROUNDS} rounds"
    if not k.differs(0):
        return f"{what} does not grow with {unit} beyond the noise (exponent {k})"
    return f"{what} {'grows' if k.median > 0 else 'falls'} as {unit}^{k}"


def sentence(unit: str, x: Sequence[float], times: Sequence[list[float]]) -> str:
    """How time grows, overall and at the large end."""
    words = growth("time", unit, exponent(x, times))
    return (
        words
        if len(x) < 3
        else f"{words}, between the two largest as {unit}^{exponent(x[-2:], times[-2:])}"
    )


def training(
    factor: str, rounds: int, batch: int, device: torch.device, clock: Callable[[], float]
) -> tuple[list[dict], str]:
    """The cases of a factor that changes the training step: their records, and in words how time
    and memory grow."""
    found, unit = configs(factor), FACTORS[factor]
    runs = {size: stepper(config, batch, device) for size, config in found.items()}
    for _, step in runs.values():  # the optimiser's moments are made in its first step
        step()
    kept = {size: common.kept_bytes(step, run.model) / batch for size, (run, step) in runs.items()}
    peak = {size: common.peak_bytes(step, device) for size, (_, step) in runs.items()}
    times = common.alternate(
        {size: step for size, (_, step) in runs.items()}, rounds, device, clock
    )
    records = [
        {
            "size": size,
            "visible_patches": config.mask.visible_patches,
            "patches": config.mask.patches,
            "seconds": times[size],
            "rate": batch / statistics.median(times[size]),
            "kept_bytes_an_image": kept[size],
            "peak_bytes": peak[size],
        }
        for size, config in found.items()
    ]
    memory = exponent(list(kept), [[size] for size in kept.values()]).median
    return (
        records,
        (
            f"{sentence(unit, list(times), list(times.values()))}; memory kept for the backward"
            f" pass as {unit}^{memory:.2f}"
        ),
    )


def masks(law: Law, rounds: int, clock: Callable[[], float]) -> tuple[list[dict], str]:
    """Drawing masks by a law, on the CPU as the theory's chapters do."""
    largest: dict[int, int] = {}

    def draw(count: int) -> None:
        largest[count] = max(
            masked.nbytes + ignored.nbytes
            for masked, ignored in mask_batches(law, MASK_GRID, SIZE_RATIO, masks=count)
        )

    times = common.alternate(
        {count: lambda count=count: draw(count) for count in MASKS},
        rounds,
        torch.device("cpu"),
        clock,
    )
    records = [
        {
            "size": count,
            "seconds": times[count],
            "rate": count / statistics.median(times[count]),
            "batch_bytes": largest[count],
        }
        for count in MASKS
    ]
    return records, sentence(FACTORS["masks"], MASKS, list(times.values()))


def run_counts(cores: int) -> list[int]:
    """1, 2, 4, … runs side by side up to the cores (or `MOST_RUNS`), then twice as many as the
    last."""
    counts = [2**k for k in range(cores.bit_length()) if 2**k <= min(cores, MOST_RUNS)]
    return [*counts, 2 * counts[-1]]


def side_by_side(rounds: int, batch: int, device: torch.device) -> tuple[list[dict], str]:
    """Seeds trained side by side, by the wall clock, since that is what they share the machine
    for."""
    counts, peak = run_counts(os.cpu_count() or 1), {}

    def advance(connections: list[Connection]) -> None:
        for connection in connections:
            connection.send(True)
        peak[len(connections)] = max(connection.recv() for connection in connections)

    with processes(
        counts[-1], tier("laptop").config({"kind": "world"}), batch, device
    ) as connections:
        works = {count: lambda count=count: advance(connections[:count]) for count in counts}
        times = common.alternate(works, rounds, torch.device("cpu"), time.perf_counter, warmup=1)
    images = {count: count * RUN_STEPS * batch for count in counts}
    records = [
        {
            "size": count,
            "seconds": times[count],
            "rate": images[count] / statistics.median(times[count]),
            "peak_mib_a_process": peak[count],
        }
        for count in counts
    ]
    within = counts[:-1] if len(counts) > 2 else counts
    words = growth("time", "runs", exponent(within, [times[count] for count in within]))
    return (
        records,
        (
            f"up to {within[-1]} of them {words}; {counts[-1]} take"
            f" {common.ratio(times[counts[-1]], times[1])} times as long as one"
        ),
    )


def memory_of(record: dict) -> str:
    """A case's memory, each kind by its name."""
    if "kept_bytes_an_image" in record:
        peak = (
            ""
            if record["peak_bytes"] is None
            else f", peak {record['peak_bytes'] / 2**20:,.0f} MiB"
        )
        return f"{record['kept_bytes_an_image'] / 2**20:.2f} MiB kept an image{peak}"
    if "batch_bytes" in record:
        return f"{record['batch_bytes'] / 2**20:.2f} MiB a batch"
    return f"{record['peak_mib_a_process']:,.0f} MiB a process, libraries included"


def main() -> None:
    options = common.parser(__doc__.splitlines()[0], rounds=10)
    options.set_defaults(batch=32)
    options.add_argument(
        "--factor",
        action="append",
        choices=list(FACTORS),
        help="only this factor (may be repeated)",
    )
    chosen = options.parse_args()
    device = common.prepare(chosen.threads, chosen.device)
    print(common.machine(device), end="\n\n")
    clock = common.processor_clock(chosen.threads)
    measured: dict[str, tuple[list[dict], str]] = {}
    for factor in chosen.factor or FACTORS:
        if factor == "masks":
            measured |= {f"masks, {law}": masks(law, chosen.rounds, clock) for law in get_args(Law)}
        elif factor == "runs":
            measured[factor] = side_by_side(chosen.rounds, chosen.batch, device)
        else:
            measured[factor] = training(factor, chosen.rounds, chosen.batch, device, clock)
    rows = []
    for factor, (records, _) in measured.items():
        for record in records:
            tokens = (
                f"{record['visible_patches']} of {record['patches']}" if "patches" in record else ""
            )
            rate = f"{record['rate']:,.0f} {'masks' if 'batch_bytes' in record else 'images'}/s"
            rows.append(
                [
                    factor,
                    f"{record['size']:,}",
                    tokens,
                    common.spread(record["seconds"]),
                    rate,
                    memory_of(record),
                ]
            )
    print(
        common.table(
            ["factor", "size", "visible patches", "ms: median [quartiles]", "rate", "memory"], rows
        )
    )
    print(
        f"\nBatch {chosen.batch}, {chosen.rounds} round(s). A time is a training step's; of masks,"
        f" of drawing them all; of runs, of {RUN_STEPS} steps of each.\n"
    )
    print("\n".join(f"{factor}: {words}." for factor, (_, words) in measured.items()))
    common.save(
        chosen.json,
        device,
        {
            "benchmark": "scaling",
            "rounds": chosen.rounds,
            "batch": chosen.batch,
            "run_steps": RUN_STEPS,
            "factors": {
                factor: {
                    "cases": records,
                    "exponent": asdict(
                        exponent([r["size"] for r in records], [r["seconds"] for r in records])
                    ),
                    "words": words,
                }
                for factor, (records, words) in measured.items()
            },
        },
    )


if __name__ == "__main__":
    main()
