"""A cell of the sweep: one result, what makes it, and what must be there first."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

FEWER = {"smoke": {"images": 64, "train_images": 512}}
"""tier → evaluation options that are not the default."""


Command = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One file of numbers, ``results/KIND[/DATA]/NAME-HASH.json``, and what makes it.

    Attributes:
        kind, data, name, hash: its place; data "" where a kind has none. hash "" as long as it
            cannot be known: a detector's depends on the weights that it starts from, and these are
            not trained yet.
        needs: ids of the cells that must be there first. before: commands that make sure of what it
            needs. last: the command that makes the file;
            into: its option for the folder, which is the file's own or, with ``whole``, that of all
                results. A command may make several cells.
    """

    kind: str
    data: str
    name: str
    hash: str
    needs: tuple[str, ...]
    before: tuple[Command, ...] = field(repr=False)
    last: Command = field(repr=False)
    into: str = field(default="--results", repr=False)
    whole: bool = field(default=False, repr=False)

    @property
    def id(self) -> str:
        """``probe/world/r75-u8-p8-s0``, ``tree_world/random-r50-s0``."""
        return "/".join(part for part in (self.kind, self.data, self.name) if part)

    def path(self, results: Path) -> Path:
        """The file it makes; one that never exists as long as its hash cannot be known."""
        return results / self.kind / self.data / f"{self.name}-{self.hash or 'pending'}.json"

    def commands(self, results: Path = Path("results")) -> tuple[Command, ...]:
        """The words of each command, to be run one after another from the repository's root; they
        write under ``results``."""
        return *self.before, (
            *self.last,
            self.into,
            str(results if self.whole else results / self.kind / self.data),
        )
