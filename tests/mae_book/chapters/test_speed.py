"""Tables of the benchmarks' records: every number from the record, and what nobody measured said
so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mae_book.chapters import speed
from mae_book.verdicts.results import results_directory


def record(device: str = "cpu", finished: str = "2026-01-01", own: float = 0.5) -> dict:
    seconds = {"mae_lib": [own, 0.1, 9.0], "mae_lib again": [0.5] * 3, "lightly": [1.0] * 3}
    ratio = {"median": 1 / own, "low": 1.5, "high": 2.5}
    case = {
        "batch": 100,
        "flops": 2e9,
        "seconds": seconds,
        "kept_bytes_an_image": dict.fromkeys(seconds, 3 * 2**20),
        "ratios": {"mae_lib again": ratio, "lightly": ratio},
        "verdict": "faster",
    }
    hardware = {
        "device": device,
        "gpu": None if device == "cpu" else "a card",
        "cpu": "a processor",
        "threads": 2,
    }
    return {
        "provenance": {"hardware": hardware, "finished": finished},
        "ceiling_flops": 1e12,
        "cases": {"tiny": case},
    }


def test_a_row_holds_the_medians_of_its_record_and_the_control_is_no_peer() -> None:
    table = speed.step_table(
        [record(), record("cuda", own=0.25)], {"tiny": "ViT-Tiny", "huge": "ViT-Huge"}
    )
    assert table.rows == [
        ["a processor, 2 threads", "ViT-Tiny", "mae_lib", "200", "40%", "3", "1"],
        ["a processor, 2 threads", "ViT-Tiny", "lightly", "100", "20%", "3", "2.00 [1.50, 2.50]"],
        ["a card", "ViT-Tiny", "mae_lib", "400", "80%", "3", "1"],
        ["a card", "ViT-Tiny", "lightly", "100", "20%", "3", "4.00 [1.50, 2.50]"],
    ]
    assert speed.verdicts(record(), {"tiny": "ViT-Tiny", "huge": "ViT-Huge"}) == [
        "ViT-Tiny: faster"
    ]


def test_what_nobody_measured_is_a_row_that_says_so() -> None:
    assert speed.step_table([None], {"tiny": "ViT-Tiny"}).rows == [["a GPU", *["not measured"] * 6]]


def test_the_newest_record_of_each_kind_of_machine_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [
        record(finished="2026-02-02"),
        record("cuda", "2026-03-03"),
        record(finished="2026-02-03"),
    ]
    monkeypatch.setattr(
        speed,
        "read_results",
        lambda kind, name: found if (kind, name) == ("benchmarks", "training_step") else [],
    )
    assert (
        speed.benchmark("training_step") is found[2]
        and speed.benchmark("training_step", gpu=True) is found[1]
    )
    assert speed.benchmark("scaling") is None


def bound_record(load: float) -> dict:
    share = lambda packbits, copy: {"numpy.packbits": packbits, "copy of the masks": copy}
    estimate = lambda median: {"median": median, "low": median / 2, "high": 2 * median, "rounds": 9}
    rates = {
        "copy of the masks": (3e7, 0.75, 1),
        "numpy.packbits": (4e7, 1, 4 / 3),
        "locate_shared_batch": (1.6e7, 0.4, 0.5),
    }
    bound = {
        name: {"masks_per_s": rate, "share": share(*map(estimate, found))}
        for name, (rate, *found) in rates.items()
    }
    return {**record(), "load": load, "bound": bound}


def test_algorithm_1_stands_beside_what_memory_allows() -> None:
    assert speed.bound_table(bound_record(0)).rows == [
        ["copy of the masks", "30", "0.75 [0.38, 1.50]", "1.00 [0.50, 2.00]"],
        ["numpy.packbits", "40", "1.00 [0.50, 2.00]", "1.33 [0.67, 2.67]"],
        ["locate_shared_batch", "16", "0.40 [0.20, 0.80]", "0.50 [0.25, 1.00]"],
    ]
    said = (
        "on a processor, 2 threads{}: `locate_shared_batch` answers at 0.40 [0.20, 0.80] of the"
        " rate at which `numpy.packbits` packs the same masks, "
    )
    for load, busy in ((2.4, ""), (2.6, ", while other work ran")):
        assert (
            speed.bound_sentence(bound_record(load))
            == said.format(busy) + "and at 0.50 [0.25, 1.00] of the rate at which they are copied"
        )


@pytest.mark.parametrize("name", ["training_step", "scaling", "shared"])
def test_the_records_of_the_project_can_be_shown(name: str) -> None:
    (path,) = Path(results_directory() / "benchmarks" / name).glob("*.json")
    stored = json.loads(path.read_text())
    if name == "scaling":
        assert all(
            any(factor in line for line in speed.growth(stored))
            for factor in ("image size", "tokens", "visible patches", "masks", "runs")
        )
    elif name == "shared":
        assert [row[0] for row in speed.bound_table(stored).rows] == list(
            stored["bound"]
        ) and "of the rate" in speed.bound_sentence(stored)
    else:
        assert len(
            speed.step_table([stored], {case: case for case in stored["cases"]}).rows
        ) == sum(len(c["seconds"]) - 1 for c in stored["cases"].values())
