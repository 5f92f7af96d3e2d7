"""Excess loss = leak + misfit: against closed forms of Gaussian decoders, exact sums over a
discrete model, and many small samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mae_lib.base.errors import InputError
from mae_lib.identification.excess import determined_share, excess_loss


def draws(groups: int, each: int, seed: int, leak: float = 0.5, shift: float = 0.3) -> tuple:
    """c standard normal; x = (c, −c) + noise of variance .25; D = ((1 + shift) c, −c) + leak · w, w
    one more normal of the visible part. So leak² · 2 leaks, and shift² is the misfit."""
    draw = np.random.default_rng(seed)
    c = draw.normal(size=groups).repeat(each)
    x = np.stack([c, -c], 1) + 0.5 * draw.normal(size=(len(c), 2))
    D = np.stack([(1 + shift) * c, -c], 1) + leak * draw.normal(size=(len(c), 2))
    return D, x, np.arange(groups).repeat(each)


@pytest.mark.parametrize(("leak", "shift"), [(0.5, 0.3), (0.0, 0.3), (0.5, 0.0), (0.0, 0.0)])
def test_the_closed_form_within_five_standard_errors_from_groups_of_two(
    leak: float, shift: float
) -> None:
    """Groups of two, where plugging in means would be off by half the variances: no bias is
    left."""
    found = [excess_loss(*draws(100, 2, seed, leak, shift)) for seed in range(36)]
    for name, exact in (
        ("leak", 2 * leak**2),
        ("misfit", shift**2),
        ("excess", 2 * leak**2 + shift**2),
        ("gap", 0),
    ):
        values = np.array([getattr(f, name).value for f in found])
        assert abs(values.mean() - exact) <= 5 * values.std(ddof=1) / 6 + 1e-12, name


@pytest.mark.parametrize("seed", range(20))
def test_the_identity_holds_sample_by_sample(seed: int) -> None:
    """Excess, leak, misfit and gap add up for any numbers and groups of any size; the gap is twice
    a covariance, the leak never below 0."""
    draw = np.random.default_rng(seed)
    groups = draw.permutation(np.arange(7).repeat(draw.integers(2, 6, 7)))
    D, x = draw.normal(size=(2, len(groups), 3, 2))
    found = excess_loss(D, x, groups)
    assert found.excess.value == pytest.approx(
        found.leak.value + found.misfit.value + found.gap.value
    )
    covariance = [
        sum(
            np.cov(D[groups == g].reshape(-1, 6)[:, k], x[groups == g].reshape(-1, 6)[:, k])[0, 1]
            for k in range(6)
        )
        for g in range(7)
    ]
    assert found.gap.value == pytest.approx(
        -2 * np.average(covariance, weights=np.bincount(groups))
    )
    assert (
        found.leak.value >= 0
        and found.leak.low <= found.leak.value <= found.leak.high
        and found.leak.n == 7
    )
    # The loss itself: L* is the targets' variance within groups.
    least = np.average(
        [x[groups == g].reshape(-1, 6).var(0, ddof=1).sum() for g in range(7)],
        weights=np.bincount(groups),
    )
    assert found.excess.value == pytest.approx(((D - x) ** 2).sum((1, 2)).mean() - least)


def test_the_statement_itself_in_a_discrete_model() -> None:
    """L − L* = leak + misfit exactly, for any decoder of the visible part, by listing every outcome
    of x_i = (z, own coins): L* from the mean given the visible part, and leak and misfit from means
    given c."""
    draw = np.random.default_rng(0)
    for _ in range(50):
        outcomes = list(
            itertools.product(range(3), range(2), range(2), range(2))
        )  # z, noise of x_m, two noises of x_mᶜ
        chance = draw.dirichlet(np.ones(3))
        p = np.array([chance[z] / 8 for z, *_ in outcomes])
        x_m, D = draw.normal(size=(3, 2)), draw.normal(size=(3, 2, 2))
        x = np.array([x_m[z, s] for z, s, *_ in outcomes])
        d = np.array([D[z, a, b] for z, _, a, b in outcomes])
        given = lambda value, key: np.array(
            [
                np.average(value[[k == j for k in key]], weights=p[[k == j for k in key]])
                for j in key
            ]
        )
        c, visible = [o[0] for o in outcomes], [(o[0], *o[2:]) for o in outcomes]
        L, least = p @ (d - x) ** 2, p @ (x - given(x, visible)) ** 2
        leak, misfit = p @ (d - given(d, c)) ** 2, p @ (given(d, c) - given(x, c)) ** 2
        assert L - least == pytest.approx(leak + misfit)


def test_a_decoder_that_saw_the_masked_part_shows_in_the_gap() -> None:
    D, x, groups = draws(500, 4, 0)
    honest, cheat = excess_loss(D, x, groups), excess_loss(D + 0.5 * (x - D), x, groups)
    assert honest.gap.low < 0 < honest.gap.high and cheat.gap.high < -0.1


def test_groups_that_miss_a_part_of_c_show_in_the_gap() -> None:
    D, x, groups = draws(1000, 4, 1)
    assert excess_loss(D, x, groups // 2).gap.high < -0.1


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_the_share_that_c_determines_is_free_of_the_groups_size(noise: float) -> None:
    """1 / (1 + noise²), from groups of 2 to 5 draws; the plain R² of group means would give far
    more."""
    found = []
    for seed in range(60):
        draw = np.random.default_rng(seed)
        groups = np.arange(300).repeat(draw.integers(2, 6, 300))
        values = draw.normal(size=(300, 3))[groups] + noise * draw.normal(size=(len(groups), 3))
        found.append(determined_share(values, groups))
    error = np.std(found, ddof=1) / np.sqrt(60)
    assert abs(np.mean(found) - 1 / (1 + noise**2)) <= 5 * error + 0.002  # a ratio's own small bias


def test_the_variance_between_few_unequal_groups_is_free_of_bias() -> None:
    """The share s gives the variance between groups back as s / (1 − s) times that within: 1
    here."""
    groups = np.arange(4).repeat([2, 2, 3, 20])
    between = []
    for seed in range(600):
        draw = np.random.default_rng(seed)
        values = draw.normal(size=4)[groups] + 0.5 * draw.normal(size=len(groups))
        apart = [values[groups == g] - values[groups == g].mean() for g in range(4)]
        share = determined_share(values, groups)
        between.append(share / (1 - share) * (np.concatenate(apart) ** 2).sum() / (len(groups) - 4))
    assert abs(np.mean(between) - 1) <= 5 * np.std(between, ddof=1) / np.sqrt(600)


def test_shapes_kinds_and_nothing_that_varies() -> None:
    D, x, groups = draws(10, 3, 0)
    tensors = excess_loss(torch.tensor(D), torch.tensor(x), torch.tensor(groups))
    assert tensors == excess_loss(D, x, groups) == excess_loss(D[:, None], x[:, None], groups + 5)
    D.flags.writeable = False
    assert tensors == excess_loss(D, x, groups)
    assert excess_loss(D[:, 0], x[:, 0], groups).leak.value > 0
    assert np.isnan(determined_share(np.ones(4), np.array([0, 0, 1, 1])))
    assert determined_share(np.array([1.0, 1, 2, 2]), np.array([True, True, False, False])) == 1


D, X, G = draws(4, 3, 0)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: excess_loss(D, X[:, :1], G), "do not fit"),
        (lambda: excess_loss(D, X, G[:-1]), "12 integers"),
        (lambda: excess_loss(D, X, G.astype(float)), "integers"),
        (lambda: excess_loss(D, X, np.arange(12)), "group 0 has a single draw"),
        (lambda: excess_loss(np.where(D > 0, D, np.nan), X, G), "outputs hold NaN"),
        (lambda: excess_loss(D, np.where(X > 0, X, np.inf), G), "targets hold NaN"),
        (lambda: excess_loss(D[:0], X[:0], G[:0]), "one row a draw"),
        (lambda: excess_loss(D.tolist(), X, G), "not list"),
        (lambda: excess_loss(D, X, G.tolist()), "not list"),
        (lambda: determined_share(D, G * 0), "two values of c"),
    ],
)
def test_bad_input_is_one_clear_line(call, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        call()
    assert "\n" not in str(caught.value)
