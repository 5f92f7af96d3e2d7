"""The conditions of Theorem 1 themselves (§2.3), checked by numbers on linear-Gaussian models and
knowing nothing of common ancestors: an independent judge of Algorithm 1 on models that meet
Assumption 1 and, on counterexamples, proof of what the assumption leaves unsaid.

In a linear-Gaussian model a variable is a matrix over the standard normal noises, and what a set of
variables determines is the row space of their matrices. Condition 1, (c, s_m) ↔ x_m and (c, s_mᶜ) ↔
x_mᶜ, asks that c be a function of either side; s_m is then what is left of x_m once c is regressed
out, and condition 2, s_m ⊥ (c, s_mᶜ), asks that x_m and x_mᶜ be independent given c.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mae_lib.base.errors import InputError
from mae_lib.theory.graph import LatentGraph, Name

TOLERANCE = 1e-7
"""A sine, a correlation or a singular value relative to the largest counts as 0 below it. In 400
models of `linear_model` on graphs of up to 16 latents rounding left at most 2e-16, and no singular
value that is not 0 was under 0.01; sines and correlations that are not 0 are of order 1 there and
in the counterexamples."""

LARGEST = {"latents": 16, "coordinates": 2048}
"""The most latents whose 2^n subsets are tried, and the most coordinates of one variable: they add
up along every path."""


@dataclass(frozen=True)
class LinearModel:
    """Variables as linear maps of independent standard normal noises.

    Attributes:
        maps: name → float64 [dim, n_noise], one for each latent and observable. observables: those
            that a mask can hide; the rest are latents.
    """

    maps: Mapping[Name, np.ndarray]
    observables: tuple[Name, ...]

    @property
    def latents(self) -> tuple[Name, ...]:
        return tuple(v for v in self.maps if v not in self.observables)

    def stack(self, names: Iterable[Name]) -> np.ndarray:
        """The maps of several variables, one below the other: float64 [sum of their dimensions,
        n_noise]."""
        width = next(iter(self.maps.values())).shape[1]
        return np.concatenate([np.empty((0, width)), *(self.maps[v] for v in names)])

    def coordinates(self, names: Iterable[Name]) -> int:
        """How many coordinates the variables have together."""
        return len(self.stack(names))

    def rank(self, names: Iterable[Name]) -> int:
        """How many independent numbers the variables carry together, at most `coordinates`."""
        return len(_basis(self.stack(names)))


@dataclass(frozen=True)
class Verdict:
    """How far a candidate c is from conditions 1 and 2; true where it meets both. All three are in
    [0, 1], and 0 (below `TOLERANCE`) where met.

    Attributes:
        beyond_masked: sine of the largest angle between c and what x_m determines: 0 where c is a
            function of x_m. beyond_visible: of x_mᶜ.
        dependence: largest canonical correlation of x_m and x_mᶜ given c.
    """

    beyond_masked: float
    beyond_visible: float
    dependence: float

    def __bool__(self) -> bool:
        return max(self.beyond_masked, self.beyond_visible, self.dependence) < TOLERANCE

    @property
    def failures(self) -> tuple[str, ...]:
        """What is not met, in words."""
        said = (
            (self.beyond_masked, "condition 1: c is no function of the masked part"),
            (self.beyond_visible, "condition 1: c is no function of the visible part"),
            (self.dependence, "condition 2: given c, the two parts are still dependent"),
        )
        return tuple(text for value, text in said if value >= TOLERANCE)


def linear_model(graph: LatentGraph, seed: int, root: np.ndarray | None = None) -> LinearModel:
    """A random model on a graph: v = M_v [Pa(v); ε_v], M_v square with singular values in [½, 2].

    Args:
        root: float64 [n_noise, n], a root R of the noises' covariance R Rᵀ where they are
            dependent; noises in the order of ``graph.nodes``.

    Raises:
        InputError: a variable of more coordinates than `LARGEST`, or a root that does not fit the
            noises.
    """
    return _compose(graph.parents, graph.noise_dims, graph.observables, seed, root)


def meets_conditions(
    model: LinearModel,
    masked: Collection[Name],
    candidate: Collection[Name],
    ignored: Collection[Name] = (),
) -> Verdict:
    """Whether conditions 1 and 2 hold for the candidate c (some s_m and s_mᶜ exist).

    Args:
        masked: the observables in m. candidate: the latents of c. ignored: observables in neither
            part; the rest are visible.

    Raises:
        InputError: a name that is not of its kind, or an observable both masked and ignored.
    """
    sides = _sides(model, masked, ignored)
    return _verdict(model, *sides, _checked(candidate, model.latents, "candidate", "latent"))


def valid_sets(
    model: LinearModel, masked: Collection[Name], ignored: Collection[Name] = ()
) -> list[frozenset[Name]]:
    """All sets of latents that meet conditions 1 and 2, smaller sets first; [] where there is none.
    Errors as of `meets_conditions`."""
    if len(model.latents) > LARGEST["latents"]:
        raise InputError(
            f"{len(model.latents)} latents have too many subsets to try each: take a model of at"
            f" most {LARGEST['latents']}"
        )
    sides = _sides(model, masked, ignored)
    subsets = itertools.chain.from_iterable(
        itertools.combinations(model.latents, k) for k in range(len(model.latents) + 1)
    )
    return [c for c in map(frozenset, subsets) if _verdict(model, *sides, c)]


def minimal_sets(
    model: LinearModel,
    masked: Collection[Name],
    ignored: Collection[Name] = (),
    intrinsic: bool = False,
) -> list[frozenset[Name]]:
    """Those of `valid_sets` of the least dimension: condition 3.

    Args:
        intrinsic: dimension is the number of coordinates, or, where true, of independent numbers.
            All valid sets carry the same information, hence the same number of independent numbers:
            only coordinates single one out.
    """
    valid = valid_sets(model, masked, ignored)
    size = model.rank if intrinsic else model.coordinates
    sizes = [size(c) for c in valid]
    return [c for c, n in zip(valid, sizes) if n == min(sizes)]


@dataclass(frozen=True)
class Counterexample:
    """A model that breaks a condition which Assumption 1 leaves unsaid.

    Attributes:
        condition: what is broken. statement: what then happens. edges, observables, noise_dims: its
            graph, as of `LatentGraph`, which refuses some of them. masked: the mask. says: what
            Algorithm 1 answers on that graph all the same. model: builds it.
    """

    condition: str
    statement: str
    edges: tuple[tuple[str, str], ...]
    observables: tuple[str, ...]
    noise_dims: Mapping[str, int]
    masked: frozenset[str]
    says: frozenset[str]
    model: Callable[[], LinearModel]

    def valid_sets(self) -> list[frozenset[Name]]:
        """All c that meet conditions 1 and 2, by enumeration."""
        return valid_sets(self.model(), self.masked)


def _example(
    condition: str,
    statement: str,
    edges: str,
    noise_dims: Mapping[str, int],
    masked: str,
    says: str,
    model: LinearModel | None = None,
    root: np.ndarray | None = None,
) -> Counterexample:
    """Edges as "z>x", names as words; nodes in the order of ``noise_dims``, parents first; x… are
    the observables. A random model by default."""
    pairs = tuple((a, b) for a, b in (edge.split(">") for edge in edges.split()))
    parents = {v: [a for a, b in pairs if b == v] for v in noise_dims}
    observables = tuple(v for v in noise_dims if v.startswith("x"))
    build = lambda: model or _compose(parents, noise_dims, observables, 0, root)
    return Counterexample(
        condition,
        statement,
        pairs,
        observables,
        noise_dims,
        frozenset(masked.split()),
        frozenset(says.split()),
        build,
    )


COUNTEREXAMPLES: dict[str, Counterexample] = {
    "dependent noises": _example(
        "the exogenous noises are independent",
        "The noises of z1 and z2 correlate by 0.6. Without c the two parts are dependent, and"
        " neither latent is a function of both: no c is valid.",
        "z1>x1 z2>x2",
        {"z1": 1, "z2": 1, "x1": 1, "x2": 1},
        "x1",
        "",
        root=np.array([[1, 0, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ),
    "noiseless latent": _example(
        "every latent has a noise of its own",
        "z2 = g(z0, z1) adds nothing to z1, which determines z0: {z1}, of 4 coordinates, is valid"
        " and smaller than the sink {z2}, of 6.",
        "z0>z1 z0>z2 z1>z2 z2>x0 z2>x1",
        {"z0": 2, "z1": 2, "z2": 0, "x0": 1, "x1": 1},
        "x0",
        "z2",
    ),
    "observable with a child": _example(
        "observables are leaves",
        "Without c, x0 and x1 = g(z0) are dependent, and z0, which has a noise that x0 lacks, is no"
        " function of x0: no c is valid.",
        "x0>z0 z0>x1",
        {"x0": 1, "z0": 1, "x1": 1},
        "x0",
        "",
    ),
    "additive noise": _example(
        "modules are invertible",
        "x_i = z + ε_i: no x_i determines z, and without z the two parts are dependent: no c is"
        " valid.",
        "z>x1 z>x2",
        {"z": 1, "x1": 1, "x2": 1},
        "x1",
        "z",
        model=LinearModel(
            {"z": np.eye(1, 3), "x1": np.array([[1.0, 1, 0]]), "x2": np.array([[1.0, 0, 1]])},
            ("x1", "x2"),
        ),
    ),
    "invertible only jointly": _example(
        "each child determines its parents by itself",
        "z = (a, b), x1 = (a, b + ε_1), x2 = (a + ε_2, b): together x1 and x2 determine z and both"
        " noises, but neither determines z: no c is valid.",
        "z>x1 z>x2",
        {"z": 2, "x1": 1, "x2": 1},
        "x1",
        "z",
        model=LinearModel(
            {
                "z": np.eye(2, 4),
                "x1": np.eye(2, 4) + np.eye(2, 4, 1) * [[0], [1]],
                "x2": np.eye(2, 4) + np.eye(2, 4, 3),
            },
            ("x1", "x2"),
        ),
    ),
    "injective, not onto": _example(
        "invertible means injective, not equal in dimension",
        "x1 and x2 both carry z: c = {z} and s_m are 3 numbers, x_m has 4 coordinates, so (c, s_m)"
        " ↔ x_m is one-to-one onto a 3-dimensional part of the 4-dimensional space. The theorem"
        " holds; if dimensions had to be equal, no c would be valid.",
        "z>x1 z>x2 z>x3",
        {"z": 1, "x1": 1, "x2": 1, "x3": 1},
        "x1 x2",
        "z",
    ),
}
"""By what they break, as on the book's *Proofs* page. The last breaks nothing: it shows which
meaning of *invertible* the theorem needs."""


def _compose(
    parents: Mapping[Name, Iterable[Name]],
    noise_dims: Mapping[Name, int],
    observables: tuple[Name, ...],
    seed: int,
    root: np.ndarray | None,
) -> LinearModel:
    """v = M_v [Pa(v); ε_v], in the order of ``noise_dims``, parents first."""
    draw, total = np.random.default_rng(seed), sum(noise_dims.values())
    root = np.eye(total) if root is None else np.asarray(root, np.float64)
    if root.ndim != 2 or len(root) != total:
        raise InputError(
            f"a root of shape {list(root.shape)} does not fit the model's {total} noises: give it"
            f" {total} rows"
        )
    maps: dict[Name, np.ndarray] = {}
    start = 0
    for v, n in noise_dims.items():
        stop = start + n
        rows = np.concatenate([*(maps[p] for p in parents[v]), root[start:stop]])
        if len(rows) > LARGEST["coordinates"]:
            raise InputError(
                f"{v!r} would have {len(rows)} coordinates, more than {LARGEST['coordinates']}:"
                " take a smaller graph"
            )
        left, right = (np.linalg.qr(draw.normal(size=(len(rows), len(rows))))[0] for _ in range(2))
        maps[v] = (left * 2 ** draw.uniform(-1, 1, len(rows))) @ (right @ rows)
        start = stop
    return LinearModel(maps, observables)


def _basis(rows: np.ndarray, least: float | None = None) -> np.ndarray:
    """An orthonormal basis of the row space, [rank, n]; singular values up to ``least`` (default:
    relative to the largest) count as 0."""
    if not rows.size:
        return rows[:0]
    _, values, basis = np.linalg.svd(rows, full_matrices=False)
    return basis[values > (TOLERANCE * values[0] if least is None else least)]


def _without(rows: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """What is left of the rows once an orthonormal basis is regressed out."""
    return rows - (rows @ basis.T) @ basis


def _verdict(
    model: LinearModel, masked: np.ndarray, visible: np.ndarray, candidate: Iterable[Name]
) -> Verdict:
    """Of bases of x_m and x_mᶜ."""
    c = _basis(model.stack(candidate))
    left, right = (_basis(_without(side, c), TOLERANCE) for side in (masked, visible))
    return Verdict(
        *(
            float(np.linalg.norm(m, 2)) if m.size else 0.0
            for m in (_without(c, masked), _without(c, visible), left @ right.T)
        )
    )


def _sides(
    model: LinearModel, masked: Collection[Name], ignored: Collection[Name]
) -> tuple[np.ndarray, np.ndarray]:
    """Bases of what the masked and what the visible part determine."""
    masked, ignored = (
        _checked(names, model.observables, what, "observable")
        for names, what in ((masked, "masked"), (ignored, "ignored"))
    )
    if twice := masked & ignored:
        raise InputError(
            f"observable {min(twice, key=str)!r} is both masked and ignored: list it once"
        )
    visible = [x for x in model.observables if x not in masked | ignored]
    return _basis(model.stack(masked)), _basis(model.stack(visible))


def _checked(
    names: Collection[Name], known: tuple[Name, ...], what: str, kind: str
) -> frozenset[Name]:
    if isinstance(names, str):
        raise InputError(
            f"{what} must be a collection of names, not the text {names!r}: write [{names!r}]"
        )
    for v in names:
        if v not in known:
            raise InputError(f"{what} names {v!r}, which is no {kind} of the model")
    return frozenset(names)
