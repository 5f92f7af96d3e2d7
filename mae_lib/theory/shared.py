"""Theorem 1 as code (§2.3): which latents the masked and the visible part share. Algorithms 1 and
2, reconstructed from the theorem's conditions, for one mask and for very many at once, and what
becomes of c under a law of random masks.

A mask is three-valued: an observable is masked, visible or ignored (in neither part, as in §3.6).
CA, the *common ancestors*, are the latents with a masked and a visible descendant; c holds the
sinks of CA, its members with no child in CA. The book's *Proofs* page proves that no other set
meets the theorem.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.theory.graph import LatentGraph, Name
from mae_lib.theory.packed import locate_bool

MASKED, VISIBLE, BOTH = 1, 2, 3
"""What a node reaches, as bits; 0 where all it reaches is ignored."""

BUDGET = (1 << 30, 1 << 21)
"""Bytes of working memory on an accelerator, and most masks worked on at a time."""


@dataclass(frozen=True)
class SharedInformation:
    """Theorem 1's answer for one mask.

    Attributes:
        c: the minimal shared latents. common: CA, all latents that both parts determine. s_m, s_mc:
            the nodes whose exogenous noises are the information specific to the masked and to the
            visible part (s_mc is one valid instance of 2^|CA|).
        masked, visible, ignored: the observables of each kind.
    """

    graph: LatentGraph
    masked: frozenset[Name]
    visible: frozenset[Name]
    ignored: frozenset[Name]
    c: frozenset[Name]
    common: frozenset[Name]
    s_m: frozenset[Name]
    s_mc: frozenset[Name]

    @property
    def intrinsic_dim(self) -> int:
        """d_c: how many independent numbers c holds, the noise dimensions of CA added up."""
        return sum(self.graph.noise_dims[z] for z in self.common)

    @property
    def coordinate_dim(self) -> int:
        """How many coordinates the members of c have together; more than ``intrinsic_dim`` where
        they share ancestors."""
        return sum(self.graph.dims[z] for z in self.c)

    @property
    def level_spectrum(self) -> dict[int, int]:
        """Level → how many members of c have it, lowest level first."""
        return level_spectrum(self.graph, self.c)

    @property
    def mean_level(self) -> float:
        """Mean level of the members of c; NaN where c is empty."""
        return (
            sum(k * n for k, n in self.level_spectrum.items()) / len(self.c)
            if self.c
            else float("nan")
        )

    @property
    def explanation(self) -> str:
        """c in a sentence; where it is empty, why."""
        if self.c:
            members = ", ".join(str(z) for z in self.graph.latents if z in self.c)
            dims = [
                f"{n} {word}{'s' * (n != 1)}"
                for n, word in (
                    (self.intrinsic_dim, "independent number"),
                    (self.coordinate_dim, "coordinate"),
                )
            ]
            return f"c = {{{members}}}: {' in '.join(dims)}, mean level {self.mean_level:.3g}"
        if not self.masked:
            return "c is empty: nothing is masked, so there is nothing to predict"
        if not self.visible:
            return "c is empty: nothing is visible, so there is nothing to predict from"
        return (
            "c is empty: no latent has a masked and a visible descendant, so the two parts are"
            " independent"
        )

    def __str__(self) -> str:
        return self.explanation


def locate_shared(
    graph: LatentGraph, masked: Collection[Name], ignored: Collection[Name] = ()
) -> SharedInformation:
    """Algorithms 1 and 2: c, s_m and one s_mc for a mask, in time linear in the graph.

    Args:
        masked: the observables in m. ignored: observables in neither part; all others are visible.

    Raises:
        InputError: no collection of names, a name that is no observable of the graph, or one that
            is both masked and ignored.
    """
    masked, ignored = _names(graph, masked, "masked"), _names(graph, ignored, "ignored")
    if twice := masked & ignored:
        raise InputError(
            f"observable {min(twice, key=str)!r} is both masked and ignored: list it once"
        )
    reach = {
        x: MASKED if x in masked else 0 if x in ignored else VISIBLE for x in graph.observables
    }
    c = []
    for z in reversed(graph.latents):  # children first
        below, sink = 0, True
        for child in graph.children[z]:
            below |= reach[child]
            sink &= reach[child] != BOTH
        reach[z] = below
        if below == BOTH and sink:
            c.append(z)
    common = frozenset(v for v, r in reach.items() if r == BOTH)
    s_m, s_mc = (frozenset(v for v, r in reach.items() if r == part) for part in (MASKED, VISIBLE))
    visible = frozenset(graph.observables) - masked - ignored
    return SharedInformation(graph, masked, visible, ignored, frozenset(c), common, s_m, s_mc)


def level_spectrum(graph: LatentGraph, latents: Iterable[Name]) -> dict[int, int]:
    """Level → how many of ``latents`` have it, lowest level first."""
    counts: dict[int, int] = {}
    for level in sorted(graph.levels[z] for z in latents):
        counts[level] = counts.get(level, 0) + 1
    return counts


def locate_shared_batch(
    graph: LatentGraph, masks: Tensor | np.ndarray, ignored: Tensor | np.ndarray | None = None
) -> Tensor | np.ndarray:
    """Algorithm 1 for many masks at once, on the masks' device; `mae_lib.theory.packed` for masks
    that are packed already.

    Args:
        masks: bool [B, n_observables], True where masked, columns in the order of
            ``graph.observables``; a tensor or an array.
        ignored: bool [B, n_observables] or [n_observables], True where an observable is in neither
            part.

    Returns:
        bool [B, n_latents], True where the latent is in c, columns in the order of
        ``graph.latents``; of the masks' kind. Beside it the working memory is bounded, whatever B.

    Raises:
        InputError: masks or ignored of another shape or type, or on another device, or an
            observable both masked and ignored.
    """
    return _batch(graph, masks, ignored, False)


def common_ancestors_batch(
    graph: LatentGraph, masks: Tensor | np.ndarray, ignored: Tensor | np.ndarray | None = None
) -> Tensor | np.ndarray:
    """CA for many masks at once; arguments, result and errors as for `locate_shared_batch`."""
    return _batch(graph, masks, ignored, True)


def _batch(
    graph: LatentGraph,
    masks: Tensor | np.ndarray,
    ignored: Tensor | np.ndarray | None,
    common: bool,
) -> Tensor | np.ndarray:
    """c, or CA where ``common``, of masks that are checked here."""
    tensor = _boolean(graph, masks, "masks", (2,))
    skipped = None if ignored is None else _boolean(graph, ignored, "ignored", (1, 2))
    if skipped is not None and skipped.ndim == 1:
        skipped = skipped.expand(len(tensor), -1)
    if skipped is not None and (skipped.device != tensor.device or len(skipped) != len(tensor)):
        raise InputError(
            f"ignored is {list(skipped.shape)} on {skipped.device}, masks are {list(tensor.shape)}"
            f" on {tensor.device}: give one row a mask, or one for all"
        )
    found = torch.empty(len(tensor), len(graph.latents), dtype=torch.bool, device=tensor.device)
    if tensor.device.type == "cpu":
        locate_bool(
            graph,
            tensor.numpy(),
            None if skipped is None else skipped.numpy(),
            common,
            found.numpy(),
        )
    else:
        _on_accelerator(graph, tensor, skipped, common, found)
    return found.numpy() if isinstance(masks, np.ndarray) else found


def _on_accelerator(
    graph: LatentGraph, masks: Tensor, ignored: Tensor | None, common: bool, found: Tensor
) -> None:
    """The same by PyTorch, into bool [B, n_latents], a chunk at a time."""
    budget, most = BUDGET
    # About four times half a byte a node and a mask: both reaches, CA and c, and as much for the
    # observables while they are packed.
    chunk = 8 * max(32, min(most, 2 * budget // (len(graph.observables) + len(graph.nodes))) // 8)
    for start in range(0, len(masks), chunk):
        rows = slice(start, start + chunk)
        masked = _pack(masks[rows])
        visible = ~masked
        if ignored is not None:
            unseen = _pack(ignored[rows])
            if bool((masked & unseen).any()):
                name = graph.observables[int((masks[rows] & ignored[rows]).any(0).nonzero()[0])]
                raise InputError(f"observable {name!r} is both masked and ignored: choose one")
            visible &= ~unseen
        _unpack(_locate(graph, masked, visible)[int(common)], found[rows])


def _locate(graph: LatentGraph, masked: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Algorithm 1 on bits: uint8 [n_observables, K/8], eight masks a byte, → c and CA, uint8
    [n_latents, K/8]."""
    above = len(graph.latents)
    row = {v: k for k, v in enumerate(graph.nodes)}
    # Row, part, bits: the two reaches lie side by side, so that one OR an edge serves both.
    reach = torch.cat(
        [masked.new_zeros(above, 2, masked.shape[1]), torch.stack([masked, visible], 1)]
    )
    rows = list(reach)
    for k in range(above - 1, -1, -1):  # children first
        for child in graph.children[graph.latents[k]]:
            rows[k] |= rows[row[child]]
    common = reach[:above, 0] & reach[:above, 1]
    mixed_child = torch.zeros_like(common)
    from_rows, into_rows = list(common), list(mixed_child)
    for k, z in enumerate(graph.latents):
        for child in graph.children[z]:
            if row[child] < above:
                into_rows[k] |= from_rows[row[child]]
    return common & ~mixed_child, common


def _pack(values: Tensor) -> Tensor:
    """bool [K, n] → uint8 [n, ⌈K/8⌉]: bit j of byte i is row 8i + j. Bytes are or-ed along whole
    rows: a plain transposition is five times slower."""
    full = -(-len(values) // 8) * 8
    if full > len(values):
        values = torch.cat([values, values.new_zeros(full - len(values), values.shape[1])])
    eight = values.contiguous().view(torch.uint8).view(full // 8, 8, values.shape[1])
    packed = eight[:, 0].clone()
    for j in range(1, 8):
        packed |= eight[:, j] << j
    return packed.t().contiguous()


def _unpack(bits: Tensor, out: Tensor) -> None:
    """The inverse: uint8 [n, ⌈K/8⌉] into bool [K, n]."""
    packed, K = bits.t().contiguous(), len(out)
    target = out if K % 8 == 0 else out.new_empty(len(packed) * 8, out.shape[1])
    eight = target.view(torch.uint8).view(len(packed), 8, out.shape[1])
    for j in range(8):
        torch.bitwise_and(packed >> j, 1, out=eight[:, j])
    if target is not out:
        out.copy_(target[:K])


def _names(graph: LatentGraph, names: Collection[Name], what: str) -> frozenset[Name]:
    if isinstance(names, str):
        raise InputError(
            f"{what} must be a collection of names, not the text {names!r}: write [{names!r}]"
        )
    if isinstance(names, Tensor) or (isinstance(names, np.ndarray) and names.dtype == np.bool_):
        raise InputError(
            f"{what} must be a collection of names, not an array of {names.dtype}: name the"
            " observables, or give the array to locate_shared_batch"
        )
    if not isinstance(names, Iterable):
        raise InputError(f"{what} must be a collection of names, not {names!r}: write [] for none")
    names = list(names)
    for v in names:
        if not isinstance(v, Hashable):
            raise InputError(f"{what} names {v!r}, which is no node of the graph")
    chosen = frozenset(names)
    for v in chosen - frozenset(graph.observables):
        kind = (
            "a latent: only observables are masked" if v in graph.levels else "no node of the graph"
        )
        raise InputError(f"{what} names {v!r}, which is {kind}")
    return chosen


def _boolean(
    graph: LatentGraph, values: Tensor | np.ndarray, what: str, ndims: tuple[int, ...]
) -> Tensor:
    if not isinstance(values, (Tensor, np.ndarray)):
        raise InputError(
            f"{what} must be a bool tensor or array, not {type(values).__name__}: convert with"
            " np.array(…, dtype=bool)"
        )
    if values.dtype not in (torch.bool, np.bool_):
        raise InputError(
            f"{what} must be bool (True where {'masked' if what == 'masks' else what}), not"
            f" {values.dtype}: convert with .bool() or .astype(bool)"
        )
    if values.ndim not in ndims or values.shape[-1] != len(graph.observables):
        raise InputError(
            f"{what} of shape {list(values.shape)} do not fit the graph: its"
            f" {len(graph.observables)} observables need [B, {len(graph.observables)}]"
        )
    if isinstance(values, np.ndarray) and (min(values.strides) < 0 or not values.flags.writeable):
        # torch takes no negative strides, and warns of memory that it could write to
        values = values.copy()
    return torch.as_tensor(values)
