"""Fine-tuning a detector end to end (§3.5), in one process or by `torchrun` in many.

As in the pretraining's loop, everything random in step t (which images, mirroring, scales, which
proposals enter the losses) is a pure function of the config's seed, t and the image's place in the
batch. So a run that was stopped goes on to the same bits on a CPU, and processes that share a batch
train the weights that one process would, up to rounding. ``detectors`` keeps what this module
trains.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN

from mae_lib.base.errors import InputError
from mae_lib.data.coco import CocoFolder, Instances
from mae_lib.data.image_files import cores
from mae_lib.detection.mask_rcnn import DetectorConfig, detector, parameter_groups, to_float
from mae_lib.model.autoencoder import MaskedAutoencoder, ModelConfig
from mae_lib.training import distributed
from mae_lib.training.pretrain import (
    DataOrder,
    Run,
    check_share,
    drive,
    learning_rate,
    resolve_device,
    step_generator,
)
from mae_lib.training.store import Checkpoint
from mae_lib.worlds.world import boxes_of

# Images and masks are decoded once and kept in memory up to this size; beyond it, each is read as
# it is needed.
KEPT_BYTES = 2 * 2**30


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning, completely. Raises InputError for sizes that do not fit together.

    Attributes:
        model: sizes of the encoder. detector: sizes of the rest. classes: names, in the order of
            the labels. data: identity of the training images.
        pretrained: digest of the checkpoint that the encoder comes from, None: from scratch.
            origin: that checkpoint's name.
        seed: of fresh weights, data order, augmentation and the draw of proposals. steps, batch:
            optimiser steps, images a step (of all processes).
        learning_rate: peak rate of the heads. layer_decay: see
            :func:`mae_lib.detection.mask_rcnn.parameter_groups`. warmup: share of the steps; then
            half a cosine to zero (ViTDet's own schedule falls in steps). weight_decay, betas:
            AdamW's. clip: largest norm of the gradient, 0: any.
        flip: mirror half of the images. jitter: range of a random factor on the images' scale; what
            no longer fits is cropped (ViTDet's large-scale jitter); (1, 1): none. precision:
            float32, or bfloat16 autocast of the backbone on a GPU.
    """

    model: ModelConfig
    detector: DetectorConfig
    classes: tuple[str, ...]
    data: dict
    pretrained: str | None = None
    origin: str | None = None
    seed: int = 0
    steps: int = 1000
    batch: int = 8
    learning_rate: float = 1e-4
    layer_decay: float = 0.7
    warmup: float = 0.05
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    flip: bool = True
    jitter: tuple[float, float] = (1.0, 1.0)
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "layer_decay", "warmup", "weight_decay", "clip"):
            # 1 and 1.0 are equal, so their hashes have to be
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("betas", "jitter"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        object.__setattr__(self, "classes", tuple(self.classes))
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not self.learning_rate > 0:
            raise InputError(f"learning rate {self.learning_rate} must be positive")
        if not 0 < self.layer_decay <= 1:
            raise InputError(
                f"layer decay {self.layer_decay} must be in (0, 1]: the learning rate's factor from"
                " one block to the one below it"
            )
        if not 0 < self.jitter[0] <= self.jitter[1]:
            raise InputError(
                f"scale jitter {list(self.jitter)} must be a range of positive factors, for"
                " instance 0.1 and 2"
            )
        if not self.classes:
            raise InputError("there is no class to detect: the annotations list no category")
        if self.precision not in ("float32", "bfloat16"):
            raise InputError(f"precision {self.precision!r} is unknown: choose float32 or bfloat16")
        if (self.pretrained is None) != (self.origin is None):
            raise InputError(
                "a pretrained encoder has both a digest and a name, and from scratch there is"
                " neither"
            )

    @cached_property
    def hash(self) -> str:
        """16 hex digits of SHA-256 over every field: equal configs, equal names."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Readable name: ``r75-u8-p8-s0-detector`` of the pretraining r75-u8-p8-s0, or
        ``scratch-p8-s0-detector``; with the seed, where it is not the pretraining's."""
        origin = self.origin or f"scratch-p{self.model.patch}-s{self.seed}"
        return f"{origin}-detector" + (
            "" if origin.endswith(f"-s{self.seed}") else f"-s{self.seed}"
        )

    def to_dict(self) -> dict:
        """As plain JSON values; :meth:`from_dict` undoes it."""
        return json.loads(json.dumps(asdict(self))) | {"model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, values: dict) -> FinetuneConfig:
        """The config whose :meth:`to_dict` is ``values``; InputError for unknown or missing
        fields."""
        try:
            sizes, own = dict(values["detector"]), dict(values)
            model = ModelConfig.from_dict(values["model"])
            config = cls(**(own | {"model": model, "detector": DetectorConfig(**sizes)}))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"not a fine-tuning config of this version of mae_lib: {error}"
            ) from error
        known = ((cls, own), (DetectorConfig, sizes))
        # a default in its place would be a guess
        if missing := {
            f.name for kind, given in known for f in fields(kind) if f.name not in given
        }:
            raise InputError(
                "not a fine-tuning config of this version of mae_lib: it lacks"
                f" {', '.join(sorted(missing))}"
            )
        return config


# --------------------------------------------------------------------------------------------------
# Training images and targets


Example = tuple[Tensor, dict[str, Tensor]]
"""float [3, h, w] in [0, 1], no larger than the detector's images; boxes float [K, 4], labels int64
[K] from 1, masks uint8 [K, h, w]."""


class Examples:
    """The training images of a config as torchvision's Mask R-CNN takes them: scaled, cropped,
    mirrored, without crowds and boxes of no area."""

    def __init__(self, config: FinetuneConfig, folder: CocoFolder) -> None:
        self.config, self.folder = config, folder
        self.order = DataOrder(len(folder), config.batch, config.seed)
        self._kept: dict[int, tuple[Tensor, Instances]] = {}
        self._bytes = 0

    def __call__(self, step: int, place: int, index: int) -> Example:
        """Image ``index`` as it appears in step ``step`` at ``place`` of the batch."""
        config, side = self.config, self.config.detector.image_size
        image, found = self._read(index)
        good = ~found.crowd & (found.boxes[:, 2:] > found.boxes[:, :2]).all(1)
        target = {
            "boxes": found.boxes[good],
            "labels": found.labels[good],
            "masks": found.masks[good].to(torch.uint8),
        }
        mirror, factor, x, y = torch.rand(
            4, generator=step_generator(config.seed, f"augment {place}", step)
        ).tolist()
        low, high = config.jitter
        scale = side / max(image.shape[1:]) * (low + (high - low) * factor)
        example = cropped(*scaled(to_float(image), target, scale), side, x, y)
        return mirrored(*example) if config.flip and mirror < 0.5 else example

    def _read(self, index: int) -> tuple[Tensor, Instances]:
        if index in self._kept:
            return self._kept[index]
        pair = self.folder.image(index), self.folder.instances(index)
        if self._bytes < KEPT_BYTES:
            self._kept[index] = pair
            self._bytes += pair[0].nbytes + pair[1].masks.nbytes
        return pair

    def batches(self, first: int, rank: int, world: int, workers: int) -> Iterator[list[Example]]:
        """The share of process ``rank`` of every batch from step ``first`` on; with ``workers``,
        threads make the next batch meanwhile."""
        places = range(rank, self.config.batch, world)

        def calls(step: int) -> list[tuple[int, int, int]]:
            index = self.order.at(step).tolist()
            return [(step, place, index[place]) for place in places]

        if not workers:
            for step in range(first, self.config.steps):
                yield [self(*call) for call in calls(step)]
            return
        with ThreadPoolExecutor(workers) as pool:
            ahead = [pool.submit(self, *call) for call in calls(first)]
            for step in range(first, self.config.steps):
                now, ahead = (
                    ahead,
                    (
                        [pool.submit(self, *call) for call in calls(step + 1)]
                        if step + 1 < self.config.steps
                        else []
                    ),
                )
                yield [future.result() for future in now]


def scaled(image: Tensor, target: dict[str, Tensor], scale: float) -> Example:
    """An example with both sides ``scale`` times as long, rounded to whole pixels, at least one."""
    old = image.shape[1:]
    new = tuple(max(1, round(side * scale)) for side in old)
    if new == tuple(old):
        return image, target
    image = F.interpolate(image[None], new, mode="bilinear", antialias=True, align_corners=False)[
        0
    ].clamp(0, 1)
    masks = (
        F.interpolate(target["masks"][:, None], new, mode="nearest-exact")[:, 0]
        if len(target["masks"])
        else target["masks"].new_zeros(0, *new)
    )
    ratio = torch.tensor([new[1] / old[1], new[0] / old[0]] * 2)
    return image, target | {"boxes": target["boxes"] * ratio, "masks": masks}


def cropped(image: Tensor, target: dict[str, Tensor], side: int, x: float, y: float) -> Example:
    """At most ``side`` × ``side`` of an example, at the shares x, y in [0, 1) of the room there is.
    Boxes are drawn anew around what is left of the masks; objects of which nothing is left are
    dropped."""
    high, wide = image.shape[1:]
    if max(high, wide) <= side:
        return image, target
    left, top = int(x * (max(0, wide - side) + 1)), int(y * (max(0, high - side) + 1))
    masks = target["masks"][:, top : top + side, left : left + side]
    seen = masks.flatten(1).any(1).bool()
    masks = masks[seen]
    inside = {"boxes": boxes_of(masks.bool()), "labels": target["labels"][seen], "masks": masks}
    return image[:, top : top + side, left : left + side], inside


def mirrored(image: Tensor, target: dict[str, Tensor]) -> Example:
    """An example, left and right exchanged."""
    x0, y0, x1, y1 = target["boxes"].unbind(1)
    wide = image.shape[-1]
    return image.flip(-1), target | {
        "boxes": torch.stack([wide - x1, y0, wide - x0, y1], 1),
        "masks": target["masks"].flip(-1),
    }


# --------------------------------------------------------------------------------------------------
# The loop


def build(config: FinetuneConfig, checkpoint: Checkpoint | None) -> MaskRCNN:
    """The detector before its first step, on the CPU: the checkpoint's encoder, or that of the
    seed's first weights, and heads that depend on the seed alone.

    InputError for a checkpoint that is not the config's.
    """
    if (None if checkpoint is None else checkpoint.record["digest"]) != config.pretrained:
        raise InputError(
            f"{config.name} starts from {config.origin or 'fresh weights'}, and was given"
            f" {'no checkpoint' if checkpoint is None else checkpoint.path.name}"
        )
    with torch.random.fork_rng(devices=[]):
        # as a pretraining of this seed begins
        torch.manual_seed(step_generator(config.seed, "weights", 0).initial_seed())
        encoder = MaskedAutoencoder(config.model) if checkpoint is None else checkpoint.load()
        torch.manual_seed(step_generator(config.seed, "heads", 0).initial_seed())
        return detector(config.detector, encoder, len(config.classes))


class FinetuneRun(Run):
    """One fine-tuning in progress; saved and brought back as a pretraining is."""

    def __init__(
        self, config: FinetuneConfig, checkpoint: Checkpoint | None, device: torch.device
    ) -> None:
        model = build(config, checkpoint).to(device).train()
        model.backbone.bfloat16 = config.precision == "bfloat16" and device.type == "cuda"
        groups = parameter_groups(
            model, config.learning_rate, config.weight_decay, config.layer_decay
        )
        self._begin(
            config, device, model, torch.optim.AdamW(groups, betas=config.betas, fused=True)
        )

    @property
    def advice(self) -> str:
        return (
            f"Try a smaller learning rate (it was {self.config.learning_rate:g}) or a longer"
            " warm-up"
        )

    def train_step(self, examples: list[Example]) -> None:
        """One optimiser step on this process's share of the batch."""
        config, step = self.config, self.step
        images = [image.to(self.device, non_blocking=True) for image, _ in examples]
        targets = [
            {name: value.to(self.device, non_blocking=True) for name, value in target.items()}
            for _, target in examples
        ]
        samplers = {"rpn": self.model.rpn.fg_bg_sampler, "roi": self.model.roi_heads.fg_bg_sampler}
        for name, sampler in samplers.items():
            sampler.generators = [
                step_generator(config.seed, f"{name} {place}", step, self.device)
                for place in range(self.rank, config.batch, self.world)
            ]
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, step) * group["scale"]
        # drop path draws from PyTorch's own generator
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(
                step_generator(config.seed, f"drop path {self.rank}", step).initial_seed()
            )
            parts = self.shared(images, targets)
        (anchors, _), (proposals, positive) = samplers["rpn"].counts, samplers["roi"].counts
        # Each loss is a mean over what was drawn, of which processes may have drawn unequal
        # numbers: weighted so, their mean is one process's.
        weight = torch.ones(3, device=self.device)
        if self.world > 1:
            drawn = torch.tensor(
                [anchors, proposals, positive], dtype=torch.float32, device=self.device
            )
            weight = drawn * self.world / distributed.summed(drawn).clamp(min=1)
        loss = (
            weight[0] * (parts["loss_objectness"] + parts["loss_rpn_box_reg"])
            + weight[1] * (parts["loss_classifier"] + parts["loss_box_reg"])
            + weight[2] * parts["loss_mask"]
        )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if config.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self._advance(distributed.summed(loss.detach()) / self.world)


@dataclass(frozen=True)
class Finetuned:
    """A finished run: the detector (in eval mode), the loss of every step (float32 [steps], on the
    CPU), and the seconds spent training."""

    model: MaskRCNN
    losses: Tensor
    seconds: float


def finetune(
    config: FinetuneConfig,
    checkpoint: Checkpoint | None,
    folder: CocoFolder,
    *,
    device: str = "auto",
    state: Path | None = None,
    save_every: float = 60.0,
    progress: bool = True,
    on_step: Callable[[FinetuneRun], None] | None = None,
) -> Finetuned:
    """Trains one detector from wherever its last saved state stands. Under `torchrun` (a process
    group is initialised) every process calls it.

    Args:
        config: what to train. checkpoint: the pretrained encoder, None from scratch. folder: its
            images; ``folder.identity`` must be ``config.data``.
        device, state, save_every, progress, on_step: as in :func:`mae_lib.pretrain.pretrain`; the
            first process alone saves and shows.

    Raises:
        TrainingDiverged: at the first loss that is not finite; the last state saved before it
            stays.
        InputError: for a checkpoint or images that are not the config's, a missing device, or a
            batch that the processes cannot share.
    """
    if not len(folder):
        raise InputError("there are no images to train on: the annotations list none")
    if folder.identity != config.data:
        raise InputError(
            f"these images are not the config's: it names {config.data}, the folder is"
            f" {folder.identity}"
        )
    run = FinetuneRun(config, checkpoint, resolve_device(device))
    check_share(config.batch, run.world)
    if state is not None and state.exists():
        run.restore(state)
    examples = Examples(config, folder).batches(
        run.step, run.rank, run.world, cores() if run.device.type == "cuda" else 0
    )
    drive(
        run,
        ((each,) for each in examples),
        state=state,
        save_every=save_every,
        progress=progress,
        on_step=on_step,
    )
    return Finetuned(run.model.eval(), run.losses.cpu(), run.seconds)
