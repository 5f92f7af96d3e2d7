"""Small data sets in COCO's layout for the tests of its reader, its scores and its description:
polygons, both run-length codes, crowds, gaps in the category ids, empty images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle_api

CATEGORIES = ({"id": 90, "name": "cat"}, {"id": 2, "name": "ant"}, {"id": 7, "name": "bee"})


def blob(rng: np.random.Generator, height: int, width: int, least: int = 1) -> np.ndarray:
    """bool [H, W]: an ellipse with a hole, or a box, some of it possibly outside the image; at
    least one pixel."""
    while True:
        y, x = np.mgrid[:height, :width]
        cy, cx, ry, rx = (
            rng.uniform(0, height),
            rng.uniform(0, width),
            *np.exp(rng.uniform(np.log(least), np.log(height / 2), 2)),
        )
        radius = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2
        mask = (
            (radius < 1) & ~(radius < 0.2)
            if rng.random() < 0.7
            else (abs(y - cy) < ry) & (abs(x - cx) < rx)
        )
        if mask.any():
            return mask


def compressed(mask: np.ndarray) -> dict[str, Any]:
    rle = rle_api.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = np.concatenate([[0], mask.flatten(order="F").astype(int)])
    changes = np.flatnonzero(np.diff(flat))
    return {
        "size": list(mask.shape),
        "counts": np.diff(np.concatenate([[0], changes, [mask.size]])).tolist(),
    }


def polygons(rng: np.random.Generator, height: int, width: int) -> list[list[float]]:
    """One to three polygons of three to nine corners, overlapping or apart, some corners outside
    the image."""
    out = []
    for _ in range(rng.integers(1, 4)):
        turn = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 10)))
        radius = rng.uniform(2, height / 2, len(turn))
        centre = rng.uniform(0, (width, height))
        out.append(
            (centre + np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1))
            .round(2)
            .flatten()
            .tolist()
        )
    return out


def bbox_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    ]


def instance(
    mask: np.ndarray, segmentation: Any = None, category: int = 2, image: int = 10, crowd: int = 0
) -> dict[str, Any]:
    segmentation = compressed(mask) if segmentation is None else segmentation
    box, area = bbox_of(mask), float(mask.sum())
    return {
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "bbox": box,
        "area": area,
        "iscrowd": crowd,
    }


def random_content(
    seed: int,
    images: int = 5,
    instances: int = 6,
    size: tuple[int, int] = (60, 80),
    crowds: bool = True,
) -> dict[str, Any]:
    """An annotations file of images of which the last is empty; ids have gaps, category 90 has no
    instance."""
    rng, (height, width) = np.random.default_rng(seed), size
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": list(CATEGORIES)}
    for n in range(images):
        image = 10 + 3 * n
        content["images"].append(
            {"id": image, "file_name": f"{image:05d}.png", "height": height, "width": width}
        )
        for _ in range(rng.integers(1, instances + 1) if n < images - 1 else 0):
            kind = rng.integers(3)
            if kind == 0:
                segmentation = polygons(rng, height, width)
                mask = rle_api.decode(
                    rle_api.merge(rle_api.frPyObjects(segmentation, height, width))
                ).astype(bool)
                if not mask.any():
                    continue
            else:
                mask = blob(rng, height, width)
                segmentation = compressed(mask) if kind == 1 else uncompressed(mask)
            crowd = int(crowds and rng.random() < 0.2)
            entry = instance(mask, segmentation, int(rng.choice([2, 7])), image, crowd)
            content["annotations"].append({"id": 5 + 2 * len(content["annotations"])} | entry)
    return content


def save_coco(
    root: Path, content: dict[str, Any] | str, split: str = "train2017", pictures: bool = True
) -> Path:
    """Writes an annotations file and a grey image for each entry; returns the file."""
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    (root / split).mkdir(exist_ok=True)
    for picture in content["images"] if pictures and not isinstance(content, str) else ():
        Image.new("RGB", (picture["width"], picture["height"]), (90, 120, 150)).save(
            root / split / picture["file_name"]
        )
    return path
