"""Algorithm 1 on words of 64 masks: the layout against `numpy.packbits`, the answers against the
one-mask algorithm and the accelerator's way, and that chunks, threads and their bounds change
nothing."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shared import graphs, on_accelerator

from mae_lib.base.errors import InputError
from mae_lib.theory import packed
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import quad_tree, random_dag
from mae_lib.theory.packed import locate_shared_packed, pack_masks, unpack_masks
from mae_lib.theory.shared import common_ancestors_batch, locate_shared, locate_shared_batch

COUNTS = st.one_of(st.sampled_from([0, 1, 7, 8, 63, 64, 65, 128]), st.integers(0, 300))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def by_packbits(masks: np.ndarray) -> np.ndarray:
    """The documented layout, by NumPy's own packing."""
    whole = np.concatenate([masks, np.zeros((-len(masks) % 64, masks.shape[1]), bool)])
    return np.ascontiguousarray(np.packbits(whole.T, axis=1, bitorder="little")).view("<u8")


def drawn(draw: np.random.Generator, count: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks of all ratios, among them all and nothing, and what they ignore."""
    ignored = draw.random((count, n)) < draw.choice([0, 0.3, 1], size=(count, 1))
    return (
        draw.random((count, n)) < draw.choice([0, 0.1, 0.5, 1], size=(count, 1))
    ) & ~ignored, ignored


@settings(max_examples=100, deadline=None)
@given(COUNTS, st.integers(0, 90), st.integers(0, 2**32), st.sampled_from([1, 700, 1 << 21]))
def test_packing_is_numpy_s_and_unpacking_its_inverse(
    count: int, n: int, seed: int, piece: int
) -> None:
    masks = np.random.default_rng(seed).random((count, n)) < 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "PIECE", piece)
        bits = pack_masks(masks)
        assert bits.dtype == np.uint64 and np.array_equal(bits, by_packbits(masks))
        assert np.array_equal(pack_masks(torch.from_numpy(masks)), bits)
        back = unpack_masks(bits, count)
    assert back.dtype == np.bool_ and np.array_equal(back, masks)


def test_packing_in_any_memory_layout() -> None:
    masks = np.random.default_rng(0).random((200, 24)) < 0.5
    bits = by_packbits(masks)
    unaligned = np.frombuffer(b"\1" + masks.tobytes(), bool)[1:].reshape(masks.shape)
    for layout in (
        np.asfortranarray(masks),
        np.repeat(masks, 2, axis=0)[::2],
        masks[::-1].copy()[::-1],
        np.repeat(masks, 2, axis=1)[:, ::2],
        unaligned,
    ):
        assert np.array_equal(pack_masks(layout), bits)
    assert np.array_equal(
        unpack_masks(np.repeat(bits, 2, axis=1)[:, ::2], 200), masks
    ) and np.array_equal(unpack_masks(np.asfortranarray(bits), 200), masks)
    graph = quad_tree((4, 6))
    expected = locate_shared_packed(graph, bits)
    assert np.array_equal(locate_shared_packed(graph, np.asfortranarray(bits)), expected)
    assert np.array_equal(locate_shared_batch(graph, unaligned), unpack_masks(expected, 200))


@settings(max_examples=100, deadline=None)
@given(graphs(), COUNTS, st.integers(0, 2**32), st.booleans())
def test_packed_and_bool_masks_get_the_one_mask_algorithm_s_answer(
    graph: LatentGraph, count: int, seed: int, ignoring: bool
) -> None:
    masks, ignored = drawn(np.random.default_rng(seed), count, len(graph.observables))
    unseen = ignored if ignoring else None
    c = locate_shared_batch(graph, masks, unseen)
    assert np.array_equal(c, on_accelerator(graph, masks, unseen, False))
    assert np.array_equal(
        common_ancestors_batch(graph, masks, unseen), on_accelerator(graph, masks, unseen, True)
    )
    bits = pack_masks(masks)
    before = bits.copy()
    found = locate_shared_packed(graph, bits, pack_masks(ignored) if ignoring else None)
    assert np.array_equal(bits, before), "the input is left alone"
    assert found.dtype == np.uint64 and np.array_equal(found, by_packbits(c)), (
        "and the bits beyond the last mask are 0"
    )
    names = lambda row: [x for x, chosen in zip(graph.observables, row) if chosen]
    for k in {*range(min(count, 2)), *range(count)[-1:]}:
        one = locate_shared(graph, names(masks[k]), names(ignored[k]) if ignoring else ())
        assert {z for z, inside in zip(graph.latents, c[k]) if inside} == one.c


def test_a_graph_without_latents() -> None:
    graph = LatentGraph([], ["x", "y"])
    masks = np.ones((70, 2), bool)
    assert locate_shared_packed(graph, pack_masks(masks)).shape == (0, 2) and locate_shared_batch(
        graph, masks
    ).shape == (70, 0)


@pytest.mark.parametrize("ignoring", [False, True])
@pytest.mark.parametrize(
    ("budget", "most", "gathered", "piece", "transposed"),
    [(0, 511, 1 << 19, 1 << 21, 128), (1 << 26, 2, 1, 1, 8), (1 << 26, 3, 1 << 12, 1 << 12, 16)],
)
@pytest.mark.parametrize("count", [64 * 12, 64 * 12 + 1, 64 * 13 - 1])
@pytest.mark.parametrize("wanted", [1, 3])
def test_chunks_and_threads_fit_together(
    monkeypatch, threads, ignoring, budget, most, gathered, piece, transposed, count, wanted
) -> None:
    graph, draw = random_dag(60, 33, 4), np.random.default_rng(count)
    masks, ignored = drawn(draw, count, 33)
    unseen = ignored if ignoring else None
    expected = [on_accelerator(graph, masks, unseen, common) for common in (False, True)]
    used, workers = [], set()
    run = packed._Search.run

    def seen(search: packed._Search, count: int, common: bool = False) -> np.ndarray:
        used.append(count)
        workers.add(threading.get_ident())
        return run(search, count, common)

    monkeypatch.setattr(packed._Search, "run", seen)
    for name, value in {
        "BUDGET": budget,
        "MOST_WORDS": most,
        "GATHERED": gathered,
        "PIECE": piece,
        "TRANSPOSED": transposed,
    }.items():
        monkeypatch.setattr(packed, name, value)
    torch.set_num_threads(wanted)
    words = -(-count // 64)
    limit = 1 if budget == 0 else most
    assert np.array_equal(locate_shared_batch(graph, masks, unseen), expected[0])
    assert sum(used) == words and max(used) <= limit | 1, "each word once"
    assert len(workers) <= wanted and (wanted > 1 or workers == {threading.get_ident()})
    assert np.array_equal(common_ancestors_batch(graph, masks, unseen), expected[1])
    assert np.array_equal(
        unpack_masks(
            locate_shared_packed(
                graph, pack_masks(masks), pack_masks(ignored) if ignoring else None
            ),
            count,
        ),
        expected[0],
    )
    assert sum(used) == 3 * words


@pytest.mark.parametrize("wanted", [1, 2])
@pytest.mark.parametrize("budget", [1 << 23, packed.BUDGET])
@pytest.mark.parametrize(
    "graph",
    [quad_tree((16, 16)), random_dag(900, 100, 0), random_dag(100, 900, 1)],
    ids=["quad-tree", "more latents", "more observables"],
)
def test_memory_is_bounded_whatever_the_number_of_masks(
    monkeypatch, threads, graph: LatentGraph, budget: int, wanted: int
) -> None:
    """NumPy reports what it allocates; the masks are there before, and the answer is PyTorch's."""
    monkeypatch.setattr(packed, "BUDGET", budget)
    torch.set_num_threads(wanted)
    n = len(graph.observables)
    masks, ignored = np.zeros((1 << 17, n), bool), np.zeros(n, bool)
    masks[:, ::2] = True
    assert len(masks) // 8 * (2 * len(graph.nodes)) > 1 << 23, (
        "the bits of all, and what a step gathers, would not fit into the smaller budget"
    )
    for unseen in (None, ignored):
        locate_shared_batch(graph, masks[:64], unseen)  # what is kept for the graph does not grow
        tracemalloc.start()
        try:
            locate_shared_batch(graph, masks, unseen)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert most < budget


GRAPH = LatentGraph([("z", "a"), ("z", "b"), ("y", "d")], ["a", "b", "d"])
BITS = np.zeros((3, 1), np.uint64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack_masks([[True]]), r"masks to be packed must be bool \[B, n\], .*not list"),
        (lambda: pack_masks(np.zeros((2, 3))), r"must be bool .*not float64 \[2, 3\]"),
        (lambda: pack_masks(np.zeros(3, bool)), r"must be bool .*not bool \[3\]"),
        (
            lambda: pack_masks(torch.zeros(2, 3, dtype=torch.bool, device="meta")),
            r"on the CPU, not torch.bool \[2, 3\] on meta",
        ),
        (
            lambda: unpack_masks(BITS.astype(np.int64), 3),
            r"packed must be an array uint64 \[rows, words\], not int64 \[3, 1\]: pack_masks",
        ),
        (lambda: unpack_masks(BITS, 65), r"1 words hold 1 to 64 masks, not 65"),
        (lambda: unpack_masks(BITS, 0), r"1 words hold 1 to 64 masks, not 0"),
        (lambda: unpack_masks(BITS[:, :0], 1), r"0 words hold 0 to 0 masks, not 1"),
        (lambda: unpack_masks(BITS[:, :0], -1), r"not -1"),
        (lambda: unpack_masks(BITS, True), r"not True"),
        (lambda: unpack_masks(BITS, 3.0), r"not 3\.0"),
        (
            lambda: locate_shared_packed(GRAPH, np.zeros((3, 8), bool)),
            r"masked must be an array uint64 .*not bool \[3, 8\]: pack_masks",
        ),
        (
            lambda: locate_shared_packed(GRAPH, torch.zeros(3, 1)),
            r"masked must be an array uint64 .*not torch.float32 \[3, 1\] on cpu",
        ),
        (
            lambda: locate_shared_packed(GRAPH, BITS[:2]),
            r"masked of shape \[2, 1\] does not fit: .*need \[3, 1\]",
        ),
        (
            lambda: locate_shared_packed(GRAPH, BITS, BITS[:, :0]),
            r"ignored of shape \[3, 0\] does not fit: .*need \[3, 1\]",
        ),
        (
            lambda: locate_shared_packed(GRAPH, BITS, BITS[0]),
            r"ignored must be an array uint64 .*not uint64 \[1\]",
        ),
        (
            lambda: locate_shared_packed(
                GRAPH, BITS + np.uint64(4), np.array([[3], [12], [0]], np.uint64)
            ),
            r"observable 'b' is both masked and ignored",
        ),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
