"""The explorer of masking (§2.2): what each pretrained model sees of an image, and makes of the
rest. Three faces as the other explorers have; its page tabulates every setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mae_book.explorers.explorer import ModelExplorer, Options, data_url
from mae_lib.base.errors import InputError
from mae_lib.drawing import figures
from mae_lib.model.autoencoder import MaskedAutoencoder, normalise_pixels, to_unit_range
from mae_lib.training.feeding import step_generator
from mae_lib.training.store import Checkpoint
from mae_lib.training.tiers import TIERS


@dataclass(frozen=True)
class MaskedView:
    """One setting seen: pictures float [3, S, S] in [0, 1], and the mean squared error over the
    hidden pixels (units of brightness²)."""

    masked: Tensor
    reconstruction: Tensor
    hidden_error: float


class MaskingExplorer(ModelExplorer):
    """Choose a run (its ratio and mask unit), an image and one of its masks.

    A state is a run, an image and a mask, counted from 0.

    Args:
        runs, images, names: see `ModelExplorer`. masks: how many random masks to offer an image
            and run.
    """

    KIND, TITLE = "masking", "Masking explorer"
    CHAPTER = "notebooks/02_masked_autoencoder.ipynb"
    ROLES: ClassVar = {"run": "model", "image": "image", "mask": "mask"}
    SAYS: ClassVar = {"error": "mean squared error on hidden pixels"}
    MAKES = "train this model"

    def __init__(
        self,
        runs: Sequence[Checkpoint],
        images: Tensor,
        masks: int = 2,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(runs, images, names)
        if masks < 1:
            raise InputError("the masking explorer needs at least one mask")
        self.masks, self.start = masks, (0, 0, 0)
        self._models: dict[int, MaskedAutoencoder] = {}

    def options(self, role: str, *before) -> Options:
        if role == "mask":
            return {str(k): (f"mask {k}", k) for k in range(self.masks)}
        return super().options(role, *before)

    def view(self, run: int, image: int, mask: int) -> MaskedView:
        """The pictures of one setting: indices of the run, the image and the mask."""
        if run not in self._models:
            self._models[run] = self.runs[run].load()
        model, config = self._models[run], self.configs[run]
        x = normalise_pixels(self.images[image : image + 1])
        visible, hidden = config.mask.sample(1, step_generator(mask, "explorer", image))
        rebuilt = to_unit_range(model.reconstruct(x, visible))
        original = to_unit_range(x)
        error = float((rebuilt - original).square().mean() * config.mask.patches / hidden.shape[1])
        masked = figures.masked_pictures(original, hidden, config.model.grid)[0]
        return MaskedView(masked, rebuilt[0], error)

    def reading(self, run: int, image: int, mask: int) -> dict[str, str]:
        return {"error": f"{self.view(run, image, mask).hidden_error:.4f}"}

    def command(self, run: int, *_: int) -> str:
        """The command that trains the run's model; where none does (its config is no tier's), what
        to do instead."""
        checkpoint = self.runs[run]
        config, tier = self.configs[run], TIERS.get(checkpoint.record["tier"])
        own = {name: getattr(config, name) for name in ("steps", "batch", "base_lr")}
        size, patch = config.model.image_size[0], config.model.patch
        try:
            standard = tier and tier.at(size).config(
                config.data, config.ratio, config.unit, patch, config.seed
            )
        except InputError:  # a size at which the tier has no patches of whole pixels
            standard = None
        if standard is None or replace(standard, **own) != config:
            name = checkpoint.path.with_suffix(".json").name
            return f"load_or_pretrain(config) with the config in {name}"
        folder = "" if config.data.get("kind") == "world" else " --data DIR"
        changes = f" --image-size {size}" if size != tier.model.image_size[0] else ""
        for name, value in own.items():
            if value != getattr(standard, name):
                changes += f" --{name.replace('_', '-')} {value}"
        return (
            f"mae pretrain --tier {tier.name}{folder} --ratio {config.ratio} --unit {config.unit}"
            f" --patch {patch} --seed {config.seed}{changes}"
        )

    def picture(self, run: int, image: int, mask: int) -> str:
        view = self.view(run, image, mask)
        shown = {
            "original": (self.original(image), "the image", "image"),
            "masked": (
                view.masked,
                "the image with its hidden patches grey",
                "what the encoder sees",
            ),
            "rebuilt": (view.reconstruction, "the model's reconstruction", "reconstruction"),
        }
        drawn = "".join(
            f'<figure><img data-role="{role}" alt="{words}" src="{data_url(picture)}">'
            f"<figcaption>{caption}</figcaption></figure>"
            for role, (picture, words, caption) in shown.items()
        )
        return f'<div class="panes">{drawn}</div>'

    def tables(self) -> dict[str, object]:
        cell = lambda view: {
            "masked": data_url(view.masked),
            "rebuilt": data_url(view.reconstruction),
            "error": f"{view.hidden_error:.4f}",
        }
        masks, images = range(self.masks), range(len(self.images))
        return {
            "runs": [
                {
                    "command": self.command(run),
                    "cells": [[cell(self.view(run, i, m)) for m in masks] for i in images],
                }
                for run in range(len(self.runs))
            ],
            "originals": [data_url(self.original(image)) for image in images],
        }

    def figure(self, image: int = 0, mask: int = 0) -> Figure:
        """The printed face: image, masked image and reconstruction, one column a run."""
        views = [self.view(run, image, mask) for run in range(len(self.runs))]
        rows = {
            "image": torch.stack([self.original(image)] * len(views)),
            "visible": torch.stack([v.masked for v in views]),
            "rebuilt": torch.stack([v.reconstruction for v in views]),
        }
        titles = [f"r {c.ratio:g}\nunit {c.unit} px" for c in self.configs]
        return figures.image_rows(rows, titles)
