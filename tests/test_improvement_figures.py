"""Chapter 11's drawings show the pixels, differences and costs they were given."""

from __future__ import annotations

import math

import pytest
import torch
from looking import drawn  # noqa: F401 (renders and closes every figure)

from mae_lib.errors import InputError
from mae_lib.improvement_figures import KINDS, margin_rows, paired_differences, partitions, pixel_kinds, readout_against_cost
from mae_lib.intervals import Interval
from mae_lib.mask_designs import margin_maps
from mae_lib.masking import hidden_map


def masks(margin: int, patch: int = 4):
    """Two masks of a 4 × 4 grid: the left half hidden, and one patch in the middle."""
    hidden = torch.tensor([[0, 1, 4, 5, 8, 9, 12, 13], [0, 1, 4, 5, 8, 9, 12, 13]])
    hidden[1] = torch.tensor([5, 6, 9, 10, 0, 3, 12, 15])
    counted, shown = margin_maps(hidden, (4, 4), patch, margin)
    pixels = hidden_map(hidden, 16).view(2, 1, 4, 4).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return pixels, counted, shown


def test_every_pixel_is_of_the_kind_that_the_mask_makes_it():
    pixels, counted, shown = masks(2)
    loose, strict = pixel_kinds(pixels, counted), pixel_kinds(pixels, counted, shown)
    # Of the left half, columns 0 … 7 are hidden; 6 and 7 lie at the boundary, on the other side 8 and 9.
    assert loose[0, 0].tolist() == [3] * 6 + [2] * 2 + [0] * 8
    assert strict[0, 0].tolist() == [3] * 6 + [2] * 2 + [1] * 2 + [0] * 6
    for kinds in (loose, strict):
        assert torch.equal(kinds >= 2, pixels[:, 0]) and torch.equal(kinds == 3, (pixels & counted)[:, 0])
    assert torch.equal(strict == 1, (~pixels & ~shown)[:, 0]) and not (loose == 1).any()
    with pytest.raises(InputError, match=r"must both be \[B, 1, H, W\]"):
        pixel_kinds(pixels[:, 0], counted)


def test_a_row_tints_what_does_not_reach_the_encoder_and_nothing_else():
    images = torch.full((2, 3, 16, 16), 128, dtype=torch.uint8)
    kinds = pixel_kinds(*masks(2))
    figure = margin_rows(images, {"strict": kinds, "none": torch.zeros_like(kinds)})
    image, tinted, plain = (figure.axes[k].images[0].get_array() for k in (0, 2, 4))
    assert (plain == image).all()
    assert ((tinted != image).any(2) == (kinds[0] != 0).numpy()).all()
    assert len({tuple(colour) for colour in tinted[kinds[0] == 3]}) == 1 and len({tuple(c) for c in tinted.reshape(-1, 3)}) == 4
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == list(KINDS)[1:]
    with pytest.raises(InputError, match="row 'wrong'"):
        margin_rows(images, {"wrong": kinds[:1]})


def test_each_group_has_its_number_and_a_colour():
    groups = torch.tensor([[0, 0, 1], [2, 2, 1]])
    figure = partitions({"few": groups, "many": torch.arange(12).view(3, 4)})
    assert [text.get_text() for text in figure.axes[0].texts] == [str(n) for n in groups.flatten().tolist()]
    assert (figure.axes[0].images[0].get_array() == groups.numpy()).all() and figure.axes[1].get_title() == "many"
    for bad in ({}, {"flat": torch.arange(4)}):
        with pytest.raises(InputError, match="group numbers"):
            partitions(bad)


def test_differences_are_drawn_seed_by_seed_with_their_mean():
    rows = [("S1", "margin", [0.1, 0.2, 0.3]), ("S1", "strict", [-0.1]), ("S2", "parts", [0.0, 0.05])]
    axis = paired_differences(rows, "difference").axes[0]
    dots = [line for line in axis.lines if line.get_marker() in "os"]
    assert [list(line.get_xdata()) for line in dots] == [list(values) for *_, values in rows]
    assert [line.get_color() for line in dots][0] == dots[1].get_color() != dots[2].get_color()
    means = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "|"]
    assert means == pytest.approx([0.2, -0.1, 0.025])
    assert [text.get_text() for text in axis.get_yticklabels()] == ["margin", "strict", "parts"] and axis.get_ylim()[0] > axis.get_ylim()[1]
    for bad in ([], [("S1", "none", [])]):
        with pytest.raises(InputError, match="no differences"):
            paired_differences(bad, "difference")


def test_points_stand_at_their_cost():
    runs = {"r10": Interval(0.3, 0.2, 0.4, 3), "r90": Interval(0.2, 0.15, 0.25, 3), "r75": Interval(0.25, math.nan, math.nan, 1)}
    figure = readout_against_cost({"texture": runs, "colour": {"r90": runs["r90"]}}, {"r10": 99.0, "r75": 38.0, "r90": 25.0}, {"r10": "0.1", "r75": "0.75", "r90": "0.9"}, {"texture": 0.1}, "MFLOP")
    first, second = figure.axes
    line = first.containers[0].lines[0]
    assert list(line.get_xdata()) == [25, 38, 99] and list(line.get_ydata()) == [0.2, 0.25, 0.3]
    assert [text.get_text() for text in first.texts] == ["0.9", "0.75", "0.1"]
    assert [l.get_ydata()[0] for l in first.lines if l.get_linestyle() == ":"] == [0.1] and not [l for l in second.lines if l.get_linestyle() == ":"]
    for bad in ({}, {"texture": {"r50": runs["r10"]}}):
        with pytest.raises(InputError, match="cost of every run"):
            readout_against_cost(bad, {"r10": 1.0}, {}, {}, "MFLOP")
