"""What an image folder holds. What lives here: `describe`, which opens and decodes every file of a
folder and says whether the folder can be used; `FolderDescription`, what it says of every layout;
and `Description` and `SplitSummary`, what it says of class folders and of shards (of COCO's layout:
`coco_description`)."""

from __future__ import annotations

import os
import random
import shlex
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from mae_lib.base.errors import InputError
from mae_lib.data.coco import nested, splits_of
from mae_lib.data.datasets import EncodedImages, FolderImages
from mae_lib.data.image_files import (
    SPLITS,
    VALIDATION,
    Member,
    cores,
    existing_folder,
    is_image,
    opened,
    orientation,
    shown,
    split_folders,
    subfolders,
    upright,
    walk,
)
from mae_lib.data.shards import ShardImages, holds_shards

__all__ = ["FolderDescription", "SplitSummary", "Description", "describe"]


@dataclass(frozen=True)
class FolderDescription(ABC):
    """What descriptions of every layout share. `print` gives a text for the terminal.

    Attributes:
        directory: as it was given.
        splits: a summary of each split that can be loaded.
        classes: class names, in label order.
        files: image files found; checked: how many of them were opened and decoded.
        smallest, largest: `(width, height)` in pixels, by area; shortest_side: in pixels.
        problems: the first ten things that are wrong, one line each with the remedy; problem_count:
            of how many.
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
        rows += [("problem", text) for text in self.problems]
        if self.problem_count > len(self.problems):
            rows.append(
                ("problem", f"… and {count_text(self.problem_count - len(self.problems))} more")
            )
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
        "problems": tuple(problems[:10]),
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


# --------------------------------------------------------------------------------------------------
# Class folders and shards


@dataclass(frozen=True)
class SplitSummary:
    """Images of one split, and how they spread over its classes."""

    images: int
    classes: int
    fewest: int
    median: float
    most: int


@dataclass(frozen=True)
class Description(FolderDescription):
    """What a folder of class folders holds and whether `FolderImages(directory)` can load every
    file checked, or `ShardImages(directory)` if it holds shards; made by `describe`.

    Attributes:
        layout: in words.
        formats, modes: files of each format (Pillow's names) and colour mode.
    """

    splits: dict[str, SplitSummary]
    layout: str
    formats: dict[str, int]
    modes: dict[str, int]

    def contents(self) -> list[tuple[str, str]]:
        rows = [("layout", self.layout)]
        rows += [(name, _summary_text(summary)) for name, summary in self.splits.items()]
        if self.classes:
            rows.append(("classes", classes_text(self.classes)))
        if self.formats:
            rows += [("formats", _counts_text(self.formats)), ("colours", _counts_text(self.modes))]
        return rows


@dataclass
class _Census:
    """What was met while opening files."""

    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    oddities: Counter[str] = field(default_factory=Counter)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Look:
    """What one file turned out to be."""

    format: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    oddities: tuple[str, ...] = ()
    problem: str = ""


def describe(
    directory: str | os.PathLike[str],
    limit: int = 20_000,
    threads: int | None = None,
    progress: bool | None = None,
) -> FolderDescription:
    """Open and decode every image file under a folder and say what it holds and whether it can be
    used.

    Bad contents are reported, never raised.

    Args:
        directory: the folder.
        limit: of more files than this, a fixed sample of this many is opened; the description says
            so.
        threads: that decode; by default one per available core.
        progress: show a progress bar; by default only where stderr is a terminal.

    Returns:
        A `Description`; of a folder in COCO's layout, with `annotations/instances_*.json`, a
        `mae_lib.data.coco_description.CocoDescription`.

    Raises:
        InputError: there is no such folder, or it is a file.
    """
    root = existing_folder(directory)
    if splits_of(root):
        from mae_lib.data.coco_description import describe_coco  # which stands on this module

        return describe_coco(root, limit, threads, progress)
    if holds_shards(root):
        return _describe_shards(directory, root, limit, threads, progress)
    files, strays, blocked = _inventory(root)
    sources, reason, warnings = _loadable(
        lambda: split_folders(root) or ["train", "val"], lambda name: FolderImages(root, name)
    )
    looks = looked_at(lambda name: _look(root / name), files, limit, threads, progress, "file")
    if strays:
        warnings.append(f"{count_text(strays)} file(s) with other extensions are passed over")
    if blocked and not reason:
        reason = blocked[0]
    if inner := nested(root):
        reason = (
            f"{shown(root)} holds a data set in COCO's layout one folder further down: point at"
            f" {shown(inner)}"
        )
    return _description(
        directory, _layout_text(root), sources, len(files), looks, warnings, reason, blocked
    )


def _describe_shards(
    directory: str | os.PathLike[str],
    root: Path,
    limit: int,
    threads: int | None,
    progress: bool | None,
) -> Description:
    names = [name for name in SPLITS if (root / name).is_dir()]
    sources, reason, warnings = _loadable(
        lambda: names or ["train"], lambda name: ShardImages(root, name, progress=progress)
    )
    images = [(source, index) for source in sources.values() for index in range(len(source))]
    looks = looked_at(lambda image: _look_inside(*image), images, limit, threads, progress, "image")
    counts = {name: len(source.shards) for name, source in sources.items()}
    layout = "tar shards" + (
        f", {', '.join(f'{count_text(count)} of {name}' for name, count in counts.items())}"
        if counts
        else ""
    )
    return _description(directory, layout, sources, len(images), looks, warnings, reason, [])


def _description(
    directory: str | os.PathLike[str],
    layout: str,
    sources: dict[str, EncodedImages],
    files: int,
    looks: Sequence[_Look],
    warnings: list[str],
    reason: str,
    blocked: list[str],
) -> Description:
    """All of it, from the splits that load, what was looked at, why the folder cannot be used (''
    if it can), and what kept us from listing all."""
    census = _census(looks)
    splits = {}
    for name, source in sources.items():
        splits[name], lopsided = _summarise(source)
        warnings += [f"{name}: {text}" for text in lopsided]
    warnings += [f"{count_text(count)} {text}" for text, count in sorted(census.oddities.items())]
    problems = blocked + census.problems
    if problems and not reason:
        reason = (
            f"{count_text(len(problems))} of {count_text(len(looks))} files cannot be used: delete"
            " or replace those named"
        )
    return Description(
        directory=shown(directory),
        layout=layout,
        splits=splits,
        classes=tuple(map(shown, sources["train"].classes)) if "train" in sources else (),
        files=files,
        checked=len(looks),
        formats=dict(census.formats.most_common()),
        modes=dict(census.modes.most_common()),
        warnings=tuple(warnings),
        **of_sizes(census.sizes),
        **of_problems(problems, reason, f"mae pretrain --data {shlex.quote(shown(directory))}"),
    )


def _inventory(root: Path) -> tuple[list[str], int, list[str]]:
    """All image files under a folder, the number of other files, and what kept us from listing
    all."""
    files, strays = [], 0
    try:
        for name in walk(root):
            if is_image(name):
                files.append(name)
            else:
                strays += 1
    except InputError as error:
        return sorted(files), strays, [str(error)]
    return sorted(files), strays, []


def _loadable(
    found: Callable[[], Sequence[str]], source: Callable[[str], EncodedImages]
) -> tuple[dict[str, EncodedImages], str, list[str]]:
    """The splits that load, why `train` does not (else ''), and notes on the rest."""
    notes: list[str] = []
    try:
        sources = {"train": source("train")}
        names = found()
    except InputError as error:
        return {}, str(error), notes
    for name in sorted(set(names) - {"train"}, key=SPLITS.index):
        try:
            sources[name] = source(name)
        except InputError as error:
            notes.append(f"the split '{name}' cannot be used: {error}")
    if not set(VALIDATION) & set(names):
        notes.append(
            "there is no validation split: pretraining runs, what scores on held-out images"
            " does not"
        )
    return sources, "", notes


def _summarise(source: EncodedImages) -> tuple[SplitSummary, list[str]]:
    """A split's summary, and a note if its classes are of very unequal size."""
    counts = torch.bincount(source.labels, minlength=len(source.classes)).numpy()
    met = counts[counts > 0]
    summary = SplitSummary(
        len(source), len(met), int(met.min()), float(np.median(met)), int(met.max())
    )
    notes = []
    if summary.most > 10 * summary.fewest:
        notes.append(
            f"the largest class has {summary.most / summary.fewest:.0f} times the images of the"
            " smallest"
        )
    if len(met) < len(counts):
        notes.append(f"{len(counts) - len(met)} of the {len(counts)} classes have no image")
    return summary, notes


def _census(looks: Iterable[_Look]) -> _Census:
    census = _Census()
    for look in looks:
        if look.problem:
            census.problems.append(look.problem)
            continue
        census.formats[look.format] += 1
        census.modes[look.mode] += 1
        census.oddities.update(look.oddities)
        census.sizes.add(look.size)
    return census


def _look_inside(source: EncodedImages, index: int) -> _Look:
    """`_look` at one image of a source."""
    try:
        return _look(source.encoded(index))
    except InputError as error:
        return _Look(problem=str(error))


def _look(file: Path | Member) -> _Look:
    """Open one file and decode it as `EncodedImages` would, but in full."""
    try:
        with opened(file) as image:
            oddities = list(_oddities(image))
            mode = image.mode
            # which Pillow turns, and forgets, while it loads
            turned = image.format == "TIFF" and orientation(image) != 1
            picture = upright(image, "RGB", file)
            if turned or orientation(image) != 1:
                oddities.append("file(s) with an EXIF orientation are turned upright")
            return _Look(image.format or "", mode, picture.size, tuple(oddities))
    except InputError as error:
        return _Look(problem=str(error))


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
    if image.has_transparency_data:
        yield "file(s) with transparency are laid on white"
    if getattr(image, "n_frames", 1) > 1:
        yield "animated or many-paged file(s) give their first frame"


def _layout_text(root: Path) -> str:
    try:
        splits, folders = split_folders(root), subfolders(root)
    except InputError:
        return "cannot be listed"
    if splits:
        return ", ".join(f"{name}/" for name in splits) + ", class folders in each"
    return "class folders; a tenth of each class is held out as val" if folders else "no subfolders"


def _summary_text(summary: SplitSummary) -> str:
    text = f"{count_text(summary.images)} images in {count_text(summary.classes)} classes"
    if summary.fewest == summary.most:
        return f"{text}, {summary.most} in each"
    return f"{text}, {summary.fewest} to {summary.most} in each, median {summary.median:g}"


def _counts_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count_text(count)}" for name, count in counts.items())
