"""The explorer in which one draws a mask: what the two parts of an image share, what each level of
the hierarchy is worth to the loss, and what a trained model makes of it. Three faces as the other
explorers have; its page runs the model itself, in a plain script.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from mae_book.explorers.attention_explorer import COLOURS
from mae_book.explorers.explorer import Explorer, Live, Options, data_url, filled
from mae_book.explorers.mask_models import READ, SHARES, UNITS, MaskModel
from mae_book.explorers.mask_scene import NU, RHO, Scenes
from mae_lib.base.errors import InputError
from mae_lib.drawing.figures import HIDDEN_GREY, PALETTE
from mae_lib.drawing.graph_figures import legend_html, node_kinds, outline
from mae_lib.masks.masking import MaskSpec
from mae_lib.worlds.law import CLASSES

LAWS = ("single patches", "blocks of 2 × 2", "blocks of 4 × 4", "one rectangle")
"""Laws that the page draws a mask by; the first ones have units of 1, 2, 4 patches a side."""


class MaskExplorer(Scenes, Explorer):
    """Draw a mask on an image of the embedded world, and see.

    A state is a length of training in steps, a masking ratio that the model was trained at, an
    image, a mask as a number (bit k is set where patch k is hidden) and the patch whose attention
    is shown (−1: [CLS]).

    Args:
        models: of a training length and a ratio each, every pair of them; the shipped ones.
        indices: images of the validation set; the first of each class.
        length, ratio, image, mask: the state shown first.

    Raises:
        InputError: a state that is not there, a mask that leaves nothing to see.
    """

    KIND, TITLE = "mask", "Explorer: draw a mask"
    CHAPTER = "book/explorer.ipynb"
    ROLES: ClassVar = {
        "length": "training", "ratio": "model", "image": "image", "mask": "", "look": "",
    }  # fmt: skip
    SELECTS, DEPENDENT = ("length", "ratio", "image"), ("mask", "look")
    SCRIPTS = ("vit",)
    SAYS: ClassVar = {
        "hidden": "hidden",
        "c": "c, patches in a quad-tree",
        "own": "c, this image’s own hierarchy",
        "error": "squared error, hidden pixels",
    }

    def __init__(
        self,
        models: Sequence[MaskModel] | None = None,
        indices: Sequence[int] | None = None,
        length: int | None = None,
        ratio: float = 0.75,
        image: int = 0,
        mask: int | None = None,
    ) -> None:
        Scenes.__init__(self, models, indices)
        lengths = sorted({model.config.steps for model in self.models})
        if mask is None:
            spec = MaskSpec(self.size.grid, 0.75)
            hidden = spec.sample(1, torch.Generator().manual_seed(3))[1]
            mask = sum(1 << k for k in hidden[0].tolist())
        length = lengths[-1] if length is None else length
        self.start = self.checked(length, ratio, image, mask, -1)

    # ----------------------------------------------------------------------------------------------
    # What there is to see

    # ----------------------------------------------------------------------------------------------
    # States

    def options(self, role: str, *before: Any) -> Options:
        if role == "length":
            words = lambda c: f"{c.steps:,} steps of {c.batch}"
            return {m.length: (words(m.config), m.config.steps) for m in self.models}
        if role == "ratio":
            ratios = sorted({model.config.ratio for model in self.models})
            return {f"{r:g}": (f"ratio {r:g}", r) for r in ratios}
        if role == "image":
            labels = self.batch.labels.tolist()
            return {str(k): (f"a {CLASSES[label]}", k) for k, label in enumerate(labels)}
        return {"cls": ("[CLS]", -1), **{str(k): (str(k), k) for k in range(self.patches)}}

    def word(self, role: str, value: Any, *before: Any) -> str:
        if role != "mask":
            return super().word(role, value, *before)
        if not isinstance(value, int) or not 0 <= value < (1 << self.patches) - 1:
            raise InputError(
                f"there is no mask {value!r}: give a number of {self.patches} bits, not all set"
            )
        return f"{value:0{self.patches // 4}x}"

    def value(self, role: str, word: str, *before: Any) -> Any:
        if role != "mask":
            return super().value(role, word, *before)
        if len(word) != self.patches // 4 or set(word) - set("0123456789abcdef"):
            raise InputError(f"{word!r} is no mask: write {self.patches // 4} hexadecimal digits")
        self.word("mask", int(word, 16))
        return int(word, 16)

    def nearest(self, role: str, wanted: Any, *before: Any) -> Any:
        return wanted if role == "mask" else super().nearest(role, wanted, *before)

    def command(self, length: int, ratio: float, image: int, mask: int, look: int = -1) -> str:
        words = {"length": length, "ratio": f"{ratio:g}", "image": image}
        return filled(self._command, **words, mask=self.word("mask", mask))

    _command = (
        f"papermill {CHAPTER} out.ipynb -p length <length> -p ratio <ratio> -p image <image>"
        " -r mask <mask>"
    )

    def reading(
        self, length: int, ratio: float, image: int, mask: int, look: int = -1
    ) -> dict[str, str]:
        n, levels = int(self.hidden(mask).sum()), self.levels(mask)
        every = [f"{one.shared} of height {h}" for h, one in enumerate(levels, 1)]
        error = self.error(length, ratio, image, mask)
        return {
            "hidden": f"{n} of {self.patches} patches",
            "c": ", ".join(every) if any(one.shared for one in levels) else "∅",
            "own": ", ".join(self.own(image, mask)) or "∅",
            "error": f"{error:.4f}" if n else "–",
        }

    # ----------------------------------------------------------------------------------------------
    # The page

    def controls_html(self) -> str:
        laws = "".join(f"<option>{law}</option>" for law in LAWS)
        return super().controls_html().removesuffix("</div>") + (
            f'<label><b>draw</b><select data-role="law">{laws}</select></label>'
            '<label><b>hide</b><input type="range" min="1" data-role="share"><output'
            ' data-role="share-words"></output></label><div class="actions">'
            '<button type="button" data-role="draw">another</button>'
            '<button type="button" data-role="swap">swap</button>'
            '<button type="button" data-role="clear">show all</button></div></div>'
        )

    def picture(self, length: int, ratio: float, image: int, mask: int, look: int = -1) -> str:
        seen, hidden = self.view(length, ratio, image, mask), self.hidden(mask)
        look = -1 if look >= 0 and hidden[look] else look
        side, name = self.size.patch, self.options("image")[str(image)][0]
        place = lambda k: (
            f'x="{k % self.side * side}" y="{k // self.side * side}" width="{side}" height="{side}"'
        )
        cells = lambda fill: "".join(
            f'<rect {place(k)} class="{fill(k)[0]}"{fill(k)[1]}/>' for k in range(self.patches)
        )
        shown = (~hidden).nonzero()[:, 0].tolist()
        row = seen.attention[shown.index(look) + 1 if look >= 0 else 0, 1:]
        levels = dict(zip(shown, (255 * row / row.max()).round().int().tolist()))
        heat = lambda k: ("seen", f' fill="{COLOURS[levels[k]]}"') if k in levels else ("gone", "")
        cover = lambda k: ("gone" if hidden[k] else "seen", "")
        mark = f'<rect class="mark" {place(max(look, 0))}{" hidden" * (look < 0)}/>'
        there = self.batch.latents["pose"][image, 2:4] * self.pixels / 2 + self.pixels / 2
        read = seen.readouts[sum((READ["class"], READ["texture"])) :][:2]
        read = read * self.pixels / 2 + self.pixels / 2
        (x, y), (u, v) = there.tolist(), read.tolist()
        cross = (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/><path d="M{u:.1f} {v:.1f}m-3.4'
            ' 0h6.8m-3.4 -3.4v6.8"/>'
        )
        drawn = lambda role, words, picture, inside: (
            f'<svg data-role="{role}" viewBox="0 0 {self.pixels} {self.pixels}" role="img"'
            f' aria-label="{words}"><image href="{data_url(picture, 95)}" width="{self.pixels}"'
            f' height="{self.pixels}"/><g>{inside}</g></svg>'
        )
        original = self.original(image)
        figures = (
            (drawn("pad", f"{name}, hidden patches covered", original, cells(cover)),
             "Draw here: press or drag over patches"),
            (drawn("rebuilt", "the model’s reconstruction", seen.rebuilt, cross),
             "What the model rebuilds. The object: <b>+</b> in its code, <b>○</b> in truth"),
            (drawn("heat", "the attention", original, cells(heat) + mark),
             'Attention of <span data-role="token">' + _token(look)
             + "</span>; press a visible patch"),
        )  # fmt: skip
        views = "".join(f"<figure>{d}<figcaption>{w}</figcaption></figure>" for d, w in figures)
        legend = legend_html(["c", "common", "s_m", "s_mc"])
        return (
            f'<div class="views">{views}</div><div class="tree">{self.tree(mask)}</div>'
            f'<div class="legend">{legend}</div><div class="tables">{self._levels(mask)}'
            f"{self._readouts(length, ratio, image, mask)}</div>"
        )

    def tree(self, mask: int) -> str:
        """The quad-tree, its nodes marked by kind; a leaf is a patch."""
        kinds = node_kinds(self.graph, self.shared(mask))
        order, wide = self.order(), 640 / self.patches
        drawn = ""
        for h in range(self.heights + 1):
            blocks, below = self.patches >> 2 * h, 4**h
            y, size = 138 - 126 * h / self.heights, (3.4, 5, 6.5, 8, 9, 9)[h]
            for k in range(blocks):
                first = order[k * below]
                row, column = first // self.side >> h, first % self.side >> h
                name = f"z{h}_{row}_{column}" if h else f"x{first}"
                x = wide * below * (k + 0.5)
                if h < self.heights:
                    over = wide * 4 * below * (k // 4 + 0.5)
                    up = y - 126 / self.heights
                    drawn = f'<path class="edge" d="M{over:g} {up:g}L{x:g} {y:g}"/>' + drawn
                kind = kinds[name]
                shape = f"M{-size} {-size}h{2 * size}v{2 * size}h{-2 * size}z" if not h else ""
                scale = "" if not h else f" scale({size / 8:g})"
                drawn += (
                    f'<g class="node" data-node="{h}:{k}" data-kind="{kind}" transform="'
                    f'translate({x:g} {y:g}){scale}"><path d="{shape or outline(kind)}"/></g>'
                )
        return (
            '<svg viewBox="0 0 640 152" role="img" aria-label="the quad-tree over the patches, c'
            f' lit">{drawn}</svg>'
        )

    def _levels(self, mask: int) -> str:
        body = ""
        for h, level in reversed(list(enumerate(self.levels(mask), 1))):
            across = 2**h
            asked = f"{round(level.asked * self.patches)} of {self.patches}"
            cells = [
                _bar(f"asked-{h}", level.asked, asked),
                _bar(f"worth-{h}", level.worth, f"{100 * level.worth:.2f} %"),
            ]
            body += (
                f'<tr><th scope="row">{across} × {across}</th><td data-role="shared-{h}">'
                f"{level.shared} of {level.latents}</td>{''.join(cells)}</tr>"
            )
        return (
            "<table><caption>What the loss asks of each level</caption>"
            f'<thead><tr><th scope="col">block</th><th scope="col">in c</th>'
            '<th scope="col">asked of</th><th scope="col">worth</th></tr></thead>'
            f"<tbody>{body}</tbody></table>"
        )

    def _readouts(self, length: int, ratio: float, image: int, mask: int) -> str:
        body = ""
        for name, row in zip(READ, self.readouts(length, ratio, image, mask)):
            cells = zip(("read", "true", "off"), row[1:])
            told = "".join(f'<td data-role="{what}-{name}">{words}</td>' for what, words in cells)
            body += f'<tr><th scope="row">{row[0]}</th>{told}</tr>'
        return (
            '<table class="known"><caption>What a linear readout finds in the code of the visible'
            ' part</caption><thead><tr><th scope="col">latent</th><th scope="col">read out</th>'
            '<th scope="col">true</th><th scope="col">error (guessing)</th></tr></thead>'
            f"<tbody>{body}</tbody></table>"
        )

    def tables(self) -> dict[str, object]:
        b64 = lambda array: base64.b64encode(array.tobytes()).decode()
        names = list(self.models[0].weights)
        shapes = {name: list(w.shape) for name, w in self.models[0].weights.items()}
        models = {}
        for m in self.models:
            flat = torch.cat([m.weights[name].flatten() for name in names])
            models[f"{m.length}:{m.config.ratio:g}"] = {
                "tables": b64(flat.numpy().astype("<f2")),
                "readout": b64(m.readout.numpy().astype("<f4")),
                "errors": m.errors,
                "spread": m.spread,
            }
        images = [
            {
                "index": b64(picture.permute(1, 2, 0).contiguous().numpy()),
                "parts": self.parts[k].tolist(),
                "truth": self.truths(k),
                "place": self.batch.latents["pose"][k, 2:4].tolist(),
            }
            for k, picture in enumerate(self.batch.images)
        ]
        selected = dict(zip(self.ROLES, self.start))
        return {
            "selected": selected | {"mask": self.word("mask", self.start[3])},
            "size": {f.name: getattr(self.size, f.name) for f in fields(self.size)}
            | {"side": self.side},
            "names": shapes,
            "models": models,
            "images": images,
            "read": READ,
            "units": UNITS,
            "shares": SHARES,
            "classes": CLASSES,
            "tree": [RHO, NU],
            "colours": COLOURS,
            "outlines": {k: outline(k) for k in ("c", "common", "s_m", "s_mc")},
            "command": self._command,
        }

    # ----------------------------------------------------------------------------------------------
    # The widget and the printed figure

    def live_controls(self, live: Live) -> list:
        """The patches as buttons, and masks drawn at random."""
        import ipywidgets as widgets

        generator = torch.Generator().manual_seed(0)
        unit = widgets.Dropdown(options=dict(zip(LAWS, (1, 2, 4))), description="draw")
        ratio = widgets.FloatSlider(0.75, min=0.1, max=0.9, step=0.05, description="hide")
        every = (1 << self.patches) - 1

        def random(_: tuple) -> dict[str, Any]:
            spec = MaskSpec(self.size.grid, ratio.value, unit.value)
            return {"mask": sum(1 << k for k in spec.sample(1, generator)[1][0].tolist())}

        def show(state: tuple) -> None:
            for k, button in enumerate(patches.children):
                button.style.button_color = "#b8b8b8" if state[3] >> k & 1 else "#0072b2"

        look = {"width": "34px", "height": "34px", "margin": "0px"}
        asked = [lambda s, k=k: {"mask": s[3] ^ 1 << k} for k in range(self.patches)]
        patches = widgets.GridBox(
            [live.button("", ask, layout=look) for ask in asked],
            layout={"grid_template_columns": f"repeat({self.side}, 34px)"},
        )
        live.listeners.append(show)
        buttons = [
            live.button("another mask", random),
            live.button("swap hidden, visible", lambda s: {"mask": every ^ s[3]}),
            live.button("show all", lambda _: {"mask": 0}),
        ]
        return [patches, unit, ratio, widgets.HBox(buttons)]

    def figure(self) -> Figure:
        """The printed face: the first state."""
        length, ratio, image, mask, _ = self.start
        seen, hidden = self.view(length, ratio, image, mask), self.hidden(mask)
        wide = lambda flags: (
            flags.view(self.side, self.side)
            .repeat_interleave(self.size.patch, 0)
            .repeat_interleave(self.size.patch, 1)
        )
        gone = wide(hidden)
        original = self.original(image)
        heat = torch.full((self.patches,), torch.nan)
        heat[~hidden] = seen.attention[0, 1:]
        figure, axes = plt.subplots(1, 5, figsize=(9.6, 2.3), layout="constrained")
        shown = (
            ("what the model sees", torch.where(gone, HIDDEN_GREY, original).permute(1, 2, 0)),
            ("what it rebuilds", seen.rebuilt.permute(1, 2, 0)),
            ("the image", original.permute(1, 2, 0)),
            ("attention of [CLS]", heat.view(self.side, self.side)),
        )
        for axis, (title, picture) in zip(axes, shown):
            axis.imshow(picture.numpy(), cmap="viridis")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
        bars = {"asked of": [one.asked for one in self.levels(mask)]}
        bars["worth"] = [one.worth for one in self.levels(mask)]
        for k, (name, values) in enumerate(bars.items()):
            places = np.arange(1, self.heights + 1) + 0.36 * k - 0.18
            axes[-1].barh(places, values, 0.34, color=PALETTE[k], label=name)
        axes[-1].set_yticks(range(1, self.heights + 1))
        axes[-1].set_title("height: asked and worth", fontsize=9)
        axes[-1].legend(fontsize=7, frameon=False)
        axes[-1].tick_params(labelsize=8)
        return figure


def _bar(role: str, share: float, words: str) -> str:
    """A cell with words and a bar as long as a share."""
    bar = f'<td class="bar" style="--share: {share:.4f}">'
    return f'{bar}<span data-role="{role}">{words}</span></td>'


def _token(look: int) -> str:
    return "[CLS]" if look < 0 else "the marked patch"
