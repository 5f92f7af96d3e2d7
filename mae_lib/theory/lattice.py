"""Which latents masks can identify at all: what c of one mask, or of several masks together, can be
brought down to (ours, not the paper's; proof on the book's *Proofs* page, section 10).

By Theorem 1 a three-valued mask tells σ(c), the noises of its common ancestors. Two such pieces of
knowledge can be joined, or intersected to what both hold; independent noises turn this into union
and intersection of sets of latents. A latent is identified if what it holds, the noises of itself
and its ancestors, is among all that comes out. Nothing is tried out here: the answer is two counts
on the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from mae_lib.theory.graph import LatentGraph, Name


@dataclass(frozen=True)
class Identifiable:
    """What `identifiable` finds.

    Attributes:
        latents: those identified from the c of all masks by joining and intersecting. Intersecting
            is enough: such a latent is what the c of all pairs of observables below it, one masked,
            the other visible, the rest ignored, have in common.
        alone: latent → a pair (masked, visible) of observables for which, all others being ignored,
            c is this latent alone. One mask is enough for these and for no others. in_the_way:
            latent that is not identified → the latents, not above it, that have all of its
            observables below them, so that no mask tells them apart; none where it has a single
            observable, which no mask can split.
    """

    latents: frozenset[Name]
    alone: Mapping[Name, tuple[Name, Name]]
    in_the_way: Mapping[Name, frozenset[Name]]


def identifiable(graph: LatentGraph) -> Identifiable:
    """Which latents masks can identify, from the graph alone.

    A latent z is identified exactly if it has at least two observables below it and every latent
    that has all of them below it is z or an ancestor of z. One mask is enough exactly if z is the
    only lowest common ancestor of some two observables.
    """
    below = np.zeros((len(graph.latents), len(graph.observables)), np.int64)
    for k, z in enumerate(graph.latents):
        below[k] = [x in graph.descendants[z] for x in graph.observables]
    size = below.sum(1)
    covers = below @ below.T == size[:, None]  # [z, w]: all observables of z are below w
    common = below.T @ below  # [x, y]: how many latents are above both
    np.fill_diagonal(common, 0)
    latents, alone, in_the_way = [], {}, {}
    for k, z in enumerate(graph.latents):
        others = {graph.latents[w] for w in np.flatnonzero(covers[k])} - graph.ancestors[z]
        if size[k] < 2 or others:
            in_the_way[z] = frozenset(others)
            continue
        latents.append(z)
        own = np.flatnonzero(below[k])
        # z and its ancestors are above each pair; where nothing else is, z is the one lowest.
        pairs = np.argwhere(common[np.ix_(own, own)] == len(graph.ancestors[z]))
        if len(pairs):
            alone[z] = tuple(graph.observables[own[j]] for j in pairs[0])
    return Identifiable(frozenset(latents), MappingProxyType(alone), MappingProxyType(in_the_way))
