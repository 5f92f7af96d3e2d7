"""The explorer of attention maps (§3.2, Figures 6 and 7): click a patch of an image and see where
it attends, in any layer and head of any model. Three faces as the other explorers have: live
widget, self-contained HTML with the maps tabulated in bytes, and figure without scripts.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from mae_book.explorers.explorer import data_url, fragment
from mae_lib.base.errors import InputError
from mae_lib.drawing.attention_figures import attention_rows
from mae_lib.evaluation.attention import attention_maps, patch_coverage
from mae_lib.model.autoencoder import normalise_pixels
from mae_lib.training.store import Checkpoint
from mae_lib.training.tiers import TIERS

CHAPTER = "notebooks/07_attention.ipynb"

PAGE_BYTES = 1_500_000
"""What a page may weigh. Attention of T tokens in L layers and H heads takes T²·L·H bytes a model
and image, a third more as text."""

COLOURS = [to_hex(colour) for colour in matplotlib.colormaps["viridis"](np.arange(256))]
"""From no attention to the map's greatest: lightness alone tells them apart, for any kind of colour
vision."""


@dataclass(frozen=True)
class Table:
    """A model's attention on one image in bytes: what a token attends to, in 255ths of the
    greatest.

    Attributes:
        levels: uint8 [layers, heads, T, T]. greatest: float32 [layers, heads, T].
    """

    levels: np.ndarray
    greatest: np.ndarray

    def encoded(self) -> str:
        """As a page holds it: ``greatest`` (little-endian), then ``levels``, in base64."""
        return base64.b64encode(
            self.greatest.astype("<f4").tobytes() + self.levels.tobytes()
        ).decode()


def tabulate(maps: Tensor) -> Table:
    """[layers, heads, T, T] attention maps in bytes, each within half a level of the true value."""
    greatest = maps.amax(-1)
    return Table(
        (255 * maps / greatest[..., None]).round().to(torch.uint8).numpy(), greatest.float().numpy()
    )


class AttentionExplorer:
    """Attention of every token of an image, in the models of a sweep.

    A state is a run, an image, a layer, a head (−1: the mean over all) and a patch (−1: [CLS]), all
    counted from 0.

    Args:
        runs: checkpoints of different names. images: uint8 [N, 3 or 1, H, W], of every model's
            size. object_masks: bool [N, H, W], for the object's outline and its share of the
            attention. names: the images' names. run, image, layer, head, patch: the state shown
            first; the layer may be counted from the end.

    Raises:
        InputError: nothing to choose from, two runs of one name, images or masks of another kind or
            size, a state that is not there.
    """

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
        if not runs or not len(images):
            raise InputError("the attention explorer needs at least one checkpoint and one image")
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(
                f"the attention explorer shows uint8 images [N, 1 or 3, H, W], not {images.dtype}"
                f" {list(images.shape)}"
            )
        for checkpoint in runs:
            model = checkpoint.config.model
            if tuple(images.shape[1:]) != (model.channels, *model.image_size):
                raise InputError(
                    f"images are {list(images.shape[1:])}, {checkpoint.config.name} takes"
                    f" {[model.channels, *model.image_size]}: open them at that size"
                )
        if object_masks is not None and tuple(object_masks.shape) != (
            len(images),
            *images.shape[2:],
        ):
            raise InputError(
                f"object masks {list(object_masks.shape)} are not one for each image: give bool"
                f" {[len(images), *images.shape[2:]]}"
            )
        self.runs, self.images, self.masks = list(runs), images, object_masks
        self.names = (
            list(names) if names is not None else [f"image {k}" for k in range(len(images))]
        )
        if len(self.names) != len(images):
            raise InputError(
                f"{len(self.names)} names for {len(images)} images: give each image one"
            )
        self._named = {checkpoint.config.name: k for k, checkpoint in enumerate(self.runs)}
        if len(self._named) < len(self.runs):
            raise InputError(
                "two of the runs have one name, among"
                f" {', '.join(c.config.name for c in self.runs)}: give each run once"
            )
        if run is not None and run not in self._named:
            raise InputError(f"there is no run {run!r}: choose one of {', '.join(self._named)}")
        self._maps: dict[tuple[int, int], Tensor] = {}
        number = 0 if run is None else self._named[run]
        depth = self._model(number).depth
        self.selected = self._checked(
            number, image, layer + depth if -depth <= layer < 0 else layer, head, patch
        )

    def maps(self, run: int, image: int) -> Tensor:
        """[layers, heads, 1 + P, 1 + P] of one run and image: `attention_maps` on every layer,
        computed once."""
        if (run, image) not in self._maps:
            self._maps[run, image] = attention_maps(
                self.runs[run].load(), normalise_pixels(self.images[image : image + 1]), None
            )[0]
        return self._maps[run, image]

    def attention(
        self, run: int, image: int, layer: int, head: int = -1, patch: int = -1
    ) -> Tensor:
        """[1 + P]: how a state's token attends to [CLS] and to the patches. InputError for a state
        that is not there."""
        self._checked(run, image, layer, head, patch)
        heads = self.maps(run, image)[layer]
        return (heads.mean(0) if head < 0 else heads[head])[patch + 1]

    def reading(
        self, run: int, image: int, layer: int, head: int = -1, patch: int = -1
    ) -> dict[str, str]:
        """What the faces say of a state: ``from``, ``peak``, ``to-cls`` and ``object``."""
        found, (rows, columns) = (
            self.attention(run, image, layer, head, patch),
            self._model(run).grid,
        )
        values, peak = found[1:], int(found[1:].argmax())
        where = lambda p: f"row {p // columns + 1}, column {p % columns + 1}"
        says = {
            "from": "[CLS]" if patch < 0 else f"the patch in {where(patch)} of {rows} × {columns}",
            "peak": (
                f"the patch in {where(peak)}: {_percent(values[peak])}"
                + ("" if patch < 0 else f"; the patch itself: {_percent(values[patch])}")
            ),
            "to-cls": _percent(found[0]),
            "object": "–",
        }
        if self.masks is not None:
            coverage, others = (
                patch_coverage(self.masks[image : image + 1], (rows, columns))[0],
                torch.arange(rows * columns) != patch,
            )
            share = (values * coverage)[others].sum() / values[others].sum()
            whom = "patches" if patch < 0 else "other patches"
            says["object"] = (
                f"{_percent(share)} of what goes to {whom}; the object is"
                f" {_percent(coverage[others].mean())} of their area"
            )
        return says

    def label(self, run: int) -> str:
        """A run in words: ratio, mask unit and ViT patch."""
        config = self.runs[run].config
        return f"ratio {config.ratio:g}, unit {config.unit} px, ViT patch {config.model.patch} px"

    def command(self, run: int, image: int, layer: int, head: int = -1, patch: int = -1) -> str:
        """The command that opens chapter 7 on a state; for a run that chapter does not have, the
        call that computes its attention."""
        self._checked(run, image, layer, head, patch)
        text = self._command(run)
        for name, value in {"image": image, "layer": layer, "head": head, "patch": patch}.items():
            text = text.replace(f"<{name}>", str(value))
        return text

    def figure(self) -> Figure:
        """The printed face: the first state's token in every run, at its layer and head (the last
        layer and the mean where a run lacks them)."""
        run, image, layer, head, patch = self.selected
        maps, marks = {}, {}
        for k, checkpoint in enumerate(self.runs):
            model = checkpoint.config.model
            at = layer if layer < model.depth else model.depth - 1
            config = checkpoint.config
            title = f"r {config.ratio:g}\nunit {config.unit} px\npatch {model.patch} px"
            moved = self.moved(patch, run, k)
            row = self.attention(k, image, at, head if head < model.heads else -1, moved)
            marks[title], maps[title] = [moved], row[1:].view(1, *model.grid)
        return attention_rows(
            self.images[image : image + 1],
            maps,
            marks,
            None if self.masks is None else self.masks[image : image + 1],
        )

    def moved(self, patch: int, before: int, after: int) -> int:
        """The patch of run ``after`` under the middle of a patch of run ``before``; −1 stays −1."""
        if patch < 0:
            return -1
        (rows, columns), (new_rows, new_columns) = self._model(before).grid, self._model(after).grid
        row, column = divmod(patch, columns)
        return int((row + 0.5) * new_rows / rows) * new_columns + int(
            (column + 0.5) * new_columns / columns
        )

    def live_html(
        self, run: int, image: int, layer: int, head: int = -1, patch: int = -1
    ) -> tuple[str, str]:
        """(picture, words) of one state as HTML: what the live widget shows beside the map."""
        says = {
            key: html.escape(text)
            for key, text in self.reading(run, image, layer, head, patch).items()
        }
        (height, width), (rows, columns) = self.images.shape[2:], self._model(run).grid
        mark = ""
        if patch >= 0:
            y, x = patch // columns * height / rows, patch % columns * width / columns
            mark = (
                f'<rect x="{x:g}" y="{y:g}" width="{width / columns:g}" height="{height / rows:g}"'
                f' fill="none" stroke="#ff2b2b" stroke-width="{width / 64:g}"/>'
            )
        url = data_url(self.images[image].float() / 255)
        picture = (
            f'<svg viewBox="0 0 {width} {height}" width="340" role="img"'
            f' aria-label="{html.escape(self.names[image])}"><image href="{url}" width="{width}"'
            f' height="{height}" style="image-rendering:pixelated"/>{mark}</svg>'
        )
        listed = zip(("looking from", "most attention", "to [CLS]", "on the object"), says.values())
        words = "<br>".join(f"{label}: {text}" for label, text in listed)
        return (
            picture,
            (
                f"{words}<br>reproduce:"
                f" <code>{html.escape(self.command(run, image, layer, head, patch))}</code>"
            ),
        )

    def widget(self):
        """The live face: an ipywidgets box; the patches of its map are buttons, and the kernel
        answers each."""
        import ipywidgets as widgets

        wide = {"width": "34em"}
        first = dict(zip(("run", "image", "layer", "head", "patch"), self.selected))
        run = widgets.SelectionSlider(
            options=[(self.label(k), k) for k in range(len(self.runs))],
            value=first["run"],
            description="model",
            layout=wide,
        )
        image = widgets.SelectionSlider(
            options=[(name, k) for k, name in enumerate(self.names)],
            value=first["image"],
            description="image",
            layout=wide,
        )
        layer = widgets.IntSlider(
            first["layer"], 0, self._model(first["run"]).depth - 1, description="layer", layout=wide
        )
        head = widgets.SelectionSlider(options=[("mean", -1)], description="head", layout=wide)
        cls = widgets.Button(description="attention of [CLS]")
        patches, picture, words = widgets.GridBox(), widgets.HTML(), widgets.HTML()
        patch, shown, quiet = first["patch"], first["run"], False

        def show(_=None) -> None:
            if quiet:
                return
            state = (run.value, image.value, layer.value, head.value, patch)
            values = self.attention(*state)[1:]
            for button, level in zip(
                patches.children, (255 * values / values.max()).round().int().tolist()
            ):
                button.style.button_color = COLOURS[level]
            picture.value, words.value = self.live_html(*state)

        def go(to: int) -> None:
            nonlocal patch
            patch = to
            show()

        def choose(_=None) -> None:
            """Another run: its grid of patches, its layers and heads, and the patch under the old
            one."""
            nonlocal quiet, patch, shown
            model = self._model(run.value)
            patch, shown, quiet = self.moved(patch, shown, run.value), run.value, True
            layer.max = model.depth - 1
            kept = head.value
            head.options = [("mean over all", -1), *((f"head {k}", k) for k in range(model.heads))]
            head.value = kept if kept < model.heads else -1
            rows, columns = model.grid
            if len(patches.children) != rows * columns:
                side = f"{340 / columns:g}px"
                patches.layout = widgets.Layout(
                    grid_template_columns=f"repeat({columns}, {side})", grid_gap="0px"
                )
                patches.children = [
                    widgets.Button(
                        tooltip=f"row {k // columns + 1}, column {k % columns + 1}",
                        layout={"width": side, "height": side, "margin": "0px"},
                    )
                    for k in range(rows * columns)
                ]
                for k, button in enumerate(patches.children):
                    button.on_click(lambda _, k=k: go(k))
            quiet = False
            show()

        choose()
        head.value = first["head"]
        run.observe(choose, "value")
        for control in (image, layer, head):
            control.observe(show, "value")
        cls.on_click(lambda _: go(-1))
        return widgets.VBox([run, image, layer, head, cls, widgets.HBox([picture, patches]), words])

    def held(self) -> list[bool | None]:
        """What the page holds of each run: every layer and head (True), the last layer's mean over
        heads (False), or nothing (None).

        The smallest tables come first: the last layers, then all layers of all runs with tables of
        one size, while the page stays within `PAGE_BYTES`.
        """
        room = 0.75 * (PAGE_BYTES - 60_000) / len(self.images) - 6 * self.images[0].numel() / 8
        tokens = [
            model.grid[0] * model.grid[1] + 1 for model in map(self._model, range(len(self.runs)))
        ]
        last = [t * (t + 4) for t in tokens]
        every = [size * self._model(k).depth * self._model(k).heads for k, size in enumerate(last)]
        found: list[bool | None] = [None] * len(self.runs)
        for size in sorted(set(last)):
            alike = [k for k in range(len(found)) if last[k] == size]
            if size * len(alike) <= room:
                room -= size * len(alike)
                for k in alike:
                    found[k] = False
        for size in sorted(set(every)):
            alike = [k for k in range(len(found)) if every[k] == size and found[k] is False]
            more = sum(every[k] - last[k] for k in alike)
            if more <= room:
                room -= more
                for k in alike:
                    found[k] = True
        return found

    def html(self) -> str:
        """The kernel-free face: one self-contained fragment that looks attention up. What it has no
        room for (see :meth:`held`) it says.

        Raises:
            InputError: a page has no room for any run.
        """
        held = self.held()
        kept = [k for k, every in enumerate(held) if every is not None]
        if not kept:
            raise InputError(
                f"a page of {PAGE_BYTES:,} bytes has no room for the attention of"
                f" {len(self.images)} such images: take fewer, or the live widget"
            )
        run, image, layer, head, patch = self.selected
        if run not in kept:
            run, layer, head, patch = (
                kept[0],
                self._model(kept[0]).depth - 1,
                -1,
                self.moved(patch, run, kept[0]),
            )
        data = {
            "runs": [self._tables(k, bool(held[k])) for k in kept],
            "images": [
                self._picture(k, {self._model(r).grid for r in kept})
                for k in range(len(self.images))
            ],
            "size": list(self.images.shape[2:]),
            "colours": COLOURS,
            "selected": {
                "run": kept.index(run),
                "image": image,
                "layer": layer,
                "head": head,
                "patch": patch,
            },
            "left": [self.label(k) for k in range(len(held)) if k not in kept],
        }
        return fragment("attention", data)

    def _repr_html_(self) -> str:
        return self.html()

    def _model(self, run: int):
        return self.runs[run].config.model

    def _checked(
        self, run: int, image: int, layer: int, head: int, patch: int
    ) -> tuple[int, int, int, int, int]:
        """The state; InputError where it is not there."""
        self._between("run", run, 0, len(self.runs))
        model = self._model(run)
        self._between("image", image, 0, len(self.images))
        self._between("layer", layer, 0, model.depth)
        self._between("head", head, -1, model.heads, " (-1: the mean over all)")
        self._between("patch", patch, -1, model.grid[0] * model.grid[1], " (-1: [CLS])")
        return run, image, layer, head, patch

    @staticmethod
    def _between(name: str, value: int, low: int, end: int, remark: str = "") -> None:
        if not low <= value < end:
            raise InputError(f"there is no {name} {value}: choose one of {low} … {end - 1}{remark}")

    def _tables(self, run: int, every: bool) -> dict[str, object]:
        """One run as the page's script takes it."""
        model = self._model(run)
        maps = [
            self.maps(run, k) if every else self.maps(run, k)[-1:].mean(1, keepdim=True)
            for k in range(len(self.images))
        ]
        return {
            "name": self.runs[run].config.name,
            "label": self.label(run),
            "rows": model.grid[0],
            "columns": model.grid[1],
            "depth": model.depth,
            "allHeads": model.heads,
            "every": every,
            "layers": list(range(model.depth)) if every else [model.depth - 1],
            "heads": model.heads if every else 1,
            "command": self._command(run),
            "tables": [tabulate(m).encoded() for m in maps],
        }

    def _picture(self, image: int, grids: set[tuple[int, int]]) -> dict[str, object]:
        """One image as the page's script takes it: name, picture, and where its object is."""
        masks = None if self.masks is None else self.masks[image : image + 1]
        return {
            "name": self.names[image],
            "url": data_url(self.images[image].float() / 255),
            "outline": None if masks is None else outline(masks[0]),
            "coverage": (
                {}
                if masks is None
                else {
                    f"{g[0]}x{g[1]}": [round(m, 4) for m in patch_coverage(masks, g)[0].tolist()]
                    for g in sorted(grids)
                }
            ),
        }

    def _command(self, run: int) -> str:
        """A run's command, with <image>, <layer>, <head> and <patch> to fill in."""
        checkpoint = self.runs[run]
        config, tier = checkpoint.config, TIERS.get(checkpoint.record["tier"])
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
            f"papermill {CHAPTER} out.ipynb{given} -p run {config.name} -p image <image> -p layer"
            " <layer> -p head <head> -p patch <patch>"
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
