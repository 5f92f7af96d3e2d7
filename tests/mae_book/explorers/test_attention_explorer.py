"""The explorer of attention: its three faces show what `attention_maps` gives; in a real browser
without a network too, by mouse, keyboard and link."""

from __future__ import annotations

import base64
import html as markup
import random
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
import yaml

from browser import (
    IN_JUPYTER,
    Browser,
    in_browser,
    tab_to,
    write,
)
from looking import Page, drawn  # noqa: F401 (renders and closes every figure)
from mae_book.explorers import attention_explorer
from mae_book.explorers.attention_explorer import (
    CHAPTER,
    COLOURS,
    AttentionExplorer,
    outline,
    tabulate,
)
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
from mae_lib.model.autoencoder import MaskedAutoencoder, normalise_pixels
from mae_lib.training.pretrain import Trained
from mae_lib.training.store import Checkpoint, save
from mae_lib.training.tiers import tier
from mae_lib.worlds.world import World

SMOKE = tier("smoke")
DATA = World("train", 32).identity


def stored(folder: Path, config, tier_name: str = "smoke") -> Checkpoint:
    """A model whose attention is far from even."""
    torch.manual_seed(config.unit)
    model = MaskedAutoencoder(config.model).eval()
    for block in model.encoder:
        block.attn.qkv.weight.data.mul_(2.5)
    return save(Trained(model, torch.linspace(1, 0.5, 5), 1.0), config, folder, tier_name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Checkpoint]:
    """4 × 4 patches in one layer, 4 × 4 in three layers of four heads, 8 × 8 in one layer."""
    folder = tmp_path_factory.mktemp("runs")
    deep = replace(SMOKE.config(DATA, 0.9), model=replace(SMOKE.model, depth=3, heads=4))
    return [
        stored(folder, SMOKE.config(DATA, 0.5)),
        stored(folder, deep, "custom"),
        stored(folder, SMOKE.config(DATA, 0.75, 16, 4)),
    ]


BATCH = World("validation", 32).sample(range(2))


@pytest.fixture(scope="module")
def explorer(runs) -> AttentionExplorer:
    return AttentionExplorer(
        runs, BATCH.images, BATCH.object_mask, ["one", "two"], run=runs[1].config.name, patch=6
    )


@pytest.fixture(scope="module")
def text(explorer) -> str:
    """A page with room for all but the 8 × 8 patches' heads."""
    with pytest.MonkeyPatch.context() as patched:
        for size in range(70_000, 200_000, 1000):
            patched.setattr(attention_explorer, "PAGE_BYTES", size)
            if explorer.held() == [True, True, False]:
                return explorer.html()
    raise AssertionError("no size of a page gives the largest run its last layer alone")


FOUND: dict[tuple[str, int], torch.Tensor] = {}


def expected(runs, state) -> np.ndarray:
    """The attention of a state, from `attention_maps` alone, of both images and one layer at a
    time."""
    run, image, layer, head, patch = state
    key = (str(runs[run].path), layer)
    if key not in FOUND:
        FOUND[key] = attention_maps(runs[run].load(), normalise_pixels(BATCH.images), layer)
    maps = FOUND[key][image]
    return (maps.mean(0) if head < 0 else maps[head])[patch + 1].numpy()


STATES = [
    (0, 1, 0, 1, 15),
    (1, 0, 2, -1, -1),
    (1, 1, 0, 3, 6),
    (1, 1, 2, 2, 0),
    (2, 0, 0, -1, 63),
    (2, 1, 0, 0, 20),
]


# --------------------------------------------------------------------------------------------------
# The numbers under the faces


@pytest.mark.parametrize("state", STATES)
def test_a_state_is_what_attention_maps_gives(explorer, runs, state):
    assert np.allclose(explorer.attention(*state), expected(runs, state), atol=1e-6)


def test_a_table_is_within_half_a_level():
    maps = (4 * torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(0))).softmax(-1)
    table = tabulate(maps)
    assert (
        table.levels.dtype == np.uint8
        and table.levels.shape == (3, 2, 9, 9)
        and int(table.levels.max()) == 255
    )
    back = table.greatest[..., None] * (table.levels / 255)
    assert (
        np.abs(back - maps.numpy()) <= maps.amax(-1, keepdim=True).numpy() * (0.5 / 255 + 1e-6)
    ).all()
    content = base64.b64decode(table.encoded())
    assert len(content) == 54 * 4 + 54 * 9
    assert np.array_equal(np.frombuffer(content[: 54 * 4], "<f4").reshape(3, 2, 9), table.greatest)
    assert np.array_equal(
        np.frombuffer(content[54 * 4 :], np.uint8).reshape(3, 2, 9, 9), table.levels
    )


def test_the_page_holds_every_map(text, explorer, runs):
    page = Page(text)
    assert page.open == [] and len(page.scripts) == 1 and len(set(page.ids)) == len(page.ids)
    data = page.data()
    assert [r["name"] for r in data["runs"]] == [c.config.name for c in runs] and [
        r["every"] for r in data["runs"]
    ] == [True, True, False]
    for run, r in enumerate(data["runs"]):
        tokens = r["rows"] * r["columns"] + 1
        for image in range(2):
            content = base64.b64decode(r["tables"][image])
            rows = len(r["layers"]) * r["heads"] * tokens
            greatest = np.frombuffer(content[: 4 * rows], "<f4")
            found = (
                np.frombuffer(content[4 * rows :], np.uint8).reshape(rows, tokens)
                / 255
                * greatest[:, None]
            ).reshape(-1, r["heads"], tokens, tokens)
            for k, layer in enumerate(r["layers"]):
                for head in range(r["heads"]):
                    for token in (0, 1, tokens - 1):
                        wanted = expected(
                            runs, (run, image, layer, head if r["every"] else -1, token - 1)
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
        patch_coverage(BATCH.object_mask, (4, 4))[1].tolist(), abs=1e-4
    )


def test_what_is_said_of_the_object_is_what_the_scores_are(explorer, runs):
    coverage = patch_coverage(BATCH.object_mask, (4, 4))
    maps = attention_maps(runs[0].load(), normalise_pixels(BATCH.images))
    cls = cls_scores(cls_attention(maps), coverage)["share"]
    for image in range(2):
        assert explorer.reading(0, image, 0)["object"].startswith(
            f"{100 * float(cls[image]):.1f} % of what goes to patches; the object is "
        )
        shares = [
            float(explorer.reading(0, image, 0, patch=p)["object"].split(" %")[0])
            for p in range(16)
            if coverage[image, p] >= 0.5
        ]
        assert np.mean(shares) / 100 == pytest.approx(
            float(object_scores(patch_attention(maps), coverage)["share"][image]), abs=6e-4
        )
    plain = AttentionExplorer(runs, BATCH.images)
    assert plain.reading(0, 0, 0)["object"] == "–" and plain.selected == (0, 0, 0, -1, -1)


def test_an_outline_encloses_the_mask():
    for mask in (
        *BATCH.object_mask,
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


# --------------------------------------------------------------------------------------------------
# Room on the page


def test_a_page_stays_within_its_weight_and_says_what_is_left_out(explorer, runs, monkeypatch):
    seen = set()
    for size in [*range(60_000, 90_000, 1000), *range(90_000, 260_000, 10_000)]:
        monkeypatch.setattr(attention_explorer, "PAGE_BYTES", size)
        held = explorer.held()
        seen.add(tuple(held))
        if set(held) == {None}:
            with pytest.raises(InputError, match="no room"):
                explorer.html()
            continue
        page = explorer.html()
        assert len(page.encode()) <= size
        data = Page(page).data()
        assert data["left"] == [explorer.label(k) for k in range(3) if held[k] is None] and len(
            data["runs"]
        ) == 3 - len(data["left"])
        assert data["selected"]["run"] == 1
        if held[2] is None:  # a first choice that is not here gives way to what is
            other = AttentionExplorer(runs, BATCH.images, run=runs[2].config.name, patch=36)
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


def test_the_page_keeps_to_itself(text, explorer):
    bare = re.sub(r'data:image/webp;base64,[\w+/=]+|"tables":\[[^]]+\]', "", text).replace(
        "http://www.w3.org/2000/svg", ""
    )
    assert not re.search(r"https?:|//[a-z]|@import|url\(|innerHTML|fetch|XMLHttp", bare)
    for _, attributes in Page(text).elements:
        assert not {"src", "href", "onclick"} & attributes.keys()
    assert explorer.html() == explorer._repr_html_() and Page(text).ids[0] in Page(text).scripts[0]


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
def test_a_name_cannot_break_out(runs, name):
    page = Page(AttentionExplorer(runs[:1], BATCH.images[:1], names=[name]).html())
    assert page.open == [] and len(page.scripts) == 1 and page.data()["images"][0]["name"] == name
    assert "<" not in page.scripts[0].split("const data")[1].split("const at")[0] and page.scripts[
        0
    ].rstrip().endswith("})();")


# --------------------------------------------------------------------------------------------------
# The command, the live face, the figure


def test_the_command_opens_chapter_7_on_the_state(tmp_path, explorer, runs):
    for run, state in ((0, (1, 0, 1, 15)), (2, (0, 0, -1, -1))):
        program, notebook, output, *options = shlex.split(explorer.command(run, *state))
        assert (program, notebook, output) == ("papermill", CHAPTER, "out.ipynb") and options[
            ::3
        ] == ["-p"] * (len(options) // 3)
        found = {name: yaml.safe_load(value) for name, value in zip(options[1::3], options[2::3])}
        assert found == {"tier": "smoke", "run": runs[run].config.name} | dict(
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
    laptop = stored(
        tmp_path, tier("laptop").config(World("train", 64).identity, 0.75, seed=2), "laptop"
    )
    shown = AttentionExplorer([laptop], World("validation", 64).images([0])).command(0, 0, 3)
    assert (
        shown
        == f"papermill {CHAPTER} out.ipynb -p seed 2 -p run r75-u8-p8-s2 -p image 0 -p layer 3 -p"
        " head -1 -p patch -1"
    )
    folder = {
        "kind": "folder",
        "split": "train",
        "image_size": [32, 32],
        "channels": 3,
        "images": 4,
        "classes": 2,
        "fingerprint": "0",
    }
    assert " -p data_root DIR -p run " in AttentionExplorer(
        [stored(tmp_path, SMOKE.config(folder, 0.5))], BATCH.images
    ).command(0, 0, 0)


def test_a_model_that_chapter_7_does_not_have_has_a_call_instead(explorer, runs, monkeypatch):
    command = explorer.command(1, 1, 2, 3, 6)
    assert "papermill" not in command
    monkeypatch.chdir(runs[1].path.parent)
    from mae_lib.training.store import read

    assert torch.equal(
        eval(
            command, {"AttentionExplorer": AttentionExplorer, "read": read, "images": BATCH.images}
        ),
        explorer.attention(1, 1, 2, 3, 6),
    )


@pytest.mark.parametrize("state", STATES)
def test_the_live_face_says_the_same(explorer, state):
    picture, words = explorer.live_html(*state)
    for part in explorer.reading(*state).values():
        assert markup.escape(part) in words
    assert markup.escape(explorer.command(*state)) in words
    marks = [a for tag, a in Page(picture).elements if tag == "rect"]
    assert len(marks) == (state[4] >= 0)
    if marks:
        side = 32 / explorer.runs[state[0]].config.model.grid[0]
        assert (float(marks[0]["y"]) / side, float(marks[0]["x"]) / side) == divmod(
            state[4], int(32 / side)
        )


def test_the_widget_answers_every_control(explorer, runs):
    run, image, layer, head, cls, pictures, words = explorer.widget().children
    picture, patches = pictures.children
    patch = 6

    def check() -> None:
        state = (run.value, image.value, layer.value, head.value, patch)
        assert (picture.value, words.value) == explorer.live_html(*state)
        wanted = expected(runs, state)[1:]
        levels = [COLOURS.index(button.style.button_color) for button in patches.children]
        # some neighbours share a colour
        assert (
            np.abs(np.array(levels) * wanted.max() / 255 - wanted).max()
            <= wanted.max() * 1.51 / 255
        )

    assert (run.value, layer.value, layer.max, head.value) == (1, 2, 2, -1)
    check()
    for patch in (0, 15, 9):
        patches.children[patch].click()
        check()
    layer.value = 0
    head.value = 3
    image.value = 1
    check()
    # another grid, one layer, two heads: the patch is taken along, head 3 is not there
    run.value = 2
    patch = explorer.moved(9, 1, 2)
    assert (len(patches.children), layer.max, head.value, patch) == (64, 0, -1, 43)
    check()
    cls.click()
    patch = -1
    check()
    run.value = 0
    check()


def test_a_patch_is_taken_along_to_another_grid(explorer):
    for patch in range(16):
        row, column = divmod(patch, 4)
        assert (
            explorer.moved(patch, 0, 2) == (2 * row + 1) * 8 + 2 * column + 1
            and explorer.moved(explorer.moved(patch, 0, 2), 2, 0) == patch
        )
    assert explorer.moved(-1, 0, 2) == -1 and explorer.moved(7, 0, 1) == 7


def test_the_figure_shows_the_first_state_in_every_run(explorer, runs):
    figure = explorer.figure()
    image, *maps = figure.axes
    assert len(maps) == 3 and np.allclose(
        image.images[0].get_array() * 255, BATCH.images[0].permute(1, 2, 0), atol=0.01
    )
    for run, axis in enumerate(maps):
        side = 8 if run == 2 else 4
        patch = explorer.moved(6, 1, run)
        layer = explorer.runs[run].config.model.depth - 1
        assert np.allclose(
            axis.images[0].get_array(),
            expected(runs, (run, 0, layer, -1, patch))[1:].reshape(side, side),
            atol=1e-6,
        )
        (mark,) = axis.patches
        assert (mark.get_y() + 0.5, mark.get_x() + 0.5, mark.get_width()) == (
            patch // side * 32 / side,
            patch % side * 32 / side,
            32 / side,
        )
    # of [CLS]
    assert not any(axis.patches for axis in AttentionExplorer(runs, BATCH.images).figure().axes)


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


# --------------------------------------------------------------------------------------------------
# Odd and bad input


def test_bad_input_is_named(tmp_path, runs, explorer):
    for arguments in (([], BATCH.images), (runs, BATCH.images[:0])):
        with pytest.raises(InputError, match="at least one"):
            AttentionExplorer(*arguments)
    for images, said in (
        (BATCH.images / 255, "uint8"),
        (BATCH.images[:, :2], "1 or 3"),
        (World("validation", 64).images([0]), r"\[3, 64, 64\]"),
    ):
        with pytest.raises(InputError, match=said):
            AttentionExplorer(runs, images)
    with pytest.raises(InputError, match="object masks"):
        AttentionExplorer(runs, BATCH.images, BATCH.object_mask[:1])
    with pytest.raises(InputError, match="1 names for 2 images"):
        AttentionExplorer(runs, BATCH.images, names=["a"])
    with pytest.raises(InputError, match="two of the runs have one name"):
        AttentionExplorer([*runs, runs[0]], BATCH.images)
    with pytest.raises(InputError, match="no run 'r75': choose one of r50-u8-p8-s0"):
        AttentionExplorer(runs, BATCH.images, run="r75")
    for state, said in (
        ((3, 0, 0), "no run 3"),
        ((0, 2, 0), "no image 2: choose one of 0 … 1"),
        ((0, 0, 1), "no layer 1"),
        ((0, 0, -1), "no layer -1"),
        ((0, 0, 0, 2), "no head 2: choose one of -1 … 1"),
        ((0, 0, 0, 0, 16), r"no patch 16: choose one of -1 … 15 \(-1: \[CLS\]\)"),
        ((0, 0, 0, 0, -2), "no patch -2"),
    ):
        for call in (explorer.attention, explorer.reading, explorer.command, explorer.live_html):
            with pytest.raises(InputError, match=said):
                call(*state)
    with pytest.raises(InputError, match="no layer"):
        AttentionExplorer(runs, BATCH.images, layer=-2)


def test_grey_images(tmp_path):
    config = replace(SMOKE.config({"kind": "grey"}, 0.5), model=replace(SMOKE.model, channels=1))
    explorer = AttentionExplorer([stored(tmp_path, config)], BATCH.images[:, :1])
    assert Page(explorer.html()).open == []
    plt.close(explorer.figure())


# --------------------------------------------------------------------------------------------------
# In a browser


READ = """
const root = document.querySelectorAll(".attention-explorer")[arguments[0] || 0], at = role =>
  root.querySelector('[data-role="' + role + '"]'), found = {};
for (const role of ["from", "peak", "to-cls", "object", "command", "note", "most", "run-words",
  "image-words", "layer-words", "head-words", "left"])
  found[role] = at(role).textContent;
for (const role of ["run", "image", "layer", "head"]) found[role] = at(role).value;
found.disabled = ["run", "image", "layer", "head"].filter(role => at(role).disabled);
found.cls = at("cls").getAttribute("aria-pressed");
found.fills = [...at("map").querySelectorAll("rect.patch")].map(r => r.getAttribute("fill"));
found.marks = ["picture", "map"].map(role =>
  [...at(role).querySelectorAll("rect.mark")].map(r => ["x", "y", "width"].map(k =>
  +r.getAttribute(k))));
found.link = at("link").getAttribute("href");
found.hash = location.hash;
found.focus = document.activeElement.dataset.role || document.activeElement.textContent;
return found;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory, text) -> str:
    return write(tmp_path_factory.mktemp("page"), text)


@pytest.fixture
def quiet(tab):
    """A screen that holds the whole explorer; nothing is loaded beside the page, and nothing goes
    wrong in it."""
    tab.screen(1100, 1300)
    tab.log()
    yield
    assert tab.log() == []
    loaded = (
        "return [navigator.onLine, performance.getEntriesByType('resource').map(e =>"
        " e.name).filter(name => !name.startsWith('data:'))]"
    )
    assert tab.js(loaded) == [False, []]


def link(runs, state, key: str = "attention") -> str:
    run, image, layer, head, patch = state
    row, token = "mean" if head < 0 else head, "cls" if patch < 0 else patch
    return f"#{key}={runs[run].config.name}:{image}:{layer}:{row}:{token}"


NUMBER = re.compile(r"\d+\.\d(?= %)")


def check(tab: Browser, runs, explorer, state, instance: int = 0, linked: bool = True) -> dict:
    """What stands on the page is what `attention_maps` gives, to the page's levels."""
    found, (run, image, layer, head, patch) = tab.js(READ, instance), state
    wanted = expected(runs, state)
    model, most = runs[run].config.model, wanted[1:].max()
    levels = np.array([COLOURS.index(fill) for fill in found["fills"]])
    # Half a level in the table, where heads are averaged of the greatest in each, and half a level
    # of colour.
    tops = (
        [expected(runs, (run, image, layer, h, patch)).max() for h in range(model.heads)]
        if head < 0
        else [wanted.max()]
    )
    slack = float(0.51 / 255 * (np.mean(tops) * 2 + most))
    assert (
        len(levels) == model.grid[0] * model.grid[1]
        and np.abs(levels * most / 255 - wanted[1:]).max() <= slack
    )
    says = explorer.reading(*state)
    for role in ("from", "peak", "to-cls", "object"):
        # two patches may tie on the page
        assert NUMBER.sub("#", found[role]) == NUMBER.sub("#", says[role]) or role == "peak"
        for number, true in zip(
            NUMBER.findall(found[role]), NUMBER.findall(says[role]), strict=True
        ):
            assert float(number) == pytest.approx(float(true), abs=100 * slack * 4 + 0.11)
    assert (found["run"], found["image"], found["layer"], found["head"]) == tuple(
        map(str, (run, image, layer, head + 1))
    )
    assert found["command"] == explorer.command(*state) and found["link"] == link(
        runs, state, "attention" if not instance else f"attention-{instance + 1}"
    )
    assert (
        (found["cls"] == "true") == (patch < 0)
        and found["run-words"] == explorer.label(run)
        and found["image-words"] == ("one", "two")[image]
    )
    side = 32 / model.grid[1]
    for marks in found["marks"]:
        assert len(marks) == (patch >= 0)
        for x, y, width in marks:
            assert (int(y / side), int(x / side)) == divmod(
                patch, model.grid[1]
            ) and 0.5 * side < width < side
    if linked:  # the address follows a little later
        for _ in range(50):
            if found["hash"] == found["link"]:
                break
            time.sleep(0.02)
            found["hash"] = tab.js("return location.hash")
        assert found["hash"] == found["link"]
    return found


def click_patch(tab: Browser, which: str, fraction: tuple[float, float], instance: int = 0) -> None:
    """A real click at a place of a picture, in shares of its height and width."""
    frame = tab.js(
        "const b = document.querySelectorAll('.attention-explorer')[arguments[1]]"
        ".querySelector('[data-role='"
        " + arguments[0] + ']').getBoundingClientRect();return [b.left, b.top, b.width, b.height]",
        which,
        instance,
    )
    x, y = round(frame[0] + fraction[1] * frame[2]), round(frame[1] + fraction[0] * frame[3])
    strokes = [
        {"type": "pointerMove", "duration": 0, "x": x, "y": y},
        {"type": "pointerDown", "button": 0},
        {"type": "pointerUp", "button": 0},
    ]
    tab.post(
        "/actions",
        actions=[
            {
                "type": "pointer",
                "id": "mouse",
                "parameters": {"pointerType": "mouse"},
                "actions": strokes,
            }
        ],
    )


@in_browser
@pytest.mark.parametrize(
    "start", [(0, 1, 0, 1, 0), (1, 0, 1, 2, 0), (1, 1, 2, -1, 0), (2, 0, 0, -1, 0)]
)
def test_clicking_patches_gives_what_attention_maps_gives(tab, quiet, page, runs, explorer, start):
    tab.open(page + link(runs, start))
    draw = random.Random(str(start))
    side = runs[start[0]].config.model.grid[0]
    for k in range(6):
        row, column = draw.randrange(side), draw.randrange(side)
        click_patch(
            tab,
            ("picture", "map")[k % 2],
            ((row + draw.uniform(0.1, 0.9)) / side, (column + draw.uniform(0.1, 0.9)) / side),
        )
        check(tab, runs, explorer, (*start[:4], row * side + column), linked=k == 5)
    tab.click(tab.find('[data-role="cls"]'))
    check(tab, runs, explorer, (*start[:4], -1))
    tab.click(tab.find('[data-role="cls"]'))  # and back
    check(tab, runs, explorer, (*start[:4], row * side + column))


@in_browser
def test_the_keyboard_alone_gives_what_attention_maps_gives(tab, quiet, page, runs, explorer):
    tab.open(page)
    check(tab, runs, explorer, (1, 0, 2, -1, 6), linked=False)
    reached = []
    for _ in range(8):
        tab.press("Tab")
        reached.append(tab.js(READ)["focus"])
    assert reached == ["run", "image", "layer", "head", "cls", "under", "pictures", "link"]
    tab_to(tab, READ, "pictures", "Shift+Tab")
    row, column, draw = 1, 2, random.Random(0)
    for _ in range(14):  # the edges stop it
        key = draw.choice(("Left", "Right", "Up", "Down"))
        tab.press(key)
        row = min(3, max(0, row + {"Up": -1, "Down": 1}.get(key, 0)))
        column = min(3, max(0, column + {"Left": -1, "Right": 1}.get(key, 0)))
        check(tab, runs, explorer, (1, 0, 2, -1, 4 * row + column), linked=False)
    tab.press("Home")
    check(tab, runs, explorer, (1, 0, 2, -1, -1))
    tab.press("Down")
    check(tab, runs, explorer, (1, 0, 2, -1, 10))
    for role, strokes, state in (
        ("head", ["Right", "Right"], (1, 0, 2, 1, 10)),
        ("layer", ["Left"], (1, 0, 1, 1, 10)),
        ("image", ["Right"], (1, 1, 1, 1, 10)),
        ("run", ["Left"], (0, 1, 0, 1, 10)),
        ("run", ["Right"], (1, 1, 1, 1, 10)),
    ):
        tab_to(tab, READ, role, "Shift+Tab")
        tab.press(*strokes)
        # back at the deeper run the layer asked for is there again
        check(tab, runs, explorer, state, linked=False)
    tab_to(tab, READ, "cls")
    tab.press("Enter")
    check(tab, runs, explorer, (1, 1, 1, 1, -1))


@in_browser
def test_a_run_of_which_the_page_holds_little_says_so(tab, quiet, page, runs, explorer):
    tab.open(page + link(runs, (1, 0, 0, 2, 6)))
    tab_to(tab, READ, "run")
    tab.press("Right")
    found = check(tab, runs, explorer, (2, 0, 0, -1, explorer.moved(6, 1, 2)))
    assert (
        "the last layer alone" in found["note"]
        and found["disabled"] == ["layer", "head"]
        and found["left"].startswith("This page has no room for: .")
    )
    assert tab.js("return document.querySelector('[data-role=left]').hidden")
    tab.press("Left")
    found = check(tab, runs, explorer, (1, 0, 0, 2, 6))
    assert found["note"] == "" and found["disabled"] == []


@in_browser
def test_a_link_opens_its_state_and_a_wrong_one_says_so(tab, quiet, page, runs, explorer):
    for state in ((0, 1, 0, 0, 3), (1, 1, 2, 3, -1), (2, 1, 0, -1, 40)):
        tab.open(page + link(runs, state))
        check(tab, runs, explorer, state)
    name = runs[1].config.name
    for wrong in (
        "nothing:0:0:mean:0",
        f"{name}:2:0:mean:0",
        f"{name}:0:3:mean:0",
        f"{name}:0:0:4:0",
        f"{name}:0:0:0:16",
        f"{name}:0:0:0",
        "%E0%A4:1",
        "",
    ):
        tab.open(page + "#attention=" + wrong)
        assert (
            check(tab, runs, explorer, (1, 0, 2, -1, 6), linked=False)["note"]
            == "The link asks for a model, image, layer, head or patch that is not here."
        )
    tab.open(page + "#section")
    time.sleep(0.4)  # longer than an address of its own would take
    found = check(tab, runs, explorer, (1, 0, 2, -1, 6), linked=False)
    assert found["hash"] == "#section" and not found["note"]


@in_browser
def test_explorers_on_one_page_keep_apart(tab, quiet, tmp_path, runs, explorer, text):
    other = AttentionExplorer(runs, BATCH.images, BATCH.object_mask, ["one", "two"], image=1).html()
    tab.open(write(tmp_path, text + text + other) + link(runs, (0, 1, 0, 1, 5), "attention-2"))
    check(tab, runs, explorer, (1, 0, 2, -1, 6), 0, linked=False)
    check(tab, runs, explorer, (0, 1, 0, 1, 5), 1)
    check(tab, runs, explorer, (0, 1, 0, -1, -1), 2, linked=False)
    tab.js("scrollTo(0, 0)")
    click_patch(tab, "map", (0.9, 0.1))
    check(tab, runs, explorer, (1, 0, 2, -1, 12), 0)
    check(tab, runs, explorer, (0, 1, 0, 1, 5), 1, linked=False)


@in_browser
def test_scripts_that_run_detached_find_their_place_and_leave_no_globals(
    tab, quiet, tmp_path, runs, explorer, text
):
    """As Jupyter does: the fragment is set as HTML, which runs nothing, and its scripts are run
    from elsewhere."""
    tab.open(write(tmp_path, IN_JUPYTER % text))
    click_patch(tab, "picture", (0.1, 0.9))
    check(tab, runs, explorer, (1, 0, 2, -1, 3))
    assert tab.js("return document.body.dataset.globals") == "0"


SIZES = """
const root = document.querySelector(".attention-explorer"), right = e =>
  e.getBoundingClientRect().right, width = document.documentElement.clientWidth;
return {
  page: [document.documentElement.scrollWidth, width],
  outside: [...root.querySelectorAll("*")].filter(e => right(e) > width).map(e => e.tagName),
  targets: [...root.querySelectorAll("button, input[type=range], .actions label")].map(e =>
    [e.dataset.role, e.getBoundingClientRect().width, e.getBoundingClientRect().height]),
  patch: root.querySelector("rect.patch").getBoundingClientRect().width,
};
"""

CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function rgb(colour) { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0,
  0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; }
function light(colour) {
  const [r, g, b] = rgb(colour).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v
    + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
}
function ground(e) {
  while (rgb(getComputedStyle(e).backgroundColor)[3] < 255) e = e.parentElement;
  return light(getComputedStyle(e).backgroundColor);
}
const root = document.querySelector(".attention-explorer"), texts = {};
for (const e of root.querySelectorAll("*")) {
  if (!e.getClientRects().length || e.closest("svg") || ![...e.childNodes].some(n =>
    n.nodeType === 3 && n.data.trim())) continue;
  const a = light(getComputedStyle(e).color), b = ground(e);
  texts[e.tagName + " " + e.textContent.slice(0, 20)] = (Math.max(a, b) + .05) / (Math.min(a,
    b) + .05);
}
return { ground: ground(root), texts, scheme: getComputedStyle(root).colorScheme };
"""


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_holds_it(tab, quiet, page, runs, explorer, scheme):
    tab.screen(360, 1500, scheme)
    for state in ((1, 0, 1, 2, 6), (2, 1, 0, -1, 40)):
        tab.open(page + link(runs, state))
        check(tab, runs, explorer, state)
        found = tab.js(SIZES)
        assert found["page"][0] <= found["page"][1] <= 360 and found["outside"] == []
        for what, width, height in found["targets"]:
            assert width >= 40 and height >= 40, what
        assert found["patch"] >= 30  # a finger finds a patch
    click_patch(tab, "map", (0.99, 0.99))
    check(tab, runs, explorer, (2, 1, 0, -1, 63))


@in_browser
@pytest.mark.parametrize(
    "system, attributes, wanted",
    [
        ("light", "", "light"),
        ("dark", "", "dark"),
        ("dark", 'data-theme="light"', "light"),
        ("light", 'data-theme="dark"', "dark"),
    ],
)
def test_light_and_dark_are_readable_and_the_books_theme_wins(
    tab, quiet, tmp_path, text, system, attributes, wanted
):
    tab.screen(1000, 1200, system)
    tab.open(write(tmp_path, text, attributes))
    for _ in range(2):
        found = tab.js(CONTRAST)
        assert (found["ground"] < 0.05) == (wanted == "dark") and found["scheme"] == wanted
        assert (
            len(found["texts"]) > 15
            and {what: ratio for what, ratio in found["texts"].items() if ratio < 4.5} == {}
        )
        tab.click(tab.find('[data-role="cls"]'))
