"""Image sets in shards: a few large tar files where a folder has millions of small ones, for
storage that is slow at opening files. What lives here: `ShardImages`, which reads them by random
access, and `pack`, which makes shards of a folder. How they are laid out: `shard_files`."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mae_lib.base.errors import InputError
from mae_lib.base.files import write_atomically, write_json
from mae_lib.data.contents import fingerprint, piece_digests
from mae_lib.data.encoded import EncodedImages
from mae_lib.data.formats.decoding import Member
from mae_lib.data.formats.selection import file_sizes, select
from mae_lib.data.formats.tars import (
    BLOCK,
    FETCH,
    INDEX,
    Reader,
    Sample,
    class_names,
    packed,
    samples_of,
    samples_told,
    shard_folder,
    shards_of,
    unpacked,
)
from mae_lib.data.image_files import (
    existing,
    existing_folder,
    shown,
    split_folders,
)

__all__ = ["ShardImages", "Packed", "pack"]


class ShardImages(EncodedImages):
    """Images in tar shards, read by random access: the headers are read once, when the source is
    made; then each image is one read of its bytes.

    The images are in the order that the class folders would have if each were unpacked to
    `<class>/…`, whatever the order in the shards, and the source has that folder's identity: a
    checkpoint trained on a folder is the one trained on its shards. (Not so where the class names
    are not sorted: a folder would number them otherwise.) Samples without `.cls`, all of them, are
    those of a folder without class folders. What is made of each file: `EncodedImages`.

    Args:
        directory: the folder; `mae_lib.data.formats.tars` says how it is laid out. Shards in
            `directory` itself are its split `train`.
        split: `'train'`, `'val'`, the name of another subfolder, or None for shards in `directory`
            itself.
        image_size, channels, min_side, workers: as `EncodedImages` has them.
        progress: show a progress bar over the shards; by default only where stderr is a terminal.

    Raises:
        InputError: no such folder or split; a shard that is missing from the numbering or from
            `index.json`, is compressed, truncated or damaged, or holds other samples than
            `index.json` says; a sample without an image, or with two, or with two labels; a label
            that is no class; labels in some samples only. From `images` and `crops`: a member that
            cannot be used; it is named, `shard!member`.
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
        self._folder = folder = shard_folder(existing_folder(directory), split)
        names, classes = shards_of(folder), class_names(folder)
        told = samples_told(folder, names)
        self._split, self._paths = split, [folder / name for name in names]
        # Many threads, since what takes the time on network storage is to wait.
        bar = tqdm(
            total=len(self._paths),
            desc="indexing",
            unit="shard",
            disable=None if progress is None else not progress,
        )
        samples: list[Sample] = []
        with bar, ThreadPoolExecutor(min(16, len(self._paths))) as pool:
            try:
                for path, found in zip(
                    self._paths,
                    pool.map(lambda one: samples_of(*one, len(classes)), enumerate(self._paths)),
                ):
                    if len(found) != told.get(path.name, len(found)):
                        raise InputError(
                            f"{shown(path)} holds {len(found)} samples where {INDEX} says"
                            f" {told[path.name]}: {FETCH}"
                        )
                    samples += found
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        bare = next((one for one in samples if one.label is None), None)
        if bare is not None and any(one.label is not None for one in samples):
            raise InputError(
                f"{shown(self._paths[bare.shard])}!{shown(bare.member)} has no label, as others"
                " have: mend it where it came from and pack the shards again"
            )
        reason = ""
        if bare is not None:
            there = "samples have no KEY.cls" if classes else "samples need the class names"
            reason = (
                f"{shown(folder)}: its {there}; write {shown(folder / 'classes.txt')}, one name a"
                " line, and of each image KEY.cls, the number of its class"
            )
        named = (
            (one.label or 0, unpacked(one.member, "" if reason else classes[one.label]), one)
            for one in samples
        )
        ordered = sorted(named, key=lambda each: (*each[:2], each[2].shard, each[2].offset))
        self._files = [file for _, file, _ in ordered]
        samples = [one for _, _, one in ordered]
        self._members = [one.member for one in samples]
        self._places = np.array(
            [(one.shard, one.offset, one.size) for one in samples], dtype=np.int64
        )
        self._label(
            [] if reason else [one.label for one in samples], () if reason else classes, reason
        )
        self._reader = Reader(self._paths)

    def __len__(self) -> int:
        return len(self._members)

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
        if list(self._classes) == sorted(self._classes):
            return self._identity("folder", self._split, fingerprint(zip(self._files, digests)))
        numbered = (f"{label}/{file}" for label, file in zip(self._labels.tolist(), self._files))
        return self._identity("shards", self._split, fingerprint(zip(numbered, digests)))

    def encoded(self, index: int) -> Member:
        """The bytes of one image file, and its name `shard!member`."""
        shard, offset, size = self._places[index].tolist()
        return Member(
            f"{self._paths[shard]}!{self._members[index]}", self._reader.read(shard, offset, size)
        )


# --------------------------------------------------------------------------------------------------
# Packing


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
    """Write a folder of images as shards, whole or not at all; `ShardImages(out, split)` is
    then equal to `FolderImages(directory, split)`.

    The files' bytes stay as they are. Their order is by a hash of their names, so that shards read
    one after another give a mix of classes, and the same folder always gives the same shards.

    Args:
        directory: the folder, in one of the layouts of `FolderImages`, or a list of images.
        out: where the shards go: a folder that is empty or not there yet, not inside `directory`.
        splits: which splits; by default all there are, or `train` and `val` where these are cut out
            of class folders.
        megabytes: size at which the next shard begins, in units of 10⁶ bytes.
        progress: show a progress bar; by default only where stderr is a terminal.

    Raises:
        InputError: all that `FolderImages` refuses; an `out` that holds something, or lies inside
            `directory`; two files of a
            folder whose names differ in the ending alone; a file that cannot be read; too little
            space, or a disk that is full or fails. Nothing is left then.
    """
    root, target = existing(directory), Path(out).expanduser()
    if not megabytes > 0:
        raise InputError(f"shards of {megabytes:g} MB: give a size above 0")
    if target.exists() and not target.is_dir():
        raise InputError(f"{shown(target)} is a file: name an empty or a new folder")
    if root.resolve() in target.resolve().parents:
        raise InputError(
            f"{shown(target)} lies inside {shown(root)}, which would then hold it as one more"
            f" class: name a folder beside it, such as {shown(root)}-shards"
        )
    if target.exists() and (there := next(target.iterdir(), None)):
        raise InputError(
            f"{shown(target)} is not empty, it holds '{shown(there.name)}': name an empty or a new"
            " folder"
        )
    present = split_folders(root) if root.is_dir() else []
    selected = {name: select(root, name) for name in splits or present or ("train", "val")}
    names = {chosen.classes for chosen in selected.values() if chosen.classes}
    if len(names) > 1:
        raise InputError(
            f"{shown(root)} has splits of different classes and no train that numbers them: pack"
            " one at a time, by --split"
        )
    ordered, sizes = {}, {}
    for split, chosen in selected.items():
        files = chosen.files
        labelled = list(zip(files, chosen.labels or [None] * len(files), strict=True))
        ordered[split] = sorted(
            labelled, key=lambda one: hashlib.sha256(os.fsencode(one[0])).digest()
        )
        sizes[split] = file_sizes(chosen.root, (file for file, _ in ordered[split]))
        _refuse_twins(chosen.root, files)
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
            for split, chosen in selected.items():
                packed[split] = _write_split(
                    chosen.root,
                    ordered[split],
                    list(_parts(sizes[split], megabytes * 1e6)),
                    staging / split,
                    bar,
                )
        # The class names first: until the last split has its name, the folder says that something
        # is missing.
        if names:
            write_json(target / "classes.json", list(names.pop()), replace=False)
            placed.append(target / "classes.json")
        for split in selected:
            os.replace(staging / split, target / split)
            placed.append(target / split)
        staging.rmdir()
    except BaseException as error:
        for mine in (staging, *placed):
            shutil.rmtree(mine, ignore_errors=True)
        with contextlib.suppress(OSError):
            if target / "classes.json" in placed:
                (target / "classes.json").unlink()
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
        if (other := keys.setdefault(packed(file).rsplit(".", 1)[0], file)) is not file:
            raise InputError(
                f"{shown(folder / other)} and {shown(folder / file)} differ in the ending alone,"
                " and would be one sample: rename one"
            )


def _parts(sizes: Sequence[int], limit: float) -> Iterator[range]:
    """Which files go into which shard: as many as reach `limit` bytes, headers included, or what is
    left."""
    start, filled = 0, 0
    for position, size in enumerate(sizes, 1):
        filled += 3 * BLOCK + -(-size // BLOCK) * BLOCK  # two headers, the label, the image
        if filled >= limit or position == len(sizes):
            yield range(start, position)
            start, filled = position, 0


def _write_split(
    folder: Path,
    files: Sequence[tuple[str, int | None]],
    parts: Sequence[range],
    out: Path,
    bar: tqdm,
) -> tuple[int, int, int]:
    """Shards of a split and their index in `out`; (shards, samples, bytes)."""
    index = []
    for number, part in enumerate(parts):
        path = out / f"{out.name}-{number:06}.tar"
        write_atomically(path, partial(_write_shard, folder, [files[k] for k in part], bar))
        index.append({"name": path.name, "bytes": path.stat().st_size, "samples": len(part)})
    write_json(out / INDEX, {"shards": index})
    return len(index), len(files), sum(one["bytes"] for one in index)


def _write_shard(
    folder: Path, files: Sequence[tuple[str, int | None]], bar: tqdm, path: Path
) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for file, label in files:
            content, member = _content(folder / file), packed(file)
            _add(tar, member, content)
            if label is not None:
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
