"""The embedded world's scenes (§3.5) as files in COCO's layout. What lives here: `write`, which
draws them; and how such files are told from others (`scenes_identity`, `own_identity`,
`require_same`). Who asks for them: `mae_lib.data.coco.write_scenes`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as rle_api
from PIL import Image

from mae_lib.base.errors import InputError
from mae_lib.base.files import write_text
from mae_lib.data.annotations import read
from mae_lib.data.contents import file_digests, fingerprint
from mae_lib.data.image_files import shown
from mae_lib.worlds.law import WORLD_VERSION
from mae_lib.worlds.world import Scenes

__all__ = ["scenes_identity", "own_identity", "require_same", "write"]


def scenes_identity(scenes: Scenes) -> dict[str, int | str]:
    asked = {
        key: getattr(scenes, key)
        for key in ("split", "size", "seed", "most", "least_pixels", "length")
    }
    return {"kind": "scenes", "version": WORLD_VERSION} | asked


def own_identity(content: Mapping[str, Any], info: dict) -> dict | None:
    """The scenes' identity, if these are annotations that `write_scenes` wrote and nobody has
    altered since."""
    return (
        info.get("scenes")
        if isinstance(info.get("scenes"), dict) and info.get("sha256") == _digest(content)
        else None
    )


def _digest(content: Mapping[str, Any]) -> str:
    parts = {key: content.get(key) for key in ("images", "annotations", "categories")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def require_same(annotations: Path, scenes: Scenes) -> None:
    content, _ = read(annotations)
    info = content.get("info") if isinstance(content.get("info"), dict) else {}
    if info.get("scenes") != scenes_identity(scenes):
        raise InputError(
            f"{shown(annotations)} describes other data than the scenes asked for: choose another"
            " name or folder, or delete it"
        )
    if own_identity(content, info) is None:
        raise InputError(
            f"{shown(annotations)} was altered since it was written: delete it and its images, and"
            " write the scenes again"
        )


def write(scenes: Scenes, images: Path, annotations: Path) -> None:
    """Images into a temporary folder, then the annotations, then the folder's rename. A kill
    between the last two leaves annotations without images, which the next call completes."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{images.name}.", suffix=".part", dir=images.parent))
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": k + 1, "name": label} for k, label in enumerate(scenes.classes)]
    try:
        for rows in torch.arange(len(scenes)).split(64):
            batch = scenes.sample(rows)
            for i, *scene in zip(
                rows.tolist(),
                batch.images.cpu(),
                batch.labels.cpu(),
                batch.masks.cpu(),
                batch.boxes.cpu(),
                strict=True,
            ):
                picture, labels, masks, boxes = scene
                file = f"{i:06d}.png"
                Image.fromarray(picture.permute(1, 2, 0).numpy()).save(temporary / file)
                content["images"].append(
                    {"id": i, "file_name": file, "height": scenes.size, "width": scenes.size}
                )
                for k in (labels >= 0).nonzero()[:, 0].tolist():
                    entry = _scene_annotation(masks[k].numpy(), boxes[k].int().tolist())
                    numbered = {
                        "id": len(content["annotations"]) + 1,
                        "image_id": i,
                        "category_id": int(labels[k]) + 1,
                    }
                    content["annotations"].append(numbered | entry)
        names = [picture["file_name"] for picture in content["images"]]
        drawn = fingerprint(zip(names, file_digests(temporary, names)))
        info = {
            "description": "Scenes of the embedded world",
            "scenes": scenes_identity(scenes),
            "sha256": _digest(content),
            "contents": drawn,
        }
        temporary.chmod(0o755)
        write_text(annotations, json.dumps({"info": info} | content) + "\n")
        os.replace(temporary, images)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _scene_annotation(mask: np.ndarray, box: list[int]) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    rle = rle_api.encode(np.asfortranarray(mask, dtype=np.uint8))
    segmentation = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return {
        "iscrowd": 0,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(mask.sum()),
        "segmentation": segmentation,
    }
