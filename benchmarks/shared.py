"""Algorithm 1 for very many masks against what memory allows, against other ways to compute it, and
its speed by size.

The first table times, in turns and on the same masks of the quad-tree of a 16×16 grid (341 nodes,
256 observables): a copy of the masks and `numpy.packbits`, which read them and do nothing else;
`locate_shared_batch`, which also answers; `locate_shared_packed`, for masks that are packed
already; and a plain bitset in NumPy, an edge at a time. Two ratios say how good it is: its rate
over that of packbits, and over that of the copy. The second table has the one-mask loop, a dense
version (two matrix products: reach, then children) and networkx on fewer masks. The third gives
masks a second and the most memory that was in use for graphs of 10², 10³ and 10⁴ nodes and 10³ to
10⁷ masks, which are reduced to a count by `membership` as they are drawn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import common
import networkx as nx
import numpy as np
import torch
from torch import Tensor

from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import quad_tree, random_dag
from mae_lib.theory.packed import locate_shared_packed, pack_masks, unpack_masks
from mae_lib.theory.shared import locate_shared, locate_shared_batch
from mae_lib.theory.spectra import membership

BOUNDS = ("copy of the masks", "numpy.packbits")
WANTED = {"numpy.packbits": 0.5}
"""What memory allows → the share of its rate that is asked of `locate_shared_batch`."""
WANTED_PACKED, WANTED_RATIO = 1e8, 500.0  # packed masks/s, and times the one-mask loop


def bitset(graph: LatentGraph) -> Callable[[np.ndarray], np.ndarray]:
    """The plain NumPy bitset: `packbits` along the masks, then an operation an edge on rows of
    bits, and `unpackbits`."""
    row = {v: k for k, v in enumerate(graph.nodes)}
    above = len(graph.latents)
    edges = [
        (k, [row[w] for w in graph.children[z]])
        for k, z in reversed(list(enumerate(graph.latents)))
    ]

    def run(masks: np.ndarray) -> np.ndarray:
        masked = np.zeros((len(row), -(-len(masks) // 8)), np.uint8)
        masked[above:] = np.packbits(masks, axis=0).T
        visible = np.zeros_like(masked)
        np.invert(masked[above:], out=visible[above:])
        mixed = np.zeros_like(masked[:above])
        for z, children in edges:
            for w in children:
                masked[z] |= masked[w]
                visible[z] |= visible[w]
                if w < above:
                    mixed[z] |= masked[w] & visible[w]
        c = masked[:above] & visible[:above] & ~mixed
        return np.unpackbits(np.ascontiguousarray(c.T), axis=0, count=len(masks)).view(bool)

    return run


def dense(graph: LatentGraph) -> Callable[[np.ndarray], np.ndarray]:
    """The plain NumPy version: how many of the observables below each latent are masked, by one
    matrix product; then a second for the children."""
    reach = np.array(
        [[x in graph.descendants[z] for x in graph.observables] for z in graph.latents], np.float32
    )
    child = np.array(
        [[w in graph.children[z] for w in graph.latents] for z in graph.latents], np.float32
    )

    def run(masks: np.ndarray) -> np.ndarray:
        counts = masks.astype(np.float32) @ reach.T
        common = (counts > 0) & (counts < reach.sum(1))
        return common & ~(common.astype(np.float32) @ child.T > 0)

    return run


def by_networkx(graph: nx.DiGraph, observables: tuple, masks: np.ndarray) -> list[set]:
    """Sinks of the common ancestors by networkx's own ancestors, a mask at a time."""
    found = []
    for mask in masks:
        sides: list[set] = [set(), set()]
        for x, hidden in zip(observables, mask):
            sides[int(hidden)] |= nx.ancestors(graph, x)
        common = sides[0] & sides[1]
        found.append({z for z in common if not common.intersection(graph.successors(z))})
    return found


def repeated(masks: Tensor, total: int) -> Iterator[Tensor]:
    """``total`` masks: the same drawn ones over and over, since drawing is not what is timed."""
    for start in range(0, total, len(masks)):
        yield masks[: min(len(masks), total - start)]


def main() -> None:
    options = common.parser(__doc__.splitlines()[0], rounds=11)
    options.set_defaults(batch=1 << 17)
    options.add_argument(
        "--most",
        type=common._positive,
        default=10**7,
        help="the largest number of masks in the second table (10000000)",
    )
    chosen = options.parse_args()
    device = common.prepare(chosen.threads, chosen.device)
    print(common.machine(device), end="\n\n")

    graph = quad_tree((16, 16))
    generator = torch.Generator().manual_seed(0)
    draw = lambda graph, count: (
        torch.rand(count, len(graph.observables), generator=generator)
        < torch.rand(count, 1, generator=generator)
    )
    masks = draw(graph, chosen.batch).to(device)
    few, some = masks[:200].cpu(), masks[:10_000].cpu().numpy()
    names = [[x for x, hidden in zip(graph.observables, mask) if hidden] for mask in few.tolist()]
    many, copied, bits = (
        masks.cpu().numpy(),
        np.empty(tuple(masks.shape), bool),
        pack_masks(masks.cpu()),
    )
    plain, products, network = bitset(graph), dense(graph), graph.to_networkx()
    expected = locate_shared_batch(graph, few)
    members = [{z for z, inside in zip(graph.latents, row) if inside} for row in expected.tolist()]
    assert (
        members
        == [locate_shared(graph, mask).c for mask in names]
        == by_networkx(network, graph.observables, few.numpy())
    )
    assert np.array_equal(products(few.numpy()), expected.numpy())
    every = locate_shared_batch(graph, many)
    assert np.array_equal(plain(many), every) and np.array_equal(
        unpack_masks(locate_shared_packed(graph, bits), len(many)), every
    )

    ours, packed, loop = (
        "locate_shared_batch",
        "locate_shared_packed, packed masks",
        "locate_shared, one mask at a time",
    )
    works = {
        BOUNDS[0]: lambda: np.copyto(copied, many),
        BOUNDS[1]: lambda: np.packbits(many, axis=1),
        ours: lambda: locate_shared_batch(graph, masks),
        packed: lambda: locate_shared_packed(graph, bits),
        "bitset, NumPy": lambda: plain(many),
    }
    others = {
        ours: works[ours],
        "dense, NumPy": lambda: products(some),
        loop: lambda: [locate_shared(graph, mask) for mask in names],
        "networkx, one mask at a time": lambda: by_networkx(
            network, graph.observables, few[:10].numpy()
        ),
    }
    clock = common.processor_clock(chosen.threads)
    each = lambda works, counts: {
        name: [t / n for t in values]
        for (name, values), n in zip(
            common.alternate(works, chosen.rounds, device, clock).items(), counts
        )
    }
    times = each(works, [len(masks)] * len(works))
    shares = {
        bound: {name: common.ratio(times[bound], values) for name, values in times.items()}
        for bound in BOUNDS
    }
    rate = {name: 1 / float(np.median(values)) for name, values in times.items()}
    rows = [
        [
            name,
            f"{rate[name] / 1e6:,.1f}",
            *(str(shares[bound][name]) for bound in reversed(BOUNDS)),
        ]
        for name in times
    ]
    print(
        common.table(
            [
                "341 nodes, 256 observables",
                "million masks/s",
                "rate / packbits [95 %]",
                "rate / copy [95 %]",
            ],
            rows,
        ),
        end="\n\n",
    )
    slow = each(others, [len(masks), len(some), len(names), 10])
    ratios = {name: common.ratio(values, slow[ours]) for name, values in slow.items()}
    rows = [
        [name, f"{1 / np.median(values):,.0f}", str(ratios[name])] for name, values in slow.items()
    ]
    print(
        common.table(["the same graph", "masks/s", "times slower than the first"], rows), end="\n\n"
    )
    met = lambda good: "met" if good else "NOT met"
    for bound, share in WANTED.items():
        print(f"wanted: {share} of the rate of {bound} ({met(shares[bound][ours].low >= share)})")
    print(
        f"wanted: {WANTED_PACKED / 1e6:.0f} million packed masks/s"
        f" ({met(rate[packed] >= WANTED_PACKED)})"
    )
    print(f"wanted: {WANTED_RATIO:.0f} times the loop ({met(ratios[loop].low >= WANTED_RATIO)})\n")

    sizes = []
    for graph in (
        random_dag(50, 50, seed=0),
        random_dag(500, 500, seed=0),
        random_dag(5000, 5000, seed=0),
    ):
        block = draw(graph, 1 << 13).to(device)
        membership(graph, [block])
        for total in (10**k for k in range(3, 8) if 10**k <= chosen.most):
            began = time.perf_counter()
            membership(graph, repeated(block, total))
            seconds = time.perf_counter() - began
            sizes.append(
                {
                    "nodes": len(graph.nodes),
                    "edges": len(graph.edges),
                    "masks": total,
                    "seconds": seconds,
                    "masks_per_s": total / seconds,
                    "peak_mib": common.peak_mib(device),
                }
            )
            if sys.stderr.isatty():
                print(
                    f"\r{len(graph.nodes)} nodes, {total:,} masks ",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
    rows = [
        [
            f"{s['nodes']:,}",
            f"{s['edges']:,}",
            f"{s['masks']:,}",
            f"{s['seconds']:.3g}",
            f"{s['masks_per_s']:,.0f}",
            f"{s['peak_mib']:,.0f}",
        ]
        for s in sizes
    ]
    print(
        common.table(
            ["nodes", "edges", "masks", "seconds", "masks/s", "most memory so far, MiB"], rows
        )
    )
    record = {
        "bound": {
            name: {
                "masks_per_s": rate[name],
                "share": {bound: vars(shares[bound][name]) for bound in BOUNDS},
                "seconds_per_mask": values,
            }
            for name, values in times.items()
        },
        "quad_tree": {
            name: {
                "masks_per_s": 1 / float(np.median(values)),
                "times_slower": vars(ratios[name]),
                "seconds_per_mask": values,
            }
            for name, values in slow.items()
        },
        "sizes": sizes,
    }
    common.save(chosen.json, device, record)


if __name__ == "__main__":
    main()
