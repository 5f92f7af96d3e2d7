"""The embedded world: a pure function of its arguments, whose law is frozen, and whose labels are
true of its pixels."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_lib.base.errors import InputError
from mae_lib.worlds.latents import draw_latents
from mae_lib.worlds.law import CLASSES, LAWS, WORLD_VERSION
from mae_lib.worlds.rendering import TEXTURES, Drawing, hashed_bits, hashed_normal, hashed_uniform
from mae_lib.worlds.world import EVALUATION_SETS, Scenes, World, boxes_of, rendering
from tiny import alike

SPLITS = (
    "train",
    "validation",
    "v2",
    "viewpoint",
    "rendition",
    "sketch",
    "conflict",
    "candidates",
    "reference",
)
EVERY = (*SPLITS, "hard")


@cache
def batch(split: str, count: int = 48, size: int = 64):
    return World(split, size, length=count).sample(range(count))


def exact_interval(count: int, p: float) -> tuple[float, float]:
    """Five standard deviations of a binomial share about p."""
    spread = 5 * math.sqrt(p * (1 - p) / count)
    return p - spread, p + spread


# --------------------------------------------------------------------------------------------------
# A pure function of (version, seed, split, index, size)


@pytest.mark.parametrize("split", EVERY)
def test_an_image_is_the_same_alone_in_a_batch_and_in_any_order(split):
    world = World(split)
    count = min(len(world), 75)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    shuffled = world.images(order)
    assert shuffled.dtype == torch.uint8 and shuffled.shape == (count, 3, 64, 64)
    for place in (0, count // 2, count - 1):
        assert alike(world.images([int(order[place])])[0], shuffled[place])
    assert alike(world.images(range(count))[order], shuffled)
    assert alike(world.sample(order).images, shuffled)
    assert torch.equal(world.labels[order], world.sample(order).labels)


@given(st.lists(st.integers(0, 199), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_what_else_is_in_the_batch_does_not_matter(indices):
    whole = batch("validation", 200)
    piece = World("validation").sample(indices)
    assert torch.equal(piece.labels, whole.labels[indices]) and torch.equal(
        piece.textures, whole.textures[indices]
    )
    assert alike(piece.images, whole.images[indices])
    assert alike(piece.object_mask, whole.object_mask[indices]) and alike(
        piece.part_labels, whole.part_labels[indices], most=255
    )
    assert torch.equal(piece.box, boxes_of(piece.object_mask))
    for name, value in piece.latents.items():
        torch.testing.assert_close(value, whole.latents[name][indices], msg=name)


_DRAWN = """
import sys, numpy, torch
from test_world import some_of_each
torch.set_num_threads(2)
numpy.savez(sys.argv[1], **some_of_each())
"""


def some_of_each() -> dict[str, np.ndarray]:
    images = {split: World(split).images(range(33 if split == "train" else 6)) for split in SPLITS}
    images["scenes"] = Scenes().sample(range(4)).images
    return {name: pixels.numpy() for name, pixels in images.items()}


def test_images_are_the_same_in_another_process_and_with_two_threads(tmp_path):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        here = some_of_each()
    finally:
        torch.set_num_threads(threads)
    file = tmp_path / "drawn.npz"
    done = subprocess.run(
        [sys.executable, "-c", _DRAWN, str(file)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        env=_environment(),
    )
    assert done.returncode == 0, done.stderr
    with np.load(file) as there:
        assert set(there) == set(here)
        for name, pixels in here.items():
            assert alike(torch.from_numpy(there[name]), torch.from_numpy(pixels)), name


def _environment() -> dict[str, str]:
    root = Path(__file__).resolve().parents[3]
    places = [str(root), str(root / "tests" / "helpers"), os.environ.get("PYTHONPATH")]
    # Passive: two threads that spin while they wait would starve each other on a busy machine.
    return dict(
        os.environ,
        OMP_WAIT_POLICY="PASSIVE",
        PYTHONPATH=os.pathsep.join(filter(None, places)),
    )


def test_splits_and_seeds_share_no_image():
    # Two images could only be equal if their pixel noise, hence its 53-bit place, were: compare the
    # keys of thousands, the pixels of some.
    keys, pixels = [], []
    for split in SPLITS:
        for seed in (0, 1):
            world = World(split, seed=seed)
            keys.append(draw_latents(LAWS[split], world._noise(range(2000)), 64)[1].noise_seed)
            pixels.append(world.images(range(6)).flatten(1))
    keys, pixels = torch.cat(keys), torch.cat(pixels)
    assert len(keys.unique()) == len(keys)
    assert len(pixels.unique(dim=0)) == len(pixels)
    assert len(World("train").images(range(64)).flatten(1).unique(dim=0)) == 64


def test_the_world_is_an_image_source():
    world = World("validation", 32)
    assert (
        len(world) == 2000
        and world.shape == (3, 32, 32)
        and world.classes == CLASSES
        and len(CLASSES) == len(TEXTURES) == 10
    )
    assert world.identity == {
        "kind": "world",
        "version": WORLD_VERSION,
        "split": "validation",
        "seed": 0,
        "size": 32,
        "length": 2000,
    }
    json.dumps(world.identity)
    assert (
        len({json.dumps(World(split, seed=seed).identity) for split in SPLITS for seed in (0, 1)})
        == 18
    )
    assert len(World("train")) == 32768 and World("train").labels.dtype == torch.int64


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: World("training"), ["'training'", "validation"]),
        (lambda: World("train", size=15), ["15", "16"]),
        (lambda: World("train").images([-1]), ["0 … 32767"]),
        (lambda: World("validation").images([2000]), ["0 … 1999"]),
        (lambda: World("validation").sample([]), ["no image"]),
        (lambda: World("train", length=4).labels[World("train", length=4).images([4])], ["0 … 3"]),
        (lambda: Scenes("sketch"), ["'sketch'", "train, validation"]),
        (lambda: Scenes(size=8), ["8"]),
        (lambda: Scenes().sample([4096]), ["4095"]),
        (lambda: World("train").images([0.5]), ["0.5", "whole"]),
        (lambda: World("train", length=0), ["length 0"]),
        (lambda: World("hard", seed=1), ["seed 1"]),
        (lambda: World("hard", length=10**6), ["1000000"]),
        (lambda: Scenes(most=0), ["0 objects"]),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(InputError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words)


# --------------------------------------------------------------------------------------------------
# The law is frozen

# Of images 0 and 1 of each split: brightness on an 8 × 8 grid of blocks, then the three channels'
# means, in hexadecimal.
GOLDEN_IMAGES: dict[str, tuple[str, str]] = {
    "train": (
        "7c86868991929b9b7b7a8a8e899395937b9495a3ce958f987da1e0e0dad48a8e7cb59bcdd6c68c917980828f8d8c8a8b757e797a7f828f9070707d797a878a8ba38392",
        "5966636f68706f71606477a38a716e74646a9bc3ba8c6c746163b2957777707c6f6a6d8a6b746e7a64606e8a917a717d726775929085747f686777727875757c638b7a",
    ),
    "validation": (
        "7d70716f6364644f7a827d5b465b5b5a888160151226645e8b8b7f3b184d656d9681807c587275679190916e3a70756f96918f7683827a6a9ba295858a85767d5f747b",
        "838d838873766972828380333c736c658b7b510c1c5870658d82781e27776d6e85897a6451686b6e8280826b3d5a6a64817480647367635f7e7572757270615e7a5d69",
    ),
    "v2": (
        "716676736f7f8483666575767384787c6474a4c8c5807e815f72b2d3d19d8f856c6fb7cdcb9d9f876b6199dfcd777c806d64737b6e82807a5d697172717b777a948e6f",
        "7574777878756e657274758788726b636a6c73a0a46e645c696a6d8f8d72615a61646577656059526062657f7f5d5551595b5c6559534e4958595a5955514b486e6764",
    ),
    "viewpoint": (
        "665a466873606059625345676b5166753c5760725f46647a4a686cb5b0aa6e684d665fa2a6944e604a464368c299966334496453504a557432495f43496359546f5866",
        "4d5456374e1a36186047532d442c39334d545a81933a4e245c636da29a2b42266a5f6b91513f4b39526a585c6a41622e6f72735a63404c376e795a5f574b613f6c4748",
    ),
    "rendition": (
        "b2b0aeadaba9a7a5aeac8fa095a5a2a2aa90e2e9c592a09da69eeae7c87d9899a0808c6b809997959e9c9a877b95939099989574808a7c8c959470917d7c8b88b88596",
        "b4b0a9a5a09b9691b1aca7938c77938eafa976454264918caa623335353e8389a88e383d38387f86a67b333332388883a36f2b2c43478580a09b947e6b6a837d787d71",
    ),
    "sketch": (
        "f2f2f2f3f1f2f3f2f3f2f2ddabe0f2f3f2f2edaea3d0eff3f3f3d0e6b5f2ccf3f1b4bcb1a5b8a0d9f2ecc6deeeedc8e0f2f3f2e4d3d0f2f3f2f2f2f2f2f2f3f2e1e1e1",
        "f2f2f2f2f2f3f2f2f3f2f2f3f2d5f2f3f2bff3f3f2a1bff1f3b5b2cfceaac4eef2dd96cebab5f3f2f2f3a8f3cecbf3f2f2f2baf2ebd3f3f3f3f2f2f2f2f2f3f2e2e2e2",
    ),
    "conflict": (
        "83818480787b83857b7d8189887f7e827f7e789bb89e8686878a98bcc5bd90888184bbc2d6d2a382857e8aa4b6a3908c8d8e8586a98a8b94858f949296898486a7828a",
        "514a50524a505449585a5c5e4e534b465859a3dcbc6352546093ccd7d4ac50595f677fb8925f63606a6b679e9f5e5f596f65627e92686862726c73716a676463637d6e",
    ),
    "candidates": (
        "79737774655c5d557274786b625f584b7179708aac704c4b77726d98ae6c4a4d726963795a58494b6d655f735046494a685f728967464e3f5f605b48454d4532696a58",
        "8d8e9198938a8f9592948e8e8c7393999283858a82447d8f867e5a504d5d7e8d859067474d728892898d757d816c8a8b818373808b7c82827c838b868484808580946d",
    ),
    "reference": (
        "b2b6b2b3bcbdb4b5a1b0b5acaab2b0b68f88acafa79174b1a1735a66806f70aea384404538829b9f8e737782777a999985687a8b6d8da0988980858e8b8c8e9088a088",
        "8180737d908e848f7675771c6066888f6e732c0e013f938b6f6f4804195d7f7f6a7453306e7c74846d706d4449778285675c61415b727d7b5a625a6a6d727377597862",
    ),
}
# Each latent of images 0 … 15 of each split, as its mean weighted by cos 0, cos 1, cos 2, …
GOLDEN_LATENTS: dict[str, dict[str, float]] = {
    "train": {
        "parts": 0.00368896,
        "part_light": 0.00133211,
        "part_phase": 0.10968125,
        "pose": 0.00229741,
        "texture_shape": 0.02298925,
        "object_colour": -0.04039165,
        "texture_colour": 0.00301999,
        "ground_colour": -0.01038335,
        "shade": -0.00329883,
        "ground_gradient": 0.01300116,
        "ground_waves": 0.09569056,
        "ink": 0.0,
    },
    "validation": {
        "parts": 0.00026884,
        "part_light": -0.00669671,
        "part_phase": 0.07774265,
        "pose": 0.00147235,
        "texture_shape": 0.01769784,
        "object_colour": 0.02249286,
        "texture_colour": 0.00256362,
        "ground_colour": -0.00899634,
        "shade": -0.00184392,
        "ground_gradient": 0.00691031,
        "ground_waves": 0.05840339,
        "ink": 0.0,
    },
    "v2": {
        "parts": -0.00674,
        "part_light": 0.00092219,
        "part_phase": -0.14354144,
        "pose": 0.00509579,
        "texture_shape": 0.02717001,
        "object_colour": -0.02364769,
        "texture_colour": 0.01402456,
        "ground_colour": 0.03099261,
        "shade": 0.00731015,
        "ground_gradient": 0.0137572,
        "ground_waves": 0.01776639,
        "ink": 0.0,
    },
    "viewpoint": {
        "parts": 0.0069066,
        "part_light": 0.00415008,
        "part_phase": 0.00463077,
        "pose": -0.03738994,
        "texture_shape": 0.01007662,
        "object_colour": 0.007376,
        "texture_colour": -0.00097278,
        "ground_colour": -0.01982888,
        "shade": 0.01138999,
        "ground_gradient": -0.00962541,
        "ground_waves": -0.07525914,
        "ink": 0.0,
    },
    "rendition": {
        "parts": 0.00236963,
        "part_light": 0.00107138,
        "part_phase": -0.08664088,
        "pose": -0.00306969,
        "texture_shape": 0.03557596,
        "object_colour": -0.04317538,
        "texture_colour": -0.02666999,
        "ground_colour": -0.01068603,
        "shade": 0.0021493,
        "ground_gradient": 0.00210832,
        "ground_waves": -0.03665594,
        "ink": 0.01527384,
    },
    "sketch": {
        "parts": -0.00131962,
        "part_light": 0.0,
        "part_phase": -0.03525346,
        "pose": -0.01603633,
        "texture_shape": 0.01856947,
        "object_colour": 0.00231428,
        "texture_colour": 0.00243608,
        "ground_colour": 0.00231428,
        "shade": 0.0,
        "ground_gradient": 0.0,
        "ground_waves": 0.0352371,
        "ink": 0.01185329,
    },
    "conflict": {
        "parts": 0.00597333,
        "part_light": -0.00957499,
        "part_phase": 0.0595648,
        "pose": -0.00853173,
        "texture_shape": 0.01722501,
        "object_colour": 0.00736292,
        "texture_colour": -0.00648069,
        "ground_colour": 0.00964227,
        "shade": -0.00108136,
        "ground_gradient": -0.00857705,
        "ground_waves": -0.04497457,
        "ink": 0.0,
    },
    "candidates": {
        "parts": -0.01416344,
        "part_light": -9.11e-06,
        "part_phase": 0.12687869,
        "pose": -0.00089492,
        "texture_shape": 0.02069301,
        "object_colour": 0.00141494,
        "texture_colour": 0.0036138,
        "ground_colour": 0.00378714,
        "shade": -0.00076224,
        "ground_gradient": -0.00728933,
        "ground_waves": -0.08145886,
        "ink": 0.0,
    },
    "reference": {
        "parts": -0.00141695,
        "part_light": -0.00132148,
        "part_phase": -0.13806514,
        "pose": 0.01164304,
        "texture_shape": 0.0107318,
        "object_colour": 0.01229621,
        "texture_colour": 0.00014945,
        "ground_colour": -0.00201694,
        "shade": -0.00446638,
        "ground_gradient": 0.00915394,
        "ground_waves": -0.00367608,
        "ink": 0.0,
    },
}
GOLDEN_LABELS: dict[str, list[int]] = {
    "train": [3, 6, 5, 0, 9, 4, 4, 7, 6, 3, 3, 4, 8, 0, 5, 9],
    "validation": [4, 4, 6, 0, 9, 4, 4, 1, 6, 8, 1, 1, 0, 0, 9, 0],
    "v2": [7, 4, 2, 4, 8, 3, 7, 4, 9, 0, 4, 6, 1, 9, 7, 6],
    "viewpoint": [9, 3, 6, 1, 0, 1, 7, 0, 7, 5, 4, 9, 4, 1, 4, 2],
    "rendition": [6, 5, 6, 7, 7, 7, 9, 8, 0, 8, 2, 1, 7, 1, 3, 0],
    "sketch": [0, 2, 4, 3, 1, 3, 8, 1, 8, 9, 4, 6, 0, 7, 3, 8],
    "conflict": [9, 8, 7, 0, 2, 4, 1, 5, 8, 9, 4, 9, 3, 8, 9, 1],
    "candidates": [6, 2, 0, 0, 8, 7, 9, 1, 3, 2, 5, 1, 1, 0, 1, 6],
    "reference": [2, 4, 2, 7, 9, 6, 9, 3, 8, 3, 4, 7, 3, 9, 0, 8],
}


def coarse(image: torch.Tensor) -> list[float]:
    grid = image.double().mean(0).view(8, 8, 8, 8).mean((1, 3)).flatten()
    return [*grid.tolist(), *image.double().mean((1, 2)).tolist()]


def fingerprints(latents: dict[str, torch.Tensor]) -> dict[str, float]:
    floats = {
        name: value.double().flatten()
        for name, value in latents.items()
        if value.is_floating_point()
    }
    return {
        name: float((value * torch.arange(len(value)).cos()).mean())
        for name, value in floats.items()
    }


@pytest.mark.parametrize("split", SPLITS)
def test_the_law_has_not_changed_without_a_change_of_version(split):
    assert WORLD_VERSION == "1", "a new version: make the golden numbers anew"
    found = World(split).sample(range(16))
    assert found.labels.tolist() == GOLDEN_LABELS[split]
    for image, golden in zip(found.images, GOLDEN_IMAGES[split]):
        assert coarse(image) == pytest.approx(list(bytes.fromhex(golden)), abs=2.0)
    assert fingerprints(found.latents) == pytest.approx(GOLDEN_LATENTS[split], abs=1e-6)


# --------------------------------------------------------------------------------------------------
# Labels are true of the pixels


@pytest.mark.parametrize("split", SPLITS)
def test_masks_boxes_and_parts_agree(split):
    found = batch(split)
    assert torch.equal(found.labels, World(split, length=48).labels)
    assert torch.equal(found.textures, found.latents["texture"])
    # A pixel is the object's, and its part's, where more than half of it is covered: one rule, so
    # the two agree without tolerance.
    assert torch.equal(found.part_labels > 0, found.object_mask)
    parts = found.latents["parts"][:, :, 8].sum(1)
    assert bool((found.part_labels.flatten(1).max(1).values <= parts).all())
    for label in found.labels.unique():  # each part of each class is to be seen somewhere
        seen = found.part_labels[found.labels == label].unique()
        assert seen.tolist() == list(range(int(parts[found.labels == label][0]) + 1))
    assert torch.equal(found.box, slow_boxes(found.object_mask))
    share = found.object_mask.double().mean((1, 2))
    assert 0.02 < float(share.min()) and float(share.max()) < 0.75


def slow_boxes(masks: torch.Tensor) -> torch.Tensor:
    rows = []
    for mask in masks.numpy():
        y, x = np.nonzero(mask)
        rows.append([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0])
    return torch.tensor(rows, dtype=torch.float32)


def test_boxes_of_any_mask():
    masks = torch.rand(40, 7, 11, generator=torch.Generator().manual_seed(0)) > 0.95
    masks[0], masks[1], masks[2] = False, True, False
    masks[2, 6, 10] = True
    assert torch.equal(boxes_of(masks), slow_boxes(masks))
    assert boxes_of(masks)[:3].tolist() == [[0, 0, 0, 0], [0, 0, 11, 7], [10, 6, 11, 7]]
    assert torch.equal(boxes_of(masks.view(4, 10, 7, 11)), slow_boxes(masks).view(4, 10, 4))


@pytest.mark.parametrize("split, reach", [("train", 2), ("viewpoint", 2), ("rendition", 5)])
def test_the_mask_is_where_the_ground_alone_would_look_different(split, reach):
    """Farther than ``reach`` pixels from the mask (an outline has pointed corners), an image is the
    ground and its noise; inside it is not."""
    found = batch(split)
    ground = redrawn(found.latents, 64, objects=False)
    difference = (found.images.double() - ground.double()).abs().amax(1)
    mask = found.object_mask[:, None].float()
    near = torch.nn.functional.max_pool2d(mask, 2 * reach + 1, 1, reach)[:, 0] > 0
    assert float(difference[~near].max()) <= 1.0
    inner = torch.nn.functional.max_pool2d(1 - mask, 3, 1, 1)[:, 0] == 0
    assert float((difference[inner] > 12).double().mean()) > 0.95


def redrawn(latents: dict[str, torch.Tensor], size: int, objects: bool = True) -> torch.Tensor:
    drawing, x = Drawing(**latents), rendering.pixel_centres(size)
    canvas = rendering.ground(drawing, x, x)
    if objects:
        canvas = rendering.paint(drawing, canvas, x, x)[0]
    return rendering.to_bytes(canvas, drawing.noise_seed, drawing.noise)


@pytest.mark.parametrize("split", SPLITS)
def test_given_its_latents_an_image_is_drawn_again(split):
    found = batch(split)
    assert alike(redrawn(found.latents, 64), found.images)


def test_image_size_changes_neither_latents_nor_object():
    small, middle, large = (batch("train", 48, size) for size in (32, 64, 128))
    for other in (small, large):
        for name, value in middle.latents.items():
            if name != "ink":
                torch.testing.assert_close(other.latents[name], value, msg=name)
    for split, ratio in (("sketch", 0.5), ("sketch", 2.0)):
        ink, changed = (
            batch(split, 8).latents["ink"],
            batch(split, 8, int(64 * ratio)).latents["ink"],
        )
        assert torch.equal(changed, ink * torch.tensor([ratio, 1, 1]))
    for finer, coarser in ((middle, small), (large, middle), (large, small)):
        step = finer.images.shape[-1] // coarser.images.shape[-1]
        pooled = (
            torch.nn.functional.avg_pool2d(finer.object_mask[:, None].float(), step)[:, 0] > 0.5
        )
        overlap = (pooled & coarser.object_mask).sum((1, 2)) / (pooled | coarser.object_mask).sum(
            (1, 2)
        )
        # a part two pixels wide loses a row or gains one
        assert float(overlap.mean()) > 0.9 and float(overlap.min()) > 0.7
    shrunk = torch.nn.functional.avg_pool2d(large.images.double(), 2)
    assert float((shrunk - middle.images).abs().mean()) < 6


# --------------------------------------------------------------------------------------------------
# The frequencies, and what each evaluation set changes


def drawn(split: str, count: int = 20000, seed: int = 0) -> tuple[torch.Tensor, Drawing]:
    return draw_latents(LAWS[split], World(split, seed=seed, length=count)._noise(range(count)), 64)


@pytest.mark.parametrize("split", SPLITS)
def test_class_and_texture_frequencies(split):
    labels, drawing = drawn(split)
    low, high = exact_interval(len(labels), 0.1)
    for counts in (labels.bincount(minlength=10), drawing.texture.bincount(minlength=10)):
        shares = counts.double() / len(labels)
        assert low < float(shares.min()) and float(shares.max()) < high
    match = float((labels == drawing.texture).double().mean())
    if split == "conflict":
        assert match == 0
    else:
        low, high = exact_interval(len(labels), 0.7)
        assert low < match < high
    # Where the texture is another class's, each other class is as likely, given the label.
    odd = labels != drawing.texture
    shift = ((drawing.texture - labels) % 10)[odd].bincount(minlength=10)[1:].double() / int(
        odd.sum()
    )
    low, high = exact_interval(int(odd.sum()), 1 / 9)
    assert low < float(shift.min()) and float(shift.max()) < high


def test_the_class_says_nothing_of_pose_and_colour():
    labels, drawing = drawn("train")
    nuisances = torch.cat(
        [
            drawing.pose,
            drawing.object_colour,
            drawing.ground_colour,
            drawing.texture_shape,
            drawing.shade,
        ],
        dim=1,
    ).double()
    for c in range(10):
        ours = nuisances[labels == c]
        gap = (ours.mean(0) - nuisances.mean(0)).abs() / (nuisances.std(0) / math.sqrt(len(ours)))
        assert float(gap.max()) < 5


def test_each_evaluation_set_changes_what_it_says():
    train, (_, view), (_, rendition), (_, sketch) = (
        drawn("train")[1],
        drawn("viewpoint"),
        drawn("rendition"),
        drawn("sketch"),
    )
    scale, turn, dx, dy, squeeze = train.pose.unbind(1)
    assert 0.72 <= float(scale.min()) < float(scale.max()) < 0.92
    assert float(turn.abs().max()) <= 0.25 and abs(float(turn.mean())) < 0.01
    assert (
        float(torch.stack([dx, dy]).abs().max()) <= 0.1
        and 0.9 <= float(squeeze.min())
        and float(squeeze.max()) < 1.1
    )
    assert (
        float(view.pose[:, 1].abs().min()) >= 0.5 > 0.25
        and float(view.pose[:, 0].max()) <= 0.72
        and float(view.pose[:, 4].max()) <= 0.9
    )
    assert float(view.ground_waves[..., 3].mean()) > 2 * float(train.ground_waves[..., 3].mean())
    for flat in (rendition, sketch):
        assert (
            float(flat.texture_shape[:, 2].abs().max()) == 0
            and float(flat.ground_waves[..., 3].abs().max()) == 0
        )
    assert float(train.ink.abs().max()) == 0 and float(rendition.ink[:, 1].min()) == 1
    assert float(
        (rendition.object_colour - rendition.object_colour.mean(1, keepdim=True)).abs().mean()
    ) > 2 * float((train.object_colour - train.object_colour.mean(1, keepdim=True)).abs().mean())
    # The same parts, drawn from the same law, in every set: the class keeps its meaning.
    base_labels, base = drawn("train", 4000)
    for split in SPLITS:
        labels, drawing = drawn(split, 4000)
        for c in range(10):
            ours, theirs = drawing.parts[labels == c], base.parts[base_labels == c]
            assert torch.allclose(ours.mean(0), theirs.mean(0), atol=0.03), (split, c)
            assert torch.allclose(ours.std(0), theirs.std(0), atol=0.03), (split, c)


def test_validation_and_v2_follow_the_training_law():
    for split in ("validation", "v2", "hard", "candidates", "reference"):
        assert LAWS[split] == LAWS["train"]
    assert replace(LAWS["conflict"], texture_match=0.7) == LAWS["train"]
    assert EVALUATION_SETS == ("validation", "v2", "viewpoint", "rendition", "sketch", "hard")


def test_object_and_ground_differ_in_brightness_with_either_sign():
    drawing = drawn("train")[1]
    contrast = drawing.object_colour.mean(1) - drawing.ground_colour.mean(1)
    assert 0.25 - 1e-5 <= float(contrast.abs().min()) and float(contrast.abs().max()) <= 0.45 + 1e-5
    assert 0.4 < float((contrast > 0).double().mean()) < 0.6
    for colour in (drawing.object_colour, drawing.ground_colour):
        assert 0 <= float(colour.mean(1).min()) and float(colour.mean(1).max()) <= 1


def test_a_sketch_is_dark_lines_on_white():
    found = batch("sketch")
    canvas = redrawn_without_noise(found.latents)
    assert torch.equal(canvas[:, :1].expand_as(canvas), canvas)  # grey
    assert float(canvas.max()) == pytest.approx(0.95)
    strokes = canvas[:, 0] < 0.5
    share = strokes.double().mean((1, 2))
    assert 0.02 < float(share.min()) and float(share.max()) < 0.4
    assert float(canvas.flatten(1).min(1).values.max()) < 0.2
    # Strokes lie on outlines, at pointed corners a little beyond.
    parts = found.part_labels.float()[:, None]
    near = torch.nn.functional.max_pool2d(parts, 11, 1, 5) != -torch.nn.functional.max_pool2d(
        -parts, 11, 1, 5
    )
    assert bool(near[:, 0][strokes].all())
    # elsewhere one white: neither texture nor shading
    assert float((canvas[:, :1][~near] - 0.95).abs().max()) < 1e-6
    assert float((found.images.double() / 255 - canvas).abs().max()) < 0.02 * 3.5 + 1 / 255


def redrawn_without_noise(latents: dict[str, torch.Tensor]) -> torch.Tensor:
    drawing, x = Drawing(**latents), rendering.pixel_centres(64)
    return rendering.paint(drawing, rendering.ground(drawing, x, x), x, x)[0]


# --------------------------------------------------------------------------------------------------
# Scenes


def test_scenes_are_true_of_their_pixels():
    scenes = Scenes(size=64)
    found = scenes.sample(range(200))
    masks, area = found.masks, found.masks.sum((2, 3))
    assert found.images.shape == (200, 3, 64, 64) and masks.shape == (200, 4, 64, 64)
    assert int(masks.sum(1).max()) == 1  # disjoint
    assert torch.equal(found.boxes.view(-1, 4), slow_boxes(masks.flatten(0, 1)))
    assert torch.equal(found.labels >= 0, area > 0) and int(area[area > 0].min()) >= 20
    assert set(found.labels.unique().tolist()) == {-1, *range(10)}
    count = (found.labels >= 0).sum(1)
    assert set(count.tolist()) == {1, 2, 3, 4}
    assert alike(scenes.sample([7, 199]).images, found.images[[7, 199]])
    assert alike(scenes.sample([199]).masks, found.masks[199:])
    assert not alike(Scenes("validation", 64).sample([0]).images, found.images[:1])
    assert not alike(Scenes(size=64, seed=1).sample([0]).images, found.images[:1])


def test_scenes_hide_objects_behind_others():
    """The bound on labels, lifted, shows slivers; and visible areas fall with the number of objects
    above."""
    everything, labelled = (
        Scenes(size=64, least_pixels=1).sample(range(200)),
        Scenes(size=64).sample(range(200)),
    )
    assert torch.equal(everything.images, labelled.images)
    seen = everything.masks.sum((2, 3))
    assert bool(((seen > 0) & (labelled.labels < 0)).any())
    four = (everything.labels >= 0).all(1)
    first, last = seen[four][:, 0].double().mean(), seen[four][:, 3].double().mean()
    assert float(first) < 0.9 * float(last)


def test_a_scene_at_another_size_is_the_same_scene():
    small, large = Scenes(size=64).sample(range(30)), Scenes(size=128).sample(range(30))
    same = (small.labels == large.labels).double().mean()
    assert float(same) > 0.97
    pooled = torch.nn.functional.avg_pool2d(large.masks.any(1, keepdim=True).float(), 2)[:, 0] > 0.5
    union = small.masks.any(1)
    assert float(((pooled & union).sum((1, 2)) / (pooled | union).sum((1, 2))).mean()) > 0.9


# --------------------------------------------------------------------------------------------------
# The renderer against geometry, pixel by pixel


def plain_drawing(part: tuple[float, ...], pose: tuple[float, ...]) -> Drawing:
    one = torch.ones(1)
    return Drawing(
        parts=torch.tensor([[part]]),
        part_light=torch.zeros(1, 1),
        part_phase=torch.zeros(1, 1),
        pose=torch.tensor([pose]),
        texture=torch.zeros(1, dtype=torch.int64),
        texture_shape=torch.tensor([[1.0, 0.0, 0.0]]),
        object_colour=torch.tensor([[0.9, 0.6, 0.3]]),
        texture_colour=one[:, None].expand(1, 3),
        ground_colour=torch.tensor([[0.1, 0.2, 0.4]]),
        shade=torch.zeros(1, 2),
        ground_gradient=torch.zeros(1, 2),
        ground_waves=torch.zeros(1, 1, 4),
        ink=torch.zeros(1, 3),
        noise_seed=torch.zeros(1, dtype=torch.int64),
    )


def geometric(
    part: tuple[float, ...], pose: tuple[float, ...], x: float, y: float
) -> tuple[bool, float]:
    """(is the point inside the part, a lower bound of its distance to the outline in half-images),
    in double precision, from the definition."""
    cx, cy, a, b, angle, square, taper, hole, _ = part
    scale, turn, dx, dy, squeeze = pose

    def inside(px: float, py: float) -> bool:
        px, py = px - dx, py - dy
        ox, oy = (
            math.cos(turn) * px + math.sin(turn) * py,
            -math.sin(turn) * px + math.cos(turn) * py,
        )
        ox, oy = ox / (scale * squeeze) - cx, oy / scale - cy
        u, v = (
            math.cos(angle) * ox + math.sin(angle) * oy,
            -math.sin(angle) * ox + math.cos(angle) * oy,
        )
        v /= b
        u /= a * (1 + taper * max(-1.0, min(1.0, v)))
        reach = max(abs(u), abs(v)) if square else math.hypot(u, v)
        return hole <= reach <= 1

    here = inside(x, y)
    margin = 0.0
    for k in range(1, 13):  # circles about the point that lie wholly on its side
        radius = k / 128
        if any(
            inside(x + radius * math.cos(t), y + radius * math.sin(t)) != here
            for t in np.linspace(0, 2 * math.pi, 24, endpoint=False)
        ):
            break
        margin = radius
    return here, margin


PARTS = {
    "ellipse": (0.1, -0.05, 0.6, 0.35, 0.4, 0.0, 0.0, 0.0, 1.0),
    "box": (-0.1, 0.1, 0.5, 0.3, -0.3, 1.0, 0.0, 0.0, 1.0),
    "trapezoid": (0.0, 0.0, 0.5, 0.6, 0.2, 1.0, 0.5, 0.0, 1.0),
    "ring": (0.0, 0.0, 0.6, 0.6, 0.0, 0.0, 0.0, 0.5, 1.0),
}


@pytest.mark.parametrize("name", PARTS)
def test_coverage_is_geometry(name):
    part, pose, size = PARTS[name], (0.85, 0.3, 0.08, -0.06, 0.95), 64
    drawing, x = plain_drawing(part, pose), rendering.pixel_centres(size)
    image, coverage, labels = rendering.paint(drawing, rendering.ground(drawing, x, x), x, x)
    decided = wrong = edge = 0
    for row in range(0, size, 3):
        for column in range(0, size, 3):
            here, margin = geometric(part, pose, float(x[column]), float(x[row]))
            found = float(coverage[0, row, column])
            if margin * size / 2 < 1.25:  # pixels to the outline
                edge += 1
                continue
            decided += 1
            colour = drawing.object_colour if here else drawing.ground_colour
            exact = found == float(here) and int(labels[0, row, column]) == int(here)
            wrong += not (exact and torch.allclose(image[0, :, row, column], colour[0], atol=1e-6))
    assert decided > 300 and edge > 10 and wrong == 0
    # On the outline the coverage passes through half: the painted area is the part's.
    fine = sum(geometric_inside_share(part, pose, size))
    assert float(coverage.sum()) == pytest.approx(fine, rel=0.02)


def geometric_inside_share(part: tuple[float, ...], pose: tuple[float, ...], size: int):
    """The part's area in pixels, from its own formula: π·a·b or 4·a·b, under the pose's scaling (a
    taper keeps it, a hole takes its square)."""
    _, _, a, b, _, square, _, hole, _ = part
    yield (
        (4 if square else math.pi)
        * a
        * b
        * (1 - hole**2)
        * pose[0] ** 2
        * pose[4]
        * (size / 2) ** 2
    )


def test_a_later_part_lies_on_an_earlier_one():
    pose, x = (0.85, 0.3, 0.0, 0.0, 1.0), rendering.pixel_centres(64)
    alone = [plain_drawing(PARTS[name], pose) for name in ("ellipse", "box")]
    both = replace(
        alone[0],
        parts=torch.cat([d.parts for d in alone], dim=1),
        part_light=torch.tensor([[0.0, 0.05]]),
        part_phase=torch.zeros(1, 2),
    )
    image, coverage, labels = rendering.paint(both, rendering.ground(both, x, x), x, x)
    ellipse, box = (rendering.paint(d, rendering.ground(d, x, x), x, x)[1] for d in alone)
    assert torch.equal(coverage, torch.maximum(ellipse, box))
    assert torch.equal(labels.long(), torch.where(box > 0.5, 2, (ellipse > 0.5).long()))
    assert torch.allclose(image[0, :, (box == 1)[0]], both.object_colour.T + 0.05, atol=1e-6)
    assert int(((box == 1) & (ellipse == 1)).sum()) > 100


def test_an_absent_part_leaves_no_trace():
    absent = (*PARTS["box"][:8], 0.0)
    drawing, x = plain_drawing(absent, (0.85, 0.3, 0.0, 0.0, 1.0)), rendering.pixel_centres(32)
    image, coverage, labels = rendering.paint(drawing, rendering.ground(drawing, x, x), x, x)
    assert int(coverage.count_nonzero()) == int(labels.count_nonzero()) == 0
    assert torch.equal(image, rendering.ground(drawing, x, x))


# Each texture over the square of object coordinates, as a thousand times its mean weighted by the
# cosines of 0, 1, 4, 9, …
GOLDEN_TEXTURES = [0.68, 2.14, -29.07, -14.03, 17.92, -10.58, -8.6, -0.46, 11.0, 0.52]


def textures() -> torch.Tensor:
    axis = rendering.pixel_centres(64)
    oy, ox = torch.meshgrid(axis, axis, indexing="ij")
    shape = torch.tensor([[1.0, 0.0, 1.0]]).expand(10, 3)
    return rendering.texture_values(
        torch.arange(10),
        shape,
        ox.expand(10, -1, -1),
        oy.expand(10, -1, -1),
        torch.full((10, 64, 64), 0.3),
    )


def test_textures_have_not_changed_without_a_change_of_version():
    weights = torch.arange(64 * 64).double().square().cos()
    assert ((textures().double().flatten(1) * weights).mean(1) * 1000).tolist() == pytest.approx(
        GOLDEN_TEXTURES, abs=0.05
    )


def test_textures_are_bounded_and_told_apart():
    values = textures()
    assert float(values.abs().max()) <= 1 and float(values.flatten(1).std(1).min()) > 0.3
    correlation = torch.corrcoef(values.flatten(1)) - torch.eye(10)
    assert float(correlation.abs().max()) < 0.6


# --------------------------------------------------------------------------------------------------
# The hash under all of it


def splitmix(key: int, position: int) -> int:
    """SplitMix64 in Python's integers, its output's upper 53 bits."""
    word = 2**64 - 1
    z = (key + (position + 1) * 0x9E3779B97F4A7C15) & word
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
    return (z ^ (z >> 31)) >> 11


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_the_hash_is_splitmix64(keys, count):
    found = hashed_bits(torch.tensor(keys), count)
    assert found.tolist() == [[splitmix(key, k) for k in range(count)] for key in keys]
    uniform = hashed_uniform(torch.tensor(keys), count)
    assert uniform.tolist() == [
        [(splitmix(key, k) >> 29) / 2**24 for k in range(count)] for key in keys
    ]
    assert float(uniform.min()) >= 0 and float(uniform.max()) < 1


def test_uniforms_have_their_moments_and_no_repeats():
    noise = World("train", length=100_000)._noise(range(100_000))
    keys = noise.key("scale")
    assert len(keys.unique()) == 100_000
    u = hashed_uniform(keys, 2).double()
    assert float(u.min()) >= 0 and float(u.max()) < 1
    assert torch.allclose(
        u.mean(0), torch.full((2,), 0.5, dtype=torch.float64), atol=5 / math.sqrt(12e5)
    )
    assert torch.allclose(
        u.var(0), torch.full((2,), 1 / 12, dtype=torch.float64), atol=5 * math.sqrt(1 / 180 / 1e5)
    )
    counts = torch.histc(u[:, 0], 64, 0, 1)
    assert float(((counts - 100_000 / 64) ** 2 / (100_000 / 64)).sum()) < 63 + 5 * math.sqrt(2 * 63)
    z = hashed_normal(keys, 1)[:, 0].double()
    assert (
        abs(float(z.mean())) < 0.016
        and float(z.std()) == pytest.approx(1, abs=0.012)
        and float(z.abs().max()) <= 3.47
    )


def test_uniforms_of_other_names_positions_indices_streams_and_seeds_are_uncorrelated():
    count = 50_000

    def column(split="train", seed=0, name="scale", width=1, start=0):
        world = World(split, seed=seed, length=count + 10)
        return hashed_uniform(world._noise(range(start, start + count)).key(name), width).double()

    base = column()[:, 0]
    others = [
        column(name="turn")[:, 0],
        column(name="scales")[:, 0],
        column(width=3)[:, 1],
        column(width=3)[:, 2],
        column("validation")[:, 0],
        column(seed=1)[:, 0],
        *(column(start=k)[:, 0] for k in (1, 2, 3, 8)),
    ]
    correlation = torch.corrcoef(torch.stack([base, *others]))[0, 1:]
    assert float(correlation.abs().max()) < 5 / math.sqrt(count)


# --------------------------------------------------------------------------------------------------
# The hard set and the classifier that defines it


def _record() -> dict:
    return json.loads(resources.files("mae_lib.worlds").joinpath("assets/hard.json").read_text())


@lru_cache(maxsize=1)
def _reference():
    from mae_lib.training.reference import load_reference

    return load_reference()


def test_hard_images_are_the_candidates_that_the_shipped_classifier_gets_wrong():
    from mae_lib.training.reference import choose_hard, predictions

    record, world = _record(), World("hard")
    indices = record["indices"]
    assert (
        len(indices) == len(world) == 2000
        and indices == sorted(set(indices))
        and indices[-1] + 1 == record["candidates_seen"]
    )
    wrong = predictions(_reference(), world, len(world)) != world.labels
    assert float(wrong.double().mean()) >= 0.98  # another processor rounds otherwise
    again, seen = choose_hard(_reference(), 6)  # one may be missing or more, the rest move up
    assert len(set(again) & set(indices[:7])) >= 5 and seen == again[-1] + 1
    assert alike(world.images([0, 49]), World("candidates").images([indices[0], indices[49]]))
    assert torch.equal(world.labels[:50], World("candidates").sample(indices[:50]).labels)


def test_the_shipped_classifier_is_the_recorded_one():
    from mae_lib.base.tensors import read_safetensors
    from mae_lib.training.reference import predictions

    record, world = _record(), World("validation")
    with resources.as_file(
        resources.files("mae_lib.worlds").joinpath("assets/reference.safetensors")
    ) as path:
        assert read_safetensors(path)[1]["digest"] == record["reference_digest"]
    accuracy = float((predictions(_reference(), world, len(world)) == world.labels).double().mean())
    assert accuracy == pytest.approx(record["reference_accuracy"], abs=0.01) and accuracy > 0.5
    assert record["world_version"] == WORLD_VERSION
