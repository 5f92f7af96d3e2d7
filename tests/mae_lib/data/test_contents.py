"""A changed image is noticed, whatever its size: by folders, shards and COCO's layout, and in what
is kept of them."""

from __future__ import annotations

import json
import os
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coco_folders import random_content, save_coco
from image_folders import fill, picture, save
from mae_lib.base.errors import InputError
from mae_lib.data import contents
from mae_lib.data.coco import open_coco
from mae_lib.data.contents import file_digests, fingerprint
from mae_lib.data.encoded import FolderImages
from mae_lib.data.shards import ShardImages, pack
from mae_lib.data.sources import image_source

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own, in which even small sets are kept."""
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "LEAST", 0)
    return tmp_path / "cache" / "contents"


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Names of the files that are read, in place of looked up."""
    plain, seen = contents._digest_of, []
    monkeypatch.setattr(
        contents, "_digest_of", lambda root, name: seen.append(name) or plain(root, name)
    )
    return seen


def pictures(root: Path, suffix: str, first: int = 0) -> Path:
    """Two classes of three uncompressed pictures in train and in val, all files of one size."""
    for s, split in enumerate(("train", "val")):
        for c, name in enumerate(("ant", "bee")):
            for k in range(3):
                save(
                    picture(first + 100 * s + 10 * c + k, 24, 24),
                    root / split / name / f"{k}.{suffix}",
                )
    return root


def age(folder: Path, seconds: int = 60) -> None:
    """Moves all times of a folder's files so far into the past that two changes can be told apart,
    as they are after a minute."""
    for path in folder.rglob("*"):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - seconds * 10**9))


@pytest.mark.parametrize("suffix", ["bmp", "ppm", "tif"])
def test_other_images_of_the_same_size_are_another_data_set(tmp_path, suffix):
    folder = pictures(tmp_path / "images", suffix)
    sizes = {path: path.stat().st_size for path in folder.rglob(f"*.{suffix}")}
    before = {split: FolderImages(folder, split).identity for split in ("train", "val")}
    pictures(folder, suffix, first=1000)
    assert {path: path.stat().st_size for path in folder.rglob(f"*.{suffix}")} == sizes
    after = {split: FolderImages(folder, split).identity for split in ("train", "val")}
    assert all(before[split] != after[split] for split in before)
    pictures(folder, suffix)
    assert {split: FolderImages(folder, split).identity for split in before} == before, (
        "the first ones again are the first data set again"
    )


def test_one_pixel_is_enough_and_no_time_is_needed_to_tell(tmp_path):
    folder = pictures(tmp_path / "images", "bmp")
    before, path = FolderImages(folder).identity, folder / "train" / "bee" / "1.bmp"
    status, pixels = path.stat(), np.array(Image.open(path))
    pixels[11, 13, 2] ^= 1
    save(Image.fromarray(pixels), path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as tar, rsync and cp -p do
    assert path.stat().st_size == status.st_size and path.stat().st_mtime_ns == status.st_mtime_ns
    assert FolderImages(folder).identity != before


def test_equal_contents_are_the_same_data_anywhere_and_at_any_time(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "images", "bmp")
    identity = FolderImages(folder).identity
    shutil.copytree(folder, tmp_path / "copy")
    age(folder)
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "another"))
    assert FolderImages(folder).identity == FolderImages(tmp_path / "copy").identity == identity
    assert str(tmp_path) not in json.dumps(identity)


def test_what_is_unchanged_is_not_read_again(tmp_path, read, monkeypatch):
    folder, clock = pictures(tmp_path / "images", "bmp"), contents.time.time_ns
    monkeypatch.setattr(contents.time, "time_ns", lambda: clock() + 60 * 10**9)  # a minute later
    identity = FolderImages(folder).identity
    assert len(read) == 6
    assert FolderImages(folder).identity == identity and len(read) == 6
    os.utime(folder / "train" / "ant" / "2.bmp")
    assert FolderImages(folder).identity == identity and read[6:] == ["ant/2.bmp"], (
        "only what was touched is read, and found unchanged"
    )
    save(picture(77, 24, 24), folder / "train" / "ant" / "0.bmp")
    assert FolderImages(folder).identity != identity and read[7:] == ["ant/0.bmp"]


def test_what_was_written_a_moment_ago_is_not_trusted_to_its_times(tmp_path, read, cache):
    """A file system may give two changes within two seconds one time: as long as they are so young,
    the files are read."""
    folder = pictures(tmp_path / "images", "bmp")
    for _ in range(2):
        assert FolderImages(folder).identity
    assert len(read) == 12 and not list(cache.glob("*.safetensors"))


def test_a_damaged_memory_is_read_past_and_an_unwritable_one_does_no_harm(
    tmp_path, monkeypatch, cache, read
):
    folder, clock = pictures(tmp_path / "images", "bmp"), contents.time.time_ns
    monkeypatch.setattr(contents.time, "time_ns", lambda: clock() + 60 * 10**9)
    identity = FolderImages(folder).identity
    (memory,) = cache.glob("*.safetensors")
    memory.write_bytes(memory.read_bytes()[:-7] + b"damaged")
    assert FolderImages(folder).identity == identity and len(read) == 12
    assert FolderImages(folder).identity == identity and len(read) == 12, "it was made anew"
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "file"))
    assert FolderImages(folder).identity == identity and len(read) == 18


def test_small_sets_leave_nothing_in_the_cache(tmp_path, monkeypatch, cache):
    monkeypatch.undo()
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    assert FolderImages(pictures(tmp_path / "images", "bmp")).identity and not cache.exists()


def test_shards_notice_it_too_and_stay_equal_to_their_folder(tmp_path):
    seen = []
    for number, first in enumerate((0, 1000)):
        folder = pictures(tmp_path / "images", "bmp", first)
        pack(folder, tmp_path / f"shards{number}", progress=False)
        for split in ("train", "val"):
            assert (
                ShardImages(tmp_path / f"shards{number}", split).identity
                == FolderImages(folder, split).identity
            )
        seen.append(image_source(tmp_path / f"shards{number}", "train", (24, 24)).identity)
    assert seen[0] != seen[1]
    same = [
        path.stat().st_size
        for number in range(2)
        for path in (tmp_path / f"shards{number}").rglob("*.tar")
    ]
    assert len(set(same)) == 1, "the shards' sizes alone would not tell"
    shutil.copytree(tmp_path / "shards1", tmp_path / "shards0", dirs_exist_ok=True)
    assert image_source(tmp_path / "shards0", "train", (24, 24)).identity == seen[1]


def test_the_images_of_a_coco_folder_are_part_of_it(tmp_path):
    content = random_content(3)
    for picture_ in content["images"]:
        picture_["file_name"] = picture_["file_name"].replace(".png", ".bmp")
    save_coco(tmp_path, content)
    before, (first, *_) = (
        open_coco(tmp_path, "train").identity,
        sorted((tmp_path / "train2017").iterdir()),
    )
    size = first.stat().st_size
    Image.new("RGB", Image.open(first).size, (1, 2, 3)).save(first)
    assert first.stat().st_size == size and open_coco(tmp_path, "train").identity != before


def test_a_file_that_has_gone_is_named(tmp_path):
    folder = fill(tmp_path / "images")
    source = FolderImages(folder)
    (folder / "train" / "bee" / "1.png").unlink()
    with pytest.raises(InputError, match="bee/1.png cannot be opened"):
        _ = source.identity
    (folder / "train" / "bee" / "1.png").mkdir()
    with pytest.raises(InputError, match="bee/1.png is no plain file"):
        file_digests(folder / "train", ["bee/1.png"])


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.text("ab/é\udc80", min_size=1, max_size=6),
        st.binary(min_size=32, max_size=32),
        max_size=6,
    ),
    st.randoms(),
)
def test_a_fingerprint_is_of_names_and_contents_and_of_no_order(named, random):
    pairs = list(named.items())
    random.shuffle(pairs)
    assert fingerprint(pairs) == fingerprint(named.items()) and len(fingerprint(pairs)) == 64
    for name, digest in pairs:
        assert fingerprint((named | {name: digest[::-1] + b"x"}).items()) != fingerprint(pairs)
        assert fingerprint((named | {name + "!": digest}).items()) != fingerprint(pairs)


def test_the_names_of_shipped_sets_are_those_that_records_bear():
    """What was made on photographs before contents were looked at is still found by its data."""
    former = json.loads(
        resources.files("mae_lib.data").joinpath("assets/fingerprints.json").read_text()
    )["former"]
    borne: set[str] = set()

    def look(value) -> None:
        if isinstance(value, dict):
            borne.update(
                [value["fingerprint"]] if isinstance(value.get("fingerprint"), str) else []
            )
            borne.update([""] if value.get("kind") == "coco" and "fingerprint" not in value else [])
        for inner in (
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        ):
            look(inner)

    for path in (
        *(ROOT / "results").rglob("*.json"),
        *(ROOT / "checkpoints").rglob("*.json"),
    ):
        look(json.loads(path.read_text()))
    assert set(former.values()) <= borne
