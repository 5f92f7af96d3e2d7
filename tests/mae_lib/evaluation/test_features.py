"""Features are what the encoder gives for unmasked images, kept under a key that names weights,
images and code, and never read from a damaged file."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch

from mae_lib.base.errors import InputError
from mae_lib.data.datasets import Resident, Subset
from mae_lib.evaluation import features as module
from mae_lib.evaluation.features import POOLS, Features, encode, features, pixel_features
from mae_lib.model.autoencoder import MaskedAutoencoder, ModelConfig, normalise_pixels
from mae_lib.training import store
from mae_lib.training.store import Checkpoint
from mae_lib.worlds.world import World

SIZES = ModelConfig(
    image_size=(32, 32),
    patch=8,
    width=32,
    depth=1,
    heads=2,
    decoder_width=32,
    decoder_depth=1,
    decoder_heads=2,
)


@pytest.fixture
def model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(SIZES).eval()


@pytest.fixture
def world() -> World:
    return World("validation", 32, length=40)


@pytest.fixture
def encoded(monkeypatch, tmp_path, model):
    """A checkpoint of `model`, an empty cache, and a list that grows with each encoding."""
    monkeypatch.setattr(module, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(Checkpoint, "load", lambda self, device="cpu": model)
    calls = []
    monkeypatch.setattr(
        module, "encode", lambda *a, plain=encode, **k: calls.append(a) or plain(*a, **k)
    )
    return Checkpoint(tmp_path / "x.safetensors", {"digest": "one"}), calls, tmp_path / "features"


def equal(a: Features, b: Features) -> bool:
    return (
        all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("mean", "cls", "labels"))
        and a.classes == b.classes
    )


def test_mean_and_cls_are_of_the_unmasked_tokens(model, world):
    found = encode(model, world, 5, batch=2)
    five = Subset(world, 5)
    tokens = model.encode(normalise_pixels(five.images(range(5))))
    assert tokens.shape == (5, 17, 32)
    assert torch.allclose(found.mean, tokens[:, 1:].mean(1), atol=1e-5) and torch.allclose(
        found.cls, tokens[:, 0], atol=1e-5
    )
    assert not found.mean.requires_grad and found.mean.dtype == found.cls.dtype == torch.float32
    assert (
        torch.equal(found.labels, world.labels[::8])
        and found.classes == world.classes
        and len(found) == 5
    )


def test_a_pooling_is_one_of_the_two(model, world):
    found = encode(model, world, 3)
    assert (
        POOLS == ("mean", "cls")
        and found.pooled("mean") is found.mean
        and found.pooled("cls") is found.cls
    )
    with pytest.raises(InputError, match="'max': choose one of mean, cls"):
        found.pooled("max")


def test_counts_out_of_range_and_images_of_another_size_are_refused(model, world, encoded):
    checkpoint, _, _ = encoded
    for count in (0, -1, 41):
        for call in (
            lambda: encode(model, world, count),
            lambda: features(checkpoint, world, count, "cpu"),
            lambda: pixel_features(world, count),
        ):
            with pytest.raises(InputError, match=f"{count} images were asked for.*1 to 40"):
                call()
    with pytest.raises(InputError, match="this model takes"):
        encode(model, World("validation", 64, length=4))


def test_the_second_time_is_read_and_equal_to_the_last_bit(world, encoded):
    checkpoint, calls, folder = encoded
    first = features(checkpoint, world, device="cpu")
    again = features(checkpoint, world, device="cpu")
    assert len(calls) == 1 and equal(first, again) and len(list(folder.iterdir())) == 1
    # the same images, held elsewhere
    assert (
        equal(features(checkpoint, Resident(world), len(world), "cpu"), first) and len(calls) == 1
    )


def test_other_weights_images_counts_or_code_are_other_features(
    world, encoded, monkeypatch, tmp_path
):
    checkpoint, calls, folder = encoded
    features(checkpoint, world, device="cpu")
    for other in (
        lambda: features(Checkpoint(checkpoint.path, {"digest": "two"}), world, device="cpu"),
        lambda: features(checkpoint, World("v2", 32, length=40), device="cpu"),
        lambda: features(checkpoint, World("validation", 32, length=41), device="cpu"),
        lambda: features(checkpoint, world, 20, "cpu"),
    ):
        before = len(calls)
        other()
        assert len(calls) == before + 1
    code = tmp_path / "code.py"
    for text in ("a = 1", "a = 2"):
        code.write_text(text)
        monkeypatch.setattr(module.inspect, "getfile", lambda _: str(code))
        before = len(calls)
        features(checkpoint, world, device="cpu")
        features(checkpoint, world, device="cpu")
        assert len(calls) == before + 1
    assert len(list(folder.iterdir())) == len(calls) == 7


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other names"])
def test_a_damaged_file_is_named_set_aside_and_made_anew(world, encoded, damage):
    checkpoint, calls, folder = encoded
    first = features(checkpoint, world, device="cpu")
    (path,) = folder.iterdir()
    content = path.read_bytes()
    if damage == "other names":
        module.write_safetensors(path, {"pooled": first.mean}, {})
    else:
        path.write_bytes(
            {"cut": content[:-9], "flipped": content[:-1] + bytes([content[-1] ^ 1]), "empty": b""}[
                damage
            ]
        )
    with pytest.warns(UserWarning, match="Set aside as .*damaged; the features are computed anew"):
        again = features(checkpoint, world, device="cpu")
    assert equal(first, again) and len(calls) == 2
    assert (
        sorted(p.name for p in folder.iterdir()) == [path.name, f"{path.name}.damaged"]
        and not (folder / f"{path.name}.damaged").read_bytes() == path.read_bytes()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features(checkpoint, world, device="cpu")
    assert len(calls) == 2


def test_a_real_checkpoint_goes_through_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MAE_CACHE", str(tmp_path))
    checkpoint = store.checkpoints(
        next(folder for folder in store.search_path() if folder.name == "world")
    )[0]
    small = World("validation", 64, length=6)
    first = features(checkpoint, small, device="cpu")
    assert equal(first, features(checkpoint, small, device="cpu")) and torch.allclose(
        first.mean, encode(checkpoint.load(), small).mean, atol=1e-6
    )


def test_pixel_features_are_block_means(world):
    found = pixel_features(world, 4, side=8)
    slow = (
        normalise_pixels(world.images([0, 10, 20, 30]))
        .view(4, 3, 8, 4, 8, 4)
        .mean((3, 5))
        .flatten(1)
    )
    assert found.shape == (4, 192) and torch.allclose(found, slow, atol=1e-5)


def test_features_cannot_be_altered_by_name(model, world):
    with pytest.raises(dataclasses.FrozenInstanceError):
        encode(model, world, 2).mean = None
