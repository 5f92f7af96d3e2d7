"""§2.2, "Mask sampling": masks are exact in their units, uniform, and refuse what makes no
sense."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mae_lib.base.errors import InputError
from mae_lib.masks.masking import (
    MaskSpec,
    block_masks,
    boundary,
    complement,
    hidden_map,
    mask_batches,
)


@st.composite
def specs(draw) -> MaskSpec:
    """Any valid mask law on grids of up to 12 × 12 units of up to 5 patches."""
    unit = draw(st.integers(1, 5))
    rows, columns = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    assume(rows * columns > 1)
    units = rows * columns
    if draw(st.booleans()):  # every count that a ratio can mean, and the five of the paper's sweep
        ratio = draw(st.integers(1, units - 1)) / units
    else:
        ratio = draw(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]))
    assume(1 <= round(units * (1 - ratio)) < units)
    return MaskSpec((rows * unit, columns * unit), ratio, unit)


@settings(max_examples=150, deadline=None)
@given(specs(), st.integers(1, 5), st.integers(0, 2**32))
def test_units_are_whole_and_rows_are_permutations(spec: MaskSpec, batch: int, seed: int) -> None:
    visible, hidden = spec.sample(batch, torch.Generator().manual_seed(seed))
    rows, columns = spec.grid
    assert visible.dtype == hidden.dtype == torch.int64
    assert visible.shape == (batch, spec.visible_patches) and hidden.shape == (
        batch,
        rows * columns - spec.visible_patches,
    )
    assert 1 <= spec.kept_units < spec.units
    assert spec.visible_patches == spec.kept_units * spec.unit**2
    assert abs(spec.kept_units - spec.units * (1 - spec.ratio)) <= 0.5 + 1e-9, (
        "the nearest whole number of units"
    )
    assert spec.hidden_ratio == pytest.approx(hidden.shape[1] / (rows * columns))
    for seen, unseen in zip(visible.tolist(), hidden.tolist()):
        assert sorted(seen + unseen) == list(range(rows * columns))
        shown = set(seen)
        kept = 0
        for top, left in itertools.product(range(0, rows, spec.unit), range(0, columns, spec.unit)):
            inside = {
                (top + y) * columns + left + x for y in range(spec.unit) for x in range(spec.unit)
            }
            assert inside <= shown or not inside & shown, "a unit is split"
            kept += inside <= shown
        assert kept == spec.kept_units


@settings(max_examples=40, deadline=None)
@given(specs(), st.integers(0, 2**32))
def test_a_generator_decides_the_mask(spec: MaskSpec, seed: int) -> None:
    first, again = (spec.sample(3, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    spec.sample(3, torch.Generator().manual_seed(seed))
    assert torch.equal(before, torch.get_rng_state()), "a given generator is the only one used"


def test_masks_differ_between_images_and_draws() -> None:
    spec, generator = MaskSpec((8, 8), 0.75), torch.Generator().manual_seed(0)
    drawn = torch.cat([spec.sample(8, generator)[0].sort(1).values for _ in range(2)])
    assert len({tuple(row) for row in drawn.tolist()}) == 16


@pytest.mark.parametrize(
    ("grid", "ratio", "unit", "kept"),
    [
        ((10, 10), 0.9, 1, 10),  # int(100 * (1 - 0.9)) is 9
        ((10, 10), 0.7, 1, 30),
        ((14, 14), 0.75, 1, 49),
        ((14, 14), 0.9, 1, 20),
        ((14, 14), 0.1, 1, 176),
        ((28, 28), 0.75, 4, 12),  # 12.25 of 49 units of 32 px on ViT patches of 8 px
        ((28, 28), 0.75, 2, 49),
        ((2, 1), 0.5, 1, 1),
    ],
)
def test_kept_units_are_the_integer_truth(
    grid: tuple[int, int], ratio: float, unit: int, kept: int
) -> None:
    spec = MaskSpec(grid, ratio, unit)
    assert spec.kept_units == kept
    assert spec.sample(1, torch.Generator())[0].shape[1] == kept * unit**2


def test_uniform_over_all_choices_of_units() -> None:
    """Chi-square over the 6 choices of 2 of 4 units, and over each unit of a larger grid; fixed
    seed, bounds at p ≈ 1e-4."""
    draws = 12_000
    visible, _ = MaskSpec((4, 4), 0.5, 2).sample(draws, torch.Generator().manual_seed(7))
    counts = Counter(tuple(sorted(set((row // 8 * 2 + row % 4 // 2).tolist()))) for row in visible)
    assert set(counts) == set(itertools.combinations(range(4), 2))
    # 5 degrees of freedom
    assert sum((n - draws / 6) ** 2 / (draws / 6) for n in counts.values()) < 25.7

    spec = MaskSpec((6, 8), 0.75)
    visible, _ = spec.sample(draws, torch.Generator().manual_seed(8))
    share = torch.bincount(visible.flatten(), minlength=48) / draws
    deviation = (0.25 * 0.75 / draws) ** 0.5
    assert ((share - 0.25).abs() < 4.5 * deviation).all()
    # The order within a row carries nothing either: every patch comes first equally often.
    first = torch.bincount(visible[:, 0], minlength=48) / draws
    assert ((first - 1 / 48).abs() < 4.5 * (1 / 48 / draws) ** 0.5).all()


@pytest.mark.parametrize(
    "ratio", [0, 1, 0.0, 1.0, -0.5, 1.5, 75, float("nan"), float("inf"), "0.75", None, True]
)
def test_a_ratio_outside_the_open_interval_is_refused(ratio) -> None:
    with pytest.raises(InputError, match=rf"masking ratio {ratio!r} .*between 0 and 1"):
        MaskSpec((8, 8), ratio)


@pytest.mark.parametrize(
    ("grid", "ratio", "unit", "message"),
    [
        ((8, 8), 0.75, 3, r"unit of 3 patches does not divide the 8×8 grid"),
        ((8, 6), 0.75, 4, r"unit of 4 patches does not divide the 8×6 grid"),
        ((6, 8), 0.75, 4, r"unit of 4 patches does not divide the 6×8 grid"),
        ((8, 8), 0.75, 16, r"unit of 16 patches is larger than the 8×8 grid"),
        ((4, 8), 0.75, 8, r"unit of 8 patches is larger than the 4×8 grid"),
        ((8, 8), 0.75, 0, r"unit 0 must be a whole number"),
        ((8, 8), 0.75, -2, r"unit -2 must be a whole number"),
        ((8, 8), 0.75, 2.0, r"unit 2\.0 must be a whole number"),
        ((8, 8), 0.75, True, r"unit True must be a whole number"),
        ((0, 8), 0.75, 1, r"grid 0×8 holds no patch"),
        ((8, -1), 0.75, 1, r"grid 8×-1 holds no patch"),
        ((8, 8), 0.999, 1, r"ratio 0\.999 keeps no unit of 64"),
        ((8, 8), 0.001, 1, r"ratio 0\.001 hides no unit of 64"),
        ((8, 8), 0.9, 4, r"ratio 0\.9 keeps no unit of 4"),
        ((8, 8), 0.1, 4, r"ratio 0\.1 hides no unit of 4"),
        ((8, 8), 0.5, 8, r"unit of 8 patches covers the whole 8×8 grid"),
        ((1, 1), 0.5, 1, r"unit of 1 patches covers the whole 1×1 grid"),
    ],
)
def test_masks_that_cannot_be_are_refused(grid, ratio, unit, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MaskSpec(grid, ratio, unit)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 300))
def test_the_range_that_the_error_offers_works(units: int) -> None:
    with pytest.raises(InputError, match=r"\[") as error:
        MaskSpec((1, units), 0.4 / units)
    low, high = (float(x) for x in str(error.value).split("[")[1].split("]")[0].split(","))
    assert MaskSpec((1, units), low).kept_units == units - 1
    assert MaskSpec((1, units), high).kept_units == 1


@settings(max_examples=60, deadline=None)
@given(specs(), st.integers(1, 4), st.integers(0, 2**32))
def test_hidden_map_and_complement(spec: MaskSpec, batch: int, seed: int) -> None:
    visible, hidden = spec.sample(batch, torch.Generator().manual_seed(seed))
    shown = hidden_map(hidden, spec.patches)
    for row, unseen in zip(shown.tolist(), hidden.tolist()):
        assert [i for i, flag in enumerate(row) if flag] == sorted(unseen)
    assert torch.equal(complement(visible, spec.patches), hidden.sort(1).values)


def test_complement_refuses_a_patch_named_twice() -> None:
    with pytest.raises(InputError, match="twice"):
        complement(torch.tensor([[0, 1], [2, 2]]), 4)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 16), st.integers(2, 16), st.floats(0.05, 0.95), st.integers(0, 2**32))
def test_a_block_is_one_rectangle_of_the_size_asked_for(
    rows: int, columns: int, ratio: float, seed: int
) -> None:
    kept = round(rows * columns * (1 - ratio))
    assume(0 < kept < rows * columns)
    try:
        masks = block_masks((rows, columns), ratio, 8, torch.Generator().manual_seed(seed)).view(
            8, rows, columns
        )
    except InputError as error:
        assert "no rectangle" in str(error) and kept <= max(rows, columns)
        return
    for mask in masks:
        heights, widths = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        h, w = int(heights.max() - heights.min()) + 1, int(widths.max() - widths.min()) + 1
        assert int(mask.sum()) == h * w and not mask.all()
        assert abs(h * w - (rows * columns - kept)) <= max(rows, columns) / 2


def test_blocks_lie_everywhere_and_have_several_shapes() -> None:
    masks = block_masks((8, 8), 0.25, 4000, torch.Generator().manual_seed(0)).view(-1, 8, 8)
    corners = Counter(
        (
            int(m.any(1).int().argmax()),
            int(m.any(0).int().argmax()),
            int(m.any(1).sum()),
            int(m.any(0).sum()),
        )
        for m in masks
    )
    shapes: dict[tuple[int, int], list[int]] = {}
    for (_r, _c, h, w), n in corners.items():
        assert max(h, w) <= 2 * min(h, w)
        shapes.setdefault((h, w), []).append(n)
    assert len(shapes) >= 3
    for (h, w), counts in shapes.items():
        places = (9 - h) * (9 - w)
        expected = sum(counts) / places
        assert len(counts) == places and max(abs(n - expected) for n in counts) < 5 * expected**0.5


def test_the_boundary_is_what_touches_the_visible_part() -> None:
    spec = MaskSpec((6, 7), 0.7)
    hidden = hidden_map(spec.sample(20, torch.Generator().manual_seed(1))[1], 42)
    hidden = torch.cat([hidden, block_masks((6, 7), 0.7, 20, torch.Generator().manual_seed(2))])
    for margin in (0, 1, 2):
        found = boundary(hidden, (6, 7), margin).view(-1, 6, 7)
        for mask, near in zip(hidden.view(-1, 6, 7).tolist(), found.tolist()):
            for r, c in itertools.product(range(6), range(7)):
                window = [
                    mask[i][j]
                    for i in range(max(0, r - margin), min(6, r + margin + 1))
                    for j in range(max(0, c - margin), min(7, c + margin + 1))
                ]
                assert near[r][c] == (mask[r][c] and margin > 0 and not all(window))
    assert not boundary(torch.ones(1, 42, dtype=torch.bool), (6, 7)).any()


def test_mask_batches_are_the_laws_masks_in_parts() -> None:
    masked, ignored = (
        torch.cat(part)
        for part in zip(*mask_batches("random", (8, 8), 0.75, 2, masks=25, seed=3, batch=10))
    )
    assert masked.shape == (25, 64) and not ignored.any() and (masked.sum(1) == 48).all()
    units = masked.view(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).flatten(3)
    assert (units.all(3) == units.any(3)).all()
    masked, ignored = (
        torch.cat(part)
        for part in zip(*mask_batches("block", (8, 8), 0.5, margin=1, masks=25, seed=3))
    )
    assert not (masked & ignored).any() and ignored.any(1).all()
    assert torch.equal(boundary(masked | ignored, (8, 8)), ignored)


def test_the_independent_law_masks_every_patch_by_itself() -> None:
    masked = torch.cat(
        [m for m, _ in mask_batches("independent", (1, 6), 0.3, masks=20_000, batch=3_000)]
    ).double()
    assert (
        masked.shape == (20_000, 6)
        and float((masked.mean(0) - 0.3).abs().max()) < 4.5 * (0.21 / 20_000) ** 0.5
    )
    pairs = torch.corrcoef(masked.T) - torch.eye(6)
    assert float(pairs.abs().max()) < 4.5 / 20_000**0.5  # an exact number of units would give −1/5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: list(mask_batches("independent", (1, 6), 1.3)), "ratio 1.3 must be in"),
        (lambda: block_masks((2, 2), 0.9, 1), "hides no unit|keeps no unit"),
        (lambda: block_masks((14, 14), 1.5, 1), "between 0 and 1"),
        (lambda: boundary(torch.ones(2, 5, dtype=torch.bool), (2, 3)), r"bool \[B, 6\]"),
        (lambda: boundary(torch.ones(2, 6), (2, 3)), r"bool \[B, 6\]"),
        (lambda: boundary(torch.ones(2, 6, dtype=torch.bool), (2, 3), -1), "margin -1"),
        (lambda: list(mask_batches("spiral", (2, 3), 0.5)), "no law of masks 'spiral'"),
    ],
)
def test_blocks_and_boundaries_refuse_bad_input(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
