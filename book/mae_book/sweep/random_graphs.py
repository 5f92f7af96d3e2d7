"""Random hierarchies and masks, and Theorem 1 checked on each."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import numpy as np

from mae_lib.theory.conditions import TOLERANCE, LinearModel, linear_model, minimal_sets
from mae_lib.theory.graph import LatentGraph, Name
from mae_lib.theory.graphs import random_dag
from mae_lib.theory.shared import locate_shared

Draw = np.random.Generator

GRAPHS, MASKS = 24, 16
"""Graphs a seed, the families in turn, and masks of a graph: all of those that hide something and
show something, or so many drawn without repetition."""

HIERARCHIES, CHECKED_LATENTS = 40, 7
"""Hierarchies a seed for Figure 4, and the most latents of one whose c is also found by
`conditions.minimal_sets`."""

FAMILIES = ("tree", "several parents", "two roots", "two parts")
"""Of `random_hierarchies`: the first two have one root, the third has two above the same
observables, the last's parts have no edge between them, so that c can be empty."""


def random_hierarchies(seed: int, count: int = GRAPHS) -> Iterator[LatentGraph]:
    """``count`` graphs, the `FAMILIES` in turn: 1 to 6 latents, 2 to 6 observables, noises of 1 to
    3 dimensions at latents and 0 to 2 at observables."""
    draw = np.random.default_rng([seed, 0])
    for k in range(count):
        family = FAMILIES[k % len(FAMILIES)]
        if family == "two parts":
            parts = [_dag(draw, draw.integers(1, 4), draw.integers(1, 4)) for _ in range(2)]
        else:
            observables = draw.integers(2, 7)
            if family == "tree":
                parts = [_dag(draw, draw.integers(1, observables + 1), observables, parents=1)]
            elif family == "several parents":
                parts = [_dag(draw, draw.integers(2, 7), observables)]
            else:
                parts = [_dag(draw, draw.integers(1, 4), observables) for _ in range(2)]

        def label(part: int, v: str, parts=parts, family=family) -> str:
            two = len(parts) > 1 and (family == "two parts" or v.startswith("z"))
            return f"{v}{'ab'[part]}" if two else v

        edges = [(label(i, p), label(i, v)) for i, part in enumerate(parts) for p, v in part.edges]
        yield _with_dims(
            draw,
            edges,
            list(
                dict.fromkeys(label(i, x) for i, part in enumerate(parts) for x in part.observables)
            ),
        )


def _dag(draw: Draw, latents: int, observables: int, parents: int = 3) -> LatentGraph:
    return random_dag(
        int(latents),
        int(observables),
        int(draw.integers(2**31)),
        parents,
        float(draw.uniform(0, 0.6)),
    )


def _with_dims(draw: Draw, edges: list[tuple[str, str]], observables: list[str]) -> LatentGraph:
    plain = LatentGraph(edges, observables)
    dims = {v: int(draw.integers(1, 4)) for v in plain.latents} | {
        x: int(draw.integers(0, 3)) for x in observables
    }
    return LatentGraph(edges, observables, dims)


def random_masks(graph: LatentGraph, seed: int, most: int = MASKS) -> list[tuple[Name, ...]]:
    """Masks that hide something and show something: all of them, or ``most`` drawn without
    repetition."""
    n = len(graph.observables)
    every = np.arange(1, 2**n - 1)
    chosen = (
        every
        if len(every) <= most
        else np.sort(np.random.default_rng([seed, 1]).choice(every, most, replace=False))
    )
    return [
        tuple(x for k, x in enumerate(graph.observables) if code >> k & 1)
        for code in chosen.tolist()
    ]


def check_mask(graph: LatentGraph, masked: Collection[Name], seed: int) -> dict[str, bool]:
    """What Algorithms 1 and 2 say of one mask, judged on the linear model that ``seed`` draws.

    Returns:
        "one minimal set": `conditions.minimal_sets` has one member. "c located": it is the located
        c. "s_m located": (c, s_m) and x_m determine one another, and s_m is uncorrelated with c,
        s_mᶜ and x_mᶜ. "one s_m": of all sets of noises that one alone meets the conditions on s_m.
        "s_mc located": (c, s_mᶜ) and x_mᶜ determine one another. "something shared":
        a noise is determined by both parts. "s_mc not unique": another set of noises would do for
        s_mᶜ, with this c and s_m. "2^|CA| s_mc": as many do as there are subsets of the noises that
        both parts determine.

        The first five hold for every mask, c = ∅ included: it is then the one minimal set, and s_m
        and s_mᶜ are all noises of their parts. "s_mc not unique" is claimed only where something is
        shared: otherwise exactly one set will do, as 2^|CA| says.
    """
    plain, found = linear_model(graph, seed), locate_shared(graph, masked)
    minimal = minimal_sets(plain, masked)
    # noises of no dimension say nothing, and would be counted as a choice
    own = [v for v in graph.nodes if graph.noise_dims[v]]
    rows = dict(
        zip(
            graph.nodes,
            np.split(
                np.eye(sum(graph.noise_dims.values())),
                np.cumsum([graph.noise_dims[v] for v in graph.nodes])[:-1],
            ),
        )
    )
    model = LinearModel(
        {**plain.maps, **{_noise(v): rows[v] for v in graph.nodes}}, plain.observables
    )
    hidden, shown = list(masked), [x for x in graph.observables if x not in masked]
    c, s_m, s_mc = list(found.c), [_noise(v) for v in found.s_m], [_noise(v) for v in found.s_mc]

    def determines(one: list, other: list) -> bool:
        return model.rank(one + other) == model.rank(one)

    def independent(one: list, other: list) -> bool:
        return np.abs(model.stack(one) @ model.stack(other).T).max(initial=0) < TOLERANCE

    def one_to_one(one: list, other: list) -> bool:
        return determines(one, other) and determines(other, one)

    # What could belong to s_m: a noise that x_m determines and that tells nothing of c and x_mᶜ. To
    # determine x_m is monotone in the set, so one is left if all are needed.
    own_s_m = [
        e for e in map(_noise, own) if determines(hidden, [e]) and independent([e], c + shown)
    ]
    one_s_m = determines(c + own_s_m, hidden) and not any(
        determines(c + [other for other in own_s_m if other != e], hidden) for e in own_s_m
    )
    common = [v for v in own if determines(hidden, [_noise(v)]) and determines(shown, [_noise(v)])]
    # What could belong to s_mᶜ: a noise that x_mᶜ determines and that is not in s_m. To determine
    # x_mᶜ is monotone in the set, so a noise whose absence cannot be made up for by all others is
    # in every valid set, and only subsets of the rest need be tried.
    possible = [_noise(v) for v in own if v not in found.s_m and determines(shown, [_noise(v)])]
    needed = [
        e
        for e in possible
        if not determines(c + [other for other in possible if other != e], shown)
    ]
    free = [e for e in possible if e not in needed]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(free, k) for k in range(len(free) + 1)
    )
    valid = [{*needed, *extra} for extra in subsets if one_to_one(c + needed + list(extra), shown)]
    located = {e for e in s_mc if e[1] in own}
    return {
        "one minimal set": len(minimal) == 1,
        "c located": minimal == [found.c],
        "s_m located": one_to_one(c + s_m, hidden) and independent(s_m, c + s_mc + shown),
        "one s_m": one_s_m and {e[1] for e in own_s_m} == found.s_m & set(own),
        "s_mc located": one_to_one(c + s_mc, shown),
        "something shared": bool(common),
        "s_mc not unique": any(other != located for other in valid),
        "2^|CA| s_mc": len(valid) == 2 ** len(common),
    }


def _noise(v: Name) -> tuple[str, Name]:
    return "noise", v


def layered_hierarchies(
    seed: int, count: int = HIERARCHIES, several: bool = False
) -> list[LatentGraph]:
    """Hierarchies as Figure 4 draws them: one or two roots, two or three levels of latents above
    the observables, 2 or 3 children each.

    Args:
        several: whether a node below the roots has a second parent with chance 0.3. Where not, they
            are trees, as in the figure, and what is below one child of a latent is not below
            another.
    """
    draw, graphs = np.random.default_rng([seed, 2 + several]), []
    for _ in range(count):
        height = int(draw.integers(2, 4))
        above, edges = [f"z{height}_{k}" for k in range(draw.integers(1, 3))], []
        for level in range(height - 1, -1, -1):
            below = []
            for parent in above:
                for _ in range(draw.integers(2, 4)):
                    below.append(f"z{level}_{len(below)}" if level else f"x{len(below)}")
                    edges.append((parent, below[-1]))
                    others = [other for other in above if other != parent]
                    if several and others and draw.random() < 0.3:
                        edges.append((others[draw.integers(len(others))], below[-1]))
            above = below
        graphs.append(_with_dims(draw, edges, above))
    return graphs


def mask_like_figure_4(graph: LatentGraph, run: str, z: Name, draw: Draw) -> frozenset[Name]:
    """A mask of Figure 4 around z: one observable below z ("small mask"), all of the graph but one
    below z ("small visible part"), or all below one latent child of z ("in between")."""
    pick = lambda names: names[draw.integers(len(names))]
    below = [x for x in graph.observables if x in graph.descendants[z]]
    if run == "small mask":
        return frozenset((pick(below),))
    if run == "small visible part":
        return frozenset(graph.observables) - {pick(below)}
    return graph.descendants[pick(graph.children[z])]
