"""What holds of every explorer without a browser: its page keeps to itself and is whole before its
script, its live face says the same, its links lead back."""

from __future__ import annotations

import re

import pytest
from bs4 import BeautifulSoup

from explorers import HOSTILE, KINDS, explorer
from looking import Page, drawn  # noqa: F401 (renders and closes every figure)
from mae_lib.base.errors import InputError

pytestmark = pytest.mark.parametrize("kind", KINDS)


def test_the_page_is_one_fragment_that_keeps_to_itself(kind):
    text = explorer(kind).html()
    page = Page(text)
    assert page.open == [] and len(page.scripts) == 1 and len(set(page.ids)) == len(page.ids)
    assert text == explorer(kind).html() == explorer(kind)._repr_html_()  # the same at every build
    assert f'id = "{page.ids[0]}"' in page.scripts[0]
    own = re.sub(r'data:image/webp;base64,[\w+/=]+|"(tables|index|examples)":[^}]*', "", text)
    own = own.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|[\"' ]//[a-z]|@import|url\(|innerHTML|fetch|XMLHttp", own)
    for _, attributes in page.elements:
        assert not {"onclick", "onload"} & attributes.keys()
        for key in ("src", "href"):
            assert re.match(r"data:image/|#|08_linear|$", attributes.get(key, ""))
    assert len(text.encode()) < 600_000


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_cannot_break_out(kind, name):
    shown = explorer(kind, name)
    page, usual = Page(shown.html()), Page(explorer(kind).html())
    assert page.open == [] and len(page.scripts) == 1
    assert page.scripts[0].rstrip().endswith("})();") == usual.scripts[0].rstrip().endswith("})();")
    assert "<" not in page.scripts[0].split("const data = ")[1].split("\n")[0]
    assert not BeautifulSoup(shown.html(), "html.parser").find(id="out")
    # the rows of the ledger stand in its table; in those of worth and of a mask nothing has a name
    assert name in _texts(page.data()) or kind in ("ledger", "mask", "worth")


def _texts(value) -> list:
    """All texts in lists and tables."""
    if isinstance(value, dict):
        value = list(value.values())
    lists = isinstance(value, list)
    return [text for each in value for text in _texts(each)] if lists else [value]


def test_before_its_script_the_page_says_all_of_its_first_state(kind):
    shown = explorer(kind)
    soup = BeautifulSoup(shown.html(), "html.parser")
    panes = soup.select("[data-pane]:not([hidden])")
    assert len(panes) == 1 and soup.select_one("[data-role=controls]").has_attr("hidden")
    assert soup.select_one("[data-role=link]").has_attr("hidden")
    assert str(BeautifulSoup(shown.picture(*shown.start), "html.parser")) in str(panes[0])
    if kind != "ledger":
        for key, said in shown.reading(*shown.start).items():
            assert soup.select_one(f"[data-role={key}]").get_text() == said
        assert soup.select_one("[data-role=command]").get_text() == shown.command(*shown.start)


def test_the_live_face_begins_at_a_link_and_says_the_same(kind):
    shown = explorer(kind)
    for link in (shown.link(*shown.start), LINKS[kind]):
        state = shown.state(link)
        assert shown.link(*state) == link
        view = shown.widget(link).children[-1].value
        assert view == shown.live_html(*state)
        text = BeautifulSoup(view, "html.parser").get_text()
        assert f'explorer.widget("{link}")' in text.replace("'", '"')
        if kind != "ledger":
            assert all(said in text for said in shown.reading(*state).values())
            assert shown.CHAPTER.rpartition("/")[2][:-6] + ".html" + link in text


LINKS = {
    "mask": "#mask=5x16:0.5:2:0f3c:cls",
    "masking": "#masking=r75-u16-p4-s0:1:1",
    "attention": "#attention=r75-u16-p4-s0:1:0:1:20",
    "shared": "#shared=quad-tree:0110100000000001",
    "levels": "#levels=pairs:block:1:0.25:2:chance",
    "worth": "#worth=0.95:0.0:2:0.3",
    "ledger": "#ledger?verdict=reproduced&part=theory&text=a&sort=-claim",
}


def test_a_link_that_leads_nowhere_is_refused(kind):
    for link in ("#nothing=1:2", LINKS[kind].replace("=", "=none", 1), LINKS[kind] + "0"):
        if kind == "ledger" and "none" in link:
            continue  # a verdict that there is not chooses no row
        with pytest.raises(InputError):
            explorer(kind).state(link)


def test_an_error_of_the_live_face_stands_beside_its_controls(kind, monkeypatch):
    shown = explorer(kind)
    box = shown.widget()
    *_, error, view = box.children
    before, control = view.value, next(c for c in box.children if hasattr(c, "options"))
    assert error.value == ""

    def fails(*state):
        raise ValueError("a <broken> thing")

    monkeypatch.setattr(shown, "picture", fails)
    first = control.value
    control.value = next(value for _, value in control.options if value != first)
    assert "ValueError: a &lt;broken&gt; thing" in error.value and view.value == before
    monkeypatch.undo()
    control.value = first
    assert error.value == "" and view.value == before


def test_words_of_the_live_faces_controls_are_not_cut_off(kind):
    for control in explorer(kind).widget().children:
        if type(control).__name__ == "SelectionSlider":
            assert max(len(words) for words, _ in control.options) <= 16


def test_the_printed_face_is_drawn(kind):
    assert explorer(kind).figure().axes
