"""The probe by degrees: it is the probe of Table 1 on each severity, and on all of them at once."""

from __future__ import annotations

import pytest
import torch

from mae_lib.evaluation.features import Features
from mae_lib.evaluation.probe import evaluate_probe
from mae_lib.evaluation.probes.severity import evaluate_severity, graded_sets
from mae_lib.worlds.graded import GRADED, SEVERITIES
from tiny import one_thread  # noqa: F401 (every test on one thread)

CLASSES = ("a", "b", "c", "d")


def features(count: int, noise: float, seed: int) -> Features:
    """Both tokens tell the class, the more noise the worse."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    told = torch.nn.functional.one_hot(labels, 8).float()
    told = told + noise * torch.randn(count, 8, generator=generator)
    return Features(told, told.clone(), labels, CLASSES)


def test_each_severity_is_the_probes_own_answer_and_a_set_their_mean():
    train = features(400, 0.3, 0)
    seen = {
        name: features(200, 0.2 * int(name[-1]), seed + 1)
        for seed, name in enumerate(graded_sets(16))
    }
    found = evaluate_severity(train, seen, device="cpu")
    own = torch.eye(len(CLASSES), dtype=torch.bool)
    alone = evaluate_probe(train, {"one": (seen["sketch-3"], own)}, device="cpu")
    for pool in ("mean", "cls"):
        assert found[f"{pool}/sketch-3"].value == pytest.approx(alone[f"{pool}/one"].value)
        for name in GRADED:
            each = [found[f"{pool}/{name}-{k}"].value for k in SEVERITIES]
            assert found[f"{pool}/{name}"].value == pytest.approx(sum(each) / len(each))
            assert found[f"{pool}/{name}"].n == 1000
            assert each[0] > each[-1] + 0.05  # more noise, fewer right
