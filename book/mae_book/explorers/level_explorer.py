"""The explorer of the levels of c (§2.3, Figure 4): how the shared latents are spread over a
hierarchy's levels as the masks' law, unit and ratio change. Three faces as the other explorers
have; its page holds every setting.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mae_book.explorers.attention_explorer import outline
from mae_book.explorers.explorer import Explorer, Options, filled
from mae_book.explorers.level_charts import charts
from mae_book.explorers.level_spectra import (
    EXAMPLES,
    LAW_WORDS,
    MEASURES,
    MOST_MASKS,
    RATIOS,
    Levels,
    level_graphs,
    sampled_levels,
)
from mae_book.explorers.shared_explorer import check_grid, mask_units
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval
from mae_lib.drawing import graph_figures
from mae_lib.drawing.figures import PALETTE
from mae_lib.masks.masking import Law
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.shared import level_spectrum
from mae_lib.training.tiers import TIERS


class LevelExplorer(Explorer):
    """How the levels of c are distributed under random masks of a patch grid, setting by setting.

    A state is a hierarchy, a law of masks, a mask unit (patches; 1 but for random units), a ratio,
    an example mask from 0, and a measure of `MEASURES`.

    Args:
        graphs: name → (graph, grid of patches that are its observables, row by row); `level_graphs`
            where none is given. selected, law, unit, ratio, example, measure: the state shown
            first. ratios: those offered. masks: drawn for each setting. seed: of the masks.

    Raises:
        InputError: no hierarchy or ratio, a grid that does not fit, more masks than `MOST_MASKS`, a
            state that is not there.
    """

    KIND, TITLE = "levels", "Explorer of the levels of c"
    CHAPTER = "notebooks/03_locating_shared_information.ipynb"
    ROLES: ClassVar = {
        "graph": "hierarchy", "law": "masks", "unit": "unit", "ratio": "ratio",
        "example": "example", "measure": "spectrum",
    }  # fmt: skip
    SELECTS, DEPENDENT = ("graph", "law", "measure"), ("unit",)
    SAYS: ClassVar = {
        "hidden": "hidden", "this-mask": "this mask", "level": "mean level of c",
        "members": "members of c", "paper": "beside F4a–c and S3",
    }  # fmt: skip

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
        for name, (graph, grid) in self.graphs.items():
            check_grid(name, graph, grid)
        self._found: dict[tuple[str, Law, int, float], Levels | str] = {}
        self._borders: dict[str, list[str]] = {}
        name = next(iter(self.graphs)) if selected is None else selected
        self.start = self.checked(name, law, unit, ratio, example, measure)

    def options(self, role: str, *before: Any) -> Options:
        if role == "unit":
            name, law = before
            if law != "random":
                return {"1": ("none for this law", 1)}
            units = mask_units(*self.graphs[name])
            return {str(u): (f"{u} × {u} patch{'es' * (u > 1)}", u) for u in units}
        return {
            "graph": lambda: {name: (name, name) for name in self.graphs},
            "law": lambda: {law: (words, law) for law, words in LAW_WORDS.items()},
            "ratio": lambda: {f"{r:g}": (f"{r:g}", r) for r in self.ratios},
            "example": lambda: {str(k): (f"{k + 1} of {EXAMPLES}", k) for k in range(EXAMPLES)},
            "measure": lambda: {key: (words, key) for key, words in MEASURES.items()},
        }[role]()

    def rows(self, name: str) -> list[tuple[Law, int]]:
        """The masks offered for a hierarchy as (law, unit): every unit that divides its grid, then
        the laws that have no units."""
        self.word("graph", name)
        laws = sorted(get_args(Law), key=lambda law: law != "random")
        return [(law, u) for law in laws for _, u in self.options("unit", name, law).values()]

    def levels(self, name: str, law: Law, unit: int, ratio: float) -> Levels | str:
        """`sampled_levels` of a setting, computed once; where there are no such masks, the words
        that say why."""
        key = (name, law, unit, ratio)
        if key not in self._found:
            self.checked(*key, 0, "share")
            try:
                self._found[key] = sampled_levels(
                    *self.graphs[name], law, unit, ratio, self.masks, self.seed
                )
            except InputError as error:
                self._found[key] = str(error)
        return self._found[key]

    def means(self, name: str, law: Law, unit: int) -> dict[float, Interval]:
        """Ratio → the mean level, where there is one."""
        found = {ratio: self.levels(name, law, unit, ratio) for ratio in self.ratios}
        levels = {r: f.level for r, f in found.items() if not isinstance(f, str)}
        return {r: level for r, level in levels.items() if not math.isnan(level.value)}

    def reading(
        self, name: str, law: Law, unit: int, ratio: float, example: int = 0, *_: Any
    ) -> dict[str, str]:
        found = self.levels(name, law, unit, ratio)
        said = {
            "this-mask": self.example_words(name, law, unit, ratio, example),
            "paper": self.beside_the_paper(name, law, unit),
        }
        if isinstance(found, str):
            return {"hidden": f"no such mask: {found}", "level": "–", "members": "–", **said}
        exact = "in every mask" if law == "random" else "on average"
        return {
            "hidden": f"{found.hidden:.4g} of the patches, {exact}",
            "level": f"{found.level:.4f}",
            "members": f"{found.members:.2f} of {len(self.graphs[name][0].latents)} latents",
            **said,
        }

    def beside_the_paper(self, name: str, law: Law, unit: int) -> str:
        """The mean level at both ends of the ratio and between, beside what the paper says of them
        (F4a to F4c, S3)."""
        pairs = list(self.means(name, law, unit).items())
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
        told = dict.fromkeys((pairs[0], between, pairs[-1]))
        return ", ".join(f"{level:.4f} at ratio {r:g}" for r, level in told) + f": {outcome}"

    def example_words(self, name: str, law: Law, unit: int, ratio: float, example: int) -> str:
        """What an example mask hides and shares."""
        found, graph = self.levels(name, law, unit, ratio), self.graphs[name][0]
        if isinstance(found, str):
            return "no such mask"
        inside = [z for z, member in zip(graph.latents, found.c[example].tolist()) if member]
        listed = [f"{n} at level {level}" for level, n in level_spectrum(graph, inside).items()]
        c = f"has {len(inside)} members: {', '.join(listed)}" if inside else "is empty"
        hidden = int(found.masks[example].sum())
        return f"hides {hidden} of {len(graph.observables)} patches; c {c}"

    def command(
        self, name: str, law: Law, unit: int, ratio: float, example: int = 0, measure: str = "share"
    ) -> str:
        """The command that opens chapter 3 on a state; for a hierarchy, ratio or number of masks
        which that chapter does not have, the call."""
        self.checked(name, law, unit, ratio, example, measure)
        given = {"law": law, "unit": unit, "ratio": f"{ratio:g}", "example": example}
        return filled(self._command(name), **given, measure=measure)

    def figure(self) -> Figure:
        """The printed face: the first state's spectrum, its example mask with c, and the mean level
        against the ratio."""
        name, law, unit, ratio, example, measure = self.start
        found, (graph, (rows, columns)) = self.levels(name, law, unit, ratio), self.graphs[name]
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(9.6, 3.5), width_ratios=(1.15, 0.9, 1.25), layout="constrained"
        )
        heights = np.arange(1, graph.height + 1)
        for level, value in zip(heights, () if isinstance(found, str) else getattr(found, measure)):
            left.barh(level, value.value, height=0.6, color=PALETTE[2])
            left.plot([value.low, value.high], [level, level], color="black", lw=1.4)
            words = f"{value.value:.4f}" if value.value else "none seen"
            end = 0.02 + np.nanmax([value.value, value.high])
            left.text(end, level, words, va="center", fontsize=8)
        left.set(yticks=heights, xlim=(0, 1.28), xticks=(0, 0.5, 1), ylabel="level")
        left.set_xlabel(MEASURES[measure])
        if not isinstance(found, str):
            middle.imshow(
                found.masks[example].view(rows, columns).numpy(),
                cmap=ListedColormap(["white", graph_figures.MASKED]),
                extent=(0, columns, rows, 0),
            )
            borders = "".join(np.array(self._outlines(name))[found.c[example].numpy()])
            strokes = re.findall(r"M(\d+) (\d+)([hv])(\d+)", borders)
            ends = [
                [(int(x), int(y)), (int(x) + int(n) * (to == "h"), int(y) + int(n) * (to == "v"))]
                for x, y, to, n in strokes
            ]
            middle.add_collection(
                LineCollection(ends, color=graph_figures.SHARED, lw=1.8, capstyle="round")
            )
            right.plot(ratio, found.level.value, "o", color=PALETTE[1], ms=8, zorder=4)
        middle.set(xticks=[], yticks=[])
        handles = [
            Patch(color=graph_figures.MASKED, label="masked"),
            Patch(fc="none", ec=graph_figures.SHARED, lw=1.8, label="patches below a latent in c"),
        ]
        middle.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), fontsize=8, frameon=False
        )
        middle.set_title(f"one mask: {_row_words(law, unit)}, ratio {ratio:g}", fontsize=9)
        for row in self.rows(name):
            means, here = self.means(name, *row), row == (law, unit)
            drawn = {"color": PALETTE[0], "lw": 2} if here else {"color": "#8c959f", "lw": 0.9}
            right.plot(list(means), [p.value for p in means.values()], zorder=2 + here, **drawn)
            if means and row[0] != "independent":  # its line is that of unit 1
                last = max(means)
                words = (last + 0.02, means[last].value, _row_words(*row))
                right.text(*words, fontsize=7.5, va="center")
        right.set(xlabel="masking ratio", xlim=(0, 1.22), xticks=(0, 0.25, 0.5, 0.75, 1))
        right.set(ylabel="mean level of c", ylim=(0.8, graph.height + 0.2))
        for axis in (left, right):
            axis.spines[["top", "right"]].set_visible(False)
        return figure

    # ----------------------------------------------------------------------------------------------
    # The page

    def tables(self) -> dict[str, object]:
        return {"graphs": [self._tables(name) for name in self.graphs], "measures": MEASURES}

    def _tables(self, name: str) -> dict[str, object]:
        """One hierarchy as the page's script takes it."""
        graph, (rows, columns) = self.graphs[name]
        offered = lambda law: self.options("unit", name, law).items()
        return {
            "name": name,
            "columns": columns,
            "patches": rows * columns,
            "levels": [graph.levels[z] for z in graph.latents],
            "outlines": self._outlines(name),
            "masks": [
                {
                    "law": law,
                    "unit": unit,
                    "paper": self.beside_the_paper(name, law, unit),
                    "settings": [self._setting(name, law, unit, ratio) for ratio in self.ratios],
                }
                for law, unit in self.rows(name)
            ],
            "unit": {law: [[u, said, w] for w, (said, u) in offered(law)] for law in LAW_WORDS},
            "command": self._command(name),
        }

    def _setting(self, name: str, law: Law, unit: int, ratio: float) -> dict[str, object]:
        found, says = self.levels(name, law, unit, ratio), self.reading(name, law, unit, ratio)
        setting: dict[str, object] = {key: says[key] for key in ("hidden", "level", "members")}
        if isinstance(found, str):
            return setting
        packed = lambda values: np.packbits(values.numpy(), bitorder="little").tobytes()
        bits = lambda values: base64.b64encode(packed(values)).decode()
        examples = [[bits(mask), bits(c)] for mask, c in zip(found.masks, found.c)]
        spectra = {key: [_interval_words(v) for v in getattr(found, key)] for key in MEASURES}
        return {**setting, **spectra, "examples": examples}

    def _outlines(self, name: str) -> list[str]:
        """For each latent the border of the patches below it, as `attention_explorer.outline` draws
        it."""
        if name not in self._borders:
            graph, grid = self.graphs[name]
            below = [[x in graph.descendants[z] for x in graph.observables] for z in graph.latents]
            self._borders[name] = [outline(torch.tensor(inside).view(grid)) for inside in below]
        return self._borders[name]

    def panes(self) -> list[tuple]:
        name, _, _, *rest = self.start
        return [self.start if g == name else (g, "random", 1, *rest) for g in self.graphs]

    def picture(
        self, name: str, law: Law, unit: int, ratio: float, example: int, measure: str
    ) -> str:
        graph, (rows, columns) = self.graphs[name]
        found, hidden, blocks = self.levels(name, law, unit, ratio), "", ""
        if not isinstance(found, str):
            places = found.masks[example].nonzero()[:, 0].tolist()
            hidden = "".join(f"M{k % columns} {k // columns}h1v1h-1z" for k in places)
            blocks = "".join(np.array(self._outlines(name))[found.c[example].numpy()])
        grid = "".join(f"M0 {k}h{columns}" for k in range(rows + 1))
        grid += "".join(f"M{k} 0v{rows}" for k in range(columns + 1))
        words = html.escape(self.example_words(name, law, unit, ratio, example))
        drawn = {"hidden": hidden, "lines": grid, "halo": blocks, "block": blocks}
        lines = {_row_words(*row): self.means(name, *row) for row in self.rows(name)}
        body = ""
        for level in range(graph.height, 0, -1):
            value = "–"
            if not isinstance(found, str):
                value = _interval_words(getattr(found, measure)[level - 1])
            numbers = [100 * float(number) for number in re.findall(r"[\d.]+", value)] or [0] * 3
            body += (
                f'<tr data-level="{level}"><th scope="row">level {level}</th><td>'
                f'{sum(graph.levels[z] == level for z in graph.latents)}</td><td class="bar">'
                f'<span class="track"><span class="fill" style="width:{numbers[0]:.2f}%"></span>'
                f'<span class="range" style="left:{numbers[-2]:.2f}%;width:'
                f'{numbers[-1] - numbers[-2]:.2f}%"></span></span></td>'
                f'<td class="value">{value}</td></tr>'
            )
        return (
            '<div class="panes"><svg class="mask" viewBox="-.2 -.2'
            f' {columns + 0.4:g} {rows + 0.4:g}" role="img" aria-label="one mask of {rows} ×'
            f' {columns} patches: {words}">'
            + "".join(f'<path class="{key}" d="{path}"/>' for key, path in drawn.items())
            + '</svg><table class="spectrum"><thead><tr><th scope="col">level</th><th scope="col">'
            'latents</th><th scope="col" colspan="2" class="measure">'
            f"{MEASURES[measure]}</th></tr></thead><tbody>{body}</tbody></table></div>"
            f'<div class="panes">{charts(lines, _row_words(law, unit), ratio, graph.height)}</div>'
            '<div class="legend"><span><i class="hidden"></i>masked patch</span><span>'
            '<i class="block"></i>patches below a latent in c</span><span><i class="fill"></i>'
            "estimate, and its 95 % interval</span></div>"
        )

    def _command(self, name: str) -> str:
        """A hierarchy's command, with <law>, <unit>, <ratio>, <example> and <measure> to fill
        in."""
        drawn = {tier: min(TIERS[tier].theory.masks, MOST_MASKS) for tier in ("laptop", *TIERS)}
        tier = next((tier for tier, masks in drawn.items() if masks == self.masks), None)
        known = self.graphs[name] == level_graphs().get(name) and set(self.ratios) <= set(RATIOS)
        if tier is None or not known:
            return (
                f"sampled_levels(graph, {self.graphs[name][1]}, '<law>', <unit>, <ratio>,"
                f" masks={self.masks}, seed={self.seed})"
            )
        given = "" if tier == "laptop" else f" -p tier {tier}"
        given += f" -p seed {self.seed}" if self.seed else ""
        roles = [role for role in self.ROLES if role != "graph"]
        state = " ".join(f"-p level_{role} <{role}>" for role in roles)
        return f"papermill {self.CHAPTER} out.ipynb{given} -p level_graph {name} {state}"


def _row_words(law: Law, unit: int) -> str:
    return f"unit {unit}" if law == "random" else law


def _interval_words(interval: Interval) -> str:
    """What is said of a share or chance. Of what no mask has, a bootstrap knows no more than
    that."""
    return f"{interval:.4f}" if interval.value else "none seen"
