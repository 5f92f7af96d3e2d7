"""The explorers' faces agree with one another, hold every setting and keep to themselves."""

from __future__ import annotations

import base64
import html as markup
import io
import re
import shlex
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from looking import Page
from mae_book.explorers.explorer import MaskingExplorer, data_url
from mae_lib.base.errors import InputError
from mae_lib.commands.cli import parse
from mae_lib.model.autoencoder import MaskedAutoencoder, normalise_pixels
from mae_lib.training.config import PretrainConfig
from mae_lib.training.loop import Trained
from mae_lib.training.store import Checkpoint, save
from mae_lib.training.tiers import tier
from mae_lib.worlds.world import World

SMOKE = tier("smoke")


def stored(folder, config: PretrainConfig, name: str = "smoke") -> Checkpoint:
    torch.manual_seed(config.unit)
    return save(
        Trained(MaskedAutoencoder(config.model).eval(), torch.linspace(1, 0.5, 5), 1.0),
        config,
        folder,
        name,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Checkpoint]:
    folder, data = tmp_path_factory.mktemp("runs"), World("train", 32).identity
    return [
        stored(folder, SMOKE.config(data, ratio, unit, patch))
        for ratio, unit, patch in ((0.5, 8, 8), (0.75, 16, 4))
    ]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return World("validation", 32).images(range(3))


@pytest.fixture(scope="module")
def explorer(runs, images) -> MaskingExplorer:
    return MaskingExplorer(runs, images, masks=2)


def picture(url: str) -> np.ndarray:
    assert url.startswith("data:image/webp;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))


def test_the_page_holds_every_setting_as_the_kernel_computes_it(explorer, runs, images):
    page = Page(explorer.html())
    assert page.open == [] and len(page.scripts) == 1 and len(page.ids) == 1
    data = page.data()
    assert [r["name"] for r in data["runs"]] == [c.config.name for c in runs]
    assert [r["label"] for r in data["runs"]] == [explorer.label(k) for k in range(2)] and len(
        {r["label"] for r in data["runs"]}
    ) == 2
    assert [r["command"] for r in data["runs"]] == [explorer.command(k) for k in range(2)]
    assert data["names"] == ["image 0", "image 1", "image 2"] and len(data["originals"]) == 3
    assert np.shape(data["table"]) == (2, 3, 2)
    for run in range(2):
        for image in range(3):
            for mask in range(2):
                view, cell = explorer.view(run, image, mask), data["table"][run][image][mask]
                assert cell == {
                    "masked": data_url(view.masked),
                    "rebuilt": data_url(view.reconstruction),
                    "error": round(view.hidden_error, 4),
                }
                assert picture(cell["masked"]).shape == (32, 32, 3)
    # of 12; two masks of four units may be equal
    assert len({cell["rebuilt"] for row in data["table"] for cells in row for cell in cells}) > 8
    ranges = {a["data-role"]: a for tag, a in page.elements if tag == "input"}
    assert list(ranges) == ["run", "image", "mask"]
    assert explorer._repr_html_() == explorer.html()  # the same at every build


def test_a_view_is_the_models_work_on_that_mask(explorer, runs, images):
    view = explorer.view(1, 2, 0)
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
    model = runs[1].load()
    positions = hidden.view(8, 4, 8, 4)[:, 0, :, 0].flatten()
    again = model.reconstruct(normalise_pixels(images[2:]), (~positions).nonzero().T)
    assert torch.allclose((again[0] * 0.25 + 0.5).clamp(0, 1), view.reconstruction, atol=1e-5)


def test_the_page_reaches_for_nothing_outside(explorer):
    text = explorer.html()
    assert not re.search(
        r"https?:|//[a-z]|@import|url\(", re.sub(r"data:image/webp;base64,[\w+/=]+", "", text)
    )
    for _, attributes in Page(text).elements:
        assert not {"src", "href", "onclick"} & attributes.keys()


def test_two_explorers_on_a_page_keep_apart(explorer, runs, images):
    other = MaskingExplorer(runs, images.flip(0), masks=2)
    first, second = Page(explorer.html()), Page(other.html())
    assert first.ids != second.ids
    for page in (first, second):
        assert f'[id="{page.ids[0]}"]' in page.scripts[0]


@pytest.mark.parametrize(
    "name",
    [
        "</script><b id=out>",
        "<!--<script>",
        '"}];alert(1);//',
        "$id ${data} $$",
        "日本 & <i>",
        "\u2028",
    ],
)
def test_a_name_cannot_break_out(runs, images, name):
    explorer = MaskingExplorer(runs[:1], images[:1], masks=1, names=[name])
    page = Page(explorer.html())
    assert (
        page.open == []
        and len(page.ids) == len(page.scripts) == 1
        and page.data()["names"] == [name]
    )
    script = page.scripts[0]
    assert "<" not in script.split("const data")[1].split("const at")[0]
    assert script.rstrip().endswith("})();")
    assert "innerHTML" not in script  # names are set as text


def test_the_live_face_shows_the_same(explorer):
    for run in range(2):
        for image in range(3):
            for mask in range(2):
                pictures, words = explorer.live_html(run, image, mask)
                view = explorer.view(run, image, mask)
                sources = [a["src"] for tag, a in Page(pictures).elements if tag == "img"]
                assert sources[1:] == [data_url(view.masked), data_url(view.reconstruction)]
                assert all(a["alt"] for tag, a in Page(pictures).elements if tag == "img")
                assert (
                    f"{view.hidden_error:.4f}" in words
                    and markup.escape(explorer.command(run)) in words
                )


def test_the_widget_answers_a_change(explorer):
    box = explorer.widget()
    run, image, mask, pictures, words = box.children
    assert [label for label, _ in run.options] == [explorer.label(0), explorer.label(1)] and (
        mask.min,
        mask.max,
    ) == (0, 1)
    assert (pictures.value, words.value) == explorer.live_html(0, 0, 0)
    run.value = 1
    assert (pictures.value, words.value) == explorer.live_html(1, 0, 0)
    image.value = 2
    mask.value = 1
    assert (pictures.value, words.value) == explorer.live_html(1, 2, 1)


def test_the_figure_has_a_column_a_run(explorer):
    figure = explorer.figure(image=1, mask=1)
    assert len(figure.axes) == 3 * 2
    titles = [axis.get_title() for axis in figure.axes[:2]]
    assert titles == ["r 0.5\nunit 8 px", "r 0.75\nunit 16 px"]
    assert np.allclose(
        figure.axes[2].images[0].get_array(),
        explorer.view(0, 1, 1).masked.permute(1, 2, 0).numpy(),
        atol=1e-6,
    )
    plt.close(figure)


# --------------------------------------------------------------------------------------------------
# The command that is shown


def reparsed(command: str, data: dict) -> PretrainConfig:
    name, *words = shlex.split(command)
    assert name == "mae"
    parsed = parse(words)
    sizes = (
        tier(parsed.tier) if parsed.image_size is None else tier(parsed.tier).at(parsed.image_size)
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
def test_the_command_gives_the_same_config_back(tmp_path, images, changes):
    data = World("train", 32).identity
    config = replace(SMOKE.config(data, 0.5), **changes)
    command = MaskingExplorer([stored(tmp_path, config)], images).command(0)
    assert command.startswith("mae pretrain --tier smoke --ratio ")
    assert reparsed(command, data) == config and reparsed(command, data).hash == config.hash
    assert ("--steps" in command) == ("steps" in changes)


def test_the_command_for_a_folder_asks_for_it(tmp_path, images):
    data = {
        "kind": "folder",
        "split": "train",
        "image_size": [32, 32],
        "channels": 3,
        "images": 4,
        "classes": 2,
        "fingerprint": "0",
    }
    config = SMOKE.config(data, 0.5)
    command = MaskingExplorer([stored(tmp_path, config)], images).command(0)
    assert "--data DIR" in command and reparsed(command, data) == config


def test_where_no_command_makes_the_model_none_is_shown(tmp_path, images):
    config = replace(SMOKE.config(World("train", 32).identity, 0.5), weight_decay=0.5)
    for name in ("smoke", "custom"):
        checkpoint = stored(tmp_path, config, name)
        shown = MaskingExplorer([checkpoint], images).command(0)
        assert "mae pretrain" not in shown and checkpoint.path.with_suffix(".json").name in shown


# --------------------------------------------------------------------------------------------------
# Odd and bad input


def test_one_run_one_image_one_mask(runs, images):
    explorer = MaskingExplorer(runs[:1], images[:1], masks=1)
    assert np.shape(Page(explorer.html()).data()["table"]) == (1, 1, 1)
    assert len(explorer.widget().children) == 5
    plt.close(explorer.figure())


def test_grey_images(tmp_path):
    config = replace(SMOKE.config({"kind": "grey"}, 0.5), model=replace(SMOKE.model, channels=1))
    explorer = MaskingExplorer(
        [stored(tmp_path, config)],
        torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8),
        masks=1,
    )
    assert picture(Page(explorer.html()).data()["originals"][0]).shape[:2] == (32, 32)
    plt.close(explorer.figure())


def test_bad_input_is_named(runs, images):
    for arguments in (([], images), (runs, images[:0]), (runs, images, 0)):
        with pytest.raises(InputError, match="at least one"):
            MaskingExplorer(*arguments)
    with pytest.raises(InputError, match="two of the runs have one name"):
        MaskingExplorer([*runs, runs[0]], images)
    with pytest.raises(InputError, match="2 names for 3 images"):
        MaskingExplorer(runs, images, names=["a", "b"])
    with pytest.raises(InputError, match="float32"):
        MaskingExplorer(runs, images / 255)
    with pytest.raises(InputError, match=r"\[3, 64, 64\]"):
        MaskingExplorer(runs, images.repeat_interleave(2, 2).repeat_interleave(2, 3))
    with pytest.raises(InputError, match="1 or 3"):
        MaskingExplorer(runs, images[:, :2])


def test_the_command_names_an_image_size_that_is_not_the_tiers(tmp_path):
    world = World("train", 64, length=4)
    config = SMOKE.at(64).config(world.identity, 0.5)
    command = MaskingExplorer([stored(tmp_path, config)], world.images(range(2))).command(0)
    assert "--image-size 64" in command and reparsed(command, world.identity) == config


def test_a_size_at_which_the_tier_has_no_patches_is_no_tiers_command(tmp_path):
    world = World("train", 36, length=4)
    config = replace(
        SMOKE.config({}, 0.5, patch=4),
        model=replace(SMOKE.model, image_size=(36, 36), patch=4),
        data=world.identity,
    )
    assert (
        MaskingExplorer([stored(tmp_path, config)], world.images(range(2)))
        .command(0)
        .startswith("load_or_pretrain(config)")
    )
