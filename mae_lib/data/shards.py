"""Image sets in shards: a few large tar files where a folder has millions of small ones, for
storage that is slow at opening files. What lives
here: `ShardImages`, which reads webdataset's layout by random access; `holds_shards`, whether a
    folder has it; and `pack`, which makes shards
of a folder of class folders. The layout: `DIR/<split>/NAME-000000.tar`, …; in them the samples,
each the members `KEY.jpg` (or another image format) and `KEY.cls`, the number of its class;
`classes.json`, a list, or `classes.txt`, one name a line, beside the shards or in `DIR`; and, where
`pack` made them, beside the shards `index.json`, which says what has to be there."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mae_lib.base.errors import InputError
from mae_lib.base.files import write_atomically, write_json
from mae_lib.data.contents import fingerprint, piece_digests
from mae_lib.data.datasets import EncodedImages
from mae_lib.data.image_files import (
    EXTENSIONS,
    SPLITS,
    Member,
    entries,
    existing_folder,
    file_sizes,
    select,
    shown,
    spellings,
    split_folders,
    subfolders,
)

__all__ = ["ShardImages", "Packed", "holds_shards", "pack"]

_COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_SERIES = re.compile(r"(.*?)(\d*)\.tar")
# webdataset's: all up to the first dot of the last part is the key
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")
_INDEX = "index.json"
_FETCH = "fetch or pack it again"
_BLOCK = 512
_PADDING = 2**20  # more than any program writes after a tar file's end
_OPEN = 256  # files kept open; systems allow a process 1024 or more


# --------------------------------------------------------------------------------------------------
# Finding the shards


def holds_shards(directory: Path) -> bool:
    """Whether a folder, or a split's folder in it, holds tar files and no folders: archives may lie
    beside the class folders that came out of them."""
    return _tars_alone(directory) or any(
        _tars_alone(directory / name) for name in subfolders(directory) if name in SPLITS
    )


def _tars_alone(folder: Path) -> bool:
    found = entries(folder)
    return any(entry.name.endswith((".tar", *_COMPRESSED)) for entry in found) and not any(
        entry.is_dir() for entry in found
    )


def _folder(directory: Path, split: str | None) -> Path:
    """Where the shards of a split lie."""
    if split is None or (split == "train" and _tars_alone(directory)):
        return directory
    for name in spellings(split):
        if (directory / name).is_dir():
            return directory / name
    raise InputError(
        f"{shown(directory)} has no shards of the split '{split}': put them into"
        f" {shown(directory / split)}, or ask for a split that is there"
    )


def _shards(folder: Path) -> list[str]:
    """Names of a folder's tar files; they are of one series."""
    names = [entry.name for entry in entries(folder) if not entry.is_dir()]
    if packed := [name for name in names if name.endswith(_COMPRESSED)]:
        raise InputError(
            f"{shown(folder / packed[0])} is compressed, so that no image can be read without all"
            " before it: unpack it to a .tar"
        )
    found = sorted(name for name in names if name.endswith(".tar"))
    if not found and not (folder / _INDEX).exists():
        raise InputError(
            f"{shown(folder)} holds no .tar files: point at a folder of shards, or pack one by `mae"
            " data shard`"
        )
    series = sorted({_SERIES.fullmatch(name)[1] for name in found})
    if len(series) > 1:
        raise InputError(
            f"{shown(folder)} holds shards of {len(series)} series, '{shown(series[0])}…' and"
            f" '{shown(series[1])}…' among them: give each split a folder of its own, DIR/train and"
            " DIR/val"
        )
    return found


def _samples_told(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """Samples that `index.json` says each shard has, once the names and sizes there have been
    compared; without such a file none, once the shards have been found to be numbered from 0
    without a gap."""
    path = folder / _INDEX
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
            f"{shown(path)} is no index of shards ({error!r}): {_FETCH}, or delete it; then only"
            " the shards' numbering is checked"
        ) from error
    present = set(names)
    for name, (size, _) in told.items():
        if name not in present:
            raise InputError(
                f"{shown(folder / name)} is missing, {_INDEX} there names it: {_FETCH}"
            )
        there = (folder / name).stat().st_size
        if there != size:
            raise InputError(
                f"{shown(folder / name)} has {there} bytes where {_INDEX} says {size}: it is cut"
                f" short or another; {_FETCH}"
            )
    if strangers := [name for name in names if name not in told]:
        raise InputError(
            f"{shown(folder / strangers[0])} is not in {_INDEX} there: take it away, or pack the"
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
            f"{shown(folder / missing)} is missing beside the {len(names)} shards there: {_FETCH},"
            " or number the shards from 0 without a gap"
        )


def _class_names(folder: Path) -> tuple[str, ...]:
    """The class names beside the shards or above them."""
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
    raise InputError(
        f"{shown(folder)} has no class names: write {shown(folder / 'classes.txt')}, one name a"
        " line in the order of the numbers in .cls"
    )


# --------------------------------------------------------------------------------------------------
# Reading them


@dataclass(frozen=True, slots=True)
class _Sample:
    """One image's label, and where it lies: in which shard, and from which byte how many."""

    member: str
    label: int
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


def _samples(shard: int, path: Path, classes: int) -> list[_Sample]:
    """All samples of a shard, in its order, by its headers."""
    parts, end = [], 0
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                end = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
                if info.isreg() and (match := _MEMBER.fullmatch(info.name)):
                    key, ending = match[1], match[2].lower()
                    text = _text(tar, info) if ending == "cls" else ""
                    parts.append(_Part(key, ending, info.name, info.offset_data, info.size, text))
            tar.fileobj.seek(end)
            # tarfile takes a header that is cut or damaged for the end.
            if tar.fileobj.read(_BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError("a header is cut off or damaged")
            if (left := path.stat().st_size - end) > _PADDING:
                raise tarfile.ReadError(f"it ends {left} bytes too early")
    except tarfile.TarError as error:
        raise InputError(f"{shown(path)} is damaged or truncated ({error}): {_FETCH}") from error
    except OSError as error:
        raise InputError(
            f"{shown(path)} cannot be read ({error.strerror or error}): check the file, its"
            " permissions and its disk"
        ) from error
    if not parts:
        raise InputError(
            f"{shown(path)} holds no samples, KEY.jpg and KEY.cls: {_FETCH}, or take it away"
        )
    return [
        _sample(shard, path, key, list(group), classes)
        for key, group in itertools.groupby(parts, key=lambda part: part.key)
    ]


def _text(tar: tarfile.TarFile, info: tarfile.TarInfo) -> str:
    """What a label's member says."""
    tar.fileobj.seek(info.offset_data)
    return tar.fileobj.read(min(info.size, 32)).decode("ascii", "replace").strip()


def _sample(shard: int, path: Path, key: str, parts: Sequence[_Part], classes: int) -> _Sample:
    """The sample that members of one key are."""
    name, mend = (
        f"{shown(path)}!{shown(key)}",
        "mend it where it came from and pack the shards again",
    )
    images = [part for part in parts if f".{part.ending}" in EXTENSIONS]
    labels = [part.text for part in parts if part.ending == "cls"]
    if len(images) != 1:
        found = "no image" if not images else f"{len(images)} images"
        raise InputError(
            f"{name} has {found} ({', '.join(shown(part.ending) for part in parts)}): a sample is"
            f" one image and its .cls; {mend}"
        )
    if len(labels) != 1:
        found = "no label" if not labels else f"{len(labels)} labels"
        raise InputError(
            f"{name} has {found}: a sample is one image and its .cls, which holds the number of its"
            f" class; {mend}"
        )
    if not labels[0].isdecimal() or int(labels[0]) >= classes:
        raise InputError(
            f"{name}.cls says {labels[0]!r}, which is no class's number from 0 to {classes - 1}:"
            f" {mend}, or add to the class names"
        )
    return _Sample(images[0].name, int(labels[0]), shard, images[0].offset, images[0].size)


class _Handle:
    """A file open for reading, closed with the last reference to it: no thread loses it while it
    reads."""

    descriptor = -1

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class _Reader:
    """Reads pieces of files from any number of threads; the files used last stay open. A copy made
    by pickle opens its own."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._open: OrderedDict[int, _Handle] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[_Reader], tuple[tuple[Path, ...]]]:
        return _Reader, (self._paths,)

    def read(self, file: int, offset: int, size: int) -> bytes:
        path = self._paths[file]
        try:
            with self._lock:
                handle = self._open.get(file) or self._open.setdefault(file, _Handle(path))
                self._open.move_to_end(file)
                if len(self._open) > _OPEN:
                    self._open.popitem(last=False)
            content = os.pread(handle.descriptor, size, offset)
        except OSError as error:
            raise InputError(
                f"{shown(path)} cannot be read ({error.strerror}): check the file, its permissions"
                " and its disk"
            ) from error
        if len(content) < size:
            raise InputError(f"{shown(path)} is shorter than it was: {_FETCH}")
        return content


class ShardImages(EncodedImages):
    """Images in tar shards, read by random access: the headers are read once, when the source is
    made; then each image is one read of its bytes.

    The images are in the order that the class folders would have if each were unpacked to
    `<class>/…`, whatever the order in the shards, and the source has that folder's identity: a
    checkpoint trained on a folder is the one trained on its shards. (Not so where the class names
    are not sorted: a folder would number them otherwise.) What is made of each file:
    `EncodedImages`.

    Args:
        directory: the folder; this module's first lines say how it is laid out. Shards in
            `directory` itself are its split `train`.
        split: `'train'`, `'val'`, the name of another subfolder, or None for shards in `directory`
            itself.
        image_size, channels, min_side, workers: as `EncodedImages` has them.
        progress: show a progress bar over the shards; by default only where stderr is a terminal.

    Raises:
        InputError: no such folder or split; a shard that is missing from the numbering or from
            `index.json`, is compressed, truncated or damaged, or holds other samples than
            `index.json` says; a sample without a label or an image, or with two; a label that is no
            class; no class names. From `images` and `crops`: a member that cannot be used; it is
            named, `shard!member`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        split: str | None = "train",
        image_size: int | tuple[int, int] = (64, 64),
        channels: int = 3,
        min_side: int = 1,
        workers: int | None = None,
        progress: bool | None = None,
    ) -> None:
        super().__init__(image_size, channels, min_side, workers)
        self._folder = folder = _folder(existing_folder(directory), split)
        names = _shards(folder)
        told = _samples_told(folder, names)
        self._split, self._classes = split, _class_names(folder)
        self._paths = [folder / name for name in names]
        # Many threads, since what takes the time on network storage is to wait.
        bar = tqdm(
            total=len(self._paths),
            desc="indexing",
            unit="shard",
            disable=None if progress is None else not progress,
        )
        samples: list[_Sample] = []
        with bar, ThreadPoolExecutor(min(16, len(self._paths))) as pool:
            try:
                for path, found in zip(
                    self._paths,
                    pool.map(
                        lambda one: _samples(*one, len(self._classes)), enumerate(self._paths)
                    ),
                ):
                    if len(found) != told.get(path.name, len(found)):
                        raise InputError(
                            f"{shown(path)} holds {len(found)} samples where {_INDEX} says"
                            f" {told[path.name]}: {_FETCH}"
                        )
                    samples += found
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        samples.sort(
            key=lambda one: (
                one.label,
                _unpacked(one.member, self._classes[one.label]),
                one.shard,
                one.offset,
            )
        )
        self._members = [one.member for one in samples]
        self._places = np.array(
            [(one.shard, one.offset, one.size) for one in samples], dtype=np.int64
        )
        self._labels = torch.tensor([one.label for one in samples], dtype=torch.int64)
        self._reader = _Reader(self._paths)

    @property
    def labels(self) -> Tensor:
        """int64 `[N]`, in `[0, len(classes))`."""
        return self._labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the numbers in the shards."""
        return self._classes

    @property
    def shards(self) -> tuple[Path, ...]:
        """The tar files, in the order of their numbers."""
        return tuple(self._paths)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """That of the folder of class folders with the same files; where a folder would number the
        classes otherwise, of kind `shards`, and with the numbers in the fingerprint. How the
        samples are spread over the shards has no part in it.
        """
        places = [tuple(place) for place in self._places.tolist()]
        digests = piece_digests(
            self._folder,
            [path.name for path in self._paths],
            places,
            lambda k: self._reader.read(*places[k]),
        )
        labels = self._labels.tolist()
        files = [
            (label, _unpacked(member, self._classes[label]), digest)
            for label, member, digest in zip(labels, self._members, digests)
        ]
        if list(self._classes) == sorted(self._classes):
            return self._identity(
                "folder", self._split, fingerprint((path, digest) for _, path, digest in files)
            )
        return self._identity(
            "shards",
            self._split,
            fingerprint((f"{label}/{path}", digest) for label, path, digest in files),
        )

    def encoded(self, index: int) -> Member:
        """The bytes of one image file, and its name `shard!member`."""
        shard, offset, size = self._places[index].tolist()
        return Member(
            f"{self._paths[shard]}!{self._members[index]}", self._reader.read(shard, offset, size)
        )


# --------------------------------------------------------------------------------------------------
# Packing


def _packed(file: str) -> str:
    """A member's name for a file `<class>/…`: without the dots that would cut its key short."""
    folder, _, name = file.rpartition("/")
    stem, ending = name.rsplit(".", 1)
    return f"{folder}/{stem.replace('%', '%25').replace('.', '%2E')}.{ending}"


def _unpacked(member: str, name: str) -> str:
    """The file `<class>/…` for a member of the class `name`: what `_packed` was given."""
    folder, slash, last = member.removeprefix("./").rpartition("/")
    path = f"{folder}{slash}{last.replace('%2E', '.').replace('%25', '%')}"
    return path if path.startswith(f"{name}/") else f"{name}/{path}"


@dataclass(frozen=True)
class Packed:
    """What `pack` wrote: of each split the shards, the samples and the bytes."""

    splits: dict[str, tuple[int, int, int]]

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {samples} images in {shards} shard(s), {size / 1e6:,.1f} MB"
            for name, (shards, samples, size) in self.splits.items()
        )


def pack(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str],
    splits: Sequence[str] = (),
    megabytes: float = 512,
    progress: bool | None = None,
) -> Packed:
    """Write a folder of class folders as shards, whole or not at all; `ShardImages(out, split)` is
    then equal to `FolderImages(directory, split)`.

    The files' bytes stay as they are. Their order is by a hash of their names, so that shards read
    one after another give a mix of classes, and the same folder always gives the same shards.

    Args:
        directory: the folder, in one of the layouts of `FolderImages`.
        out: where the shards go: a folder that is empty or not there yet.
        splits: which splits; by default all there are, or `train` and `val` where these are cut out
            of class folders.
        megabytes: size at which the next shard begins, in units of 10⁶ bytes.
        progress: show a progress bar; by default only where stderr is a terminal.

    Raises:
        InputError: all that `FolderImages` refuses; an `out` that holds something; two files of a
            folder whose names differ in the ending alone; a file that cannot be read; too little
            space, or a disk that is full or fails. Nothing is left then.
    """
    root, target = existing_folder(directory), Path(out).expanduser()
    if not megabytes > 0:
        raise InputError(f"shards of {megabytes:g} MB: give a size above 0")
    if target.exists() and not target.is_dir():
        raise InputError(f"{shown(target)} is a file: name an empty or a new folder")
    if target.exists() and (there := next(target.iterdir(), None)):
        raise InputError(
            f"{shown(target)} is not empty, it holds '{shown(there.name)}': name an empty or a new"
            " folder"
        )
    selected = {
        name: select(root, name) for name in splits or split_folders(root) or ("train", "val")
    }
    names = {classes for _, classes, _ in selected.values()}
    if len(names) > 1:
        raise InputError(
            f"{shown(root)} has splits of different classes and no train that numbers them: pack"
            " one at a time, by --split"
        )
    ordered, sizes = {}, {}
    for split, (folder, _, members) in selected.items():
        labelled = [(file, label) for label, files in enumerate(members) for file in files]
        ordered[split] = sorted(
            labelled, key=lambda one: hashlib.sha256(os.fsencode(one[0])).digest()
        )
        sizes[split] = file_sizes(folder, (file for file, _ in ordered[split]))
        _refuse_twins(folder, [file for file, _ in labelled])
    total = sum(map(sum, sizes.values()))
    made, placed = not target.exists(), []
    staging = target / ".part"
    try:
        staging.mkdir(parents=True)  # or another process packs into it
    except OSError as error:
        raise InputError(
            f"cannot write in {shown(target)} ({error.strerror}): choose another folder"
        ) from error
    try:
        if (free := shutil.disk_usage(staging).free) < total:
            raise InputError(
                f"{shown(target)} needs {total / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB"
                " left: free some space"
            )
        packed = {}
        with tqdm(
            total=total,
            desc="packing",
            unit="B",
            unit_scale=True,
            disable=None if progress is None else not progress,
        ) as bar:
            for split, (folder, _, _) in selected.items():
                packed[split] = _write_split(
                    folder,
                    ordered[split],
                    list(_parts(sizes[split], megabytes * 1e6)),
                    staging / split,
                    bar,
                )
        # The class names first: until the last split has its name, the folder says that something
        # is missing.
        write_json(target / "classes.json", list(names.pop()), replace=False)
        placed.append(target / "classes.json")
        for split in selected:
            os.replace(staging / split, target / split)
            placed.append(target / split)
        staging.rmdir()
    except BaseException as error:
        for mine in (staging, *placed[1:]):
            shutil.rmtree(mine, ignore_errors=True)
        with contextlib.suppress(OSError):
            for mine in placed[:1]:
                mine.unlink()
            if made:
                target.rmdir()
        if isinstance(error, OSError):
            raise InputError(
                f"cannot write {shown(target)} ({error.strerror}): nothing was written"
            ) from error
        raise
    return Packed(packed)


def _refuse_twins(folder: Path, files: Sequence[str]) -> None:
    """InputError for two files that would be the same sample."""
    keys: dict[str, str] = {}
    for file in files:
        if (other := keys.setdefault(_packed(file).rsplit(".", 1)[0], file)) is not file:
            raise InputError(
                f"{shown(folder / other)} and {shown(folder / file)} differ in the ending alone,"
                " and would be one sample: rename one"
            )


def _parts(sizes: Sequence[int], limit: float) -> Iterator[range]:
    """Which files go into which shard: as many as reach `limit` bytes, headers included, or what is
    left."""
    start, filled = 0, 0
    for position, size in enumerate(sizes, 1):
        filled += 3 * _BLOCK + -(-size // _BLOCK) * _BLOCK  # two headers, the label, the image
        if filled >= limit or position == len(sizes):
            yield range(start, position)
            start, filled = position, 0


def _write_split(
    folder: Path, files: Sequence[tuple[str, int]], parts: Sequence[range], out: Path, bar: tqdm
) -> tuple[int, int, int]:
    """Shards of a split and their index in `out`; (shards, samples, bytes)."""
    index = []
    for number, part in enumerate(parts):
        path = out / f"{out.name}-{number:06}.tar"
        write_atomically(path, partial(_write_shard, folder, [files[k] for k in part], bar))
        index.append({"name": path.name, "bytes": path.stat().st_size, "samples": len(part)})
    write_json(out / _INDEX, {"shards": index})
    return len(index), len(files), sum(one["bytes"] for one in index)


def _write_shard(folder: Path, files: Sequence[tuple[str, int]], bar: tqdm, path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for file, label in files:
            content, member = _content(folder / file), _packed(file)
            _add(tar, member, content)
            _add(tar, f"{member.rsplit('.', 1)[0]}.cls", str(label).encode())
            bar.update(len(content))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{shown(path)} cannot be opened ({error.strerror}): check the file, its permissions"
            " and its disk"
        ) from error


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A member without owner or time, so that equal files give equal shards."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
