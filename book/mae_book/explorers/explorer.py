"""What every explorer is made of: a state with its choices, link and command, and from them two of
its three faces, the page (self-contained HTML without kernel or network) and the live widget. Each
explorer adds what it draws, its tables and the third face, the printed figure.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any, ClassVar
from urllib.parse import quote, unquote

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.training.store import Checkpoint

Options = dict[str, tuple[str, Any]]
"""Word in a link → (words for the reader, value), in order."""


class Explorer:
    """An explorer with three faces. A state is a tuple with a value for each of ``ROLES``.

    A subclass gives the attributes below, its script (``assets/KIND.js``, put behind
    ``assets/explorer.js``), its style (``KIND.css``), and these: ``options(role, *before)``, what
    can be chosen for a role, given the values of those before it; ``reading(*state)``, what is
    said of a state by the keys of ``SAYS``; ``command(*state)``, what gives it again;
    ``picture(*state)``, what is drawn of it, as HTML that the script changes; ``tables()``, what
    the script looks up; ``figure()``, the printed face.

    Attributes:
        KIND: its name in links, classes and assets. TITLE: said to those who do not see it.
        CHAPTER: the notebook that shows it. ROLES: part of a state → label of its control; one
            without a label is chosen otherwise. SELECTS: the roles that are lists, not sliders.
        DEPENDENT: those whose options depend on what is chosen before; the script gives them.
        SCRIPTS: assets that its own script needs before it. SAYS: key of a reading → label.
        MAKES: what its command does. start: the state shown first.
    """

    KIND: ClassVar[str]
    TITLE: ClassVar[str]
    CHAPTER: ClassVar[str]
    ROLES: ClassVar[Mapping[str, str]] = {}
    SELECTS: ClassVar[tuple[str, ...]] = ()
    DEPENDENT: ClassVar[tuple[str, ...]] = ()
    SCRIPTS: ClassVar[tuple[str, ...]] = ()
    SAYS: ClassVar[Mapping[str, str]] = {}
    MAKES: ClassVar[str] = "reproduce"
    start: tuple

    def panes(self) -> list[tuple]:
        """The states that the page draws before its script runs; the first one is shown."""
        return [self.start]

    def html(self) -> str:
        """The kernel-free face: one self-contained fragment, whole before its script runs."""
        choices = {
            role: [[value, words, word] for word, (words, value) in self.options(role).items()]
            for role in self.ROLES
            if role not in self.DEPENDENT
        }
        data = {"selected": dict(zip(self.ROLES, self.start)), "choices": choices, **self.tables()}
        # Inside a script element "</script" would end it, and "<!--" change how it ends.
        text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        inside = self.controls_html() + "".join(
            f'<div class="pane" data-pane="{k}"{" hidden" * (state != self.start)}>'
            f"{self.picture(*state)}</div>"
            for k, state in enumerate(self.panes())
        )
        # Its id is its own and the same at every build: Jupyter runs scripts detached from their
        # place, so that a script must look itself up.
        identity = f"{self.KIND}-{hashlib.sha256((inside + text).encode()).hexdigest()[:8]}"
        script = Template(asset("explorer.html")).substitute(
            id=identity, kind=self.KIND, data=text, parts=asset("explorer.js"),
            own="".join(asset(f"{name}.js") for name in (*self.SCRIPTS, self.KIND)),
        )  # fmt: skip
        said = self._said(*self.start)
        return self._frame(f'id="{identity}"', inside + said + script)

    def live_html(self, *state: Any) -> str:
        """One state as HTML: what the live widget shows."""
        drawn = f'<div class="pane">{self.picture(*state)}</div>'
        return self._frame("data-live", drawn + self._said(*state))

    def widget(self, link: str = ""):
        """The live face: an ipywidgets box whose every change the kernel answers. It begins at the
        state of a link, as `link` gives it, or at the first one."""
        return Live(self, self.state(link) if link else self.start).box

    def _repr_html_(self) -> str:
        return self.html()

    # ----------------------------------------------------------------------------------------------
    # States and links

    def word(self, role: str, value: Any, *before: Any) -> str:
        """How a value is written in links. InputError for one that cannot be chosen."""
        offered = self.options(role, *before)
        for word, (_, each) in offered.items():
            if each == value:
                return word
        listed = [repr(each) for _, each in offered.values()]
        if len(listed) > 9:
            listed[4:-1] = ["…"]
        raise InputError(f"there is no {role} {value!r}: choose one of {', '.join(listed)}")

    def value(self, role: str, word: str, *before: Any) -> Any:
        """The value that a link's word means."""
        offered = self.options(role, *before)
        if word not in offered:
            raise InputError(f"there is no {role} {word!r}: choose one of {', '.join(offered)}")
        return offered[word][1]

    def nearest(self, role: str, wanted: Any, *before: Any) -> Any:
        """What is shown of a wanted value: itself or, where it is not offered, the nearest."""
        values = [value for _, value in self.options(role, *before).values()]
        return wanted if wanted in values else min(values, key=lambda value: abs(value - wanted))

    def adapted(self, state: tuple, changes: dict[str, Any]) -> dict[str, Any]:
        """What else changes with some roles' values, with them."""
        return changes

    def checked(self, *state: Any) -> tuple:
        """The state; InputError where it is not there."""
        for k, (role, value) in enumerate(zip(self.ROLES, state, strict=True)):
            self.word(role, value, *state[:k])
        return state

    def link(self, *state: Any) -> str:
        """A state's address on its page, and the way to it in Python: ``widget(link)``."""
        words = [self.word(role, state[k], *state[:k]) for k, role in enumerate(self.ROLES)]
        return f"#{self.KIND}=" + ":".join([quote(words[0], safe="!'()*"), *words[1:]])

    def state(self, link: str) -> tuple:
        """The state that `link` gave an address for."""
        kind, _, words = link.rpartition("#")[2].partition("=")
        parts = unquote(words).rsplit(":", len(self.ROLES) - 1)
        if kind != self.KIND or len(parts) < len(self.ROLES):
            raise InputError(f"{link!r} is no link to a state: they begin with #{self.KIND}=")
        found: tuple = ()
        for role, word in zip(self.ROLES, parts):
            found += (self.value(role, word, *found),)
        return found

    # ----------------------------------------------------------------------------------------------
    # Parts of the page and of the widget

    def controls_html(self) -> str:
        """The page's controls; without its script they do nothing, and are hidden."""
        made = "".join(
            f'<label><b>{label}</b><select data-role="{role}"></select></label>'
            if role in self.SELECTS
            else slider(role, label)
            for role, label in self.ROLES.items()
            if label
        )
        return f'<div class="controls" data-role="controls" hidden>{made}</div>'

    def live_controls(self, live: Live) -> list:
        """Widgets of the live face beside those of the roles; they call ``live.choose``."""
        return []

    def _said(self, *state: Any) -> str:
        """Reading, command and link of a state."""
        escaped = lambda text: html.escape(text, quote=False)
        says = self.reading(*state)
        listed = "".join(
            f'<dt>{label}</dt><dd data-role="{key}">{escaped(says[key])}</dd>'
            for key, label in self.SAYS.items()
        )
        link = self.link(*state)
        code = escaped(f'explorer.widget("{link}")')
        page = self.CHAPTER.replace(".ipynb", ".html").rpartition("/")[2]
        return (
            f'<div class="readout" aria-live="polite"><dl>{listed}</dl>'
            '<p class="remark" data-role="note" hidden></p></div>'
            f'<p>{self.MAKES}: <code data-role="command">{escaped(self.command(*state))}</code></p>'
            '<p class="link"><a data-role="link" hidden>link to this state</a></p>'
            f'<p class="address">link to this state in the book: <code>{escaped(page + link)}'
            f'</code></p><p class="code">this state in Python: <code data-role="code">{code}'
            "</code></p>"
        )

    def _frame(self, attributes: str, inside: str) -> str:
        return (
            f'<div class="mae-explorer {self.KIND}-explorer" {attributes} role="group"'
            f' aria-label="{self.TITLE}">\n<style>\n{asset("explorer.css")}'
            f"{asset(f'{self.KIND}.css')}</style>\n{inside}\n</div>"
        )


class Live:
    """The live face: a control for each choice, what it shows, and what went wrong beside them.

    Attributes:
        wanted: role → the value asked for, which is shown once it is offered. listeners: called
            with the state at each change. quiet: true while several controls change for one reason.
        box: the widget.
    """

    def __init__(self, explorer: Explorer, state: tuple) -> None:
        import ipywidgets as widgets

        self.explorer, self.wanted = explorer, dict(zip(explorer.ROLES, state))
        self.listeners: list = []
        self.error, self.view, self.quiet = widgets.HTML(), widgets.HTML(), False
        self.controls = {}
        for k, (role, label) in enumerate(explorer.ROLES.items()):
            if not label:
                continue
            offered = list(explorer.options(role, *state[:k]).values())
            # A slider cuts off the words beside it, and of models the last are what tells.
            long = role in explorer.SELECTS or max(len(words) for words, _ in offered) > 16
            kind = widgets.Dropdown if long else widgets.SelectionSlider
            control = kind(
                options=offered,
                value=state[k],
                description=label,
                layout={"width": "40em", "max_width": "100%"},
                style={"description_width": "7em"},  # the longest label, whole
            )
            control.observe(self._changed(role), "value")
            self.controls[role] = control
        more = explorer.live_controls(self)
        self.box = widgets.VBox([*self.controls.values(), *more, self.error, self.view])
        self.choose()

    def _changed(self, role: str) -> Callable:
        return lambda change: self.choose(lambda _: {role: change["new"]})

    @property
    def state(self) -> tuple:
        """What is shown: what is asked for, or the nearest to it."""
        found: tuple = ()
        for role, wanted in self.wanted.items():
            found += (self.explorer.nearest(role, wanted, *found),)
        return found

    def choose(self, asked: Callable[[tuple], dict[str, Any]] = lambda state: {}) -> None:
        """Asks for what a function of the present state wants, and shows what there is of it."""
        if self.quiet:
            return
        self.quiet = True
        try:
            self.wanted |= self.explorer.adapted(self.state, asked(self.state))
            state = self.state
            for k, role in enumerate(self.wanted):
                if control := self.controls.get(role):
                    offered = list(self.explorer.options(role, *state[:k]).values())
                    if list(control.options) != offered:
                        control.options = offered
                    control.value, control.disabled = state[k], len(offered) < 2
            for listener in self.listeners:
                listener(state)
            self.view.value, self.error.value = self.explorer.live_html(*state), ""
        except Exception as error:  # Jupyter would drop it, and the widget stand still
            words = html.escape(f"{type(error).__name__}: {error}")
            self.error.value = f'<p role="alert" style="color:#b04600">{words}</p>'
        finally:
            self.quiet = False

    def button(self, words: str, asked: Callable[[tuple], dict[str, Any]], **looks: Any):
        """A button that asks for something."""
        import ipywidgets as widgets

        made = widgets.Button(description=words, **looks)
        made.on_click(lambda _: self.choose(asked))
        return made


class ModelExplorer(Explorer):
    """An explorer of pretrained models and images.

    Args:
        runs: checkpoints of different names. images: uint8 [N, C, H, W] of every model's size,
            N ≥ 1, C 1 or 3. names: the images' names; their numbers where none are given.

    Raises:
        InputError: nothing to choose from, two runs of one name, images of another kind or size.
    """

    def __init__(
        self, runs: Sequence[Checkpoint], images: Tensor, names: Sequence[str] | None = None
    ) -> None:
        what = f"the {self.KIND} explorer"
        if not runs or not len(images):
            raise InputError(f"{what} needs at least one checkpoint and one image")
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            given = f"{images.dtype} {list(images.shape)}"
            raise InputError(f"{what} shows uint8 images [N, 1 or 3, H, W], not {given}")
        self.runs, self.images = list(runs), images
        self.configs = [run.config for run in self.runs]  # each reading parses it anew
        for config in self.configs:
            taken = [config.model.channels, *config.model.image_size]
            if list(images.shape[1:]) != taken:
                given = f"images are {list(images.shape[1:])}, {config.name} takes {taken}"
                raise InputError(f"{given}: open them at that size")
        self.names = [f"image {k}" for k in range(len(images))] if names is None else list(names)
        if len(self.names) != len(images):
            given = f"{len(self.names)} names for {len(images)} images"
            raise InputError(f"{given}: give each image one")
        known = [config.name for config in self.configs]
        if len(set(known)) < len(known):
            listed = ", ".join(known)
            raise InputError(f"two of the runs have one name, among {listed}: give each run once")

    def label(self, run: int) -> str:
        """A run in words: ratio, mask unit and ViT patch."""
        config = self.configs[run]
        return f"ratio {config.ratio:g}, unit {config.unit} px, ViT patch {config.model.patch} px"

    def options(self, role: str, *before: Any) -> Options:
        if role == "run":
            return {c.name: (self.label(k), k) for k, c in enumerate(self.configs)}
        return {str(k): (name, k) for k, name in enumerate(self.names)}

    def original(self, image: int) -> Tensor:
        """Float [C, H, W] in [0, 1]."""
        return self.images[image].float() / 255


def slider(role: str, label: str) -> str:
    """A page's slider, and beside it what its place means."""
    return (
        f'<label><b>{label}</b><input type="range" min="0" value="0" data-role="{role}">'
        f'<output data-role="{role}-words"></output></label>'
    )


def filled(text: str, **values: Any) -> str:
    """A command whose <names> are given values."""
    return re.sub(r"<(\w+)>", lambda name: str(values[name[1]]), text)


def asset(name: str) -> str:
    """A text that is shipped with the package, from ``assets/``."""
    folder = resources.files("mae_book.explorers")
    return folder.joinpath("assets", name).read_text(encoding="utf-8")


def data_url(picture: Tensor, quality: int = 88) -> str:
    """A float picture [C, H, W] in [0, 1] as a ``data:`` URL (WebP)."""
    array = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(np.squeeze(array)).save(buffer, "WEBP", quality=quality, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
