"""Algorithm 1 on bits: 64 masks a word through the whole graph, from masks to words and back.

A packed array is ``uint64 [rows, ⌈B/64⌉]``, one row an observable or a latent: bit b of word w is
mask 64w + b, the layout of ``np.packbits(masks.T, axis=1, bitorder="little")``, and the bits beyond
the last mask are 0. Nothing but NumPy's loops over whole arrays, in pieces that stay in the cache;
as many threads as PyTorch may use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.theory.graph import LatentGraph

WORD = np.dtype("<u8")
BUDGET = 64 << 20
"""Bytes of working memory, all threads together, however many masks there are."""

# Set by measurement, for half a MiB of second-level cache: words of a row that go through the graph
# at a time, bytes that one step gathers, bytes of masks that are packed at a time, and bytes of a
# row that are transposed at a time.
MOST_WORDS, GATHERED, PIECE, TRANSPOSED = 511, 1 << 19, 1 << 21, 128
POWERS = (1 << np.arange(8)).astype(WORD)


def pack_masks(masks: Tensor | np.ndarray) -> np.ndarray:
    """Bool masks [B, n], an array or a tensor on the CPU, as uint64 [n, ⌈B/64⌉], 64 masks a word.

    Raises:
        InputError: masks of another type or shape, or on another device.
    """
    rows = _rows(masks)
    packed = np.zeros((rows.shape[1], -(-len(rows) // 64)), WORD)
    piece = _Piece(rows.shape[1], 0, len(rows))
    for start in range(0, len(rows), piece.masks):
        some = rows[start : start + piece.masks]
        piece.pack(some, packed.view(np.uint8)[:, start // 8 :], plain=True)
    return packed


def unpack_masks(packed: np.ndarray, count: int) -> np.ndarray:
    """The inverse: uint64 [n, words], and the number of masks in it, as bool [count, n].

    Raises:
        InputError: no array of uint64 of two axes, or a count that needs more or fewer words.
    """
    _check(packed, "packed")
    words = packed.shape[1]
    whole = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
    if not whole or count < 0 or -(-count // 64) != words:
        least = max(0, 64 * words - 63)
        raise InputError(f"{words} words hold {least} to {64 * words} masks, not {count!r}")
    masks = np.empty((count, len(packed)), bool)
    piece = _Piece(0, len(packed), count)
    for start in range(0, count, piece.masks):
        some = masks[start : start + piece.masks]
        bits = np.ascontiguousarray(packed[:, start // 64 :][:, : -(-len(some) // 64)])
        piece.unpack(bits.view(np.uint8), some, plain=True)
    return masks


def locate_shared_packed(
    graph: LatentGraph, masked: np.ndarray, ignored: np.ndarray | None = None
) -> np.ndarray:
    """Algorithm 1 for masks that are packed already; `pack_masks` packs, `unpack_masks` unpacks.

    Args:
        masked: uint64 [n_observables, words], a bit 1 where the row's observable is masked, rows in
            the order of ``graph.observables``. ignored: of the same shape, 1 where it is in neither
            part.

    Returns:
        uint64 [n_latents, words], a bit 1 where the latent is in c, rows in the order of
        ``graph.latents``. Each bit is a mask by itself: which mask it stands for is the caller's.

    Raises:
        InputError: another type or shape, or an observable both masked and ignored.
    """
    for bits, what in ((masked, "masked"), (ignored, "ignored")):
        if bits is not None:
            _check(bits, what)
            if bits.shape != (wanted := (len(graph.observables), masked.shape[1])):
                does = f"{what} of shape {list(bits.shape)} does not fit"
                raise InputError(f"{does}: the graph's observables need {list(wanted)}")
    found = np.empty((len(graph.latents), masked.shape[1]), WORD)

    def chunk(search: _Search, start: int, stop: int) -> None:
        count = stop - start
        search.masked[:, :count] = masked[:, start:stop]
        if ignored is not None:
            search.ignored[:, :count] = ignored[:, start:stop]
        found[:, start:stop] = search.run(count)

    _in_chunks(graph, masked.shape[1], ignored is not None, chunk)
    return found


def locate_bool(
    graph: LatentGraph,
    masks: np.ndarray,
    ignored: np.ndarray | None,
    common: bool,
    found: np.ndarray,
) -> None:
    """c, or CA where ``common``, of checked bool masks [B, n_observables], into ``found``, bool
    [B, n_latents]. InputError for an observable both masked and ignored."""

    def chunk(search: _Search, start: int, stop: int) -> None:
        piece, size = search.piece, search.piece.masks // 64
        words = range(start, stop, size)
        pieces = [(at, slice(64 * at, 64 * min(at + size, stop))) for at in words]
        for at, rows in pieces:
            # In whatever order is fastest: a piece's masks come out as they went in.
            piece.pack(masks[rows], search.masked.view(np.uint8)[:, 8 * (at - start) :])
            if ignored is not None:
                piece.pack(ignored[rows], search.ignored.view(np.uint8)[:, 8 * (at - start) :])
        bits = search.run(stop - start, common).view(np.uint8)
        for at, rows in pieces:
            some = found[rows]
            piece.unpack(bits[:, 8 * (at - start) :][:, : -(-len(some) // 64) * 8], some)

    _in_chunks(graph, -(-len(masks) // 64), ignored is not None, chunk)


class _Level(NamedTuple):
    """Latents of one level with as many children each, rows ``low`` and up of all latents by level.

    kids: [latents, children], the children's rows: the observable's number, or their number and the
    latent's row. first: [latents, children], an observable at or below each child. above: [latents,
    most children that are latents], these children's rows, filled up with the number of latents.
    """

    low: int
    kids: np.ndarray
    first: np.ndarray
    above: np.ndarray


@lru_cache(maxsize=8)
def _levels(graph: LatentGraph) -> tuple[list[_Level], np.ndarray]:
    """The latents, children first, in groups that one step can do; and the row of each of
    ``graph.latents``."""
    column, n = {x: k for k, x in enumerate(graph.observables)}, len(graph.observables)
    like = lambda z: (graph.levels[z], len(graph.children[z]))
    order = sorted(graph.latents, key=like)
    row = {z: k for k, z in enumerate(order)}
    first, found, low = dict(column), [], 0
    for _, group in groupby(order, like):
        # Latents first.
        children = [sorted(graph.children[z], key=column.__contains__) for z in group]
        first.update((z, first[kids[0]]) for z, kids in zip(order[low:], children))
        most = max(sum(w in row for w in kids) for kids in children)
        rows = [
            [[column[w] if w in column else n + row[w] for w in kids] for kids in children],
            [[first[w] for w in kids] for kids in children],
            [[row.get(w, len(order)) for w in kids[:most]] for kids in children],
        ]
        found.append(_Level(low, *(np.array(each, np.intp) for each in rows)))
        low += len(children)
    return found, np.array([row[z] for z in graph.latents], np.intp)


class _Search:
    """Algorithm 1 for up to ``words`` words of masks: arrays, and the calls that fill them.

    Attributes:
        masked, ignored: uint64 [n_observables, words], to be filled in before `run`; ignored only
            where asked for. piece: packs and unpacks.
    """

    def __init__(self, graph: LatentGraph, words: int, ignored: bool) -> None:
        n, latents = len(graph.observables), len(graph.latents)
        groups, self.row = _levels(graph)
        self.graph, self.piece = graph, _Piece(n, latents, 64 * words)
        # Rows by level: CA, a row of zeros, and c of the latents above latents: of others c is CA.
        self.shared = np.zeros((2 * latents + 1, words), WORD)
        self.common, self.c = self.shared[: latents + 1], self.shared[latents + 1 :]
        higher = np.repeat([each.above.size > 0 for each in groups], [len(e.kids) for e in groups])
        self.row_of_c = self.row + (latents + 1) * higher[self.row]
        # Has a masked node at or below it; has none but masked and ignored ones.
        self.some = np.zeros((n + latents if ignored else n, words), WORD)
        self.every = np.zeros_like(self.some) if ignored else self.some
        self.masked, self.ignored = self.some[:n], self.every[:n]
        self.calls: list[tuple[Callable, tuple]] = []
        most = GATHERED // (8 * words)
        steps = [step for group in groups for step in _steps(group, most)]
        self.gathered = np.empty((max((step.kids.size for step in steps), default=0), words), WORD)
        for step in steps:
            self._with_ignored(step) if ignored else self._without(step)

    def run(self, count: int, common: bool = False) -> np.ndarray:
        """uint64 [n_latents, count]: c, or CA where ``common``, of the first ``count`` words."""
        if self.every is not self.some:
            n, used = len(self.masked), slice(count)
            both = self.masked[:, used] & self.ignored[:, used]
            if both.any():
                name = self.graph.observables[int(both.any(1).argmax())]
                raise InputError(f"observable {name!r} is both masked and ignored: choose one")
            np.bitwise_or(self.every[:n], self.some[:n], out=self.every[:n])
        for call, arguments in self.calls:
            call(*arguments)
        return self.shared[self.row if common else self.row_of_c][:, :count]

    def _without(self, step: _Level) -> None:
        """Nothing is ignored: a latent is shared if a child is, or if two differ that are not. One
        that is not shared is masked or visible throughout, so any observable below tells which."""
        rows = slice(step.low, step.low + len(step.kids))
        c, common = self.c[rows], self.common[rows]
        if step.first.shape[1] > 1:
            rival = self._gather(self.some, step.first)
            self._call(np.bitwise_xor, rival[1:], rival[:1], rival[1:])
            self._fold(np.bitwise_or, rival[1:], c if step.above.size else common)
        if step.above.size:
            self._fold(np.bitwise_or, self._gather(self.common, step.above), common)
            both = self.gathered[: len(step.kids)]
            self._call(np.bitwise_and, c, common, both)
            self._call(np.bitwise_or, c, common, common)
            self._call(np.bitwise_xor, c, both, c)

    def _with_ignored(self, step: _Level) -> None:
        """Both reaches, as the definition has them."""
        rows, n = slice(step.low, step.low + len(step.kids)), len(self.masked)
        some, every = self.some[n:][rows], self.every[n:][rows]
        c, common = self.c[rows], self.common[rows]
        self._fold(np.bitwise_or, self._gather(self.some, step.kids), some)
        self._fold(np.bitwise_and, self._gather(self.every, step.kids), every)
        self._call(np.bitwise_and, some, every, common)
        self._call(np.bitwise_xor, some, common, common)
        if step.above.size:
            self._fold(np.bitwise_or, self._gather(self.common, step.above), c)
            self._call(np.bitwise_and, c, common, c)
            self._call(np.bitwise_xor, c, common, c)

    def _call(self, call: Callable, *arguments: object) -> None:
        self.calls.append((call, arguments))

    def _gather(self, rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        """[k, latents, words]: the rows of everyone's k-th child."""
        out = self.gathered[: which.size].reshape(*which.T.shape, rows.shape[1])
        # With "raise" it would copy first.
        self._call(np.take, rows, np.ascontiguousarray(which.T), 0, out, "clip")
        return out

    def _fold(self, operation: Callable, values: np.ndarray, out: np.ndarray) -> None:
        """All of axis 0 into one, by halves and in place."""
        while len(values) > 2:
            half = len(values) // 2
            self._call(operation, values[:half], values[-half:], values[:half])
            values = values[:-half]
        self._call(operation, values[0], values[-1], out)


def _steps(group: _Level, most: int) -> Iterator[_Level]:
    """The group in parts that gather about ``most`` rows."""
    size = max(1, most // group.kids.shape[1])
    for low in range(0, len(group.kids), size):
        part = slice(low, low + size)
        yield _Level(group.low + low, group.kids[part], group.first[part], group.above[part])


class _Piece:
    """Packs and unpacks up to ``masks`` masks at a time, of ``n`` and ``m`` columns.

    The masks of a piece go into eight slabs, each of as many rows, and the bytes of slab j become
    bit j: eight bytes to one, in a pass over whole words. What is left is to transpose bytes, an
    eighth of the masks. Mask j·(masks/8) + i is then bit j of byte i; ``plain``, at the cost of a
    copy, is the public order, 8i + j.
    """

    def __init__(self, n: int, m: int, masks: int) -> None:
        columns = max(n, m, 1)
        self.masks = 64 * max(1, min(-(-masks // 64), PIECE // (64 * columns)))
        self.buffer = np.empty(self.masks * columns, bool)
        self.bytes = np.empty(self.masks // 8 * columns, np.uint8)

    def pack(self, masks: np.ndarray, out: np.ndarray, plain: bool = False) -> None:
        """bool [K, n] into the first 8⌈K/64⌉ bytes of each row of uint8 [n, …]."""
        n, full = masks.shape[1], -(-len(masks) // 64) * 64
        if plain or not _whole_words(masks):
            slabs = self.buffer[: full * n].reshape(full, n)
            for rows, of in _places(slabs, len(masks), plain):
                rows[: len(masks[of])] = masks[of]
                rows[len(masks[of]) :] = False
            masks = slabs
        slabs = masks.view(np.uint8).reshape(8, full // 8 * n).view(WORD)
        packed = self.bytes[: full // 8 * n]
        # No byte carries into the next: each is a sum of different powers of two.
        np.einsum("j,jk->k", POWERS, slabs, out=packed.view(WORD))
        rows = packed.reshape(full // 8, n)
        for at in range(0, full // 8, TRANSPOSED):
            part = rows[at : at + TRANSPOSED]
            np.copyto(out[:, at : at + len(part)], part.T)

    def unpack(self, bits: np.ndarray, out: np.ndarray, plain: bool = False) -> None:
        """The inverse: the first 8⌈K/64⌉ bytes of each row of uint8 [n, …] into bool [K, n]."""
        n, full = out.shape[1], -(-len(out) // 64) * 64
        direct = not plain and _whole_words(out)
        masks = out if direct else self.buffer[: full * n].reshape(full, n)
        packed = self.bytes[: full // 8 * n]
        np.copyto(packed.reshape(full // 8, n), bits[:, : full // 8].T)
        signed, word = packed.view(np.int8), packed.view(WORD)
        for slab in masks.reshape(8, full // 8 * n)[::-1]:
            np.less(signed, 0, out=slab)
            np.add(word, word, out=word)  # eight turns bring no bit from one byte to the next's top
        if not direct:
            for rows, of in _places(masks, len(out), plain):
                out[of] = rows[: len(out[of])]


def _whole_words(masks: np.ndarray) -> bool:
    """Whether eight slabs of it can be read as words where they lie."""
    aligned = masks.ctypes.data % WORD.itemsize == 0
    return len(masks) % 64 == 0 and masks.flags.c_contiguous and aligned


def _places(slabs: np.ndarray, count: int, plain: bool) -> list[tuple[np.ndarray, slice]]:
    """Rows of the eight slabs, and which of ``count`` masks go there, with rows to spare."""
    if not plain:
        return [(slabs, slice(count))]
    eight = slabs.reshape(8, len(slabs) // 8, slabs.shape[1])
    return [(rows, slice(j, count, 8)) for j, rows in enumerate(eight)]


def _in_chunks(
    graph: LatentGraph, words: int, ignored: bool, work: Callable[[_Search, int, int], None]
) -> None:
    """``work`` on all words, some at a time, by as many threads as PyTorch may use."""
    n, latents = len(graph.observables), len(graph.latents)
    if not words or not latents:
        return
    widest = max(len(graph.children[z]) for z in graph.latents)
    # Of a word of every row: what is masked and ignored, reaches, CA and c, the answer, and what a
    # step gathers at the least; of a piece, 9/8 of its masks.
    each = 8 * ((3 * n + 2 * latents if ignored else n) + 3 * latents + 1 + widest)
    threads = max(1, min(torch.get_num_threads(), words // MOST_WORDS))
    spare = max(0, BUDGET // threads - GATHERED - 9 * max(PIECE, 64 * max(n, latents)) // 8)
    most = max(1, min(MOST_WORDS, spare // each))
    turns = -(-words // (most * threads))
    # Odd, since rows of 2^k bytes would compete for the same lines of the cache.
    size = -(-words // (turns * threads)) | 1

    def every(first: int) -> None:
        search = _Search(graph, size, ignored)
        for start in range(first * size, words, threads * size):
            work(search, start, min(start + size, words))

    if threads == 1:
        return every(0)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(every, range(threads)))


def _rows(masks: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(masks, Tensor) and masks.device.type == "cpu":
        masks = masks.numpy()
    if not isinstance(masks, np.ndarray) or masks.dtype != np.bool_ or masks.ndim != 2:
        wanted = "bool [B, n], an array or a tensor on the CPU"
        raise InputError(f"masks to be packed must be {wanted}, not {_kind(masks)}")
    return masks


def _check(bits: np.ndarray, what: str) -> None:
    if not isinstance(bits, np.ndarray) or bits.dtype != WORD or bits.ndim != 2:
        wanted = f"{what} must be an array uint64 [rows, words], not {_kind(bits)}"
        raise InputError(f"{wanted}: pack_masks makes one of bool masks")


def _kind(values: object) -> str:
    if not isinstance(values, (Tensor, np.ndarray)):
        return type(values).__name__
    what = f"{values.dtype} {list(values.shape)}"
    return what if isinstance(values, np.ndarray) else f"{what} on {values.device}"
