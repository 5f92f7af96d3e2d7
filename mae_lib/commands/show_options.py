"""Options of ``mae show``: one picture of what a model makes of images, drawn by
:mod:`mae_lib.commands.show`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Show:
    """Draw one picture: what a model rebuilds of images (reconstruction), where its encoder looks
    (attention), or which patches are hidden (mask).
    """

    what: Annotated[
        Literal["reconstruction", "attention", "mask"],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="WHAT"),
    ]
    """reconstruction, attention or mask"""
    checkpoint: Path
    """a checkpoint (its .safetensors or .json), or a bare name (NAME-HASH) of what is in
    checkpoints/ or in the cache"""
    image: tuple[Path, ...]
    """files of images; each is resized, and cut about its centre, to the model's own shape"""
    out: Path
    """the picture, a .png that is not there yet"""
    ratio: tuple[float, ...] = ()
    """masking ratios, a row each; default: the model's own"""
    unit: int | None = None
    """mask unit in pixels, a multiple of the ViT patch; default: the model's own"""
    layer: int = -1
    """the encoder block whose attention is drawn, counted from 0, or from the end: -1 is the
    last"""
    seed: int = 0
    """of the masks"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""

    def run(self) -> int:
        from mae_lib.commands.show import run

        return run(**vars(self))
