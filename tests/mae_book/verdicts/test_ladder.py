"""The second sweep as it was registered: the claims' own tests on its runs, whole seeds alone, what
counts as there."""

from __future__ import annotations

import json
import math
import subprocess
from datetime import datetime

import pytest

from mae_book.verdicts import ladder, results
from mae_book.verdicts.claim import SHIFTED
from mae_book.verdicts.claims import CLAIMS
from mae_book.verdicts.ladder import ARMS, DECIDING, RUNGS, SPREAD_ARM, rung, smallest_effect
from mae_book.verdicts.results import results_directory
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, over_seeds


def test_the_registration_is_older_than_every_run():
    """Git knows when the file came; a copy without its history has nothing to say."""
    root = results_directory().parent
    log = [
        "git",
        "-C",
        str(root),
        "log",
        "--follow",
        "--diff-filter=A",
        "--format=%cI",
        "--",
        ladder.__file__,
    ]
    done = subprocess.run(log, capture_output=True, text=True)
    if done.returncode:  # a copy without its history
        pytest.skip("no history here")
    assert done.stdout.strip(), "a clone with its whole history knows when the file came"
    registered = done.stdout.split()[-1]
    for one in RUNGS.values():
        for path in (results_directory() / "pretraining" / one.data).glob("*.json"):
            record = json.loads(path.read_text())
            began = datetime.fromisoformat(record["finished"]).timestamp() - record["seconds"]
            assert began > datetime.fromisoformat(registered).timestamp() - 1, path.name


def test_every_claim_on_images_is_tested_at_the_length_that_decides_by_its_own_tests():
    on_images = {identity for identity, claim in CLAIMS.items() if claim.data}
    own = DECIDING.claims()
    assert set(own) == on_images | {"T1r-few", "T1v-few", "T1p-few", "T1v-graded"}
    for identity in on_images:
        assert (
            own[identity].tests == CLAIMS[identity].tests and own[identity].data == "world-28800x16"
        )
    assert (
        own["T1r-few"].tests == CLAIMS["T1r"].tests
        and own["T1r-few"].kind == "few_labels"
        and not own["T1r-few"].paper
    )


def test_a_rung_tests_only_what_its_runs_can():
    assert {"T1r", "T2s", "T3"} <= set(RUNGS[86_400].claims()) and not {
        "T1p",
        "F8b",
        "T3b",
        "S1",
    } & set(RUNGS[86_400].claims())
    assert {"T1p", "S3"} <= set(RUNGS[9_600].claims()) and "T3b" not in RUNGS[9_600].claims()
    with pytest.raises(InputError, match="no rung of 1200 steps: choose 9600, 28800, 86400"):
        rung(1200)


def _record(folder, run: str, seed: int, value: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    interval = Interval(value, value, value, 2000).to_dict()
    (folder / f"{run}-s{seed}.json").write_text(
        json.dumps(
            {
                "name": f"{run}-s{seed}",
                "run": run,
                "seed": seed,
                "measures": {f"mean/{name}": interval for name in ("validation", *SHIFTED)},
            }
        )
    )


def test_only_the_sweeps_own_runs_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "results_directory", lambda: tmp_path)
    monkeypatch.setattr(ladder, "results_directory", lambda: tmp_path)
    folder = tmp_path / "pretraining" / DECIDING.data
    folder.mkdir(parents=True)
    for run in ("r10-u8-p8", "r75-u16-p4", *ARMS, SPREAD_ARM):
        for seed in (0, 3):
            name = f"{run}-s{seed}"
            (folder / f"{name}.json").write_text(
                json.dumps({"name": name, "config": {"seed": seed}})
            )
    assert DECIDING.recorded() == 2


def test_seeds_count_that_are_whole_and_three_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "results_directory", lambda: tmp_path)
    monkeypatch.setattr(ladder, "results_directory", lambda: tmp_path)
    low, folder = (
        {"r10": 0.6, "r25": 0.7, "r50": 0.8, "r75": 0.9, "r90": 0.7},
        tmp_path / "probe" / DECIDING.data,
    )
    for seed in (3, 4):
        for run, value in low.items():
            _record(folder, run, seed, value + 0.01 * seed)
    for run in ("r10", "r75"):  # a seed in the making
        _record(folder, run, 5, 0.5)
    for run in low:  # a seed that was never registered
        _record(folder, run, 0, 0.5)
    two = DECIDING.decisions()
    assert two["T1r"].verdict == "undecided" and {found.n for _, found, _ in two["T1r"].rows} == {2}
    assert two["T2s"].verdict == "not attempted"
    for run, value in low.items():
        _record(folder, run, 5, value + 0.002 * len(run))
    three = DECIDING.decisions()["T1r"]
    assert three.verdict == "reproduced" and {found.n for _, found, _ in three.rows} == {3}


def test_the_smallest_effect_is_the_one_whose_interval_would_just_exclude_nothing():
    found = over_seeds([0.02, 0.05, 0.03, 0.04, 0.01])
    least = smallest_effect(found)
    assert (
        over_seeds(
            [value - found.value + least * 1.001 for value in (0.02, 0.05, 0.03, 0.04, 0.01)]
        ).low
        > 0
    )
    assert (
        over_seeds(
            [value - found.value + least * 0.999 for value in (0.02, 0.05, 0.03, 0.04, 0.01)]
        ).low
        < 0
    )
    assert math.isnan(smallest_effect(over_seeds([0.1])))


def test_what_is_there_is_counted():
    for one in RUNGS.values():
        assert 0 <= one.recorded() <= one.planned
    assert RUNGS[9_600].planned == RUNGS[28_800].planned == 40 and RUNGS[86_400].planned == 15
