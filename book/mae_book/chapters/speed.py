"""Tables and sentences of what the benchmarks have recorded: a training step beside the peers', how
it grows, and Algorithm 1 beside what memory allows. They are timed by the scripts in benchmarks/,
never here.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from mae_book.verdicts.results import read_results
from mae_lib.base.tables import Table

CONTROL = "mae_lib again"
"""The second copy of our model in `training_step.py`: what two equal things differ by."""


def benchmark(name: str, gpu: bool = False) -> dict | None:
    """The record of one benchmark on a CPU, or on a GPU, in results/; the newest where there are
    several, None where there is none."""
    found = [
        record
        for record in read_results("benchmarks", name)
        if (record["provenance"]["hardware"]["device"] != "cpu") == gpu
    ]
    return max(found, key=lambda record: record["provenance"]["finished"], default=None)


def where(record: dict) -> str:
    """The machine of a record, in words."""
    hardware = record["provenance"]["hardware"]
    return hardware["gpu"] or f"{hardware['cpu']}, {hardware['threads']} thread" + "s" * (
        hardware["threads"] != 1
    )


def step_table(records: Iterable[dict | None], cases: dict[str, str]) -> Table:
    """One training step of ours and of each peer, on each machine that has been measured.

    Args:
        records: of `training_step.py`; None for a machine that nobody has measured is a row that
            says so.
        cases: name in the records → what the table calls it.
    """
    rows = []
    for record in records:
        if record is None:
            rows.append(["a GPU", *["not measured"] * 6])
            continue
        for name, words in cases.items():
            if (case := record["cases"].get(name)) is None:
                continue
            for model, seconds in case["seconds"].items():
                if model == CONTROL:
                    continue
                speed = case["batch"] / statistics.median(seconds)
                ratio = case["ratios"].get(model)
                rows.append(
                    [
                        where(record),
                        words,
                        model,
                        f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}",
                        f"{speed * case['flops'] / record['ceiling_flops']:.0%}",
                        f"{case['kept_bytes_an_image'][model] / 2**20:.3g}",
                        (
                            "1"
                            if ratio is None
                            else f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
                        ),
                    ]
                )
    return Table(
        [
            "on",
            "model",
            "code",
            "images/s",
            "of the matmul ceiling",
            "MiB kept an image",
            "time / ours [95 %]",
        ],
        rows,
    )


def verdicts(record: dict, cases: dict[str, str]) -> list[str]:
    """What the benchmark itself said of each case."""
    return [
        f"{words}: {record['cases'][name]['verdict']}"
        for name, words in cases.items()
        if name in record["cases"]
    ]


def growth(record: dict) -> list[str]:
    """What `scaling.py` said of each factor."""
    return [f"{name}: {factor['words']}." for name, factor in record["factors"].items()]


def bound_table(record: dict) -> Table:
    """Algorithm 1 for many masks and what else was timed on the same masks in the same run of
    `shared.py`, each rate over the two that only move the masks."""
    bound = record["bound"]
    shares = ("numpy.packbits", "copy of the masks")
    rows = [
        [
            name,
            f"{one['masks_per_s'] / 1e6:.3g}",
            *(_interval(one["share"][other]) for other in shares),
        ]
        for name, one in bound.items()
    ]
    return Table(
        ["on the same masks", "million masks/s", "rate / packbits [95 %]", "rate / copy [95 %]"],
        rows,
    )


def bound_sentence(record: dict) -> str:
    """The figure of merit of `locate_shared_batch`, with the machine and whether it did other
    work."""
    share = record["bound"]["locate_shared_batch"]["share"]
    busy = (
        ", while other work ran"
        if record["load"] > record["provenance"]["hardware"]["threads"] + 0.5
        else ""
    )
    return (
        f"on {where(record)}{busy}: `locate_shared_batch` answers at"
        f" {_interval(share['numpy.packbits'])} of the rate at which `numpy.packbits` packs the"
        f" same masks, and at {_interval(share['copy of the masks'])} of the rate at which they are"
        " copied"
    )


def _interval(estimate: dict) -> str:
    return f"{estimate['median']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"
