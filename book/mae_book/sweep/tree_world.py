"""S1 and S2 measured where the latent tree is known exactly (§3.6): masked autoencoders trained on
"images" drawn from a hierarchical process on the quad-tree over 8 × 8 pixels, under masks that do
and do not follow the tree, and how well each level can then be read out.

The world. z3 (the root) → 4 z2 → 16 z1 → 64 pixels of 4 channels, noise dimension 1 everywhere, so
each pixel determines its four ancestral noises (Assumption 1). All nodes of a level share one
mechanism, as image statistics are the same everywhere: with a mechanism of its own at every node, a
pilot of 1200 steps learned nothing (loss 0.99 of the variance). A ViT patch is one pixel.

The designs (`DESIGNS`), all at ratio .5, so that the cost is equal: random patches; whole subtrees
of level 1 (2 × 2) or 2 (4 × 4) of the true tree; 16 or 4 groups that
`mae_lib.identification.structure` estimates from 4096 draws; *shifted2*, blocks of 4 × 4 moved by
one pixel both ways, as large as the subtrees and off the tree; random patches and shifted blocks
with a margin of one pixel left out of the loss. Theorem 1 (`mae_lib.theory.levels`) puts c at level
1 for random and shifted2, at 2 for subtrees1 and for both with a margin, at 3 for subtrees2.

The test, written before the runs that decide it; pilots saw random masks and seed 1001 alone. Seeds
0 … 4, each of process, data, first weights and masks alike, the same for all designs (paired), run
seed by seed; should time end first, the seeds that are complete count, at least 3. `Settings` as
below. Measure: R², on 2000 fresh draws, of ridge regressions (`mae_lib.evaluation.latents.ridge`,
fitted on 4000 others) from the mean of the trained encoder's tokens of the whole, unmasked image to
the noises of a level: ``mean/level3`` … ``mean/level0``, the mean over that level's nodes. What is
compared is in `mae_book.verdicts.further_claims.TREE_CLAIMS`, decided as in
`mae_book.verdicts.ledger`: *reproduced* if the 95 % t-interval of the paired difference lies above
0 for every test of the claim, *not reproduced* if one lies below 0, else *undecided*. Reported
beside it, deciding nothing: the same from one pixel's token (``token/``), by kernel ridge
(``mean-kernel/``), from the untrained encoder (``untrained/``, ``untrained-kernel/``) and from the
raw pixels (``pixels/``, ``pixels-kernel/``): all that is there, but 256 numbers to regress on from
4000 draws, so no upper bound.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from sklearn.metrics import r2_score
from torch import Tensor

from mae_book.sweep.quad_world import GRID, LEVELS, TreeWorld
from mae_book.verdicts.results import results_directory
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import over_seeds
from mae_lib.base.provenance import provenance
from mae_lib.base.records import own_record, write_result
from mae_lib.evaluation.latents import ridge
from mae_lib.identification.scores import DRAWS, kernel_ridge_r2
from mae_lib.identification.structure import (
    information_distances,
    neighbour_joining,
    partition,
)
from mae_lib.masks.designs import margin_maps, sample_design
from mae_lib.masks.masking import MaskSpec
from mae_lib.model.autoencoder import MaskedAutoencoder, ModelConfig
from mae_lib.theory.graphs import quad_tree
from mae_lib.theory.levels import shifted_groups, subtree_groups

FIT, TEST = 4000, 2000
"""Draws that a ridge regression is fitted on, and draws that it is scored on."""

TOKENS = (18, 21, 42, 45)
"""Pixels whose token is read out by itself, one in each quadrant; the mean over them is
reported."""


SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Settings:
    """How a masked autoencoder of this world is trained; equal for all designs."""

    ratio: float = 0.5
    steps: int = 1200
    batch: int = 32
    # AdamW, weight decay 0.01; linear warm-up over a tenth of the steps, then a cosine to 0
    rate: float = 3e-3
    width: int = 32
    depth: int = 2
    heads: int = 2

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(
            GRID, 1, LEVELS + 1, self.width, self.depth, self.heads, self.width, 1, self.heads
        )


@dataclass(frozen=True)
class Design:
    """Which pixels are hidden together, and the margin in pixels that the loss leaves out.

    Attributes:
        groups: from draws of the observables, [N, 64, 4], to a group number for each; None where
            each is hidden by itself.
    """

    groups: Callable[[Tensor], tuple[int, ...]] | None
    margin: int = 0


def _true(level: int, shift: int = 0) -> Callable[[Tensor], tuple[int, ...]]:
    return lambda _: shifted_groups(subtree_groups(quad_tree(GRID), level), GRID, shift, shift)


def _estimated(count: int) -> Callable[[Tensor], tuple[int, ...]]:
    return lambda draws: tuple(
        partition(neighbour_joining(information_distances(draws)), count).tolist()
    )


DESIGNS: dict[str, Design] = {
    "random": Design(None),
    "subtrees1": Design(_true(1)),
    "subtrees2": Design(_true(2)),
    "estimated16": Design(_estimated(16)),
    "estimated4": Design(_estimated(4)),
    "shifted2": Design(_true(2, 1)),
    "margin1": Design(None, 1),
    "shifted2-margin1": Design(_true(2, 1), 1),
}


def train(
    world: TreeWorld, groups: tuple[int, ...] | None, margin: int, seed: int, settings: Settings
) -> tuple[MaskedAutoencoder, float]:
    """A model trained on fresh draws, and the mean loss of its last tenth of steps. The seed gives
    the same data and first weights to all designs."""
    model = first_weights(seed, settings)
    data, masks = (torch.Generator().manual_seed(seed + 2**21 + k) for k in (0, 2**20))
    spec = MaskSpec(GRID, settings.ratio)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01, fused=True)
    losses, at_once = [], 20
    for step in range(settings.steps):
        if step % at_once == 0:
            images = world.images(world.process.sample(at_once * settings.batch, data)).split(
                settings.batch
            )
        visible, hidden = sample_design(
            "random" if groups is None else "groups", spec, settings.batch, masks, groups or ()
        )
        counted = margin_maps(hidden, GRID, 1, margin)[0] if margin else None
        done = step / settings.steps
        optimiser.param_groups[0]["lr"] = (
            settings.rate * min(1, 10 * done) * (1 + math.cos(math.pi * done)) / 2
        )
        loss, _ = model(images[step % at_once], visible, hidden, counted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    last = losses[-max(1, settings.steps // 10) :]
    return model, sum(last) / len(last)


def first_weights(seed: int, settings: Settings) -> MaskedAutoencoder:
    """The untrained model of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MaskedAutoencoder(settings.model)


class _Readout:
    """Draws to fit on and to score on, and what is read out of features of theirs."""

    def __init__(self, world: TreeWorld, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed + 2**23)
        self.world, self.sample = world, world.process.sample(FIT + TEST, generator)
        self.images = world.images(self.sample)

    @torch.no_grad()
    def tokens(self, model: MaskedAutoencoder) -> Tensor:
        """[FIT + TEST, 64, D] of whole images."""
        return torch.cat([model.encode(part)[:, 1:] for part in self.images.split(500)])

    def levels(self, name: str, features: Tensor, kernel: bool = True) -> dict[str, float]:
        """R² of the noises of each level from one feature vector an image: by ridge, and by kernel
        ridge under ``name-kernel``."""
        targets = [self.world.noises(self.sample, level) for level in range(LEVELS + 1)]
        found = {f"{name}/level{k}": _linear(features, target) for k, target in enumerate(targets)}
        if kernel:
            rows = slice(-DRAWS, None)
            nonlinear = kernel_ridge_r2(features[rows], *(target[rows] for target in targets))
            found |= {f"{name}-kernel/level{k}": value for k, value in enumerate(nonlinear)}
        return found

    def token_levels(self, tokens: Tensor) -> dict[str, float]:
        """R² of the noises of a pixel and its ancestors from the pixel's own token, the mean over
        `TOKENS`."""
        found = {}
        for level in range(LEVELS + 1):
            values = [
                _linear(
                    tokens[:, k],
                    self.world.noises(self.sample, level, self.world.graph.observables[k]),
                )
                for k in TOKENS
            ]
            found[f"token/level{level}"] = sum(values) / len(values)
        return found


def _linear(features: Tensor, targets: Tensor) -> float:
    return float(r2_score(targets[FIT:], ridge(features[:FIT], targets[:FIT])(features[FIT:])))


def identity(
    name: str, seed: int, groups: tuple[int, ...] | None, settings: Settings = Settings()
) -> dict:
    """The part of a record that is known before anything is trained. ``groups``: those of the
    design in the world of this seed, None where it has none."""
    config = {
        "seed": seed,
        "design": name,
        "groups": groups,
        "margin": DESIGNS[name].margin,
        **asdict(settings),
    }
    named, run = (
        hashlib.sha256(json.dumps(config).encode()).hexdigest()[:8],
        f"{name}-r{round(settings.ratio * 100)}",
    )
    return {
        "kind": "tree_world",
        "name": f"{run}-s{seed}",
        "hash": named,
        "run": run,
        "seed": seed,
        "config": config,
    }


def evaluate_tree_world(
    designs: Sequence[str] = ("random", "subtrees2"),
    seeds: Sequence[int] = (0,),
    settings: Settings = Settings(steps=150),
    report: Callable[[dict], None] | None = None,
) -> list[dict]:
    """Trains and reads out every design with every seed; designs that hide the same groups in a
    seed are trained once.

    Args:
        designs: names of `DESIGNS`. settings: the default is a short live version, of too few steps
            to decide anything. report: called with each record.

    Returns:
        records as `results/tree_world` holds them: run, seed, config with the groups, measures,
        loss (mean of the last tenth of steps), and ``trained_as``, the run whose training this is:
        another's where both hide the same groups.

    Raises:
        InputError: an unknown design.
    """
    for name in designs:
        if name not in DESIGNS:
            raise InputError(f"there is no design {name!r}: choose one of {', '.join(DESIGNS)}")
    records = []
    for seed in seeds:
        world = TreeWorld(seed)
        readout = _Readout(world, seed)
        controls = readout.levels("pixels", readout.images.flatten(1))
        controls |= readout.levels(
            "untrained", readout.tokens(first_weights(seed, settings)).mean(1)
        )
        trained: dict[tuple, tuple[dict, str, float]] = {}
        for name in designs:
            began, design = time.perf_counter(), DESIGNS[name]
            groups = design.groups(world.reference) if design.groups else None
            run = f"{name}-r{round(settings.ratio * 100)}"
            if (groups, design.margin) not in trained:
                model, loss = train(world, groups, design.margin, seed, settings)
                tokens = readout.tokens(model)
                trained[groups, design.margin] = (
                    readout.levels("mean", tokens.mean(1)) | readout.token_levels(tokens),
                    run,
                    loss,
                )
            measures, first, loss = trained[groups, design.margin]
            record = identity(name, seed, groups, settings) | {
                "trained_as": first,
                "loss": loss,
                "measures": {
                    key: over_seeds([value]).to_dict()
                    for key, value in (measures | controls).items()
                },
                "seconds": round(time.perf_counter() - began, 1),
                **provenance(),
            }
            records.append(record)
            if report:
                report(record)
    return records


def main(words: Sequence[str] | None = None) -> None:
    """``python -m mae_book.sweep.tree_world``: all designs and seeds with the full settings, into
    results/tree_world. What is recorded is not trained again."""
    parser = argparse.ArgumentParser(
        prog="python -m mae_book.sweep.tree_world", description=main.__doc__
    )
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS), choices=list(DESIGNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--ratios", nargs="+", type=float, default=[Settings.ratio])
    parser.add_argument("--out", type=Path, default=results_directory() / "tree_world")
    options = parser.parse_args(words)
    torch.set_num_threads(1)  # small matrices gain nothing from more, and sums keep their order

    def report(record: dict) -> None:
        write_result(options.out, record)
        levels = " ".join(
            f"{record['measures'][f'mean/level{k}']['value']:.3f}" for k in range(LEVELS, -1, -1)
        )
        print(
            f"{record['name']}: loss {record['loss']:.3f}, R² of levels 3 to 0: {levels},"
            f" {record['seconds']} s",
            flush=True,
        )

    try:
        wanted = [(seed, Settings(r)) for seed in options.seeds for r in options.ratios]
        missing = [
            [name for name in options.designs if not _recorded(options.out, name, seed, settings)]
            for seed, settings in wanted
        ]
        for (seed, settings), designs in zip(wanted, missing):
            if designs:
                evaluate_tree_world(designs, [seed], settings, report)
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _recorded(folder: Path, name: str, seed: int, settings: Settings) -> bool:
    """Whether a run is recorded; InputError where another file has its name."""
    groups = DESIGNS[name].groups
    found = groups(TreeWorld(seed).reference) if groups else None
    return own_record(folder, identity(name, seed, found, settings)) is not None


if __name__ == "__main__":
    main()
