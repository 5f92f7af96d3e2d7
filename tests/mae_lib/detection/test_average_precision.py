"""COCO's 24 numbers equal pycocotools' on random detections, whatever the images, crowds, ids and
ties; the truth fed back scores 1; a subset of images is scored as a file of its own; what does not
fit is named."""

from __future__ import annotations

import json
import math
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coco_folders import CATEGORIES, blob, instance, random_content, save_coco
from mae_lib.base.errors import InputError
from mae_lib.data.coco import CocoFolder, open_coco, write_scenes
from mae_lib.detection.average_precision import (
    MEASURES,
    Detections,
    average_precision,
    found_and_named,
)
from mae_lib.worlds.world import Scenes

SIZE = (60, 80)


def pycocotools_numbers(
    path: Path, truth: CocoFolder, detections: list[Detections], indices: list[int]
) -> dict[str, float]:
    """The oracle, from the annotations file itself. Boxes and masks are scored apart: given both,
    COCO's tools take areas from the boxes."""
    numbers = {}
    with redirect_stdout(None):
        oracle = COCO(str(path))
        for prefix, kind in (("box", "bbox"), ("mask", "segm")):
            results = []
            for i, found in zip(indices, detections, strict=True):
                for box, label, score, mask in zip(
                    found.boxes, found.labels, found.scores, found.masks, strict=True
                ):
                    x0, y0, x1, y1 = box.double().tolist()
                    what = (
                        {"bbox": [x0, y0, x1 - x0, y1 - y0]}
                        if kind == "bbox"
                        else {"segmentation": coded(mask)}
                    )
                    results.append(
                        what
                        | {
                            "image_id": truth.image_ids[i],
                            "category_id": truth.category_ids[label - 1],
                            "score": float(score),
                        }
                    )
            found = oracle.loadRes(results) if results else empty(oracle)
            scoring = COCOeval(oracle, found, kind)
            scoring.params.imgIds = [truth.image_ids[i] for i in indices]
            scoring.evaluate()
            scoring.accumulate()
            scoring.summarize()
            numbers |= {
                f"{prefix}/{name}": value if value >= 0 else math.nan
                for name, value in zip(MEASURES, scoring.stats, strict=True)
            }
    return numbers


def coded(mask: torch.Tensor) -> dict:
    return rle_api.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))


def empty(oracle: COCO) -> COCO:
    """`loadRes` fails on no results."""
    none = COCO()
    none.dataset = oracle.dataset | {"annotations": []}
    none.createIndex()
    return none


def detect(
    truth: CocoFolder, i: int, rng: np.random.Generator, strangers: int, levels: int
) -> Detections:
    """The instances of an image, some found twice, moved, confused or missed, and strangers; few
    levels of the score make ties."""
    height, width = truth.size(i)
    real = truth.instances(i)
    boxes, labels, masks = [], [], []
    for k in range(len(real.labels)):
        for _ in range(rng.integers(0, 3)):
            shift = (int(rng.integers(-3, 4)), int(rng.integers(-3, 4)))
            masks.append(np.roll(real.masks[k].numpy(), shift, (0, 1)))
            boxes.append(real.boxes[k].numpy() + rng.normal(0, rng.choice([0, 0.5, 3]), 4))
            labels.append(int(real.labels[k]) if rng.random() < 0.8 else int(rng.integers(1, 4)))
    for _ in range(rng.integers(0, strangers + 1)):
        masks.append(blob(rng, height, width))
        x0, y0, x1, y1 = np.sort(rng.uniform(-5, 85, (2, 2)), axis=0).flatten()
        boxes.append([x0, y0, x1, y1])
        labels.append(int(rng.integers(1, 4)))
    scores = rng.integers(0, levels, len(labels)) / levels
    return detections(boxes, labels, scores, masks, (height, width))


def detections(boxes, labels, scores, masks, size: tuple[int, int]) -> Detections:
    return Detections(
        boxes=torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.int64),
        scores=torch.tensor(np.array(scores), dtype=torch.float32),
        masks=torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size)),
    )


def nothing(size: tuple[int, int] = SIZE) -> Detections:
    return detections([], [], [], [], size)


def fed_back(truth: CocoFolder, i: int, rng: np.random.Generator) -> Detections:
    real = truth.instances(i)
    return Detections(
        real.boxes, real.labels, torch.from_numpy(rng.random(len(real.labels))).float(), real.masks
    )


def agree(mine: dict[str, float], oracle: dict[str, float]) -> None:
    assert list(mine) == list(oracle) and len(mine) == 24
    worst = max(
        mine,
        key=lambda key: (
            abs(mine[key] - oracle[key])
            if mine[key] == mine[key] and oracle[key] == oracle[key]
            else -1
        ),
    )
    assert all(math.isnan(mine[key]) == math.isnan(oracle[key]) for key in mine), (mine, oracle)
    assert math.isnan(mine[worst]) or abs(mine[worst] - oracle[worst]) <= 1e-6, (
        worst,
        mine[worst],
        oracle[worst],
    )


def folder(root: Path, content: dict) -> CocoFolder:
    save_coco(root, content)
    return open_coco(root, "train2017")


# --------------------------------------------------------------------------------------------------
# Against pycocotools


@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 5),
    instances=st.integers(1, 9),
    crowds=st.booleans(),
    strangers=st.sampled_from([0, 5, 20]),
    levels=st.sampled_from([2, 7, 1000]),
    size=st.sampled_from([SIZE, (200, 180)]),
    part=st.booleans(),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_it_equals_pycocotools_on_random_detections(
    tmp_path_factory, seed, images, instances, crowds, strangers, levels, size, part
):
    truth = folder(
        tmp_path_factory.mktemp("coco"), random_content(seed, images, instances, size, crowds)
    )
    rng = np.random.default_rng(seed)
    indices = (
        rng.permutation(images)[: rng.integers(1, images + 1)].tolist()
        if part
        else list(range(images))
    )
    found = [detect(truth, i, rng, strangers, levels) for i in indices]
    agree(
        average_precision(truth, found, indices if part else None),
        pycocotools_numbers(truth.annotations, truth, found, indices),
    )


def test_of_more_than_a_hundred_detections_the_best_hundred_count(tmp_path):
    truth, rng = (
        folder(tmp_path, random_content(3, images=3, instances=4)),
        np.random.default_rng(0),
    )
    crowded = [detect(truth, i, rng, 0, 50) for i in range(3)]
    many = [[blob(rng, *SIZE) for _ in range(260)] for _ in range(3)]
    found = []
    for few, masks in zip(crowded, many, strict=True):
        boxes = [[0, 0, *rng.uniform(1, 60, 2)] for _ in masks]
        extra = detections(
            boxes,
            rng.integers(1, 3, len(masks)).tolist(),
            rng.integers(0, 50, len(masks)) / 50,
            masks,
            SIZE,
        )
        found.append(
            Detections(
                *(
                    torch.cat([getattr(few, key), getattr(extra, key)])
                    for key in ("boxes", "labels", "scores", "masks")
                )
            )
        )
    mine = average_precision(truth, found)
    agree(mine, pycocotools_numbers(truth.annotations, truth, found, [0, 1, 2]))
    best = [replace_rows(one, one.scores.argsort(descending=True, stable=True)) for one in found]
    agree(average_precision(truth, [per_class_top(one, 100) for one in best]), mine)


def replace_rows(one: Detections, rows: torch.Tensor) -> Detections:
    return Detections(one.boxes[rows], one.labels[rows], one.scores[rows], one.masks[rows])


def per_class_top(one: Detections, count: int) -> Detections:
    rows = torch.cat([(one.labels == label).nonzero()[:count, 0] for label in one.labels.unique()])
    return replace_rows(one, rows.sort().values)


def test_masks_are_sorted_by_their_own_area_not_their_box(tmp_path):
    """A thin frame of 396 pixels is small; its box of 100 by 100 is large. Boxes are sorted by
    theirs."""
    height, width = 120, 120
    frame, elsewhere = np.zeros((height, width), dtype=bool), np.zeros((height, width), dtype=bool)
    frame[5:105, 5:105], elsewhere[:10, 110:] = True, True
    frame[6:104, 6:104] = False
    content = random_content(0, images=1, size=(height, width))
    content["annotations"] = [{"id": 1} | instance(elsewhere)]
    truth = folder(tmp_path, content)
    found = [
        detections(
            [[5, 5, 105, 105], [110, 0, 120, 10]],
            [1, 1],
            [0.9, 0.8],
            [frame, elsewhere],
            (height, width),
        )
    ]
    mine = average_precision(truth, found)
    agree(mine, pycocotools_numbers(truth.annotations, truth, found, [0]))
    assert mine["box/APs"] == pytest.approx(1) and mine["mask/APs"] == pytest.approx(0.5)


def test_no_detections_score_nothing_and_false_ones_on_empty_images_count(tmp_path):
    content = random_content(1, images=3, crowds=False)
    truth = folder(tmp_path, content)
    none = [nothing()] * 3
    mine = average_precision(truth, none)
    agree(mine, pycocotools_numbers(truth.annotations, truth, none, [0, 1, 2]))
    assert mine["box/AP"] == mine["mask/AR100"] == 0
    rng = np.random.default_rng(0)
    perfect = [fed_back(truth, i, rng) for i in range(3)]
    stranger = detections([[0, 0, 9, 9]] * 2, [1, 2], [2.0, 2.0], [blob(rng, *SIZE)] * 2, SIZE)
    assert (
        average_precision(truth, perfect)["box/AP"]
        == 1
        > average_precision(truth, [*perfect[:2], stranger])["box/AP"]
    )


def test_without_instances_every_number_is_undefined(tmp_path):
    content = random_content(1, images=1)
    content["annotations"] = []
    truth = folder(tmp_path, content)
    rng = np.random.default_rng(0)
    for found in ([nothing()], [detect(truth, 0, rng, 20, 9)]):
        assert all(math.isnan(value) for value in average_precision(truth, found).values())


def test_dropped_instances_still_count_as_coco_counts_them(tmp_path):
    content = random_content(2, images=2, crowds=False)
    content["annotations"][0] |= {"bbox": [500, 500, 4, 4]}
    truth = folder(tmp_path, content)
    rng = np.random.default_rng(0)
    found = [fed_back(truth, i, rng) for i in range(2)]
    mine = average_precision(truth, found)
    agree(mine, pycocotools_numbers(truth.annotations, truth, found, [0, 1]))
    assert truth.dropped and mine["box/AR100"] < 1


# --------------------------------------------------------------------------------------------------
# The truth fed back


@pytest.mark.parametrize("seed", range(5))
def test_the_truth_scores_one(tmp_path, seed):
    truth, rng = folder(tmp_path, random_content(seed, crowds=False)), np.random.default_rng(seed)
    mine = average_precision(truth, [fed_back(truth, i, rng) for i in range(len(truth))])
    defined = {
        key: value
        for key, value in mine.items()
        if not key.endswith(("AR1", "AR10")) and not math.isnan(value)
    }
    assert len(defined) >= 12 and all(
        value == pytest.approx(1, abs=1e-12) for value in defined.values()
    ), defined


def test_the_scenes_truth_scores_one(tmp_path):
    truth, rng = (
        write_scenes(Scenes("validation", size=96, length=60), tmp_path, "validation"),
        np.random.default_rng(0),
    )
    mine = average_precision(truth, [fed_back(truth, i, rng) for i in range(60)])
    assert all(
        mine[f"{kind}/{name}"] == pytest.approx(1, abs=1e-12)
        for kind in ("box", "mask")
        for name in ("AP", "AP50", "AP75", "APs", "AR100")
    )


def test_an_instance_whose_id_is_zero_counts(tmp_path):
    """pycocotools itself takes it for a missed one."""
    content = random_content(2, images=1)
    mask = blob(np.random.default_rng(0), *SIZE)
    content["annotations"] = [{"id": 0} | instance(mask)]
    truth = folder(tmp_path, content)
    assert average_precision(truth, [fed_back(truth, 0, np.random.default_rng(0))])[
        "mask/AP"
    ] == pytest.approx(1)


# --------------------------------------------------------------------------------------------------
# Invariances


def test_a_subset_is_scored_as_a_file_of_its_own(tmp_path):
    content = random_content(4, images=5)
    truth, rng = folder(tmp_path / "all", content), np.random.default_rng(0)
    found = [detect(truth, i, rng, 5, 7) for i in range(5)]
    kept = {picture["id"] for picture in content["images"][1:4]}
    few = content | {
        "images": content["images"][1:4],
        "annotations": [a for a in content["annotations"] if a["image_id"] in kept],
    }
    agree(
        average_precision(truth, found[1:4], [1, 2, 3]),
        average_precision(folder(tmp_path / "few", few), found[1:4]),
    )


def test_ids_do_not_matter(tmp_path):
    content = random_content(5, images=4)
    truth, rng = folder(tmp_path / "gaps", content), np.random.default_rng(0)
    found = [detect(truth, i, rng, 5, 1000) for i in range(4)]
    text = json.dumps(content["annotations"])
    plain = content | {
        "annotations": [
            a | {"category_id": {2: 1, 7: 2}[a["category_id"]]} for a in json.loads(text)
        ],
        "categories": [c | {"id": {2: 1, 7: 2, 90: 3}[c["id"]]} for c in CATEGORIES],
    }
    agree(
        average_precision(truth, found), average_precision(folder(tmp_path / "plain", plain), found)
    )


def test_any_rising_change_of_the_scores_leaves_the_numbers(tmp_path):
    truth, rng = folder(tmp_path, random_content(6)), np.random.default_rng(0)
    found = [detect(truth, i, rng, 5, 7) for i in range(len(truth))]
    agree(
        average_precision(truth, found),
        average_precision(truth, [replace(one, scores=50 * one.scores**3 - 7) for one in found]),
    )


# --------------------------------------------------------------------------------------------------
# Where or what


def test_an_instance_is_named_by_the_best_detection_that_covers_it(tmp_path):
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:30, 10:30] = True
    content = random_content(0, images=2)
    crowd = {"id": 3} | instance(mask, crowd=1)
    content["annotations"] = [
        {"id": 1} | instance(mask),
        {"id": 2} | instance(np.roll(mask, 40, 1), category=7),
        crowd,
    ]
    truth = folder(tmp_path, content)
    here, near, there, far = [10, 10, 30, 30], [12, 10, 32, 30], [50, 10, 70, 30], [25, 10, 45, 30]

    def counts(boxes, labels, scores, **options):
        first = detections(boxes, labels, scores, np.zeros((len(labels), *SIZE)), SIZE)
        return found_and_named(truth, [first, nothing()], **options)

    assert counts([here, there], [1, 2], [0.1, 0.2]) == (2, 2, 2)
    assert counts([], [], []) == (2, 0, 0) and counts([far], [1], [0.9]) == (2, 0, 0)
    assert counts([here, there], [2, 1], [0.1, 0.2]) == (2, 2, 0)
    # the better score says the right class
    assert counts([here, near, there], [2, 1, 2], [0.1, 0.2, 0.3]) == (2, 2, 2)
    assert counts([here, near, there], [1, 2, 2], [0.1, 0.2, 0.3]) == (2, 2, 1)
    assert counts([near], [1], [0.2], least_overlap=0.9) == (2, 0, 0) and counts(
        [near], [1], [0.2], least_overlap=0.8
    ) == (2, 1, 1)


def test_the_truth_fed_back_is_all_covered_and_named_but_for_crowds(tmp_path):
    content = random_content(4, images=6, instances=2)
    truth, rng = folder(tmp_path, content), np.random.default_rng(0)
    single = sum(not entry["iscrowd"] for entry in content["annotations"])
    instances, covered, named = found_and_named(truth, [fed_back(truth, i, rng) for i in range(6)])
    assert instances == covered == single >= named > 0
    with pytest.raises(InputError, match="5 detections for 6"):
        found_and_named(truth, [nothing()] * 5)


# --------------------------------------------------------------------------------------------------
# What does not fit is named


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    truth, rng = (
        folder(tmp_path_factory.mktemp("pair"), random_content(0, images=2)),
        np.random.default_rng(0),
    )
    return truth, detections([[0, 0, 9, 9.0]], [1], [0.5], [blob(rng, *SIZE)], SIZE)


CHANGES = {
    "label 0": ({"labels": torch.tensor([0])}, r"image 13.*1 … 3, 0 is the background"),
    "label 4": ({"labels": torch.tensor([4])}, r"image 13.*1 … 3"),
    "nan score": ({"scores": torch.tensor([torch.nan])}, "image 13.*NaN"),
    "nan box": ({"boxes": torch.tensor([[0, 0, torch.nan, 1]])}, "image 13.*NaN"),
    "infinite box": ({"boxes": torch.tensor([[0, 0, torch.inf, 1]])}, "image 13.*infinite"),
    "small mask": (
        {"masks": torch.zeros(1, 28, 28, dtype=torch.bool)},
        r"image 13.*\[1, 28, 28\], not \[1, 60, 80\]",
    ),
    "soft mask": ({"masks": torch.zeros(1, *SIZE)}, "image 13.*threshold"),
    "no mask": ({"masks": torch.zeros(0, *SIZE, dtype=torch.bool)}, "image 13.*masks of shape"),
    "two boxes": ({"boxes": torch.zeros(2, 4)}, "image 13.*do not fit"),
    "column": ({"scores": torch.zeros(1, 1)}, "image 13.*do not fit"),
}


@pytest.mark.parametrize("change, message", CHANGES.values(), ids=CHANGES)
def test_a_wrong_detection_is_named_with_its_image(pair, change, message):
    truth, one = pair
    with pytest.raises(InputError, match=message):
        average_precision(truth, [one, replace(one, **change)])


@pytest.mark.parametrize(
    "count, indices, message",
    [
        (1, None, "1 detections for 2 images"),
        (3, None, "3 detections for 2"),
        (2, [0], "2 detections for 1"),
        (0, [], "no image"),
        (2, [0, 0], "must differ"),
        (2, [0, 2], "0 … 1"),
        (2, [-1, 0], "0 … 1"),
    ],
)
def test_wrong_indices_are_named(pair, count, indices, message):
    truth, one = pair
    with pytest.raises(InputError, match=message):
        average_precision(truth, [one] * count, indices)


@pytest.mark.parametrize("ids", [(90, 2, 7), (2, 90, 7), (7, 90, 2), (1, 2, 3)])
def test_a_perfect_detector_is_perfect_whatever_ids_the_scored_split_gives_the_same_names(
    tmp_path, ids
):
    content = random_content(3, images=3, crowds=False)
    save_coco(tmp_path, content)
    of = {old["id"]: new for new, old in zip(ids, content["categories"])}
    other = content | {
        "categories": [
            {"id": of[each["id"]], "name": each["name"]} for each in content["categories"]
        ],
        "annotations": [
            each | {"category_id": of[each["category_id"]]} for each in content["annotations"]
        ],
    }
    save_coco(tmp_path, other, split="val2017")
    train = open_coco(tmp_path, "train")
    val = open_coco(tmp_path, "val", train.classes)
    assert val.classes == train.classes and [of[k] for k in train.category_ids] == list(
        val.category_ids
    )
    found = [
        # as trained: labels of the training split
        Detections(real.boxes, real.labels, torch.linspace(0.5, 1, len(real.labels)), real.masks)
        for real in map(train.instances, range(len(train)))
    ]
    scores = average_precision(val, found)
    assert (
        scores["box/AP"] == pytest.approx(average_precision(train, found)["box/AP"])
        and scores["box/AP"] > 0.9
    )


@pytest.mark.parametrize(
    "names, message",
    [
        (
            ["cat", "ant", "wasp"],
            "lacks the category 'bee', which the training split has: list the same",
        ),
        (["cat", "ant"], "lacks the category 'bee'"),
        (
            ["cat", "ant", "bee", "wasp", "dog"],
            "has the category 'dog' and 1 more, which the training split lacks",
        ),
        (["bee", "ant", "cat", "ant"], "'ant' more than once: give each a name of its own"),
    ],
)
def test_categories_of_other_names_are_refused(tmp_path, names, message):
    content = random_content(3, images=2) | {"annotations": []}
    save_coco(tmp_path, content)
    save_coco(
        tmp_path,
        content | {"categories": [{"id": k, "name": name} for k, name in enumerate(names)]},
        split="val2017",
    )
    with pytest.raises(InputError, match=message) as caught:
        open_coco(tmp_path, "val", open_coco(tmp_path, "train").classes)
    assert "instances_val2017.json" in str(caught.value) and "\n" not in str(caught.value)
