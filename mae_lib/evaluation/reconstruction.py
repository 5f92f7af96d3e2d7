"""How well a masked autoencoder rebuilds images (§3.1, Figure 5): SSIM, FSIM, PSNR and MSE, under
three protocols. The main text says only "using the validation set without masking". *readout* is
what the public MAE code does when told to mask nothing, *queried* asks the decoder for every patch
by a mask token, and *masked* is the task that the run was trained on.
"""

from __future__ import annotations

import math
from dataclasses import replace

import piq
import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.base.intervals import Interval, bootstrap
from mae_lib.data.datasets import Subset
from mae_lib.masks.masking import MaskSpec
from mae_lib.model.autoencoder import (
    MaskedAutoencoder,
    normalise_patches,
    normalise_pixels,
    patchify,
    to_unit_range,
    unpatchify,
)
from mae_lib.training.feeding import step_generator
from mae_lib.worlds.world import WorldBatch, rendering

METRICS = ("ssim", "fsim", "psnr", "mse")
PROTOCOLS = ("readout", "queried", "masked")
CONTROLS = ("lent", "flat")
"""Beside the protocols: the readout with the true patches' mean and deviation lent to it, and these
means alone."""

PSNR_CEILING = 10 * math.log10(12 * 255**2)
"""58.9 dB: the PSNR of rounding to 8 bits. A mean of PSNRs counts no image higher, so that a
perfect one (infinite PSNR) does not swallow the rest."""

_WINDOW, _SIGMA = 11, 1.5  # SSIM's Gaussian window, pixels (Wang et al. 2004)
_FSIM_ROWS = 32  # images at a time: FSIM holds 16 complex maps of each


def scores(images: Tensor, reconstructions: Tensor) -> dict[str, Tensor]:
    """The four metrics of §3.1, image by image, as far as they are defined for so many bands. The
    reference is ``images``; all are symmetric.

    Args:
        images, reconstructions: float [B, C, H, W] in [0, 1], of one shape and on one device, H and
            W at least 11 (SSIM's window).

    Returns:
        Name → values:

        - ``ssim``: mean structural similarity in [−1, 1], 1 for equal images: Gaussian window of 11
          px and σ 1.5, population covariance, each channel by itself, places whose window crosses
          the border left out, no downsampling. scikit-image's ``structural_similarity`` with
          ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1,
          channel_axis=0``.
        - ``fsim``: feature similarity in [0, 1] with colour (FSIMc), of grey images without (FSIM),
          of other bands than three or one left out; piq's, in the precision of the images; from
          384 px on it is taken of a downsampled image, by its definition. A constant image has no
          features: its FSIM against another image hangs on rounding.
        - ``psnr``: 10 log₁₀(1 / MSE), decibels; infinite for equal images, as scikit-image has it.
        - ``mse``: mean squared difference over pixels and channels.

        Each [B] on the images' device: fsim in the images' precision (at least float32), the others
        float64.

    Raises:
        InputError: for images of another kind, size or range, NaN, or a pair that does not fit
            together.
    """
    _check(images, reconstructions)
    precision = torch.promote_types(
        torch.promote_types(images.dtype, reconstructions.dtype), torch.float32
    )
    x, y = images.to(precision), reconstructions.to(precision)
    found = {}
    if (bands := x.shape[1]) in (1, 3):
        pairs = zip(x.split(_FSIM_ROWS), y.split(_FSIM_ROWS))
        similar = [piq.fsim(a, b, reduction="none", chromatic=bands == 3) for a, b in pairs]
        found["fsim"] = torch.cat(similar)
    x, y = x.double(), y.double()
    mse = (x - y).square().mean((1, 2, 3))
    return {"ssim": _ssim(x, y)} | found | {"psnr": -10 * mse.log10(), "mse": mse}


def flat_patches(images: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] → each patch painted in its own mean over pixels *and* channels: what a model
    with normalised targets shows that has learned nothing and predicts 0 everywhere, once its
    prediction is put back with the true patch's mean and deviation.
    """
    patches = patchify(images, patch)
    return _assembled(patches.mean(-1, keepdim=True).expand_as(patches), images, patch)


def lend_statistics(images: Tensor, reconstructions: Tensor, patch: int) -> Tensor:
    """[B, C, H, W], twice → the reconstructions with each patch brought to the mean and deviation
    of the true patch in ``images``, over pixels and channels: what the un-normalised view of a
    normalised prediction has, and a prediction of plain pixels has not.
    """
    variance, mean = torch.var_mean(patchify(images, patch), dim=-1, keepdim=True)
    return _assembled(
        normalise_patches(patchify(reconstructions, patch)) * (variance + 1e-6).sqrt() + mean,
        images,
        patch,
    )


def _assembled(patches: Tensor, like: Tensor, patch: int) -> Tensor:
    return unpatchify(patches, (like.shape[2] // patch, like.shape[3] // patch), like.shape[1])


@torch.no_grad()
def image_scores(
    model: MaskedAutoencoder,
    mask: MaskSpec,
    source: ImageSource,
    images: int = 1000,
    seed: int = 0,
    batch: int = 50,
) -> dict[str, Tensor]:
    """The four metrics of single images under every protocol, and of the controls.

    Args:
        model: in eval mode. mask: the law of its masks. source: images of the model's size;
            ``images`` of them are used, evenly spread over the source (a folder's are sorted by
            class), all if it has fewer. seed: of the masks. batch: images at a time; it changes
            nothing.

    Returns:
        PROTOCOL/METRIC → float64 [N] on the CPU, for the protocols ``readout``, ``queried``,
        ``masked`` and the controls ``lent`` (the readout after :func:`lend_statistics`) and
        ``flat`` (:func:`flat_patches`). The whole image is scored, under ``masked`` too: there the
        visible pixels are the original's.

    Raises:
        InputError: no images, images of another size than the model's, or a mask for another grid.
    """
    if mask.grid != model.config.grid:
        raise InputError(
            f"the mask is for a grid of {mask.grid[0]}×{mask.grid[1]} patches, the model's is"
            f" {model.config.grid[0]}×{model.config.grid[1]}: take `config.mask`"
        )
    source = Subset(source, min(images, len(source)))
    device = next(model.parameters()).device
    visible, _ = mask.sample(len(source), step_generator(seed, "reconstruction", 0))
    found: dict[str, list[Tensor]] = {}
    for rows in torch.arange(len(source)).split(batch):
        x = normalise_pixels(source.images(rows)).to(device)
        pictures = {
            "readout": model.reconstruct(x),
            "queried": model.reconstruct(x, "queried"),
            "masked": model.reconstruct(x, visible[rows].to(device)),
        }
        pictures |= {
            "lent": lend_statistics(x, pictures["readout"], model.config.patch),
            "flat": flat_patches(x, model.config.patch),
        }
        original = to_unit_range(x)
        for name, picture in pictures.items():
            for metric, values in scores(original, to_unit_range(picture)).items():
                found.setdefault(f"{name}/{metric}", []).append(values.double().cpu())
    return {name: torch.cat(values) for name, values in found.items()}


def evaluate_reconstruction(
    model: MaskedAutoencoder, mask: MaskSpec, source: ImageSource, images: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Figure 5 for one model: means over images with bootstrap intervals.

    Args, errors: as :func:`image_scores`.

    Returns:
        PROTOCOL/METRIC → interval, for the same protocols and controls. ``psnr`` is the mean of the
        images' own PSNRs, each at most
        :data:`PSNR_CEILING`.
    """
    return {
        name: bootstrap(values.clamp_max(PSNR_CEILING) if name.endswith("/psnr") else values)
        for name, values in image_scores(model, mask, source, images, seed).items()
    }


def alterations(batch: WorldBatch) -> dict[str, Tensor]:
    """Images of the embedded world with one thing changed in each, to see which of the metrics
    minds.

    Args:
        batch: B images of :meth:`mae_lib.worlds.world.World.sample`, at least two classes among
            them.

    Returns:
        name → float [B, 3, S, S] in [0, 1]. Of the pixels: ``brighter`` (by 0.1) and ``blur``
        (Gaussian, σ of 1/32 of the side). Of the latents, everything else drawn as before, from the
        lowest level to the highest: ``no noise`` and ``other noise`` (of the pixels), ``other
        texture`` (the next one's pattern on the same object), ``moved`` (the object 1/32 of the
        side to the right), ``other shape`` (the parts of the next image of another class, in the
        same place, colours and texture).

    Raises:
        InputError: all images are of one class.
    """
    differ = batch.labels[:, None] != batch.labels[None]
    if not bool(differ.any(1).all()):
        raise InputError(
            "alterations take another image's shape: give images of at least two classes"
        )
    x, size = batch.images.float() / 255, batch.images.shape[-1]
    count = len(x)
    # of each image, how far on every other is
    ahead = (torch.arange(count)[None] - torch.arange(count)[:, None]) % count
    donor = ahead.masked_fill(~differ.cpu(), count).argmin(1).to(x.device)
    drawing = rendering.Drawing(**batch.latents)
    pose = drawing.pose.clone()
    pose[:, 2] += 2 / 32  # in half-images
    redrawn = {
        "no noise": replace(drawing, noise=0.0),
        "other noise": replace(drawing, noise_seed=drawing.noise_seed + 1),
        "other texture": replace(drawing, texture=(drawing.texture + 1) % len(rendering.TEXTURES)),
        "moved": replace(drawing, pose=pose),
        "other shape": replace(drawing, parts=drawing.parts[donor]),
    }
    side = 2 * round(3 * size / 32) + 1
    window = _gaussian(side, size / 32).to(x)
    padded = torch.nn.functional.pad(x, [side // 2] * 4, mode="reflect")
    blur = torch.nn.functional.conv2d(
        padded.flatten(0, 1)[:, None], (window[:, None] * window)[None, None]
    ).view_as(x)
    return {"brighter": (x + 0.1).clamp(0, 1), "blur": blur.clamp(0, 1)} | {
        name: _drawn(changed, size) for name, changed in redrawn.items()
    }


def _drawn(drawing: rendering.Drawing, size: int) -> Tensor:
    x = rendering.pixel_centres(size, drawing.pose.device)
    painted = rendering.paint(drawing, rendering.ground(drawing, x, x), x, x, labelled=False)[0]
    return rendering.to_bytes(painted, drawing.noise_seed, drawing.noise).float() / 255


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    # In float32 the variances, differences of large numbers, cost up to 2e-3 on flat images; in
    # float64 PyTorch's convolution takes 18 ms an image (measured: 64 px, one core). The window is
    # separable, so two products with a band matrix an axis give the same in a tenth of that.
    rows, columns = (_band(n).to(x) for n in x.shape[2:])
    mean_x, mean_y, square_x, square_y, product = (
        rows @ m @ columns.T for m in (x, y, x * x, y * y, x * y)
    )
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * (product - mean_x * mean_y) + c2) / (
        square_x - mean_x**2 + square_y - mean_y**2 + c2
    )
    return (luminance * structure).mean((1, 2, 3))


def _gaussian(side: int, sigma: float) -> Tensor:
    """float64 [side]: a centred Gaussian, its sum 1."""
    place = torch.arange(side, dtype=torch.float64) - side // 2
    weight = torch.exp(-(place**2) / (2 * sigma**2))
    return weight / weight.sum()


def _band(length: int) -> Tensor:
    """float64 [length − 10, length]: row i holds SSIM's window over the places i … i + 10."""
    band = torch.zeros(length - _WINDOW + 1, length, dtype=torch.float64)
    for k, weight in enumerate(_gaussian(_WINDOW, _SIGMA)):
        band.diagonal(k).fill_(float(weight))
    return band


def _check(images: Tensor, reconstructions: Tensor) -> None:
    pair = {"images": images, "reconstructions": reconstructions}
    for name, x in pair.items():
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                f"{name} of type {kind}: the scores take float tensors in [0, 1], for instance"
                " `images.float() / 255`"
            )
        if x.ndim != 4 or not x.shape[1] or not len(x):
            raise InputError(
                f"{name} of shape {list(x.shape)}: the scores take [B, C, H, W], B and C at least 1"
            )
        if min(x.shape[2:]) < _WINDOW:
            raise InputError(
                f"{name} of {x.shape[2]}×{x.shape[3]} px: SSIM's window is {_WINDOW} px, take"
                " images at least that large"
            )
    if images.shape != reconstructions.shape or images.device != reconstructions.device:
        where = [f"{list(x.shape)} on {x.device}" for x in pair.values()]
        raise InputError(
            f"images {where[0]} and reconstructions {where[1]} do not fit together: give one shape"
            " on one device"
        )
    for name, x in pair.items():
        low, high = x.flatten(1).amin(1), x.flatten(1).amax(1)  # NaN if a pixel is
        bad = (~((low >= 0) & (high <= 1))).nonzero().flatten().tolist()
        if bad:
            row = bad[0]
            what = (
                f"values from {float(low[row]):.4g} to {float(high[row]):.4g}"
                if bool(x[row].isfinite().all())
                else "NaN or infinite pixels"
            )
            raise InputError(
                f"row {row} of {name} has {what} ({len(bad)} such): the scores take [0, 1], see"
                " `mae_lib.model.autoencoder.to_unit_range`"
            )
