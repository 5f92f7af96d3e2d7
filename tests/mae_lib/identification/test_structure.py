"""The latent tree from covariances: exact where the theory says so, rising with the draws where it
is estimated, and clear about bad input."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from mae_lib.base.errors import InputError
from mae_lib.identification.image_groups import estimate_groups, patch_features
from mae_lib.identification.process import Process
from mae_lib.identification.structure import (
    LatentTree,
    bipartitions,
    covariance_distances,
    estimate_tree,
    information_distances,
    neighbour_joining,
    partition,
    robinson_foulds,
)
from mae_lib.theory.conditions import linear_model
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import quad_tree
from mae_lib.worlds.world import World


def random_tree(seed: int, leaves: int) -> LatentGraph:
    """A random tree in which every latent has two children or more, of leaves at any depth."""
    draw, edges, count = np.random.default_rng(seed), [], 0
    tops = [f"x{k}" for k in range(leaves)]
    while len(tops) > 1:
        k = min(len(tops), int(draw.integers(2, 4)))
        chosen = [tops.pop(int(draw.integers(len(tops)))) for _ in range(k)]
        count += 1
        edges += [(f"h{count}", child) for child in chosen]
        tops.append(f"h{count}")
    return LatentGraph(edges, [f"x{k}" for k in range(leaves)])


def level_tree(seed: int) -> LatentGraph:
    """A random tree with all observables at one depth, as invertible mechanisms give them equal
    dimensions; arities 2 and 3."""
    draw = np.random.default_rng(seed)
    above, edges = ["h0"], []
    for depth in range(2):
        below = []
        for parent in above:
            names = [f"d{depth}_{len(below) + k}" for k in range(draw.integers(2, 4))]
            below += names
            edges += [(parent, name) for name in names]
        above = below
    leaves = [(parent, k) for parent in above for k in range(draw.integers(2, 4))]
    order = draw.permutation(len(leaves))
    return LatentGraph(
        edges + [(parent, f"x{order[n]}") for n, (parent, _) in enumerate(leaves)],
        [f"x{k}" for k in range(len(leaves))],
    )


def gaussian_covariance(graph: LatentGraph, d: int, seed: int) -> np.ndarray:
    """Covariances [L, d, L, d] of a linear-Gaussian tree whose nodes all have d coordinates, child
    = A·parent + noise, A invertible."""
    draw, maps = np.random.default_rng(seed), {}
    width = d * len(graph.nodes)
    for k, v in enumerate(graph.nodes):
        own = np.zeros((d, width))
        own[:, k * d : (k + 1) * d] = draw.uniform(0.3, 1.0) * np.eye(d)
        turn = np.linalg.qr(draw.normal(size=(d, d)))[0] * draw.uniform(0.6, 1.4, d)
        maps[v] = own + (turn @ maps[graph.parents[v][0]] if graph.parents[v] else 0)
    rows = np.concatenate([maps[x] for x in graph.observables])
    return (rows @ rows.T).reshape(len(graph.observables), d, len(graph.observables), d)


def four_points(D: np.ndarray) -> float:
    """The largest gap between the two larger of the three sums d_ij + d_kl of four leaves: 0 for
    distances along a tree."""
    worst = 0.0
    for i, j, k, l in combinations(range(len(D)), 4):
        sums = sorted((D[i, j] + D[k, l], D[i, k] + D[j, l], D[i, l] + D[j, k]))
        worst = max(worst, sums[2] - sums[1])
    return worst


def draws(graph: LatentGraph, n: int, seed: int) -> torch.Tensor:
    values = Process(graph, seed).sample(n, torch.Generator().manual_seed(1000 + seed)).values
    return torch.stack([values[x] for x in graph.observables], 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 10), st.integers(1, 3))
def test_distances_of_a_gaussian_tree_are_additive_and_give_back_the_tree(seed, leaves, d):
    graph = random_tree(seed, leaves)
    D = covariance_distances(gaussian_covariance(graph, d, seed))
    assert four_points(D) < 1e-6
    assert np.allclose(neighbour_joining(D).distances(), D, atol=1e-6)
    assert robinson_foulds(estimate_tree(D, shortest=1e-5), graph) == (0, 0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_distances_under_assumption_1_count_the_noises_that_are_not_shared(seed):
    graph = level_tree(seed)
    rows = linear_model(graph, seed).stack(graph.observables)
    L, d = len(graph.observables), graph.dims["x0"]
    D = covariance_distances((rows @ rows.T).reshape(L, d, L, d), floor=1e-4)
    shared = lambda a, b: sum(graph.noise_dims[v] for v in graph.ancestors[a] & graph.ancestors[b])
    apart = np.array([[d - shared(a, b) for b in graph.observables] for a in graph.observables])
    assert np.allclose(D, -np.log(1e-4) * apart, atol=1e-5)
    assert four_points(D) < 1e-4
    assert robinson_foulds(estimate_tree(D), graph) == (0, 0)
    assert estimate_tree(D).height == graph.height  # and the root in the middle


def test_one_edge_and_one_determinant_by_hand():
    rho = 0.5
    covariance = np.array([[1, rho, rho**2], [rho, 1, rho**3], [rho**2, rho**3, 1]]).reshape(
        3, 1, 3, 1
    )
    assert np.allclose(
        covariance_distances(covariance), -np.log(rho) * np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]])
    )
    block = gaussian_covariance(random_tree(3, 4), 2, 3)
    expected = -np.log(
        abs(np.linalg.det(block[0, :, 1, :]))
        / np.sqrt(np.linalg.det(block[0, :, 0, :]) * np.linalg.det(block[1, :, 1, :]))
    )
    assert covariance_distances(block)[0, 1] == pytest.approx(expected)
    assert covariance_distances(block, rank=1)[0, 1] < expected


def test_no_invertible_map_of_an_observable_changes_a_distance():
    x = draws(quad_tree((2, 4)), 4000, 0).double()
    draw = np.random.default_rng(0)
    turned = torch.stack(
        [
            x[:, k] @ torch.tensor(draw.normal(size=(x.shape[2],) * 2)) + 5
            for k in range(x.shape[1])
        ],
        1,
    )
    assert np.allclose(information_distances(x), information_distances(turned), atol=1e-8)
    redundant = torch.cat([x, x[..., :1] + x[..., 1:2]], 2)  # a coordinate that says nothing new
    assert robinson_foulds(
        estimate_tree(information_distances(redundant)), estimate_tree(information_distances(x))
    ) == (0, 0)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(16)))
def test_another_order_of_the_observables_gives_the_same_tree_and_groups(order):
    graph = quad_tree((4, 4))
    x = draws(graph, 300, 1)
    one, other = (
        neighbour_joining(information_distances(x)),
        neighbour_joining(information_distances(x[:, list(order)])),
    )
    named = LatentGraph(
        [
            (above, f"x{order[int(v[1:])]}" if v[0] == "x" else v)
            for above, v in other.rooted().edges
        ],
        graph.observables,
    )
    assert robinson_foulds(one.rooted(), named) == (0, 0)
    for groups in (2, 4, 5):
        assert adjusted_rand_score(
            partition(one, groups)[list(order)], partition(other, groups)
        ) == pytest.approx(1)


def test_the_tree_of_a_nonlinear_process_is_found_more_often_with_more_draws():
    graph = quad_tree((4, 4))
    found = lambda n, seed: (
        robinson_foulds(estimate_tree(information_distances(draws(graph, n, seed))), graph)
        == (0, 0)
    )
    right = {n: sum(found(n, seed) for seed in range(8)) for n in (20, 200, 5000)}
    assert right[20] < right[200] < right[5000] == 8


def test_cutting_the_estimated_tree_gives_the_subtrees():
    tree = neighbour_joining(information_distances(draws(quad_tree((8, 8)), 1000, 2)))
    row, column = np.divmod(np.arange(64), 8)
    assert (partition(tree, 16) == row // 2 * 4 + column // 2).all()
    assert (partition(tree, 4) == row // 4 * 2 + column // 4).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 24), st.data())
def test_groups_are_connected_and_numbered_in_order(seed, leaves, data):
    graph = random_tree(seed, leaves)
    tree = neighbour_joining(covariance_distances(gaussian_covariance(graph, 1, seed)))
    groups = data.draw(st.integers(2, leaves))
    labels = partition(tree, groups)
    assert list(dict.fromkeys(labels.tolist())) == list(range(groups))
    far = tree.distances()
    # two connected parts: by four points, no path of the one meets a path of the other
    for one, other in combinations(range(groups), 2):
        a, b = np.flatnonzero(labels == one), np.flatnonzero(labels == other)
        for i, j in combinations(a, 2):
            for k, l in combinations(b, 2):
                assert (
                    far[i, j] + far[k, l]
                    <= min(far[i, k] + far[j, l], far[i, l] + far[j, k]) + 1e-9
                )


def test_a_cut_goes_through_the_longest_of_the_even_edges():
    leaves = (
        [(k, 8, 9.0) for k in range(4)]
        + [(k, 9, 9.0) for k in range(4, 7)]
        + [(k, 10, 9.0) for k in range(7, 10)]
    )
    tree = LatentTree(
        10, (*((a, b + 2, 1.0) for a, b, _ in leaves), (10, 13, 0.1), (11, 13, 5.0), (12, 13, 0.1))
    )
    assert partition(tree, 3).tolist() == [0] * 4 + [1] * 3 + [2] * 3
    # 4 and 6 are within a quarter of 5; 3 and 7, through the long edge, are not
    assert partition(tree, 2).tolist() == [0] * 4 + [1] * 6
    chain = LatentTree(
        10,
        (
            *((k, 10, 9.0) for k in range(4)),
            (4, 11, 9.0),
            *((k, 12, 9.0) for k in range(5, 10)),
            (10, 11, 3.0),
            (11, 12, 0.1),
        ),
    )
    # and not 5 and 5, through a shorter edge
    assert partition(chain, 2).tolist() == [0] * 4 + [1] * 6


def test_the_root_is_in_the_middle_of_the_longest_path():
    on_an_edge = LatentTree(
        4, ((0, 4, 1.0), (1, 4, 1.0), (2, 5, 1.0), (3, 5, 1.0), (4, 5, 2.0))
    ).rooted()
    assert sorted(len(c) for c in on_an_edge.children.values()) == [0, 0, 0, 0, 2, 2, 2]
    at_a_node = LatentTree(3, ((0, 3, 1.0), (1, 3, 1.0), (2, 3, 1.0))).rooted()
    assert at_a_node.children["z1"] == ("x2", "x1", "x0") and len(at_a_node.latents) == 1


def test_bipartitions_do_not_depend_on_the_root():
    one = LatentGraph(
        [("r", "a"), ("r", "x2"), ("r", "x3"), ("a", "x0"), ("a", "x1")], ["x0", "x1", "x2", "x3"]
    )
    other = LatentGraph(
        [("r", "a"), ("r", "b"), ("a", "x0"), ("a", "x1"), ("b", "x2"), ("b", "x3")],
        ["x0", "x1", "x2", "x3"],
    )
    star = LatentGraph([("r", f"x{k}") for k in range(4)], ["x0", "x1", "x2", "x3"])
    assert bipartitions(one) == bipartitions(other) == {frozenset({"x2", "x3"})}
    assert (
        robinson_foulds(one, other) == (0, 0)
        and robinson_foulds(star, one) == (1, 0)
        and robinson_foulds(one, star) == (0, 1)
    )
    with pytest.raises(InputError, match="other observables"):
        robinson_foulds(one, LatentGraph([("r", "x0"), ("r", "y")], ["x0", "y"]))


def test_patch_features_are_means_and_slopes():
    images = torch.zeros(1, 3, 8, 8)
    # rises downwards in the first patch, in red alone
    images[0, 0, :4, :4] = torch.arange(4.0)[:, None]
    features = patch_features(images, 4)
    assert features.shape == (1, 4, 5) and features[0, 0, :3].tolist() == [1.5, 0, 0]
    assert features[0, 0, 3] < 0 and abs(features[0, 0, 4]) < 1e-12 and not features[0, 1:].any()
    assert torch.allclose(
        patch_features(images.transpose(2, 3), 4)[0, 0, [4, 3]], features[0, 0, 3:]
    )
    assert patch_features(images, 1).shape == (1, 64, 3)
    assert torch.equal(patch_features(images.to(torch.uint8), 4), features)


def test_groups_of_the_world_are_about_even_and_repeat():
    groups = estimate_groups(World("train"), 8, 8, images=2048)
    assert len(groups) == 64 and groups == estimate_groups(World("train"), 8, 8, images=2048)
    assert sorted(set(groups)) == list(range(8)) and max(np.bincount(groups)) <= 13


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: information_distances(torch.zeros(5, 4)), "shape"),
        (lambda: information_distances(torch.randn(12, 4, 3)), "too few"),
        (
            lambda: information_distances(
                torch.randn(50, 4, 3) * torch.tensor([1, 1, 0, 1])[:, None]
            ),
            "observable 2 never varies",
        ),
        (
            lambda: information_distances(
                torch.randn(50, 4, 3).index_fill(1, torch.tensor([1]), torch.nan)
            ),
            "observable 1 holds NaN",
        ),
        (lambda: information_distances(torch.randn(50, 4, 3), rank=4), "rank 4"),
        (lambda: information_distances(torch.randn(50, 4, 3), rank=0), "rank 0"),
        (lambda: covariance_distances(np.full((3, 1, 3, 1), np.nan)), "NaN"),
        (lambda: covariance_distances(np.zeros((3, 1, 3, 1))), "never varies"),
        (lambda: neighbour_joining(np.zeros((3, 4))), "shape"),
        (lambda: neighbour_joining(np.full((4, 4), np.nan)), "finite"),
        (lambda: estimate_tree(np.zeros((4, 4)), shortest=1.0), "share of the longest edge"),
        (lambda: partition(neighbour_joining(1 - np.eye(4)), 1), "1 groups of 4"),
        (lambda: partition(neighbour_joining(1 - np.eye(4)), 5), "5 groups of 4"),
        (lambda: estimate_groups(World("train"), 8, 65), "65 groups of 64"),
        (lambda: estimate_groups(World("train"), 7, 8), "does not divide"),
        (lambda: estimate_groups(World("train"), 0, 8), "patch of 0"),
        (lambda: estimate_groups(World("train"), 8, 8, images=10), "too few"),
    ],
)
def test_bad_input_is_one_clear_line(call, text):
    with pytest.raises(InputError, match=text) as caught:
        call()
    assert "\n" not in str(caught.value)
