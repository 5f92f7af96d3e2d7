"""Sources of images: the protocol, threads, identity, sources in memory."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from image_folders import fill, picture, save
from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.data.datasets import Resident, Subset, nbytes
from mae_lib.data.encoded import FolderImages


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "set")


# -- the source ------------------------------------------------------------------------------------


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
    one, many = (
        FolderImages(folder, "train", 32, workers=1),
        FolderImages(folder, "train", 32, workers=4),
    )
    whole = one.images(range(6))
    assert torch.equal(whole, many.images(np.arange(6)))
    assert torch.equal(whole, torch.cat([many.images([i]) for i in range(6)]))
    assert torch.equal(whole, pickle.loads(pickle.dumps(many)).images(range(6)))


def test_many_threads_may_read_at_once(folder):
    source = FolderImages(folder, "train", 32, workers=2)
    whole = source.images(range(6))
    orders = [
        torch.randperm(6, generator=torch.Generator().manual_seed(seed)) for seed in range(40)
    ]
    with ThreadPoolExecutor(8) as pool:
        for order, images in zip(orders, pool.map(source.images, orders)):
            assert torch.equal(images, whole[order])


@pytest.mark.parametrize(
    "bad, error",
    [
        ([6], IndexError),
        ([-1], IndexError),
        ([0.5], TypeError),
        ([True], TypeError),
        ([[0]], TypeError),
    ],
)
def test_indices_are_checked(folder, bad, error):
    source = FolderImages(folder, "train")
    for each in (source, Resident(source)):
        with pytest.raises(error):
            each.images(bad)


@pytest.mark.parametrize("options", [{"image_size": 0}, {"image_size": (8, -1)}, {"channels": 0}])
def test_senseless_sizes_are_refused(folder, options):
    with pytest.raises(InputError, match="size|channels"):
        FolderImages(folder, "train", **options)


@pytest.mark.parametrize(
    "draws, smallest",
    [
        (torch.zeros(2, 4), 0.2),
        (torch.zeros(1, 3), 0.2),
        (torch.ones(1, 4), 0.2),
        (torch.full((1, 4), np.nan), 0.2),
        (torch.zeros(1, 4), 0),
        (torch.zeros(1, 4), 1.1),
    ],
)
def test_draws_of_crops_are_checked(folder, draws, smallest):
    source = FolderImages(folder, "train", 16)
    with pytest.raises(ValueError, match="draws must be|must be in \\(0, 1\\]"):
        source.crops([0], draws, smallest)
    with pytest.raises(IndexError):
        source.crops([6], torch.zeros(1, 4), 0.5)
    assert source.crops([], torch.zeros(0, 4), 0.5).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_a_subset_is_spread_evenly_over_the_classes(folder, count):
    source = FolderImages(folder, "train", 16)
    subset = Subset(source, count)
    kept = [k * len(source) // count for k in range(count)]
    assert (
        len(subset) == count and subset.shape == source.shape and subset.classes == source.classes
    )
    assert subset.labels.tolist() == source.labels[kept].tolist()
    assert torch.equal(subset.images(range(count)), source.images(kept)) and torch.equal(
        subset.images([count - 1]), source.images([kept[-1]])
    )
    assert (subset.identity == source.identity) == (count == len(source))
    per_class = subset.labels.bincount(minlength=len(source.classes))
    assert per_class.max() - per_class.min() <= 1
    assert torch.equal(Resident(subset, progress=False).images([0]), subset.images([0]))


@pytest.mark.parametrize("count", [0, -1, 7])
def test_a_subset_holds_some_of_the_images_and_no_more(folder, count):
    source = FolderImages(folder, "train", 16)
    with pytest.raises(InputError, match="the source holds 6"):
        Subset(source, count)
    with pytest.raises(IndexError):
        Subset(source, 3).images([3])


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


def test_the_first_bad_file_in_order_is_the_one_named(folder):
    for name in ("ant/1", "bee/0", "bee/2"):
        (folder / "train" / f"{name}.png").write_text("no image")
    for _ in range(5):
        with pytest.raises(InputError, match="ant/1.png"):
            FolderImages(folder, "train", workers=4).images(range(6))


# -- identity --------------------------------------------------------------------------------------


def test_identity_names_the_data_and_not_the_machine(folder, tmp_path):
    identity = FolderImages(folder, "train").identity
    assert json.loads(json.dumps(identity)) == identity and str(tmp_path) not in json.dumps(
        identity
    )
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
