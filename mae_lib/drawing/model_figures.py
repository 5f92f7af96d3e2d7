"""One model at work on images: what it rebuilds of them, and where it looks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mae_lib.drawing.attention_figures import attention_rows
from mae_lib.drawing.figures import image_rows, masked_pictures
from mae_lib.evaluation.attention import attention_maps
from mae_lib.masks.masking import MaskSpec
from mae_lib.model.autoencoder import MaskedAutoencoder, normalise_pixels, to_unit_range
from mae_lib.training.feeding import step_generator


def rebuilt(
    images: Tensor,
    specs: Mapping[str, MaskSpec],
    model: MaskedAutoencoder | None = None,
    seed: int = 0,
) -> Figure:
    """A row a law of masks; the columns are each image, what is visible of it and, with a model,
    what it rebuilds.

    Args:
        images: uint8 [N, C, H, W], C 1 or 3. specs: title → law of masks. seed: of the masks.

    Raises:
        InputError: a model without a decoder.
    """
    device = "cpu" if model is None else next(model.parameters()).device
    x = normalise_pixels(images).to(device)
    rows = {}
    for title, spec in specs.items():
        visible, hidden = spec.sample(len(x), step_generator(seed, "show", 0))
        columns = [images.float() / 255, masked_pictures(images, hidden, spec.grid)]
        if model is not None:
            columns.append(to_unit_range(model.reconstruct(x, visible.to(device))).cpu())
        rows[title] = torch.stack(columns, 1).flatten(0, 1)
    titles = ("original", "visible") if model is None else ("original", "visible", "rebuilt")
    return image_rows(rows, titles * len(images), size=_width(len(titles) * len(images), images))


def attended(model: MaskedAutoencoder, images: Tensor, layer: int = -1) -> Figure:
    """A row an image: what its [CLS] token attends to in a layer, on average over heads and head by
    head.

    Args:
        images: uint8 [N, C, H, W], C 1 or 3. layer: from 0, or from −1 backwards.

    Raises:
        InputError: there is no such layer.
    """
    x = normalise_pixels(images).to(next(model.parameters()).device)
    maps = attention_maps(model, x, layer)[:, :, 0, 1:].float().cpu()
    maps = maps.unflatten(-1, model.config.grid)
    columns = {"all heads": maps.mean(1)} | {f"head {h}": maps[:, h] for h in range(maps.shape[1])}
    return attention_rows(images, columns, size=_width(1 + len(columns), images))


def _width(columns: int, images: Tensor) -> float:
    """Inches a picture, for a slide of about 13: few are drawn larger."""
    return min(2.4 * math.sqrt(images.shape[3] / images.shape[2]), max(0.7, 12 / columns))
