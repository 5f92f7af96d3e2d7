"""The probe of `mae_lib.evaluation.probe` from few labels (§3.3): twenty images of each class,
drawn several times.

With thousands of labels a linear probe makes up for much of what features lack, and good encoders
come near its ceiling, where they can no longer be told apart. From few labels it cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, over_seeds
from mae_lib.evaluation.features import POOLS, Features
from mae_lib.evaluation.probe import hits, trained_on

IMAGES = 20
"""Labelled images of each class."""

DRAWS = 10
"""How many times these images are drawn, a probe each."""


def evaluate_few_labels(
    train: Features,
    sets: Mapping[str, tuple[Features, Tensor]],
    seed: int = 0,
    device: str = "auto",
    images: int = IMAGES,
    draws: int = DRAWS,
) -> dict[str, Interval]:
    """What `evaluate_probe` measures, by probes from ``images`` of each class.

    Args:
        train, sets: as of :func:`mae_lib.evaluation.probe.evaluate_probe`; the labelled images are
            drawn from ``train``. seed: of the draws and of the probes.

    Returns:
        ``mean/NAME`` and ``cls/NAME``: mean accuracy in [0, 1] over the draws, with its interval
        over them; ``n`` is the number of draws.

    Raises:
        InputError: a class with fewer images than are to be drawn, and what `evaluate_probe`
            refuses.
    """
    check_enough(train.labels, train.classes, images)
    drawn = [_draw(train, images, seed, k) for k in range(draws)]
    measures: dict[str, Interval] = {}
    for pool in POOLS:
        rows = {
            name: (features.pooled(pool), features.labels, accepts)
            for name, (features, accepts) in sets.items()
        }
        found: dict[str, list[float]] = {name: [] for name in rows}
        for k, index in enumerate(drawn):
            probe = trained_on(
                train.pooled(pool)[index],
                train.labels[index],
                train.classes,
                rows,
                seed + k,
                device,
            )
            for name, row in rows.items():
                found[name].append(float(hits(probe, *row).double().mean()))
        measures |= {f"{pool}/{name}": over_seeds(values) for name, values in found.items()}
    return measures


def check_enough(labels: Tensor, classes: Sequence[str], images: int = IMAGES) -> None:
    """InputError where a class has fewer training images than are to be drawn: known before any
    feature is."""
    for name, count in zip(classes, torch.bincount(labels, minlength=len(classes)).tolist()):
        if count < images:
            raise InputError(
                f"class {name} has {count} training images, and a probe from few labels takes"
                f" {images} of each: give more by --train-images"
            )


def _draw(train: Features, images: int, seed: int, draw: int) -> Tensor:
    """int64 [images · classes]: as many of each class, without repetition."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + draw)
    order = torch.randperm(len(train), generator=generator)
    chosen = []
    for number in range(len(train.classes)):
        chosen.append(order[train.labels[order] == number][:images])
    return torch.cat(chosen)
