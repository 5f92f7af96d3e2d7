"""``mae unpack``: the book's data in one archive, for who has the library from a wheel and no
clone: results, checkpoints and chapters in a ZIP file with a SHA-256 of each, put into the cache.
The book's build packs it (`book/_ext/book_archive.py`)."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from mae_book.commands.options import Unpack
from mae_book.verdicts.results import unpacked
from mae_lib.base.errors import InputError
from mae_lib.base.files import cache_directory, write_atomically

NAME = "mae-book.zip"
_SUMS = "SHA256SUMS"
_KEPT = ("results", "checkpoints", "notebooks")


def run(options: Unpack) -> int:
    """``mae unpack``: the exit status."""
    if options.sha256 and options.archive.is_file():
        found = hashlib.sha256(options.archive.read_bytes()).hexdigest()
        if found != options.sha256.strip().lower():
            raise InputError(
                f"the SHA-256 of {options.archive} is {found}, not what was given: load it again"
            )
    count, stayed = unpack(options.archive)
    print(
        f"{count} files are in {unpacked()} and {cache_directory() / 'checkpoints'}"
        + (f"; {stayed} of the checkpoints' were there already" if stayed else "")
    )
    return 0


def unpack(archive: Path) -> tuple[int, int]:
    """Puts what the archive holds where an installed library finds it: the checkpoints into the
    cache's ``checkpoints``, all else into its ``book``. Every file is verified before any is
    written; a checkpoint of that name that is there already stays.

    Returns:
        how many files are there now, and how many checkpoints' files stayed as they were.

    Raises:
        InputError: the file is no such archive, or damaged; or another edition is unpacked already.
    """
    contents = _verified(archive)
    book, models = unpacked(), cache_directory() / "checkpoints"
    there = (book / _SUMS).read_bytes() if (book / _SUMS).is_file() else None
    if book.exists() and there != contents[_SUMS]:
        raise InputError(
            f"{book} holds another edition of the book's data, and is not replaced: move it away or"
            " delete it"
        )
    stayed = 0
    for name in (name for name in contents if name.startswith("checkpoints/")):
        target = models / PurePosixPath(name).name
        if target.exists():
            stayed += 1
        else:
            _write(target, contents[name])
    if not book.exists():
        book.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".book.", dir=book.parent))
        made.chmod(0o755)
        try:
            for name in (name for name in contents if not name.startswith("checkpoints/")):
                _write(made / name, contents[name])
            os.rename(made, book)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return len(contents) - 1, stayed


def _write(path: Path, contents: bytes) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(contents))


def _verified(archive: Path) -> dict[str, bytes]:
    """Name → contents, all as the archive's own list says."""
    if not archive.is_file():
        raise InputError(f"there is no file {archive}: give the {NAME} of the book's pages")
    try:
        with zipfile.ZipFile(archive) as opened:
            contents = {name: opened.read(name) for name in opened.namelist()}
        lines = contents[_SUMS].decode().splitlines()
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError) as error:
        raise InputError(
            f"{archive} is no ZIP file, or damaged ({error}): load it again"
        ) from error
    except (KeyError, ValueError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"{archive} is no archive of the book's data: it has no {_SUMS}"
        ) from error
    sums = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        if not re.fullmatch(rf"(?:{'|'.join(_KEPT)})/[^\\:]+", name) or ".." in name.split("/"):
            raise InputError(f"{archive} lists {name!r}, which is no file of the book's data")
        sums[name] = digest
    if odd := sorted(contents.keys() ^ {*sums, _SUMS}):
        raise InputError(f"{archive} and its list differ in {', '.join(odd[:5])}: load it again")
    for name, digest in sums.items():
        if hashlib.sha256(contents[name]).hexdigest() != digest:
            raise InputError(
                f"{archive} is damaged: {name} is not what its list says; load it again"
            )
    return contents
