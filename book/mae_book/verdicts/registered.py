"""Tests that were written down before their runs, which are still to be made.

A ratio drawn anew in each step (R²MAE, Dong et al. 2025, arXiv 2509.21650) is said to beat the best
fixed one. It is an arm of chapter 11: the sweep's best fixed ratio for the class readout at the
second sweep's length of 9 600 steps of 16 images is 0.75 (seeds 3 and 4, all that were recorded
when it was chosen, so that seeds 5 to 7 decide), and the arm draws each step's ratio uniformly from
0.75 ± 0.15. Both see a quarter of the patches on average, over the same images, steps and learning
rate, so their cost is equal. The law and the range are ours, not those of that paper: 0.15 reaches
the sweep's highest ratio, 0.9. Neither was tuned.
"""

from __future__ import annotations

from dataclasses import replace

from mae_book.verdicts.claim import Claim
from mae_book.verdicts.comparisons import Above
from mae_book.verdicts.ladder import SPREAD_ARM, rung
from mae_lib.training.config import PretrainConfig
from mae_lib.training.tiers import tier
from mae_lib.worlds.world import World

STEPS, SEEDS = 9_600, (5, 6, 7)
BEST, SPREAD = 0.75, 0.15

RANDOM_RATIO = Claim(
    "S4",
    "Dong et al. 2025",
    "a masking ratio that is drawn anew in each step beats the best fixed one at equal cost",
    "latents",
    "chapter-improvements",
    (Above("mean/class", SPREAD_ARM, "r75"),),
    data=rung(STEPS).data,
)
"""On `SEEDS`, paired; undecided from fewer than three of them."""


def random_ratio_configs() -> list[PretrainConfig]:
    """The arm's pretrainings, a seed each."""
    sizes = tier("laptop")
    world = World("train", sizes.model.image_size[0]).identity
    return [
        replace(sizes.config(world, BEST, seed=seed, spread=SPREAD), **rung(STEPS).training)
        for seed in SEEDS
    ]
