"""Sphinx extension: the library's docstrings as pages of the book.

autodoc reads the docstrings and napoleon's parser their sections; both come with Sphinx. The
docstrings are written to be read in an editor: several short entries may share a line of a section
("masked: bool [B, N]. ignored: the same."), a single pair of backticks is code, and bars, stars and
underscores are mathematics. Here each entry gets a line of its own, what is in backticks becomes a
link where it names something of the library, and the rest is shielded from being read as markup.
The parser is called, not its extension, because the latter takes "a: b" in the docstring of a
property for a type and its description.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
from typing import Any, TypeVar

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring

PARSER = Config(napoleon_use_param=False, napoleon_custom_sections=[("Attributes", "params_style")])
"""Sections become lists of entries, without roles for types: a docstring says the type in words."""

CODE = re.compile(r"(:[\w:]+:`[^`]+`|``[^`]+``|`[^`]+`)")
"""Marked pieces of a line: a role, code in double backticks, code in single ones."""


def entry_names(what: str, thing: Any) -> set[str]:
    """What a section of this object's docstring may be about: parameters, and for a class its
    fields, properties and own attributes."""
    names: set[str] = set()
    try:
        names |= set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        pass
    if what in ("class", "exception"):
        names |= {name for name in dir(thing) if not name.startswith("_")} | set(
            getattr(thing, "__annotations__", ())
        )
        if dataclasses.is_dataclass(thing):
            names |= {field.name for field in dataclasses.fields(thing)}
        try:  # attributes that only __init__ assigns
            names |= set(re.findall(r"self\.(\w+)", inspect.getsource(thing)))
        except (OSError, TypeError):
            pass
    return names


def split_entries(text: str, names: set[str]) -> list[str]:
    """One section's running text as entries: a new one begins where, after a full stop, known names
    stand before a colon."""
    if not names:
        return [text]
    name = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.split(rf"(?<=[.;]) (?=(?:{name})(?:, (?:{name}))*: )", text)


def one_entry_a_line(lines: list[str], names: set[str]) -> list[str]:
    """The docstring with each entry of its sections *Args* and *Attributes* unwrapped and on a line
    of its own, and *Returns* as running text."""
    done: list[str] = []
    section = ""
    for line in lines:
        if line.strip() and not line.startswith(" "):
            section = line.strip()
            done.append(":Returns:" if section == "Returns:" else line)
        elif section in ("Args:", "Attributes:") and line.startswith("     "):
            done[-1] += " " + line.strip()  # a wrapped entry goes on
        else:
            done.append(line)
    result = []
    section = ""
    for line in done:
        if line.strip() and not line.startswith(" "):
            section = line.strip()
        entries = (
            split_entries(line.strip(), names)
            if section in ("Args:", "Attributes:") and line.startswith("    ")
            else None
        )
        result += [f"    {entry}" for entry in entries] if entries else [line]
    return result


def link(code: str, module: str) -> str:
    """`code` as a cross-reference where it names a documented thing of the library, else as
    code."""
    path = code.removesuffix("()")
    for full in (path, f"{module}.{path}"):
        if re.fullmatch(r"(mae_lib|mae_book)(\.\w+)+", full) and documented(full):
            return f":py:obj:`{code} <{full}>`"
    return f"``{code}``"


def find(full: str) -> Any:
    """The module, class, function or value of the library with this dotted name; None if there is
    none."""
    parts = full.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for name in parts[cut:]:
            thing = inspect.getattr_static(thing, name, None)
        return thing
    return None


def documented(full: str) -> bool:
    """Whether the API pages hold this dotted name: a module, or what has a docstring of its own
    where it stands."""
    if any(part.startswith("_") for part in full.split(".")):
        return False
    thing = find(full)
    if inspect.ismodule(thing):
        return thing.__name__ == full
    if isinstance(thing, type) or inspect.isfunction(thing):
        return bool(thing.__doc__) and full.startswith(f"{thing.__module__}.")
    return isinstance(
        thing, (property, functools.cached_property, classmethod, staticmethod)
    ) and bool(thing.__doc__)


def pass_over(app: Sphinx, environment: Any, node: Any, content: Any) -> Any:
    """Handler of `missing-reference`: type variables and private classes stand in signatures and
    have no entry."""
    target = node.get("reftarget", "")
    if node.get("refdomain") == "py" and target.startswith(("mae_lib.", "mae_book.")):
        name = target.rpartition(".")[2]
        if (
            name.startswith("_")
            or isinstance(find(target), TypeVar)
            or getattr(find(target), "__module__", "mae_lib").split(".")[0] == "typing"
        ):
            return content
    return None


def shield(line: str, module: str) -> str:
    """A line of plain text with code marked as code and nothing else read as markup but *emphasis*
    and lists."""
    pieces = []
    for k, piece in enumerate(CODE.split(line)):
        if k % 2 == 0:
            piece = piece.replace("\\", "\\\\").replace("|", "\\|")
            piece = re.sub(r"(?<![\w-])--[a-z][\w-]*", r"``\g<0>``", piece)  # an option, not a dash
            # a word that ends so would be a reference
            piece = re.sub(r"(?<=\w)_(?!\w)", r"\\_", piece)
        elif piece.startswith("`") and not piece.startswith("``"):
            piece = link(piece.strip("`"), module)
        elif piece.startswith(":"):
            role, target = re.fullmatch(r":([\w:]+):`~?([^`]+)`", piece).groups()
            piece = link(target, module) if not role.endswith("math") else piece
        pieces.append(piece)
    return "".join(pieces)


def prepare(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Handler of `autodoc-process-docstring`: the docstring as reStructuredText, in place."""
    module = next(
        ".".join(parts[:cut])
        for parts in [name.split(".")]
        for cut in range(len(parts), 0, -1)
        if inspect.ismodule(find(".".join(parts[:cut])))
    )
    plain = [shield(line, module) for line in one_entry_a_line(lines, entry_names(what, thing))]
    lines[:] = GoogleDocstring(plain, PARSER, what="function").lines()


def bare(annotation: str) -> str:
    """The text of a signature with `Annotated[T, ...]` as T: what it adds for the command line is
    no type."""
    while (start := annotation.find("Annotated[")) >= 0:
        depth, comma = 0, None
        for k in range(start + len("Annotated["), len(annotation)):
            if annotation[k] in "[({":
                depth += 1
            elif annotation[k] in "])}" and depth:
                depth -= 1
            elif annotation[k] == "," and not depth and comma is None:
                comma = k
            elif annotation[k] == "]":
                annotation = (
                    annotation[:start]
                    + annotation[start + len("Annotated[") : comma]
                    + annotation[k + 1 :]
                )
                break
        else:
            return annotation
    return annotation


def sign(
    app: Sphinx,
    what: str,
    name: str,
    thing: Any,
    options: Any,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """Handler of `autodoc-process-signature`: a default made by a factory, which Sphinx cannot
    parse, as an ellipsis; types without annotations."""
    return signature and bare(signature.replace("<factory>", "...")), returned and bare(returned)


def setup(app: Sphinx) -> dict[str, bool | str]:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", prepare)
    app.connect("autodoc-process-signature", sign)
    app.connect("missing-reference", pass_over)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
