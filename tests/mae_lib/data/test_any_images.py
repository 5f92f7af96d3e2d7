"""Images as people have them: without classes, in folders of any names, listed, in shards without
labels, of any ending that Pillow reads (of any number of bands: test_bands)."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from image_folders import fill, picture, save
from mae_lib.base.errors import InputError
from mae_lib.data.datasets import Resident, Subset
from mae_lib.data.describe import describe
from mae_lib.data.encoded import FolderImages
from mae_lib.data.image_files import EXTENSIONS, is_image
from mae_lib.data.shards import ShardImages, pack
from mae_lib.data.sources import image_source
from mae_lib.evaluation.evaluate import evaluate
from mae_lib.evaluation.features import encode
from mae_lib.evaluation.inputs import Options
from mae_lib.training import store
from mae_lib.training.pretrain import pretrain
from mae_lib.training.tiers import parse_size, tier


def refused(message: str, act) -> None:
    with pytest.raises(InputError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


def flat(root: Path, count: int = 20, width: int = 32, height: int = 24) -> Path:
    for i in range(count):
        save(picture(i, width, height), root / f"{i:02}.png")
    return root


def names_of(source: FolderImages) -> list[str]:
    return [source.path(i).name for i in range(len(source))]


# -- without classes -------------------------------------------------------------------------------


def test_a_flat_folder_is_cut_nine_to_one_and_has_no_labels(tmp_path):
    root = flat(tmp_path)
    train, val, every = (FolderImages(root, split, 8) for split in ("train", "val", None))
    assert (len(train), len(val), len(every)) == (18, 2, 20)
    assert sorted(names_of(train) + names_of(val)) == names_of(every)
    for source in (train, Subset(train, 5), Resident(train, progress=False)):
        assert source.classes == () and source.images(range(5)).shape == (5, 3, 8, 8)
        refused("they have none: .*sort them into <class>/ folders", lambda s=source: s.labels)


def test_nested_folders_without_classes_are_read_whole(tmp_path):
    save(picture(0), tmp_path / "2019" / "05" / "a.png")
    save(picture(1), tmp_path / "2019" / "06" / "b.png")
    save(picture(2), tmp_path / "loose.png")
    assert names_of(FolderImages(tmp_path, None)) == ["a.png", "b.png", "loose.png"]
    (tmp_path / "loose.png").unlink()
    refused("one class only", lambda: FolderImages(tmp_path, None).labels)


def test_splits_one_folder_down_are_not_mixed(tmp_path):
    fill(tmp_path / "images")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    refused("point at .*images, which has the splits", lambda: FolderImages(tmp_path, "train"))


def test_a_list_gives_what_a_flat_folder_of_the_same_files_gives(tmp_path):
    root = flat(tmp_path / "set")
    listed = tmp_path / "files.txt"
    lines = [f"set/{i:02}.png" for i in range(19)] + [str(root / "19.png"), "", "  "]
    listed.write_text("\n".join(reversed(lines)))
    for split in ("train", "validation"):
        folder, source = (image_source(data, split, (8, 8)) for data in (root, listed))
        assert source.identity == folder.identity
        assert torch.equal(source.images(range(2)), folder.images(range(2)))
    refused("lists images without classes", lambda: FolderImages(listed, None).labels)
    assert describe(listed).usable and describe(listed).files == 20


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "lists no images"),
        ("a.png\ngone.png", "line 2: there is no file .*gone.png"),
        ("a.png 0", "line 1: there is no file .*and nothing else"),
        ("a.png\n./a.png", "lines 1 and 2 name the same file"),
        ("a.png\nwords.md", "line 2: words.md is no image by its ending"),
    ],
)
def test_a_list_that_cannot_be_used_says_which_line(tmp_path, text, message):
    save(picture(0), tmp_path / "a.png")
    (tmp_path / "words.md").write_text("words")
    (tmp_path / "files.txt").write_text(text)
    refused(message, lambda: FolderImages(tmp_path / "files.txt"))
    assert not describe(tmp_path / "files.txt").usable
    refused("no split 'test'", lambda: FolderImages(tmp_path / "files.txt", "test"))


def test_shards_without_labels_give_what_their_folder_gives(tmp_path):
    root = flat(tmp_path / "set")
    pack(root, tmp_path / "shards", megabytes=0.005, progress=False)
    for split in ("train", "val"):
        folder, source = FolderImages(root, split, 8), ShardImages(tmp_path / "shards", split, 8)
        assert source.identity == folder.identity and len(source.shards) > split.count("a") - 1
        assert torch.equal(source.images(range(2)), folder.images(range(2)))
        refused("samples have no KEY.cls|need the class names", lambda s=source: s.labels)
    told = describe(tmp_path / "shards")
    assert told.usable and told.files == 20 and any("no labels" in note for note in told.warnings)


def test_of_shards_with_labels_but_no_names_only_the_labels_are_missed(tmp_path):
    pack(fill(tmp_path / "set"), tmp_path / "shards", progress=False)
    (tmp_path / "shards" / "classes.json").unlink()
    source = ShardImages(tmp_path / "shards", "train", 8)
    assert source.images([0, 5]).shape == (2, 3, 8, 8)
    refused("need the class names; write .*classes.txt", lambda: source.labels)


def test_pretraining_reconstruction_and_features_ask_for_no_labels_and_the_probe_does(
    tmp_path, monkeypatch
):
    """Grey 24 × 32 pictures without classes, end to end by API."""
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    root = flat(tmp_path / "set", count=30)
    sizes = tier("smoke").at(parse_size("24x32"), channels=1)
    assert sizes.model.image_size == (24, 32) and sizes.model.channels == 1
    source = image_source(root, "train", sizes.model.image_size, sizes.model.channels)
    config = replace(sizes.config(source.identity), steps=2, batch=4)
    trained = pretrain(config, source, device="cpu", progress=False)
    checkpoint = store.save(trained, config, tmp_path / "out", "smoke")
    options = Options(data=root, images=3, device="cpu")
    measures = evaluate("reconstruction", checkpoint, options)["measures"]
    assert {"masked/ssim", "masked/fsim", "masked/psnr", "masked/mse"} <= measures.keys()
    assert evaluate("attention", checkpoint, options)["measures"]
    assert encode(trained.model, source).labels.tolist() == [-1] * len(source)
    for kind in ("probe", "few_labels", "separability"):
        refused("needs the images' classes", lambda k=kind: evaluate(k, checkpoint, options))


def test_a_grey_model_that_is_not_square_is_scored_by_its_labels_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    root = fill(tmp_path / "set", images=40)
    sizes = tier("smoke").at((24, 32), channels=1)
    source = image_source(root, "train", (24, 32), 1)
    config = replace(sizes.config(source.identity), steps=1, batch=4)
    checkpoint = store.save(
        pretrain(config, source, device="cpu", progress=False), config, tmp_path / "out", "smoke"
    )
    options = Options(data=root, images=3, device="cpu")
    for kind in ("probe", "few_labels", "separability"):
        assert evaluate(kind, checkpoint, options)["measures"]


@pytest.mark.parametrize(
    "text, size", [("64", (64, 64)), ("48x64", (48, 64)), (" 48 × 64 ", (48, 64))]
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "48x", "48x64x3", "-1", "4.5", "wide"])
def test_other_sizes_are_refused(text):
    refused("as 48x64", lambda: parse_size(text))


@pytest.mark.parametrize("size, patch", [((48, 64), 8), ((96, 64), 8), ((128, 96), 16), (96, 12)])
def test_patches_scale_with_a_side_that_they_divide(size, patch):
    laptop = tier("laptop").at(size)
    assert laptop.model.patch == patch
    assert not any(side % patch for side in laptop.model.image_size)


def test_sizes_without_whole_patches_are_refused():
    refused("no patches of whole pixels at 48×65", lambda: tier("laptop").at((48, 65)))


# -- folders as they come --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "train, held_out",
    [("Training", "Testing"), ("Train", "Test"), ("TRAIN", "VAL"), ("train2017", "val2017"),
     ("training", "Validation")],
)  # fmt: skip
def test_splits_are_known_by_the_names_that_people_give_them(tmp_path, train, held_out):
    fill(tmp_path, splits=(train, held_out))
    source = FolderImages(tmp_path, "train", 8)
    assert source.classes == ("ant", "bee") and len(source) == 6
    told = describe(tmp_path)
    assert told.usable and set(told.splits) == {train, held_out}
    if "est" in held_out:
        refused("no split 'val' .*it holds", lambda: FolderImages(tmp_path, "val", 8))
        assert len(FolderImages(tmp_path, "test", 8)) == 6
    else:
        assert len(FolderImages(tmp_path, "val", 8)) == 6


def test_two_folders_of_one_split_are_told_apart_by_nobody(tmp_path):
    fill(tmp_path, splits=("Train", "training", "val"))
    refused("Train and training, which both mean 'train'", lambda: FolderImages(tmp_path, "train"))


def test_splits_of_other_names_are_at_least_told(tmp_path):
    fill(tmp_path, splits=("seg_a", "seg_b"))
    notes = " ".join(describe(tmp_path).warnings)
    assert "seg_a, seg_b are taken for classes and hold the same folders (ant, bee)" in notes


def test_flat_splits_beside_other_folders_are_not_mixed(tmp_path):
    flat(tmp_path / "train", 3), flat(tmp_path / "val", 2)
    (tmp_path / "notes").mkdir()
    assert [len(FolderImages(tmp_path, split, 8)) for split in ("train", "val")] == [3, 2]


@pytest.mark.parametrize(
    "litter",
    ["@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@Recycle",
     "__MACOSX", "#snapshot", "__pycache__", ".Trash-1000"],
)  # fmt: skip
def test_what_systems_leave_is_no_class(tmp_path, litter):
    root = fill(tmp_path, splits=("train",))
    save(picture(9), root / "train" / litter / "x.png")
    save(picture(9), root / "train" / "ant" / litter / "x.png")
    source = FolderImages(root, "train")
    assert source.classes == ("ant", "bee") and len(source) == 6
    assert describe(root).files == 6


def test_all_endings_that_torchvision_and_pillow_share_are_images():
    Image.init()
    pillow = {
        ending
        for ending, kind in Image.registered_extensions().items()
        if kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "MPO", "AVIF")
    }
    assert {*torchvision.datasets.folder.IMG_EXTENSIONS} <= {*EXTENSIONS}
    assert pillow - {".avifs"} <= {*EXTENSIONS}
    assert is_image("A.PGM") and is_image("b.JFIF") and not is_image("c.heic")


@pytest.mark.parametrize("ending", [".pgm", ".jfif", ".jpe", ".tga", ".pcx", ".dib", ".jp2",
                                    ".pnm", ".pbm", ".sgi", ".apng", ".qoi"])  # fmt: skip
def test_class_folders_of_any_ending_are_read(tmp_path, ending):
    kinds = {".jpe": "JPEG", ".jfif": "JPEG", ".apng": "PNG"}
    for name, level in (("ant", 20), ("bee", 230)):
        drawn = Image.new("RGB", (16, 16), (level,) * 3)
        if ending in (".pgm", ".pnm", ".pbm"):
            drawn = drawn.convert("1" if ending == ".pbm" else "L", dither=0)
        save(drawn, tmp_path / name / f"a{ending}", format=kinds.get(ending))
    source = FolderImages(tmp_path, None, 8)
    found = source.images([0, 1]).float().mean((1, 2, 3))
    expected = torch.tensor([0.0, 255.0] if ending == ".pbm" else [20.0, 230.0])
    assert (found - expected).abs().max() <= 2


def test_files_that_are_no_images_are_counted_by_their_endings(tmp_path):
    for i in range(3):
        (tmp_path / "ant").mkdir(exist_ok=True)
        (tmp_path / "ant" / f"{i}.HEIC").write_bytes(b"photograph")
    save(picture(0), tmp_path / "bee" / "a.png")
    refused("ant is a class folder without images .*3 .heic", lambda: FolderImages(tmp_path).labels)
    (tmp_path / "bee" / "a.png").unlink()
    refused("3 .heic", lambda: FolderImages(tmp_path))


def tar(path: Path, members: dict[str, bytes]) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, BytesIO(content))
    return path.read_bytes()


@pytest.mark.parametrize("where", [".", "train"])
def test_imagenet_as_it_comes_is_answered_with_how_to_unpack_it(tmp_path, where):
    inner = {}
    for wnid in ("n01440764", "n01443537"):
        inner[f"{wnid}.tar"] = tar(tmp_path / where / f"{wnid}.tar", {f"{wnid}_1.JPEG": b"x"})
    message = "2 archives of one class each .n01440764.tar .*unpack each"
    refused(message, lambda: image_source(tmp_path, "train", (8, 8)))
    assert describe(tmp_path).reason.count("unpack each") == 1
    tar(tmp_path / "whole" / "ILSVRC2012_img_train.tar", inner)
    refused("holds archives.*unpack it", lambda: image_source(tmp_path / "whole", "train", (8, 8)))


def test_shards_do_not_go_into_the_folder_they_are_made_of(tmp_path):
    root = fill(tmp_path / "set")
    for out in (root / "shards", root / "train" / "shards"):
        refused("lies inside .*name a folder beside it", lambda o=out: pack(root, o))
        assert not out.exists()
    assert FolderImages(root).classes == ("ant", "bee")


@pytest.mark.parametrize("side", [6, 7])
def test_a_description_names_all_files_that_are_too_small(tmp_path, side):
    root = fill(tmp_path)
    for name in ("x", "y"):
        save(picture(0, side, 64), root / "train" / "ant" / f"{name}.png")
    told = describe(root)
    assert not told.usable and [Path(line.split()[0]).name for line in told.problems] == [
        "x.png", "y.png"
    ]  # fmt: skip
    assert describe(root, min_side=side).usable


def test_what_a_description_calls_usable_the_command_that_it_names_can_read(tmp_path):
    laptop = tier("laptop").model
    root = fill(tmp_path)
    save(picture(0, 8, 8), root / "train" / "ant" / "x.png")
    assert describe(root).usable
    source = image_source(root, "train", laptop.image_size, min_side=laptop.patch)
    assert source.images(range(len(source))).shape[0] == len(source)


def test_a_folder_may_be_called_as_a_list(tmp_path):
    assert len(FolderImages(flat(tmp_path / "set.txt", 4), None)) == 4
