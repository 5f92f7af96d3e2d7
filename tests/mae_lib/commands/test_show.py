"""``mae show`` and ``mae import``: what is drawn is what the model does, and what cannot be drawn
is said in a line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro
from matplotlib.figure import Figure
from PIL import Image

import tiny
from image_folders import picture, save
from mae_lib.base.errors import InputError
from mae_lib.commands.options import Import, Show
from mae_lib.data.formats.decoding import decode
from mae_lib.evaluation.attention import attention_maps
from mae_lib.model.autoencoder import normalise_pixels, to_unit_range
from mae_lib.training import store
from tiny import one_thread  # noqa: F401

FLAT = (tyro.conf.OmitArgPrefixes,)


def mae(kind: type, *words: object) -> int:
    return tyro.cli(kind, args=[str(word) for word in words], config=FLAT).run()


@pytest.fixture
def wide(tmp_path) -> store.Checkpoint:
    """A model of images of 16 × 40 pixels."""
    model = replace(tiny.MODEL, image_size=(16, 40))
    data = {"kind": "ramps"}
    return tiny.checkpoint(tmp_path / "own", tiny.config(model=model, ratio=0.4, data=data))


@pytest.fixture
def photo(tmp_path) -> Path:
    return save(picture(1, 80, 32), tmp_path / "photo.png")


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    found, keep = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: found.append(self) or keep(self, *a, **k)
    )
    return found


def pixels(figure: Figure) -> list[torch.Tensor]:
    """Each picture, float [H, W, 3] or a map [rows, columns], in the order of its axes."""
    return [torch.tensor(axis.images[0].get_array()).float() for axis in figure.axes]


def test_a_reconstruction_has_a_row_a_ratio(tmp_path, wide, photo, drawn) -> None:
    out = tmp_path / "made" / "rebuilt.png"
    words = ("--checkpoint", wide.path, "--image", photo, photo, "--ratio", 0.2, 0.8, "--out", out)
    assert mae(Show, "reconstruction", *words, "--device", "cpu") == 0
    shown, original = pixels(drawn[0]), torch.tensor(decode(photo, (3, 16, 40), 1)) / 255
    assert len(shown) == 2 * 6
    with Image.open(out) as image:
        assert image.width > image.height  # pictures keep the images' shape
    model = wide.load()
    for row, hidden in ((shown[:6], 2), (shown[6:], 8)):
        for first, seen, rebuilt in (row[:3], row[3:]):
            torch.testing.assert_close(first, original.permute(1, 2, 0))
            same = (seen == first).all(-1).unflatten(0, (2, 8)).unflatten(2, (5, 8))
            visible = same.all(3).all(1).flatten().nonzero().T
            assert visible.shape[1] == 10 - hidden
            wanted = to_unit_range(model.reconstruct(normalise_pixels(original[None]), visible))
            torch.testing.assert_close(rebuilt, wanted[0].permute(1, 2, 0), rtol=0, atol=1e-5)


def test_attention_has_all_heads_and_each(tmp_path, wide, photo, drawn) -> None:
    out = tmp_path / "looks.png"
    mae(Show, "attention", "--checkpoint", wide.path, "--image", photo, "--out", out)
    x = normalise_pixels(torch.tensor(decode(photo, (3, 16, 40), 1)))[None]
    maps = attention_maps(wide.load(), x)[0, :, 0, 1:].unflatten(-1, (2, 5))
    for found, wanted in zip(pixels(drawn[0])[1:], (maps.mean(0), *maps), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_mask_of_another_unit_hides_whole_units(tmp_path, photo, drawn) -> None:
    own = tiny.checkpoint(tmp_path / "own", tiny.config(ratio=0.5))
    words = ("--checkpoint", own.path, "--image", photo, "--unit", 16, "--out", tmp_path / "m.png")
    mae(Show, "mask", *words)
    first, seen = pixels(drawn[0])
    same = (first == seen).all(-1).unflatten(0, (2, 16)).unflatten(2, (2, 16))
    units = same.transpose(1, 2).flatten(2)
    assert units.all(-1).sum() == 2 and drawn[0].axes[0].get_ylabel() == "ratio 0.5"


def test_imported_weights_are_shown_in_two_commands(tmp_path, photo, capsys) -> None:
    foreign = pytest.importorskip("foreign")
    source = foreign.timm_file(tmp_path)
    sizes = ("--heads", 4, "--image-size", "16x40")
    assert mae(Import, source, "--out", tmp_path / "out", *sizes) == 0
    said = capsys.readouterr().out
    for line in (
        "images 3×16×40, ViT patch 8 px; encoder 2 blocks of width 32, 4 heads; decoder none",
        "image_size resampled from [32, 32] to [16, 40]",
        "heads: as you say",
        "unknown: data, steps, seed, ratio",
    ):
        assert line in said
    shared = ("--checkpoint", tmp_path / "out", "--image", photo)
    assert mae(Show, "attention", *shared, "--out", tmp_path / "a.png") == 0
    for what, more, message in (
        ("mask", (), r"nobody knows .* timm-vit_tiny-mae was trained: give --ratio"),
        ("reconstruction", ("--ratio", 0.5), "encoder alone"),
    ):
        with pytest.raises(InputError, match=message):
            mae(Show, what, *shared, *more, "--out", tmp_path / "b.png")
    with pytest.raises(InputError, match=r"image size '16by40': give a side"):
        mae(Import, source, "--out", tmp_path / "out", "--image-size", "16by40")
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "x.jpg"), r"x.jpg: give the picture a name that ends in .png"),
        (("--image", "nothing.png"), r"nothing.png cannot be opened"),
        (("--image", "."), r"cannot be opened"),
        (("--ratio", 1.5), r"masking ratio 1.5"),
        (("--ratio", 0.999), r"keeps no unit"),
        (("--unit", 12), r"--unit 12 is not a multiple of the 8 px ViT patch"),
        (("--unit", 32), r"is larger than the 2×5 grid"),
        (("--checkpoint", "nowhere"), r"there is no checkpoint nowhere"),
    ],
)
def test_what_cannot_be_drawn_is_said_and_nothing_written(
    tmp_path, monkeypatch, wide, photo, words, message
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"--checkpoint": wide.path, "--image": photo, "--out": "out.png"} | dict([words])
    with pytest.raises(InputError, match=message) as caught:
        mae(Show, "reconstruction", *(word for pair in given.items() for word in pair))
    assert "\n" not in str(caught.value) and not Path("out.png").exists()


def test_a_picture_that_is_there_is_not_replaced(tmp_path, wide, photo) -> None:
    words = ("mask", "--checkpoint", wide.path, "--image", photo, "--out", photo)
    before = photo.read_bytes()
    with pytest.raises(InputError, match="is there already, and is not replaced"):
        mae(Show, *words)
    assert photo.read_bytes() == before


def test_a_folder_of_several_is_answered_with_their_names(tmp_path, photo) -> None:
    for ratio in (0.25, 0.5):
        tiny.checkpoint(tmp_path / "own", tiny.config(ratio=ratio))
    words = ("--checkpoint", tmp_path / "own", "--image", photo, "--out", tmp_path / "a.png")
    with pytest.raises(InputError, match="holds 2 checkpoints: name one of r25-.*, r50-"):
        mae(Show, "mask", *words)


def test_a_layer_that_is_not_there_is_named(tmp_path, wide, photo) -> None:
    words = ("--checkpoint", wide.path, "--image", photo, "--out", tmp_path / "a.png")
    with pytest.raises(InputError, match="there is no layer 7"):
        mae(Show, "attention", *words, "--layer", 7)
