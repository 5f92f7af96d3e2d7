"""What holds of every explorer's page in a real headless Chromium without a network: by mouse, by
keyboard alone, by link, on a phone, in the dark, in print, without scripts, as Jupyter shows it.
What a page shows is held against what its Python says of the state in the page's own link."""

from __future__ import annotations

import time

import pytest

from browser import IN_JUPYTER, in_browser, tab, tab_to, write  # noqa: F401 (tab is a fixture)
from explorers import KINDS, READ, explorer, follow, look

pytestmark = [in_browser, pytest.mark.parametrize("kind", KINDS)]

LINKS = {
    "mask": ["5x16:0.5:2:0f3c:cls", "40x16:0.75:1:0000:5"],
    "masking": ["r75-u16-p4-s0:1:1", "r50-u8-p8-s0:1:0"],
    "attention": ["r75-u16-p4-s0:1:0:1:20", "r90-u8-p8-s0:0:2:3:cls"],
    "shared": ["quad-tree:0110100000000001", "skip-edges:110000000001"],
    "levels": ["pairs:block:1:0.25:2:chance", "quad:random:2:0.75:1:share"],
    "worth": ["0.7:0.2:2:0.5", "0.95:0.0:0:0.05"],
    "ledger": ["verdict=reproduced&part=theory&text=a&sort=-claim", "sort=decisive"],
}
WRONG = {
    "mask": [f"5x16:0.5:1:{rest}" for rest in ("ffff:cls", "0f3:cls", "0F3C:cls", "0f3c:16", "")]
    + ["5x16:0.9:1:0f3c:cls", "no:0.5:1:0f3c:cls", "5x16:0.5:3:0f3c:cls"],
    "masking": [f"r75-u16-p4-s0:{rest}" for rest in ("3:0", "0:2", "0", "0:x")] + ["no:0:0", ""],
    "attention": [f"r90-u8-p8-s0:{rest}" for rest in ("2:0:mean:0", "0:3:mean:0", "0:0:4:0")]
    + ["no:0:0:mean:0", "r90-u8-p8-s0:0:0:0:16", "r90-u8-p8-s0:0:0:0", "%E0%A4:1", ""],
    "shared": [f"figure-4:{bits}" for bits in ("", "111", "1111111111", "1111x111")]
    + ["figure-4", "nothing:11", ""],
    "levels": [f"quad:random:{rest}" for rest in ("3:0.5:0:share", "1:0.51:0:share")]
    + ["quad:random:1:0.5:3:share", "quad:random:1:0.5:0:toString", "quad:block:2:0.5:0:share"]
    + ["nothing:random:1:0.5:0:share", "quad:none:1:0.5:0:share", "quad"],
    "worth": ["0.8:0.2:3:0.75", "0.8:0.2:0:0.76", "0.8:0.2:0", "0.81:0.2:0:0.75", ""],
    "ledger": ["sort=nonsense", "part=§9"],
}


def hash_of(kind: str, words: str, place: int = 0) -> str:
    return f"#{kind}{f'-{place + 1}' * (place > 0)}{'?' if kind == 'ledger' else '='}{words}"


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    return {k: write(tmp_path_factory.mktemp(k), explorer(k).html()) for k in KINDS}


@pytest.fixture
def page(tab, pages, kind):
    """A screen that holds the whole explorer; nothing is loaded beside the page, and nothing goes
    wrong in it."""
    tab.screen(1100, 1500)
    tab.log()
    yield pages[kind]
    assert tab.log() == []
    loaded = "performance.getEntriesByType('resource').map(e => e.name)"
    loaded += ".filter(name => !name.startsWith('data:'))"
    assert tab.js(f"return [navigator.onLine, {loaded}]") == [False, []]


def changed(tab, kind: str, place: int = 0) -> None:
    """One real click that changes the state."""
    press = {
        "mask": '[data-role="swap"]',
        "masking": '[data-role="image"]',
        "attention": '[data-role="cls"]',
        "shared": '[data-role="swap"]',
        "levels": '[data-role="example"]',
        "worth": '[data-role="ratio"]',
        "ledger": 'th[data-sort="claim"] button',
    }[kind]
    tab.click([tab.find(f".{kind}-explorer {press}")[place]])


def test_by_mouse_the_page_changes_as_the_library_says(tab, page, kind):
    tab.open(page)
    before = look(tab, explorer(kind), linked=False)
    assert before["hash"] == "" and before["state"] == explorer(kind).start
    tab.js("window.steps = []; navigation.addEventListener('navigate',"
           " event => steps.push(event.navigationType))")  # fmt: skip
    changed(tab, kind)
    assert look(tab, explorer(kind))["state"] != before["state"]
    # the way back is not blocked by a state a click
    assert set(tab.js("return steps")) == {"replace"}


def test_the_keyboard_alone_reaches_every_choice(tab, page, kind):
    """Each control in turn to its last choice, then to its first."""
    shown = explorer(kind)
    read = f"const read = function () {{ {READ} }}; return read('{kind}');"
    tab.open(page)
    roles = [
        role for role, label in shown.ROLES.items() if label and (kind, role) != ("ledger", "sort")
    ]
    for last in (True, False):
        for place, role in enumerate(roles):
            number = len(shown.options(role, *look(tab, shown, linked=False)["state"][:place]))
            if number < 2:
                continue  # it is disabled, and Tab passes it by
            tab_to(tab, read, role, "Tab" if last or place else "Shift+Tab")
            forth = "Down" if role in shown.SELECTS else "Right"
            tab.press("Home", *[forth] * ((number - 1) * last))
            state = look(tab, shown, linked=False)["state"]
            offered = [v for _, v in shown.options(role, *state[:place]).values()]
            assert state[list(shown.ROLES).index(role)] == offered[-1 if last else 0]
    tab_to(tab, read, "link")
    look(tab, shown)


def test_a_link_opens_its_state_and_is_scrolled_to(tab, page, kind, tmp_path):
    far = "<p style='height: 3000px'>text</p>"
    address = write(tmp_path, far + explorer(kind).html() + far)
    for words in LINKS[kind]:
        for within in (False, True):
            link = hash_of(kind, words)
            if within:
                tab.js("history.replaceState(null, '', '#'); scrollTo(0, 0)")
                follow(tab, link)
            else:
                tab.open(address + link)
            found = look(tab, explorer(kind))
            assert found["state"] == explorer(kind).state(link) and not found["note"]
            assert abs(found["top"]) < 2


def test_a_link_to_what_is_not_here_says_so(tab, page, kind):
    tab.open(page)
    for words in WRONG[kind]:
        follow(tab, hash_of(kind, words))
        found = look(tab, explorer(kind), linked=False)
        assert found["state"] == explorer(kind).start, words
        assert found["note"] == "The link asks for something that is not here."


def test_other_anchors_are_left_alone(tab, page, kind):
    tab.open(page + "#section")
    time.sleep(0.3)  # longer than an address of its own would take
    found = look(tab, explorer(kind), linked=False)
    assert found["hash"] == "#section" and found["state"] == explorer(kind).start
    assert not found["note"]


def test_explorers_on_one_page_keep_apart(tab, page, kind, tmp_path):
    first = hash_of(kind, LINKS[kind][0])
    tab.open(write(tmp_path, explorer(kind).html() * 2) + hash_of(kind, LINKS[kind][0], 1))
    start, linked = explorer(kind).start, explorer(kind).state(first)
    assert look(tab, explorer(kind), linked=False)["state"] == start
    assert look(tab, explorer(kind), 1)["state"] == linked
    tab.js("scrollTo(0, 0)")
    changed(tab, kind)
    assert look(tab, explorer(kind))["state"] != start
    assert look(tab, explorer(kind), 1, linked=False)["state"] == linked


def test_as_jupyter_shows_it_it_comes_alive_and_leaves_no_globals(tab, page, kind, tmp_path):
    """The fragment is set as HTML, which runs nothing, and its scripts are run from elsewhere. A
    line of Python takes the link's place."""
    tab.open(write(tmp_path, IN_JUPYTER % explorer(kind).html()))
    changed(tab, kind)
    assert look(tab, explorer(kind))["state"] != explorer(kind).start
    assert tab.js("return document.body.dataset.globals") == "0"
    seen = "return ['.link', '.code'].map(s => document.querySelector(s).getClientRects().length)"
    assert tab.js(seen) == [1, 0]
    tab.js("document.body.dataset.jpThemeLight = 'true'")
    assert tab.js(seen) == [0, 1]


def test_hostile_names_are_text(tab, page, kind, tmp_path):
    name = "</script><img src=x onerror=alert(1)> & %41:1"
    shown = explorer(kind, name)
    tab.open(address := write(tmp_path, shown.html()))
    found = look(tab, shown, linked=False)
    tab.open(address + found["link"])
    assert look(tab, shown)["state"] == found["state"] and tab.find('img[src="x"]') == []


def test_without_scripts_it_shows_its_first_state(tab, page, kind, tmp_path):
    tab.open(
        write(tmp_path, explorer(kind).html().replace("<script>", '<script type="text/none">'))
    )
    found = tab.js(
        "const seen = e => e.getClientRects().length > 0;"
        "const found = selector => [...document.querySelectorAll(selector)].filter(seen);"
        "return { controls: found('input, button, select, a[data-role]').length,"
        " pane: found('[data-pane]').map(p => p.innerHTML),"
        " text: document.body.innerText }"
    )
    assert found["controls"] == 0 and len(found["pane"]) == 1
    if kind != "ledger":
        for said in explorer(kind).reading(*explorer(kind).start).values():
            assert said in found["text"].replace("\n", " ") or " " in said


LOOK = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function rgb(colour) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
}
function light(colour) {
  const [r, g, b] = rgb(colour).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
}
function ground(e) {
  while (e && rgb(getComputedStyle(e).backgroundColor)[3] < 255) e = e.parentElement;
  return e ? light(getComputedStyle(e).backgroundColor) : 1;
}
const root = document.querySelector(".mae-explorer"), texts = {};
const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
const edge = document.documentElement.clientWidth, seen = e => e.getClientRects().length > 0;
const scrolls = e => e.closest(".drawing");
let letters = 99;
for (const e of root.querySelectorAll("*")) {
  if (!seen(e) || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  const style = getComputedStyle(e), svg = e.closest("svg");
  const colour = e.tagName === "text" ? style.fill : style.color;
  texts[e.tagName + " " + e.textContent.slice(0, 20)] = ratio(light(colour), ground(e));
  letters = Math.min(letters, parseFloat(style.fontSize)
    * (svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1));
}
return { ground: ground(root), letters, page: document.documentElement.scrollWidth,
  faint: Object.entries(texts).filter(([, value]) => value < 4.5), texts: Object.keys(texts).length,
  outside: [...root.querySelectorAll("*")].filter(e => seen(e) && !scrolls(e)
    && e.getBoundingClientRect().right > edge + .5).map(e => e.outerHTML.slice(0, 60)),
  small: [...root.querySelectorAll("button, select, input[type=range], .actions label")]
    .filter(e => seen(e) && e.getBoundingClientRect().height < 40 && !e.closest("th"))
    .map(e => e.outerHTML.slice(0, 60)) };
"""
THEMES = [
    ("light", "", "light"), ("dark", "", "dark"), ("dark", 'data-theme="light"', "light"),
    ("light", 'data-theme="dark"', "dark"),
]  # fmt: skip


@pytest.mark.parametrize("width", [390, 1000])
@pytest.mark.parametrize("system, attributes, wanted", THEMES)
def test_phone_and_desk_in_light_and_dark(
    tab, page, kind, tmp_path, width, system, attributes, wanted
):
    tab.screen(width, 1800, system)
    tab.open(write(tmp_path, explorer(kind).html(), attributes) + hash_of(kind, LINKS[kind][1]))
    found = tab.js(LOOK)
    assert found["page"] <= width and found["outside"] == [] and found["small"] == []
    assert (found["ground"] < 0.05) == (wanted == "dark")
    assert found["texts"] > 8 and found["faint"] == [] and found["letters"] >= 9


def test_on_paper_it_is_light_and_without_controls(tab, page, kind, tmp_path):
    tab.open(write(tmp_path, explorer(kind).html(), 'data-theme="dark"'))
    tab.cdp("Emulation.setEmulatedMedia", media="print", features=[])
    found = tab.js(LOOK)
    assert found["ground"] > 0.9 and found["faint"] == [] and found["small"] == []
    assert (
        tab.js("return getComputedStyle(document.querySelector('[data-role=controls]')).display")
        == "none"
    )
