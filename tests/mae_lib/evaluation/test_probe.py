"""The linear probe reaches what scikit-learn's logistic regression reaches, finds what was planted
and nothing where there is nothing; the evaluation scores each set by its own rule; bad input is
named."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mae_book.chapters.separability import relative_to_validation
from mae_lib.base.errors import InputError
from mae_lib.data.datasets import Resident
from mae_lib.evaluation import probe as probing
from mae_lib.evaluation.features import Features, encode
from mae_lib.evaluation.probe import RATES, evaluate_pixels, evaluate_probe, train_probe
from mae_lib.training import store
from mae_lib.worlds.world import World
from tiny import one_thread  # noqa: F401 (every test on one thread)

CHECKPOINTS = Path(__file__).resolve().parents[3] / "checkpoints" / "world"


def planted(
    count: int, classes: int = 4, width: int = 12, shift: float = 8.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Noise with the label added in a direction of its own."""
    labels = torch.arange(count) % classes
    features = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    features[torch.arange(count), labels] += shift
    return features, labels


def correlated(
    count: int, classes: int = 5, width: int = 40, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Features as encoders make them: a few strong directions, and the class in weak ones."""
    fixed, drawn = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    spectrum = torch.logspace(0, -2, width)
    turn = torch.linalg.qr(torch.randn(width, width, generator=fixed)).Q
    means = torch.randn(classes, width, generator=fixed) * (torch.arange(width) > width // 2) * 0.6
    labels = torch.randint(classes, (count,), generator=drawn)
    return (torch.randn(count, width, generator=drawn) + means[labels]) * spectrum @ turn, labels


def accuracy(features: Tensor, labels: Tensor, test: Tensor, truth: Tensor, **options) -> float:
    return float(
        (
            train_probe(features, labels, int(labels.max()) + 1, device="cpu", **options).predict(
                test
            )
            == truth
        )
        .double()
        .mean()
    )


def regression(features: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> float:
    """Logistic regression with its regularisation chosen on held-out training images."""
    scaler = StandardScaler().fit(features.numpy())
    x, y, z = scaler.transform(features.numpy()), labels.numpy(), scaler.transform(test.numpy())
    fit, held = next(StratifiedShuffleSplit(1, test_size=0.15, random_state=0).split(x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = {c: LogisticRegression(C=c, max_iter=500, tol=1e-3) for c in (0.1, 1.0, 10.0)}
        best = max(models, key=lambda c: models[c].fit(x[fit], y[fit]).score(x[held], y[held]))
        return float(
            LogisticRegression(C=best, max_iter=1000, tol=1e-3).fit(x, y).score(z, truth.numpy())
        )


# --------------------------------------------------------------------------------------------------
# Against logistic regression


@pytest.mark.parametrize("count", [800, 4000])
def test_it_reaches_logistic_regression_where_the_class_lies_in_weak_directions(count):
    train, test = correlated(count), correlated(20000, seed=1)
    assert accuracy(*train, *test) > regression(*train, *test) - 0.005


def test_it_reaches_logistic_regression_on_a_shipped_encoder():
    model = store.read(next(CHECKPOINTS.glob("r75-u8-p8-s0-*.json"))).load()
    train, test = (
        encode(model, Resident(World(split, length=n), progress=False))
        for split, n in (("train", 2000), ("v2", 2000))
    )
    for pool in ("mean", "cls"):
        sets = train.pooled(pool), train.labels, test.pooled(pool), test.labels
        found = accuracy(*sets)
        assert found > 0.4 and found > regression(*sets) - 0.005


# of 60, nine are held out: the last bit may choose another rate of the grid
@pytest.mark.parametrize("count, least", [(60, 0.9), (1000, 0.995)])
def test_a_planted_label_is_found(count, least):
    train, test = planted(count), planted(1000, seed=1)
    assert accuracy(*train, *test) >= least


def test_shuffled_labels_stay_at_chance():
    (features, labels), (test, truth) = planted(2000), planted(4000, seed=1)

    def shuffled(seed: int) -> Tensor:
        return labels[torch.randperm(2000, generator=torch.Generator().manual_seed(seed))]

    scores = [accuracy(features, shuffled(s), test, truth, steps=200) for s in range(12)]
    assert abs(np.mean(scores) - 0.25) < 3 * np.std(scores, ddof=1) / 12**0.5
    # Nor do held-out images leak: 400 features learn the labels of 300 images by heart, and those
    # of no other.
    probe = train_probe(
        torch.randn(300, 400, generator=torch.Generator().manual_seed(5)),
        shuffled(12)[:300],
        4,
        device="cpu",
        steps=300,
    )
    assert max(probe.held_out.values()) < 0.25 + 4 * (0.25 * 0.75 / 45) ** 0.5


def test_more_features_than_images_do_not_drown_the_label():
    (features, labels), (test, truth) = (planted(120, shift=3.0, width=12, seed=s) for s in (0, 1))
    noise = torch.randn(240, 600, generator=torch.Generator().manual_seed(3))
    assert (
        accuracy(
            torch.cat([features, noise[:120]], 1), labels, torch.cat([test, noise[120:]], 1), truth
        )
        > 0.5
    )


# --------------------------------------------------------------------------------------------------
# What it is


def test_it_is_deterministic_and_depends_on_its_seed():
    train = correlated(600)
    one, two, other = (train_probe(*train, 5, seed=s, device="cpu") for s in (3, 3, 4))
    assert (
        torch.equal(one.weight, two.weight)
        and torch.equal(one.bias, two.bias)
        and one.held_out == two.held_out
    )
    assert not torch.equal(one.weight, other.weight)
    (first,), (second,) = (
        probing._fit(*train, 5, (0.1,), 20, 64, s, torch.device("cpu")) for s in (0, 1)
    )
    assert not torch.equal(first.weight, second.weight)  # the batches differ, not only the cut


def test_scale_and_offset_of_features_do_not_matter():
    (features, labels), (test, _truth) = correlated(1500), correlated(4000, seed=1)
    plain = train_probe(features, labels, 5, device="cpu")
    scale = torch.logspace(-3, 3, features.shape[1])
    offset = torch.linspace(-1, 1, features.shape[1]) * 10 * scale
    moved = train_probe(features * scale + offset, labels, 5, device="cpu")
    assert moved.learning_rate == plain.learning_rate
    assert (moved.predict(test * scale + offset) == plain.predict(test)).double().mean() > 0.99


def test_features_that_never_vary_in_training_say_nothing_later():
    features, labels = planted(200)
    features[:, 5] = 3.1
    test, truth = planted(200, seed=1)
    test[:, 5] = 1e6
    assert accuracy(features, labels, test, truth) == 1.0
    flat = train_probe(torch.ones(90, 4), torch.tensor([0, 0, 1]).repeat(30), 2, device="cpu")
    assert torch.equal(flat.predict(torch.ones(7, 4)), torch.zeros(7, dtype=torch.int64))
    assert flat.probabilities(torch.ones(1, 4))[0, 0].item() == pytest.approx(2 / 3, abs=0.03)


def test_repeated_features_do_no_harm():
    (features, labels), (test, truth) = correlated(800), correlated(4000, seed=1)
    double, one = (
        accuracy(features.repeat(1, 2), labels, test.repeat(1, 2), truth),
        accuracy(features, labels, test, truth),
    )
    assert abs(double - one) < 0.005


def test_a_direction_without_variance_in_training_gets_no_weight():
    (features, labels), (test, _) = correlated(800), correlated(500, seed=1)
    # each feature twice: their differences never vary
    probe = train_probe(features.repeat(1, 2), labels, 5, device="cpu")
    # magnifies the last bit of the axes, too
    apart = (
        30 * features.std() * torch.randn(test.shape, generator=torch.Generator().manual_seed(2))
    )
    assert (
        probe.predict(torch.cat([test + apart, test - apart], 1))
        == probe.predict(test.repeat(1, 2))
    ).double().mean() > 0.95


def test_probabilities_are_the_softmax_of_an_affine_map():
    train, (test, _) = correlated(600), correlated(50, seed=1)
    probe = train_probe(*train, 5, device="cpu")
    found = probe.probabilities(test)
    by_hand = np.exp(
        ((test - probe.centre) / probe.scale).double().numpy() @ probe.weight.double().numpy()
        + probe.bias.double().numpy()
    )
    assert found.dtype == torch.float32 and found.shape == (50, 5)
    assert np.allclose(found.numpy(), by_hand / by_hand.sum(1, keepdims=True), atol=1e-5)
    assert torch.equal(probe.predict(test), found.argmax(1))


def test_all_rates_are_trained_in_one_pass_as_each_would_be_alone():
    x, y = correlated(300)
    together = probing._fit(x, y, 5, RATES, 50, 64, 0, torch.device("cpu"))
    for rate, probe in zip(RATES, together):
        (alone,) = probing._fit(x, y, 5, (rate,), 50, 64, 0, torch.device("cpu"))
        assert torch.allclose(
            probe.weight, alone.weight, rtol=1e-3, atol=1e-3 * float(alone.weight.abs().max())
        )


def test_the_step_is_adam_on_the_mean_cross_entropy():
    x, y = correlated(64)
    (found,) = probing._fit(x, y, 5, (0.1,), 20, 64, 0, torch.device("cpu"))
    inputs, axes = probing._uncorrelated(x, *probing._statistics(x), torch.device("cpu"))
    weight = torch.zeros(inputs.shape[1], 5, requires_grad=True)
    optimiser = torch.optim.Adam([weight], 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20)
    for _ in range(20):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(inputs @ weight, y).backward()
        optimiser.step()
        schedule.step()
    assert torch.allclose(axes @ weight[:-1], found.weight, atol=1e-3) and torch.allclose(
        weight[-1], found.bias, atol=1e-3
    )


def test_the_rate_is_chosen_on_held_out_training_images_and_never_on_others(monkeypatch):
    features, labels = correlated(1000)
    seen = []

    def spied(x, y, *rest, fit=probing._fit):
        seen.append((x, y))
        return fit(x, y, *rest)

    monkeypatch.setattr(probing, "_fit", spied)
    probe = train_probe(features, labels, 5, device="cpu")
    (part, part_labels), (whole, _) = seen
    assert len(part) == pytest.approx(850, abs=5) and torch.equal(whole, features)
    shares = torch.bincount(part_labels, minlength=5) / torch.bincount(labels, minlength=5)
    assert ((shares - 0.85).abs() < 0.01).all()
    assert probe.learning_rate in RATES and list(probe.held_out) == list(RATES)
    assert probe.held_out[probe.learning_rate] > max(probe.held_out.values()) - 0.05


def test_every_class_keeps_an_image_to_train_on():
    labels = torch.tensor([0] * 50 + [1] * 2 + [2])
    for seed in range(5):
        part = probing._held_out_images(labels, 3, 0.15, seed)
        assert torch.equal(torch.bincount(labels[part], minlength=3), torch.tensor([8, 1, 0]))
    with pytest.raises(InputError, match="no class has two"):
        probing.check_labels(torch.arange(3), 3, 3)


def test_each_image_comes_once_before_any_comes_again():
    batches = list(probing._batches(10, 4, 5, seed=0))
    assert [len(b) for b in batches] == [4] * 5
    order = torch.cat(batches)
    assert all(sorted(order[i : i + 10].tolist()) == list(range(10)) for i in (0, 10))


# --------------------------------------------------------------------------------------------------
# The evaluation


def made(
    count: int, seed: int, names: tuple[str, ...] = ("ant", "bee", "cat", "dog"), shift: float = 2.0
) -> Features:
    mean, labels = planted(count, len(names), shift=shift, seed=seed)
    cls, _ = planted(count, len(names), shift=shift / 2, seed=seed + 100)
    return Features(mean, cls, labels, names)


def own(features: Features) -> Tensor:
    return torch.eye(len(features.classes), dtype=torch.bool)


def test_the_evaluation_scores_each_pooling_on_each_set():
    train, validation, v2 = made(800, 0), made(600, 1), made(400, 2)
    found = evaluate_probe(
        train, {"validation": (validation, own(train)), "v2": (v2, own(train))}, device="cpu"
    )
    assert list(found) == ["mean/validation", "mean/v2", "cls/validation", "cls/v2"]
    for pool in ("mean", "cls"):
        probe = train_probe(train.pooled(pool), train.labels, 4, device="cpu")
        for name, features in (("validation", validation), ("v2", v2)):
            interval = found[f"{pool}/{name}"]
            assert interval.value == pytest.approx(
                float((probe.predict(features.pooled(pool)) == features.labels).double().mean())
            )
            assert interval.n == len(features) and interval.low < interval.value < interval.high
    assert found["mean/v2"].value > found["cls/v2"].value + 0.1
    assert (
        evaluate_probe(train, {"v2": (v2, own(train))}, device="cpu")["mean/v2"] == found["mean/v2"]
    )


def test_answers_are_restricted_to_the_classes_of_the_set():
    train, other = made(800, 0, shift=1.0), made(3000, 1, shift=1.0)
    kept = other.labels.remainder(2) == 0
    shifted = Features(other.mean[kept], other.cls[kept], other.labels[kept] // 2, ("ant", "cat"))
    accepts = torch.tensor([[True, False, False, False], [False, False, True, False]])
    probe = train_probe(train.mean, train.labels, 4, device="cpu")
    chances = probe.probabilities(shifted.mean)
    by_hand = (chances[:, [0, 2]].argmax(1) == shifted.labels).double().mean()
    found = evaluate_probe(train, {"set": (shifted, accepts)}, device="cpu")["mean/set"]
    assert found.value == pytest.approx(float(by_hand)) and found.n == len(shifted)
    # unrestricted, other classes win often
    assert found.value > float((chances.argmax(1) == shifted.labels * 2).double().mean()) + 0.03


def test_a_label_may_have_several_right_answers_and_one_without_any_is_left_out():
    train, other = made(800, 0, shift=1.0), made(2000, 1, shift=1.0)
    shifted = Features(other.mean, other.cls, other.labels, ("insect", "bee", "cat", "chair"))
    accepts = torch.tensor(
        [
            [True, True, False, False],
            [False, True, False, False],
            [False, False, True, False],
            [False] * 4,
        ]
    )
    found = evaluate_probe(train, {"set": (shifted, accepts)}, device="cpu")["mean/set"]
    answers = (
        train_probe(train.mean, train.labels, 4, device="cpu")
        .probabilities(other.mean)[:, :3]
        .argmax(1)
    )
    scored = other.labels < 3
    right = (answers == other.labels) | ((other.labels == 0) & (answers == 1))
    assert found.n == int(scored.sum()) == 1500
    assert found.value == pytest.approx(float(right[scored].double().mean()))


def test_the_pixel_control_is_the_same_probe_on_block_means():
    train, test = World("train", 32), World("validation", 32)
    found = evaluate_pixels(
        train,
        {"validation": (test, torch.eye(10, dtype=torch.bool))},
        train_images=600,
        images=500,
        side=4,
        device="cpu",
    )
    assert list(found) == ["pixels/validation"] and found["pixels/validation"].n == 500
    assert 0.1 < found["pixels/validation"].value < 0.5
    assert (
        evaluate_pixels(
            train,
            {"v": (World("v2", 32, length=50), torch.eye(10, dtype=torch.bool))},
            400,
            10**6,
            4,
            device="cpu",
        )["pixels/v"].n
        == 50
    )


def test_what_is_kept_is_the_share_above_chance():
    values = {
        "mean/validation": 0.6,
        "mean/v2": 0.6,
        "mean/sketch": 0.1,
        "mean/hard": 0.35,
        "cls/validation": 0.3,
        "cls/v2": 0.2,
    }
    record = {
        "name": "r75",
        "measures": {name: {"value": v, "low": v, "high": v, "n": 9} for name, v in values.items()},
    }
    (found,) = relative_to_validation([record], chance=0.1)
    kept = {name: m["value"] for name, m in found["measures"].items() if name.endswith("/kept")}
    assert kept == pytest.approx(
        {"mean/v2/kept": 1.0, "mean/sketch/kept": 0.0, "mean/hard/kept": 0.5, "cls/v2/kept": 0.5}
    )
    assert record["measures"].keys() == values.keys() and found["measures"].keys() > values.keys()
    record["measures"]["cls/validation"]["value"] = 0.1
    with pytest.raises(InputError, match="r75 has no cls/validation above chance"):
        relative_to_validation([record], chance=0.1)


# --------------------------------------------------------------------------------------------------
# Bad input


def test_training_input_that_makes_no_probe_is_named():
    features, labels = planted(40)
    spoilt = features.clone()
    spoilt[7, 3] = float("nan")
    for bad in (
        dict(features=spoilt, match="image 7 are NaN"),
        dict(features=features.flatten(), match="dimensions"),
        dict(features=features[:0], labels=labels[:0], match="dimensions"),
        dict(labels=labels[:-1], match="40 images"),
        dict(labels=labels.float(), match="whole number"),
        dict(labels=torch.zeros_like(labels), classes=1, match="tells classes apart"),
        dict(classes=3, match=r"0 … 2: found 0 … 3"),
        dict(labels=labels - 1, match="found -1"),
        dict(classes=5, match=r"class 4 has no training image \(1 of 5"),
        dict(features=features[:3], labels=labels[:3], match="3 images for 4 classes"),
    ):
        given = dict(features=features, labels=labels, classes=4) | bad
        with pytest.raises(InputError, match=given.pop("match")):
            train_probe(**given)


def test_sets_that_cannot_be_scored_are_named():
    train, other = made(80, 0), made(40, 1)
    narrow = Features(other.mean[:, :9], other.cls[:, :9], other.labels, other.classes)
    spoilt = Features(
        other.mean.clone().fill_(float("inf")), other.cls, other.labels, other.classes
    )
    for features, accepts, match in (
        (
            other,
            torch.zeros(4, 4, dtype=torch.bool),
            "set odd has no image of a class that the probe knows",
        ),
        (other, torch.eye(4), "set odd: accepts"),
        (other, torch.ones(4, 3, dtype=torch.bool), "set odd: accepts"),
        (other, torch.ones(3, 4, dtype=torch.bool), "set odd: accepts"),
        (narrow, own(train), "9 dimensions, the training images' have 12"),
        (spoilt, own(train), "image 0 are NaN or infinite"),
    ):
        with pytest.raises(InputError, match=match):
            evaluate_probe(
                train, {"validation": (other, own(train)), "odd": (features, accepts)}, device="cpu"
            )
    probe = train_probe(train.mean, train.labels, 4, device="cpu")
    with pytest.raises(InputError, match="9 dimensions for a probe trained on 12"):
        probe.probabilities(narrow.mean)
    with pytest.raises(InputError, match="NaN"):
        probe.predict(spoilt.mean)
