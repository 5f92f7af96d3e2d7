"""Decoding image files. What lives here: opening a file, or a `Member` of an archive, so that
whatever is wrong with it names it (`opened`); decoding it to uint8 of a given size (`decode`), the
whole of it or a random part (`crop_box`); and what is made of orientation, transparency and wide
samples (`upright`, `eight_bit`). Arrays, and TIFFs that Pillow does not read: `bands`."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from mae_lib.base.errors import InputError
from mae_lib.data.formats import bands
from mae_lib.data.image_files import shown

__all__ = [
    "Member",
    "opened",
    "stacked",
    "check_sides",
    "decode",
    "crop_box",
    "orientation",
    "means_nothing",
    "upright",
    "eight_bit",
]

# Only these decoders are tried, whatever a file is called: a PostScript file named .jpg must not
# start Ghostscript.
_FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "GIF", "AVIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000"),
    *("PCX", "SGI", "SUN", "QOI"),
)
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
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # plain, and with places of 64 bits


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
    """A file opened by Pillow, or an array or TIFF read as a picture beside it; whatever goes wrong
    until it is closed becomes an InputError that names it."""
    # TGA has no mark of its own: almost anything could be taken for one
    named = str(file.name if isinstance(file, Member) else file).lower()
    formats = ("TGA",) if named.endswith(".tga") else _known_formats()
    with _streamed(file) as stream, _picture_in(_without_texts(stream), formats) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise Image.DecompressionBombError
        yield image


def _picture_in(stream: BinaryIO, formats: Sequence[str]) -> Image.Image:
    head = stream.read(18)
    stream.seek(0)
    if head.startswith(b"\x93NUMPY"):
        return _named(bands.picture(stream, Image.MAX_IMAGE_PIXELS), "NPY")
    try:
        image = Image.open(stream, formats=formats)
    except Image.UnidentifiedImageError:
        if not head.startswith(_TIFF):
            raise
    else:
        if image.format == "TGA" and not head[17] & 15:  # so many bits of alpha
            image.info["reserved"] = True
        if image.format != "TIFF" or bands.read_by_pillow(image.tag_v2):
            return image
    stream.seek(0)
    return _named(bands.picture(stream, Image.MAX_IMAGE_PIXELS), "TIFF")


@lru_cache(maxsize=1)
def _known_formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that this build of Pillow has."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _named(picture: Image.Image, name: str) -> Image.Image:
    """A picture that no decoder of Pillow made, with what such a decoder says of itself."""
    picture.format, picture.tile = name, ()
    return picture


@contextmanager
def _streamed(file: Path | Member) -> Iterator[BinaryIO]:
    """A file's bytes; whatever goes wrong while they are read becomes an InputError that names
    it."""
    try:
        with io.BytesIO(file.content) if isinstance(file, Member) else open(file, "rb") as stream:
            yield stream
    except (InputError, MemoryError):
        raise
    except bands.Unreadable as error:
        raise _refusal(file, error.what, error.cure) from error
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
        raise _refusal(file, f"is damaged or truncated ({_line(error)})") from error
    except Exception as error:
        # on damaged files Pillow raises SyntaxError, ValueError, struct.error and more
        raise _refusal(file, f"cannot be decoded ({_line(error)})") from error


def _line(error: Exception) -> str:
    """What an error says, as one line that is not too long."""
    return " ".join(str(error).split())[:200] or type(error).__name__


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
    box = box or (lambda across, down: _cover(across, down, width, height))
    if channels not in (1, 3):
        return _decode_bands(file, shape, min_side, border, box)
    mode = "RGB" if channels == 3 else "L"
    with opened(file) as image:
        check_sides(file, image.size, min_side, border)
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


def check_sides(file: Path | Member, size: tuple[int, int], min_side: int, border: int = 0) -> None:
    """InputError for a file of `size` `(width, height)` that is smaller, without the border, than
    `min_side` pixels on one side."""
    short, what = min(size) - 2 * border, f"is {size[0]}×{size[1]} pixels"
    if short < 1:
        raise _refusal(file, f"{what}, nothing but its border of {border}")
    if short < min_side:
        what += f", smaller than one mask unit ({min_side})"
        raise _refusal(file, what, "delete it or choose a smaller unit")


def stacked(file: Path | Member, channels: int) -> np.ndarray:
    """A file's bands as they are stored, upright, as uint8 `[H, W, C]`: none of them is taken for a
    colour or an alpha. InputError for other than `channels` of them."""
    with _streamed(file) as stream:
        magic = stream.read(6)
        stream.seek(0)
        if magic.startswith((b"\x93NUMPY", *_TIFF)):
            return bands.stack(stream, (channels,), Image.MAX_IMAGE_PIXELS)
        with opened(file) as image:
            if len(image.getbands()) != channels or image.mode not in ("LA", "RGBA"):
                raise bands.Unreadable(
                    f"has {len(image.getbands())} bands ({image.mode}) where {channels} are read",
                    "give the number of channels that all files have, or save it as .npy",
                )
            turn = _TURNS.get(orientation(image))
            return np.asarray(image if turn is None else image.transpose(turn))


def _decode_bands(
    file: Path | Member,
    shape: tuple[int, int, int],
    min_side: int,
    border: int,
    box: Callable[[int, int], Box],
) -> np.ndarray:
    """`decode` of `stacked` bands, each resized alone."""
    channels, height, width = shape
    pixels = stacked(file, channels)
    size = pixels.shape[1], pixels.shape[0]
    check_sides(file, size, min_side, border)
    inner = pixels[border : size[1] - border, border : size[0] - border]
    part = box(inner.shape[1], inner.shape[0])
    resized = [
        Image.fromarray(np.ascontiguousarray(inner[..., band])).resize(
            (width, height), Image.Resampling.BICUBIC, box=part
        )
        for band in range(channels)
    ]
    return np.stack([np.asarray(band) for band in resized])


def crop_box(width: int, height: int, draws: Sequence[float], smallest: float) -> Box:
    """A random part of a picture of `width` × `height` pixels, `(left, top, right, bottom)`: what
    `mae_lib.training.feeding.augment` and torchvision's RandomResizedCrop draw, but to fractions
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
        grey = bands.eight_bits(
            values.view(np.int8) if signed else values,
            255 if signed else 4095 if "I;12" in raw else 65535,
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
    if means_nothing(image):
        image = image.convert("RGB")
    elif image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        if image.mode == "La":  # Pillow would drop its alpha
            image = image.convert("LA")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def means_nothing(image: Image.Image) -> bool:
    """Whether an opened picture has an alpha that is none: in BMP and TGA, 0 everywhere, or bytes
    that the header calls no alpha. Loads such a picture."""
    if image.format not in ("BMP", "TGA") or image.mode != "RGBA":
        return False
    return image.info.get("reserved", False) or image.getchannel("A").getextrema()[1] == 0


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
