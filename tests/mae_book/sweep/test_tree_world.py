"""The quad-tree world: what its images hold, that designs are compared on equal terms, and that
readouts tell present from absent."""

import json
from collections import Counter

import pytest
import torch

from mae_book.sweep import quad_world, tree_world
from mae_book.sweep.quad_world import TreeWorld
from mae_book.sweep.tree_world import (
    DESIGNS,
    FIT,
    TEST,
    Settings,
    evaluate_tree_world,
    first_weights,
    train,
)
from mae_book.verdicts.further_claims import TREE_CLAIMS
from mae_book.verdicts.ledger import by_run, decide
from mae_book.verdicts.results import read_results
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval
from mae_lib.theory.graphs import quad_tree
from mae_lib.theory.levels import subtree_groups


@pytest.fixture(scope="module")
def world():
    return TreeWorld(11)


@pytest.fixture(scope="module")
def records():
    return evaluate_tree_world(("random", "subtrees2", "estimated4"), (11,), Settings(steps=3))


def test_images_are_the_standardised_observables_in_their_places(world):
    sample = world.process.sample(4000, torch.Generator().manual_seed(1))
    images = world.images(sample)
    assert (
        images.shape == (4000, 4, 8, 8)
        and images.mean((0, 2, 3)).abs().max() < 0.1
        and (images.std(0) - 1).abs().max() < 0.15
    )
    own, pixel = sample.values["x19"], images[:, :, 2, 3]
    assert all(
        torch.corrcoef(torch.stack([own[:, k], pixel[:, k]]))[0, 1] > 0.9999 for k in range(4)
    )


def test_nodes_of_a_level_share_their_mechanism_and_pixels_determine_their_ancestors(world):
    graph, sample = world.graph, world.process.sample(50, torch.Generator().manual_seed(2))
    assert (
        len({id(world.process.mechanisms[v]) for v in graph.nodes})
        == len({graph.levels[v] for v in graph.nodes})
        == 4
    )
    inverted = world.process.invert("x30", sample.values["x30"])
    for level in range(4):
        truth = world.noises(sample, level, "x30")
        (node,) = [v for v in graph.ancestors["x30"] if graph.levels[v] == level]
        assert truth.shape == (50, 1) and torch.allclose(inverted.noises[node], truth, atol=1e-3)
        assert world.noises(sample, level).shape == (50, 4 ** (3 - level))


def test_designs_hide_what_they_say(world):
    graph = quad_tree((8, 8))
    groups = {
        name: design.groups(world.reference) for name, design in DESIGNS.items() if design.groups
    }
    assert groups["subtrees1"] == subtree_groups(graph, 1) and groups[
        "subtrees2"
    ] == subtree_groups(graph, 2)
    assert (
        sorted(Counter(groups["shifted2"]).values()) == [16] * 4
        and groups["shifted2"] != groups["subtrees2"]
    )
    # exactly: see the recovery rates
    assert (
        groups["estimated4"] == groups["subtrees2"] and groups["estimated16"] == groups["subtrees1"]
    )
    assert {name for name, design in DESIGNS.items() if design.margin} == {
        "margin1",
        "shifted2-margin1",
    }


def test_training_repeats_and_designs_differ_by_the_mask_alone(world):
    short = Settings(steps=2)
    one, loss = train(world, None, 0, 3, short)
    again, same = train(world, None, 0, 3, short)
    grouped, other = train(world, subtree_groups(world.graph, 2), 0, 3, short)
    assert loss == same != other and all(
        torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters())
    )
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), grouped.parameters()))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first_weights(3, short).parameters(), first_weights(3, short).parameters())
    )


def test_training_learns_to_predict(world):
    _, before = train(world, subtree_groups(world.graph, 1), 0, 3, Settings(steps=2, rate=0.0))
    _, after = train(world, None, 0, 3, Settings(steps=60))
    assert after < before - 0.02


def test_readouts_find_what_is_there_and_nothing_that_is_not(world):
    readout = tree_world._Readout(world, 5)
    exact = torch.cat(
        [readout.world.noises(readout.sample, 3), readout.world.noises(readout.sample, 2)], 1
    )
    found = readout.levels("exact", exact)
    assert (
        found["exact/level3"] > 0.999
        and found["exact/level2"] > 0.999
        and abs(found["exact/level1"]) < 0.05
        and abs(found["exact/level0"]) < 0.05
    )
    assert found["exact-kernel/level3"] > 0.99 and set(found) == {
        f"exact{k}/level{level}" for k in ("", "-kernel") for level in range(4)
    }
    tokens = torch.zeros(FIT + TEST, 64, 4)
    for k in tree_world.TOKENS:
        tokens[:, k] = torch.cat(
            [readout.world.noises(readout.sample, level, f"x{k}") for level in range(4)], 1
        )
    assert all(value > 0.999 for value in readout.token_levels(tokens).values())
    assert all(abs(value) < 0.05 for value in readout.token_levels(tokens.flip(0)).values())


def test_records_hold_measures_origin_and_whose_training_they_are(records):
    json.dumps(records, allow_nan=False)
    runs = {r["run"]: r for r in records}
    assert (
        list(runs) == ["random-r50", "subtrees2-r50", "estimated4-r50"]
        and len({r["hash"] for r in records}) == 3
    )
    assert (
        runs["estimated4-r50"]["trained_as"] == "subtrees2-r50"
        and runs["estimated4-r50"]["measures"] == runs["subtrees2-r50"]["measures"]
    )
    expected = {
        f"{name}{k}/level{level}"
        for name in ("mean", "untrained", "pixels")
        for k in ("", "-kernel")
        for level in range(4)
    }
    assert set(runs["random-r50"]["measures"]) == expected | {f"token/level{k}" for k in range(4)}
    assert all(
        Interval.from_dict(value).value <= 1 for r in records for value in r["measures"].values()
    )
    assert {"commit", "hardware", "seconds", "loss", "config"} <= runs["random-r50"].keys()


def test_claims_name_runs_of_the_designs():
    names = {f"{name}-r50" for name in DESIGNS}
    for identity, claim in TREE_CLAIMS.items():
        assert claim.id == identity and claim.kind == "tree_world"
        assert all(
            {test.high, test.low} <= names and test.measure in ("mean/level2", "mean/level3")
            for test in claim.tests
        )


def test_recorded_runs_are_complete_and_decide_every_claim():
    records = read_results("tree_world")
    values = by_run(records, "mean/level3")
    ratios = {f"random-r{ratio}" for ratio in (10, 25, 50, 75, 90)}
    assert values.keys() == {f"{name}-r50" for name in DESIGNS} | ratios
    assert all({0, 1, 2} <= set(found) for found in values.values())
    own = ("seed", "design", "groups", "margin", "ratio")
    same = {k: v for k, v in vars(Settings()).items() if k not in own}
    assert all({k: v for k, v in r["config"].items() if k not in own} == same for r in records)
    for claim in TREE_CLAIMS.values():
        assert decide(claim, records).verdict in ("reproduced", "not reproduced", "undecided")


def test_more_draws_recover_more_of_the_tree():
    few, some, many = quad_world.recovery((16, 200, 4000), seeds=5)
    assert (
        few.lacking > some.lacking == many.lacking == 0
        and few.exact < many.exact == many.groups == 1
        and (few.draws, few.seeds) == (16, 5)
    )


def test_an_unknown_design_is_one_clear_line():
    with pytest.raises(InputError, match="no design 'squares'") as caught:
        evaluate_tree_world(("squares",))
    assert "\n" not in str(caught.value)


def test_each_ratio_is_a_run_of_its_own_and_made_once(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        tree_world,
        "evaluate_tree_world",
        lambda designs, seeds, settings, report: asked.append((*designs, *seeds, settings.ratio)),
    )
    words = ["--designs", "random", "--seeds", "7", "--ratios", "0.1", "0.9"]
    done = tree_world.identity("random", 7, None, Settings(0.1))
    assert done["run"] == "random-r10" and done["name"] == "random-r10-s7"
    tree_world.main([*words, "--out", str(tmp_path)])
    assert asked == [("random", 7, 0.1), ("random", 7, 0.9)]
    (tmp_path / f"{done['name']}-{done['hash']}.json").write_text(json.dumps(done))
    tree_world.main([*words, "--out", str(tmp_path)])
    assert asked[2:] == [("random", 7, 0.9)]
