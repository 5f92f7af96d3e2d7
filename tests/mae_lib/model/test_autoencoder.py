"""§2.2, eq. 2: the model against a plain reference, and what must never reach its encoder."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import reference_mae
from mae_lib.base.errors import InputError
from mae_lib.masks.masking import MaskSpec, complement
from mae_lib.model.autoencoder import (
    MaskedAutoencoder,
    ModelConfig,
    gather,
    normalise_patches,
    normalise_pixels,
    patchify,
    sincos_positions,
    to_unit_range,
    unpatchify,
)

TINY = ModelConfig(
    image_size=(8, 12),
    patch=4,
    width=16,
    depth=2,
    heads=2,
    decoder_width=8,
    decoder_depth=1,
    decoder_heads=2,
)
# H ≠ W, both odd in patches or not, patches that are no power of two, 1 and 5 channels, other
# widths, heads and depths than the decoder's.
SHAPES = {
    "3 channels, 8×12": TINY,
    "1 channel, 9×6 of 3": replace(
        TINY, image_size=(9, 6), patch=3, channels=1, width=12, heads=3, decoder_depth=2
    ),
    "5 channels, 5×15 of 5": replace(
        TINY,
        image_size=(5, 15),
        patch=5,
        channels=5,
        width=8,
        heads=1,
        decoder_width=12,
        decoder_heads=3,
    ),
    "pixels as patches": replace(
        TINY, image_size=(3, 2), patch=1, channels=3, depth=1, mlp_ratio=2.5
    ),
}


def build(
    config: ModelConfig, dtype: torch.dtype = torch.float32, seed: int = 0
) -> MaskedAutoencoder:
    """A model with every weight drawn at random: zero biases and unit norms would hide mistakes."""
    model = MaskedAutoencoder(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(
                0.3 * noise if parameter.ndim != 2 else noise / math.sqrt(parameter.shape[1])
            )
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight += 1
    return model.to(dtype)


def draw(
    config: ModelConfig,
    batch: int = 2,
    ratio: float = 0.6,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """(images, visible, hidden)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(
        batch, config.channels, *config.image_size, generator=generator, dtype=torch.float64
    ).to(dtype)
    return images, *MaskSpec(config.grid, ratio).sample(batch, generator)


def change(images: Tensor, patches: Tensor, patch: int) -> Tensor:
    """``images`` with other pixels, wildly so, in the given patches [B, K]."""
    grid = images.shape[2] // patch, images.shape[3] // patch
    cut = patchify(images, patch)
    noise = 1e3 * torch.randn(
        *patches.shape, cut.shape[-1], generator=torch.Generator().manual_seed(99)
    ).to(images.dtype)
    return unpatchify(
        cut.scatter(1, patches.unsqueeze(-1).expand_as(noise), noise), grid, images.shape[1]
    )


# --- against the reference ------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [False, True], ids=["pixels", "normalised"])
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-6), (torch.float64, 1e-12)],
    ids=["float32", "float64"],
)
def test_loss_and_all_gradients_equal_the_reference(
    config: ModelConfig, normalise: bool, dtype: torch.dtype, tolerance: float
) -> None:
    """The reference runs in float64 on the same weights and images, so that 1e-6 is the float32
    model's own rounding, not the sum of two.

    Errors are relative. Loss: to the loss. Gradients in float64: the largest deviation in a tensor,
    to the largest entry of that tensor's gradient; in float32, where small gradients are sums of
    large terms: the deviation's norm, tensor by tensor, to the norm of the whole.
    """
    config = replace(config, normalise_target=normalise)
    model = build(config, dtype)
    images, visible, hidden = draw(config, dtype=dtype)
    weights = {
        name: tensor.detach().double().requires_grad_()
        for name, tensor in model.state_dict().items()
    }
    pixels = images.double().requires_grad_()
    reference = reference_mae.loss(weights, config, pixels, visible, hidden)
    wanted = dict(
        zip([*weights, "images"], torch.autograd.grad(reference, [*weights.values(), pixels]))
    )

    images.requires_grad_()
    loss, prediction = model(images, visible, hidden)
    assert loss.shape == () and prediction.shape == (2, hidden.shape[1], config.patch_values)
    names, parameters = zip(*model.named_parameters())
    assert set(names) == set(weights), "the state dict holds the parameters and nothing else"
    given = dict(zip([*names, "images"], torch.autograd.grad(loss, [*parameters, images])))
    assert loss.dtype == dtype
    assert abs(loss.item() - reference.item()) <= tolerance * reference.item()
    whole = torch.cat([gradient.flatten() for gradient in wanted.values()]).norm()
    for name, gradient in wanted.items():
        deviation = given[name].double() - gradient
        if dtype == torch.float64:
            assert deviation.abs().max() <= tolerance * gradient.abs().max(), name
        assert deviation.norm() <= tolerance * whole, name


def test_prediction_equals_the_reference_patch_by_patch() -> None:
    model = build(TINY, torch.float64)
    images, visible, hidden = draw(TINY, dtype=torch.float64)
    weights = dict(model.state_dict())
    tokens = model.encode(images, visible)
    prediction = model(images, visible, hidden)[1]
    for b in range(2):
        plain = reference_mae.encode(weights, TINY, images[b], visible[b].tolist())
        torch.testing.assert_close(tokens[b], torch.stack(plain), rtol=0, atol=1e-12)
        plain = reference_mae.decode(
            weights, TINY, plain, visible[b].tolist(), hidden[b].tolist(), TINY.grid[1]
        )
        torch.testing.assert_close(prediction[b], torch.stack(plain), rtol=0, atol=1e-12)


def test_positions_are_metas() -> None:
    """`get_2d_sincos_pos_embed` of Meta's MAE, numpy line by line; float64 angles, as in its later
    version."""
    import numpy as np

    def one(width: int, places: np.ndarray) -> np.ndarray:
        omega = 1.0 / 10000 ** (np.arange(width // 2, dtype=np.float64) / (width / 2.0))
        out = np.einsum("m,d->md", places.reshape(-1), omega)
        return np.concatenate([np.sin(out), np.cos(out)], axis=1)

    for width, (rows, columns) in ((16, (2, 3)), (64, (8, 8)), (12, (1, 5)), (4, (3, 2))):
        # "here w goes first"
        across, down = np.meshgrid(
            np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32)
        )
        wanted = np.concatenate([one(width // 2, across), one(width // 2, down)], axis=1)
        given = sincos_positions(width, (rows, columns))
        assert given.dtype == torch.float32 and given.shape == (rows * columns, width)
        torch.testing.assert_close(given.double(), torch.from_numpy(wanted), rtol=0, atol=1e-7)
    model = MaskedAutoencoder(TINY)
    assert not any("position" in name for name in model.state_dict()), (
        "positions are fixed: not stored, not trained"
    )
    assert not any("position" in name for name, _ in model.named_parameters())


# --- hidden pixels --------------------------------------------------------------------------------


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_hidden_pixels_cannot_reach_the_encoder(config: ModelConfig) -> None:
    model = build(replace(config, normalise_target=config.patch_values > 1))
    images, visible, hidden = draw(config, batch=3)
    changed = change(images, hidden, config.patch)
    assert not torch.equal(images, changed)
    with torch.no_grad():
        tokens, again = model.encode(images, visible), model.encode(changed, visible)
        assert torch.equal(tokens, again)
        assert torch.equal(
            model.decode(tokens, visible, hidden), model.decode(again, visible, hidden)
        )
        first, second = model(images, visible, hidden), model(changed, visible, hidden)
    assert torch.equal(first[1], second[1]), "the prediction"
    assert not torch.equal(first[0], second[0]), (
        "the loss does see the hidden pixels: they are its target"
    )
    # And the other way round: visible pixels do reach it.
    assert not torch.equal(tokens, model.encode(change(images, visible, config.patch), visible))


def test_gradient_of_the_encoder_by_hidden_pixels_is_exactly_zero() -> None:
    model = build(TINY)
    images, visible, hidden = draw(TINY, batch=3)
    images.requires_grad_()
    for output in (model.encode(images, visible), model(images, visible, hidden)[1]):
        (gradient,) = torch.autograd.grad(output.square().sum(), images)
        by_patch = patchify(gradient, TINY.patch).abs().sum(-1)
        assert (by_patch.gather(1, hidden) == 0).all()
        assert (by_patch.gather(1, visible) > 0).all()


def test_an_image_does_not_touch_its_neighbour_in_the_batch() -> None:
    model = build(TINY, torch.float64)
    images, visible, hidden = draw(TINY, batch=3, dtype=torch.float64)
    for b in range(3):
        alone = model(images[b : b + 1], visible[b : b + 1], hidden[b : b + 1])[1]
        torch.testing.assert_close(
            model(images, visible, hidden)[1][b : b + 1], alone, rtol=0, atol=1e-13
        )


def test_only_hidden_patches_enter_the_loss() -> None:
    model = build(TINY, torch.float64)
    images, visible, hidden = draw(TINY, dtype=torch.float64)
    loss, prediction = model(images, visible, hidden)
    target = gather(patchify(images, TINY.patch), hidden)
    assert loss.item() == pytest.approx((target - prediction).square().mean().item(), rel=1e-14)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_the_order_of_indices_carries_nothing(seed: int) -> None:
    model = build(TINY, torch.float64)
    images, visible, hidden = draw(TINY, batch=3, seed=seed, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)

    def shuffled(index: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.rand(index.shape, generator=generator).argsort(1)
        return index.gather(1, order), order

    other_visible, order_v = shuffled(visible)
    other_hidden, order_h = shuffled(hidden)
    with torch.no_grad():
        loss, prediction = model(images, visible, hidden)
        other_loss, other_prediction = model(images, other_visible, other_hidden)
        assert float(loss) == pytest.approx(float(other_loss), rel=1e-12)
        torch.testing.assert_close(
            other_prediction, gather(prediction, order_h), rtol=0, atol=1e-12
        )
        tokens, other = model.encode(images, visible), model.encode(images, other_visible)
        torch.testing.assert_close(other[:, 1:], gather(tokens[:, 1:], order_v), rtol=0, atol=1e-12)


def test_encode_masks_nothing_unless_asked() -> None:
    model = build(TINY, torch.float64).train()
    images, visible, _ = draw(TINY, dtype=torch.float64)
    everything = torch.arange(6).expand(2, -1)
    with torch.no_grad():
        tokens = model.encode(images)
        assert tokens.shape == (2, 1 + 6, 16)
        torch.testing.assert_close(tokens, model.encode(images, everything), rtol=0, atol=1e-13)
        assert torch.equal(tokens, model.encode(images)), "nothing random in it"
        assert model.encode(images, visible).shape == (2, 1 + visible.shape[1], 16)
    pixels = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.encode(pixels)[:, 0].sum(), pixels)
    assert (gradient != 0).all(), "every pixel reaches [CLS]"


# --- reconstruction -------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [False, True], ids=["pixels", "normalised"])
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_reconstruct_keeps_visible_pixels_and_pastes_the_prediction(
    config: ModelConfig, normalise: bool
) -> None:
    config = replace(config, normalise_target=normalise)
    model = build(config)
    images, visible, _ = draw(config, batch=3)
    before = images.clone()
    rebuilt = model.reconstruct(images, visible)
    assert (
        torch.equal(images, before) and rebuilt.shape == images.shape and not rebuilt.requires_grad
    )
    truth, patches = patchify(images, config.patch), patchify(rebuilt, config.patch)
    assert torch.equal(gather(patches, visible), gather(truth, visible))
    hidden = complement(visible, truth.shape[1])
    prediction = model(images, visible, hidden)[1]
    if normalise:
        target = gather(truth, hidden)
        prediction = prediction * (target.var(-1, keepdim=True) + 1e-6).sqrt() + target.mean(
            -1, keepdim=True
        )
    torch.testing.assert_close(gather(patches, hidden), prediction, rtol=0, atol=1e-6)


@pytest.mark.parametrize("normalise", [False, True], ids=["pixels", "normalised"])
@pytest.mark.parametrize("protocol", ["readout", "queried"])
def test_reconstruct_without_a_mask_equals_the_reference(protocol: str, normalise: bool) -> None:
    """§3.1 evaluates "without masking": every patch of the picture is the decoder's, read at its
    own token or at a mask token beside it."""
    config = replace(TINY, normalise_target=normalise)
    model = build(config, torch.float64)
    images, *_ = draw(config, dtype=torch.float64)
    rebuilt = model.reconstruct(images, protocol)
    weights, everything = dict(model.state_dict()), list(range(6))
    for b in range(2):
        tokens = reference_mae.encode(weights, config, images[b], everything)
        if protocol == "queried":
            plain = reference_mae.decode(weights, config, tokens, everything, everything, 3)
        else:
            # Meta's forward_decoder with an empty mask: [CLS] and the tokens at their places, then
            # the head on all but [CLS]
            sequence = [reference_mae.linear(weights, "to_decoder", x) for x in tokens]
            sequence[1:] = [
                x + reference_mae.position(config.decoder_width, k // 3, k % 3, x)
                for k, x in enumerate(sequence[1:])
            ]
            sequence = reference_mae.transform(
                weights, "decoder", sequence, config.decoder_depth, config.decoder_heads
            )
            plain = [
                reference_mae.linear(
                    weights, "head", reference_mae.layer_norm(weights, "decoder_norm", x)
                )
                for x in sequence[1:]
            ]
        wanted = torch.stack(plain)
        if normalise:
            truth = patchify(images, 4)[b]
            wanted = wanted * (truth.var(-1, keepdim=True) + 1e-6).sqrt() + truth.mean(
                -1, keepdim=True
            )
        torch.testing.assert_close(patchify(rebuilt, 4)[b], wanted, rtol=0, atol=1e-12)
    assert not torch.isclose(rebuilt, images).all() and not rebuilt.requires_grad


def test_the_default_is_the_readout_and_it_needs_no_mask_token() -> None:
    model = build(TINY)
    images, *_ = draw(TINY)
    before = {name: model.reconstruct(images, name) for name in ("readout", "queried")}
    assert torch.equal(model.reconstruct(images), before["readout"])
    with torch.no_grad():
        model.mask_token += 1
    assert torch.equal(model.reconstruct(images), before["readout"]) and not torch.equal(
        model.reconstruct(images, "queried"), before["queried"]
    )


@pytest.mark.parametrize("name", ["masked", "", None])
def test_what_is_neither_a_mask_nor_a_way_to_read_is_refused(name: str | None) -> None:
    with pytest.raises(InputError, match="give the visible patches.*'readout' or 'queried'"):
        MaskedAutoencoder(TINY).reconstruct(draw(TINY)[0], name)


def test_normalised_reconstruction_undoes_the_normalisation() -> None:
    patches = torch.randn(2, 6, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normal = normalise_patches(patches)
    torch.testing.assert_close(
        normal.mean(-1), torch.zeros(2, 6, dtype=torch.float64), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        normal.var(-1), torch.ones(2, 6, dtype=torch.float64), rtol=0, atol=1e-5
    )
    assert torch.equal(normalise_patches(torch.full((1, 1, 48), 0.3)), torch.zeros(1, 1, 48)), (
        "a flat patch stays finite"
    )


# --- patches and pixels ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 6)
)
def test_patchify_is_undone_by_unpatchify_and_is_row_major(
    batch: int, channels: int, rows: int, columns: int, patch: int
) -> None:
    images = torch.arange(batch * channels * rows * columns * patch**2, dtype=torch.float32).view(
        batch, channels, rows * patch, columns * patch
    )
    patches = patchify(images, patch)
    assert patches.shape == (batch, rows * columns, channels * patch**2)
    for b in range(batch):
        assert torch.equal(patches[b], torch.stack(reference_mae.cut(images[b], patch)))
    assert torch.equal(unpatchify(patches, (rows, columns), channels), images)


def test_pixels_to_the_models_range_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    normal = normalise_pixels(pixels)
    assert float(normal.min()) == -2 and float(normal.max()) == 2
    torch.testing.assert_close(normal, normalise_pixels(pixels / 255))
    assert torch.equal((to_unit_range(normal) * 255).round().to(torch.uint8), pixels)
    assert to_unit_range(torch.tensor([-9.0, 9.0])).tolist() == [0, 1]


def test_fresh_weights_are_a_function_of_the_seed_and_start_near_the_targets_variance() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(MaskedAutoencoder(TINY).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    model = MaskedAutoencoder(TINY)
    assert all(bool((m.bias == 0).all()) for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert bool((model.cls_token != 0).any()) and bool((model.mask_token != 0).any())


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": (64, 60)}, r"patch of 8 px does not divide the 64×60 image"),
        ({"image_size": (60, 64)}, r"patch of 8 px does not divide the 60×64 image"),
        ({"image_size": (4, 64)}, r"image 4×64 is smaller than one 8 px patch"),
        ({"image_size": (64, 7)}, r"image 64×7 is smaller than one 8 px patch"),
        ({"image_size": (0, 64)}, r"image 0×64 is smaller than one 8 px patch"),
        ({"patch": 0}, r"patch is 0"),
        ({"patch": -8}, r"patch is -8"),
        ({"channels": 0}, r"channels is 0"),
        ({"depth": 0}, r"depth is 0"),
        ({"decoder_depth": 0}, r"decoder_depth is 0"),
        ({"heads": 0}, r"heads is 0"),
        ({"heads": 5}, r"encoder width 64 must be divisible by its 5 heads"),
        ({"width": 66, "heads": 2}, r"encoder width 66 must be divisible .* by 4"),
        ({"decoder_heads": 3}, r"decoder width 64 must be divisible by its 3 heads"),
        (
            {"patch": 1, "channels": 1, "normalise_target": True},
            r"normalise_target needs patches of more than one number",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelConfig(**change)


@pytest.mark.parametrize(
    "shape", [(2, 3, 12, 8), (2, 1, 8, 12), (2, 3, 8, 16), (3, 8, 12), (1, 2, 3, 8, 12)], ids=str
)
@pytest.mark.parametrize("method", ["encode", "forward", "reconstruct"])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...], method: str) -> None:
    _, visible, hidden = draw(TINY)
    arguments = {"encode": (visible,), "forward": (visible, hidden), "reconstruct": (visible,)}[
        method
    ]
    with pytest.raises(InputError, match=r"images of shape \[.*takes \[B, 3, 8, 12\]"):
        getattr(MaskedAutoencoder(TINY), method)(torch.zeros(shape), *arguments)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_images_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=r"images of type torch\..*normalise_pixels"):
        MaskedAutoencoder(TINY).encode(torch.ones(1, 3, 8, 12, dtype=dtype))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_pixels_that_are_not_finite_are_refused_by_name(value: float) -> None:
    images, visible, hidden = draw(TINY, batch=3)
    images[1, 2, 3, 4] = value
    model = MaskedAutoencoder(TINY)
    for call in (
        lambda: model.encode(images),
        lambda: model(images, visible, hidden),
        lambda: model.reconstruct(images, visible),
        lambda: model.reconstruct(images),
    ):
        with pytest.raises(
            InputError, match=r"image 1 of the batch has NaN or infinite pixels \(1 such\)"
        ):
            call()
    model.encode(torch.full((1, 3, 8, 12), 1e37))  # finite, though its sum is not


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_mask_for_another_number_of_images_is_refused(rows: int) -> None:
    """`torch.gather` takes an index with fewer rows and drops images without a word."""
    images, _, _ = draw(TINY, batch=3)
    _, visible, hidden = draw(TINY, batch=rows)
    model = MaskedAutoencoder(TINY)
    for call in (
        lambda: model.encode(images, visible),
        lambda: model(images, visible, hidden),
        lambda: model.reconstruct(images, visible),
    ):
        with pytest.raises(InputError, match=f"mask of {rows} rows for 3 images"):
            call()
