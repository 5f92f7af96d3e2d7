"""Where a decoder's excess loss goes: what its output reads beyond c, the *leak*, and what it gets
wrong of c, the *misfit* (ours, not the paper's; proof on the book's *Proofs* page, section 9). For
squared loss, any mask, encoder, code width and decoder D, with L* the least loss:

    L − L* = E‖D − E[D | c]‖² + E‖E[D | c] − μ(c)‖²,  μ(c) = E[x_m | c].

Everything is measured without a regression from draws in groups of equal c: draw the noises of CA
once, and all others anew several times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, bootstrap


@dataclass(frozen=True)
class ExcessLoss:
    """The excess loss and its two parts, each an unbiased estimate with a 95 % bootstrap interval
    over groups, in squared units of the targets.

    Attributes:
        excess: L − L*, from the targets' spread within groups; it may come out below 0 by chance.
        leak: never below 0. misfit: as ``excess`` may.
        gap: excess − leak − misfit, which is minus twice the covariance of output and target within
            groups. Given c these are independent, so 0 is expected; where it is far from 0, the
            groups do not hold all of c, or the decoder has seen the masked part.
    """

    excess: Interval
    leak: Interval
    misfit: Interval
    gap: Interval


def excess_loss(
    outputs: Tensor | np.ndarray,
    targets: Tensor | np.ndarray,
    groups: Tensor | np.ndarray,
    seed: int = 0,
) -> ExcessLoss:
    """`ExcessLoss` of a decoder under squared loss (summed over coordinates), from draws in groups
    of equal c.

    Args:
        outputs: float [N, …], the decoder's output D for each draw. targets: float, the same shape,
            the masked part x_m of the same draws.
        groups: integers [N], equal where c is; of each group at least two draws. A group weighs as
            much as it has draws.
        seed: of the bootstrap.

    Raises:
        InputError: shapes that do not fit, values that are not finite, groups that are no integers,
            a group of a single draw.
    """
    D, x = _rows(outputs, "outputs"), _rows(targets, "targets")
    if D.shape != x.shape:
        raise InputError(
            f"outputs of {list(D.shape)} do not fit targets of {list(x.shape)}: give the decoder's "
            "output for each target"
        )
    index, count = _groups(groups, len(D))
    mean_D, mean_x = _means(D, index, count), _means(x, index, count)
    apart_D, apart_x = D - mean_D[index], x - mean_x[index]
    within = lambda a, b: _sums((a * b).sum(1), index, len(count)) / (count - 1)
    leak, noise = within(apart_D, apart_D), within(apart_x, apart_x)
    shared = within(apart_D, apart_x)
    # A mean over n draws is off by 1/n of the variance of one: of output minus target, here.
    misfit = (mean_D - mean_x).square().sum(1) - (leak + noise - 2 * shared) / count
    loss = _sums((D - x).square().sum(1), index, len(count)) / count
    table = torch.stack([loss - noise, leak, misfit, -2 * shared, count], 1)
    weighted = lambda t: (t[..., 0] * t[..., 1]).sum(1) / t[..., 1].sum(1)
    return ExcessLoss(*(bootstrap(table[:, [k, 4]], weighted, seed=seed) for k in range(4)))


def determined_share(values: Tensor | np.ndarray, groups: Tensor | np.ndarray) -> float:
    """The share of the variance of values, all coordinates together, that c determines: R² of the
    best possible regression on c.

    By the analysis of variance in one way: variance between groups over that between and within,
    free of the bias that few draws a group would give.

    Args:
        values: float [N, …], for instance codes, or a decoder's outputs. groups: as for
            `excess_loss`, at least two.

    Returns:
        a number up to 1; by chance it may come out below 0, and NaN where nothing varies.
        InputError as `excess_loss`.
    """
    v = _rows(values, "values")
    index, count = _groups(groups, len(v))
    if len(count) < 2:
        raise InputError(
            "all values are of one group: what c determines needs draws of at least two values of c"
        )
    N, G = len(v), len(count)
    means = _means(v, index, count)
    within = float((v - means[index]).square().sum()) / (N - G)
    spread = float((count * (means - v.mean(0)).square().sum(1)).sum()) / (G - 1)
    between = (spread - within) / (float(N - count.square().sum() / N) / (G - 1))
    return between / (between + within) if between + within else float("nan")


def _rows(values: Tensor | np.ndarray, what: str) -> Tensor:
    """float64 [N, d] on the CPU."""
    if not isinstance(values, (Tensor, np.ndarray)):
        raise InputError(f"{what} must be a tensor or an array, not {type(values).__name__}")
    rows = torch.as_tensor(_writable(values)).detach().to("cpu", torch.float64)
    if not rows.ndim or not rows.numel():
        raise InputError(f"{what} of shape {list(rows.shape)}: give one row a draw, [N, …]")
    if not bool(rows.isfinite().all()):
        raise InputError(f"{what} hold NaN or infinity: clean or drop those draws")
    return rows.reshape(len(rows), -1)


def _groups(groups: Tensor | np.ndarray, draws: int) -> tuple[Tensor, Tensor]:
    """The number of each draw's group, int64 [N] from 0, and the size of each group, float64
    [G]."""
    if not isinstance(groups, (Tensor, np.ndarray)):
        raise InputError(f"groups must be a tensor or an array, not {type(groups).__name__}")
    given = torch.as_tensor(_writable(groups)).cpu()
    if given.is_floating_point() or given.is_complex() or tuple(given.shape) != (draws,):
        raise InputError(
            f"groups must be {draws} integers, one a draw and equal where c is, not {given.dtype} "
            f"{list(given.shape)}"
        )
    names, index, count = given.unique(return_inverse=True, return_counts=True)
    for k in (count < 2).nonzero()[:, 0].tolist():
        raise InputError(
            f"group {names[k].item()} has a single draw, from which no spread can be told: draw "
            "each value of c at least twice"
        )
    return index, count.double()


def _writable(values: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """The values, copied where torch would warn that it could write to them."""
    return values if isinstance(values, Tensor) or values.flags.writeable else values.copy()


def _sums(values: Tensor, index: Tensor, groups: int) -> Tensor:
    """Sums over groups, along the first dimension."""
    return values.new_zeros(groups, *values.shape[1:]).index_add_(0, index, values)


def _means(values: Tensor, index: Tensor, count: Tensor) -> Tensor:
    return _sums(values, index, len(count)) / count[:, None]
