"""Options of ``mae import``: weights from elsewhere, made a checkpoint by
:mod:`mae_lib.commands.import_weights`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Import:
    """Make a checkpoint of weights from elsewhere: timm's MAE ViTs, transformers' ViTMAE, and the
    files of Meta's own code. Its features, reconstructions and loss are the source's; everything
    here that reads a checkpoint reads it.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """a .safetensors of timm's, a folder of transformers or timm (config.json and
    model.safetensors), or a .pth of Meta's"""
    out: Path
    """folder for the checkpoint"""
    pickled: bool = False
    """open a .pth or .bin, which is a pickle: only if you trust where it is from; its tensors alone
    are read"""
    image_size: str | None = None
    """HEIGHTxWIDTH in pixels, if not the source's own: positions are interpolated"""
    patch: int | None = None
    """ViT patch in pixels, if not the source's own: the patch embedding is resampled (of an encoder
    alone)"""
    encoder_only: bool = False
    """leave the decoder out"""
    ratio: float | None = None
    """masking ratio of its training, where you know it and the source does not say"""
    normalise_target: bool | None = None
    """whether its decoder predicts normalised patches (norm_pix_loss), where the source does not
    say"""
    heads: int | None = None
    """attention heads of the encoder, where the source does not say; known for ViT-B, -L and -H"""
    decoder_heads: int | None = None
    """attention heads of the decoder, where the source does not say; known for MAE's own, 8 blocks
    of width 512"""
    mean: tuple[float, ...] = ()
    """of the pixels in [0, 1] that it was given, a number a channel; default: the source's, else
    ImageNet's"""
    deviation: tuple[float, ...] = ()
    """the same, of their standard deviation"""

    def run(self) -> int:
        from mae_lib.commands.import_weights import run

        return run(**vars(self))
