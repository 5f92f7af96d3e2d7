"""What an image folder holds. What lives here: `describe`, which opens and decodes every file of a
folder and says whether the folder can be used, and `Description` and `SplitSummary`, what it says
of folders, lists and shards (of COCO's layout: `coco_description`)."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mae_lib.base.errors import InputError
from mae_lib.data.coco_description import describe_coco
from mae_lib.data.description import (
    Ask,
    FolderDescription,
    Look,
    census,
    classes_text,
    count_text,
    look,
    look_inside,
    looked_at,
    of_problems,
    of_sizes,
)
from mae_lib.data.encoded import EncodedImages, FolderImages
from mae_lib.data.formats.coco_layouts import inner_folder, splits_of
from mae_lib.data.formats.tars import holds_shards
from mae_lib.data.image_files import (
    existing,
    images_among,
    shown,
    split_folders,
    split_of,
    subfolders,
    walk,
)
from mae_lib.data.shards import ShardImages

__all__ = ["SplitSummary", "Description", "describe"]


@dataclass(frozen=True)
class SplitSummary:
    """Images of one split, and how they spread over its classes; 0 classes without labels."""

    images: int
    classes: int
    fewest: int
    median: float
    most: int


@dataclass(frozen=True)
class Description(FolderDescription):
    """What a folder of images holds and whether `FolderImages(directory)` can load every file
    checked, or `ShardImages(directory)` if it holds shards; made by `describe`.

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


def describe(
    data: str | os.PathLike[str],
    limit: int = 20_000,
    threads: int | None = None,
    progress: bool | None = None,
    min_side: int = 8,
    channels: int = 3,
) -> FolderDescription:
    """Open and decode every image file under a folder, or of a list, and say what is there and
    whether it can be used.

    Bad contents are reported, never raised.

    Args:
        data: the folder, or a text file of paths.
        limit: of more files than this, a fixed sample of this many is opened; the description says
            so.
        threads: that decode; by default one per available core.
        progress: show a progress bar; by default only where stderr is a terminal.
        min_side: least side of an image, in pixels: the mask unit of the command that the
            description names, or of another.
        channels: that the files will be read with.

    Returns:
        A `Description`; of a folder in COCO's layout, a
        `mae_lib.data.coco_description.CocoDescription`.

    Raises:
        InputError: there is no such folder, or it is a file that is no list.
    """
    root = existing(data)
    ask = Ask(min_side, channels)
    if not root.is_dir():
        return _describe_list(data, root, ask, limit, threads, progress)
    if splits_of(root):
        return describe_coco(root, limit, threads, progress)
    if holds_shards(root):
        return _describe_shards(data, root, ask, limit, threads, progress)
    files, strays, blocked = _inventory(root)
    sources, reason, warnings = _loadable(
        lambda: split_folders(root) or ["train", "val"],
        lambda name: FolderImages(root, name, channels=channels),
    )
    warnings += _alike(root)
    looks = looked_at(lambda name: look(root / name, ask), files, limit, threads, progress, "file")
    if strays:
        warnings.append(f"{count_text(strays)} file(s) with other extensions are passed over")
    if blocked and not reason:
        reason = blocked[0]
    if inner := inner_folder(root):
        reason = (
            f"{shown(root)} holds a data set in COCO's layout one folder further down: point at"
            f" {shown(inner)}"
        )
    return _description(
        data,
        _layout_text(root, sources),
        ask,
        sources,
        len(files),
        looks,
        warnings,
        reason,
        blocked,
    )


def _describe_list(
    data: str | os.PathLike[str],
    root: Path,
    ask: Ask,
    limit: int,
    threads: int | None,
    progress: bool | None,
) -> Description:
    sources, reason, warnings = _loadable(
        lambda: ["train", "val"], lambda name: FolderImages(root, name, channels=ask.channels)
    )
    files = [source.path(i) for source in sources.values() for i in range(len(source))]
    looks = looked_at(lambda path: look(path, ask), files, limit, threads, progress, "file")
    layout = "a list of images; a tenth of them is held out as val"
    return _description(data, layout, ask, sources, len(files), looks, warnings, reason, [])


def _describe_shards(
    directory: str | os.PathLike[str],
    root: Path,
    ask: Ask,
    limit: int,
    threads: int | None,
    progress: bool | None,
) -> Description:
    names = [name for name in subfolders(root) if split_of(name)]
    sources, reason, warnings = _loadable(
        lambda: names or ["train"],
        lambda name: ShardImages(root, name, channels=ask.channels, progress=progress),
    )
    images = [(source, index) for source in sources.values() for index in range(len(source))]
    looks = looked_at(
        lambda image: look_inside(*image, ask), images, limit, threads, progress, "image"
    )
    counts = {name: len(source.shards) for name, source in sources.items()}
    layout = "tar shards" + (
        f", {', '.join(f'{count_text(count)} of {name}' for name, count in counts.items())}"
        if counts
        else ""
    )
    return _description(directory, layout, ask, sources, len(images), looks, warnings, reason, [])


def _description(
    directory: str | os.PathLike[str],
    layout: str,
    ask: Ask,
    sources: dict[str, EncodedImages],
    files: int,
    looks: Sequence[Look],
    warnings: list[str],
    reason: str,
    blocked: list[str],
) -> Description:
    """All of it, from the splits that load, what was looked at, why the folder cannot be used (''
    if it can), and what kept us from listing all."""
    found = census(looks)
    command = f"mae pretrain --data {shlex.quote(shown(directory))}"
    if ask.channels != 3:
        command += f" --channels {ask.channels}"
    splits = {}
    for name, source in sources.items():
        splits[name], lopsided = _summarise(source)
        warnings += [f"{name}: {text}" for text in lopsided]
    warnings += [f"{count_text(count)} {text}" for text, count in sorted(found.oddities.items())]
    problems = blocked + found.problems
    if problems and not reason:
        reason = (
            f"{count_text(len(problems))} of {count_text(len(looks))} files cannot be used: delete"
            " or replace those named"
        )
    return Description(
        directory=shown(directory),
        layout=layout,
        splits=splits,
        classes=tuple(map(shown, next(iter(sources.values())).classes)) if sources else (),
        files=files,
        checked=len(looks),
        formats=dict(found.formats.most_common()),
        modes=dict(found.modes.most_common()),
        warnings=tuple(warnings),
        **of_sizes(found.sizes),
        **of_problems(problems, reason, command),
    )


def _inventory(root: Path) -> tuple[list[str], int, list[str]]:
    """All image files under a folder, the number of other files, and what kept us from listing
    all."""
    found: list[str] = []
    blocked = []
    try:
        found += walk(root)
    except InputError as error:
        blocked = [str(error)]
    files = images_among(found)
    return files, len(found) - len(files), blocked


def _loadable(
    found: Callable[[], Sequence[str]], source: Callable[[str], EncodedImages]
) -> tuple[dict[str, EncodedImages], str, list[str]]:
    """The splits that load, why `train` does not (else ''), and notes on the rest."""
    notes: list[str] = []
    try:
        train = source("train")
        names = found()
    except InputError as error:
        return {}, str(error), notes
    sources = {next((name for name in names if split_of(name) == "train"), "train"): train}
    for name in sorted(set(names) - set(sources)):
        try:
            sources[name] = source(name)
        except InputError as error:
            notes.append(f"the split '{shown(name)}' cannot be used: {error}")
    reasons = {source.unlabelled: name for name, source in reversed(sources.items())}
    notes += [
        f"{shown(name)} has no labels, which probes need and pretraining does not: {reason}"
        for reason, name in reasons.items()
        if reason
    ]
    if "val" not in map(split_of, names):
        notes.append(
            "there is no validation split: pretraining runs, what scores on held-out images"
            " does not"
        )
    return sources, "", notes


def _alike(root: Path) -> list[str]:
    """A note where folders that were taken for classes hold the same folders: they look like splits
    or domains of other names."""
    try:
        if split_folders(root):
            return []
        names = subfolders(root)
        inner = [set(subfolders(root / name)) for name in names[:50]]
    except InputError:
        return []
    common = set.intersection(*inner) if len(inner) > 1 else set()
    if len(common) < 2:
        return []
    return [
        f"{', '.join(map(shown, names[:3]))} are taken for classes and hold the same folders"
        f" ({', '.join(map(shown, sorted(common)[:3]))}): if they are splits, call them train and"
        " val; if they are sets of their own, point at one"
    ]


def _summarise(source: EncodedImages) -> tuple[SplitSummary, list[str]]:
    """A split's summary, and a note if its classes are of very unequal size."""
    if source.unlabelled:
        return SplitSummary(len(source), 0, 0, 0.0, 0), []
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


def _layout_text(root: Path, sources: dict[str, EncodedImages]) -> str:
    try:
        splits, folders = split_folders(root), subfolders(root)
    except InputError:
        return "cannot be listed"
    bare = bool(sources) and all(source.unlabelled for source in sources.values())
    if splits:
        inside = "images without classes" if bare else "class folders in each"
        if not bare and any(source.unlabelled for source in sources.values()):
            inside = "class folders in some"
        return ", ".join(f"{shown(name)}/" for name in splits) + f", {inside}"
    if bare:
        return "images without classes; a tenth of them is held out as val"
    return "class folders; a tenth of each class is held out as val" if folders else "no subfolders"


def _summary_text(summary: SplitSummary) -> str:
    if not summary.classes:
        return f"{count_text(summary.images)} images without classes"
    text = f"{count_text(summary.images)} images in {count_text(summary.classes)} classes"
    if summary.fewest == summary.most:
        return f"{text}, {summary.most} in each"
    return f"{text}, {summary.fewest} to {summary.most} in each, median {summary.median:g}"


def _counts_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count_text(count)}" for name, count in counts.items())
