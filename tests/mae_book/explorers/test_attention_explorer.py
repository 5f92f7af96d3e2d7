"""The explorer of attention: its three faces show what `attention_maps` gives; in a real browser
without a network too, where patches are clicked and walked over."""

from __future__ import annotations

import base64
import re
import shlex
from functools import partial

import nbformat
import numpy as np
import pytest
import torch
import yaml
from bs4 import BeautifulSoup

from explorers import BATCH as SAMPLE
from explorers import FOLDER, SMOKE, runs, stored
from explorers import explorer as kinds
from looking import Page, drawn  # noqa: F401 (renders and closes every figure)
from mae_book.explorers import attention_explorer
from mae_book.explorers.attention_explorer import COLOURS, AttentionExplorer, encoded, outline
from mae_book.verdicts.results import repository
from mae_lib.base.errors import InputError
from mae_lib.base.parameters import check_notebook_parameters
from mae_lib.drawing.attention_figures import attention_rows
from mae_lib.evaluation.attention import (
    attention_maps,
    cls_attention,
    cls_scores,
    object_scores,
    patch_attention,
    patch_coverage,
)
from mae_lib.model.autoencoder import normalise_pixels
from mae_lib.training.store import read
from mae_lib.training.tiers import tier
from mae_lib.worlds.world import World

IMAGES, MASKS = SAMPLE.images[:2], SAMPLE.object_mask[:2]
CHAPTER = AttentionExplorer.CHAPTER
SHOWN = partial(kinds, "attention")


@pytest.fixture(scope="module")
def text() -> str:
    """A page with room for all but the 8 × 8 patches' heads."""
    with pytest.MonkeyPatch.context() as patched:
        for size in range(70_000, 200_000, 1000):
            patched.setattr(attention_explorer, "PAGE_BYTES", size)
            if SHOWN().held() == [True, True, False]:
                return SHOWN().html()
    raise AssertionError("no size of a page gives the largest run its last layer alone")


FOUND: dict[tuple[int, int], torch.Tensor] = {}


def expected(state) -> np.ndarray:
    """The attention of a state, from `attention_maps` alone, of both images and one layer at a
    time."""
    run, image, layer, head, patch = state
    if (run, layer) not in FOUND:
        FOUND[run, layer] = attention_maps(runs()[run].load(), normalise_pixels(IMAGES), layer)
    maps = FOUND[run, layer][image]
    return (maps.mean(0) if head < 0 else maps[head])[patch + 1].numpy()


STATES = [
    (0, 1, 0, 1, 15),
    (1, 0, 2, -1, -1),
    (1, 1, 0, 3, 6),
    (1, 1, 2, 2, 0),
    (2, 0, 0, -1, 63),
    (2, 1, 0, 0, 20),
]


@pytest.mark.parametrize("state", STATES)
def test_a_state_is_what_attention_maps_gives(state):
    assert np.allclose(SHOWN().attention(*state), expected(state), atol=1e-6)


def test_a_table_is_within_half_a_level():
    maps = (4 * torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(0))).softmax(-1)
    content = base64.b64decode(encoded(maps))
    assert len(content) == 54 * 4 + 54 * 9
    greatest = np.frombuffer(content[: 54 * 4], "<f4").reshape(3, 2, 9, 1)
    levels = np.frombuffer(content[54 * 4 :], np.uint8).reshape(3, 2, 9, 9)
    assert np.array_equal(greatest, maps.amax(-1, keepdim=True)) and levels.max() == 255
    away = np.abs(greatest * (levels / 255) - maps.numpy())
    assert (away <= greatest * (0.5 / 255 + 1e-6)).all()


def test_the_page_holds_every_map(text):
    data = Page(text).data()
    assert [r["every"] for r in data["runs"]] == [True, True, False]
    for run, r in enumerate(data["runs"]):
        tokens = r["rows"] * r["columns"] + 1
        for image in range(2):
            content = base64.b64decode(r["tables"][image])
            rows = len(r["layer"]) * r["heads"] * tokens
            greatest = np.frombuffer(content[: 4 * rows], "<f4")
            found = (
                np.frombuffer(content[4 * rows :], np.uint8).reshape(rows, tokens)
                / 255
                * greatest[:, None]
            ).reshape(-1, r["heads"], tokens, tokens)
            for k, (layer, *_) in enumerate(r["layer"]):
                for head in range(r["heads"]):
                    for token in (0, 1, tokens - 1):
                        wanted = expected(
                            (run, image, layer, head if r["every"] else -1, token - 1)
                        )
                        assert (
                            np.abs(found[k, head, token] - wanted).max()
                            <= wanted.max() * 0.51 / 255
                        )
    assert (
        data["selected"] == {"run": 1, "image": 0, "layer": 2, "head": -1, "patch": 6}
        and data["colours"] == COLOURS
    )
    assert data["images"][1]["coverage"]["4x4"] == pytest.approx(
        patch_coverage(MASKS, (4, 4))[1].tolist(), abs=1e-4
    )


def test_what_is_said_of_the_object_is_what_the_scores_are():
    coverage = patch_coverage(MASKS, (4, 4))
    maps = attention_maps(runs()[0].load(), normalise_pixels(IMAGES))
    cls = cls_scores(cls_attention(maps), coverage)["share"]
    for image in range(2):
        assert (
            SHOWN()
            .reading(0, image, 0)["object"]
            .startswith(f"{100 * float(cls[image]):.1f} % of what goes to patches; the object is ")
        )
        shares = [
            float(SHOWN().reading(0, image, 0, patch=p)["object"].split(" %")[0])
            for p in range(16)
            if coverage[image, p] >= 0.5
        ]
        assert np.mean(shares) / 100 == pytest.approx(
            float(object_scores(patch_attention(maps), coverage)["share"][image]), abs=6e-4
        )
    plain = AttentionExplorer(runs(), IMAGES)
    assert plain.reading(0, 0, 0)["object"] == "–" and plain.start == (0, 0, 0, -1, -1)


def test_an_outline_encloses_the_mask():
    for mask in (
        *MASKS,
        torch.ones(3, 5, dtype=torch.bool),
        torch.zeros(3, 5, dtype=torch.bool),
        torch.eye(4, dtype=torch.bool),
    ):
        edges = set()
        for x, y, turn, length in re.findall(r"M(\d+) (\d+)([hv])(\d+)", path := outline(mask)):
            for k in range(int(length)):
                edges.add((turn, int(x) + k * (turn == "h"), int(y) + k * (turn == "v")))
        assert path == "".join(re.findall(r"M\d+ \d+[hv]\d+", path))
        inside = lambda y, x: 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])
        wanted = {
            ("h", x, y)
            for y in range(mask.shape[0] + 1)
            for x in range(mask.shape[1])
            if inside(y, x) != inside(y - 1, x)
        }
        wanted |= {
            ("v", x, y)
            for y in range(mask.shape[0])
            for x in range(mask.shape[1] + 1)
            if inside(y, x) != inside(y, x - 1)
        }
        assert edges == wanted


def test_a_page_stays_within_its_weight_and_says_what_is_left_out(monkeypatch):
    seen = set()
    for size in [*range(60_000, 90_000, 1000), *range(90_000, 260_000, 10_000)]:
        monkeypatch.setattr(attention_explorer, "PAGE_BYTES", size)
        held = SHOWN().held()
        seen.add(tuple(held))
        if set(held) == {None}:
            with pytest.raises(InputError, match="no room"):
                SHOWN().html()
            continue
        page = SHOWN().html()
        assert len(page.encode()) <= size
        data = Page(page).data()
        assert data["left"] == [SHOWN().label(k) for k in range(3) if held[k] is None] and data[
            "runs"
        ].count(None) == len(data["left"])
        assert data["selected"]["run"] == 1
        if held[2] is None:  # a first choice that is not here gives way to what is
            other = AttentionExplorer(runs(), IMAGES, run=runs()[2].config.name, patch=36)
            assert Page(other.html()).data()["selected"] == {
                "run": 0,
                "image": 0,
                "layer": 0,
                "head": -1,
                "patch": 10,
            }
    assert {(None, None, None), (True, True, False), (True, True, True)} <= seen and any(
        held[0] is not None and held[2] is None for held in seen
    )


# --------------------------------------------------------------------------------------------------
# The command, the live face, the figure


def test_the_command_opens_chapter_7_on_the_state(tmp_path):
    for run, state in ((0, (1, 0, 1, 15)), (2, (0, 0, -1, -1))):
        program, notebook, output, *options = shlex.split(SHOWN().command(run, *state))
        assert (program, notebook, output) == ("papermill", CHAPTER, "out.ipynb") and options[
            ::3
        ] == ["-p"] * (len(options) // 3)
        found = {name: yaml.safe_load(value) for name, value in zip(options[1::3], options[2::3])}
        assert found == {"tier": "smoke", "run": runs()[run].config.name} | dict(
            zip(("image", "layer", "head", "patch"), state)
        )
        cell = (
            "check_parameters(globals(), tier=str, run=str, image=int, layer=int, head=int,"
            " patch=int)"
        )
        nbformat.write(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]),
            tmp_path / "chapter.ipynb",
        )
        check_notebook_parameters(tmp_path / "chapter.ipynb", found)
        if (chapter := repository() / CHAPTER).exists():
            check_notebook_parameters(chapter, found)
    laptop = stored(tier("laptop").config(World("train", 64).identity, 0.75, seed=2), "laptop")
    shown = AttentionExplorer([laptop], World("validation", 64).images([0])).command(0, 0, 3)
    assert (
        shown
        == f"papermill {CHAPTER} out.ipynb -p seed 2 -p run r75-u8-p8-s2 -p image 0 -p layer 3 -p"
        " head -1 -p patch -1"
    )
    run = stored(SMOKE.config(FOLDER, 0.5))
    assert " -p data_root DIR -p run " in AttentionExplorer([run], IMAGES).command(0, 0, 0)


def test_a_model_that_chapter_7_does_not_have_has_a_call_instead(monkeypatch):
    command = SHOWN().command(1, 1, 2, 3, 6)
    assert "papermill" not in command
    monkeypatch.chdir(runs()[1].path.parent)
    assert torch.equal(
        eval(command, {"AttentionExplorer": AttentionExplorer, "read": read, "images": IMAGES}),
        SHOWN().attention(1, 1, 2, 3, 6),
    )


@pytest.mark.parametrize("state", STATES)
def test_the_live_face_shows_the_map_and_the_patch(state):
    soup = BeautifulSoup(SHOWN().picture(*state), "html.parser")
    levels = [COLOURS.index(r["fill"]) for r in soup.select("[data-role=map] rect.patch")]
    wanted, side = expected(state)[1:], 32 / runs()[state[0]].config.model.grid[0]
    assert np.abs(np.array(levels) * wanted.max() / 255 - wanted).max() <= wanted.max() * 0.51 / 255
    marks = soup.select("rect.mark")
    assert len(marks) == 2 and all(m.has_attr("hidden") == (state[4] < 0) for m in marks)
    for mark in marks if state[4] >= 0 else ():
        place = (int(float(mark["y"]) / side), int(float(mark["x"]) / side))
        assert place == divmod(state[4], int(32 / side))


def test_the_widget_answers_every_control():
    run, image, layer, head, cls, patches, error, view = SHOWN().widget().children

    def check(patch: int) -> None:
        state = (run.value, image.value, layer.value, head.value, patch)
        assert view.value == SHOWN().live_html(*state) and not error.value
        wanted = expected(state)[1:]
        levels = [COLOURS.index(button.style.button_color) for button in patches.children]
        away = np.abs(np.array(levels) * wanted.max() / 255 - wanted).max()
        assert away <= wanted.max() * 1.51 / 255  # some neighbours share a colour

    assert (run.value, layer.value, layer.options[-1][1], head.value) == (1, 2, 2, -1)
    check(6)
    for patch in (0, 15, 9):
        patches.children[patch].click()
        check(patch)
    layer.value = 0
    head.value = 3
    image.value = 1
    check(9)
    # another grid, one layer, two heads: the patch is taken along, layer and head are the nearest
    run.value = 2
    assert (len(patches.children), len(layer.options), head.value) == (64, 1, 1)
    check(SHOWN().moved(9, 1, 2))
    cls.click()
    check(-1)
    run.value = 1
    assert (layer.value, head.value) == (0, 3)  # what was asked for is there again
    check(-1)


def test_a_patch_is_taken_along_to_another_grid():
    for patch in range(16):
        row, column = divmod(patch, 4)
        assert (
            SHOWN().moved(patch, 0, 2) == (2 * row + 1) * 8 + 2 * column + 1
            and SHOWN().moved(SHOWN().moved(patch, 0, 2), 2, 0) == patch
        )
    assert SHOWN().moved(-1, 0, 2) == -1 and SHOWN().moved(7, 0, 1) == 7


def test_the_figure_shows_the_first_state_in_every_run():
    figure = SHOWN().figure()
    image, *maps = figure.axes
    assert len(maps) == 3 and np.allclose(
        image.images[0].get_array() * 255, IMAGES[0].permute(1, 2, 0), atol=0.01
    )
    for run, axis in enumerate(maps):
        side = 8 if run == 2 else 4
        patch = SHOWN().moved(6, 1, run)
        layer = runs()[run].config.model.depth - 1
        assert np.allclose(
            axis.images[0].get_array(),
            expected((run, 0, layer, -1, patch))[1:].reshape(side, side),
            atol=1e-6,
        )
        (mark,) = axis.patches
        assert (mark.get_y() + 0.5, mark.get_x() + 0.5, mark.get_width()) == (
            patch // side * 32 / side,
            patch % side * 32 / side,
            32 / side,
        )
    # of [CLS]
    assert not any(axis.patches for axis in AttentionExplorer(runs(), IMAGES).figure().axes)


def test_rows_of_maps_are_the_maps():
    images, maps = torch.rand(3, 3, 16, 16), {"a": torch.rand(3, 4, 4), "b": torch.rand(3, 2, 2)}
    figure = attention_rows(images, maps)
    assert [axis.get_title() for axis in figure.axes[:3]] == ["image", "a", "b"] and len(
        figure.axes
    ) == 9
    for k in range(3):
        for axis, title in zip(figure.axes[3 * k + 1 : 3 * k + 3], maps):
            assert np.allclose(axis.images[0].get_array(), maps[title][k]) and axis.images[
                0
            ].get_extent() == [-0.5, 15.5, 15.5, -0.5]
            assert (
                axis.images[0].get_clim() == (0, pytest.approx(float(maps[title][k].max())))
                and not axis.patches
            )
    attention_rows(
        images[:1, :1], {"a": maps["a"][:1]}, {"a": [-1]}, torch.zeros(1, 16, 16, dtype=torch.bool)
    )
    for wrong in (
        lambda: attention_rows(images, {}),
        lambda: attention_rows(images[:2], maps),
        lambda: attention_rows(images, maps, {"a": [0], "b": [0, 1, 2]}),
    ):
        with pytest.raises(InputError):
            wrong()


def test_bad_input_is_named():
    with pytest.raises(InputError, match="object masks"):
        AttentionExplorer(runs(), IMAGES, MASKS[:1])
    with pytest.raises(InputError, match="no run 'r75': choose one of r50-u8-p8-s0"):
        AttentionExplorer(runs(), IMAGES, run="r75")
    for state, said in (
        ((3, 0, 0), "no run 3"),
        ((0, 2, 0), "no image 2: choose one of 0, 1"),
        ((0, 0, 1), "no layer 1"),
        ((0, 0, -1), "no layer -1"),
        ((0, 0, 0, 2), "no head 2: choose one of -1, 0, 1"),
        ((0, 0, 0, 0, 16), r"no patch 16: choose one of -1, 0, 1, 2, …, 15"),
        ((0, 0, 0, 0, -2), "no patch -2"),
    ):
        for call in (SHOWN().attention, SHOWN().reading, SHOWN().command):
            with pytest.raises(InputError, match=said):
                call(*state, *(-1, -1)[len(state) - 3 :])
    with pytest.raises(InputError, match="no layer"):
        AttentionExplorer(runs(), IMAGES, layer=-2)
