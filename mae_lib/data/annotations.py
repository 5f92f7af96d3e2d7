"""The entries of COCO's annotation file. What lives here: `read`, which parses the file;
`Annotation`, one instance as the file has it; the checks that every entry passes, each an
`InputError` that names it; and `encode`, which turns polygons and both kinds of run-length code
(RLE) into compressed RLE by COCO's own rasteriser."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as rle_api

from mae_lib.base.errors import InputError
from mae_lib.data.image_files import shown

__all__ = [
    "RLE",
    "SHAPELESS",
    "Annotation",
    "read",
    "by_id",
    "size_of",
    "file_name_of",
    "annotation_of",
    "corners",
    "encode",
]

# {"size": [H, W], "counts": bytes}: runs of pixels outside and inside in turn, column by column
RLE = dict[str, Any]
OUTSIDE, FLAT, SHAPELESS = "box outside the image", "box without area", "no polygon of three points"
# image sides that a polygon may lie outside the image (an edge is walked pixel by pixel, and 1e9
# would take all memory), and images that an area may have
_FARTHEST = 10


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation as the file has it: its id, its label (1 … C), its box x, y, width, height in
    pixels, its area (the pixels of its mask where the file says none), and whether it is a crowd.
    `segmentation` is a list of polygons (x0, y0, x1, y1, …) or an RLE; `dropped` says why training
    does not see it, else ''.
    """

    id: int
    label: int
    bbox: tuple[float, float, float, float]
    area: float
    crowd: bool
    segmentation: list[list[float]] | RLE
    dropped: str


def read(path: Path) -> tuple[dict[str, Any], str]:
    """The content of an annotations file with its three lists, and the SHA-256 of its bytes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{shown(path)} cannot be opened ({error.strerror}): check its name and permissions"
        ) from error
    try:
        content = json.loads(data)
    except ValueError as error:  # broken JSON or broken UTF-8
        raise InputError(
            f"{shown(path)} is no valid JSON ({error}): download or write it again"
        ) from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(
                f"{shown(path)} has no list '{key}': COCO's instances file has images, annotations"
                " and categories"
            )
    return content, hashlib.sha256(data).hexdigest()


def by_id(entries: list, what: str, where: str) -> dict[int, dict[str, Any]]:
    """Entries under their ids, in the file's order."""
    found: dict[int, dict[str, Any]] = {}
    for n, entry in enumerate(entries):
        identifier = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(identifier, int) or isinstance(identifier, bool):
            raise InputError(
                f"{where}: {what} number {n} has no whole number as its 'id': give it one"
            )
        if identifier in found:
            raise InputError(
                f"{where}: two entries have the {what} id {identifier}: remove or renumber one"
            )
        found[identifier] = entry
    return found


def size_of(picture: dict[str, Any], where: str) -> tuple[int, int]:
    size = picture.get("height"), picture.get("width")
    if not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in size):
        raise InputError(
            f"{where}: image {picture['id']} has height {size[0]!r} and width {size[1]!r}: write"
            " its size in pixels"
        )
    return size


def file_name_of(picture: dict[str, Any], where: str) -> str:
    name = picture.get("file_name")
    if (
        not isinstance(name, str)
        or not name
        or "\0" in name
        or PurePosixPath(name).is_absolute()
        or ".." in PurePosixPath(name).parts
    ):
        raise InputError(
            f"{where}: image {picture['id']} has the file_name {name!r}: write its path inside the"
            " image folder"
        )
    return name


def _numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) == count
        and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            for value in values
        )
    )


def annotation_of(
    identifier: int, raw: dict[str, Any], label: int, size: tuple[int, int], name: str
) -> Annotation:
    """An annotation whose numbers are numbers and whose RLE has the image's size; its polygons are
    checked when they are drawn."""
    if not _numbers(raw.get("bbox"), 4):
        raise InputError(
            f"{name} has the bbox {raw.get('bbox')!r}: write four finite numbers, x, y, width and"
            " height"
        )
    if raw.get("area") is not None and not (
        _numbers([raw["area"]], 1) and 0 <= raw["area"] <= _FARTHEST * size[0] * size[1]
    ):
        raise InputError(
            f"{name} has the area {raw['area']!r}: write the number of its pixels, by which"
            " COCO sorts small from large, or leave it out"
        )
    if raw.get("iscrowd", 0) not in (0, 1):
        raise InputError(f"{name} has iscrowd {raw['iscrowd']!r}: write 0 or 1")
    segmentation = raw.get("segmentation")
    if isinstance(segmentation, dict):
        if segmentation.get("size") != list(size) or not isinstance(
            segmentation.get("counts"), (list, str)
        ):
            found, wanted = segmentation.get("size"), list(size)
            raise InputError(
                f"{name} has a mask (RLE) of size {found!r}, its image is {wanted}, height first:"
                " encode the mask at that size"
            )
    elif isinstance(segmentation, list) and all(
        isinstance(polygon, list) for polygon in segmentation
    ):
        segmentation = [polygon for polygon in segmentation if len(polygon) >= 6]
    else:
        raise InputError(
            f"{name} has no 'segmentation' by polygons or RLE: Mask R-CNN needs one, an empty list"
            " leaves it out"
        )
    x, y, w, h = raw["bbox"]
    x0, y0, x1, y1 = np.float32(corners((x, y, w, h), size))  # the precision that training sees
    dropped = ""
    if w <= 0 or h <= 0:
        dropped = FLAT
    elif x >= size[1] or y >= size[0] or x + w <= 0 or y + h <= 0:
        dropped = OUTSIDE
    elif x1 <= x0 or y1 <= y0:
        dropped = FLAT
    elif not segmentation:
        dropped = SHAPELESS
    return Annotation(
        identifier,
        label,
        (x, y, w, h),
        _area_of(segmentation, size, name, w * h) if raw.get("area") is None else raw["area"],
        bool(raw.get("iscrowd", 0)),
        segmentation,
        dropped,
    )


def _area_of(
    segmentation: list[list[float]] | RLE, size: tuple[int, int], name: str, box: float
) -> float:
    """The pixels of a mask, as COCO counts them; those of the box where there is no mask."""
    return float(rle_api.area(encode(segmentation, size, name))) if segmentation else max(box, 0.0)


def corners(
    bbox: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of a box x, y, width, height, clipped to an image of (H, W) pixels."""
    (x, y, w, h), (height, width) = bbox, size
    return (
        min(max(x, 0), width),
        min(max(y, 0), height),
        min(max(x + w, 0), width),
        min(max(y + h, 0), height),
    )


def encode(segmentation: list[list[float]] | RLE, size: tuple[int, int], name: str) -> RLE:
    """Polygons or RLE as compressed RLE, by COCO's own rasteriser; checked first, since that one
    reads past what is wrong."""
    height, width = size
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        if isinstance(counts, list) and not all(
            isinstance(count, int) and count >= 0 for count in counts
        ):
            raise InputError(
                f"{name} has an RLE with counts that are no whole numbers from 0: encode the mask"
                " again"
            )
        try:
            rle = rle_api.segmToRle({"size": [height, width], "counts": counts}, width, height)
            rle_api.decode(rle)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"{name} has an RLE that does not fill its image of {height}×{width}: encode the"
                " mask again"
            ) from error
        return rle
    for polygon in segmentation:
        if len(polygon) % 2 or not _numbers(polygon, len(polygon)):
            raise InputError(
                f"{name} has a polygon of {len(polygon)} values that are not all pairs of finite"
                " numbers: correct it"
            )
        if max(map(abs, polygon)) > _FARTHEST * max(size):
            raise InputError(
                f"{name} has a polygon with the coordinate {max(polygon, key=abs):g}, far outside"
                f" its image of {height}×{width}"
            )
    if not segmentation:
        return rle_api.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
    return rle_api.segmToRle(segmentation, width, height)
