"""The hierarchy of latent variables as a graph (§2.1, Assumption 1): a directed acyclic graph over
latents and observables, its levels, dimensions and layout, and builders of the graphs that the
chapters use. No randomness but a builder's, no numbers but dimensions.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from mae_lib.base.errors import InputError

if TYPE_CHECKING:
    import networkx

Name = Hashable


class LatentGraph:
    """An immutable, validated graph G of Assumption 1. Two graphs are equal when their edges, noise
    dimensions and order of nodes are.

    Args:
        edges: (parent, child) pairs of names; any hashable is a name.
        observables: the names of the observables, in the order that masks use; they must be leaves.
            All other nodes are latents.
        noise_dims: dimension of the exogenous noise ε_v by name, 1 where none is given; ≥ 1 for a
            latent (Theorem 1 needs it), ≥ 0 for an observable.

    Attributes:
        latents: names in a topological order, parents first; ties in the order of first appearance
            in ``edges``.
        observables: names in the order given. edges: the pairs in the order given. noise_dims: name
            → int, of every node.

    Raises:
        InputError: a cycle, an observable with a child, a latent that reaches no observable, an
            edge or observable given twice, a noise dimension of an unknown node or out of range:
            the message names the node. An argument of another kind.
    """

    def __init__(
        self,
        edges: Iterable[tuple[Name, Name]],
        observables: Iterable[Name],
        noise_dims: Mapping[Name, int] | None = None,
    ) -> None:
        if isinstance(edges, str) or not isinstance(edges, Iterable):
            raise InputError(
                f"edges must be (parent, child) pairs of names, not {edges!r}: write [] for none"
            )
        self.edges = tuple(_pair(edge) for edge in edges)
        if isinstance(observables, str):
            raise InputError(
                f"observables must be a list of names, not the text {observables!r}: write"
                f" [{observables!r}]"
            )
        if not isinstance(observables, Iterable):
            raise InputError(f"observables must be a list of names, not {observables!r}")
        if noise_dims is not None and not isinstance(noise_dims, Mapping):
            raise InputError(
                f"noise_dims must map names to dimensions, not {noise_dims!r}: write {{name:"
                " dimension}"
            )
        self.observables = tuple(observables)
        for v in (*self.observables, *(v for edge in self.edges for v in edge)):
            if not isinstance(v, Hashable):
                raise InputError(
                    f"{v!r} cannot be the name of a node: names must be hashable, for instance text"
                )
        for what, items in (("edge", self.edges), ("observable", self.observables)):
            if repeated := _repeated(items):
                raise InputError(f"{what} {repeated[0]!r} is given twice: give it once")
        if not self.observables:
            raise InputError(
                "a graph needs at least one observable: name the leaves that can be seen"
            )
        observed = set(self.observables)
        for parent, child in self.edges:
            if parent in observed:
                raise InputError(
                    f"observable {parent!r} has the child {child!r}, but observables must be"
                    f" leaves: make {parent!r} a latent with an observable of its own"
                )
        order = self._sorted()
        self.latents = tuple(v for v in order if v not in observed)
        for v in order:
            if v not in observed and not self.children[v]:
                raise InputError(
                    f"latent {v!r} reaches no observable, so no mask can say anything about it:"
                    " remove it, or list it as an observable"
                )
        self.noise_dims: Mapping[Name, int] = MappingProxyType(self._checked_dims(noise_dims or {}))

    @cached_property
    def nodes(self) -> tuple[Name, ...]:
        """All names: latents, parents first, then observables."""
        return self.latents + self.observables

    @cached_property
    def parents(self) -> Mapping[Name, tuple[Name, ...]]:
        """Name → its parents Pa(v), in the order of the edges."""
        return self._neighbours(1, 0)

    @cached_property
    def children(self) -> Mapping[Name, tuple[Name, ...]]:
        """Name → its children, in the order of the edges."""
        return self._neighbours(0, 1)

    @cached_property
    def levels(self) -> Mapping[Name, int]:
        """Name → level, the height above the pixels: 0 for an observable, else one more than the
        highest child (the longest path down)."""
        found: dict[Name, int] = dict.fromkeys(self.observables, 0)
        for v in reversed(self.latents):
            found[v] = 1 + max(found[w] for w in self.children[v])
        return MappingProxyType(found)

    @property
    def height(self) -> int:
        """The highest level of a node."""
        return max(self.levels.values())

    @cached_property
    def descendants(self) -> Mapping[Name, frozenset[Name]]:
        """Name → the observables at or below it."""
        found = {x: frozenset((x,)) for x in self.observables}
        for v in reversed(self.latents):
            found[v] = frozenset().union(*(found[w] for w in self.children[v]))
        return MappingProxyType(found)

    @cached_property
    def ancestors(self) -> Mapping[Name, frozenset[Name]]:
        """Name → A[v]: v itself and every latent above it."""
        found: dict[Name, frozenset[Name]] = {}
        for v in self.nodes:
            found[v] = frozenset((v,)).union(*(found[p] for p in self.parents[v]))
        return MappingProxyType(found)

    @cached_property
    def dims(self) -> Mapping[Name, int]:
        """Name → coordinate dimension: an invertible g_v(Pa(v), ε_v) has as many coordinates as its
        parents and its noise together."""
        found: dict[Name, int] = {}
        for v in self.nodes:
            found[v] = self.noise_dims[v] + sum(found[p] for p in self.parents[v])
        return MappingProxyType(found)

    @cached_property
    def positions(self) -> Mapping[Name, tuple[float, float]]:
        """Name → (x, y) for drawing: y the level, observables one apart in their order, a latent
        above the middle of what it reaches."""
        found: dict[Name, tuple[float, float]] = {
            x: (float(k), 0.0) for k, x in enumerate(self.observables)
        }
        column = {x: k for k, x in enumerate(self.observables)}
        by_level: dict[int, list[tuple[float, Name]]] = {}
        for v in self.latents:
            below = [column[x] for x in self.descendants[v]]
            by_level.setdefault(self.levels[v], []).append(((min(below) + max(below)) / 2, v))
        for level, members in by_level.items():
            members.sort(key=lambda member: member[0])
            wanted = np.array([x for x, _ in members])
            # Neighbours at least 0.9 apart, moved as little as possible to the right, then
            # re-centred.
            placed = np.maximum.accumulate(wanted - 0.9 * np.arange(len(wanted))) + 0.9 * np.arange(
                len(wanted)
            )
            placed += (wanted - placed).mean()
            found.update({v: (float(x), float(level)) for x, (_, v) in zip(placed, members)})
        return MappingProxyType(found)

    def to_networkx(self) -> networkx.DiGraph:
        """The graph as a networkx ``DiGraph``; nodes carry ``observable`` (bool) and ``noise_dim``
        (int)."""
        import networkx

        graph = networkx.DiGraph()
        for v in self.nodes:
            graph.add_node(v, observable=self.levels[v] == 0, noise_dim=self.noise_dims[v])
        graph.add_edges_from(self.edges)
        return graph

    @classmethod
    def from_networkx(
        cls, graph: networkx.DiGraph, observables: Iterable[Name] | None = None
    ) -> LatentGraph:
        """A networkx ``DiGraph`` as a graph. Observables: those given, else the nodes with
        ``observable=True``, else all leaves."""
        if not graph.is_directed() or graph.is_multigraph():
            raise InputError(
                f"from_networkx takes a DiGraph, not a {type(graph).__name__}: the direction of"
                " each edge says which variable generates which"
            )
        if observables is None:
            marked = dict(graph.nodes(data="observable"))
            given = any(flag is not None for flag in marked.values())
            observables = [v for v in graph if (marked[v] if given else graph.out_degree(v) == 0)]
        observables = list(observables)
        for v in observables:
            if v not in graph:
                raise InputError(
                    f"observable {v!r} is no node of the networkx graph: name one of its nodes"
                )
        for v in graph:
            if v not in observables and not graph.degree(v):
                raise InputError(
                    f"node {v!r} of the networkx graph has no edge and is no observable: remove it,"
                    " or list it as an observable"
                )
        return cls(
            graph.edges,
            observables,
            {v: d for v, d in graph.nodes(data="noise_dim") if d is not None},
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LatentGraph):
            return NotImplemented
        mine, theirs = ((set(g.edges), g.nodes, dict(g.noise_dims)) for g in (self, other))
        return mine == theirs

    def __hash__(self) -> int:
        return hash((frozenset(self.edges), self.observables))

    def __repr__(self) -> str:
        return (
            f"LatentGraph({len(self.latents)} latents, {len(self.observables)} observables,"
            f" {len(self.edges)} edges, height {self.height})"
        )

    def __reduce__(self) -> tuple:
        """Copies and pickles are built anew: the read-only mappings cannot be pickled."""
        return LatentGraph, (self.edges, self.observables, dict(self.noise_dims))

    def __setattr__(self, name: str, value: object) -> None:
        if "noise_dims" in self.__dict__:
            raise AttributeError(
                f"a LatentGraph is immutable: build a new one instead of setting {name!r}"
            )
        super().__setattr__(name, value)

    def _neighbours(self, key: int, value: int) -> Mapping[Name, tuple[Name, ...]]:
        found: dict[Name, list[Name]] = {v: [] for v in self._names}
        for edge in self.edges:
            found[edge[key]].append(edge[value])
        return MappingProxyType({v: tuple(others) for v, others in found.items()})

    @cached_property
    def _names(self) -> tuple[Name, ...]:
        return tuple(
            dict.fromkeys([v for edge in self.edges for v in edge] + list(self.observables))
        )

    def _sorted(self) -> list[Name]:
        """All nodes, parents first (Kahn). InputError naming the nodes of a cycle."""
        waiting = {v: len(parents) for v, parents in self.parents.items()}
        order = [v for v in self._names if not waiting[v]]
        for v in order:  # grows while it is read
            for w in self.children[v]:
                waiting[w] -= 1
                if not waiting[w]:
                    order.append(w)
        if len(order) < len(self._names):
            raise InputError(
                "the graph has a cycle,"
                f" {' → '.join(map(repr, self._cycle(set(self._names) - set(order))))}: remove one"
                " of its edges"
            )
        return order

    def _cycle(self, left: set[Name]) -> list[Name]:
        """A cycle among nodes that each have a parent among them, written parent first, its first
        node again at the end."""
        path = [next(v for v in self._names if v in left)]
        while path[-1] not in path[:-1]:
            path.append(next(p for p in self.parents[path[-1]] if p in left))
        return path[path.index(path[-1]) :][::-1]

    def _checked_dims(self, given: Mapping[Name, int]) -> dict[Name, int]:
        for v, d in given.items():
            if v not in self.levels:
                raise InputError(f"noise_dims names {v!r}, which is no node of the graph")
            if (
                isinstance(d, bool)
                or not isinstance(d, (int, np.integer))
                or d < (self.levels[v] > 0)
            ):
                least = "1: Theorem 1 needs a noise at every latent" if self.levels[v] else "0"
                raise InputError(
                    f"the noise dimension of {v!r} is {d!r}, but it must be a whole number of at"
                    f" least {least}"
                )
        return {v: int(given.get(v, 1)) for v in self.nodes}


def _pair(edge: tuple[Name, Name]) -> tuple[Name, Name]:
    pair = () if isinstance(edge, str) or not isinstance(edge, Iterable) else tuple(edge)
    if len(pair) != 2:
        raise InputError(f"edge {edge!r} is no (parent, child) pair of names")
    return pair[0], pair[1]


def _repeated(items: tuple) -> list:
    return [item for k, item in enumerate(items) if item in items[:k]]


def whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name} {value!r} must be a whole number of at least {least}")
