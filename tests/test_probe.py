"""The linear probe finds what was planted, nothing where there is nothing, and refuses labels it cannot score."""

from __future__ import annotations

import pytest
import torch

from mae_lib.errors import InputError
from mae_lib.model import MaskedAutoencoder, ModelConfig, normalise_pixels
from mae_lib.probe import linear_accuracy, pixel_features, pooled_features
from mae_lib.worlds import World


def planted(count: int, classes: int = 4, width: int = 12, scale: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    features = torch.randn(count, width, generator=generator)
    features[torch.arange(count), labels] += 8
    return features * scale, labels


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_a_planted_label_is_found_at_any_scale(scale):
    features, labels = planted(300, scale=scale)
    test, test_labels = planted(200, scale=scale, seed=1)
    assert linear_accuracy(features, labels, test, test_labels) == 1.0


def test_shuffled_labels_score_chance():
    features, labels = planted(800)
    test, test_labels = planted(800, seed=1)
    shuffled = labels[torch.randperm(800, generator=torch.Generator().manual_seed(2))]
    found = linear_accuracy(features, shuffled, test, test_labels[torch.randperm(800, generator=torch.Generator().manual_seed(3))])
    assert abs(found - 0.25) < 5 * (0.25 * 0.75 / 800) ** 0.5
    # Nor is training accuracy reported: few features, many labels wrong.
    assert linear_accuracy(features, shuffled, features, shuffled) < 0.5


def test_features_that_never_vary_do_no_harm():
    features, labels = planted(200)
    features[:, 5] = 3.0
    assert linear_accuracy(features, labels, features, labels) == 1.0


def test_the_probe_is_deterministic():
    features, labels = planted(100)
    noisy = features + 3 * torch.randn(100, 12, generator=torch.Generator().manual_seed(4))
    assert linear_accuracy(noisy, labels, features, labels) == linear_accuracy(noisy, labels, features, labels)


def test_labels_that_cannot_be_scored_are_refused():
    features, labels = planted(40)
    with pytest.raises(InputError, match="two classes"):
        linear_accuracy(features, torch.zeros(40, dtype=torch.int64), features, labels)
    with pytest.raises(InputError, match="class 3"):
        linear_accuracy(features[labels < 3], labels[labels < 3], features, labels)


def test_pixel_features_are_block_means():
    world = World("validation", 32)
    found = pixel_features(world, 3, side=8)
    slow = normalise_pixels(world.images(range(3))).view(3, 3, 8, 4, 8, 4).mean((3, 5)).flatten(1)
    assert found.shape == (3, 192) and torch.allclose(found, slow, atol=1e-5)


def test_pooled_features_are_the_mean_of_the_unmasked_patch_tokens():
    torch.manual_seed(0)
    model = MaskedAutoencoder(ModelConfig(image_size=(32, 32), width=32, depth=1, heads=2, decoder_width=32, decoder_heads=2)).eval()
    world = World("validation", 32)
    found = pooled_features(model, world, 5, batch=2)
    tokens = model.encode(normalise_pixels(world.images(range(5))))
    assert found.shape == (5, 32) and not found.requires_grad
    assert tokens.shape[1] == 17 and torch.allclose(found, tokens[:, 1:].mean(1), atol=1e-5)
    with pytest.raises(InputError):
        pooled_features(model, world, len(world) + 1, batch=len(world) + 1)
