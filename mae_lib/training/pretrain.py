"""The training loop (§3, "Pretraining overview").

Everything random in step t (which images, masks, augmentation) is a pure function of the config's
seed and t, so the step number *is* the state of the random generators and of the data order. A run
stopped at any moment, by SIGKILL too, goes on from its last saved state and ends with the same
bits, on a CPU, as one that was never stopped. ``store`` decides whether a run is needed at all.
"""

from __future__ import annotations

import hashlib
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
from mae_lib.data.datasets import Resident, nbytes
from mae_lib.masks.designs import drawn_ratio, margin_maps, sample_design
from mae_lib.masks.masking import MaskSpec
from mae_lib.model.autoencoder import (
    MaskedAutoencoder,
    gather,
    normalise_patches,
    normalise_pixels,
)
from mae_lib.training import distributed
from mae_lib.training.tiers import PretrainConfig
from mae_lib.worlds.world import World

# Images are decoded or drawn once and kept in memory as bytes up to this size; beyond it, each
# batch is read as it is needed.
RESIDENT_LIMIT = 4 * 2**30
# On a GPU, looking at the loss waits for the device; every so many steps is often enough.
GPU_CHECK_EVERY = 50


@dataclass(frozen=True)
class Trained:
    """A finished run: the model (in eval mode), the loss of every step (float32 [steps], on the
    CPU), and the seconds spent training."""

    model: MaskedAutoencoder
    losses: Tensor
    seconds: float


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


def step_generator(
    seed: int, purpose: str, step: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The random generator of one purpose in one step: a pure function of (seed, purpose, step)."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class DataOrder:
    """Which images each step sees: epoch after epoch of random permutations, cut into batches
    without loss at the epochs' seams."""

    def __init__(self, images: int, batch: int, seed: int) -> None:
        self.images, self.batch, self.seed = images, batch, seed
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            permutation = torch.randperm(
                self.images, generator=step_generator(self.seed, "order", epoch)
            )
            self._epochs = {e: p for e, p in self._epochs.items() if e >= epoch - 1} | {
                epoch: permutation
            }
        return self._epochs[epoch]

    def at(self, step: int) -> Tensor:
        """int64 [batch]: the image indices of step ``step`` (from 0)."""
        position = torch.arange(step * self.batch, (step + 1) * self.batch)
        epoch = position // self.images
        return torch.cat(
            [self._epoch(int(e))[position[epoch == e] % self.images] for e in epoch.unique()]
        )


def augment(
    images: Tensor,
    crop: float,
    flip: bool,
    generator: torch.Generator,
    rank: int = 0,
    world: int = 1,
) -> Tensor:
    """Random resized crops (area in [crop, 1], aspect in [3/4, 4/3], bilinear) and mirror images,
    one draw an image.

    Args:
        images: float [B, C, H, W]; generator: on the images' device. rank, world: the images are
            every ``world``-th of a batch from the ``rank``-th on, and get what they would get in
            the whole batch.
    """
    if crop >= 1 and not flip:
        return images
    b = images.shape[0]
    u = torch.rand(5, b * world, generator=generator, device=images.device)[:, rank::world]
    mirror = torch.where(u[0] < 0.5, -1.0, 1.0) if flip else torch.ones_like(u[0])
    if crop >= 1:
        return torch.where(mirror[:, None, None, None] < 0, images.flip(-1), images)
    area = crop + (1 - crop) * u[1]
    aspect = torch.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * u[2])
    wide, high = (area * aspect).sqrt().clamp_max(1), (area / aspect).sqrt().clamp_max(1)
    theta = torch.zeros(b, 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 0, 2] = wide * mirror, (2 * u[3] - 1) * (1 - wide)
    theta[:, 1, 1], theta[:, 1, 2] = high, (2 * u[4] - 1) * (1 - high)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(
        images, grid, padding_mode="reflection", align_corners=False
    )


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


def begin_with(model: MaskedAutoencoder, start: MaskedAutoencoder) -> None:
    """Copies another model's weights into ``model``: its encoder, and its decoder where that is of
    the same sizes; a decoder of other sizes keeps its fresh weights."""
    tensors, sizes = start.state_dict(), ("decoder_width", "decoder_depth", "decoder_heads")
    if any(getattr(model.config, name) != getattr(start.config, name) for name in sizes):
        fresh = ("to_decoder.", "mask_token", "decoder", "head.")
        tensors = {name: each for name, each in tensors.items() if not name.startswith(fresh)}
        tensors |= {name: t for name, t in model.state_dict().items() if name.startswith(fresh)}
    model.load_state_dict(tensors)


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


def ahead(read: Callable[[int], Tensor], steps: Iterable[int], depth: int = 2) -> Iterator[Tensor]:
    """``read`` of each step in turn, made by a thread that is up to ``depth`` steps ahead: images
    are decoded while the model trains.

    An error of ``read`` is raised where its step would have come.
    """
    waiting: deque[Future[Tensor]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        for step in steps:
            waiting.append(pool.submit(read, step))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # an error, or a training that is stopped, does not wait for images that nobody will see
        pool.shutdown(wait=False, cancel_futures=True)


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
