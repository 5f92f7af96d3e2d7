"""Graphs with a name: trees, quad-trees over a grid, random ones, and the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mae_lib.base.errors import InputError
from mae_lib.theory.graph import LatentGraph, Name, whole

if TYPE_CHECKING:
    pass


def tree(arity: int, height: int) -> LatentGraph:
    """The ``arity``-ary tree with ``arity ** height`` observables x0, x1, …; latent ``zL_K`` is the
    K-th of level L, the root ``z{height}_0``."""
    whole("arity", arity, 2)
    whole("height", height, 1)
    name = lambda level, k: f"z{level}_{k}" if level else f"x{k}"
    edges = [
        (name(level, k // arity), name(level - 1, k))
        for level in range(height, 0, -1)
        for k in range(arity ** (height - level + 1))
    ]
    return LatentGraph(edges, [f"x{k}" for k in range(arity**height)])


def quad_tree(grid: tuple[int, int], arity: int = 4) -> LatentGraph:
    """The tree of nested blocks over a grid of patches of any size; patch (r, c) of R × C is the
    observable ``x{r * C + c}``.

    Args:
        grid: (rows, columns), each ≥ 1, of at least two patches; sides need not be powers of
            anything, blocks at the rim are then smaller.
        arity: children a full block has: a square number k² merges k × k blocks (4: the quad-tree);
            2 merges pairs, side by side and one below the other in turns.

    Returns:
        latents ``z{level}_{r}_{c}``, the root last in level.
    """
    if isinstance(grid, str) or not isinstance(grid, Sequence) or len(grid) != 2:
        raise InputError(f"grid {grid!r} must be (rows, columns), for instance (14, 14)")
    rows, columns = grid
    whole("rows of the grid", rows, 1)
    whole("columns of the grid", columns, 1)
    whole("arity", arity, 2)
    side = round(arity**0.5)
    if arity != 2 and side * side != arity:
        raise InputError(
            f"arity {arity} of a tree over a grid must be 2 or a square number such as 4 or 9"
        )
    if rows * columns == 1:
        raise InputError("a 1×1 grid has no hierarchy: take a grid of at least two patches")
    shape, level, edges = (rows, columns), 0, []
    name = lambda level, r, c: f"z{level}_{r}_{c}" if level else f"x{r * columns + c}"
    while shape != (1, 1):
        step = (
            (side, side)
            if arity != 2
            else ((1, 2) if (level % 2 == 0 and shape[1] > 1) or shape[0] == 1 else (2, 1))
        )
        edges = [
            (name(level + 1, r // step[0], c // step[1]), name(level, r, c))
            for r in range(shape[0])
            for c in range(shape[1])
        ] + edges
        shape, level = (-(-shape[0] // step[0]), -(-shape[1] // step[1])), level + 1
    return LatentGraph(edges, [f"x{k}" for k in range(rows * columns)])


def random_dag(
    latents: int, observables: int, seed: int, parents: int = 2, skip: float = 0.3
) -> LatentGraph:
    """A random graph with several parents a node and edges that skip levels.

    Args:
        latents, observables: how many, each ≥ 1; named z1, z2, … and x0, x1, …. seed: of the draw.
        parents: the most parents a node may have, ≥ 1; an observable has more where latents without
            a child outnumber the observables.
        skip: chance that a parent is any earlier latent, instead of one of the few just before; in
            [0, 1].
    """
    for name, value, least in (
        ("latents", latents, 1),
        ("observables", observables, 1),
        ("parents", parents, 1),
        ("seed", seed, 0),
    ):
        whole(name, value, least)
    if not 0 <= skip <= 1:
        raise InputError(f"skip {skip!r} must be a probability, in [0, 1]")
    draw = np.random.default_rng(seed)
    above = [f"z{k + 1}" for k in range(latents)]
    edges: dict[tuple[str, str], None] = {}
    near = max(1, latents // 4)
    for k, child in enumerate(above[1:], start=1):
        for _ in range(draw.integers(1, parents + 1)):
            first = 0 if draw.random() < skip else max(0, k - near)
            edges[above[draw.integers(first, k)], child] = None
    inner = {parent for parent, _ in edges}
    low = [z for z in above if z not in inner]
    for k in range(observables):
        # Every latent without a child gets an observable in turn, so that none is without meaning.
        edges[low[k % len(low)], f"x{k}"] = None
        for _ in range(draw.integers(0, parents)):
            pool = above if draw.random() < skip else low
            edges[pool[draw.integers(len(pool))], f"x{k}"] = None
    for k, z in enumerate(low[observables:]):
        edges[z, f"x{k % observables}"] = None
    return LatentGraph(edges, [f"x{k}" for k in range(observables)])


def figure_4() -> tuple[LatentGraph, dict[str, frozenset[Name]]]:
    """The graph of the paper's Figure 4 (z1 → z3, z4; z2 → z5, z6; two observables under each of z3
    … z6) and its three masks.

    Returns:
        (graph, masks): "left" hides one observable, "middle" all but one, "right" all under z3 and
        z5.
    """
    edges = [("z1", "z3"), ("z1", "z4"), ("z2", "z5"), ("z2", "z6")] + [
        (f"z{3 + k // 2}", f"x{k + 1}") for k in range(8)
    ]
    graph = LatentGraph(edges, [f"x{k}" for k in range(1, 9)])
    everything = frozenset(graph.observables)
    return graph, {
        "left": frozenset({"x1"}),
        "middle": everything - {"x8"},
        "right": frozenset({"x1", "x2", "x5", "x6"}),
    }
