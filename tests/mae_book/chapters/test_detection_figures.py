"""Drawings and tables of detectors show the instances and numbers they were given, at any number of
runs and seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from looking import drawn  # noqa: F401 (renders and closes every figure)
from mae_book.chapters.detection_figures import (
    LABELS,
    TABLE_RUNS,
    gain_table,
    instance_rows,
    precision_table,
    transfer_panels,
)
from mae_lib.base.errors import InputError
from mae_lib.base.runs import RATIO_RUNS, RUNS
from mae_lib.data.coco import Instances
from mae_lib.detection.average_precision import Detections

CLASSES = ("ant", "bee", "cat")
IMAGE = torch.full((3, 20, 30), 0.5)
MASKS = torch.zeros(2, 20, 30, dtype=torch.bool)
MASKS[0, 2:6, 3:9], MASKS[1, 10:18, 12:28] = True, True
BOXES = torch.tensor([[3.0, 2, 9, 6], [12, 10, 28, 18]])
TRUTH = Instances(
    BOXES, torch.tensor([1, 3]), MASKS, torch.zeros(2, dtype=torch.bool), torch.ones(2)
)
FOUND = Detections(BOXES, torch.tensor([2, 3]), torch.tensor([0.9, 0.3]), MASKS)
NOTHING = Instances(
    BOXES[:0],
    torch.zeros(0, dtype=torch.int64),
    MASKS[:0],
    torch.zeros(0, dtype=torch.bool),
    torch.zeros(0),
)


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def boxes(axis) -> list[list[float]]:
    return [
        [*patch.get_xy(), patch.get_width(), patch.get_height()]
        for patch in axis.patches
        if isinstance(patch, Rectangle)
    ]


def test_pictures_show_every_instance_with_its_class_and_only_sure_detections_with_their_score():
    figure = instance_rows(
        [IMAGE, IMAGE], {"truth": [TRUTH, NOTHING], "found": [FOUND, FOUND]}, CLASSES
    )
    first, empty, found, _ = figure.axes
    assert texts(first) == ["ant", "cat"] and boxes(first) == [[2.5, 1.5, 6, 4], [11.5, 9.5, 16, 8]]
    assert (
        texts(empty) == []
        and boxes(empty) == []
        and first.get_ylabel() == "truth"
        and found.get_ylabel() == "found"
    )
    assert texts(found) == ["bee 90"]
    bare = instance_rows([IMAGE], {"scene": [None]}, CLASSES).axes[0]
    assert (
        texts(bare) == []
        and boxes(bare) == []
        and np.all(np.asarray(bare.get_images()[0].get_array()) == 0.5)
    )
    assert texts(instance_rows([IMAGE], {"found": [FOUND]}, CLASSES, least_score=0.1).axes[0]) == [
        "cat 30",
        "bee 90",
    ]


def test_masks_are_tinted_and_the_rest_of_the_picture_is_left():
    shown = np.asarray(
        instance_rows([IMAGE], {"truth": [TRUTH]}, CLASSES).axes[0].get_images()[0].get_array()
    )
    changed = (shown != 0.5).any(-1)
    assert np.array_equal(changed, MASKS.any(0).numpy())
    assert not np.allclose(shown[3, 4], shown[12, 14])  # two classes, two colours


def test_what_does_not_fit_a_picture_is_named():
    with pytest.raises(InputError, match="one entry of each row for each of the 2"):
        instance_rows([IMAGE, IMAGE], {"truth": [TRUTH]}, CLASSES)
    with pytest.raises(InputError, match="at least one image"):
        instance_rows([], {}, CLASSES)
    with pytest.raises(InputError, match=r"masks of \[20, 29\]"):
        instance_rows([IMAGE], {"truth": [replace(TRUTH, masks=MASKS[:, :, 1:])]}, CLASSES)


def as_records(values: dict[str, dict[str, dict[int, float]]]) -> list[dict]:
    """values: run → measure → seed → value."""
    seeds = {
        run: sorted({s for by_seed in measures.values() for s in by_seed})
        for run, measures in values.items()
    }
    return [
        {
            "name": run,
            "run": run,
            "seed": s,
            "measures": {
                m: {"value": by_seed[s]} for m, by_seed in measures.items() if s in by_seed
            },
        }
        for run, measures in values.items()
        for s in seeds[run]
    ]


VALUES = {
    "r75": {"box/AP": {0: 0.40, 1: 0.42, 2: 0.44}, "mask/AP": {0: 0.3, 1: 0.3, 2: 0.3}},
    "scratch": {"box/AP": {0: 0.30, 1: 0.34, 2: 0.32}, "mask/AP": {0: 0.2, 1: 0.2, 2: 0.2}},
    "large": {"box/AP": {0: 0.5, 1: 0.6}, "mask/AP": {0: 0.1, 1: 0.2}},
    "scratch-small": {"box/AP": {0: 0.45}, "mask/AP": {0: 0.15}},
}


def test_a_table_has_a_row_a_run_in_order_and_a_dash_for_what_coco_leaves_undefined():
    table = precision_table(
        as_records(VALUES),
        {"box/AP": "box AP", "box/APl": "large"},
        ".2f",
        {"box/AP": {"r75": 39.72}},
    )
    assert table.header == ["run", "seeds", "box AP", "large"]
    assert [row[0] for row in table.rows] == [
        "from scratch",
        "ratio 0.75",
        "from scratch, small patch",
        "unit: large",
    ]
    assert [row[1] for row in table.rows] == ["3", "3", "1", "2"] and {
        row[3] for row in table.rows
    } == {"—"}
    assert (
        table.rows[1][2] == "0.42 [0.37,\N{NO-BREAK SPACE}0.47] (paper\N{NO-BREAK SPACE}39.72)"
        and table.rows[2][2] == "0.45"
    )


def test_gains_are_paired_by_seed_with_the_baseline_of_the_same_patch():
    table = gain_table(as_records(VALUES), {"box/AP": "box AP", "mask/AP": "mask AP"}, "+.2f")
    assert [row[:3] for row in table.rows] == [
        ["ratio 0.75", "from scratch", "3"],
        ["unit: large", "from scratch, small patch", "1"],
    ]
    assert (
        table.rows[0][3].startswith("+0.10 [")
        and table.rows[0][4] == "+0.10 [+0.10,\N{NO-BREAK SPACE}+0.10]"
        and table.rows[1][3] == "+0.05"
    )
    assert gain_table(as_records({"r75": VALUES["r75"]}), {"box/AP": "box AP"}).rows == []


def test_panels_carry_their_own_baseline():
    values = {run: {s: 0.1 * k + 0.01 * s for s in range(3)} for k, run in enumerate(RUNS)} | {
        "scratch": {0: 0.2, 1: 0.4},
        "scratch-small": {0: 0.9},
    }
    figure = transfer_panels(
        {"box AP": values, "mask AP": {**values, "scratch": {0: 0.05}}},
        {"box AP": dict.fromkeys(RATIO_RUNS, 30.0)},
    )
    panels = [axis for axis in figure.axes if axis.get_xlabel()]
    lines = [
        next(line for line in axis.lines if line.get_label() == "from scratch").get_ydata()[0]
        for axis in panels
    ]
    names = [axis.get_xlabel() for axis in panels]
    assert {(name, round(line, 6)) for name, line in zip(names, lines)} == {
        ("mask unit", 0.9),
        ("masking ratio", 0.05),
        ("masking ratio", 0.3),
    }
    assert len(transfer_panels({"box AP": {"r75": {0: 0.5}}}).axes) == 1


def test_every_run_has_a_row_and_a_name():
    assert set(TABLE_RUNS) == {*RUNS, "scratch", "scratch-small"} and all(
        run in LABELS for run in TABLE_RUNS
    )
