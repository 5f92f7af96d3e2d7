"""The cases of Theorem 2's experiment (§2.3): graphs, masks, widths of the code, and what is broken
in each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace

import torch
from threadpoolctl import threadpool_limits

from mae_lib.base.errors import InputError
from mae_lib.identification.process import (
    CorrelatedNormal,
    MechanismFactory,
    NoiseLaw,
    PolarMap,
    standard_normal,
)
from mae_lib.theory.graph import LatentGraph, Name
from mae_lib.theory.shared import SharedInformation, locate_shared


def masked_names(graph: LatentGraph, mask: str) -> tuple[Name, ...]:
    """The observables that ``mask``, an x or a dot for each in order such as "xx..", hides.
    InputError for another text."""
    if len(mask) != len(graph.observables) or set(mask) - {"x", "."}:
        raise InputError(
            f"mask {mask!r} must have an x (masked) or a dot (visible) for each of the"
            f" {len(graph.observables)} observables"
        )
    return tuple(v for v, sign in zip(graph.observables, mask) if sign == "x")


@dataclass(frozen=True)
class Case:
    """One row of the experiment: a process, masks, a model, and what deviates from the theorem's
    conditions.

    Args:
        name: of the row. graph: of the process.
        masks: one or more, such as "xx.."; with several, every draw gets one of them at random, and
            both networks are told which.
        measured: those of the masks that are measured after the training; all where none is given.
        code_dim: d̂, the dimension of ĉ. loss: "squared", eq. 2, where the decoder sees ĉ alone; or
            "energy", where it also gets ŝ_m ~ N(0, I).
        special: observable or latent → factory of its mechanism, where not the default. noise: the
            law of the noises.
        dropped: coordinates cut off each observable, the last ones, so that it no longer determines
            its ancestors.
        width: of the two hidden layers in each network.

    Raises:
        InputError: a mask that does not fit or that leaves c empty, or a number out of range.
    """

    name: str
    graph: LatentGraph
    masks: tuple[str, ...]
    code_dim: int
    loss: str = "squared"
    special: Mapping[Name, MechanismFactory] = field(default_factory=dict)
    noise: NoiseLaw = standard_normal
    dropped: int = 0
    width: int = 64
    measured: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.masks, str) or not self.masks:
            raise InputError(
                f"masks {self.masks!r} must be a tuple of at least one mask, for instance ('xx..',)"
            )
        for mask in self.masks:
            if not (shared := self.shared(mask)).c:
                raise InputError(f"mask {mask!r} has nothing to recover: {shared.explanation}")
        if unknown := set(self.measured) - set(self.masks):
            raise InputError(
                f"measured names the mask {min(unknown)!r}, which is none of the masks trained on:"
                f" {', '.join(self.masks)}"
            )
        if self.loss not in ("squared", "energy"):
            raise InputError(f"loss {self.loss!r} must be 'squared' or 'energy'")
        for what, least in (("code_dim", 1), ("width", 1), ("dropped", 0)):
            value = getattr(self, what)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{what} {value!r} must be a whole number of at least {least}")
        if self.dropped >= min(self.graph.dims[x] for x in self.graph.observables):
            raise InputError(
                f"dropped {self.dropped} leaves nothing of an observable: drop fewer coordinates"
            )

    def shared(self, mask: str) -> SharedInformation:
        """Theorem 1's answer for one of the masks."""
        return locate_shared(self.graph, masked_names(self.graph, mask))


@dataclass(frozen=True)
class CaseResult:
    """What one model, trained on one process, was found to know under one mask: R² of
        `kernel_ridge_r2` from a code or the visible part, shares of variance that c determines
        (`excess.determined_share`, without a regression), and losses.

    Attributes:
        code_to_c: how far ĉ determines c. c_to_code, c_to_output: how far c determines ĉ and what
            the decoder makes of it, ŝ_m held at 0. ĉ is a one-to-one function of c where the first
            two are 1.
        code_to_s_m, code_to_s_mc: leaks, how far ĉ determines the noises that belong to the masked
            and to the visible part alone.
        untrained_to_c: control, ``code_to_c`` of the same encoder before training. visible_to_c,
            visible_to_s_mc: controls, the regression given x_mᶜ itself: what it finds where the
            truth is 1, and what a leak could reach.
        loss: on fresh draws, coordinates of x_m standardised: a squared loss of 1 is that of a
            constant. excess, leak, misfit, gap: of the output's squared loss above the least
            possible, its two parts, and what is left over (`excess.ExcessLoss`), each a mean over
            the coordinates of x_m.
    """

    case: Case
    mask: str
    seed: int
    code_to_c: float
    c_to_code: float
    c_to_output: float
    code_to_s_m: float
    code_to_s_mc: float
    untrained_to_c: float
    visible_to_c: float
    visible_to_s_mc: float
    loss: float
    excess: float
    leak: float
    misfit: float
    gap: float
    seconds: float = field(compare=False)


FIGURES = tuple(f.name for f in fields(CaseResult)[3:-1])
"""The names of the measured numbers in a `CaseResult`."""


def reference_graph() -> LatentGraph:
    """The experiment's tree: z1 → z2, z3; z2 → x1, x2; z3 → x3, x4; the noise of z1 has two
    dimensions, all others one."""
    edges = [("z1", "z2"), ("z1", "z3"), ("z2", "x1"), ("z2", "x2"), ("z3", "x3"), ("z3", "x4")]
    return LatentGraph(edges, ["x1", "x2", "x3", "x4"], {"z1": 2})


def polar_graph() -> LatentGraph:
    """One latent z1 with two observables x1, x2; all noises of one dimension: where x1 is polar, z1
    is its radius and the noise its angle."""
    return LatentGraph([("z1", "x1"), ("z1", "x2")], ["x1", "x2"])


def table_cases() -> tuple[Case, ...]:
    """The rows of the table: four masks, two wrong code dimensions, and three broken conditions."""
    tree, pair = reference_graph(), polar_graph()
    polar = Case("mean without c, squared loss", pair, ("x.",), 1, special={"x1": PolarMap})
    return (
        Case("c = z1", tree, ("xx..",), 2),
        Case("c = z2", tree, ("x...",), 3),
        Case("c = z3", tree, ("xxx.",), 3),
        Case("c = z2, z3", tree, ("x.x.",), 4),
        Case("code too small", tree, ("xx..",), 1),
        Case("code too large", tree, ("xx..",), 6),
        polar,
        replace(polar, name="mean without c, energy score", loss="energy"),
        Case("dependent noises", tree, ("xx..",), 2, noise=CorrelatedNormal(0.6, (("z2", "z3"),))),
        Case("x not invertible", tree, ("xxx.",), 3, dropped=2),
    )


def elbow_cases(code_dims: Sequence[int] = (3, 4, 5)) -> tuple[Case, ...]:
    """More code dimensions for "xx..", whose 1, 2 and 6 are rows of the table."""
    return tuple(Case(f"code of {d}", reference_graph(), ("xx..",), d) for d in code_dims)


def every_mask_case(code_dim: int = 8) -> Case:
    """One wide model for all 14 masks that leave something to share, measured on the table's four:
    the closest to a masked autoencoder on images."""
    masks = tuple(
        "".join("x" if k >> place & 1 else "." for place in range(4)) for k in range(1, 15)
    )
    return Case(
        "one model, every mask",
        reference_graph(),
        masks,
        code_dim,
        width=128,
        measured=("xx..", "x...", "xxx.", "x.x."),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for PyTorch and for the linear algebra below scikit-learn: small matrices gain
    nothing from more, and sums keep their order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
