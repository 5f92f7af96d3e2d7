"""Models of any kind on disk: weights and record as one pair, whole or not there, found by the
config's hash, never replaced."""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.files import DamagedFile, cache_directory, set_aside, write_json
from mae_lib.base.records import refusal
from mae_lib.base.tensors import read_safetensors, write_safetensors


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
