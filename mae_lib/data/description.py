"""What descriptions of folders of every layout share. What lives here: `FolderDescription` and the
parts that fill it; and `look`, which decodes one file and says what is unusual about it."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from mae_lib.base.errors import InputError
from mae_lib.data.encoded import EncodedImages
from mae_lib.data.formats.decoding import (
    Member,
    check_sides,
    means_nothing,
    opened,
    orientation,
    stacked,
    upright,
)
from mae_lib.data.image_files import cores

__all__ = [
    "FolderDescription",
    "Ask",
    "Look",
    "Census",
    "look",
    "look_inside",
    "census",
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


@dataclass(frozen=True)
class Ask:
    """What is asked of files: the least side in pixels, and the channels they are read with."""

    min_side: int
    channels: int


@dataclass
class Census:
    """What was met while opening files."""

    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    oddities: Counter[str] = field(default_factory=Counter)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Look:
    """What one file turned out to be."""

    format: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    oddities: tuple[str, ...] = ()
    problem: str = ""


def census(looks: Iterable[Look]) -> Census:
    found = Census()
    for look in looks:
        if look.problem:
            found.problems.append(look.problem)
            continue
        found.formats[look.format] += 1
        found.modes[look.mode] += 1
        found.oddities.update(look.oddities)
        found.sizes.add(look.size)
    return found


def look_inside(source: EncodedImages, index: int, ask: Ask) -> Look:
    """`look` at one image of a source."""
    try:
        return look(source.encoded(index), ask)
    except InputError as error:
        return Look(problem=str(error))


def look(file: Path | Member, ask: Ask) -> Look:
    """Open one file and decode it as `EncodedImages` would, but in full."""
    try:
        if ask.channels not in (1, 3):
            height, width, count = stacked(file, ask.channels).shape
            check_sides(file, (width, height), ask.min_side)
            return Look(_ending(file), f"{count} bands", (width, height))
        with opened(file) as image:
            oddities = list(_oddities(image, ask.channels))
            mode = image.mode
            # which Pillow turns, and forgets, while it loads
            turned = image.format == "TIFF" and orientation(image) != 1
            picture = upright(image, "RGB", file)
            check_sides(file, picture.size, ask.min_side)
            if turned or orientation(image) != 1:
                oddities.append("file(s) with an EXIF orientation are turned upright")
            return Look(image.format or "", mode, picture.size, tuple(oddities))
    except InputError as error:
        return Look(problem=str(error))


def _ending(file: Path | Member) -> str:
    return Path(file.name).suffix.removeprefix(".").upper()


def _oddities(image: Image.Image, channels: int) -> Iterator[str]:
    """What an opened, not yet loaded image has that is unusual, and what will be done with it."""
    # a BMP's 16 bits are those of a whole pixel
    if (image.format != "BMP" and ";16" in str(image.tile)) or image.mode.startswith("I"):
        yield "16-bit file(s) are scaled to 8 bits"
    if image.mode == "F":
        yield "float file(s) are scaled from [0, 1] to 8 bits"
    if channels == 3 and image.mode[0] in "1LIF":
        yield "greyscale file(s) are repeated over three channels"
    if channels == 1 and image.mode[0] not in "1LIF":
        yield "colour file(s) are turned to grey"
    if image.mode == "CMYK":
        yield "CMYK file(s) are converted to RGB without their colour profile"
    if means_nothing(image):
        yield "file(s) with an alpha that means nothing (0 everywhere) are read without it"
    elif image.has_transparency_data:
        yield "file(s) with transparency are laid on white"
    if getattr(image, "n_frames", 1) > 1:
        yield "animated or many-paged file(s) give their first frame"
