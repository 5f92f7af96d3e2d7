"""Shifted sets in their published layouts: which class each image counts as, whatever a probe was
trained on, and what is refused."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo

from image_folders import (
    fill,
    framed,
    index_folders,
    number_of,
    numbered,
    objectnet,
    picture,
    save,
    wnid_folders,
)
from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.data.encoded import FolderImages
from mae_lib.data.shifted import PUBLISHED, ShiftedSet, open_shifted

IMAGENET = ImageNetInfo("imagenet-1k")
WNIDS = IMAGENET.label_names()
SOME = random.Random(5).sample(WNIDS, 200)  # the classes of -R and -A, in no order
STRANGER = "n00000001"  # a class of the probe that no set has


def accepted(found: ShiftedSet, classes) -> list[set[str]]:
    """The class names that count as right for each image of the set, found without its batches."""
    return [
        {c for c, right in zip(classes, found.accepts[label].tolist()) if right}
        for label in found.source.labels.tolist()
    ]


def shuffled(names, seed: int = 0) -> list[str]:
    return random.Random(seed).sample(list(names), len(names))


@pytest.fixture(scope="module")
def v2(tmp_path_factory):
    return index_folders(tmp_path_factory.mktemp("v2") / "imagenetv2-matched-frequency-format-val")


@pytest.fixture(scope="module")
def renditions(tmp_path_factory):
    return wnid_folders(tmp_path_factory.mktemp("r") / "imagenet-r", SOME)


# 313 things, of which 113 mean one to four of ImageNet's classes, the names listed in an order of
# their own.
_draw = random.Random(7)
LINES = _draw.sample(range(1000), 1000)
NAMES = [""] * 1000
for _index, _line in enumerate(LINES):
    NAMES[_line] = IMAGENET.index_to_description(_index)
_pool = iter(_draw.sample([i for i in range(1000) if NAMES.count(NAMES[LINES[i]]) == 1], 400))
MEANT = {
    f"thing_{n:03d}": [next(_pool) for _ in range(1 + n % 4)] if n % 3 < 2 and n < 169 else []
    for n in shuffled(range(313))
}
THINGS = {folder: {WNIDS[i] for i in indices} for folder, indices in MEANT.items()}


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    spelled = {folder: [NAMES[LINES[i]] for i in indices] for folder, indices in MEANT.items()}
    return objectnet(tmp_path_factory.mktemp("o") / "objectnet-1.0", spelled, NAMES, LINES)


@pytest.fixture
def broken(things, tmp_path):
    """A copy of ObjectNet that a test may damage, and the probe's classes."""
    return shutil.copytree(things, tmp_path / "objectnet-1.0")


# -- ImageNet-v2 -----------------------------------------------------------------------------------


def test_v2_numbers_its_folders_as_numbers(v2):
    classes = shuffled(WNIDS)
    found = open_shifted("imagenet-v2", v2, classes, 8)
    assert (
        isinstance(found.source, ImageSource)
        and found.source.shape == (3, 8, 8)
        and found.name == "imagenet-v2"
    )
    assert (
        found.accepts.dtype == torch.bool
        and found.accepts.shape == (1000, 1000)
        and found.left_out == ()
    )
    assert found.accepts.any(0).all()
    numbers = number_of(found.source.images(range(1000)))
    assert sorted(numbers) == list(range(1000))
    assert accepted(found, classes) == [{WNIDS[n]} for n in numbers]


def test_v2_is_numbered_as_its_authors_say(v2):
    # modestyachts/ImageNetV2, issue 4: 0 is the tench, 1 the goldfish. 2 and 10 are those that
    # sorting as strings confuses.
    classes = ["n01440764", "n01443537", "n01484850", "n01530575", "n15075141"]
    found = open_shifted("imagenet-v2", v2, classes, 8)
    right = dict(zip(number_of(found.source.images(range(5))), accepted(found, classes)))
    assert right == {
        0: {"n01440764"},
        1: {"n01443537"},
        2: {"n01484850"},
        10: {"n01530575"},
        999: {"n15075141"},
    }


def test_v2_of_a_probe_on_a_few_classes_holds_these_alone(v2):
    classes = [*shuffled(WNIDS)[:20], STRANGER]
    found = open_shifted("imagenet-v2", v2, classes, 8)
    assert (
        len(found.source) == 20 and found.accepts.shape == (20, 21) and len(found.left_out) == 980
    )
    assert found.accepts.any(0).tolist() == [True] * 20 + [False]
    assert accepted(found, classes) == [
        {WNIDS[n]} for n in number_of(found.source.images(range(20)))
    ]
    assert {WNIDS[int(folder)] for folder in found.left_out} == set(WNIDS) - set(classes)


def test_v2_with_some_folders_missing_numbers_the_rest_alike(tmp_path):
    root = index_folders(tmp_path, [3, 20, 100])
    found = open_shifted("imagenet-v2", root, WNIDS, 8)
    assert accepted(found, WNIDS) == [{WNIDS[n]} for n in number_of(found.source.images(range(3)))]
    assert found.accepts.any(0).nonzero().flatten().tolist() == [3, 20, 100]


@pytest.mark.parametrize("folder", ["1000", "4294967296"])
def test_an_index_beyond_imagenet_is_named(tmp_path, folder):
    root = index_folders(tmp_path, [1, 2])
    (root / folder).mkdir()
    with pytest.raises(InputError, match=f"{folder} is no class.*0 … 999"):
        open_shifted("imagenet-v2", root, WNIDS, 8)


# -- ImageNet-R, -A, -Sketch -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["imagenet-r", "imagenet-a"])
@pytest.mark.parametrize("above", [False, True])
def test_two_hundred_classes_and_a_readme(renditions, name, above):
    classes = shuffled(WNIDS, 2)
    found = open_shifted(name, renditions.parent if above else renditions, classes, (8, 8))
    assert len(found.source) == 200 and found.accepts.shape == (200, 1000) and found.left_out == ()
    assert accepted(found, classes) == [
        {SOME[n]} for n in number_of(found.source.images(range(200)))
    ]
    assert {c for c, answer in zip(classes, found.accepts.any(0).tolist()) if answer} == set(SOME)


def test_a_probe_that_has_some_of_the_classes(renditions):
    classes = [STRANGER, *SOME[:30], *[w for w in WNIDS if w not in SOME][:30]]
    found = open_shifted("imagenet-r", renditions, classes, 8)
    assert sorted(number_of(found.source.images(range(len(found.source))))) == list(range(30))
    assert found.accepts.any(0).tolist() == [False] + [True] * 30 + [False] * 30
    assert set(found.left_out) == set(SOME[30:])


def test_sketches_lie_in_their_own_folder(tmp_path):
    wnid_folders(tmp_path / "sketch", WNIDS)
    found = open_shifted("imagenet-sketch", tmp_path, WNIDS, 8)
    assert torch.equal(found.accepts, torch.eye(1000, dtype=torch.bool)) and number_of(
        found.source.images([0, 500, 999])
    ) == [0, 500, 999]


def test_grey_images_and_other_sizes(renditions):
    found = open_shifted("imagenet-r", renditions, WNIDS, (6, 10), channels=1)
    assert found.source.shape == (1, 6, 10) and found.source.images([3]).shape == (1, 1, 6, 10)


# -- ObjectNet -------------------------------------------------------------------------------------


@pytest.mark.parametrize("above", [False, True])
def test_objectnet_counts_each_of_several_classes(things, above):
    classes = shuffled(WNIDS, 3)
    found = open_shifted("objectnet", things.parent if above else things, classes, 8)
    assert (
        len(found.source) == 113
        and found.accepts.shape == (113, 1000)
        and len(found.left_out) == 200
    )
    order = list(MEANT)
    seen = [order[n] for n in number_of(found.source.images(range(113)))]
    assert accepted(found, classes) == [THINGS[folder] for folder in seen]
    assert {len(right) for right in accepted(found, classes)} == {1, 2, 3, 4}
    assert set(found.left_out) == {folder for folder, right in THINGS.items() if not right}


def test_objectnet_of_a_probe_that_has_one_of_several_classes(things):
    several = [folder for folder, right in THINGS.items() if len(right) == 2]
    classes = [sorted(THINGS[several[0]])[0], *THINGS[several[1]], STRANGER]
    found = open_shifted("objectnet", things, classes, 8)
    assert set(found.source.classes) == set(several[:2]) and len(found.left_out) == 311
    assert found.accepts.sum(1).sort().values.tolist() == [1, 2] and found.accepts.any(
        0
    ).tolist() == [True] * 3 + [False]


@pytest.mark.parametrize("size", [8, (3, 5), 40])
def test_the_red_frame_is_gone(things, size):
    classes = sorted(set().union(*THINGS.values()))
    images = open_shifted("objectnet", things, classes, size).source.images(range(113))
    assert (images.flatten(2) == images.flatten(2)[:, :, :1]).all() and (images[:, 2] == 90).all()
    # Seen by a reader that leaves the frame on, it is there.
    assert FolderImages(things / "images", None, size).images([0])[0, 0].max() > 100


def test_a_border_is_cut_before_resizing(tmp_path):
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    for name in ("ant", "bee"):
        image = picture(len(name), 31, 22)
        frame = Image.new("RGB", (37, 28), (255, 0, 0))
        frame.paste(image, (3, 3))
        save(image, inner / name / "0.png")
        save(frame, outer / name / "0.png")
    for size in (7, 22, (50, 20)):
        assert torch.equal(
            FolderImages(outer, None, size, border=3).images([0, 1]),
            FolderImages(inner, None, size).images([0, 1]),
        )


def test_a_border_of_a_jpeg_is_counted_in_the_pixels_of_the_file(tmp_path):
    for name in ("ant", "bee"):
        save(picture(3, 400, 320), tmp_path / "jpg" / name / "0.jpg", quality=95)
        save(Image.open(tmp_path / "jpg" / name / "0.jpg"), tmp_path / "png" / name / "0.png")
    one, other = (
        FolderImages(tmp_path / kind, None, 16, border=20).images([0]) for kind in ("jpg", "png")
    )
    assert torch.equal(one, other)


def test_an_image_that_is_all_border_is_named(things, broken):
    folder = next(folder for folder, right in THINGS.items() if right)
    image = next((broken / "images" / folder).iterdir())
    save(picture(0, 4, 30), image)
    source = open_shifted("objectnet", broken, WNIDS, 8).source
    with pytest.raises(InputError, match=f"{image.name} is 4×30 pixels, nothing but its border"):
        source.images(range(len(source)))


def test_the_border_and_the_classes_are_part_of_the_identity(tmp_path):
    root = fill(tmp_path, splits=(".",), classes=("ant", "bee", "cat"))
    plain, framed_, fewer = (
        FolderImages(root, None),
        FolderImages(root, None, border=2),
        FolderImages(root, None, only={"cat", "ant"}),
    )
    assert (
        "border" not in plain.identity
        and plain.identity != framed_.identity != fewer.identity != plain.identity
    )
    assert fewer.classes == ("ant", "cat") and fewer.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(fewer.images(range(6)), plain.images([0, 1, 2, 6, 7, 8]))
    for wrong, said in (
        ({"only": ["ant", "dog"]}, "no class folder 'dog'"),
        ({"border": -1}, "border of -1"),
    ):
        with pytest.raises(InputError, match=said):
            FolderImages(root, None, **wrong)


def rewrite(root, name, change):
    path = root / "mappings" / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


MAPPINGS = (
    "folder_to_objectnet_label.json",
    "objectnet_to_imagenet_1k.json",
    "pytorch_to_imagenet_2012_id.json",
    "imagenet_to_label_2012_v2",
)


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_mapping_file_that_is_missing_or_damaged_is_named(broken, name):
    path = broken / "mappings" / name
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match=f"{name} is damaged"):
        open_shifted("objectnet", broken, WNIDS, 8)
    if name.endswith("json"):
        for text, said in (
            ('{"a": ', "is damaged"),
            ("[1]", "does not map names"),
            ('{"a": [1]}', "does not map names"),
        ):
            path.write_text(text)
            with pytest.raises(InputError, match=f"{name} {said}"):
                open_shifted("objectnet", broken, WNIDS, 8)
    path.unlink()
    with pytest.raises(InputError, match=f"{name} cannot be read.*restore it"):
        open_shifted("objectnet", broken, WNIDS, 8)


def test_other_numberings_of_the_classes_are_refused(broken):
    # Counted from 1, as the name "2012 id" may suggest, every class would be its neighbour.
    rewrite(
        broken,
        "pytorch_to_imagenet_2012_id.json",
        lambda lines: {index: line + 1 for index, line in lines.items()},
    )
    with pytest.raises(InputError, match="does not number the 1000 lines"):
        open_shifted("objectnet", broken, WNIDS, 8)
    rewrite(
        broken,
        "pytorch_to_imagenet_2012_id.json",
        lambda lines: {f"x{index}": line - 1 for index, line in lines.items()},
    )
    with pytest.raises(InputError, match="does not number the 1000 lines"):
        open_shifted("objectnet", broken, WNIDS, 8)


def test_mapping_files_that_do_not_fit_are_named(broken):
    rewrite(
        broken,
        "objectnet_to_imagenet_1k.json",
        lambda names: {label: f"{text}; unheard-of" for label, text in names.items()},
    )
    with pytest.raises(InputError, match="objectnet_to_imagenet_1k.json maps .* 'unheard-of'"):
        open_shifted("objectnet", broken, WNIDS, 8)
    (broken / "images" / "new_thing").mkdir()
    with pytest.raises(
        InputError, match="new_thing is not in mappings/folder_to_objectnet_label.json"
    ):
        open_shifted("objectnet", broken, WNIDS, 8)


# -- any other name --------------------------------------------------------------------------------


def test_any_other_set_is_mapped_by_name(tmp_path):
    fill(
        tmp_path / "sketch", splits=(".",), classes=("dog", "horse", "house", "unicorn"), images=12
    )
    classes = ["person", "house", "dog", "horse"]
    for directory in (tmp_path, tmp_path / "sketch"):
        found = open_shifted("sketch", directory, classes, (16, 16))
        assert (
            len(found.source) == 36
            and found.source.classes == ("dog", "horse", "house")
            and found.left_out == ("unicorn",)
        )
        assert found.accepts.int().tolist() == [[0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]]
        assert found.accepts.any(0).tolist() == [False, True, True, True]
    assert torch.equal(
        found.source.images([13]), FolderImages(tmp_path / "sketch", None, 16).images([13])
    )


def test_classes_called_by_wordnet_ids_need_no_published_layout(renditions):
    assert torch.equal(
        open_shifted("mine", renditions, SOME, 8).accepts,
        open_shifted("imagenet-r", renditions, SOME, 8).accepts,
    )


# -- what is refused -------------------------------------------------------------------------------


def test_a_set_is_made_by_hand_too_and_checked(renditions):
    source = FolderImages(renditions, None, 8)
    assert ShiftedSet("mine", source, torch.eye(200, dtype=torch.bool)).accepts.any(0).sum() == 200
    with pytest.raises(InputError, match=r"give bool \[200, C\]"):
        ShiftedSet("mine", source, torch.eye(200))
    with pytest.raises(InputError, match=r"give bool \[200, C\]"):
        ShiftedSet("mine", source, torch.eye(199, dtype=torch.bool))
    hole = torch.eye(200, dtype=torch.bool)
    hole[7, 7] = False
    with pytest.raises(InputError, match=f"no class counts as right for '{sorted(SOME)[7]}'"):
        ShiftedSet("mine", source, hole)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_need_a_probe_on_wordnet_ids(v2, name):
    with pytest.raises(InputError, match=f"{name} .*'dog' is none: probe on a folder"):
        open_shifted(name, v2, [WNIDS[0], "dog"], 8)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_shifted(name, v2 / "nowhere", WNIDS, 8)


def test_classes_that_do_not_map_are_refused(v2, renditions, things, tmp_path):
    fill(tmp_path, splits=(".",), classes=("ant", "bee"))
    for name, root in (("imagenet-v2", v2), ("imagenet-r", renditions), ("objectnet", things)):
        with pytest.raises(InputError, match=r"class folders in .* share no class: probe on"):
            open_shifted(name, root, [STRANGER, "n00000002"], 8)
    with pytest.raises(
        InputError, match="no folders named as the probe's classes, such as 'cat'.*imagenet-v2"
    ):
        open_shifted("cartoon", tmp_path, ["cat", "cow"], 8)
    with pytest.raises(InputError, match="no folders named as the probe's classes"):
        open_shifted("cartoon", tmp_path, [], 8)


def test_one_shared_class_is_refused(v2, renditions, things):
    for name, root, shared in (
        ("imagenet-v2", v2, WNIDS[7]),
        ("imagenet-a", renditions, SOME[0]),
        ("mine", renditions, SOME[0]),
    ):
        with pytest.raises(InputError, match="share one class only .* every probe gets right"):
            open_shifted(name, root, [shared, STRANGER], 8)
    several = next(sorted(right) for right in THINGS.values() if len(right) > 1)
    with pytest.raises(InputError, match="share one class only"):
        open_shifted("objectnet", things, several, 8)


def test_another_layout_is_named(v2, renditions, things):
    for name, root, said in (
        ("imagenet-v2", renditions, "has no index folders, 0 … 999: point"),
        ("imagenet-sketch", v2, "has no folders named by WordNet id"),
        ("objectnet", v2, "has no folder 'images'"),
        ("objectnet", things / "images", "has no folder 'images'"),
    ):
        with pytest.raises(InputError, match=said):
            open_shifted(name, root, WNIDS, 8)


def test_two_sets_side_by_side_are_refused(tmp_path):
    for name in ("imagenet-a", "imagenet-r"):
        wnid_folders(tmp_path / name, WNIDS[:2])
    with pytest.raises(InputError, match=r"holds 2 sets \(imagenet-a, imagenet-r\): point at one"):
        open_shifted("imagenet-r", tmp_path, WNIDS, 8)


def test_an_empty_class_folder_is_named_if_the_probe_has_the_class(tmp_path):
    root = wnid_folders(tmp_path, WNIDS[:3])
    for image in (root / WNIDS[1]).iterdir():
        image.unlink()
    with pytest.raises(InputError, match=f"{WNIDS[1]} is a class folder without images"):
        open_shifted("imagenet-a", root, WNIDS, 8)
    assert open_shifted("imagenet-a", root, [WNIDS[0], WNIDS[2]], 8).left_out == (WNIDS[1],)


def test_the_helpers_frames_and_numbers_are_what_they_say():
    inside = np.asarray(framed(777))
    assert (
        np.array_equal(inside[2:10, 2:10], np.asarray(numbered(777)))
        and (inside[:2] == (255, 0, 0)).all()
    )
    assert number_of(torch.from_numpy(np.asarray(numbered(777)).copy()).permute(2, 0, 1)[None]) == [
        777
    ]
