"""COCO's average precision of boxes and masks (§3.5). What lives here: `Detections`, what a
detector found in one image, and `average_precision`, the 24 numbers that COCO reports for them, by
faster-coco-eval, which computes what pycocotools computes; and `found_and_named`, which tells where
from what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as rle_api
from torch import Tensor
from torchvision.ops import box_iou

from mae_lib.base.errors import InputError
from mae_lib.data.coco import CocoFolder

__all__ = ["MEASURES", "Detections", "average_precision", "found_and_named"]

MEASURES: tuple[str, ...] = (
    "AP",
    "AP50",
    "AP75",
    "APs",
    "APm",
    "APl",
    "AR1",
    "AR10",
    "AR100",
    "ARs",
    "ARm",
    "ARl",
)
"""In COCO's order: precision over IoU thresholds .5 to .95, at .5, at .75, of small (area below 32²
pixels), medium and large (from 96²) instances; recall with at most 1, 10 and 100 detections an
image, and of small, medium and large instances."""


@dataclass(frozen=True)
class Detections:
    """What was found in one image.

    Attributes:
        boxes: float32 [K, 4], x0, y0, x1, y1 in pixels, end exclusive. labels: int64 [K], 1 … C.
            scores: float32 [K], any finite number.
        masks: bool [K, H, W] over the whole image.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor


def average_precision(
    truth: CocoFolder, detections: Sequence[Detections], indices: Sequence[int] | None = None
) -> dict[str, float]:
    """COCO's numbers for boxes and for masks.

    All annotations of the file count, those too that training does not see (`CocoFolder.dropped`).
    Of an image's detections of one class the 100 with the highest scores count. Masks are sorted
    into small, medium and large by their own area, not by their box's.

    Args:
        truth: the images and their instances.
        detections: one for each image, in the order of `indices`; they may be empty.
        indices: the images that were looked at, each in [0, len(truth)); by default all.

    Returns:
        `"box/AP"`, …, `"mask/ARl"`: the twelve `MEASURES` for `box` and for `mask`, each in [0, 1];
        NaN where COCO says −1, because no instance is of that size.

    Raises:
        InputError: as many detections as images were not given; an index is out of range or occurs
            twice; a label is none of the classes; scores or boxes are not finite; tensors do not
            fit each other or the image. Names the image.
    """
    found: list[dict[str, Any]] = []
    images = []
    for i, detected in _paired(truth, detections, indices):
        images.append(i)
        found += _entries(truth, i, detected)
    return _scores(_ground_truth(truth, images), found)


def _paired(
    truth: CocoFolder, detections: Sequence[Detections], indices: Sequence[int] | None
) -> Iterator[tuple[int, Detections]]:
    """Each image with its detections, one after another, once both have been checked."""
    images = range(len(truth)) if indices is None else [int(i) for i in indices]
    if len(detections) != len(images):
        raise InputError(
            f"{len(detections)} detections for {len(images)} images: give one Detections, perhaps"
            " empty, for each image"
        )
    if not len(images):
        raise InputError("no image to score: give at least one index")
    if len(set(images)) < len(images) or min(images) < 0 or max(images) >= len(truth):
        raise InputError(f"the indices must differ and lie in 0 … {len(truth) - 1}: correct them")
    for i, detected in zip(images, detections, strict=True):
        _check(truth, i, detected)
        yield i, detected


def _check(truth: CocoFolder, i: int, detected: Detections) -> None:
    name, (height, width), count = (
        f"detections in image {truth.image_ids[i]}",
        truth.size(i),
        len(detected.scores),
    )
    if (
        tuple(detected.boxes.shape) != (count, 4)
        or tuple(detected.labels.shape) != (count,)
        or detected.scores.ndim != 1
    ):
        shapes = (
            f"boxes {list(detected.boxes.shape)}, labels {list(detected.labels.shape)}, scores"
            f" {list(detected.scores.shape)}"
        )
        raise InputError(f"{name}: {shapes} do not fit: give [K, 4], [K] and [K]")
    if tuple(detected.masks.shape) != (count, height, width):
        raise InputError(
            f"{name}: masks of shape {list(detected.masks.shape)}, not {[count, height, width]}:"
            " paste them into the whole image"
        )
    if detected.masks.dtype != torch.bool:
        raise InputError(
            f"{name}: masks are {detected.masks.dtype}: cut the probabilities at a threshold, to"
            " bool"
        )
    if not torch.isfinite(detected.scores).all() or not torch.isfinite(detected.boxes).all():
        raise InputError(
            f"{name}: scores or boxes are NaN or infinite: the detector has diverged, train it"
            " again with a lower rate"
        )
    if count and (
        int(detected.labels.min()) < 1 or int(detected.labels.max()) > len(truth.classes)
    ):
        raise InputError(
            f"{name}: labels must lie in 1 … {len(truth.classes)}, 0 is the background: leave"
            " that out"
        )


def _entries(truth: CocoFolder, i: int, detected: Detections) -> list[dict[str, Any]]:
    """COCO's results for one image; its masks are run-length coded here, so that the bit maps of
    two images are never held at once."""
    x0, y0, x1, y1 = detected.boxes.detach().cpu().double().reshape(-1, 4).unbind(1)
    corners = torch.stack([x0, y0, x1 - x0, y1 - y0], dim=1).tolist()
    masks = detected.masks.cpu().numpy().astype(np.uint8)
    labels, scores = detected.labels.tolist(), detected.scores.detach().cpu().double().tolist()
    return [
        {
            "image_id": truth.image_ids[i],
            "category_id": truth.category_ids[labels[k] - 1],
            "score": scores[k],
            "bbox": corners[k],
            "segmentation": rle_api.encode(np.asfortranarray(masks[k])),
        }
        for k in range(len(scores))
    ]


def _ground_truth(truth: CocoFolder, images: Sequence[int]) -> COCO:
    """The file's annotations of some images, numbered from 1: COCO takes an instance with the id 0,
    once matched, for a missed one."""
    annotations = []
    for i in images:
        for annotation in truth.records(i):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": truth.image_ids[i],
                    "category_id": truth.category_ids[annotation.label - 1],
                    "bbox": list(annotation.bbox),
                    "area": annotation.area,
                    "iscrowd": int(annotation.crowd),
                    "segmentation": truth.rle(i, annotation),
                }
            )
    sizes = [(truth.image_ids[i], *truth.size(i)) for i in images]
    return COCO(
        {
            "images": [
                {"id": image, "height": height, "width": width} for image, height, width in sizes
            ],
            "annotations": annotations,
            "categories": [
                {"id": k, "name": name}
                for k, name in zip(truth.category_ids, truth.classes, strict=True)
            ],
        }
    )


def _scores(truth: COCO, found: list[dict[str, Any]]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for prefix, kind, key in (("box", "bbox", "bbox"), ("mask", "segm", "segmentation")):
        # One of the two alone: given both, COCO's tools take a mask's area from its box.
        results = [
            {name: entry[name] for name in ("image_id", "category_id", "score", key)}
            for entry in found
        ]
        evaluation = COCOeval_faster(
            truth, truth.loadRes(results), kind, print_function=lambda *_: None
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        for name, value in zip(MEASURES, evaluation.stats[:12], strict=True):
            numbers[f"{prefix}/{name}"] = float(value) if value >= 0 else float("nan")
    return numbers


def found_and_named(
    truth: CocoFolder,
    detections: Sequence[Detections],
    indices: Sequence[int] | None = None,
    least_overlap: float = 0.5,
) -> tuple[int, int, int]:
    """Where or what: of the instances (crowds left out), how many are covered by a detection of
    whatever class, and how many are named as well.

    An instance is *covered* if the box of some detection overlaps its own by an IoU of at least
    ``least_overlap``, and *named* if the one with the highest score among these has its class.
    Other than in AP, a detection may cover two instances, and false ones cost nothing.

    Args:
        truth, detections, indices: as in :func:`average_precision`, which also says what is wrong
            with them.

    Returns:
        (instances, covered, named).
    """
    instances = covered = named = 0
    for i, detected in _paired(truth, detections, indices):
        real = truth.instances(i)
        own = ~real.crowd
        instances += int(own.sum())
        if not len(detected.scores):
            continue
        order = detected.scores.argsort(descending=True, stable=True)
        overlap = box_iou(real.boxes[own], detected.boxes[order]) >= least_overlap
        first = overlap.int().argmax(1)  # the first True; 0 where there is none
        hit = overlap.any(1)
        covered += int(hit.sum())
        named += int((hit & (detected.labels[order][first] == real.labels[own])).sum())
    return instances, covered, named
