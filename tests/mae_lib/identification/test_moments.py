"""What linear context is worth, from second moments: against the exact account on Gaussian trees,
against regressions on draws, and what must hold for any covariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mae_lib.base.errors import InputError
from mae_lib.identification.moments import (
    linear_explained,
    linear_gain,
    one_map_explained,
    patch_covariance,
)
from mae_lib.masks.masking import MaskSpec, hidden_map
from mae_lib.theory.worth import context_gain, explained_variance

GRID = (4, 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(n: int, d: int = 2, seed: int = 0) -> torch.Tensor:
    """Pictures of 4 × 4 patches whose coordinates are mixed at random."""
    mix = torch.randn(16 * d, 16 * d, generator=generator(seed), dtype=torch.float64) / 4
    noise = torch.randn(n, 16 * d, generator=generator(seed + 1), dtype=torch.float64)
    return (noise @ mix).view(n, 16, d)


def masks(count: int, ratio: float = 0.6, seed: int = 0) -> torch.Tensor:
    return hidden_map(MaskSpec(GRID, ratio).sample(count, generator(seed))[1], 16)


def test_on_a_gaussian_tree_it_is_the_exact_account():
    """A tree whose leaves stand in a row, 2 a parent: covariances are all that either looks at."""
    leaves = np.arange(16)
    height = np.zeros((16, 16), int)
    for h in range(4):
        height[(leaves[:, None] >> h) != (leaves >> h)] = h + 1
    rho, nu = [0.9, 0.8, 0.7, 0.6], 0.3
    values = np.array([1.0, *((1 - nu) * np.cumprod(np.square(rho)))])
    covariance = torch.from_numpy(values[height])[:, None, :, None]
    hidden = masks(20)
    exact = explained_variance(hidden.numpy(), 2, rho, nu).mean(1)
    assert np.allclose(linear_explained(covariance, hidden, GRID), exact, atol=1e-5)
    mean, error = linear_gain(covariance, (1, 16), 0.75, None, 400)
    other, its = context_gain(4, 2, rho, nu, 0.75, None, 400, seed=1)
    assert abs(mean - other) < 5 * (error**2 + its**2) ** 0.5 and error < 0.02


def test_it_is_the_r2_of_a_regression_on_draws():
    pictures, hidden = drawn(40_000), masks(1)
    covariance = patch_covariance(pictures)
    x = pictures - pictures.mean(0)
    seen, wanted = x[:, ~hidden[0]].flatten(1), x[:, hidden[0]].flatten(1)
    left = wanted - seen @ torch.linalg.lstsq(seen, wanted).solution
    explained = (wanted.square().sum() - left.square().sum()) / x.square().sum()
    assert float(linear_explained(covariance, hidden, GRID)) == pytest.approx(
        float(explained), abs=1e-4
    )


def test_near_is_what_lies_within_the_distance_and_no_more():
    covariance, hidden = patch_covariance(drawn(500)), masks(6)
    at = [linear_explained(covariance, hidden, GRID, k) for k in (0, 1, 2, 3)]
    assert at[0].abs().max() == 0 and all((b > a).all() for a, b in zip(at, at[1:]))
    assert torch.allclose(at[3], linear_explained(covariance, hidden, GRID))
    one = torch.zeros(1, 16, dtype=torch.bool)
    one[0, 5] = True
    near = [i for i in range(16) if max(abs(i // 4 - 1), abs(i % 4 - 1)) <= 1 and i != 5]
    only = torch.ones(1, 16, dtype=torch.bool)
    only[0, near] = False
    alone = covariance.clone()
    for i in range(16):  # all variance but that of patch 5 and its neighbours away
        if i not in (*near, 5):
            alone[i] = alone[:, :, i] = 0
    whole = float(torch.einsum("idid->", covariance))
    kept = float(torch.einsum("idid->", alone))
    assert float(linear_explained(covariance, one, GRID, 1)) * whole == pytest.approx(
        float(linear_explained(alone, one, GRID)) * kept, rel=1e-4
    )


def test_units_of_measure_do_not_matter_and_independent_patches_tell_nothing():
    covariance, hidden = patch_covariance(drawn(500)), masks(4)
    found = linear_explained(covariance, hidden, GRID)
    assert torch.allclose(found, linear_explained(1e6 * covariance, hidden, GRID), rtol=1e-6)
    alone = torch.eye(16, dtype=torch.float64).view(16, 1, 16, 1)
    assert linear_explained(alone, hidden, GRID).abs().max() < 1e-12
    assert linear_gain(alone, GRID, 0.5, 1)[0] == 0
    same = torch.ones(16, 1, 16, 1, dtype=torch.float64)
    assert torch.allclose(linear_explained(same, hidden, GRID), hidden.double().mean(1), atol=1e-5)


@pytest.mark.parametrize("ratio", [0.25, 0.6, 0.9])
def test_one_map_for_all_masks_against_a_regression_over_masks(ratio):
    """Least squares on masked draws, patch by patch, as a linear autoencoder would be trained."""
    n = 60_000
    pictures = drawn(n, d=1)
    covariance = patch_covariance(pictures)
    x = (pictures - pictures.mean(0))[..., 0]
    hidden = hidden_map(MaskSpec(GRID, ratio).sample(n, generator(9))[1], 16)
    found = 0.0
    for i in range(16):
        rows = hidden[:, i]
        seen, wanted = (x * ~hidden)[rows], x[rows, i]
        guess = seen @ torch.linalg.lstsq(seen, wanted[:, None], driver="gelsd").solution
        found += float(wanted.square().sum() - (wanted - guess[:, 0]).square().sum())
    closed = one_map_explained(covariance, GRID, ratio)
    assert closed == pytest.approx(found / float(x.square().sum()), rel=0.03)
    assert closed <= linear_gain(covariance, GRID, ratio, None, 200)[0] + 1e-3


def test_wrong_input_is_refused_by_name():
    covariance, hidden = patch_covariance(drawn(50)), masks(2)
    for call, words in (
        (lambda: patch_covariance(torch.zeros(1, 4, 2)), "at least two pictures"),
        (lambda: patch_covariance(torch.full((3, 4, 2), torch.nan)), "NaN"),
        (lambda: linear_explained(covariance, hidden, (4, 5)), "does not fit a grid of 4 × 5"),
        (lambda: linear_explained(covariance, hidden.int(), GRID), "hidden must be bool"),
        (lambda: linear_explained(covariance, hidden[:, :3], GRID), "hidden must be bool"),
        (lambda: linear_explained(covariance, hidden, GRID, -1), "distance -1"),
        (lambda: linear_explained(0 * covariance, hidden, GRID), "no variance"),
        (lambda: linear_gain(covariance, GRID, 1.2, None), "ratio 1.2"),
        (lambda: linear_gain(covariance, GRID, 0.5, None, masks=1), "number of masks 1"),
        (lambda: one_map_explained(covariance, GRID, 0.0), "ratio 0.0"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
