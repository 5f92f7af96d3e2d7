"""The hierarchical data-generating process (§2.1, Assumption 1): every variable is an invertible
function of its parents and its own exogenous noise. Sampling forwards, and backwards the recovery
of all ancestors from a single variable, σ(v) = σ(ε_A[v]), on which the proof of Theorem 1 rests.
Mechanisms and noise laws are pluggable; the defaults are random two-layer maps and independent
normal noises. Every variable is standardised, so that what parents say does not fade on its way
down among fresh noises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.theory.graph import LatentGraph, Name

SLOPE = 0.2
"""Of the leaky ReLU below zero."""

DRAWS, KEPT = 400, 20
"""Matrices drawn for one layer, and how many of them, the best by condition number, are eligible: 5
%."""


STANDARD_DRAWS = 10_000
"""Draws that a node's mean and deviation are taken over."""


class Mechanism(Protocol):
    """An invertible map g_v of [parents' values, noise]: both ways [B, d] → [B, d], in the dtype
    and on the device of its argument."""

    def forward(self, inputs: Tensor) -> Tensor: ...

    def inverse(self, outputs: Tensor) -> Tensor: ...


class MechanismFactory(Protocol):
    """Draws a mechanism of ``dim`` coordinates from a CPU generator; a top-level function or a
    class, where it has to reach another process."""

    def __call__(self, dim: int, generator: torch.Generator) -> Mechanism: ...


class NoiseLaw(Protocol):
    """The law of all exogenous noises together."""

    def __call__(
        self, graph: LatentGraph, n: int, generator: torch.Generator
    ) -> dict[Name, Tensor]:
        """name → float [n, noise dimension], for every node, on the generator's device."""
        ...


def draw_matrix(dim: int, generator: torch.Generator) -> Tensor:
    """float64 [dim, dim]: entries uniform on [−1, 1], columns of unit length, drawn at random from
    the best 20 of 400 by condition number.

    One of the best and not the best itself: that one is close to orthogonal, and all processes
    would then be alike.
    """
    drawn = torch.rand(DRAWS, dim, dim, generator=generator, dtype=torch.float64) * 2 - 1
    drawn = drawn / drawn.norm(dim=1, keepdim=True)
    best = torch.linalg.cond(drawn).argsort()[:KEPT]
    return drawn[best[torch.randint(KEPT, (), generator=generator)]]


class LeakyMap:
    """x ↦ W₂ · LeakyReLU₀.₂(W₁ x): square, two layers, without biases; the two matrices from
    `draw_matrix`.

    Attributes:
        first, second: float64 [dim, dim], the two matrices.
    """

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        self.first, self.second = draw_matrix(dim, generator), draw_matrix(dim, generator)
        self._inverse = torch.linalg.inv(self.first), torch.linalg.inv(self.second)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.nn.functional.leaky_relu(
            inputs @ self.first.T.to(inputs), SLOPE
        ) @ self.second.T.to(inputs)

    def inverse(self, outputs: Tensor) -> Tensor:
        return torch.nn.functional.leaky_relu(
            outputs @ self._inverse[1].T.to(outputs), 1 / SLOPE
        ) @ self._inverse[0].T.to(outputs)


class PolarMap:
    """Hides its parents from every mean (our counterexample to Theorem 2 under the squared loss):
    all that they say is turned by a uniform angle.

    With parents a₁, …, a_d, d odd, and one standard normal noise ε, the angle is θ = 2π·Φ(ε) and
    the outputs are the real and imaginary parts of e^{iθ}·(e^{a₁/2}, a₂ + i·a₃, a₄ + i·a₅, …).
    Their mean given the parents is 0, whatever the parents; yet the map is invertible.

    Raises:
        InputError: an odd number of coordinates.
    """

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        if dim % 2:
            raise InputError(
                f"a polar mechanism turns pairs of coordinates, and {dim} is odd: give the node one"
                " noise and parents of odd dimension in all"
            )

    def forward(self, inputs: Tensor) -> Tensor:
        angle = 2 * math.pi * torch.special.ndtr(inputs[:, -1:])
        flat = torch.cat(
            [(inputs[:, :1] / 2).exp(), torch.zeros_like(angle), inputs[:, 1:-1]], dim=1
        )
        return _turned(flat, angle)

    def inverse(self, outputs: Tensor) -> Tensor:
        angle = torch.atan2(outputs[:, 1:2], outputs[:, :1])
        flat = _turned(outputs, -angle)
        return torch.cat(
            [
                2 * flat[:, :1].log(),
                flat[:, 2:],
                torch.special.ndtri((angle / (2 * math.pi)).remainder(1)),
            ],
            dim=1,
        )


def _turned(pairs: Tensor, angle: Tensor) -> Tensor:
    """[B, 2k] read as k points of the plane, each turned by ``angle`` [B, 1]."""
    x, y = pairs[:, ::2], pairs[:, 1::2]
    return torch.stack(
        [x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], dim=2
    ).flatten(1)


def standard_normal(graph: LatentGraph, n: int, generator: torch.Generator) -> dict[Name, Tensor]:
    """The default `NoiseLaw`: all noises independent and N(0, 1)."""
    return {
        v: torch.randn(n, d, generator=generator, device=generator.device)
        for v, d in graph.noise_dims.items()
    }


@dataclass(frozen=True)
class CorrelatedNormal:
    """Standard normal noises of which some are correlated: what "independent noises" in Assumption
    1 forbids.

    Args:
        rho: correlation in [0, 1), of every two noises in a group, coordinate by coordinate.
        groups: names of the nodes in each group; all of a group must have one noise dimension.
            Noises of different groups are independent.

    Raises:
        InputError: ``rho`` out of range; when drawn, a name that is no node of the graph, or noise
            dimensions that differ in a group.
    """

    rho: float
    groups: tuple[tuple[Name, ...], ...]

    def __post_init__(self) -> None:
        if not 0 <= self.rho < 1:
            raise InputError(f"correlation {self.rho!r} must be in [0, 1)")

    def __call__(
        self, graph: LatentGraph, n: int, generator: torch.Generator
    ) -> dict[Name, Tensor]:
        noises = standard_normal(graph, n, generator)
        for group in self.groups:
            for v in group:
                if v not in noises:
                    raise InputError(f"correlated noise names {v!r}, which is no node of the graph")
                if graph.noise_dims[v] != graph.noise_dims[group[0]]:
                    raise InputError(
                        f"the noises of {group[0]!r} and {v!r} differ in dimension, so they cannot"
                        " be correlated coordinate by coordinate"
                    )
            common = torch.randn(
                n, graph.noise_dims[group[0]], generator=generator, device=generator.device
            )
            for v in group:
                noises[v] = self.rho**0.5 * common + (1 - self.rho) ** 0.5 * noises[v]
        return noises


@dataclass(frozen=True)
class Sample:
    """n draws of some variables.

    Attributes:
        values: name → float [n, dims of the node]. noises: name → float [n, noise dimension of the
            node].
    """

    values: dict[Name, Tensor]
    noises: dict[Name, Tensor]


class Process:
    """A graph with a mechanism at every node: v = g_v(Pa(v), ε_v), parents in the order of
    ``graph.parents`` (§2.1, Assumption 1). g_v is the mechanism, then each coordinate less its mean
    and over its deviation: invertible too, and every variable is as large as a noise.

    Args:
        graph: any valid graph; variables have ``graph.dims`` coordinates.
        seed: of the mechanisms. Each node has its own stream: another factory at one node leaves
            the others as they are.
        mechanism: factory of every node's mechanism. special: name → factory, of the nodes that get
            another one.
        noise: law of the exogenous noises. dtype: of all samples.
        standardised: False leaves the mechanisms' outputs as they are. A square map shrinks what
            passes through it, and a leaf then holds less of a root the deeper the graph is.

    Attributes:
        mechanisms: name → `Mechanism`.

    Raises:
        InputError: ``special`` names no node of the graph.
    """

    def __init__(
        self,
        graph: LatentGraph,
        seed: int,
        mechanism: MechanismFactory = LeakyMap,
        special: Mapping[Name, MechanismFactory] | None = None,
        noise: NoiseLaw = standard_normal,
        dtype: torch.dtype = torch.float32,
        standardised: bool = True,
    ) -> None:
        self.graph, self.noise, self.dtype = graph, noise, dtype
        special = special or {}
        for v in special:
            if v not in graph.dims:
                raise InputError(f"a mechanism is given for {v!r}, which is no node of the graph")
        own = torch.Generator().manual_seed(seed)
        streams = torch.randint(2**62, (len(graph.nodes),), generator=own).tolist()
        self.mechanisms: dict[Name, Mechanism] = {
            v: special.get(v, mechanism)(graph.dims[v], torch.Generator().manual_seed(stream))
            for v, stream in zip(graph.nodes, streams)
        }
        self._scales: dict[Name, tuple[Tensor, Tensor]] = {}
        if standardised:
            # parents first, so that a child's scale is taken with its parents at theirs
            self._values(noise(graph, STANDARD_DRAWS, own), measure=True)

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        """``n`` independent draws of all variables, on the generator's device."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InputError(f"the number of draws {n!r} must be a whole number of at least 1")
        return self.generate(self.noise(self.graph, n, generator))

    def generate(self, noises: Mapping[Name, Tensor]) -> Sample:
        """All variables from all noises, without any randomness.

        Args:
            noises: name → float [n, noise dimension], of every node.

        Raises:
            InputError: a node without noise, or noise of another shape than [n, noise dimension].
        """
        given = {
            v: self._checked(v, noises.get(v), d, "noise") for v, d in self.graph.noise_dims.items()
        }
        if len({len(noise) for noise in given.values()}) > 1:
            raise InputError(
                "the noises differ in their number of rows: give as many draws of each"
            )
        return Sample(self._values(given), given)

    def invert(self, name: Name, value: Tensor) -> Sample:
        """One variable's value → the values and noises of A[v], the variable and all its ancestors.

        Exact up to rounding; a value that the process cannot produce gives numbers without meaning.

        Args:
            name: of a node. value: float [n, its dims].

        Raises:
            InputError: an unknown name, or a value of another shape.
        """
        if name not in self.graph.dims:
            raise InputError(f"{name!r} is no node of the graph, so its value cannot be inverted")
        values, noises = {name: self._checked(name, value, self.graph.dims[name], "value")}, {}
        # children first, so that a node's value is known when its turn comes
        for v in reversed(self.graph.nodes):
            if v not in values:
                continue
            parents = self.graph.parents[v]
            value = values[v]
            if v in self._scales:
                mean, deviation = (scale.to(value) for scale in self._scales[v])
                value = value * deviation + mean
            parts = (
                self.mechanisms[v]
                .inverse(value)
                .split([*(self.graph.dims[p] for p in parents), self.graph.noise_dims[v]], dim=1)
            )
            noises[v] = parts[-1]
            for parent, part in zip(parents, parts):
                values.setdefault(parent, part)  # several children agree on a parent
        return Sample(values, noises)

    def _values(self, noises: Mapping[Name, Tensor], measure: bool = False) -> dict[Name, Tensor]:
        values: dict[Name, Tensor] = {}
        for v in self.graph.nodes:
            inputs = [*(values[p] for p in self.graph.parents[v]), noises[v].to(self.dtype)]
            raw = self.mechanisms[v].forward(torch.cat(inputs, dim=1))
            if measure:
                deviation, mean = torch.std_mean(raw.double(), dim=0)
                # a coordinate that never varies keeps its size
                self._scales[v] = mean, torch.where(deviation > 1e-9, deviation, 1)
            if v in self._scales:
                mean, deviation = (scale.to(raw) for scale in self._scales[v])
                raw = (raw - mean) / deviation
            values[v] = raw
        return values

    def _checked(self, name: Name, value: Tensor | None, dim: int, what: str) -> Tensor:
        if value is None:
            raise InputError(f"{name!r} has no {what}: give one of every node")
        if value.ndim != 2 or value.shape[1] != dim:
            raise InputError(
                f"the {what} of {name!r} has shape {list(value.shape)}: it must be [n, {dim}]"
            )
        return value.to(self.dtype)
