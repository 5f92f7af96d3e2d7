"""Fine-tuning a classifier end to end: a pretrained encoder and a linear head on the mean of its
patch tokens, trained by MAE's recipe (He et al. 2022, Table 9) with timm's own parts: layer-wise
decay of the learning rate, mixup and cutmix, label smoothing, drop path, RandAugment.

As in pretraining, everything random in step t is a function of the config's seed and t: a run that
was stopped goes on to the same bits on a CPU. Many processes share each batch, and each mixes the
images of its share.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import rand_augment_transform
from timm.layers import DropPath
from timm.loss import SoftTargetCrossEntropy
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.data.datasets import Resident, nbytes
from mae_lib.model.autoencoder import MaskedAutoencoder, normalise_pixels
from mae_lib.training import distributed
from mae_lib.training.feeding import DataOrder, augment, step_generator
from mae_lib.training.loop import Run, begin_with, check_share, drive, learning_rate, shares
from mae_lib.training.pretrain import RESIDENT_LIMIT, resolve_device
from mae_lib.training.recipes import ClassifyConfig
from mae_lib.training.store import Checkpoint, thin_curve
from mae_lib.training.stored import Stored


class Classifier(nn.Module):
    """An encoder, all patches visible, and a linear head on the mean of its patch tokens after the
    final norm. Positions stay as they were in pretraining."""

    def __init__(self, config: ClassifyConfig) -> None:
        super().__init__()
        self.encoder = MaskedAutoencoder(config.model)
        depth = len(self.encoder.encoder)
        for i, block in enumerate(self.encoder.encoder):
            if config.drop_path:
                rate = config.drop_path * i / max(1, depth - 1)
                block.drop_path1 = block.drop_path2 = DropPath(rate)
        self.head = nn.Linear(config.model.width, len(config.classes))
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """float [B, C, H, W], as `normalise_pixels` gives them → logits [B, classes]."""
        return self.head(self.encoder.encode(images)[:, 1:].mean(1))

    def group_matcher(self, coarse: bool = False) -> dict:
        """Which parameters are of which layer, as timm's layer-wise decay asks for it."""
        return {
            "stem": r"^encoder\.(?:cls_token|embed)",
            "blocks": [(r"^encoder\.encoder\.(\d+)", None), (r"^encoder\.encoder_norm", (99999,))],
        }


def build(config: ClassifyConfig, checkpoint: Checkpoint | None) -> Classifier:
    """The classifier before its first step, on the CPU: the checkpoint's encoder, or the seed's
    first weights, and a head of the seed. InputError for a checkpoint that is not the config's."""
    if (None if checkpoint is None else checkpoint.record["digest"]) != config.pretrained:
        raise InputError(
            f"{config.name} starts from {config.origin or 'fresh weights'}, and was given"
            f" {'no checkpoint' if checkpoint is None else checkpoint.path.name}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_generator(config.seed, "weights", 0).initial_seed())
        model = Classifier(config)
    if checkpoint is not None:
        begin_with(model.encoder, checkpoint.load())
    return model


@contextmanager
def _seeded(config: ClassifyConfig, rank: int, step: int, device: torch.device) -> Iterator[None]:
    """PyTorch's, NumPy's and Python's own generators, which timm draws from, at a seed of the step;
    as they were afterwards."""
    seed = step_generator(config.seed, f"timm {rank}", step).initial_seed()
    numbers, others = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numbers)
        random.setstate(others)


class ClassifyRun(Run):
    """One fine-tuning in progress; saved and brought back as a pretraining is."""

    def __init__(
        self,
        config: ClassifyConfig,
        checkpoint: Checkpoint | None,
        labels: Tensor,
        device: torch.device,
    ) -> None:
        model = build(config, checkpoint).to(device).train()
        groups = param_groups_layer_decay(
            model,
            config.weight_decay,
            no_weight_decay_list=("encoder.cls_token",),
            layer_decay=config.layer_decay,
        )
        self._begin(
            config, device, model, torch.optim.AdamW(groups, betas=config.betas, fused=True)
        )
        self.labels = labels
        self.order = DataOrder(len(labels), config.batch, config.seed)
        self.mix = Mixup(
            config.mixup,
            config.cutmix,
            prob=float(config.mixup > 0 or config.cutmix > 0),
            label_smoothing=config.label_smoothing,
            num_classes=len(config.classes),
        )
        self.randomly = (
            rand_augment_transform(config.rand_augment, {"img_mean": (128, 128, 128)})
            if config.rand_augment
            else None
        )

    def train_step(self, images: Tensor, parts: None = None, accumulate: int = 1) -> None:
        """One optimiser step on uint8 [B / world, C, H, W], this process's share of the batch."""
        config, step, mine = self.config, self.step, slice(self.rank, None, self.world)
        labels = self.labels[self.order.at(step)[mine]].to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, step) * group["lr_scale"]
        bfloat16 = config.precision == "bfloat16" and self.device.type == "cuda"
        with _seeded(config, self.rank, step, self.device):
            if self.randomly is not None:
                images = _each(self.randomly, images)
            x = augment(
                normalise_pixels(images),
                config.crop if config.crop_from == "image" else 1.0,
                config.flip,
                step_generator(config.seed, "augment", step, self.device),
                self.rank,
                self.world,
            )
            x, target = self.mix(x.clone(), labels)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bfloat16):
                logits = self.shared(x)
            loss = SoftTargetCrossEntropy()(logits.float(), target.to(self.device))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._advance(distributed.summed(loss.detach()) / self.world)


def _each(transform, images: Tensor) -> Tensor:
    """A transform of PIL's images on uint8 [B, 3, H, W]."""
    made = [
        np.asarray(transform(Image.fromarray(image.permute(1, 2, 0).cpu().numpy())))
        for image in images
    ]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).to(images.device)


@dataclass(frozen=True)
class Classified:
    """A finished run: the classifier (in eval mode), the loss of every step (float32 [steps], on
    the CPU), and the seconds spent training."""

    model: Classifier
    losses: Tensor
    seconds: float

    def curve(self) -> dict:
        """As a record holds it."""
        return thin_curve(self.losses)


def classify(
    config: ClassifyConfig,
    checkpoint: Checkpoint | None,
    source: ImageSource,
    *,
    device: str = "auto",
    state: Path | None = None,
    save_every: float = 60.0,
    progress: bool = True,
    on_step=None,
) -> Classified:
    """Trains one classifier from wherever its last saved state stands. Under `torchrun` every
    process calls it. Arguments and errors as of :func:`mae_lib.training.pretrain.pretrain`."""
    if source.identity != config.data:
        raise InputError(
            f"these images are not the config's: it names {config.data}, the source is"
            f" {source.identity}"
        )
    run = ClassifyRun(config, checkpoint, source.labels, resolve_device(device))
    check_share(config.batch, run.world)
    if (config.mixup or config.cutmix) and config.batch // run.world % 2:
        raise InputError(
            f"mixup pairs images: {run.world} processes cannot share a batch of {config.batch} in"
            " even parts"
        )
    if state is not None and state.exists():
        run.restore(state)
    if config.crop_from == "file" and not hasattr(source, "crops"):
        raise InputError("crops out of files (crop_from 'file') need a folder of images or shards")
    looks = (config.steps - run.step) * config.batch
    if (
        config.crop_from == "image"
        and looks >= len(source)
        and nbytes(source) <= RESIDENT_LIMIT
        and not isinstance(source, Resident)
    ):
        source = Resident(source, device=str(run.device), progress=None if progress else False)
    drive(
        run,
        shares(run, source, None, 1),
        state=state,
        save_every=save_every,
        progress=progress,
        on_step=on_step,
    )
    return Classified(run.model.eval(), run.losses.cpu(), run.seconds)


@dataclass(frozen=True)
class StoredClassifier(Stored):
    """A stored classifier."""

    what = "classifier"
    mark = "label_smoothing"

    @staticmethod
    def config_of(values: dict) -> ClassifyConfig:
        return ClassifyConfig.from_dict(values)

    def fresh(self) -> Classifier:
        return Classifier(self.config)
