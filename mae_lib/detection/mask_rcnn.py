"""Mask R-CNN on a pretrained encoder (§3.5): the plain ViT as a backbone for images of any size,
ViTDet's simple feature pyramid on its last tokens (Li et al. 2022, "Exploring plain vision
transformer backbones for object detection"), and torchvision's heads. From scratch is the same
architecture on an encoder that was never trained. Labels are torchvision's: 0 is the background,
classes count from 1.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from copy import deepcopy

import torch
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from mae_lib.base.errors import InputError
from mae_lib.detection.average_precision import Detections
from mae_lib.detection.config import DetectorConfig
from mae_lib.model.autoencoder import MaskedAutoencoder, patchify

MASK_THRESHOLD = 0.5
MOST_DETECTIONS = 100
"""Per image, COCO's own limit."""
_BOX_POOL, _MASK_POOL = 7, 14  # cells of RoIAlign on a side; predicted masks have twice as many


def _level(width: int, out: int, patch: int, stride: int) -> nn.Sequential:
    """One level of the pyramid from tokens [B, width, H/p, W/p] to [B, out, H/stride, W/stride]:
    ViTDet's transposed convolutions (up, halving the channels each time but the last of two),
    identity or max-pooling (down), then 1×1 and 3×3 convolutions.
    """
    doublings = int(math.log2(patch / stride)) if patch > stride else 0
    layers: list[nn.Module] = []
    for k in range(doublings):
        narrower = max(width // 2, 1)
        layers += [nn.ConvTranspose2d(width, narrower, 2, 2)]
        if k + 1 < doublings:
            layers += [LayerNorm2d(narrower), nn.GELU()]
        width = narrower
    if stride > patch:
        layers.append(nn.MaxPool2d(stride // patch))
    layers += [
        nn.Conv2d(width, out, 1, bias=False),
        LayerNorm2d(out),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        LayerNorm2d(out),
    ]
    return nn.Sequential(*layers)


class PyramidBackbone(nn.Module):
    """A masked autoencoder's encoder and ViTDet's simple feature pyramid on its last tokens.

    As in ViTDet the [CLS] token is left out; other than there, the encoder's final norm is kept,
    since the pretraining's decoder read the tokens behind it. Positions are the pretraining's,
    resampled to the new grid by bicubic interpolation as in ViTDet, and trained
    from there. The levels' strides do not depend on the ViT patch: what a patch of 16 px reaches by
    transposed convolutions a patch of 4 px reaches by none, and its levels of larger strides by
    max-pooling.

    Args:
        encoder: the masked autoencoder, which is copied, not changed.
    """

    def __init__(self, encoder: MaskedAutoencoder, config: DetectorConfig) -> None:
        super().__init__()
        model = encoder.config
        if model.channels != 3:
            raise InputError(
                f"a detector takes RGB images, and this encoder takes {model.channels} channel(s):"
                " choose one pretrained on RGB"
            )
        if config.image_size % model.patch:
            raise InputError(
                f"images of {config.image_size} px do not divide into ViT patches of {model.patch}"
                " px: choose a multiple"
            )
        if model.patch & (model.patch - 1):
            raise InputError(
                f"a ViT patch of {model.patch} px fits no pyramid of strides"
                f" {list(config.strides)}: it must be a power of two"
            )
        self.patch, self.window = model.patch, config.window
        self.grid = (config.image_size // model.patch,) * 2
        self.out_channels = config.width
        self.in_bfloat16 = False  # autocast of the backbone alone: boxes and losses stay in float32
        self.embed, self.blocks, self.norm = (
            deepcopy(encoder.embed),
            deepcopy(encoder.encoder),
            deepcopy(encoder.encoder_norm),
        )
        self.position = nn.Parameter(
            resample_positions(encoder.position, model.grid, self.grid).detach().clone()
        )
        depth = len(self.blocks)
        for i, block in enumerate(self.blocks):
            if config.drop_path:
                block.drop_path1 = block.drop_path2 = DropPath(
                    config.drop_path * i / max(1, depth - 1)
                )
        # blocks whose attention is global
        self.everywhere = {math.ceil(depth * quarter / 4) - 1 for quarter in range(1, 5)}
        self.levels = nn.ModuleDict(
            {str(s): _level(model.width, config.width, model.patch, s) for s in config.strides}
        )

    def tokens(self, images: Tensor) -> Tensor:
        """float [B, 3, H, W], normalised as in the pretraining, any sides → [B, H/p, W/p, D] after
        the final norm; padded with zeros to whole patches."""
        high, wide = (math.ceil(side / self.patch) for side in images.shape[-2:])
        images = F.pad(
            images,
            (0, wide * self.patch - images.shape[-1], 0, high * self.patch - images.shape[-2]),
        )
        x = self.embed(patchify(images, self.patch)) + resample_positions(
            self.position, self.grid, (high, wide)
        )
        x = x.unflatten(1, (high, wide))
        for i, block in enumerate(self.blocks):
            everywhere = (
                self.window is None or i in self.everywhere or self.window >= max(high, wide)
            )
            x = (
                block(x.flatten(1, 2)).view_as(x)
                if everywhere
                else in_windows(block, x, self.window)
            )
        return self.norm(x)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Stride (as text) → float32 [B, width, H/stride, W/stride], for images [B, 3, H, W] whose
        sides the largest stride divides."""
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.in_bfloat16):
            x = self.tokens(images).permute(0, 3, 1, 2)
            return OrderedDict((name, level(x).float()) for name, level in self.levels.items())


def resample_positions(position: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """[h·w, D] on ``grid`` → [h'·w', D] on the ``target`` grid, bicubic; untouched where the grid
    stays."""
    if grid == target:
        return position
    image = position.view(1, *grid, -1).permute(0, 3, 1, 2)
    return F.interpolate(image, target, mode="bicubic", align_corners=False)[0].flatten(1).T


def in_windows(block: nn.Module, x: Tensor, side: int) -> Tensor:
    """A transformer block on [B, H, W, D], each window of ``side`` × ``side`` tokens by itself; the
    last ones are padded with zeros, as in ViTDet."""
    b, h, w, d = x.shape
    rows, columns = math.ceil(h / side), math.ceil(w / side)
    x = F.pad(x, (0, 0, 0, columns * side - w, 0, rows * side - h))
    x = x.view(b, rows, side, columns, side, d).transpose(2, 3).reshape(-1, side * side, d)
    x = (
        block(x)
        .view(b, rows, columns, side, side, d)
        .transpose(2, 3)
        .reshape(b, rows * side, columns * side, d)
    )
    return x[:, :h, :w]


class SeededSampler:
    """torchvision's balanced draw of positives and negatives for a loss, but from generators of our
    own, one an image: what is drawn for an image depends neither on the other images nor on how
    many processes share the batch.

    Attributes:
        generators: one an image of the coming batch, on its device; None: PyTorch's own. counts:
            (drawn, positive among them) of the last batch.
    """

    def __init__(self, samples: int, positive: float) -> None:
        self.samples, self.positive = samples, positive
        self.generators: list[torch.Generator] | None = None
        self.counts = (0, 0)

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """labels of each image's candidates (≥ 1: positive, 0: negative, −1: neither) → their uint8
        marks, positives and negatives."""
        generators = self.generators or [None] * len(labels)
        positives, negatives = [], []
        for values, generator in zip(labels, generators, strict=True):
            wanted = int(self.samples * self.positive)
            for kind, found in ((values >= 1, positives), (values == 0, negatives)):
                index = kind.nonzero().flatten()
                drawn = index[
                    torch.randperm(len(index), generator=generator, device=index.device)[:wanted]
                ]
                found.append(torch.zeros_like(values, dtype=torch.uint8).index_fill_(0, drawn, 1))
                wanted = self.samples - len(drawn)
        positive = sum(int(mark.sum()) for mark in positives)
        self.counts = positive + sum(int(mark.sum()) for mark in negatives), positive
        return positives, negatives


def detector(config: DetectorConfig, encoder: MaskedAutoencoder, classes: int) -> MaskRCNN:
    """Mask R-CNN for ``classes`` classes on a copy of ``encoder``, whose heads have fresh weights
    from PyTorch's generator.

    It takes a list of float images [3, H, W] in [0, 1] and normalises them as the pretraining did.
    In training it expects them no larger than ``config.image_size`` and does not scale them. From
    scratch: hand in a fresh encoder.

    Raises:
        InputError: no class, or an encoder that the config does not fit.
    """
    if classes < 1:
        raise InputError(f"{classes} classes to detect: there must be at least one")
    names = [str(stride) for stride in config.strides]
    scales = [int(math.log2(stride)) for stride in config.strides]

    def pool(cells: int) -> MultiScaleRoIAlign:
        found = MultiScaleRoIAlign(names, cells, 2)
        # Told, not inferred: torchvision would guess the strides from image sizes without their
        # padding, and guess wrong.
        found.scales, found.map_levels = (
            [1 / s for s in config.strides],
            LevelMapper(scales[0], scales[-1], config.canonical, 4),
        )
        return found

    model = MaskRCNN(
        PyramidBackbone(encoder, config),
        min_size=config.image_size,
        max_size=config.image_size,
        size_divisible=config.image_size,
        _skip_resize=True,
        image_mean=list(encoder.config.pixel_mean or (0.5,) * 3),
        image_std=list(encoder.config.pixel_deviation or (0.25,) * 3),
        rpn_anchor_generator=AnchorGenerator(
            tuple((side,) for side in config.anchors), ((0.5, 1.0, 2.0),) * len(names)
        ),
        rpn_pre_nms_top_n_train=config.pre_nms,
        rpn_pre_nms_top_n_test=config.pre_nms,
        rpn_post_nms_top_n_train=config.post_nms,
        rpn_post_nms_top_n_test=config.post_nms,
        box_roi_pool=pool(_BOX_POOL),
        box_head=TwoMLPHead(config.width * _BOX_POOL**2, config.box_width),
        box_predictor=FastRCNNPredictor(config.box_width, classes + 1),
        box_score_thresh=config.least_score,
        box_detections_per_img=MOST_DETECTIONS,
        mask_roi_pool=pool(_MASK_POOL),
        mask_head=MaskRCNNHeads(config.width, [config.mask_width] * config.mask_layers, 1),
        mask_predictor=MaskRCNNPredictor(config.mask_width, config.mask_width, classes + 1),
    )
    model.rpn.fg_bg_sampler = SeededSampler(config.rpn_samples, 0.5)
    model.roi_heads.fg_bg_sampler = SeededSampler(config.roi_samples, 0.25)
    return model


def parameter_groups(
    model: MaskRCNN, learning_rate: float, weight_decay: float, layer_decay: float
) -> list[dict]:
    """Groups for AdamW with ViTDet's layer-wise decay: ``layer_decay`` to the power of how many
    blocks lie between a parameter and the heads.

    The embedding and the positions have the power depth + 1, block i (from 0) the power depth − i,
    all else 0. Norms, biases and positions are not decayed. Each group has its rate ``lr`` and, for
    schedules, its ``scale`` of the peak rate.
    """
    depth = len(model.backbone.blocks)
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in model.named_parameters():
        power = 0
        if name.startswith(("backbone.embed.", "backbone.position")):
            power = depth + 1
        elif name.startswith("backbone.blocks."):
            power = depth - int(name.split(".")[2])
        decayed = parameter.ndim > 1 and name != "backbone.position"
        scale = layer_decay**power
        group = {
            "params": [],
            "lr": learning_rate * scale,
            "scale": scale,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        groups.setdefault((power, decayed), group)["params"].append(parameter)
    return list(groups.values())


@torch.no_grad()
def detect(model: MaskRCNN, images: Sequence[Tensor]) -> list[Detections]:
    """What a detector finds in images of any size, at most `MOST_DETECTIONS` an image, in pixels of
    the image itself.

    Args:
        model: of :func:`detector`; put in eval mode. images: uint8 [3, H, W] each (or floats in [0,
            1]), one batch.

    Returns:
        one an image, on the CPU, scores falling; masks of the whole image, True where the pasted
        probability is above `MASK_THRESHOLD`.
    """
    model.eval()
    device = next(model.parameters()).device
    found = model([to_float(image).to(device) for image in images])
    return [
        Detections(
            each["boxes"].cpu(),
            each["labels"].cpu(),
            each["scores"].cpu(),
            (each["masks"][:, 0] > MASK_THRESHOLD).cpu(),
        )
        for each in found
    ]


def to_float(image: Tensor) -> Tensor:
    """uint8 in [0, 255] → float32 in [0, 1]; floats as they are. InputError for another shape than
    [3, H, W]."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise InputError(f"an image of shape {list(image.shape)}: a detector takes [3, H, W]")
    return image.float() / 255 if image.dtype == torch.uint8 else image
