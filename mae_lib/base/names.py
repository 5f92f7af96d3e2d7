"""The words that tiers, mask designs and evaluations go by. They stand here, and not
with what they name, so that the command line knows them without PyTorch."""

from typing import Literal

TierName = Literal["smoke", "laptop", "gpu", "paper"]
"""Sizes and lengths: `mae_lib.training.tiers`."""

Design = Literal["random", "groups", "parts", "object"]
"""Which patches are hidden together (§3.6, `mae_lib.masks.designs`): random mask units; groups
of a fixed partition of the grid; parts of the object, while others stay visible; or the whole
object. The last two need each image's true parts, which only the embedded world can tell."""

Evaluation = Literal[
    "reconstruction",
    "attention",
    "separability",
    "probe",
    "few_labels",
    "knn",
    "severity",
    "shape_bias",
    "latents",
]
"""What is measured of a frozen encoder (§3.1–§3.4, §3.6): `mae_lib.evaluation.evaluate`."""

Picture = Literal["reconstruction", "attention", "mask"]
"""What `mae show` draws: `mae_lib.commands.show`."""
