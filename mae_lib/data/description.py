"""What descriptions of folders of every layout share: `FolderDescription` and the parts that fill
it."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from mae_lib.data.image_files import cores

__all__ = [
    "FolderDescription",
    "classes_text",
    "count_text",
    "looked_at",
    "of_problems",
    "of_sizes",
]


_SHOWN = 100


@dataclass(frozen=True)
class FolderDescription(ABC):
    """What descriptions of every layout share. `print` gives a text for the terminal.

    Attributes:
        directory: as it was given.
        splits: a summary of each split that can be loaded.
        classes: class names, in label order.
        files: image files found; checked: how many of them were opened and decoded.
        smallest, largest: `(width, height)` in pixels, by area; shortest_side: in pixels.
        problems: all that is wrong, one line each with the remedy; problem_count: how many. The
            text has the first hundred.
        warnings: what will be done with unusual files, and what may surprise.
        usable: whether the folder can be loaded, and everything checked is sound.
        reason: if not usable, why, and the remedy.
        command: what to run next; empty if not usable.
    """

    directory: str
    splits: dict[str, Any]
    classes: tuple[str, ...]
    files: int
    checked: int
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None
    shortest_side: int | None
    problems: tuple[str, ...]
    problem_count: int
    warnings: tuple[str, ...]
    usable: bool
    reason: str
    command: str

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values that JSON can hold."""
        return asdict(self)

    @abstractmethod
    def contents(self) -> list[tuple[str, str]]:
        """What the text says of this layout alone: (name, text) of each row, the layout first."""

    def __str__(self) -> str:
        rows = self.contents()
        if self.smallest and self.largest:
            sizes = " to ".join(
                f"{width}×{height}"
                for width, height in dict.fromkeys((self.smallest, self.largest))
            )
            rows.append(("sizes", f"{sizes} pixels, shortest side {self.shortest_side}"))
        checked = (
            "every one" if self.checked == self.files else f"a sample of {count_text(self.checked)}"
        )
        rows.append(("checked", f"{checked} of {count_text(self.files)} files"))
        rows += [("note", text) for text in self.warnings]
        rows += [("problem", text) for text in self.problems[:_SHOWN]]
        if self.problem_count > _SHOWN:
            more = count_text(self.problem_count - _SHOWN)
            rows.append(("problem", f"… and {more} more, which --as-json lists"))
        rows.append(("usable", f"yes: {self.command}" if self.usable else f"no: {self.reason}"))
        wide = max(len(name) for name, _ in rows)
        return "\n".join([self.directory, *(f"  {name:<{wide}}  {text}" for name, text in rows)])


def of_sizes(sizes: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """The attributes that follow from the `(width, height)` of the images."""
    by_area = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    if not by_area:
        return {"smallest": None, "largest": None, "shortest_side": None}
    return {"smallest": by_area[0], "largest": by_area[-1], "shortest_side": min(map(min, by_area))}


def of_problems(problems: Sequence[str], reason: str, command: str) -> dict[str, Any]:
    """The attributes that follow from all that is wrong, from why the folder cannot be used ('' if
    it can), and from what to run if it can."""
    return {
        "problems": tuple(problems),
        "problem_count": len(problems),
        "usable": not reason,
        "reason": reason,
        "command": "" if reason else command,
    }


def looked_at(
    look: Callable[[Any], Any],
    everything: Sequence[Any],
    limit: int,
    threads: int | None,
    progress: bool | None,
    unit: str,
) -> list[Any]:
    """``look`` at everything, or at a fixed sample of ``limit``, in many threads under a progress
    bar: what it gave, in order."""
    chosen = everything
    if len(everything) > limit:
        chosen = [
            everything[k] for k in sorted(random.Random(0).sample(range(len(everything)), limit))
        ]
    with ThreadPoolExecutor(threads or cores()) as pool:
        return list(
            tqdm(
                pool.map(look, chosen),
                total=len(chosen),
                desc="checking",
                unit=unit,
                disable=None if progress is None else not progress,
            )
        )


def classes_text(classes: Sequence[str]) -> str:
    """The first six names."""
    return ", ".join(classes[:6]) + (", …" if len(classes) > 6 else "")


def count_text(number: int) -> str:
    """A count with its thousands apart."""
    return f"{number:,}".replace(",", " ")
