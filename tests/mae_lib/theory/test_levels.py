"""The levels of c under designs of masks, against Algorithm 1 mask by mask, closed forms, and
designs whose answer is plain."""

import math

import pytest
import torch

from mae_lib.base.errors import InputError
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import quad_tree, random_dag
from mae_lib.theory.levels import (
    group_batches,
    margin_table,
    mask_levels,
    shifted_groups,
    subtree_groups,
)
from mae_lib.theory.shared import locate_shared
from mae_lib.theory.spectra import expected_spectrum, mean_level, tree_membership

GRAPH, GRID = quad_tree((8, 8)), (8, 8)


@pytest.mark.parametrize("seed", range(5))
def test_levels_are_those_of_algorithm_1_mask_by_mask(seed):
    graph = random_dag(6, 8, seed)
    draw = torch.Generator().manual_seed(seed)
    masked = torch.rand(200, 8, generator=draw) < 0.5
    ignored = (torch.rand(200, 8, generator=draw) < 0.3) & ~masked
    found = mask_levels(graph, [(masked[:90], ignored[:90]), (masked[90:], ignored[90:])])
    members, met, empty = [], [], 0
    for m, i in zip(masked, ignored):
        shared = locate_shared(
            graph, [f"x{k}" for k in range(8) if m[k]], [f"x{k}" for k in range(8) if i[k]]
        )
        members += [graph.levels[z] for z in shared.c]
        empty += not shared.c
        for x in shared.masked:
            if above := [graph.levels[z] for z in shared.common & graph.ancestors[x]]:
                met.append(min(above))
    assert found.level.value == pytest.approx(sum(members) / len(members))
    assert found.nearest.value == pytest.approx(sum(met) / len(met))
    assert found.empty.value == pytest.approx(empty / 200)
    assert found.predicted.value == pytest.approx(float(masked.sum() / (masked | ignored).sum()))
    for interval in (found.level, found.nearest, found.empty, found.predicted):
        assert interval.low <= interval.value <= interval.high


def test_the_independent_law_has_the_closed_form_s_level():
    row = next(
        r for r in margin_table(GRAPH, GRID, (0.5,), (0,), masks=4096) if r.law == "independent"
    )
    assert row.levels.level.value == pytest.approx(
        mean_level(expected_spectrum(GRAPH, tree_membership(GRAPH, 0.5))), abs=2e-3
    )


def test_whole_subtrees_put_c_at_the_level_above_or_higher_and_never_below():
    for level in (1, 2):
        found = mask_levels(GRAPH, group_batches(subtree_groups(GRAPH, level), GRID, 0.5))
        assert (
            level + 1 <= found.level.value < level + 1.01
            and found.nearest.value >= level + 1
            and found.predicted.value == 1
        )
    assert mask_levels(GRAPH, group_batches(None, GRID, 0.5)).level.value < 1.01
    assert (
        mask_levels(
            GRAPH, group_batches(shifted_groups(subtree_groups(GRAPH, 2), GRID, 1, 1), GRID, 0.5)
        ).level.value
        == 1
    )


def test_a_margin_moves_c_up_and_a_contiguous_mask_keeps_more_of_what_it_hides():
    rows = {(r.law, r.margin): r.levels for r in margin_table(GRAPH, GRID, (0.5,), (0, 1))}
    assert (
        rows["block", 1].level.low > rows["block", 0].level.high
        and rows["unit 1", 1].level.low > rows["unit 1", 0].level.high
    )
    assert rows["block", 1].predicted.low > 10 * rows["unit 1", 1].predicted.high
    assert all(
        levels.predicted.value == 1 and levels.empty.value == 0
        for (_, margin), levels in rows.items()
        if not margin
    )


def test_a_margin_as_wide_as_the_grid_leaves_no_level_to_speak_of():
    found = mask_levels(GRAPH, group_batches(None, GRID, 0.5, margin=8, masks=64))
    assert (
        found.empty.value == 1
        and found.predicted.value == 0
        and math.isnan(found.level.value)
        and math.isnan(found.nearest.value)
    )


def test_groups_of_the_tree_and_moved_ones():
    groups = subtree_groups(GRAPH, 1)
    assert groups[:10] == (0, 0, 1, 1, 2, 2, 3, 3, 0, 0) and max(groups) == 15
    moved = shifted_groups(groups, GRID, 1, 1)
    assert (
        moved[9] == moved[10] == moved[17] == moved[18]
        and moved[0] == moved[7] == moved[56] == moved[63]
        and set(moved) == set(range(16))
    )
    assert shifted_groups(groups, GRID, 0, 8) == groups
    assert [int(g.sum()) for g, _ in group_batches(groups, GRID, 0.25, masks=3)] == [48]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: mask_levels(GRAPH, []), "at least one mask"),
        (lambda: subtree_groups(GRAPH, 3), "choose 1 to 2"),
        (lambda: subtree_groups(GRAPH, 0), "choose 1 to 2"),
        (
            lambda: subtree_groups(
                LatentGraph([("a", "b"), ("b", "x0"), ("a", "x1")], ["x0", "x1"]), 1
            ),
            "'x1' has not exactly one",
        ),
        (lambda: list(group_batches((0,) * 64, GRID, 0.5)), "at least two"),
        (lambda: list(group_batches((0, 1), GRID, 0.5)), "one for each"),
        (lambda: margin_table(GRAPH, GRID, (1.5,)), "ratio"),
    ],
)
def test_bad_input_is_one_clear_line(call, text):
    with pytest.raises(InputError, match=text) as caught:
        call()
    assert "\n" not in str(caught.value)
