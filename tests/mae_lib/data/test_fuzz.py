"""Mutated images, annotations and shards: each ends in a picture of the size asked for or in one
line that names the file. A few hundred here; `MAE_FUZZ=10000` asks for as many of each kind.

A silently wrong picture is looked for where a second source says what is right: a mutated file that
is still read must look as another decoder reads it, and a member of a shard that is found must have
the bytes that Python's own `tarfile` finds."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from coco_folders import random_content, save_coco
from image_folders import picture
from mae_lib.base.errors import InputError
from mae_lib.data.coco import open_coco
from mae_lib.data.coco_description import faults_of
from mae_lib.data.formats.decoding import Member, decode, opened, upright
from mae_lib.data.shards import ShardImages

COUNT = int(os.environ.get("MAE_FUZZ", 400))
ODD = (0, 1, 127, 128, 254, 255)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """One to four changes: bytes, numbers of 16 or 32 bits, a piece cut out, doubled or moved."""
    found = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(min(len(found), draw.choice([64, 512, len(found)])) or 1)
        kind = draw.randrange(6)
        if kind == 0:
            found[at : at + 1] = bytes([draw.choice([*ODD, draw.randrange(256)])])
        elif kind == 1:
            found[at : at + 4] = draw.choice([0, 1, 2**31 - 1, 2**32 - 1, 65536]).to_bytes(
                4, draw.choice(["big", "little"])
            )
        elif kind == 2:
            found[at : at + 2] = draw.choice([0, 1, 255, 256, 65535]).to_bytes(2, "big")
        elif kind == 3:
            del found[at : at + draw.choice([1, 4, 100, len(found)])]
        elif kind == 4:
            found[at:at] = found[at : at + draw.choice([1, 12, 200])]
        else:
            to = draw.randrange(len(found) or 1)
            found[at : at + 8] = found[to : to + 8]
        if not found:
            break
    return bytes(found)


def one_line(act: Callable[[], object]) -> str:
    """What `act` says where it refuses, else ''; whatever else it raises fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            act()
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            return str(error)
    return ""


# -- images ----------------------------------------------------------------------------------------


def written(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def array(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def tiff(values: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, metadata=None, **options)
    return stream.getvalue()


DRAWN = picture(3, 40, 24)
WIDE = np.asarray(DRAWN.convert("L")).astype(np.uint16) * 257
BANDS = np.dstack([np.asarray(DRAWN)] * 2)[..., :5]
EXIF = Image.Exif()
EXIF[274] = 6
SEEDS = {
    "a.jpg": written(DRAWN, "JPEG", exif=EXIF),
    "b.jpg": written(DRAWN.convert("CMYK"), "JPEG", progressive=True),
    "a.png": written(DRAWN.convert("RGBA"), "PNG"),
    "b.png": written(Image.fromarray(WIDE), "PNG", transparency=300),
    "c.png": written(DRAWN.quantize(16), "PNG", transparency=3),
    "a.webp": written(DRAWN, "WEBP"),
    "a.gif": written(DRAWN.quantize(16), "GIF", save_all=True, append_images=[DRAWN.quantize(4)]),
    "a.bmp": written(DRAWN, "BMP"),
    "a.ppm": written(DRAWN, "PPM"),
    "a.pgm": written(Image.fromarray(WIDE), "PPM"),
    "a.tif": written(DRAWN, "TIFF", compression="tiff_lzw"),
    "b.tif": tiff(WIDE, photometric="miniswhite"),
    "c.tif": tiff(np.moveaxis(np.asarray(DRAWN).astype(np.uint16) * 257, 2, 0),
                  photometric="rgb", planarconfig="separate"),
    "d.tif": tiff(np.asarray(DRAWN) / np.float32(255), photometric="rgb", byteorder=">"),
    "a.tga": written(DRAWN.convert("RGBA"), "TGA", compression="tga_rle"),
    "a.pcx": written(DRAWN, "PCX"),
    "a.jp2": written(DRAWN, "JPEG2000"),
    "a.qoi": written(DRAWN, "QOI"),
    "a.npy": array(np.asarray(DRAWN)),
}  # fmt: skip
STACKS = {
    "e.tif": tiff(BANDS, photometric="minisblack", planarconfig="contig"),
    "f.tif": tiff(np.moveaxis(BANDS, 2, 0), photometric="minisblack", planarconfig="separate"),
    "b.npy": array(BANDS),
}


@pytest.mark.timeout(20 + COUNT)
def test_a_mutated_image_is_a_picture_or_one_line():
    read = 0
    names = [*SEEDS, *STACKS]
    for k in range(COUNT):
        draw = random.Random(f"image {k}")
        name = names[k % len(names)]
        channels = 3 if name in SEEDS else 5
        file = Member(f"x.tar!{name}", mutated((SEEDS | STACKS)[name], draw))

        def read_it(file=file, channels=channels) -> None:
            pixels = decode(file, (channels, 16, 16), 1)
            assert pixels.shape == (channels, 16, 16) and pixels.dtype == np.uint8

        said = one_line(read_it)
        assert not said or said.startswith(file.name), said
        read += not said
        if not said and name.endswith(".tif") and name in SEEDS:
            _agrees_with_tifffile(file)
    assert COUNT // 20 < read < COUNT  # mutations that all are refused, or none, would show nothing


def _agrees_with_tifffile(file: Member) -> None:
    """A TIFF that is still read and has the kind of samples that it had looks as tifffile reads
    it, wherever that one reads it too."""
    try:
        with tifffile.TiffFile(io.BytesIO(file.content)) as there:
            page = there.pages[0]
            plain = page.photometric == 2 and page.samplesperpixel == 3 and page.compression == 1
            known = page.dtype in (np.dtype("u1"), np.dtype("u2")) and page.fillorder == 1
            if not plain or not known or 274 in page.tags:
                return
            values = np.asarray(page.asarray(), dtype=float)
            if page.planarconfig == 2:
                values = np.moveaxis(values, 0, 2)
            values = values / (257 if page.dtype.itemsize == 2 else 1)
    except Exception:
        return
    with opened(file) as image:
        found = np.asarray(upright(image, "RGB", file))
    assert found.shape == values.shape and np.abs(found - values).max() <= 1.01, file.name


# -- annotations -----------------------------------------------------------------------------------

VALUES = (None, -1, 0, 1, 2**40, 1e300, float("nan"), float("inf"), "", "x", [], {}, [[]], True,
          [1, 2, 3], [[1, 2, 3, 4, 5, 6]], {"size": [5, 5], "counts": "1"}, "../a.png")  # fmt: skip


def changed(value, draw: random.Random, depth: int = 0):
    """The same JSON with one value of it replaced, taken out or doubled, somewhere."""
    if isinstance(value, dict) and value and draw.random() < 0.95:
        key = draw.choice(list(value))
        if draw.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: changed(value[key], draw, depth + 1)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        if draw.random() < 0.15:
            return value[:at] + value[at + 1 :]
        if draw.random() < 0.1:
            return [*value, value[at]]
        return [*value[:at], changed(value[at], draw, depth + 1), *value[at + 1 :]]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and draw.random() < 0.5:
        return value + draw.choice([-1, 1, 0.5, 1000, -1000, 1e9])
    return draw.choice(VALUES)


@pytest.mark.timeout(60 + COUNT)
def test_mutated_annotations_are_masks_in_their_boxes_images_or_one_line(tmp_path):
    whole = 0
    for seed in range(4):
        save_coco(tmp_path / str(seed), random_content(seed, images=3))
    for k in range(COUNT):
        draw = random.Random(f"annotations {k}")
        root = tmp_path / str(k % 4)
        what = random_content(k % 4, images=3)
        for _ in range(draw.randint(1, 3)):
            what = changed(what, draw)
        text = json.dumps(what).encode()
        if draw.random() < 0.1:
            text = mutated(text, draw)
        (root / "annotations" / "instances_train2017.json").write_bytes(text)

        def read_it(root=root) -> None:
            folder = open_coco(root, "train2017")
            for i in range(len(folder)):
                for fault in faults_of(folder, i):
                    raise InputError(fault)
                found, (height, width) = folder.instances(i), folder.size(i)
                assert found.masks.shape == (len(found.labels), height, width)
                boxes = found.boxes
                assert torch.isfinite(boxes).all() and torch.isfinite(found.area).all()
                assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
                assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
                assert ((found.labels >= 1) & (found.labels <= len(folder.classes))).all()
                assert (found.area >= 0).all()

        said = one_line(read_it)
        assert not said or str(root) in said, said
        whole += not said
    assert 0 < whole < COUNT


# -- shards ----------------------------------------------------------------------------------------


WORDS = (b"777", b"\xff\xff\xff", b"\0\0\0", b"9/.", b"-1 ", b"Lxg")


def tar(labels: bool, form: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as file:
        for i in range(4):
            parts = {f"{'d' * 45 * i}/{i}.png": written(picture(i, 12, 12), "PNG")}
            if labels:
                parts[f"{'d' * 45 * i}/{i}.cls"] = str(i % 2).encode()
            for name, content in parts.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.timeout(60 + COUNT)
def test_mutated_shards_are_images_or_one_line(tmp_path):
    whole = 0
    (tmp_path / "train").mkdir()
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    forms = (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT)
    seeds = [tar(labels, form) for labels in (True, False) for form in forms]
    path = tmp_path / "train" / "x-000000.tar"
    for k in range(COUNT):
        draw = random.Random(f"shard {k}")
        content = bytearray(seeds[k % len(seeds)])
        if draw.random() < 0.5:  # in a header, with a sum that fits: what a checksum does not find
            at = 512 * draw.randrange(len(content) // 512)
            field, size = draw.choice([(0, 100), (124, 12), (156, 1), (257, 8), (345, 155)])
            start = at + field + draw.randrange(max(1, size - 3))
            word = draw.choice(WORDS)[:size]
            content[start : start + len(word)] = word
            content[at + 148 : at + 156] = b" " * 8
            total = sum(content[at : at + 512])
            content[at + 148 : at + 156] = b"%06o\0 " % total
        else:
            content = mutated(bytes(content), draw)
        path.write_bytes(content)

        def read_it() -> None:
            source = ShardImages(tmp_path, "train", 8, progress=False)
            images = source.images(range(len(source)))
            assert images.shape == (len(source), 3, 8, 8)
            with tarfile.open(path) as there:
                known = {
                    file.name: there.extractfile(file).read() for file in there if file.isreg()
                }
            for i in range(len(source)):
                one = source.encoded(i)
                assert known[one.name.split("!", 1)[1]] == one.content

        said = one_line(read_it)
        assert not said or str(tmp_path) in said, said
        whole += not said
    assert COUNT // 50 < whole < COUNT


def test_what_is_fuzzed_is_sound_before(tmp_path: Path):
    for name, content in SEEDS.items():
        assert not one_line(lambda n=name, c=content: decode(Member(n, c), (3, 16, 16), 1)), name
    for name, content in STACKS.items():
        assert not one_line(lambda n=name, c=content: decode(Member(n, c), (5, 16, 16), 1)), name
