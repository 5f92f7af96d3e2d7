"""The files of an image folder. What lives here: finding image files under a folder; the layouts
and splits such a folder may have, and the files that belong to one split (`select`); opening a
file, or a `Member` of an archive, so that whatever is wrong with it names it (`opened`); and
decoding it to uint8 of a given size (`decode`), the whole of it or a random part (`crop_box`).
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from mae_lib.base.errors import InputError

__all__ = [
    "EXTENSIONS",
    "SPLITS",
    "VALIDATION",
    "cores",
    "shown",
    "existing_folder",
    "entries",
    "subfolders",
    "is_image",
    "walk",
    "split_folders",
    "spellings",
    "select",
    "file_sizes",
    "Member",
    "opened",
    "decode",
    "crop_box",
    "orientation",
    "upright",
    "eight_bit",
]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif")

# Only these decoders are tried, whatever a file is called: a PostScript file named .jpg must not
# start Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
VALIDATION = ("val", "validation", "valid")
SPLITS = ("train", *VALIDATION, "test")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# a TIFF's tags: 0 is white in the first, signed is 2 in the second
_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339


def cores() -> int:
    """Cores this process may use: how many threads read files unless told otherwise."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --------------------------------------------------------------------------------------------------
# Finding the files


def shown(path: Path | str) -> str:
    """A path as one printable line: names that are not valid UTF-8 would make `print` itself
    fail."""
    return os.fsencode(path).decode("utf-8", "replace").replace("\n", "\\n")


def existing_folder(directory: str | os.PathLike[str]) -> Path:
    """`directory` as a path, if it is a folder."""
    path = Path(directory).expanduser()
    if not path.exists():
        raise InputError(f"{shown(path)}: no such folder; check the spelling")
    if not path.is_dir():
        raise InputError(
            f"{shown(path)} is a file: point at the folder that holds the class folders"
        )
    return path


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name, without hidden files and the litter of archives."""
    try:
        with os.scandir(folder) as listing:
            kept = [
                entry
                for entry in listing
                if not entry.name.startswith(".") and entry.name != "__MACOSX"
            ]
    except OSError as error:
        raise InputError(
            f"{shown(folder)} cannot be listed ({error.strerror}): check its permissions and its"
            " disk"
        ) from error
    return sorted(kept, key=lambda entry: entry.name)


def subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in entries(folder) if entry.is_dir()]


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def walk(
    folder: Path, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[str]:
    """Relative POSIX paths of all files under a folder, links followed.

    `above` holds the folders on the way down, so that a link back to one of them does not go round
    for ever. A broken link is yielded like a file: whoever opens it says what is wrong.
    """
    status = folder.stat()
    above = above | {(status.st_dev, status.st_ino)}
    for entry in entries(folder):
        if not entry.is_dir():
            yield prefix + entry.name
            continue
        below = entry.stat()
        if (below.st_dev, below.st_ino) not in above:
            yield from walk(folder / entry.name, f"{prefix}{entry.name}/", above)


def _images_under(folder: Path) -> list[str]:
    return sorted(name for name in walk(folder) if is_image(name))


def split_folders(directory: Path) -> list[str]:
    """The splits among the subfolders; empty where the subfolders are classes.

    A class may be called "train" (vehicles have one): among folders of other names it counts as a
    split only if it has folders of its own.
    """
    names = subfolders(directory)
    splits = [name for name in names if name in SPLITS]
    if len(splits) == len(names) or any(subfolders(directory / name) for name in splits):
        return splits
    return []


def spellings(split: str) -> tuple[str, ...]:
    """The names that the folder of a split may have, the likeliest first; InputError for what can
    be no folder's name."""
    if not split or Path(split).name != split or split == "..":
        raise InputError(
            f"split '{split}': give the name of a subfolder, such as 'train', without a path"
        )
    return tuple(dict.fromkeys((split, *VALIDATION))) if split in VALIDATION else (split,)


def _locate(directory: Path, split: str | None) -> tuple[Path, Path | None, bool]:
    """The folder of class folders for a split; the one whose classes number it, if another; whether
    the split must be cut out."""
    if split is None:
        return directory, None, False
    names = spellings(split)
    present = split_folders(directory)
    if not present and split in ("train", *VALIDATION):
        return directory, None, True
    for name in names:
        if (directory / name).is_dir():
            train = directory / "train"
            return (
                directory / name,
                train if "train" in present and name != "train" else None,
                False,
            )
    found = f"it holds {', '.join(present)}" if present else "it holds class folders"
    cure = f"make {shown(directory / split)}/<class>/, or ask for a split that is there"
    if split in VALIDATION and "train" in present:
        cure += f"; or point at {shown(directory / 'train')}, of which a tenth is then held out"
    raise InputError(f"{shown(directory)} has no split '{split}' ({found}): {cure}")


def select(
    directory: Path, split: str | None, only: Collection[str] | None = None
) -> tuple[Path, tuple[str, ...], list[list[str]]]:
    """A split's root, its class names, and for each class the sorted paths of its images relative
    to the root; of the classes `only` alone where it is given, and nothing is asked of the other
    folders."""
    root, train, cut = _locate(directory, split)
    present = _class_folders(root, only)
    classes = present if train is None else _class_folders(train, only)
    strangers = sorted(set(present) - set(classes))
    if strangers:
        raise InputError(
            f"{shown(root)} has {len(strangers)} class(es) that train lacks, the first"
            f" '{shown(strangers[0])}': rename or remove them, or add them to"
            f" {shown(train or root)}"
        )
    if len(classes) == 1:
        cure = _single_class_cure(train or root, classes[0])
        raise InputError(
            f"{shown(train or root)} holds one class only ('{shown(classes[0])}'): {cure}"
        )
    members = []
    for name in classes:
        files = [f"{name}/{file}" for file in _images_under(root / name)] if name in present else []
        if name in present and not files:
            cure = "delete it or fill it; or point at the folder of class folders"
            raise InputError(f"{shown(root / name)} is a class folder without images: {cure}")
        members.append(_cut(files, held_out=split != "train") if cut else files)
    if not any(members):
        raise InputError(
            f"{shown(root)} has too few images to hold any out: each class needs at least 2"
        )
    return root, classes, members


def _class_folders(root: Path, only: Collection[str] | None) -> tuple[str, ...]:
    """Names of the class folders, at least one; those in `only` alone where it is given."""
    names = tuple(subfolders(root))
    if only is not None:
        if missing := sorted(set(only) - set(names)):
            raise InputError(
                f"{shown(root)} has no class folder '{shown(missing[0])}': ask for classes that are"
                " there"
            )
        names = tuple(sorted(set(only)))
    if names:
        return names
    if any(is_image(entry.name) for entry in entries(root)):
        cure = "this looks like one class of a data set; point at its parent"
        if root.name in SPLITS:
            cure = "sort them into <class>/ folders"
        raise InputError(f"{shown(root)} holds images but no class folders: {cure}")
    cure = "point at a folder of class folders, DIR/train/<class>/*.jpg or DIR/<class>/*.jpg"
    raise InputError(f"{shown(root)} holds no images: {cure}")


def _single_class_cure(root: Path, name: str) -> str:
    if any(split in SPLITS for split in subfolders(root / name)):
        return f"point at {shown(root / name)}, which has the splits"
    return "point at the folder that holds all classes, or add a second class"


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


# --------------------------------------------------------------------------------------------------
# Decoding


@dataclass(frozen=True)
class Member:
    """An image file that lies in an archive.

    Attributes:
        name: what errors call it, `archive!member`. content: its bytes.
    """

    name: str
    content: bytes


def _refusal(file: Path | Member, what: str, cure: str = "") -> InputError:
    """The error that names a file; unless there is another cure, it has to go."""
    if isinstance(file, Member):
        return InputError(
            f"{shown(file.name)} {what}:"
            f" {cure or 'mend it where it came from, or leave it out, and pack the shards again'}"
        )
    return InputError(f"{shown(file)} {what}: {cure or 'delete or replace this file'}")


@contextmanager
def opened(file: Path | Member) -> Iterator[Image.Image]:
    """A file opened by Pillow; whatever goes wrong until it is closed becomes an InputError that
    names it."""
    try:
        with (
            io.BytesIO(file.content) if isinstance(file, Member) else open(file, "rb") as stream,
            Image.open(_without_texts(stream), formats=_FORMATS) as image,
        ):
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError
            yield image
    except (InputError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _refusal(
            file, f"has more than {Image.MAX_IMAGE_PIXELS} pixels", "shrink it or delete it"
        ) from error
    except Image.UnidentifiedImageError as error:
        empty = not file.content if isinstance(file, Member) else file.stat().st_size == 0
        raise _refusal(file, "is empty" if empty else "is not an image that can be read") from error
    except OSError as error:
        # the system's fault, not the picture's: nobody should delete a file for it
        if error.errno is not None:
            raise _refusal(
                file,
                f"cannot be opened ({error.strerror})",
                "check the file, its permissions and its disk",
            ) from error
        raise _refusal(file, f"is damaged or truncated ({error})") from error
    except Exception as error:
        # on damaged files Pillow raises SyntaxError, ValueError, struct.error and more
        raise _refusal(file, f"cannot be decoded ({error})") from error


_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # where an orientation may stand


def _without_texts(stream: BinaryIO) -> BinaryIO:
    """A PNG without its colour profile and its texts, from the start; other files as they are.
    Nothing of them is used, and Pillow refuses a sound picture for the size of one, unpacked."""
    if stream.read(len(_PNG)) != _PNG:
        stream.seek(0)
        return stream
    content, kept, at = stream.read(), [_PNG], 0
    while len(content) - at >= 12:
        kind, end = content[at + 4 : at + 8], at + 12 + int.from_bytes(content[at : at + 4], "big")
        text = kind in (b"tEXt", b"zTXt", b"iTXt") and not content.startswith(_EXIF_TEXTS, at + 8)
        if not (kind == b"iCCP" or text) or end > len(content):
            kept.append(content[at:end])
        at = end
    return io.BytesIO(b"".join([*kept, content[at:]]))


Box = tuple[float, float, float, float]


def decode(
    file: Path | Member,
    shape: tuple[int, int, int],
    min_side: int,
    border: int = 0,
    box: Callable[[int, int], Box] | None = None,
) -> np.ndarray:
    """One file as uint8 `[C, H, W]`, without the outermost `border` pixels of the file.

    `box` says, from the width and height of the upright picture, which part of it is resized (left,
    top, right, bottom); by default the largest one of the wanted shape, about the centre.
    """
    channels, height, width = shape
    mode = "RGB" if channels == 3 else "L"
    box = box or (lambda across, down: _cover(across, down, width, height))
    with opened(file) as image:
        short = min(image.size) - 2 * border
        if short < 1:
            raise _refusal(
                file, f"is {image.width}×{image.height} pixels, nothing but its border of {border}"
            )
        if short < min_side:
            what = (
                f"is {image.width}×{image.height} pixels, smaller than one mask unit ({min_side})"
            )
            raise _refusal(file, what, "delete it or choose a smaller unit")
        if image.format in ("JPEG", "MPO") and not border:
            # The decoder itself may halve the picture while twice the wanted size is left: much
            # faster, not visibly different.
            left, top, right, bottom = box(
                *(image.size[::-1] if orientation(image) >= 5 else image.size)
            )
            spare = min((right - left) / width, (bottom - top) / height) / 2
            scale = next((scale for scale in (8, 4, 2) if scale <= spare), 1)
            image.draft(mode, (image.width // scale, image.height // scale))
        picture = upright(image, mode, file)
        if border:  # cut off before resizing, whose filter would draw the border in
            picture = picture.crop(
                (border, border, picture.width - border, picture.height - border)
            )
        pixels = np.asarray(
            picture.resize((width, height), Image.Resampling.BICUBIC, box=box(*picture.size))
        )
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]


def crop_box(width: int, height: int, draws: Sequence[float], smallest: float) -> Box:
    """A random part of a picture of `width` × `height` pixels, `(left, top, right, bottom)`: what
    `mae_lib.training.pretrain.augment` and torchvision's RandomResizedCrop draw, but to fractions
    of a pixel.

    Its area is uniform in [`smallest`, 1] of the picture's, the logarithm of its width over its
    height, in pixels, uniform in [log 3/4, log 4/3], and its place uniform among those inside the
    picture. A side that would be longer than the picture's is as long.

    Args:
        draws: four numbers in [0, 1): area, aspect, left, top. smallest: in (0, 1].
    """
    area = (smallest + (1 - smallest) * draws[0]) * width * height
    aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * draws[1])
    return _placed(
        width, height, math.sqrt(area * aspect), math.sqrt(area / aspect), draws[2], draws[3]
    )


def _cover(width: int, height: int, across: int, down: int) -> Box:
    """The largest part about the centre whose sides are as `across` to `down`."""
    scale = max(across / width, down / height)
    return _placed(width, height, across / scale, down / scale, 0.5, 0.5)


def _placed(width: int, height: int, across: float, down: float, left: float, top: float) -> Box:
    """The box with these sides, clamped to the picture's, that has the share `left` of what is over
    on its left, `top` of it above."""
    across, down = min(width, across), min(height, down)
    left, top = (width - across) * left, (height - down) * top
    return left, top, min(width, left + across), min(height, top + down)


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, of a loaded image; of a JPEG or TIFF also before. A damaged tag is
    no reason to refuse sound pixels, nor is one that was written as another type than SHORT."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        number = float(value[0] if isinstance(value, (bytes, tuple)) else value)
    except Exception:
        return 1
    return int(number) if number in _TURNS else 1


def upright(image: Image.Image, mode: str, file: Path | Member) -> Image.Image:
    """An opened image, loaded, in `mode`, 'RGB' or 'L', turned as its EXIF orientation says."""
    picture = eight_bit(image, mode, file)
    turn = _TURNS.get(orientation(image))  # of a TIFF none is left: Pillow turns it while it loads
    return picture if turn is None else picture.transpose(turn)


def eight_bit(image: Image.Image, mode: str, file: Path | Member) -> Image.Image:
    """An opened image, loaded, in `mode`, 'RGB' or 'L', laid on white where it is transparent."""
    # how the file packs its samples, which loading forgets
    raw = str(image.tile[0].args) if image.tile else ""
    tags = getattr(image, "tag_v2", {})  # a TIFF's
    image.load()
    clear = image.info.get("transparency")
    signed = image.mode == "L" and tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    if signed or image.mode[0] in "IF":
        values = np.asarray(image)
        grey = _grey_from_wide(
            values.view(np.int8) if signed else values,
            255 if signed else 4095 if "I;12" in raw else 65535,
            file,
        )
        if tags and not signed and tags.get(_PHOTOMETRIC, 0) == 0:
            grey = 255 - grey
        return Image.fromarray(
            grey if clear is None else np.where(values == clear, np.uint8(255), grey)
        ).convert(mode)
    # Pillow spreads the samples over 0 … 255, and leaves the transparent one as it is
    if clear is not None and raw in ("L;2", "L;4"):
        image.info["transparency"] = clear % 2 ** int(raw[-1]) * (85 if raw == "L;2" else 17)
    elif clear is not None and raw == "RGB;16B":
        image = _laid_on_white(image, clear, file)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        if image.mode == "La":  # Pillow would drop its alpha
            image = image.convert("LA")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _laid_on_white(
    image: Image.Image, clear: tuple[int, int, int], file: Path | Member
) -> Image.Image:
    """A loaded PNG of 16-bit colours, white where it has the colour `clear` in all of the bits.
    Pillow reads the upper eight: the lower ones come from reading the file again as if the bytes
    stood the other way round."""
    with opened(file) as again:
        again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
        lower = np.asarray(again)
    upper = np.asarray(image)
    shows = (upper.astype(np.uint16) << 8 | lower) != np.array(clear)
    return Image.fromarray(np.where(shows.any(2, keepdims=True), upper, np.uint8(255)))


def _grey_from_wide(values: np.ndarray, top: int, file: Path | Member) -> np.ndarray:
    """Grey `[H, W]` of 16 or 32 bits, signed or float, as uint8; `top` is the brightest whole
    number, as 1 is the brightest float. Pillow's own conversion clips at 255, so that most become
    white.

    The scale is fixed, never fitted to one file: a dark picture stays dark beside the others.
    """
    slack, asked = 0.0, "save it with 8 or 16 bits"
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise _refusal(file, "has NaN or infinite pixels")
        top, slack, asked = 1, 1e-3, "rescale it to [0, 1]"
    low, high = float(values.min()), float(values.max())
    if low < -slack or high > top + slack:
        raise _refusal(file, f"has values from {low:g} to {high:g}, outside 0 to {top:g}", asked)
    return np.rint(values.clip(0, top) * (255.0 / top)).astype(np.uint8)
