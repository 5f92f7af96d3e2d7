"""Which code a kind of result comes from, and its fingerprint: of syntax trees, so that neither
files that move nor comments, docstrings, names of modules and format change it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from mae_lib.base.errors import InputError

_ENCODER = ("mae_lib.training.store", "mae_lib.data.datasets", "mae_lib.worlds.world")
SOURCES: dict[str, tuple[str, ...]] = {
    "pretraining": ("mae_lib.training.pretrain", *_ENCODER),
    "reconstruction": ("mae_lib.evaluation.reconstruction", *_ENCODER),
    "attention": ("mae_lib.evaluation.attention", *_ENCODER),
    "separability": ("mae_lib.evaluation.separability", "mae_lib.evaluation.features", *_ENCODER),
    "probe": ("mae_lib.evaluation.probe", "mae_lib.data.shifted", *_ENCODER),
    "few_labels": ("mae_lib.evaluation.probes.few_labels", "mae_lib.data.shifted", *_ENCODER),
    "knn": ("mae_lib.evaluation.probes.knn", "mae_lib.data.shifted", *_ENCODER),
    "severity": ("mae_lib.evaluation.probes.severity", *_ENCODER),
    "shape_bias": ("mae_lib.evaluation.shape_bias", "mae_lib.evaluation.features", *_ENCODER),
    "latents": ("mae_lib.evaluation.latents", *_ENCODER),
    "detection": ("mae_lib.detection.detectors", *_ENCODER),
    "tree_world": ("mae_book.sweep.tree_world",),
    "moments": ("mae_book.sweep.second_moments", "mae_lib.worlds.world"),
    "theory": ("mae_book.sweep.theorems",),
    "identify": ("mae_lib.identification.identify",),
}
"""kind of result → the modules that its numbers come from, beside all that these import."""

GLUE = dict.fromkeys(
    (
        "reconstruction",
        "attention",
        "separability",
        "probe",
        "few_labels",
        "knn",
        "severity",
        "shape_bias",
        "latents",
    ),
    ("mae_lib.evaluation.evaluate", "mae_lib.evaluation.inputs"),
)
"""kind → modules that open the images and hand them on; these without what they import, since they
import every kind's modules."""

SILENT = (
    "mae_lib.base",
    "mae_lib.training.distributed",
    "mae_lib.training.tiers",
    "mae_book.verdicts",
)
"""Wings and modules that decide no number of a finished run: what reads, writes, names, prints and
judges. A config's own values are in the record."""

_PACKAGES = ("mae_lib", "mae_book")


@cache
def imported(module: str) -> frozenset[str]:
    """Modules of these packages that ``module`` imports anywhere, `SILENT` ones left out.
    InputError if there is no such module."""
    found = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _PACKAGES:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if _path(name).is_file() else node.module for name in names}
    return frozenset(
        name for name in found if not any(f"{name}.".startswith(f"{quiet}.") for quiet in SILENT)
    )


def modules(kind: str) -> tuple[str, ...]:
    """All modules that decide the numbers of a kind, sorted. InputError for an unknown kind."""
    if kind not in SOURCES:
        raise InputError(f"there is no kind of result {kind!r}: choose one of {', '.join(SOURCES)}")
    reached, waiting = set(), list(SOURCES[kind])
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting.extend(imported(module))
    return tuple(sorted(reached | set(GLUE.get(kind, ()))))


@cache
def fingerprint(kind: str) -> str:
    """16 hex digits of SHA-256 over the :func:`essence` of all :func:`modules`, whatever these are
    called."""
    digests = sorted(
        hashlib.sha256(essence(_source(module)).encode()).hexdigest() for module in modules(kind)
    )
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def essence(source: str) -> str:
    """What Python source does, as text: its syntax tree without docstrings and without imports from
    these packages. Comments, line breaks and the places of files are no change, on every version of
    Python.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [part for part in body if not _says_nothing(part)]
    return _spelled(tree)


def _says_nothing(node: ast.AST) -> bool:
    """A docstring, or an import from these packages."""
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in _PACKAGES
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _spelled(node: object) -> str:
    """`ast.dump` with what is empty left out, which versions of Python write differently."""
    if isinstance(node, ast.AST):
        fields = (
            (name, getattr(node, name, None))
            for name in node._fields
            if name not in ("ctx", "kind", "type_comment")
        )
        said = (f"{name}={_spelled(value)}" for name, value in fields if value not in (None, []))
        return f"{type(node).__name__}({','.join(said)})"
    if isinstance(node, list):
        return f"[{','.join(map(_spelled, node))}]"
    return repr(node)


def _path(module: str) -> Path:
    package, *rest = module.split(".")
    return Path(importlib.util.find_spec(package).origin).parent.joinpath(*rest).with_suffix(".py")


def _source(module: str) -> str:
    if not _path(module).is_file():
        raise InputError(f"there is no module {module}: correct the list in {__name__}")
    return _path(module).read_text(encoding="utf-8")
