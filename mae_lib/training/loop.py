"""The training loop: a run whose state is saved, stopped and resumed, driven to its last step."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from mae_lib.base.errors import InputError, TrainingDiverged
from mae_lib.base.files import DamagedFile
from mae_lib.base.image_source import ImageSource
from mae_lib.base.tensors import read_safetensors, write_safetensors
from mae_lib.data.datasets import Resident
from mae_lib.masks.designs import drawn_ratio, margin_maps, sample_design
from mae_lib.model.autoencoder import (
    MaskedAutoencoder,
    normalise_pixels,
)
from mae_lib.training import distributed
from mae_lib.training.config import PretrainConfig
from mae_lib.training.feeding import DataOrder, ahead, augment, step_generator

# On a GPU, looking at the loss waits for the device; every so many steps is often enough.
GPU_CHECK_EVERY = 50


@dataclass(frozen=True)
class Trained:
    """A finished run: the model (in eval mode), the loss of every step (float32 [steps], on the
    CPU), and the seconds spent training."""

    model: MaskedAutoencoder
    losses: Tensor
    seconds: float


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Linear warm-up over ``config.warmup`` of the steps, then half a cosine to zero; ``step``
    counts from 0."""
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return (
        config.learning_rate
        * 0.5
        * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))
    )


def _optimiser(model: MaskedAutoencoder, config: PretrainConfig) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    # biases, norms, and the two tokens [1, 1, D]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Holds back Ctrl-C (SIGINT) and SIGTERM until the block is done. Only the main thread is ever
    interrupted, so elsewhere nothing is to do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers = {
        n: signal.signal(n, lambda number, frame: arrived.append(number))
        for n in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in arrived:
            signal.raise_signal(number)


class Run:
    """One pretraining in progress: model, optimiser, step and losses, and how they are saved and
    brought back."""

    def __init__(
        self,
        config: PretrainConfig,
        device: torch.device,
        compiled: bool = False,
        start: MaskedAutoencoder | None = None,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_generator(config.seed, "weights", 0).initial_seed())
            model = MaskedAutoencoder(config.model)
        if start is not None:
            begin_with(model, start)
        model.to(device).train()
        self._begin(config, device, model, _optimiser(model, config), compiled)

    def _begin(
        self,
        config: PretrainConfig,
        device: torch.device,
        model: torch.nn.Module,
        optimiser: torch.optim.Optimizer,
        compiled: bool = False,
    ) -> None:
        self.config, self.device, self.model, self.optimiser = config, device, model, optimiser
        self.rank, self.world = distributed.rank(), distributed.world()
        # A mask always hides the same number of patches, so that every shape of a training is
        # fixed, but where each step draws its ratio.
        self.shared = (
            torch.compile(model, dynamic=config.spread > 0, fullgraph=True) if compiled else model
        )
        if self.world > 1:
            self.shared = DistributedDataParallel(
                self.shared, [device] if device.type == "cuda" else None
            )
        self.step, self.seconds = 0, 0.0
        self.losses = torch.full((config.steps,), math.nan, device=device)

    def train_step(self, images: Tensor, parts: Tensor | None = None, accumulate: int = 1) -> None:
        """One optimiser step.

        Args:
            images: uint8 [B / world, C, H, W], on the device: this process's share of the batch,
                every ``world``-th from its rank on.
            parts: int64 [B, L] of the whole batch, where the mask's design follows them.
            accumulate: pieces that the share is worked on in, one after another, for want of
                memory; the step is the same.
        """
        config, step, mine = self.config, self.step, slice(self.rank, None, self.world)
        augmentation = step_generator(config.seed, "augment", step, self.device)
        crop = config.crop if config.crop_from == "image" else 1.0
        x = augment(
            normalise_pixels(images), crop, config.flip, augmentation, self.rank, self.world
        )
        spec = drawn_ratio(config.mask, config.spread, step_generator(config.seed, "ratio", step))
        generator = step_generator(config.seed, "mask", step, self.device)
        visible, hidden = (
            index[mine]
            for index in sample_design(
                config.design, spec, len(x) * self.world, generator, config.groups, parts
            )
        )
        counted = shown = None
        if config.margin:
            counted, clear = margin_maps(
                hidden, config.model.grid, config.model.patch, config.margin
            )
            shown = clear if config.strict else None
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, step)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._backward([x, visible, hidden, counted, shown], accumulate)
        self._advance(loss)

    def _advance(self, loss: Tensor) -> None:
        """The optimiser's update, and its step counted."""
        # a state saved between the update and the count would not be one that training passes
        # through
        with _interrupts_deferred():
            self.optimiser.step()
            self.losses[self.step] = loss
            self.step += 1

    def _backward(self, inputs: list[Tensor | None], pieces: int) -> Tensor:
        """Gradients of the mean loss over the batch of all processes, which is returned."""
        size, counted = len(inputs[0]), inputs[3]
        cuts = [size * k // pieces for k in range(pieces + 1)]
        slices = [slice(a, b) for a, b in zip(cuts, cuts[1:]) if a < b]
        # A piece's loss is a mean over its counted pixels: the mean over all weights it by how many
        # these are.
        if counted is None:
            weights = [(s.stop - s.start) / size for s in slices]
        else:
            pixels = torch.stack([counted[s].sum() for s in slices]).float()
            weights = pixels * self.world / distributed.summed(pixels.sum()).clamp_min(1)
        bfloat16 = self.config.precision == "bfloat16" and self.device.type == "cuda"
        total = torch.zeros((), device=self.device)
        for k, rows in enumerate(slices):
            waiting = self.world > 1 and k + 1 < len(slices)
            # gradients are exchanged once, with the last piece
            with self.shared.no_sync() if waiting else nullcontext():
                with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bfloat16):
                    loss, _ = self.shared(
                        *(each if each is None else each[rows] for each in inputs)
                    )
                loss = loss * weights[k]
                loss.backward()
            total += loss.detach()
        return distributed.summed(total) / self.world

    @property
    def advice(self) -> str:
        """What to try where the loss is not finite."""
        return (
            f"Try a smaller base_lr (it was {self.config.base_lr:g}) or a longer warm-up, and check"
            " the images with `mae data describe`"
        )

    def diverged_at(self) -> int | None:
        """The first step whose loss is not finite, or None."""
        bad = (~self.losses[: self.step].isfinite()).nonzero()
        return int(bad[0]) if len(bad) else None

    def finite(self) -> bool:
        """Whether all losses and all weights are finite. A gradient may overflow where the loss did
        not: the next loss would show it."""
        return self.diverged_at() is None and all(
            bool(p.isfinite().all()) for p in self.model.parameters()
        )

    def save(self, path: Path) -> None:
        """Writes the whole state: weights, both moments, step, losses."""
        tensors = {"losses": self.losses}
        for name, parameter in self.model.named_parameters():
            state = self.optimiser.state[parameter]
            tensors |= {
                f"model.{name}": parameter,
                f"exp_avg.{name}": state["exp_avg"],
                f"exp_avg_sq.{name}": state["exp_avg_sq"],
            }
        write_safetensors(
            path,
            tensors,
            {"config": self.config.hash, "step": str(self.step), "seconds": repr(self.seconds)},
        )

    def restore(self, path: Path) -> None:
        """Brings back what :meth:`save` wrote; InputError if it belongs to another config."""
        tensors, metadata = read_safetensors(path)
        if metadata.get("config") != self.config.hash:
            raise InputError(
                f"{path} was saved by another config: delete it or give this run another folder"
            )
        shapes = {
            f"{kind}.{name}": p.shape
            for kind in ("model", "exp_avg", "exp_avg_sq")
            for name, p in self.model.named_parameters()
        }
        if {name: tensor.shape for name, tensor in tensors.items()} != shapes | {
            "losses": self.losses.shape
        }:
            raise DamagedFile(
                f"{path} does not hold the state of {self.config.name}: another version of mae_lib"
                " wrote it"
            )
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
        self.losses.copy_(tensors["losses"])
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
                moments = {
                    key: tensors[f"{key}.{name}"].to(self.device)
                    for key in ("exp_avg", "exp_avg_sq")
                }
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(self.step), device=self.device),
                    **moments,
                }


def drive(
    run: Run,
    batches: Iterator[tuple],
    *,
    state: Path | None,
    save_every: float,
    progress: bool,
    on_step: Callable[[Run], None] | None,
) -> None:
    """Trains ``run`` to its last step on ``batches``, the arguments of `train_step` one step after
    another, from the run's present step on: saves, shows, and stops where the loss is not finite.
    Arguments and errors as of :func:`pretrain`."""
    config, first = run.config, run.rank == 0
    check_every = 1 if run.device.type == "cpu" else GPU_CHECK_EVERY
    bar = tqdm(
        total=config.steps * config.batch,
        initial=run.step * config.batch,
        unit="img",
        unit_scale=True,
        desc=config.name,
        disable=not (progress and first),
        mininterval=0.5,
    )
    before, began = run.seconds, time.monotonic()
    saved = began

    def save() -> None:
        run.seconds = before + time.monotonic() - began
        if first and state is not None and run.step and run.finite():
            run.save(state)

    try:
        for batch in batches:
            run.train_step(*batch)
            distributed.alive()
            if run.step % check_every == 0 or run.step == config.steps:
                if run.diverged_at() is not None:
                    raise TrainingDiverged(_divergence(run, state))
                bar.set_postfix(loss=f"{float(run.losses[run.step - 1]):.4f}", refresh=False)
                if time.monotonic() - saved > save_every:
                    save()
                    saved = time.monotonic()
            bar.update(config.batch)
            if on_step is not None:
                on_step(run)
        if not run.finite():  # the last update's overflow, which no further loss would show
            raise TrainingDiverged(_divergence(run, state))
        save()
    except (KeyboardInterrupt, SystemExit):
        save()  # a polite stop loses nothing
        raise
    finally:
        bar.close()


def _divergence(run: Run, state: Path | None) -> str:
    at = run.step if run.diverged_at() is None else run.diverged_at()
    kept = (
        f"the last good state is kept in {state}"
        if state is not None and state.exists()
        else "no state had been saved yet"
    )
    return (
        f"{run.config.name}: the loss is not finite at step {at} of {run.config.steps}; {kept}."
        f" {run.advice}"
    )


def check_share(batch: int, world: int, accumulate: int = 1) -> None:
    """InputError where ``world`` processes cannot share a batch equally, or ``accumulate`` pieces
    would be more than a share has images."""
    if batch % world:
        raise InputError(
            f"a batch of {batch} images cannot be shared by {world} processes: choose a multiple"
        )
    if not 1 <= accumulate <= batch // world:
        raise InputError(
            f"accumulate {accumulate} must be between 1 and a process's share of the batch,"
            f" {batch // world} images"
        )


def begin_with(model: MaskedAutoencoder, start: MaskedAutoencoder) -> None:
    """Copies another model's weights into ``model``: its encoder, and its decoder where that is of
    the same sizes; a decoder of other sizes keeps its fresh weights."""
    tensors, sizes = start.state_dict(), ("decoder_width", "decoder_depth", "decoder_heads")
    if any(getattr(model.config, name) != getattr(start.config, name) for name in sizes):
        fresh = ("to_decoder.", "mask_token", "decoder", "head.")
        tensors = {name: each for name, each in tensors.items() if not name.startswith(fresh)}
        tensors |= {name: t for name, t in model.state_dict().items() if name.startswith(fresh)}
    model.load_state_dict(tensors)


def shares(
    run: Run, source: ImageSource, parts: Tensor | None, accumulate: int
) -> Iterator[tuple[Tensor, Tensor | None, int]]:
    """What each step that is left sees: this process's share of the images, and the whole batch's
    parts."""
    config, mine = run.config, slice(run.rank, None, run.world)
    order = DataOrder(len(source), config.batch, config.seed)

    def read(step: int) -> Tensor:
        indices = order.at(step)[mine]
        if config.crop_from == "image":
            images = source.images(indices)
        else:
            draws = torch.rand(
                config.batch,
                4,
                dtype=torch.float64,
                generator=step_generator(config.seed, "crop", step),
            )
            images = source.crops(indices, draws[mine], config.crop)
        return (
            images.pin_memory()
            if run.device.type == "cuda" and images.device.type == "cpu"
            else images
        )

    steps = range(run.step, config.steps)
    batches = map(read, steps) if isinstance(source, Resident) else ahead(read, steps)
    for step, images in zip(steps, batches):
        batch = None if parts is None else parts[order.at(step)].to(run.device, torch.int64)
        yield images.to(run.device, non_blocking=True), batch, accumulate
