"""``mae unpack``: the book's data, for a library that lies in no checkout."""

from __future__ import annotations

import hashlib

from mae_book.commands.options import Unpack
from mae_book.verdicts.integrity.archive import unpack
from mae_book.verdicts.results import unpacked
from mae_lib.base.errors import InputError
from mae_lib.base.files import cache_directory


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
