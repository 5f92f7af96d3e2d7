"""The files of an image folder: layouts, splits, decoding of unusual and damaged files, as
`FolderImages` shows them."""

import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from image_folders import (
    RAMP,
    beside,
    empty_class,
    fill,
    flat_val,
    loose,
    one_class,
    picture,
    save,
    single_images,
    too_deep,
)
from mae_lib.base.errors import InputError
from mae_lib.data.describe import describe
from mae_lib.data.encoded import FolderImages
from mae_lib.data.formats.decoding import Member, crop_box, decode


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "set")


def read_one(tmp_path, name: str, write, **options) -> torch.Tensor:
    """What FolderImages makes of one file among sound ones; `write(path)` makes the file."""
    root = fill(tmp_path / "one", splits=("train",), images=1)
    (root / "train" / "ant" / "0.png").unlink()
    write(root / "train" / "ant" / name)
    return FolderImages(root, "train", **options).images([0])[0]


# -- layouts ---------------------------------------------------------------------------------------


def test_validation_is_found_under_its_other_names_and_other_splits_by_their_own(tmp_path):
    root = fill(tmp_path, splits=("train", "validation", "test", "sketch"))
    for name in ("val", "validation", "test", "sketch"):
        assert len(FolderImages(root, name)) == 6
    with pytest.raises(InputError, match="no split 'rendition'"):
        FolderImages(root, "rendition")
    with pytest.raises(InputError, match="without a path"):
        FolderImages(root, "../train")


def test_class_numbers_are_those_of_train(folder):
    for image in (folder / "val" / "ant").iterdir():
        image.unlink()
    (folder / "val" / "ant").rmdir()
    val = FolderImages(folder, "val")
    assert val.classes == ("ant", "bee") and val.labels.tolist() == [1, 1, 1]


def test_a_class_that_train_lacks_is_named(folder):
    (folder / "val" / "bee").rename(folder / "val" / "wasp")
    with pytest.raises(InputError, match="'wasp'"):
        FolderImages(folder, "val").labels.sum()


def test_class_folders_alone_are_cut_nine_to_one(tmp_path):
    for name, images in (("ant", 20), ("bee", 2), ("cat", 31)):
        for i in range(images):
            save(picture(i, 8, 8), tmp_path / name / f"{i}.png")
    train, val, every = (FolderImages(tmp_path, split, 8) for split in ("train", "val", None))
    assert torch.bincount(train.labels).tolist() == [18, 1, 28] and torch.bincount(
        val.labels
    ).tolist() == [2, 1, 3]
    names = [{source.path(i) for i in range(len(source))} for source in (train, val, every)]
    assert names[0] | names[1] == names[2] and not names[0] & names[1]
    assert train.classes == val.classes == every.classes == ("ant", "bee", "cat")
    assert len({source.identity["fingerprint"] for source in (train, val, every)}) == 3
    again = FolderImages(tmp_path, "val", 8)
    assert [again.path(i) for i in range(len(again))] == [val.path(i) for i in range(len(val))]
    # By the hash of the name, hence neither the first nor the last of a class.
    cats = sorted(path for path in names[2] if path.parent.name == "cat")
    held_out = sorted(path for path in names[1] if path.parent.name == "cat")
    assert held_out not in (cats[:3], cats[-3:])


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "car", "train"):
        for i in range(2):
            save(picture(i, 8, 8), tmp_path / name / f"{i}.png")
    assert FolderImages(tmp_path, "train", 8).classes == ("bus", "car", "train")


def test_nested_linked_hidden_and_oddly_named_files(tmp_path):
    root = tmp_path / "set"
    store = save(picture(1), tmp_path / "store" / "x.png")
    save(picture(2), root / "ähre 麦" / "deep" / "er" / "naïve.PNG")
    save(picture(3), root / "ähre 麦" / "b.JpEg")
    (root / "bee").mkdir()
    (root / "bee" / "linked.png").symlink_to(store)
    (root / "bee" / "round").symlink_to(root)  # a loop back to the top
    (root / "wasp").symlink_to(store.parent)
    for litter in (
        root / "bee" / "._x.png",
        root / ".cache" / "x.png",
        root / "__MACOSX" / "x.png",
        root / "bee" / "notes.txt",
    ):
        litter.parent.mkdir(exist_ok=True)
        litter.write_text("litter")
    source = FolderImages(root, None)
    assert source.classes == ("bee", "wasp", "ähre 麦")
    found = [source.path(i).relative_to(root).as_posix() for i in range(len(source))]
    assert {"bee/linked.png", "wasp/x.png", "ähre 麦/b.JpEg", "ähre 麦/deep/er/naïve.PNG"} <= set(
        found
    )
    assert not any("litter" in name or "._" in name or ".txt" in name for name in found)
    assert source.images(range(len(source))).shape[0] == len(source)
    assert describe(root).problem_count == 0


def test_names_that_are_not_utf8_can_be_read_and_reported(tmp_path):
    root = fill(tmp_path, splits=("train",))
    name = os.fsdecode(b"\xff\xfe.png")
    (root / "train" / "ant" / name).write_text("no image")
    source = FolderImages(root, "train")
    assert source.identity["fingerprint"]
    with pytest.raises(InputError) as caught:
        source.images(range(len(source)))
    str(caught.value).encode()
    str(describe(root)).encode()


@pytest.mark.parametrize(
    "make, split, message",
    [
        (lambda root: None, "train", "holds no images: point at"),
        (
            lambda root: fill(root, splits=("train",)),
            "val",
            "no split 'val' \\(it holds train\\): make .*, of which a tenth",
        ),
        (
            lambda root: fill(root, splits=("val",)),
            "train",
            "no split 'train' \\(it holds val\\): make ",
        ),
        (too_deep, "train", "point at .*archive, which has the splits"),
        (single_images, "val", "too few images"),
    ],
)
def test_folders_that_cannot_be_used_say_why(tmp_path, make, split, message):
    root = tmp_path / "set"
    root.mkdir()
    make(root)
    with pytest.raises(InputError, match=message) as caught:
        FolderImages(root, split)
    assert str(root) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make, split, message",
    [
        (one_class, "train", "one class only \\('ant'\\): point at"),
        (empty_class, "train", "cat is a class folder without images: delete it"),
        (loose, "train", "one class of a data set, point at its parent"),
        (loose, None, "one class of a data set, point at its parent"),
        (flat_val, "val", "no class folders: sort them into <class>/ folders"),
        (beside, "train", "images beside its folders, the first 'a.png': sort them"),
    ],
)
def test_labels_are_missed_by_who_needs_them_alone(tmp_path, make, split, message):
    root = tmp_path / "set"
    root.mkdir()
    make(root)
    source = FolderImages(root, split, 8)
    assert source.images(range(len(source))).shape[0] == len(source) >= 1
    assert source.classes == () and source.identity["classes"] == 0
    with pytest.raises(InputError, match=message) as caught:
        len(source.labels)
    assert str(root) in str(caught.value) and "\n" not in str(caught.value)


def test_a_path_that_is_no_folder(tmp_path):
    file = save(picture(0), tmp_path / "a.png")
    for use in (FolderImages, describe):
        with pytest.raises(InputError, match="no such folder"):
            use(tmp_path / "absent")
        with pytest.raises(InputError, match="is a file: point at"):
            use(file)


# -- decoding --------------------------------------------------------------------------------------


def test_the_picture_covers_the_size_and_is_cropped_about_its_centre(tmp_path):
    wide = np.zeros((40, 100, 3), dtype=np.uint8)
    wide[:, :30, 0], wide[:, 30:70, 1], wide[:, 70:, 2] = 255, 255, 255
    image = read_one(
        tmp_path, "wide.png", lambda path: save(Image.fromarray(wide), path), image_size=20
    )
    assert (image[1, :, 1:-1] > 240).all() and image[0].max() < 140 and image[2].max() < 140
    assert torch.equal(image[0], image[2].flip(-1))  # the crop is in the middle
    tall = read_one(
        tmp_path / "t",
        "t.png",
        lambda path: save(Image.fromarray(wide.transpose(1, 0, 2)), path),
        image_size=20,
    )
    assert torch.equal(tall, image.transpose(1, 2))
    strip = read_one(
        tmp_path / "b",
        "wide.png",
        lambda path: save(Image.fromarray(wide), path),
        image_size=(10, 25),
    )
    assert strip.shape == (3, 10, 25) and strip[0, :, 0].min() > 240 and strip[2, :, -1].min() > 240


def test_shrinking_is_antialiased(tmp_path):
    chequers = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    for name in ("c.png", "c.jpg"):
        image = read_one(
            tmp_path / name, name, lambda path: save(Image.fromarray(chequers), path), image_size=32
        )
        assert (image.int() - 127).abs().max() <= 3


def test_a_shrunk_jpeg_is_near_the_plain_way(tmp_path):
    smooth = picture(5, 700, 500)
    image = read_one(tmp_path, "a.jpg", lambda path: save(smooth, path, quality=95), image_size=50)
    plain = np.asarray(smooth.resize((70, 50), Image.Resampling.BICUBIC))[:, 10:60]
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - plain).mean() < 2


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(tmp_path, orientation, suffix):
    upright = np.full((32, 32, 3), 30, dtype=np.uint8)
    upright[:16, :16], upright[:16, 16:] = (220, 30, 30), (30, 220, 30)
    inverse = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(inverse[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_one(
        tmp_path,
        f"a.{suffix}",
        lambda path: save(stored, path, exif=exif, quality=95),
        image_size=32,
    )
    assert (image.permute(1, 2, 0).int() - torch.from_numpy(upright).int()).abs().float().mean() < 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_does_not_matter(tmp_path):
    image = read_one(
        tmp_path,
        "a.jpg",
        lambda path: save(picture(1), path, quality=95, exif=b"Exif\0\0MM\0*\0\0\xff\xff\0\1"),
    )
    assert image.shape == (3, 64, 64)


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    wide = RAMP.astype(np.uint16) * 257
    wide[0, :3] = [65535, 32768, 128]
    expected = RAMP.copy()
    expected[0, :3] = [255, 128, 0]
    for name in ("a.png", "a.tif"):
        image = read_one(tmp_path / name, name, lambda path: save(Image.fromarray(wide), path))
        assert torch.equal(image, torch.from_numpy(expected).expand(3, 64, 64))


def test_float_tiff_in_zero_to_one_is_scaled(tmp_path):
    image = read_one(
        tmp_path, "a.tif", lambda path: save(Image.fromarray(RAMP.astype(np.float32) / 255), path)
    )
    assert torch.equal(image[0], torch.from_numpy(RAMP))


@pytest.mark.parametrize(
    "value, message",
    [
        (np.nan, "NaN or infinite"),
        (np.inf, "NaN or infinite"),
        (213.0, "from 0 to 213, outside 0 to 1: rescale"),
        (-0.5, "outside"),
    ],
)
def test_floats_that_cannot_be_shown_are_refused(tmp_path, value, message):
    values = np.zeros((32, 32), dtype=np.float32)
    values[3, 4] = value
    with pytest.raises(InputError, match=f"a.tif has .*{message}"):
        read_one(tmp_path, "a.tif", lambda path: save(Image.fromarray(values), path))


def test_32_bit_integers_beyond_16_bits_are_refused(tmp_path):
    with pytest.raises(InputError, match="a.tif has values from 0 to 70000"):
        read_one(
            tmp_path,
            "a.tif",
            lambda path: save(Image.fromarray(np.array([[0, 70000]] * 2, dtype=np.int32)), path),
        )


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.zeros((64, 64, 4), dtype=np.uint8)
    rgba[:32] = (200, 0, 0, 255)
    rgba[32:] = (0, 0, 0, 0)
    painted = Image.fromarray(rgba)
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.paste(0, (0, 32, 64, 64))
    grey = Image.fromarray(np.where(rgba[..., 0] > 0, 90, 7).astype(np.uint8))
    for name, image, options, top in (
        ("a.png", painted, {}, [200, 0, 0]),
        ("a.webp", painted, {"lossless": True}, [200, 0, 0]),
        ("p.png", palette, {"transparency": 0}, [200, 0, 0]),
        ("p.gif", palette, {"transparency": 0}, [200, 0, 0]),
        ("l.png", grey, {"transparency": 7}, [90, 90, 90]),
    ):
        pixels = read_one(tmp_path / name, name, lambda path: save(image, path, **options))
        assert pixels[:, 5, 5].tolist() == top and pixels[:, 60, 5].tolist() == [
            255,
            255,
            255,
        ], name


def test_grey_palette_and_black_and_white_become_colour_and_back(tmp_path):
    grey = Image.fromarray(RAMP)
    for name, image in (
        ("l.png", grey),
        ("p.png", grey.convert("P")),
        ("one.png", grey.convert("1")),
        ("l.jpg", grey),
    ):
        pixels = read_one(tmp_path / name, name, lambda path: save(image, path))
        assert (
            torch.equal(pixels[0], pixels[1])
            and torch.equal(pixels[1], pixels[2])
            and pixels.max() == 255
        )
    for name in ("c.png", "c.jpg"):
        pixels = read_one(tmp_path / name, name, lambda path: save(picture(3), path), channels=1)
        assert pixels.shape == (1, 64, 64)
        assert (
            np.abs(pixels[0].numpy().astype(int) - np.asarray(picture(3).convert("L"))).mean() < 2
        )


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    colours = np.zeros((64, 64, 3), dtype=np.uint8)
    colours[:32, :, 0], colours[32:, :, 2] = 220, 220
    pixels = read_one(
        tmp_path,
        "a.jpg",
        lambda path: save(Image.fromarray(colours).convert("CMYK"), path, quality=95),
    )
    assert (
        pixels.permute(1, 2, 0).int() - torch.from_numpy(colours).int()
    ).abs().float().mean() < 4


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, suffix):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    pixels = read_one(
        tmp_path,
        f"a.{suffix}",
        lambda path: save(frames[0], path, save_all=True, append_images=frames[1:], lossless=True),
    )
    assert pixels[:, 10, 10].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "ppm", "gif"])
@pytest.mark.parametrize("left", [0.0, 0.01, 0.5, 0.9, 0.99])
@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_truncated_files_of_every_format_are_named(tmp_path, suffix, left):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))

    def write(path):
        whole = save(noise, path).read_bytes()
        path.write_bytes(whole[: int(len(whole) * left)])

    with pytest.raises(
        InputError, match=f"ant/a.{suffix} .*: delete or replace this file"
    ) as caught:
        read_one(tmp_path, f"a.{suffix}", write)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"\x89PNG\r\n\x1a\n" + b"x" * 100,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
)
def test_what_is_no_image_is_named(tmp_path, content):
    with pytest.raises(InputError, match="ant/a.png .*: delete or replace this file"):
        read_one(tmp_path, "a.png", lambda path: path.write_bytes(content))


def test_only_the_formats_promised_are_decoded(tmp_path):
    with pytest.raises(InputError, match="a.png is not an image that can be read"):
        read_one(tmp_path, "a.png", lambda path: save(picture(0), path, format="ICO"))


def test_a_broken_link_is_named_and_not_to_be_replaced_blindly(folder):
    (folder / "train" / "ant" / "9.png").symlink_to(folder / "gone.png")
    source = FolderImages(folder, "train")
    for use in (lambda: source.images([3]), lambda: source.identity):
        with pytest.raises(InputError, match="9.png cannot be opened"):
            use()
    assert "9.png" in describe(folder).problems[0]


def test_an_image_smaller_than_the_mask_unit_is_refused(tmp_path):
    write = lambda path: save(picture(0, 40, 12), path)
    assert read_one(tmp_path / "a", "a.png", write, min_side=12).shape == (3, 64, 64)
    with pytest.raises(
        InputError, match="a.png is 40×12 pixels, smaller than one mask unit \\(16\\)"
    ):
        read_one(tmp_path / "b", "a.png", write, min_side=16)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    for name, limit in (("a", 4000), ("b", 1000)):  # Pillow itself only warns of the first
        with (
            monkeypatch.context() as patch,
            pytest.raises(InputError, match=f"a.png has more than {limit} pixels"),
        ):
            patch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            read_one(tmp_path / name, "a.png", lambda path: save(picture(0), path))


# -- bytes instead of a file -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "gif"])
def test_bytes_give_what_the_file_gives(tmp_path, suffix):
    path = save(picture(4, 90, 70), tmp_path / f"a.{suffix}")
    member = Member("s.tar!a", path.read_bytes())
    assert np.array_equal(decode(member, (3, 32, 32), 1), decode(path, (3, 32, 32), 1))


@pytest.mark.parametrize(
    "content, what",
    [
        (b"", "is empty"),
        (b"hello", "is not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 100, "is damaged or truncated"),
    ],
)
def test_bytes_that_are_no_image_are_named_and_nobody_is_told_to_delete_a_file(content, what):
    with pytest.raises(InputError, match=f"s.tar!a ({what}).*pack the shards again") as caught:
        decode(Member("s.tar!a", content), (3, 8, 8), 1)
    assert "delete" not in str(caught.value)


# -- random resized crops --------------------------------------------------------------------------

unit = st.floats(0, 1, exclude_max=True)


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.tuples(unit, unit, unit, unit),
    st.floats(0.01, 1),
)
def test_a_crop_lies_in_the_picture_and_has_the_area_and_aspect_drawn(
    width, height, draws, smallest
):
    left, top, right, bottom = crop_box(width, height, draws, smallest)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    across, down, share = right - left, bottom - top, smallest + (1 - smallest) * draws[0]
    if across < width - 1e-6 and down < height - 1e-6:
        assert across * down / (width * height) == pytest.approx(share, rel=1e-6)
        assert math.log(across / down) == pytest.approx(
            math.log(3 / 4) + math.log(16 / 9) * draws[1], abs=1e-6
        )
        assert left == pytest.approx(
            draws[2] * (width - across), abs=1e-6
        ) and top == pytest.approx(draws[3] * (height - down), abs=1e-6)
    else:  # a side as long as the picture's; the other as drawn or as long too
        assert across * down <= share * width * height * (1 + 1e-6)


@pytest.mark.parametrize("width, height", [(500, 375), (375, 500), (640, 427)])
def test_crops_that_fit_have_torchvision_s_law(width, height):
    """torchvision draws again where a side would be too long; of the rest it draws from the same
    law, to whole pixels."""
    count, smallest, scale = 3000, 0.2, 8
    # so large that a whole pixel is next to nothing
    image = torch.empty(3, height * scale, width * scale)
    torch.manual_seed(0)
    theirs = (
        np.array(
            [
                RandomResizedCrop.get_params(image, [smallest, 1.0], [3 / 4, 4 / 3])
                for _ in range(count)
            ]
        )
        / scale
    )
    boxes = np.array(
        [
            crop_box(width, height, draws, smallest)
            for draws in np.random.default_rng(1).random((4 * count, 4))
        ]
    )
    ours = np.stack(
        [boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1
    )
    ours = ours[(ours[:, 2] < height - 1e-6) & (ours[:, 3] < width - 1e-6)]
    assert len(ours) > count
    for k, name in enumerate(("top", "left", "height", "width")):
        assert ks_2samp(ours[:, k], theirs[:, k]).pvalue > 1e-3, name


def plain_crop(path, draws, smallest: float, height: int, width: int) -> np.ndarray:
    """The crop made the long way: the whole file, upright, in colour; its part; resized."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    box = crop_box(*picture.size, draws, smallest)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box)).transpose(
        2, 0, 1
    )


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_crops_are_the_file_s_part_resized_once(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("ant", "bee"):
        for i in range(3):
            save(
                picture(i, 301, 173),
                tmp_path / name / f"{i}.{suffix}",
                exif=exif,
                **({"quality": 95} if suffix == "jpg" else {}),
            )
    # a JPEG is halved only where twice the size is left: nowhere here
    source = FolderImages(tmp_path, None, 100)
    draws = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = source.crops(range(6), draws, 0.3)
    assert made.dtype == torch.uint8 and made.shape == (6, 3, 100, 100)
    for i in range(6):
        assert np.array_equal(
            made[i].numpy(), plain_crop(source.path(i), draws[i].tolist(), 0.3, 100, 100)
        ), i
    # By one thread or many, one by one or together: the same.
    assert torch.equal(
        made, FolderImages(tmp_path, None, 100, workers=1).crops(range(6), draws, 0.3)
    )
    assert torch.equal(made[[4, 1]], source.crops([4, 1], draws[[4, 1]], 0.3))


@pytest.mark.parametrize("orientation, height, width", [(1, 60, 60), (6, 60, 60), (6, 20, 80)])
def test_crops_of_jpegs_are_halved_while_twice_the_size_is_left_and_near_the_plain_way(
    tmp_path, orientation, height, width, monkeypatch
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("ant", "bee"):
        for i in range(8):
            save(picture(i, 1003, 601), tmp_path / name / f"{i}.jpg", exif=exif, quality=95)
    scales, draft = [], JpegImageFile.draft

    def noted(image, mode, size):
        before = image.size
        draft(image, mode, size)
        scales.append(round(before[0] / image.size[0]))

    monkeypatch.setattr(JpegImageFile, "draft", noted)
    source, smallest = FolderImages(tmp_path, None, (height, width), workers=1), 0.02
    draws = torch.rand(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draws[0, 0] = 0  # the smallest crop there may be
    made = source.crops(range(16), draws, smallest)
    for i, scale in enumerate(scales):
        left, top, right, bottom = crop_box(
            *((601, 1003) if orientation == 6 else (1003, 601)), draws[i].tolist(), smallest
        )
        spare = min((right - left) / width, (bottom - top) / height) / 2
        assert scale == max(s for s in (1, 2, 4, 8) if s == 1 or s <= spare)
        assert (
            np.abs(
                made[i].numpy().astype(int)
                - plain_crop(source.path(i), draws[i].tolist(), smallest, height, width)
            ).mean()
            < 1.5
        ), i
    assert set(scales) >= {1, 2}


def test_a_crop_of_everything_is_the_whole_picture_without_its_border(tmp_path):
    framed = Image.new("RGB", (70, 40), (255, 0, 0))
    framed.paste(picture(1, 66, 36), (2, 2))
    for name in ("ant", "bee"):
        save(framed, tmp_path / name / "0.png")
    source = FolderImages(tmp_path, None, 33, border=2)
    left_half = lambda width, height: (0.0, 0.0, width / 2, float(height))
    inside = picture(1, 66, 36)
    expected = np.asarray(
        inside.resize((33, 33), Image.Resampling.BICUBIC, box=(0, 0, 33, 36))
    ).transpose(2, 0, 1)
    assert np.array_equal(decode(source.path(0), source.shape, 1, 2, left_half), expected)
    drawn = torch.tensor([[0.5, 0.5, 0.999, 0.999]], dtype=torch.float64)
    box = crop_box(66, 36, drawn[0].tolist(), 0.5)
    expected = np.asarray(inside.resize((33, 33), Image.Resampling.BICUBIC, box=box)).transpose(
        2, 0, 1
    )
    assert np.array_equal(source.crops([0], drawn, 0.5)[0].numpy(), expected)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_crops_refuse_what_whole_images_refuse(tmp_path):
    root = fill(tmp_path, splits=("train",))
    (root / "train" / "ant" / "1.png").write_bytes(
        (root / "train" / "ant" / "0.png").read_bytes()[:400]
    )
    save(picture(0, 40, 12), root / "train" / "bee" / "0.png")
    source, draws = (
        FolderImages(root, "train", 16, min_side=16),
        torch.full((1, 4), 0.5, dtype=torch.float64),
    )
    for index, message in (
        (1, "ant/1.png .*delete or replace"),
        (3, "bee/0.png is 40×12 pixels, smaller than one mask unit"),
    ):
        with pytest.raises(InputError, match=message):
            source.crops([index], draws, 0.2)
