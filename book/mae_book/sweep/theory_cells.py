"""Cells without an encoder: the theory's claims, Theorem 2's experiment, the quad-tree world,
second moments of images."""

from __future__ import annotations

from functools import cache, lru_cache

from mae_book.sweep import second_moments, tree_world
from mae_book.sweep import theorems as theory
from mae_book.sweep.cell import Cell


def moments_cell(data: str, source, folder: str | None = None) -> Cell:
    named = second_moments.identity(data, source)
    last = ("python", "-m", "mae_book.sweep.second_moments")
    last += ("--data", folder, "--name", data) if folder else ()
    return Cell("moments", data, named["name"], named["hash"], (), (), last, "--out")


def tree_world_cell(design: str, seed: int, ratio: float = tree_world.Settings.ratio) -> Cell:
    settings = tree_world.Settings(ratio)
    identity = tree_world.identity(design, seed, _tree_groups(design, seed), settings)
    last = ("python", "-m", "mae_book.sweep.tree_world", "--designs", design, "--seeds", str(seed))
    last += ("--ratios", str(ratio)) if ratio != tree_world.Settings.ratio else ()
    return Cell("tree_world", "", identity["name"], identity["hash"], (), (), last, "--out")


@cache
def _tree_groups(design: str, seed: int) -> tuple[int, ...] | None:
    groups = tree_world.DESIGNS[design].groups
    return groups(_reference(seed)) if groups else None


@lru_cache(maxsize=8)
def _reference(seed: int):
    return tree_world.TreeWorld(seed).reference


def theory_cells() -> list[Cell]:
    """The claims of §2: one command a kind and seed makes all its files."""
    named: dict[str, list[tuple[str, dict]]] = {kind: [] for kind in theory.SEEDS}
    for seed in theory.SEEDS["theory"]:
        graphs = {"random graphs": theory.random_graphs(seed)[0]}
        for several in (False, True):
            graphs |= {
                f"{run}, several parents" if several else run: theory.figure_4_run(
                    run, seed, several
                )[0]
                for run in theory.FIGURE_4
            }
        named["theory"] += graphs.items()
    for seed in theory.SEEDS["identify"]:
        named["identify"] += [theory.fold_run(seed), *theory.identify_runs(seed)]
    cells = []
    for kind, runs in named.items():
        for run, config in runs:
            last = (
                "python",
                "-m",
                "mae_book.sweep.theorems",
                "--kind",
                kind,
                "--seeds",
                str(config["seed"]),
            )
            cells.append(
                Cell(kind, "", *theory._named(run, config), (), (), last, "--out", whole=True)
            )
    return cells
