"""Image files and the folders that they lie in. What lives here: which files are images; listing a
folder without what systems leave there; and the splits that it may have. Which images belong to a
split: `selection`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mae_lib.base.errors import InputError

__all__ = [
    "EXTENSIONS",
    "ARRAYS",
    "LISTS",
    "VALIDATION",
    "SPLITS",
    "cores",
    "shown",
    "existing",
    "existing_folder",
    "entries",
    "subfolders",
    "is_image",
    "images_among",
    "walk",
    "split_folders",
    "split_of",
    "split_folder",
]

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".avif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".tga", ".pcx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    *(".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".sgi", ".ras", ".qoi"),
)
"""Of images that Pillow decodes."""

ARRAYS = (".npy",)
"""Of arrays of bands: images in folders that hold none of `EXTENSIONS`, beside which they would be
something else about these."""

LISTS = (".txt", ".lst", ".list")
"""Of text files with the path of an image in each line."""

VALIDATION = ("val", "validation", "valid")
SPLITS = {"train": ("train", "training"), "val": VALIDATION, "test": ("test", "testing")}
"""A split's name → the names that its folder may have, in capitals or not, the likeliest first."""

_LITTER = {
    *("__macosx", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
    *("$recycle.bin", "system volume information", "lost+found", "__pycache__", "@__thumb"),
}
"""Folders that systems leave: of archives, network storage, Windows and Linux."""

_YEAR = re.compile(r"(19|20)\d\d$")


def cores() -> int:
    """Cores this process may use: how many threads read files unless told otherwise."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shown(path: Path | str) -> str:
    """A path as one printable line: names that are not valid UTF-8 would make `print` itself
    fail."""
    return os.fsencode(path).decode("utf-8", "replace").replace("\n", "\\n").replace("\r", "\\r")


# --------------------------------------------------------------------------------------------------
# Finding the files


def existing(data: str | os.PathLike[str]) -> Path:
    """`data` as a path, if it is a folder, or a text file that lists images."""
    path = Path(data).expanduser()
    if not path.exists():
        raise InputError(f"{shown(path)}: no such folder; check the spelling")
    if not path.is_dir() and path.suffix.lower() not in LISTS:
        raise InputError(
            f"{shown(path)} is a file: point at the folder that holds the images or their class"
            " folders, or at a .txt with the path of an image in each line"
        )
    return path


def existing_folder(directory: str | os.PathLike[str]) -> Path:
    """`directory` as a path, if it is a folder."""
    path = existing(directory)
    if not path.is_dir():
        raise InputError(
            f"{shown(path)} is a file: point at the folder that holds the class folders"
        )
    return path


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name, without hidden files and what systems leave."""
    try:
        with os.scandir(folder) as listing:
            kept = [
                entry
                for entry in listing
                if not entry.name.startswith(".") and entry.name.lower() not in _LITTER
            ]
    except OSError as error:
        raise InputError(
            f"{shown(folder)} cannot be listed ({error.strerror}): check its permissions and its"
            " disk"
        ) from error
    return sorted(kept, key=lambda entry: entry.name)


def subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in entries(folder) if entry.is_dir()]


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def images_among(names: Iterable[str]) -> list[str]:
    """The images among files' paths, sorted; arrays where no other image lies in their folder."""
    named = sorted(names)
    pictures = {name for name in named if is_image(name)}
    housed = {name.rpartition("/")[0] for name in pictures}
    return [
        name
        for name in named
        if name in pictures
        or (name.lower().endswith(ARRAYS) and name.rpartition("/")[0] not in housed)
    ]


def walk(
    folder: Path, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[str]:
    """Relative POSIX paths of all files under a folder, links followed.

    `above` holds the folders on the way down, so that a link back to one of them does not go round
    for ever. A broken link is yielded like a file: whoever opens it says what is wrong.
    """
    status = folder.stat()
    above = above | {(status.st_dev, status.st_ino)}
    for entry in entries(folder):
        if not entry.is_dir():
            yield prefix + entry.name
            continue
        below = entry.stat()
        if (below.st_dev, below.st_ino) not in above:
            yield from walk(folder / entry.name, f"{prefix}{entry.name}/", above)


# --------------------------------------------------------------------------------------------------
# Splits


def split_of(name: str) -> str | None:
    """The split that a folder of this name is, if any; `train2017` as `train`."""
    plain = _YEAR.sub("", name.lower())
    return next((split for split, names in SPLITS.items() if plain in names), None)


def split_folders(directory: Path) -> list[str]:
    """The splits among the subfolders; empty where the subfolders are classes.

    A class may be called "train" (vehicles have one): among folders of other names it counts as a
    split only if another split is there too, or if it has folders of its own.
    """
    names = subfolders(directory)
    splits = [name for name in names if split_of(name)]
    meant = {split_of(name) for name in splits}
    if len(splits) == len(names) or (len(meant) > 1 and "train" in meant):
        return splits
    return splits if any(subfolders(directory / name) for name in splits) else []


def split_folder(directory: Path, split: str) -> str | None:
    """The subfolder that holds a split, by its own name or another that means the same; InputError
    for what can be no folder's name, and where two are there."""
    if not split or Path(split).name != split or split == "..":
        raise InputError(
            f"split '{split}': give the name of a subfolder, such as 'train', without a path"
        )
    if (directory / split).is_dir():
        return split
    meant = split_of(split)
    alike = [name for name in subfolders(directory) if meant and split_of(name) == meant]
    if len(alike) > 1:
        raise InputError(
            f"{shown(directory)} has {' and '.join(map(shown, alike))}, which both mean '{split}':"
            f" call one of them {split}, the other something else"
        )
    return alike[0] if alike else None
