"""What several subcommands check before they begin."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from mae_lib.base.errors import InputError
from mae_lib.base.files import cache_directory
from mae_lib.training.store import Checkpoint, checkpoint_at, checkpoints


def use_threads(threads: int) -> None:
    """Gives PyTorch that many CPU threads; InputError below 1."""
    if threads < 1:
        raise InputError(f"--threads {threads} must be at least 1")
    torch.set_num_threads(threads)


def require_places(models: Path, results: Path | None) -> None:
    """InputError, before the training and not after it, where models, results or the cache could
    not be written, or where models and results are to go into one folder; makes nothing."""
    for folder in (models, results, cache_directory()):
        if folder is not None:
            require_writable(folder)
    if results is not None and models.resolve() == results.resolve():
        what = (
            f"models and results cannot both go to {results}, where their files would have one name"
        )
        raise InputError(f"{what}: give --out and --results a folder each")


def require_writable(folder: Path) -> None:
    """InputError if nothing can be written in ``folder``; makes nothing."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot write in {folder}: {there} is no folder that you may write in; choose another"
        )


def named_checkpoints(paths: tuple[Path, ...]) -> list[Checkpoint]:
    """All that ``paths`` name, each once, in their order; InputError for a path without any."""
    if not paths:
        raise InputError(
            "no checkpoint was named: give --checkpoint a .safetensors, or a folder of them such as"
            " checkpoints/world"
        )
    found: dict[str, Checkpoint] = {}
    for path in paths:
        if path.is_dir():
            here = checkpoints(path)
        else:
            here = [checkpoint_at(path)]
        if not here:
            raise InputError(
                f"there is no checkpoint in {path}: name a .safetensors, or a folder that `mae"
                " pretrain --out` wrote"
            )
        found |= {checkpoint.record["digest"]: checkpoint for checkpoint in here}
    return list(found.values())


def one_checkpoint(path: Path) -> Checkpoint:
    """The one that ``path`` names; InputError where it is a folder of several, or names none."""
    found = named_checkpoints((path,))
    if len(found) > 1:
        names = ", ".join(each.path.name for each in found)
        raise InputError(f"{path} holds {len(found)} checkpoints: name one of {names}")
    return found[0]


def name_and_folder(text: str) -> tuple[str, Path]:
    """The two halves of NAME=DIR; InputError where it is none."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise InputError(f"--shifted {text!r} must be NAME=DIR, for instance imagenet-r=DIR")
    return name, Path(folder)
