"""Three-valued masks are the ones that are trained with, and the hierarchy of an image gives the
answers that can be had by hand."""

from __future__ import annotations

import pytest
import torch

from mae_book.chapters.predictions import cell_masks, object_graph, shared_by_design
from mae_lib.base.errors import InputError
from mae_lib.masks.designs import margin_maps
from mae_lib.masks.masking import boundary, hidden_map, mask_batches
from mae_lib.theory.graphs import quad_tree
from mae_lib.theory.shared import locate_shared
from mae_lib.theory.spectra import expected_spectrum, mean_level, membership
from mae_lib.training.tiers import tier
from mae_lib.worlds.world import World

LAPTOP = tier("laptop")
DATA = World("train", 64).identity


def config(**design):
    return LAPTOP.config(DATA, **design)


@pytest.mark.parametrize(
    ("unit", "margin", "strict"), [(8, 0, False), (16, 8, False), (16, 4, True), (8, 4, False)]
)
def test_cells_are_what_their_pixels_are_in_training(unit, margin, strict):
    c = config(unit=unit, margin=margin, strict=strict)
    ((masked, ignored),) = cell_masks(c, 4, masks=20, seed=3)
    hidden = c.mask.sample(20, torch.Generator().manual_seed(3))[1]
    counted, shown = margin_maps(hidden, (8, 8), 8, margin)
    pixels = hidden_map(hidden, 64).view(20, 8, 8).repeat_interleave(8, 1).repeat_interleave(8, 2)
    blow_up = lambda cells: cells.view(20, 16, 16).repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(blow_up(masked), pixels & counted[:, 0])
    visible = ~pixels & shown[:, 0] if strict else ~pixels
    assert torch.equal(blow_up(~(masked | ignored)), visible)
    assert bool(ignored.any()) == bool(margin)


def test_patches_as_cells_are_chapter_3s_masks():
    """A margin of one patch, counted in patches, is `masking.boundary`."""
    ((masked, ignored),) = cell_masks(config(unit=16, margin=8), 8, masks=50, seed=1)
    hidden = masked | ignored
    assert torch.equal(ignored, boundary(hidden, (8, 8), 1))
    ((theirs, left_out),) = mask_batches("random", (8, 8), 0.75, 2, margin=1, masks=50, seed=1)
    assert torch.equal(masked, theirs) and torch.equal(ignored, left_out)


def test_a_shift_moves_the_image_and_ignores_what_is_beside_it():
    plain, shifted = (
        next(cell_masks(config(unit=16, margin=8), 4, masks=5, shift=s)) for s in (0, 3)
    )
    for before, after, beside in zip(plain, shifted, (False, True)):
        after = after.view(5, 19, 19)
        assert (
            torch.equal(after[:, 3:, 3:].flatten(1), before)
            and (after[:, :3] == beside).all()
            and (after[:, :, :3] == beside).all()
        )


def test_batches_add_up_and_each_holds_other_masks():
    batches = list(cell_masks(config(), 8, masks=30, batch=12))
    assert [len(masked) for masked, _ in batches] == [12, 12, 6] and not torch.equal(
        batches[0][0], batches[1][0]
    )


def test_units_on_the_hierarchys_blocks_already_have_a_high_c():
    level = {}
    for name, unit, margin in (
        ("fine", 8, 0),
        ("coarse", 16, 0),
        ("margin", 16, 8),
        ("scattered", 8, 4),
    ):
        batches = list(cell_masks(config(unit=unit, margin=margin), 4, masks=300))
        spectrum = expected_spectrum(quad_tree((16, 16)), membership(quad_tree((16, 16)), batches))
        level[name] = mean_level(spectrum)
    assert level["fine"] >= 2 and level["coarse"] >= 3 and level["scattered"] >= level["fine"]


def test_the_hierarchy_of_an_image_by_hand():
    parts = torch.tensor([0, 1, 1, 2, 2, 0])
    graph = object_graph(parts)
    assert set(graph.latents) == {"class", "part1", "part2", "ground"}
    for masked, c in (
        (["x1", "x2", "x3", "x4"], set()),  # the whole object
        (["x1", "x2", "x0"], {"class", "ground"}),  # a whole part: the other one tells the class
        (["x1", "x3"], {"part1", "part2"}),  # a patch of each: what they share is the parts
        (["x1"], {"part1"}),
    ):
        assert locate_shared(graph, masked).c == c
    with pytest.raises(InputError, match="no patch shows a part"):
        object_graph(torch.zeros(4, dtype=torch.int64))


def test_whole_parts_leave_the_class_and_a_whole_object_leaves_nothing():
    parts = World("validation", 64, length=12).patch_parts(8).long()
    spec = config().mask
    found = {
        design: shared_by_design(parts, spec, design, masks=40)
        for design in ("random", "parts", "object")
    }
    assert found["object"] == (0.0, 0.0)
    assert found["parts"][0] > 0.7 > 0.2 > found["random"][0]
    assert found["random"][1] > 0.5 > found["parts"][1]
    # One group a part, hidden as a whole: no part is ever cut but by the ratio.
    halves = tuple(int(k >= 32) for k in range(64))
    class_, of_parts = shared_by_design(parts[:4], spec, "groups", masks=40, groups=halves)
    assert 0 <= class_ <= 1 and 0 <= of_parts <= 1
    assert shared_by_design(parts[:3], spec, "random", masks=9, seed=5) == shared_by_design(
        parts[:3], spec, "random", masks=9, seed=5
    )


def test_margins_that_no_cell_can_follow_are_refused():
    for arguments, match in (
        ((config(unit=16, margin=6), 4), "must divide"),
        ((config(), 3), "must divide"),
        ((config(), 8, 10, 0, -1), "shift"),
        ((config(design="parts"), 8), "random units"),
    ):
        with pytest.raises(InputError, match=match):
            next(cell_masks(*arguments, **({} if len(arguments) > 2 else {"masks": 3})))
