"""Where COCO's annotations and images lie in a folder, in its own layout and as common tools export
them. What lives here: the splits of a folder (`splits_of`), the file and the image folders of one
(`annotations_of`, `image_folders`, `place_of`), and what to do where there is none (`nested`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from mae_lib.base.errors import InputError
from mae_lib.data.image_files import shown, subfolders

__all__ = ["splits_of", "annotations_of", "image_folders", "place_of", "inner_folder", "nested"]

_ROBOFLOW = "_annotations.coco.json"


def splits_of(directory: Path) -> tuple[str, ...]:
    """Names of the splits in a folder, sorted: of `annotations/instances_NAME.json`, else of
    Roboflow's `NAME/_annotations.coco.json`; empty where it has no such files."""
    own = [
        path.stem.removeprefix("instances_")
        for path in directory.glob("annotations/instances_*.json")
    ]
    return tuple(sorted(own or (path.parent.name for path in directory.glob(f"*/{_ROBOFLOW}"))))


def annotations_of(directory: Path, name: str) -> Path:
    own = directory / "annotations" / f"instances_{name}.json"
    return own if own.exists() else directory / name / _ROBOFLOW


def image_folders(directory: Path, name: str) -> list[Path]:
    """Where the images of a split may lie, the likeliest first: in its folder, in `images/`, or,
    where their names begin with a folder, beside that."""
    return [directory / name, directory / "images" / name, directory / "images", directory]


def place_of(names: Sequence[str], places: Sequence[Path], annotations: Path) -> Path:
    """The first folder that has all images of these names.

    Raises:
        InputError: none has; it says how many are missing in the one that has most, and what to do.
    """
    missing = []
    for place in places:
        missing.append([name for name in names if not (place / name).is_file()])
        if not missing[-1]:
            return place
    k = min(range(len(places)), key=lambda k: len(missing[k]))
    if len(missing[k]) == len(names) and not places[0].is_dir() and not _elsewhere(names, places):
        raise InputError(
            f"{shown(places[0])}, the image folder of {annotations.name}, is missing: put it there"
        )
    place, first = places[k], missing[k][0]
    cure = "restore them, or remove them from the file"
    if home := _elsewhere([first], places):
        cure = (
            f"{shown(home)} has '{shown(_last(first))}', so write each file_name in"
            f" {annotations.name} as its path from there"
        )
    raise InputError(
        f"{shown(place)} lacks {len(missing[k])} of the {len(names)} images that"
        f" {annotations.name} names, the first '{shown(first)}': {cure}"
    )


def _last(name: str) -> str:
    """A path's last part, whichever system wrote it."""
    return PurePosixPath(name.replace("\\", "/")).name


def _elsewhere(names: Sequence[str], places: Sequence[Path]) -> Path | None:
    """The first folder that has the first of these files, without the folders in its name."""
    last = _last(names[0])
    return next((place for place in places if last != names[0] and (place / last).is_file()), None)


def inner_folder(directory: Path) -> Path | None:
    """The first folder one level below that has splits, where an archive was unpacked into a folder
    of its own name."""
    inner = (directory / name for name in subfolders(directory))
    return next((folder for folder in inner if splits_of(folder)), None)


def nested(directory: Path) -> str:
    """What to say of a folder without splits: where they are, or where to put what is there."""
    if inner := inner_folder(directory):
        return f"{shown(directory)} holds no annotations itself: point at {shown(inner)}"
    if (directory / _ROBOFLOW).exists():
        return (
            f"{shown(directory)} is one split, with its {_ROBOFLOW}: point at"
            f" {shown(directory.resolve().parent)}, which holds the splits"
        )
    for path in sorted([*directory.glob("*.json"), *directory.glob("annotations/*.json")]):
        if all(
            key in path.read_bytes() for key in (b'"images"', b'"annotations"', b'"categories"')
        ):
            return (
                f"{shown(path)} looks like COCO's: put it at"
                f" {shown(directory / 'annotations' / 'instances_train.json')}, and its images into"
                f" {shown(directory / 'train')}"
            )
    return (
        f"{shown(directory)} holds no annotations/instances_*.json (COCO, CVAT), nor"
        f" NAME/{_ROBOFLOW} (Roboflow): point at the folder that does"
    )
