"""Linear probes (§3.3, Table 1): what a frozen encoder's features say about a label. One pass over
the features trains a probe at every learning rate of a grid, held-out training images choose the
rate, and the probe is then scored, unchanged, on validation and shifted sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.base.intervals import Interval, bootstrap
from mae_lib.data.datasets import Subset
from mae_lib.evaluation.features import POOLS, Features, pixel_features
from mae_lib.training.pretrain import resolve_device

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Learning rates tried. Low ones stop early, which few images and many features need; high ones
reach the optimum where images abound."""

HELD_OUT = 0.15
"""Share of each class's training images that chooses among the rates."""

STEPS, EPOCHS, BATCH = 1000, 10, 256
"""Optimiser steps: `STEPS`, or as many as `EPOCHS` passes over the images take if that is more;
images a step."""

# rows worked on at a time where all of them at once would need a second copy of the features
_CHUNK = 65536


@dataclass(frozen=True)
class Probe:
    """A linear classifier: softmax of ((features − centre) / scale) · weight + bias.

    Attributes:
        centre, scale: float32 [D], mean and deviation of the training features. weight: float32 [D,
            C]. bias: float32 [C]. All on the CPU.
        learning_rate: the one chosen. held_out: rate → accuracy in [0, 1] on the held-out training
            images.
    """

    centre: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    learning_rate: float
    held_out: Mapping[float, float]

    def probabilities(self, features: Tensor) -> Tensor:
        """float32 [M, C], each row a softmax, of features [M, D]. InputError for another D, or
        features that are not finite."""
        check_features(features)
        if features.shape[1] != len(self.centre):
            raise InputError(
                f"features of {features.shape[1]} dimensions for a probe trained on"
                f" {len(self.centre)}: take both from one encoder and pooling"
            )
        return torch.cat(
            [
                (_standardised(part, self.centre, self.scale) @ self.weight + self.bias).softmax(1)
                for part in features.cpu().split(_CHUNK)
            ]
        )

    def predict(self, features: Tensor) -> Tensor:
        """int64 [M]: the most probable class of each of the features [M, D]."""
        return self.probabilities(features).argmax(1)


def train_probe(
    features: Tensor,
    labels: Tensor,
    classes: int,
    seed: int = 0,
    device: str = "auto",
    rates: Sequence[float] = RATES,
    steps: int | None = None,
    batch: int = BATCH,
    held_out: float = HELD_OUT,
) -> Probe:
    """A linear probe on standardised features, trained by Adam without weight decay, the learning
    rate falling to zero by a cosine.

    A stratified share of the images is held out, and one probe for each rate is trained on the
    rest, all in one pass. The rate whose held-out probabilities have the least squared error
    (Brier's score) then trains the probe on all of the images; on a thousand images accuracy is too
    coarse to tell neighbouring rates apart.

    Args:
        features: [N, D]. labels: int64 [N], each in [0, classes). classes: C; every one needs an
            image.
        seed: of the cut and of the batches; equal seeds, equal probes. device: where to train.
        rates: the grid, for standardised features with squares that sum to one in the mean. steps,
            batch: see `STEPS`. held_out: the share.

    Raises:
        InputError: features that are not finite or not [N, D]; labels of another number, beyond the
            classes, or without an image of some class; a single class; fewer images than classes;
            no class with a second image to hold out.
    """
    check_features(features)
    check_labels(labels, len(features), classes)
    target, x, y = resolve_device(device), features.float(), labels.cpu()
    part = _held_out_images(y, classes, held_out, seed)
    fitted = _fit(x[~part], y[~part], classes, rates, steps, batch, seed, target)
    guesses, truth = (
        [probe.probabilities(x[part]) for probe in fitted],
        torch.nn.functional.one_hot(y[part], classes),
    )
    errors = [float((guess - truth).square().sum(1).mean()) for guess in guesses]
    accuracies = [float((guess.argmax(1) == y[part]).double().mean()) for guess in guesses]
    chosen = rates[errors.index(min(errors))]
    (final,) = _fit(x, y, classes, (chosen,), steps, batch, seed, target)
    return Probe(
        final.centre, final.scale, final.weight, final.bias, chosen, dict(zip(rates, accuracies))
    )


def evaluate_probe(
    train: Features,
    sets: Mapping[str, tuple[Features, Tensor]],
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Interval]:
    """Table 1 for one frozen encoder: a probe on each pooling, scored on each set.

    Args:
        train: features the probes learn from. seed: of the probes and of the bootstrap. device:
            where to train.
        sets: name → (features, accepts), accepts being bool [K, C]: whether the probe's class c
            counts as right for the set's label k.

    Returns:
        ``mean/NAME`` and ``cls/NAME``: accuracy in [0, 1] with its interval over images.
        Predictions are restricted to the classes that are right for some label of the set (the rule
        for ImageNet-R and -A). Images of which no class is right are left out: ``n`` is the number
        scored.

    Raises:
        InputError: a set with no class of the probe's or of another encoder's dimensions, and what
            :func:`train_probe` refuses.
    """
    measures: dict[str, Interval] = {}
    for pool in POOLS:
        rows = {
            name: (features.pooled(pool), features.labels, accepts)
            for name, (features, accepts) in sets.items()
        }
        probe = trained_on(train.pooled(pool), train.labels, train.classes, rows, seed, device)
        measures |= {f"{pool}/{name}": _accuracy(probe, *row, seed) for name, row in rows.items()}
    return measures


def evaluate_pixels(
    train: ImageSource,
    sets: Mapping[str, tuple[ImageSource, Tensor]],
    train_images: int,
    images: int,
    side: int = 16,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Interval]:
    """The control beside :func:`evaluate_probe`: the same probe on the pixels themselves, averaged
    down to ``side`` × ``side``. It depends on no encoder.

    Args:
        train, sets: as there, of images. train_images, images: how many to train on and to score of
            each set, at most, spread evenly.

    Returns:
        ``pixels/NAME``: accuracy in [0, 1] with its interval over images.
    """

    def flat(source: ImageSource, count: int) -> tuple[Tensor, Tensor]:
        kept = min(count, len(source))
        return pixel_features(source, kept, side), Subset(source, kept).labels

    features, labels = flat(train, train_images)
    rows = {name: (*flat(source, images), accepts) for name, (source, accepts) in sets.items()}
    probe = trained_on(features, labels, train.classes, rows, seed, device)
    return {f"pixels/{name}": _accuracy(probe, *row, seed) for name, row in rows.items()}


# -- training


def _fit(
    x: Tensor,
    y: Tensor,
    classes: int,
    rates: Sequence[float],
    steps: int | None,
    batch: int,
    seed: int,
    device: torch.device,
) -> list[Probe]:
    """One probe for each rate, trained side by side on the same batches. x: float32 [N, D], y:
    int64 [N], both on the CPU."""
    n, _width = x.shape
    centre, scale = _statistics(x)
    inputs, axes = _uncorrelated(x, centre, scale, device)
    labels = y.to(device)
    weight = torch.zeros(inputs.shape[1], len(rates), classes, device=device)
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    rate = torch.tensor(rates, device=device).view(1, -1, 1)
    total = max(STEPS, math.ceil(EPOCHS * n / batch)) if steps is None else steps
    for step, index in enumerate(_batches(n, min(batch, n), total, seed)):
        index = index.to(device)
        rows = inputs[index]
        # The gradient of the softmax loss is (probabilities − one-hot labels) · inputs, for all
        # rates in one product.
        error = (rows @ weight.flatten(1)).view(len(rows), len(rates), classes).softmax(2)
        error[torch.arange(len(rows), device=device), :, labels[index]] -= 1
        gradient = (rows.T @ error.flatten(1)).view_as(weight) / len(rows)
        # Adam (β 0.9, 0.999), with a rate for each probe.
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        size = rate * (0.5 + 0.5 * math.cos(math.pi * step / total)) / (1 - 0.9 ** (step + 1))
        weight.addcdiv_(first * -size, (second / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8))
    bias, weight = weight[-1].cpu(), torch.einsum("dk,kgc->gdc", axes, weight[:-1]).cpu()
    return [Probe(centre, scale, w, b, r, {}) for w, b, r in zip(weight, bias, rates)]


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [D] of each feature; an infinite deviation, which makes it zero, where a
    feature does not vary."""
    variance, mean = torch.var_mean(x, 0, correction=0)
    deviation = variance.sqrt()
    return mean, torch.where(deviation > 1e-6 * mean.abs(), deviation, math.inf)


def _standardised(x: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    return (x.float() - centre) / scale


def _uncorrelated(
    x: Tensor, centre: Tensor, scale: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Standardised features turned to their principal axes, and a one for the bias: (inputs [N, K +
    1], axes [D, K]).

    A turn changes no linear classifier. But features of an encoder are strongly correlated, and
    their classes often differ along axes of little variance, which gradient descent in the given
    axes reaches last; along principal axes Adam gives each a step of its own. Axes without variance
    say nothing and are dropped. Divided by √D, the squares of an image's inputs sum to about one
    whatever D, so that one grid of rates serves all.
    """
    centre, scale, width = centre.to(device), scale.to(device), x.shape[1]
    moments = torch.zeros(width, width, dtype=torch.float64)
    for part in x.split(_CHUNK):
        rows = _standardised(part.to(device), centre, scale)
        moments += (rows.T @ rows).double().cpu()
    variances, axes = torch.linalg.eigh(moments / len(x))
    axes = (axes[:, variances > 1e-6 * variances[-1]] / math.sqrt(width)).float().to(device)
    inputs = torch.ones(len(x), axes.shape[1] + 1, device=device)
    for start, part in zip(range(0, len(x), _CHUNK), x.split(_CHUNK)):
        inputs[start : start + len(part), :-1] = (
            _standardised(part.to(device), centre, scale) @ axes
        )
    return inputs, axes


def _batches(n: int, batch: int, steps: int, seed: int):
    """``steps`` batches of indices, each image once before any comes again; drawn on the CPU, so
    alike on every device."""
    generator, waiting = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(waiting) < batch:
            waiting = torch.cat([waiting, torch.randperm(n, generator=generator)])
        yield waiting[:batch]
        waiting = waiting[batch:]


def _held_out_images(labels: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """bool [N]: ``share`` of each class, at least one image of a class that has two, never all."""
    counts = torch.bincount(labels, minlength=classes)
    wanted = torch.minimum((share * counts).round().long().clamp(min=1), counts - 1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]  # class by class, in random order within each
    place = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    part = torch.zeros(len(labels), dtype=torch.bool)
    part[order] = place < wanted[labels[order]]
    return part


# --------------------------------------------------------------------------------------------------
# Scoring and checks


def trained_on(
    features: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    sets: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    seed: int,
    device: str,
) -> Probe:
    """A probe, after all of the sets that it is to be scored on have been checked: bad input fails
    at once."""
    for name, (rows, numbers, accepts) in sets.items():
        check_features(rows)
        if rows.shape[1] != features.shape[1]:
            raise InputError(
                f"set {name}: features of {rows.shape[1]} dimensions, the training images' have"
                f" {features.shape[1]}: take both from one encoder"
            )
        if (
            accepts.dtype != torch.bool
            or accepts.ndim != 2
            or accepts.shape[1] != len(classes)
            or len(accepts) <= int(numbers.max())
        ):
            raise InputError(
                f"set {name}: accepts is {accepts.dtype} {list(accepts.shape)}: give bool [labels"
                f" of the set, {len(classes)}]"
            )
        if not accepts[numbers].any():
            raise InputError(
                f"set {name} has no image of a class that the probe knows: give a set that shares"
                " classes with the training images"
            )
    return train_probe(features, labels, len(classes), seed, device)


def hits(probe: Probe, features: Tensor, labels: Tensor, accepts: Tensor) -> Tensor:
    """bool [M]: whether each image of which some class is right got a right one; of a set as
    :func:`evaluate_probe` takes it, by its rule."""
    scored = accepts[labels].any(1)
    return right(probe.probabilities(features[scored]), labels[scored], accepts)


def right(probabilities: Tensor, labels: Tensor, accepts: Tensor) -> Tensor:
    """bool [M]: whether the most probable of the classes that are right for some label of a set is
    right for the image's own; probabilities [M, C], labels int64 [M], accepts bool [K, C]."""
    answers = accepts.any(0).nonzero().flatten()
    best = answers[probabilities[:, answers].argmax(1)]
    return accepts[labels, best]


def _accuracy(
    probe: Probe, features: Tensor, labels: Tensor, accepts: Tensor, seed: int
) -> Interval:
    return bootstrap(hits(probe, features, labels, accepts).double(), seed=seed)


def check_features(features: Tensor) -> None:
    if features.ndim != 2 or not len(features) or not features.shape[1]:
        raise InputError(
            f"features of shape {list(features.shape)}: give [images, dimensions], at least one of"
            " both"
        )
    # a single pass; rows are looked at only to name one
    if not math.isfinite(float(features.sum())):
        bad = (~features.isfinite()).any(1).nonzero().flatten()
        if len(bad):
            raise InputError(
                f"the features of image {int(bad[0])} are NaN or infinite ({len(bad)} such images):"
                " look at the encoder's weights"
            )


def check_labels(labels: Tensor, images: int, classes: int) -> None:
    """InputError unless a probe can be trained on ``images`` with these labels: known before any
    feature is."""
    if labels.shape != (images,) or labels.is_floating_point():
        raise InputError(
            f"labels {labels.dtype} {list(labels.shape)} for {images} images: give one whole number"
            " an image"
        )
    if classes < 2:
        raise InputError(
            f"a linear probe tells classes apart, and there is {classes}: give images of two at"
            " least"
        )
    if images < classes:
        raise InputError(
            f"{images} images for {classes} classes: a linear probe needs one of each at least"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InputError(
            f"labels must be in 0 … {classes - 1}: found {int(labels.min())} … {int(labels.max())}"
        )
    counts = torch.bincount(labels.cpu(), minlength=classes)
    if not counts.all():
        missing = (counts == 0).nonzero().flatten().tolist()
        raise InputError(
            f"class {missing[0]} has no training image ({len(missing)} of {classes} classes lack"
            " one): train the probe on more images"
        )
    if int(counts.max()) < 2:
        raise InputError(
            "a linear probe holds out training images to choose its learning rate, and no class has"
            " two: take more images"
        )
