"""Theorem 1's conditions by numbers: right on models that can be worked out by hand or by ranks of
covariances, and the five counterexamples."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest

from mae_lib.base.errors import InputError
from mae_lib.theory.conditions import (
    COUNTEREXAMPLES,
    LinearModel,
    linear_model,
    meets_conditions,
    minimal_sets,
    valid_sets,
)
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import figure_4, random_dag, tree
from mae_lib.theory.shared import locate_shared

FORK = LatentGraph([("z", "x"), ("z", "y")], ["x", "y"], {"z": 2})


def subsets(items) -> list[frozenset]:
    return [frozenset(c) for k in range(len(items) + 1) for c in itertools.combinations(items, k)]


def test_a_linear_model_is_its_graph_in_numbers() -> None:
    graph = LatentGraph(
        [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("d", "x"), ("a", "y")],
        ["y", "x"],
        {"a": 2, "x": 0},
    )
    model = linear_model(graph, 1)
    assert model.latents == graph.latents and model.observables == graph.observables
    total = sum(graph.noise_dims.values())
    columns = dict(
        zip(
            graph.nodes,
            np.split(np.arange(total), np.cumsum([graph.noise_dims[v] for v in graph.nodes])[:-1]),
        )
    )
    for v in graph.nodes:
        assert model.maps[v].shape == (graph.dims[v], total) and model.maps[v].dtype == np.float64
        own = np.concatenate([columns[u] for u in graph.ancestors[v]])
        assert np.abs(np.delete(model.maps[v], own, axis=1)).max(initial=0) < 1e-12, (
            "a variable knows only the noises above it"
        )
        assert model.rank([v]) == len(own) <= model.coordinates([v]) == graph.dims[v], (
            "and all of them"
        )
        below = model.stack(graph.parents[v])
        assert (
            model.rank([v, *graph.parents[v]]) == model.rank([v])
            and len(below) == graph.dims[v] - graph.noise_dims[v]
        )
    assert model.coordinates([]) == model.rank([]) == 0 and model.stack([]).shape == (0, total)
    same, other = linear_model(graph, 1), linear_model(graph, 2)
    assert all(
        np.array_equal(same.maps[v], model.maps[v])
        and not np.allclose(other.maps[v], model.maps[v])
        for v in graph.nodes
    )


def test_the_maps_are_well_conditioned() -> None:
    graph = LatentGraph([("z", "x")], ["x"], {"z": 30})
    values = np.linalg.svd(linear_model(graph, 0).maps["z"], compute_uv=False)
    assert 0.5 <= values.min() < 0.7 and 1.4 < values.max() <= 2
    deep = LatentGraph(
        [*((f"z{k}", f"z{k + 1}") for k in range(7)), ("z7", "x"), ("z7", "y")], ["x", "y"]
    )
    assert minimal_sets(linear_model(deep, 0), ["x"]) == [{"z7"}], (
        "nine levels are within the tolerance"
    )


def test_a_fork_by_hand() -> None:
    model = linear_model(FORK, 3)
    right, none = meets_conditions(model, ["x"], ["z"]), meets_conditions(model, ["x"], [])
    assert (
        right
        and right.failures == ()
        and max(right.beyond_masked, right.beyond_visible, right.dependence) < 1e-12
    )
    assert (
        not none
        and (none.beyond_masked, none.beyond_visible) == (0, 0)
        and none.dependence == pytest.approx(1)
    )
    assert none.failures == ("condition 2: given c, the two parts are still dependent",)
    for masked in ([], ["x", "y"]):
        assert valid_sets(model, masked) == [frozenset()], "one side is nothing: it shares nothing"
        verdict = meets_conditions(model, masked, ["z"])
        assert (
            not verdict
            and len(verdict.failures) == 1
            and ("visible" if masked else "masked") in verdict.failures[0]
        )
    assert valid_sets(model, ["x"], ignored=["y"]) == [frozenset()]


def test_the_dependence_is_a_partial_correlation() -> None:
    """x, y and w are z with a noise of their own: corr(x, y) = ½, and given w, which halves the
    variance of z, it is ½ / 1½."""
    model = LinearModel(
        {v: np.eye(1, 4) + np.eye(1, 4, k) for k, v in enumerate("wxy", start=1)}, ("x", "y")
    )
    assert meets_conditions(model, ["x"], []).dependence == pytest.approx(1 / 2)
    assert meets_conditions(model, ["x"], ["w"]).dependence == pytest.approx(1 / 3)


def test_figure_4() -> None:
    graph, masks = figure_4()
    model = linear_model(graph, 0)
    assert [minimal_sets(model, masks[name]) for name in ("left", "middle", "right")] == [
        [{"z3"}],
        [{"z6"}],
        [{"z1", "z2"}],
    ]


def test_dimension_is_that_of_coordinates() -> None:
    """Every valid set carries the same information; only coordinates, or inclusion, single one
    out."""
    model = linear_model(tree(2, 3), 0)
    masked = ["x0", "x4"]
    valid, c = valid_sets(model, masked), locate_shared(tree(2, 3), masked).c
    assert (
        len(valid) == 8
        and minimal_sets(model, masked) == [c] == [frozenset({"z1_0", "z1_2"})]
        and all(c <= other for other in valid)
    )
    assert (
        minimal_sets(model, masked, intrinsic=True) == valid
        and {model.rank(v) for v in valid} == {5}
        and model.coordinates(c) == 6
    )


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units_do_not_matter(scale: float) -> None:
    graph = random_dag(4, 4, 5)
    model = linear_model(graph, 5)
    scaled = LinearModel({v: scale * rows for v, rows in model.maps.items()}, model.observables)
    for masked in subsets(graph.observables):
        assert valid_sets(scaled, masked) == valid_sets(model, masked)


def test_verdicts_are_those_of_the_ranks_of_covariances() -> None:
    """On models of small whole numbers and of no graph, where conditions fail in every way: c is a
    function of x_m when it adds nothing to its rank, and x_m ⊥ x_mᶜ | c when the covariance of
    (x_m, c) with (x_mᶜ, c) has the rank of c's.
    """
    rank = lambda matrix: int(np.linalg.matrix_rank(matrix, tol=1e-6)) if matrix.size else 0
    seen = set()
    for seed in range(40):
        draw = np.random.default_rng(seed)
        width = int(draw.integers(2, 6))
        maps = {
            v: draw.integers(-1, 2, size=(draw.integers(1, 4), width)).astype(float)
            for v in ("p", "q", "r", "x", "y", "w")
        }
        if seed % 2:  # something that both sides share, so that conditions also hold
            maps["x"], maps["y"] = (
                np.vstack([maps["p"], np.eye(1, width)]),
                np.vstack([maps["p"], np.eye(1, width, width - 1)]),
            )
        model = LinearModel(maps, ("x", "y", "w"))
        for masked, ignored in ((["x"], []), (["x"], ["w"]), (["x", "w"], []), (["y"], ["w"])):
            visible = [v for v in model.observables if v not in masked + ignored]
            expected = []
            for c in subsets(model.latents):
                m, v, shared = model.stack(masked), model.stack(visible), model.stack(c)
                met = [rank(np.vstack([side, shared])) == rank(side) for side in (m, v)]
                met.append(rank(np.vstack([m, shared]) @ np.vstack([v, shared]).T) == rank(shared))
                verdict = meets_conditions(model, masked, c, ignored)
                values = (verdict.beyond_masked, verdict.beyond_visible, verdict.dependence)
                assert [value < 1e-7 for value in values] == met and max(values) <= 1 + 1e-12
                assert len(verdict.failures) == 3 - sum(met) and bool(verdict) == all(met)
                expected += [c] if all(met) else []
                seen.add(tuple(met))
            assert valid_sets(model, masked, ignored) == expected
    assert len(seen) == 8, "every way to fail, and none"


FOUND = {
    "dependent noises": [],
    "noiseless latent": [
        {"z1"},
        {"z2"},
        {"z0", "z1"},
        {"z0", "z2"},
        {"z1", "z2"},
        {"z0", "z1", "z2"},
    ],
    "observable with a child": [],
    "additive noise": [],
    "invertible only jointly": [],
    "injective, not onto": [{"z"}],
}


@pytest.mark.parametrize("name", COUNTEREXAMPLES)
def test_a_counterexample_is_what_it_says(name: str) -> None:
    example = COUNTEREXAMPLES[name]
    model = example.model()
    assert example.valid_sets() == valid_sets(model, example.masked) == FOUND[name]
    assert set(model.maps) == set(example.noise_dims) and model.observables == example.observables
    # What the algorithm says on this graph, were it asked: common ancestors among the latents, and
    # their sinks.
    graph = nx.DiGraph(example.edges)
    latents = set(example.noise_dims) - set(example.observables)
    below = {z: nx.descendants(graph, z) & set(example.observables) for z in latents}
    common = {z for z in latents if below[z] & example.masked and below[z] - example.masked}
    assert example.says == {z for z, degree in graph.subgraph(common).out_degree if not degree}
    assert (example.says in example.valid_sets()) == (
        name in ("noiseless latent", "injective, not onto")
    )
    assert name == "injective, not onto" or example.says not in minimal_sets(model, example.masked)
    try:
        assert (
            locate_shared(
                LatentGraph(example.edges, example.observables, example.noise_dims), example.masked
            ).c
            == example.says
        )
    except InputError:
        assert name in (
            "noiseless latent",
            "observable with a child",
        ), "these two a LatentGraph refuses"


def test_the_numbers_in_the_statements() -> None:
    models = {name: example.model() for name, example in COUNTEREXAMPLES.items()}
    assert all(model.coordinates([v]) <= 10 for model in models.values() for v in model.maps)
    judge = lambda name, c: meets_conditions(models[name], COUNTEREXAMPLES[name].masked, c)

    without, one = judge("dependent noises", ()), judge("dependent noises", {"z1"})
    assert without.dependence == pytest.approx(0.6) and without.failures == (
        "condition 2: given c, the two parts are still dependent",
    )
    assert (
        one.beyond_masked < 1e-12
        and one.beyond_visible == pytest.approx(0.8)
        and one.dependence < 1e-12
    )

    noiseless = models["noiseless latent"]
    assert (noiseless.coordinates({"z1"}), noiseless.coordinates({"z2"})) == (
        4,
        6,
    ) and noiseless.rank({"z1"}) == noiseless.rank({"z2"}) == 4
    assert minimal_sets(noiseless, {"x0"}) == [{"z1"}]

    assert "condition 2" in judge("observable with a child", ()).failures[0]
    assert judge("observable with a child", {"z0"}).failures == (
        "condition 1: c is no function of the masked part",
    )

    for name in ("additive noise", "invertible only jointly"):
        verdict = judge(name, {"z"})
        assert (
            verdict.beyond_masked == pytest.approx(0.5**0.5) == verdict.beyond_visible
            and verdict.dependence < 1e-12
            and len(verdict.failures) == 2
        )
        assert "condition 2" in judge(name, ()).failures[0]
    rank = lambda name: models[name].rank({"x1", "x2"})
    assert rank("additive noise") == 2 < 3 and rank("invertible only jointly") == 4, (
        "only the second determines z and all noises jointly"
    )

    injective = models["injective, not onto"]
    assert (injective.coordinates({"x1", "x2"}), injective.rank({"x1", "x2"})) == (4, 3)


@pytest.mark.parametrize("correlation", [-0.9, -0.1, 0.3, 0.99])
def test_any_dependence_of_the_noises_of_observables_leaves_no_c(correlation: float) -> None:
    """The root is of the noises in the order of the nodes: z (2 dimensions), x, y; independent
    noises of another scale change nothing."""
    root = np.eye(4)
    root[3, 2:] = correlation, (1 - correlation**2) ** 0.5
    model = linear_model(FORK, 0, root)
    assert valid_sets(model, ["x"]) == [] and meets_conditions(
        model, ["x"], ["z"]
    ).dependence == pytest.approx(abs(correlation))
    assert valid_sets(linear_model(FORK, 0, np.diag([3.0, 1, 0.2, 5])), ["x"]) == [{"z"}]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: valid_sets(m, ["q"]), r"masked names 'q', which is no observable"),
        (lambda m: valid_sets(m, ["z"]), r"masked names 'z', which is no observable"),
        (lambda m: valid_sets(m, "x"), r"masked must be a collection of names, not the text 'x'"),
        (lambda m: valid_sets(m, ["x"], ["z"]), r"ignored names 'z', which is no observable"),
        (lambda m: minimal_sets(m, ["x"], ["x"]), r"observable 'x' is both masked and ignored"),
        (lambda m: meets_conditions(m, ["x"], ["y"]), r"candidate names 'y', which is no latent"),
        (lambda m: meets_conditions(m, ["x"], "z"), r"candidate must be a collection of names"),
        (
            lambda m: linear_model(FORK, 0, np.eye(3)),
            r"root of shape \[3, 3\] does not fit the model's 4 noises",
        ),
        (lambda m: linear_model(FORK, 0, np.ones(4)), r"root of shape \[4\]"),
        (
            lambda m: linear_model(LatentGraph([("z", "x")], ["x"], {"z": 2100}), 0),
            r"'z' would have 2100 coordinates",
        ),
        (
            lambda m: valid_sets(linear_model(tree(2, 5), 0), ["x0"]),
            r"31 latents have too many subsets",
        ),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        call(linear_model(FORK, 0))
    assert "\n" not in str(error.value)
