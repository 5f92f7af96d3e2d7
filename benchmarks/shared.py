"""Algorithm 1 for very many masks: `locate_shared_batch` beside the one-mask loop, a dense NumPy version and networkx, and its speed by size.

The first table times the four on the quad-tree of a 16×16 grid (341 nodes, 256 observables), in turns. The second gives masks a second and the
most memory that was in use for graphs of 10², 10³ and 10⁴ nodes and 10³ to 10⁷ masks, which are reduced to a count by `membership` as
they are drawn. The dense version is two matrix products: reach, then children.

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

from mae_lib.theory.graph import LatentGraph, quad_tree, random_dag
from mae_lib.theory.shared import locate_shared, locate_shared_batch, membership

WANTED_RATE, WANTED_RATIO = 1e6, 500.0  # masks/s, and times the one-mask loop


def dense(graph: LatentGraph) -> Callable[[np.ndarray], np.ndarray]:
    """The plain NumPy version: how many of the observables below each latent are masked, by one matrix product; then a second for the children."""
    reach = np.array([[x in graph.descendants[z] for x in graph.observables] for z in graph.latents], np.float32)
    child = np.array([[w in graph.children[z] for w in graph.latents] for z in graph.latents], np.float32)

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
    options.set_defaults(threads=2, batch=1 << 17)
    options.add_argument("--most", type=common._positive, default=10**7, help="the largest number of masks in the second table (10000000)")
    chosen = options.parse_args()
    device = common.prepare(chosen.threads, chosen.device)
    print(common.machine(device), end="\n\n")

    graph = quad_tree((16, 16))
    generator = torch.Generator().manual_seed(0)
    draw = lambda graph, count: torch.rand(count, len(graph.observables), generator=generator) < torch.rand(count, 1, generator=generator)
    masks = draw(graph, chosen.batch).to(device)
    few, some = masks[:200].cpu(), masks[:10_000].cpu().numpy()
    names = [[x for x, hidden in zip(graph.observables, mask) if hidden] for mask in few.tolist()]
    plain, network = dense(graph), graph.to_networkx()
    expected = locate_shared_batch(graph, few)
    members = [{z for z, inside in zip(graph.latents, row) if inside} for row in expected.tolist()]
    assert members == [locate_shared(graph, mask).c for mask in names] == by_networkx(network, graph.observables, few.numpy())
    assert np.array_equal(plain(few.numpy()), expected.numpy())

    works = {
        "locate_shared_batch": lambda: locate_shared_batch(graph, masks),
        "dense, NumPy": lambda: plain(some),
        "locate_shared, one mask at a time": lambda: [locate_shared(graph, mask) for mask in names],
        "networkx, one mask at a time": lambda: by_networkx(network, graph.observables, few[:10].numpy()),
    }
    counts = {name: n for name, n in zip(works, (len(masks), len(some), len(names), 10))}
    times = {name: [t / counts[name] for t in values] for name, values in common.alternate(works, chosen.rounds, device).items()}
    ours = times["locate_shared_batch"]
    ratios = {name: common.ratio(values, ours) for name, values in times.items()}
    rows = [[name, f"{1 / np.median(values):,.0f}", str(ratios[name])] for name, values in times.items()]
    print(common.table(["341 nodes, 256 observables", "masks/s", "times slower than the first"], rows), end="\n\n")
    rate, ratio = 1 / float(np.median(ours)), ratios["locate_shared, one mask at a time"]
    print(f"wanted: {WANTED_RATE:,.0f} masks/s ({'met' if rate >= WANTED_RATE else 'NOT met'}), {WANTED_RATIO:.0f} times the loop ({'met' if ratio.low >= WANTED_RATIO else 'NOT met'})\n")

    sizes = []
    for graph in (random_dag(50, 50, seed=0), random_dag(500, 500, seed=0), random_dag(5000, 5000, seed=0)):
        block = draw(graph, 1 << 13).to(device)
        membership(graph, [block])
        for total in (10**k for k in range(3, 8) if 10**k <= chosen.most):
            began = time.perf_counter()
            membership(graph, repeated(block, total))
            seconds = time.perf_counter() - began
            sizes.append({"nodes": len(graph.nodes), "edges": len(graph.edges), "masks": total, "seconds": seconds, "masks_per_s": total / seconds, "peak_mib": common.peak_mib(device)})
            if sys.stderr.isatty():
                print(f"\r{len(graph.nodes)} nodes, {total:,} masks ", end="", file=sys.stderr, flush=True)
    rows = [[f"{s['nodes']:,}", f"{s['edges']:,}", f"{s['masks']:,}", f"{s['seconds']:.3g}", f"{s['masks_per_s']:,.0f}", f"{s['peak_mib']:,.0f}"] for s in sizes]
    print(common.table(["nodes", "edges", "masks", "seconds", "masks/s", "most memory so far, MiB"], rows))
    record = {
        "quad_tree": {name: {"masks_per_s": 1 / float(np.median(values)), "times_slower": vars(ratios[name]), "seconds_per_mask": values} for name, values in times.items()},
        "sizes": sizes,
    }
    common.save(chosen.json, device, record)


if __name__ == "__main__":
    main()
