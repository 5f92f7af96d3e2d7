"""Files that are whole or not there: atomic writes, and what became of those that were not."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from mae_lib.base.errors import InputError


class DamagedFile(InputError):
    """A file that is not what was written: cut short, altered, or of another kind."""


class TakenName(InputError):
    """A file lies where another was to be written that must replace none."""


def cache_directory() -> Path:
    """Where all goes that is kept to save time: ``$MAE_CACHE``, else ``mae_lib`` in the user's
    cache folder."""
    if os.environ.get("MAE_CACHE"):
        return Path(os.environ["MAE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mae_lib"


def write_atomically(path: Path, write: Callable[[Path], None], replace: bool = True) -> None:
    """Calls ``write`` with a temporary path beside ``path``, flushes it to disk and renames it; on
    any failure nothing is left.

    Args:
        replace: whether a file that lies at ``path``, perhaps only since a moment ago, may go for
            it.

    Raises:
        InputError: the disk is full or the folder cannot be written; ``path`` still holds what it
            held.
        TakenName: it holds something that must stay.
    """
    # The name is chosen before the file is made: a signal that comes between the two leaves nothing
    # behind.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror}; choose another folder or free some space"
            ) from error
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        if replace:
            os.replace(temporary, path)
        else:
            _move(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, FileExistsError):
            what = f"{path} is there already, and is not replaced"
            raise TakenName(f"{what}: choose another folder, or move it away") from error
        if isinstance(error, OSError):
            full = error.errno == errno.ENOSPC
            remedy = "the disk is full: free some space" if full else f"{error}"
            raise InputError(
                f"cannot write {path}: {remedy}; what it held before is untouched"
            ) from error
        raise


def _move(path: Path, target: Path) -> None:
    """Renames a file, and replaces none: FileExistsError. A kill leaves it under one name or
    both."""
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except OSError as error:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.replace(path, target)
    else:
        os.unlink(path)


def write_text(path: Path, text: str, replace: bool = True) -> None:
    """Writes a text file, whole or not at all; ``replace`` as in :func:`write_atomically`."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), replace)


def write_json(path: Path, value: object, replace: bool = True) -> None:
    """Writes JSON (indented, NaN refused), whole or not at all; ``replace`` as in
    :func:`write_atomically`."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n", replace)


def remove_parts(path: Path) -> None:
    """Deletes what killed writers of ``path`` left beside it. Only for who holds the lock on it: a
    live writer's file would go too."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        left.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Renames a damaged file to ``NAME.damaged`` (or ``.damaged-2``, …) beside it, and returns the
    new path; replaces nothing."""
    for k in range(1, 1000):
        target = path.with_name(f"{path.name}.damaged" + (f"-{k}" if k > 1 else ""))
        with contextlib.suppress(FileExistsError):
            _move(path, target)
            return target
    raise InputError(f"{path.parent} holds a thousand damaged copies of {path.name}: delete them")
