"""Which latents masks can identify, against brute force: c of every three-valued mask, closed under
joining and intersecting, once as sets of noises and once as σ-algebras of a discrete model, where
nothing is assumed of what a variable determines."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest

from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import figure_4, quad_tree, random_dag, tree
from mae_lib.theory.lattice import identifiable
from mae_lib.theory.shared import locate_shared


def closure(found: set, join: Callable, meet: Callable) -> set:
    """All that comes of a set by joining and intersecting two at a time."""
    new = set(found)
    while new:
        made = {
            operation(a, b) for a, b in itertools.product(new, found) for operation in (join, meet)
        }
        new = made - found
        found = found | new
    return found


def masks(graph: LatentGraph) -> list[tuple[set, set]]:
    """(masked, visible) of every three-valued mask with something in both."""
    kinds = itertools.product((0, 1, 2), repeat=len(graph.observables))
    pick = lambda kind, k: {x for x, one in zip(graph.observables, kind) if one == k}
    return [(pick(kind, 1), pick(kind, 2)) for kind in kinds if 1 in kind and 2 in kind]


def noises_shared(graph: LatentGraph, masked: set, visible: set) -> frozenset:
    """By reachability alone: what is above something masked and above something visible."""
    G = graph.to_networkx()
    above = lambda side: set().union(*(nx.ancestors(G, x) for x in side))
    return frozenset(above(masked) & above(visible))


def dense_dag(draw: np.random.Generator) -> LatentGraph:
    """Latents above random sets of few observables, so that most pairs have several lowest common
    ancestors."""
    z, x = (
        [f"{name}{k}" for k in range(draw.integers(*sizes))]
        for name, sizes in (("z", (4, 7)), ("x", (3, 5)))
    )
    edges = [(a, b) for a, b in itertools.combinations(z, 2) if draw.random() < 0.05]
    for a in z:
        edges += [(a, x[k]) for k in draw.permutation(len(x))[: draw.integers(2, 4)]]
    return LatentGraph(edges, x)


@pytest.mark.parametrize("start", range(0, 1200, 300))
def test_against_the_closure_of_all_masks_on_random_graphs(start: int) -> None:
    kinds = {"alone": 0, "several": 0, "never": 0}
    for seed in range(start, start + 300):
        draw = np.random.default_rng(seed)
        few = int(draw.integers(1, 6)), int(draw.integers(1, 5))
        graph = dense_dag(draw) if seed % 2 else random_dag(*few, seed, parents=4)
        G = graph.to_networkx()
        once = {noises_shared(graph, *mask) for mask in masks(graph)}
        all_of_them = closure(set(once), frozenset.union, frozenset.intersection)
        found = identifiable(graph)
        for z in graph.latents:
            own = frozenset(nx.ancestors(G, z) | {z})
            assert (z in found.latents) == (own in all_of_them), (seed, z)
            assert (z in found.alone) == (own in once), (seed, z)
            assert (z in found.in_the_way) == (z not in found.latents)
            kinds["alone" if own in once else "several" if own in all_of_them else "never"] += 1
    assert kinds["alone"] > 100 and kinds["several"] > 2 and kinds["never"] > 100, kinds


def covered_in_pairs() -> LatentGraph:
    """z, and for every pair of its three observables a latent that has the pair below it too: no
    one mask isolates z."""
    edges = [("z", f"x{k}") for k in range(3)]
    edges += [
        (w, x)
        for w, pair in (("a", ("x0", "x1")), ("b", ("x1", "x2")), ("c", ("x0", "x2")))
        for x in pair
    ]
    return LatentGraph(edges, ["x0", "x1", "x2"])


def partitions(graph: LatentGraph, draw: np.random.Generator) -> dict:
    """Node → σ-algebra of a discrete model in which each node is its parents' values and its own
    fair coin under new names: the partition of the 2^nodes outcomes, as the number of the first
    outcome of each one's block."""
    states = np.array(list(itertools.product((0, 1), repeat=len(graph.nodes))))
    found: dict = {}
    for v, coin in zip(graph.nodes, states.T):
        seen = np.stack([*(np.array(found[p]) for p in graph.parents[v]), coin], 1)
        found[v] = canonical(
            draw.permutation(len(states))[
                np.unique(seen, axis=0, return_inverse=True)[1].reshape(-1)
            ]
        )
    return found


def canonical(labels: np.ndarray) -> tuple:
    _, first, index = np.unique(labels, return_index=True, return_inverse=True)
    return tuple(first[index.reshape(-1)].tolist())


def coarser_of(a: tuple, b: tuple) -> tuple:
    """Intersection of two σ-algebras: blocks that can be reached from each other through either."""
    edges = nx.Graph([(("a", p), ("b", q)) for p, q in set(zip(a, b))])
    block = {node: k for k, part in enumerate(nx.connected_components(edges)) for node in part}
    return canonical(np.array([block["a", p] for p in a]))


def finer_of(a: tuple, b: tuple) -> tuple:
    """Their join: what is told apart by either."""
    return canonical(np.unique(np.stack([a, b], 1), axis=0, return_inverse=True)[1].reshape(-1))


def many(parts: list[tuple]) -> tuple:
    found = parts[0]
    for part in parts[1:]:
        found = finer_of(found, part)
    return found


def sigma_cases() -> list[LatentGraph]:
    graphs = [random_dag(int(2 + s % 3), 3, s, parents=3, skip=0.5) for s in range(40)]
    return [
        *graphs,
        covered_in_pairs(),
        LatentGraph([("a", "x0"), ("a", "x1"), ("b", "x0"), ("b", "x1")], ["x0", "x1"]),
    ]


def test_against_the_closure_of_sigma_algebras_of_a_discrete_model() -> None:
    """σ(c) of a mask is here what the masked and the visible part both determine, by outcomes and
    not by the graph."""
    identified = several = never = 0
    for seed, graph in enumerate(sigma_cases()):
        sigma = partitions(graph, np.random.default_rng(seed))
        once = {
            coarser_of(many([sigma[x] for x in m]), many([sigma[x] for x in v]))
            for m, v in masks(graph)
        }
        all_of_them = closure(set(once), finer_of, coarser_of)
        found = identifiable(graph)
        for z in graph.latents:
            assert (z in found.latents) == (sigma[z] in all_of_them), (seed, z)
            assert (z in found.alone) == (sigma[z] in once), (seed, z)
            identified, several = (
                identified + (z in found.latents),
                several + (z in found.latents and z not in found.alone),
            )
            never += z not in found.latents
    assert identified > 20 and several >= 1 and never > 20


def test_the_answers_can_be_used() -> None:
    """The pair isolates its latent; what all pairs below an identified latent share is that latent;
    what is in the way covers it."""
    for seed in range(200):
        graph = random_dag(8, 7, seed, parents=3)
        found = identifiable(graph)
        assert set(found.alone) <= found.latents == frozenset(graph.latents) - set(found.in_the_way)
        everything = frozenset(graph.observables)
        for z, (masked, visible) in found.alone.items():
            assert locate_shared(graph, [masked], everything - {masked, visible}).c == {z}
        for z in found.latents:
            pairs = itertools.combinations(sorted(graph.descendants[z]), 2)
            common = frozenset.intersection(
                *(locate_shared(graph, [a], everything - {a, b}).common for a, b in pairs)
            )
            assert common == graph.ancestors[z]
        for z, others in found.in_the_way.items():
            assert others or len(graph.descendants[z]) == 1
            assert all(
                graph.descendants[w] >= graph.descendants[z] and w not in graph.ancestors[z]
                for w in others
            )


def test_graphs_whose_answer_is_plain() -> None:
    for graph in (
        figure_4()[0],
        tree(3, 2),
        quad_tree((4, 4)),
    ):  # in a tree one mask isolates any latent that branches
        found = identifiable(graph)
        assert (
            found.latents == frozenset(graph.latents) == set(found.alone) and not found.in_the_way
        )
    chain = LatentGraph([("a", "b"), ("b", "x0"), ("b", "x1")], ["x0", "x1"])
    assert identifiable(chain).latents == {"b"} and identifiable(chain).in_the_way == {"a": {"b"}}
    single = LatentGraph([("a", "x0")], ["x0"])
    assert not identifiable(single).latents and identifiable(single).in_the_way == {
        "a": frozenset()
    }
    twins = LatentGraph([("a", "x0"), ("a", "x1"), ("b", "x0"), ("b", "x1")], ["x0", "x1"])
    assert not identifiable(twins).latents and identifiable(twins).in_the_way == {
        "a": {"b"},
        "b": {"a"},
    }
    found = identifiable(covered_in_pairs())
    assert (
        found.latents == {"z"} and not found.alone and found.in_the_way == {w: {"z"} for w in "abc"}
    )
    nothing = identifiable(LatentGraph([], ["x0", "x1"]))
    assert not nothing.latents and not nothing.alone and not nothing.in_the_way
