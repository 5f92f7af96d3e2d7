"""What *Why 0.75* shows: whole seeds alone, the share that a training explains, tops of curves."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mae_book.chapters import why_75
from mae_book.chapters.why_75 import GRID, gains, top, top_table, whole
from mae_book.sweep.ratio_prediction import DECIDING, RATIOS
from mae_lib.base.intervals import Interval
from mae_lib.base.runs import RATIO_RUNS

PREDICTION = {
    "EV": [0.03, 0.07, 0.11, 0.108, 0.06],
    "G1": [0.001, 0.003, 0.009, 0.019, 0.018],
    "G2": [0.0001, 0.0002, 0.001, 0.003, 0.004],
    "most": [0.04, 0.1, 0.19, 0.23, 0.17],
}


def record(run: str, seed: int, **more) -> dict:
    return {"name": f"{run}-s{seed}", "run": run, "seed": seed, **more}


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A results folder of made-up numbers: the quad-tree world's, a probe's and second moments."""
    monkeypatch.setattr(why_75, "results_directory", lambda: tmp_path)
    monkeypatch.setattr(
        why_75,
        "read_results",
        lambda kind, data="": [
            json.loads(p.read_text()) for p in sorted((tmp_path / kind / data).glob("*.json"))
        ],
    )
    one = lambda value: Interval(value, value, value, 1).to_dict()

    def write(folder, name, contents):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / f"{name}.json").write_text(json.dumps(contents))

    for seed in range(3):
        for k, (run, ratio) in enumerate(zip(RATIO_RUNS, RATIOS)):
            # each level as predicted, up to a monotone map and a little of the seed's own
            values = {
                f"mean/level{h}": one(0.5 + PREDICTION[name][k] ** 0.5 + 1e-5 * seed * k)
                for h, name in enumerate(("EV", "G1", "G2"), 1)
            }
            more = {"config": {"ratio": ratio}, "loss": 0.8, "measures": values}
            write("tree_world", f"{run}-{seed}", record(f"random-{run}", seed, **more))
    half = {"config": {"ratio": 0.1}, "loss": 0.8, "measures": {}}
    write("tree_world", "half", record("random-r10", 3, **half))
    for seed in (4, 5, 6, 7):
        for k, run in enumerate(RATIO_RUNS):
            accuracy = {"mean/validation": one(0.5 + 0.05 * k + 0.001 * seed * k)}
            write("probe/world-9600x16", f"{run}-{seed}", record(run, seed, measures=accuracy))
    curve = {f"G1/{run}": one(0.1 * k) for k, run in enumerate(RATIO_RUNS)}
    write("moments/world", "m", record("colours", 0, measures=curve | {"apart1": one(0.9)}))
    return tmp_path


def test_only_seeds_with_every_run_count():
    found = whole([record("a", 0), record("b", 0), record("a", 1), record("c", 1)], ("a", "b"))
    assert [(r["run"], r["seed"]) for r in found] == [("a", 0), ("b", 0)]
    assert whole([record("a", 0), record("b", 0)], ("a", "b"), seeds=(1,)) == []


def test_the_quad_tree_world_is_decided_on_whole_seeds(there):
    assert {r["seed"] for r in why_75.tree_records()} == {0, 1, 2}
    decisions = why_75.tree_decisions(PREDICTION)
    assert why_75.said(decisions) == dict.fromkeys(("level1", "level2", "level3"), "reproduced")
    assert set(why_75.readouts()["level2"]) == set(RATIO_RUNS)
    wrong = PREDICTION | {"EV": [-value for value in PREDICTION["EV"]]}
    assert why_75.said(why_75.tree_decisions(wrong))["level1"] == "not reproduced"


def test_what_a_training_explains_is_counted_over_all_pixels(there):
    found = why_75.learned()
    assert found["r75"] == {s: pytest.approx(0.2 * 0.75) for s in range(3)}
    assert found["r10"][0] == pytest.approx(0.2 * 6 / 64)
    worlds = {seed: PREDICTION | {"most": [0.3] * 5} for seed in range(3)}
    shares = why_75.learned_shares(worlds)
    assert shares["r75"].value == pytest.approx(0.5) and shares["r75"].n == 3
    assert "0.150" in (text := str(why_75.learned_table(worlds))) and "0.300" in text


def test_images_are_decided_on_the_registered_seeds_and_shown_on_all(there):
    short, long = why_75.probe_decisions()
    assert short.verdict == "reproduced" and {found.n for _, found, _ in short.rows} == {3}
    assert long.verdict == "not attempted" and list(DECIDING) == [short.claim.id, long.claim.id]
    assert set(why_75.probes("world-9600x16")["r10"]) == {4, 5, 6, 7}
    assert why_75.probes("world-28800x16") == {}
    assert why_75.known("world-9600x16", "world").rows[0][1].n == 4


def test_a_top_is_where_a_curve_is_highest_and_moves_as_the_chapter_says():
    curves = gains(0.8, 0.2, masks=24)
    assert set(curves) == {"EV", "G1", "G2", "G3"} and all(
        len(c) == len(GRID) for c in curves.values()
    )
    assert top(curves["EV"]) < top(curves["G1"]) <= top(curves["G2"])
    assert top(gains(0.6, 0.2, masks=24)["EV"]) < top(gains(0.9, 0.2, masks=24)["EV"])
    # a unit of 2 × 2 is the tree above: beyond 2 × 2 is then all there is
    coarse = gains(0.8, 0.2, 1, masks=24)
    assert np.allclose(coarse["EV"], coarse["G1"], atol=1e-9)
    assert "0.8" in str(top_table((0.8,), 0.2, (0, 1), masks=8))
