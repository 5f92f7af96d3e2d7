"""The process of Assumption 1: what it generates can be inverted exactly, its parts are drawn as
they say, and wrong input is refused."""

from __future__ import annotations

import math

import pytest
import torch

from mae_lib.base.errors import InputError
from mae_lib.identification.process import (
    DRAWS,
    KEPT,
    CorrelatedNormal,
    LeakyMap,
    PolarMap,
    Process,
    draw_matrix,
    standard_normal,
)
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import quad_tree, random_dag, tree


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


GRAPHS = [
    *(random_dag(latents, 3, seed) for seed in range(4) for latents in (2, 5)),
    quad_tree((2, 4)),
    LatentGraph(
        [("a", "b"), ("a", "c"), ("b", "c"), ("c", "x"), ("b", "y")],
        ["x", "y"],
        {"a": 2, "b": 3, "y": 0},
    ),
]


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_every_variable_gives_back_all_its_ancestors_and_their_noises(graph):
    process = Process(graph, seed=1, dtype=torch.float64)
    sample = process.sample(50, generator())
    for v in graph.nodes:
        found = process.invert(v, sample.values[v])
        assert set(found.values) == set(found.noises) == graph.ancestors[v]
        for name in graph.ancestors[v]:
            assert torch.allclose(found.values[name], sample.values[name], rtol=0, atol=1e-9)
            assert torch.allclose(found.noises[name], sample.noises[name], rtol=0, atol=1e-9)


def test_single_precision_inverts_too():
    process = Process(quad_tree((2, 4)), seed=0)
    sample = process.sample(100, generator())
    found = process.invert("x3", sample.values["x3"])
    assert found.noises["x3"].dtype == torch.float32
    assert all(torch.allclose(found.noises[v], sample.noises[v], atol=1e-3) for v in found.noises)


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_samples_have_the_dimensions_of_the_graph_and_follow_from_the_noises(graph):
    process = Process(graph, seed=2, standardised=False)
    sample = process.sample(7, generator())
    assert {v: tuple(x.shape) for v, x in sample.values.items()} == {
        v: (7, d) for v, d in graph.dims.items()
    }
    assert {v: tuple(x.shape) for v, x in sample.noises.items()} == {
        v: (7, d) for v, d in graph.noise_dims.items()
    }
    again = process.generate(sample.noises)
    assert all(torch.equal(again.values[v], sample.values[v]) for v in graph.nodes)
    for v in graph.nodes:  # parents in the graph's order, then the noise
        inputs = torch.cat([*(sample.values[p] for p in graph.parents[v]), sample.noises[v]], 1)
        assert torch.allclose(process.mechanisms[v].forward(inputs), sample.values[v])


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_every_variable_is_standardised_and_is_its_mechanism_on_another_scale(graph):
    process = Process(graph, seed=2, dtype=torch.float64)
    sample = process.sample(4000, generator(7))
    for v in graph.nodes:
        own = sample.values[v]
        assert own.mean(0).abs().max() < 0.1 and (own.std(0) - 1).abs().max() < 0.1
        inputs = torch.cat([*(sample.values[p] for p in graph.parents[v]), sample.noises[v]], 1)
        raw = process.mechanisms[v].forward(inputs.double())
        # one shift and one factor a coordinate
        slope = own.std(0) / raw.std(0)
        assert torch.allclose((raw - raw.mean(0)) * slope, own - own.mean(0), atol=1e-8)


def test_a_coordinate_that_never_varies_keeps_its_size():
    graph = LatentGraph([("z", "x"), ("z", "y")], ["x", "y"])
    still = lambda graph, n, generator: {
        v: torch.full((n, d), 2.0) if v == "z" else torch.randn(n, d, generator=generator)
        for v, d in graph.noise_dims.items()
    }
    process = Process(graph, 0, noise=still, dtype=torch.float64)
    sample = process.sample(5, generator())
    assert sample.values["z"].abs().max() < 1e-9
    found = process.invert("x", sample.values["x"])
    assert torch.allclose(found.noises["z"], torch.full((5, 1), 2.0, dtype=torch.float64))


def test_a_noise_reaches_descendants_and_nothing_else():
    graph = LatentGraph([("a", "b"), ("a", "c"), ("b", "x"), ("c", "y")], ["x", "y"])
    process = Process(graph, seed=0)
    sample = process.sample(20, generator())
    changed = process.generate({**sample.noises, "b": sample.noises["b"] + 1})
    moved = {v for v in graph.nodes if not torch.equal(changed.values[v], sample.values[v])}
    assert moved == {"b", "x"}


def test_a_seed_means_one_process_and_a_mechanism_at_one_node_leaves_the_others():
    graph = tree(2, 2)
    matrices = lambda process: {
        v: (m.first, m.second) for v, m in process.mechanisms.items() if isinstance(m, LeakyMap)
    }
    first, again, other = (matrices(Process(graph, seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for v in graph.nodes for a, b in zip(first[v], again[v]))
    assert not any(
        torch.equal(a, b) for v in graph.nodes for a, b in zip(first[v], other[v]) if len(a) > 1
    )
    special = matrices(Process(graph, 3, special={"z1_0": PolarMap}))
    assert set(special) == set(graph.nodes) - {"z1_0"}
    assert all(torch.equal(a, b) for v in special for a, b in zip(first[v], special[v]))
    assert not torch.equal(first["x0"][0], first["x0"][1]) and not torch.equal(
        first["x0"][0], first["x1"][0]
    )


@pytest.mark.parametrize("dim", [2, 4, 7])
def test_matrices_are_among_the_best_twentieth_by_condition_number(dim):
    for seed in range(5):
        matrix = draw_matrix(dim, generator(seed))
        drawn = torch.rand(DRAWS, dim, dim, generator=generator(seed), dtype=torch.float64) * 2 - 1
        drawn /= drawn.norm(dim=1, keepdim=True)
        singular = torch.linalg.svdvals(drawn)
        conditions = (singular[:, 0] / singular[:, -1]).sort().values
        own = torch.linalg.svdvals(matrix)
        assert torch.allclose(matrix.norm(dim=0), torch.ones(dim, dtype=torch.float64))
        assert own[0] / own[-1] <= conditions[KEPT - 1] * (1 + 1e-9) and KEPT / DRAWS == 0.05


def test_the_choice_among_the_best_is_not_always_the_best():
    ranks = set()
    for seed in range(12):
        drawn = torch.rand(DRAWS, 3, 3, generator=generator(seed), dtype=torch.float64) * 2 - 1
        conditions = torch.linalg.cond(drawn / drawn.norm(dim=1, keepdim=True))
        own = torch.linalg.cond(draw_matrix(3, generator(seed)))
        ranks.add(int((conditions < own * (1 - 1e-9)).sum()))
    assert len(ranks) > 4 and max(ranks) < KEPT


def test_the_default_mechanism_is_the_two_layer_leaky_map():
    mechanism = LeakyMap(3, generator())
    x = torch.randn(40, 3, generator=generator(1), dtype=torch.float64)
    hidden = x @ mechanism.first.T
    expected = torch.where(hidden > 0, hidden, 0.2 * hidden) @ mechanism.second.T
    assert torch.allclose(mechanism.forward(x), expected) and not torch.allclose(
        mechanism.forward(-x), -expected
    )


def test_noises_are_standard_normal_and_independent():
    graph = tree(2, 2)
    noises = torch.cat(list(standard_normal(graph, 20_000, generator()).values()), 1)
    assert noises.shape == (20_000, 7)
    assert (
        torch.allclose(noises.T.cov(), torch.eye(7), atol=0.04)
        and noises.mean(0).abs().max() < 0.04
    )
    assert abs(noises.pow(4).mean() - 3) < 0.15


def test_correlated_noises_are_correlated_within_their_group_only():
    graph = LatentGraph(
        [("a", "x"), ("a", "y"), ("b", "y"), ("b", "w")], ["x", "y", "w"], {"a": 2, "b": 2}
    )
    noises = CorrelatedNormal(0.6, (("a", "b"), ("x", "y")))(graph, 40_000, generator())
    found = torch.cat([noises[v] for v in ("a", "b", "x", "y", "w")], 1).T.cov()
    expected = torch.eye(7)
    for i, j in ((0, 2), (1, 3), (4, 5)):
        expected[i, j] = expected[j, i] = 0.6
    assert torch.allclose(found, expected, atol=0.03)


def test_a_polar_mechanism_inverts_and_has_no_mean_given_its_parents():
    polar = PolarMap(4, generator())
    parents = torch.randn(30, 3, generator=generator(1), dtype=torch.float64)
    inputs = torch.cat(
        [parents, torch.randn(30, 1, generator=generator(2), dtype=torch.float64)], 1
    )
    assert torch.allclose(polar.inverse(polar.forward(inputs)), inputs, atol=1e-9)
    many = torch.randn(20_000, 1, generator=generator(3), dtype=torch.float64)
    for row in parents[:3]:
        outputs = polar.forward(torch.cat([row.expand(20_000, 3), many], 1))
        assert (outputs.mean(0).abs() < 5 * outputs.std(0) / math.sqrt(20_000)).all()
        assert torch.allclose(outputs[:, 0] ** 2 + outputs[:, 1] ** 2, row[0].exp().expand(20_000))
    with pytest.raises(InputError, match="3 is odd"):
        PolarMap(3, generator())


def test_a_mechanism_of_ones_own():
    class Shift:
        def __init__(self, dim: int, generator: torch.Generator) -> None:
            self.by = torch.arange(1.0, dim + 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs + self.by

        def inverse(self, outputs: torch.Tensor) -> torch.Tensor:
            return outputs - self.by

    graph = LatentGraph([("a", "x")], ["x"])
    sample = Process(graph, 0, mechanism=Shift, standardised=False).generate(
        {"a": torch.zeros(1, 1), "x": torch.zeros(1, 1)}
    )
    assert sample.values["a"].tolist() == [[1.0]] and sample.values["x"].tolist() == [[2.0, 2.0]]


def test_wrong_input_is_refused_by_name():
    graph = LatentGraph([("a", "x")], ["x"])
    process = Process(graph, 0)
    good = {"a": torch.zeros(3, 1), "x": torch.zeros(3, 1)}
    for call, words in (
        (lambda: process.sample(0, generator()), "number of draws 0"),
        (lambda: process.generate({"a": torch.zeros(3, 1)}), "'x' has no noise"),
        (
            lambda: process.generate({**good, "a": torch.zeros(3, 2)}),
            r"noise of 'a' has shape \[3, 2\]: it must be \[n, 1\]",
        ),
        (lambda: process.generate({**good, "a": torch.zeros(2, 1)}), "number of rows"),
        (lambda: process.invert("q", torch.zeros(3, 1)), "'q' is no node"),
        (
            lambda: process.invert("x", torch.zeros(3, 1)),
            r"value of 'x' has shape \[3, 1\]: it must be \[n, 2\]",
        ),
        (lambda: Process(graph, 0, special={"q": PolarMap}), "'q', which is no node"),
        (lambda: CorrelatedNormal(1.0, ()), "correlation 1.0"),
        (
            lambda: CorrelatedNormal(0.5, (("a", "q"),))(graph, 2, generator()),
            "'q', which is no node",
        ),
        (
            lambda: CorrelatedNormal(0.5, (("a", "x"),))(
                LatentGraph([("a", "x")], ["x"], {"a": 2}), 2, generator()
            ),
            "differ in dimension",
        ),
    ):
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
