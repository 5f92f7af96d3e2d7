"""§3.1: the four metrics against scikit-image and piq on images of every kind, the three protocols
against what they say, bad input by name."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import piq
import pytest
import torch
from skimage import metrics
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.evaluation.reconstruction import (
    CONTROLS,
    METRICS,
    PROTOCOLS,
    PSNR_CEILING,
    alterations,
    evaluate_reconstruction,
    flat_patches,
    image_scores,
    lend_statistics,
    scores,
)
from mae_lib.masks.masking import MaskSpec, hidden_map
from mae_lib.model.autoencoder import (
    MaskedAutoencoder,
    ModelConfig,
    normalise_pixels,
    patchify,
    to_unit_range,
)
from mae_lib.worlds.world import World, rendering

CONFIG = ModelConfig(
    image_size=(16, 16),
    patch=4,
    width=16,
    depth=1,
    heads=2,
    decoder_width=16,
    decoder_depth=1,
    decoder_heads=2,
)
MASK = MaskSpec((4, 4), 0.5)


def kinds(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pairs of images of every kind, in one batch: float32 [B, 3, H, W]."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 3, height, width, generator=generator)
    zero, one, grey = (torch.full((3, height, width), v) for v in (0.0, 1.0, 0.37))
    tint = torch.tensor([0.9, 0.5, 0.1])[:, None, None].expand(3, height, width)
    ramp = torch.linspace(0, 1, width).expand(3, height, width)
    bits = (first > 0.5).float()  # pixels at both ends of the range
    pairs = [
        (first, second),
        (first, (0.9 * first + 0.1 * second)),
        (first, first),
        (ramp, first),
        (ramp, 1 - ramp),
        (bits, 1 - bits),
        (bits, first),
        (zero, zero),
        (one, one),
        (zero, one),
        (one, zero),
        (grey, grey),
        (grey, 1 - grey),
        (one, 1 - 1e-3 * one),
        (tint, grey),
        (grey, first),
        (first, one),
    ]
    return torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])


def patterned(images: Tensor, others: Tensor) -> Tensor:
    """bool [B]: neither image is flat. Of a flat one FSIM divides rounding by rounding, and another
    processor rounds otherwise."""
    return (images.flatten(1).std(1) > 1e-6) & (others.flatten(1).std(1) > 1e-6)


def by_scikit_image(image: Tensor, other: Tensor) -> dict[str, float]:
    a, b = image.double().numpy(), other.double().numpy()
    with np.errstate(divide="ignore"):
        return {
            "ssim": metrics.structural_similarity(
                a,
                b,
                channel_axis=0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=1,
            ),
            "psnr": metrics.peak_signal_noise_ratio(a, b, data_range=1),
            "mse": metrics.mean_squared_error(a, b),
        }


# --- the metrics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (11, 11), (21, 48)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ssim_psnr_and_mse_equal_scikit_image(size: tuple[int, int], dtype: torch.dtype) -> None:
    images, others = (x.to(dtype) for x in kinds(*size))
    found = scores(images, others)
    assert tuple(found) == METRICS and all(
        values.shape == (len(images),) for values in found.values()
    )
    for row, (image, other) in enumerate(zip(images, others)):
        for name, wanted in by_scikit_image(image, other).items():
            assert found[name][row].item() == pytest.approx(wanted, rel=1e-9, abs=1e-9), (name, row)
    equal = [bool(torch.equal(a, b)) for a, b in zip(images, others)]
    assert found["psnr"].isposinf().tolist() == equal and sum(equal) == 4


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (11, 11), (21, 48)], ids=str)
def test_fsim_equals_piq_and_ssim_equals_piqs_in_double_precision(size: tuple[int, int]) -> None:
    images, others = kinds(*size)
    found, told = scores(images, others), patterned(images, others)
    assert int(told.sum()) >= 7
    torch.testing.assert_close(
        found["fsim"][told], piq.fsim(images, others, reduction="none")[told], rtol=0, atol=1e-5
    )
    assert (
        bool(found["fsim"].isfinite().all())
        and 0 <= float(found["fsim"].min())
        and float(found["fsim"].max()) < 1 + 1e-6
    )
    doubles = piq.ssim(images.double(), others.double(), reduction="none", downsample=False)
    torch.testing.assert_close(found["ssim"], doubles, rtol=0, atol=1e-9)


def test_large_images_are_downsampled_for_fsim_alone() -> None:
    images, others = (x[:1] for x in kinds(400, 390))
    found = scores(images, others)
    torch.testing.assert_close(
        found["fsim"], piq.fsim(images, others, reduction="none"), rtol=0, atol=1e-5
    )
    assert found["ssim"][0].item() == pytest.approx(
        by_scikit_image(images[0], others[0])["ssim"], abs=1e-9
    )


def test_a_batch_is_scored_as_its_images_one_by_one() -> None:
    # 34, more than FSIM takes at a time
    images, others = (torch.cat([a, b]) for a, b in zip(kinds(16, 16), kinds(16, 16)[::-1]))
    whole, told = scores(images, others), patterned(images, others)
    for row in range(len(images)):
        alone = scores(images[row : row + 1], others[row : row + 1])
        for name in METRICS:
            if name != "fsim" or told[row]:
                torch.testing.assert_close(
                    alone[name][0], whole[name][row], rtol=0, atol=1e-5, msg=f"{name}, row {row}"
                )


def test_the_metrics_are_symmetric_and_blind_to_mirror_images() -> None:
    images, others = kinds(32, 32)
    there, back, mirrored = (
        scores(images, others),
        scores(others, images),
        scores(images.flip(-1), others.flip(-1)),
    )
    told = patterned(images, others)
    for name in METRICS:
        rows = told if name == "fsim" else slice(None)
        torch.testing.assert_close(there[name][rows], back[name][rows], rtol=1e-6, atol=1e-5)
        if name != "fsim":  # its filters lean one way by a pixel at even sizes
            torch.testing.assert_close(there[name], mirrored[name], rtol=1e-9, atol=1e-9)


def test_half_precision_is_scored_in_single() -> None:
    images, others = (x.bfloat16() for x in kinds(32, 32))
    found, wanted = scores(images, others), scores(images.float(), others.float())
    assert found["fsim"].dtype == torch.float32 and all(
        torch.equal(found[name], wanted[name]) for name in METRICS
    )
    mixed = scores(images.float(), others.double())
    assert mixed["fsim"].dtype == torch.float64


GOOD = torch.full((2, 3, 16, 16), 0.5)


def touched(value: float) -> Tensor:
    x = GOOD.clone()
    x[1, 2, 3, 4] = value
    return x


@pytest.mark.parametrize(
    ("images", "others", "message"),
    [
        (
            touched(1.01),
            GOOD,
            r"row 1 of images has values from 0\.5 to 1\.01 \(1 such\).*to_unit_range",
        ),
        (GOOD, touched(-1e-6), r"row 1 of reconstructions has values from -1e-06"),
        (touched(math.nan), GOOD, r"row 1 of images has NaN or infinite"),
        (GOOD, touched(math.inf), r"row 1 of reconstructions has NaN or infinite"),
        (GOOD[:, :0], GOOD[:, :0], r"images of shape \[2, 0, 16, 16\].*\[B, C, H, W\]"),
        (GOOD[:, :1], GOOD, r"\[2, 1, 16, 16\] on cpu and .* do not fit"),
        (GOOD[0], GOOD[0], r"images of shape \[3, 16, 16\]"),
        (GOOD[:0], GOOD[:0], r"images of shape \[0, 3, 16, 16\]"),
        (
            GOOD,
            GOOD[:1],
            r"\[2, 3, 16, 16\] on cpu and reconstructions \[1, 3, 16, 16\] on cpu do not fit",
        ),
        (GOOD, GOOD[..., :12], r"do not fit together"),
        (
            GOOD,
            torch.full((2, 3, 16, 16), 0.5, device="meta"),
            r"on cpu and reconstructions .* on meta do not fit",
        ),
        ((GOOD * 255).byte(), GOOD, r"images of type torch\.uint8.*images\.float\(\) / 255"),
        (GOOD, GOOD.long(), r"reconstructions of type torch\.int64"),
        (GOOD, GOOD.numpy(), r"reconstructions of type ndarray"),
        (GOOD[..., :10], GOOD[..., :10], r"16×10 px: SSIM's window is 11 px"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(
    images: Tensor, others: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        scores(images, others)


# --- the protocols --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(CONFIG).eval()


SOURCE = World("validation", 16, length=12)


def test_each_protocol_scores_its_own_pictures(model: MaskedAutoencoder) -> None:
    """The evaluation's numbers from the model's own pictures, one by one."""
    found = image_scores(model, MASK, SOURCE, 12)
    assert list(found) == [
        f"{name}/{metric}" for name in (*PROTOCOLS, *CONTROLS) for metric in METRICS
    ]
    x = normalise_pixels(SOURCE.images(range(12)))
    readout = model.reconstruct(x)
    expected = {
        "readout": readout,
        "queried": model.reconstruct(x, "queried"),
        "lent": lend_statistics(x, readout, 4),
        "flat": flat_patches(x, 4),
    }
    for name, pictures in expected.items():
        for metric, wanted in scores(to_unit_range(x), to_unit_range(pictures)).items():
            torch.testing.assert_close(
                found[f"{name}/{metric}"], wanted.double(), rtol=1e-5, atol=1e-6
            )


def test_the_masked_protocol_pastes_predictions_into_the_original(
    model: MaskedAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    rebuilt = MaskedAutoencoder.reconstruct

    def watched(self, images, visible="readout"):
        picture = rebuilt(self, images, visible)
        if isinstance(visible, Tensor):
            seen.append((visible, (patchify(picture, 4) != patchify(images, 4)).any(-1)))
        return picture

    monkeypatch.setattr(MaskedAutoencoder, "reconstruct", watched)
    image_scores(model, MaskSpec((4, 4), 0.75, unit=2), SOURCE, 12)
    ((visible, changed),) = seen
    assert (
        visible.shape == (12, 4)
        and torch.equal(changed, ~hidden_map(visible, 16))
        and len(visible.unique(dim=0)) > 1
    )
    rows = visible.sort(1).values
    assert torch.equal(rows[:, 1] - rows[:, 0], torch.ones(12, dtype=torch.int64)), (
        "units of 2 × 2 patches stay whole"
    )


def test_the_batch_changes_nothing_and_the_seed_only_the_masks(model: MaskedAutoencoder) -> None:
    one, other, seeded = (
        image_scores(model, MASK, SOURCE, 12, batch=5),
        image_scores(model, MASK, SOURCE, 12),
        image_scores(model, MASK, SOURCE, 12, seed=1),
    )
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(seeded[name], other[name]) == (not name.startswith("masked/")), name


def test_images_are_spread_over_the_source(model: MaskedAutoencoder) -> None:
    few, all_ = image_scores(model, MASK, SOURCE, 4), image_scores(model, MASK, SOURCE, 1000)
    assert len(all_["flat/mse"]) == 12
    torch.testing.assert_close(few["flat/mse"], all_["flat/mse"][::3], rtol=1e-5, atol=1e-9)


def test_a_model_that_knows_the_pixels_scores_as_a_perfect_copy(
    model: MaskedAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        MaskedAutoencoder, "reconstruct", lambda self, images, visible="readout": images.clone()
    )
    found = evaluate_reconstruction(model, MASK, SOURCE, 6)
    for name in PROTOCOLS:
        assert found[f"{name}/ssim"].value == pytest.approx(1) and found[
            f"{name}/fsim"
        ].value == pytest.approx(1)
        assert found[f"{name}/mse"].value == 0 and found[f"{name}/psnr"].value == pytest.approx(
            PSNR_CEILING
        ), "an infinite mean would say nothing"
    assert found["flat/mse"].value > 0 and found["flat/psnr"].value < PSNR_CEILING


def test_the_evaluation_is_the_mean_over_images_with_an_interval(model: MaskedAutoencoder) -> None:
    found, single = (
        evaluate_reconstruction(model, MASK, SOURCE, 12),
        image_scores(model, MASK, SOURCE, 12),
    )
    assert found.keys() == single.keys()
    for name, interval in found.items():
        assert (
            interval.value == pytest.approx(float(single[name].mean()), rel=1e-9)
            and interval.n == 12
        )
        assert interval.low <= interval.value <= interval.high


def test_the_control_is_a_normalised_prediction_of_zero() -> None:
    """What the un-normalised view gives away: with the head silenced, a model with normalised
    targets paints every patch in its true mean."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(replace(CONFIG, normalise_target=True)).eval()
    with torch.no_grad():
        model.head.weight.zero_()
    images = normalise_pixels(SOURCE.images(range(3)))
    flat = flat_patches(images, 4)
    for protocol in ("readout", "queried"):
        torch.testing.assert_close(model.reconstruct(images, protocol), flat, rtol=0, atol=1e-6)
    assert torch.equal(flat[:, 0], flat[:, 2]), (
        "the mean is over the channels too: flat patches are grey"
    )
    torch.testing.assert_close(flat[1, 0, 4:8, 8:12], images[1, :, 4:8, 8:12].mean().expand(4, 4))
    torch.testing.assert_close(flat_patches(flat, 4), flat)


def test_lent_statistics_are_the_true_patches() -> None:
    images = normalise_pixels(SOURCE.images(range(3)))
    other = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    lent = lend_statistics(images, other, 4)
    for found, truth, given in zip(
        patchify(lent, 4).flatten(0, 1),
        patchify(images, 4).flatten(0, 1),
        patchify(other, 4).flatten(0, 1),
    ):
        torch.testing.assert_close(
            torch.stack([found.mean(), found.std()]),
            torch.stack([truth.mean(), truth.std()]),
            rtol=1e-4,
            atol=1e-5,
        )
        assert float(torch.corrcoef(torch.stack([found, given]))[0, 1]) > 1 - 1e-5, (
            "its pattern stays its own"
        )
    torch.testing.assert_close(lend_statistics(images, 3 * other - 2, 4), lent, rtol=0, atol=1e-4)
    torch.testing.assert_close(lend_statistics(images, images, 4), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        lend_statistics(images, torch.ones_like(images), 4),
        flat_patches(images, 4),
        rtol=0,
        atol=1e-5,
    )


def test_an_evaluation_that_cannot_be_is_refused(model: MaskedAutoencoder) -> None:
    with pytest.raises(InputError, match=r"grid of 8×8 patches, the model's is 4×4"):
        evaluate_reconstruction(model, MaskSpec((8, 8), 0.5), SOURCE)
    with pytest.raises(InputError, match=r"0 images were asked for, and the source holds 12"):
        evaluate_reconstruction(model, MASK, SOURCE, 0)
    with pytest.raises(InputError, match=r"this model takes \[B, 3, 16, 16\]"):
        evaluate_reconstruction(model, MASK, World("validation", 32))


# --- one thing changed ----------------------------------------------------------------------------


def test_alterations_change_what_they_say() -> None:
    batch = World("validation", 64).sample(range(20))
    images = batch.images.float() / 255
    found = alterations(batch)
    assert list(found) == [
        "brighter",
        "blur",
        "no noise",
        "other noise",
        "other texture",
        "moved",
        "other shape",
    ]
    for name, changed in found.items():
        assert (
            changed.shape == images.shape
            and changed.dtype == torch.float32
            and 0 <= float(changed.min())
            and float(changed.max()) <= 1
        ), name
        assert bool((changed != images).flatten(1).any(1).all()), name
    inside = images < 0.89
    torch.testing.assert_close(found["brighter"][inside], images[inside] + 0.1)
    middle = (images > 0.3) & (images < 0.7)
    for name, deviation in (("no noise", 0.02), ("other noise", 0.02 * 2**0.5)):
        assert float((found[name] - images)[middle].std()) == pytest.approx(deviation, rel=0.05), (
            name
        )
    difference = found["blur"].diff(dim=-1).square().mean() / images.diff(dim=-1).square().mean()
    assert float(difference) < 0.3 and float((found["blur"] - images).mean().abs()) < 1e-3
    # Latents: the ground stays where no object is or was, and the texture stays within the object.
    away = ~batch.object_mask[:, None].expand_as(images)
    # the outline's half-covered pixels
    assert float((found["other texture"] != images)[away].float().mean()) < 0.05
    assert float((found["other texture"] != images)[~away].float().mean()) > 0.5
    # At 64 px the object moves by two pixels: within it, moved and original differ by their pixel
    # noise (0.02 each) alone.
    core = (batch.object_mask[..., :-2] & batch.object_mask[..., 2:])[:, None].expand(-1, 3, -1, -1)
    assert (
        float((found["moved"][..., 2:] - images[..., :-2])[core].std())
        < 0.03
        < 0.05
        < float((found["moved"] - images)[..., 2:][core].std())
    )


def test_the_other_shape_is_of_another_class_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = World("validation", 32).sample(range(12))
    drawn: list[rendering.Drawing] = []
    paint = rendering.paint
    monkeypatch.setattr(
        rendering,
        "paint",
        lambda drawing, *a, **k: drawn.append(drawing) or paint(drawing, *a, **k),
    )
    alterations(batch)
    silent, noise, texture, moved, shape = drawn
    assert [drawing.noise for drawing in drawn] == [0.0, 0.02, 0.02, 0.02, 0.02]
    for drawing, changed in (
        (silent, "noise"),
        (noise, "noise_seed"),
        (texture, "texture"),
        (moved, "pose"),
        (shape, "parts"),
    ):
        for name, value in batch.latents.items():
            assert torch.equal(getattr(drawing, name), value) == (name != changed), (changed, name)
    donors = [
        (batch.latents["parts"] == parts).all(2).all(1).nonzero()[0, 0].item()
        for parts in shape.parts
    ]
    assert all(batch.labels[donor] != label for donor, label in zip(donors, batch.labels))
    assert all(
        bool(
            (
                batch.labels[[k % 12 for k in range(row + 1, row + (donor - row) % 12)]]
                == batch.labels[row]
            ).all()
        )
        for row, donor in enumerate(donors)
    )
    assert bool((texture.texture != batch.textures).all())
    for name, again in alterations(batch).items():
        assert torch.equal(again, alterations(batch)[name]), name


def test_an_alteration_of_a_single_class_is_refused() -> None:
    world = World("validation", 32)
    same = (world.labels == world.labels[0]).nonzero().flatten()[:3]
    with pytest.raises(InputError, match="two classes"):
        alterations(world.sample(same))


@pytest.mark.parametrize("bands", [1, 2, 5])
def test_other_bands_than_three_are_scored_by_what_is_defined_for_them(bands: int) -> None:
    images = torch.rand(3, bands, 24, 32, generator=torch.Generator().manual_seed(0))
    others = (images + 0.1 * torch.randn(images.shape)).clamp(0, 1)
    found = scores(images, others)
    assert set(found) == {"ssim", "psnr", "mse"} | ({"fsim"} if bands == 1 else set())
    one = [scores(images[:, [b]], others[:, [b]]) for b in range(bands)]
    for name in ("ssim", "mse"):  # bands are scored each by itself
        mean = torch.stack([each[name] for each in one]).mean(0)
        assert torch.allclose(found[name], mean)
    if bands == 1:
        grey = scores(images.expand(-1, 3, -1, -1), others.expand(-1, 3, -1, -1))
        assert torch.allclose(found["fsim"], grey["fsim"], atol=1e-3)
