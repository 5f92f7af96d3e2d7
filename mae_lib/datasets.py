"""Loaders of real image folders. What lives here: `ImageSource`, the protocol that every source of images meets (the embedded
world too); `FolderImages`, which decodes a folder of class folders on demand; `Resident`, which holds any source decoded in
memory; and `describe`, which opens every file of a folder and says whether it can be used. Images are uint8 throughout, so that
normalisation stays with the model."""

from __future__ import annotations

import hashlib
import os
import random
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from tqdm import tqdm

from mae_lib.errors import InputError
from mae_lib.worlds import World

__all__ = ["ImageSource", "FolderImages", "Resident", "image_source", "nbytes", "SplitSummary", "Description", "describe"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif")

# Only these decoders are tried, whatever a file is called: a PostScript file named .jpg must not start Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
_VALIDATION = ("val", "validation", "valid")
_SPLITS = ("train", *_VALIDATION, "test")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_REPLACE = "delete or replace this file"


@runtime_checkable
class ImageSource(Protocol):
    """A finite, indexable set of labelled images of one size. The same index always gives the same image.

    Attributes:
        shape: `(C, H, W)` of every image, in pixels.
        labels: int64 `[N]` on the CPU, each in `[0, len(classes))`.
        classes: the class names, in the order of the labels.
        identity: a dict that JSON can hold and that names the data exactly, free of machine paths; equal identities mean
            equal images. It is hashed into a checkpoint's address.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def labels(self) -> Tensor: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    def __len__(self) -> int: ...

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        """uint8 `[B, C, H, W]` in 0..255 for int64 `indices` `[B]`, each in `[0, N)`."""
        ...


class FolderImages:
    """A folder of class folders, decoded on demand.

    Layouts: `DIR/{train,val}/<class>/**` as torchvision has it (`validation` and `valid` are found for `val`, any other split by
    its own name), or `DIR/<class>/**`, of which `train` and `val` are a fixed 90/10 cut of each class by the hash of the file
    names. With `split=None`, `DIR` itself holds the class folders and all of it is used. Classes are sorted by name; those of
    another split are numbered as `train` numbers them. Hidden files and files with other extensions are passed over.

    Each image is turned upright (EXIF), laid on white where transparent, brought to 8 bits and `channels` channels, resized until
    it just covers `image_size` (antialiased bicubic) and cropped about its centre. Of an animation the first frame is taken.
    16-bit greys are scaled by 255/65535; floats must lie in [0, 1].

    `images` may be called from many threads at once.

    Args:
        directory: the folder.
        split: `'train'`, `'val'`, the name of another subfolder of class folders, or None.
        image_size: `(H, W)` in pixels, or one number for both.
        channels: 3 (RGB) or 1 (grey).
        min_side: least short side of a file's image, in pixels; callers pass the mask unit.
        workers: threads that share one call of `images`; by default one per available core.

    Raises:
        InputError: no such folder, or one without images, class folders or a second class; an empty class folder; a split that
            is missing or has a class that `train` lacks; a size or a channel count that makes no sense. From `images`: a file
            that is unreadable, truncated, too large, too small, or holds NaN or infinity.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        split: str | None = "train",
        image_size: int | tuple[int, int] = (64, 64),
        channels: int = 3,
        min_side: int = 1,
        workers: int | None = None,
    ) -> None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if height < 1 or width < 1:
            raise InputError(f"image size {height}×{width}: give a height and a width of at least 1 pixel")
        if channels not in (1, 3):
            raise InputError(f"{channels} channels: an image folder is read with 3 (RGB) or 1 (grey)")
        self._shape = (channels, int(height), int(width))
        self._split = split
        self._min_side = min_side
        self._workers = workers or _cores()
        self._root, self._classes, members = _select(_folder(directory), split)
        self._files = [name for names in members for name in names]
        self._labels = torch.repeat_interleave(torch.arange(len(members)), torch.tensor([len(names) for names in members]))

    def __len__(self) -> int:
        return len(self._files)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` in pixels."""
        return self._shape

    @property
    def labels(self) -> Tensor:
        """int64 `[N]`, in `[0, len(classes))`."""
        return self._labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names: the folder names, sorted."""
        return self._classes

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Kind, split, size, channels, counts, and `fingerprint`: the sha256 of the sorted relative paths and file sizes.

        Raises:
            InputError: a file has gone, or is a broken link.
        """
        channels, height, width = self._shape
        return {
            "kind": "folder",
            "split": self._split,
            "image_size": [height, width],
            "channels": channels,
            "images": len(self),
            "classes": len(self._classes),
            "fingerprint": _fingerprint(self._root, self._files),
        }

    def path(self, index: int) -> Path:
        """The file behind one index."""
        return self._root / self._files[index]

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Decode the images at `indices`.

        Args:
            indices: int64 `[B]`, each in `[0, N)`.

        Returns:
            uint8 `[B, C, H, W]` in 0..255, on the CPU.

        Raises:
            InputError: a file cannot be used; it is named, the first in the order of `indices`.
            IndexError: an index out of range.
        """
        wanted = _checked(indices, len(self)).tolist()
        pixels = np.empty((len(wanted), *self._shape), dtype=np.uint8)

        def fill(rows: range) -> None:
            for row in rows:
                pixels[row] = _decode(self.path(wanted[row]), self._shape, self._min_side)

        # A pool for each call costs less than a millisecond, and leaves nothing behind that a fork or a pickle could break.
        threads = min(self._workers, len(wanted))
        if threads <= 1:
            fill(range(len(wanted)))
        else:
            bounds = [len(wanted) * i // threads for i in range(threads + 1)]
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(fill, map(range, bounds[:-1], bounds[1:])))
        return torch.from_numpy(pixels)


class Resident:
    """Any source, decoded once into one uint8 tensor in memory.

    It has the labels, classes, shape and identity of its source; its images are equal to the source's.

    Args:
        source: what to read.
        threads: batches asked of the source at one time. One is enough for `FolderImages`, which spreads each batch over its own
            workers.
        device: where the images lie, and where `images` returns them.
        progress: show a progress bar; by default only where stderr is a terminal.

    Raises:
        InputError: as the source does.
    """

    _BATCH = 256

    def __init__(
        self,
        source: ImageSource,
        threads: int = 1,
        device: str | torch.device = "cpu",
        progress: bool | None = None,
    ) -> None:
        self._labels, self._classes, self._identity = source.labels, source.classes, source.identity
        self._pixels = torch.empty((len(source), *source.shape), dtype=torch.uint8, device=device)
        parts = torch.arange(len(source)).split(self._BATCH)

        def fill(part: Tensor) -> int:
            self._pixels[part[0] : part[-1] + 1] = source.images(part).to(device)
            return len(part)

        bar = tqdm(total=len(source), desc="reading", unit="image", disable=None if progress is None else not progress)
        with bar, ThreadPoolExecutor(threads) as pool:
            try:
                for done in pool.map(fill, parts):
                    bar.update(done)
            except BaseException:
                # A bad file or Ctrl-C must not wait for the rest of the data set.
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def __len__(self) -> int:
        return len(self._pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` in pixels."""
        channels, height, width = self._pixels.shape[1:]
        return channels, height, width

    @property
    def labels(self) -> Tensor:
        """int64 `[N]` on the CPU."""
        return self._labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self._classes

    @property
    def identity(self) -> dict[str, Any]:
        """The source's identity: where images are held does not change them."""
        return self._identity

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        """uint8 `[B, C, H, W]` in 0..255, on the device, for `indices` `[B]`; IndexError for an index out of range."""
        return self._pixels.index_select(0, _checked(indices, len(self)).to(self._pixels.device))


def image_source(
    data: str | os.PathLike[str] | None, split: str, image_size: tuple[int, int], channels: int = 3, min_side: int = 1
) -> ImageSource:
    """The images a user asked for: a folder's, or the embedded world's when `data` is None or empty.

    Args:
        data: folder of images, or nothing. split: `train` or `validation` (a folder's `val`), or a further set of the world.
        image_size: `(H, W)` in pixels. min_side: least short side of a file's image, in pixels.

    Raises:
        InputError: a size or channel count that the embedded world does not draw, and all that `FolderImages` and `World` refuse.
    """
    if data is not None and str(data):
        return FolderImages(data, "val" if split == "validation" else split, image_size, channels, min_side)
    if image_size[0] != image_size[1] or channels != 3:
        raise InputError(f"the embedded world draws square RGB images, not {channels}×{image_size[0]}×{image_size[1]}: name a folder of images")
    return World(split, image_size[0])


def nbytes(source: ImageSource) -> int:
    """Bytes that `Resident(source)` would take: `N × C × H × W`."""
    channels, height, width = source.shape
    return len(source) * channels * height * width


def _checked(indices: Tensor | Sequence[int], length: int) -> Tensor:
    """`indices` as int64 `[B]` on the CPU, all in `[0, length)`."""
    given = torch.as_tensor(indices).cpu()
    if given.numel() == 0:
        return torch.empty(0, dtype=torch.int64)
    if given.ndim != 1 or given.is_floating_point() or given.dtype == torch.bool:
        raise TypeError(f"indices must be whole numbers in one dimension, not {given.dtype} {list(given.shape)}")
    if given.min() < 0 or given.max() >= length:
        raise IndexError(f"index {int(given.min() if given.min() < 0 else given.max())} is outside 0..{length - 1}")
    return given.to(torch.int64)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---------------------------------------------------------------------------------------------------------------------------
# Finding the files


def _shown(path: Path | str) -> str:
    """A path as one printable line: names that are not valid UTF-8 would make `print` itself fail."""
    return os.fsencode(path).decode("utf-8", "replace").replace("\n", "\\n")


def _folder(directory: str | os.PathLike[str]) -> Path:
    """`directory` as a path, if it is a folder."""
    path = Path(directory).expanduser()
    if not path.exists():
        raise InputError(f"{_shown(path)}: no such folder; check the spelling")
    if not path.is_dir():
        raise InputError(f"{_shown(path)} is a file: point at the folder that holds the class folders")
    return path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name, without hidden files and the litter of archives."""
    try:
        with os.scandir(folder) as listing:
            kept = [entry for entry in listing if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except OSError as error:
        raise InputError(f"{_shown(folder)} cannot be listed ({error.strerror}): check its permissions and its disk") from error
    return sorted(kept, key=lambda entry: entry.name)


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if entry.is_dir()]


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _walk(folder: Path, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Relative POSIX paths of all files under a folder, links followed.

    `above` holds the folders on the way down, so that a link back to one of them does not go round for ever. A broken link is
    yielded like a file: whoever opens it says what is wrong.
    """
    status = folder.stat()
    above = above | {(status.st_dev, status.st_ino)}
    for entry in _entries(folder):
        if not entry.is_dir():
            yield prefix + entry.name
            continue
        below = entry.stat()
        if (below.st_dev, below.st_ino) not in above:
            yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", above)


def _images_under(folder: Path) -> list[str]:
    return sorted(name for name in _walk(folder) if _is_image(name))


def _split_folders(directory: Path) -> list[str]:
    """The splits among the subfolders; empty where the subfolders are classes.

    A class may be called "train" (vehicles have one): among folders of other names it counts as a split only if it has folders
    of its own.
    """
    names = _subfolders(directory)
    splits = [name for name in names if name in _SPLITS]
    if len(splits) == len(names) or any(_subfolders(directory / name) for name in splits):
        return splits
    return []


def _locate(directory: Path, split: str | None) -> tuple[Path, Path | None, bool]:
    """The folder of class folders for a split; the one whose classes number it, if another; whether the split must be cut out."""
    if split is None:
        return directory, None, False
    if not split or Path(split).name != split or split == "..":
        raise InputError(f"split '{split}': give the name of a subfolder, such as 'train', without a path")
    present = _split_folders(directory)
    if not present and split in ("train", *_VALIDATION):
        return directory, None, True
    spellings = (split, *_VALIDATION) if split in _VALIDATION else (split,)
    for name in spellings:
        if (directory / name).is_dir():
            train = directory / "train"
            return directory / name, train if "train" in present and name != "train" else None, False
    found = f"it holds {', '.join(present)}" if present else "it holds class folders"
    cure = f"make {_shown(directory / split)}/<class>/, or ask for a split that is there"
    if split in _VALIDATION and "train" in present:
        cure += f"; or point at {_shown(directory / 'train')}, of which a tenth is then held out"
    raise InputError(f"{_shown(directory)} has no split '{split}' ({found}): {cure}")


def _select(directory: Path, split: str | None) -> tuple[Path, tuple[str, ...], list[list[str]]]:
    """A split's root, its class names, and for each class the sorted paths of its images relative to the root."""
    root, train, cut = _locate(directory, split)
    present = _class_folders(root)
    classes = present if train is None else _class_folders(train)
    strangers = sorted(set(present) - set(classes))
    if strangers:
        raise InputError(
            f"{_shown(root)} has {len(strangers)} class(es) that train lacks, the first '{_shown(strangers[0])}': "
            f"rename or remove them, or add them to {_shown(train or root)}"
        )
    if len(classes) == 1:
        cure = _single_class_cure(train or root, classes[0])
        raise InputError(f"{_shown(train or root)} holds one class only ('{_shown(classes[0])}'): {cure}")
    members = []
    for name in classes:
        files = [f"{name}/{file}" for file in _images_under(root / name)] if name in present else []
        if name in present and not files:
            cure = "delete it or fill it; or point at the folder of class folders"
            raise InputError(f"{_shown(root / name)} is a class folder without images: {cure}")
        members.append(_cut(files, held_out=split != "train") if cut else files)
    if not any(members):
        raise InputError(f"{_shown(root)} has too few images to hold any out: each class needs at least 2")
    return root, classes, members


def _class_folders(root: Path) -> tuple[str, ...]:
    """Names of the class folders, at least one."""
    names = tuple(_subfolders(root))
    if names:
        return names
    if any(_is_image(entry.name) for entry in _entries(root)):
        cure = "this looks like one class of a data set; point at its parent"
        if root.name in _SPLITS:
            cure = "sort them into <class>/ folders"
        raise InputError(f"{_shown(root)} holds images but no class folders: {cure}")
    cure = "point at a folder of class folders, DIR/train/<class>/*.jpg or DIR/<class>/*.jpg"
    raise InputError(f"{_shown(root)} holds no images: {cure}")


def _single_class_cure(root: Path, name: str) -> str:
    if any(split in _SPLITS for split in _subfolders(root / name)):
        return f"point at {_shown(root / name)}, which has the splits"
    return "point at the folder that holds all classes, or add a second class"


def _cut(files: list[str], held_out: bool) -> list[str]:
    """The tenth of a class that is held out (at least one of two), or the rest. By the hash of the name, so that neither the
    order in which names were given nor a series of frames decides; few files change sides when some are added."""
    ranked = sorted(files, key=lambda file: hashlib.sha256(os.fsencode(file)).digest())
    count = max(1, round(len(files) / 10)) if len(files) > 1 else 0
    return sorted(ranked[:count] if held_out else ranked[count:])


def _fingerprint(root: Path, files: list[str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        try:
            size = (root / name).stat().st_size
        except OSError as error:
            what = f"{_shown(root / name)} cannot be opened ({error.strerror})"
            raise InputError(f"{what}: restore it, or delete the link") from error
        digest.update(os.fsencode(name) + b"\0" + str(size).encode() + b"\n")
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------------------------
# Decoding


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A file opened by Pillow; whatever goes wrong until it is closed becomes an InputError that names it."""
    name = _shown(path)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError
            yield image
    except (InputError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name} has more than {Image.MAX_IMAGE_PIXELS} pixels: shrink it or delete it") from error
    except Image.UnidentifiedImageError as error:
        what = "is empty" if path.stat().st_size == 0 else "is not an image that can be read"
        raise InputError(f"{name} {what}: {_REPLACE}") from error
    except OSError as error:
        if error.errno is not None:  # the system's fault, not the picture's: nobody should delete a file for it
            cure = "check the file, its permissions and its disk"
            raise InputError(f"{name} cannot be opened ({error.strerror}): {cure}") from error
        raise InputError(f"{name} is damaged or truncated ({error}): {_REPLACE}") from error
    except Exception as error:  # on damaged files Pillow raises SyntaxError, ValueError, struct.error and more
        raise InputError(f"{name} cannot be decoded ({error}): {_REPLACE}") from error


def _decode(path: Path, shape: tuple[int, int, int], min_side: int) -> np.ndarray:
    """One file as uint8 `[C, H, W]`."""
    channels, height, width = shape
    mode = "RGB" if channels == 3 else "L"
    with _opened(path) as image:
        short = min(image.size)
        if short < min_side:
            raise InputError(
                f"{_shown(path)} is {image.width}×{image.height} pixels, smaller than one mask unit ({min_side}): "
                "delete it or choose a smaller unit"
            )
        if image.format in ("JPEG", "MPO"):
            # The decoder itself may halve the picture while twice the wanted size is left: much faster, not visibly different.
            scale = 2 * max(height, width) / short
            image.draft(mode, (int(image.width * scale), int(image.height * scale)))
        image.load()
        picture = _eight_bit(image, mode, path)
        turn = _TURNS.get(_orientation(image))
        if turn is not None:
            picture = picture.transpose(turn)
        pixels = np.asarray(_cover(picture, width, height))
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, of a loaded image. A damaged tag is no reason to refuse sound pixels."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1


def _eight_bit(image: Image.Image, mode: str, path: Path) -> Image.Image:
    """A loaded image in `mode`, 'RGB' or 'L'."""
    if image.mode[0] in "IF":
        return _grey_from_wide(np.asarray(image), path).convert(mode)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _grey_from_wide(values: np.ndarray, path: Path) -> Image.Image:
    """16-bit, 32-bit or float grey `[H, W]` as 8 bits. Pillow's own conversion clips at 255, so that most become white.

    The scale is fixed, never fitted to one file: a dark picture stays dark beside the others.
    """
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise InputError(f"{_shown(path)} has NaN or infinite pixels: {_REPLACE}")
        top, asked = 1.0, "rescale it to [0, 1]"
    else:
        top, asked = 65535.0, "save it with 8 or 16 bits"
    low, high = float(values.min()), float(values.max())
    if low < -1e-3 * top or high > 1.001 * top:
        raise InputError(f"{_shown(path)} has values from {low:g} to {high:g}, outside 0 to {top:g}: {asked}")
    return Image.fromarray(np.rint(values.clip(0, top) * (255.0 / top)).astype(np.uint8))


def _cover(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Resize until the picture just covers `width × height` and crop about the centre, in one pass."""
    if picture.size == (width, height):
        return picture
    scale = max(width / picture.width, height / picture.height)
    across, down = min(picture.width, width / scale), min(picture.height, height / scale)
    left, top = (picture.width - across) / 2, (picture.height - down) / 2
    return picture.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + across, top + down))


# ---------------------------------------------------------------------------------------------------------------------------
# Describing


@dataclass(frozen=True)
class SplitSummary:
    """Images of one split, and how they spread over its classes."""

    images: int
    classes: int
    fewest: int
    median: float
    most: int


@dataclass(frozen=True)
class Description:
    """What a folder holds and whether it can be used; made by `describe`. `print` gives a text for the terminal.

    Attributes:
        directory: as it was given.
        layout: in words.
        splits: a summary of each split that can be loaded.
        classes: class names, in label order.
        files: image files found; checked: how many of them were opened and decoded.
        formats, modes: files of each format (Pillow's names) and colour mode.
        smallest, largest: `(width, height)` in pixels, by area; shortest_side: in pixels.
        problems: the first ten files that cannot be used, one line each with the remedy; problem_count: of how many.
        warnings: what will be done with unusual files, and what may surprise.
        usable: whether `FolderImages(directory)` can load every file checked.
        reason: if not usable, why, and the remedy.
        command: what to run next; empty if not usable.
    """

    directory: str
    layout: str
    splits: dict[str, SplitSummary]
    classes: tuple[str, ...]
    files: int
    checked: int
    formats: dict[str, int]
    modes: dict[str, int]
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

    def __str__(self) -> str:
        rows = [("layout", self.layout)]
        rows += [(name, _summary_text(summary)) for name, summary in self.splits.items()]
        if self.classes:
            rows.append(("classes", ", ".join(self.classes[:6]) + (", …" if len(self.classes) > 6 else "")))
        if self.formats:
            rows += [("formats", _counts_text(self.formats)), ("colours", _counts_text(self.modes))]
        if self.smallest and self.largest:
            sizes = " to ".join(f"{width}×{height}" for width, height in dict.fromkeys((self.smallest, self.largest)))
            rows.append(("sizes", f"{sizes} pixels, shortest side {self.shortest_side}"))
        checked = "every one" if self.checked == self.files else f"a sample of {_count(self.checked)}"
        rows.append(("checked", f"{checked} of {_count(self.files)} files"))
        rows += [("note", text) for text in self.warnings]
        rows += [("problem", text) for text in self.problems]
        if self.problem_count > len(self.problems):
            rows.append(("problem", f"… and {_count(self.problem_count - len(self.problems))} more"))
        rows.append(("usable", f"yes: {self.command}" if self.usable else f"no: {self.reason}"))
        wide = max(len(name) for name, _ in rows)
        return "\n".join([self.directory, *(f"  {name:<{wide}}  {text}" for name, text in rows)])


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
) -> Description:
    """Open and decode every image file under a folder and say what it holds and whether it can be used.

    Bad contents are reported, never raised.

    Args:
        directory: the folder.
        limit: of more files than this, a fixed sample of this many is opened; the description says so.
        threads: that decode; by default one per available core.
        progress: show a progress bar; by default only where stderr is a terminal.

    Raises:
        InputError: there is no such folder, or it is a file.
    """
    root = _folder(directory)
    files, strays, blocked = _inventory(root)
    splits, classes, reason, warnings = _loadable(root)
    sample = files if len(files) <= limit else sorted(random.Random(0).sample(files, limit))
    census = _look_at_all(root, sample, threads or _cores(), progress)
    problems = blocked + census.problems
    if strays:
        warnings.append(f"{_count(strays)} file(s) with other extensions are passed over")
    warnings += [f"{_count(count)} {text}" for text, count in sorted(census.oddities.items())]
    if blocked and not reason:
        reason = blocked[0]
    if problems and not reason:
        reason = f"{_count(len(problems))} of {_count(len(sample))} files cannot be used: delete or replace those named"
    by_area = sorted(census.sizes, key=lambda size: (size[0] * size[1], size))
    return Description(
        directory=_shown(directory),
        layout=_layout_text(root),
        splits=splits,
        classes=tuple(map(_shown, classes)),
        files=len(files),
        checked=len(sample),
        formats=dict(census.formats.most_common()),
        modes=dict(census.modes.most_common()),
        smallest=by_area[0] if by_area else None,
        largest=by_area[-1] if by_area else None,
        shortest_side=min(map(min, by_area)) if by_area else None,
        problems=tuple(problems[:10]),
        problem_count=len(problems),
        warnings=tuple(warnings),
        usable=not reason,
        reason=reason,
        command="" if reason else f"mae pretrain --data {shlex.quote(_shown(directory))}",
    )


def _inventory(root: Path) -> tuple[list[str], int, list[str]]:
    """All image files under a folder, the number of other files, and what kept us from listing all."""
    files, strays = [], 0
    try:
        for name in _walk(root):
            if _is_image(name):
                files.append(name)
            else:
                strays += 1
    except InputError as error:
        return sorted(files), strays, [str(error)]
    return sorted(files), strays, []


def _loadable(root: Path) -> tuple[dict[str, SplitSummary], tuple[str, ...], str, list[str]]:
    """Summaries of the splits that load, the classes, why `train` does not load (else ''), and notes on the rest."""
    splits: dict[str, SplitSummary] = {}
    notes: list[str] = []
    try:
        train = FolderImages(root, "train")
        names = _split_folders(root) or ["train", "val"]
    except InputError as error:
        return splits, (), str(error), notes
    for name in sorted(names, key=_SPLITS.index):
        try:
            summary, lopsided = _summarise(FolderImages(root, name))
        except InputError as error:
            notes.append(f"the split '{name}' cannot be used: {error}")
            continue
        splits[name] = summary
        notes += [f"{name}: {text}" for text in lopsided]
    if not set(_VALIDATION) & set(names):
        notes.append("there is no validation split: pretraining runs, what scores on held-out images does not")
    return splits, train.classes, "", notes


def _summarise(source: FolderImages) -> tuple[SplitSummary, list[str]]:
    """A split's summary, and a note if its classes are of very unequal size."""
    counts = torch.bincount(source.labels, minlength=len(source.classes)).numpy()
    met = counts[counts > 0]
    summary = SplitSummary(len(source), len(met), int(met.min()), float(np.median(met)), int(met.max()))
    notes = []
    if summary.most > 10 * summary.fewest:
        notes.append(f"the largest class has {summary.most / summary.fewest:.0f} times the images of the smallest")
    if len(met) < len(counts):
        notes.append(f"{len(counts) - len(met)} of the {len(counts)} classes have no image")
    return summary, notes


def _look_at_all(root: Path, names: list[str], threads: int, progress: bool | None) -> _Census:
    census = _Census()
    bar = partial(tqdm, total=len(names), desc="checking", unit="file", disable=None if progress is None else not progress)
    with ThreadPoolExecutor(threads) as pool:
        for look in bar(pool.map(_look, (root / name for name in names))):
            if look.problem:
                census.problems.append(look.problem)
                continue
            census.formats[look.format] += 1
            census.modes[look.mode] += 1
            census.oddities.update(look.oddities)
            census.sizes.add(look.size)
    return census


def _look(path: Path) -> _Look:
    """Open one file and decode it as `FolderImages` would, but in full."""
    try:
        with _opened(path) as image:
            oddities = list(_oddities(image))
            mode, size = image.mode, image.size
            image.load()
            _eight_bit(image, "RGB", path)
            if _orientation(image) != 1:
                oddities.append("file(s) with an EXIF orientation are turned upright")
            return _Look(image.format or "", mode, size, tuple(oddities))
    except InputError as error:
        return _Look(problem=str(error))


def _oddities(image: Image.Image) -> Iterator[str]:
    """What an opened, not yet loaded image has that is unusual, and what will be done with it."""
    if ";16" in str(image.tile) or image.mode.startswith("I"):
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
        splits, folders = _split_folders(root), _subfolders(root)
    except InputError:
        return "cannot be listed"
    if splits:
        return ", ".join(f"{name}/" for name in splits) + ", class folders in each"
    return "class folders; a tenth of each class is held out as val" if folders else "no subfolders"


def _summary_text(summary: SplitSummary) -> str:
    text = f"{_count(summary.images)} images in {_count(summary.classes)} classes"
    if summary.fewest == summary.most:
        return f"{text}, {summary.most} in each"
    return f"{text}, {summary.fewest} to {summary.most} in each, median {summary.median:g}"


def _counts_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {_count(count)}" for name, count in counts.items())


def _count(number: int) -> str:
    return f"{number:,}".replace(",", " ")
