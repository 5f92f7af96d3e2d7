"""Fine-tuning a detector end to end (§3.5), in one process or by `torchrun` in many.

As in the pretraining's loop, everything random in step t (which images, mirroring, scales, which
proposals enter the losses) is a pure function of the config's seed, t and the image's place in the
batch. So a run that was stopped goes on to the same bits on a CPU, and processes that share a batch
train the weights that one process would, up to rounding. ``detectors`` keeps what this module
trains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from mae_lib.base.errors import InputError
from mae_lib.data.coco import CocoFolder
from mae_lib.data.image_files import cores
from mae_lib.detection.config import FinetuneConfig
from mae_lib.detection.examples import Example, Examples
from mae_lib.detection.mask_rcnn import detector, parameter_groups
from mae_lib.model.autoencoder import MaskedAutoencoder
from mae_lib.training import distributed
from mae_lib.training.feeding import step_generator
from mae_lib.training.loop import Run, check_share, drive, learning_rate
from mae_lib.training.pretrain import resolve_device
from mae_lib.training.store import Checkpoint

# --------------------------------------------------------------------------------------------------
# Training images and targets


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
        model.backbone.in_bfloat16 = config.precision == "bfloat16" and device.type == "cuda"
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
