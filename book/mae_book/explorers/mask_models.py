"""The models of the explorer in which a mask is drawn: pretrainings of the embedded world in half
precision, with linear readouts of what their code of the visible patches holds, and the errors of
these. ``python -m mae_book.explorers.mask_models FOLDER …`` makes the file from checkpoints.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.tensors import read_safetensors, write_safetensors
from mae_lib.evaluation.latents import LATENTS, balanced, ridge, world_latents
from mae_lib.evaluation.probe import train_probe
from mae_lib.masks.masking import MaskSpec
from mae_lib.model.autoencoder import MaskedAutoencoder, normalise_pixels
from mae_lib.training.config import PretrainConfig
from mae_lib.training.store import Checkpoint, checkpoints
from mae_lib.worlds.world import World

FILE = "mask_models.safetensors"

RATIOS = (0.1, 0.75, 0.9)
"""The masking ratios of the sweep that are kept: both ends and the paper's best."""

READ = {"class": 10, "texture": 10, "position": 2, "scale": 1, "turn": 1}
"""Latent of `mae_lib.evaluation.latents` → how many outputs its readout has."""

SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
"""Shares of patches hidden that the readouts are fitted over, and that each error is told for."""

TRAIN, TEST = 24_000, 2_000
"""Images that a readout is fitted on, each under one mask, and held-out ones, each under one mask
of every share."""

UNITS = {"position": 32.0, "scale": 1.0, "turn": 180 / math.pi}
"""Latent → the factor that its errors are told in: pixels, half-images per object unit, degrees."""


@dataclass(frozen=True, eq=False)
class MaskModel:
    """One model.

    Attributes:
        config: of its pretraining. weights: float16, by parameter. readout: float32 [1 + D, K], the
            bias first, K the outputs of `READ`. errors: latent → its error on held-out images at
            each of `SHARES`: accuracy in [0, 1] of a class, else root mean square in `UNITS`.
            spread: what guessing gives, in the same. origin: the checkpoint's file, whose name
            holds the hash of its config.
    """

    config: PretrainConfig
    weights: Mapping[str, Tensor]
    readout: Tensor
    errors: Mapping[str, Sequence[float]]
    spread: Mapping[str, float]
    origin: str

    @property
    def length(self) -> str:
        return f"{self.config.steps}x{self.config.batch}"

    @cache  # noqa: B019 (a handful of models for a process's life)
    def model(self) -> MaskedAutoencoder:
        """The model, its weights rounded to half precision, in eval mode."""
        model = MaskedAutoencoder(self.config.model).eval()
        model.load_state_dict({name: w.float() for name, w in self.weights.items()})
        return model


def code(model: MaskedAutoencoder, images: Tensor, visible: Tensor) -> Tensor:
    """[B, D]: the mean over the visible patches' tokens of uint8 images [B, C, H, W]."""
    with torch.no_grad():
        return model.encode(normalise_pixels(images), visible)[:, 1:].mean(1)


def codes(model: MaskedAutoencoder, world: World, index: Tensor, share: float) -> Tensor:
    """[N, D] of images under masks of one share, a mask an image."""
    generator, found = torch.Generator().manual_seed(round(100 * share)), []
    grid = model.config.grid
    for some in index.split(500):
        if share:
            visible = MaskSpec(grid, share).sample(len(some), generator)[0]
        else:
            visible = torch.arange(grid[0] * grid[1]).expand(len(some), -1)
        found.append(code(model, world.images(some), visible))
    return torch.cat(found)


def fit(checkpoint: Checkpoint, train: int = TRAIN, test: int = TEST) -> MaskModel:
    """A checkpoint in half precision and its readouts, by the evaluation of the latents (a probe of
    a class, ridge regression of a number), fitted over all `SHARES` at once."""
    config, weights = checkpoint.config, checkpoint.load().state_dict()
    half = {name: weight.half() for name, weight in weights.items()}
    bare = MaskModel(config, half, torch.empty(0), {}, {}, checkpoint.path.stem)
    model = bare.model()
    fitted, held = World("train", 64), World("validation", 64)
    parts = torch.arange(train).view(-1, len(SHARES)).T  # each image at one share
    features = torch.cat([codes(model, fitted, p, s) for p, s in zip(parts, SHARES)])
    latents = world_latents(fitted, parts.flatten())
    truth = world_latents(held, range(test))
    scored = {share: codes(model, held, torch.arange(test), share) for share in SHARES}
    columns, errors, spread = [], {}, {}
    for name, outputs in READ.items():
        if LATENTS[name].classes:
            rows, of = torch.arange(len(features)), torch.arange(test)
            if name == "texture":  # seven in ten have their class's own
                rows, of = (balanced(each["class"], each[name]) for each in (latents, truth))
            found = train_probe(features[rows], latents[name][rows], outputs, device="cpu")
            right = lambda x, of=of, p=found, y=truth[name]: (p.predict(x[of]) == y[of]).double()
            errors[name] = [float(right(x).mean()) for x in scored.values()]
            spread[name] = LATENTS[name].chance
        else:
            found = ridge(features, latents[name])
            off = lambda y, u=UNITS[name]: u * float(y.double().square().sum(1).mean().sqrt())
            errors[name] = [off(found(x) - truth[name]) for x in scored.values()]
            spread[name] = off(truth[name] - latents[name].mean(0))
        weight = found.weight.double() / found.scale.double()[:, None]
        bias = found.bias.double() - found.centre.double() @ weight
        columns.append(torch.cat([bias[None], weight]))
    readout = torch.cat(columns, 1).float()
    return MaskModel(config, half, readout, errors, spread, checkpoint.path.stem)


def write(models: Iterable[MaskModel], path: Path) -> None:
    """The models as one file, which :func:`shipped` reads."""
    tensors, heads = {}, {}
    for model in models:
        stem = model.origin
        tensors |= {f"{stem}/{name}": weight for name, weight in model.weights.items()}
        tensors[f"{stem}/readout"] = model.readout
        heads[stem] = {"config": model.config.to_dict(), "errors": model.errors}
        heads[stem]["spread"] = model.spread
    write_safetensors(path, tensors, {"models": json.dumps(heads)})


def shipped() -> list[MaskModel]:
    """The models of the package, shorter trainings first, then by ratio."""
    file = resources.files("mae_book.explorers").joinpath("assets", FILE)
    with resources.as_file(file) as path:
        tensors, metadata = read_safetensors(path)
    found = []
    for stem, head in json.loads(metadata["models"]).items():
        own = {k.partition("/")[2]: v for k, v in tensors.items() if k.startswith(f"{stem}/")}
        config = PretrainConfig.from_dict(head["config"])
        readout = own.pop("readout")
        found.append(MaskModel(config, own, readout, head["errors"], head["spread"], stem))
    return sorted(found, key=lambda m: (m.config.steps, m.config.ratio))


def main(folders: Sequence[str]) -> None:
    """The first seed in each folder, at `RATIOS`, with units of one patch. What is shipped was made
    from ``checkpoints/world`` and ``checkpoints/world-9600x16``, which is in the history at commit
    78ac3c1."""
    torch.set_num_threads(1)
    kept = []
    for folder in folders:
        alike = [run for run in checkpoints(folder) if run.config.unit == run.config.model.patch]
        least = min(run.config.seed for run in alike)
        chosen = {run.config.ratio: run for run in alike
                  if run.config.seed == least and run.config.model.patch == 8}  # fmt: skip
        if missing := set(RATIOS) - set(chosen):
            raise InputError(f"{folder} holds no model of ratio {min(missing)} and seed {least}")
        for ratio in RATIOS:
            kept.append(fit(chosen[ratio]))
            print(kept[-1].origin, kept[-1].errors, kept[-1].spread, flush=True)
    write(kept, Path(__file__).parent / "assets" / FILE)


if __name__ == "__main__":
    main(sys.argv[1:])
