"""A latent that was planted is read out and one that was not is not; ridge regression is
scikit-learn's; the texture cannot be had by knowing the class; images and latents stay side by
side; bad input is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as TheirRidge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval
from mae_lib.evaluation.features import Features
from mae_lib.evaluation.latents import (
    LATENTS,
    LOW,
    PENALTIES,
    balanced,
    evaluate_latents,
    r_squared,
    readout,
    ridge,
    world_latents,
)
from mae_lib.evaluation.probe import HELD_OUT, train_probe
from mae_lib.worlds.world import World
from tiny import one_thread  # noqa: F401 (every test on one thread)

CONTINUOUS = tuple(name for name, latent in LATENTS.items() if not latent.classes)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def truth() -> dict[str, dict[str, Tensor]]:
    """The latents of 3000 training and 1500 other images."""
    return {
        split: world_latents(World(split, 16, length=count))
        for split, count in (("train", 3000), ("validation", 1500))
    }


def code(
    latents: dict[str, Tensor],
    names=tuple(LATENTS),
    noise: float = 0.02,
    width: int = 64,
    seed: int = 0,
) -> Tensor:
    """Features that hold the latents called ``names``, each standardised or one-hot, mixed by a
    fixed matrix; noise elsewhere."""
    columns = [torch.randn(len(latents["class"]), 4, generator=seeded(seed + 7))]
    for name in names:
        values = latents[name]
        if LATENTS[name].classes:
            columns.append(torch.nn.functional.one_hot(values, LATENTS[name].classes).float() * 3)
        else:
            columns.append((values - values.mean(0)) / values.std(0))
    plain = torch.cat(columns, 1)
    mixed = plain @ torch.randn(plain.shape[1], width, generator=seeded(99))
    return mixed + noise * torch.randn(mixed.shape, generator=seeded(seed))


def read(truth, names=tuple(LATENTS), **options) -> dict[str, float]:
    rows = {
        split: code(truth[split], names, seed=k, **options)
        for k, split in enumerate(("train", "validation"))
    }
    found = readout(
        rows["train"], truth["train"], rows["validation"], truth["validation"], device="cpu"
    )
    return {name: interval.value for name, interval in found.items()}


# --------------------------------------------------------------------------------------------------
# What is there is found, and nothing else


def test_planted_latents_are_read_out_and_the_others_are_not(truth):
    assert all(value > 0.98 for value in read(truth).values())
    for names in (("class", "colour", "position"), ("texture", "grain", "turn", "scale")):
        for name, value in read(truth, names).items():
            if name in names:
                assert value > 0.98
            elif name == "class":  # seven images in ten have their class's own texture
                assert value == pytest.approx(0.7, abs=0.03)
            else:
                assert abs(value - LATENTS[name].chance) < 0.08, name


def test_noise_says_nothing(truth):
    rows = [
        torch.randn(len(truth[split]["class"]), 30, generator=seeded(k))
        for k, split in enumerate(("train", "validation"))
    ]
    found = readout(rows[0], truth["train"], rows[1], truth["validation"], device="cpu")
    for name, latent in LATENTS.items():
        assert abs(found[name].value - latent.chance) < 0.05, name


def test_latents_of_other_images_than_the_features_are_noise(truth):
    """The check that the evaluation keeps images and latents side by side: moved by one image,
    everything is lost."""
    rows = {split: code(truth[split]) for split in truth}
    moved = {name: values.roll(1, 0) for name, values in truth["validation"].items()}
    found = readout(rows["train"], truth["train"], rows["validation"], moved, device="cpu")
    assert all(found[name].value < 0.25 for name in LATENTS)


def test_knowing_the_class_does_not_give_the_texture_away(truth):
    rows = {split: code(truth[split], ("class",)) for split in truth}
    found = readout(
        rows["train"], truth["train"], rows["validation"], truth["validation"], device="cpu"
    )
    assert found["class"].value > 0.98 and found["texture"].value < 0.2
    # Without the balance it would: seven images in ten have their class's own texture.
    probe = train_probe(rows["train"], truth["train"]["texture"], 10, device="cpu")
    assert (
        float((probe.predict(rows["validation"]) == truth["validation"]["texture"]).double().mean())
        > 0.6
    )


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_balanced_images_have_each_texture_equally_often_whatever_the_class(seed):
    generator = seeded(seed)
    labels = torch.randint(10, (6000,), generator=generator)
    other = (labels + 1 + torch.randint(9, (6000,), generator=generator)) % 10
    textures = torch.where(torch.rand(6000, generator=generator) < 0.7, labels, other)
    part = balanced(labels, textures, seed)
    assert torch.equal(part, part.unique()) and torch.equal(part, balanced(labels, textures, seed))
    mismatched = (labels != textures).nonzero().flatten()
    assert torch.isin(mismatched, part).all()
    for name in range(10):
        here = labels[part] == name
        own = int((textures[part][here] == name).sum())
        assert own == round((int(here.sum()) - own) / 9)
    # which of a class's own are kept is drawn
    assert not torch.equal(part, balanced(labels, textures, seed + 1))


def test_an_intervals_length_falls_with_the_root_of_the_images(truth):
    def width(count: int) -> float:
        some = {name: values[:count] for name, values in truth["validation"].items()}
        found = readout(
            code(truth["train"], noise=4.0),
            truth["train"],
            code(some, noise=4.0),
            some,
            device="cpu",
        )
        assert {found[name].n for name in ("class", "position")} == {count} and found[
            "texture"
        ].n < count / 2
        return float(np.mean([found[name].high - found[name].low for name in LATENTS]))

    assert 1.5 < width(300) / width(1500) < 3.2


# --------------------------------------------------------------------------------------------------
# The regression


def problem(
    count: int = 400, width: int = 12, noise: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, width, generator=seeded(seed)).double() * torch.logspace(0, -1, width)
    return (
        x,
        x @ torch.randn(width, 2, generator=seeded(5)).double()
        + noise * torch.randn(count, 2, generator=seeded(seed + 100)).double()
        + 3,
    )


def test_it_is_scikit_learns_ridge_at_the_penalty_that_the_held_out_images_choose():
    x, y = problem()
    found = ridge(x, y, seed=3)
    part = torch.randperm(len(x), generator=seeded(3))
    held = round(HELD_OUT * len(x))
    out, kept = part[:held], part[held:]

    def theirs(rows: Tensor, values: Tensor, penalty: float):
        scaler = StandardScaler().fit(rows.numpy())
        model = TheirRidge(alpha=penalty * len(rows)).fit(
            scaler.transform(rows.numpy()), values.numpy()
        )
        return lambda new: model.predict(scaler.transform(new.numpy()))

    spread = y.var(0, correction=0).numpy()
    errors = [
        (((theirs(x[kept], y[kept], p)(x[out]) - y[out].numpy()) ** 2) / spread).mean()
        for p in PENALTIES
    ]
    assert found.penalty == PENALTIES[int(np.argmin(errors))]
    fresh, _ = problem(seed=1)
    assert np.allclose(found(fresh).numpy(), theirs(x, y, found.penalty)(fresh), atol=1e-8)


def test_the_score_is_scikit_learns():
    predicted, truth = (
        torch.randn(50, 3, generator=seeded(0)),
        torch.randn(50, 3, generator=seeded(1)),
    )
    found = r_squared(predicted, truth)
    assert found.value == pytest.approx(
        r2_score(truth.double().numpy(), predicted.double().numpy(), multioutput="uniform_average")
    )
    assert found.low < found.value < found.high and found.n == 50
    assert r_squared(truth, truth).value == 1.0


def test_much_noise_and_few_images_ask_for_a_larger_penalty():
    few = ridge(*problem(40, 30, noise=5.0)).penalty
    many = ridge(*problem(5000, 30, noise=0.01)).penalty
    assert few > 30 * many


def test_scale_and_offset_of_features_do_not_matter_and_a_turn_hardly():
    (x, y), (new, _) = problem(800), problem(300, seed=1)
    plain = ridge(x, y)(new)
    scale, offset = torch.logspace(-4, 4, 12).double(), torch.linspace(-5, 5, 12).double()
    assert torch.allclose(
        ridge(x * scale + offset * scale, y)(new * scale + offset * scale), plain, atol=1e-6
    )
    turn = torch.linalg.qr(torch.randn(12, 12, generator=seeded(4)).double()).Q
    assert float((ridge(x @ turn, y)(new @ turn) - plain).std() / plain.std()) < 0.05


def test_features_that_never_vary_in_training_say_nothing_later():
    (x, y), (new, _) = problem(), problem(seed=1)
    flat, later = (
        torch.cat([x, 3.1 + 1e-9 * torch.randn(400, 1, generator=seeded(8)).double()], 1),
        torch.cat([new, torch.full((400, 1), 1e6)], 1),
    )
    assert torch.allclose(ridge(flat, y)(later), ridge(x, y)(new), atol=1e-8)


def test_more_features_than_images_do_no_harm():
    (x, y), (new, truth) = problem(200, noise=0.1), problem(400, noise=0.1, seed=1)
    wide, fresh = (
        torch.cat([rows, 0.05 * torch.randn(len(rows), 400, generator=seeded(k))], 1)
        for k, rows in enumerate((x, new))
    )
    assert r_squared(ridge(wide, y)(fresh), truth).value > 0.3


def test_a_planted_direction_of_little_variance_is_found():
    x = torch.randn(4000, 40, generator=seeded(0)).double() @ torch.diag(
        torch.logspace(0, -3, 40).double()
    )
    y, turn = x[:, -1:] * 1000, torch.linalg.qr(torch.randn(40, 40, generator=seeded(1)).double()).Q
    assert r_squared(ridge(x[:3000] @ turn, y[:3000])(x[3000:] @ turn), y[3000:]).value > 0.95


# --------------------------------------------------------------------------------------------------
# The latents and the evaluation


def test_latents_are_the_worlds_own():
    world = World("validation", 32, length=40)
    some = torch.tensor([3, 39, 0])
    found, batch = world_latents(world, some), world.sample(some)
    assert (
        list(found) == list(LATENTS)
        and torch.equal(found["class"], world.labels[some])
        and torch.equal(found["texture"], batch.textures)
    )
    scale, turn, dx, dy, _ = batch.latents["pose"].unbind(1)
    assert (
        torch.equal(found["scale"], scale[:, None])
        and torch.equal(found["turn"], turn[:, None])
        and torch.equal(found["position"], torch.stack([dx, dy], 1))
    )
    colour = batch.latents["object_colour"]
    assert torch.allclose(found["brightness"][:, 0], colour.mean(1)) and torch.allclose(
        found["colour"][:, 0], (colour[:, 0] - colour[:, 1]) / 2
    )
    assert torch.allclose(
        found["colour"][:, 1], (colour[:, 0] + colour[:, 1]) / 4 - colour[:, 2] / 2, atol=1e-6
    )
    assert torch.allclose(
        found["ground"][:, 0], batch.latents["ground_colour"].mean(1)
    ) and torch.equal(found["grain"], batch.latents["texture_shape"])
    every = world_latents(world)
    # drawn the same in any batch; colours are sums, whose terms a longer batch may add in another
    # order
    for name in LATENTS:
        torch.testing.assert_close(every[name][some], found[name], msg=name)
    assert torch.equal(every["class"][some], found["class"]) and torch.equal(
        every["texture"][some], found["texture"]
    )
    # Lighter in all channels: brightness changes, colour does not.
    assert torch.allclose(
        found["colour"],
        (colour + 0.1 - (colour + 0.1).mean(1, keepdim=True))
        @ torch.tensor([[0.5, -0.5, 0], [0.25, 0.25, -0.5]]).T,
        atol=1e-6,
    )


def test_position_is_where_the_object_lies():
    batch = World("validation", 64, length=300).sample(range(300))
    middle = (batch.box[:, :2] + batch.box[:, 2:]) / 64 - 1
    found = world_latents(World("validation", 64, length=300))["position"]
    assert (
        np.corrcoef(middle[:, 0], found[:, 0])[0, 1] > 0.4
        and np.corrcoef(middle[:, 1], found[:, 1])[0, 1] > 0.4
    )


def test_low_level_latents_and_chance():
    assert {LATENTS[name].level for name in LOW} == {"low"} and LATENTS["class"].chance == LATENTS[
        "texture"
    ].chance == 0.1
    assert all(LATENTS[name].chance == 0 for name in CONTINUOUS)


def test_both_poolings_are_read_out_alike_every_time(truth):
    sets = {}
    for k, split in enumerate(("train", "validation")):
        rich, poor = code(truth[split], seed=k), code(truth[split], ("class",), seed=k)
        sets[split] = Features(rich, poor, truth[split]["class"], World().classes)
    found = evaluate_latents(
        sets["train"], truth["train"], sets["validation"], truth["validation"], device="cpu"
    )
    again = readout(
        sets["train"].cls, truth["train"], sets["validation"].cls, truth["validation"], device="cpu"
    )
    assert list(found) == [f"{pool}/{name}" for pool in ("mean", "cls") for name in LATENTS]
    assert {f"cls/{name}": interval for name, interval in again.items()}.items() <= found.items()
    assert (
        found["mean/position"].value > 0.98 > 0.1 > found["cls/position"].value
        and found["cls/class"].value > 0.98
    )
    # chapter 8's rule
    probe = train_probe(sets["train"].mean, truth["train"]["class"], 10, device="cpu")
    assert found["mean/class"].value == pytest.approx(
        float(
            (probe.predict(sets["validation"].mean) == truth["validation"]["class"]).double().mean()
        )
    )
    assert all(
        isinstance(interval, Interval) and interval.low <= interval.value <= interval.high
        for interval in found.values()
    )


# --------------------------------------------------------------------------------------------------
# Bad input


def test_what_cannot_be_read_out_is_named(truth):
    rows, latents = (
        code(truth["train"])[:300],
        {name: values[:300] for name, values in truth["train"].items()},
    )
    spoilt = rows.clone()
    spoilt[7, 3] = float("nan")
    without = {name: values for name, values in latents.items() if name != "turn"}
    for arguments, match in (
        ((spoilt, latents, rows, latents), "image 7 are NaN"),
        ((rows, latents, spoilt, latents), "image 7 are NaN"),
        ((rows, without, rows, latents), "lack turn"),
        ((rows[:-1], latents, rows, latents), "class of 300 images for features of 299"),
        ((rows, latents, rows[:, :9], latents), r"\[300, 9\] to score"),
        (
            (rows[:20], {name: values[:20] for name, values in latents.items()}, rows, latents),
            "20 training images leave none of",
        ),
    ):
        with pytest.raises(InputError, match=match):
            readout(*arguments, device="cpu")


def test_regressions_that_say_nothing_are_refused():
    x, y = problem(20)
    for arguments, match in (
        ((x, y[:-1]), "20 images"),
        ((x, y[:, 0]), "20 images"),
        ((x, y * float("inf")), "finite"),
        ((x[:2], y[:2]), "3 at least"),
        ((x, torch.cat([y, torch.ones(20, 1)], 1)), "coordinate 2 of the values is the same"),
        ((x.flatten(), y), "dimensions"),
    ):
        with pytest.raises(InputError, match=match):
            ridge(*arguments)
    with pytest.raises(InputError, match="9 dimensions for a regression on 12"):
        ridge(x, y)(x[:, :9])
    with pytest.raises(InputError, match="R² is not defined"):
        r_squared(y, torch.ones_like(y))
    with pytest.raises(InputError, match="give .images, coordinates. of both"):
        r_squared(y, y[:, :1])
