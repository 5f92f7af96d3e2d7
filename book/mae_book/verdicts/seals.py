"""The seal on ``results/``: a SHA-256 of every file, in ``results/SHA256SUMS``, as `sha256sum`
writes and reads it. A record that was edited by hand, has come or has gone is named by `mae ledger
--check` and by the tests until `mae ledger --seal` renews the seal and says what changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mae_book.verdicts.results import results_directory
from mae_lib.base.errors import InputError
from mae_lib.base.files import write_text

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def seal_file() -> Path:
    """``results/SHA256SUMS``; ``cd results && sha256sum --check --quiet SHA256SUMS`` reads it."""
    return results_directory() / "SHA256SUMS"


def sealed() -> dict[str, str]:
    """File, relative to ``results/``, → its digest as the seal has it. InputError for a line that
    `sha256sum` would not read, or a file that is named twice."""
    if not seal_file().is_file():
        return {}
    found: dict[str, str] = {}
    for number, line in enumerate(seal_file().read_text(encoding="utf-8").splitlines(), 1):
        parts = _LINE.fullmatch(line)
        if parts is None or parts[2] in found:
            raise InputError(
                f"results/SHA256SUMS, line {number}, is no `DIGEST  FILE`, or names a file twice:"
                " `mae ledger --seal` after bringing the file back (`git checkout"
                " results/SHA256SUMS`)"
            )
        found[parts[2]] = parts[1]
    return found


def present() -> dict[str, str]:
    """File, relative to ``results/``, → its digest now. Hidden files, half-written ones among them,
    are no results."""
    root = results_directory()
    paths = (
        path
        for path in root.rglob("*")
        if path != seal_file()
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    return {path.relative_to(root).as_posix(): _digest(path) for path in sorted(paths)}


@dataclass(frozen=True)
class Changes:
    """What differs between the seal and ``results/``: files, sorted."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]

    def faults(self) -> list[str]:
        """One line a file: what is wrong with it, and what to do."""
        on_purpose = "if that was on purpose, `mae ledger --seal`"
        return [
            *(
                f"results/{file} is not what was sealed: `git checkout results/{file}` brings it"
                f" back; {on_purpose}"
                for file in self.changed
            ),
            *(
                f"results/{file} is gone: `git checkout results/{file}` brings it back;"
                f" {on_purpose}"
                for file in self.gone
            ),
            *(
                f"results/{file} is not sealed: `mae ledger --seal` seals what is new"
                for file in self.added
            ),
        ]

    def __str__(self) -> str:
        return "\n".join(
            f"{word}: results/{file}"
            for word, files in (
                ("added", self.added),
                ("changed", self.changed),
                ("gone", self.gone),
            )
            for file in files
        )


def changes() -> Changes:
    """What has come, changed and gone in ``results/`` since it was sealed."""
    before, now = sealed(), present()
    return Changes(
        tuple(sorted(now.keys() - before.keys())),
        tuple(sorted(file for file in now.keys() & before.keys() if now[file] != before[file])),
        tuple(sorted(before.keys() - now.keys())),
    )


def seal() -> Changes:
    """Seals ``results/`` as it is, and says what that changes."""
    found = changes()
    _write(present())
    return found


def seal_again(path: Path) -> None:
    """After one file was written by the book's own code: seals that one, whatever else changed."""
    _write(sealed() | {path.relative_to(results_directory()).as_posix(): _digest(path)})


def _write(digests: dict[str, str]) -> None:
    write_text(seal_file(), "".join(_lines(digests.items())))


def _lines(digests: Iterable[tuple[str, str]]) -> Iterable[str]:
    return (f"{digest}  {file}\n" for file, digest in sorted(digests))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
