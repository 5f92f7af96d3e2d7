"""The mask designs of §3.6: margins against a distance transform, structure-following masks by what
they hide, and their place in a config."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt

import tiny
from mae_lib.base.errors import InputError
from mae_lib.masks.designs import (
    Design,
    drawn_ratio,
    hide_first,
    margin_maps,
    parts_priority,
    sample_design,
)
from mae_lib.masks.masking import MaskSpec, hidden_map
from mae_lib.model.autoencoder import MaskedAutoencoder, gather, patchify
from mae_lib.training.config import PretrainConfig
from mae_lib.training.loop import Run
from mae_lib.training.pretrain import pretrain
from mae_lib.training.tiers import tier
from mae_lib.worlds.law import CLASSES
from mae_lib.worlds.world import World

WORLD = World("train", 32, length=40)
BLOCKS = tuple(2 * (k // 8) + (k % 4) // 2 for k in range(16))  # the 4×4 grid in its four quadrants


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("design", Design.__args__)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_every_design_hides_as_many_patches_as_random_units_do(design, ratio):
    spec = MaskSpec((4, 4), ratio)
    parts = WORLD.patch_parts(8).long()
    visible, hidden = sample_design(design, spec, 40, generator(), BLOCKS, parts)
    plain_visible, plain_hidden = spec.sample(40, generator())
    assert visible.shape == plain_visible.shape and hidden.shape == plain_hidden.shape
    assert torch.equal(
        torch.cat([visible, hidden], 1).sort(1).values, torch.arange(16).expand(40, -1)
    )
    assert len({tuple(sorted(row.tolist())) for row in hidden}) > 1


@given(st.integers(1, 3), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_groups_are_hidden_whole_but_for_one(quarters, seed):
    spec = MaskSpec((4, 4), quarters / 4)
    hidden = hidden_map(sample_design("groups", spec, 20, generator(seed), BLOCKS)[1], 16)
    groups = torch.tensor(BLOCKS)
    shares = torch.stack([hidden[:, groups == g].float().mean(1) for g in range(4)], 1)
    assert bool(((shares == 0) | (shares == 1)).all())  # a quarter of the patches is just one group
    ragged = hidden_map(
        sample_design("groups", MaskSpec((4, 4), 0.6), 20, generator(seed), BLOCKS)[1], 16
    )
    shares = torch.stack([ragged[:, groups == g].float().mean(1) for g in range(4)], 1)
    assert bool((((shares > 0) & (shares < 1)).sum(1) <= 1).all())


def test_each_group_is_hidden_equally_often():
    hidden = (
        hidden_map(sample_design("groups", MaskSpec((4, 4), 0.5), 4000, generator(), BLOCKS)[1], 16)
        .float()
        .mean(0)
    )
    assert float((hidden - 0.5).abs().max()) < 0.04


def test_the_object_is_hidden_whole_where_the_ratio_allows_it():
    parts = torch.tensor([[0] * 8 + [1] * 4 + [2] * 4, [1] * 14 + [0] * 2])
    for _ in range(20):
        hidden = hidden_map(
            sample_design("object", MaskSpec((4, 4), 0.75), 2, generator(), parts=parts)[1], 16
        )
        assert bool(hidden[0, 8:].all()) and int(hidden[0].sum()) == 12
        assert not bool(hidden[1, 14:].any()) and int(hidden[1].sum()) == 12


def test_some_parts_are_hidden_whole_and_others_are_whole_in_view():
    parts = torch.tensor([[0] * 10 + [1, 1, 2, 2, 3, 3]]).expand(3000, -1)
    hidden = hidden_map(
        sample_design("parts", MaskSpec((4, 4), 0.75), 3000, generator(), parts=parts)[1], 16
    )
    shares = torch.stack([hidden[:, parts[0] == p].float().mean(1) for p in (1, 2, 3)], 1)
    # 12 are hidden: two or four of the parts' six patches, and of the ten ground patches the rest.
    assert bool(((shares == 0) | (shares == 1)).all())
    count = shares.sum(1)
    assert set(count.tolist()) == {1.0, 2.0} and float((count == 1).float().mean() - 0.5) < 0.04
    assert float((shares.mean(0) - 0.5).abs().max()) < 0.04


def test_a_single_part_is_hidden_half_the_time_and_no_part_changes_nothing():
    parts = torch.tensor([[0] * 12 + [4] * 4]).expand(2000, -1)
    hidden = hidden_map(hide_first(parts_priority(parts, generator()), 8)[1], 16)
    share = hidden[:, 12:].float().mean(1)
    assert set(share.tolist()) == {0.0, 1.0} and abs(float(share.mean()) - 0.5) < 0.04
    bare = hidden_map(
        hide_first(parts_priority(torch.zeros(2000, 16, dtype=torch.int64), generator()), 8)[1], 16
    )
    assert float((bare.float().mean(0) - 0.5).abs().max()) < 0.05


@given(
    st.integers(0, 9),
    st.sampled_from([2, 4]),
    st.sampled_from([0.25, 0.5, 0.75]),
    st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_margins_are_chessboard_distances_to_the_boundary(margin, patch, ratio, seed):
    spec = MaskSpec((4, 6), ratio, 2)
    hidden = spec.sample(3, generator(seed))[1]
    counted, shown = margin_maps(hidden, spec.grid, patch, margin)
    covered = (
        hidden_map(hidden, spec.patches)
        .view(-1, 4, 6)
        .repeat_interleave(patch, 1)
        .repeat_interleave(patch, 2)
        .numpy()
    )
    for k in range(3):
        assert (
            counted[k, 0].numpy() == (distance_transform_cdt(covered[k], "chessboard") > margin)
        ).all()
        assert (
            shown[k, 0].numpy() == (distance_transform_cdt(~covered[k], "chessboard") > margin)
        ).all()


def test_pixels_left_out_of_the_loss_do_not_matter_and_all_others_do():
    torch.manual_seed(0)
    model = MaskedAutoencoder(tiny.MODEL).double().eval()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    visible, hidden = MaskSpec((4, 4), 0.5, 2).sample(4, generator())
    counted, shown = margin_maps(hidden, (4, 4), 8, 3)
    every, _ = margin_maps(hidden, (4, 4), 8, 0)
    assert torch.allclose(
        model(images, visible, hidden, every)[0], model(images, visible, hidden)[0], rtol=1e-12
    )
    loss = model(images, visible, hidden, counted)[0]
    left_out = every & ~counted
    assert torch.equal(model(torch.where(left_out, 9.0, images), visible, hidden, counted)[0], loss)
    assert model(torch.where(counted, 9.0, images), visible, hidden, counted)[0] != loss
    by_hand = (model(images, visible, hidden)[1] - gather(patchify(images, 8), hidden)).square()
    weight = gather(patchify(counted.expand(-1, 3, -1, -1), 8), hidden)
    assert torch.allclose(loss, by_hand[weight].mean(), rtol=1e-12)
    strict = model(images, visible, hidden, counted, shown)[0]
    assert (
        torch.equal(
            model(torch.where(~every & ~shown, 9.0, images), visible, hidden, counted, shown)[0],
            strict,
        )
        and strict != loss
    )


def test_a_batch_in_which_no_pixel_counts_has_no_gradient():
    model = MaskedAutoencoder(tiny.MODEL)
    visible, hidden = MaskSpec((4, 4), 0.5).sample(2, generator())
    loss = model(
        torch.randn(2, 3, 32, 32), visible, hidden, torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    )[0]
    loss.backward()
    assert float(loss.detach()) == 0 and all(
        p.grad is None or not p.grad.any() for p in model.parameters()
    )


def test_patches_belong_to_the_part_that_they_show_most_of():
    labels = WORLD.sample(range(len(WORLD))).part_labels
    parts = WORLD.patch_parts(8)
    assert parts.shape == (40, 16) and parts.dtype == torch.uint8
    for image in range(40):
        for k in range(16):
            seen = (
                labels[image, 8 * (k // 4) : 8 * (k // 4) + 8, 8 * (k % 4) : 8 * (k % 4) + 8]
                .flatten()
                .long()
            )
            counts = torch.bincount(seen, minlength=8)[1:]
            assert int(parts[image, k]) == (1 + int(counts.argmax()) if counts.any() else 0)
    with pytest.raises(InputError, match="5 px do not divide"):
        WORLD.patch_parts(5)


DESIGNS = [
    dict(margin=2),
    dict(margin=2, unit=16, ratio=0.5),
    dict(margin=2, strict=True, unit=16, ratio=0.5),
    dict(design="groups", groups=BLOCKS),
    dict(design="parts"),
    dict(design="object"),
    dict(design="parts", margin=2),
    dict(spread=0.15),
]


def world_config(**changes) -> PretrainConfig:
    return PretrainConfig(
        **(
            dict(model=tiny.MODEL, ratio=0.75, unit=8, data=WORLD.identity, steps=4, batch=16)
            | changes
        )
    )


def test_designs_have_hashes_and_names_of_their_own_and_survive_json():
    configs = [
        world_config(),
        world_config(unit=16, ratio=0.5),
        *(world_config(**design) for design in DESIGNS),
    ]
    assert len({c.hash for c in configs}) == len({c.family for c in configs}) == len(configs)
    for each in configs:
        assert PretrainConfig.from_dict(each.to_dict()) == each and each.name == f"{each.family}-s0"
    assert "margin" not in world_config().to_dict() and "design" not in world_config().to_dict()
    assert (
        world_config(design="groups", groups=BLOCKS).hash
        != world_config(design="groups", groups=BLOCKS[::-1]).hash
    )


@given(st.floats(0.05, 0.2), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_a_drawn_ratio_is_uniform_about_its_mean(spread, seed):
    spec, draws = MaskSpec((16, 16), 0.6, 2), generator(seed)
    assert drawn_ratio(spec, 0, draws) is spec
    ratios = torch.tensor([drawn_ratio(spec, spread, draws).ratio for _ in range(400)])
    assert float((ratios - 0.6).abs().max()) <= spread + 1e-6
    inside = ((ratios - 0.6) / (2 * spread) + 0.5).sort().values
    steps = (torch.arange(400) + 0.5) / 400
    assert float((inside - steps).abs().max()) < 0.12  # Kolmogorov and Smirnov's, p about 1e-5
    law = drawn_ratio(spec, spread, draws)
    assert (law.grid, law.unit) == (spec.grid, spec.unit)


def test_the_papers_masks_keep_the_names_of_their_stored_checkpoints():
    """A new field must not orphan what was trained before it: the hash of the laptop tier's model
    at ratio 0.75."""
    assert tier("laptop").config(World("train").identity, 0.75).hash == "e939259eab727a03"


@pytest.mark.parametrize("design", DESIGNS)
def test_a_design_trains_resumes_and_is_reproducible(design, tmp_path):
    config = world_config(**design)
    whole = pretrain(config, WORLD, device="cpu", progress=False)
    assert torch.isfinite(whole.losses).all() and float(whole.losses[0]) > 0

    def stop(run: Run) -> None:
        if run.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(
            config, WORLD, device="cpu", state=tmp_path / "state", progress=False, on_step=stop
        )
    assert torch.equal(
        pretrain(config, WORLD, device="cpu", state=tmp_path / "state", progress=False).losses,
        whole.losses,
    )


def test_a_design_changes_what_is_trained():
    losses = {
        c.family: pretrain(c, WORLD, device="cpu", progress=False).losses
        for c in (world_config(), *(world_config(**d) for d in DESIGNS[3:]))
    }
    assert len({tuple(x.tolist()) for x in losses.values()}) == len(losses)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(margin=-1), "margin -1 must be"),
        (dict(margin=2.5), "margin 2.5 must be"),
        (dict(margin=32), "leaves nothing to predict"),
        (dict(margin=8, ratio=0.1), "leaves nothing to predict"),
        (dict(margin=12, strict=True, ratio=0.9), "leaves nothing to see"),
        (dict(spread=-0.1), "spread -0.1 must be at least 0"),
        (dict(spread=float("nan")), "spread nan must be"),
        (dict(spread=0.3, ratio=0.75), "masking ratio 1.05"),
        (dict(spread=0.49, ratio=0.5), "hides no unit"),
        (dict(strict=True), "strict without a margin"),
        (dict(design="segments"), "no mask design 'segments'"),
        (dict(design="groups"), "needs a group number"),
        (dict(groups=BLOCKS), "needs a group number"),
        (dict(design="groups", groups=(0, 1)), "2 group numbers for a 4×4 grid"),
        (dict(design="groups", groups=(0,) * 16), "at least two"),
        (dict(design="groups", groups=(0, 2) * 8), "without a gap"),
        (dict(design="parts", unit=16), "has no mask units"),
        (dict(design="parts", crop=0.5), "without crops"),
        (dict(design="object", data={"kind": "folder"}), "embedded world"),
    ],
)
def test_what_cannot_be_is_said_before_any_training(changes, message):
    with pytest.raises(InputError, match=message):
        world_config(**changes)


def test_parts_are_asked_for_by_name_where_they_are_missing():
    with pytest.raises(InputError, match="embedded world"):
        sample_design("parts", MaskSpec((4, 4), 0.5), 2, generator())


def test_the_world_is_found_again_by_its_identity():
    assert World.named(WORLD.identity) == replace(WORLD) and len(CLASSES) == 10
    with pytest.raises(InputError, match="version"):
        World.named(WORLD.identity | {"version": "0"})
    with pytest.raises(InputError, match="no split"):
        World.named({"kind": "folder"})
