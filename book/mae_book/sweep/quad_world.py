"""The quad-tree world: images whose latent tree is exact, and how well it is recovered from
them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mae_lib.identification.process import LeakyMap, Process, Sample
from mae_lib.identification.structure import (
    bipartitions,
    estimate_tree,
    information_distances,
    neighbour_joining,
    partition,
    robinson_foulds,
)
from mae_lib.theory.graph import LatentGraph, Name
from mae_lib.theory.graphs import quad_tree
from mae_lib.theory.levels import subtree_groups

GRID, LEVELS = (8, 8), 3

ESTIMATION_DRAWS = 4096


class TreeWorld:
    """Images from a process on the quad-tree: [B, 4, 8, 8], each channel of each pixel standardised
    over 4096 draws.

    Args:
        seed: of the mechanisms, one for each level.
    """

    def __init__(self, seed: int) -> None:
        self.graph: LatentGraph = quad_tree(GRID)
        generator = torch.Generator().manual_seed(seed)
        shared = {dim: LeakyMap(dim, generator) for dim in range(1, LEVELS + 2)}
        # not standardised, as when the runs were registered: a node's own scale would also make
        # the nodes of a level differ
        self.process = Process(self.graph, seed, lambda dim, _: shared[dim], standardised=False)
        self.reference = self._observed(
            self.process.sample(ESTIMATION_DRAWS, torch.Generator().manual_seed(seed + 2**20))
        )
        self._deviation, self._mean = torch.std_mean(self.reference, 0)

    def images(self, sample: Sample) -> Tensor:
        """float [B, 4, 8, 8] of a sample."""
        x = (self._observed(sample) - self._mean) / self._deviation
        return x.transpose(1, 2).unflatten(2, GRID)

    def noises(self, sample: Sample, level: int, below: Name | None = None) -> Tensor:
        """float [B, nodes of the level]: what is new at a level; of the ancestors of the observable
        ``below`` alone, where one is given."""
        nodes = [
            v
            for v in self.graph.nodes
            if self.graph.levels[v] == level and (below is None or v in self.graph.ancestors[below])
        ]
        return torch.cat([sample.noises[v] for v in nodes], 1)

    def _observed(self, sample: Sample) -> Tensor:
        return torch.stack([sample.values[x] for x in self.graph.observables], 1)


@dataclass(frozen=True)
class Recovery:
    """How well the tree of a quad-tree process is estimated from ``draws`` draws, over ``seeds``
    processes with a mechanism of its own at each node.

    Attributes:
        lacking: share of the true tree's bipartitions that the binary tree of neighbour joining
            lacks, mean over seeds. exact: share of seeds in which the contracted tree
            (`structure.estimate_tree`) is the true one. groups: share in which cutting gives
            exactly the 2 × 2 blocks.
    """

    draws: int
    seeds: int
    lacking: float
    exact: float
    groups: float


def recovery(
    draws: Sequence[int], grid: tuple[int, int] = (4, 4), seeds: int = 20
) -> list[Recovery]:
    """A `Recovery` for each number of draws. InputError as of `structure.information_distances` and
    `graph.quad_tree`."""
    graph, rows = quad_tree(grid), []
    true, wanted = len(bipartitions(graph)), subtree_groups(graph, 1)
    for count in draws:
        found = []
        for seed in range(seeds):
            values = (
                Process(graph, seed, standardised=False)
                .sample(count, torch.Generator().manual_seed(seed + 2**20))
                .values
            )
            distances = information_distances(
                torch.stack([values[x] for x in graph.observables], 1)
            )
            tree = neighbour_joining(distances)
            lacking = robinson_foulds(tree.rooted(), graph)[0] / true
            groups = tuple(partition(tree, max(wanted) + 1).tolist()) == wanted
            found.append(
                (lacking, robinson_foulds(estimate_tree(distances), graph) == (0, 0), groups)
            )
        rows.append(Recovery(count, seeds, *(sum(column) / seeds for column in zip(*found))))
    return rows
