"""What tells image files apart: the SHA-256 of their contents. What lives here: `file_digests`, of
files; `piece_digests`, of pieces of files, such as the members of a tar; and `fingerprint`, which
names a whole set by its paths and contents.

A file is read once, when it is first seen, and again when its size or one of its times has changed;
in between its digest is looked up in the cache (48 bytes a file). What that costs for a million
files of 110 kB, by what 4,000 of them and 100,000 small ones took on a processor of two cores: the
first time one reading of all 110 GB, as long as the disk takes (9 minutes at 200 MB/s), and
2 minutes of one core; then, each time that a command opens the set, a look at each file's size and
times, 10 to 20 s where the disk is local.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import resources
from pathlib import Path

import filelock
import torch
from tqdm import tqdm

from mae_lib.base.errors import InputError
from mae_lib.base.files import DamagedFile, cache_directory
from mae_lib.base.tensors import read_safetensors, write_safetensors
from mae_lib.data.image_files import cores, shown

__all__ = ["file_digests", "piece_digests", "fingerprint"]

LEAST = 2**22
"""Bytes: sets with fewer are read anew each time, too quickly to be worth a place in the cache."""

_TICK = 2 * 10**9  # nanoseconds: file systems may give two changes less than this apart one time
_KEY, _DIGEST = 16, 32  # bytes


def file_digests(root: Path, names: Sequence[str]) -> list[bytes]:
    """SHA-256 of each file ``names`` under ``root``. InputError, with its name, for one that has
    gone, is a broken link or cannot be read."""
    stamps = [_stamp(root, name) for name in names]
    sizes = [size for size, _, _ in stamps]
    return _looked_up(root, list(zip(names, stamps)), sizes, lambda k: _digest_of(root, names[k]))


def piece_digests(
    root: Path,
    files: Sequence[str],
    places: Sequence[tuple[int, int, int]],
    read: Callable[[int], bytes],
) -> list[bytes]:
    """SHA-256 of pieces of ``files`` under ``root``: ``places`` holds of each its file's number in
    the list, its first byte and its length; ``read`` gives piece k. InputError as `file_digests`.
    """
    stamps = [_stamp(root, name) for name in files]
    named = [(f"{files[file]}\0{first}\0{size}", stamps[file]) for file, first, size in places]
    sizes = [size for _, _, size in places]
    return _looked_up(root, named, sizes, lambda k: hashlib.sha256(read(k)).digest())


def fingerprint(digested: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256, in hex, of relative paths and digests of contents, whatever their order. The sets
    that shipped checkpoints and results were made on keep the names that these bear, which were
    given before contents were looked at; those in COCO's layout had none, and have ''."""
    whole = hashlib.sha256()
    for name, digest in sorted(digested):
        whole.update(os.fsencode(name) + b"\0" + digest + b"\n")
    return _former().get(whole.hexdigest(), whole.hexdigest())


@lru_cache(maxsize=1)
def _former() -> dict[str, str]:
    table = resources.files("mae_lib.data").joinpath("assets/fingerprints.json")
    return json.loads(table.read_text(encoding="utf-8"))["former"]


Stamp = tuple[int, int, int]
"""A file's bytes, and when its contents and when anything of it were last changed, in ns."""


def _stamp(root: Path, name: str) -> Stamp:
    path = os.path.join(root, name)
    try:
        status = os.stat(path)
    except OSError as error:
        what = f"{shown(path)} cannot be opened ({error.strerror})"
        raise InputError(f"{what}: restore it, or delete the link") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{shown(path)} is no plain file: take it away")
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest_of(root: Path, name: str) -> bytes:
    path = os.path.join(root, name)
    try:
        with open(path, "rb", buffering=0) as file:
            digest = hashlib.sha256()
            while part := file.read(2**20):
                digest.update(part)
            return digest.digest()
    except OSError as error:
        what = f"{shown(path)} cannot be opened ({error.strerror})"
        raise InputError(f"{what}: check the file, its permissions and its disk") from error


def _looked_up(
    root: Path,
    named: Sequence[tuple[str, Stamp]],
    sizes: Sequence[int],
    digest: Callable[[int], bytes],
) -> list[bytes]:
    """The digest of each piece: as kept under its name and stamp, else by ``digest``, and kept."""
    words = (os.fsencode(f"{name}\0{stamp}") for name, stamp in named)
    keys = [hashlib.blake2b(word, digest_size=_KEY).digest() for word in words]
    if sum(sizes) < LEAST:
        return _computed(range(len(keys)), sizes, digest)
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]
    memory = cache_directory() / "contents" / f"{place}.safetensors"
    known = _kept(memory)
    if any(key not in known for key in keys):
        with _locked(memory):  # of processes that start together one reads, for all
            known = _kept(memory)
            missing = [k for k, key in enumerate(keys) if key not in known]
            # What was changed a moment ago may be changed again without another time: not kept.
            before = time.time_ns() - _TICK
            found = {keys[k]: value for k, value in zip(missing, _computed(missing, sizes, digest))}
            settled = {keys[k] for k in missing if max(named[k][1][1:]) < before}
            known |= found
            if settled:
                young = found.keys() - settled
                _keep(memory, {key: value for key, value in known.items() if key not in young})
    return [known[key] for key in keys]


def _computed(
    wanted: Sequence[int], sizes: Sequence[int], digest: Callable[[int], bytes]
) -> list[bytes]:
    """``digest`` of each of ``wanted``, in as many threads as there are cores; an error is that of
    the first in order."""
    parts = [wanted[start : start + 256] for start in range(0, len(wanted), 256)]
    total = sum(sizes[k] for k in wanted)
    silent = None if total >= LEAST else True
    bar = tqdm(total=total, desc="looking for changes", unit="B", unit_scale=True, disable=silent)
    done: list[bytes] = []

    def digests_of(part: Sequence[int]) -> list[bytes]:
        return [digest(k) for k in part]

    with bar, ThreadPoolExecutor(cores()) as pool:
        try:
            for part, digests in zip(parts, pool.map(digests_of, parts)):
                done += digests
                bar.update(sum(sizes[k] for k in part))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return done


def _kept(memory: Path) -> dict[bytes, bytes]:
    """key → digest; nothing without a file, or with a damaged one: then all is read anew."""
    try:
        tensors, _ = read_safetensors(memory)
        keys, digests = (tensors[name].numpy().tobytes() for name in ("keys", "digests"))
    except (DamagedFile, KeyError):
        return {}
    starts = zip(range(0, len(keys), _KEY), range(0, len(digests), _DIGEST))
    return {keys[k : k + _KEY]: digests[d : d + _DIGEST] for k, d in starts}


def _keep(memory: Path, digests: dict[bytes, bytes]) -> None:
    def rows(values: Iterable[bytes], width: int) -> torch.Tensor:
        return torch.frombuffer(bytearray(b"".join(values)), dtype=torch.uint8).view(-1, width)

    tensors = {"keys": rows(digests, _KEY), "digests": rows(digests.values(), _DIGEST)}
    with contextlib.suppress(InputError):  # a cache that is full or read-only costs time alone
        write_safetensors(memory, tensors, {})


@contextlib.contextmanager
def _locked(memory: Path):
    """Held by one process at a time; by none where the cache cannot be written."""
    lock = filelock.FileLock(memory.with_suffix(".lock"))
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        pass
    try:
        yield
    finally:
        lock.release()
