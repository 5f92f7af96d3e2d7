"""What features say of classes where little or nothing is trained (§3.3): the probe of
`mae_lib.evaluation.probe` from few labels, twenty images of each class, drawn several times; and a
k-nearest-neighbour classifier.

With thousands of labels a linear probe makes up for much of what features lack, and good encoders
come near its ceiling, where they can no longer be told apart. From few labels it cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, bootstrap, over_seeds
from mae_lib.evaluation.features import POOLS, Features
from mae_lib.evaluation.probe import check_features, hits, right, trained_on

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


def evaluate_knn(
    train: Features, sets: Mapping[str, tuple[Features, Tensor]], k: int = 20, seed: int = 0
) -> dict[str, Interval]:
    """What a k-nearest-neighbour classifier gets right, which trains nothing: each image is given
    the class that most of its ``k`` nearest training images have, by cosine of features
    standardised as the training images' are, near ones counting more (scikit-learn's
    ``weights="distance"``).

    Args:
        train, sets: as of :func:`mae_lib.evaluation.probe.evaluate_probe`, scored by its rule.
            seed: of the bootstrap.

    Returns:
        ``mean/NAME`` and ``cls/NAME``: accuracy in [0, 1] with its interval over images.

    Raises:
        InputError: features that are not finite, k out of 1 … N, or a set without a class of the
            training images.
    """
    check_neighbours(k, len(train))
    measures: dict[str, Interval] = {}
    for pool in POOLS:
        x = train.pooled(pool)
        check_features(x)
        centre, scale = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
        classifier = KNeighborsClassifier(
            k, weights="distance", algorithm="brute", metric="cosine"
        ).fit(((x - centre) / scale).numpy(), train.labels.numpy())
        for name, (features, accepts) in sets.items():
            check_features(features.pooled(pool))
            scored = accepts[features.labels].any(1)
            if not bool(scored.any()):
                raise InputError(f"set {name} has no image of a class of the training images")
            rows = (features.pooled(pool)[scored] - centre) / scale
            shares = torch.zeros(len(rows), len(train.classes), dtype=torch.float64)
            with threadpool_limits(torch.get_num_threads()):
                shares[:, classifier.classes_] = torch.from_numpy(
                    classifier.predict_proba(rows.numpy())
                )
            hit = right(shares, features.labels[scored], accepts)
            measures[f"{pool}/{name}"] = bootstrap(hit.double(), seed=seed)
    return measures


def check_neighbours(k: int, images: int) -> None:
    """InputError unless each image can have ``k`` neighbours among so many training images."""
    if not 1 <= k <= images:
        raise InputError(
            f"{k} neighbours among {images} training images: ask for 1 to {images}, by --neighbours"
        )
