"""What is trained is trained once: a model of any kind is found, or else trained under a lock and
stored, by one process or by all that `torchrun` started."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import filelock
from torch import nn

from mae_lib.base.errors import InputError
from mae_lib.base.files import DamagedFile, cache_directory, remove_parts, set_aside
from mae_lib.training import distributed
from mae_lib.training.stored import Kind, require_free, store_model


def obtain_once(
    kind: type[Kind],
    config,
    target: Path,
    find: Callable[[], Kind | None],
    train: Callable[[Path], tuple[nn.Module, dict]],
) -> Kind:
    """The model of ``config`` that ``find`` finds; where it finds none, what ``train`` makes,
    stored in ``target``. Under `torchrun` every process calls it; the first one looks, locks and
    stores, and all train.

    Args:
        train: path of a resumable state → (model, its record). A damaged state is named in a
            warning and set aside, and the training starts over.

    Raises:
        InputError: what lies in ``target`` under the model's name is something else, or it was
            stored where another machine cannot read it.
    """
    first = distributed.rank() == 0
    require_free(kind, config, target)
    states = cache_directory() / "states"
    states.mkdir(parents=True, exist_ok=True)
    state = states / f"{config.name}-{config.hash}.safetensors"
    with filelock.FileLock(state.with_suffix(".lock")) if first else nullcontext():
        if not distributed.first_says(lambda: find() is not None):
            if first:
                for file in (state, target / state.name, target / f"{state.stem}.json"):
                    remove_parts(file)
            try:
                model, record = train(state)
            except DamagedFile as error:
                if distributed.world() > 1:
                    raise  # the processes would set it aside one after another
                what = f"{error}. Set aside as {set_aside(state).name}; training starts over."
                warnings.warn(what, stacklevel=3)
                model, record = train(state)
            if first:
                store_model(kind, model, config, target, record)
                state.unlink(missing_ok=True)
        distributed.first_says(lambda: True)  # the others wait until it is stored
    found = find()
    if found is None:
        raise InputError(
            f"{config.name} was stored in {target} and is not there: with many machines, $MAE_CACHE"
            " or --out must be on a disk that all share"
        )
    return found
