"""What a k-nearest-neighbour classifier reads off frozen features (§3.3): a measure without any
training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, bootstrap
from mae_lib.evaluation.features import POOLS, Features
from mae_lib.evaluation.probe import check_features, right


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
