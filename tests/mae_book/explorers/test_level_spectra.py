"""The levels of c under random masks: every number is that of `locate_shared`, one mask at a time,
and of the closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from explorers import SMALL
from mae_book.explorers.level_spectra import EXAMPLES, MOST_MASKS, RATIOS, sampled_levels
from mae_lib.base.intervals import bootstrap
from mae_lib.masks.masking import mask_batches
from mae_lib.theory.levels import mask_levels
from mae_lib.theory.shared import locate_shared
from mae_lib.theory.spectra import expected_spectrum, tree_membership

SETTINGS = [
    ("quad", "random", 1, 0.25),
    ("quad", "random", 2, 0.75),
    ("pairs", "random", 2, 0.5),
    ("pairs", "independent", 1, 0.1),
    ("pairs", "block", 1, 0.5),
]


def drawn_masks(
    name: str, law: str, unit: int, ratio: float, masks: int, seed: int = 0
) -> torch.Tensor:
    return torch.cat(
        [m for m, _ in mask_batches(law, SMALL[name][1], ratio, unit, masks=masks, seed=seed)]
    )


@pytest.mark.parametrize("name, law, unit, ratio", SETTINGS)
def test_every_number_is_that_of_locate_shared_one_mask_at_a_time(name, law, unit, ratio):
    graph, grid = SMALL[name]
    found, masks = (
        sampled_levels(graph, grid, law, unit, ratio, 150, seed=3),
        drawn_masks(name, law, unit, ratio, 150, seed=3),
    )
    counts = torch.zeros(150, graph.height, dtype=torch.float64)
    for k, mask in enumerate(masks):
        shared = locate_shared(
            graph, [x for x, hidden in zip(graph.observables, mask.tolist()) if hidden]
        )
        for level, count in shared.level_spectrum.items():
            counts[k, level - 1] = count
        if k < EXAMPLES:
            assert torch.equal(found.masks[k], mask)
            assert {
                z for z, inside in zip(graph.latents, found.c[k].tolist()) if inside
            } == shared.c
    total, levels = counts.sum(), torch.arange(1, graph.height + 1)
    assert found.hidden == pytest.approx(float(masks.double().mean()))
    assert (
        len(found.masks) == len(found.c) == EXAMPLES
        and len(found.share) == len(found.chance) == graph.height
    )
    for level in range(graph.height):
        latents = sum(graph.levels[z] == level + 1 for z in graph.latents)
        pair = torch.stack([counts[:, level], counts.sum(1)], 1)
        for interval, expected in (
            (found.share[level], bootstrap(pair, lambda x: x[..., 0].sum(1) / x[..., 1].sum(1))),
            (found.chance[level], bootstrap(counts[:, level] / latents)),
        ):
            assert [interval.value, interval.low, interval.high] == pytest.approx(
                [expected.value, expected.low, expected.high], abs=1e-12
            ) and interval.n == 150
    assert found.level.value == pytest.approx(float((counts * levels).sum() / total))
    members = bootstrap(counts.sum(1))
    assert [found.members.value, found.members.low, found.members.high] == pytest.approx(
        [members.value, members.low, members.high]
    )
    assert sum(share.value for share in found.share) == pytest.approx(1)


def test_the_mean_level_is_mask_levels_own():
    for name, law, unit, ratio in SETTINGS:
        graph, grid = SMALL[name]
        mine, theirs = (
            sampled_levels(graph, grid, law, unit, ratio, 80).level,
            mask_levels(graph, mask_batches(law, grid, ratio, unit, masks=80)).level,
        )
        assert [mine.value, mine.low, mine.high] == pytest.approx(
            [theirs.value, theirs.low, theirs.high], abs=1e-12
        )


def test_chances_are_the_closed_form_within_their_intervals():
    graph, grid = SMALL["pairs"]
    latents = np.array(
        [
            sum(graph.levels[z] == level for z in graph.latents)
            for level in range(1, graph.height + 1)
        ]
    )
    inside = []
    for seed, ratio in enumerate(RATIOS):
        exact = expected_spectrum(graph, tree_membership(graph, ratio))[1:]
        found = sampled_levels(graph, grid, "independent", 1, ratio, seed=seed).chance
        # An interval means something where the event is seen now and then: 30 times in all masks.
        inside += [
            f.low <= value / n <= f.high
            for f, value, n in zip(found, exact, latents)
            if value * MOST_MASKS > 30
        ]
    assert len(inside) > 45 and np.mean(inside) > 0.87
