"""Registered tests name the runs that their configs train, at equal cost."""

from __future__ import annotations

import torch

from mae_book.verdicts.ladder import rung
from mae_book.verdicts.ledger import decide
from mae_book.verdicts.registered import RANDOM_RATIO, SEEDS, STEPS, random_ratio_configs
from mae_lib.masks.designs import drawn_ratio
from mae_lib.training.feeding import step_generator


def test_the_arm_is_the_run_of_its_claim_and_costs_what_the_fixed_ratio_does() -> None:
    configs = random_ratio_configs()
    (test,) = RANDOM_RATIO.tests
    assert {each.family for each in configs} == {test.high}
    assert tuple(each.seed for each in configs) == SEEDS and set(SEEDS) < set(rung(STEPS).seeds)
    for config in configs[:2]:
        visible = torch.tensor(
            [
                drawn_ratio(
                    config.mask, config.spread, step_generator(config.seed, "ratio", step)
                ).visible_patches
                for step in range(3000)
            ],
            dtype=torch.float64,
        )
        error = float(visible.std()) / 3000**0.5
        assert abs(float(visible.mean()) - config.mask.visible_patches) < 4 * error
        assert visible.min() >= 6 and visible.max() <= 26  # of 64: ratios 0.9 and 0.6
    assert decide(RANDOM_RATIO, []).verdict == "not attempted"
