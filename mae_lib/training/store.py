"""Checkpoints: find one, load it, else train it.

A checkpoint is two files named by run and config hash: ``NAME-HASH.safetensors`` with the weights
and ``NAME-HASH.json`` with how they were made (config, tier, loss curve, command, hardware,
minutes, versions). The pair counts only if the weights' digest is the one the JSON states; a
damaged file is named, renamed to ``….damaged`` and never used. No file is replaced. Two processes
that want the same checkpoint train it once.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import filelock
import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.files import DamagedFile, cache_directory, remove_parts, set_aside
from mae_lib.base.image_source import ImageSource
from mae_lib.base.provenance import provenance
from mae_lib.model.autoencoder import MaskedAutoencoder
from mae_lib.training import distributed
from mae_lib.training.config import ImportedConfig, PretrainConfig
from mae_lib.training.loop import Trained
from mae_lib.training.pretrain import pretrain, resolve_device
from mae_lib.training.stored import (
    Stored,
    find_stored,
    read_stored,
    require_free,
    search_path,
    store_model,
    stored_in,
)
from mae_lib.training.tiers import Tier
from mae_lib.worlds.world import World

CURVE_POINTS = 120


@dataclass(frozen=True)
class Checkpoint(Stored):
    """A stored masked autoencoder: one pretrained here, or imported (then its config is an
    `ImportedConfig`, and its curve is empty)."""

    what = "checkpoint"
    mark = "ratio"

    @staticmethod
    def config_of(values: dict) -> PretrainConfig | ImportedConfig:
        return (ImportedConfig if "source" in values else PretrainConfig).from_dict(values)

    def fresh(self) -> MaskedAutoencoder:
        return MaskedAutoencoder(self.config.model)

    @property
    def curve(self) -> tuple[list[int], list[float]]:
        """(steps, mean loss since the previous point)."""
        return self.record["curve"]["step"], self.record["curve"]["loss"]

    def late_fall(self) -> float:
        """How much the mean loss fell from the last but one tenth of training to the last, as a
        share: near 0 when it has flattened."""
        losses = self.curve[1]
        if not losses:
            raise InputError(f"{self.path.name} was imported: nothing is known of its training")
        tenth = max(1, len(losses) // 10)
        before, last = losses[-2 * tenth : -tenth] or losses[:1], losses[-tenth:]
        return 1 - (sum(last) / len(last)) / (sum(before) / len(before))


def read(path: str | Path) -> Checkpoint:
    """The checkpoint at ``path``: see :func:`read_stored`."""
    return read_stored(Checkpoint, path)


def checkpoints(folder: str | Path) -> list[Checkpoint]:
    """Every checkpoint in ``folder``: see :func:`stored_in`."""
    return stored_in(Checkpoint, folder)


def named(stem: str) -> Checkpoint:
    """The checkpoint of a bare name such as ``r75-u8-p8-s0-2391451bcc21ff69`` in the first folder
    of the search path that holds it; InputError if none does."""
    for folder in search_path():
        if (folder / f"{stem}.json").is_file():
            return read(folder / f"{stem}.json")
    raise InputError(
        f"there is no checkpoint {stem} in checkpoints/ or in the cache: give a path, or make it by"
        " `mae pretrain`"
    )


def checkpoint_at(where: str | Path) -> Checkpoint:
    """The checkpoint of a path (its .safetensors or .json), or of a bare name as :func:`named`
    takes it."""
    path = Path(where).expanduser()
    bare = (
        path.parent == Path() and not path.exists() and path.suffix not in (".safetensors", ".json")
    )
    return named(str(where)) if bare else read(path)


def load(where: str | Path, device: str | torch.device = "cpu") -> MaskedAutoencoder:
    """The model of a checkpoint, in eval mode; ``where`` as in :func:`checkpoint_at`."""
    return checkpoint_at(where).load(device)


def find(config: PretrainConfig, folders: list[Path] | None = None) -> Checkpoint | None:
    """The checkpoint of ``config`` in ``folders`` (default: the search path), or None: see
    :func:`find_stored`."""
    return find_stored(Checkpoint, config, search_path() if folders is None else folders)


def save(
    trained: Trained, config: PretrainConfig, folder: Path, tier: str = "custom"
) -> Checkpoint:
    """Stores a finished run in ``folder``: see :func:`store_model`."""
    device = next(trained.model.parameters()).device
    record = {
        "tier": tier,
        "config": config.to_dict(),
        "seconds": round(trained.seconds, 1),
        "images_per_second": round(config.steps * config.batch / max(trained.seconds, 1e-9), 1),
        "curve": thin_curve(trained.losses),
        **provenance(device),
    }
    return store_model(Checkpoint, trained.model, config, folder, record)


def continuing(sizes: Tier, start: Checkpoint) -> Tier:
    """The tier ``sizes`` with the model of ``start``, for configs that go on from its weights
    (``start=start.record["digest"]``); a decoder of the tier's where ``start`` has none."""
    model, own = start.config.model, sizes.model
    if not model.has_decoder:
        model = replace(
            model,
            decoder_width=own.decoder_width,
            decoder_depth=own.decoder_depth,
            decoder_heads=own.decoder_heads,
            normalise_target=own.normalise_target,
        )
    return replace(sizes, model=model, small_patch=model.patch)


def thin_curve(losses: Tensor, points: int = CURVE_POINTS) -> dict[str, list]:
    """At most ``points`` pairs of step (from 1, the last of its stretch) and mean loss over the
    stretch."""
    stretches = losses.double().tensor_split(min(points, len(losses)))
    ends = torch.tensor([len(s) for s in stretches]).cumsum(0).tolist()
    return {"step": ends, "loss": [round(float(s.mean()), 6) for s in stretches]}


def load_or_pretrain(
    config: PretrainConfig,
    source: ImageSource | None = None,
    *,
    start: Checkpoint | None = None,
    device: str = "auto",
    folder: str | Path | None = None,
    tier: str = "custom",
    progress: bool = True,
    save_every: float = 60.0,
    accumulate: int = 1,
    compiled: bool | None = None,
) -> MaskedAutoencoder:
    """The model of ``config``: loaded if it is stored anywhere on the search path, else trained (or
    its training resumed) and stored.

    Args:
        config: what to have. source: its images, needed for training on a folder; the embedded
            world's are made if None. start: the checkpoint of ``config.start``, needed for training
            where it has one.
        device: where the model is to be. folder: the only place to look in and to store in;
            default: look along the search path, store in the cache. tier: a note in its record.
        save_every: seconds between resumable states. accumulate, compiled: see
            :func:`mae_lib.pretrain.pretrain`.

    Raises:
        InputError: nothing is stored and ``source`` is missing. TrainingDiverged: see
            :func:`mae_lib.pretrain.pretrain`.
    """
    found = obtain(
        config,
        source,
        start=start,
        device=device,
        folder=folder,
        tier=tier,
        progress=progress,
        save_every=save_every,
        accumulate=accumulate,
        compiled=compiled,
    )
    return found.load(resolve_device(device))


def obtain(
    config: PretrainConfig,
    source: ImageSource | None = None,
    *,
    start: Checkpoint | None = None,
    device: str = "auto",
    folder: str | Path | None = None,
    tier: str = "custom",
    progress: bool = True,
    save_every: float = 60.0,
    accumulate: int = 1,
    compiled: bool | None = None,
) -> Checkpoint:
    """As :func:`load_or_pretrain`, but gives the checkpoint with its record. Under `torchrun` every
    process calls it; the first one locks and stores."""
    folders = None if folder is None else [Path(folder)]
    first = distributed.rank() == 0
    found = find(config, folders) if first else None
    if distributed.first_says(lambda: found is not None):
        return found or _stored(config, folders)
    target = cache_directory() / "checkpoints" if folder is None else Path(folder)
    require_free(Checkpoint, config, target)
    if (None if start is None else start.record["digest"]) != config.start:
        given = "none was given" if start is None else f"{start.path.name} was given"
        raise InputError(
            f"{config.name} goes on from {'no' if config.start is None else 'another'} checkpoint,"
            f" and {given}: give the one whose digest the config's `start` is"
        )
    if source is None:
        source = world_of(config, resolve_device(device))
    states = cache_directory() / "states"
    states.mkdir(parents=True, exist_ok=True)
    state = states / f"{config.name}-{config.hash}.safetensors"
    with filelock.FileLock(state.with_suffix(".lock")) if first else nullcontext():
        # Another process may have trained it while this one waited.
        if not distributed.first_says(lambda: find(config, folders) is not None):
            if first:
                for file in (state, target / state.name, target / f"{state.stem}.json"):
                    remove_parts(file)
            distributed.first_says(lambda: None)
            trained = _train(
                config,
                source,
                state,
                start=None if start is None else start.load(),
                device=device,
                progress=progress,
                save_every=save_every,
                accumulate=accumulate,
                compiled=compiled,
            )
            if first:
                save(trained, config, target, tier)
                state.unlink(missing_ok=True)
        distributed.first_says(lambda: None)  # the others wait until it is stored
    return _stored(config, folders)


def _stored(config: PretrainConfig, folders: list[Path] | None) -> Checkpoint:
    """What the first process has found or stored."""
    found = find(config, folders)
    if found is None:
        raise InputError(
            f"{config.name} was stored by the first process and cannot be read here: $MAE_CACHE or"
            " --out must be on a disk that all machines share"
        )
    return found


def _train(config: PretrainConfig, source: ImageSource, state: Path, **arguments) -> Trained:
    arguments["state"] = state
    try:
        return pretrain(config, source, **arguments)
    except DamagedFile as error:
        if distributed.world() > 1:
            raise  # the processes would set it aside one after another
        warnings.warn(
            f"{error}. Set aside as {set_aside(state).name}; training starts over.", stacklevel=3
        )
        return pretrain(config, source, **arguments)


def world_of(config: PretrainConfig, device: torch.device | str = "cpu") -> World:
    """The embedded world's images that ``config`` names; InputError if it names a folder, or
    another version of the world."""
    if config.data.get("kind") != "world":
        raise InputError(
            f"{config.name} was trained on a folder of images: open that folder and give it as"
            " `source`"
        )
    return World.named(config.data, str(device))
