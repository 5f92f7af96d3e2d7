"""The explorer of shared information in a real headless Chromium without a network: by mouse, by
keyboard alone, by link, on a phone, in the dark."""

from __future__ import annotations

import random
import time

import pytest

from browser import (
    IN_JUPYTER,
    Browser,
    in_browser,
    tab_to,
    write,
)
from mae_book.explorers.shared_explorer import (
    EXPLORER_GRIDS,
    SharedExplorer,
    explorer_graphs,
    first_mask,
    mask_units,
    reading,
)
from mae_lib.drawing.graph_figures import node_kinds, outline
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import random_dag
from mae_lib.theory.shared import locate_shared

pytestmark = in_browser

GRAPHS = explorer_graphs()
EXPLORER = SharedExplorer()

READ = """
const root = document.querySelectorAll(".shared-explorer")[arguments[0] || 0], at = role =>
  root.querySelector('[data-role="' + role + '"]');
const drawing = root.querySelector("[data-drawing]:not([hidden])"), select = at("graph"),
  found = {};
for (const role of ["words", "c", "levels", "dims", "s_m", "s_mc", "command", "note",
  "unit-words", "share-words"]) found[role] = at(role).textContent;
found.graph = select.options[select.selectedIndex].text;
found.pressed = [...at("observables").children].filter(b =>
  b.getAttribute("aria-pressed") === "true").map(b => b.textContent);
found.buttons = [...at("observables").children].map(b => b.textContent);
found.kinds = Object.fromEntries([...drawing.querySelectorAll(".node")].map(n =>
  [n.lastElementChild.textContent, n.dataset.kind]));
found.outlines = Object.fromEntries([...drawing.querySelectorAll(".node")].map(n =>
  [n.lastElementChild.textContent, n.firstElementChild.getAttribute("d")]));
found.link = at("link").getAttribute("href");
found.hash = location.hash;
found.focus = document.activeElement.dataset.role || document.activeElement.textContent;
return found;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("page"), EXPLORER.html())


@pytest.fixture(autouse=True)
def quiet(tab):
    """A screen that holds the whole explorer; nothing is loaded beside the page, and nothing goes
    wrong in it."""
    tab.screen(1100, 1400)
    tab.log()
    yield
    assert tab.log() == []
    assert tab.js(
        "return [navigator.onLine, performance.getEntriesByType('resource').map(e => e.name)]"
    ) == [False, []]


def link(name: str, masked, key: str = "shared") -> str:
    return f"#{key}={name}:" + "".join("01"[x in masked] for x in GRAPHS[name].observables)


def check(tab: Browser, name: str, masked, instance: int = 0, linked: bool = True) -> dict:
    """What stands on the page is what `locate_shared` finds."""
    graph, found = GRAPHS[name], tab.js(READ, instance)
    shared = locate_shared(graph, masked)
    kinds = node_kinds(graph, shared)
    assert found["graph"] == name and found["buttons"] == list(graph.observables)
    assert found["pressed"] == [x for x in graph.observables if x in masked]
    assert found["kinds"] == kinds
    assert found["outlines"] == {v: outline(kind) for v, kind in kinds.items()}
    assert {key: found[key] for key in ("words", "c", "levels", "dims")} == reading(shared)
    for role, part in (("s_m", shared.s_m), ("s_mc", shared.s_mc)):
        assert found[role] == (
            f"noises of {', '.join(v for v in graph.nodes if v in part)}" if part else "∅"
        )
    assert found["command"] == EXPLORER.command(name, masked)
    assert found["link"] == link(
        name, masked, "shared" if not instance else f"shared-{instance + 1}"
    )
    if linked:  # the address follows a little later
        for _ in range(50):
            if found["hash"] == found["link"]:
                break
            time.sleep(0.02)
            found["hash"] = tab.js("return location.hash")
        assert found["hash"] == found["link"]
    return found


def random_masks(name: str, count: int = 50) -> list[frozenset[str]]:
    """Masks at all ratios; each is followed by the one that takes the fewest clicks to reach."""
    draw = random.Random(name)
    left = [
        frozenset(x for x in GRAPHS[name].observables if draw.random() < share)
        for share in (draw.random() for _ in range(count))
    ]
    ordered: list[frozenset[str]] = []
    while left:
        last = ordered[-1] if ordered else frozenset()
        ordered.append(left.pop(min(range(len(left)), key=lambda k: len(left[k] ^ last))))
    return ordered


# --------------------------------------------------------------------------------------------------
# By mouse


@pytest.mark.parametrize("name", GRAPHS)
def test_clicking_gives_what_locate_shared_gives(tab, page, name):
    tab.open(page + link(name, ()))
    graph, masked = GRAPHS[name], frozenset()
    buttons = tab.find('[data-role="observables"] button')
    nodes = tab.find("[data-drawing]:not([hidden]) .node[data-button] path")
    for k, wanted in enumerate(random_masks(name)):
        targets = nodes if k % 2 else buttons  # the buttons and the drawing do the same
        tab.click([targets[graph.observables.index(x)] for x in sorted(wanted ^ masked)])
        masked = wanted
        check(tab, name, masked, linked=k == 49)


def test_swapping_and_clearing(tab, page):
    masked = {"x1", "x2", "x7"}
    tab.open(page + link("skip-edges", masked))
    before = check(tab, "skip-edges", masked)
    tab.click(tab.find('[data-role="swap"]'))
    after = check(tab, "skip-edges", set(GRAPHS["skip-edges"].observables) - masked)
    assert after["c"] == before["c"] != "∅" and "Swapped" in after["note"] and not before["note"]
    tab.click(tab.find('[data-role="clear"]'))
    after = check(tab, "skip-edges", ())
    assert "nothing is masked" in after["words"] and not after["note"]
    tab.click(tab.find('[data-role="swap"]'))
    assert (
        "nothing is visible" in check(tab, "skip-edges", GRAPHS["skip-edges"].observables)["words"]
    )


def whole_blocks(name: str, unit: int, masked: set[str]) -> int | None:
    """How many blocks of the unit a mask is made of; None where it is of no whole blocks."""
    graph = GRAPHS[name]
    blocks = [
        {graph.observables[k] for k in block}
        for block in mask_units(graph, EXPLORER_GRIDS.get(name))[unit]
    ]
    inside = [block for block in blocks if block <= masked]
    return len(inside) if set().union(*inside) == masked else None


@pytest.mark.parametrize("name, unit", [("skip-edges", 3), ("quad-tree", 2)])
def test_random_masks_are_of_whole_units_and_of_the_share(tab, page, name, unit):
    tab.open(page + link(name, ()))
    blocks = len(GRAPHS[name].observables) // (unit**2 if name in EXPLORER_GRIDS else unit)
    tab.click(tab.find('[data-role="unit"]'))  # a click in the middle of a slider, then keys
    tab.press(
        "Home", *["Right"] * (list(mask_units(GRAPHS[name], EXPLORER_GRIDS.get(name))).index(unit))
    )
    tab.click(tab.find('[data-role="share"]'))
    for hidden in range(blocks + 1):
        tab.press("Home", *["Right"] * hidden)
        found = tab.js(READ)
        assert whole_blocks(name, unit, set(found["pressed"])) == hidden
        assert (
            found["share-words"] == f"{round(hidden / blocks, 3):g} ({hidden} of {blocks})"
            and str(unit) in found["unit-words"]
        )
        check(tab, name, found["pressed"])
    tab.press("Home", "Right")
    seen = set()
    for _ in range(25):
        tab.click(tab.find('[data-role="draw"]'))
        found = tab.js(READ)
        assert whole_blocks(name, unit, set(found["pressed"])) == 1
        seen.add(tuple(found["pressed"]))
    assert len(seen) > 1


# --------------------------------------------------------------------------------------------------
# By keyboard alone


@pytest.mark.parametrize("name", GRAPHS)
def test_the_keyboard_alone_gives_what_locate_shared_gives(tab, page, name):
    tab.open(page)
    tab_to(tab, READ, "graph")
    tab.press(*["Down"] * list(GRAPHS).index(name))
    graph, masked = GRAPHS[name], first_mask(GRAPHS[name])
    check(tab, name, masked, linked=False)
    tab_to(tab, READ, graph.observables[0])
    last = len(graph.observables) - 1
    masks = random_masks(name)
    for k, wanted in enumerate(masks):
        # There and back again along the buttons: by Tab, or by the arrow keys, which stop at the
        # ends.
        step = ("Tab", "Shift+Tab", "Right", "Left")[k % 4]
        strokes = []
        for place, x in enumerate(graph.observables if k % 2 == 0 else graph.observables[::-1]):
            strokes += [step] * (place > 0) + [("Space", "Enter")[place % 2]] * (
                x in wanted ^ masked
            )
        tab.press(*strokes)
        masked = wanted
        assert (
            check(tab, name, masked, linked=wanted is masks[-1])["focus"]
            == graph.observables[last if k % 2 == 0 else 0]
        )


def test_every_control_is_reached_and_answers_keys(tab, page):
    tab.open(page)
    reached = []
    for _ in range(18):
        tab.press("Tab")
        reached.append(tab.js(READ)["focus"])
    names = [*GRAPHS["figure-4"].observables]
    expected = ["graph", *names, "unit", "share", "draw", "clear", "swap", "link"]
    assert [r for r in reached if r in expected][: len(expected)] == expected
    tab_to(tab, READ, "swap", "Shift+Tab")
    tab.press("Enter")
    masked = check(tab, "figure-4", set(names) - first_mask(GRAPHS["figure-4"]))["pressed"]
    tab_to(tab, READ, "clear", "Shift+Tab")
    tab.press("Space")
    check(tab, "figure-4", ())
    tab_to(tab, READ, "share", "Shift+Tab")
    tab.press("Home", "Right", "Right", "Right")
    assert len(check(tab, "figure-4", tab.js(READ)["pressed"])["pressed"]) == 3 != len(masked)
    tab_to(tab, READ, "draw")
    tab.press("Enter")
    assert len(check(tab, "figure-4", tab.js(READ)["pressed"])["pressed"]) == 3


def test_arrows_walk_over_the_patches(tab, page):
    tab.open(page + link("quad-tree", ()))
    tab_to(tab, READ, "x0")
    for key, place in (
        ("Down", "x4"),
        ("Right", "x5"),
        ("Down", "x9"),
        ("Down", "x13"),
        ("Down", "x13"),
        ("Left", "x12"),
        ("Up", "x8"),
    ):
        tab.press(key)
        assert tab.js(READ)["focus"] == place
    tab.press("Space")
    check(tab, "quad-tree", {"x8"})


# --------------------------------------------------------------------------------------------------
# By link


def go(tab: Browser, hash: str) -> None:
    """Follows a link within the page, and waits until the page has."""
    tab.js(
        "return new Promise(done => { addEventListener('hashchange', () => setTimeout(done), {"
        " once: true }); location.hash = arguments[0]; })",
        hash,
    )


def test_a_link_opens_its_state_and_is_scrolled_to(tab, tmp_path):
    top = "return document.querySelector('.shared-explorer').getBoundingClientRect().top"
    address = write(
        tmp_path,
        "<p style='height: 3000px'>text</p>"
        + EXPLORER.html()
        + "<p style='height: 3000px'>text</p>",
    )
    for name in GRAPHS:
        masked = random_masks(name, 3)[-1]
        tab.open(address + link(name, masked))
        check(tab, name, masked)
        assert abs(tab.js(top)) < 2
    tab.js("scrollTo(0, 0)")
    go(tab, link("figure-4", {"x8"}))  # a link within the page
    check(tab, "figure-4", {"x8"})
    assert abs(tab.js(top)) < 2


def test_a_graph_of_more_answers_than_a_byte_holds(tab, tmp_path):
    graph = random_dag(24, 10, 2)
    tab.open(write(tmp_path, SharedExplorer({"large": graph}).html()))
    draw = random.Random(0)
    for _ in range(20):
        masked = [x for x in graph.observables if draw.random() < 0.5]
        go(tab, "#shared=large:" + "".join("01"[x in masked] for x in graph.observables))
        found = tab.js(READ)
        assert (
            found["kinds"] == node_kinds(graph, shared := locate_shared(graph, masked))
            and found["words"] == shared.explanation
        )


def test_other_anchors_are_left_alone(tab, page):
    tab.open(page)
    assert check(tab, "figure-4", first_mask(GRAPHS["figure-4"]), linked=False)["hash"] == ""
    tab.open(page + "#section")
    time.sleep(0.4)  # longer than an address of its own would take
    found = check(tab, "figure-4", first_mask(GRAPHS["figure-4"]), linked=False)
    assert found["hash"] == "#section" and not found["note"]
    tab.js(
        "window.steps = []; navigation.addEventListener('navigate', event =>"
        " steps.push(event.navigationType))"
    )
    tab.click(tab.find('[data-role="observables"] button')[2:5])
    check(tab, "figure-4", {"x1", "x2", "x3", "x4", "x5"})
    # the way back is not blocked by a state a click
    assert set(tab.js("return steps")) == {"replace"}
    go(tab, "#section")
    assert (
        check(tab, "figure-4", {"x1", "x2", "x3", "x4", "x5"}, linked=False)["hash"] == "#section"
    )


@pytest.mark.parametrize(
    "state",
    [
        "nothing:11",
        "figure-4:111",
        "figure-4:1111111111",
        "figure-4:1111x111",
        "figure-4",
        "",
        "%E0%A4:1",
        "figure-4:",
    ],
)
def test_a_link_to_what_is_not_here_says_so(tab, page, state):
    tab.open(page + "#shared=" + state)
    found = check(tab, "figure-4", first_mask(GRAPHS["figure-4"]), linked=False)
    assert found["note"] == "The link asks for a graph or a mask that is not here."


def test_explorers_on_one_page_keep_apart(tab, tmp_path):
    other = SharedExplorer(selected="binary-tree", masked=["x0", "x5"]).html()
    tab.open(
        write(tmp_path, EXPLORER.html() + EXPLORER.html() + other)
        + link("cross-edges", {"x9"}, "shared-2")
    )
    first = first_mask(GRAPHS["figure-4"])
    check(tab, "figure-4", first, 0, linked=False)
    check(tab, "cross-edges", {"x9"}, 1)
    check(tab, "binary-tree", {"x0", "x5"}, 2, linked=False)
    tab.js("scrollTo(0, 0)")
    tab.click(tab.find('.shared-explorer [data-role="swap"]')[:1])
    check(tab, "figure-4", set(GRAPHS["figure-4"].observables) - first, 0)
    check(tab, "cross-edges", {"x9"}, 1, linked=False)
    check(tab, "binary-tree", {"x0", "x5"}, 2, linked=False)


def test_scripts_that_run_detached_find_their_place_and_leave_no_globals(tab, tmp_path):
    """As Jupyter does: the fragment is set as HTML, which runs nothing, and its scripts are run
    from elsewhere."""
    tab.open(write(tmp_path, IN_JUPYTER % EXPLORER.html()))
    tab.click(tab.find('[data-role="observables"] button')[4:5])
    check(tab, "figure-4", {"x1", "x2", "x5"})
    assert tab.js("return document.body.dataset.globals") == "0"


def test_hostile_names_are_text(tab, tmp_path):
    name = "</script><img src=x onerror=alert(1)> & %41:1"
    graph = LatentGraph([("<i>z", name), ("<i>z", "x")], [name, "x"])
    tab.open(address := write(tmp_path, SharedExplorer({name: graph}).html()))
    tab.click(tab.find('[data-role="observables"] button')[1:])
    tab.open(address + tab.js(READ)["link"])
    found = tab.js(READ)
    assert (
        found["graph"] == " ".join(name.split())
        and found["pressed"] == [name, "x"]
        and not found["note"]
    )
    assert (
        found["kinds"] == {"<i>z": "s_m", name: "masked", "x": "masked"} and tab.find("img") == []
    )


# --------------------------------------------------------------------------------------------------
# On a phone, in light and dark

SIZES = """
const root = document.querySelector(".shared-explorer"),
  drawing = root.querySelector("[data-drawing]:not([hidden]) svg");
const small = e => { const box = e.getBoundingClientRect(); return [e.dataset.role
  || e.textContent, box.width, box.height]; };
return {
  page: [document.documentElement.scrollWidth, document.documentElement.clientWidth],
  outside: [...root.querySelectorAll("*")].filter(e => !e.closest(".drawing"))
    .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth)
    .map(e => e.tagName),
  letters: parseFloat(getComputedStyle(drawing.querySelector("text")).fontSize)
    * drawing.getBoundingClientRect().width / drawing.viewBox.baseVal.width,
  targets: [...root.querySelectorAll("button, select, input")].map(small),
};
"""

CONTRAST = """
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
const root = document.querySelector(".shared-explorer"), found = {}, shapes = {};
const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
for (const e of root.querySelectorAll("*")) {
  if (!e.getClientRects().length) continue;
  const style = getComputedStyle(e);
  if ([...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    found[e.tagName + " " + e.textContent.slice(0, 20)] = ratio(light(e.tagName === "text"
      ? style.fill : style.color), ground(e));
  if (e.matches(".node path")) shapes[e.parentElement.dataset.kind] = ratio(light(style.stroke),
    ground(e));
}
return { ground: ground(root), texts: found, shapes, scheme: getComputedStyle(root).colorScheme };
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_holds_it(tab, page, scheme):
    tab.screen(360, 740, scheme)
    for name in GRAPHS:
        tab.open(page + link(name, first_mask(GRAPHS[name])))
        check(tab, name, first_mask(GRAPHS[name]))
        found = tab.js(SIZES)
        assert found["page"][0] <= found["page"][1] <= 360 and found["outside"] == []
        assert found["letters"] >= 9
        for what, width, height in found["targets"]:
            assert width >= 40 and height >= 40, what


@pytest.mark.parametrize(
    "system, attributes, expected",
    [
        ("light", "", "light"),
        ("dark", "", "dark"),
        ("dark", 'data-theme="light"', "light"),
        ("light", 'data-theme="dark"', "dark"),
        ("dark", 'data-theme="dark"', "dark"),
    ],
)
def test_light_and_dark_are_readable_and_the_books_theme_wins(
    tab, tmp_path, system, attributes, expected
):
    tab.screen(1000, 1200, system)
    tab.open(
        write(tmp_path, EXPLORER.html(), attributes) + link("skip-edges", {"x1", "x2", "x3", "x4"})
    )
    tab.click(tab.find('[data-role="swap"]'))
    found = tab.js(CONTRAST)
    assert (found["ground"] < 0.05) == (expected == "dark") and found["scheme"] == expected
    assert (
        len(found["texts"]) > 30
        and {what: ratio for what, ratio in found["texts"].items() if ratio < 4.5} == {}
    )
    assert (
        set(found["shapes"]) == {"c", "common", "s_m", "s_mc", "masked", "visible"}
        and min(found["shapes"].values()) >= 3
    )
