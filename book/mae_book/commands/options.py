"""What ``mae ledger`` and ``mae rerun`` can be told: dataclasses whose docstrings are the help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from mae_lib.commands.options import Command


@dataclass(frozen=True)
class Ledger(Command):
    """Every claim of the paper, and what was found: its verdict on the embedded world and on
    photographs, computed from results/. With claims named, each test of theirs with its interval
    over seeds."""

    claims: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CLAIM")] = ()
    """ids such as T1r; default: all"""
    as_json: bool = False
    """print JSON: tests, intervals, the paper's numbers and ours"""
    as_csv: bool = False
    """print CSV: one row a test"""
    steps: int | None = None
    """of the second sweep, on fresh seeds: the verdicts at this length of training (9600, 28800,
    86400), as far as its seeds are there"""
    check: bool = False
    """fail if a result is older than the code that makes it, if what the book states is no longer
    what the results say, or if a file of results/ is not what was sealed"""
    state: bool = False
    """write what the results say now as what the book states (results/stated.json), and print what
    that changes"""
    seal: bool = False
    """seal results/ as it is (results/SHA256SUMS), and print what has come, changed and gone since
    it was sealed"""

    work: ClassVar[str] = "mae_book.commands.ledger:run"


@dataclass(frozen=True)
class Rerun(Command):
    """Make cells of the sweep again and compare them, number for number, with what is recorded.
    Nothing in results/ is changed but the note that the present code makes them
    (results/code.json)."""

    cells: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CELL")] = ()
    """cells to make again, for instance probe/world/r75-u8-p8-s0"""
    changed: bool = False
    """one cell, the quickest, of every kind whose code has changed since one was last made again"""
    show: bool = False
    """print all cells, and whether each is recorded"""

    work: ClassVar[str] = "mae_book.commands.rerun:run"


@dataclass(frozen=True)
class Unpack(Command):
    """Put the book's results and checkpoints, which every chapter's page offers as mae-book.zip,
    where an installed library finds them (in the cache). Every file is verified first; nothing is
    replaced."""

    archive: Annotated[Path, tyro.conf.Positional]
    """the downloaded mae-book.zip"""
    sha256: str = ""
    """its SHA-256, as the page says it: then the archive itself is verified too"""

    work: ClassVar[str] = "mae_book.commands.unpack:run"
