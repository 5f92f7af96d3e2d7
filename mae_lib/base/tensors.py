"""Safetensors in and out, whole or not at all, with a hash of their contents. No pickle is ever
read or written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mae_lib.base.files import DamagedFile, write_atomically


def content_digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256, in hex, of the metadata and of names, types, shapes and bytes of CPU tensors."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def write_safetensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], replace: bool = True
) -> str:
    """Writes tensors (moved to the CPU) and string metadata, whole or not at all; returns their
    :func:`content_digest`, kept inside. ``replace`` as in :func:`write_atomically`."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = content_digest(on_cpu, metadata)

    def save(temporary: Path) -> None:
        try:
            safetensors.torch.save_file(on_cpu, temporary, metadata | {"digest": digest})
        except safetensors.SafetensorError as error:  # the system's error, as text only
            full = "No space left" in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error

    write_atomically(path, save, replace)
    return digest


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a file that :func:`write_safetensors` wrote; DamagedFile if a single
    bit has changed since."""
    while True:
        before = _stamp(path)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                tensors, metadata = (
                    {name: file.get_tensor(name) for name in file.keys()},
                    file.metadata() or {},
                )
        except (safetensors.SafetensorError, OSError) as error:
            raise DamagedFile(f"{path} is damaged or no safetensors file ({error})") from error
        if content_digest(
            tensors, {key: value for key, value in metadata.items() if key != "digest"}
        ) == metadata.get("digest"):
            return tensors, metadata
        # safetensors opens a file twice, for its head and for its tensors: one that was replaced in
        # between is read anew.
        if _stamp(path) == before:
            raise DamagedFile(f"{path} is damaged: its contents fail the hash written with them")


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None without a file."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_mtime_ns
    return None
