"""The masked autoencoder (§2.2, eq. 2).

A ViT encoder sees the visible patches only: raw patches are gathered *before* they are embedded, so
hidden pixels never enter the encoder's graph. A light decoder takes the encoded tokens in the order
[CLS], visible, hidden, with a shared mask token and its position standing for each hidden patch,
and predicts the pixels of the hidden patches alone. The loss is their squared error, on raw or
per-patch normalised pixels. Positions are fixed sines and cosines, or stored with weights from
elsewhere. Transformer blocks are timm's.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mae_lib.base.errors import InputError
from mae_lib.masks.masking import complement
from mae_lib.model.sizes import ModelConfig as ModelConfig


def patchify(images: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] → [B, H/p · W/p, C·p·p]: patches in row-major order, each flattened as (C, p,
    p)."""
    b, c, h, w = images.shape
    x = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // patch) * (w // patch), c * patch * patch)


def unpatchify(patches: Tensor, grid: tuple[int, int], channels: int) -> Tensor:
    """[B, rows·columns, C·p·p] → [B, C, H, W]; the inverse of :func:`patchify`."""
    b, _, values = patches.shape
    p = math.isqrt(values // channels)
    x = patches.reshape(b, grid[0], grid[1], channels, p, p)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(b, channels, grid[0] * p, grid[1] * p)


def gather(tokens: Tensor, index: Tensor) -> Tensor:
    """[B, L, D], int64 [B, K] → [B, K, D]: row b of the result is ``tokens[b, index[b]]``.
    InputError for another number of rows."""
    if len(index) != len(tokens):  # torch.gather would drop the other rows without a word
        raise InputError(
            f"a mask of {len(index)} rows for {len(tokens)} images: give every image its own row of"
            " patch indices"
        )
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def normalise_patches(patches: Tensor) -> Tensor:
    """Each patch [.., C·p·p] less its mean, over its (unbiased) standard deviation; 1e-6 under the
    root keeps flat patches finite."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) * torch.rsqrt(variance + 1e-6)


def sincos_positions(width: int, grid: tuple[int, int]) -> Tensor:
    """[rows·columns, width] fixed positions: half of the width for the row, half for the column,
    sines then cosines, wavelengths to 10⁴·2π."""
    frequency = 1e-4 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij"
    )
    angles = [axis.flatten()[:, None] * frequency for axis in (column, row)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


def _blocks(width: int, depth: int, heads: int, config: ModelConfig) -> nn.Sequential:
    norm = partial(LayerNorm, eps=config.norm_eps)
    return nn.Sequential(
        *(
            Block(
                dim=width,
                num_heads=heads,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=True,
                norm_layer=norm,
            )
            for _ in range(depth)
        )
    )


class MaskedAutoencoder(nn.Module):
    """The masked autoencoder of §2.2: encoder E, decoder D, loss of eq. 2.

    Images are float [B, C, H, W] of the config's size, in any finite range; the training loop feeds
    (x − 0.5) / 0.25 of pixels in [0, 1].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.patch_values, config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.encoder = _blocks(config.width, config.depth, config.heads, config)
        self.encoder_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        kept = config.positions == "stored"
        if config.has_decoder:
            width = config.decoder_width
            self.to_decoder = nn.Linear(config.width, width)
            self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
            self.decoder = _blocks(width, config.decoder_depth, config.decoder_heads, config)
            self.decoder_norm = nn.LayerNorm(width, eps=config.norm_eps)
            self.head = nn.Linear(width, config.patch_values)
            self.register_buffer(
                "decoder_position", sincos_positions(width, config.grid), persistent=kept
            )
        self.register_buffer(
            "position", sincos_positions(config.width, config.grid), persistent=kept
        )
        if config.pixel_mean:
            # (0.25 x + 0.5 − mean) / deviation, patch value by patch value
            mean, deviation = (
                torch.tensor(each, dtype=torch.float64).repeat_interleave(config.patch**2)
                for each in (config.pixel_mean, config.pixel_deviation)
            )
            self.register_buffer("pixel_scale", (0.25 / deviation).float(), persistent=False)
            self.register_buffer(
                "pixel_shift", ((0.5 - mean) / deviation).float(), persistent=False
            )
        self.apply(_initialise)
        nn.init.normal_(self.cls_token, std=0.02)
        if config.has_decoder:
            nn.init.normal_(self.mask_token, std=0.02)

    def encode(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        """ĉ = E(x_mᶜ) (§2.2, "MAE encoding").

        Args:
            images: float [B, C, H, W].
            visible: int64 [B, V] patches to see; None sees all of them, in row-major order.

        Returns:
            [B, 1 + V, D]: the [CLS] token, then one token a visible patch, after the final norm.

        Raises:
            InputError: images of another shape than the config's or, on the CPU, with NaN or
                infinite pixels.
        """
        return self._encode(self.patches(images), visible)

    def patches(self, images: Tensor) -> Tensor:
        """float [B, C, H, W] → [B, L, C·p·p] in the weights' own units: what the encoder embeds and
        the loss compares with (before a normalised target). InputError as of :meth:`encode`."""
        return self._own(self._patches(images))

    def decode(self, tokens: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """D(ĉ, ŝ_m) (§2.2, "MAE decoding"): pixels of the patches in ``hidden``.

        Args:
            tokens: [B, 1 + V, D] from :meth:`encode` with the same ``visible``.
            visible: int64 [B, V]; hidden: int64 [B, M].

        Returns:
            [B, M, C·p·p] predicted pixels (normalised ones if the config says so), in the order of
            ``hidden``.
        """
        x = self._decoder_tokens(tokens, visible, hidden)
        return self._pixels(x[:, 1 + visible.shape[1] :])

    def forward(
        self,
        images: Tensor,
        visible: Tensor,
        hidden: Tensor,
        counted: Tensor | None = None,
        shown: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The objective of eq. 2 for a batch of masks.

        Args:
            images: float [B, C, H, W].
            visible, hidden: int64 [B, V] and [B, M] from
                :meth:`mae_lib.masks.masking.MaskSpec.sample`.
            counted: bool [B, 1, H, W], the pixels that the loss is taken over (§3.6); all hidden
                ones where None.
            shown: bool [B, 1, H, W], the pixels that the encoder gets of the visible patches; the
                others are set to 0, mid grey. None: all.

        Returns:
            (loss, prediction): the scalar mean squared error over all counted pixels of the batch,
            and the prediction [B, M, C·p·p].
        """
        patches = self.patches(images)
        seen = patches if shown is None else self.patches(images * shown)
        prediction = self.decode(self._encode(seen, visible), visible, hidden)
        target = gather(patches, hidden)
        if self.config.normalise_target:
            target = normalise_patches(target)
        # under autocast the prediction is bfloat16
        exact = torch.promote_types(prediction.dtype, torch.float32)
        error = (prediction.to(exact) - target.to(exact)).square()
        if counted is None:
            return error.mean(), prediction
        # A batch in which no pixel counts has loss 0 and no gradient.
        weight = (
            gather(patchify(counted, self.config.patch), hidden)
            .to(exact)
            .repeat(1, 1, self.config.channels)
        )
        return (error * weight).sum() / weight.sum().clamp_min(1), prediction

    @torch.no_grad()
    def reconstruct(
        self, images: Tensor, visible: Tensor | Literal["readout", "queried"] = "readout"
    ) -> Tensor:
        """Images as the model rebuilds them: with a mask, or with nothing masked (§3.1) in one of
        two ways.

        Args:
            images: float [B, C, H, W].
            visible: int64 [B, V], the patches to see: the others are predicted from mask tokens and
                pasted into the original. Or a name, and the encoder sees the whole image.
                ``readout``, what the public MAE code does when told to mask nothing: the decoder
                gets the encoded tokens and no mask token, and its head is read at each patch's own
                token; training never asked anything of these outputs. ``queried``: the decoder gets
                a mask token at every position beside all encoded tokens, and its head is read at
                the mask tokens, as in training; only that there a position holds the one or the
                other, never both.

        Returns:
            [B, C, H, W] in the images' range. A normalised prediction is put back with the *true*
            patch's mean and deviation, which no user of the model has: such pictures are for
            looking at, and flatter any pixel metric.

        Raises:
            InputError: another name, a mask that does not fit, an encoder without a decoder, or
                images that :meth:`encode` refuses.
        """
        given = self._patches(images)
        patches = self._own(given)
        everything = torch.arange(patches.shape[1], device=images.device).expand(
            images.shape[0], -1
        )
        if isinstance(visible, Tensor):
            shown = complement(visible, patches.shape[1])
            prediction = self.decode(self._encode(patches, visible), visible, shown)
        elif visible == "readout":
            shown = everything
            prediction = self._pixels(
                self._decoder_tokens(self._encode(patches, None), everything, everything[:, :0])[
                    :, 1:
                ]
            )
        elif visible == "queried":
            shown = everything
            prediction = self.decode(self._encode(patches, None), everything, everything)
        else:
            raise InputError(
                f"images cannot be rebuilt from {visible!r}: give the visible patches, int64 [B,"
                " V], or 'readout' or 'queried'"
            )
        if self.config.normalise_target:
            variance, mean = torch.var_mean(gather(patches, shown), dim=-1, keepdim=True)
            prediction = prediction * (variance + 1e-6).sqrt() + mean
        if self.config.pixel_mean:
            prediction = (prediction - self.pixel_shift) / self.pixel_scale
        filled = given.scatter(
            1, shown.unsqueeze(-1).expand(-1, -1, given.shape[-1]), prediction.to(given.dtype)
        )
        return unpatchify(filled, self.config.grid, self.config.channels)

    def _patches(self, images: Tensor) -> Tensor:
        expected = (self.config.channels, *self.config.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise InputError(
                f"images of shape {list(images.shape)}: this model takes [B, {expected[0]},"
                f" {expected[1]}, {expected[2]}]"
            )
        if not images.is_floating_point():
            raise InputError(
                f"images of type {images.dtype}: give floats, for instance"
                " `normalise_pixels(images)`"
            )
        # On a GPU the check would wait for the device in every step; there the training loop's loss
        # check finds the step.
        if (
            images.device.type == "cpu"
            and not torch.compiler.is_compiling()
            and not math.isfinite(float(images.detach().sum()))
        ):
            bad = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            if bad:
                raise InputError(
                    f"image {bad[0]} of the batch has NaN or infinite pixels ({len(bad)} such):"
                    " clean or drop it"
                )
        return patchify(images, self.config.patch)

    def _own(self, patches: Tensor) -> Tensor:
        """Patches as images are given, in the weights' own units."""
        return patches * self.pixel_scale + self.pixel_shift if self.config.pixel_mean else patches

    def _encode(self, patches: Tensor, visible: Tensor | None) -> Tensor:
        position = self.position
        if visible is None:
            x = self.embed(patches) + position
        else:
            x = self.embed(gather(patches, visible)) + position[visible]
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.encoder_norm(self.encoder(x))

    def _decoder_tokens(self, tokens: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """[B, 1 + V + M, decoder width] after the decoder's blocks, in the order [CLS], visible,
        hidden."""
        self.config.require_decoder()
        x = self.to_decoder(tokens)
        position = self.decoder_position.to(x.dtype)
        seen = x[:, 1:] + position[visible]
        masked = self.mask_token + position[hidden]
        return self.decoder(torch.cat([x[:, :1], seen, masked], dim=1))

    def _pixels(self, tokens: Tensor) -> Tensor:
        """[B, K, decoder width] → [B, K, C·p·p]."""
        return self.head(self.decoder_norm(tokens))


def training_flops(config: ModelConfig, visible_patches: int) -> float:
    """Floating-point operations to train on one image (forward and backward, counted as three
    forwards; multiply and add are two).

    Counts matrix products only: 24·n·D² + 4·n²·D a block of n tokens (at mlp_ratio 4), the
    embedding of the visible patches, the bridge to the decoder, and the head on the hidden patches.
    """
    patches = config.grid[0] * config.grid[1]

    def blocks(tokens: int, width: int, depth: int) -> float:
        return depth * ((8 + 4 * config.mlp_ratio) * tokens * width**2 + 4 * tokens**2 * width)

    forward = (
        blocks(visible_patches + 1, config.width, config.depth)
        + blocks(patches + 1, config.decoder_width, config.decoder_depth)
        + 2 * visible_patches * config.patch_values * config.width
        + 2 * (visible_patches + 1) * config.width * config.decoder_width
        + 2 * (patches - visible_patches) * config.decoder_width * config.patch_values
    )
    return 3 * forward


def normalise_pixels(images: Tensor) -> Tensor:
    """uint8 in [0, 255] (or float in [0, 1]) → float (x − 0.5) / 0.25, what models here are trained
    on."""
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    return (x - 0.5) / 0.25


def to_unit_range(images: Tensor) -> Tensor:
    """The inverse of :func:`normalise_pixels`, clipped to [0, 1]: what figures and metrics take."""
    return (images * 0.25 + 0.5).clamp(0, 1)


def _initialise(module: nn.Module) -> None:
    # Meta's MAE and timm: Xavier-uniform matrices, zero biases.
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
