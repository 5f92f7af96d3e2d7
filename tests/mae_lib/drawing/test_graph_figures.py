"""Drawings of graphs: every node where and what it is, no two kinds alike, nothing drawn over
anything else."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from looking import drawn  # noqa: F401 (renders and closes every figure)
from mae_lib.base.errors import InputError
from mae_lib.drawing import graph_figures
from mae_lib.drawing.graph_figures import (
    LOOKS,
    RADIUS,
    geometry,
    latent_graph,
    latent_graphs,
    layout,
    node_kinds,
    svg,
)
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import figure_4, quad_tree, random_dag, tree
from mae_lib.theory.shared import locate_shared

GRAPH, MASKS = figure_4()


def nodes_of(axis) -> dict[str, Polygon]:
    return {patch.get_gid(): patch for patch in axis.patches if patch.get_gid()}


def test_every_kind_of_node_has_a_shape_and_a_look_of_its_own():
    outlines = [
        graph_figures.outline(kind) for kind in LOOKS if kind not in ("latent", "observable")
    ]
    assert len(set(outlines)) == len(outlines)
    assert len({look.words for look in LOOKS.values()}) == len(LOOKS)
    assert (
        len(
            {
                (len(look.corners), round(float(look.corners[0, 1]), 3))
                for kind, look in LOOKS.items()
                if kind not in ("latent", "observable")
            }
        )
        == 8
    )
    for look in LOOKS.values():
        assert np.abs(look.corners).max() <= 1.3


def test_a_figure_shows_the_answer():
    shared = locate_shared(GRAPH, ["x1", "x2", "x3"], ["x7", "x8"])
    kinds = node_kinds(GRAPH, shared)
    assert kinds == {
        "z1": "common",
        "z2": "s_mc",
        "z3": "s_m",
        "z4": "c",
        "z5": "s_mc",
        "z6": "unseen",
        "x1": "masked",
        "x2": "masked",
        "x3": "masked",
        "x4": "visible",
        "x5": "visible",
        "x6": "visible",
        "x7": "ignored",
        "x8": "ignored",
    }
    figure = latent_graph(GRAPH, shared, "a title")
    (axis,) = figure.axes
    assert axis.get_title() == "a title" and [text.get_text() for text in axis.texts] == list(
        GRAPH.nodes
    )
    drawn, places = nodes_of(axis), geometry(GRAPH).places
    assert list(drawn) == [f"{v}: {kind}" for v, kind in kinds.items()]
    for (v, kind), patch in zip(kinds.items(), drawn.values()):
        assert np.allclose(patch.get_xy()[:-1], places[v] + RADIUS * LOOKS[kind].corners)
        assert to_hex(patch.get_edgecolor()) == to_hex(LOOKS[kind].colour)
        assert to_hex(patch.get_facecolor()) == (
            to_hex(LOOKS[kind].colour) if LOOKS[kind].filled else "#ffffff"
        )
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert (
        len(words) == 8
        and words[0] == "masked observable"
        and "wholly visible latent (in $s_{m^c}$)" in words
    )
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the roots at the top: y runs down
    assert places["z1"][1] < places["z3"][1] < places["x1"][1]


def test_a_graph_alone_and_several_panels():
    assert [t.get_text() for t in latent_graph(GRAPH).legends[0].get_texts()] == [
        "latent",
        "observable",
    ]
    figure = latent_graphs(
        {
            **{title: locate_shared(GRAPH, mask) for title, mask in MASKS.items()},
            "plain": quad_tree((2, 2)),
        },
        columns=3,
    )
    assert isinstance(figure, Figure) and [axis.get_title() for axis in figure.axes] == [
        "left",
        "middle",
        "right",
        "plain",
    ]
    stars = [
        [name.split(":")[0] for name in nodes_of(axis) if name.endswith(": c")]
        for axis in figure.axes
    ]
    assert stars == [["z3"], ["z6"], ["z1", "z2"], []]
    boxes = [axis.get_position() for axis in figure.axes]
    assert boxes[3].y1 < boxes[0].y0 and boxes[0].x1 <= boxes[1].x0 + 1e-9


ODD = [
    LatentGraph([], ["x"]),
    LatentGraph([], [0, 1]),
    tree(2, 1),
    random_dag(8, 16, 3),
    LatentGraph([("a latent of many words", "$x_1$")], ["$x_1$"]),
]


@pytest.mark.parametrize("graph", ODD)
def test_the_least_and_the_oddest(graph):
    latent_graph(graph, locate_shared(graph, graph.observables[:1]))
    found = geometry(graph)
    for x, y in found.places.values():
        assert RADIUS < x < found.width - RADIUS and RADIUS < y < found.height - RADIUS


CROSSED = LatentGraph(
    [("z1", "z3"), ("z1", "z4"), ("z2", "z4"), ("z2", "z5"), ("z3", "x1"), ("z3", "x2")]
    + [("z4", "x2"), ("z4", "x3"), ("z5", "x3"), ("z5", "x4")],
    ["x1", "x2", "x3", "x4"],
)


@pytest.mark.parametrize("graph", [GRAPH, tree(2, 3), quad_tree((4, 4)), CROSSED], ids=repr)
def test_nothing_is_drawn_over_anything(graph):
    found = geometry(graph)
    for a, b in itertools.combinations(found.places.values(), 2):
        assert np.linalg.norm(a - b) > 2.6 * RADIUS
    t = np.linspace(0, 1, 200)[:, None]
    for (a, b), (start, control, end) in zip(graph.edges, found.curves):
        points = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
        assert (
            np.allclose(start, found.places[a])
            and RADIUS < np.linalg.norm(end - found.places[b]) < 2 * RADIUS
        )
        for v, place in found.places.items():
            if v not in (a, b):
                assert np.linalg.norm(points - place, axis=1).min() > 1.4 * RADIUS, (a, b, v)


def test_blocks_of_a_grid_stand_side_by_side():
    graph = quad_tree((4, 4))
    order = sorted(graph.observables, key=lambda x: layout(graph)[x][0])
    assert order[:8] == ["x0", "x1", "x4", "x5", "x2", "x3", "x6", "x7"]
    assert layout(GRAPH) == GRAPH.positions


class Drawing(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def test_the_svg_is_the_same_drawing():
    shared = locate_shared(GRAPH, MASKS["right"])
    page, kinds, found = Drawing(svg(GRAPH, shared)), node_kinds(GRAPH, shared), geometry(GRAPH)
    groups = [a for tag, a in page.elements if tag == "g"]
    assert [(int(a["data-node"]), a["data-kind"]) for a in groups] == list(
        enumerate(kinds.values())
    )
    for a, place in zip(groups, found.places.values()):
        x, y = map(float, re.findall(r"[\d.]+", a["transform"]))
        assert (x, y) == pytest.approx(tuple(place), abs=0.06)
    assert page.texts == list(GRAPH.nodes)
    paths = [a for tag, a in page.elements if tag == "path"]
    assert [a["d"] for a in paths if "class" not in a] == [
        graph_figures.outline(kind) for kind in kinds.values()
    ]
    assert (
        sum(a.get("class") == "edge" for a in paths)
        == sum(a.get("class") == "arrow" for a in paths)
        == len(GRAPH.edges)
    )
    assert Drawing(svg(LatentGraph([("<b>", "x & y")], ["x & y"]))).texts == ["<b>", "x & y"]


def test_bad_input_is_named():
    with pytest.raises(InputError, match="another graph"):
        latent_graph(tree(2, 3), locate_shared(GRAPH, ["x1"]))
    for panels, columns in (({}, 3), ({"a": GRAPH}, 0)):
        with pytest.raises(InputError, match="no graphs to draw"):
            latent_graphs(panels, columns)
