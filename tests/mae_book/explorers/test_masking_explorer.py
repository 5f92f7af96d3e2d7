"""The explorer of masking: its tables and pictures are the models' own work, its command makes the
model again. What holds of every explorer is tested beside."""

from __future__ import annotations

import shlex
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from explorers import BATCH, FOLDER, SMOKE, WORLD, explorer, runs, stored
from looking import Page
from mae_book.explorers.explorer import data_url
from mae_book.explorers.masking_explorer import MaskingExplorer
from mae_lib.base.errors import InputError
from mae_lib.commands.cli import parse
from mae_lib.model.autoencoder import normalise_pixels
from mae_lib.training.config import PretrainConfig
from mae_lib.training.tiers import parse_size, tier
from mae_lib.worlds.world import World

IMAGES = BATCH.images


def test_the_page_holds_every_setting_as_the_kernel_computes_it():
    shown = explorer("masking")
    data = Page(shown.html()).data()
    assert [row[2] for row in data["choices"]["run"]] == [c.config.name for c in shown.runs]
    assert len({row[1] for row in data["choices"]["run"]}) == 2 and len(data["originals"]) == 3
    pictures = set()
    for run, row in enumerate(data["runs"]):
        assert row["command"] == shown.command(run) and np.shape(row["cells"]) == (3, 2)
        for image in range(3):
            for mask in range(2):
                view = shown.view(run, image, mask)
                assert row["cells"][image][mask] == {
                    "masked": data_url(view.masked),
                    "rebuilt": data_url(view.reconstruction),
                    "error": f"{view.hidden_error:.4f}",
                }
                pictures.add(data_url(view.reconstruction))
    assert len(pictures) > 8  # of 12; two masks of four units may be equal


def test_a_view_is_the_models_work_on_that_mask():
    shown, images = explorer("masking"), IMAGES
    view = shown.view(1, 2, 0)
    original = images[2].float() / 255
    grey = ((view.masked - original).abs() > 1e-4).any(0)
    blocks = grey.view(2, 16, 2, 16).permute(0, 2, 1, 3).reshape(4, -1)
    share = blocks.float().mean(1)
    assert int((share > 0.9).sum()) == 3 and int((share == 0).sum()) == 1  # 0.75 of units of 16 px
    assert torch.allclose(view.reconstruction[:, ~grey], original[:, ~grey], atol=1e-6)
    hidden = grey.view(2, 16, 2, 16).any(3).any(1).repeat_interleave(16, 0).repeat_interleave(16, 1)
    assert view.hidden_error == pytest.approx(
        float((view.reconstruction - original)[:, hidden].square().mean()), rel=1e-4
    )
    model = shown.runs[1].load()
    positions = hidden.view(8, 4, 8, 4)[:, 0, :, 0].flatten()
    again = model.reconstruct(normalise_pixels(images[2:]), (~positions).nonzero().T)
    assert torch.allclose((again[0] * 0.25 + 0.5).clamp(0, 1), view.reconstruction, atol=1e-5)


def test_the_figure_has_a_column_a_run():
    figure = explorer("masking").figure(image=1, mask=1)
    assert len(figure.axes) == 3 * 2
    titles = [axis.get_title() for axis in figure.axes[:2]]
    assert titles == ["r 0.5\nunit 8 px", "r 0.75\nunit 16 px"]
    masked = explorer("masking").view(0, 1, 1).masked.permute(1, 2, 0).numpy()
    assert np.allclose(figure.axes[2].images[0].get_array(), masked, atol=1e-6)
    plt.close(figure)


# --------------------------------------------------------------------------------------------------
# The command that is shown


def reparsed(command: str, data: dict) -> PretrainConfig:
    name, *words = shlex.split(command)
    assert name == "mae"
    parsed = parse(words)
    sizes = (
        tier(parsed.tier)
        if parsed.image_size is None
        else tier(parsed.tier).at(parse_size(parsed.image_size))
    )
    config = sizes.config(data, parsed.ratio, parsed.unit, parsed.patch, parsed.seed)
    return replace(
        config,
        **{
            k: getattr(parsed, k)
            for k in ("steps", "batch", "base_lr")
            if getattr(parsed, k) is not None
        },
    )


def command_of(config: PretrainConfig, images: torch.Tensor = IMAGES, name: str = "smoke") -> str:
    return MaskingExplorer([stored(config, name)], images).command(0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"steps": 7},
        {"batch": 4, "base_lr": 0.0123},
        {"seed": 5},
        {"ratio": 1 / 3},
        {"ratio": 0.75, "unit": 16},
        {"ratio": 0.123456789},
    ],
)
def test_the_command_gives_the_same_config_back(changes):
    config = replace(SMOKE.config(WORLD, 0.5), **changes)
    command = command_of(config)
    assert command.startswith("mae pretrain --tier smoke --ratio ")
    assert reparsed(command, WORLD) == config and reparsed(command, WORLD).hash == config.hash
    assert ("--steps" in command) == ("steps" in changes)


def test_the_command_names_a_folder_and_a_size_of_its_own():
    command = command_of(config := SMOKE.config(FOLDER, 0.5))
    assert "--data DIR" in command and reparsed(command, FOLDER) == config
    world = World("train", 64, length=4)
    config = SMOKE.at(64).config(world.identity, 0.5)
    command = command_of(config, world.images(range(2)))
    assert "--image-size 64" in command and reparsed(command, world.identity) == config


def test_where_no_command_makes_the_model_none_is_shown():
    config = replace(SMOKE.config(WORLD, 0.5), weight_decay=0.5)
    for name in ("smoke", "custom"):
        assert command_of(config, name=name).startswith(
            "load_or_pretrain(config) with the config in"
        )
    world = World("train", 36, length=4)  # a size at which the tier has no patches of whole pixels
    model = replace(SMOKE.model, image_size=(36, 36), patch=4)
    config = replace(SMOKE.config({}, 0.5, patch=4), model=model, data=world.identity)
    assert command_of(config, world.images(range(2))).startswith("load_or_pretrain(config)")


# --------------------------------------------------------------------------------------------------
# Odd and bad input, of every explorer of models


def test_one_run_one_image_one_mask_and_grey_images():
    single = MaskingExplorer(runs()[:1], IMAGES[:1], masks=1)
    assert np.shape(Page(single.html()).data()["runs"][0]["cells"]) == (1, 1)
    assert all(control.disabled for control in single.widget().children[:3])
    config = replace(SMOKE.config({"kind": "grey"}, 0.5), model=replace(SMOKE.model, channels=1))
    grey = MaskingExplorer([stored(config)], IMAGES[:, :1], masks=1)
    assert Page(grey.html()).open == []
    for shown in (single, grey):
        plt.close(shown.figure())


def test_bad_input_is_named():
    for arguments in (([], IMAGES), (runs(), IMAGES[:0]), (runs(), IMAGES, 0)):
        with pytest.raises(InputError, match="at least one"):
            MaskingExplorer(*arguments)
    with pytest.raises(InputError, match="two of the runs have one name"):
        MaskingExplorer([*runs(), runs()[0]], IMAGES)
    with pytest.raises(InputError, match="2 names for 3 images"):
        MaskingExplorer(runs(), IMAGES, names=["a", "b"])
    with pytest.raises(InputError, match="float32"):
        MaskingExplorer(runs(), IMAGES / 255)
    with pytest.raises(InputError, match=r"\[3, 64, 64\]"):
        MaskingExplorer(runs(), IMAGES.repeat_interleave(2, 2).repeat_interleave(2, 3))
    with pytest.raises(InputError, match="1 or 3"):
        MaskingExplorer(runs(), IMAGES[:, :2])
