"""The latent tree estimated from data alone (§3.6, second suggestion: masks that follow the latent
structure). Information distances between the observables, from their covariances, are additive
along a latent tree; neighbour joining builds the tree from them; a cut of the tree gives groups of
patches to hide together. No ground truth goes in.

Which method, and why. The distances are those of Choi, Tan, Anandkumar and Willsky (*Learning
latent tree graphical models*, JMLR 2011) for vectors, by the singular values of whitened
covariances as in Anandkumar et al. (*Spectral methods for learning multivariate latent tree
structure*, NeurIPS 2011). The tree is that of neighbour joining (Saitou and Nei, 1987): consistent
for additive distances, without a test of hypotheses. Rank constraints (Huang et al., *Latent
hierarchical causal structure discovery with rank constraints*, NeurIPS 2022) find more than trees
and need a test of rank for every subset of variables. One thing is added here: a canonical
correlation never counts as less than chance would make it, the *floor*. Under Assumption 1 in
linear form each child is invertible, so canonical correlations are exactly 1 (once for every noise
of a common ancestor) or 0; the distance is then the number of noises that two observables do not
share, times −log(floor), which is again additive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.theory.graph import LatentGraph, Name

POPULATION_FLOOR = 1e-6
"""The least canonical correlation that counts where the covariances are exact."""

SLACK = 0.25
"""How far the size of a group may be from L / groups, where the tree allows it."""


@dataclass(frozen=True)
class LatentTree:
    """An unrooted tree whose leaves are the observables, with lengths.

    Attributes:
        leaves: L; the leaves are the nodes 0 … L − 1, inner nodes follow.
        edges: (node, node, length ≥ 0).
    """

    leaves: int
    edges: tuple[tuple[int, int, float], ...]

    @cached_property
    def neighbours(self) -> dict[int, dict[int, float]]:
        """node → neighbour → length of the edge."""
        found: dict[int, dict[int, float]] = {}
        for a, b, length in self.edges:
            found.setdefault(a, {})[b] = found.setdefault(b, {})[a] = length
        return found

    def distances(self) -> np.ndarray:
        """float64 [L, L]: path lengths between the leaves."""
        found = np.zeros((self.leaves, self.leaves))
        for start in range(self.leaves):
            for node, _, far in self.walk(start):
                if node < self.leaves:
                    found[start, node] = far
        return found

    def walk(self, start: int) -> Iterator[tuple[int, int, float]]:
        """(node, the node it was reached from, distance from ``start``) of every node but the
        start, nearer ones first along a path."""
        stack = [(start, start, 0.0)]
        while stack:
            node, before, far = stack.pop()
            if node != start:
                yield node, before, far
            stack += [
                (other, node, far + length)
                for other, length in self.neighbours.get(node, {}).items()
                if other != before
            ]

    def contracted(self, shortest: float) -> LatentTree:
        """The tree with every inner edge no longer than ``shortest`` shrunk to a point: its two
        ends become one node."""
        into = {}

        def end(node: int) -> int:
            while node in into:
                node = into[node]
            return node

        for a, b, length in self.edges:
            if min(a, b) >= self.leaves and length <= shortest:
                into[end(max(a, b))] = end(min(a, b))
        edges = [(end(a), end(b), length) for a, b, length in self.edges if end(a) != end(b)]
        return LatentTree(self.leaves, tuple(edges))

    def rooted(self) -> LatentGraph:
        """The tree as a graph over x0 … x{L−1}, its root in the middle of the longest path (Farris,
        1972): right where leaves are equally deep.

        Covariances say nothing about the root. Where the middle falls within an edge, a node is put
        there. Latents are z1, z2, …, the root first.
        """
        far = self.distances()
        first, last = np.unravel_index(int(far.argmax()), far.shape)
        half, before = (
            far[first, last] / 2,
            {node: (parent, reach) for node, parent, reach in self.walk(int(first))},
        )
        path = [int(last)]
        while path[-1] != first:
            path.append(before[path[-1]][0])
        reach = {node: before[node][1] if node in before else 0.0 for node in path}
        inner = [node for node in path if node >= self.leaves]
        root, edges = (
            min(inner, key=lambda node: (abs(reach[node] - half), node), default=-1),
            self.edges,
        )
        if root < 0 or abs(reach[root] - half) > 1e-6 * max(half, 1e-300):
            below, above = next(
                (a, b) for a, b in zip(path, path[1:]) if reach[b] <= half <= reach[a]
            )
            root = 1 + max(max(a, b) for a, b, _ in self.edges)
            halves = ((root, below, reach[below] - half), (root, above, half - reach[above]))
            edges = tuple(e for e in self.edges if {e[0], e[1]} != {below, above}) + halves
        tree = LatentTree(self.leaves, edges)
        order = [(node, parent) for node, parent, _ in tree.walk(root)]
        names: dict[int, Name] = {root: "z1"}
        for node, _ in order:
            names[node] = (
                f"x{node}" if node < self.leaves else f"z{1 + sum(n >= self.leaves for n in names)}"
            )
        return LatentGraph(
            [(names[parent], names[node]) for node, parent in order],
            [f"x{k}" for k in range(self.leaves)],
        )


def covariance_distances(
    covariance: np.ndarray, rank: int | None = None, floor: float = POPULATION_FLOOR
) -> np.ndarray:
    """Information distances d_ij = −Σ_{a ≤ rank} log max(ρ_a, floor), ρ₁ ≥ ρ₂ ≥ … the canonical
    correlations of x_i and x_j.

    With all d of them above the floor this is −log |det Σ_ij| / √(det Σ_ii det Σ_jj).

    Args:
        covariance: float64 [L, d, L, d]. rank: how many canonical correlations count: the dimension
            of the latents, where all have the same and it is below d; None: all d.
        floor: in (0, 1); smaller correlations count as this.

    Returns:
        float64 [L, L], symmetric, 0 on the diagonal.
    """
    L, d = covariance.shape[:2]
    if covariance.shape != (L, d, L, d) or L < 3:
        raise InputError(
            f"covariances of shape {list(covariance.shape)}: give [L, d, L, d] of at least 3"
            " observables"
        )
    if rank is not None and (
        isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= d
    ):
        raise InputError(
            f"rank {rank!r} must be a whole number from 1 to {d}, the coordinates of an observable"
        )
    if not 0 < floor < 1:
        raise InputError(
            f"the least canonical correlation {floor:.3g} must lie in (0, 1): take more draws, or"
            " fewer coordinates"
        )
    if not np.isfinite(covariance).all():
        raise InputError("the covariances hold NaN or infinity: clean the values")
    values, vectors = np.linalg.eigh(covariance[np.arange(L), :, np.arange(L), :])
    for k in np.flatnonzero(values[:, -1] <= 0):
        raise InputError(
            f"observable {k} never varies, so it has no distance to the others: leave it out"
        )
    # A direction without variance carries nothing: it gets no weight, instead of an infinite one.
    scale = np.where(values > 1e-12 * values[:, -1:], 1 / np.sqrt(np.maximum(values, 1e-300)), 0)
    whiten = vectors * scale[:, None, :]
    between = np.einsum("ipa,ipjq,jqb->ijab", whiten, covariance, whiten, optimize=True)
    found = -np.log(np.clip(np.linalg.svd(between, compute_uv=False)[..., :rank], floor, 1)).sum(-1)
    found = (found + found.T) / 2
    np.fill_diagonal(found, 0)
    return found


def information_distances(values: Tensor | np.ndarray, rank: int | None = None) -> np.ndarray:
    """Information distances between L observables of d coordinates, from N draws.

    No invertible linear map of an observable changes them. The floor is what chance makes of the
    largest canonical correlation of two independent observables, 2·√(d / N); this keeps the
    distance of all but independent ones from being noise, so that nothing needs to be shrunk.

    Args:
        values: float [N, L, d], one draw a row. rank: as for `covariance_distances`.

    Returns:
        float64 [L, L].

    Raises:
        InputError: another shape, NaN, too few draws (4·d at most), an observable that never
            varies, a rank out of range.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 3 or not all(x.shape[1:]) or x.shape[1] < 3:
        raise InputError(
            f"values of shape {list(x.shape)}: give [draws, observables, coordinates] of at least 3"
            " observables"
        )
    N, _L, d = x.shape
    if N <= 4 * d:
        raise InputError(
            f"{N} draws are too few for covariances of {d} coordinates: give more than {4 * d}"
        )
    if not np.isfinite(x).all():
        raise InputError(
            f"observable {int(np.argwhere(~np.isfinite(x))[0, 1])} holds NaN or infinity: clean or"
            " drop those draws"
        )
    spread = x.std(0)
    for k in np.flatnonzero(~(spread > 0).any(1)):
        raise InputError(
            f"observable {k} never varies over the {N} draws, so it has no distance to the others:"
            " leave it out"
        )
    x = (x - x.mean(0)) / np.where(spread > 0, spread, 1)
    return covariance_distances(np.tensordot(x, x, (0, 0)) / N, rank, floor=2 * math.sqrt(d / N))


def neighbour_joining(distances: np.ndarray) -> LatentTree:
    """The tree of Saitou and Nei (1987), every inner node of three edges; the true one where
    distances are additive. O(L³).

    Args:
        distances: float64 [L, L], symmetric, L ≥ 3. Lengths that come out below 0 count as 0.
            InputError for another shape, or NaN.
    """
    D = _checked_distances(distances)
    L = len(D)
    nodes, edges, new = list(range(L)), [], L
    while len(nodes) > 3:
        n, total = len(nodes), D.sum(1)
        score = (n - 2) * D - total[:, None] - total[None, :]
        np.fill_diagonal(score, np.inf)
        i, j = sorted(divmod(int(score.argmin()), n))
        to_i = D[i, j] / 2 + (total[i] - total[j]) / (2 * (n - 2))
        edges += [(nodes[i], new, max(to_i, 0.0)), (nodes[j], new, max(D[i, j] - to_i, 0.0))]
        joined = (D[i] + D[j] - D[i, j]) / 2
        D[i], D[:, i], D[i, i] = joined, joined, 0
        nodes[i] = new
        D, new = np.delete(np.delete(D, j, 0), j, 1), new + 1
        del nodes[j]
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        edges.append((nodes[a], new, max((D[a, b] + D[a, c] - D[b, c]) / 2, 0.0)))
    return LatentTree(L, tuple((a, b, float(length)) for a, b, length in edges))


def estimate_tree(distances: np.ndarray, shortest: float = 0.2) -> LatentGraph:
    """The latent tree over observables x0 … x{L−1}: neighbour joining, with inner edges that are
    short beside the longest one taken for chance.

    Args:
        distances: float64 [L, L]. shortest: inner edges up to this share of the longest inner edge
            are contracted, so that a latent can have more than two children; in [0, 1). A rule of
            thumb: which short edges are real, the distances alone do not say.
    """
    if (
        isinstance(shortest, bool)
        or not isinstance(shortest, (int, float))
        or not 0 <= shortest < 1
    ):
        raise InputError(
            f"the share of the longest edge below which edges are contracted, {shortest!r}, must be"
            " in [0, 1)"
        )
    tree = neighbour_joining(distances)
    longest = max((length for a, b, length in tree.edges if min(a, b) >= tree.leaves), default=0.0)
    rounding = 1e-9 * float(np.max(distances))  # a star has no inner edge at all
    return tree.contracted(max(shortest * longest, rounding)).rooted()


def partition(tree: LatentTree, groups: int) -> np.ndarray:
    """The leaves in groups of about equal size, each a connected part of the tree: ``groups`` − 1
    edges are cut.

    A cut shares a part's leaves and its number of groups out to two sides. Of the cuts that leave
    the mean group on both sides within `SLACK` of L / groups the one through the longest edge is
    made, if there is none the most even one; then the same in each side.

    Returns:
        int64 [L], group numbers from 0 in the order of their first leaf. InputError for fewer than
        2 groups or more than leaves.
    """
    L = tree.leaves
    if (
        isinstance(groups, bool)
        or not isinstance(groups, (int, np.integer))
        or not 2 <= groups <= L
    ):
        raise InputError(f"{groups!r} groups of {L} observables: give a whole number from 2 to {L}")
    parts = _cut(
        [(tree.neighbours[a][b], beyond) for (a, b), beyond in _sides(tree).items()],
        frozenset(range(L)),
        groups,
        L / groups,
    )
    labels = np.empty(L, np.int64)
    for k, part in enumerate(sorted(parts, key=min)):
        labels[sorted(part)] = k
    return labels


def _cut(
    sides: list[tuple[float, frozenset[int]]], leaves: frozenset[int], groups: int, size: float
) -> list[frozenset[int]]:
    """``leaves`` in ``groups`` parts of about ``size``; ``sides``: of every edge, its length and
    the leaves on one side of it."""
    if groups == 1:
        return [leaves]
    cuts = []
    for length, beyond in sides:
        one, other = beyond & leaves, leaves - beyond
        for share in range(max(1, groups - len(other)), min(groups - 1, len(one)) + 1):
            means = len(one) / share / size, len(other) / (groups - share) / size
            uneven = max(max(m, 1 / m) for m in means)
            even = uneven <= 1 + SLACK
            # Ties go to the part with the first leaf: nothing hangs on the order of the edges.
            cuts.append(
                (not even, 0.0 if even else uneven, -length, uneven, min(one), one, other, share)
            )
    *_, one, other, share = min(cuts, key=lambda cut: cut[:5])
    return _cut(sides, one, share, size) + _cut(sides, other, groups - share, size)


def _sides(tree: LatentTree) -> dict[tuple[int, int], frozenset[int]]:
    """(nearer node, node) of every edge as seen from leaf 0 → the leaves beyond it."""
    order = list(tree.walk(0))
    below: dict[int, set[int]] = {
        node: {node} if node < tree.leaves else set() for node, _, _ in order
    }
    for node, before, _ in reversed(order):
        if before:
            below[before] |= below[node]
    return {(before, node): frozenset(below[node]) for node, before, _ in order}


def bipartitions(graph: LatentGraph) -> frozenset[frozenset[Name]]:
    """What a tree says, whatever its root: for every edge with two observables or more on each
    side, the side without the first observable."""
    everything, first = frozenset(graph.observables), graph.observables[0]
    sides = (
        everything - below if first in below else below
        for below in (graph.descendants[v] for _, v in graph.edges)
    )
    return frozenset(side for side in sides if 2 <= len(side) <= len(everything) - 2)


def robinson_foulds(estimated: LatentGraph, true: LatentGraph) -> tuple[int, int]:
    """(bipartitions of the true tree that the estimate lacks, bipartitions it has too many); their
    sum is the Robinson–Foulds distance.

    InputError where the two are not over the same observables.
    """
    if set(estimated.observables) != set(true.observables):
        raise InputError(
            "the two trees are over other observables: compare trees over the same ones"
        )
    if estimated.observables[0] != true.observables[0]:
        raise InputError(
            "the two trees list their observables in another order: give both the same order"
        )
    found, wanted = bipartitions(estimated), bipartitions(true)
    return len(wanted - found), len(found - wanted)


def _checked_distances(distances: np.ndarray) -> np.ndarray:
    D = np.array(distances, dtype=np.float64)
    if D.ndim != 2 or D.shape[0] != D.shape[1] or len(D) < 3:
        raise InputError(
            f"distances of shape {list(D.shape)}: give [L, L] of at least 3 observables"
        )
    if not np.isfinite(D).all() or not np.allclose(D, D.T):
        raise InputError(
            "distances must be finite and symmetric: make them with information_distances"
        )
    return D
