"""The prediction of *Why 0.75*: its second moments against exact resampling, its claims against
what was registered, and that it is older than the runs that decide."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime

import numpy as np
import pytest
import torch

from mae_book.sweep import ratio_prediction
from mae_book.sweep.quad_world import TreeWorld
from mae_book.sweep.ratio_prediction import (
    DECIDING,
    RATIOS,
    meeting_heights,
    probe_claim,
    tree_claims,
    tree_curves,
    tree_variances,
)
from mae_book.verdicts.results import results_directory
from mae_lib.base.runs import RATIO_RUNS
from mae_lib.identification.excess import determined_share
from mae_lib.theory.graphs import quad_tree


def test_pixels_meet_where_the_tree_says():
    graph, heights = quad_tree((8, 8)), meeting_heights()
    names = graph.observables
    for i, j in ((0, 0), (0, 1), (0, 9), (3, 4), (17, 24), (18, 45), (27, 36)):
        shared = graph.ancestors[names[i]] & graph.ancestors[names[j]]
        lowest = min(graph.levels[v] for v in shared)
        assert heights[i, j] == heights[j, i] == lowest


def test_covariances_are_what_an_ancestor_explains_by_exact_resampling():
    """Hold the noises of a pixel's ancestors from a height up, draw all others anew."""
    world, found = TreeWorld(3), tree_variances(3, 20_000)
    graph, draws = world.graph, torch.Generator().manual_seed(1)
    groups = torch.arange(400).repeat_interleave(32)
    for height, claimed in enumerate(found, 1):
        noises = world.process.noise(graph, len(groups), draws)
        for v in graph.ancestors["x27"]:
            if graph.levels[v] >= height:
                noises[v] = noises[v][::32].repeat_interleave(32, 0)
        pixel = world.images(world.process.generate(noises))[:, :, 3, 3]
        assert determined_share(pixel, groups) == pytest.approx(claimed, abs=0.04)
    assert found[0] > found[1] > found[2] > 0


def test_the_most_that_the_conditions_allow_lies_above_the_gaussian_account():
    curves = tree_curves([0.42, 0.14, 0.04], masks=200)
    ev, most = np.array(curves["EV"]), np.array(curves["most"])
    assert (most > ev).all() and (ev > curves["G1"]).all()
    assert (np.array(curves["G1"]) > curves["G2"]).all()
    # one visible sibling tells all under A1–A5, and at ratio .1 there nearly always is one
    assert most[0] == pytest.approx(0.42 * 6 / 64, rel=0.02)


def test_the_claims_are_those_that_were_registered():
    claims = tree_claims({"EV": [1, 3, 5, 4, 2], "G1": [1, 2, 3, 5, 4], "G2": [1, 2, 3, 4, 5]})
    assert list(claims) == ["level1", "level2", "level3"]
    for k, claim in enumerate(claims.values(), 1):
        order, high, low = claim.tests
        assert order.least == 0 and order.runs == tuple(f"random-{run}" for run in RATIO_RUNS)
        assert {test.measure for test in claim.tests} == {f"mean/level{k}"}
        assert high.runs == ("random-r90", "random-r10")
        assert low.runs == ("random-r75", "random-r25")
    claim = probe_claim("world-28800x16", [0.1, 0.2, 0.3, 0.4, 0.5])
    assert claim.kind == "probe" and claim.tests[1].runs == ("r90", "r10")
    assert dict(claim.tests[0].predicted) == dict(zip(RATIO_RUNS, [0.1, 0.2, 0.3, 0.4, 0.5]))
    assert DECIDING == {"world-9600x16": (5, 6, 7), "world-28800x16": (3, 4, 5, 6, 7)}


def test_the_registration_is_older_than_every_run_that_decides():
    """Git knows when the file came; a copy without its history has nothing to say."""
    root = results_directory().parent
    log = ["git", "-C", str(root), "log", "--follow", "--diff-filter=A", "--format=%cI", "--"]
    done = subprocess.run([*log, ratio_prediction.__file__], capture_output=True, text=True)
    if done.returncode:  # a copy without its history
        pytest.skip("no history here")
    assert done.stdout.strip(), "a clone with its whole history knows when the file came"
    registered = datetime.fromisoformat(done.stdout.split()[-1]).timestamp()
    other = [f"random-r{round(100 * ratio)}" for ratio in RATIOS if ratio != 0.5]
    runs = [path for run in other for path in results_directory().glob(f"tree_world/{run}-s*.json")]
    for path in (*runs, *results_directory().glob("moments/*/*.json")):
        record = json.loads(path.read_text())
        began = datetime.fromisoformat(record["finished"]).timestamp() - record["seconds"]
        assert began > registered - 1, path.name
