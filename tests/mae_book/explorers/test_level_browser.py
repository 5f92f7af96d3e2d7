"""The explorer of levels in a real headless Chromium without a network: by mouse, by keyboard
alone, by link, on a phone, in the dark."""

from __future__ import annotations

import random
import re
import time

import pytest

from browser import (
    IN_JUPYTER,
    Browser,
    in_browser,
    tab_to,
    write,
)
from mae_book.explorers.level_explorer import EXAMPLES, LAW_WORDS, MEASURES, LevelExplorer
from mae_lib.theory.graphs import quad_tree
from mae_lib.theory.shared import locate_shared

pytestmark = in_browser

RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9)
EXPLORER = LevelExplorer(
    {"quad": (quad_tree((4, 4)), (4, 4)), "pairs": (quad_tree((8, 8), 2), (8, 8))},
    ratios=RATIOS,
    masks=50,
)
START = ("quad", "random", 1, 0.5, 0, "share")

READ = """
const root = document.querySelectorAll(".level-explorer")[arguments[0] || 0], at = role =>
  root.querySelector('[data-role="' + role + '"]'), found = {};
for (const role of ["hidden", "this-mask", "level", "members", "paper", "command", "note",
  "unit-words", "ratio-words", "example-words"]) found[role] = at(role).textContent;
for (const role of ["graph", "law",
  "measure"]) found[role] = at(role).options[at(role).selectedIndex].text;
for (const role of ["unit", "ratio",
  "example"]) found[role] = at(role).getAttribute("aria-valuetext") === found[role + "-words"];
found.disabled = at("unit").disabled;
const panes = [...root.querySelectorAll("[data-graph]")].filter(p => !p.hidden), pane = panes[0],
  width = e => e.getBoundingClientRect().width;
found.panes = panes.length;
found.heading = pane.querySelector(".measure").textContent;
found.values = [...pane.querySelectorAll("tbody tr")].map(r =>
  r.querySelector(".value").textContent);
found.bars = [...pane.querySelectorAll("tbody tr")].map(r =>
  width(r.querySelector(".fill")) / r.querySelector(".track").clientWidth);
found.masked = pane.querySelector(".mask .hidden").getAttribute("d");
found.blocks = pane.querySelector(".mask .block").getAttribute("d");
found.label = pane.querySelector(".mask").getAttribute("aria-label");
found.rows = [...pane.querySelectorAll(".chart")].map(c =>
  [...c.querySelectorAll("g[data-row]")].map((g, k) => g.hasAttribute("data-on") ? k
  : -1).filter(k => k >= 0));
found.marks = [...pane.querySelectorAll(".mark")].map(m => m.hasAttribute("hidden") ? null
  : [+m.getAttribute("cx"), +m.getAttribute("cy")]);
found.lines = [...pane.querySelectorAll(".chart")].map(c =>
  c.querySelector("[data-on] .line").getAttribute("d"));
found.link = at("link").getAttribute("href");
found.hash = location.hash;
found.focus = document.activeElement.dataset.role || document.activeElement.tagName;
return found;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("page"), EXPLORER.html())


@pytest.fixture(autouse=True)
def quiet(tab):
    """A screen that holds the whole explorer; nothing is loaded beside the page, and nothing goes
    wrong in it."""
    tab.screen(1100, 1500)
    tab.log()
    yield
    assert tab.log() == []
    assert tab.js(
        "return [navigator.onLine, performance.getEntriesByType('resource').map(e => e.name)]"
    ) == [False, []]


def link(
    name: str, law: str, unit: int, ratio: float, example: int, measure: str, key: str = "levels"
) -> str:
    return f"#{key}={name}:{law}:{unit}:{ratio:g}:{example}:{measure}"


def check(tab: Browser, state: tuple, instance: int = 0, linked: bool = True) -> dict:
    """What stands on the page is what the library finds."""
    name, law, unit, ratio, example, measure = state
    wanted = link(*state, "levels" if not instance else f"levels-{instance + 1}")
    for _ in range(50):  # the address follows a little later
        found = tab.js(READ, instance)
        if found["hash"] == wanted or not linked:
            break
        time.sleep(0.02)
    assert found["link"] == wanted and (found["hash"] == wanted or not linked)
    (graph, (_, columns)), levels = EXPLORER.graphs[name], EXPLORER.levels(name, law, unit, ratio)
    assert (found["graph"], found["law"], found["measure"], found["heading"]) == (
        name,
        LAW_WORDS[law],
        MEASURES[measure],
        MEASURES[measure],
    )
    assert (
        found["panes"] == 1
        and found["unit"]
        and found["ratio"]
        and found["example"]
        and found["disabled"] == (law != "random")
    )
    assert {key: found[key] for key in ("hidden", "level", "members", "paper")} == EXPLORER.reading(
        name, law, unit, ratio
    )
    assert found["this-mask"] == EXPLORER.example_words(name, law, unit, ratio, example) and found[
        "label"
    ].endswith(": " + found["this-mask"])
    assert found["command"] == EXPLORER.command(*state)
    assert (
        found["ratio-words"] == f"{ratio:g}"
        and found["example-words"] == f"{example + 1} of {EXAMPLES}"
    )
    row = EXPLORER.rows(name).index((law, unit))
    assert found["rows"] == [[row], [row]]
    places = [(int(y), int(x)) for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", found["masked"])]
    if isinstance(levels, str):
        assert (
            set(found["values"]) == {"–"}
            and max(found["bars"]) == 0
            and places == []
            and found["blocks"] == ""
            and found["marks"] == [None, None]
        )
        return found
    intervals = getattr(levels, measure)[::-1]
    assert found["values"] == [f"{v:.4f}" if v.value else "none seen" for v in intervals]
    assert found["bars"] == pytest.approx([v.value for v in intervals], abs=0.01)
    # The example, once more from the masked patches alone: Algorithm 1 one mask at a time.
    shared = locate_shared(graph, [f"x{r * columns + c}" for r, c in places])
    assert len(places) == int(levels.masks[example].sum()) and found["this-mask"].startswith(
        f"hides {len(places)} of "
    )
    listed = re.findall(r"(\d+) at level (\d+)", found["this-mask"])
    assert {int(level): int(count) for count, level in listed} == dict(shared.level_spectrum)
    reached = {
        int(x) + int(y) * columns for x, y in re.findall(r"M(\d+) (\d+)v", found["blocks"])
    } & {r * columns + c for r in range(8) for c in range(columns)}
    assert bool(reached) == bool(shared.c)
    for mark, line in zip(found["marks"], found["lines"], strict=True):
        assert f"{mark[0]:g} {mark[1]:g}" in re.split("[ML]", line)  # the mark stands on its line
    return found


def choose(tab: Browser, role: str, position: int) -> None:
    """Puts the focused choice or slider to a position by keys."""
    tab.press("Home", *["Down" if role in ("graph", "law", "measure") else "Right"] * position)


STATES = [
    ("quad", "random", 2, 0.1, 1, "share"),
    ("quad", "random", 1, 0.9, 2, "chance"),
    ("pairs", "random", 4, 0.75, 0, "share"),
    ("pairs", "block", 1, 0.25, 1, "chance"),
    ("pairs", "independent", 1, 0.5, 2, "share"),
    ("quad", "block", 1, 0.9, 0, "share"),
]


@pytest.mark.parametrize("state", STATES, ids=str)
def test_the_keyboard_alone_reaches_a_setting(tab, page, state):
    tab.open(page)
    check(tab, START, linked=False)
    name, law, unit, ratio, example, measure = state
    units = [u for kind, u in EXPLORER.rows(name) if kind == "random"]
    wanted = {
        "graph": list(EXPLORER.graphs).index(name),
        "law": list(LAW_WORDS).index(law),
        "unit": units.index(unit),
        "ratio": RATIOS.index(ratio),
        "example": example,
        "measure": list(MEASURES).index(measure),
    }
    for role, position in wanted.items():
        if role == "unit" and law != "random":
            continue  # it is disabled, and Tab passes it by
        tab_to(tab, READ, role)
        choose(tab, role, position)
    check(tab, state)
    tab_to(tab, READ, "link")


def test_the_sliders_by_mouse(tab, page):
    tab.open(page + link("pairs", "random", 1, 0.1, 0, "share"))
    check(tab, ("pairs", "random", 1, 0.1, 0, "share"))
    # both in the middle
    tab.click(tab.find('[data-role="ratio"]') + tab.find('[data-role="example"]'))
    check(tab, ("pairs", "random", 1, 0.5, 1, "share"))
    for k in range(4):  # along the slider of units, by its track
        box = tab.js(
            "const b = document.querySelector('[data-role=\"unit\"]').getBoundingClientRect();"
            " return [b.left, b.width, b.top + b.height / 2]"
        )
        for kind in ("mousePressed", "mouseReleased"):
            tab.cdp(
                "Input.dispatchMouseEvent",
                type=kind,
                x=box[0] + 8 + (box[1] - 16) * k / 2,
                y=box[2],
                button="left",
                clickCount=1,
            )
        units = [u for kind, u in EXPLORER.rows("pairs") if kind == "random"]
        if k < len(units):
            check(tab, ("pairs", "random", units[k], 0.5, 1, "share"))


def test_every_setting_by_link(tab, page):
    draw = random.Random(0)
    every = [
        (name, law, unit, ratio, draw.randrange(EXAMPLES), draw.choice(list(MEASURES)))
        for name in EXPLORER.graphs for law, unit in EXPLORER.rows(name) for ratio in RATIOS
    ]  # fmt: skip
    tab.open(page)
    for state in every:
        tab.js(
            "return new Promise(done => { addEventListener('hashchange', () => setTimeout(done), {"
            " once: true }); location.hash = arguments[0]; })",
            link(*state),
        )
        assert not check(tab, state)["note"]
    assert len(every) > 40


def test_a_reload_brings_the_state_back_and_scrolls_to_it(tab, page, tmp_path):
    tab.open(page)
    tab_to(tab, READ, "ratio")
    tab.press("Right")
    state = ("quad", "random", 1, 0.75, 0, "share")
    hash = check(tab, state)["hash"]
    tab.open(page + hash)
    check(tab, state)
    tab.open(
        write(
            tmp_path,
            "<p style='height: 3000px'>text</p>"
            + EXPLORER.html()
            + "<p style='height: 3000px'>text</p>",
        )
        + hash
    )
    check(tab, state)
    assert (
        abs(tab.js("return document.querySelector('.level-explorer').getBoundingClientRect().top"))
        < 2
    )


def test_a_unit_that_the_next_hierarchy_lacks_becomes_the_nearest(tab, page):
    tab.open(page + link("pairs", "random", 4, 0.5, 0, "share"))
    tab_to(tab, READ, "graph")
    tab.press("Home")
    check(tab, ("quad", "random", 2, 0.5, 0, "share"))
    tab_to(tab, READ, "law")
    choose(tab, "law", list(LAW_WORDS).index("block"))
    check(tab, ("quad", "block", 1, 0.5, 0, "share"))
    choose(tab, "law", 0)
    check(tab, ("quad", "random", 2, 0.5, 0, "share"))


@pytest.mark.parametrize(
    "state",
    [
        "nothing:random:1:0.5:0:share",
        "quad:none:1:0.5:0:share",
        "quad:random:3:0.5:0:share",
        "quad:random:1:0.51:0:share",
        "quad:random:1:0.5:3:share",
        "quad:random:1:0.5:0:toString",
        "quad:block:2:0.5:0:share",
        "quad",
        "",
        "%E0%A4:random:1:0.5:0:share",
    ],
)
def test_a_link_to_what_is_not_here_says_so(tab, page, state):
    tab.open(page + "#levels=" + state)
    assert (
        check(tab, START, linked=False)["note"]
        == "The link asks for a hierarchy or a setting that is not here."
    )


def test_other_anchors_are_left_alone(tab, page):
    tab.open(page + "#section")
    time.sleep(0.3)  # longer than an address of its own would take
    found = check(tab, START, linked=False)
    assert found["hash"] == "#section" and not found["note"]


def test_explorers_on_one_page_keep_apart(tab, tmp_path):
    tab.open(write(tmp_path, EXPLORER.html() + EXPLORER.html()) + link(*STATES[3], "levels-2"))
    check(tab, START, 0, linked=False)
    check(tab, STATES[3], 1)
    tab.js("scrollTo(0, 0)")
    tab.click(tab.find('[data-role="example"]')[:1])
    check(tab, ("quad", "random", 1, 0.5, 1, "share"), 0)
    check(tab, STATES[3], 1, linked=False)


def test_scripts_that_run_detached_find_their_place_and_leave_no_globals(tab, tmp_path):
    tab.open(write(tmp_path, IN_JUPYTER % EXPLORER.html()))
    tab.click(tab.find('[data-role="example"]'))
    check(tab, ("quad", "random", 1, 0.5, 1, "share"))
    assert tab.js("return document.body.dataset.globals") == "0"


def test_a_hostile_name_is_text(tab, tmp_path):
    name = "</script><img src=x onerror=alert(1)> & %41:1"
    tab.open(
        address := write(
            tmp_path,
            LevelExplorer({name: (quad_tree((2, 2)), (2, 2))}, ratios=(0.5,), masks=5).html(),
        )
    )
    tab.open(address + tab.js(READ)["link"])
    found = tab.js(READ)
    assert found["graph"] == name and not found["note"] and tab.find("img") == []


LOOK = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function rgb(colour) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
}
function light(colour) {
  const [r, g, b] = rgb(colour).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v
    + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
}
function ground(e) {
  while (rgb(getComputedStyle(e).backgroundColor)[3] < 255) e = e.parentElement;
  return light(getComputedStyle(e).backgroundColor);
}
const root = document.querySelector(".level-explorer"), texts = {},
  edge = document.documentElement.clientWidth, ratio = (a, b) => (Math.max(a, b)
  + .05) / (Math.min(a, b) + .05);
let letters = 99;
for (const e of root.querySelectorAll("*")) {
  if (!e.getClientRects().length) continue;
  const style = getComputedStyle(e);
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  texts[e.tagName + " " + e.textContent.slice(0, 20)] = ratio(light(e.tagName === "text"
    ? style.fill : style.color), ground(e));
  const svg = e.closest("svg");
  letters = Math.min(letters, parseFloat(style.fontSize) * (svg
    ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1));
}
const paint = (selector, what) =>
  ratio(light(getComputedStyle(root.querySelector(selector))[what]), ground(root));
return {
  scheme: getComputedStyle(root).colorScheme, ground: ground(root), texts, letters,
    page: document.documentElement.scrollWidth,
  outside: [...root.querySelectorAll("*")].filter(e => e.getClientRects().length
    && e.getBoundingClientRect().right > edge + .5).map(e => e.tagName + " "
    + e.textContent.slice(0, 20)),
  targets: [...root.querySelectorAll("select, input")].map(e => e.getBoundingClientRect().height),
  marks: [paint(".mask .hidden", "fill"), paint(".mask .block", "stroke"),
    paint("[data-on] .line", "stroke"), paint(".mark", "fill"), paint(".fill", "backgroundColor")],
};
"""


@pytest.mark.parametrize("width", [390, 1000])
@pytest.mark.parametrize(
    "system, attributes, expected",
    [
        ("light", "", "light"),
        ("dark", "", "dark"),
        ("dark", 'data-theme="light"', "light"),
        ("light", 'data-theme="dark"', "dark"),
    ],
)
def test_phone_and_desk_in_light_and_dark(tab, tmp_path, width, system, attributes, expected):
    tab.screen(width, 1800, system)
    tab.open(write(tmp_path, EXPLORER.html(), attributes) + link(*STATES[2]))
    check(tab, STATES[2])
    found = tab.js(LOOK)
    assert (
        found["page"] <= width
        and found["outside"] == []
        and min(found["targets"]) >= 40
        and found["letters"] >= 9
    )
    assert (found["ground"] < 0.05) == (expected == "dark") and found["scheme"] == expected
    assert (
        len(found["texts"]) > 30
        and {what: ratio for what, ratio in found["texts"].items() if ratio < 4.5} == {}
    )
    assert min(found["marks"]) >= 3
