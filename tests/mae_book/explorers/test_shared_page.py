"""The page of the explorer of shared information in a real headless Chromium without a network:
observables are pressed by mouse and by keys, and masks are drawn at random."""

from __future__ import annotations

import random

import pytest

from browser import Browser, in_browser, tab, tab_to, write  # noqa: F401 (tab is a fixture)
from explorers import READ, explorer, follow, look
from mae_book.explorers.shared_explorer import (
    EXPLORER_GRIDS,
    SharedExplorer,
    explorer_graphs,
    first_mask,
    mask_units,
)
from mae_lib.drawing.graph_figures import node_kinds, outline
from mae_lib.theory.graphs import random_dag
from mae_lib.theory.shared import locate_shared

pytestmark = in_browser

GRAPHS = explorer_graphs()
FOCUS = f"const read = function () {{ {READ} }}; return read('shared');"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("page"), explorer("shared").html())


@pytest.fixture(autouse=True)
def screen(tab):
    tab.screen(1100, 1400)


def link(name: str, masked) -> str:
    return explorer("shared").link(name, frozenset(masked))


def check(tab: Browser, name: str, masked, linked: bool = True) -> dict:
    """What stands on the page is what `locate_shared` finds."""
    found = look(tab, explorer("shared"), linked=linked)
    assert found["state"] == (name, frozenset(masked))
    graph, pane = GRAPHS[name], list(GRAPHS).index(name)
    kinds = node_kinds(graph, locate_shared(graph, masked))
    drawn = tab.js(
        "return [...document.querySelectorAll(`[data-pane='${arguments[0]}'] .drawing .node`)]"
        ".map(n => [n.lastElementChild.textContent, n.firstElementChild.getAttribute('d')])",
        pane,
    )
    assert dict(drawn) == {v: outline(kind) for v, kind in kinds.items()}
    buttons = tab.js(
        "return [...document.querySelector('.observables').children].map(b => [b.textContent,"
        " b.getAttribute('aria-pressed')])"
    )
    assert buttons == [[x, str(x in masked).lower()] for x in graph.observables]
    return found


def random_masks(name: str, count: int = 16) -> list[frozenset[str]]:
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


@pytest.mark.parametrize("name", GRAPHS)
def test_clicking_gives_what_locate_shared_gives(tab, page, name):
    tab.open(page + link(name, ()))
    graph, masked = GRAPHS[name], frozenset()
    buttons = tab.find('[data-role="observables"] button')
    nodes = tab.find("[data-pane]:not([hidden]) .drawing .node[data-button] path")
    for k, wanted in enumerate(random_masks(name)):
        targets = nodes if k % 2 else buttons  # the buttons and the drawing do the same
        tab.click([targets[graph.observables.index(x)] for x in sorted(wanted ^ masked)])
        masked = wanted
        check(tab, name, masked, linked=k == 15)


def test_swapping_and_clearing(tab, page):
    masked = {"x1", "x2", "x7"}
    tab.open(page + link("skip-edges", masked))
    before = check(tab, "skip-edges", masked)
    tab.click(tab.find('[data-role="swap"]'))
    after = check(tab, "skip-edges", set(GRAPHS["skip-edges"].observables) - masked)
    assert (
        after["texts"]["c"] == before["texts"]["c"] != "∅"
        and "Swapped" in after["note"]
        and not before["note"]
    )
    tab.click(tab.find('[data-role="clear"]'))
    after = check(tab, "skip-edges", ())
    assert "nothing is masked" in after["texts"]["words"] and not after["note"]
    tab.click(tab.find('[data-role="swap"]'))
    assert (
        "nothing is visible"
        in check(tab, "skip-edges", GRAPHS["skip-edges"].observables)["texts"]["words"]
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
        found = look(tab, explorer("shared"))
        assert whole_blocks(name, unit, found["state"][1]) == hidden
        said = f"{round(hidden / blocks, 3):g} ({hidden} of {blocks})"
        assert found["texts"]["share-words"] == said and str(unit) in found["texts"]["unit-words"]
    tab.press("Home", "Right")
    seen = set()
    for _ in range(25):
        tab.click(tab.find('[data-role="draw"]'))
        masked = look(tab, explorer("shared"))["state"][1]
        assert whole_blocks(name, unit, masked) == 1
        seen.add(masked)
    assert len(seen) > 1


@pytest.mark.parametrize("name", GRAPHS)
def test_the_keyboard_alone_gives_what_locate_shared_gives(tab, page, name):
    tab.open(page)
    tab_to(tab, FOCUS, "graph")
    tab.press(*["Down"] * list(GRAPHS).index(name))
    graph, masked = GRAPHS[name], first_mask(GRAPHS[name])
    check(tab, name, masked, linked=False)
    tab_to(tab, FOCUS, graph.observables[0])
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


def test_arrows_walk_over_the_patches(tab, page):
    tab.open(page + link("quad-tree", ()))
    tab_to(tab, FOCUS, "x0")
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
        assert tab.js(FOCUS)["focus"] == place
    tab.press("Space")
    check(tab, "quad-tree", {"x8"})


def test_every_control_answers_keys(tab, page):
    tab.open(page)
    names = GRAPHS["figure-4"].observables
    for role, keys, number in (
        ("swap", ["Enter"], 6),
        ("clear", ["Space"], 0),
        ("share", ["Home", "Right", "Right", "Right"], 3),
        ("draw", ["Enter"], 3),
    ):
        tab_to(tab, FOCUS, role, "Shift+Tab" if role == "share" else "Tab")
        tab.press(*keys)
        name, masked = look(tab, explorer("shared"))["state"]
        assert name == "figure-4" and len(masked) == number and masked <= set(names)


def test_a_graph_of_more_answers_than_a_byte_holds(tab, tmp_path):
    shown = SharedExplorer({"large": random_dag(24, 10, 2)})
    tab.open(write(tmp_path, shown.html()))
    names, draw = shown.graphs["large"].observables, random.Random(0)
    for _ in range(20):
        masked = frozenset(x for x in names if draw.random() < 0.5)
        follow(tab, shown.link("large", masked))
        assert look(tab, shown)["state"] == ("large", masked)


def test_letters_of_a_drawing_stay_readable_on_a_phone(tab, page):
    tab.screen(360, 740)
    for name in GRAPHS:
        tab.open(page + link(name, first_mask(GRAPHS[name])))
        letters, wide = tab.js(
            "const svg = document.querySelector('[data-pane]:not([hidden]) .drawing svg');"
            "return [12 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width,"
            " document.documentElement.scrollWidth]"
        )
        assert letters >= 9 and wide <= 360


def test_the_ratio_starts_where_the_mask_is(tab, tmp_path):
    for masked, said in (
        (["x1"], "0.125 (1 of 8)"),
        ([f"x{k}" for k in range(1, 7)], "0.75 (6 of 8)"),
    ):
        shown = SharedExplorer(selected="figure-4", masked=masked)
        tab.open(write(tmp_path, shown.html()))
        assert (
            tab.js("return document.querySelector('[data-role=share-words]').textContent") == said
        )
