"""Looking at single files for a description. What lives here: `look`, which decodes one file and
says what is unusual about it; and `census`, what was met in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from mae_lib.base.errors import InputError
from mae_lib.data.decoding import (
    Member,
    check_sides,
    means_nothing,
    opened,
    orientation,
    stacked,
    upright,
)
from mae_lib.data.encoded import EncodedImages

__all__ = ["Ask", "Look", "Census", "look", "look_inside", "census"]


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
            oddities = list(_oddities(image))
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


def _oddities(image: Image.Image) -> Iterator[str]:
    """What an opened, not yet loaded image has that is unusual, and what will be done with it."""
    # a BMP's 16 bits are those of a whole pixel
    if (image.format != "BMP" and ";16" in str(image.tile)) or image.mode.startswith("I"):
        yield "16-bit file(s) are scaled to 8 bits"
    if image.mode == "F":
        yield "float file(s) are scaled from [0, 1] to 8 bits"
    if image.mode[0] in "1LIF":
        yield "greyscale file(s) are repeated over three channels"
    if image.mode == "CMYK":
        yield "CMYK file(s) are converted to RGB without their colour profile"
    if means_nothing(image):
        yield "file(s) with an alpha that means nothing (0 everywhere) are read without it"
    elif image.has_transparency_data:
        yield "file(s) with transparency are laid on white"
    if getattr(image, "n_frames", 1) > 1:
        yield "animated or many-paged file(s) give their first frame"
