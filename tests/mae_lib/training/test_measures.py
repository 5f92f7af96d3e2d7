"""What chapter 5 prints beside the losses: the held-out error and its baseline, the count of
operations, the flattening of a curve."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mae_lib.masks.masking import MaskSpec
from mae_lib.model.autoencoder import (
    MaskedAutoencoder,
    ModelConfig,
    normalise_pixels,
    training_flops,
)
from mae_lib.training.feeding import step_generator
from mae_lib.training.pretrain import held_out_error
from mae_lib.training.store import Checkpoint
from mae_lib.worlds.world import World

SIZES = ModelConfig(
    image_size=(32, 32),
    patch=8,
    width=16,
    depth=1,
    heads=2,
    decoder_width=16,
    decoder_depth=1,
    decoder_heads=2,
)


@pytest.fixture
def model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(SIZES).eval()


def test_the_baseline_paints_each_hidden_pixel_in_the_mean_colour_of_what_is_visible(model):
    mask, world = MaskSpec(SIZES.grid, 0.75, 2), World("validation", 32)
    found = held_out_error(model, mask, world, images=5, seed=3, batch=5)
    x = normalise_pixels(world.images(range(5)))
    visible, _ = mask.sample(5, step_generator(3, "held-out", 0))
    squares = []
    for image, shown in zip(x, visible.tolist()):
        inside = torch.zeros(32, 32, dtype=torch.bool)
        for index in shown:
            row, column = divmod(index, 4)
            inside[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = True
        colour = image[:, inside].mean(1, keepdim=True)
        squares.append((image[:, ~inside] - colour).square())
    assert found["baseline"] == pytest.approx(float(torch.stack(squares).mean()), rel=1e-5)
    assert found["explained"] == pytest.approx(1 - found["loss"] / found["baseline"])


def test_a_last_short_batch_counts_by_its_images(model):
    mask, world = MaskSpec(SIZES.grid, 0.5), World("validation", 32)
    whole = held_out_error(model, mask, world, images=6, batch=4)
    first = held_out_error(model, mask, world, images=4, batch=4)

    x = normalise_pixels(world.images(range(4, 6)))
    with torch.no_grad():
        last, _ = model(x, *mask.sample(2, step_generator(0, "held-out", 4)))
    assert whole["loss"] == pytest.approx((4 * first["loss"] + 2 * float(last)) / 6)


def test_a_normalised_target_is_set_beside_its_own_variance(model):
    normalised = MaskedAutoencoder(dataclasses.replace(SIZES, normalise_target=True)).eval()
    found = held_out_error(
        normalised, MaskSpec(SIZES.grid, 0.5), World("validation", 32), images=20
    )
    # unbiased variance of 192 values: 191/192
    assert found["baseline"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("ratio", "gigaflops"), [(0.75, 58.7), (0.1, 126.9)])
def test_operations_of_vit_base_are_the_known_ones(ratio, gigaflops):
    base = ModelConfig((224, 224), 16, 3, 768, 12, 12, 512, 8, 16)
    visible = MaskSpec(base.grid, ratio).visible_patches
    # The known figures embed all patches and predict all of them; here only the visible are
    # embedded and the hidden predicted.
    saved = 3 * 2 * 768 * ((196 - visible) * 768 + visible * 512) / 1e9
    assert training_flops(base, visible) / 1e9 + saved == pytest.approx(gigaflops, rel=0.003)


def test_operations_count_what_pytorch_executes():
    from torch.utils.flop_counter import FlopCounterMode

    mask, model = MaskSpec(SIZES.grid, 0.75), MaskedAutoencoder(SIZES)
    x = torch.randn(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(x, *mask.sample(1))
    assert 3 * counter.get_total_flops() == pytest.approx(
        training_flops(SIZES, mask.visible_patches), rel=0.08
    )


def test_late_fall_is_the_drop_between_the_last_two_tenths(tmp_path):
    def checkpoint(losses):
        return Checkpoint(
            tmp_path / "x.safetensors",
            {"curve": {"step": list(range(1, len(losses) + 1)), "loss": losses}},
        )

    assert checkpoint([1.0] * 20).late_fall() == 0
    assert checkpoint([9.0] * 16 + [2.0, 2.0, 1.0, 1.0]).late_fall() == pytest.approx(0.5)
    assert checkpoint([4.0, 3.0]).late_fall() == pytest.approx(0.25)
    assert checkpoint([4.0]).late_fall() == 0
