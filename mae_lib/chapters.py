"""What every chapter needs before and around its science: parameters that are checked, a badge that says which compute
tier made the page, and the way to the project's files.

papermill takes any name and any value: a misspelt parameter is injected beside the right one and only warned about, and
`-p quick false` injects the *string* "false". A chapter therefore declares its parameters once, in a call of
`check_parameters` below its `parameters` cell. `check_notebook_parameters` reads the same call before anything is run.
"""

from __future__ import annotations

import ast
import difflib
import html
import json
import numbers
import re
import types as python_types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mae_lib.errors import InputError

INTERACTIVE_NAMES = frozenset({"In", "Out", "exit", "quit", "get_ipython", "open", "display"})
"""What IPython itself puts into a notebook's namespace, beside names with a leading underscore."""

INJECTABLE = (str, int, float, bool, list, tuple, dict, type(None))
"""The only types papermill can inject (what YAML holds): whatever else is in the namespace is no parameter."""

TIER_MEANINGS = {
    "smoke": "numbers on this page mean nothing",
    "laptop": "the embedded world on two CPU cores",
    "gpu": "one GPU",
    "paper": "the paper's own setting",
}
"""The compute tiers and what each says about the numbers made by it."""


def check_parameters(namespace: Mapping[str, Any], /, **types: Any) -> None:
    """Check a chapter's parameters; call it in the cell after the one tagged `parameters`.

        check_parameters(globals(), tier=Literal["smoke", "laptop"], data_root=str, mask_ratios=list[float], quick=bool)

    Args:
        namespace: the notebook's `globals()`. Names of IPython, modules, functions, classes and objects that no
            notebook parameter can be are passed over; any other name has to be declared.
        types: each parameter's type: `str`, `int`, `float` (takes an int), `bool`, `None`, `Literal[...]`, `list[T]` (takes a
            tuple), `tuple[T, ...]`, `tuple[A, B]`, `dict[K, V]`, unions of these, `Any`.

    Raises:
        InputError: a declared parameter is missing or of another type, or there is a name that was not declared; one
            line that says how to pass it, with the nearest declared name.
        TypeError: `types` itself holds something that is no such type.
    """
    problems = [f"parameter {name!r} is missing: define it in the cell tagged 'parameters'" for name in types if name not in namespace]
    for name, value in namespace.items():
        if name in types:
            problems += _type_problem(name, value, types[name])
        elif not name.startswith("_") and name not in INTERACTIVE_NAMES and isinstance(value, INJECTABLE):
            problems.append(_unknown(name, types))
    if problems:
        raise InputError("; ".join(problems))


def check_notebook_parameters(notebook: str | Path, parameters: Mapping[str, Any]) -> None:
    """The same check from outside, before papermill starts a kernel: `parameters` is what it would inject.

    The declarations are read from the notebook's own `check_parameters` call, without running anything. (papermill's
    `inspect_notebook` gives less: it skips lines with two `=` or a union, and keeps no element types.)

    Raises:
        InputError: the notebook cannot be read or declares nothing, or a name or a type is wrong.
    """
    types = declared_parameters(notebook)
    problems = []
    for name, value in parameters.items():
        problems += _type_problem(name, value, types[name]) if name in types else [_unknown(name, types)]
    if problems:
        raise InputError(f"{Path(notebook).name}: " + "; ".join(problems))


def declared_parameters(notebook: str | Path) -> dict[str, Any]:
    """The parameters a notebook declares in its `check_parameters(globals(), name=type, ...)` call, with their types.

    Raises:
        InputError: no such file, no notebook, no such call, or a type in it that is not spelt with built-in names and `typing`'s.
    """
    path = Path(notebook)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except FileNotFoundError:
        raise InputError(f"there is no notebook {path}: check the path") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a readable notebook ({type(error).__name__}): give an .ipynb file") from None
    for source in sources:
        for node in ast.walk(_parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == check_parameters.__name__:
                return {keyword.arg: _read_type(path, keyword) for keyword in node.keywords if keyword.arg}
    raise InputError(f"{path} declares no parameters: call check_parameters(globals(), ...) after its 'parameters' cell")


def _parse(source: str) -> ast.AST:
    """A cell's syntax tree; an empty one for cells that are not plain Python (magics)."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


TYPE_NAMES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (str, int, float, bool, list, tuple, dict)},
    **{name: getattr(typing, name) for name in ("Any", "Literal", "Optional", "Union")},
    "typing": typing,
}


def _read_type(path: Path, keyword: ast.keyword) -> Any:
    """The type written in one argument of a `check_parameters` call, without running the notebook."""
    text = ast.unparse(keyword.value)
    # The nodes are restricted before the evaluation: a notebook that is only looked at must not get code run.
    allowed = (ast.Name, ast.Attribute, ast.Subscript, ast.Tuple, ast.Constant, ast.BinOp, ast.BitOr, ast.Load, ast.UnaryOp, ast.USub)
    try:
        if not all(isinstance(node, allowed) for node in ast.walk(keyword.value)):
            raise ValueError(text)
        return eval(compile(ast.Expression(keyword.value), str(path), "eval"), {"__builtins__": {}}, TYPE_NAMES)
    except Exception:
        raise InputError(
            f"{path.name}: the type {text!r} of parameter {keyword.arg!r} cannot be read from outside: spell it with built-in types and those of typing"
        ) from None


def _unknown(name: str, types: Mapping[str, Any]) -> str:
    """What to say of a name that is no parameter."""
    near = difflib.get_close_matches(name, types, n=1)
    guess = f"did you mean {near[0]!r}?" if near else "remove it."
    return f"there is no parameter {name!r}: {guess} (parameters: {', '.join(types)})"


def _type_problem(name: str, value: Any, expected: Any) -> list[str]:
    """Nothing, or one message: `value` is not of type `expected`."""
    if _matches(value, expected):
        return []
    options = _options(expected)
    message = f"parameter {name!r} has to be {_spell(expected)}, not {type(value).__name__} {value!r}"
    if isinstance(value, str):
        near = difflib.get_close_matches(value, [option for option in _literals(expected) if isinstance(option, str)], n=1)
        if near:
            return [f"{message}: did you mean {near[0]!r}?"]
        if bool in options and value.strip().lower() in ("true", "false"):
            word = value.strip().lower()
            return [f"{message}: papermill's -p passes {value} as text, so use -p {name} {word.capitalize()} or -y '{name}: {word}'"]
    containers = [kind for option in options if (kind := typing.get_origin(option) or option) in (list, tuple, dict)]
    if containers:
        example = "{key: value}" if containers[0] is dict else "[first, second]"
        return [f"{message}: papermill takes it as -y '{name}: {example}'"]
    if str in options and isinstance(value, (int, float, bool, type(None))):
        return [f"{message}: papermill's -r passes a value as text: -r {name} {value}"]
    return [f"{message}: pass -p {name} VALUE or -y '{name}: VALUE' with such a value"]


def _options(expected: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    if typing.get_origin(expected) in (typing.Union, python_types.UnionType):
        return tuple(option for member in typing.get_args(expected) for option in _options(member))
    return (expected,)


def _is_literal(expected: Any) -> bool:
    return typing.get_origin(expected) is Literal


def _literals(expected: Any) -> list[Any]:
    """All the values that the `Literal`s in a type allow."""
    return [value for option in _options(expected) if _is_literal(option) for value in typing.get_args(option)]


def _matches(value: Any, expected: Any) -> bool:
    """Whether `value` is of the declared type. A bool is no int, an int is a float, a tuple is as good as a list."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        return True
    if expected is None or expected is type(None):
        return value is None
    if len(_options(expected)) > 1:
        return any(_matches(value, option) for option in _options(expected))
    if _is_literal(expected):
        # True == 1, so equality alone would take one for the other.
        return any(value == allowed and isinstance(value, bool) == isinstance(allowed, bool) for allowed in arguments)
    if expected is bool:
        return isinstance(value, bool)
    if expected in (int, float):
        kind = numbers.Integral if expected is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if expected is str:
        return isinstance(value, str)
    if (origin or expected) is dict:
        return isinstance(value, dict) and (
            not arguments or all(_matches(key, arguments[0]) and _matches(item, arguments[1]) for key, item in value.items())
        )
    if (origin or expected) in (list, tuple):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and arguments[-1:] != (Ellipsis,):
            return len(value) == len(arguments) and all(map(_matches, value, arguments))
        return not arguments or all(_matches(item, arguments[0]) for item in value)
    raise TypeError(f"{expected!r} is no type that check_parameters knows")


def _spell(expected: Any) -> str:
    """A type as a reader would say it."""
    if expected is None or expected is type(None):
        return "None"
    if len(_options(expected)) > 1:
        return " or ".join(_spell(option) for option in _options(expected))
    if _is_literal(expected):
        return " or ".join(map(repr, typing.get_args(expected)))
    if typing.get_origin(expected):
        return str(expected).replace("typing.", "")
    return getattr(expected, "__name__", str(expected))


@dataclass(frozen=True)
class TierBadge:
    """The line at a chapter's top that says which tier made the page and how long it took; shows itself in a notebook."""

    tier: str
    seconds: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.tier not in TIER_MEANINGS:
            raise InputError(f"there is no tier {self.tier!r}: choose one of {', '.join(TIER_MEANINGS)}")

    @property
    def parts(self) -> list[str]:
        """What follows the tier's name: its meaning, the measured time, the note."""
        time = [] if self.seconds is None else [f"made in {_duration(self.seconds)}"]
        return [TIER_MEANINGS[self.tier], *time, *([self.note] if self.note else [])]

    def __str__(self) -> str:
        return f"tier {self.tier}: " + " · ".join(self.parts)

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        return f"**tier {self.tier}**: " + " · ".join(self.parts)

    def _repr_html_(self) -> str:
        # The inline style is the least that makes it a badge in Jupyter, where the book's style sheet is not loaded.
        style = "display:inline-block;padding:.15em .8em;border:1px solid currentColor;border-radius:1em"
        text = " · ".join(html.escape(part, quote=False) for part in self.parts)
        return f'<span class="tier-badge tier-{self.tier}" style="{style}"><strong>tier {self.tier}</strong> · {text}</span>'


def tier_badge(tier: str, seconds: float | None = None, note: str = "") -> TierBadge:
    """A badge naming the tier that made the page.

    Args:
        tier: one of `TIER_MEANINGS`.
        seconds: the measured wall time of the chapter, or None where it was not measured.
        note: anything to add, such as the hardware.

    Raises:
        InputError: there is no such tier.
    """
    return TierBadge(tier, seconds, note)


def _duration(seconds: float) -> str:
    """A time in the unit one would say it in."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def repository() -> Path:
    """The project's root, wherever the notebook was started: papermill runs it in the launch directory, the book in its own.

    Raises:
        InputError: the package in use does not lie in a checkout of the project, so there are no checkpoints and results beside it.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / "_toc.yml").is_file():
        raise InputError(f"mae_lib is installed in {root}, which is no checkout of the project: run `pip install -e .` in the checkout")
    return root


def chapter_pages() -> dict[str, str]:
    """Label of each chapter, such as ``chapter-separability`` → its page beside the other chapters, ``08_linear_separability.html``."""
    pages = {}
    for path in sorted((repository() / "notebooks").glob("*.ipynb")):
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        if label := re.match(r"\(([\w-]+)\)=\n", first):
            pages[label[1]] = f"{path.stem}.html"
    return pages
