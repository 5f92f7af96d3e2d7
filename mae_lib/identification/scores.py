"""What the experiment on Theorem 2 measures with (§2.3): the energy score, a strictly proper loss,
and how much of one set of numbers another determines, as the R² of a kernel ridge regression on
draws that the fit has not seen.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import r2_score
from torch import Tensor

from mae_lib.base.errors import InputError

FIT, TEST = 1000, 1000
"""Draws to fit a regression on, of which the second half chooses width and ridge, and draws to
report on."""

DRAWS = FIT + TEST
"""How many draws `kernel_ridge_r2` takes."""

WIDTHS, RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0), (1e-4, 1e-2, 1.0)
"""The grid of hyperparameters: γ of exp(−γ‖u − v‖²) times the number of inputs, and the ridge α."""


def energy_score(draws: Tensor, target: Tensor) -> Tensor:
    """The energy score of a law known by its draws, unbiased in their number; least in the mean,
    and only there, at the target's own law.

    Args:
        draws: [K, B, D], K ≥ 2 independent draws from the predicted law for each of B targets.
            target: [B, D].

    Returns:
        [B]: mean ‖y_k − x‖ − ½ mean ‖y_k − y_l‖ over k ≠ l. Gradients are finite also where two
            draws, or a draw and its target, coincide.

    Raises:
        InputError: fewer than two draws, or shapes that do not fit.
    """
    if draws.ndim != 3 or len(draws) < 2 or draws.shape[1:] != target.shape:
        raise InputError(
            f"draws of shape {list(draws.shape)} for a target of shape {list(target.shape)}: give"
            f" [K, {', '.join(map(str, target.shape))}] with K of at least 2"
        )
    K = len(draws)
    error = torch.linalg.vector_norm(draws - target, dim=-1).mean(0)
    pairs = [
        torch.linalg.vector_norm(draws[k] - draws[l], dim=-1) for k in range(K) for l in range(k)
    ]
    return error - torch.stack(pairs).mean(0) / 2


def kernel_ridge_r2(inputs: Tensor, *targets: Tensor) -> tuple[float, ...]:
    """How much of each of ``targets`` an RBF kernel ridge regression on ``inputs`` explains, on
    unseen draws.

    Width and ridge are chosen for each target by themselves: every pair on the grid is fitted on
    the first half of the `FIT` draws and scored on the second; the best is fitted anew on both
    halves and scored on the `TEST` draws that follow.

    Args:
        inputs: float [DRAWS, p], targets: each float [DRAWS, q], one draw a row, rows independent.
            Both are standardised by the `FIT` draws.

    Returns:
        R² of each, averaged over its coordinates alike; not clipped, so that it may fall below 0.
        NaN for a target without coordinates.

    Raises:
        InputError: another number of rows, or inputs without coordinates.
    """
    for name, values in (("inputs", inputs), *(("targets", target) for target in targets)):
        if values.ndim != 2 or len(values) != DRAWS:
            raise InputError(
                f"{name} of shape {list(values.shape)}: a regression takes {DRAWS} independent"
                f" draws, [{DRAWS}, ...]"
            )
    if not inputs.shape[1]:
        raise InputError("inputs have no coordinates, so there is nothing to regress on")
    x, half = _standardised(inputs), FIT // 2
    ys = [_standardised(target) for target in targets]
    columns = np.split(
        np.arange(sum(y.shape[1] for y in ys)), np.cumsum([y.shape[1] for y in ys])[:-1]
    )
    together = np.concatenate(ys, axis=1)
    best = [(-np.inf, 0.0, 0.0)] * len(ys)
    for width in WIDTHS:
        for ridge in RIDGES:
            # one fit for all targets: the kernel is the same
            guess = _model(x, width, ridge).fit(x[:half], together[:half]).predict(x[half:FIT])
            for k, own in enumerate(columns):
                if len(own):
                    best[k] = max(
                        best[k], (r2_score(together[half:FIT, own], guess[:, own]), width, ridge)
                    )
    return tuple(
        (
            float(r2_score(y[FIT:], _model(x, width, ridge).fit(x[:FIT], y[:FIT]).predict(x[FIT:])))
            if y.shape[1]
            else float("nan")
        )
        for y, (_, width, ridge) in zip(ys, best)
    )


def _model(x: np.ndarray, width: float, ridge: float) -> KernelRidge:
    return KernelRidge(kernel="rbf", gamma=width / x.shape[1], alpha=ridge)


def _standardised(values: Tensor) -> np.ndarray:
    """float64; a coordinate that never varies becomes 0."""
    values = values.detach().double().cpu()
    if not values.shape[1]:
        return values.numpy()
    deviation, mean = torch.std_mean(values[:FIT], dim=0)
    return ((values - mean) / torch.where(deviation > 0, deviation, 1)).numpy()
