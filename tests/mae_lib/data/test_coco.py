"""COCO's layout: masks equal pycocotools', boxes and labels follow the stated rules, what is wrong
is named, and the world's scenes come back from disk as they were drawn."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from coco_folders import (
    CATEGORIES,
    compressed,
    instance,
    random_content,
    save_coco,
    uncompressed,
)
from mae_lib.base.errors import InputError
from mae_lib.base.provenance import provenance
from mae_lib.base.records import write_result
from mae_lib.data.coco import CocoFolder, open_coco, write_scenes
from mae_lib.data.formats import coco_scenes
from mae_lib.data.formats.coco_layouts import splits_of
from mae_lib.detection.average_precision import Detections, average_precision
from mae_lib.worlds.world import Scenes

HEIGHT, WIDTH = 40, 50
MASK = np.zeros((HEIGHT, WIDTH), dtype=bool)
MASK[10:20, 5:30] = True


def content(**changes) -> dict:
    """A file of one image with one instance, with some of the instance's keys changed."""
    picture = {"id": 10, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}
    return {
        "images": [picture],
        "categories": list(CATEGORIES),
        "annotations": [{"id": 1} | instance(MASK) | changes],
    }


def opened(root: Path, what: dict | str, **options) -> CocoFolder:
    save_coco(root, what, **options)
    return open_coco(root, "train")


def check_masks(folder: CocoFolder) -> int:
    """Compares every mask with pycocotools' own; returns how many there were."""
    with redirect_stdout(None):
        oracle, count = COCO(str(folder.annotations)), 0
    for i, image in enumerate(folder.image_ids):
        annotations = [
            a
            for a in oracle.loadAnns(oracle.getAnnIds(imgIds=[image]))
            if a["id"] not in dropped_ids(folder, i)
        ]
        found = folder.instances(i)
        assert len(found.masks) == len(annotations)
        for k, annotation in enumerate(annotations):
            assert np.array_equal(
                found.masks[k].numpy(), oracle.annToMask(annotation).astype(bool)
            ), f"annotation {annotation['id']}"
            assert found.area[k] == np.float32(annotation["area"])
            assert bool(found.crowd[k]) == bool(annotation.get("iscrowd", 0))
            assert folder.category_ids[found.labels[k] - 1] == annotation["category_id"]
            assert (
                folder.classes[found.labels[k] - 1]
                == oracle.cats[annotation["category_id"]]["name"]
            )
            x, y, w, h = annotation["bbox"]
            inside = [
                max(x, 0),
                max(y, 0),
                min(x + w, folder.size(i)[1]),
                min(y + h, folder.size(i)[0]),
            ]
            assert torch.equal(found.boxes[k], torch.tensor(inside, dtype=torch.float32))
            count += 1
    return count


def dropped_ids(folder: CocoFolder, i: int) -> set[int]:
    return {record.id for record in folder.records(i) if record.dropped}


# --------------------------------------------------------------------------------------------------
# Against pycocotools


@pytest.mark.parametrize("seed", range(8))
def test_masks_boxes_and_labels_equal_pycocotools(tmp_path, seed):
    what = random_content(seed, images=6)
    folder = opened(tmp_path, what)
    assert check_masks(folder) == len(what["annotations"]) > 3
    assert (
        folder.category_ids == (2, 7, 90)
        and folder.classes == ("ant", "bee", "cat")
        and folder.dropped == {}
    )
    assert {type(a["segmentation"]) for a in what["annotations"]} == {list, dict}


@pytest.mark.skipif(
    "MAE_COCO" not in os.environ,
    reason=(
        "MAE_COCO names no COCO folder to check (MAE_COCO_SPLIT: which split, MAE_COCO_RECORD: its"
        " name in results/)"
    ),
)
def test_a_real_data_set_is_read_as_pycocotools_reads_it(capsys):
    """Masks, boxes and labels of every annotation; every image decodes; the truth fed back as
    detections scores as `truth` in the record says."""
    directory = Path(os.environ["MAE_COCO"])
    folder = open_coco(directory, os.environ.get("MAE_COCO_SPLIT") or splits_of(directory)[0])
    count = check_masks(folder)
    assert count + sum(folder.dropped.values()) == folder.identity["instances"]
    fed_back = []
    for i in range(len(folder)):
        assert folder.image(i).shape == (3, *folder.size(i))
        real = folder.instances(i)
        fed_back.append(
            Detections(real.boxes, real.labels, torch.ones(len(real.labels)), real.masks)
        )
    records = [record for i in range(len(folder)) for record in folder.records(i)]
    found = {
        "name": os.environ.get("MAE_COCO_RECORD", folder.annotations.stem),
        "hash": folder.identity["sha256"][:16],
        "data": folder.identity,
        "masks_equal_to_pycocotools": count,
        "images": len(folder),
        "dropped": folder.dropped,
        "crowds": sum(record.crowd for record in records),
        "polygons": sum(isinstance(record.segmentation, list) for record in records),
        "categories": len(folder.classes),
        "categories_present": len({record.label for record in records}),
        "highest_category_id": max(folder.category_ids),
        "most_instances": max(len(folder.records(i)) for i in range(len(folder))),
        "truth": {
            name: value
            for name, value in average_precision(folder, fed_back).items()
            if value == value
        },
        **provenance(),
    }
    if "MAE_COCO_RECORD" in os.environ:
        write_result(Path(__file__).parents[3] / "results" / "coco", found)
    with capsys.disabled():
        print(
            f"\n{count} masks of {len(folder)} images equal pycocotools'; {found['crowds']} crowds;"
            f" the truth scores {found['truth']['mask/AP']:.4f}"
        )


@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 30), width=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_both_run_length_codes_give_the_mask_back(seed, height, width):
    from mae_lib.data.annotations import encode, rle_api

    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.random()
    for rle in (compressed(mask), uncompressed(mask)):
        assert np.array_equal(rle_api.decode(encode(rle, (height, width), "x")).astype(bool), mask)


def test_a_hole_stays_a_hole_and_polygons_are_united(tmp_path):
    mask = MASK.copy()
    mask[13:16, 10:20] = False
    # the last is no polygon
    both = [[5.0, 5, 15, 5, 15, 15, 5, 15], [30.0, 20, 40, 20, 40, 30, 30, 30], [1.0, 1, 2, 2]]
    what = content(segmentation=uncompressed(mask))
    what["annotations"].append({"id": 2} | instance(MASK, both))
    found = opened(tmp_path, what).instances(0)
    assert np.array_equal(found.masks[0].numpy(), mask)
    assert (
        found.masks[1].sum() == 200
        and found.masks[1, 5:15, 5:15].all()
        and found.masks[1, 20:30, 30:40].all()
    )


# --------------------------------------------------------------------------------------------------
# COCO's rules for what is odd


def test_boxes_are_clipped_or_dropped_and_every_drop_is_counted(tmp_path):
    boxes = {
        (-5, -4, 20, 10): (0, 0, 15, 6),
        (45, 35, 20, 20): (45, 35, 50, 40),
        (0, 0, 50, 40): (0, 0, 50, 40),
        (3.5, 2.25, 1e-2, 4): (3.5, 2.25, 3.51, 6.25),
        (50, 3, 4, 4): coco_rule("outside"),
        (-9, 3, 9, 4): coco_rule("outside"),
        (3, 3, 0, 4): coco_rule("area"),
        (3, 3, -2, 4): coco_rule("area"),
        (30, 3, 1e-9, 4): coco_rule("area"),
        (1e300, 3, 4, 4): coco_rule("outside"),
    }
    what = content()
    what["annotations"] = [
        {"id": k} | instance(MASK) | {"bbox": list(box)} for k, box in enumerate(boxes)
    ]
    what["annotations"].append({"id": 99} | instance(MASK, segmentation=[[1, 2, 3, 4], []]))
    folder = opened(tmp_path, what)
    kept = [box for box in boxes.values() if not isinstance(box, str)]
    assert torch.equal(folder.instances(0).boxes, torch.tensor(kept, dtype=torch.float32))
    assert [record.dropped for record in folder.records(0) if record.dropped] == [
        r for r in boxes.values() if isinstance(r, str)
    ] + [coco_rule("polygon")]
    assert folder.dropped == {
        coco_rule("outside"): 3,
        coco_rule("area"): 3,
        coco_rule("polygon"): 1,
    }
    assert folder.identity["instances"] == 11


def coco_rule(word: str) -> str:
    return {
        "outside": "box outside the image",
        "area": "box without area",
        "polygon": "no polygon of three points",
    }[word]


def test_empty_images_stay_and_a_thin_polygon_gives_an_empty_mask(tmp_path):
    what = content(segmentation=[[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]])
    what["images"].append({"id": 4, "file_name": "b.png", "height": 8, "width": 9})
    folder = opened(tmp_path, what)
    assert len(folder) == 2 and folder.image_ids == (10, 4) and folder.size(1) == (8, 9)
    empty = folder.instances(1)
    assert (
        empty.boxes.shape == (0, 4)
        and empty.masks.shape == (0, 8, 9)
        and len(empty.labels) == len(empty.crowd) == len(empty.area) == 0
    )
    assert (empty.boxes.dtype, empty.labels.dtype, empty.masks.dtype, empty.crowd.dtype) == (
        torch.float32,
        torch.int64,
        torch.bool,
        torch.bool,
    )
    assert (
        folder.instances(0).masks.shape == (1, HEIGHT, WIDTH)
        and not folder.instances(0).masks.any()
    )


def test_a_file_without_annotations_opens(tmp_path):
    what = content()
    what["annotations"] = []
    folder = opened(tmp_path, what)
    assert folder.identity["instances"] == 0 and len(folder.instances(0).labels) == 0


def test_grey_images_get_three_channels_and_exif_does_not_turn_them(tmp_path):
    folder = opened(tmp_path, content())
    path = folder.folder / "a.png"
    ramp = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(ramp).save(path, exif=exif)
    image = folder.image(0)
    assert (
        image.dtype == torch.uint8
        and image.is_contiguous()
        and torch.equal(image, torch.from_numpy(ramp).expand(3, -1, -1))
    )


def test_images_lie_beside_the_annotations_or_under_images(tmp_path):
    first = opened(tmp_path / "a", content())
    save_coco(tmp_path / "b", content())
    (tmp_path / "b" / "images").mkdir()
    shutil.move(tmp_path / "b" / "train2017", tmp_path / "b" / "images" / "train2017")
    second = open_coco(tmp_path / "b", "train2017")
    assert torch.equal(first.image(0), second.image(0)) and first.identity == second.identity
    assert json.loads(json.dumps(first.identity)) == first.identity


def test_the_identity_follows_the_annotations(tmp_path):
    assert (
        opened(tmp_path / "a", content()).identity
        != opened(tmp_path / "b", content(area=1)).identity
    )


# --------------------------------------------------------------------------------------------------
# What is wrong is named


WRONG = {
    "nan box": (content(bbox=[1, 2, float("nan"), 4]), r"annotation 1 \(image 10\).*finite"),
    "three numbers": (content(bbox=[1, 2, 3]), "annotation 1 .*four finite numbers"),
    "no box": (content(bbox=None), "annotation 1 .*bbox None"),
    "area below 0": (content(area=-1), "annotation 1 .*area -1"),
    "area beyond float32": (content(area=1e300), "annotation 1 .*area 1e\\+300"),
    "area of words": (content(area="large"), "annotation 1 .*area 'large'"),
    "negative area": (content(area=-3), "annotation 1 .*area -3"),
    "half a crowd": (content(iscrowd=0.5), "annotation 1 .*iscrowd 0.5"),
    "no masks": (content(segmentation=None), "annotation 1 .*segmentation"),
    "boxes alone": (content(segmentation=[]), "boxes alone"),
    "other size": (
        content(segmentation=compressed(MASK[:, 1:])),
        r"annotation 1 .*\[40, 49\].*\[40, 50\]",
    ),
    "no counts": (content(segmentation={"size": [40, 50]}), "annotation 1 .*RLE"),
    "unknown image": (content(image_id=3), "annotation 1 .*image 3.*no image"),
    "unhashable image": (content(image_id=[3]), "annotation 1 .*no image"),
    "unknown category": (content(category_id=3), "annotation 1 .*category id 3"),
    "no id": (content(id=None), "annotation number 0"),
}


@pytest.mark.parametrize("what, message", WRONG.values(), ids=WRONG)
def test_a_wrong_annotation_is_named(tmp_path, what, message):
    named(message, lambda: opened(tmp_path, what))


def named(message: str, act) -> None:
    with pytest.raises(InputError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value) and ":" in str(caught.value)


MASKS = {
    "odd polygon": ([[1, 1, 5, 1, 5, 5, 2]], "7 values"),
    "nan polygon": ([[1, 1, 5, 1, 5, float("nan")]], "finite"),
    "word in a polygon": ([[1, 1, 5, 1, 5, "5"]], "finite"),
    "endless polygon": ([[1, 1, 1e9, 1, 5, 5]], "far outside"),
    "short counts": ({"size": [40, 50], "counts": [5, 5]}, "does not fill"),
    "long counts": ({"size": [40, 50], "counts": [5, 5000]}, "does not fill"),
    "negative counts": ({"size": [40, 50], "counts": [-5, 2005]}, "whole numbers"),
    "no code": ({"size": [40, 50], "counts": "abc"}, "does not fill"),
    "empty code": ({"size": [40, 50], "counts": ""}, "does not fill"),
}


@pytest.mark.parametrize("segmentation, message", MASKS.values(), ids=MASKS)
def test_a_wrong_mask_is_named_when_it_is_drawn(tmp_path, segmentation, message):
    folder = opened(tmp_path, content(segmentation=segmentation))
    named(rf"annotation 1 \(image 10\).*{message}", lambda: folder.instances(0))


def changed(key: str, change) -> dict:
    what = copy.deepcopy(content())
    change(what[key])
    return what


FILES = {
    "two images of one id": (
        changed("images", lambda e: e.append(dict(e[0], file_name="b.png"))),
        "image id 10",
    ),
    "two categories of one id": (
        changed("categories", lambda e: e.append({"id": 7, "name": "dog"})),
        "category id 7",
    ),
    "two annotations of one id": (
        changed("annotations", lambda e: e.append(e[0])),
        "annotation id 1",
    ),
    "no categories": (changed("categories", lambda e: e.clear()), "no categories"),
    "no images": (changed("images", lambda e: e.clear()), "no images"),
    "no size": (changed("images", lambda e: e[0].update(width=0)), "image 10 .*width 0"),
    "way out": (
        changed("images", lambda e: e[0].update(file_name="../a.png")),
        "image 10 .*file_name",
    ),
    "no list": ({"images": [], "annotations": []}, "no list 'categories'"),
    "a list": ([], "no list 'images'"),
    "cut short": ('{"images": [', "no valid JSON"),
}


@pytest.mark.parametrize("what, message", FILES.values(), ids=FILES)
def test_a_wrong_file_is_named(tmp_path, what, message):
    save_coco(tmp_path, json.dumps(what) if not isinstance(what, str) else what)
    named(message, lambda: open_coco(tmp_path, "train"))


def test_missing_images_are_counted_when_the_folder_is_opened(tmp_path):
    what = random_content(0, images=4)
    save_coco(tmp_path, what)
    for picture in what["images"][1:3]:
        (tmp_path / "train2017" / picture["file_name"]).unlink()
    named("lacks 2 of the 4 images.*first '00013.png'", lambda: open_coco(tmp_path, "train"))
    shutil.rmtree(tmp_path / "train2017")
    named("train2017.*missing", lambda: open_coco(tmp_path, "train"))


def test_an_image_of_another_size_is_named(tmp_path):
    folder = opened(tmp_path, content())
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(folder.folder / "a.png")
    named("a.png has 50×41 pixels.*50×40.*image 10", lambda: folder.image(0))
    (folder.folder / "a.png").write_bytes(b"no picture")
    named("a.png is not an image", lambda: folder.image(0))


def test_splits_are_found_by_name_or_beginning_or_listed(tmp_path):
    for split in ("train2017", "val2014", "val2017"):
        save_coco(tmp_path, content(), split=split)
    assert splits_of(tmp_path) == ("train2017", "val2014", "val2017")
    assert open_coco(tmp_path, "train").annotations.name == "instances_train2017.json"
    assert open_coco(tmp_path, "val2014").folder == tmp_path / "val2014"
    named("val2014, val2017 for 'val'", lambda: open_coco(tmp_path, "val"))
    for unknown in ("test", ""):
        named(
            "choose one of train2017, val2014, val2017",
            lambda unknown=unknown: open_coco(tmp_path, unknown),
        )
    named("no such folder", lambda: open_coco(tmp_path / "nowhere", "train"))
    named(
        "holds no annotations/instances_.*point at", lambda: open_coco(tmp_path / "val2014", "val")
    )
    shutil.move(tmp_path, moved := tmp_path.parent / f"{tmp_path.name}-outer" / "coco")
    named(f"point at {re.escape(str(moved))}", lambda: open_coco(moved.parent, "train"))


# --------------------------------------------------------------------------------------------------
# The world's scenes

SCENES = Scenes("validation", size=48, length=70)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> CocoFolder:
    return write_scenes(SCENES, tmp_path_factory.mktemp("scenes") / "world", "validation")


def test_scenes_come_back_as_they_were_drawn(scenes):
    drawn = SCENES.sample(range(70))
    again = open_coco(scenes.folder.parent, "validation")
    assert (
        again.classes == SCENES.classes
        and again.category_ids == tuple(range(1, 11))
        and len(again) == 70
        and again.dropped == {}
    )
    for i in range(70):
        present = drawn.labels[i] >= 0
        found = again.instances(i)
        assert torch.equal(again.image(i), drawn.images[i])
        assert torch.equal(found.labels, drawn.labels[i][present] + 1)
        assert torch.equal(found.masks, drawn.masks[i][present])
        assert torch.equal(found.boxes, drawn.boxes[i][present])
        assert (
            torch.equal(found.area, found.masks.flatten(1).sum(1).float()) and not found.crowd.any()
        )
    assert (
        check_masks(again) == int((drawn.labels >= 0).sum()) and again.identity == scenes.identity
    )


def test_the_same_scenes_give_the_same_bytes_and_are_not_written_twice(scenes, tmp_path):
    other = write_scenes(SCENES, tmp_path, "validation")
    assert (
        other.annotations.read_bytes() == scenes.annotations.read_bytes()
        and other.identity == scenes.identity
    )
    assert (other.folder / other.names[3]).read_bytes() == (
        scenes.folder / scenes.names[3]
    ).read_bytes()
    before = (other.folder / other.names[3]).stat().st_mtime_ns
    assert write_scenes(SCENES, tmp_path, "validation").identity == other.identity
    assert (other.folder / other.names[3]).stat().st_mtime_ns == before


def test_scenes_are_named_by_their_law_until_somebody_alters_them(scenes, tmp_path):
    assert scenes.identity == {
        "kind": "scenes",
        "version": "1",
        "split": "validation",
        "size": 48,
        "seed": 0,
        "most": 4,
        "least_pixels": 20,
        "length": 70,
    }
    what = json.loads(scenes.annotations.read_text())
    what["annotations"].pop()
    shutil.copytree(scenes.folder, tmp_path / "train2017")
    altered = opened(tmp_path, what, pictures=False)
    assert altered.identity["kind"] == "coco" and altered.identity["instances"] == len(
        what["annotations"]
    )


def test_two_splits_share_a_folder(tmp_path):
    write_scenes(Scenes("train", size=32, length=3), tmp_path, "train")
    write_scenes(Scenes("validation", size=32, length=2), tmp_path, "validation")
    assert (
        splits_of(tmp_path) == ("train", "validation")
        and len(open_coco(tmp_path, "train")) == 3
        and len(open_coco(tmp_path, "val")) == 2
    )


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"size": 40},
        {"length": 4},
        {"split": "train"},
        {"most": 2},
        {"least_pixels": 9},
    ],
)
def test_other_scenes_under_the_name_are_refused(tmp_path, change):
    base = {"split": "validation", "size": 32, "length": 3}
    write_scenes(Scenes(**base), tmp_path, "val")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    named(
        "choose another name or folder, or delete it",
        lambda: write_scenes(Scenes(**base | change), tmp_path, "val"),
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_altered_and_foreign_files_are_refused(tmp_path):
    base = Scenes("validation", size=32, length=3)
    folder = write_scenes(base, tmp_path / "a", "val")
    what = json.loads(folder.annotations.read_text())
    what["annotations"][0]["area"] += 1
    folder.annotations.write_text(json.dumps(what))
    named("was altered", lambda: write_scenes(base, tmp_path / "a", "val"))
    (tmp_path / "b" / "val").mkdir(parents=True)
    named("without annotations", lambda: write_scenes(base, tmp_path / "b", "val"))
    save_coco(tmp_path / "c", content(), split="val")
    named("describes other data", lambda: write_scenes(base, tmp_path / "c", "val"))
    for name in ("", "..", "a/b", ".hidden"):
        named("no plain file name", lambda name=name: write_scenes(base, tmp_path, name))
    (tmp_path / "file").write_text("")
    named("cannot write scenes", lambda: write_scenes(base, tmp_path / "file", "val"))


@pytest.mark.parametrize("moment", ["drawing", "renaming"])
def test_a_broken_off_writing_leaves_nothing_that_looks_whole_and_the_next_completes_it(
    tmp_path, monkeypatch, moment
):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    base = Scenes("validation", size=32, length=3)
    with monkeypatch.context() as patch:
        (
            patch.setattr(coco_scenes, "_scene_annotation", kill)
            if moment == "drawing"
            else patch.setattr(coco_scenes.os, "replace", once_renamed(kill, tmp_path / "val"))
        )
        with pytest.raises(Killed):
            write_scenes(base, tmp_path, "val")
    assert not (tmp_path / "val").exists() and not list(tmp_path.glob(".val.*.part"))
    assert (tmp_path / "annotations" / "instances_val.json").exists() == (moment == "renaming")
    assert len(write_scenes(base, tmp_path, "val")) == 3


def once_renamed(kill, target: Path):
    """`os.replace` that breaks off at one target only: the annotations are renamed first."""
    real = os.replace
    return lambda source, goal: kill() if Path(goal) == target else real(source, goal)
