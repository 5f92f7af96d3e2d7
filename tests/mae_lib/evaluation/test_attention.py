"""The maps are the model's own attention, the scores count what they say they count, and the
controls stand where they should."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mae_lib.base.errors import InputError
from mae_lib.evaluation import attention
from mae_lib.evaluation.attention import (
    THRESHOLDS,
    attention_maps,
    cls_attention,
    cls_scores,
    evaluate_attention,
    object_scores,
    output_error,
    patch_attention,
    patch_coverage,
    patch_distances,
    spread_scores,
    untrained,
)
from mae_lib.model.autoencoder import MaskedAutoencoder, ModelConfig, normalise_pixels
from mae_lib.training.pretrain import pretrain
from mae_lib.training.store import checkpoints
from mae_lib.training.tiers import tier
from mae_lib.worlds.world import World, WorldBatch
from tiny import Ramps

CONFIG = ModelConfig(
    image_size=(24, 32), patch=8, width=24, depth=3, heads=3, decoder_width=16, decoder_heads=2
)
PATCHES = 12


@pytest.fixture(scope="module")
def model() -> MaskedAutoencoder:
    """Untrained, but with attention far from even and biases that are not zero; in double
    precision, where logits this large round to nothing."""
    torch.manual_seed(1)
    made = MaskedAutoencoder(CONFIG).double().eval()
    with torch.no_grad():
        for block in made.encoder:
            block.attn.qkv.weight.mul_(3)
            block.attn.qkv.bias.normal_()
    return made


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(
        4, 3, 24, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )


VISIBLE = {
    "all": None,
    "some": torch.stack(
        [torch.randperm(PATCHES, generator=torch.Generator().manual_seed(k))[:5] for k in range(4)]
    ),
}


def set_fused(model: MaskedAutoencoder, fused: bool) -> None:
    for block in model.encoder:
        block.attn.fused_attn = fused


@pytest.fixture(params=[True, False], ids=["fused", "unfused"])
def fused(request, model) -> bool:
    before = model.encoder[0].attn.fused_attn
    set_fused(model, request.param)
    yield request.param
    set_fused(model, before)


# --------------------------------------------------------------------------------------------------
# The maps


@pytest.mark.parametrize("visible", VISIBLE.values(), ids=VISIBLE)
def test_maps_are_the_explicit_softmax_of_every_layer(model, images, visible, fused):
    everything = attention_maps(model, images, None, visible)
    assert (
        everything.shape == (4, 3, 3, *[1 + (PATCHES if visible is None else 5)] * 2)
        and not everything.requires_grad
    )
    assert torch.allclose(
        everything.sum(-1), torch.ones((), dtype=torch.float64), atol=1e-6
    ) and bool((everything >= 0).all())
    # timm's own unfused path hands its softmax to the dropout: that is the map.
    explicit = []
    hooks = [
        block.attn.attn_drop.register_forward_hook(lambda _, given, __: explicit.append(given[0]))
        for block in model.encoder
    ]
    set_fused(model, False)
    with torch.no_grad():
        model.encode(images, visible)
    for hook in hooks:
        hook.remove()
    # maps that have something to get wrong
    assert len(explicit) == 3 and float(explicit[0].amax(-1).mean()) > 0.3
    for layer, wanted in enumerate(explicit):
        set_fused(model, fused)
        assert (everything[:, layer] - wanted).abs().max() < 1e-6
        for spelt in (layer, layer - 3):
            assert (attention_maps(model, images, spelt, visible) - wanted).abs().max() < 1e-6
    assert torch.equal(
        attention_maps(model, images, visible=visible), attention_maps(model, images, 2, visible)
    )


@pytest.mark.parametrize("visible", VISIBLE.values(), ids=VISIBLE)
def test_maps_times_values_are_what_the_block_adds(model, images, visible, fused):
    """The maps are those the model used: with its own values and projection they give its own
    output, fused or not."""
    passed = []
    hooks = [
        block.attn.register_forward_hook(lambda _, given, made: passed.append((given[0], made)))
        for block in model.encoder
    ]
    with torch.no_grad():
        model.encode(images, visible)
    for hook in hooks:
        hook.remove()
    for layer, (block, (given, made)) in enumerate(zip(model.encoder, passed, strict=True)):
        values = block.attn.qkv(given)[..., 2 * 24 :].unflatten(-1, (3, 8)).transpose(1, 2)
        again = block.attn.proj(
            (attention_maps(model, images, layer, visible) @ values).transpose(1, 2).flatten(2)
        )
        assert (again - made).abs().max() < 1e-6


@pytest.mark.parametrize("layer", range(-3, 3))
def test_the_proof_holds_for_the_models_maps_and_fails_for_others(
    model, images, fused, layer, monkeypatch
):
    assert output_error(model, images, layer) < 1e-6
    true = attention.block_attention
    for other in (
        lambda *given: true(*given).transpose(-2, -1),
        lambda *given: true(*given).flip(1),
        lambda *given: true(*given).sqrt(),
    ):
        monkeypatch.setattr(attention, "block_attention", other)
        assert output_error(model, images, layer) > 1e-2
    assert all(not block.attn._forward_hooks for block in model.encoder)
    with pytest.raises(InputError, match="no layer 3"):
        output_error(model, images, 3)
    assert all(not block.attn._forward_hooks for block in model.encoder)


def test_normed_queries_and_keys_are_respected(images):
    """timm's blocks can norm q and k; a model that does must not get the maps of one that does
    not."""
    torch.manual_seed(3)
    model = MaskedAutoencoder(CONFIG).eval()
    images = images.float()
    attention = model.encoder[1].attn
    attention.q_norm, attention.k_norm = torch.nn.LayerNorm(8), torch.nn.LayerNorm(8)
    torch.nn.init.normal_(attention.q_norm.weight, 2.0)
    explicit = []
    hook = attention.attn_drop.register_forward_hook(lambda _, given, __: explicit.append(given[0]))
    attention.fused_attn = False
    with torch.no_grad():
        model.encode(images)
    hook.remove()
    assert (attention_maps(model, images, 1) - explicit[0]).abs().max() < 1e-6


def test_maps_leave_the_model_as_it_was(model, images):
    with torch.no_grad():
        before = model.encode(images)
    with pytest.raises(InputError, match="NaN"):
        attention_maps(model, images * torch.nan)
    attention_maps(model, images, None)
    assert all(not block.attn._forward_pre_hooks for block in model.encoder)
    assert torch.equal(model.encode(images), before)


def test_a_visible_patch_attends_wherever_it_stands_in_the_row(model, images):
    order = torch.randperm(PATCHES, generator=torch.Generator().manual_seed(4))
    whole, turned = (
        attention_maps(model, images),
        attention_maps(model, images, visible=order.expand(4, -1)),
    )
    index = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + order])
    assert torch.allclose(turned, whole[:, :, index][:, :, :, index], atol=1e-6)


def test_maps_refuse_what_is_not_there(model, images):
    for layer in (3, -4):
        with pytest.raises(InputError, match=f"no layer {layer}: the encoder has 3 blocks"):
            attention_maps(model, images, layer)
    with pytest.raises(InputError, match="no image"):
        attention_maps(model, images[:0])
    with pytest.raises(InputError, match=r"takes \[B, 3, 24, 32\]"):
        attention_maps(model, images[..., :24])
    for patch in (-1, PATCHES):
        with pytest.raises(InputError, match="3 × 4 grid has patches 0 … 11"):
            attention_maps(model, images, visible=torch.tensor([[0, patch]] * 4))


# --------------------------------------------------------------------------------------------------
# The scores, against slow counting over pixels


def test_coverage_is_the_share_of_a_patchs_pixels():
    masks = torch.rand(2, 24, 32, generator=torch.Generator().manual_seed(5)) < 0.4
    found = patch_coverage(masks, (3, 4))
    for b in range(2):
        for p in range(12):
            y, x = p // 4 * 8, p % 4 * 8
            assert found[b, p] == pytest.approx(
                float(masks[b, y : y + 8, x : x + 8].float().mean())
            )
    for wrong in (masks[:, :23], masks[0]):
        with pytest.raises(InputError, match="3 × 4 patches"):
            patch_coverage(wrong, (3, 4))


def random_case(seed: int, images: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """(maps [B, 2, 13, 13], object masks [B, 24, 32]): blobs of half-filled patches, on a 3 × 4
    grid."""
    generator = torch.Generator().manual_seed(seed)
    maps = (2 * torch.randn(images, 2, 13, 13, generator=generator)).softmax(-1)
    masks = torch.zeros(images, 24, 32, dtype=torch.bool)
    masks[:, 3:21, 6:26] = torch.rand(images, 18, 20, generator=generator) < 0.85
    return maps, masks


def selected_iou(
    weights: dict[int, float], mask: torch.Tensor, threshold: float, skipped: int | None = None
) -> float:
    """Pixel by pixel, without the patch ``skipped``."""
    chosen, counted = torch.zeros(24, 32, dtype=torch.bool), torch.ones(24, 32, dtype=torch.bool)
    for p, weight in weights.items():
        y, x = p // 4 * 8, p % 4 * 8
        chosen[y : y + 8, x : x + 8] = weight * len(weights) >= threshold
    if skipped is not None:
        y, x = skipped // 4 * 8, skipped % 4 * 8
        counted[y : y + 8, x : x + 8] = False
    return float((chosen & mask & counted).sum() / ((chosen | mask) & counted).sum())


def test_cls_scores_are_those_of_counting_pixels():
    maps, masks = random_case(0)
    coverage = patch_coverage(masks, (3, 4))
    found = cls_scores(cls_attention(maps), coverage)
    for b in range(3):
        weights = {
            p: float(maps[b, :, 0, 1 + p].sum() / maps[b, :, 0, 1:].sum()) for p in range(12)
        }
        share = sum(weights[p] * float(coverage[b, p]) for p in weights)
        assert found["share"][b] == pytest.approx(share, rel=1e-5)
        assert found["lift"][b] == pytest.approx(share - float(masks[b].float().mean()), abs=1e-6)
        assert found["pointing"][b] == (coverage[b, max(weights, key=weights.get)] >= 0.5)
        for k in (0, 5, 10, 17, 40):
            assert found["iou"][b, k] == pytest.approx(
                selected_iou(weights, masks[b], float(THRESHOLDS[k])), abs=1e-6
            )


def test_object_scores_are_those_of_counting_pixels():
    maps, masks = random_case(1)
    coverage = patch_coverage(masks, (3, 4))
    found = object_scores(patch_attention(maps), coverage)
    for b in range(3):
        tokens = [p for p in range(12) if coverage[b, p] >= 0.5]
        assert len(tokens) >= 2
        shares, lifts, ious = [], [], []
        for token in tokens:
            others = [p for p in range(12) if p != token]
            total = float(maps[b, :, 1 + token, [1 + p for p in others]].sum())
            weights = {p: float(maps[b, :, 1 + token, 1 + p].sum()) / total for p in others}
            shares.append(sum(weights[p] * float(coverage[b, p]) for p in others))
            lifts.append(shares[-1] - sum(float(coverage[b, p]) for p in others) / 11)
            ious.append(selected_iou(weights, masks[b], 1.3, token))
        assert found["share"][b] == pytest.approx(sum(shares) / len(shares), rel=1e-5)
        assert found["lift"][b] == pytest.approx(sum(lifts) / len(lifts), abs=1e-6)
        assert found["iou"][b, 13] == pytest.approx(sum(ious) / len(ious), abs=1e-6)


def test_an_even_map_has_no_lift_and_a_perfect_one_all_of_it():
    masks = torch.zeros(3, 24, 32, dtype=torch.bool)
    masks[0, 8:, 8:24] = masks[1, :8] = masks[2, :, 8:16] = True  # whole patches
    coverage, area = patch_coverage(masks, (3, 4)), masks.float().mean((1, 2))
    even = torch.full((3, 2, 13, 13), 1 / 13)
    for found in (
        cls_scores(cls_attention(even), coverage),
        object_scores(patch_attention(even), coverage),
    ):
        assert torch.allclose(found["lift"], torch.zeros(3), atol=1e-6)
    found = cls_scores(cls_attention(even), coverage)
    # nothing cut off: the whole image
    assert torch.allclose(found["share"], area) and torch.allclose(found["iou"][:, 0], area)
    perfect = torch.cat([torch.zeros(3, 1), coverage], 1)[:, None, None].expand(3, 2, 13, 13)
    for found in (
        cls_scores(cls_attention(perfect), coverage),
        object_scores(patch_attention(perfect), coverage),
    ):
        assert torch.allclose(found["share"], torch.ones(3)) and torch.allclose(
            found["iou"][:, 10], torch.ones(3)
        )
    assert cls_scores(cls_attention(perfect), coverage)["pointing"].tolist() == [1, 1, 1]
    elsewhere = torch.cat([torch.zeros(3, 1), 1 - coverage], 1)[:, None, None].expand(3, 2, 13, 13)
    found = cls_scores(cls_attention(elsewhere), coverage)
    assert (
        torch.allclose(found["lift"], -area)
        and found["pointing"].tolist() == [0, 0, 0]
        and float(found["iou"][:, 10].max()) == 0
    )


def test_the_patchs_own_attention_and_that_of_cls_do_not_count():
    maps, masks = random_case(3)
    coverage = patch_coverage(masks, (3, 4))
    louder = maps.clone()
    louder[..., 0] *= 5
    louder[:, :, range(13), range(13)] *= 7
    before, after = (
        object_scores(patch_attention(maps.mean(1, keepdim=True)), coverage),
        object_scores(patch_attention(louder.mean(1, keepdim=True)), coverage),
    )
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert torch.allclose(cls_attention(louder), cls_attention(maps), atol=1e-6)


def test_images_without_an_object_or_without_its_rest_are_not_scored():
    maps, masks = random_case(4, images=4)
    masks[0] = False
    masks[1] = False
    masks[1, :8, :8] = True  # one patch: nothing of it is left for it to attend to
    masks[2] = False
    masks[2, 7:9, 6:10] = True  # no patch is mostly object
    coverage = patch_coverage(masks, (3, 4))
    cls, objects = (
        cls_scores(cls_attention(maps), coverage),
        object_scores(patch_attention(maps), coverage),
    )
    assert (
        cls["lift"].isnan().tolist()
        == cls["iou"].isnan().any(1).tolist()
        == [True, False, False, False]
    )
    assert (
        objects["lift"].isnan().tolist()
        == objects["iou"].isnan().any(1).tolist()
        == [True, True, True, False]
    )


def test_distance_and_entropy_of_known_maps():
    grid = (3, 4)
    distances = patch_distances(grid)
    assert (
        distances[0, 1] == 1
        and distances[0, 4] == 1
        and distances[0, 11] == pytest.approx(math.hypot(2, 3))
        and distances[5, 5] == 0
    )
    itself = torch.eye(13).expand(2, 3, 13, 13)
    assert {k: v.tolist() for k, v in spread_scores(itself, grid).items()} == {
        "distance": [0, 0],
        "entropy": [0, 0],
    }
    even = spread_scores(torch.full((2, 3, 13, 13), 1 / 13), grid)
    assert torch.allclose(even["distance"], distances.mean().expand(2)) and torch.allclose(
        even["entropy"], torch.ones(2)
    )
    right = torch.zeros(1, 1, 13, 13)
    right[..., 0] = 0.75  # what [CLS] takes is left out
    for p in range(12):
        right[0, 0, 1 + p, 1 + (p + 1 if p % 4 < 3 else p - 3)] = 0.25
    assert float(spread_scores(right, grid)["distance"]) == pytest.approx((9 * 1 + 3 * 3) / 12)
    two = torch.zeros(1, 1, 13, 13)
    two[..., 1:3] = 0.5
    assert float(spread_scores(two, grid)["entropy"]) == pytest.approx(math.log(2) / math.log(12))


# --------------------------------------------------------------------------------------------------
# The evaluation

SMOKE = tier("smoke").model


class Planted(World):
    """World images on which attention can be planted: the object's patches are brighter than any
    other."""

    def sample(self, indices) -> WorldBatch:
        batch = super().sample(indices)
        whole = patch_coverage(batch.object_mask, (4, 4)) >= 0.5
        mask = whole.view(-1, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)
        return replace(
            batch,
            images=(mask[:, None] * 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous(),
            object_mask=mask,
        )


def seeing(sharpness: float) -> MaskedAutoencoder:
    """A model whose last block attends to bright patches, the more so the larger ``sharpness``,
    from every token and in every head."""
    model = MaskedAutoencoder(SMOKE).eval()
    with torch.no_grad():
        model.position.zero_()
        model.cls_token.zero_()
        model.embed.weight.zero_()
        model.embed.weight[0] = 1 / model.config.patch_values
        model.embed.bias.zero_()
        attention, width = model.encoder[-1].attn, model.config.width
        attention.qkv.weight.zero_()
        attention.qkv.bias.zero_()
        attention.qkv.bias[:width] = 1  # q: the same for all
        attention.qkv.weight[width : 2 * width, 0] = sharpness  # k: the brightness
    return model


def test_planted_attention_is_found_and_the_controls_are_not_fooled():
    world = Planted("validation", 32)
    found = evaluate_attention(seeing(5.0), world, 60)
    assert (
        found["cls/share"].value > 0.99
        and found["cls/pointing"].value == 1
        and found["cls/iou"].value > 0.99
        and found["object/share"].value > 0.99
    )
    assert found["object/iou"].value > 0.99
    assert found["cls/lift"].value == pytest.approx(1 - found["area"].value, abs=0.01)
    assert (
        found["shuffled/cls/lift"].value < found["cls/lift"].value - 0.2
        and found["net/cls/lift"].value > 0.2
        and found["net/object/lift"].value > 0.2
    )
    assert (
        abs(found["untrained/cls/lift"].value) < 0.1
        and abs(found["untrained/object/lift"].value) < 0.1
    )
    assert 0 < found["cls/threshold"].value < 4
    even = evaluate_attention(seeing(0.0), world, 60)
    assert even["cls/lift"].value == pytest.approx(0, abs=1e-6) and even[
        "object/lift"
    ].value == pytest.approx(0, abs=1e-6)
    assert even["cls/share"].value == pytest.approx(even["area"].value, abs=1e-6) and even[
        "cls/iou"
    ].value == pytest.approx(even["area"].value, abs=1e-5)
    assert even["entropy"].value == pytest.approx(1) and even["distance"].value == pytest.approx(
        even["uniform/distance"].value, rel=1e-5
    )
    assert all(
        i.value == pytest.approx(0, abs=1e-6) for name, i in even.items() if name.startswith("net/")
    )
    assert all(
        math.isnan(i.low) or i.low <= i.value <= i.high for i in (*found.values(), *even.values())
    )


def test_the_evaluation_is_the_mean_of_the_scores_whatever_the_batches():
    torch.manual_seed(7)
    model, world = MaskedAutoencoder(SMOKE).eval(), World("validation", 32)
    found = evaluate_attention(model, world, 90)  # more than two batches
    batch = world.sample(range(90))
    maps, coverage = (
        attention_maps(model, normalise_pixels(batch.images)),
        patch_coverage(batch.object_mask, (4, 4)),
    )
    cls, objects, spread = (
        cls_scores(cls_attention(maps), coverage),
        object_scores(patch_attention(maps), coverage),
        spread_scores(maps, (4, 4)),
    )
    for name, value in {
        "cls/lift": cls["lift"],
        "object/lift": objects["lift"],
        "distance": spread["distance"],
        "cls/iou": cls["iou"],
    }.items():
        rows = value[~value.flatten(1).isnan().any(1)] if value.ndim > 1 else value[~value.isnan()]
        assert found[name].n == len(rows) and found[name].value == pytest.approx(
            float(rows.mean(0).max()), abs=1e-5
        )
    before = cls_scores(cls_attention(maps[1:]), coverage[:-1])["lift"]
    assert found["shuffled/cls/lift"].n == 89 and found["shuffled/cls/lift"].value == pytest.approx(
        float(before.nanmean()), abs=1e-5
    )
    assert found["net/cls/lift"].value == pytest.approx(
        float((cls["lift"][1:] - before).nanmean()), abs=1e-5
    )
    assert found["cls/threshold"].value == pytest.approx(
        float(THRESHOLDS[cls["iou"].nanmean(0).argmax()])
    )
    assert found == evaluate_attention(model, world, 90)


def test_the_untrained_control_is_where_training_began(tmp_path):
    config = replace(tier("smoke").config(Ramps().identity, 0.5, seed=3), steps=1, base_lr=1e-30)
    begun = pretrain(
        config, Ramps(), device="cpu", state=tmp_path / "state.safetensors", progress=False
    ).model
    state = torch.random.get_rng_state()
    for seed, same in ((3, True), (4, False)):
        weights = untrained(begun, seed).encoder[0].attn.qkv.weight
        assert torch.allclose(weights, begun.encoder[0].attn.qkv.weight, atol=1e-6) == same
    assert torch.equal(torch.random.get_rng_state(), state)


class Empty(World):
    """Nothing in view in the images of ``gone``."""

    gone = (0, 2)

    def sample(self, indices) -> WorldBatch:
        batch = super().sample(indices)
        batch.object_mask[
            [k for k, i in enumerate(torch.as_tensor(indices).tolist()) if i in self.gone]
        ] = False
        return batch


def test_images_with_nothing_in_view_are_left_out_and_counted():
    torch.manual_seed(8)
    model = MaskedAutoencoder(SMOKE).eval()
    found = evaluate_attention(model, Empty("validation", 32), 12)
    assert (
        found["distance"].n == 12
        and found["cls/lift"].n == found["area"].n == 10
        and found["object/lift"].n == 10
    )
    assert found["net/cls/lift"].n == 8  # of image 4 to 11; images 1 and 3 have none before them
    world = Empty("validation", 32)
    object.__setattr__(world, "gone", range(5))
    with pytest.raises(InputError, match="no object is in view in any of the 5 images"):
        evaluate_attention(model, world, 5)
    assert set(evaluate_attention(model, world, 5, objects=False)) == {
        "distance",
        "entropy",
        "uniform/distance",
    }
    one = evaluate_attention(model, World("validation", 32), 1)
    assert one["cls/lift"].n == 1 and math.isnan(one["cls/lift"].low) and "net/cls/lift" not in one


def test_sources_without_masks_have_distance_and_entropy_only():
    model = MaskedAutoencoder(SMOKE).eval()
    found = evaluate_attention(model, Ramps(), 9)
    assert set(found) == {"distance", "entropy", "uniform/distance"} and found["distance"].n == 9
    with pytest.raises(InputError, match="no object masks"):
        evaluate_attention(model, Ramps(), 9, objects=True)


def test_bad_input_is_named():
    model = MaskedAutoencoder(SMOKE).eval()
    for images in (0, 25):
        with pytest.raises(InputError, match="the source holds 24"):
            evaluate_attention(model, Ramps(), images)
    with pytest.raises(InputError, match="no layer 1"):
        evaluate_attention(model, Ramps(), 9, layer=1)
    with pytest.raises(InputError, match=r"takes \[B, 3, 32, 32\]"):
        evaluate_attention(model, World("validation", 64), 9)
    single = MaskedAutoencoder(replace(SMOKE, patch=32)).eval()
    with pytest.raises(InputError, match="smaller patch"):
        evaluate_attention(single, Ramps(), 9)


def test_the_shipped_models_maps_are_their_explicit_softmax():
    """The real thing, on every layer of both halves of the sweep."""
    images = normalise_pixels(World("validation", 64).images(range(2)))
    for checkpoint in checkpoints(Path(__file__).parents[3] / "checkpoints" / "world")[2:5]:
        model = checkpoint.load()
        maps = attention_maps(model, images, None)
        set_fused(model, False)
        explicit = []
        for block in model.encoder:
            block.attn.attn_drop.register_forward_hook(
                lambda _, given, __: explicit.append(given[0])
            )
        with torch.no_grad():
            model.encode(images)
        assert (maps - torch.stack(explicit, 1)).abs().max() < 1e-6 and torch.allclose(
            maps.sum(-1), torch.ones(()), atol=1e-6
        )
