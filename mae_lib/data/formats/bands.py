"""Arrays of bands: `.npy` files, and the TIFFs that Pillow cannot read or reads wrongly (more bands
than colours, planes apart, floats of other widths, some byte orders), which tifffile reads. What
lives here: `stack`, all bands of a file; `picture`, the same as a picture; and `eight_bits`, the
scale from whole numbers and floats to bytes."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import tifffile

__all__ = ["Unreadable", "eight_bits", "stack", "picture", "read_by_pillow"]

_NEEDED = "pip install tifffile imagecodecs, or save it without compression"

_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANES, _EXTRA, _FORMAT = (
    *(258, 259, 262, 277, 284, 338, 339),
)
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3}  # of each photometric interpretation
_WHITE_IS_ZERO, _INKS = 0, 5
_TURNED = {  # the upright [H, W, C] of a stored one, by EXIF orientation
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


class Unreadable(ValueError):
    """What is wrong with a file, and the cure, for an error that names the file."""

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(what)
        self.what, self.cure = what, cure


def eight_bits(values: np.ndarray, top: float | None = None) -> np.ndarray:
    """Whole numbers or floats as uint8. `top` is the brightest whole number, by default the
    greatest of its type, of 32 bits and signed ones that of uint16; 1 is the brightest float. The
    scale is fixed, never fitted to one file: a dark picture stays dark beside the others.

    Raises:
        Unreadable: NaN, infinity, or values beyond the scale.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values * np.uint8(255)
    slack, asked = 0.0, "save it with 8 or 16 bits"
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise Unreadable("has NaN or infinite pixels")
        top, slack, asked = 1, 1e-3, "rescale it to [0, 1]"
    elif values.dtype.kind not in "ui":
        raise Unreadable(f"holds {values.dtype}, no numbers that pixels can be", asked)
    elif top is None:
        top = 255 if values.dtype.itemsize == 1 else 65535
    low, high = float(values.min()), float(values.max())
    if low < -slack or high > top + slack:
        raise Unreadable(f"has values from {low:g} to {high:g}, outside 0 to {top:g}", asked)
    return np.rint(values.clip(0, top) * (255.0 / top)).astype(np.uint8)


def read_by_pillow(tags: Mapping[int, Any]) -> bool:
    """Whether Pillow reads a TIFF of these tags, which it accepts, as its specification says."""
    samples, bits = tags.get(_SAMPLES, 1), tags.get(_BITS, (1,))
    spare = samples - _COLOURS.get(tags.get(_PHOTOMETRIC, 1), samples)
    if spare > 1 or len(tags.get(_EXTRA, ())) > max(spare, 0):
        return False  # it drops the others without a word
    if samples > 1 and tags.get(_PLANES, 1) == 2:
        return spare == 0 and set(bits) == {8}
    swapped = tags.prefix == b"MM" and tags.get(_COMPRESSION, 1) != 1
    wide = max(bits) > 16 or (max(bits) > 8 and tags.get(_FORMAT, (1,))[0] != 1)
    return not (swapped and wide)


def stack(stream: BinaryIO, wanted: tuple[int, ...], limit: int | None) -> np.ndarray:
    """All bands of a `.npy` or TIFF as uint8 `[H, W, C]`, upright.

    Args:
        wanted: how many bands there may be. limit: pixels, as `PIL.Image.MAX_IMAGE_PIXELS`.

    Raises:
        Unreadable: no such file, another number of bands, or values beyond the scale.
    """
    magic = stream.read(6)
    stream.seek(0)
    if magic == b"\x93NUMPY":
        return eight_bits(_array(stream, wanted, limit))
    check = lambda page: _check_bands(page.samplesperpixel, wanted)
    with _page(stream, limit, check) as (page, values):
        pixels = eight_bits(values)
        return 255 - pixels if int(page.photometric) == _WHITE_IS_ZERO else pixels


def picture(stream: BinaryIO, limit: int | None) -> Image.Image:
    """A `.npy`, or a TIFF that Pillow does not read, as an upright picture of grey, colours or
    inks, in the mode `L`, `LA`, `RGB`, `RGBA` or `CMYK`.

    Raises:
        Unreadable: it has other bands than a picture has, or is damaged.
    """
    magic = stream.read(6)
    stream.seek(0)
    if magic == b"\x93NUMPY":
        return _drawn(stack(stream, (1, 3), limit))
    with _page(stream, limit, _colours) as (page, values):
        kind, extra, colours = int(page.photometric), page.extrasamples, _colours(page)
        spare = values.shape[2] - colours
        pixels = eight_bits(values)
        alpha = pixels[..., colours:] if spare and extra[-1:] in ((1,), (2,)) else None
        pixels = pixels[..., :colours]
        if kind == _WHITE_IS_ZERO:
            pixels = 255 - pixels
        if kind == _INKS:
            height, width = pixels.shape[:2]
            return Image.frombytes("CMYK", (width, height), pixels.tobytes())
        if alpha is None:
            return _drawn(pixels)
        if extra[-1] == 1:  # colours are stored times alpha
            whole = np.rint(pixels * (255.0 / np.maximum(alpha, 1)))
            pixels = whole.clip(0, 255).astype(np.uint8)
        return _drawn(np.concatenate([pixels, alpha], 2))


def _colours(page: tifffile.TiffPage) -> int:
    """How many bands of a page are grey or colours; there may be one more. Unreadable for pages
    that are no pictures."""
    kind, count = int(page.photometric), page.samplesperpixel
    colours = _COLOURS.get(kind, 0)
    if kind == 1 and count == 3 and not any(page.extrasamples):
        colours = 3  # three bands that nobody called colours
    if kind not in (0, 1, 2, _INKS) or count - colours not in (0, 1):
        raise Unreadable(
            f"has {count} bands ({page.photometric.name}), and no picture of grey or colours",
            f"open it with {count} channels, or save it as RGB",
        )
    return colours


def _drawn(pixels: np.ndarray) -> Image.Image:
    """uint8 `[H, W, C]`, grey or colours with or without alpha, as a picture."""
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    height, width = pixels.shape[:2]
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def _check_bands(count: int, wanted: tuple[int, ...]) -> None:
    if count not in wanted:
        asked = " or ".join(map(str, wanted))
        raise Unreadable(
            f"has {count} bands where {asked} are read",
            f"open all files with {count} channels, or take out those with other bands",
        )


def _array(stream: BinaryIO, wanted: tuple[int, ...], limit: int | None) -> np.ndarray:
    """A `.npy` file's `[H, W]`, `[H, W, C]` or `[C, H, W]` as `[H, W, C]`; its header is checked
    before anything else is read."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_2_0
    shape, _, kind = (np.lib.format.read_array_header_1_0 if version == (1, 0) else read)(stream)
    if kind.hasobject:
        raise Unreadable("holds Python objects, which are not loaded", "save an array of numbers")
    if len(shape) not in (2, 3) or 0 in shape:
        raise Unreadable(
            f"holds an array of shape {list(shape)}", "save it as [H, W], [H, W, C] or [C, H, W]"
        )
    fits = [axis for axis in (0, 2) if len(shape) == 3 and shape[axis] in wanted]
    if len(fits) == 2:
        raise Unreadable(
            f"holds an array of shape {list(shape)}, whose bands cannot be told from its rows",
            "save it as [H, W, C] with more pixels a side than bands",
        )
    if not fits:
        _check_bands(min(shape[0], shape[2]) if len(shape) == 3 else 1, wanted)
    _check_size([side for axis, side in enumerate(shape) if [axis] != fits], limit)
    stream.seek(0)
    values = np.lib.format.read_array(stream, allow_pickle=False)
    return np.moveaxis(values, fits[0], 2) if fits else values[..., None]


def _check_size(sides: Sequence[int], limit: int | None) -> None:
    if limit is not None and math.prod(sides) > limit:
        raise Unreadable(f"has more than {limit} pixels", "shrink it or delete it")


@contextlib.contextmanager
def _page(
    stream: BinaryIO, limit: int | None, check: Callable[[tifffile.TiffPage], object]
) -> Iterator[tuple[tifffile.TiffPage, np.ndarray]]:
    """A TIFF's first page, checked before it is read, and its samples `[H, W, C]`, upright."""
    try:
        import tifffile
    except ImportError as error:
        raise Unreadable("is a TIFF that Pillow cannot read", _NEEDED) from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is said in one line
    content = stream.read()
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages[0]
        if page.imagedepth != 1:
            raise Unreadable("is no picture in a plane", "save each plane as a file")
        check(page)
        _check_size((page.imagelength, page.imagewidth), limit)
        ends = map(sum, zip(page.dataoffsets, page.databytecounts))
        if not all(page.databytecounts) or max(ends) > len(content):  # it would be filled with 0
            raise Unreadable("is damaged or truncated (parts of the picture are missing)")
        try:
            values = page.asarray()
        except (ValueError, ImportError) as error:
            if isinstance(error, ValueError) and "imagecodecs" not in str(error):
                raise
            raise Unreadable(f"is compressed by {page.compression.name}", _NEEDED) from error
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            values = np.moveaxis(values.reshape(page.samplesperpixel, *values.shape[-2:]), 0, 2)
        values = values.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
        tag = page.tags.get(274)
        turn = _TURNED.get(tag.value if tag is not None and isinstance(tag.value, int) else 1)
        yield page, values if turn is None else turn(values)
