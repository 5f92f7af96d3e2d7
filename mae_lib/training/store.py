"""Checkpoints: find one, load it, else train it.

A checkpoint is two files named by run and config hash: ``NAME-HASH.safetensors`` with the weights
and ``NAME-HASH.json`` with how they were made (config, tier, loss curve, command, hardware,
minutes, versions). The pair counts only if the weights' digest is the one the JSON states; a
damaged file is named, renamed to ``….damaged`` and never used. No file is replaced. Two processes
that want the same checkpoint train it once.
"""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import filelock
import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.files import DamagedFile, cache_directory, remove_parts, set_aside, write_json
from mae_lib.base.image_source import ImageSource
from mae_lib.base.provenance import provenance
from mae_lib.base.records import refusal
from mae_lib.base.tensors import read_safetensors, write_safetensors
from mae_lib.model.autoencoder import MaskedAutoencoder
from mae_lib.training import distributed
from mae_lib.training.imported import ImportedConfig
from mae_lib.training.pretrain import Trained, pretrain, resolve_device
from mae_lib.training.tiers import PretrainConfig, Tier
from mae_lib.worlds.world import World

CURVE_POINTS = 120


def search_path() -> list[Path]:
    """Folders searched for a checkpoint, in order: those in the project's own ``checkpoints/`` (in
    a clone), then the cache."""
    shipped = sorted((Path(__file__).resolve().parents[2] / "checkpoints").glob("*/"))
    return [folder for folder in (*shipped, cache_directory() / "checkpoints") if folder.is_dir()]


@dataclass(frozen=True)
class Stored(ABC):
    """A model on disk: its weights file, and its record (config, digest, tier, curve, seconds,
    provenance). What kinds of models share."""

    path: Path
    record: dict
    what: ClassVar[str]  # the kind, in words
    mark: ClassVar[str]  # what the configs of this kind have, and no others

    @property
    def config(self):
        """What was trained."""
        return self.config_of(self.record["config"])

    @staticmethod
    @abstractmethod
    def config_of(values: dict):
        """The config that a record holds; InputError where it is none."""

    @abstractmethod
    def fresh(self) -> torch.nn.Module:
        """A model of the config, before its weights are loaded."""

    def load(self, device: str | torch.device = "cpu"):
        """The model, in eval mode; DamagedFile if the weights are not those of the record."""
        tensors, metadata = read_safetensors(self.path)
        if metadata["digest"] != self.record["digest"]:
            raise DamagedFile(
                f"{self.path} is damaged: its weights are not those that its .json records"
            )
        model = self.fresh()
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise DamagedFile(
                f"{self.path} does not hold the {self.what} of its config: {error}"
            ) from error
        return model.to(device).eval()


Kind = TypeVar("Kind", bound=Stored)


class OtherKind(InputError):
    """A JSON file that is whole, and not a record of this kind of model."""


def read_stored(kind: type[Kind], path: str | Path) -> Kind:
    """The model at ``path`` (its .safetensors or .json). InputError if one of the two is missing;
    OtherKind if the record is of something else; DamagedFile if it is unreadable."""
    record = Path(path).with_suffix(".json")
    weights = record.with_suffix(".safetensors")
    for file in (weights, record):
        if not file.is_file():
            raise InputError(f"no {kind.what} at {path}: {file.name} is missing")
    try:
        contents = json.loads(record.read_text(encoding="utf-8"))
        if _is_another(kind, contents):
            raise OtherKind(f"{record} is no {kind.what}'s record: name one that is, or its folder")
        kind.config_of(contents["config"])
        _ = contents["digest"], contents["curve"]["step"]
    except OtherKind:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{record} is damaged: {error}") from error
    return kind(weights, contents)


def _is_another(kind: type[Stored], contents: dict) -> bool:
    """Whether a record is one of measures, or of another kind of model."""
    return "measures" in contents or kind.mark not in contents["config"]


def stored_in(kind: type[Kind], folder: str | Path) -> list[Kind]:
    """Every model of a kind in ``folder``, by name; all else there is passed over, and half a pair
    too. DamagedFile if the record of a pair is unreadable."""
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        if path.with_suffix(".safetensors").is_file():
            with suppress(OtherKind):
                found.append(read_stored(kind, path))
    return found


def require_free(kind: type[Stored], config, folder: Path) -> None:
    """InputError if the model of ``config`` cannot be stored in ``folder`` because what lies under
    its name there is neither this model nor a part of it: nothing that another command wrote is
    replaced. To be asked before the training, so that none is lost."""
    path = folder / f"{config.name}-{config.hash}.json"
    if folder.resolve() == (cache_directory() / "states").resolve():
        raise InputError(f"{folder} is where unfinished trainings are kept: give another folder")
    if not path.exists():
        return
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        own = not _is_another(kind, contents) and "curve" in contents and "digest" in contents
    except (ValueError, KeyError, TypeError):
        contents, own = None, False
    if not own or ("held_out" in contents and not path.with_suffix(".safetensors").exists()):
        raise InputError(refusal(path, contents))


def store_model(
    kind: type[Kind], model: torch.nn.Module, config, folder: Path, record: dict
) -> Kind:
    """Stores a model under its config's name: weights, then the record, each whole or not at all.

    No file is replaced. What a kill between the two left of the same weights is completed; any
    other half of a pair is set aside, with a warning. InputError as in :func:`require_free`.
    """
    require_free(kind, config, folder)
    path, tensors = folder / f"{config.name}-{config.hash}.safetensors", dict(model.state_dict())
    for left in (path, path.with_suffix(".json")):
        if left.exists() and not (left == path and _same_weights(path, tensors)):
            what = f"{left} was half of a {kind.what}. Set aside as {set_aside(left).name}"
            warnings.warn(f"{what}; it will not be used.", stacklevel=3)
    if path.exists():
        digest = read_safetensors(path)[1]["digest"]
    else:
        digest = write_safetensors(path, tensors, {"config": config.hash}, replace=False)
    record = {"name": config.name, "hash": config.hash, "digest": digest} | record
    write_json(path.with_suffix(".json"), record, replace=False)
    return kind(path, record)


def _same_weights(path: Path, tensors: dict[str, Tensor]) -> bool:
    try:
        there, _ = read_safetensors(path)
    except DamagedFile:
        return False
    pairs = [(there.get(name), tensor.cpu()) for name, tensor in tensors.items()]
    return len(there) == len(pairs) and all(a is not None and torch.equal(a, b) for a, b in pairs)


def find_stored(kind: type[Kind], config, folders: Iterable[Path]) -> Kind | None:
    """The model of ``config`` in the first of ``folders`` that holds it whole, or None. A damaged
    one is set aside with a warning."""
    for path in (folder / f"{config.name}-{config.hash}.json" for folder in folders):
        if not path.exists():
            continue
        try:
            found = read_stored(kind, path)
            if found.config.hash != config.hash:
                raise DamagedFile(f"{path} is damaged: its config is not the one its name states")
            found.load()
            return found
        except DamagedFile as error:
            kept = [
                set_aside(file).name
                for file in (path, path.with_suffix(".safetensors"))
                if file.exists()
            ]
            warnings.warn(
                f"{error}. Set aside as {' and '.join(kept)}; it will not be used.", stacklevel=3
            )
        except InputError:
            continue  # half of a pair: copied incompletely, or being written
    return None


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
