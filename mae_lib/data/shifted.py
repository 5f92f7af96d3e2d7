"""Shifted evaluation sets in their published layouts (§3.3, Table 1). What lives here:
`open_shifted`, which opens ImageNet-v2, -R, -A, -Sketch, ObjectNet or any folder of class folders,
and `ShiftedSet`, the images together with what a probe may answer and what counts as right: the
classes of such a set are never quite those that the probe was trained on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.data.encoded import FolderImages
from mae_lib.data.image_files import existing_folder, shown, subfolders

__all__ = ["PUBLISHED", "ShiftedSet", "open_shifted"]

PUBLISHED = ("imagenet-v2", "imagenet-r", "imagenet-a", "imagenet-sketch", "objectnet")
"""Names whose layout is known; a set of any other name is read as class folders that are called as
the probe's classes are."""

_WNID = re.compile(r"n\d{8}")
_FRAME = 2  # pixels: the red frame of ObjectNet's images


@dataclass(frozen=True)
class ShiftedSet:
    """Images of another distribution, and how a probe with C classes is scored on them.

    One representation serves all sets: which classes count as right for a label. A label of
    ImageNet's variants has one of them, one of ObjectNet's may have several.

    Attributes:
        name: of the set.
        source: the images whose label the probe can get right, and no others; K labels, of one
            class folder each.
        accepts: bool [K, C] on the CPU: whether class c counts as right for an image of label k.
            Every row has a True.
        left_out: the set's class folders that `source` has not, since the probe lacks their class.

    Raises:
        InputError: `accepts` is not bool [K, C], or has a row without a True.
    """

    name: str
    source: ImageSource
    accepts: Tensor
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        labels = len(self.source.classes)
        if (
            self.accepts.dtype != torch.bool
            or self.accepts.ndim != 2
            or len(self.accepts) != labels
        ):
            given = f"{self.accepts.dtype} {list(self.accepts.shape)}"
            raise InputError(
                f"{self.name}: accepts is {given}: give bool [{labels}, C], a row for each label of"
                " the source"
            )
        if not self.accepts.any(1).all():
            lost = self.source.classes[int(self.accepts.any(1).int().argmin())]
            raise InputError(
                f"{self.name}: no class counts as right for '{shown(lost)}': leave its images out"
                " of the source"
            )


def open_shifted(
    name: str,
    directory: str | PathLike[str],
    classes: Sequence[str],
    image_size: int | tuple[int, int],
    channels: int = 3,
) -> ShiftedSet:
    """A shifted set, scored for a probe whose classes are `classes`.

    Layouts, each directly in DIR or one folder below it, as the archives unpack; files beside the
    folders are passed over:

    - `imagenet-v2`: `0/ … 999/`, ImageNet-1K's classes in the order of their WordNet ids. (Sorted
      as strings, as folders usually are, "10" comes before "2": modestyachts/ImageNetV2, issue 10.)
    - `imagenet-r`, `imagenet-a` (200 classes each) and `imagenet-sketch` (1000): `n01443537/ …`,
      WordNet ids.
    - `objectnet`: `images/<folder>/` and `mappings/`. Of its 313 folders 113 mean one or several
      ImageNet classes, and an answer with any of them is right (modestyachts/imagenet-testbed,
      src/eval_settings/objectnet.py; the order of the ids as in mlfoundations/model-soups,
      datasets/objectnet.py). Two pixels are cut off each side, the red frame
      (abarbu/objectnet-template-pytorch, objectnet_pytorch_dataloader.py).
    - any other name: `<class>/ …`, named as the probe's classes are (a domain of PACS, for one);
      all of the images are used.

    Args:
        name: of the set. directory: its folder.
        classes: the probe's class names in the order of its outputs; WordNet ids for the sets in
            `PUBLISHED`.
        image_size: `(H, W)` in pixels, or one number for both. channels: 3 (RGB) or 1 (grey).

    Raises:
        InputError: no such folder; no such layout in it, or several; fewer than two shared classes;
            an index beyond 999; a mapping file that is missing, damaged or of another numbering; an
            empty class folder; classes that are not WordNet ids where these are needed; and all
            that `FolderImages` refuses.
    """
    path, border = existing_folder(directory), 0
    if name in PUBLISHED:
        _check_wnids(name, classes)
    if name == "imagenet-v2":
        root = _root(path, _is_index, "index folders, 0 … 999")
        meaning = _index_folders(root)
    elif name == "objectnet":
        root = _root(path, "images".__eq__, "folder 'images'")
        meaning, root, border = _objectnet(root), root / "images", _FRAME
    elif name in PUBLISHED:
        root = _root(path, _is_wnid, "folders named by WordNet id, such as n01443537")
        meaning = {folder: {folder} for folder in subfolders(root)}
    else:
        known = set(classes)
        example = f"such as '{shown(classes[0])}'" if classes else "of which there are none"
        layouts = f"(published layouts are opened by their names: {', '.join(PUBLISHED)})"
        root = _root(
            path, known.__contains__, f"folders named as the probe's classes, {example} {layouts}"
        )
        meaning = {folder: {folder} for folder in subfolders(root)}
    shared = [folder for folder, right in meaning.items() if not right.isdisjoint(classes)]
    if len(shared) < 2:
        which = (
            f"one class only ('{shown(shared[0])}'), which every probe gets right"
            if shared
            else "no class"
        )
        raise InputError(
            f"the {len(meaning)} class folders in {shown(root)} share {which}: probe on at least"
            f" two classes that {name} has"
        )
    source = FolderImages(root, None, image_size, channels, only=shared, border=border)
    accepts = torch.tensor([[c in meaning[folder] for c in classes] for folder in source.classes])
    return ShiftedSet(
        name, source, accepts, tuple(folder for folder in meaning if folder not in shared)
    )


# --------------------------------------------------------------------------------------------------
# Layouts: each function says which class names a folder means


def _root(directory: Path, fits: Callable[[str], bool], wanted: str) -> Path:
    """`directory`, or the one folder in it, that has subfolders whose names fit."""
    if any(map(fits, subfolders(directory))):
        return directory
    inner = [name for name in subfolders(directory) if any(map(fits, subfolders(directory / name)))]
    if not inner:
        raise InputError(f"{shown(directory)} has no {wanted}: point at the folder that has them")
    if len(inner) > 1:
        raise InputError(
            f"{shown(directory)} holds {len(inner)} sets ({', '.join(map(shown, inner))}): point at"
            " one of them"
        )
    return directory / inner[0]


def _is_wnid(name: str) -> bool:
    return _WNID.fullmatch(name) is not None


def _is_index(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _check_wnids(name: str, classes: Sequence[str]) -> None:
    for c in classes:
        if not _is_wnid(c):
            cure = "probe on a folder whose classes are named by WordNet id, such as n01443537"
            raise InputError(
                f"{name} is labelled with ImageNet's classes, and the probe's class '{shown(c)}' is"
                f" none: {cure}"
            )


def _synsets() -> list[str]:
    """WordNet ids of ImageNet-1K's classes, sorted: the order of every classifier's outputs."""
    return ImageNetInfo("imagenet-1k").label_names()


def _index_folders(root: Path) -> dict[str, Set[str]]:
    """The class of each of ImageNet-v2's folders."""
    synsets = _synsets()
    meaning: dict[str, Set[str]] = {}
    for folder in subfolders(root):
        if _is_index(folder) and int(folder) >= len(synsets):
            raise InputError(
                f"{shown(root / folder)} is no class of ImageNet-1K, whose indices are 0 …"
                f" {len(synsets) - 1}: remove this folder"
            )
        meaning[folder] = {synsets[int(folder)]} if _is_index(folder) else set()
    return meaning


def _objectnet(root: Path) -> dict[str, Set[str]]:
    """The classes of each of ObjectNet's folders, by way of its four mapping files: the folder's
    label; the names of ImageNet's classes that it means ("name; name"); the line, from 0, that each
    class has in the list of names; and that list.
    """
    labels = _pairs(root, "folder_to_objectnet_label.json", str)
    names = _pairs(root, "objectnet_to_imagenet_1k.json", str)
    lines = _pairs(root, "pytorch_to_imagenet_2012_id.json", int)
    listed = _text(root, "imagenet_to_label_2012_v2").rstrip("\n").split("\n")
    synsets = _synsets()
    class_of_line = {
        line: synsets[int(index)]
        for index, line in lines.items()
        if _is_index(index) and int(index) < len(synsets)
    }
    if class_of_line.keys() != set(range(len(listed))):
        what = f"does not number the {len(listed)} lines of imagenet_to_label_2012_v2 from 0"
        raise InputError(
            f"{shown(root / 'mappings' / 'pytorch_to_imagenet_2012_id.json')} {what}: take both"
            " files from the same ObjectNet archive"
        )
    # Two classes may have one name ("crane"): the later line has it, as in the published
    # evaluations.
    class_of_name = {text.strip(): class_of_line[line] for line, text in enumerate(listed)}
    meaning: dict[str, Set[str]] = {}
    for folder in subfolders(root / "images"):
        if folder not in labels:
            raise InputError(
                f"{shown(root / 'images' / folder)} is not in"
                " mappings/folder_to_objectnet_label.json: remove it, or restore the file"
            )
        meant = [name.strip() for name in names.get(labels[folder], "").split(";") if name.strip()]
        if unknown := [name for name in meant if name not in class_of_name]:
            what = (
                f"maps '{labels[folder]}' to '{unknown[0]}', which imagenet_to_label_2012_v2 lacks"
            )
            raise InputError(
                f"{shown(root / 'mappings' / 'objectnet_to_imagenet_1k.json')} {what}: take both"
                " files from the same ObjectNet archive"
            )
        meaning[folder] = {class_of_name[name] for name in meant}
    return meaning


def _text(root: Path, name: str) -> str:
    path = root / "mappings" / name
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        cure = "it comes with ObjectNet's archive, in mappings/ beside images/; restore it"
        raise InputError(f"{shown(path)} cannot be read ({error.strerror}): {cure}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{shown(path)} is damaged ({error.reason}): restore it from ObjectNet's archive"
        ) from error


def _pairs(root: Path, name: str, kind: type) -> dict[str, Any]:
    """A mapping file: one JSON object whose values are of one kind."""
    text = _text(root, name)
    try:
        pairs = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{shown(root / 'mappings' / name)} is damaged ({error}): restore it from ObjectNet's"
            " archive"
        ) from error
    if not isinstance(pairs, dict) or not all(isinstance(value, kind) for value in pairs.values()):
        what = f"does not map names to {'numbers' if kind is int else 'names'}"
        raise InputError(
            f"{shown(root / 'mappings' / name)} {what}: restore it from ObjectNet's archive"
        )
    return pairs
