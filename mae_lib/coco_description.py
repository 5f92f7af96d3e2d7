"""What a folder in COCO's layout holds. What lives here: `describe_coco`, which opens every split, decodes every image and draws every mask, and
`CocoDescription` and `CocoSplitSummary`, in which it says what it found and whether the folder can be used."""

from __future__ import annotations

import random
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mae_lib.coco import CocoFolder, open_coco, splits_of
from mae_lib.errors import InputError
from mae_lib.image_files import cores, shown

__all__ = ["CocoSplitSummary", "CocoDescription", "describe_coco"]


@dataclass(frozen=True)
class CocoSplitSummary:
    """One split.

    Attributes:
        images, empty: how many there are, and how many of them have no instance. instances: annotations, crowds and dropped ones too.
        present: of the categories, how many have an instance. crowds: annotations that cover a crowd.
        dropped: annotations that training does not see, by reason (`CocoFolder.dropped`).
        polygons, runs: annotations by polygons and by run-length code.
        small, medium, large: annotations by area, below 32², below 96² and above, in pixels, as COCO's scores sort them.
    """

    images: int
    empty: int
    instances: int
    present: int
    crowds: int
    dropped: dict[str, int]
    polygons: int
    runs: int
    small: int
    medium: int
    large: int


@dataclass(frozen=True)
class CocoDescription:
    """What a folder in COCO's layout holds and whether it can be used. `print` gives a text for the terminal.

    Attributes:
        directory: as it was given. splits: a summary of each split that opens.
        classes: names in ascending category id; category_ids: those ids; gaps: how many whole numbers between the ids are no category.
        files, checked: images named by the annotations, and how many of them were decoded and had their masks drawn.
        smallest, largest: `(width, height)` of the images in pixels, by area.
        problems: the first ten things that are wrong, one line each with the remedy; problem_count: of how many.
        warnings: what may surprise.
        usable: whether every split opens and everything checked is sound. reason: if not, why, and the remedy.
        command: what to run next; empty if not usable.
    """

    directory: str
    splits: dict[str, CocoSplitSummary]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    gaps: int
    files: int
    checked: int
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None
    problems: tuple[str, ...]
    problem_count: int
    warnings: tuple[str, ...]
    usable: bool
    reason: str
    command: str

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [("layout", "COCO: annotations/instances_*.json beside a folder of images for each split")]
        for name, split in self.splits.items():
            rows.append((name, f"{split.images} images, {split.instances} instances, {split.crowds} of them crowds; {split.present} categories occur"))
            rows.append((name, f"masks: {split.polygons} by polygons, {split.runs} by run-length code; {split.empty} images without instances"))
            rows.append((name, f"area: {split.small} small, {split.medium} medium, {split.large} large"))
            rows += [(name, f"{count} left out of training: {reason}") for reason, count in split.dropped.items()]
        if self.classes:
            ids = f"ids {self.category_ids[0]} to {self.category_ids[-1]}, " + (f"{self.gaps} of them unused" if self.gaps else "without gaps")
            rows.append(("classes", f"{len(self.classes)} ({ids}): {', '.join(self.classes[:6])}" + (", …" if len(self.classes) > 6 else "")))
        if self.smallest and self.largest:
            sizes = " to ".join(f"{width}×{height}" for width, height in dict.fromkeys((self.smallest, self.largest)))
            rows.append(("sizes", f"{sizes} pixels"))
        rows.append(("checked", f"{'every one' if self.checked == self.files else f'a sample of {self.checked}'} of {self.files} images"))
        rows += [("note", text) for text in self.warnings]
        rows += [("problem", text) for text in self.problems]
        if self.problem_count > len(self.problems):
            rows.append(("problem", f"… and {self.problem_count - len(self.problems)} more"))
        rows.append(("usable", f"yes: {self.command}" if self.usable else f"no: {self.reason}"))
        wide = max(len(name) for name, _ in rows)
        return "\n".join([self.directory, *(f"  {name:<{wide}}  {text}" for name, text in rows)])


def describe_coco(directory: Path, limit: int = 20_000, threads: int | None = None, progress: bool | None = None) -> CocoDescription:
    """Open every split of a folder in COCO's layout, decode its images and draw its masks. Bad contents are reported, never raised.

    Args:
        directory: a folder with `annotations/instances_*.json`.
        limit: of more images than this, a fixed sample of this many is decoded; the description says so.
        threads, progress: as in `mae_lib.describe.describe`.
    """
    opened: dict[str, CocoFolder] = {}
    problems: list[str] = []
    for name in splits_of(directory):
        try:
            opened[name] = open_coco(directory, name)
        except InputError as error:
            problems.append(str(error))
    everything = [(folder, i) for folder in opened.values() for i in range(len(folder))]
    sample = everything if len(everything) <= limit else random.Random(0).sample(everything, limit)
    with ThreadPoolExecutor(threads or cores()) as pool:
        looks = pool.map(lambda one: list(_faults(*one)), sample)
        for found in tqdm(looks, total=len(sample), desc="checking", unit="image", disable=None if progress is None else not progress):
            problems += found
    vocabularies = {(folder.classes, folder.category_ids) for folder in opened.values()}
    warnings = ["the splits have unlike categories: labels of one mean something else in another"] if len(vocabularies) > 1 else []
    train, validation = (next((name for name in opened if name.startswith(kind)), None) for kind in ("train", "val"))
    train = train or next(iter(opened), None)
    if validation is None:
        warnings.append("there is no validation split: a score on the training images says nothing about others")
        validation = train
    classes, ids = next(((folder.classes, folder.category_ids) for folder in opened.values()), ((), ()))
    by_area = sorted({folder.size(i)[::-1] for folder, i in everything}, key=lambda size: (size[0] * size[1], size))
    return CocoDescription(
        directory=shown(directory),
        splits={name: _summarise(folder) for name, folder in opened.items()},
        classes=classes,
        category_ids=ids,
        gaps=ids[-1] - ids[0] + 1 - len(ids) if ids else 0,
        files=len(everything),
        checked=len(sample),
        smallest=by_area[0] if by_area else None,
        largest=by_area[-1] if by_area else None,
        problems=tuple(problems[:10]),
        problem_count=len(problems),
        warnings=tuple(warnings),
        usable=not problems,
        reason=problems[0] if problems else "",
        command="" if problems else f"mae finetune --data {shlex.quote(shown(directory))} --train {train} --validation {validation} --checkpoint FILE",
    )


def _faults(folder: CocoFolder, i: int) -> Iterator[str]:
    """What is wrong with one image or its masks, a line each."""
    try:
        folder.image(i)
    except InputError as error:
        yield str(error)
    for record in folder.records(i):
        try:
            folder.rle(i, record)
        except InputError as error:
            yield str(error)


def _summarise(folder: CocoFolder) -> CocoSplitSummary:
    records = [record for i in range(len(folder)) for record in folder.records(i)]
    areas = np.array([record.area for record in records])
    small, large = int((areas < 32**2).sum()), int((areas >= 96**2).sum())
    runs = sum(isinstance(record.segmentation, dict) for record in records)
    return CocoSplitSummary(
        images=len(folder),
        empty=sum(not folder.records(i) for i in range(len(folder))),
        instances=len(records),
        present=len({record.label for record in records}),
        crowds=sum(record.crowd for record in records),
        dropped=dict(folder.dropped),
        polygons=len(records) - runs,
        runs=runs,
        small=small,
        medium=len(records) - small - large,
        large=large,
    )
