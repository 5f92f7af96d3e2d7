"""What a frozen encoder's features say about a label (§3.3): features of images, and a linear classifier on them."""

from __future__ import annotations

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mae_lib.datasets import ImageSource
from mae_lib.errors import InputError
from mae_lib.model import MaskedAutoencoder, normalise_pixels


@torch.no_grad()
def pooled_features(model: MaskedAutoencoder, source: ImageSource, count: int, batch: int = 250) -> Tensor:
    """float [count, D] on the CPU: the mean over patch tokens of E(x), nothing masked, for the first ``count`` images of ``source``."""
    device = next(model.parameters()).device
    indices = torch.arange(count).split(batch)
    return torch.cat([model.encode(normalise_pixels(source.images(i)).to(device))[:, 1:].mean(1).cpu() for i in indices])


def pixel_features(source: ImageSource, count: int, side: int = 32) -> Tensor:
    """float [count, C · side · side]: the images themselves, averaged down to ``side`` pixels; the control for any learned feature."""
    images = normalise_pixels(source.images(range(count)))
    return torch.nn.functional.adaptive_avg_pool2d(images, side).flatten(1)


def linear_accuracy(features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor, strength: float = 0.1) -> float:
    """Test accuracy, in [0, 1], of logistic regression on standardised features.

    Args:
        features: [N, D], labels: int64 [N]; test_features: [M, D], test_labels: int64 [M]. strength: inverse regularisation (scikit-learn's C).

    Raises:
        InputError: a single class among the labels, or a test label that training lacks.
    """
    known = set(labels.tolist())
    if len(known) < 2:
        raise InputError("a linear probe needs labels of at least two classes")
    if missing := sorted(set(test_labels.tolist()) - known):
        raise InputError(f"the test set has class {missing[0]}, which the training labels lack: take more training images")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000, tol=1e-3))
    return float(probe.fit(features.numpy(), labels.numpy()).score(test_features.numpy(), test_labels.numpy()))
