"""What §3.6 would change about the mask: a margin at its boundary that the loss leaves out (S1),
and masks that follow the latent structure (S2). Both keep the ratio, the number of hidden patches
and the mask's other half as :class:`mae_lib.masks.masking.MaskSpec` has them, so that a design is
compared with random units at equal cost. Beside these a ratio that is drawn anew in each step, of
which only the mean is fixed. Which design a pretraining uses is part of its `PretrainConfig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from mae_lib.base.errors import InputError
from mae_lib.base.names import Design
from mae_lib.masks.masking import MaskSpec, hidden_map

TRIALS = 256
"""Masks drawn to see whether a margin leaves anything at all."""


def hide_first(priority: Tensor, hidden: int) -> tuple[Tensor, Tensor]:
    """(visible int64 [B, L − hidden], hidden int64 [B, hidden]): in each row of ``priority``, float
    [B, L], the smallest ``hidden`` are hidden."""
    order = priority.argsort(dim=1)
    return order[:, hidden:], order[:, :hidden]


def group_priority(groups: Tensor, generator: torch.Generator) -> Tensor:
    """The order in which whole groups are hidden: groups at random, patches at random within a
    group.

    Args:
        groups: int64 [B, L] or [1, L] for B = 1 partition of the patches, numbered from 0.
            generator: its device is the result's.

    Returns:
        float [B, L]; :func:`hide_first` then hides whole groups, but for one that the ratio cuts.
    """
    batch, patches = groups.shape
    count = int(groups.max()) + 1
    rank = (
        torch.rand(batch, count, generator=generator, device=generator.device).argsort(1).argsort(1)
    )
    return rank.gather(1, groups) + torch.rand(
        batch, patches, generator=generator, device=generator.device
    )


def parts_priority(parts: Tensor, generator: torch.Generator) -> Tensor:
    """Some parts of the object first, then the ground at random, last the parts that are to stay
    visible.

    Args:
        parts: int64 [B, L], 0 where a patch shows the ground, p + 1 where it shows part p.

    Returns:
        float [B, L]. Of P ≥ 2 parts in view, between 1 and P − 1 are to be hidden, all numbers
        equally likely; of a single one, 0 or 1.
    """
    device = generator.device
    most = int(parts.max()) + 1
    present = torch.zeros(len(parts), most, dtype=torch.bool, device=device).scatter_(
        1, parts, True
    )[:, 1:]
    count = present.sum(1)
    draw = torch.rand(len(parts), generator=generator, device=device)
    hide = torch.where(
        count >= 2, 1 + (draw * (count - 1).clamp_min(1)).long(), (draw < 0.5).long()
    )
    order = torch.rand(present.shape, generator=generator, device=device).masked_fill(~present, 2.0)
    chosen = order.argsort(1).argsort(1) < hide[:, None]
    late = torch.cat([torch.ones_like(hide)[:, None], torch.where(chosen & present, 0, 2)], dim=1)
    return late.gather(1, parts) + torch.rand(parts.shape, generator=generator, device=device)


def object_priority(parts: Tensor, generator: torch.Generator) -> Tensor:
    """The whole object first, then the ground at random. ``parts`` as in :func:`parts_priority`;
    returns float [B, L]."""
    return (parts == 0).float() + torch.rand(
        parts.shape, generator=generator, device=generator.device
    )


def sample_design(
    design: Design,
    spec: MaskSpec,
    batch: int,
    generator: torch.Generator,
    groups: Sequence[int] = (),
    parts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(visible, hidden) as :meth:`MaskSpec.sample` returns them, of any design, with as many hidden
    patches as ``spec`` has.

    Args:
        groups: for "groups", one number a patch. parts: for "parts" and "object", int64 [batch,
            patches] of the images to be masked.
    """
    if design == "random":
        return spec.sample(batch, generator)
    if design == "groups":
        fixed = torch.tensor(groups).to(generator.device, non_blocking=True).expand(batch, -1)
        priority = group_priority(fixed, generator)
    elif parts is None:
        raise InputError(
            f"masks of design {design!r} need each image's parts: only the embedded world can tell"
            " them"
        )
    else:
        priority = (parts_priority if design == "parts" else object_priority)(
            parts.to(generator.device), generator
        )
    return hide_first(priority, spec.patches - spec.visible_patches)


def drawn_ratio(spec: MaskSpec, spread: float, generator: torch.Generator) -> MaskSpec:
    """The law of one step's masks when every step draws its ratio anew (R²MAE, Dong et al. 2025,
    arXiv 2509.21650): uniform in ``spec.ratio`` ± ``spread``, for the whole batch; ``spec`` itself
    where ``spread`` is 0.

    The range is centred, so that on average as many patches are visible, and a step costs as much,
    as at the fixed ratio.
    """
    if not spread:
        return spec
    draw = float(torch.rand((), dtype=torch.float64, generator=generator))
    return replace(spec, ratio=spec.ratio + spread * (2 * draw - 1))


def check_spread(spec: MaskSpec, spread: float) -> None:
    """InputError for a spread below 0, or a range of ratios that has an end without a mask."""
    if not spread >= 0:
        raise InputError(
            f"spread {spread!r} must be at least 0: the ratio's distance from its mean"
        )
    for end in (spec.ratio - spread, spec.ratio + spread):
        replace(spec, ratio=end)  # its own checks


def check_groups(groups: Sequence[int], spec: MaskSpec) -> None:
    """InputError unless ``groups`` numbers every patch of the grid from 0, in at least two groups
    without a gap."""
    if len(groups) != spec.patches:
        raise InputError(
            f"{len(groups)} group numbers for a {spec.grid[0]}×{spec.grid[1]} grid: give one for"
            f" each of its {spec.patches} patches"
        )
    if set(groups) != set(range(len(set(groups)))) or len(set(groups)) < 2:
        raise InputError(
            "groups must be numbered 0, 1, … without a gap, at least two of them, not"
            f" {sorted(set(groups))}"
        )


def margin_maps(
    hidden: Tensor, grid: tuple[int, int], patch: int, margin: int
) -> tuple[Tensor, Tensor]:
    """Which pixels still count when those near the mask's boundary are left out (§3.6).

    Args:
        hidden: int64 [B, M] hidden patches. patch: its side, pixels. margin: pixels, ≥ 0; near
            means that a pixel of the other kind lies within ``margin`` pixels, diagonals included.

    Returns:
        (counted, shown): bool [B, 1, H, W] each: hidden pixels that are not near a visible one, and
        visible pixels that are not near a hidden one.
    """
    rows, columns = grid
    covered = hidden_map(hidden, rows * columns).view(-1, 1, rows, columns).float()
    covered = covered.repeat_interleave(patch, 2).repeat_interleave(patch, 3)

    def grown(region: Tensor) -> Tensor:  # a square's dilation, one axis after the other
        size = 2 * margin + 1
        wide = max_pool2d(region, (1, size), 1, (0, margin))
        return max_pool2d(wide, (size, 1), 1, (margin, 0)) > 0

    return ~grown(1 - covered), ~grown(covered)


def check_margin(
    spec: MaskSpec, design: Design, groups: Sequence[int], patch: int, margin: int, strict: bool
) -> None:
    """InputError for a margin of no meaning, or one that leaves nothing to predict or, if
    ``strict``, nothing to see."""
    if isinstance(margin, bool) or not isinstance(margin, int) or margin < 0:
        raise InputError(f"margin {margin!r} must be a whole number of pixels, at least 0")
    if strict and not margin:
        raise InputError(
            "strict without a margin changes nothing: give a margin in pixels, or leave strict out"
        )
    if not margin:
        return
    side = max(spec.grid) * patch
    generator = torch.Generator().manual_seed(0)
    # Of the designs that follow each image's parts nothing is known here; random units stand in for
    # them.
    drawn = (
        sample_design(design if design == "groups" else "random", spec, TRIALS, generator, groups)[
            1
        ]
        if margin < side
        else None
    )
    counted, shown = (
        margin_maps(drawn, spec.grid, patch, margin)
        if drawn is not None
        else (torch.zeros(1), torch.zeros(1))
    )
    for region, what in ((counted, "predict"), (shown, "see")):
        if (what == "predict" or strict) and not region.any():
            raise InputError(
                f"a margin of {margin} px leaves nothing to {what} in any of {TRIALS} masks of"
                f" ratio {spec.ratio:g} in units of {spec.unit * patch} px: take a smaller margin"
                " or a larger mask unit"
            )
