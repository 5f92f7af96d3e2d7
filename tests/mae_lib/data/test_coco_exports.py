"""COCO's annotations as common tools export them: read where they lie, or told what to do."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from coco_folders import random_content, save_coco
from mae_lib.base.errors import InputError
from mae_lib.data.coco import open_coco
from mae_lib.data.describe import describe
from mae_lib.data.formats.coco_layouts import splits_of


def exported(root: Path, annotations: str, images: str, what: dict) -> Path:
    """A data set whose annotations and images lie at these places."""
    save_coco(root / "plain", what)
    (root / "set" / annotations).parent.mkdir(parents=True)
    shutil.copytree(root / "plain" / "train2017", root / "set" / images, dirs_exist_ok=True)
    shutil.copy(
        root / "plain" / "annotations" / "instances_train2017.json", root / "set" / annotations
    )
    return root / "set"


def renamed(path: Path, prefix: str) -> str:
    """Puts a folder before all file names; gives the first one without it."""
    what = json.loads(path.read_text())
    first = what["images"][0]["file_name"]
    for picture in what["images"]:
        picture["file_name"] = prefix + picture["file_name"]
    path.write_text(json.dumps(what))
    return first


def refused(message: str, act) -> None:
    with pytest.raises(InputError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "annotations, images, split",
    [
        ("train/_annotations.coco.json", "train", "train"),  # Roboflow
        ("annotations/instances_default.json", "images", "default"),  # CVAT
        ("annotations/instances_default.json", "images/default", "default"),
        ("annotations/instances_train.json", "images/train", "train"),  # Datumaro
        ("annotations/instances_train.json", "train", "train"),
    ],
)
def test_exports_of_the_common_tools_are_read(tmp_path, annotations, images, split):
    root = exported(tmp_path, annotations, images, random_content(3, images=4))
    folder = open_coco(root, split)
    assert splits_of(root) == (split,) and len(folder) == 4
    assert folder.folder == root / images
    assert [tuple(folder.image(i).shape[1:]) for i in range(4)] == list(map(folder.size, range(4)))
    told = describe(root)
    assert told.usable and f"--train {split}" in told.command and not told.problems


@pytest.mark.parametrize(
    "prefix, home",
    [("train/", "train"), ("images/train/", "images/train"), ("a/b/", "images/a/b")],
)
def test_a_file_name_may_have_a_folder_in_it(tmp_path, prefix, home):
    where = "annotations/instances_train.json"
    root = exported(tmp_path, where, home, random_content(3, images=3))
    renamed(root / where, prefix)
    assert open_coco(root, "train").image(0).ndim == 3


@pytest.mark.parametrize("prefix", ["frames/", "photos\\day\\"])
def test_a_folder_in_a_file_name_that_is_not_there_is_told_where_the_file_is(tmp_path, prefix):
    where = "annotations/instances_train.json"
    root = exported(tmp_path, where, "train", random_content(3, images=3))
    first = renamed(root / where, prefix)
    refused(
        f"train has '{first}', so write each file_name in .*from there",
        lambda: open_coco(root, "train"),
    )


@pytest.mark.parametrize(
    "place, message",
    [
        ("data.json", "data.json looks like COCO's: put it at .*annotations/instances_train.json"),
        ("annotations/train.json", "train.json looks like COCO's: put it at"),
        ("_annotations.coco.json", "is one split, .*point at"),
        ("outer/train/_annotations.coco.json", "point at .*outer"),
    ],
)
def test_annotations_in_other_places_are_told_what_to_do(tmp_path, place, message):
    root = exported(tmp_path, place, "pictures", random_content(3, images=3))
    refused(message, lambda: open_coco(root, "train"))


@pytest.mark.parametrize("seed", range(5))
def test_an_area_that_is_missing_is_that_of_the_mask(tmp_path, seed):
    what = random_content(seed, images=4)
    for entry in what["annotations"]:
        del entry["area"]
    save_coco(tmp_path, what)
    folder = open_coco(tmp_path, "train2017")
    with redirect_stdout(None):
        reference = COCO(str(tmp_path / "annotations" / "instances_train2017.json"))
    checked = 0
    for i in range(len(folder)):
        for record in folder.records(i):
            if record.segmentation:
                mask = reference.annToMask(reference.anns[record.id])
                assert record.area == mask.sum()
                checked += 1
    assert checked
