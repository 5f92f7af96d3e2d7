"""Which level of the hierarchy is in a representation (§3.6, claims S1–S3): how well each latent of
the embedded world can be read out, linearly, from a frozen encoder's features of whole images. No
label but the world's own latents is needed, so only it can be asked.

A class is read out by the linear probe of chapter 8 (`mae_lib.evaluation.probe`), a continuous
latent by ridge regression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, bootstrap
from mae_lib.evaluation.features import POOLS, Features
from mae_lib.evaluation.probe import HELD_OUT, train_probe
from mae_lib.worlds.law import CLASSES
from mae_lib.worlds.rendering import TEXTURES
from mae_lib.worlds.world import World

PENALTIES = tuple(10.0 ** (k / 2) for k in range(-12, 5))
"""Of the ridge regression, tried on held-out training images; in units of a standardised feature's
variance."""

_BATCH = 500


@dataclass(frozen=True)
class Latent:
    """One latent of the world, or a few that belong together.

    Attributes:
        level: where in the hierarchy class → pose → texture, colour → pixels. what: in words, with
            its unit.
        classes: how many, if it is a class: read out as accuracy in [0, 1], guessing gives 1 /
            classes. 0: it is continuous and read out as R², 1 if exact; always answering the mean
            gives 0.
    """

    level: Literal["high", "middle", "low"]
    what: str
    classes: int = 0

    @property
    def chance(self) -> float:
        """What a readout of features that say nothing gives."""
        return 1 / self.classes if self.classes else 0.0


LATENTS: dict[str, Latent] = {
    "class": Latent("high", "shape class", len(CLASSES)),
    "scale": Latent("middle", "the object's size, half-images per object unit"),
    "turn": Latent(
        "middle",
        "the object's rotation, radians; within ±0.25, so the angle itself is read out, nothing"
        " wraps",
    ),
    "position": Latent("low", "where the object's centre lies, x and y, half-images"),
    "texture": Latent(
        "low",
        "texture class, on images chosen so that the shape class says nothing about it",
        len(TEXTURES),
    ),
    "grain": Latent(
        "low", "the texture's frequency (relative), turn (radians) and contrast (brightness)"
    ),
    "colour": Latent(
        "low", "the object's colour without its brightness: red–green and yellow–blue"
    ),
    "brightness": Latent("low", "the object's brightness, the mean of its three channels"),
    "ground": Latent("low", "the ground's brightness, red–green and yellow–blue"),
}
"""name → what is read out. The R² of a latent of several coordinates is the mean of theirs."""

LOW = ("texture", "colour", "position")
"""The low-level information of claim S3: what the object is made of and where it lies, as against
what it is."""

# brightness, red–green, yellow–blue
_OPPONENT = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.5, -0.5, 0.0], [0.25, 0.25, -0.5]])


def world_latents(world: World, indices=None) -> dict[str, Tensor]:
    """What made each image: name of `LATENTS` → int64 [N] for a class, float32 [N, K] for K
    coordinates; colours, which are sums, to the last digit. ``indices``: all images by default."""
    index = torch.as_tensor(range(len(world)) if indices is None else indices)
    parts: list[dict[str, Tensor]] = []
    for some in index.split(_BATCH):
        batch = world.sample(some)
        drawn = {
            name: batch.latents[name].cpu()
            for name in ("pose", "texture_shape", "object_colour", "ground_colour")
        }
        body, ground = drawn["object_colour"] @ _OPPONENT.T, drawn["ground_colour"] @ _OPPONENT.T
        parts.append(
            {
                "class": batch.labels.cpu(),
                "scale": drawn["pose"][:, :1],
                "turn": drawn["pose"][:, 1:2],
                "position": drawn["pose"][:, 2:4],
                "texture": batch.textures.cpu(),
                "grain": drawn["texture_shape"],
                "colour": body[:, 1:],
                "brightness": body[:, :1],
                "ground": ground,
            }
        )
    return {name: torch.cat([part[name] for part in parts]) for name in LATENTS}


def balanced(labels: Tensor, textures: Tensor, seed: int = 0) -> Tensor:
    """int64 [M], ascending: images among which the shape class says nothing about the texture.

    In the world seven images in ten have their class's own texture, so whoever knows the class
    knows the texture of 70 % of the images. Of each class, all images with another texture are
    kept, and a ninth as many with its own, drawn by ``seed``: each of the ten textures then has a
    tenth.
    """
    own, kept = labels == textures, []
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    for name in labels.unique():
        others = (~own & (labels == name)).nonzero().flatten()
        matching = order[(own & (labels == name))[order]]
        kept += [others, matching[: round(len(others) / (len(TEXTURES) - 1))]]
    return torch.cat(kept).sort().values


def evaluate_latents(
    train: Features,
    train_latents: Mapping[str, Tensor],
    test: Features,
    test_latents: Mapping[str, Tensor],
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Interval]:
    """Every latent of `LATENTS` read out from both poolings of one frozen encoder.

    Args:
        train, train_latents: features that the readouts are fitted on, and :func:`world_latents` of
            the same images in the same order.
        test, test_latents: the same of other images, which score them. seed: of cuts, batches and
            bootstrap. device: where probes are trained.

    Returns:
        ``mean/NAME`` and ``cls/NAME``, see :func:`readout`.
    """
    return {
        f"{pool}/{name}": interval
        for pool in POOLS
        for name, interval in readout(
            train.pooled(pool), train_latents, test.pooled(pool), test_latents, seed, device
        ).items()
    }


def readout(
    features: Tensor,
    latents: Mapping[str, Tensor],
    test: Tensor,
    truth: Mapping[str, Tensor],
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Interval]:
    """Every latent, read out of any features.

    Args:
        features: [N, D], with latents of the same N images, to fit on. test, truth: [M, D] and M
            images' latents, to score.

    Returns:
        name → accuracy in [0, 1] of a class, on all test images or, for the texture, on a
        :func:`balanced` part of them (its probe is trained on such a part too); R² of a continuous
        latent, at most 1, below 0 if worse than the test images' mean. Intervals are over test
        images.

    Raises:
        InputError: features that are not finite or not [images, dimensions]; latents of another
            number of images; so few training images that a class or texture has none.
    """
    for rows, values in ((features, latents), (test, truth)):
        if missing := LATENTS.keys() - values.keys():
            raise InputError(
                f"the latents lack {', '.join(sorted(missing))}: take them from world_latents"
            )
        if wrong := [name for name in LATENTS if len(values[name]) != len(rows)]:
            raise InputError(
                f"{wrong[0]} of {len(values[wrong[0]])} images for features of {len(rows)}: give"
                " the latents of the same images"
            )
    if test.shape[1:] != features.shape[1:]:
        raise InputError(
            f"features of shape {list(test.shape)} to score, the training images' are"
            f" {list(features.shape)}: take both from one encoder"
        )
    measures = {}
    for name, latent in LATENTS.items():
        if latent.classes:
            part, scored = torch.arange(len(features)), torch.arange(len(test))
            if name == "texture":
                part, scored = (
                    balanced(latents["class"], latents[name], seed),
                    balanced(truth["class"], truth[name], seed),
                )
            if absent := sorted(set(range(latent.classes)) - set(latents[name][part].tolist())):
                raise InputError(
                    f"{len(features)} training images leave none of {name} {absent[0]} to learn"
                    " from: take more"
                )
            probe = train_probe(features[part], latents[name][part], latent.classes, seed, device)
            measures[name] = bootstrap(
                (probe.predict(test[scored]) == truth[name][scored]).double(), seed=seed
            )
        else:
            predicted = ridge(features, latents[name], seed)(test)
            measures[name] = r_squared(predicted, truth[name], seed)
    return measures


@dataclass(frozen=True)
class Ridge:
    """Ridge regression: ((features − centre) / scale) · weight + bias. float64: centre, scale [D],
    weight [D, K], bias [K]; penalty: the one chosen."""

    centre: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    penalty: float

    def __call__(self, features: Tensor) -> Tensor:
        """float64 [M, K] of features [M, D]; InputError for another D, or features that are not
        finite."""
        _check(features)
        if features.shape[1] != len(self.centre):
            raise InputError(
                f"features of {features.shape[1]} dimensions for a regression on"
                f" {len(self.centre)}: take both from one encoder and pooling"
            )
        return (features.cpu().double() - self.centre) / self.scale @ self.weight + self.bias


def ridge(features: Tensor, values: Tensor, seed: int = 0) -> Ridge:
    """Ridge regression of values [N, K] on features [N, D], standardised, with one of `PENALTIES`
    for all K coordinates.

    A share of the images, `mae_lib.evaluation.probe.HELD_OUT`, is held out; the penalty with the
    least squared error there, each coordinate in units of its own variance, then fits all of the
    images.

    Raises:
        InputError: features that are not finite or not [N, D]; values of another number, not
            finite, or all equal; fewer than two images to fit on and one to hold out.
    """
    _check(features)
    x, y = features.cpu().double(), values.cpu().double()
    if y.ndim != 2 or len(y) != len(x) or not bool(y.isfinite().all()):
        raise InputError(
            f"values {list(values.shape)} for {len(features)} images: give [images, coordinates],"
            " finite"
        )
    held = max(1, round(HELD_OUT * len(x)))
    if len(x) - held < 2:
        raise InputError(
            f"{len(x)} images: a regression holds some out to choose its penalty, give 3 at least"
        )
    spread = y.var(0, correction=0)
    if not bool((spread > 0).all()):
        raise InputError(
            f"coordinate {int((spread <= 0).nonzero()[0])} of the values is the same in every"
            " image: there is nothing to read out"
        )
    part = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    tried = _fit(x[part[held:]], y[part[held:]], PENALTIES)
    errors = [
        float(((fitted(x[part[:held]]) - y[part[:held]]).square() / spread).mean())
        for fitted in tried
    ]
    (final,) = _fit(x, y, (PENALTIES[errors.index(min(errors))],))
    return final


def r_squared(predicted: Tensor, truth: Tensor, seed: int = 0) -> Interval:
    """1 − mean squared error / variance of predictions [M, K], the mean over coordinates, with its
    interval over the M images.

    Raises:
        InputError: another shape, a value that is not finite, or a coordinate that never varies.
    """
    predicted, truth = predicted.double(), truth.double()
    if predicted.shape != truth.shape or truth.ndim != 2:
        raise InputError(
            f"predictions {list(predicted.shape)} of values {list(truth.shape)}: give [images,"
            " coordinates] of both"
        )
    error, spread = (predicted - truth).square(), (truth - truth.mean(0)).square()
    if not bool((spread.sum(0) > 0).all()):
        raise InputError("a coordinate of the values is the same in every image: R² is not defined")
    k = truth.shape[1]

    def statistic(rows: Tensor) -> Tensor:  # [draws, M, 2 K]
        sums = rows.sum(1)
        return (1 - sums[:, :k] / sums[:, k:]).mean(1)

    return bootstrap(torch.cat([error, spread], 1), statistic, seed=seed)


def _fit(x: Tensor, y: Tensor, penalties: tuple[float, ...]) -> list[Ridge]:
    """One regression for each penalty, in closed form along the features' principal axes."""
    scale, centre = torch.std_mean(x, 0, correction=0)
    # a feature that never varies says nothing, then or later
    scale = torch.where(scale > 1e-6 * centre.abs(), scale, torch.inf)
    rows, bias = (x - centre) / scale, y.mean(0)
    variances, axes = torch.linalg.eigh(rows.T @ rows / len(x))
    along = axes.T @ (rows.T @ (y - bias) / len(x))
    return [
        Ridge(
            centre,
            scale,
            axes @ (along / (variances.clamp_min(0) + penalty)[:, None]),
            bias,
            penalty,
        )
        for penalty in penalties
    ]


def _check(features: Tensor) -> None:
    if features.ndim != 2 or not len(features) or not features.shape[1]:
        raise InputError(
            f"features of shape {list(features.shape)}: give [images, dimensions], at least one of"
            " both"
        )
    if len(bad := (~features.isfinite()).any(1).nonzero()):
        raise InputError(
            f"the features of image {int(bad[0])} are NaN or infinite ({len(bad)} such images):"
            " look at the encoder's weights"
        )
