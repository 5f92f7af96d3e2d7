"""The probe from few labels: as good as what it is given, equal to a probe trained by hand on the
same images, and of the draws alone."""

from __future__ import annotations

import pytest
import torch
from test_probe import planted

from mae_lib.base.errors import InputError
from mae_lib.evaluation.features import Features
from mae_lib.evaluation.probe import train_probe
from mae_lib.evaluation.probes.few_labels import evaluate_few_labels
from tiny import one_thread  # noqa: F401 (every test on one thread)

CLASSES = ("a", "b", "c", "d")
EYE = torch.eye(4, dtype=torch.bool)


def features(count: int, shift: float = 8.0, seed: int = 0) -> Features:
    """The mean token tells the class, the [CLS] token is noise."""
    told, labels = planted(count, shift=shift, seed=seed)
    return Features(
        told,
        torch.randn(told.shape, generator=torch.Generator().manual_seed(seed + 50)),
        labels,
        CLASSES,
    )


def test_what_is_planted_is_found_and_noise_stays_at_chance():
    found = evaluate_few_labels(
        features(400), {"validation": (features(800, seed=1), EYE)}, images=10, draws=4
    )
    assert found["mean/validation"].value > 0.9 and abs(found["cls/validation"].value - 0.25) < 0.08
    assert {interval.n for interval in found.values()} == {4}


def test_it_is_the_mean_over_draws_of_the_probe_on_so_many_images_of_each_class():
    """Where each class has just as many images as are drawn, every draw is the whole set, in
    another order."""
    train, test = features(48, shift=1.0), features(2000, shift=1.0, seed=1)
    found = evaluate_few_labels(train, {"validation": (test, EYE)}, images=12, draws=3)[
        "mean/validation"
    ]
    alone = [
        float(
            (
                train_probe(train.mean, train.labels, 4, seed, "cpu").predict(test.mean)
                == test.labels
            )
            .double()
            .mean()
        )
        for seed in range(6)
    ]
    assert min(alone) - 0.03 < found.value < max(alone) + 0.03


def test_more_labels_are_better_and_equal_seeds_are_equal():
    train, sets = (
        features(4000, shift=1.2),
        {"validation": (features(2000, shift=1.2, seed=1), EYE)},
    )
    few, many = (
        evaluate_few_labels(train, sets, images=n, draws=5)["mean/validation"] for n in (5, 200)
    )
    assert few.high < many.low
    assert evaluate_few_labels(train, sets, images=5, draws=5)["mean/validation"] == few
    assert evaluate_few_labels(train, sets, seed=1, images=5, draws=5)["mean/validation"] != few


def test_a_class_with_too_few_images_is_named():
    with pytest.raises(
        InputError, match="class a has 10 training images, and a probe from few labels takes 20"
    ):
        evaluate_few_labels(features(40), {"validation": (features(40), EYE)})
