"""Purity and silhouette equal their definitions, reach their bounds on planted clusters and chance
on shuffled ones; t-SNE draws what it is given and says what it cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from looking import drawn  # noqa: F401 (renders and closes every figure)
from mae_lib.base.errors import InputError
from mae_lib.evaluation import separability
from mae_lib.evaluation.features import Features
from mae_lib.evaluation.separability import (
    evaluate_separability,
    neighbours,
    purity,
    purity_chance,
    shared_by_neighbours,
    silhouette,
    ten_classes,
    tsne,
)


def clusters(
    each: int = 30, classes: int = 4, width: int = 16, shift: float = 5.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Unit noise about random centres that lie about ``shift`` from the origin in each
    direction."""
    generator, labels = torch.Generator().manual_seed(seed), torch.arange(each * classes) % classes
    centres = shift * torch.randn(classes, width, generator=generator)
    return centres[labels] + torch.randn(len(labels), width, generator=generator), labels


def cosines(features: Tensor) -> np.ndarray:
    x = features.double().numpy()
    x = (x - x.mean(0)) / x.std(0)
    return np.array([[float(a @ b / np.sqrt((a @ a) * (b @ b))) for b in x] for a in x])


def test_purity_is_the_share_of_like_labels_among_the_nearest_others():
    features, labels = clusters(12, 5, 8, shift=0.5)
    near = cosines(features)
    for k in (1, 3, 10):
        by_hand = []
        for i in range(len(labels)):
            others = sorted((j for j in range(len(labels)) if j != i), key=lambda j: -near[i, j])
            by_hand.append(np.mean([labels[j] == labels[i] for j in others[:k]]))
        assert np.allclose(purity(features, labels, k).numpy(), by_hand)
    assert 0.2 < purity(features, labels).mean() < 0.9


def test_silhouette_is_its_definition():
    features, labels = clusters(9, 3, 8, shift=0.7)
    far, by_hand = 1 - cosines(features), []
    for i, own in enumerate(labels.tolist()):
        inside = np.mean([far[i, j] for j in range(len(labels)) if labels[j] == own and j != i])
        outside = min(
            np.mean([far[i, j] for j in range(len(labels)) if labels[j] == c])
            for c in range(3)
            if c != own
        )
        by_hand.append((outside - inside) / max(inside, outside))
    assert np.allclose(silhouette(features, labels).numpy(), by_hand, atol=1e-5)


def test_planted_clusters_are_pure_and_shuffled_ones_at_chance():
    features, labels = clusters(200)
    assert purity(features, labels).eq(1).all() and silhouette(features, labels).min() > 0.5
    shuffled = labels[torch.randperm(800, generator=torch.Generator().manual_seed(1))]
    assert purity(features, shuffled).mean().item() == pytest.approx(
        purity_chance(labels), abs=0.02
    )
    # the nearest of three other classes, so a little below 0
    assert -0.05 < silhouette(features, shuffled).mean() < 0.01


def test_chance_is_what_shuffling_gives_in_the_mean_for_uneven_classes_too():
    labels = torch.tensor([0] * 60 + [1] * 25 + [2] * 15)
    features = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    drawn = [
        purity(features, labels[torch.randperm(100, generator=torch.Generator().manual_seed(s))])
        .mean()
        .item()
        for s in range(60)
    ]
    assert purity_chance(labels) == pytest.approx((60 * 59 + 25 * 24 + 15 * 14) / 9900)
    assert np.mean(drawn) == pytest.approx(purity_chance(labels), abs=4 * np.std(drawn) / 60**0.5)


def test_scale_and_offset_do_not_matter_and_a_flat_feature_is_ignored():
    features, labels = clusters(30, shift=0.5)
    moved = features * torch.logspace(-3, 3, 16) + torch.linspace(-1, 1, 16)
    moved = torch.cat([moved, torch.full((120, 1), 7.3)], 1)
    assert (purity(features, labels) - purity(moved, labels)).abs().mean() < 0.005
    assert torch.allclose(silhouette(features, labels), silhouette(moved, labels), atol=1e-3)


def test_an_image_is_not_its_own_neighbour():
    # Each image has its like nearest, of another class: only itself could count.
    features = torch.randn(40, 32, generator=torch.Generator().manual_seed(0)).repeat_interleave(
        2, 0
    )
    assert not purity(features, torch.arange(80) % 2, k=1).any()


def test_what_neighbours_share_runs_from_nothing_to_everything():
    generator = torch.Generator().manual_seed(0)
    circle, noise = (
        2 * math.pi * torch.rand(600, generator=generator),
        torch.randn(600, generator=generator),
    )
    features = torch.stack([circle.cos(), circle.sin()], 1)
    assert shared_by_neighbours(features, circle.cos() * 50 + 7) > 0.99
    assert abs(shared_by_neighbours(features, noise)) < 0.1
    # half of the variance
    assert 0.4 < shared_by_neighbours(features, circle.cos() / 0.5**0.5 + noise) < 0.6
    near = neighbours(features, 2)
    by_hand = np.mean([(noise[i] - noise[j]) ** 2 for i in range(600) for j in near[i]]) / (
        2 * noise.var()
    )
    assert shared_by_neighbours(features, noise, 2) == pytest.approx(1 - float(by_hand), abs=1e-5)


def test_the_ten_classes_are_balanced_and_drawn_by_their_seed():
    labels = torch.randint(25, (2000,), generator=torch.Generator().manual_seed(0))
    index = ten_classes(labels, 30)
    names, counts = labels[index].unique(return_counts=True)
    assert (
        len(names) == 10
        and counts.eq(30).all()
        and torch.equal(index, index.sort().values)
        and len(index.unique()) == 300
    )
    for name in names:  # the first ones of each
        assert torch.equal(index[labels[index] == name], (labels == name).nonzero().flatten()[:30])
    assert torch.equal(index, ten_classes(labels, 30)) and not torch.equal(
        index, ten_classes(labels, 30, seed=1)
    )
    few = torch.tensor([3] * 50 + [5] * 7 + [9] * 20)
    assert torch.equal(torch.bincount(few[ten_classes(few)])[[3, 5, 9]], torch.tensor([7, 7, 7]))
    # no more than ten: nothing is drawn
    assert torch.equal(ten_classes(few, 2), ten_classes(few, 2, seed=1))


def test_the_evaluation_is_the_mean_over_the_chosen_images():
    mean, labels = clusters(60, 12, 16, shift=0.4)
    cls = clusters(60, 12, 16, shift=0.8, seed=1)[0]
    found = evaluate_separability(
        Features(mean, cls, labels, tuple("abcdefghijkl")), images_per_class=40
    )
    assert list(found) == ["mean/purity", "mean/silhouette", "cls/purity", "cls/silhouette"]
    index = ten_classes(labels, 40)
    for pool, rows in (("mean", mean), ("cls", cls)):
        for name, measure in (("purity", purity), ("silhouette", silhouette)):
            interval = found[f"{pool}/{name}"]
            assert interval.value == pytest.approx(
                measure(rows[index], labels[index]).double().mean().item(), abs=1e-6
            )
            assert interval.n == 400 and interval.low < interval.value < interval.high
    assert found["cls/purity"].value > found["mean/purity"].value


def test_tsne_keeps_clusters_apart_and_is_fixed_by_its_seed():
    features, labels = clusters(25)
    points = tsne(features, perplexity=10)
    assert points.shape == (100, 2) and points.dtype == torch.float32 and points.isfinite().all()
    distance = torch.cdist(points, points).fill_diagonal_(math.inf)
    assert torch.equal(labels[distance.argmin(1)], labels)
    assert torch.equal(points, tsne(features, perplexity=10)) and not torch.allclose(
        points, tsne(features, perplexity=20)
    )
    tried = [tsne(features, perplexity=10, seed=s, start="random") for s in (0, 0, 1)]
    assert (
        torch.equal(tried[0], tried[1])
        and not torch.allclose(tried[0], tried[2])
        and torch.equal(points, tsne(features, perplexity=10, seed=1))
    )


def test_what_cannot_be_scored_or_drawn_is_named(monkeypatch):
    features, labels = clusters(12)
    spoilt = features.clone()
    spoilt[5, 0] = math.inf
    lonely = torch.where(torch.arange(48) == 4, 7, labels)
    for call, match in (
        (lambda: purity(spoilt, labels), "image 5 are NaN or infinite"),
        (lambda: silhouette(spoilt, labels), "image 5"),
        (lambda: tsne(spoilt), "image 5"),
        (lambda: purity(features, labels[:-1]), "47"),
        (lambda: purity(features, labels, k=0), "0 neighbours"),
        (lambda: neighbours(features, 48), "1 to 47"),
        (lambda: neighbours(spoilt), "image 5"),
        (lambda: shared_by_neighbours(features, torch.ones(48)), "not all of them equal"),
        (lambda: shared_by_neighbours(features, torch.arange(47)), "47.* for 48"),
        (lambda: shared_by_neighbours(features, spoilt[:, 0]), "finite"),
        (lambda: purity(features, labels, k=12), "class 0 has 12 images.*give 13"),
        (lambda: purity(features, lonely), "class 7 has 1 images"),
        (lambda: silhouette(features, lonely), "class 7 has one image"),
        (lambda: silhouette(features, torch.zeros(48, dtype=torch.int64)), "one class"),
        (lambda: purity(features, torch.zeros(48, dtype=torch.int64)), "one class"),
        (lambda: tsne(features, perplexity=48), "perplexity of 48 for 48 images"),
        (lambda: tsne(features, perplexity=0), "perplexity of 0"),
        (lambda: tsne(features[:, :1], perplexity=5), "one dimension"),
        (lambda: tsne(torch.ones(48, 3), perplexity=5), "do not differ"),
        (lambda: tsne(features[:0]), "at least one image"),
        (lambda: ten_classes(labels[:0]), "of 0 images"),
        (lambda: ten_classes(labels, 0), "ask for 1"),
    ):
        with pytest.raises(InputError, match=match):
            call()
    with pytest.raises(InputError, match="class 0 has 6 images"):
        evaluate_separability(
            Features(features, features, labels, tuple("abcd")), images_per_class=6
        )


def test_blocks_of_rows_do_not_matter():
    features, labels = clusters(400, shift=0.3)
    assert len(labels) > 1024
    near = torch.nn.functional.normalize(
        (features - features.mean(0)) / features.std(0, correction=0)
    )
    cosine = (near @ near.T).fill_diagonal_(-math.inf)
    whole = (
        (labels[cosine.topk(separability.NEIGHBOURS).indices] == labels[:, None]).float().mean(1)
    )
    assert (purity(features, labels) - whole).abs().mean() < 1e-3
