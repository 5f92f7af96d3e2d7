"""Masks (§2.2, "Mask sampling"): which patches the encoder sees and which the decoder must predict.

The paper's mask has a ratio r and a *mask unit* (its "patch size" s), the smallest block that is
hidden as a whole. The unit is kept apart from the ViT patch: a grid of patches is tiled by square
units of ``unit`` × ``unit`` patches, a ratio is turned once into an integer number of kept units,
and every unit is wholly visible or wholly hidden. All lengths here are counted in patches. Beside
the paper's law of random units there is that of one contiguous block, and what §3.6 would leave out
of the loss: the patches at the mask's boundary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from mae_lib.base.errors import InputError


@dataclass(frozen=True)
class MaskSpec:
    """The law p_m of random masks over a grid of patches (§2.2).

    Args:
        grid: (rows, columns) of patches, each ≥ 1.
        ratio: share r of the units to hide, in (0, 1). The share truly hidden is ``hidden_ratio``:
            units are whole.
        unit: side of the mask unit in patches; it must divide both sides of the grid.

    Raises:
        InputError: for a ratio outside (0, 1), a unit that does not divide the grid or is larger
            than it, or a ratio that keeps no unit or hides none.
    """

    grid: tuple[int, int]
    ratio: float
    unit: int = 1

    def __post_init__(self) -> None:
        rows, columns = self.grid
        if rows < 1 or columns < 1:
            raise InputError(
                f"mask grid {rows}×{columns} holds no patch: both sides must be at least 1"
            )
        if (
            isinstance(self.ratio, bool)
            or not isinstance(self.ratio, (int, float))
            or not 0 < self.ratio < 1
        ):
            raise InputError(
                f"masking ratio {self.ratio!r} must be a number strictly between 0 and 1, for"
                " instance 0.75"
            )
        if isinstance(self.unit, bool) or not isinstance(self.unit, int) or self.unit < 1:
            raise InputError(
                f"mask unit {self.unit!r} must be a whole number of patches, at least 1"
            )
        if self.unit > min(rows, columns):
            raise InputError(
                f"mask unit of {self.unit} patches is larger than the {rows}×{columns} grid: use a"
                " larger image or a smaller unit"
            )
        if rows % self.unit or columns % self.unit:
            raise InputError(
                f"mask unit of {self.unit} patches does not divide the {rows}×{columns} grid:"
                " choose a divisor of both sides"
            )
        if self.units == 1:
            raise InputError(
                f"a mask unit of {self.unit} patches covers the whole {rows}×{columns} grid:"
                " nothing would be left to see or to hide"
            )
        if self.kept_units < 1 or self.kept_units >= self.units:
            fate = "keeps no unit" if self.kept_units < 1 else "hides no unit"
            raise InputError(
                f"masking ratio {self.ratio} {fate} of {self.units}: take a ratio in "
                f"[{1 / self.units:.3g}, {1 - 1 / self.units:.3g}] or a smaller mask unit"
            )

    @property
    def units(self) -> int:
        """Number of mask units on the grid."""
        return self.grid[0] * self.grid[1] // self.unit**2

    @property
    def kept_units(self) -> int:
        """Number of visible units: (1 − ratio) · units rounded to the nearest integer, ties to
        even. The integer truth of the mask."""
        return round(self.units * (1 - self.ratio))

    @property
    def patches(self) -> int:
        """Number of patches on the grid."""
        return self.grid[0] * self.grid[1]

    @property
    def visible_patches(self) -> int:
        """Number V of visible patches, the same in every mask."""
        return self.kept_units * self.unit**2

    @property
    def hidden_ratio(self) -> float:
        """The share of patches that is truly hidden."""
        return 1 - self.kept_units / self.units

    @cached_property
    def unit_patches(self) -> Tensor:
        """int64 [units, unit²]: the patch indices (row-major on the grid) of each unit."""
        rows, columns, u = *self.grid, self.unit
        index = torch.arange(rows * columns).view(rows // u, u, columns // u, u)
        return index.permute(0, 2, 1, 3).reshape(self.units, u * u)

    def sample(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draws ``batch`` independent masks, uniform over all choices of ``kept_units`` units.

        Args:
            batch: number of masks B.
            generator: source of randomness; the masks are made on its device. Without one,
                PyTorch's default on the CPU.

        Returns:
            (visible, hidden): int64 patch indices [B, V] and [B, H·W − V]; together each row is a
            permutation of all patches.
        """
        device = generator.device if generator is not None else torch.device("cpu")
        order = torch.rand(batch, self.units, generator=generator, device=device).argsort(dim=1)
        patches = self.unit_patches.to(device, non_blocking=True)[order].flatten(1)
        return patches[:, : self.visible_patches], patches[:, self.visible_patches :]


def hidden_map(hidden: Tensor, patches: int) -> Tensor:
    """bool [B, patches]: True where a patch is hidden.

    Args:
        hidden: int64 [B, M] indices of hidden patches, each in [0, patches).
        patches: number of patches on the grid.
    """
    return torch.zeros(hidden.shape[0], patches, dtype=torch.bool, device=hidden.device).scatter_(
        1, hidden, True
    )


def complement(visible: Tensor, patches: int) -> Tensor:
    """int64 [B, patches − V]: the patches that ``visible`` [B, V] leaves out, in ascending order.
    Every row must hold V distinct patches."""
    shown = hidden_map(visible, patches)
    if not bool((shown.sum(1) == visible.shape[1]).all()):
        raise InputError(
            "a mask names a patch twice: each row of `visible` must hold distinct patch indices"
        )
    return (~shown).nonzero()[:, 1].view(visible.shape[0], patches - visible.shape[1])


def block_masks(
    grid: tuple[int, int], ratio: float, batch: int, generator: torch.Generator | None = None
) -> Tensor:
    """Masks of one contiguous rectangle each: sides drawn from those that fit the ratio, the place
    uniform.

    Args:
        grid: (rows, columns) of patches. ratio: share to hide, in (0, 1); a rectangle's area is
            within half the longer side of it. Where the grid allows it, no side is longer than
            twice the other.

    Returns:
        bool [batch, rows · columns], True where hidden.
    """
    rows, columns = grid
    spec = MaskSpec(grid, ratio)  # checks both, and says how many patches are to be hidden
    target = spec.patches - spec.visible_patches
    fitting = [
        (h, w)
        for h in range(1, rows + 1)
        for w in range(1, columns + 1)
        if abs(h * w - target) <= max(rows, columns) / 2 and 0 < h * w < spec.patches
    ]
    if not fitting:
        raise InputError(
            f"no rectangle hides {ratio:g} of a {rows}×{columns} grid and leaves some of it"
            " visible: take a ratio further from 0 and 1"
        )
    sides = torch.tensor([s for s in fitting if max(s) <= 2 * min(s)] or fitting)
    device = generator.device if generator is not None else torch.device("cpu")
    draw = torch.rand(3, batch, generator=generator, device=device)
    size = sides.to(device, non_blocking=True)[(draw[0] * len(sides)).long()]
    corner = (draw[1:].T * (torch.tensor(grid).to(device, non_blocking=True) - size + 1)).long()
    inside = []
    for axis, length in enumerate(grid):
        place = torch.arange(length, device=device)
        inside.append((place >= corner[:, axis, None]) & (place < (corner + size)[:, axis, None]))
    return (inside[0][:, :, None] & inside[1][:, None, :]).flatten(1)


def boundary(hidden: Tensor, grid: tuple[int, int], margin: int = 1) -> Tensor:
    """The hidden patches next to the visible part (§3.6): those with a visible patch within
    ``margin`` patches, diagonals included.

    Args:
        hidden: bool [B, rows · columns], True where hidden. margin: patches, ≥ 0.

    Returns:
        bool [B, rows · columns], a subset of ``hidden``.
    """
    if hidden.ndim != 2 or hidden.dtype != torch.bool or hidden.shape[1] != grid[0] * grid[1]:
        raise InputError(
            f"hidden must be bool [B, {grid[0] * grid[1]}] for a {grid[0]}×{grid[1]} grid, not"
            f" {hidden.dtype} {list(hidden.shape)}"
        )
    if isinstance(margin, bool) or not isinstance(margin, int) or margin < 0:
        raise InputError(
            f"boundary margin {margin!r} must be a whole number of patches, at least 0"
        )
    visible = (~hidden).view(-1, 1, *grid).float()
    near = torch.nn.functional.max_pool2d(visible, 2 * margin + 1, stride=1, padding=margin) > 0
    return near.flatten(1) & hidden


Law = Literal["random", "independent", "block"]
"""Laws of masks: an exact number of random units, every patch by itself, or one contiguous
block."""


def mask_batches(
    law: Law,
    grid: tuple[int, int],
    ratio: float,
    unit: int = 1,
    margin: int = 0,
    masks: int = 4096,
    seed: int = 0,
    batch: int = 4096,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Masks of a law as pairs (masked, ignored), bool [≤ batch, rows · columns] each, ``masks`` in
    all: what `shared.membership` takes.

    Args:
        ratio: share to hide; of the independent law the chance of each patch. unit: side of the
            mask unit of the random law. margin: hidden patches within this distance of the visible
            part are ignored instead of masked.
    """
    if law not in get_args(Law):
        raise InputError(f"there is no law of masks {law!r}: choose {' or '.join(get_args(Law))}")
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, masks, batch):
        count = min(batch, masks - start)
        if law == "random":
            spec = MaskSpec(grid, ratio, unit)
            hidden = hidden_map(spec.sample(count, generator)[1], spec.patches)
        elif law == "independent":
            if not 0 <= ratio <= 1:
                raise InputError(f"masking ratio {ratio!r} must be in [0, 1]")
            hidden = torch.rand(count, grid[0] * grid[1], generator=generator) < ratio
        else:
            hidden = block_masks(grid, ratio, count, generator)
        ignored = boundary(hidden, grid, margin) if margin else torch.zeros_like(hidden)
        yield hidden & ~ignored, ignored
