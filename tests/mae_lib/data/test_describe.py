"""Descriptions of image folders: what they hold, what is odd or damaged in them, and whether they
can be used."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from coco_folders import random_content, save_coco
from image_folders import (
    RAMP,
    empty_class,
    fill,
    flat_val,
    loose,
    one_class,
    picture,
    save,
    too_deep,
)
from mae_lib.base.errors import InputError
from mae_lib.data.describe import Description, describe
from mae_lib.data.description import looked_at, of_sizes
from mae_lib.data.encoded import FolderImages


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "set")


def test_a_good_folder_is_usable_and_gets_its_command(folder):
    save(picture(1, 300, 200), folder / "train" / "ant" / "big.jpg")
    told = describe(folder)
    assert told.usable and told.reason == "" and told.problem_count == 0 and told.problems == ()
    assert told.command == f"mae pretrain --data {folder}"
    assert told.files == told.checked == 13 and told.classes == ("ant", "bee")
    assert told.splits["train"].images == 7 and told.splits["val"].images == 6
    assert (
        told.splits["train"].fewest,
        told.splits["train"].median,
        told.splits["train"].most,
    ) == (3, 3.5, 4)
    assert told.formats == {"PNG": 12, "JPEG": 1} and told.modes == {"RGB": 13}
    assert told.smallest == (64, 64) and told.largest == (300, 200) and told.shortest_side == 64
    assert json.loads(json.dumps(told.to_dict()))["splits"]["val"]["images"] == 6
    text = str(told)
    assert all(
        part in text
        for part in (
            str(folder),
            "7 images in 2 classes",
            "64×64 to 300×200",
            "usable",
            told.command,
        )
    )
    with pytest.raises(AttributeError):
        told.usable = False


def test_odd_files_are_counted_with_what_is_done_to_them(folder):
    train = folder / "train" / "ant"
    save(Image.fromarray(RAMP), train / "grey.png")
    save(Image.fromarray(RAMP.astype(np.uint16)), train / "wide.png")
    save(picture(1).convert("CMYK"), train / "ink.jpg")
    save(picture(1).convert("RGBA"), train / "clear.png")
    save(
        Image.new("RGB", (8, 8), "red"),
        train / "film.gif",
        save_all=True,
        append_images=[Image.new("RGB", (8, 8), "blue")],
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    save(picture(1), train / "turned.jpg", exif=exif)
    (train / "notes.txt").write_text("notes")
    told = describe(folder)
    assert told.usable
    for count, what in (
        (2, "greyscale"),
        (1, "16-bit"),
        (1, "CMYK"),
        (1, "transparency"),
        (1, "animated"),
        (1, "EXIF"),
        (1, "other extensions"),
    ):
        assert any(note.startswith(f"{count} ") and what in note for note in told.warnings), what
    assert told.shortest_side == 8


def test_16_bit_colour_is_seen(folder):
    import struct
    import zlib

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + struct.pack(">3H", 65535, 32768, 0) * 16 for _ in range(16))
    (folder / "train" / "ant" / "9.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">2I5B", 16, 16, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert any("16-bit" in note for note in describe(folder).warnings)
    assert FolderImages(folder, "train").images([3])[0, :, 5, 5].tolist() == [255, 128, 0]


def test_bad_files_are_counted_and_all_named(folder):
    for i in range(114):
        (folder / "val" / "bee" / f"bad{i:03}.jpg").write_bytes(b"")
    told = describe(folder)
    assert not told.usable and told.command == "" and "114 of 126 files" in told.reason
    assert told.problem_count == len(told.problems) == 114
    assert all(f"bad{i:03}.jpg is empty" in line for i, line in enumerate(told.problems))
    assert "bad099.jpg" in str(told) and "bad100.jpg" not in str(told)
    assert "… and 14 more" in str(told) and "usable   no: 114 of 126" in str(told)


def test_imbalance_and_missing_validation_are_noted(tmp_path):
    root = fill(tmp_path, splits=("train",), classes=("ant",), images=22)
    fill(root, splits=("train",), classes=("bee",), images=2)
    notes = describe(root).warnings
    assert any("11 times" in note for note in notes) and any(
        "no validation split" in note for note in notes
    )


@pytest.mark.parametrize("make", [lambda root: None, too_deep])
def test_unusable_folders_are_described_with_the_loader_s_reason(tmp_path, make):
    root = tmp_path / "set"
    root.mkdir()
    make(root)
    told = describe(root)
    with pytest.raises(InputError) as caught:
        FolderImages(root, "train")
    assert not told.usable and told.reason == str(caught.value) and told.reason in str(told)
    assert told.files == told.checked == sum(path.is_file() for path in root.rglob("*"))


@pytest.mark.parametrize("make", [one_class, empty_class, loose, flat_val])
def test_what_has_no_labels_is_described_with_the_reason(tmp_path, make):
    root = tmp_path / "set"
    root.mkdir()
    make(root)
    told = describe(root)
    with pytest.raises(InputError) as caught:
        FolderImages(root, "val" if make is flat_val else "train").labels.sum()
    assert told.usable and "mae pretrain" in told.command
    [note] = [note for note in told.warnings if "no labels" in note]
    assert note.split("does not: ")[1] in str(caught.value)


def test_a_split_that_cannot_be_used_is_noted_but_pretraining_can_go_on(tmp_path):
    fill(tmp_path, splits=("train",))
    (tmp_path / "val").mkdir()
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


# --------------------------------------------------------------------------------------------------
# What all layouts share


def test_the_shortest_side_need_not_be_of_the_smallest_image():
    assert of_sizes([(30, 30), (500, 8), (20, 20), (30, 30)]) == {
        "smallest": (20, 20),
        "largest": (500, 8),
        "shortest_side": 8,
    }
    assert of_sizes([]) == {"smallest": None, "largest": None, "shortest_side": None}


@pytest.mark.parametrize("limit, count", [(7, 7), (40, 7), (5, 500)])
def test_a_sample_is_fixed_in_order_and_as_large_as_may_be(limit, count):
    looks = [
        looked_at(lambda n: -n, range(count), limit, threads, False, "file") for threads in (1, 4)
    ]
    assert looks[0] == looks[1] and len(looks[0]) == min(limit, count)
    assert looks[0] == sorted(set(looks[0]), reverse=True)
    assert count <= limit or looks[0] != [-n for n in range(limit)]  # not merely the first


# --------------------------------------------------------------------------------------------------
# COCO's layout


def test_a_folder_in_cocos_layout_is_told_by_its_annotations(tmp_path):
    content = random_content(1, images=6)
    content["annotations"][0]["bbox"] = [500, 500, 4, 4]
    save_coco(tmp_path, content)
    save_coco(tmp_path, random_content(2), split="val2017")
    told = describe(tmp_path)
    train = told.splits["train2017"]
    crowds = sum(entry["iscrowd"] for entry in content["annotations"])
    assert told.usable and told.reason == "" and told.problems == () and told.warnings == ()
    assert (train.images, train.empty, train.instances, train.present, train.crowds) == (
        6,
        1,
        len(content["annotations"]),
        2,
        crowds,
    )
    assert train.dropped == {"box outside the image": 1} and crowds > 0
    assert (
        0
        < train.small
        == sum(entry["area"] < 32**2 for entry in content["annotations"])
        < train.instances
        and train.large == 0
    )
    assert (
        train.polygons + train.runs == train.small + train.medium + train.large == train.instances
        and train.polygons
        and train.runs
    )
    assert (
        told.classes == ("ant", "bee", "cat")
        and told.category_ids == (2, 7, 90)
        and told.gaps == 86
    )
    assert (
        told.files == told.checked == 11
        and told.smallest == told.largest == (80, 60)
        and told.shortest_side == 60
    )
    assert json.loads(json.dumps(told.to_dict()))["splits"]["train2017"]["images"] == 6
    text = str(told)
    for part in (
        "COCO",
        f"{crowds} of them crowds",
        "86 of them unused",
        "1 left out of training: box outside the image",
        "80×60",
        "every one of 11",
    ):
        assert part in text, part
    assert (
        told.command
        == f"mae finetune --data {tmp_path} --train train2017 --validation val2017 --checkpoint"
        " FILE"
    )


def test_of_many_faults_in_cocos_layout_all_are_named(tmp_path):
    content = random_content(1, images=14)
    save_coco(tmp_path, content)
    for picture_of in content["images"][1:13]:
        (tmp_path / "train2017" / picture_of["file_name"]).write_bytes(b"no picture")
    told = describe(tmp_path)
    assert told.problem_count == 12 and all(
        picture_of["file_name"] in line
        for picture_of, line in zip(content["images"][1:], told.problems, strict=False)
    )
    assert told.reason == told.problems[0] and told.problems[-1] in str(told)


def test_what_is_wrong_in_cocos_layout_is_listed(tmp_path):
    content = random_content(1, images=3)
    content["annotations"][0]["segmentation"] = [[1, 1, 5, 1, 5, 5, 2]]
    save_coco(tmp_path, content)
    (tmp_path / "train2017" / content["images"][1]["file_name"]).write_bytes(b"no picture")
    save_coco(tmp_path, "{", split="val2017")
    told = describe(tmp_path)
    assert (
        not told.usable
        and told.problem_count == 3
        and list(told.splits) == ["train2017"]
        and told.command == ""
    )
    assert "instances_val2017.json is no valid JSON" in told.reason == told.problems[0]
    assert (
        "annotation 5" in told.problems[1]
        and "not an image" in told.problems[2]
        and "usable" in str(told)
    )


def test_unlike_categories_make_a_folder_unusable_and_a_sample_is_said_to_be_one(tmp_path):
    content = random_content(1)
    save_coco(tmp_path, content)
    save_coco(
        tmp_path,
        content | {"categories": [*content["categories"], {"id": 1, "name": "dog"}]},
        split="val2017",
    )
    told = describe(tmp_path, limit=4)
    assert told.checked == 4 < told.files and "sample of 4 of 10" in str(told)
    assert told == describe(tmp_path, limit=4, threads=1)
    assert (
        not told.usable
        and "instances_val2017.json has the category 'dog', which the training split lacks"
        in told.reason
    )
    (tmp_path / "annotations" / "instances_val2017.json").rename(
        tmp_path / "annotations" / "instances_test.json"
    )
    (tmp_path / "val2017").rename(tmp_path / "test")
    told = describe(tmp_path)  # nothing is scored on it
    assert told.usable and any("'dog'" in note for note in told.warnings)


@pytest.mark.parametrize("ids", [(90, 2, 7), (2, 90, 7), (1, 2, 3)])
def test_categories_of_another_numbering_are_said_to_be_matched_by_name(tmp_path, ids):
    content = random_content(1)
    save_coco(tmp_path, content)
    renamed = [{"id": new, "name": old["name"]} for new, old in zip(ids, content["categories"])]
    of = {old["id"]: new for new, old in zip(ids, content["categories"])}
    annotations = [
        each | {"category_id": of[each["category_id"]]} for each in content["annotations"]
    ]
    save_coco(
        tmp_path, content | {"categories": renamed, "annotations": annotations}, split="val2017"
    )
    told = describe(tmp_path)
    assert told.usable and any("matched by name" in note for note in told.warnings) == (
        ids != (90, 2, 7)
    )


def test_a_single_split_is_noted_and_a_nested_folder_is_pointed_at(tmp_path):
    save_coco(tmp_path / "inner", random_content(1), split="all")
    told = describe(tmp_path / "inner")
    assert (
        told.usable
        and "--train all --validation all" in told.command
        and any("no validation split" in note for note in told.warnings)
    )
    outer = describe(tmp_path)
    assert not outer.usable and f"point at {tmp_path / 'inner'}" in outer.reason
