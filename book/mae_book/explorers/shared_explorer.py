"""The explorer of shared information (§2.3): mask observables of a small graph and see c, s_m,
s_mᶜ, their levels and dimensions. Three faces as the other explorers have: live widget,
self-contained HTML with every mask tabulated by `locate_shared_batch`, and figure without scripts.
"""

from __future__ import annotations

import base64
import difflib
import html
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from mae_book.explorers.explorer import asset, fragment
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

CHAPTER = "notebooks/03_locating_shared_information.ipynb"

LETTERS = {"c": "c", "common": "a", "s_m": "m", "s_mc": "v"}
"""Kind of latent → its letter in a page's table."""


def explorer_graphs() -> dict[str, LatentGraph]:
    """The graphs to choose from in the explorer and by chapter 3's parameter ``graph``: name →
    graph."""
    numbered = lambda count: [f"x{k + 1}" for k in range(count)]
    under = lambda parents: [(z, f"x{k}") for z, columns in parents.items() for k in columns]
    cross = [("z1", "z3"), ("z1", "z4"), ("z2", "z4"), ("z2", "z5")]
    skip = [
        *cross,
        ("z3", "z6"),
        ("z3", "z7"),
        ("z4", "z7"),
        ("z4", "z8"),
        ("z5", "z8"),
        ("z5", "z9"),
        ("z3", "x7"),
        ("z2", "x12"),
    ]
    wide = under({"z6": range(1, 4), "z7": range(4, 7), "z8": range(7, 10), "z9": range(10, 13)})
    return {
        "figure-4": figure_4()[0],
        "binary-tree": tree(2, 3),
        "quad-tree": quad_tree((4, 4)),
        "cross-edges": LatentGraph(
            cross + under({"z3": range(1, 5), "z4": range(4, 7), "z5": range(6, 10)}), numbered(9)
        ),
        "skip-edges": LatentGraph(skip + wide, numbered(12)),
    }


EXPLORER_GRIDS = {"quad-tree": (4, 4)}
"""Which of `explorer_graphs` have patches for observables: name → (rows, columns)."""


@dataclass(frozen=True)
class Tabulation:
    """Theorem 1's answer to every mask of a graph. Mask m, a number, hides observable k where its
    bit k is set.

    Attributes:
        index: int64 [2^n], mask → its answer. kinds: the letters of the graph's latents
            (`LETTERS`), one text an answer.
        examples: an answer's shared information, for the first mask that has it: its c, CA and
            latents of s_m and s_mᶜ are all such masks'.
    """

    index: np.ndarray
    kinds: tuple[str, ...]
    examples: tuple[SharedInformation, ...]


def tabulate(graph: LatentGraph) -> Tabulation:
    """All 2^n masks of a graph by `locate_shared_batch`, equal answers once. InputError for more
    than `MOST_OBSERVABLES` observables."""
    _check_size(graph, "the graph")
    n = len(graph.observables)
    masks = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    c, common = locate_shared_batch(graph, masks), common_ancestors_batch(graph, masks)
    # A latent outside CA is wholly masked or wholly visible: one observable below it speaks for
    # all.
    below = [
        next(k for k, x in enumerate(graph.observables) if x in graph.descendants[z])
        for z in graph.latents
    ]
    c_, a, m, v = LETTERS.values()
    letters = np.where(c, c_, np.where(common, a, np.where(masks[:, below], m, v)))
    # Masks of nothing and of everything are answers of their own: c is empty for a reason of its
    # own.
    ends = np.stack([~masks.any(1), masks.all(1)], 1).astype("<U1")
    _, first, index = np.unique(
        np.concatenate([letters, ends], 1), axis=0, return_index=True, return_inverse=True
    )
    examples = tuple(
        locate_shared(graph, [x for x, hidden in zip(graph.observables, masks[k]) if hidden])
        for k in first
    )
    return Tabulation(
        index.reshape(-1).astype(np.int64), tuple("".join(letters[k]) for k in first), examples
    )


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
    """What both live faces say of an answer, whichever its mask: ``words``, ``c``, ``levels`` and
    ``dims``."""
    levels = ", ".join(
        f"{count} at level {level}" for level, count in shared.level_spectrum.items()
    )
    return {
        "words": shared.explanation,
        "c": _listed(shared, "c") or "∅",
        "levels": f"{levels}; mean {shared.mean_level:.3g}" if shared.c else "–",
        "dims": f"{shared.intrinsic_dim} intrinsic, {shared.coordinate_dim} as coordinates",
    }


class SharedExplorer:
    """What the masked and the visible part of a small graph share, mask by mask.

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
                raise InputError(
                    f"two nodes of graph {name!r} are written alike: give each node a name of"
                    " its own"
                )
        for name, (rows, columns) in self.grids.items():
            if rows * columns != (count := len(self._graph(name).observables)):
                raise InputError(
                    f"a grid of {rows} × {columns} patches does not fit graph {name!r}, which has"
                    f" {count} observables"
                )
        self.selected = next(iter(self.graphs)) if selected is None else selected
        graph = self._graph(self.selected)
        self.masked = self._mask(self.selected, first_mask(graph) if masked is None else masked)

    def shared(self) -> SharedInformation:
        """Theorem 1's answer for the selected graph and mask."""
        return locate_shared(self.graphs[self.selected], self.masked)

    def command(self, name: str | None = None, masked: Collection[Name] | None = None) -> str:
        """The command that runs chapter 3 on a state (the selected one where none is given); for a
        graph that chapter does not know, the call."""
        name = self.selected if name is None else name
        masked = self._mask(
            name, self.masked if masked is None and name == self.selected else masked or ()
        )
        before, names, after = self._command(name)
        return (
            before
            + ", ".join(
                spelt for x, spelt in zip(self.graphs[name].observables, names) if x in masked
            )
            + after
        )

    def figure(self) -> Figure:
        """The face without scripts: the selected graph and mask, drawn."""
        return graph_figures.latent_graph(self.graphs[self.selected], self.shared())

    def random_mask(
        self, name: str, unit: int, hidden: int, generator: np.random.Generator
    ) -> frozenset[Name]:
        """``hidden`` blocks of the mask unit ``unit``, drawn at random: names of observables.
        InputError for what the graph has not."""
        graph = self._graph(name)
        units = mask_units(graph, self.grids.get(name))
        if unit not in units or not 0 <= hidden <= len(units[unit]):
            offered = ", ".join(f"{u} ({len(blocks)} blocks)" for u, blocks in units.items())
            raise InputError(
                f"graph {name!r} has no {hidden} blocks of unit {unit!r} to mask: its units are"
                f" {offered}"
            )
        drawn = generator.permutation(len(units[unit]))[:hidden]
        return frozenset(graph.observables[k] for block in drawn for k in units[unit][block])

    def live_html(self, name: str, masked: Collection[Name]) -> tuple[str, str]:
        """(drawing, words) of one state as HTML: what the live widget shows."""
        graph = self._graph(name)
        shared = locate_shared(graph, masked)
        says = {key: html.escape(text) for key, text in reading(shared).items()}
        rows = {"c": says["c"], "levels": says["levels"], "dimension of c": says["dims"]}
        for kind, label in (("s_m", "s<sub>m</sub>"), ("s_mc", "s<sub>mᶜ</sub>")):
            rows[f"<i>{label}</i>"] = (
                f"noises of {html.escape(names)}" if (names := _listed(shared, kind)) else "∅"
            )
        listed = "".join(f"<dt>{label}</dt><dd>{text}</dd>" for label, text in rows.items())
        command = html.escape(self.command(name, masked))
        style = f"<style>{asset('shared_explorer.css')}</style>"
        drawing = f"{style}{graph_figures.svg(graph, shared)}{_legend()}"
        words = (
            f'<p class="words">{says["words"]}</p><dl>{listed}</dl><p>reproduce:'
            f" <code>{command}</code></p>"
        )
        return (
            f'<div class="shared-explorer">{drawing}</div>',
            f'<div class="shared-explorer">{words}</div>',
        )

    def widget(self):
        """The live face: an ipywidgets box that the kernel answers by `locate_shared` at each
        change."""
        import ipywidgets as widgets

        generator = np.random.default_rng(0)
        graph = widgets.Dropdown(
            options=list(self.graphs), value=self.selected, description="graph"
        )
        patches = widgets.GridBox()
        unit = widgets.SelectionSlider(options=[1], description="unit")
        ratio = widgets.SelectionSlider(options=[("0", 0)], description="ratio")
        draw, swap, clear = (
            widgets.Button(description=text)
            for text in ("draw a random mask", "swap masked, visible", "clear")
        )
        drawing, words = widgets.HTML(), widgets.HTML()
        quiet = False  # set while several controls change for one reason

        def mask() -> frozenset[Name]:
            return frozenset(
                x
                for x, patch in zip(self.graphs[graph.value].observables, patches.children)
                if patch.value
            )

        def show(_=None) -> None:
            if not quiet:
                drawing.value, words.value = self.live_html(graph.value, mask())

        def put(masked: Collection[Name]) -> None:
            nonlocal quiet
            quiet = True
            for x, patch in zip(self.graphs[graph.value].observables, patches.children):
                patch.value = x in masked
            quiet = False
            show()

        def random(_=None) -> None:
            if not quiet:
                put(self.random_mask(graph.value, unit.value, ratio.value, generator))

        def offer(_=None) -> None:
            """The shares that the unit can reach, the nearest to the present one chosen."""
            nonlocal quiet
            if quiet:
                return
            blocks = len(
                mask_units(self.graphs[graph.value], self.grids.get(graph.value))[unit.value]
            )
            share = ratio.value / max(1, ratio.options[-1][1])
            quiet = True
            ratio.options = [(f"{k / blocks:.3g}", k) for k in range(blocks + 1)]
            ratio.value = round(share * blocks)
            quiet = False

        def choose(_=None) -> None:
            nonlocal quiet
            chosen = self.graphs[graph.value]
            columns = self.grids.get(graph.value, (1, min(8, len(chosen.observables))))[1]
            patches.layout.grid_template_columns = f"repeat({columns}, 4em)"
            patches.children = [
                widgets.ToggleButton(
                    description=str(x), layout={"width": "3.8em", "height": "44px"}
                )
                for x in chosen.observables
            ]
            for patch in patches.children:
                patch.observe(show, "value")
            units = list(mask_units(chosen, self.grids.get(graph.value)))
            quiet = True
            unit.options, unit.disabled, ratio.disabled, draw.disabled = (
                units or [1],
                not units,
                not units,
                not units,
            )
            quiet = False
            if units:
                offer()
            put(self.masked if graph.value == self.selected else first_mask(chosen))

        graph.observe(choose, "value")
        unit.observe(lambda _: (offer(), random()), "value")
        ratio.observe(random, "value")
        draw.on_click(random)
        swap.on_click(lambda _: put(frozenset(self.graphs[graph.value].observables) - mask()))
        clear.on_click(lambda _: put(()))
        choose()
        return widgets.VBox(
            [graph, patches, unit, ratio, widgets.HBox([draw, swap, clear]), drawing, words]
        )

    def html(self) -> str:
        """The kernel-free face: one self-contained fragment that looks every mask up."""
        shared = self.shared()
        graphs = [self._tables(name) for name in self.graphs]
        drawings = "".join(
            f'<div data-drawing="{k}"{"" if name == self.selected else " hidden"}>'
            f"{graph_figures.svg(graph, shared if name == self.selected else None)}</div>"
            for k, (name, graph) in enumerate(self.graphs.items())
        )
        data = {
            "graphs": graphs,
            "selected": list(self.graphs).index(self.selected),
            "kinds": {letter: kind for kind, letter in LETTERS.items()},
            "outlines": {
                kind: graph_figures.outline(kind) for kind in (*LETTERS, "masked", "visible")
            },
        }
        return fragment(
            "shared",
            data,
            drawings=drawings,
            legend=_legend(),
            words=html.escape(shared.explanation),
        )

    def _repr_html_(self) -> str:
        return self.html()

    def _tables(self, name: str) -> dict[str, object]:
        """One graph as the page's script takes it: names, tables, units and the parts of its
        command."""
        graph, grid = self.graphs[name], self.grids.get(name)
        found = tabulate(graph)
        said: dict[tuple[str, ...], int] = {}
        readings = [
            said.setdefault(tuple(reading(example).values()), len(said))
            for example in found.examples
        ]
        # bytes of an answer's number; 16 observables have no more answers than two hold
        width = 1 if len(found.kinds) <= 256 else 2
        return {
            "name": name,
            "observables": [str(x) for x in graph.observables],
            "latents": [str(z) for z in graph.latents],
            "columns": grid[1] if grid else 0,
            "width": width,
            "index": base64.b64encode(found.index.astype(f"<u{width}").tobytes()).decode(),
            "answers": found.kinds,
            "reading": readings,
            "readings": [list(words) for words in said],
            "units": [[unit, blocks] for unit, blocks in mask_units(graph, grid).items()],
            "mask": sum(
                1 << k
                for k, x in enumerate(graph.observables)
                if x in (self.masked if name == self.selected else first_mask(graph))
            ),
            "command": self._command(name),
        }

    def _command(self, name: str) -> tuple[str, list[str], str]:
        """A graph's command in parts: what comes first, each observable as it is spelt there, what
        comes last; ", " between observables."""
        graph = self.graphs[name]
        if graph != explorer_graphs().get(name):
            return "locate_shared(graph, [", [repr(x) for x in graph.observables], "])"
        return (
            f"papermill {CHAPTER} out.ipynb -p graph {shlex.quote(name)} -y 'masked: [",
            [str(x) for x in graph.observables],
            "]'",
        )

    def _graph(self, name: str) -> LatentGraph:
        if name not in self.graphs:
            raise InputError(
                f"there is no graph {name!r}: {_nearest(str(name), self.graphs)} (graphs:"
                f" {', '.join(self.graphs)})"
            )
        return self.graphs[name]

    def _mask(self, name: str, masked: Collection[Name]) -> frozenset[Name]:
        graph = self._graph(name)
        if isinstance(masked, str):
            raise InputError(
                f"masked must be a collection of names, not the text {masked!r}: write [{masked!r}]"
            )
        if not isinstance(masked, Iterable):
            raise InputError(
                f"masked must be a collection of names, not {masked!r}: write [] for none"
            )
        for x in masked:
            if x not in graph.observables:
                raise InputError(
                    f"graph {name!r} has no observable {x!r}:"
                    f" {_nearest(str(x), map(str, graph.observables))}"
                )
        return frozenset(masked)


def first_mask(graph: LatentGraph) -> frozenset[Name]:
    """The mask that a graph is first shown with: its first quarter."""
    return frozenset(graph.observables[: max(1, len(graph.observables) // 4)])


def _check_size(graph: LatentGraph, what: str) -> None:
    if (n := len(graph.observables)) > MOST_OBSERVABLES:
        raise InputError(
            f"{what} has {n} observables, and the explorer tabulates the masks of at most"
            f" {MOST_OBSERVABLES}: take a smaller graph, or locate_shared"
        )


def _listed(shared: SharedInformation, kind: str) -> str:
    return ", ".join(str(v) for v in shared.graph.nodes if v in getattr(shared, kind))


def _nearest(name: str, names: Collection[str]) -> str:
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}"


def _legend() -> str:
    return f'<div class="legend">{graph_figures.legend_html(["masked", "visible", *LETTERS])}</div>'
