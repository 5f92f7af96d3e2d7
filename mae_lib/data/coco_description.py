"""What a folder in COCO's layout holds. What lives here: `describe_coco`, which opens every split,
decodes every image and draws every mask, and `CocoDescription` and `CocoSplitSummary`, in which it
says what it found and whether the folder can be used.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mae_lib.base.errors import InputError
from mae_lib.data.coco import CocoFolder, open_coco
from mae_lib.data.description import (
    FolderDescription,
    classes_text,
    count_text,
    looked_at,
    of_problems,
    of_sizes,
)
from mae_lib.data.formats.coco_layouts import splits_of
from mae_lib.data.image_files import shown

__all__ = ["CocoSplitSummary", "CocoDescription", "describe_coco"]


@dataclass(frozen=True)
class CocoSplitSummary:
    """One split.

    Attributes:
        images, empty: how many there are, and how many of them have no instance. instances:
            annotations, crowds and dropped ones too.
        present: of the categories, how many have an instance. crowds: annotations that cover a
            crowd.
        dropped: annotations that training does not see, by reason (`CocoFolder.dropped`).
        polygons, runs: annotations by polygons and by run-length code.
        small, medium, large: annotations by area, below 32², below 96² and above, in pixels, as
            COCO's scores sort them.
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
class CocoDescription(FolderDescription):
    """What a folder in COCO's layout holds and whether it can be used. Its classes stand in
    ascending category id, its files are the images that the annotations name, and those checked
    were decoded and had their masks drawn.

    Attributes:
        category_ids: of the classes; gaps: how many whole numbers between the ids are no category.
    """

    splits: dict[str, CocoSplitSummary]
    category_ids: tuple[int, ...]
    gaps: int

    def contents(self) -> list[tuple[str, str]]:
        n = count_text
        rows = [
            (
                "layout",
                "COCO: a file of annotations and a folder of images for each split",
            )
        ]
        for name, split in self.splits.items():
            crowds = f"{n(split.crowds)} of them crowds; {split.present} categories occur"
            rows.append(
                (name, f"{n(split.images)} images, {n(split.instances)} instances, {crowds}")
            )
            rows.append(
                (
                    name,
                    (
                        f"masks: {n(split.polygons)} by polygons, {n(split.runs)} by run-length"
                        f" code; {n(split.empty)} images without instances"
                    ),
                )
            )
            rows.append(
                (
                    name,
                    (
                        f"area: {n(split.small)} small, {n(split.medium)} medium, {n(split.large)}"
                        " large"
                    ),
                )
            )
            rows += [
                (name, f"{n(count)} left out of training: {reason}")
                for reason, count in split.dropped.items()
            ]
        if self.classes:
            ids = f"ids {self.category_ids[0]} to {self.category_ids[-1]}, " + (
                f"{self.gaps} of them unused" if self.gaps else "without gaps"
            )
            rows.append(("classes", f"{len(self.classes)} ({ids}): {classes_text(self.classes)}"))
        return rows


def describe_coco(
    directory: Path, limit: int = 20_000, threads: int | None = None, progress: bool | None = None
) -> CocoDescription:
    """Open every split of a folder in COCO's layout, decode its images and draw its masks. Bad
    contents are reported, never raised.

    Args:
        directory: a folder with `annotations/instances_*.json`.
        limit: of more images than this, a fixed sample of this many is decoded; the description
            says so.
        threads, progress: as in `mae_lib.describe.describe`.
    """
    opened: dict[str, CocoFolder] = {}
    problems: list[str] = []
    warnings: list[str] = []
    for name in splits_of(directory):
        try:
            opened[name] = open_coco(directory, name)
        except InputError as error:
            problems.append(str(error))
    everything = [(folder, i) for folder in opened.values() for i in range(len(folder))]
    looks = looked_at(
        lambda one: list(faults_of(*one)), everything, limit, threads, progress, "image"
    )
    problems += [fault for faults in looks for fault in faults]
    train, validation = (
        next((name for name in opened if name.startswith(kind)), None) for kind in ("train", "val")
    )
    train = train or next(iter(opened), None)
    for name, folder in opened.items():
        try:
            if folder.ids_of(opened[train].classes) != opened[train].category_ids:
                warnings.append(
                    f"the split '{name}' numbers the categories unlike '{train}': they are matched"
                    " by name"
                )
        except InputError as error:  # only of the split to score on does `mae finetune` ask this
            (problems if name == validation else warnings).append(str(error))
    if validation is None:
        warnings.append(
            "there is no validation split: a score on the training images says nothing about others"
        )
        validation = train
    classes, ids = next(
        ((folder.classes, folder.category_ids) for folder in opened.values()), ((), ())
    )
    return CocoDescription(
        directory=shown(directory),
        splits={name: _summarise(folder) for name, folder in opened.items()},
        classes=classes,
        category_ids=ids,
        gaps=ids[-1] - ids[0] + 1 - len(ids) if ids else 0,
        files=len(everything),
        checked=len(looks),
        warnings=tuple(warnings),
        **of_sizes(folder.size(i)[::-1] for folder, i in everything),
        **of_problems(
            problems,
            problems[0] if problems else "",
            f"mae finetune --data {shlex.quote(shown(directory))} --train {train} --validation"
            f" {validation} --checkpoint FILE",
        ),
    )


def faults_of(folder: CocoFolder, i: int) -> Iterator[str]:
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
