"""The images of a split, and their labels. What lives here: `select`, which finds them in a folder,
whatever its layout, or in a text file of paths; and `Selection`, their paths with what their
folders say of their classes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from mae_lib.base.errors import InputError
from mae_lib.data.image_files import (
    ARRAYS,
    EXTENSIONS,
    entries,
    images_among,
    is_image,
    shown,
    split_folder,
    split_folders,
    split_of,
    subfolders,
    walk,
)

__all__ = ["Selection", "select", "file_sizes"]


class _NoLabels(InputError):
    """There are images, but their folders do not say their classes."""


@dataclass(frozen=True)
class Selection:
    """The images of a split.

    Attributes:
        root: what the paths are relative to. files: of each image the path, by class, then by name.
        classes: their names; empty without labels. labels: of each image, or empty.
        reason: why there are no labels, and the remedy; empty where there are.
    """

    root: Path
    files: tuple[str, ...]
    classes: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    reason: str = ""


def select(data: Path, split: str | None, only: Collection[str] | None = None) -> Selection:
    """The images of a split of a folder or a list; of the classes `only` alone where it is given,
    and nothing is asked of the other folders.

    Raises:
        InputError: there are no images, or no such split; with `only`, no labels either.
    """
    if not data.is_dir():
        return _listed(data, split)
    root, train, cut = _locate(data, split)
    try:
        return _labelled(root, train, cut, split, only)
    except _NoLabels as error:
        if only is not None:
            raise InputError(str(error)) from error
        _refuse_inner_splits(root)
        return _unlabelled(root, images_among(walk(root)), cut, split, str(error))


def _labelled(
    root: Path, train: Path | None, cut: bool, split: str | None, only: Collection[str] | None
) -> Selection:
    present = _class_folders(root, only)
    classes = present if train is None else _class_folders(train, only)
    strangers = sorted(set(present) - set(classes))
    if strangers:
        raise _NoLabels(
            f"{shown(root)} has {len(strangers)} class(es) that train lacks, the first"
            f" '{shown(strangers[0])}': rename or remove them, or add them to"
            f" {shown(train or root)}"
        )
    if len(classes) == 1:
        raise _NoLabels(
            f"{shown(train or root)} holds one class only ('{shown(classes[0])}'): point at the"
            " folder that holds all classes, or add a second class"
        )
    files, labels = [], []
    for label, name in enumerate(classes):
        found = images_among(walk(root / name)) if name in present else []
        if name in present and not found:
            cure = "delete it or fill it; or point at the folder of class folders"
            raise _NoLabels(
                f"{shown(root / name)} is a class folder without"
                f" images{_strangers(walk(root / name))}: {cure}"
            )
        mine = [f"{name}/{file}" for file in found]
        mine = _cut(mine, held_out=split_of(split or "") != "train") if cut else mine
        files += mine
        labels += [label] * len(mine)
    if not files:
        raise InputError(
            f"{shown(root)} has too few images to hold any out: each class needs at least 2"
        )
    return Selection(root, tuple(files), classes, tuple(labels))


def _unlabelled(
    root: Path, files: list[str], cut: bool, split: str | None, reason: str
) -> Selection:
    if not files:
        raise InputError(reason)
    if cut:
        files = _cut(files, held_out=split_of(split or "") != "train")
    if not files:
        raise InputError(f"{shown(root)} has too few images to hold any out: it needs at least 2")
    return Selection(root, tuple(files), reason=reason)


def _class_folders(root: Path, only: Collection[str] | None) -> tuple[str, ...]:
    """Names of the class folders, at least one; those in `only` alone where it is given."""
    here = entries(root)
    names = tuple(entry.name for entry in here if entry.is_dir())
    if only is not None:
        if missing := sorted(set(only) - set(names)):
            raise InputError(
                f"{shown(root)} has no class folder '{shown(missing[0])}': ask for classes that are"
                " there"
            )
        return tuple(sorted(set(only)))
    files = [entry.name for entry in here if not entry.is_dir()]
    loose = [name for name in files if is_image(name)]
    if names and loose:
        raise _NoLabels(
            f"{shown(root)} holds images beside its folders, the first '{shown(loose[0])}': sort"
            " them into the folders of their classes"
        )
    if names:
        return names
    if loose or any(name.lower().endswith(ARRAYS) for name in files):
        cure = "sort them into <class>/ folders"
        if not split_of(root.name):
            cure += ", or, if they are one class of a data set, point at its parent"
        raise _NoLabels(f"{shown(root)} holds images but no class folders: {cure}")
    cure = "point at a folder of class folders, DIR/train/<class>/*.jpg or DIR/<class>/*.jpg"
    raise InputError(f"{shown(root)} holds no images{_strangers(files)}: {cure}")


def _refuse_inner_splits(root: Path) -> None:
    """InputError where the splits lie one folder further down: their images must not be mixed."""
    for name in subfolders(root):
        if split_folders(root / name):
            raise InputError(
                f"{shown(root)} has no class folders of its own: point at {shown(root / name)},"
                " which has the splits"
            )


def _listed(path: Path, split: str | None) -> Selection:
    """The images that a text file lists, a path in each line, absolute or from the file's own
    folder; `train` and `val` are cut out of them."""
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise InputError(
            f"{shown(path)} cannot be read ({error.strerror}): check its permissions"
        ) from error
    if split is not None and split_of(split) not in ("train", "val"):
        raise InputError(
            f"{shown(path)} has no split '{split}': a list holds train and val, a tenth of it"
        )
    places: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not (name := line.strip()):
            continue
        place = os.path.abspath(path.parent / Path(name).expanduser())
        if not os.path.isfile(place):
            raise InputError(
                f"{shown(path)}, line {number}: there is no file {shown(place)}; write one path in"
                " each line, absolute or from the folder of this list, and nothing else"
            )
        if not place.lower().endswith((*EXTENSIONS, *ARRAYS)):
            raise InputError(
                f"{shown(path)}, line {number}: {shown(name)} is no image by its ending; images end"
                f" in {', '.join(EXTENSIONS[:6])} and the like"
            )
        if place in places:
            raise InputError(
                f"{shown(path)}, lines {places[place]} and {number} name the same file"
                f" {shown(name)}: delete one"
            )
        places[place] = number
    if not places:
        raise InputError(f"{shown(path)} lists no images: write the path of one in each line")
    root = Path(os.path.commonpath([os.path.dirname(place) for place in places]))
    files = sorted(Path(place).relative_to(root).as_posix() for place in places)
    reason = f"{shown(path)} lists images without classes: give a folder of class folders"
    return _unlabelled(root, files, split is not None, split, reason)


def _cut(files: list[str], held_out: bool) -> list[str]:
    """The tenth of a class that is held out (at least one of two), or the rest. By the hash of the
    name, so that neither the order in which names were given nor a series of frames decides; few
    files change sides when some are added.
    """
    ranked = sorted(files, key=lambda file: hashlib.sha256(os.fsencode(file)).digest())
    count = max(1, round(len(files) / 10)) if len(files) > 1 else 0
    return sorted(ranked[:count] if held_out else ranked[count:])


def file_sizes(root: Path, files: Iterable[str]) -> list[int]:
    """Bytes of each file; InputError for one that has gone, or is a broken link."""
    sizes = []
    for name in files:
        try:
            sizes.append((root / name).stat().st_size)
        except OSError as error:
            what = f"{shown(root / name)} cannot be opened ({error.strerror})"
            raise InputError(f"{what}: restore it, or delete the link") from error
    return sizes


def _locate(directory: Path, split: str | None) -> tuple[Path, Path | None, bool]:
    """The folder of a split; the one whose classes number it, if another; whether the split must be
    cut out."""
    if split is None:
        return directory, None, False
    name, present = split_folder(directory, split), split_folders(directory)
    meant = split_of(split)
    if not present and meant in ("train", "val"):
        return directory, None, True
    if name is not None:
        train = split_folder(directory, "train") if present and meant != "train" else None
        return directory / name, None if train is None else directory / train, False
    found = f"it holds {', '.join(map(shown, present))}" if present else "it holds class folders"
    cure = f"make {shown(directory / split)}/<class>/, or ask for a split that is there"
    if meant == "val" and (train := split_folder(directory, "train")):
        cure += f"; or point at {shown(directory / train)}, of which a tenth is then held out"
    raise InputError(f"{shown(directory)} has no split '{split}' ({found}): {cure}")


def _strangers(names: Iterable[str]) -> str:
    """What to add where none of these files is an image: which endings they have."""
    endings = Counter(Path(name).suffix.lower() or "without ending" for name in names)
    if not endings:
        return ""
    common = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(3))
    return f" (its files: {common}; images end in {', '.join(EXTENSIONS[:6])} and the like)"
