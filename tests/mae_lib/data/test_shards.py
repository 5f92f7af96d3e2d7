"""Tar shards: equal to the folder they were packed from, readable by webdataset and from it, and
one clear line for whatever is missing or damaged."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from image_folders import fill, picture, save
from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.commands import cli
from mae_lib.data import shards
from mae_lib.data.datasets import Subset
from mae_lib.data.describe import describe
from mae_lib.data.encoded import FolderImages
from mae_lib.data.formats import tars as tar_files
from mae_lib.data.formats.tars import holds_shards
from mae_lib.data.image_files import EXTENSIONS
from mae_lib.data.shards import ShardImages, pack
from mae_lib.data.sources import image_source


@pytest.fixture
def folder(tmp_path) -> Path:
    """Splits, folders in class folders, and names with the dots and letters that archives trip
    over."""
    root = fill(tmp_path / "set", classes=("ant", "bee.v2", "wasp"), images=7)
    save(picture(50), root / "train" / "ant" / "deep.er" / "a.b%2E.c.JPEG")
    save(picture(51), root / "train" / "ant" / f"{'long' * 40}.webp")
    save(picture(52), root / "train" / "wasp" / "ähre 麦.png")
    save(picture(53), root / "train" / "wasp" / os.fsdecode(b"\xff.png"))
    return root


@pytest.fixture
def packed(folder, tmp_path) -> Path:
    pack(folder, tmp_path / "packed", megabytes=0.04)
    return tmp_path / "packed"


def tars(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar"))


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def hand_made(
    root: Path, members: dict[str, bytes] | None = None, classes: str = "ant\nbee\n", count: int = 2
) -> Path:
    """DIR/train with `count` shards of two samples; of the first one the given members."""
    for k in range(count):
        plain = {
            f"{k}-0.png": png(2 * k),
            f"{k}-0.cls": b"0",
            f"{k}-1.png": png(2 * k + 1),
            f"{k}-1.cls": b"1\n",
        }
        write_tar(
            root / "train" / f"x-{k:06}.tar", members if members is not None and k == 0 else plain
        )
    (root / "classes.txt").write_text(classes)
    return root


# -- equal to the folder ---------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_shards_give_what_their_folder_gives(folder, packed, split):
    plain, source = FolderImages(folder, split, 24), ShardImages(packed, split, 24)
    assert isinstance(source, ImageSource) and len(source.shards) > 1
    everything = range(len(plain))
    assert (
        source.identity == plain.identity
        and source.classes == plain.classes
        and torch.equal(source.labels, plain.labels)
    )
    assert torch.equal(source.images(everything), plain.images(everything))
    draws = torch.rand(
        len(plain), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(source.crops(everything, draws, 0.2), plain.crops(everything, draws, 0.2))
    for index in everything:  # byte for byte
        assert source.encoded(index).content == plain.path(index).read_bytes()
    assert Subset(source, 3).identity == Subset(plain, 3).identity


def test_class_folders_alone_are_packed_with_the_tenth_held_out(tmp_path):
    root = fill(tmp_path / "set", splits=(".",), images=12)
    pack(root, tmp_path / "out")
    for split in ("train", "val"):
        assert ShardImages(tmp_path / "out", split).identity == FolderImages(root, split).identity


def test_how_the_samples_are_spread_does_not_matter(folder, tmp_path):
    sources = []
    for megabytes in (0.01, 1000):
        pack(folder, tmp_path / str(megabytes), megabytes=megabytes)
        sources.append(ShardImages(tmp_path / str(megabytes), "train", 16))
    assert len(sources[0].shards) > len(sources[1].shards) == 1
    assert sources[0].identity == sources[1].identity
    assert torch.equal(*(source.images(range(len(source))) for source in sources))


def test_classes_in_another_order_are_another_set(tmp_path):
    root = hand_made(tmp_path)
    sorted_ones = ShardImages(root)
    (root / "classes.txt").write_text("bee\nant\n")
    others = ShardImages(root)
    assert sorted_ones.identity["kind"] == "folder" and others.identity["kind"] == "shards"
    assert others.classes == ("bee", "ant") and torch.equal(others.labels, sorted_ones.labels)
    write_tar(
        root / "train" / "x-000000.tar",
        {"0-0.png": png(0), "0-0.cls": b"1", "0-1.png": png(1), "0-1.cls": b"0"},
    )
    # the same files under other labels
    assert ShardImages(root).identity["fingerprint"] != others.identity["fingerprint"]


def test_the_source_is_picked_by_what_the_folder_holds(folder, packed, tmp_path):
    assert isinstance(image_source(packed, "validation", (16, 16)), ShardImages)
    assert isinstance(image_source(packed / "train", "train", (16, 16)), ShardImages)
    assert isinstance(image_source(folder, "validation", (16, 16)), FolderImages)
    flat = tmp_path / "flat"
    shutil.copytree(packed / "train", flat)
    shutil.copy(packed / "classes.json", flat)
    assert (
        image_source(flat, "train", (16, 16)).identity
        == image_source(packed, "train", (16, 16)).identity
    )
    with pytest.raises(InputError, match="no shards of the split 'val': put them into"):
        image_source(flat, "validation", (16, 16))
    # Archives beside the class folders that came out of them are no shards.
    for place in (folder, folder / "train"):
        write_tar(place / "ILSVRC2012_img_train.tar", {"a": b""})
    assert not holds_shards(folder) and isinstance(
        image_source(folder, "train", (16, 16)), FolderImages
    )


def test_many_threads_may_read_at_once_with_few_files_open(packed, monkeypatch):
    monkeypatch.setattr(tar_files, "_OPEN", 1)
    source = ShardImages(packed, "train", 16, workers=2)
    whole = source.images(range(len(source)))
    orders = [
        torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
        for seed in range(40)
    ]
    with ThreadPoolExecutor(8) as pool:
        for order, images in zip(orders, pool.map(source.images, orders)):
            assert torch.equal(images, whole[order])
    assert torch.equal(pickle.loads(pickle.dumps(source)).images(range(len(source))), whole)


def test_files_that_are_no_longer_used_are_closed(packed, monkeypatch):
    monkeypatch.setattr(tar_files, "_OPEN", 1)
    source = ShardImages(packed, "train", 16, workers=1)
    before = len(os.listdir("/proc/self/fd"))
    source.images(range(len(source)))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del source
    assert len(os.listdir("/proc/self/fd")) == before


# -- webdataset ------------------------------------------------------------------------------------


def test_webdataset_reads_what_we_write(folder, packed):
    webdataset = pytest.importorskip("webdataset")
    plain = FolderImages(folder, "train")
    expected = {
        plain.path(i).read_bytes(): str(int(plain.labels[i])).encode() for i in range(len(plain))
    }
    endings = {ending.removeprefix(".") for ending in EXTENSIONS}
    samples = list(
        webdataset.WebDataset(
            [str(path) for path in tars(packed / "train")], shardshuffle=False, empty_check=False
        )
    )
    assert len({sample["__key__"] for sample in samples}) == len(samples) == len(plain)
    for sample in samples:
        (ending,) = endings & sample.keys()
        assert expected[sample[ending]] == sample["cls"]


def test_we_read_what_webdataset_writes(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    (tmp_path / "train").mkdir()
    with webdataset.ShardWriter(
        str(tmp_path / "train" / "set-%06d.tar"), maxcount=4, verbose=0
    ) as writer:
        for k in range(10):
            writer.write(
                {
                    "__key__": f"sample{k:04}",
                    "png": png(k),
                    "cls": k % 3,
                    "json": {"k": k},
                    "txt": "words",
                }
            )
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    source = ShardImages(tmp_path, "train")
    assert len(source.shards) == 3 and source.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 3
    order = sorted(range(10), key=lambda k: (k % 3, k))
    assert torch.equal(
        source.images(range(10)),
        torch.from_numpy(np.stack([np.asarray(picture(k)).transpose(2, 0, 1) for k in order])),
    )


# -- what is missing or damaged --------------------------------------------------------------------


def refused(root: Path, *words: str, split: str = "train") -> str:
    with pytest.raises(InputError) as caught:
        source = ShardImages(root, split)
        source.images(range(len(source)))
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text and str(root) in text
    return text


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_missing_shard_is_named(packed, which):
    gone = tars(packed / "train")[which]
    gone.unlink()
    refused(packed, gone.name, "is missing", "index.json", "fetch or pack it again")
    (packed / "train" / "index.json").unlink()
    if which != -1:  # without the index, the numbering tells all but the last
        refused(packed, gone.name, "is missing", "fetch or pack it again")


def test_what_the_index_does_not_say_is_refused(packed):
    first, second = tars(packed / "train")[:2]
    stranger = shutil.copy(second, packed / "train" / "train-000099.tar")
    refused(packed, "train-000099.tar", "not in index.json")
    os.unlink(stranger)
    index = packed / "train" / "index.json"
    told = json.loads(index.read_text())
    told["shards"][1]["samples"] += 1
    index.write_text(json.dumps(told))
    refused(packed, second.name, "samples where index.json says")
    with open(first, "ab") as file:
        file.write(b"\0" * 512)
    refused(packed, first.name, "bytes where index.json says")
    index.write_text("{}")
    refused(packed, "is no index of shards", "delete it")


@pytest.mark.parametrize("indexed", [True, False])
@settings(deadline=None, max_examples=30)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_shard_is_named_wherever_it_was_cut(tmp_path_factory, indexed, share):
    root = tmp_path_factory.mktemp("cut")
    if indexed:
        pack(fill(root / "set", splits=("train",)), root / "out", ("train",), megabytes=0.02)
        root = root / "out"
    else:
        hand_made(root)
    path = tars(root / "train")[0]
    with tarfile.open(path) as tar:
        end = max(info.offset_data + -(-info.size // 512) * 512 for info in tar)
    os.truncate(path, int(share * (end + 512)))
    refused(
        root,
        path.name,
        "bytes where index.json" if indexed else "is damaged or truncated",
        "fetch or pack it again",
    )


def test_a_damaged_header_and_a_tail_of_zeros_are_named(tmp_path):
    root = hand_made(tmp_path)
    path = tars(root / "train")[1]
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2].offset
    path.write_bytes(content[:third] + b"\x7f" * 512 + content[third + 512 :])
    refused(root, path.name, "header is cut off or damaged")
    # as downloads leave it that reserve their place first
    path.write_bytes(bytes(content[:third]) + bytes(2 * 2**20))
    refused(root, path.name, "too early")
    path.write_bytes(b"")
    refused(root, path.name, "damaged or truncated")
    path.write_bytes(b"no tar " * 1000)
    refused(root, path.name, "damaged or truncated")


@pytest.mark.parametrize(
    "members, words",
    [
        (
            {"a.png": png(0), "a.cls": b"0", "b.jpg": png(0), "b.json": b"{}"},
            ("!b.jpg has no label",),
        ),
        ({"a.cls": b"0"}, ("!a has no image (cls)",)),
        ({"a.png": png(0), "a.jpg": png(0), "a.cls": b"0"}, ("!a has 2 images (png, jpg, cls)",)),
        ({"a.png": png(0), "a.cls": b"0", "a.CLS": b"1"}, ("!a has 2 labels",)),
        ({"a.png": png(0), "a.cls": b"2"}, ("!a.cls says '2'", "from 0 to 1")),
        ({"a.png": png(0), "a.cls": b"-1"}, ("!a.cls says '-1'",)),
        ({"a.png": png(0), "a.cls": b"ant"}, ("!a.cls says 'ant'",)),
        ({"a.png": b"hello", "a.cls": b"0"}, ("!a.png is not an image", "pack the shards again")),
        ({"a.png": b"", "a.cls": b"0"}, ("!a.png is empty",)),
        ({"a.png": png(0)[:300], "a.cls": b"0"}, ("!a.png is damaged or truncated",)),
        ({}, ("holds no samples",)),
        ({"notes": b"", ".a.png": png(0), "._b.png": png(0)}, ("holds no samples",)),
    ],
)
def test_a_bad_sample_is_named_with_its_shard(tmp_path, members, words):
    refused(hand_made(tmp_path, members), "x-000000.tar", *words)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_what_lies_beside_the_samples_does_not_matter(tmp_path):
    members = {
        "./": b"",
        "./d/a.PNG": png(0),
        "./d/a.cls": b"1",
        "./d/a.json": b"{}",
        "./d/a.npy": b"what a model made of it",
        "./d/._a.png": b"litter",
        "README": b"words",
        "README.md": b"words",
        "__meta__.json": b"{}",
    }
    source = ShardImages(hand_made(tmp_path, members, count=1))
    assert (
        len(source) == 1
        and source.labels.tolist() == [1]
        and source.encoded(0).name.endswith("x-000000.tar!./d/a.PNG")
    )


@pytest.mark.parametrize(
    "spoil, words",
    [
        (
            lambda root: shutil.move(
                root / "train" / "x-000001.tar", root / "train" / "x-000002.tar"
            ),
            ("x-000001.tar", "is missing beside the 2"),
        ),
        (
            lambda root: shutil.move(
                root / "train" / "x-000000.tar", root / "train" / "y-000000.tar"
            ),
            ("2 series", "'x-…' and 'y-…'"),
        ),
        (
            lambda root: (root / "train" / "x-000002.tar.gz").write_bytes(b""),
            ("x-000002.tar.gz is compressed",),
        ),
        (lambda root: (root / "classes.txt").write_text("ant\n"), ("at least two class names",)),
        (
            lambda root: (root / "classes.txt").write_text("ant\nant\n"),
            ("at least two class names, each once",),
        ),
        (lambda root: (root / "classes.json").write_text("{"), ("classes.json cannot be read",)),
        (lambda root: (root / "classes.json").write_text('{"0": "ant"}'), ("a JSON list",)),
        (lambda root: [path.unlink() for path in tars(root / "train")], ("holds no .tar files",)),
        (lambda root: shutil.rmtree(root / "train"), ("no shards of the split 'train'",)),
    ],
)
def test_folders_that_cannot_be_used_say_why(tmp_path, spoil, words):
    root = hand_made(tmp_path)
    spoil(root)
    refused(root, *words)


def test_a_shard_that_shrinks_or_goes_while_it_is_used_is_named(tmp_path):
    root = hand_made(tmp_path)
    source = ShardImages(root)
    os.truncate(source.shards[0], 600)
    with pytest.raises(InputError, match="x-000000.tar is shorter than it was"):
        source.images(range(4))
    source.shards[1].unlink()
    with pytest.raises(InputError, match="x-000001.tar cannot be read"):
        ShardImages.images(source, [1])


# -- packing ---------------------------------------------------------------------------------------


def everything(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_same_folder_gives_the_same_shards_in_a_mixed_order(folder, packed, tmp_path):
    pack(folder, tmp_path / "again", megabytes=0.04)
    assert everything(tmp_path / "again") == everything(packed)
    with tarfile.open(tars(packed / "train")[0]) as tar:
        classes = [name.split("/")[0] for name in tar.getnames()]
    assert classes != sorted(classes)


@given(st.lists(st.integers(0, 5000), max_size=40), st.floats(1, 20000))
def test_shards_end_at_the_first_sample_that_reaches_the_size(sizes, limit):
    parts = list(shards._parts(sizes, limit))
    assert [k for part in parts for k in part] == list(range(len(sizes)))
    weigh = lambda part: sum(1536 + -(-sizes[k] // 512) * 512 for k in part)
    assert all(weigh(part) >= limit for part in parts[:-1]) and all(
        weigh(part[:-1]) < limit for part in parts
    )


@given(
    st.text(alphabet="aé.% ", min_size=1, max_size=8).filter(lambda name: not name.startswith(".")),
    st.sampled_from(["png", "JPEG"]),
)
def test_names_go_through_a_shard_unchanged(stem, ending):
    member = tar_files.packed(f"ant.x/{stem}.{ending}")
    key, found = tar_files._MEMBER.fullmatch(member).groups()
    assert found == ending and key.startswith("ant.x/")
    assert (
        tar_files.unpacked(member, "ant.x")
        == tar_files.unpacked(f"./{member}", "ant.x")
        == f"ant.x/{stem}.{ending}"
    )


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("fault", ["full", "unreadable", "stopped"])
def test_whatever_fails_leaves_nothing(folder, tmp_path, monkeypatch, made, fault):
    out, calls, add = tmp_path / "out", [], shards._add
    if made:
        out.mkdir()

    def failing(tar, name, content):
        calls.append(name)
        if len(calls) > 30:
            if fault == "stopped":
                raise KeyboardInterrupt
            raise OSError(errno.ENOSPC, "No space left on device")
        add(tar, name, content)

    if fault == "unreadable":
        monkeypatch.setattr(
            shards,
            "_content",
            lambda path, real=shards._content: real(path if len(calls) < 30 else path / "gone"),
        )
        monkeypatch.setattr(shards, "_add", lambda *args: calls.append(args[1]) or add(*args))
    else:
        monkeypatch.setattr(shards, "_add", failing)
    with pytest.raises(
        KeyboardInterrupt if fault == "stopped" else InputError,
        match={"full": "disk is full", "unreadable": "cannot be opened"}.get(fault),
    ):
        pack(folder, out, megabytes=0.02)
    assert len(calls) >= 30 and out.exists() == made and not (made and any(out.iterdir()))


def test_too_little_space_is_said_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(
        InputError, match="out needs .* GB and its disk has 0.00 GB left: free some space"
    ):
        pack(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "prepare, options, message",
    [
        (
            lambda root, out: save(picture(0), out / "a.png"),
            {},
            "out is not empty, it holds 'a.png'",
        ),
        (lambda root, out: out.write_text(""), {}, "out is a file"),
        (
            lambda root, out: save(picture(0), root / "train" / "ant" / "0.jpg"),
            {},
            "differ in the ending alone",
        ),
        (lambda root, out: None, {"splits": ("test",)}, "no split 'test'"),
        (lambda root, out: None, {"megabytes": 0}, "above 0"),
        (
            lambda root, out: (root / "train" / "ant" / "0.jpg").symlink_to(root / "gone"),
            {},
            "0.jpg cannot be opened",
        ),
        (
            lambda root, out: [
                shutil.rmtree(root / "train"),
                shutil.copytree(root / "val", root / "test"),
                shutil.rmtree(root / "test" / "ant"),
            ],
            {},
            "pack one at a time",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused_and_nothing_is_touched(
    folder, tmp_path, prepare, options, message
):
    out = tmp_path / "out"
    prepare(folder, out)
    before = everything(tmp_path)
    with pytest.raises(InputError, match=message):
        pack(folder, out, **options)
    assert everything(tmp_path) == before


# -- commands and descriptions ---------------------------------------------------------------------


def mae(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return int(ended.value.code or 0)


def test_the_command_packs_and_says_how_to_go_on(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert mae("data", "shard", folder, out, "--split", "train", "--megabytes", "0.04") == 0
    assert [path.name for path in out.iterdir() if path.is_dir()] == ["train"]
    text = capsys.readouterr().out
    assert (
        f"train: 25 images in {len(tars(out / 'train'))} shard(s)" in text
        and f"mae pretrain --data {out}" in text
    )
    assert mae("data", "shard", folder, out) == 2
    error = capsys.readouterr().err
    assert error.startswith("mae: ") and "is not empty" in error and error.count("\n") == 1
    assert mae("data", "shard", "--help") == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("DIR", "OUT", "--split", "--megabytes"))


def test_a_model_trained_on_the_folder_is_the_one_of_its_shards(tmp_path, capsys):
    root = fill(tmp_path / "set")
    pack(root, tmp_path / "out")
    words = [
        "pretrain",
        "--tier",
        "smoke",
        "--steps",
        2,
        "--batch",
        4,
        "--out",
        tmp_path / "checkpoints",
    ]
    assert mae(*words, "--data", root) == 0 and "0 already stored" in capsys.readouterr().out
    assert (
        mae(*words, "--data", tmp_path / "out") == 0
        and "1 already stored" in capsys.readouterr().out
    )
    (tmp_path / "out" / "train" / "train-000000.tar").unlink()
    assert mae(*words, "--data", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("mae: ")
        and "train-000000.tar is missing" in error
        and error.count("\n") == 1
    )


def test_shards_are_described_like_their_folder(folder, packed):
    told, plain = describe(packed), describe(folder)
    assert (
        told.usable
        and told.command == f"mae pretrain --data {packed}"
        and told.files == told.checked == plain.files
    )
    for same in ("splits", "classes", "formats", "modes", "smallest", "largest", "warnings"):
        assert getattr(told, same) == getattr(plain, same), same
    assert (
        told.layout
        == f"tar shards, {len(tars(packed / 'train'))} of train, {len(tars(packed / 'val'))} of val"
    )
    assert str(packed) in str(told) and json.loads(json.dumps(told.to_dict()))


def test_descriptions_name_bad_members_and_missing_shards(tmp_path):
    root = hand_made(
        tmp_path, {"a.png": png(0)[:300], "a.cls": b"0", "b.png": png(1), "b.cls": b"1"}
    )
    told = describe(root)
    assert (
        not told.usable
        and told.problem_count == 1
        and "x-000000.tar!a.png" in told.problems[0]
        and "1 of 4" in told.reason
    )
    (root / "train" / "x-000000.tar").unlink()
    told = describe(root)
    assert (
        not told.usable
        and "x-000000.tar is missing" in told.reason
        and told.files == 0
        and told.layout == "tar shards"
    )
