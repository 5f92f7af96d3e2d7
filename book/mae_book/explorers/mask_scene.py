"""What the explorer in which one draws a mask has to show: Algorithm 1 on the quad-tree and on the
image's own hierarchy, what each level is worth to the loss, and what a model makes of the visible
part. The page (`mask_explorer`) computes the same in its script.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mae_book.chapters.predictions import object_graph
from mae_book.explorers.mask_models import READ, SHARES, UNITS, MaskModel, code, shipped
from mae_lib.base.errors import InputError
from mae_lib.evaluation.attention import attention_maps
from mae_lib.model.autoencoder import normalise_pixels, to_unit_range
from mae_lib.theory.graphs import quad_tree
from mae_lib.theory.shared import SharedInformation, locate_shared
from mae_lib.theory.worth import explained_variance, locate_shared_patches
from mae_lib.worlds.law import CLASSES, PARTS
from mae_lib.worlds.world import World

RHO, NU = 0.8, 0.2
"""Correlation along an edge and own noise of the quad-tree that levels are worth something on: the
chapter *Why 0.75* begins with these."""


class Seen(NamedTuple):
    """What a model makes of an image under a mask: the picture rebuilt, float [3, S, S] in [0, 1];
    the last layer's attention, the mean over heads, [1 + V, 1 + V]; the readouts [K]."""

    rebuilt: Tensor
    attention: Tensor
    readouts: Tensor


class Level(NamedTuple):
    """One height of the quad-tree: how many of its latents are in c, and of how many; the share of
    all patches whose c_i stands there; what context up to here adds, of all patches' variance."""

    shared: int
    latents: int
    asked: float
    worth: float


class Scenes:
    """Models of one size, images of the embedded world, and their hierarchies.

    Args:
        models: of a training length and a ratio each, every pair of them; the shipped ones.
        indices: images of the validation set; the first of each class.
    """

    def __init__(
        self, models: Sequence[MaskModel] | None = None, indices: Sequence[int] | None = None
    ) -> None:
        self.models = list(shipped() if models is None else models)
        sizes = {model.config.model for model in self.models}
        if len(sizes) != 1:
            raise InputError("the mask explorer needs models of one size")
        (self.size,) = sizes
        self.side, self.pixels = self.size.grid[0], self.size.image_size[0]
        self.heights = self.side.bit_length() - 1
        if self.size.grid != (self.side, self.side) or 2**self.heights != self.side:
            raise InputError(f"a grid of {self.size.grid} patches has no quad-tree of equal blocks")
        self.world = World("validation", self.pixels)
        if indices is None:
            labels = self.world.sample(range(100)).labels.tolist()
            indices = [labels.index(k) for k in range(len(CLASSES))]
        self.batch = self.world.sample(indices)
        self.parts = self._patch_parts()
        self.graph = quad_tree(self.size.grid)
        self.patches = self.side**2
        self.view = lru_cache(256)(self._view)

    def model(self, length: int, ratio: float) -> MaskModel:
        """InputError where there is none."""
        for model in self.models:
            if (model.config.steps, model.config.ratio) == (length, ratio):
                return model
        raise InputError(f"there is no model of {length} steps at ratio {ratio}")

    def hidden(self, mask: int) -> Tensor:
        """bool [patches]."""
        return torch.tensor([mask >> k & 1 for k in range(self.patches)], dtype=torch.bool)

    def _view(self, length: int, ratio: float, image: int, mask: int) -> Seen:
        found = self.model(length, ratio)
        model, hidden = found.model(), self.hidden(mask)
        visible = (~hidden).nonzero().T
        x = normalise_pixels(self.batch.images[image : image + 1])
        rebuilt = model.reconstruct(x, visible) if mask else x
        attention = attention_maps(model, x, -1, visible)[0].mean(0)
        codes = code(model, self.batch.images[image : image + 1], visible)[0]
        readouts = found.readout[0] + codes @ found.readout[1:]
        return Seen(to_unit_range(rebuilt)[0], attention, readouts)

    def error(self, length: int, ratio: float, image: int, mask: int) -> float:
        """Mean squared error over the hidden pixels, brightness²; NaN where none is hidden."""
        rebuilt, original = self.view(length, ratio, image, mask).rebuilt, self.original(image)
        total = (rebuilt - original).square().mean() * self.patches
        return float(total / self.hidden(mask).sum())

    def shared(self, mask: int) -> SharedInformation:
        """Algorithms 1 and 2 on the quad-tree."""
        return locate_shared(self.graph, self.names(mask))

    def levels(self, mask: int) -> list[Level]:
        """Heights 1 and up of the quad-tree."""
        hidden = self.hidden(mask)[None].numpy()
        c = self.shared(mask).c
        patches = locate_shared_patches(self.graph, hidden)[0]
        heights = np.array([self.graph.levels[z] for z in self.graph.latents])
        order = self.order()
        gain = lambda h: explained_variance(hidden[:, order], 4, RHO, NU, h).mean()
        return [
            Level(
                sum(self.graph.levels[z] == h for z in c),
                int((heights == h).sum()),
                float(patches[:, heights == h].any(1).mean()),
                float(gain(h) - gain(h - 1)),
            )
            for h in range(1, self.heights + 1)
        ]

    def own(self, image: int, mask: int) -> list[str]:
        """c of the hierarchy of the image itself, class → parts → patches that show them."""
        c = locate_shared(object_graph(self.parts[image]), self.names(mask)).c
        return sorted(c, key=lambda z: (z == "ground", z))

    def original(self, image: int) -> Tensor:
        return self.batch.images[image].float() / 255

    def readouts(self, length: int, ratio: float, image: int, mask: int) -> list[list[str]]:
        """Latent, what is read out, the truth, and the error on held-out images: a row each."""
        found, values = self.model(length, ratio), self.view(length, ratio, image, mask).readouts
        share = float(self.hidden(mask).float().mean())
        place = min(range(len(SHARES)), key=lambda k: abs(SHARES[k] - share))
        rows = []
        for (name, truth), said in zip(self.truths(image).items(), values.split([*READ.values()])):
            error, chance = found.errors[name][place], found.spread[name]
            if name in ("class", "texture"):
                best = said.softmax(0).max(0)
                read = f"{CLASSES[int(best.indices)]}, {100 * float(best.values):.0f} %"
                off = f"right {100 * error:.0f} % ({100 * chance:.0f} %)"
            else:
                read, off = told(name, said), told_error(name, error, chance)
            rows.append(["size" if name == "scale" else name, read, truth, off])
        return rows

    def truths(self, image: int) -> dict[str, str]:
        """Latent → what it is in an image, in words."""
        pose = self.batch.latents["pose"][image]
        names = {"class": self.batch.labels, "texture": self.batch.textures}
        numbers = {"position": pose[2:4], "scale": pose[:1], "turn": pose[1:2]}
        return {name: CLASSES[int(of[image])] for name, of in names.items()} | {
            name: told(name, value) for name, value in numbers.items()
        }

    def names(self, mask: int) -> list[str]:
        return [f"x{k}" for k in range(self.patches) if mask >> k & 1]

    def order(self) -> list[int]:
        """The patches block by block: the leaves of the tree from left to right."""
        bit = lambda value, k: value >> k & 1
        key = lambda p: sum(
            (2 * bit(p // self.side, k) + bit(p % self.side, k)) << 2 * k
            for k in range(self.heights)
        )
        return sorted(range(self.patches), key=key)

    def _patch_parts(self) -> Tensor:
        """int64 [N, patches]: the part that a patch shows most of, 0 for the ground."""
        p, n = self.size.patch, self.side
        labels = self.batch.part_labels.long().unflatten(1, (n, p)).unflatten(3, (n, p))
        shown = torch.stack([(labels == k).sum((2, 4)) for k in range(1, PARTS + 1)], -1).flatten(
            1, 2
        )
        return torch.where(shown.any(-1), 1 + shown.argmax(-1), 0)


def told(name: str, value: Tensor) -> str:
    """A pose in words: pixels from the middle, half-images per object unit, degrees."""
    if name == "scale":
        return f"{float(value[0]):.2f}"
    digits, unit = (1, " px") if name == "position" else (0, "°")
    return ", ".join(_signed(UNITS[name] * float(x), digits) for x in value) + unit


def told_error(name: str, error: float, chance: float) -> str:
    """An error on held-out images in words, and that of guessing the mean."""
    digits, unit = {"position": (1, " px"), "scale": (3, ""), "turn": (1, "°")}[name]
    return f"± {error:.{digits}f}{unit} ({chance:.{digits}f})"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
