"""Drawings of latent graphs and of what a mask makes of them: geometry, shapes and colours in one
place, as Matplotlib figures and as SVG.

Every kind of node has a shape and a colour of its own; edges run down. Nothing is located here: c,
s_m and s_mc come from `mae_lib.theory.shared`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Polygon
from matplotlib.path import Path

from mae_lib.base.errors import InputError
from mae_lib.drawing.figures import PALETTE
from mae_lib.theory.graph import LatentGraph, Name
from mae_lib.theory.shared import SharedInformation


@dataclass(frozen=True)
class Look:
    """How one kind of node is drawn: its words in a legend, corners [N, 2] in a circle of radius 1
    (y down), colour, filled or open."""

    words: str
    corners: np.ndarray
    colour: str
    filled: bool


def _ring(corners: int, turn: float = 0, inner: float = 1, size: float = 1) -> np.ndarray:
    """Corners of a regular polygon, the first at the top and turned by ``turn`` steps; every other
    one at radius ``inner``."""
    angle = 2 * np.pi * (np.arange(corners) + turn) / corners
    radius = size * np.where(np.arange(corners) % 2, inner, 1)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], 1)


MASKED, VISIBLE, SHARED, QUIET = PALETTE[1], PALETTE[0], PALETTE[2], "#6E7781"
_CROSS = (
    np.array(
        [
            (-2, -3),
            (0, -1),
            (2, -3),
            (3, -2),
            (1, 0),
            (3, 2),
            (2, 3),
            (0, 1),
            (-2, 3),
            (-3, 2),
            (-1, 0),
            (-3, -2),
        ]
    )
    * 0.3
)

LOOKS = {
    "masked": Look("masked observable", _ring(4, 0.5, size=1.2), MASKED, True),
    "visible": Look("visible observable", _ring(48, size=0.95), VISIBLE, False),
    "ignored": Look("ignored observable", _CROSS, QUIET, True),
    "c": Look("latent in c", _ring(10, inner=0.5, size=1.3), SHARED, True),
    "common": Look("other common ancestor", _ring(4, size=1.2), SHARED, False),
    "s_m": Look("wholly masked latent (in s_m)", _ring(3, 0.5, size=1.3), MASKED, True),
    "s_mc": Look("wholly visible latent (in s_mc)", _ring(3, size=1.3), VISIBLE, False),
    "unseen": Look("latent over ignored observables only", _ring(8, 0.5, size=0.9), QUIET, False),
    "latent": Look("latent", _ring(48, size=0.95), QUIET, False),
    "observable": Look("observable", _ring(4, 0.5, size=1.2), QUIET, True),
}
"""Kind of node → look; the last two are for a graph without a mask."""

STEP = (34.0, 64.0)
"""Between neighbouring observables and between levels, in points: names of about 9 points fit below
16 observables across a page."""
RADIUS, MARGIN = 8.0, 22.0


def node_kinds(graph: LatentGraph, shared: SharedInformation | None = None) -> dict[Name, str]:
    """Node → the key of its look in `LOOKS`."""
    if shared is None:
        return {v: "latent" if graph.levels[v] else "observable" for v in graph.nodes}
    if shared.graph is not graph and shared.graph != graph:
        raise InputError(
            f"the shared information belongs to another graph, {shared.graph!r}: locate it in the"
            " one that is drawn"
        )
    kinds = dict.fromkeys(graph.nodes, "unseen")
    # a later kind says more
    for kind in ("common", "s_m", "s_mc", "c", "masked", "visible", "ignored"):
        kinds.update(dict.fromkeys(getattr(shared, kind), kind))
    return kinds


def layout(graph: LatentGraph) -> Mapping[Name, tuple[float, float]]:
    """``graph.positions``, or the same with the observables in the order in which a walk down
    the graph meets them, whichever has the shorter edges: the blocks of a quad-tree then stand
    side by side."""
    met: dict[Name, None] = {}
    stack = [v for v in reversed(graph.nodes) if not graph.parents[v]]
    while stack:
        v = stack.pop()
        met[v] = None
        stack.extend(w for w in reversed(graph.children[v]) if w not in met)
    walked = LatentGraph(
        graph.edges, [v for v in met if not graph.levels[v]], graph.noise_dims
    ).positions
    length = lambda places: sum(abs(places[a][0] - places[b][0]) for a, b in graph.edges)
    return walked if length(walked) < length(graph.positions) else graph.positions


@dataclass(frozen=True)
class Geometry:
    """A graph on paper, in points, y down: places of the nodes, edges as (start, control, end) of a
    curve, arrow heads as triangles."""

    width: float
    height: float
    places: dict[Name, np.ndarray]
    curves: list[np.ndarray]
    heads: list[np.ndarray]


def geometry(graph: LatentGraph) -> Geometry:
    """Where everything is drawn; an edge that would run over a third node bends around it."""
    found = layout(graph)
    xs = [x for x, _ in found.values()]
    places = {
        v: np.array([MARGIN + (x - min(xs)) * STEP[0], MARGIN + (graph.height - y) * STEP[1]])
        for v in graph.nodes
        for x, y in [found[v]]
    }
    width = max(
        [
            2 * MARGIN + (max(xs) - min(xs)) * STEP[0],
            *(places[z][0] + RADIUS + 8 + 5.5 * len(str(z)) for z in graph.latents),
        ]
    )
    height = 2 * MARGIN + graph.height * STEP[1] + 6
    labels = {z: places[z] + (RADIUS + 10, 0) for z in graph.latents}
    t = np.linspace(0, 1, 25)[:, None]
    curves, heads = [], []
    for a, b in graph.edges:
        start, end = places[a], places[b]
        others = np.array(
            [p for taken in (places, labels) for v, p in taken.items() if v not in (a, b)]
        ).reshape(-1, 2)
        side = np.array([end[1] - start[1], start[0] - end[0]]) / np.linalg.norm(end - start)
        for bend in (0, 24, -24, 48, -48, 72, -72):
            control = (start + end) / 2 + bend * side
            points = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
            inside = (points[:, 0] > 2) & (points[:, 0] < width - 2)
            if (
                inside.all()
                and not (np.linalg.norm(points[:, None] - others, axis=2) < 1.5 * RADIUS).any()
            ):
                break
        else:
            control = (start + end) / 2
        along = (end - control) / np.linalg.norm(end - control)
        across = np.array([along[1], -along[0]])
        tip = end - (RADIUS + 4) * along
        curves.append(np.array([start, control, tip]))
        heads.append(
            np.array([tip, tip - 6 * along + 2.5 * across, tip - 6 * along - 2.5 * across])
        )
    return Geometry(width, height, places, curves, heads)


def latent_graph(
    graph: LatentGraph, shared: SharedInformation | None = None, title: str = ""
) -> Figure:
    """A graph, and what a mask makes of it where ``shared`` is given: every kind of node by shape
    and colour, with a legend.

    Raises:
        InputError: ``shared`` belongs to another graph.
    """
    return _draw([(title, graph, shared)], 1)


def latent_graphs(
    panels: Mapping[str, SharedInformation | LatentGraph], columns: int = 3
) -> Figure:
    """Several at once, title → shared information or a graph without a mask, ``columns`` in one
    row, one legend for all."""
    if not panels or columns < 1:
        raise InputError("there are no graphs to draw, or no columns to draw them in")
    drawn = [
        (title, p, None) if isinstance(p, LatentGraph) else (title, p.graph, p)
        for title, p in panels.items()
    ]
    return _draw(drawn, min(columns, len(drawn)))


def _draw(panels: list[tuple[str, LatentGraph, SharedInformation | None]], columns: int) -> Figure:
    drawings = [geometry(graph) for _, graph, _ in panels]
    kinds = [node_kinds(graph, shared) for _, graph, shared in panels]
    present = [kind for kind in LOOKS if any(kind in found.values() for found in kinds)]
    width, height = max(d.width for d in drawings), max(d.height for d in drawings)
    lines, head = -(-len(panels) // columns), 22.0 * any(title for title, _, _ in panels)
    across = max(columns * width, 240.0)
    entries = max(1, int(across // 170))
    foot = 15.0 * -(-len(present) // entries) + 8
    down = lines * (height + head) + foot
    figure = plt.figure(figsize=(across / 72, down / 72))
    for k, ((title, _, _), drawing, found) in enumerate(zip(panels, drawings, kinds)):
        left = (across - columns * width) / 2 + (k % columns) * width
        axis = figure.add_axes(
            (
                left / across,
                (foot + (lines - 1 - k // columns) * (height + head)) / down,
                width / across,
                height / down,
            )
        )
        shift = (width - drawing.width) / 2
        axis.set(xlim=(-shift, width - shift), ylim=(height, 0))
        axis.axis("off")
        axis.set_title(title, fontsize=10, pad=6)
        for curve, triangle in zip(drawing.curves, drawing.heads):
            axis.add_patch(
                PathPatch(
                    Path(curve, [Path.MOVETO, Path.CURVE3, Path.CURVE3]),
                    fill=False,
                    edgecolor="#7d8590",
                    lw=0.9,
                    zorder=1,
                )
            )
            axis.add_patch(Polygon(triangle, facecolor="#7d8590", lw=0, zorder=1))
        halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
        for v, kind in found.items():
            look, (x, y) = LOOKS[kind], drawing.places[v]
            face = look.colour if look.filled else "white"
            axis.add_patch(
                Polygon(
                    (x, y) + RADIUS * look.corners,
                    facecolor=face,
                    edgecolor=look.colour,
                    lw=1.5,
                    zorder=2,
                    gid=f"{v}: {kind}",
                )
            )
            beside = _beside(kind)
            place = (x + RADIUS + 5, y) if beside else (x, y + RADIUS + 4)
            axis.text(
                *place,
                str(v),
                fontsize=9,
                ha="left" if beside else "center",
                va="center" if beside else "top",
                zorder=3,
                path_effects=halo,
            )
    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker=np.append(look.corners, look.corners[:1], 0) * (1, -1),
            ms=5.5 * np.abs(look.corners).max(),
            mew=1.3,
            color=look.colour,
            mfc=look.colour if look.filled else "white",
            label=re.sub(
                r"s_(mc?)\b", lambda m: "$s_m$" if m[1] == "m" else "$s_{m^c}$", look.words
            ),
        )
        for look in (LOOKS[kind] for kind in present)
    ]
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=entries,
        fontsize=8.5,
        frameon=False,
        handletextpad=0.3,
        columnspacing=1.2,
        borderaxespad=0.2,
    )
    return figure


def _beside(kind: str) -> bool:
    """Whether a node's name stands beside it, as a latent's, or below, as an observable's."""
    return kind not in ("masked", "visible", "ignored", "observable")


def svg(graph: LatentGraph, shared: SharedInformation | None = None) -> str:
    """The same drawing as an SVG element whose colours are the page's: classes ``edge``, ``arrow``
    and ``node``, the kind in ``data-kind``.

    Nodes carry their place among ``graph.nodes`` in ``data-node``, so that a page can give them
    another kind.
    """
    drawing, kinds = geometry(graph), node_kinds(graph, shared)
    size = f'viewBox="0 0 {drawing.width:.0f} {drawing.height:.0f}" width="{drawing.width:.0f}"'
    parts = [f'<svg {size} role="img" aria-label="the graph, its nodes marked by kind">']
    for (start, control, end), triangle in zip(drawing.curves, drawing.heads):
        parts.append(
            f'<path class="edge" d="M{_points([start])}Q{_points([control, end])}"/><path'
            f' class="arrow" d="M{_points(triangle)}Z"/>'
        )
    for k, v in enumerate(graph.nodes):
        x, y = drawing.places[v]
        beside = _beside(kinds[v])
        words = (
            f'<text x="{RADIUS + 5:g}" y="4">'
            if beside
            else f'<text y="{RADIUS + 14:g}" text-anchor="middle">'
        )
        parts.append(
            f'<g class="node" data-node="{k}" data-kind="{kinds[v]}" transform="translate({x:.1f}'
            f' {y:.1f})"><path d="{outline(kinds[v])}"/>{words}{html.escape(str(v))}</text></g>'
        )
    return "".join(parts) + "</svg>"


def outline(kind: str) -> str:
    """The shape of a kind of node as SVG path data around (0, 0)."""
    return f"M{_points(RADIUS * LOOKS[kind].corners)}Z"


def legend_html(kinds: Iterable[str]) -> str:
    """A legend of kinds of node as HTML, in the classes of `svg`."""
    words = {
        kind: re.sub(
            r"s_(mc?)\b",
            lambda m: f"<i>s</i><sub>m{'ᶜ' if m[1] == 'mc' else ''}</sub>",
            LOOKS[kind].words,
        )
        for kind in kinds
    }
    mark = (
        '<svg viewBox="-13 -13 26 26" width="22" height="22" aria-hidden="true"><g class="node"'
        ' data-kind="{}"><path d="{}"/></g></svg>'
    )
    return "".join(
        f"<span>{mark.format(kind, outline(kind))}<span>{text}</span></span>"
        for kind, text in words.items()
    )


def _points(points: Iterable[np.ndarray]) -> str:
    return " ".join(f"{round(float(x), 1):g},{round(float(y), 1):g}" for x, y in points)
