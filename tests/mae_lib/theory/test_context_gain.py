"""What a level is worth on a Gaussian tree, against covariances inverted, all masks of small trees,
regression on samples, and figures found before by other code."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mae_lib
from mae_lib.base.errors import InputError
from mae_lib.theory.graphs import tree
from mae_lib.theory.worth import context_gain, explained_variance, height_shares


def all_masks(leaves: int) -> np.ndarray:
    return np.array(list(itertools.product((False, True), repeat=leaves)))


def covariance(arity: int, depth: int, rho: list[float], nu: float) -> np.ndarray:
    """Of the leaves, from the structural equations of all nodes: x = B x + noise. Nothing of
    messages, and no formula for a distance."""
    graph = tree(arity, depth)
    row = {v: k for k, v in enumerate(graph.nodes)}
    B, variance = np.zeros((len(row), len(row))), np.ones(len(row))
    for parent, child in graph.edges:
        r = rho[graph.levels[child]]
        B[row[child], row[parent]], variance[row[child]] = r, 1 - r**2
    spread = np.linalg.inv(np.eye(len(row)) - B)
    whole = spread @ np.diag(variance) @ spread.T
    at = [row[x] for x in graph.observables]
    return (1 - nu) * whole[np.ix_(at, at)] + nu * np.eye(len(at))


def explained_by_inversion(S: np.ndarray, hidden: np.ndarray, block: int) -> np.ndarray:
    """Cov(x_i, x_V) Cov(x_V)⁻¹ Cov(x_V, x_i) with V the visible leaves of i's block."""
    found = np.zeros(len(hidden))
    for i in np.flatnonzero(hidden):
        start = i // block * block
        V = [j for j in range(start, start + block) if not hidden[j]]
        if V:
            found[i] = S[i, V] @ np.linalg.solve(S[np.ix_(V, V)], S[V, i])
    return found


trees = st.sampled_from(
    [(2, 1), (2, 2), (2, 3), (2, 4), (3, 1), (3, 2), (4, 1), (4, 2), (5, 1), (7, 1)]
)


@settings(max_examples=150, deadline=None)
@given(trees, st.data())
def test_explained_variance_is_that_of_the_inverted_covariance(
    shape: tuple[int, int], data: st.DataObject
) -> None:
    arity, depth = shape
    rho = data.draw(st.lists(st.floats(-0.97, 0.97), min_size=depth, max_size=depth))
    nu = data.draw(st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.99]))
    height = data.draw(st.one_of(st.none(), st.integers(0, depth)))
    hidden = np.array(
        [
            data.draw(st.lists(st.booleans(), min_size=arity**depth, max_size=arity**depth))
            for _ in range(3)
        ]
    )
    S = covariance(arity, depth, rho, nu)
    found = explained_variance(hidden, arity, rho, nu, height)
    exact = [
        explained_by_inversion(S, row, arity ** (depth if height is None else height))
        for row in hidden
    ]
    assert np.abs(found - exact).max() < 1e-9
    assert found.min() >= 0 and found.max() < 1


@settings(max_examples=100, deadline=None)
@given(trees, st.floats(-0.97, 0.97), st.sampled_from([0.0, 0.3]), st.data())
def test_more_to_see_never_explains_less(
    shape: tuple[int, int], rho: float, nu: float, data: st.DataObject
) -> None:
    arity, depth = shape
    hidden = np.array(
        [data.draw(st.lists(st.booleans(), min_size=arity**depth, max_size=arity**depth))]
    )
    by_height = [explained_variance(hidden, arity, rho, nu, h) for h in range(depth + 1)]
    assert not by_height[0].any()
    for low, high in zip(by_height, by_height[1:]):
        assert np.all(high - low >= -1e-12)
    assert np.array_equal(by_height[-1], explained_variance(hidden, arity, rho, nu))
    uncovered = hidden.copy()
    uncovered[0, data.draw(st.integers(0, arity**depth - 1))] = False
    still = uncovered & hidden
    assert np.all((explained_variance(uncovered, arity, rho, nu) - by_height[-1])[still] >= -1e-12)


@pytest.mark.parametrize(
    ("arity", "depth", "height"), [(2, 3, None), (2, 3, 1), (2, 3, 2), (3, 2, 1), (3, 2, None)]
)
def test_the_mean_over_drawn_masks_is_that_over_all_masks(
    arity: int, depth: int, height: int | None
) -> None:
    rho, nu = 0.8, 0.2
    masks = all_masks(arity**depth)
    S = covariance(arity, depth, [rho] * depth, nu)
    for hidden in (2, arity**depth // 2, arity**depth - 1):
        rows = masks[masks.sum(1) == hidden]
        exact = np.mean([explained_by_inversion(S, row, len(row)).mean() for row in rows])
        if height is not None:
            exact -= np.mean([explained_by_inversion(S, row, arity**height).mean() for row in rows])
        mean, error = context_gain(
            depth, arity, rho, nu, hidden / arity**depth, height, masks=2000, seed=1
        )
        assert abs(mean - exact) <= 5 * error + 1e-12, (hidden, mean, exact, error)


def test_explained_variance_is_what_a_regression_on_samples_finds() -> None:
    """Samples drawn down the tree, and ordinary least squares on the visible leaves, within five
    standard errors."""
    arity, depth, rho, nu, n = 3, 2, 0.85, 0.15, 40_000
    draw = np.random.default_rng(0)
    values = draw.normal(size=(n, 1))
    for _ in range(depth):
        values = rho * values.repeat(arity, 1)
        values = values + np.sqrt(1 - rho**2) * draw.normal(size=values.shape)
    x = np.sqrt(1 - nu) * values + np.sqrt(nu) * draw.normal(size=values.shape)
    hidden = np.array([[1, 1, 0, 1, 1, 1, 0, 0, 1], [0, 1, 1, 1, 0, 1, 0, 1, 1]], bool)
    for row, exact in zip(hidden, explained_variance(hidden, arity, rho, nu)):
        V = x[:, ~row]
        fitted = V @ np.linalg.lstsq(V, x[:, row], rcond=None)[0]
        # The mean square of N Gaussian values of variance q < 1 has a standard error of √(2 / N) q.
        assert np.abs((fitted**2).mean(0) - exact[row]).max() < 5 * np.sqrt(2 / n)


TABLE = [
    (0.7, None, {0.1: 0.027, 0.25: 0.064, 0.5: 0.109, 0.75: 0.118, 0.9: 0.087}),
    (0.8, None, {0.1: 0.041, 0.25: 0.098, 0.5: 0.177, 0.75: 0.219, 0.9: 0.194}),
    (0.9, None, {0.1: 0.058, 0.25: 0.140, 0.5: 0.269, 0.75: 0.367, 0.9: 0.384}),
    (
        0.7,
        1,
        {
            0.1: 0.0023,
            0.25: 0.0069,
            0.5: 0.0215,
            0.75: 0.0439,
            0.85: 0.0495,
            0.9: 0.0475,
            0.95: 0.0363,
        },
    ),
    (
        0.7,
        2,
        {
            0.1: 0.0003,
            0.25: 0.0008,
            0.5: 0.0033,
            0.75: 0.0108,
            0.85: 0.0166,
            0.9: 0.0192,
            0.95: 0.0189,
        },
    ),
    (
        0.9,
        1,
        {
            0.1: 0.0039,
            0.25: 0.0137,
            0.5: 0.0564,
            0.75: 0.1747,
            0.85: 0.2482,
            0.9: 0.2807,
            0.95: 0.2994,
        },
    ),
]
"""ρ, H, ratio → EV or G_H on the quad-tree of 256 leaves with ν = .2, found before by other code,
with 12 to 25 masks each."""


@pytest.mark.parametrize(("rho", "height", "row"), TABLE)
def test_the_figures_found_before(rho: float, height: int | None, row: dict[float, float]) -> None:
    for ratio, before in row.items():
        mean, error = context_gain(4, 4, rho, 0.2, ratio, height, masks=400)
        last = 0.5 * 10.0 ** -(3 if height is None else 4)
        # 12 masks have √(400 / 12) times the standard error of 400; four of both, and rounding.
        assert abs(mean - before) <= 4 * error * np.sqrt(1 + 400 / 12) + last, (
            ratio,
            mean,
            before,
            error,
        )


def test_level_and_low_ratios_pay_next_to_nothing_for_high_levels() -> None:
    gain = {r: context_gain(4, 4, 0.7, 0.2, r, 1)[0] for r in (0.1, 0.5, 0.85, 0.95)}
    assert 15 * gain[0.1] < gain[0.85] > gain[0.95] > gain[0.5] > gain[0.1]


def test_units_are_whole_subtrees_and_draws_repeat() -> None:
    below = (
        context_gain(4, 4, 0.8, 0.2, 0.75, None, unit_height=2)[0]
        - context_gain(4, 4, 0.8, 0.2, 0.75, 2, unit_height=2)[0]
    )
    assert below == pytest.approx(0, abs=1e-15)  # nothing visible is nearer than height 3
    assert context_gain(4, 4, 0.8, 0.2, 0.75, 1, seed=3) == context_gain(
        4, 4, 0.8, 0.2, 0.75, 1, seed=3
    )
    assert context_gain(4, 4, 0.8, 0.2, 0.75, 1, seed=3) != context_gain(
        4, 4, 0.8, 0.2, 0.75, 1, seed=4
    )
    assert context_gain(3, 4, 0.8, 0.2, 0.75, 3) == (0, 0) and context_gain(
        3, 4, 0.0, 0.2, 0.75, None
    ) == (0, 0)
    assert context_gain(3, 4, 0.8, 0.2, 0.75, 0) == context_gain(3, 4, [0.8] * 3, 0.2, 0.75, None)


def test_many_masks_of_a_large_tree_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = context_gain(3, 4, 0.8, 0.2, 0.75, 1, masks=300)
    monkeypatch.setattr("mae_lib.theory.worth.CHUNK", 64 * 7)
    pieces = context_gain(3, 4, 0.8, 0.2, 0.75, 1, masks=300)
    # The same law, other draws.
    assert abs(pieces[0] - whole[0]) < 5 * (pieces[1] + whole[1])


def test_fast_enough_for_a_slider() -> None:
    context_gain(4, 4, 0.8, 0.2, 0.75, 1, masks=25)
    start = time.perf_counter()
    context_gain(4, 4, 0.8, 0.2, 0.75, 1, masks=25)
    assert time.perf_counter() - start < 1


def test_the_public_face() -> None:
    assert mae_lib.height_shares is height_shares and mae_lib.context_gain is context_gain


OF_A_TREE = {"depth": 3, "arity": 4, "rho": 0.8, "nu": 0.2, "ratio": 0.5, "height": 1}
NOT_A_NUMBER = (float("nan"), float("inf"), "0.8", None, True)
BAD = {
    "rho": (1, -1, 1.5, *NOT_A_NUMBER, [0.8, 0.8], [0.8, 0.8, 1.0], []),
    "nu": (1, -0.1, 1.5, *NOT_A_NUMBER),
    "ratio": (0, 1, -0.5, 1.5, 0.001, 0.999, *NOT_A_NUMBER),
    "height": (4, 100, -1, 1.0, "1", True),
    "depth": (0, -1, 2.0, True, 9, 10**9),
    "arity": (1, 0, 4.0, True, 1000),
    "masks": (1, 0, 2.0, True),
    "seed": (-1, 0.5, True),
    "unit_height": (3, 4, -1, 0.5, True),
}


@pytest.mark.parametrize(
    ("call", "text"),
    [
        *(
            (lambda change={name: value}: context_gain(**OF_A_TREE | change), name.split("_")[0])
            for name, values in BAD.items()
            for value in values
        ),
        (lambda: explained_variance(np.zeros((1, 6), bool), 2, 0.5, 0), "no power"),
        (lambda: explained_variance(np.zeros((1, 1), bool), 2, 0.5, 0), "no power"),
        (lambda: explained_variance(np.zeros((1, 4)), 2, 0.5, 0), "bool"),
        (lambda: explained_variance(np.zeros(4, bool), 2, 0.5, 0), "bool"),
        (lambda: explained_variance(np.zeros((1, 4), bool), 2, 0.5, 0, 3), "beyond the tree"),
    ],
)
def test_bad_input_is_one_clear_line(call, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        call()
    assert "\n" not in str(caught.value)
