"""What tests look at pages and figures with: the elements and data of an HTML fragment, and a
fixture that renders every figure of a test."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest


class Page(HTMLParser):
    """The elements of a fragment, and the text inside its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.scripts, self.elements = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for key, value in attributes if key == "id"]
        if tag not in ("input", "img", "br"):
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data

    def data(self) -> dict:
        return json.JSONDecoder().raw_decode(
            self.scripts[0], self.scripts[0].index("{", self.scripts[0].index("const data"))
        )[0]


@pytest.fixture(autouse=True)
def drawn():
    """Closes what a test drew; rendering it finds what only rendering finds."""
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
        plt.close(number)
