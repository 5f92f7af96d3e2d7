"""Separability of classes in feature space (§3.3, Figure 8): scores of the features themselves,
k-nearest-neighbour purity and silhouette, and the t-SNE picture that the paper shows. All three
look at the angle between standardised features.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from threadpoolctl import threadpool_limits
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, bootstrap
from mae_lib.evaluation.features import POOLS, Features

CLASSES = 10
"""How many classes the paper shows."""

NEIGHBOURS = 10
"""Neighbours that purity looks at."""


def neighbours(features: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """int64 [N, k]: the ``k`` other images whose features [N, D], standardised, have the largest
    cosine with an image's own, nearest first.

    Raises:
        InputError: features that are not finite, or k out of 1 … N − 1.
    """
    _check_finite(features)
    if not 1 <= k < len(features):
        raise InputError(
            f"{k} neighbours among {len(features)} images: ask for 1 to {len(features) - 1}"
        )
    rows, found = _directions(features), []
    for index in torch.arange(len(rows)).split(1024):
        cosine = rows[index] @ rows.T
        cosine[torch.arange(len(index)), index] = -math.inf
        found.append(cosine.topk(k, 1).indices)
    return torch.cat(found)


def purity(features: Tensor, labels: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """k-nearest-neighbour purity, leaving each image out of its own neighbours.

    Args:
        features: [N, D]. labels: int64 [N].

    Returns:
        float32 [N], for each image the share in [0, 1] of its ``k`` nearest (cosine of standardised
        features) that have its label. Shuffled labels give :func:`purity_chance`.

    Raises:
        InputError: features that are not finite, k below 1, a single class, or a class of no more
            than k images, whose purity could not reach 1.
    """
    _check(features, labels)
    check_enough(labels, k)
    return (labels[neighbours(features, k)] == labels[:, None]).float().mean(1)


def check_enough(labels: Tensor, k: int = NEIGHBOURS) -> None:
    """InputError for labels of one class, or of a class with too few images for :func:`purity`:
    known before any feature is."""
    names, counts = labels.unique(return_counts=True)
    if len(names) < 2:
        raise InputError("separability of one class: give images of two classes at least")
    if int(counts.min()) <= k:
        few = int(counts.argmin())
        raise InputError(
            f"class {int(names[few])} has {int(counts[few])} images, too few for purity among {k}"
            f" neighbours: give {k + 1} of each class at least"
        )


def purity_chance(labels: Tensor) -> float:
    """Purity of features that say nothing: the mean over images of (images of the same class − 1) /
    (N − 1)."""
    counts = torch.bincount(labels).double()
    return float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1)))


def shared_by_neighbours(features: Tensor, values: Tensor, k: int = NEIGHBOURS) -> float:
    """How much of a quantity an image shares with its ``k`` nearest: 1 − mean squared difference /
    (2 · variance).

    1 if neighbours agree in it, 0 if they are as unlike as any two images. With the latents of the
    embedded world it says what a representation puts side by side.

    Args:
        features: [N, D]. values: [N], one number an image; not all equal.
    """
    v = values.double()
    if v.shape != (len(features),) or not bool(v.isfinite().all()) or not float(v.var()) > 0:
        raise InputError(
            f"values {list(v.shape)} for {len(features)} images: give a finite number an image, not"
            " all of them equal"
        )
    return 1 - float((v[:, None] - v[neighbours(features, k)]).square().mean() / (2 * v.var()))


def silhouette(features: Tensor, labels: Tensor) -> Tensor:
    """float32 [N] in [−1, 1]: how much nearer (cosine distance of standardised features) an image
    lies to its own class than to the next one.

    About 0 or a little below where classes lie on one another, negative where another class is
    nearer; 0 by definition for the only image of a class, so such classes are refused.

    Raises:
        InputError: features that are not finite, a single class, or a class of one image.
    """
    _check(features, labels)
    names, counts = labels.unique(return_counts=True)
    if int(counts.min()) < 2:
        raise InputError(
            f"class {int(names[counts.argmin()])} has one image, which has no distance to its own"
            " class: give two of each class at least"
        )
    return torch.from_numpy(
        silhouette_samples(_directions(features).numpy(), labels.numpy(), metric="cosine")
    ).float()


def tsne(
    features: Tensor,
    perplexity: float = 30.0,
    seed: int = 0,
    start: Literal["pca", "random"] = "pca",
) -> Tensor:
    """t-SNE of features [N, D] (van der Maaten & Hinton 2008): float32 [N, 2], in units without
    meaning. A picture, not evidence.

    Args:
        perplexity: about how many neighbours each image keeps close, in (0, N). start: the two
            first principal components, which make the picture the same for every seed, or random
            places, as at first published, drawn by ``seed``.

    Raises:
        InputError: a perplexity out of range, features that are not finite, have one dimension or
            do not vary.
    """
    _check_finite(features)
    if not 0 < perplexity < len(features):
        raise InputError(
            f"a perplexity of {perplexity:g} for {len(features)} images: it must be above 0 and"
            " below their number, so give more images or a smaller perplexity"
        )
    rows = _directions(features)
    if rows.shape[1] < 2 or not bool((rows != rows[0]).any()):
        raise InputError(
            f"t-SNE of {len(rows)} features of {rows.shape[1]} dimension(s) that do not differ, or"
            " have one dimension: there is nothing to draw"
        )
    with threadpool_limits(torch.get_num_threads()):
        points = TSNE(
            perplexity=perplexity, init=start, random_state=seed, n_jobs=torch.get_num_threads()
        ).fit_transform(rows.numpy())
    return torch.from_numpy(points).float()


def ten_classes(
    labels: Tensor, images_per_class: int = 200, classes: int = CLASSES, seed: int = 0
) -> Tensor:
    """int64 [M], ascending: which images the scores and the picture look at, equally many of each
    class, the first that there are.

    Args:
        labels: int64 [N]. images_per_class: of each class, at most; as many as the rarest of the
            chosen classes has, if that is fewer.
        classes: how many; drawn at random by ``seed`` where there are more (the paper's "randomly
            select ten classes"), all where there are not.

    Raises:
        InputError: no labels, or fewer than one image a class wanted.
    """
    if not len(labels) or images_per_class < 1:
        raise InputError(
            f"{images_per_class} images a class of {len(labels)} images: ask for 1 at least, of"
            " some images"
        )
    names = labels.unique()
    if len(names) > classes:
        names = names[
            torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))[:classes]
        ]
    members = [(labels == name).nonzero().flatten() for name in names]
    kept = min(images_per_class, *map(len, members))
    return torch.cat([found[:kept] for found in members]).sort().values


def evaluate_separability(
    features: Features, images_per_class: int = 200, seed: int = 0
) -> dict[str, Interval]:
    """Figure 8 in numbers, for one frozen encoder, on the images that :func:`ten_classes` chooses.

    Args:
        features: of held-out images. images_per_class: at most. seed: of the draw of classes and of
            the bootstrap.

    Returns:
        ``mean/purity``, ``mean/silhouette``, ``cls/purity`` and ``cls/silhouette``: means with
        their intervals over images. Images share neighbours, so the intervals are a little too
        narrow; the ledger compares seeds, not images.

    Raises:
        InputError: as :func:`purity` and :func:`silhouette`.
    """
    index = ten_classes(features.labels, images_per_class, seed=seed)
    labels, measures = features.labels[index], {}
    for pool in POOLS:
        rows = features.pooled(pool)[index]
        measures[f"{pool}/purity"] = bootstrap(purity(rows, labels), seed=seed)
        measures[f"{pool}/silhouette"] = bootstrap(silhouette(rows, labels), seed=seed)
    return measures


def _directions(features: Tensor) -> Tensor:
    """float32 [N, D]: features standardised over these images, then each row scaled to length 1, so
    that inner products are cosines."""
    deviation, mean = torch.std_mean(features.float(), 0, correction=0)
    varies = deviation > 1e-6 * mean.abs()
    return torch.nn.functional.normalize(
        torch.where(varies, (features.float() - mean) / torch.where(varies, deviation, 1.0), 0.0)
    )


def _check(features: Tensor, labels: Tensor) -> None:
    _check_finite(features)
    if labels.shape != (len(features),):
        raise InputError(
            f"labels {list(labels.shape)} for {len(features)} images: give one an image"
        )
    if len(labels.unique()) < 2:
        raise InputError("separability of one class: give images of two classes at least")


def _check_finite(features: Tensor) -> None:
    if features.ndim != 2 or not len(features):
        raise InputError(
            f"features of shape {list(features.shape)}: give [images, dimensions], at least one"
            " image"
        )
    if len(bad := (~features.isfinite()).any(1).nonzero()):
        raise InputError(
            f"the features of image {int(bad[0])} are NaN or infinite ({len(bad)} such images):"
            " look at the encoder's weights"
        )
