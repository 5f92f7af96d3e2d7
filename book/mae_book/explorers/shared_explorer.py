"""The explorer of shared information (§2.3): mask observables of a small graph and see c, s_m,
s_mᶜ, their levels and dimensions. Three faces as the other explorers have; its page holds every
mask, tabulated by `locate_shared_batch`.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure

from mae_book.explorers.explorer import Explorer, Live, Options, slider
from mae_lib.base.errors import InputError
from mae_lib.drawing import graph_figures
from mae_lib.theory.graph import LatentGraph, Name
from mae_lib.theory.graphs import figure_4, quad_tree, tree
from mae_lib.theory.shared import (
    SharedInformation,
    common_ancestors_batch,
    locate_shared,
    locate_shared_batch,
)

MOST_OBSERVABLES = 16
"""A page tabulates 2^n masks: 65 536 of them are 90 kB of it, twice as many observables would be 4
billion."""

LETTERS = {"c": "c", "common": "a", "s_m": "m", "s_mc": "v"}
"""Kind of latent → its letter in a page's table."""


def explorer_graphs() -> dict[str, LatentGraph]:
    """The graphs to choose from in the explorer and by chapter 3's parameter ``graph``: name →
    graph."""
    numbered = lambda count: [f"x{k + 1}" for k in range(count)]
    under = lambda parents: [(z, f"x{k}") for z, columns in parents.items() for k in columns]
    edges = lambda text: [tuple(edge.split()) for edge in text.split(", ")]
    cross = edges("z1 z3, z1 z4, z2 z4, z2 z5")
    skip = edges("z3 z6, z3 z7, z4 z7, z4 z8, z5 z8, z5 z9, z3 x7, z2 x12")
    ends = under({"z3": range(1, 5), "z4": range(4, 7), "z5": range(6, 10)})
    wide = under({"z6": range(1, 4), "z7": range(4, 7), "z8": range(7, 10), "z9": range(10, 13)})
    return {
        "figure-4": figure_4()[0],
        "binary-tree": tree(2, 3),
        "quad-tree": quad_tree((4, 4)),
        "cross-edges": LatentGraph(cross + ends, numbered(9)),
        "skip-edges": LatentGraph(cross + skip + wide, numbered(12)),
    }


EXPLORER_GRIDS = {"quad-tree": (4, 4)}
"""Which of `explorer_graphs` have patches for observables: name → (rows, columns)."""


def tabulate(graph: LatentGraph) -> tuple[np.ndarray, list[str], list[SharedInformation]]:
    """Theorem 1's answer to all 2^n masks of a graph, equal answers once. Mask m, a number, hides
    observable k where its bit k is set.

    Returns:
        int64 [2^n], mask → its answer; the letters of the graph's latents (`LETTERS`), one text an
        answer; and an answer's shared information, for the first mask that has it: its c, CA and
        latents of s_m and s_mᶜ are all such masks'.

    Raises:
        InputError: more than `MOST_OBSERVABLES` observables.
    """
    _check_size(graph, "the graph")
    names = graph.observables
    masks = (np.arange(2 ** len(names))[:, None] >> np.arange(len(names)) & 1).astype(bool)
    c, common = locate_shared_batch(graph, masks), common_ancestors_batch(graph, masks)
    # A latent outside CA is wholly masked or wholly visible: one observable below speaks for all.
    speaks = lambda z: next(k for k, x in enumerate(names) if x in graph.descendants[z])
    below = [speaks(z) for z in graph.latents]
    c_, a, m, v = LETTERS.values()
    letters = np.where(c, c_, np.where(common, a, np.where(masks[:, below], m, v)))
    # Masks of nothing and of everything are answers of their own: c is empty for another reason.
    ends = np.stack([~masks.any(1), masks.all(1)], 1).astype("<U1")
    answers = np.concatenate([letters, ends], 1)
    _, first, index = np.unique(answers, axis=0, return_index=True, return_inverse=True)
    examples = [locate_shared(graph, np.array(names, object)[masks[k]]) for k in first]
    return index.reshape(-1).astype(np.int64), ["".join(letters[k]) for k in first], examples


def mask_units(
    graph: LatentGraph, grid: tuple[int, int] | None = None
) -> dict[int, list[list[int]]]:
    """Mask unit → its blocks, lists of places among the observables: runs of neighbours or, on a
    grid (rows, columns), squares of patches.

    Only units that divide the row, or both sides of the grid, and give at least two blocks.
    """
    rows, columns = grid or (1, len(graph.observables))
    found = {}
    for unit in range(1, columns + 1):
        high = unit if grid else 1
        if rows % high == 0 and columns % unit == 0 and (rows // high) * (columns // unit) > 1:
            blocks: dict[tuple[int, int], list[int]] = {}
            for k in range(rows * columns):
                blocks.setdefault((k // columns // high, k % columns // unit), []).append(k)
            found[unit] = list(blocks.values())
    return found


def reading(shared: SharedInformation) -> dict[str, str]:
    """What is said of an answer, whichever its mask: ``words``, ``c``, ``levels``, ``dims``."""
    counts = shared.level_spectrum.items()
    levels = ", ".join(f"{count} at level {level}" for level, count in counts)
    return {
        "words": shared.explanation,
        "c": _listed(shared, "c") or "∅",
        "levels": f"{levels}; mean {shared.mean_level:.3g}" if shared.c else "–",
        "dims": f"{shared.intrinsic_dim} intrinsic, {shared.coordinate_dim} as coordinates",
    }


class SharedExplorer(Explorer):
    """What the masked and the visible part of a small graph share, mask by mask.

    A state is a graph's name and the frozenset of its masked observables.

    Args:
        graphs: name → graph of at most 16 observables; `explorer_graphs` where none is given.
            selected: the one shown first.
        masked: its observables masked at first; the first quarter where none is given.
        grids: name → (rows, columns) of those whose observables are patches, row by row;
            `EXPLORER_GRIDS` where no graphs are given.

    Raises:
        InputError: no graph, one with too many observables or with equal names on its nodes, a grid
            that does not fit, a name that is none.
    """

    KIND, TITLE = "shared", "Explorer of shared information"
    CHAPTER = "notebooks/03_locating_shared_information.ipynb"
    ROLES: ClassVar = {"graph": "graph", "masked": ""}
    SELECTS, DEPENDENT = ("graph",), ("masked",)
    SAYS: ClassVar = {
        "words": "", "c": "c", "levels": "levels", "dims": "dimension of c",
        "s_m": "<i>s</i><sub>m</sub>", "s_mc": "<i>s</i><sub>mᶜ</sub>",
    }  # fmt: skip

    def __init__(
        self,
        graphs: Mapping[str, LatentGraph] | None = None,
        selected: str | None = None,
        masked: Collection[Name] | None = None,
        grids: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self.graphs = explorer_graphs() if graphs is None else dict(graphs)
        self.grids = dict(EXPLORER_GRIDS if graphs is None and grids is None else grids or {})
        if not self.graphs:
            raise InputError("the explorer needs at least one graph")
        for name, graph in self.graphs.items():
            _check_size(graph, f"graph {name!r}")
            if len(set(map(str, graph.nodes))) < len(graph.nodes):
                said = f"two nodes of graph {name!r} are written alike"
                raise InputError(f"{said}: give each node a name of its own")
        for name, grid in self.grids.items():
            check_grid(name, self._graph(name), grid)
        name = next(iter(self.graphs)) if selected is None else selected
        chosen = first_mask(self._graph(name)) if masked is None else masked
        self.start = (name, self._mask(name, chosen))

    def options(self, role: str, *before: Any) -> Options:
        return {name: (name, name) for name in self.graphs}

    def word(self, role: str, value: Any, *before: Any) -> str:
        if role == "graph":
            return str(value) if self._graph(value) else ""
        hidden = self._mask(*before, value)
        return "".join("01"[x in hidden] for x in self._graph(*before).observables)

    def value(self, role: str, word: str, *before: Any) -> Any:
        if role == "graph":
            return super().value(role, word)
        names = self._graph(*before).observables
        if len(word) != len(names) or set(word) - set("01"):
            raise InputError(f"{word!r} is no mask: write a 0 or 1 for each of {len(names)}")
        return frozenset(x for x, bit in zip(names, word) if bit == "1")

    def nearest(self, role: str, wanted: Any, *before: Any) -> Any:
        return wanted

    def adapted(self, state: tuple, changes: dict[str, Any]) -> dict[str, Any]:
        name = changes.get("graph")
        return changes if name is None else {"masked": self.mask_at_first(name), **changes}

    def mask_at_first(self, name: str) -> frozenset[Name]:
        """The mask that a graph is shown with when it is chosen."""
        return self.start[1] if name == self.start[0] else first_mask(self._graph(name))

    def shared(self) -> SharedInformation:
        """Theorem 1's answer for the graph and mask shown first."""
        return locate_shared(self.graphs[self.start[0]], self.start[1])

    def reading(self, name: str, masked: Collection[Name]) -> dict[str, str]:
        shared = locate_shared(self._graph(name), masked)
        noises = lambda kind: f"noises of {found}" if (found := _listed(shared, kind)) else "∅"
        return {**reading(shared), "s_m": noises("s_m"), "s_mc": noises("s_mc")}

    def command(self, name: str | None = None, masked: Collection[Name] | None = None) -> str:
        """The command that runs chapter 3 on a state (the first one where none is given); for a
        graph that chapter does not know, the call."""
        name = self.start[0] if name is None else name
        masked = self._mask(name, self.mask_at_first(name) if masked is None else masked)
        before, names, after = self._command(name)
        spelt = zip(self.graphs[name].observables, names)
        return before + ", ".join(word for x, word in spelt if x in masked) + after

    def figure(self) -> Figure:
        """The printed face: the first state, drawn."""
        return graph_figures.latent_graph(self.graphs[self.start[0]], self.shared())

    def random_mask(
        self, name: str, unit: int, hidden: int, generator: np.random.Generator
    ) -> frozenset[Name]:
        """``hidden`` blocks of the mask unit ``unit``, drawn at random: names of observables.
        InputError for what the graph has not."""
        units, names = self._units(name), self._graph(name).observables
        if unit not in units or not 0 <= hidden <= len(units[unit]):
            offered = ", ".join(f"{u} ({len(blocks)} blocks)" for u, blocks in units.items())
            said = f"graph {name!r} has no {hidden} blocks of unit {unit!r} to mask"
            raise InputError(f"{said}: its units are {offered}")
        drawn = generator.permutation(len(units[unit]))[:hidden]
        return frozenset(names[k] for block in drawn for k in units[unit][block])

    # ----------------------------------------------------------------------------------------------
    # The page and the widget

    def controls_html(self) -> str:
        sliders = slider("unit", "unit") + slider("share", "ratio")
        return (
            super().controls_html().removesuffix("</div>")
            + '<p class="remark">Mask observables, here or in the drawing:</p><div role="group"'
            ' class="observables" aria-label="observables" data-role="observables"></div>'
            f'<p class="remark">Or draw a mask at random:</p>{sliders}<div class="actions">'
            '<button type="button" data-role="draw">draw a random mask</button>'
            '<button type="button" data-role="clear">clear</button>'
            '<button type="button" data-role="swap">swap masked and visible</button></div></div>'
        )

    def panes(self) -> list[tuple]:
        return [(name, self.mask_at_first(name)) for name in self.graphs]

    def picture(self, name: str, masked: Collection[Name]) -> str:
        graph = self._graph(name)
        drawn = graph_figures.svg(graph, locate_shared(graph, masked))
        legend = graph_figures.legend_html(["masked", "visible", *LETTERS])
        return f'<div class="drawing">{drawn}</div><div class="legend">{legend}</div>'

    def tables(self) -> dict[str, object]:
        return {
            "graphs": [self._tables(name) for name in self.graphs],
            "selected": {"graph": self.start[0], "masked": 0},
            "kinds": {letter: kind for kind, letter in LETTERS.items()},
            "outlines": {k: graph_figures.outline(k) for k in (*LETTERS, "masked", "visible")},
        }

    def _tables(self, name: str) -> dict[str, object]:
        """One graph as the page's script takes it: names, tables, units and the parts of its
        command."""
        graph, grid = self.graphs[name], self.grids.get(name)
        index, kinds, examples = tabulate(graph)
        said: dict[tuple[str, ...], int] = {}
        readings = [said.setdefault(tuple(reading(e).values()), len(said)) for e in examples]
        # bytes of an answer's number; 16 observables have no more answers than two hold
        width = 1 if len(kinds) <= 256 else 2
        first = self.mask_at_first(name)
        return {
            "name": name,
            "observables": [str(x) for x in graph.observables],
            "latents": [str(z) for z in graph.latents],
            "columns": grid[1] if grid else 0,
            "width": width,
            "index": base64.b64encode(index.astype(f"<u{width}").tobytes()).decode(),
            "answers": kinds,
            "reading": readings,
            "readings": [list(words) for words in said],
            "units": [[unit, blocks] for unit, blocks in self._units(name).items()],
            "mask": sum(1 << k for k, x in enumerate(graph.observables) if x in first),
            "command": self._command(name),
        }

    def live_controls(self, live: Live) -> list:
        """Observables to press, and masks drawn at random."""
        import ipywidgets as widgets

        generator, observables = np.random.default_rng(0), widgets.GridBox()
        unit = widgets.Dropdown(description="unit")
        name, masked = live.state
        share = len(masked) / len(self.graphs[name].observables)  # where the mask is
        ratio = widgets.FloatSlider(share, min=0, max=1, step=0.01, description="ratio")

        def random(state: tuple) -> dict[str, Any]:
            hidden = round(ratio.value * len(self._units(state[0])[unit.value]))
            return {"masked": self.random_mask(state[0], unit.value, hidden, generator)}

        def show(state: tuple) -> None:
            names, grid = self.graphs[state[0]].observables, self.grids.get(state[0])
            if [button.description for button in observables.children] != list(map(str, names)):
                columns = grid[1] if grid else min(8, len(names))
                observables.layout.grid_template_columns = f"repeat({columns}, 4em)"
                observables.children = [
                    live.button(
                        str(x),
                        lambda state, x=x: {"masked": state[1] ^ {x}},
                        layout={"width": "3.8em", "height": "44px"},
                    )
                    for x in names
                ]
                unit.options = list(self._units(state[0]))
                unit.value = next(iter(unit.options), None)
                draw.disabled = unit.disabled = ratio.disabled = not unit.options
            for x, button in zip(names, observables.children):
                button.button_style = "warning" if x in state[1] else ""

        draw = live.button("draw a random mask", random)
        everything = lambda state: frozenset(self.graphs[state[0]].observables)
        swap = live.button(
            "swap masked, visible", lambda state: {"masked": everything(state) - state[1]}
        )
        clear = live.button("clear", lambda _: {"masked": frozenset()})
        for control in (unit, ratio):
            control.observe(lambda _: live.choose(random), "value")
        live.listeners.append(show)
        return [observables, unit, ratio, widgets.HBox([draw, swap, clear])]

    def _units(self, name: str) -> dict[int, list[list[int]]]:
        return mask_units(self._graph(name), self.grids.get(name))

    def _command(self, name: str) -> tuple[str, list[str], str]:
        """A graph's command in parts: what comes first, each observable as it is spelt there, what
        comes last; ", " between observables."""
        graph = self.graphs[name]
        if graph != explorer_graphs().get(name):
            return "locate_shared(graph, [", [repr(x) for x in graph.observables], "])"
        return (
            f"papermill {self.CHAPTER} out.ipynb -p graph {shlex.quote(name)} -y 'masked: [",
            [str(x) for x in graph.observables],
            "]'",
        )

    def _graph(self, name: str) -> LatentGraph:
        if name not in self.graphs:
            raise InputError(f"there is no graph {name!r}: choose one of {', '.join(self.graphs)}")
        return self.graphs[name]

    def _mask(self, name: str, masked: Collection[Name]) -> frozenset[Name]:
        names = self._graph(name).observables
        if isinstance(masked, str) or not isinstance(masked, Iterable):
            raise InputError(
                f"masked must be a list of names, not {masked!r}: write [{names[0]!r}]"
            )
        for x in masked:
            if x not in names:
                listed = ", ".join(map(str, names))
                raise InputError(f"graph {name!r} has no observable {x!r}: choose of {listed}")
        return frozenset(masked)


def first_mask(graph: LatentGraph) -> frozenset[Name]:
    """The mask that a graph is first shown with: its first quarter."""
    return frozenset(graph.observables[: max(1, len(graph.observables) // 4)])


def check_grid(name: str, graph: LatentGraph, grid: tuple[int, int]) -> None:
    """InputError where the observables are no grid (rows, columns) of patches."""
    if grid[0] * grid[1] != (count := len(graph.observables)):
        raise InputError(
            f"a grid of {grid[0]} × {grid[1]} patches does not fit graph {name!r}, which has"
            f" {count} observables"
        )


def _check_size(graph: LatentGraph, what: str) -> None:
    if (n := len(graph.observables)) > MOST_OBSERVABLES:
        raise InputError(
            f"{what} has {n} observables, and the explorer tabulates the masks of at most"
            f" {MOST_OBSERVABLES}: take a smaller graph, or locate_shared"
        )


def _listed(shared: SharedInformation, kind: str) -> str:
    return ", ".join(str(v) for v in shared.graph.nodes if v in getattr(shared, kind))
