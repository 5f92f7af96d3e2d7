"""Every way that TIFF, PNG and JPEG write grey and colour, written here byte by byte: what is read
is what the specification says, and `describe` says of each file what reading it shows."""

import itertools
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mae_lib.base.errors import InputError
from mae_lib.data.describe import describe
from mae_lib.data.encoded import FolderImages

SIDE = 8
CORNERS = np.zeros((SIDE, SIDE), dtype=np.uint8)  # four unlike quarters, so that every turn shows
CORNERS[:4, :4], CORNERS[:4, 4:], CORNERS[4:, :4], CORNERS[4:, 4:] = 0, 1, 2, 3
STORED = {  # the stored picture of an upright one, by EXIF orientation
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: np.rot90,
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def read(root, name: str, content: bytes) -> np.ndarray:
    """uint8 [H, W, 3] of one file among sound ones, having asked `describe` too, which must agree
    on whether it can be read."""
    for i, kind in enumerate(("ant", "bee")):
        (root / kind).mkdir(parents=True)
        Image.new("RGB", (SIDE, SIDE), (i, i, i)).save(root / kind / "sound.png")
    (root / "ant" / name).write_bytes(content)
    told = describe(root, progress=False)
    source = FolderImages(root, None, SIDE)
    index = next(i for i in range(len(source)) if source.path(i).name == name)
    try:
        pixels = source.images([index])[0].permute(1, 2, 0).numpy()
    except InputError as error:
        assert not told.usable and told.problems == (str(error),)
        raise
    assert told.usable, told.reason
    return pixels


# -- TIFF ------------------------------------------------------------------------------------------


def tiff(
    samples: bytes, bits: tuple[int, ...], photometric: int, order: str = "<", **tags
) -> bytes:
    """A TIFF of one uncompressed strip, SIDE × SIDE. tags: numbers of further ones, with the struct
    letter and the values of each."""
    letters = {"B": 1, "H": 3, "I": 4}
    entries = {
        256: ("H", [SIDE]),
        257: ("H", [SIDE]),
        258: ("H", bits),
        259: ("H", [1]),
        262: ("H", [photometric]),
        273: ("I", [0]),
        277: ("H", [len(bits)]),
        278: ("H", [SIDE]),
        279: ("I", [len(samples)]),
    }
    entries |= {int(name[1:]): value for name, value in tags.items()}
    start = 8 + 2 + 12 * len(entries) + 4
    tail, packed = b"", b""
    for _place in range(2):  # once to know where the strip begins, once more to say so
        tail, packed = b"", b""
        for tag, (letter, values) in sorted(entries.items()):
            value = struct.pack(f"{order}{len(values)}{letter}", *values)
            if len(value) > 4:
                value, tail = (
                    struct.pack(f"{order}I", start + len(tail)),
                    tail + value + b"\0" * (len(value) % 2),
                )
            packed += struct.pack(f"{order}HHI", tag, letters[letter], len(values)) + value.ljust(
                4, b"\0"
            )
        entries[273] = ("I", [start + len(tail)])
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return (
        magic
        + struct.pack(f"{order}I", 8)
        + struct.pack(f"{order}H", len(entries))
        + packed
        + b"\0" * 4
        + tail
        + samples
    )


def packed_bits(values: np.ndarray, bits: int) -> bytes:
    """Whole numbers [H, W] of fewer than eight or of twelve bits, most significant first, each row
    filled up to a byte."""
    spread = (values[..., None].astype(int) >> np.arange(bits)[::-1]) & 1
    return np.packbits(spread.reshape(len(values), -1), axis=1).tobytes()


WHOLE = {
    1: [0, 1, 1, 0],
    2: [0, 1, 2, 3],
    4: [0, 5, 10, 15],
    8: [0, 90, 180, 255],
    12: [0, 1000, 3000, 4095],
    16: [0, 14135, 51400, 65535],
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("order, white_is_zero, bits", [
    *itertools.product("<>", (False, True), (1, 2, 4, 8, 16)), ("<", False, 12),
])  # fmt: skip
def test_whole_grey_tiffs(tmp_path, bits, white_is_zero, order, orientation):
    values = np.array(WHOLE[bits])[CORNERS]
    shares = values / (2**bits - 1)
    expected = np.rint(255 * (1 - shares if white_is_zero else shares))
    stored = STORED[orientation](values)
    samples = (
        stored.astype(f"{order}u{bits // 8}").tobytes()
        if bits in (8, 16)
        else packed_bits(stored, bits)
    )
    turn = {"t274": ("H", [orientation])} if orientation > 1 else {}
    content = tiff(samples, (bits,), int(not white_is_zero), order, **turn)
    found = read(tmp_path / "set", "a.tif", content)
    assert np.array_equal(found, expected[..., None].repeat(3, 2))


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_float_tiffs(tmp_path, white_is_zero):
    values = np.array([0, 0.25, 0.6, 1], dtype="<f4")[CORNERS]
    found = read(
        tmp_path / "set",
        "a.tif",
        tiff(values.tobytes(), (32,), int(not white_is_zero), t339=("H", [3])),
    )
    assert np.array_equal(found[..., 0], np.rint(255.0 * (1 - values if white_is_zero else values)))


@pytest.mark.parametrize("bits, top", [(8, 255), (16, 65535)])
def test_signed_tiffs_have_the_scale_of_unsigned_ones_and_nothing_below_zero(tmp_path, bits, top):
    values = np.array([0, 1, 2 ** (bits - 2), 2 ** (bits - 1) - 1])[CORNERS]
    signed = {"t339": ("H", [2])}
    found = read(
        tmp_path / "a",
        "a.tif",
        tiff(values.astype(f"<i{bits // 8}").tobytes(), (bits,), 1, **signed),
    )
    assert np.array_equal(found[..., 0], np.rint(values * 255 / top))
    with pytest.raises(InputError, match="a.tif has values from -3"):
        read(
            tmp_path / "b",
            "a.tif",
            tiff((values - 3).clip(-3).astype(f"<i{bits // 8}").tobytes(), (bits,), 1, **signed),
        )


@pytest.mark.parametrize("associated", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiffs_with_alpha_are_laid_on_white(tmp_path, channels, associated):
    colour = np.array([0, 100, 200, 250])[CORNERS][..., None].repeat(channels, 2)
    alpha = np.array([255, 0, 255, 51])[CORNERS][..., None]
    stored = np.rint(colour * alpha / 255) if associated else colour
    samples = np.concatenate([stored, alpha], 2).astype(np.uint8).tobytes()
    found = read(
        tmp_path / "set",
        "a.tif",
        tiff(
            samples,
            (8,) * (channels + 1),
            1 if channels == 1 else 2,
            t338=("H", [1 if associated else 2]),
        ),
    )
    expected = colour * alpha / 255 + 255 - alpha
    assert np.abs(found - expected).max() <= 3  # what is left of a colour that was stored faint


@pytest.mark.parametrize("letter, count", [("B", 1), ("H", 1), ("I", 1), ("H", 2)])
@pytest.mark.parametrize("orientation", STORED)
def test_a_tiff_s_orientation_may_be_written_as_another_type(tmp_path, orientation, letter, count):
    values = np.array(WHOLE[8], dtype=np.uint8)[CORNERS]
    content = tiff(
        np.ascontiguousarray(STORED[orientation](values)).tobytes(),
        (8,),
        1,
        t274=(letter, [orientation] * count),
    )
    assert np.array_equal(read(tmp_path / "set", "a.tif", content)[..., 0], values)


# -- PNG -------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples: np.ndarray, bits: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of whole numbers [H, W] (grey) or [H, W, 3], with these chunks before and after the
    pixels."""
    rows = samples.reshape(len(samples), -1)
    lines = [
        row.astype(f">u{bits // 8}").tobytes() if bits >= 8 else packed_bits(row[None], bits)
        for row in rows
    ]
    header = struct.pack(
        ">2I5B", samples.shape[1], samples.shape[0], bits, 2 if samples.ndim == 3 else 0, 0, 0, 0
    )
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + body + after + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "bits, clear", [(bits, clear) for bits in (1, 2, 4, 8, 16) for clear in sorted({*WHOLE[bits]})]
)
def test_a_transparent_grey_is_white(tmp_path, bits, clear):
    values = np.array(WHOLE[bits])[CORNERS]
    found = read(
        tmp_path / "set", "a.png", png(values, bits, chunk(b"tRNS", struct.pack(">H", clear)))
    )
    assert np.array_equal(
        found[..., 0], np.where(values == clear, 255, np.rint(values / (2**bits - 1) * 255))
    )
    told = describe(tmp_path / "set", progress=False)
    assert "1 file(s) with transparency are laid on white" in told.warnings


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("which", range(4))
def test_a_transparent_colour_is_white_and_its_neighbours_are_not(tmp_path, bits, which):
    base = np.array([40, 7, 200]) * (257 if bits == 16 else 1)
    # of 16 bits: alike in the upper eight
    colours = base + np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, -1, 0]])
    found = read(
        tmp_path / "set",
        "a.png",
        png(colours[CORNERS], bits, chunk(b"tRNS", struct.pack(">3H", *colours[which]))),
    )
    shown = colours if bits == 8 else colours / 257
    shown = np.where(np.arange(4)[:, None] == which, 255, shown)
    assert np.abs(found.astype(int) - shown[CORNERS]).max() <= 1


LARGE = b"a" * 2_000_000
EXTRAS = {
    "a colour profile": chunk(b"iCCP", b"wide\0\0" + zlib.compress(LARGE)),
    "a compressed text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LARGE)),
    "an international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(LARGE)),
    "more text than anyone reads": chunk(b"tEXt", b"Comment\0" + b"a" * 10_000_000) * 7,
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("extra", EXTRAS)
def test_what_goes_with_a_picture_may_be_large(tmp_path, extra, after):
    values = np.array(WHOLE[8])[CORNERS]
    content = png(values, 8, **{"after" if after else "before": EXTRAS[extra]})
    assert np.array_equal(read(tmp_path / "set", "a.png", content)[..., 0], values)


def xmp(orientation: int) -> bytes:
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description'
        f' tiff:Orientation="{orientation}"/></x:xmpmeta>'
    )
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet.encode())


def raw_profile(orientation: int) -> bytes:
    """As ImageMagick writes it: the block in hex, after its name and length."""
    block = b"Exif\0\0" + exif("H", orientation)
    return chunk(
        b"zTXt",
        b"Raw profile type exif\0\0"
        + zlib.compress(f"\nexif\n{len(block):8d}\n{block.hex()}\n".encode()),
    )


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", ["eXIf", "xmp", "raw profile"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_png_s_orientation_is_found_wherever_it_stands(tmp_path, orientation, kind, after):
    values = np.array(WHOLE[16])[CORNERS]
    written = {
        "eXIf": lambda: chunk(b"eXIf", exif("H", orientation)),
        "xmp": lambda: xmp(orientation),
        "raw profile": lambda: raw_profile(orientation),
    }
    content = png(
        STORED[orientation](values), 16, **{"after" if after else "before": written[kind]()}
    )
    found = read(tmp_path / "set", "a.png", content)
    assert np.array_equal(found[..., 0], np.rint(values / 257))


# -- EXIF ------------------------------------------------------------------------------------------

TYPES = {  # letter: (number of the type in TIFF, how a value is packed)
    "B": (1, "B"),
    "s": (2, None),
    "H": (3, "H"),
    "I": (4, "I"),
    "ratio": (5, "2I"),
    "b": (6, "b"),
    "undefined": (7, "B"),
    "h": (8, "h"),
    "i": (9, "i"),
    "signed ratio": (10, "2i"),
    "f": (11, "f"),
    "d": (12, "d"),
}


def exif(kind: str, orientation: int, count: int = 1) -> bytes:
    """An EXIF block (big-endian TIFF) with an orientation of this type alone."""
    number, form = TYPES[kind]
    if form is None:
        value = str(orientation).encode() + b"\0"
    else:
        value = b"".join(
            struct.pack(f">{form}", *([orientation, 1] if form[0] == "2" else [orientation]))
            for _ in range(count)
        )
    entry = struct.pack(">HHI", 274, number, len(value) if form is None else count)
    entry += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(">I", 26)
    return (
        b"MM\0*" + struct.pack(">IH", 8, 1) + entry + b"\0" * 4 + (value if len(value) > 4 else b"")
    )


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("orientation", STORED)
def test_an_orientation_of_every_type_is_obeyed(tmp_path, orientation, kind, count):
    quarters = np.array([[20, 220], [120, 60]], dtype=np.uint8)
    values = np.kron(quarters, np.ones((32, 32), dtype=np.uint8))
    written = BytesIO()
    stored = np.ascontiguousarray(STORED[orientation](values))
    Image.fromarray(stored).save(
        written, "JPEG", quality=100, exif=b"Exif\0\0" + exif(kind, orientation, count)
    )
    found = read(tmp_path / "set", "a.jpg", written.getvalue())
    assert np.abs(found[::7, ::7, 0].astype(int) - quarters).max() <= 12
    turned = (
        "1 file(s) with an EXIF orientation are turned upright"
        in describe(tmp_path / "set", progress=False).warnings
    )
    assert turned == (orientation > 1)
