"""What the loss asks of each level: c_i and the share of the patches that have it at each height,
against oracles that do not reason as the code does: reachability, conditional expectations in
discrete models by listing every outcome, all masks of small trees, and masks drawn."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_lib.base.errors import InputError
from mae_lib.masks.masking import mask_batches
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import quad_tree, random_dag, tree
from mae_lib.theory.shared import locate_shared
from mae_lib.theory.spectra import mean_level
from mae_lib.theory.worth import (
    LARGEST,
    finite_height_shares,
    height_shares,
    locate_shared_patches,
    patch_spectrum,
    peak_ratio,
)


def three_valued(
    draw: np.random.Generator, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Random masks, and what they ignore."""
    kind = draw.integers(0, 3, shape) if draw.random() < 0.5 else draw.integers(1, 3, shape)
    return kind == 1, kind == 0


def lowest_by_networkx(graph: LatentGraph, i: str, visible: set[str]) -> frozenset:
    """Latents above i that reach a visible observable and have none such below them; by
    reachability, and no Algorithm 1."""
    G = graph.to_networkx()
    above = {z for z in nx.ancestors(G, i) if nx.descendants(G, z) & visible}
    return frozenset(z for z in above if not nx.descendants(G, z) & above)


def test_c_of_a_patch_on_a_thousand_random_graphs() -> None:
    members = 0
    for seed in range(1000):
        draw = np.random.default_rng(seed)
        graph = random_dag(int(draw.integers(1, 7)), int(draw.integers(2, 7)), seed, parents=3)
        names, L = graph.observables, np.array(graph.latents, object)
        masked, ignored = three_valued(draw, (3, len(names)))
        found = locate_shared_patches(graph, masked, ignored)
        for row, (m, skip) in enumerate(zip(masked, ignored)):
            hidden = {x for x, h in zip(names, m) if h}
            visible = {x for x, h, s in zip(names, m, skip) if not h and not s}
            whole = locate_shared(graph, hidden, set(names) - hidden - visible)
            union, held = set(), set()
            for i, x in enumerate(names):
                c_i = frozenset(L[found[row, i]])
                if x not in hidden:
                    assert not c_i
                    continue
                # Theorem 1's c for the mask {i}, all other hidden patches ignored.
                assert c_i == locate_shared(graph, {x}, set(names) - {x} - visible).c
                assert c_i == lowest_by_networkx(graph, x, visible)
                union |= set().union(*(graph.ancestors[z] for z in c_i))
                held |= c_i
            assert union == whole.common and whole.c <= held  # A2
            members += len(held)
    assert members > 1000


def outcomes(graph: LatentGraph, draw: np.random.Generator) -> tuple[np.ndarray, dict, dict]:
    """A discrete model that meets A1–A5, outcome by outcome: chances [n]; node → what it
    determines, as a number for each outcome [n]; observable → its real value [n], a random number
    for each of its distinct values, so that no two means agree by chance."""
    kinds = [2] * len(graph.latents) + [int(draw.integers(1, 3)) for _ in graph.observables]
    states = np.array(list(itertools.product(*(range(k) for k in kinds))))
    chances = np.ones(len(states))
    for column, k in zip(states.T, kinds):
        p = draw.dirichlet([2.0] * k)
        chances *= p[column]
    noise = dict(zip(graph.nodes, states.T))
    label: dict = {}
    for (
        v
    ) in graph.nodes:  # parents first: v is its parents' values and its own noise, under new names
        seen = np.stack([*(label[p] for p in graph.parents[v]), noise[v]], 1)
        label[v] = np.unique(seen, axis=0, return_inverse=True)[1].reshape(-1)
    value = {x: draw.normal(size=label[x].max() + 1)[label[x]] for x in graph.observables}
    return chances, label, value


def expectation(value: np.ndarray, chances: np.ndarray, given_: list[np.ndarray]) -> np.ndarray:
    """E[value | given], for each outcome, by listing."""
    key = np.unique(np.stack([np.zeros(len(value), int), *given_], 1), axis=0, return_inverse=True)[
        1
    ].reshape(-1)
    weight, total = np.bincount(key, chances), np.bincount(key, chances * value)
    return (total / weight)[key]


def test_a_hidden_patch_needs_the_mean_given_its_c_and_no_less() -> None:
    """A1, exactly, in discrete models; a member of c_i left out changes the mean whenever others do
    not determine it."""
    patches = smaller = 0
    for seed in range(1000):
        draw = np.random.default_rng(seed)
        graph = random_dag(int(draw.integers(1, 4)), int(draw.integers(2, 5)), seed, parents=2)
        chances, label, value = outcomes(graph, draw)
        masked, ignored = three_valued(draw, (1, len(graph.observables)))
        found = locate_shared_patches(graph, masked, ignored)[0]
        visible = [
            label[x] for x, h, s in zip(graph.observables, masked[0], ignored[0]) if not h and not s
        ]
        for i in np.flatnonzero(masked[0]):
            x = graph.observables[i]
            c_i = [z for z, member in zip(graph.latents, found[i]) if member]
            best = expectation(value[x], chances, visible)
            assert (
                np.abs(best - expectation(value[x], chances, [label[z] for z in c_i])).max() < 1e-12
            )
            patches += 1
            for z in c_i:
                rest = [label[w] for w in (*(set(c_i) - {z}), *graph.parents[z])]
                smaller += np.abs(best - expectation(value[x], chances, rest)).max() > 1e-6
    assert patches > 1000 and smaller > 500


def test_tensors_and_arrays_alike_and_a_graph_without_latents() -> None:
    graph = quad_tree((4, 4))
    masked = torch.rand(20, 16, generator=torch.Generator().manual_seed(0)) < 0.6
    found = locate_shared_patches(graph, masked)
    assert isinstance(found, torch.Tensor) and found.shape == (20, 16, 5)
    assert np.array_equal(found.numpy(), locate_shared_patches(graph, masked.numpy()))
    assert not found[~masked].any() and bool((found.sum(2) <= 1).all())
    alone = LatentGraph([], ["a", "b"])
    assert locate_shared_patches(alone, np.array([[True, False]])).shape == (1, 2, 0)
    assert patch_spectrum(
        alone, [(torch.tensor([[True, False]]), torch.zeros(1, 2, dtype=torch.bool))]
    ).tolist() == [0.5]


def all_masks(leaves: int) -> np.ndarray:
    return np.array(list(itertools.product((False, True), repeat=leaves)))


@pytest.mark.parametrize(("arity", "depth"), [(2, 1), (2, 2), (2, 3), (3, 2), (4, 1)])
def test_shares_by_enumeration_of_all_masks(arity: int, depth: int) -> None:
    """The independent law, up to the height of a finite tree's root, and the law of a fixed number,
    number by number."""
    graph = tree(arity, depth)
    masks = all_masks(arity**depth)
    levels = np.array([graph.levels[z] for z in graph.latents])
    c = locate_shared_patches(graph, masks)
    by_height = np.stack(
        [c[:, :, levels == h].any(2).mean(1) for h in range(1, depth + 1)], 1
    )  # [masks, heights]
    n = masks.sum(1)
    for ratio in (0.1, 0.4, 0.5, 0.85):
        chance = ratio**n * (1 - ratio) ** (len(graph.observables) - n)
        assert height_shares(ratio, arity, depth) == pytest.approx(chance @ by_height, abs=1e-12)
    for hidden in range(1, len(graph.observables)):
        exact = by_height[n == hidden].mean(0)
        found = finite_height_shares(hidden / len(graph.observables), arity, depth)
        assert found == pytest.approx(exact, abs=1e-12) and sum(found) == pytest.approx(
            hidden / len(graph.observables)
        )


@pytest.mark.parametrize(
    ("law", "unit", "closed"),
    [
        ("independent", 0, lambda r: height_shares(r, 4, 4)),
        ("random", 0, lambda r: finite_height_shares(r, 4, 4)),
        ("random", 1, lambda r: finite_height_shares(r, 4, 4, unit_height=1)),
        ("random", 2, lambda r: finite_height_shares(r, 4, 4, unit_height=2)),
    ],
)
def test_shares_by_drawing_masks_over_a_grid(law: str, unit: int, closed) -> None:
    """Within five standard errors: the masks of the library's own laws, and c_i by Algorithm 1;
    units shift the heights (A4)."""
    graph = quad_tree((16, 16))
    for ratio in (0.25, 0.75, 0.95) if unit == 0 else (0.25, 0.75):
        rows = np.array(
            [
                patch_spectrum(graph, mask_batches(law, (16, 16), ratio, 2**unit, masks=8, seed=k))
                for k in range(40)
            ]
        )
        mean, error = rows.mean(0), rows.std(0, ddof=1) / np.sqrt(len(rows))
        exact = np.array([0, *closed(ratio)])
        # A rare event may not have been seen at all; it is one of a block of 4^(h − 1) patches.
        rare = np.sqrt(exact * 4.0 ** np.arange(-1, 4) / 256 / 320)
        assert np.all(np.abs(mean - exact) <= 5 * np.maximum(error, rare)), (ratio, mean, exact)


def test_mean_level_on_the_book_s_tree_and_the_shares_of_the_statement() -> None:
    mean = [
        mean_level(np.array([0, *finite_height_shares(r, 4, 3)]))
        for r in (0.1, 0.25, 0.5, 0.75, 0.9)
    ]
    assert np.round(mean, 3).tolist() == [1.0, 1.011, 1.113, 1.414, 1.917]
    assert height_shares(0.9, 4, 3) == pytest.approx(
        [0.9 - 0.9**4, 0.9**4 - 0.9**16, 0.9**16 - 0.9**64]
    )
    above = lambda r: sum(height_shares(r, 4, 40)[1:])
    assert above(0.9) / above(0.1) == pytest.approx(9**4) == 6561


ratios = st.floats(0.01, 0.99)


@settings(max_examples=200, deadline=None)
@given(ratios, st.integers(2, 9), st.integers(1, 6), st.integers(0, 3))
def test_shares_are_a_law_with_one_top_where_it_is_said_to_be(
    ratio: float, arity: int, height: int, unit: int
) -> None:
    shares = height_shares(ratio, arity, 40, unit)
    assert min(shares) >= 0 and sum(shares) == pytest.approx(ratio)  # the sum telescopes
    assert shares[:unit] == [0] * min(unit, 40) and shares[unit:] == height_shares(
        ratio, arity, 40 - unit
    )
    top = peak_ratio(height + unit, arity, unit)
    weight = lambda r: height_shares(r, arity, height + unit, unit)[-1]
    nearer = top + (ratio - top) / 2
    # Falling on both sides of the top; both may underflow to 0 far from it.
    assert weight(ratio) <= weight(nearer) <= weight(top)
    assert weight(ratio) < weight(top) or abs(ratio - top) < 1e-3


def test_tops_of_the_statement() -> None:
    assert [round(peak_ratio(h, 4), 2) for h in (1, 2, 3)] == [0.63, 0.89, 0.97]
    assert [round(peak_ratio(h, 2), 2) for h in (1, 2, 3, 4)] == [0.5, 0.71, 0.84, 0.92]
    assert peak_ratio(3000, 4) == 1.0


@settings(max_examples=100, deadline=None)
@given(ratios, st.integers(2, 5), st.integers(1, 4))
def test_a_fixed_number_tends_to_the_independent_law_as_the_tree_grows(
    ratio: float, arity: int, height: int
) -> None:
    depth = {2: 14, 3: 9, 4: 7, 5: 6}[arity]
    deep = finite_height_shares(ratio, arity, depth)
    assert deep[:height] == pytest.approx(height_shares(ratio, arity, height), abs=5e-3)


GRAPH = tree(2, 2)
YES = np.array([[True, False, False, False]])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        *(
            (lambda r=r: height_shares(r, 4, 3), "ratio")
            for r in (0, 1, -0.1, 1.1, float("nan"), "0.5", None, True)
        ),
        *((lambda k=k: height_shares(0.5, k, 3), "arity") for k in (1, 0, 2.5, True)),
        *((lambda h=h: height_shares(0.5, 4, h), "heights") for h in (0, -1, 1.5, True)),
        (lambda: height_shares(0.5, 4, 3, -1), "mask unit"),
        *((lambda r=r: finite_height_shares(r, 4, 3), "ratio") for r in (0, 1, 0.001, 0.999, 1.5)),
        (lambda: finite_height_shares(0.5, 4, 9), f"too large.*{LARGEST}"),
        (lambda: finite_height_shares(0.5, 4, 2, 2), "mask unit"),
        (lambda: peak_ratio(1, 4, 1), "height"),
        (lambda: peak_ratio(0, 4), "height"),
        (lambda: peak_ratio(1, 1), "arity"),
        (lambda: locate_shared_patches(GRAPH, YES[:, :3]), "do not fit"),
        (lambda: locate_shared_patches(GRAPH, YES.astype(int)), "bool"),
        (lambda: locate_shared_patches(GRAPH, YES, YES), "both masked and ignored"),
        (lambda: patch_spectrum(GRAPH, []), "at least one mask"),
    ],
)
def test_bad_input_is_one_clear_line(call, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        call()
    assert "\n" not in str(caught.value)
