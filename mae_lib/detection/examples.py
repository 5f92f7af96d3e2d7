"""Training examples of a detector: images with their boxes and masks, scaled, cropped and
mirrored."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional as F

from mae_lib.data.coco import CocoFolder, Instances
from mae_lib.detection.config import FinetuneConfig
from mae_lib.detection.mask_rcnn import to_float
from mae_lib.training.feeding import DataOrder, step_generator
from mae_lib.worlds.world import boxes_of

Example = tuple[Tensor, dict[str, Tensor]]
"""float [3, h, w] in [0, 1], no larger than the detector's images; boxes float [K, 4], labels int64
[K] from 1, masks uint8 [K, h, w]."""

# Images and masks are decoded once and kept in memory up to this size; beyond it, each is read as
# it is needed.
KEPT_BYTES = 2 * 2**30


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
