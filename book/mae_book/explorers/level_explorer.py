"""The explorer of the levels of c (§2.3, Figure 4): how the shared latents are spread over a
hierarchy's levels as the masks' law, unit and ratio change. Three faces as the other explorers
have: live widget, self-contained HTML with every setting tabulated, and figure without scripts.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from mae_book.explorers.attention_explorer import outline
from mae_book.explorers.explorer import asset, fragment
from mae_book.explorers.shared_explorer import CHAPTER, mask_units
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import DRAWS, LEVEL, Interval
from mae_lib.drawing import graph_figures
from mae_lib.drawing.figures import PALETTE
from mae_lib.masks.masking import Law, mask_batches
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import quad_tree
from mae_lib.theory.shared import level_spectrum, locate_shared_batch
from mae_lib.training.tiers import TIERS

RATIOS = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""The masking ratios that are offered where none are given: 0.05, 0.1, … 0.95."""

MOST_MASKS = 4_000
"""Masks drawn for a setting, at most: a share's interval is then no wider than 0.03, and a page of
some 300 settings is made in half a minute."""

EXAMPLES = 3
"""Masks of a setting that are drawn: the first of its sample."""

MEASURES = {"share": "share of c's members", "chance": "a latent's chance to be in c"}
"""What the spectrum shows, level by level → its words."""

LAW_WORDS = {
    "random": "random units, an exact number",
    "independent": "every patch by itself",
    "block": "one contiguous block",
}
"""Law of masks → its words in the explorer."""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _FOOT = 360, 190, 40, 74, 10, 34
"""Of a chart, in pixels: its size, and the margins around the axes."""

_LEAST_RANGE = 0.1
"""Levels that the stretched chart spans at least: a spread below it is drawn as flat as it is."""


def level_graphs() -> dict[str, tuple[LatentGraph, tuple[int, int]]]:
    """The hierarchies to choose from in the explorer and by chapter 3's parameter ``level_graph``:
    name → graph and its grid of patches."""
    return {
        "quad-tree-16": (quad_tree((16, 16)), (16, 16)),
        "binary-tree-16": (quad_tree((16, 16), 2), (16, 16)),
        "quad-tree-14": (quad_tree((14, 14)), (14, 14)),
    }


@dataclass(frozen=True)
class Levels:
    """The levels of c under random masks of one setting, with 95 % bootstrap intervals over the
    masks.

    Attributes:
        share, chance: one a level, from level 1: the share of all masks' members of c that are at
            the level, and the chance that a latent of the level is in c. A share is NaN where c is
            always empty. Where no mask has a latent of the level in c, the interval is 0 to 0: a
            bootstrap cannot tell how rare that is.
        level: mean level of the members; NaN where c is always empty. members: how many c has.
        hidden: share of the patches that the masks hide, their mean.
        masks, c: bool [`EXAMPLES`, patches] and [`EXAMPLES`, latents]: the first masks, and what is
            in their c.
    """

    share: tuple[Interval, ...]
    chance: tuple[Interval, ...]
    level: Interval
    members: Interval
    hidden: float
    masks: Tensor
    c: Tensor


def sampled_levels(
    graph: LatentGraph,
    grid: tuple[int, int],
    law: Law,
    unit: int,
    ratio: float,
    masks: int = MOST_MASKS,
    seed: int = 0,
) -> Levels:
    """The levels of c under ``masks`` masks of `masking.mask_batches`, by `locate_shared_batch`.

    Raises:
        InputError: masks that there are none of (a ratio that hides no unit, for instance), or more
            than `MOST_MASKS` of them.
    """
    if not 1 <= masks <= MOST_MASKS:
        raise InputError(f"{masks} masks a setting: draw 1 to {MOST_MASKS}")
    hidden = torch.cat(
        [masked for masked, _ in mask_batches(law, grid, ratio, unit, masks=masks, seed=seed)]
    )
    c = locate_shared_batch(graph, hidden)
    at_level = torch.tensor(
        [[graph.levels[z] == level for level in range(1, graph.height + 1)] for z in graph.latents],
        dtype=torch.float64,
    )
    counts = c.double() @ at_level

    def measures(totals: Tensor) -> Tensor:
        """[draws, levels] members of c in all masks → [draws, 2 · levels + 2]."""
        whole = totals.sum(1, keepdim=True)
        mean = totals @ torch.arange(1, graph.height + 1, dtype=torch.float64)[:, None] / whole
        return torch.cat(
            [totals / whole, totals / (masks * at_level.sum(0)), mean, whole / masks], 1
        )

    values = measures(counts.sum(0, keepdim=True))[0]
    ends = torch.full((2, len(values)), math.nan, dtype=torch.float64)
    if masks > 1:
        # A resampling whose c are all empty has no shares: it is left out, as `intervals.bootstrap`
        # does.
        ends = torch.nanquantile(
            measures(_resamplings(masks) @ counts),
            torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64),
            dim=0,
        )
    found = [Interval(*each, masks) for each in zip(values.tolist(), *ends.tolist())]
    n = graph.height
    return Levels(
        tuple(found[:n]),
        tuple(found[n : 2 * n]),
        found[-2],
        found[-1],
        float(hidden.double().mean()),
        hidden[:EXAMPLES],
        c[:EXAMPLES],
    )


@lru_cache(maxsize=1)
def _resamplings(n: int) -> Tensor:
    """float64 [`DRAWS`, n]: how often each resampling of `intervals.bootstrap` takes each of n
    rows, so that one product serves every measure."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(n, (50, n), generator=generator) for _ in range(0, DRAWS, 50)]
    return torch.stack(
        [torch.bincount(row, minlength=n) for rows in drawn for row in rows]
    ).double()


class LevelExplorer:
    """How the levels of c are distributed under random masks of a patch grid, setting by setting.

    A state is a hierarchy, a law of masks, a mask unit (patches; 1 but for random units), a ratio,
    an example mask from 0, and a measure of `MEASURES`.

    Args:
        graphs: name → (graph, grid of patches that are its observables, row by row); `level_graphs`
            where none is given. selected, law, unit, ratio,
            example, measure: the state shown first. ratios: those offered. masks: drawn for each
                setting. seed: of the masks.

    Raises:
        InputError: no hierarchy or ratio, a grid that does not fit, more masks than `MOST_MASKS`, a
            state that is not there.
    """

    def __init__(
        self,
        graphs: Mapping[str, tuple[LatentGraph, tuple[int, int]]] | None = None,
        selected: str | None = None,
        law: Law = "random",
        unit: int = 1,
        ratio: float = 0.5,
        example: int = 0,
        measure: str = "share",
        ratios: Sequence[float] = RATIOS,
        masks: int = MOST_MASKS,
        seed: int = 0,
    ) -> None:
        self.graphs = level_graphs() if graphs is None else dict(graphs)
        self.ratios, self.masks, self.seed = tuple(ratios), masks, seed
        if not self.graphs or not self.ratios:
            raise InputError("the explorer of levels needs at least one hierarchy and one ratio")
        if not EXAMPLES <= masks <= MOST_MASKS:
            raise InputError(f"{masks} masks a setting: draw {EXAMPLES} to {MOST_MASKS}")
        for name, (graph, (rows, columns)) in self.graphs.items():
            if rows * columns != (count := len(graph.observables)):
                raise InputError(
                    f"a grid of {rows} × {columns} patches does not fit graph {name!r}, which has"
                    f" {count} observables"
                )
        self._found: dict[tuple[str, Law, int, float], Levels | str] = {}
        self._borders: dict[str, list[str]] = {}
        self.selected = self._checked(
            next(iter(self.graphs)) if selected is None else selected,
            law,
            unit,
            ratio,
            example,
            measure,
        )

    def rows(self, name: str) -> list[tuple[Law, int]]:
        """The masks offered for a hierarchy as (law, unit): every unit that divides its grid, then
        the laws that have no units."""
        graph, grid = self._graph(name)
        return [("random", unit) for unit in mask_units(graph, grid)] + [
            (law, 1) for law in get_args(Law) if law != "random"
        ]

    def levels(self, name: str, law: Law, unit: int, ratio: float) -> Levels | str:
        """`sampled_levels` of a setting, computed once; where there are no such masks, the words
        that say why."""
        key = (name, law, unit, ratio)
        if key not in self._found:
            self._checked(name, law, unit, ratio, 0, "share")
            try:
                self._found[key] = sampled_levels(
                    *self._graph(name), law, unit, ratio, self.masks, self.seed
                )
            except InputError as error:
                self._found[key] = str(error)
        return self._found[key]

    def reading(self, name: str, law: Law, unit: int, ratio: float) -> dict[str, str]:
        """What the faces say of a setting: ``hidden``, ``level``, ``members`` and ``paper``."""
        found, said = (
            self.levels(name, law, unit, ratio),
            {"paper": self.beside_the_paper(name, law, unit)},
        )
        if isinstance(found, str):
            return {"hidden": f"no such mask: {found}", "level": "–", "members": "–", **said}
        exact = "in every mask" if law == "random" else "on average"
        members = f"{found.members:.2f} of {len(self._graph(name)[0].latents)} latents"
        return {
            "hidden": f"{found.hidden:.4g} of the patches, {exact}",
            "level": f"{found.level:.4f}",
            "members": members,
            **said,
        }

    def beside_the_paper(self, name: str, law: Law, unit: int) -> str:
        """The mean level at both ends of the ratio and between, beside what the paper says of them
        (F4a to F4c, S3)."""
        pairs = [
            (ratio, found.level)
            for ratio in self.ratios
            if not isinstance(found := self.levels(name, law, unit, ratio), str)
        ]
        pairs = [(ratio, level) for ratio, level in pairs if not math.isnan(level.value)]
        if not pairs:
            return "these masks leave no c at any ratio"
        (_, first), (_, last) = pairs[0], pairs[-1]
        _, middle = between = min(pairs, key=lambda pair: abs(pair[0] - 0.5))
        if middle.low > max(first.high, last.high):
            outcome = "lower at both ends, as the paper says"
        elif middle.high < min(first.low, last.low):
            outcome = "higher at both ends: the other way round"
        else:
            outcome = "not lower at both ends, or by less than these masks can tell"
        listed = ", ".join(
            f"{level:.4f} at ratio {ratio:g}"
            for ratio, level in dict.fromkeys((pairs[0], between, pairs[-1]))
        )
        return f"{listed}: {outcome}"

    def example_words(self, name: str, law: Law, unit: int, ratio: float, example: int) -> str:
        """What an example mask hides and shares."""
        found = self.levels(name, law, unit, ratio)
        if isinstance(found, str):
            return "no such mask"
        graph = self._graph(name)[0]
        spectrum = level_spectrum(
            graph, [z for z, inside in zip(graph.latents, found.c[example].tolist()) if inside]
        )
        listed = ", ".join(f"{count} at level {level}" for level, count in spectrum.items())
        patches = f"hides {int(found.masks[example].sum())} of {len(graph.observables)} patches"
        return (
            f"{patches}; c has {sum(spectrum.values())} members: {listed}"
            if spectrum
            else f"{patches}; c is empty"
        )

    def command(
        self, name: str, law: Law, unit: int, ratio: float, example: int = 0, measure: str = "share"
    ) -> str:
        """The command that opens chapter 3 on a state; for a hierarchy, ratio or number of masks
        which that chapter does not have, the call."""
        self._checked(name, law, unit, ratio, example, measure)
        text = self._command(name)
        for key, value in {
            "law": law,
            "unit": unit,
            "ratio": f"{ratio:g}",
            "example": example,
            "measure": measure,
        }.items():
            text = text.replace(f"<{key}>", str(value))
        return text

    def figure(self) -> Figure:
        """The face without scripts: the selected state's spectrum, its example mask with c, and the
        mean level against the ratio."""
        name, law, unit, ratio, example, measure = self.selected
        found, (graph, (rows, columns)) = self.levels(name, law, unit, ratio), self._graph(name)
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(9.6, 3.5), width_ratios=(1.15, 0.9, 1.25), layout="constrained"
        )
        heights = np.arange(1, graph.height + 1)
        intervals = () if isinstance(found, str) else getattr(found, measure)
        for level, value in zip(heights, intervals):
            left.barh(level, value.value, height=0.6, color=PALETTE[2])
            left.plot([value.low, value.high], [level, level], color="black", lw=1.4)
            left.annotate(
                f"{value.value:.4f}" if value.value else "none seen",
                (max(value.value, value.high), level),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        left.set(
            yticks=heights,
            xlim=(0, 1.28),
            xticks=(0, 0.5, 1),
            ylabel="level",
            xlabel=MEASURES[measure],
        )
        left.spines[["top", "right"]].set_visible(False)
        middle.set(
            xlim=(-0.3, columns + 0.3),
            ylim=(rows + 0.3, -0.3),
            aspect="equal",
            xticks=[],
            yticks=[],
        )
        middle.spines[:].set_visible(False)
        middle.add_patch(Rectangle((0, 0), columns, rows, fill=False, edgecolor="#8c959f", lw=0.8))
        if not isinstance(found, str):
            for k in found.masks[example].nonzero()[:, 0].tolist():
                middle.add_patch(
                    Rectangle(
                        (k % columns, k // columns),
                        1,
                        1,
                        facecolor=graph_figures.MASKED,
                        edgecolor="white",
                        lw=0.3,
                    )
                )
            strokes = re.findall(
                r"M(\d+) (\d+)([hv])(\d+)",
                "".join(self._outlines(name)[k] for k in found.c[example].nonzero()[:, 0].tolist()),
            )
            for x, y, turn, length in strokes:
                ends = (int(x) + int(length) * (turn == "h"), int(y) + int(length) * (turn == "v"))
                middle.plot(
                    [int(x), ends[0]],
                    [int(y), ends[1]],
                    color=graph_figures.SHARED,
                    lw=1.8,
                    solid_capstyle="round",
                )
        handles = [
            Patch(color=graph_figures.MASKED, label="masked"),
            Patch(
                facecolor="none",
                edgecolor=graph_figures.SHARED,
                lw=1.8,
                label="patches below a latent in c",
            ),
        ]
        middle.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), fontsize=8, frameon=False
        )
        middle.set_title(f"one mask: {_row_words(law, unit)}, ratio {ratio:g}", fontsize=9)
        for row in self.rows(name):
            points = self._means(name, *row)
            here = row == (law, unit)
            right.plot(
                self.ratios,
                [p.value if p else math.nan for p in points],
                color=PALETTE[0] if here else "#8c959f",
                lw=2 if here else 0.9,
                zorder=3 if here else 2,
            )
            ends = [(r, p) for r, p in zip(self.ratios, points) if p]
            if ends and row[0] != "independent":  # its line is that of unit 1
                right.annotate(
                    _row_words(*row),
                    (ends[-1][0], ends[-1][1].value),
                    (5, 0),
                    textcoords="offset points",
                    fontsize=7.5,
                    va="center",
                )
        if not isinstance(found, str):
            right.plot(ratio, found.level.value, "o", color=PALETTE[1], ms=8, zorder=4)
        right.set(
            xlabel="masking ratio",
            ylabel="mean level of c",
            xlim=(0, 1.22),
            xticks=(0, 0.25, 0.5, 0.75, 1),
            ylim=(0.8, graph.height + 0.2),
        )
        right.spines[["top", "right"]].set_visible(False)
        return figure

    def live_html(
        self, name: str, law: Law, unit: int, ratio: float, example: int = 0, measure: str = "share"
    ) -> str:
        """One state as HTML: what the live widget shows."""
        says = {
            key: html.escape(text) for key, text in self.reading(name, law, unit, ratio).items()
        }
        says["this-mask"] = html.escape(self.example_words(name, law, unit, ratio, example))
        command = html.escape(self.command(name, law, unit, ratio, example, measure))
        listed = "".join(f"<dt>{label}</dt><dd>{says[key]}</dd>" for key, label in _READOUT.items())
        panes = self._panes(name, law, unit, ratio, example, measure)
        style = asset("level_explorer.css")
        return (
            f'<div class="level-explorer"><style>{style}</style>{panes}{_LEGEND}<dl'
            f' class="readout">{listed}</dl><p>reproduce: <code>{command}</code></p></div>'
        )

    def widget(self):
        """The live face: an ipywidgets box that the kernel answers by `sampled_levels` at each
        change; a hierarchy's first view takes some seconds."""
        import ipywidgets as widgets

        name, law, unit, ratio, example, measure = self.selected
        wide = {"width": "34em"}
        graph = widgets.Dropdown(options=list(self.graphs), value=name, description="hierarchy")
        laws = widgets.Dropdown(
            options=[(words, key) for key, words in LAW_WORDS.items()],
            value=law,
            description="masks",
            layout=wide,
        )
        units = widgets.SelectionSlider(options=[1], description="unit", layout=wide)
        share = widgets.SelectionSlider(
            options=[(f"{r:g}", r) for r in self.ratios],
            value=ratio,
            description="ratio",
            layout=wide,
        )
        mask = widgets.IntSlider(example, 0, EXAMPLES - 1, description="example", layout=wide)
        measures = widgets.Dropdown(
            options=[(words, key) for key, words in MEASURES.items()],
            value=measure,
            description="spectrum",
            layout=wide,
        )
        shown = widgets.HTML()
        quiet = False  # set while several controls change for one reason

        def show(_=None) -> None:
            if not quiet:
                used = units.value if laws.value == "random" else 1
                shown.value = self.live_html(
                    graph.value, laws.value, used, share.value, mask.value, measures.value
                )

        def choose(_=None) -> None:
            """Another hierarchy or law: its units, the nearest to the present one chosen."""
            nonlocal quiet
            offered, kept = (
                [u for kind, u in self.rows(graph.value) if kind == "random"],
                units.value,
            )
            quiet = True
            units.options = offered
            units.value = min(offered, key=lambda u: abs(u - kept))
            units.disabled = laws.value != "random"
            quiet = False
            show()

        units.options, units.value = [unit], unit
        for control in (graph, laws):
            control.observe(choose, "value")
        for control in (units, share, mask, measures):
            control.observe(show, "value")
        choose()
        return widgets.VBox([graph, laws, units, share, mask, measures, shown])

    def html(self) -> str:
        """The kernel-free face: one self-contained fragment that looks every setting up."""
        name, law, unit, ratio, example, measure = self.selected
        panes = []
        for k, other in enumerate(self.graphs):
            state = self.selected if other == name else (other, "random", 1, ratio, 0, measure)
            panes.append(
                "<div"
                f' data-graph="{k}"{"" if other == name else " hidden"}>{self._panes(*state)}</div>'
            )
        data = {
            "graphs": [self._tables(other) for other in self.graphs],
            "ratios": list(self.ratios),
            "laws": LAW_WORDS,
            "measures": MEASURES,
            "examples": EXAMPLES,
            "selected": {
                "graph": list(self.graphs).index(name),
                "law": law,
                "unit": unit,
                "ratio": self.ratios.index(ratio),
                "example": example,
                "measure": measure,
            },
        }
        readout = "".join(
            f'<dt>{label}</dt><dd data-role="{key}"></dd>' for key, label in _READOUT.items()
        )
        return fragment("level", data, panes="".join(panes), legend=_LEGEND, readout=readout)

    def _repr_html_(self) -> str:
        return self.html()

    def _tables(self, name: str) -> dict[str, object]:
        """One hierarchy as the page's script takes it."""
        graph, (rows, columns) = self._graph(name)
        bits = lambda values: base64.b64encode(
            np.packbits(values.numpy(), bitorder="little").tobytes()
        ).decode()
        masks = []
        for law, unit in self.rows(name):
            charts = [self._chart(name, law, unit, own) for own in (False, True)]
            settings = []
            for k, ratio in enumerate(self.ratios):
                found, says = (
                    self.levels(name, law, unit, ratio),
                    self.reading(name, law, unit, ratio),
                )
                setting: dict[str, object] = {
                    key: says[key] for key in ("hidden", "level", "members")
                }
                if not isinstance(found, str):
                    setting |= {
                        key: [_interval_words(value) for value in getattr(found, key)]
                        for key in MEASURES
                    }
                    setting["examples"] = [
                        [bits(mask), bits(c)] for mask, c in zip(found.masks, found.c)
                    ]
                    setting["at"] = [chart.place(k, found.level.value) for chart in charts]
                settings.append(setting)
            masks.append(
                {
                    "law": law,
                    "unit": unit,
                    "paper": self.beside_the_paper(name, law, unit),
                    "settings": settings,
                }
            )
        return {
            "name": name,
            "columns": columns,
            "patches": rows * columns,
            "levels": [graph.levels[z] for z in graph.latents],
            "outlines": self._outlines(name),
            "masks": masks,
            "command": self._command(name),
        }

    def _outlines(self, name: str) -> list[str]:
        """For each latent the border of the patches below it, as `attention_explorer.outline` draws
        it."""
        if name not in self._borders:
            graph, grid = self._graph(name)
            self._borders[name] = [
                outline(
                    torch.tensor([x in graph.descendants[z] for x in graph.observables]).view(grid)
                )
                for z in graph.latents
            ]
        return self._borders[name]

    def _panes(
        self, name: str, law: Law, unit: int, ratio: float, example: int, measure: str
    ) -> str:
        """Mask, spectrum and charts of one state as HTML; the page's script changes what differs in
        another."""
        graph, (rows, columns) = self._graph(name)
        found = self.levels(name, law, unit, ratio)
        hidden = blocks = ""
        if not isinstance(found, str):
            hidden = "".join(
                f"M{k % columns} {k // columns}h1v1h-1z"
                for k in found.masks[example].nonzero()[:, 0].tolist()
            )
            blocks = "".join(
                self._outlines(name)[k] for k in found.c[example].nonzero()[:, 0].tolist()
            )
        lines = "".join(f"M0 {k}h{columns}" for k in range(rows + 1)) + "".join(
            f"M{k} 0v{rows}" for k in range(columns + 1)
        )
        words = html.escape(self.example_words(name, law, unit, ratio, example))
        mask = (
            f'<svg class="mask" viewBox="-.2 -.2 {columns + 0.4:g} {rows + 0.4:g}" role="img"'
            f' aria-label="one mask of {rows} × {columns} patches: {words}"><path class="hidden"'
            f' d="{hidden}"/><path class="lines" d="{lines}"/><path class="halo"'
            f' d="{blocks}"/><path class="block" d="{blocks}"/></svg>'
        )
        body = ""
        for level in range(graph.height, 0, -1):
            value = (
                "–"
                if isinstance(found, str)
                else _interval_words(getattr(found, measure)[level - 1])
            )
            styles = _bar(value)
            count = sum(graph.levels[z] == level for z in graph.latents)
            body += (
                f'<tr data-level="{level}"><th scope="row">level {level}</th><td>{count}</td><td'
                ' class="bar"><span class="track"><span class="fill"'
                f' style="{styles[0]}"></span><span class="range"'
                f' style="{styles[1]}"></span></span></td><td class="value">{value}</td></tr>'
            )
        table = (
            '<table><thead><tr><th scope="col">level</th><th scope="col">latents</th><th'
            ' scope="col" colspan="2"'
            f' class="measure">{MEASURES[measure]}</th></tr></thead><tbody>{body}</tbody></table>'
        )
        charts = "".join(self._chart_svg(name, law, unit, ratio, own) for own in (False, True))
        return (
            f'<div class="panes"><div class="example">{mask}</div><div'
            f' class="spectrum">{table}</div></div><div class="charts">{charts}</div>'
        )

    def _chart(self, name: str, law: Law, unit: int, own: bool) -> _Axes:
        """The axes of the mean level against the ratio: all levels of the hierarchy, or those of
        one row of masks, stretched."""
        if not own:
            return _Axes(self.ratios, 1.0, float(max(2, self._graph(name)[0].height)))
        ends = [
            value
            for p in self._means(name, law, unit)
            if p
            for value in (p.value, p.low, p.high)
            if not math.isnan(value)
        ] or [1.0]
        spare = max(0.0, _LEAST_RANGE - (max(ends) - min(ends))) / 2
        return _Axes(self.ratios, min(ends) - spare, max(ends) + spare)

    def _means(self, name: str, law: Law, unit: int) -> list[Interval | None]:
        """The mean level at each ratio; None where there is none."""
        found = [self.levels(name, law, unit, ratio) for ratio in self.ratios]
        return [None if isinstance(f, str) or math.isnan(f.level.value) else f.level for f in found]

    def _chart_svg(self, name: str, law: Law, unit: int, ratio: float, own: bool) -> str:
        """Mean level against ratio: every row of masks on the hierarchy's levels, or each row's
        line on an axis of its own, one of them shown."""
        parts, labels = [], []
        for k, row in enumerate(self.rows(name)):
            axes, points = self._chart(name, *row, own), self._means(name, *row)
            on = "" if row != (law, unit) else " data-on"
            drawn = f'<path class="line" d="{axes.line([p and p.value for p in points])}"/>'
            if own:
                band = axes.band([p and (p.low, p.high) for p in points])
                ticks = "".join(
                    axes.tick(value, f"{value:.3f}")
                    for value in (axes.low, (axes.low + axes.high) / 2, axes.high)
                )
                drawn = f'{ticks}<path class="band" d="{band}"/>{drawn}'
            elif any(points):
                last = max(i for i, p in enumerate(points) if p)
                labels.append((axes.place(last, points[last].value)[1], k, on, _row_words(*row)))
            parts.append(f'<g data-row="{k}"{on}>{drawn}</g>')
        axes, found = self._chart(name, law, unit, own), self.levels(name, law, unit, ratio)
        if not own:
            parts[:0] = [axes.tick(level, str(level)) for level in range(1, int(axes.high) + 1)]
            for (_, k, on, words), y in zip(
                sorted(labels), _apart([y for y, *_ in sorted(labels)])
            ):
                parts.append(
                    f'<text class="name" data-row="{k}"{on} x="{_WIDTH - _RIGHT + 6}"'
                    f' y="{y + 4:.1f}">{html.escape(words)}</text>'
                )
        x, y = (
            (0, 0)
            if isinstance(found, str) or math.isnan(found.level.value)
            else axes.place(self.ratios.index(ratio), found.level.value)
        )
        below = "".join(
            f'<text x="{axes.across(r):.1f}" y="{_HEIGHT - _FOOT + 16}"'
            f' text-anchor="middle">{r:g}</text>'
            for r in (0, 0.25, 0.5, 0.75, 1)
        )
        title = (
            "mean level of c: the line of these masks alone, stretched"
            if own
            else "mean level of c against the ratio, all masks of this hierarchy"
        )
        mark = f'<circle class="mark" r="6" cx="{x:g}" cy="{y:g}"{"" if x else " hidden"}/>'
        return (
            f'<figure><svg class="chart" data-chart="{"own" if own else "all"}" viewBox="0 0'
            f' {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}{below}<text'
            f' x="{axes.across(0.5):.1f}" y="{_HEIGHT - 3}" text-anchor="middle">masking'
            f" ratio</text>{mark}</svg><figcaption>{title}</figcaption></figure>"
        )

    def _command(self, name: str) -> str:
        """A hierarchy's command, with <law>, <unit>, <ratio>, <example> and <measure> to fill
        in."""
        tier = next(
            (
                tier
                for tier in ("laptop", *TIERS)
                if min(TIERS[tier].theory.masks, MOST_MASKS) == self.masks
            ),
            None,
        )
        if (
            tier is None
            or self.graphs[name] != level_graphs().get(name)
            or not set(self.ratios) <= set(RATIOS)
        ):
            return (
                f"sampled_levels(graph, {self.graphs[name][1]}, '<law>', <unit>, <ratio>,"
                f" masks={self.masks}, seed={self.seed})"
            )
        given = ("" if tier == "laptop" else f" -p tier {tier}") + (
            f" -p seed {self.seed}" if self.seed else ""
        )
        state = " ".join(
            f"-p level_{key} <{key}>" for key in ("law", "unit", "ratio", "example", "measure")
        )
        return f"papermill {CHAPTER} out.ipynb{given} -p level_graph {name} {state}"

    def _graph(self, name: str) -> tuple[LatentGraph, tuple[int, int]]:
        if name not in self.graphs:
            raise InputError(
                f"there is no hierarchy {name!r}: choose one of {', '.join(self.graphs)}"
            )
        return self.graphs[name]

    def _checked(
        self, name: str, law: Law, unit: int, ratio: float, example: int, measure: str
    ) -> tuple[str, Law, int, float, int, str]:
        """The state; InputError where it is not there."""
        self._graph(name)
        if law not in LAW_WORDS:
            raise InputError(
                f"there is no law of masks {law!r}: choose one of {', '.join(LAW_WORDS)}"
            )
        units = [u for kind, u in self.rows(name) if kind == law]
        if unit not in units:
            raise InputError(
                f"masks of law {law!r} over {name!r} have no unit {unit!r}: choose one of"
                f" {', '.join(map(str, units))}"
            )
        if ratio not in self.ratios:
            raise InputError(
                f"the ratio {ratio!r} is not tabulated: choose one of"
                f" {', '.join(f'{r:g}' for r in self.ratios)}"
            )
        if example not in range(EXAMPLES):
            raise InputError(
                f"there is no example mask {example!r}: choose one of 0 … {EXAMPLES - 1}"
            )
        if measure not in MEASURES:
            raise InputError(
                f"there is no measure {measure!r}: choose one of {', '.join(MEASURES)}"
            )
        return name, law, unit, ratio, example, measure


@dataclass(frozen=True)
class _Axes:
    """From ratio and level to pixels of a chart."""

    ratios: tuple[float, ...]
    low: float
    high: float

    def across(self, ratio: float) -> float:
        return _LEFT + ratio * (_WIDTH - _LEFT - _RIGHT)

    def up(self, level: float) -> float:
        return (
            _HEIGHT - _FOOT - (level - self.low) / (self.high - self.low) * (_HEIGHT - _FOOT - _TOP)
        )

    def place(self, k: int, level: float) -> tuple[float, float] | None:
        """Where a level stands above the ratio number k; None for NaN."""
        return (
            None
            if math.isnan(level)
            else (round(self.across(self.ratios[k]), 1), round(self.up(level), 1))
        )

    def line(self, levels: Sequence[float | None]) -> str:
        """A path through the levels, broken where there is none."""
        return self._path(levels, range(len(levels)), "M")

    def band(self, ends: Sequence[tuple[float, float] | None]) -> str:
        """Closed paths around the intervals, one for each stretch without a gap."""
        path, stretch = "", []
        for k in range(len(ends) + 1):
            if k < len(ends) and ends[k] and not math.isnan(ends[k][0]):
                stretch.append(k)
            elif stretch:
                lows, highs = ([None if e is None else e[side] for e in ends] for side in (0, 1))
                path += self._path(highs, stretch, "M") + self._path(lows, stretch[::-1], "L") + "z"
                stretch = []
        return path

    def tick(self, level: float, words: str) -> str:
        """A line across at a level, with words at its left."""
        y = self.up(level)
        return (
            f'<path class="tick" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/><text x="{_LEFT - 6}"'
            f' y="{y + 4:.1f}" text-anchor="end">{words}</text>'
        )

    def _path(self, levels: Sequence[float | None], order: Sequence[int], start: str) -> str:
        path, letter = "", start
        for k in order:
            if levels[k] is None:
                letter = "M"
                continue
            x, y = self.place(k, levels[k])
            path += f"{letter}{x:g} {y:g}"
            letter = "L"
        return path


_READOUT = {
    "hidden": "hidden",
    "this-mask": "this mask",
    "level": "mean level of c",
    "members": "members of c",
    "paper": "beside F4a–c and S3",
}
"""Key of a reading → its label on the page."""

_LEGEND = (
    '<div class="legend"><span><i class="hidden"></i>masked patch</span><span><i'
    ' class="block"></i>patches below a latent in c</span><span><i class="fill"></i>estimate, and'
    " its 95 % interval</span></div>"
)


def _row_words(law: Law, unit: int) -> str:
    return f"unit {unit}" if law == "random" else law


def _interval_words(interval: Interval) -> str:
    """What is said of a share or chance. Of what no mask has, a bootstrap knows no more than
    that."""
    return f"{interval:.4f}" if interval.value else "none seen"


def _bar(text: str) -> list[str]:
    """The styles of a bar and of its interval, from the words of `_interval_words`: the bar is as
    long as the number says; "" without a number."""
    numbers = re.findall(r"[\d.]+", text)
    if not numbers:
        return ["", ""]
    value, low, high = map(float, numbers)
    return [f"width:{100 * value:.2f}%", f"left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"]


def _apart(places: Sequence[float], least: float = 12.5) -> list[float]:
    """Sorted places, moved as little as it takes to stand ``least`` apart above the chart's
    foot."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + least) if found else place)
    edge = _HEIGHT - _FOOT
    for k in range(len(found) - 1, -1, -1):
        found[k] = min(found[k], edge)
        edge = found[k] - least
    return found
