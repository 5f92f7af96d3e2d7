"""A notebook's parameters, declared once and checked twice: inside, in the cell below its
`parameters` cell, and from outside, before papermill starts a kernel.

papermill takes any name and any value: a misspelt parameter is injected beside the right one and
only warned about, and `-p quick false` injects the *string* "false". A notebook therefore declares
its parameters in a call of `check_parameters`; `check_notebook_parameters` reads the same call
before anything is run.
"""

from __future__ import annotations

import ast
import difflib
import json
import numbers
import operator
import re
import types as python_types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from mae_lib.base.errors import InputError

INTERACTIVE_NAMES = frozenset({"In", "Out", "exit", "quit", "get_ipython", "open", "display"})
"""What IPython itself puts into a notebook's namespace, beside names with a leading underscore."""

INJECTABLE = (str, int, float, bool, list, tuple, dict, type(None))
"""The only types papermill can inject (what YAML holds): whatever else is in the namespace is no
parameter."""

Positive = Annotated[int, "at least 1"]
Natural = Annotated[int, "at least 0"]
Ratio = Annotated[float, "above 0 and below 1"]
Ratios = Annotated[list[Ratio], "not empty"]
Units = Annotated[list[Positive], "not empty"]
"""What most parameters are: counts, counts and seeds from 0, masking ratios, mask units in pixels.
A range is written in words behind the type: at least, at most, above or below a number, or not
empty; several with `and`."""


def check_parameters(namespace: Mapping[str, Any], /, **types: Any) -> None:
    """Check a chapter's parameters; call it in the cell after the one tagged `parameters`.

        check_parameters(globals(), tier=Literal["smoke", "laptop"], data_root=str,
        mask_ratios=list[float], quick=bool)

    Args:
        namespace: the notebook's `globals()`. Names of IPython, modules, functions, classes and
            objects that no notebook parameter can be are passed over; any other name has to be
            declared.
        types: each parameter's type: `str`, `int`, `float` (takes an int), `bool`, `None`,
            `Literal[...]`, `list[T]` (takes a tuple), `tuple[T, ...]`, `tuple[A, B]`, `dict[K, V]`,
            unions of these, `Any`; any of them with a range, `Annotated[int, "at least 16"]`.

    Raises:
        InputError: a declared parameter is missing, of another type or out of its range, or there
            is a name that was not declared; one line that says how to pass it, with the nearest
            declared name.
        TypeError: `types` itself holds something that is no such type.
    """
    problems = [
        f"parameter {name!r} is missing: define it in the cell tagged 'parameters'"
        for name in types
        if name not in namespace
    ]
    for name, value in namespace.items():
        if name in types:
            problems += _type_problem(name, value, types[name])
        elif (
            not name.startswith("_")
            and name not in INTERACTIVE_NAMES
            and isinstance(value, INJECTABLE)
        ):
            problems.append(_unknown(name, types))
    if problems:
        raise InputError("; ".join(problems))


def check_notebook_parameters(
    notebook: str | Path | Mapping[str, Any], parameters: Mapping[str, Any]
) -> None:
    """The same check from outside, before papermill starts a kernel: `parameters` is what it would
    inject, `notebook` a file or what nbformat reads of it.

    The declarations are read from the notebook's own `check_parameters` call, without running
    anything. (papermill's `inspect_notebook` gives less: it skips lines with two `=` or a union,
    and keeps no element types.)

    Raises:
        InputError: the notebook cannot be read or declares nothing, or a name, a type or a value is
            wrong.
    """
    types = declared_parameters(notebook)
    problems = []
    for name, value in parameters.items():
        problems += (
            _type_problem(name, value, types[name]) if name in types else [_unknown(name, types)]
        )
    if problems:
        raise InputError(f"{_named(notebook)}: " + "; ".join(problems))


def declared_parameters(notebook: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The parameters a notebook declares in its `check_parameters(globals(), name=type, ...)` call,
    with their types; `notebook` as in :func:`check_notebook_parameters`.

    Raises:
        InputError: no such file, no notebook, no such call, or a type in it that is not spelt with
            built-in names, `typing`'s and this module's.
    """
    name = _named(notebook)
    if (call := _declaration(notebook)) is None:
        raise InputError(
            f"{name} declares no parameters: call check_parameters(globals(), ...) after its"
            " 'parameters' cell"
        )
    return {keyword.arg: _read_type(name, keyword) for keyword in call.keywords if keyword.arg}


def declares_parameters(notebook: Mapping[str, Any]) -> bool:
    """Whether a notebook, as nbformat reads it, calls `check_parameters`."""
    return _declaration(notebook) is not None


def _named(notebook: str | Path | Mapping[str, Any]) -> str:
    return "the notebook" if isinstance(notebook, Mapping) else Path(notebook).name


def _declaration(notebook: str | Path | Mapping[str, Any]) -> ast.Call | None:
    """A notebook's call of `check_parameters`, or None."""
    try:
        if not isinstance(notebook, Mapping):
            notebook = json.loads(Path(notebook).read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in cells]
    except FileNotFoundError:
        raise InputError(f"there is no notebook {notebook}: check the path") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{notebook} is not a readable notebook ({type(error).__name__}): give an .ipynb file"
        ) from None
    return next(
        (
            node
            for source in sources
            for node in ast.walk(_parse(source))
            if isinstance(node, ast.Call)
            and ast.unparse(node.func).split(".")[-1] == check_parameters.__name__
        ),
        None,
    )


def _parse(source: str) -> ast.AST:
    """A cell's syntax tree; an empty one for cells that are not plain Python (magics)."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


TYPE_NAMES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (str, int, float, bool, list, tuple, dict)},
    **{
        name: getattr(typing, name) for name in ("Annotated", "Any", "Literal", "Optional", "Union")
    },
    **{"Positive": Positive, "Natural": Natural, "Ratio": Ratio, "Ratios": Ratios, "Units": Units},
    "typing": typing,
}


def _read_type(notebook: str, keyword: ast.keyword) -> Any:
    """The type written in one argument of a `check_parameters` call, without running the
    notebook."""
    text = ast.unparse(keyword.value)
    # The nodes are restricted before the evaluation: a notebook that is only looked at must not get
    # code run.
    allowed = (
        ast.Name,
        ast.Attribute,
        ast.Subscript,
        ast.Tuple,
        ast.Constant,
        ast.BinOp,
        ast.BitOr,
        ast.Load,
        ast.UnaryOp,
        ast.USub,
    )
    try:
        if not all(isinstance(node, allowed) for node in ast.walk(keyword.value)):
            raise ValueError(text)
        return eval(
            compile(ast.Expression(keyword.value), notebook, "eval"),
            {"__builtins__": {}},
            TYPE_NAMES,
        )
    except Exception:
        raise InputError(
            f"{notebook}: the type {text!r} of parameter {keyword.arg!r} cannot be read from"
            " outside: spell it with built-in types and those of typing"
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
    message = (
        f"parameter {name!r} has to be {_spell(expected)}, not {type(value).__name__} {value!r}"
    )
    if typing.get_origin(expected) is Annotated:
        expected = expected.__origin__
    options = _options(expected)
    if isinstance(value, str):
        near = difflib.get_close_matches(
            value, [option for option in _literals(expected) if isinstance(option, str)], n=1
        )
        if near:
            return [f"{message}: did you mean {near[0]!r}?"]
        if bool in options and value.strip().lower() in ("true", "false"):
            word = value.strip().lower()
            return [
                f"{message}: papermill's -p passes {value} as text, so use -p {name}"
                f" {word.capitalize()} or -y '{name}: {word}'"
            ]
    containers = [
        kind
        for option in options
        if (kind := typing.get_origin(option) or option) in (list, tuple, dict)
    ]
    if containers:
        example = "{key: value}" if containers[0] is dict else "[first, second]"
        return [f"{message}: papermill takes it as -y '{name}: {example}'"]
    if str in options and value is None:
        return [f"{message}: leave it out, or pass an empty text: -p {name} ''"]
    if str in options and isinstance(value, (int, float, bool)):
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
    return [
        value
        for option in _options(expected)
        if _is_literal(option)
        for value in typing.get_args(option)
    ]


def _matches(value: Any, expected: Any) -> bool:
    """Whether `value` is of the declared type. A bool is no int, an int is a float, a tuple is as
    good as a list."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        return True
    if expected is None or expected is type(None):
        return value is None
    if origin is Annotated:
        bounds = expected.__metadata__
        return _matches(value, expected.__origin__) and all(_within(value, text) for text in bounds)
    if len(_options(expected)) > 1:
        return any(_matches(value, option) for option in _options(expected))
    if _is_literal(expected):
        # True == 1, so equality alone would take one for the other.
        return any(
            value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
            for allowed in arguments
        )
    if expected is bool:
        return isinstance(value, bool)
    if expected in (int, float):
        kind = numbers.Integral if expected is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if expected is str:
        return isinstance(value, str)
    if (origin or expected) is dict:
        return isinstance(value, dict) and (
            not arguments
            or all(
                _matches(key, arguments[0]) and _matches(item, arguments[1])
                for key, item in value.items()
            )
        )
    if (origin or expected) in (list, tuple):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and arguments[-1:] != (Ellipsis,):
            return len(value) == len(arguments) and all(map(_matches, value, arguments))
        return not arguments or all(_matches(item, arguments[0]) for item in value)
    raise TypeError(f"{expected!r} is no type that check_parameters knows")


BOUNDS = {
    "at least": operator.ge,
    "at most": operator.le,
    "above": operator.gt,
    "below": operator.lt,
}


def _within(value: Any, text: str) -> bool:
    """Whether a value lies in a range written in words: "at least 1", "not empty"."""
    for part in text.split(" and "):
        if part == "not empty":
            if not len(value):
                return False
        elif bound := re.fullmatch(rf"({'|'.join(BOUNDS)}) (-?[0-9.]+)", part):
            if not BOUNDS[bound[1]](value, float(bound[2])):
                return False
        else:
            raise TypeError(f"{text!r} is no range that check_parameters knows")
    return True


def _spell(expected: Any) -> str:
    """A type as a reader would say it."""
    if expected is None or expected is type(None):
        return "None"
    if len(_options(expected)) > 1:
        return " or ".join(_spell(option) for option in _options(expected))
    if _is_literal(expected):
        return " or ".join(map(repr, typing.get_args(expected)))
    if typing.get_origin(expected) is Annotated:
        return f"{_spell(expected.__origin__)} {' and '.join(expected.__metadata__)}"
    if typing.get_origin(expected) in (list, tuple) and Ellipsis not in typing.get_args(expected):
        kind, items = typing.get_origin(expected), map(_spell, typing.get_args(expected))
        return f"{kind.__name__}[{', '.join(items)}]"
    if typing.get_origin(expected):
        return str(expected).replace("typing.", "")
    return getattr(expected, "__name__", str(expected))
