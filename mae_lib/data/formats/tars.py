"""Tar shards as files. What lives here: finding the shards of a split, with what has to be there
(`holds_shards`, `shard_folder`, `shards_of`, `samples_told`, `class_names`); reading where in them
the images lie, by their headers (`samples_of`, `Reader`); and the names of files in them (`packed`,
`unpacked`). The layout: `DIR/<split>/NAME-000000.tar`, …; in them the samples, each the members
`KEY.jpg` (or another image format) and, where the images have labels, `KEY.cls`, the number of its
class; `classes.json`, a list, or `classes.txt`, one name a line, beside the shards or in `DIR`;
and, where `mae_lib.data.shards.pack` made them, beside the shards `index.json`, which says what has
to be there. webdataset writes the same, and reads it one image after another; it has no random
access."""

from __future__ import annotations

import itertools
import json
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mae_lib.base.errors import InputError
from mae_lib.data.image_files import (
    ARRAYS,
    EXTENSIONS,
    entries,
    shown,
    split_folder,
    split_of,
    subfolders,
)

__all__ = [
    "INDEX",
    "FETCH",
    "BLOCK",
    "Sample",
    "Reader",
    "holds_shards",
    "shard_folder",
    "shards_of",
    "samples_told",
    "class_names",
    "samples_of",
    "packed",
    "unpacked",
]

INDEX = "index.json"
FETCH = "fetch or pack it again"
BLOCK = 512  # bytes: what a tar file is made of

_COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_SERIES = re.compile(r"(.*?)(\d*)\.tar")
_ONE_CLASS = re.compile(r"n\d{8}\.tar")  # ImageNet's training images, as they are fetched
# webdataset's: all up to the first dot of the last part is the key
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")
_UNPACK = 'for t in *.tar; do mkdir "${t%.tar}" && tar -xf "$t" -C "${t%.tar}" && rm "$t"; done'
_PADDING = 2**20  # more than any program writes after a tar file's end
_OPEN = 256  # files kept open; systems allow a process 1024 or more


# --------------------------------------------------------------------------------------------------
# Finding the shards


def holds_shards(directory: Path) -> bool:
    """Whether a folder, or a split's folder in it, holds tar files and no folders: archives may lie
    beside the class folders that came out of them."""
    return _tars_alone(directory) or any(
        _tars_alone(directory / name) for name in subfolders(directory) if split_of(name)
    )


def _tars_alone(folder: Path) -> bool:
    found = entries(folder)
    return any(entry.name.endswith((".tar", *_COMPRESSED)) for entry in found) and not any(
        entry.is_dir() for entry in found
    )


def shard_folder(directory: Path, split: str | None) -> Path:
    """Where the shards of a split lie."""
    if split is None or (split == "train" and _tars_alone(directory)):
        return directory
    if name := split_folder(directory, split):
        return directory / name
    raise InputError(
        f"{shown(directory)} has no shards of the split '{split}': put them into"
        f" {shown(directory / split)}, or ask for a split that is there"
    )


def shards_of(folder: Path) -> list[str]:
    """Names of a folder's tar files; they are of one series."""
    names = [entry.name for entry in entries(folder) if not entry.is_dir()]
    if packed := [name for name in names if name.endswith(_COMPRESSED)]:
        raise InputError(
            f"{shown(folder / packed[0])} is compressed, so that no image can be read without all"
            " before it: unpack it to a .tar"
        )
    found = sorted(name for name in names if name.endswith(".tar"))
    if found and all(map(_ONE_CLASS.fullmatch, found)):
        raise InputError(
            f"{shown(folder)} holds {len(found)} archives of one class each ({found[0]} …), as"
            " ImageNet's training images come: unpack each into a folder of its name, there: "
            + _UNPACK
        )
    if not found and not (folder / INDEX).exists():
        raise InputError(
            f"{shown(folder)} holds no .tar files: point at a folder of shards, or pack one by `mae"
            " data shard`"
        )
    series = sorted({_SERIES.fullmatch(name)[1] for name in found})
    if len(series) > 1:
        raise InputError(
            f"{shown(folder)} holds shards of {len(series)} series, '{shown(series[0])}…' and"
            f" '{shown(series[1])}…' among them: give each split a folder of its own, DIR/train and"
            f" DIR/val; or, if each is a class, unpack each into a folder of its name: {_UNPACK}"
        )
    return found


def samples_told(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """Samples that `index.json` says each shard has, once the names and sizes there have been
    compared; without such a file none, once the shards have been found to be numbered from 0
    without a gap."""
    path = folder / INDEX
    if not path.exists():
        _check_numbering(folder, names)
        return {}
    try:
        told = {
            one["name"]: (int(one["bytes"]), int(one["samples"]))
            for one in json.loads(path.read_text(encoding="utf-8"))["shards"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{shown(path)} is no index of shards ({error!r}): {FETCH}, or delete it; then only"
            " the shards' numbering is checked"
        ) from error
    present = set(names)
    for name, (size, _) in told.items():
        if name not in present:
            raise InputError(f"{shown(folder / name)} is missing, {INDEX} there names it: {FETCH}")
        there = (folder / name).stat().st_size
        if there != size:
            raise InputError(
                f"{shown(folder / name)} has {there} bytes where {INDEX} says {size}: it is cut"
                f" short or another; {FETCH}"
            )
    if strangers := [name for name in names if name not in told]:
        raise InputError(
            f"{shown(folder / strangers[0])} is not in {INDEX} there: take it away, or pack the"
            " shards again"
        )
    return {name: samples for name, (_, samples) in told.items()}


def _check_numbering(folder: Path, names: Sequence[str]) -> None:
    """InputError for a number that is missing, from 0 to the greatest; a single shard without a
    number is whole."""
    series = _SERIES.fullmatch(names[0])[1]
    if list(names) == [f"{series}.tar"]:
        return
    present, wide = set(names), min(len(_SERIES.fullmatch(name)[2]) for name in names)
    expected = (f"{series}{k:0{wide}}.tar" for k in range(len(names)))
    if missing := next((name for name in expected if name not in present), None):
        raise InputError(
            f"{shown(folder / missing)} is missing beside the {len(names)} shards there: {FETCH},"
            " or number the shards from 0 without a gap"
        )


def class_names(folder: Path) -> tuple[str, ...]:
    """The class names beside the shards or above them; none where there is no such file."""
    for path in (
        place / name
        for place in (folder, folder.parent)
        for name in ("classes.json", "classes.txt")
    ):
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
            names = json.loads(text) if path.suffix == ".json" else text.splitlines()
        except (OSError, ValueError) as error:
            raise InputError(
                f"{shown(path)} cannot be read ({error}): it has to list the class names"
            ) from error
        if (
            not isinstance(names, list)
            or not all(isinstance(name, str) and name for name in names)
            or len(set(names)) < max(2, len(names))
        ):
            raise InputError(
                f"{shown(path)} has to list at least two class names, each once: a JSON list, or in"
                " classes.txt one a line"
            )
        return tuple(names)
    return ()


# --------------------------------------------------------------------------------------------------
# Reading them


@dataclass(frozen=True, slots=True)
class Sample:
    """One image's label, if it has one, and where it lies: in which shard, and from which byte how
    many."""

    member: str
    label: int | None
    shard: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Part:
    """A member of a shard; of a label the text."""

    key: str
    ending: str
    name: str
    offset: int
    size: int
    text: str


def samples_of(shard: int, path: Path, classes: int) -> list[Sample]:
    """All samples of a shard, in its order, by its headers. Members that are neither an image nor a
    label, such as a README or other columns of a sample, are passed over."""
    parts, end = [], 0
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                end = info.offset_data + -(-info.size // BLOCK) * BLOCK
                if info.isreg() and (match := _MEMBER.fullmatch(info.name)):
                    key, ending = match[1], match[2].lower()
                    text = _text(tar, info) if ending == "cls" else ""
                    parts.append(_Part(key, ending, info.name, info.offset_data, info.size, text))
            tar.fileobj.seek(end)
            # tarfile takes a header that is cut or damaged for the end.
            if tar.fileobj.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError("a header is cut off or damaged")
            if (left := path.stat().st_size - end) > _PADDING:
                raise tarfile.ReadError(f"it ends {left} bytes too early")
    except OSError as error:
        raise InputError(
            f"{shown(path)} cannot be read ({error.strerror or error}): check the file, its"
            " permissions and its disk"
        ) from error
    except (tarfile.TarError, ValueError, ArithmeticError) as error:  # of sizes that are none, too
        raise InputError(f"{shown(path)} is damaged or truncated ({error}): {FETCH}") from error
    found = [
        sample
        for key, group in itertools.groupby(parts, key=lambda part: part.key)
        if (sample := _sample(shard, path, key, list(group), classes)) is not None
    ]
    if not found and any(part.ending == "tar" for part in parts):
        raise InputError(
            f"{shown(path)} holds archives, as ImageNet's training images come: unpack it into a"
            f" folder of its own, and there each of them into a folder of its name: {_UNPACK}"
        )
    if not found:
        raise InputError(
            f"{shown(path)} holds no samples, KEY.jpg and perhaps KEY.cls: {FETCH}, or take it away"
        )
    return found


def _text(tar: tarfile.TarFile, info: tarfile.TarInfo) -> str:
    """What a label's member says."""
    tar.fileobj.seek(info.offset_data)
    return tar.fileobj.read(min(info.size, 32)).decode("ascii", "replace").strip()


def _sample(
    shard: int, path: Path, key: str, parts: Sequence[_Part], classes: int
) -> Sample | None:
    """The sample that members of one key are, if there is an image or a label among them; its label
    is checked where there are class names."""
    name, mend = (
        f"{shown(path)}!{shown(key)}",
        "mend it where it came from and pack the shards again",
    )
    images = [part for part in parts if f".{part.ending}" in EXTENSIONS] or [
        part for part in parts if f".{part.ending}" in ARRAYS
    ]
    labels = [part.text for part in parts if part.ending == "cls"]
    if not images and not labels:
        return None
    if len(images) != 1:
        found = "no image" if not images else f"{len(images)} images"
        raise InputError(
            f"{name} has {found} ({', '.join(shown(part.ending) for part in parts)}): a sample is"
            f" one image and its .cls; {mend}"
        )
    if len(labels) > 1:
        raise InputError(
            f"{name} has {len(labels)} labels: a sample is one image and its .cls, which holds the"
            f" number of its class; {mend}"
        )
    if labels and classes and not (labels[0].isdecimal() and int(labels[0]) < classes):
        raise InputError(
            f"{name}.cls says {labels[0]!r}, which is no class's number from 0 to {classes - 1}:"
            f" {mend}, or add to the class names"
        )
    label = int(labels[0]) if labels and classes else None
    return Sample(images[0].name, label, shard, images[0].offset, images[0].size)


class _Handle:
    """A file open for reading, closed with the last reference to it: no thread loses it while it
    reads."""

    descriptor = -1

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Reader:
    """Reads pieces of files from any number of threads; the files used last stay open. A copy made
    by pickle opens its own."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._opened = lru_cache(_OPEN)(_Handle)

    def __reduce__(self) -> tuple[type[Reader], tuple[tuple[Path, ...]]]:
        return Reader, (self._paths,)

    def read(self, file: int, offset: int, size: int) -> bytes:
        path = self._paths[file]
        try:
            handle = self._opened(path)
            content = os.pread(handle.descriptor, size, offset)
        except OSError as error:
            raise InputError(
                f"{shown(path)} cannot be read ({error.strerror}): check the file, its permissions"
                " and its disk"
            ) from error
        if len(content) < size:
            raise InputError(f"{shown(path)} is shorter than it was: {FETCH}")
        return content


# --------------------------------------------------------------------------------------------------
# Names


def packed(file: str) -> str:
    """A member's name for a file: without the dots that would cut its key short."""
    folder, slash, name = file.rpartition("/")
    stem, ending = name.rsplit(".", 1)
    return f"{folder}{slash}{stem.replace('%', '%25').replace('.', '%2E')}.{ending}"


def unpacked(member: str, name: str = "") -> str:
    """The file for a member, `<class>/…` if it is of the class `name`: what `packed` was given."""
    folder, slash, last = member.removeprefix("./").rpartition("/")
    path = f"{folder}{slash}{last.replace('%2E', '.').replace('%25', '%')}"
    return path if not name or path.startswith(f"{name}/") else f"{name}/{path}"
