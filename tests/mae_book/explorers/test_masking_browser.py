"""The explorer of masking in a real headless Chromium without a network: by mouse, by keyboard
alone, by link, on a phone, in the dark."""

from __future__ import annotations

import time

import pytest
from test_explorers import explorer, images, runs  # noqa: F401 (fixtures)

from browser import (
    IN_JUPYTER,
    Browser,
    in_browser,
    tab_to,
    write,
)
from mae_book.explorers.explorer import MaskingExplorer, data_url

pytestmark = in_browser

READ = """
const root = document.querySelectorAll(".masking-explorer")[arguments[0] || 0], at = role =>
  root.querySelector('[data-role="' + role + '"]'), found = {};
for (const role of ["run-words", "image-words", "mask-words", "error", "command",
  "note"]) found[role] = at(role).textContent;
for (const role of ["original", "masked", "rebuilt"]) found[role] = [at(role).src,
  at(role).complete && at(role).naturalWidth];
for (const role of ["run", "image", "mask"]) found[role] = [+at(role).value,
  at(role).getAttribute("aria-valuetext") === found[role + "-words"]];
found.link = at("link").getAttribute("href");
found.hash = location.hash;
found.focus = document.activeElement.dataset.role || document.activeElement.tagName;
return found;
"""


@pytest.fixture(scope="module")
def page(explorer, tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("page"), explorer.html())


@pytest.fixture(autouse=True)
def quiet(tab):
    """A screen that holds the whole explorer; nothing is loaded beside the page, and nothing goes
    wrong in it."""
    tab.screen(1100, 1000)
    tab.log()
    yield
    assert tab.log() == []
    loaded = tab.js(
        "return performance.getEntriesByType('resource').map(e => e.name).filter(name =>"
        " !name.startsWith('data:'))"
    )
    assert tab.js("return navigator.onLine") is False and loaded == []


def check(
    tab: Browser,
    explorer: MaskingExplorer,
    run: int,
    image: int,
    mask: int,
    instance: int = 0,
    linked: bool = True,
) -> dict:
    """What stands on the page is what the model makes of that image and mask."""
    view, config = explorer.view(run, image, mask), explorer.runs[run].config
    link = f"#masking{'' if not instance else f'-{instance + 1}'}={config.name}:{image}:{mask}"
    for _ in range(50):  # the address follows a little later, pictures are decoded
        found = tab.js(READ, instance)
        if (found["hash"] == link or not linked) and found["rebuilt"][1]:
            break
        time.sleep(0.02)
    assert [found[role] for role in ("run", "image", "mask")] == [
        [run, True],
        [image, True],
        [mask, True],
    ]
    pictures = {
        "original": explorer.images[image].float() / 255,
        "masked": view.masked,
        "rebuilt": view.reconstruction,
    }
    assert {role: found[role] for role in pictures} == {
        role: [data_url(picture), 32] for role, picture in pictures.items()
    }
    assert found["error"] == f"{view.hidden_error:.4f}" and found["command"] == explorer.command(
        run
    )
    assert (found["run-words"], found["image-words"], found["mask-words"]) == (
        explorer.label(run),
        explorer.names[image],
        f"mask {mask}",
    )
    assert found["link"] == link and (found["hash"] == link or not linked)
    return found


def test_the_sliders_by_mouse_give_what_the_model_gives(tab, page, explorer):
    tab.open(page)
    # an address of its own is not touched before something is changed
    assert check(tab, explorer, 0, 0, 0, linked=False)["hash"] == ""
    tab.click(tab.find('[data-role="image"]'))  # the middle of three images
    check(tab, explorer, 0, 1, 0)
    for role in ("run", "mask"):  # the right end of a slider
        box = tab.js(
            f"const b = document.querySelector('[data-role=\"{role}\"]').getBoundingClientRect();"
            " return [b.right - 4, b.top + b.height / 2]"
        )
        for kind in ("mousePressed", "mouseReleased"):
            tab.cdp(
                "Input.dispatchMouseEvent",
                type=kind,
                x=box[0],
                y=box[1],
                button="left",
                clickCount=1,
            )
    check(tab, explorer, 1, 1, 1)


def test_the_keyboard_alone_reaches_every_setting(tab, page, explorer):
    tab.open(page)
    tab_to(tab, READ, "run")
    for run in range(2):
        for image in range(3):
            for mask in range(2):
                for role, value in (("run", run), ("image", image), ("mask", mask)):
                    tab_to(tab, READ, role, "Shift+Tab" if role == "run" else "Tab")
                    tab.press("Home", *["Right"] * value)
                check(tab, explorer, run, image, mask, linked=(run, image, mask) == (1, 2, 1))
    tab_to(tab, READ, "link")


def test_a_link_brings_the_state_back(tab, page, explorer, tmp_path):
    tab.open(page)
    tab_to(tab, READ, "image")
    tab.press("Right", "Right")
    link = check(tab, explorer, 0, 2, 0)["link"]
    tab.open(page + link)
    check(tab, explorer, 0, 2, 0)
    name = explorer.runs[1].config.name
    tab.js(
        "return new Promise(done => { addEventListener('hashchange', () => setTimeout(done), {"
        " once: true }); location.hash = arguments[0]; })",
        f"#masking={name}:1:1",
    )
    check(tab, explorer, 1, 1, 1)
    tab.open(
        write(
            tmp_path,
            "<p style='height: 3000px'>text</p>"
            + explorer.html()
            + "<p style='height: 3000px'>text</p>",
        )
        + link
    )
    check(tab, explorer, 0, 2, 0)
    assert (
        abs(
            tab.js("return document.querySelector('.masking-explorer').getBoundingClientRect().top")
        )
        < 2
    )


@pytest.mark.parametrize(
    "state", ["nothing:0:0", "{name}:3:0", "{name}:0:2", "{name}:0", "{name}:0:x", "", "%E0%A4:0:0"]
)
def test_a_link_to_what_is_not_here_says_so(tab, page, explorer, state):
    tab.open(page + "#masking=" + state.replace("{name}", explorer.runs[0].config.name))
    assert (
        check(tab, explorer, 0, 0, 0, linked=False)["note"]
        == "The link asks for a model, image or mask that is not here."
    )


def test_other_anchors_are_left_alone(tab, page, explorer):
    tab.open(page + "#section")
    time.sleep(0.3)  # longer than an address of its own would take
    found = check(tab, explorer, 0, 0, 0, linked=False)
    assert found["hash"] == "#section" and not found["note"]


def test_explorers_on_one_page_keep_apart(tab, tmp_path, explorer, runs, images):
    other = MaskingExplorer(runs, images.flip(0), masks=2)
    name = runs[1].config.name
    tab.open(
        write(tmp_path, explorer.html() + explorer.html() + other.html()) + f"#masking-2={name}:2:1"
    )
    check(tab, explorer, 0, 0, 0, 0, linked=False)
    check(tab, explorer, 1, 2, 1, 1)
    check(tab, other, 0, 0, 0, 2, linked=False)


def test_scripts_that_run_detached_find_their_place_and_leave_no_globals(tab, tmp_path, explorer):
    tab.open(write(tmp_path, IN_JUPYTER % explorer.html()))
    tab_to(tab, READ, "mask")
    tab.press("Right")
    check(tab, explorer, 0, 0, 1)
    assert tab.js("return document.body.dataset.globals") == "0"


def test_a_hostile_name_is_text(tab, tmp_path, runs, images):
    name = "</script><img src=x onerror=alert(1)> &"
    explorer = MaskingExplorer(runs, images[:1], masks=1, names=[name])
    tab.open(write(tmp_path, explorer.html()))
    check(tab, explorer, 0, 0, 0, linked=False)
    assert len(tab.find("img")) == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_holds_it_in_light_and_dark(tab, page, explorer, scheme):
    tab.screen(390, 900, scheme)
    tab.open(page + f"#masking={explorer.runs[1].config.name}:1:0")
    check(tab, explorer, 1, 1, 0)
    found = tab.js("""
        const root = document.querySelector(".masking-explorer"),
          edge = document.documentElement.clientWidth, style = getComputedStyle(root);
        const light = c => c.match(/[\\d.]+/g).map(Number).slice(0, 3).map(v =>
          v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
          .reduce((sum, v, k) => sum + v * [.2126, .7152, .0722][k], 0);
        const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05),
          code = getComputedStyle(root.querySelector("code")),
          ground = light(style.backgroundColor);
        return {
          page: document.documentElement.scrollWidth,
            outside: [...root.querySelectorAll("*")].filter(e =>
            e.getBoundingClientRect().right > edge).map(e => e.tagName),
          targets: [...root.querySelectorAll("input")].map(e => e.getBoundingClientRect().height),
            ground,
          texts: [...root.querySelectorAll("label, figcaption, .readout p, a")].map(e =>
            ratio(light(getComputedStyle(e).color), ground)).concat(ratio(light(code.color),
            light(code.backgroundColor))),
        };
        """)
    assert found["page"] <= 390 and found["outside"] == [] and min(found["targets"]) >= 40
    assert (
        (found["ground"] < 0.05) == (scheme == "dark")
        and len(found["texts"]) >= 9
        and min(found["texts"]) >= 4.5
    )
