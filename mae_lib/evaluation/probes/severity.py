"""Robustness by degrees (§3.3): the linear probe of Table 1 on the embedded world's shifted sets at
five severities (`mae_lib.worlds.graded`). A full shift may bring every model down to chance,
where none can be told from another; a milder one does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mae_lib.base.intervals import Interval
from mae_lib.evaluation.features import Features
from mae_lib.evaluation.probe import evaluate_probe
from mae_lib.worlds.graded import GRADED, SEVERITIES, Graded


def graded_sets(size: int) -> dict[str, Graded]:
    """``SET-SEVERITY`` → its images, ``size`` px."""
    return {f"{s}-{k}": Graded(s, size, severity=k) for s in GRADED for k in SEVERITIES}


def evaluate_severity(
    train: Features,
    seen: Mapping[str, Features],
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Interval]:
    """The probe of :func:`mae_lib.evaluation.probe.evaluate_probe` on each severity.

    Args:
        train: features the probes learn from. seen: of each of `graded_sets`. seed: of the probes
            and of the bootstrap.

    Returns:
        ``POOL/SET-SEVERITY``, ``POOL`` one of mean and cls: accuracy in [0, 1] with its interval
        over images; ``POOL/SET``: over the images of all five severities.
    """
    every = {s: joined([seen[f"{s}-{k}"] for k in SEVERITIES]) for s in GRADED}
    own = torch.eye(len(train.classes), dtype=torch.bool)
    sets = {name: (features, own) for name, features in {**seen, **every}.items()}
    return evaluate_probe(train, sets, seed, device)


def joined(parts: Sequence[Features]) -> Features:
    """The images of all parts, one after another."""
    return Features(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("mean", "cls", "labels")),
        parts[0].classes,
    )
