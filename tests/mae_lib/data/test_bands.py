"""Arrays and TIFFs of any number of bands, and TIFFs that Pillow does not read or reads wrongly:
what is read is what was written, or is refused in one line."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from image_folders import fill, picture, save
from mae_lib.base.errors import InputError
from mae_lib.data.describe import describe
from mae_lib.data.encoded import FolderImages


def refused(message: str, act) -> None:
    with pytest.raises(InputError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


def bands(count: int, seed: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    """Smooth uint8 [H, W, count]."""
    down = np.linspace(0, 1, height)[:, None, None] * (1 + np.arange(count)) * 40
    across = np.linspace(0, 1, width)[None, :, None] * (100 - 7 * np.arange(count))
    return np.rint(down + across + seed).clip(0, 255).astype(np.uint8)


def written(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig")
    return path


@pytest.mark.parametrize("count", [2, 4, 5, 13])
@pytest.mark.parametrize("kind", [".npy", ".tif", "first.npy", "planes.tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_any_number_of_bands_is_read_as_it_is_stored(tmp_path, count, kind, dtype):
    pixels = bands(count)
    scale = {"uint8": 1, "uint16": 257, "float32": 1 / 255}[dtype]
    values = (pixels.astype("float32") * scale).astype(dtype)
    for name in ("a", "b"):
        path = tmp_path / name / f"x{kind[-4:]}"
        path.parent.mkdir()
        if kind == "planes.tif":
            tifffile.imwrite(
                path, np.moveaxis(values, 2, 0), photometric="minisblack", planarconfig="separate"
            )
        else:
            written(path, np.moveaxis(values, 2, 0) if kind == "first.npy" else values)
    source = FolderImages(tmp_path, None, (24, 32), channels=count)
    assert source.shape == (count, 24, 32) and source.classes == ("a", "b")
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(source.images([0, 1]), expected.expand(2, -1, -1, -1))
    assert source.crops([0], torch.full((1, 4), 0.5), 0.5).shape == (1, count, 24, 32)
    told = describe(tmp_path, channels=count)
    assert told.usable and f"--channels {count}" in told.command


def test_each_band_is_resized_as_a_grey_picture_is(tmp_path):
    pixels = bands(5, height=50, width=61)
    written(tmp_path / "a" / "x.npy", pixels)
    for band in range(5):
        save(Image.fromarray(pixels[..., band]), tmp_path / "grey" / str(band) / "x.png")
    source = FolderImages(tmp_path / "a", None, (20, 24), channels=5)
    grey = FolderImages(tmp_path / "grey", None, (20, 24), channels=1)
    assert torch.equal(source.images([0])[0], grey.images(range(5))[:, 0])


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("x.npy", bands(4), "has 4 bands where 5 are read: open all files with 4"),
        ("x.tif", bands(4), "has 4 bands where 5 are read"),
        ("x.npy", bands(1)[..., 0], "has 1 bands where 5 are read"),
        ("x.npy", np.zeros((5, 9, 5), np.uint8), r"shape \[5, 9, 5\], whose bands cannot be told"),
        ("x.npy", np.zeros(7), r"holds an array of shape \[7\]"),
        ("x.npy", bands(5) / 100.0, "has values from 0 to .*outside 0 to 1: rescale it"),
        ("x.npy", np.full((8, 8, 5), np.nan), "NaN"),
        ("x.npy", np.full((8, 8, 5), 1j), "holds complex128"),
        ("x.npy", np.array([[{}] * 8] * 8), "holds Python objects, which are not loaded"),
        ("x.npy", bands(5, height=6), "is 32×6 pixels, smaller than one mask unit"),
    ],
)
def test_bands_that_cannot_be_read_are_refused_by_name(tmp_path, name, values, message):
    written(tmp_path / "good" / "a.npy", bands(5))
    written(tmp_path / "odd" / name, values)
    source = FolderImages(tmp_path, None, (8, 8), channels=5, min_side=8)
    refused(f"{name} {message}" if "is " in message else message, lambda: source.images([0, 1]))
    told = describe(tmp_path, channels=5)
    assert not told.usable and len(told.problems) == 1


def test_a_picture_is_no_stack_of_bands_and_a_stack_no_picture(tmp_path):
    for name in ("ant", "bee"):
        save(picture(0), tmp_path / "set" / name / "x.png")
        written(tmp_path / "stacks" / name / "x.npy", bands(5))
    refused(
        r"has 3 bands \(RGB\) where 5 are read",
        lambda: FolderImages(tmp_path / "set", None, channels=5).images([0]),
    )
    refused(
        "has 5 bands where 1 or 3 are read",
        lambda: FolderImages(tmp_path / "stacks", None).images([0]),
    )


def test_arrays_of_one_or_three_bands_are_pictures(tmp_path):
    written(tmp_path / "a" / "x.npy", bands(3))
    written(tmp_path / "b" / "x.npy", bands(1)[..., 0])
    source = FolderImages(tmp_path, None, (24, 32))
    assert torch.equal(source.images([0])[0].permute(1, 2, 0), torch.from_numpy(bands(3)))
    assert torch.equal(source.images([1])[0, 2], torch.from_numpy(bands(1)[..., 0]))
    assert describe(tmp_path).formats == {"NPY": 2}


def test_arrays_beside_pictures_are_passed_over(tmp_path):
    root = fill(tmp_path)
    before = FolderImages(root).identity
    written(root / "train" / "ant" / "0.npy", bands(3))
    assert FolderImages(root).identity == before and describe(root).files == 12


@pytest.mark.parametrize("limit", [700])
def test_an_array_is_not_loaded_before_its_size_is_known(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for name in ("x.npy", "x.tif"):
        path = written(tmp_path / name[2:] / "a" / name, bands(5))
        source = FolderImages(path.parent.parent, None, 8, channels=5)
        refused(f"{name} has more than 700 pixels", lambda s=source: s.images([0]))


def test_without_tifffile_it_is_named(tmp_path, monkeypatch):
    written(tmp_path / "a" / "x.tif", bands(5))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    source = FolderImages(tmp_path, None, 8, channels=5)
    refused("x.tif is a TIFF that Pillow cannot read: pip install", lambda: source.images([0]))


def test_a_grid_of_tiffs_is_read_as_tifffile_says_or_refused(tmp_path):
    """Every width, sign, byte order, plane layout and meaning of bands: a second decoder's word."""
    base = bands(4)
    wrong = []
    for dtype in ("uint8", "int8", "uint16", "int16", "uint32", "float16", "float32", "float64"):
        kind = np.dtype(dtype)
        top = {"f": 1.0, "u": 255 if kind.itemsize == 1 else 65535}.get(kind.kind, 0)
        top = top or (127 if kind.itemsize == 1 else 32767)
        full = {1: 255, 2: 65535, 4: 65535}.get(kind.itemsize) if kind.kind != "f" else 1
        for count, photometric, extra in (
            (1, "minisblack", None), (1, "miniswhite", None), (3, "rgb", None),
            (4, "rgb", "unspecified"), (4, "rgb", "unassalpha"), (2, "minisblack", "unassalpha"),
            (2, "minisblack", "unspecified"),
        ):  # fmt: skip
            stored = base[..., :count] / 255 * top
            stored = stored.astype(kind) if kind.kind == "f" else np.rint(stored).astype(kind)
            shares = stored.astype(float) / full * 255
            colours = shares[..., : count if count in (1, 3) else count - 1]
            colours = 255 - colours if photometric == "miniswhite" else colours
            if extra == "unassalpha":
                alpha = shares[..., -1:] / 255
                colours = colours * alpha + 255 * (1 - alpha)
            expected = np.broadcast_to(colours, (*colours.shape[:2], 3))
            for planes, order in (("contig", "<"), ("separate", "<"), ("contig", ">")):
                data = stored if count > 1 else stored[..., 0]
                if planes == "separate":
                    if count == 1:
                        continue
                    data = np.moveaxis(stored, 2, 0)
                path = tmp_path / "set" / "one" / "x.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                named = {"extrasamples": extra} if extra else {}
                named |= {"planarconfig": planes} if count > 1 else {}
                tifffile.imwrite(
                    path, data, photometric=photometric, byteorder=order, metadata=None, **named
                )
                source = FolderImages(tmp_path / "set", None, (24, 32))
                found = source.images([0])[0].permute(1, 2, 0).numpy()
                if np.abs(found - expected).max() > 2:
                    wrong.append((dtype, count, photometric, extra, planes, order))
    assert not wrong


@pytest.mark.parametrize("name", ["zero.bmp", "zero.tga", "reserved.tga"])
def test_an_alpha_that_means_nothing_hides_nothing(tmp_path, name):
    pixels = np.dstack([bands(3), np.full((24, 32), 0 if "zero" in name else 90, np.uint8)])
    content = BytesIO()
    if name.endswith("bmp"):  # 32 bits with masks, as screens are saved
        head = b"BM" + (54 + 84 + pixels.size).to_bytes(4, "little") + bytes(4)
        head += (138).to_bytes(4, "little") + (124).to_bytes(4, "little")
        head += (32).to_bytes(4, "little") + (24).to_bytes(4, "little") + b"\1\0\x20\0"
        head += (3).to_bytes(4, "little") + bytes(20)
        masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        head += b"".join(mask.to_bytes(4, "little") for mask in masks)
        content.write(head.ljust(138, b"\0") + pixels[::-1, :, [2, 1, 0, 3]].tobytes())
    else:
        Image.fromarray(pixels).save(content, "TGA")
        if "reserved" in name:
            content.getbuffer()[17] &= 0xF0  # no bits of alpha
    for kind in ("ant", "bee"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"x{name[-4:]}").write_bytes(content.getvalue())
    found = FolderImages(tmp_path, None, (24, 32)).images([0])[0].permute(1, 2, 0)
    assert torch.equal(found, torch.from_numpy(bands(3)))
    assert any("alpha that means nothing" in note for note in describe(tmp_path).warnings)
