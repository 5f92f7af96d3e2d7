"""What ``mae show`` does: reads a checkpoint and images, lets the model work on them, and writes
one picture of it."""

from __future__ import annotations

import torch

from mae_lib.base.errors import InputError
from mae_lib.base.files import TakenName, write_atomically
from mae_lib.commands.common import one_checkpoint
from mae_lib.commands.options import Show
from mae_lib.data.formats.decoding import decode
from mae_lib.drawing.model_figures import attended, rebuilt
from mae_lib.masks.masking import MaskSpec
from mae_lib.training.pretrain import resolve_device
from mae_lib.training.store import Checkpoint

DOTS = 200
"""Of the picture, per inch."""


def run(options: Show) -> int:
    """``mae show``: the exit status."""
    what, out = options.what, options.out.expanduser()
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: give the picture a name that ends in .png")
    if out.exists():
        raise TakenName(f"{out} is there already, and is not replaced: give another name")
    if not options.image:
        raise InputError("no image was named: give --image one file or more")
    stored = one_checkpoint(options.checkpoint)
    model = stored.config.model
    if model.channels not in (1, 3):
        raise InputError(
            f"{stored.path.name} takes images of {model.channels} channels, which make no picture:"
            " show a model of 1 or 3"
        )
    # all that may be wrong is found before the weights are read
    specs = {} if what == "attention" else _masks(stored, options.ratio, options.unit)
    if what == "reconstruction":
        model.require_decoder()
    shape, where = (model.channels, *model.image_size), resolve_device(options.device)
    images = torch.stack([torch.tensor(decode(file, shape, 1)) for file in options.image])
    if what == "attention":
        figure = attended(stored.load(where), images, options.layer)
    else:
        loaded = stored.load(where) if what == "reconstruction" else None
        figure = rebuilt(images, specs, loaded, options.seed)
    write_atomically(out, lambda file: figure.savefig(file, format="png", dpi=DOTS), replace=False)
    print(out)
    if what == "reconstruction" and model.normalise_target:
        print(
            "this model predicts normalised patches: their true means and deviations are put back"
        )
    return 0


def _masks(
    checkpoint: Checkpoint, ratios: tuple[float, ...], unit: int | None
) -> dict[str, MaskSpec]:
    """Row title → law of its masks."""
    config = checkpoint.config
    if not ratios and config.ratio is None:
        raise InputError(
            f"nobody knows at which masking ratio {config.name} was trained: give --ratio"
        )
    patch, unit = config.model.patch, unit or config.unit
    if unit % patch:
        raise InputError(f"--unit {unit} is not a multiple of the {patch} px ViT patch: choose one")
    return {
        f"ratio {r:g}": MaskSpec(config.model.grid, r, unit // patch)
        for r in ratios or (config.ratio,)
    }
