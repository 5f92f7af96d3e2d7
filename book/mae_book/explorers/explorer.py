"""Interactive explorers, three faces from one function: live widget (with a kernel), self-contained
HTML (with neither kernel nor network: every setting is tabulated beforehand) and captioned figure.
Each shows the command that reproduces its setting. The explorer of masking is here, and how every
explorer's page is put together.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from string import Template

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

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


class MaskingExplorer:
    """What each pretrained model sees of an image, and makes of the rest (§2.2): choose the run
    (ratio, mask unit), image and mask.

    Args:
        runs: checkpoints of different names; the choices of ratio and unit are theirs. images:
            uint8 [N, C, H, W], N ≥ 1, C 1 or 3.
        masks: how many random masks to offer an image and run. names: the images' names, shown as
            their labels.

    Raises:
        InputError: nothing to choose from, two runs of one name, images of another kind or of
            another size than a model's, or not one name an image.
    """

    def __init__(
        self,
        runs: Sequence[Checkpoint],
        images: Tensor,
        masks: int = 2,
        names: Sequence[str] | None = None,
    ) -> None:
        if not runs or not len(images) or masks < 1:
            raise InputError(
                "the masking explorer needs at least one checkpoint, one image and one mask"
            )
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(
                f"the masking explorer shows uint8 images [N, 1 or 3, H, W], not {images.dtype}"
                f" {list(images.shape)}"
            )
        for checkpoint in runs:
            model = checkpoint.config.model
            if tuple(images.shape[1:]) != (model.channels, *model.image_size):
                raise InputError(
                    f"images are {list(images.shape[1:])}, {checkpoint.config.name} takes"
                    f" {[model.channels, *model.image_size]}: open them at that size"
                )
        self.runs, self.images, self.masks = list(runs), images, masks
        self.names = (
            list(names) if names is not None else [f"image {i}" for i in range(len(images))]
        )
        if len(self.names) != len(images):
            raise InputError(
                f"{len(self.names)} names for {len(images)} images: give each image one"
            )
        if len({checkpoint.config.name for checkpoint in self.runs}) < len(self.runs):
            raise InputError(
                "two of the runs have one name, among"
                f" {', '.join(c.config.name for c in self.runs)}: give each run once"
            )
        self._models: dict[int, MaskedAutoencoder] = {}

    def view(self, run: int, image: int, mask: int) -> MaskedView:
        """The pictures of one setting: indices of the run, the image and the mask."""
        if run not in self._models:
            self._models[run] = self.runs[run].load()
        model, config = self._models[run], self.runs[run].config
        x = normalise_pixels(self.images[image : image + 1])
        visible, hidden = config.mask.sample(1, step_generator(mask, "explorer", image))
        rebuilt = to_unit_range(model.reconstruct(x, visible))
        original = to_unit_range(x)
        error = float((rebuilt - original).square().mean() * config.mask.patches / hidden.shape[1])
        return MaskedView(
            figures.masked_pictures(original, hidden, config.model.grid)[0], rebuilt[0], error
        )

    def label(self, run: int) -> str:
        """A run in words: ratio, mask unit and ViT patch."""
        config = self.runs[run].config
        return f"ratio {config.ratio:g}, unit {config.unit} px, ViT patch {config.model.patch} px"

    def command(self, run: int) -> str:
        """The command that trains the run's model; where none does (its config is no tier's), what
        to do instead."""
        checkpoint = self.runs[run]
        config, tier = checkpoint.config, TIERS.get(checkpoint.record["tier"])
        own = {name: getattr(config, name) for name in ("steps", "batch", "base_lr")}
        size = config.model.image_size[0]
        try:
            standard = tier and tier.at(size).config(
                config.data, config.ratio, config.unit, config.model.patch, config.seed
            )
        except InputError:  # a size at which the tier has no patches of whole pixels
            standard = None
        if standard is None or replace(standard, **own) != config:
            return (
                "load_or_pretrain(config) with the config in"
                f" {checkpoint.path.with_suffix('.json').name}"
            )
        folder = "" if config.data.get("kind") == "world" else " --data DIR"
        changes = f" --image-size {size}" if size != tier.model.image_size[0] else ""
        changes += "".join(
            f" --{name.replace('_', '-')} {value}"
            for name, value in own.items()
            if value != getattr(standard, name)
        )
        return (
            f"mae pretrain --tier {tier.name}{folder} --ratio {config.ratio} --unit {config.unit}"
            f" --patch {config.model.patch} --seed {config.seed}{changes}"
        )

    def figure(self, image: int = 0, mask: int = 0) -> Figure:
        """The printed face: image, masked image and reconstruction, one column a run."""
        views = [self.view(run, image, mask) for run in range(len(self.runs))]
        original = self.images[image].float() / 255
        rows = {
            "image": torch.stack([original] * len(views)),
            "visible": torch.stack([v.masked for v in views]),
            "rebuilt": torch.stack([v.reconstruction for v in views]),
        }
        return figures.image_rows(
            rows, [f"r {c.config.ratio:g}\nunit {c.config.unit} px" for c in self.runs]
        )

    def widget(self):
        """The live face: an ipywidgets box, its pictures computed by the kernel at each change."""
        import ipywidgets as widgets

        run = widgets.SelectionSlider(
            options=[(self.label(k), k) for k in range(len(self.runs))],
            description="model",
            layout={"width": "34em"},
        )
        image = widgets.SelectionSlider(
            options=[(name, k) for k, name in enumerate(self.names)],
            description="image",
            layout={"width": "34em"},
        )
        mask = widgets.IntSlider(0, 0, self.masks - 1, description="mask", layout={"width": "34em"})
        pictures, words = widgets.HTML(), widgets.HTML()

        def show(_=None) -> None:
            pictures.value, words.value = self.live_html(run.value, image.value, mask.value)

        for control in (run, image, mask):
            control.observe(show, "value")
        show()
        return widgets.VBox([run, image, mask, pictures, words])

    def live_html(self, run: int, image: int, mask: int) -> tuple[str, str]:
        """(pictures, words) of one setting as HTML: what the live widget shows."""
        view = self.view(run, image, mask)
        shown = [self.images[image].float() / 255, view.masked, view.reconstruction]
        pictures = "".join(
            f'<img src="{data_url(p)}" width="192" alt="{a}"'
            ' style="image-rendering:pixelated;margin:4px">'
            for p, a in zip(shown, ("image", "what the encoder sees", "reconstruction"))
        )
        return (
            pictures,
            (
                f"mean squared error on hidden pixels: {view.hidden_error:.4f}<br>train this model:"
                f" <code>{html.escape(self.command(run))}</code>"
            ),
        )

    def html(self) -> str:
        """The kernel-free face: one self-contained fragment with every setting tabulated, driven by
        native form controls."""
        table = [
            [
                [
                    {
                        "masked": data_url(v.masked),
                        "rebuilt": data_url(v.reconstruction),
                        "error": round(v.hidden_error, 4),
                    }
                    for v in views
                ]
                for views in (
                    [self.view(run, image, mask) for mask in range(self.masks)]
                    for image in range(len(self.images))
                )
            ]
            for run in range(len(self.runs))
        ]
        data = {
            "runs": [
                {"name": c.config.name, "label": self.label(k), "command": self.command(k)}
                for k, c in enumerate(self.runs)
            ],
            "names": self.names,
            "originals": [data_url(image.float() / 255) for image in self.images],
            "table": table,
        }
        return fragment("masking", data)

    def _repr_html_(self) -> str:
        return self.html()


def asset(name: str) -> str:
    """A text that is shipped with the package, from ``assets/``."""
    return (
        resources.files("mae_book.explorers").joinpath("assets", name).read_text(encoding="utf-8")
    )


def fragment(kind: str, data: dict[str, object], **parts: str) -> str:
    """A kernel-free face: the shipped ``{kind}_explorer.html`` and ``.css`` with the data for its
    script and other ``parts`` filled in.

    Its id is its own and the same at every build: Jupyter runs scripts detached from their place,
    so that a script must look itself up.
    """
    # Inside a script element "</script" would end it, and "<!--" change how it ends.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    identity = f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return Template(asset(f"{kind}_explorer.html")).substitute(
        parts, id=identity, data=text, style=asset(f"{kind}_explorer.css")
    )


def data_url(picture: Tensor, quality: int = 88) -> str:
    """A float picture [C, H, W] in [0, 1] as a ``data:`` URL (WebP)."""
    array = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(np.squeeze(array)).save(buffer, "WEBP", quality=quality, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
