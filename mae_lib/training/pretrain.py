"""The training loop (§3, "Pretraining overview").

Everything random in step t (which images, masks, augmentation) is a pure function of the config's
seed and t, so the step number *is* the state of the random generators and of the data order. A run
stopped at any moment, by SIGKILL too, goes on from its last saved state and ends with the same
bits, on a CPU, as one that was never stopped. ``store`` decides whether a run is needed at all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.data.datasets import Resident, nbytes
from mae_lib.masks.masking import MaskSpec
from mae_lib.model.autoencoder import (
    MaskedAutoencoder,
    gather,
    normalise_patches,
    normalise_pixels,
)
from mae_lib.training.config import PretrainConfig
from mae_lib.training.feeding import step_generator
from mae_lib.training.loop import Run, Trained, check_share, drive, shares
from mae_lib.worlds.world import World

# Images are decoded or drawn once and kept in memory as bytes up to this size; beyond it, each
# batch is read as it is needed.
RESIDENT_LIMIT = 4 * 2**30


def resolve_device(name: str = "auto") -> torch.device:
    """``auto`` (a GPU if there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` →
    device; InputError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:N")
    missing = device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    if missing or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise InputError(
            f"device {name!r} was asked for and this machine has none that PyTorch can use: take"
            " device=cpu or auto"
        )
    return device


def pretrain(
    config: PretrainConfig,
    source: ImageSource,
    *,
    device: str = "auto",
    state: Path | None = None,
    save_every: float = 60.0,
    progress: bool = True,
    accumulate: int = 1,
    compiled: bool | None = None,
    start: MaskedAutoencoder | None = None,
    on_step: Callable[[Run], None] | None = None,
) -> Trained:
    """Trains one masked autoencoder (eq. 2) from wherever its last saved state stands.

    Under `torchrun` every process calls it (:func:`mae_lib.training.distributed.joined`). Images,
    masks and augmentation of a step do not depend on how many there are, so a training may go on
    with another number of processes; the first alone saves and shows.

    Args:
        config: what to train. source: its images; ``source.identity`` must be ``config.data``.
        device: see :func:`resolve_device`.
        state: file of the resumable state; None keeps none. It is left in place: whoever stores the
            finished model deletes it.
        save_every: seconds between saved states. progress: a bar with images/s and the time left.
        accumulate: pieces that each process works on its share of a batch in. compiled: whether
            `torch.compile` makes the model's kernels; by default on a GPU, where it pays. start:
            the model of ``config.start``, whose weights are the first ones. on_step: called after
            every step, for live plots; it must not change the run.

    Raises:
        TrainingDiverged: at the first loss that is not finite; the last state saved before it
            stays.
        InputError: for a source that is not the config's, a missing device, or a batch that the
            processes cannot share.
    """
    if not len(source):
        raise InputError("there are no images to train on: the source is empty")
    if source.identity != config.data:
        raise InputError(
            f"these images are not the config's: it names {config.data}, the source is"
            f" {source.identity}"
        )
    if tuple(source.shape) != (config.model.channels, *config.model.image_size):
        raise InputError(
            f"images are {list(source.shape)}, the model takes"
            f" {[config.model.channels, *config.model.image_size]}: open them at that size"
        )
    if config.crop_from == "file" and not hasattr(source, "crops"):
        raise InputError(
            "crops out of files (crop_from 'file') need a folder of images or shards: give that as"
            " the source, or crop_from 'image'"
        )
    if (start is None) != (config.start is None):
        raise InputError(
            f"{config.name} begins with {'fresh' if config.start is None else 'stored'} weights:"
            " give the model of `config.start` as the start, and none where it has none"
        )
    where = resolve_device(device)
    run = Run(config, where, where.type == "cuda" if compiled is None else compiled, start)
    check_share(config.batch, run.world, accumulate)
    if state is not None and state.exists():
        run.restore(state)
    # Reading all images first pays off only if this run looks at each of them about once, or more
    # often.
    if (
        config.crop_from == "image"
        and (config.steps - run.step) * config.batch >= len(source)
        and nbytes(source) <= RESIDENT_LIMIT
        and not isinstance(source, Resident)
    ):
        source = Resident(
            source, device=str(run.device), progress=None if progress and run.rank == 0 else False
        )
    parts = (
        World.named(config.data).patch_parts(config.model.patch)
        if config.design in ("parts", "object")
        else None
    )
    drive(
        run,
        shares(run, source, parts, accumulate),
        state=state,
        save_every=save_every,
        progress=progress,
        on_step=on_step,
    )
    return Trained(run.model.eval(), run.losses.cpu(), run.seconds)


@torch.no_grad()
def held_out_error(
    model: MaskedAutoencoder,
    mask: MaskSpec,
    source: ImageSource,
    images: int = 1000,
    seed: int = 0,
    batch: int = 250,
) -> dict[str, float]:
    """Eq. 2 on images that were not trained on, and what the same error would be without any
    learning.

    Args:
        model: in eval mode. mask: the law of the masks. source: its first ``images`` images are
            used. seed: of the masks.

    Returns:
        ``loss``: mean squared error on hidden patches, in the units of the training loss.
        ``baseline``: that of predicting, for every hidden patch, the mean colour of the image's
        visible patches. ``explained``: 1 − loss / baseline.
        With a normalised target the baseline is a flat patch, whose error is the target's variance.
    """
    device = next(model.parameters()).device
    count = min(images, len(source))
    totals = torch.zeros(2, dtype=torch.float64)
    for start in range(0, count, batch):
        x = normalise_pixels(source.images(range(start, min(start + batch, count)))).to(device)
        visible, hidden = mask.sample(len(x), step_generator(seed, "held-out", start, device))
        loss, _ = model(x, visible, hidden)
        patches = model.patches(x)
        target = gather(patches, hidden)
        if model.config.normalise_target:
            guess_error = normalise_patches(target).square().mean()
        else:
            colour = gather(patches, visible).unflatten(2, (model.config.channels, -1)).mean((1, 3))
            guess_error = (
                (target.unflatten(2, (model.config.channels, -1)) - colour[:, None, :, None])
                .square()
                .mean()
            )
        totals += len(x) * torch.tensor([float(loss), float(guess_error)], dtype=torch.float64)
    loss, baseline = (totals / count).tolist()
    return {"loss": loss, "baseline": baseline, "explained": 1 - loss / baseline}
