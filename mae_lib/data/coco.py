"""Data sets in COCO's layout. What lives here: `CocoFolder`, the images and instances of one split,
read from COCO's JSON with polygons, both kinds of run-length code (RLE), crowds and gaps in the
category ids; `open_coco`, which finds a split in a folder; and `write_scenes`, which puts the
embedded world's scenes (§3.5) on disk in the same layout, so that they come back through the same
reader.

Where an annotation is odd but legal the rule is COCO's, as its reference tools apply it: a box that
leaves the image is clipped to it; a box without area inside the image, and an instance without a
polygon of three points, are left out and counted (`CocoFolder.dropped`); an image without instances
stays; EXIF orientation is not applied, since the annotations refer to the pixels as stored.
Whatever else is wrong is an `InputError` that names the image or annotation."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from faster_coco_eval.core import mask as rle_api
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.data.annotations import (
    RLE,
    SHAPELESS,
    Annotation,
    annotation_of,
    by_id,
    corners,
    encode,
    file_name_of,
    read,
    size_of,
)
from mae_lib.data.contents import file_digests, fingerprint
from mae_lib.data.formats.coco_layouts import (
    annotations_of,
    image_folders,
    nested,
    place_of,
    splits_of,
)
from mae_lib.data.formats.coco_scenes import own_identity, require_same, write
from mae_lib.data.formats.decoding import eight_bit, opened
from mae_lib.data.image_files import existing_folder, shown
from mae_lib.worlds.world import Scenes

__all__ = [
    "Instances",
    "Annotation",
    "CocoFolder",
    "open_coco",
    "write_scenes",
]


@dataclass(frozen=True)
class Instances:
    """The K instances of one image.

    Attributes:
        boxes: float32 [K, 4], x0, y0, x1, y1 in pixels, end exclusive, inside the image, each with
            an area.
        labels: int64 [K], 1 … C in the order of `CocoFolder.classes`; 0 is left to the background,
            as in torchvision.
        masks: bool [K, H, W]. A polygon thinner than a pixel gives a mask without pixels, as in
            COCO.
        crowd: bool [K]: the mask covers a crowd, not one instance. Training leaves these out,
            COCO's scores ignore what falls on them.
        area: float32 [K], pixels², the file's own: COCO sorts small from large by it.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    crowd: Tensor
    area: Tensor


class CocoFolder:
    """One split in COCO's layout: a folder of images, and a JSON file of their instances.

    Args:
        images: the folder that the file names are relative to, or several, of which the first is
            taken that has the files.
        annotations: COCO's `instances_*.json`.
        classes: the names in the order of the labels, where another split has numbered them; this
            file's categories are matched to them by name, whatever their ids.

    Attributes:
        classes: names in the order of the labels, in ascending category id unless given;
            category_ids: the file's ids, with their gaps: label k stands for `category_ids[k - 1]`.
        image_ids: the file's, in its order. names: the images' paths under `images`.
        dropped: how many annotations are left out of `instances`, by reason; COCO's scores count
            them all the same.
        info: the file's own description of itself.

    Raises:
        InputError: the JSON cannot be read or lacks something; ids occur twice or point nowhere;
            numbers are NaN; an RLE has another size than its image; image files are missing; the
            categories' names are not `classes`. Names the first thing that is wrong and the remedy.
    """

    def __init__(
        self,
        images: str | os.PathLike[str] | Sequence[Path],
        annotations: str | os.PathLike[str],
        classes: Sequence[str] | None = None,
    ) -> None:
        self.annotations = Path(annotations)
        content, digest = read(self.annotations)
        where = shown(self.annotations)
        categories = by_id(content["categories"], "category", where)
        self.category_ids: tuple[int, ...] = tuple(sorted(categories))
        self.classes: tuple[str, ...] = tuple(
            str(categories[k].get("name", k)) for k in self.category_ids
        )
        if not categories:
            raise InputError(
                f"{where} has no categories: fill its 'categories' with the classes' ids and names"
            )
        if classes is not None:
            self.category_ids, self.classes = self.ids_of(classes), tuple(classes)
        pictures = by_id(content["images"], "image", where)
        if not pictures:
            raise InputError(f"{where} has no images: point at a split that holds some")
        self.image_ids: tuple[int, ...] = tuple(pictures)
        self._sizes = [size_of(picture, where) for picture in pictures.values()]
        self.names: tuple[str, ...] = tuple(
            file_name_of(picture, where) for picture in pictures.values()
        )
        labels = {category: k + 1 for k, category in enumerate(self.category_ids)}
        position = {image: i for i, image in enumerate(self.image_ids)}
        self._annotations: list[list[Annotation]] = [[] for _ in self.image_ids]
        for identifier, raw in by_id(content["annotations"], "annotation", where).items():
            image, category = raw.get("image_id"), raw.get("category_id")
            name = f"{where}: annotation {identifier} (image {image!r})"
            if not isinstance(image, int) or image not in position:
                raise InputError(
                    f"{name} belongs to no image of the file: remove it, or add its image"
                )
            if not isinstance(category, int) or category not in labels:
                raise InputError(
                    f"{name} has the unknown category id {category!r}: remove it, or add its"
                    " category"
                )
            i = position[image]
            self._annotations[i].append(
                annotation_of(identifier, raw, labels[category], self._sizes[i], name)
            )
        everything = [annotation for image in self._annotations for annotation in image]
        self.dropped: dict[str, int] = dict(
            Counter(annotation.dropped for annotation in everything if annotation.dropped)
        )
        if everything and self.dropped.get(SHAPELESS) == len(everything):
            raise InputError(
                f"{where} holds boxes alone, no masks: Mask R-CNN needs each instance's"
                " 'segmentation'"
            )
        places = [Path(images)] if isinstance(images, (str, os.PathLike)) else images
        self.folder = place_of(self.names, places, self.annotations)
        self.info: dict = content.get("info") if isinstance(content.get("info"), dict) else {}
        self._scenes = own_identity(content, self.info)
        self._instances, self._digest = len(everything), digest

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What names the data exactly, a small JSON value: by the hashes of the annotations and of
        the images (what reading these costs: `mae_lib.data.contents`); the world's scenes, as
        elsewhere in the project, by their law, seed and sizes, since processors that round
        differently may draw a pixel of a mask otherwise."""
        found = self._contents()
        if self._scenes is not None and self.info.get("contents", found) == found:
            return self._scenes
        named = {
            "kind": "coco",
            "name": self.annotations.stem,
            "images": len(self),
            "instances": self._instances,
            "sha256": self._digest,
        }
        return named | ({"fingerprint": found} if found else {})

    def _contents(self) -> str:
        """The images' fingerprint; empty for those that were named by their annotations alone
        before contents were looked at."""
        return fingerprint(zip(self.names, file_digests(self.folder, self.names)))

    def size(self, i: int) -> tuple[int, int]:
        """(H, W) of image `i`, in [0, len), in pixels, as the file says."""
        return self._sizes[i]

    def image(self, i: int) -> Tensor:
        """uint8 [3, H, W]: image `i`; grey ones are repeated over three channels, EXIF orientation
        is not applied (COCO's rule).

        Raises:
            InputError: the file cannot be decoded, or has another size than the annotations say.
        """
        path = self.folder / self.names[i]
        with opened(path) as image:
            height, width = self._sizes[i]
            if image.size != (width, height):
                found = (
                    f"{image.width}×{image.height} pixels, where {self.annotations.name} says"
                    f" {width}×{height}"
                )
                raise InputError(
                    f"{shown(path)} has {found}: restore the original file, or correct image"
                    f" {self.image_ids[i]} there"
                )
            pixels = np.array(eight_bit(image, "RGB", path))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def records(self, i: int) -> tuple[Annotation, ...]:
        """All annotations of image `i`, those that training does not see too."""
        return tuple(self._annotations[i])

    def rle(self, i: int, annotation: Annotation) -> RLE:
        """The mask of an annotation of image `i`, run-length coded.

        Raises:
            InputError: a polygon has an odd number of coordinates, one that is no number, or one
                far outside; an RLE does not fill the image.
        """
        name = f"{shown(self.annotations)}: annotation {annotation.id} (image {self.image_ids[i]})"
        return encode(annotation.segmentation, self._sizes[i], name)

    def instances(self, i: int) -> Instances:
        """The instances of image `i`, crowds too; K may be 0. Raises what `rle` raises."""
        height, width = self._sizes[i]
        kept = [annotation for annotation in self._annotations[i] if not annotation.dropped]
        boxes = [corners(annotation.bbox, (height, width)) for annotation in kept]
        masks = np.zeros((len(kept), height, width), dtype=bool)
        for k, annotation in enumerate(kept):
            masks[k] = rle_api.decode(self.rle(i, annotation))
        return Instances(
            boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([annotation.label for annotation in kept], dtype=torch.int64),
            masks=torch.from_numpy(masks),
            crowd=torch.tensor([annotation.crowd for annotation in kept], dtype=torch.bool),
            area=torch.tensor([annotation.area for annotation in kept], dtype=torch.float32),
        )

    def ids_of(self, classes: Sequence[str]) -> tuple[int, ...]:
        """The file's category id of each of ``classes``, another split's names; InputError if they
        are not this file's, or not unique in it."""
        if self.classes == tuple(classes):
            return self.category_ids
        where = shown(self.annotations)
        for names, what in (
            (set(classes) - set(self.classes), "lacks {}, which the training split has"),
            (set(self.classes) - set(classes), "has {}, which the training split lacks"),
        ):
            if names:
                some = f"the category '{shown(min(names))}'" + (
                    f" and {len(names) - 1} more" if len(names) > 1 else ""
                )
                raise InputError(
                    f"{where} {what.format(some)}: list the same categories in both, those without"
                    " an instance too"
                )
        ids = dict(zip(self.classes, self.category_ids))
        if not len(ids) == len(self.classes) == len(classes):
            twice = max((*self.classes, *classes), key=(*self.classes, *classes).count)
            raise InputError(
                f"{where} and the training split list the categories in unlike order, and"
                f" '{shown(twice)}' more than once: give each a name of its own"
            )
        return tuple(ids[name] for name in classes)


# --------------------------------------------------------------------------------------------------
# Finding and writing a split


def open_coco(
    directory: str | os.PathLike[str], split: str, classes: Sequence[str] | None = None
) -> CocoFolder:
    """A split of a folder in COCO's own layout, `annotations/instances_train2017.json` beside
    `train2017/`, `images/train2017/` or `images/` (CVAT's `instances_default.json`), or in
    Roboflow's, `train/_annotations.coco.json` beside the images.

    Args:
        directory: the folder that holds `annotations/`, or Roboflow's folders of splits.
        split: a name in full, as `train2017`, or its beginning, as `train`, if that names one split
            only.
        classes: of the training split, for one that is scored beside it: see `CocoFolder`.

    Raises:
        InputError: no such folder or split (the ones there are listed), or what `CocoFolder`
            raises.
    """
    root = existing_folder(directory)
    present = splits_of(root)
    if not present:
        raise InputError(nested(root))
    chosen = (
        [split]
        if split in present
        else [name for name in present if split and name.startswith(split)]
    )
    if len(chosen) != 1:
        which = (
            f"has the splits {', '.join(chosen)} for '{split}'"
            if chosen
            else f"has no split '{split}'"
        )
        raise InputError(f"{shown(root)} {which}: choose one of {', '.join(present)}")
    name = chosen[0]
    return CocoFolder(image_folders(root, name), annotations_of(root, name), classes)


def write_scenes(scenes: Scenes, directory: str | os.PathLike[str], name: str) -> CocoFolder:
    """The embedded world's scenes as a COCO data set on disk, `directory/name/*.png` and
    `directory/annotations/instances_NAME.json`, whole or not at all; if they are there already they
    are opened as they are.

    Image `i` is scene `i`; category ids are 1, 2, … in the order of `scenes.classes`; masks are
    compressed RLE of the visible part, boxes and areas are that part's. The same scenes give the
    same annotations, byte for byte.

    Raises:
        InputError: a name that is no plain file name; other data lie under that name; they were
            altered or cannot be written.
    """
    root = Path(directory).expanduser()
    if not name or name != Path(name).name or name.startswith("."):
        raise InputError(
            f"the split name {name!r} is no plain file name: call it train or validation"
        )
    images, annotations = root / name, root / "annotations" / f"instances_{name}.json"
    try:
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / "annotations" / f".{name}.lock"):
            if annotations.exists():
                require_same(annotations, scenes)
            elif images.exists():
                raise InputError(
                    f"{shown(images)} holds files without annotations: delete it, or choose another"
                    " name or folder"
                )
            if not images.exists():
                write(scenes, images, annotations)
    except OSError as error:
        raise InputError(
            f"cannot write scenes to {shown(root)} ({error.strerror}): free some space or choose"
            " another folder"
        ) from error
    return CocoFolder(images, annotations)
