"""The explorer of attention maps (§3.2, Figures 6 and 7): click a patch of an image and see where
it attends, in any layer and head of any model. Three faces as the other explorers have; its page
holds the maps in bytes.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Any, ClassVar

import matplotlib
import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from mae_book.explorers.explorer import Live, ModelExplorer, Options, data_url, filled
from mae_lib.base.errors import InputError
from mae_lib.drawing.attention_figures import attention_rows
from mae_lib.evaluation.attention import attention_maps, patch_coverage
from mae_lib.model.autoencoder import normalise_pixels
from mae_lib.training.store import Checkpoint
from mae_lib.training.tiers import TIERS

PAGE_BYTES = 1_500_000
"""What a page may weigh. Attention of T tokens in L layers and H heads takes T²·L·H bytes a model
and image, a third more as text."""

COLOURS = [to_hex(colour) for colour in matplotlib.colormaps["viridis"](np.arange(256))]
"""From no attention to the map's greatest: lightness alone tells them apart, for any kind of colour
vision."""


def encoded(maps: Tensor) -> str:
    """Maps [layers, heads, T, T] as a page holds them, in base64: what each token attends to most
    (little-endian float32 [layers, heads, T]), then to all, in 255ths of that (uint8)."""
    greatest = maps.amax(-1)
    levels = (255 * maps / greatest[..., None]).round().to(torch.uint8).numpy()
    return base64.b64encode(greatest.numpy().astype("<f4").tobytes() + levels.tobytes()).decode()


class AttentionExplorer(ModelExplorer):
    """Attention of every token of an image, in the models of a sweep.

    A state is a run, an image, a layer, a head (−1: the mean over all) and a patch (−1: [CLS]), all
    counted from 0.

    Args:
        runs, images, names: see `ModelExplorer`. object_masks: bool [N, H, W], for the object's
            outline and its share of the attention. run (a name), image, layer, head, patch: the
            state shown first; the layer may be counted from the end.

    Raises:
        InputError: masks of another size, a state that is not there.
    """

    KIND, TITLE = "attention", "Explorer of attention maps"
    CHAPTER = "notebooks/07_attention.ipynb"
    ROLES: ClassVar = {
        "run": "model", "image": "image", "layer": "layer", "head": "head", "patch": "",
    }  # fmt: skip
    DEPENDENT = ("layer", "head", "patch")
    SAYS: ClassVar = {
        "from": "looking from", "peak": "most attention", "to-cls": "to [CLS]",
        "object": "on the object",
    }  # fmt: skip

    def __init__(
        self,
        runs: Sequence[Checkpoint],
        images: Tensor,
        object_masks: Tensor | None = None,
        names: Sequence[str] | None = None,
        run: str | None = None,
        image: int = 0,
        layer: int = -1,
        head: int = -1,
        patch: int = -1,
    ) -> None:
        super().__init__(runs, images, names)
        shape = (len(images), *images.shape[2:])
        if object_masks is not None and tuple(object_masks.shape) != shape:
            given = f"object masks {list(object_masks.shape)} are not one for each image"
            raise InputError(f"{given}: give bool {list(shape)}")
        self.masks = object_masks
        self._maps: dict[tuple[int, int], Tensor] = {}
        number = 0 if run is None else self.value("run", run)
        depth = self._model(number).depth
        layer += depth if -depth <= layer < 0 else 0
        self.start = self.checked(number, image, layer, head, patch)

    def options(self, role: str, *before: Any) -> Options:
        if role in ("run", "image"):
            return super().options(role, *before)
        model = self._model(before[0])
        if role == "layer":
            last = model.depth - 1
            words = lambda k: f"{k + 1} of {model.depth}" + ", the last" * (k == last)
            return {str(k): (words(k), k) for k in range(model.depth)}
        if role == "head":
            heads = {str(k): (f"head {k + 1}", k) for k in range(model.heads)}
            return {"mean": ("mean over all", -1), **heads}
        patches = {str(k): (self._place(before[0], k), k) for k in range(self._patches(before[0]))}
        return {"cls": ("[CLS]", -1), **patches}

    def maps(self, run: int, image: int) -> Tensor:
        """[layers, heads, 1 + P, 1 + P] of one run and image: `attention_maps` on every layer,
        computed once."""
        if (run, image) not in self._maps:
            x = normalise_pixels(self.images[image : image + 1])
            self._maps[run, image] = attention_maps(self.runs[run].load(), x, None)[0]
        return self._maps[run, image]

    def attention(
        self, run: int, image: int, layer: int, head: int = -1, patch: int = -1
    ) -> Tensor:
        """[1 + P]: how a state's token attends to [CLS] and to the patches. InputError for a state
        that is not there."""
        self.checked(run, image, layer, head, patch)
        heads = self.maps(run, image)[layer]
        return (heads.mean(0) if head < 0 else heads[head])[patch + 1]

    def reading(
        self, run: int, image: int, layer: int, head: int = -1, patch: int = -1
    ) -> dict[str, str]:
        found, (rows, columns) = self.attention(run, image, layer, head, patch), self._grid(run)
        values, peak = found[1:], int(found[1:].argmax())
        here = f"the patch in {self._place(run, patch)} of {rows} × {columns}"
        itself = "" if patch < 0 else f"; the patch itself: {_percent(values[patch])}"
        says = {
            "from": "[CLS]" if patch < 0 else here,
            "peak": f"the patch in {self._place(run, peak)}: {_percent(values[peak])}{itself}",
            "to-cls": _percent(found[0]),
            "object": "–",
        }
        if self.masks is not None:
            coverage = patch_coverage(self.masks[image : image + 1], (rows, columns))[0]
            others = torch.arange(rows * columns) != patch
            share = (values * coverage)[others].sum() / values[others].sum()
            says["object"] = (
                f"{_percent(share)} of what goes to {'' if patch < 0 else 'other '}patches; the"
                f" object is {_percent(coverage[others].mean())} of their area"
            )
        return says

    def command(self, run: int, image: int, layer: int, head: int = -1, patch: int = -1) -> str:
        """The command that opens chapter 7 on a state; for a run that chapter does not have, the
        call that computes its attention."""
        self.checked(run, image, layer, head, patch)
        return filled(self._command(run), image=image, layer=layer, head=head, patch=patch)

    def figure(self) -> Figure:
        """The printed face: the first state's token in every run, at its layer and head (the last
        layer and the mean where a run lacks them)."""
        run, image, layer, head, patch = self.start
        maps, marks = {}, {}
        for k, config in enumerate(self.configs):
            model = config.model
            title = f"r {config.ratio:g}\nunit {config.unit} px\npatch {model.patch} px"
            marks[title] = [moved := self.moved(patch, run, k)]
            row = self.attention(
                k, image, min(layer, model.depth - 1), head if head < model.heads else -1, moved
            )
            maps[title] = row[1:].view(1, *model.grid)
        masks = None if self.masks is None else self.masks[image : image + 1]
        return attention_rows(self.images[image : image + 1], maps, marks, masks)

    def moved(self, patch: int, before: int, after: int) -> int:
        """The patch of run ``after`` under the middle of a patch of run ``before``; −1 stays −1."""
        if patch < 0:
            return -1
        (rows, columns), (new_rows, new_columns) = self._grid(before), self._grid(after)
        row, column = patch // columns, patch % columns
        down = int((row + 0.5) * new_rows / rows)
        return down * new_columns + int((column + 0.5) * new_columns / columns)

    def adapted(self, state: tuple, changes: dict[str, Any]) -> dict[str, Any]:
        if "run" not in changes:
            return changes
        return changes | {"patch": self.moved(state[-1], state[0], changes["run"])}

    # ----------------------------------------------------------------------------------------------
    # The page and the widget

    def controls_html(self) -> str:
        return super().controls_html().removesuffix("</div>") + (
            '<div class="actions"><button type="button" data-role="cls">attention of [CLS]</button>'
            '<label><input type="checkbox" data-role="under">image under the map</label></div>'
            '<p class="remark">Click a patch of either picture to see where it attends. By'
            " keyboard: the arrow keys move the patch, Home takes [CLS].</p></div>"
        )

    def picture(self, run: int, image: int, layer: int, head: int = -1, patch: int = -1) -> str:
        values = self.attention(run, image, layer, head, patch)[1:]
        (height, width), columns = self.images.shape[2:], self._grid(run)[1]
        tall, wide, line = height / self._grid(run)[0], width / columns, width / 160
        box = lambda k, inset: (
            f'x="{k % columns * wide + inset:g}" y="{k // columns * tall + inset:g}"'
            f' width="{wide - 2 * inset:g}" height="{tall - 2 * inset:g}"'
        )
        patches = "".join(
            f'<rect class="patch" {box(k, 0)} fill="{COLOURS[level]}"/>'
            for k, level in enumerate(_levels(values))
        )
        border = "" if self.masks is None else outline(self.masks[image])
        over = "".join(
            f'<path class="{name}" d="{border}" stroke-width="{times * line:g}"/>'
            for name, times in (("halo", 3), ("outline", 1.4))
        ) + "".join(
            f'<rect class="{name}" {box(patch, 1.2 * line)} stroke-width="{times * line:g}"'
            f"{' hidden' * (patch < 0)}/>"
            for name, times in (("halo", 5), ("mark", 2.5))
        )
        url, name = data_url(self.original(image)), html.escape(self.names[image])
        drawn = lambda role, words, inside: (
            f'<svg data-role="{role}" viewBox="0 0 {width} {height}" role="img"'
            f' aria-label="{words}"><image href="{url}" width="{width}" height="{height}"'
            f' preserveAspectRatio="none"/><g>{inside}</g>{over}</svg>'
        )
        return (
            f'<div class="panes" data-role="pictures"><figure>{drawn("picture", name, "")}'
            '<figcaption>image; looking from <span data-role="token">'
            f"{'[CLS]' if patch < 0 else 'the marked patch'}</span></figcaption></figure>"
            f'<figure class="map">{drawn("map", "the attention map", patches)}'
            '<figcaption>its attention to the patches</figcaption><div class="scale"><span>0</span>'
            f'<i style="background: linear-gradient(to right, {", ".join(COLOURS[::15])})"></i>'
            f'<span data-role="most">{_percent(values.max())}</span></div></figure></div>'
            '<p class="remark" data-role="left" hidden></p>'
        )

    def live_controls(self, live: Live) -> list:
        """The map as buttons, one a patch, and one of [CLS]."""
        import ipywidgets as widgets

        patches = widgets.GridBox()

        def show(state: tuple) -> None:
            run, columns = state[0], self._grid(state[0])[1]
            side = f"{340 / columns:g}px"
            if len(patches.children) != self._patches(run):
                look = {"width": side, "height": side, "margin": "0px"}
                patches.layout.grid_template_columns = f"repeat({columns}, {side})"
                asked = [lambda _, k=k: {"patch": k} for k in range(self._patches(run))]
                patches.children = [
                    live.button("", ask, layout=look, tooltip=self._place(run, k))
                    for k, ask in enumerate(asked)
                ]
            for button, level in zip(patches.children, _levels(self.attention(*state)[1:])):
                button.style.button_color = COLOURS[level]

        live.listeners.append(show)
        return [live.button("attention of [CLS]", lambda _: {"patch": -1}), patches]

    def held(self) -> list[bool | None]:
        """What the page holds of each run: every layer and head (True), the last layer's mean over
        heads (False), or nothing (None).

        The smallest tables come first: the last layers, then all layers of all runs with tables of
        one size, while the page stays within `PAGE_BYTES`.
        """
        room = 0.75 * (PAGE_BYTES - 60_000) / len(self.images) - 6 * self.images[0].numel() / 8
        runs = range(len(self.runs))
        last = [(t := self._patches(k) + 1) * (t + 4) for k in runs]
        every = [size * self._model(k).depth * self._model(k).heads for k, size in enumerate(last)]
        found: list[bool | None] = [None] * len(self.runs)
        for sizes, before, after in ((last, None, False), (every, False, True)):
            for size in sorted(set(sizes)):
                alike = [k for k in runs if sizes[k] == size and found[k] is before]
                more = sum(sizes[k] - (last[k] if after else 0) for k in alike)
                if more <= room:
                    room -= more
                    for k in alike:
                        found[k] = after
        return found

    def tables(self) -> dict[str, object]:
        """What the page has room for (see :meth:`held`). InputError: for no run at all."""
        held, grids = self.held(), {self._grid(k) for k in range(len(self.runs))}
        kept = [k for k, every in enumerate(held) if every is not None]
        if not kept:
            raise InputError(
                f"a page of {PAGE_BYTES:,} bytes has no room for the attention of"
                f" {len(self.images)} such images: take fewer, or the live widget"
            )
        run, image, layer, head, patch = self.start
        if run not in kept:
            patch = self.moved(patch, run, kept[0])
            run, layer, head = kept[0], self._model(kept[0]).depth - 1, -1
        return {
            "selected": dict(zip(self.ROLES, (run, image, layer, head, patch))),
            "runs": [None if e is None else self._tables(k, e) for k, e in enumerate(held)],
            "images": [self._picture(k, grids) for k in range(len(self.images))],
            "size": list(self.images.shape[2:]),
            "colours": COLOURS,
            "left": [self.label(k) for k in range(len(held)) if k not in kept],
        }

    def _picture(self, image: int, grids: set[tuple[int, int]]) -> dict[str, object]:
        """One image as the page's script takes it, and where its object is."""
        found: dict[str, object] = {"url": data_url(self.original(image)), "outline": ""}
        coverage: dict[str, list[float]] = {}
        if self.masks is not None:
            found["outline"] = outline(self.masks[image])
            for rows, columns in sorted(grids):
                shares = patch_coverage(self.masks[image : image + 1], (rows, columns))[0]
                coverage[f"{rows}x{columns}"] = [round(share, 4) for share in shares.tolist()]
        return found | {"coverage": coverage}

    def _tables(self, run: int, every: bool) -> dict[str, object]:
        """One run as the page's script takes it."""
        rows, columns = self._grid(run)
        offered = {
            role: [[value, words, word] for word, (words, value) in self.options(role, run).items()]
            for role in ("layer", "head")
        }
        if not every:
            offered = {"layer": offered["layer"][-1:], "head": offered["head"][:1]}
        maps = [self.maps(run, k) for k in range(len(self.images))]
        return {
            **offered,
            "rows": rows,
            "columns": columns,
            "every": every,
            "heads": self._model(run).heads if every else 1,
            "command": self._command(run),
            "tables": [encoded(m if every else m[-1:].mean(1, keepdim=True)) for m in maps],
        }

    def _model(self, run: int):
        return self.configs[run].model

    def _grid(self, run: int) -> tuple[int, int]:
        return self._model(run).grid

    def _patches(self, run: int) -> int:
        return self._grid(run)[0] * self._grid(run)[1]

    def _place(self, run: int, patch: int) -> str:
        row, column = divmod(patch, self._grid(run)[1])
        return f"row {row + 1}, column {column + 1}"

    def _command(self, run: int) -> str:
        """A run's command, with <image>, <layer>, <head> and <patch> to fill in."""
        checkpoint = self.runs[run]
        config, tier = self.configs[run], TIERS.get(checkpoint.record["tier"])
        if (
            tier is None
            or tier.model.image_size != config.model.image_size
            or not any(config in half for half in tier.sweep(config.data, config.seed).values())
        ):
            name = checkpoint.path.with_suffix(".json").name
            return (
                f"AttentionExplorer([read({name!r})], images).attention(0, <image>, <layer>,"
                " <head>, <patch>)"
            )
        given = "" if tier.name == "laptop" else f" -p tier {tier.name}"
        given += "" if config.data.get("kind") == "world" else " -p data_root DIR"
        given += f" -p seed {config.seed}" if config.seed else ""
        return (
            f"papermill {self.CHAPTER} out.ipynb{given} -p run {config.name} -p image <image>"
            " -p layer <layer> -p head <head> -p patch <patch>"
        )


def outline(mask: Tensor) -> str:
    """The border of the True pixels of bool [H, W] as an SVG path, in pixels, in as few strokes as
    there are straight edges."""
    inside = np.pad(mask.numpy().astype(bool), 1)
    strokes = []
    for turn, pixels in (("h", inside), ("v", inside.T)):
        changes = pixels[1:] != pixels[:-1]
        for y, line in enumerate(changes):
            ends = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
            for start, end in zip(ends[::2].tolist(), ends[1::2].tolist()):
                x, length = start - 1, end - start
                strokes.append(f"M{x} {y}h{length}" if turn == "h" else f"M{y} {x}v{length}")
    return "".join(strokes)


def _percent(value: Tensor) -> str:
    return f"{100 * float(value):.1f} %"


def _levels(values: Tensor) -> list[int]:
    """Places among `COLOURS`, the greatest value at the end."""
    return (255 * values / values.max()).round().int().tolist()
