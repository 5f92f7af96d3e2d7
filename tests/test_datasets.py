"""Image folders: layouts, splits, decoding of unusual and damaged files, sources in memory, descriptions."""

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae_lib.datasets import Description, FolderImages, ImageSource, Resident, describe, nbytes
from mae_lib.errors import InputError

RAMP = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64)


def picture(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """Smooth colours, unlike for unlike seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def fill(root: Path, splits=("train", "val"), classes=("ant", "bee"), images: int = 3) -> Path:
    """DIR/<split>/<class>/<n>.png"""
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            for i in range(images):
                save(picture(100 * s + 10 * c + i), root / split / name / f"{i}.png")
    return root


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "set")


def read_one(tmp_path, name: str, write, **options) -> torch.Tensor:
    """What FolderImages makes of one file among sound ones; `write(path)` makes the file."""
    root = fill(tmp_path / "one", splits=("train",), images=1)
    (root / "train" / "ant" / "0.png").unlink()
    write(root / "train" / "ant" / name)
    return FolderImages(root, "train", **options).images([0])[0]


# -- the source ----------------------------------------------------------------------------------------------------------


def test_it_is_an_image_source_of_uint8_images_and_sorted_labels(folder):
    source = FolderImages(folder, "train", image_size=(16, 24))
    assert isinstance(source, ImageSource) and isinstance(Resident(source), ImageSource)
    assert len(source) == 6 and source.shape == (3, 16, 24) and source.classes == ("ant", "bee")
    assert source.labels.dtype == torch.int64 and source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    images = source.images(torch.tensor([5, 0, 5]))
    assert images.dtype == torch.uint8 and images.shape == (3, 3, 16, 24)
    assert torch.equal(images[0], images[2]) and not torch.equal(images[0], images[1])
    assert nbytes(source) == 6 * 3 * 16 * 24
    assert source.images([]).shape == (0, 3, 16, 24)


def test_pixels_are_those_of_the_file_when_it_has_the_size(folder):
    images = FolderImages(folder, "train").images(range(6))
    for index, name in enumerate(["ant/0", "ant/1", "ant/2", "bee/0", "bee/1", "bee/2"]):
        expected = np.asarray(Image.open(folder / "train" / f"{name}.png")).transpose(2, 0, 1)
        assert np.array_equal(images[index].numpy(), expected)


def test_the_same_index_gives_the_same_image_however_asked(folder):
    one, many = FolderImages(folder, "train", 32, workers=1), FolderImages(folder, "train", 32, workers=4)
    whole = one.images(range(6))
    assert torch.equal(whole, many.images(np.arange(6)))
    assert torch.equal(whole, torch.cat([many.images([i]) for i in range(6)]))
    assert torch.equal(whole, pickle.loads(pickle.dumps(many)).images(range(6)))


def test_many_threads_may_read_at_once(folder):
    source = FolderImages(folder, "train", 32, workers=2)
    whole = source.images(range(6))
    orders = [torch.randperm(6, generator=torch.Generator().manual_seed(seed)) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for order, images in zip(orders, pool.map(source.images, orders)):
            assert torch.equal(images, whole[order])


@pytest.mark.parametrize("bad, error", [([6], IndexError), ([-1], IndexError), ([0.5], TypeError), ([True], TypeError), ([[0]], TypeError)])
def test_indices_are_checked(folder, bad, error):
    source = FolderImages(folder, "train")
    for each in (source, Resident(source)):
        with pytest.raises(error):
            each.images(bad)


@pytest.mark.parametrize("options", [{"image_size": 0}, {"image_size": (8, -1)}, {"channels": 4}])
def test_senseless_sizes_are_refused(folder, options):
    with pytest.raises(InputError, match="size|channels"):
        FolderImages(folder, "train", **options)


def test_resident_equals_its_source(folder, capfd):
    source = FolderImages(folder, "train", (20, 12), channels=1)
    for threads in (1, 3):
        resident = Resident(source, threads=threads)
        assert resident.shape == source.shape and len(resident) == len(source)
        assert resident.classes == source.classes and resident.identity == source.identity
        assert torch.equal(resident.labels, source.labels)
        for order in ([3, 3, 0], range(6), torch.tensor([5])):
            assert torch.equal(resident.images(order), source.images(order))
    assert capfd.readouterr().err == ""
    Resident(source, progress=True)
    assert "reading" in capfd.readouterr().err


def test_resident_reads_every_batch_in_its_place(folder, monkeypatch):
    monkeypatch.setattr(Resident, "_BATCH", 2)
    source = FolderImages(folder, "train")
    assert torch.equal(Resident(source, threads=3).images(range(6)), source.images(range(6)))


def test_resident_names_the_bad_file(folder):
    (folder / "train" / "bee" / "1.png").write_text("no image")
    with pytest.raises(InputError, match="bee/1.png"):
        Resident(FolderImages(folder, "train"))


# -- identity ------------------------------------------------------------------------------------------------------------


def test_identity_names_the_data_and_not_the_machine(folder, tmp_path):
    identity = FolderImages(folder, "train").identity
    assert json.loads(json.dumps(identity)) == identity and str(tmp_path) not in json.dumps(identity)
    copy = tmp_path / "elsewhere"
    folder.rename(copy)
    assert FolderImages(copy, "train").identity == identity


def test_identity_changes_with_the_data_and_how_it_is_read(folder):
    before = FolderImages(folder, "train").identity
    others = [FolderImages(folder, *args) for args in (("val",), ("train", 32), ("train", 64, 1))]
    assert all(other.identity != before for other in others)
    save(picture(9), folder / "train" / "ant" / "new.png")
    added = FolderImages(folder, "train").identity["fingerprint"]
    (folder / "train" / "ant" / "new.png").rename(folder / "train" / "ant" / "renamed.png")
    renamed = FolderImages(folder, "train").identity["fingerprint"]
    with open(folder / "train" / "ant" / "renamed.png", "ab") as file:
        file.write(b"\0")
    grown = FolderImages(folder, "train").identity["fingerprint"]
    assert len({before["fingerprint"], added, renamed, grown}) == 4


# -- layouts -------------------------------------------------------------------------------------------------------------


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
        FolderImages(folder, "val")


def test_class_folders_alone_are_cut_nine_to_one(tmp_path):
    for name, images in (("ant", 20), ("bee", 2), ("cat", 31)):
        for i in range(images):
            save(picture(i, 8, 8), tmp_path / name / f"{i}.png")
    train, val, every = (FolderImages(tmp_path, split, 8) for split in ("train", "val", None))
    assert torch.bincount(train.labels).tolist() == [18, 1, 28] and torch.bincount(val.labels).tolist() == [2, 1, 3]
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
    for litter in (root / "bee" / "._x.png", root / ".cache" / "x.png", root / "__MACOSX" / "x.png", root / "bee" / "notes.txt"):
        litter.parent.mkdir(exist_ok=True)
        litter.write_text("litter")
    source = FolderImages(root, None)
    assert source.classes == ("bee", "wasp", "ähre 麦")
    found = [source.path(i).relative_to(root).as_posix() for i in range(len(source))]
    assert {"bee/linked.png", "wasp/x.png", "ähre 麦/b.JpEg", "ähre 麦/deep/er/naïve.PNG"} <= set(found)
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


def one_class(root):
    fill(root, splits=("train",), classes=("ant",))


def empty_class(root):
    fill(root)
    (root / "train" / "cat").mkdir()


def loose(root):
    save(picture(0), root / "a.png")


def flat_val(root):
    fill(root, splits=("train",))
    save(picture(0), root / "val" / "a.png")


def too_deep(root):
    fill(root / "archive")


def single_images(root):
    fill(root, splits=(".",), images=1)


@pytest.mark.parametrize(
    "make, split, message",
    [
        (lambda root: None, "train", "holds no images: point at"),
        (one_class, "train", "one class only \\('ant'\\): point at"),
        (empty_class, "train", "cat is a class folder without images: delete it"),
        (loose, "train", "one class of a data set; point at its parent"),
        (loose, None, "one class of a data set; point at its parent"),
        (flat_val, "val", "no class folders: sort them into <class>/ folders"),
        (lambda root: fill(root, splits=("train",)), "val", "no split 'val' \\(it holds train\\): make .*, of which a tenth"),
        (lambda root: fill(root, splits=("val",)), "train", "no split 'train' \\(it holds val\\): make "),
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


def test_a_path_that_is_no_folder(tmp_path):
    file = save(picture(0), tmp_path / "a.png")
    for use in (FolderImages, describe):
        with pytest.raises(InputError, match="no such folder"):
            use(tmp_path / "absent")
        with pytest.raises(InputError, match="is a file: point at"):
            use(file)


# -- decoding ------------------------------------------------------------------------------------------------------------


def test_the_picture_covers_the_size_and_is_cropped_about_its_centre(tmp_path):
    wide = np.zeros((40, 100, 3), dtype=np.uint8)
    wide[:, :30, 0], wide[:, 30:70, 1], wide[:, 70:, 2] = 255, 255, 255
    image = read_one(tmp_path, "wide.png", lambda path: save(Image.fromarray(wide), path), image_size=20)
    assert (image[1, :, 1:-1] > 240).all() and image[0].max() < 140 and image[2].max() < 140
    assert torch.equal(image[0], image[2].flip(-1))  # the crop is in the middle
    tall = read_one(tmp_path / "t", "t.png", lambda path: save(Image.fromarray(wide.transpose(1, 0, 2)), path), image_size=20)
    assert torch.equal(tall, image.transpose(1, 2))
    strip = read_one(tmp_path / "b", "wide.png", lambda path: save(Image.fromarray(wide), path), image_size=(10, 25))
    assert strip.shape == (3, 10, 25) and strip[0, :, 0].min() > 240 and strip[2, :, -1].min() > 240


def test_shrinking_is_antialiased(tmp_path):
    chequers = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    for name in ("c.png", "c.jpg"):
        image = read_one(tmp_path / name, name, lambda path: save(Image.fromarray(chequers), path), image_size=32)
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
    inverse = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
               6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1)}
    stored = Image.fromarray(np.ascontiguousarray(inverse[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_one(tmp_path, f"a.{suffix}", lambda path: save(stored, path, exif=exif, quality=95), image_size=32)
    assert (image.permute(1, 2, 0).int() - torch.from_numpy(upright).int()).abs().float().mean() < 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_does_not_matter(tmp_path):
    image = read_one(tmp_path, "a.jpg", lambda path: save(picture(1), path, quality=95, exif=b"Exif\0\0MM\0*\0\0\xff\xff\0\1"))
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
    image = read_one(tmp_path, "a.tif", lambda path: save(Image.fromarray(RAMP.astype(np.float32) / 255), path))
    assert torch.equal(image[0], torch.from_numpy(RAMP))


@pytest.mark.parametrize(
    "value, message", [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (213.0, "from 0 to 213, outside 0 to 1: rescale"), (-0.5, "outside")]
)
def test_floats_that_cannot_be_shown_are_refused(tmp_path, value, message):
    values = np.zeros((32, 32), dtype=np.float32)
    values[3, 4] = value
    with pytest.raises(InputError, match=f"a.tif has .*{message}"):
        read_one(tmp_path, "a.tif", lambda path: save(Image.fromarray(values), path))


def test_32_bit_integers_beyond_16_bits_are_refused(tmp_path):
    with pytest.raises(InputError, match="a.tif has values from 0 to 70000"):
        read_one(tmp_path, "a.tif", lambda path: save(Image.fromarray(np.array([[0, 70000]] * 2, dtype=np.int32)), path))


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
        assert pixels[:, 5, 5].tolist() == top and pixels[:, 60, 5].tolist() == [255, 255, 255], name


def test_grey_palette_and_black_and_white_become_colour_and_back(tmp_path):
    grey = Image.fromarray(RAMP)
    for name, image in (("l.png", grey), ("p.png", grey.convert("P")), ("one.png", grey.convert("1")), ("l.jpg", grey)):
        pixels = read_one(tmp_path / name, name, lambda path: save(image, path))
        assert torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[1], pixels[2]) and pixels.max() == 255
    for name in ("c.png", "c.jpg"):
        pixels = read_one(tmp_path / name, name, lambda path: save(picture(3), path), channels=1)
        assert pixels.shape == (1, 64, 64)
        assert np.abs(pixels[0].numpy().astype(int) - np.asarray(picture(3).convert("L"))).mean() < 2


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    colours = np.zeros((64, 64, 3), dtype=np.uint8)
    colours[:32, :, 0], colours[32:, :, 2] = 220, 220
    pixels = read_one(tmp_path, "a.jpg", lambda path: save(Image.fromarray(colours).convert("CMYK"), path, quality=95))
    assert (pixels.permute(1, 2, 0).int() - torch.from_numpy(colours).int()).abs().float().mean() < 4


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, suffix):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    pixels = read_one(tmp_path, f"a.{suffix}", lambda path: save(frames[0], path, save_all=True, append_images=frames[1:], lossless=True))
    assert pixels[:, 10, 10].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "ppm", "gif"])
@pytest.mark.parametrize("left", [0.0, 0.01, 0.5, 0.9, 0.99])
@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_truncated_files_of_every_format_are_named(tmp_path, suffix, left):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))

    def write(path):
        whole = save(noise, path).read_bytes()
        path.write_bytes(whole[: int(len(whole) * left)])

    with pytest.raises(InputError, match=f"ant/a.{suffix} .*: delete or replace this file") as caught:
        read_one(tmp_path, f"a.{suffix}", write)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"hello", b"\x89PNG\r\n\x1a\n" + b"x" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_image_is_named(tmp_path, content):
    with pytest.raises(InputError, match="ant/a.png .*: delete or replace this file"):
        read_one(tmp_path, "a.png", lambda path: path.write_bytes(content))


def test_only_the_formats_promised_are_decoded(tmp_path):
    with pytest.raises(InputError, match="a.png is not an image that can be read"):
        read_one(tmp_path, "a.png", lambda path: save(picture(0), path, format="PCX"))


def test_a_broken_link_is_named_and_not_to_be_replaced_blindly(folder):
    (folder / "train" / "ant" / "9.png").symlink_to(folder / "gone.png")
    source = FolderImages(folder, "train")
    for use in (lambda: source.images([3]), lambda: source.identity):
        with pytest.raises(InputError, match="9.png cannot be opened"):
            use()
    assert "9.png" in describe(folder).problems[0]


def test_an_image_smaller_than_the_mask_unit_is_refused(tmp_path):
    write = lambda path: save(picture(0, 40, 12), path)  # noqa: E731
    assert read_one(tmp_path / "a", "a.png", write, min_side=12).shape == (3, 64, 64)
    with pytest.raises(InputError, match="a.png is 40×12 pixels, smaller than one mask unit \\(16\\)"):
        read_one(tmp_path / "b", "a.png", write, min_side=16)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    for name, limit in (("a", 4000), ("b", 1000)):  # Pillow itself only warns of the first
        with monkeypatch.context() as patch, pytest.raises(InputError, match=f"a.png has more than {limit} pixels"):
            patch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            read_one(tmp_path / name, "a.png", lambda path: save(picture(0), path))


def test_the_first_bad_file_in_order_is_the_one_named(folder):
    for name in ("ant/1", "bee/0", "bee/2"):
        (folder / "train" / f"{name}.png").write_text("no image")
    for _ in range(5):
        with pytest.raises(InputError, match="ant/1.png"):
            FolderImages(folder, "train", workers=4).images(range(6))


# -- describing ----------------------------------------------------------------------------------------------------------


def test_a_good_folder_is_usable_and_gets_its_command(folder):
    save(picture(1, 300, 200), folder / "train" / "ant" / "big.jpg")
    told = describe(folder)
    assert told.usable and told.reason == "" and told.problem_count == 0 and told.problems == ()
    assert told.command == f"mae pretrain --data {folder}"
    assert told.files == told.checked == 13 and told.classes == ("ant", "bee")
    assert told.splits["train"].images == 7 and told.splits["val"].images == 6
    assert (told.splits["train"].fewest, told.splits["train"].median, told.splits["train"].most) == (3, 3.5, 4)
    assert told.formats == {"PNG": 12, "JPEG": 1} and told.modes == {"RGB": 13}
    assert told.smallest == (64, 64) and told.largest == (300, 200) and told.shortest_side == 64
    assert json.loads(json.dumps(told.to_dict()))["splits"]["val"]["images"] == 6
    text = str(told)
    assert all(part in text for part in (str(folder), "7 images in 2 classes", "64×64 to 300×200", "usable", told.command))
    with pytest.raises(AttributeError):
        told.usable = False


def test_odd_files_are_counted_with_what_is_done_to_them(folder):
    train = folder / "train" / "ant"
    save(Image.fromarray(RAMP), train / "grey.png")
    save(Image.fromarray(RAMP.astype(np.uint16)), train / "wide.png")
    save(picture(1).convert("CMYK"), train / "ink.jpg")
    save(picture(1).convert("RGBA"), train / "clear.png")
    save(Image.new("RGB", (8, 8), "red"), train / "film.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    exif = Image.Exif()
    exif[0x0112] = 6
    save(picture(1), train / "turned.jpg", exif=exif)
    (train / "notes.txt").write_text("notes")
    told = describe(folder)
    assert told.usable
    for count, what in ((2, "greyscale"), (1, "16-bit"), (1, "CMYK"), (1, "transparency"), (1, "animated"), (1, "EXIF"), (1, "other extensions")):
        assert any(note.startswith(f"{count} ") and what in note for note in told.warnings), what
    assert told.shortest_side == 8


def test_16_bit_colour_is_seen(folder):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(">3H", 65535, 32768, 0) * 16 for _ in range(16))
    (folder / "train" / "ant" / "9.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 16, 16, 16, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    assert any("16-bit" in note for note in describe(folder).warnings)
    assert FolderImages(folder, "train").images([3])[0, :, 5, 5].tolist() == [255, 128, 0]


def test_bad_files_are_counted_and_the_first_ten_named(folder):
    for i in range(14):
        (folder / "val" / "bee" / f"bad{i:02}.jpg").write_bytes(b"")
    told = describe(folder)
    assert not told.usable and told.command == "" and "14 of 26 files" in told.reason
    assert told.problem_count == 14 and len(told.problems) == 10
    assert all(f"bad{i:02}.jpg is empty" in line for i, line in enumerate(told.problems))
    assert "… and 4 more" in str(told) and "usable   no: 14 of 26" in str(told)


def test_imbalance_and_missing_validation_are_noted(tmp_path):
    root = fill(tmp_path, splits=("train",), classes=("ant",), images=22)
    fill(root, splits=("train",), classes=("bee",), images=2)
    notes = describe(root).warnings
    assert any("11 times" in note for note in notes) and any("no validation split" in note for note in notes)


@pytest.mark.parametrize("make", [lambda root: None, one_class, empty_class, loose, too_deep])
def test_unusable_folders_are_described_with_the_loader_s_reason(tmp_path, make):
    root = tmp_path / "set"
    root.mkdir()
    make(root)
    told = describe(root)
    with pytest.raises(InputError) as caught:
        FolderImages(root, "train")
    assert not told.usable and told.reason == str(caught.value) and told.reason in str(told)
    assert told.files == told.checked == sum(path.is_file() for path in root.rglob("*"))


def test_a_split_that_cannot_be_used_is_noted_but_pretraining_can_go_on(tmp_path):
    flat_val(tmp_path)
    told = describe(tmp_path)
    assert told.usable and any("'val' cannot be used" in note for note in told.warnings)


def test_class_folders_alone_are_described_with_both_parts(tmp_path):
    fill(tmp_path, splits=(".",), images=10)
    told = describe(tmp_path)
    assert told.usable and told.splits["train"].images == 18 and told.splits["val"].images == 2


def test_of_very_many_files_a_fixed_sample_is_opened(folder):
    told: Description = describe(folder, limit=5)
    assert told.files == 12 and told.checked == 5 and "a sample of 5 of 12 files" in str(told)
    assert sum(told.formats.values()) == 5 and told == describe(folder, limit=5, threads=1)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs permissions that bind")
def test_a_folder_that_may_not_be_listed_is_reported(folder):
    (folder / "train" / "bee").chmod(0)
    try:
        told = describe(folder)
    finally:
        (folder / "train" / "bee").chmod(0o755)
    assert not told.usable and "cannot be listed" in told.reason
