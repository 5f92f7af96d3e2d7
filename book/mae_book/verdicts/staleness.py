"""What keeps numbers from outliving the code that makes them. For each kind of result: a
fingerprint of the source that decides its numbers, and, in ``results/code.json``, the fingerprint
under which a result of that kind was last made again with the same numbers. The two differ as soon
as that source changes, and the check fails until a cell is made again: `mae rerun --changed`. What
counts as the same numbers, here and on another processor, :func:`allowed` says.

The fingerprint covers the modules of `SOURCES` and all that they import from these packages: what
they do, not how it is written down and where.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from mae_book.verdicts.claims import CLAIMS
from mae_book.verdicts.ledger import Entry, drift
from mae_book.verdicts.results import results_directory
from mae_lib.base.errors import InputError
from mae_lib.base.files import write_json
from mae_lib.base.intervals import Interval
from mae_lib.base.records import recorded
from mae_lib.evaluation.evaluate import EVALUATIONS, Options, identity
from mae_lib.training.store import checkpoints

_ENCODER = ("mae_lib.training.store", "mae_lib.data.datasets", "mae_lib.worlds.world")
SOURCES: dict[str, tuple[str, ...]] = {
    "pretraining": ("mae_lib.training.pretrain", *_ENCODER),
    "reconstruction": ("mae_lib.evaluation.reconstruction", *_ENCODER),
    "attention": ("mae_lib.evaluation.attention", *_ENCODER),
    "separability": ("mae_lib.evaluation.separability", "mae_lib.evaluation.features", *_ENCODER),
    "probe": ("mae_lib.evaluation.probe", "mae_lib.data.shifted", *_ENCODER),
    "few_labels": ("mae_lib.evaluation.few_labels", "mae_lib.data.shifted", *_ENCODER),
    "shape_bias": ("mae_lib.evaluation.shape_bias", "mae_lib.evaluation.features", *_ENCODER),
    "latents": ("mae_lib.evaluation.latents", *_ENCODER),
    "detection": ("mae_lib.detection.detectors", *_ENCODER),
    "tree_world": ("mae_book.sweep.tree_world",),
    "moments": ("mae_book.sweep.second_moments", "mae_lib.worlds.world"),
    "theory": ("mae_book.sweep.theorems",),
    "identify": ("mae_lib.theory.identify",),
}
"""kind of result → the modules that its numbers come from, beside all that these import."""

GLUE = dict.fromkeys(
    ("reconstruction", "attention", "separability", "probe", "few_labels", "shape_bias", "latents"),
    "mae_lib.evaluation.evaluate",
)
"""kind → a module that opens the images and hands them on; itself without what it imports, since it
imports every kind's modules."""

SILENT = (
    "mae_lib.base",
    "mae_lib.training.distributed",
    "mae_lib.training.tiers",
    "mae_book.verdicts",
)
"""Wings and modules that decide no number of a finished run: what reads, writes, names, prints and
judges. A config's own values are in the record."""

TRAINED = frozenset({"pretraining", "detection", "identify", "tree_world"})
"""Kinds whose cells train something: every step magnifies the last digit of the one before, so that
on another processor they end as another seed might."""

MAPPED = frozenset({"separability"})
"""Kinds that lay out a map by t-SNE, which magnifies likewise: it differs even between processors
that go by one name."""

SHARE = 0.25
"""Of given weights, what part of chance a number may move by on another processor: see
:func:`allowed`."""

DEVIATIONS = 4
"""How many standard deviations over seeds a training may move by on another processor. Two seeds
differ by more once in two hundred times."""

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
    return tuple(sorted(reached | ({GLUE[kind]} if kind in GLUE else set())))


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
        if isinstance(getattr(node, "body", None), list):
            node.body = [part for part in node.body if not _says_nothing(part)]
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


@dataclass(frozen=True)
class Agreement:
    """A record beside the same cell made again.

    Attributes:
        numbers: how many were compared. equal: how many are the same to nine digits, all that a sum
            keeps whose terms come in another order.
        outside: names of those that differ by more than is allowed (:func:`allowed`), or that only
            one of the two has.
    """

    numbers: int
    equal: int
    outside: tuple[str, ...]

    @property
    def exact(self) -> bool:
        return self.equal == self.numbers

    def __str__(self) -> str:
        if self.exact:
            return f"{self.numbers} numbers, all the same to nine digits"
        within = self.numbers - self.equal - len(self.outside)
        text = (
            f"{self.numbers} numbers: {self.equal} the same to nine digits, {within} as near as"
            f" another processor comes, {len(self.outside)} outside"
        )
        return text + (
            f" ({', '.join(self.outside[:5])}{' …' if len(self.outside) > 5 else ''})"
            if self.outside
            else ""
        )


def numbers(record: Mapping) -> dict[str, Interval]:
    """Every number that a record states: its measures; of a pretraining the points of its curve and
    the errors on held-out images."""
    if "measures" in record:
        return {name: Interval.from_dict(value) for name, value in record["measures"].items()}
    held_out = {f"held_out/{name}": value for name, value in _flat(record["held_out"]).items()}
    curve = {
        f"loss at step {step}": loss
        for step, loss in zip(record["curve"]["step"], record["curve"]["loss"])
    }
    return {
        name: Interval(value, math.nan, math.nan, 1) for name, value in (held_out | curve).items()
    }


def _flat(values: object) -> dict[str, float]:
    if not isinstance(values, Mapping):
        return {"": float(values)}
    return {
        f"{name}/{rest}".rstrip("/"): number
        for name, value in values.items()
        if isinstance(value, (int, float, Mapping))
        for rest, number in _flat(value).items()
    }


def same_arithmetic(record: Mapping, again: Mapping) -> bool:
    """Whether two records come from the same processor or GPU, instruction set, number of threads
    and PyTorch, so that every sum keeps its order. A record that does not name its instruction set
    may be of any: processors that go by one name differ in it.
    """
    then, now = (
        {**one["hardware"], "torch": one.get("versions", {}).get("torch")}
        for one in (record, again)
    )
    named = then.get("instructions") is not None
    return named and all(
        then.get(name) == now.get(name)
        for name in ("gpu", "cpu", "threads", "instructions", "torch")
    )


def allowed(
    kind: str, record: Mapping, again: Mapping, recorded: Sequence[Mapping]
) -> dict[str, float]:
    """name → how far a number made again may lie from the recorded one. Empty, so to nine digits,
    where the arithmetic is the same (`MAPPED` kinds aside).

    Elsewhere a number may move by a part of what chance would move it by, and by a unit in the
    sixth digit in any case:

    - Of given weights: a quarter (`SHARE`) of half its recorded interval; where it has none, a
      quarter of what follows.
    - Of `TRAINED` and `MAPPED` kinds: as far as chance puts two seeds of one run apart,
      `DEVIATIONS` standard deviations over the seeds of this run or of the median run among
      ``recorded`` (the records beside this one), whichever varies more. Half the recorded interval,
      if that is more.
    """
    if same_arithmetic(record, again) and kind not in MAPPED:
        return {}
    found, others = numbers(record), [(_run(other), numbers(other)) for other in recorded]
    widths = {}
    for name, interval in found.items():
        seeds = DEVIATIONS * _deviation(
            _run(record), [(run, other[name].value) for run, other in others if name in other]
        )
        half = (interval.high - interval.low) / 2  # NaN where it has none
        if kind in TRAINED | MAPPED:
            chance = seeds if math.isnan(half) else max(half, seeds)
        else:
            chance = SHARE * (seeds if math.isnan(half) else half)
        widths[name] = max(chance, 1e-6 * abs(interval.value))
    return widths


def _run(record: Mapping) -> str:
    """The name without its seed."""
    return re.sub(r"-s\d+(?=-|$)", "", record["name"])


def _deviation(own: str, values: Sequence[tuple[str, float]]) -> float:
    """Standard deviation over seeds, from (run, value) of all runs: the ``own`` run's or, if that
    is more, the median run's; 0 where no run has two."""
    runs: dict[str, list[float]] = {}
    for run, value in values:
        if math.isfinite(value):
            runs.setdefault(run, []).append(value)
    found = {run: statistics.stdev(seeds) for run, seeds in runs.items() if len(seeds) > 1}
    return max(found.get(own, 0.0), statistics.median(found.values())) if found else 0.0


def compare(
    record: Mapping, again: Mapping, widths: Mapping[str, float] = MappingProxyType({})
) -> Agreement:
    """How far two records of one cell state the same numbers; ``widths``: by how much which may
    differ (:func:`allowed`). InputError if they are not of one cell."""
    if (record["name"], record["hash"]) != (again["name"], again["hash"]):
        raise InputError(
            f"{record['name']}-{record['hash']} was to be made again, and"
            f" {again['name']}-{again['hash']} came: its config has changed"
        )
    old, new = numbers(record), numbers(again)
    equal, outside = 0, []
    for name, value in old.items():
        if name in new and _same(value, new[name]):
            equal += 1
        elif name not in new or not abs(new[name].value - value.value) <= widths.get(name, 0.0):
            outside.append(name)
    outside += [name for name in new if name not in old]
    return Agreement(len(old.keys() | new.keys()), equal, tuple(outside))


def _same(old: Interval, new: Interval) -> bool:
    """Whether two values and their ends are the same to nine digits; NaN is the same as NaN."""
    pairs = ((old.value, new.value), (old.low, new.low), (old.high, new.high))
    return old.n == new.n and all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))
        for a, b in pairs
    )


def code_file() -> Path:
    """``results/code.json``."""
    return results_directory() / "code.json"


def confirmed() -> dict[str, dict]:
    """kind → what was last made again with which code: ``code``, ``cell``, ``agreement``,
    ``commit``, ``finished``."""
    return json.loads(code_file().read_text(encoding="utf-8")) if code_file().is_file() else {}


def confirm(kind: str, cell: str, agreement: Agreement, again: Mapping) -> None:
    """Notes that the present code makes ``cell`` again. InputError if it does not: a number is
    outside."""
    if agreement.outside:
        raise InputError(
            f"{cell} was not made again: {agreement}; results/{kind} is of older code: make it"
            " again (`make results` after deleting it)"
        )
    entry = {
        "code": fingerprint(kind),
        "cell": cell,
        "agreement": str(agreement),
        "commit": again["commit"],
        "finished": again["finished"],
    }
    write_json(code_file(), dict(sorted((confirmed() | {kind: entry}).items())))


def stale() -> dict[str, str]:
    """kind, or a result's file, → what is wrong: for every kind of result whose code has changed
    since a cell of it was last made again, and for every evaluation of weights that are no longer
    the shipped ones. Empty where all is well."""
    seen, found = confirmed(), dict(_of_other_weights())
    for kind in SOURCES:
        if not (results_directory() / kind).is_dir() or seen.get(kind, {}).get(
            "code"
        ) == fingerprint(kind):
            continue
        claims = ", ".join(claim.id for claim in CLAIMS.values() if claim.kind == kind)
        found[kind] = (
            f"results/{kind} is older than the code that makes it"
            + (f" (claims {claims})" if claims else "")
            + ": run `mae rerun --changed`, which makes one of its cells again and compares"
        )
    return found


def check(rows: Sequence[Entry]) -> None:
    """Raises InputError, one line a fault, if what the book states of these claims is no longer
    what the results say, or a result is older than its code or of other weights."""
    if faults := [*drift(rows), *stale().values()]:
        raise InputError(
            "\n".join(
                [
                    *faults,
                    (
                        f"{len(faults)} faults: run what they say; where a result was made anew on"
                        " purpose, `mae ledger --state` states it"
                    ),
                ]
            )
        )


def _of_other_weights() -> Iterator[tuple[str, str]]:
    """Evaluations on the embedded world whose weights, data or settings are not those of the
    checkpoint that is shipped under their name."""
    for folder in sorted((results_directory().parent / "checkpoints").glob("*/")):
        for checkpoint in checkpoints(folder) if folder.name in ("world", "designs") else ():
            for kind in EVALUATIONS:
                record = recorded(
                    results_directory() / kind / "world",
                    checkpoint.config.name,
                    checkpoint.config.hash,
                )
                if (
                    record is not None
                    and identity(kind, checkpoint, Options(**record["settings"]))["key"]
                    != record["key"]
                ):
                    file = f"results/{kind}/world/{checkpoint.path.stem}.json"
                    yield (
                        file,
                        (
                            f"{file} is not of the weights in checkpoints/{folder.name}: delete it"
                            f" and run `mae evaluate {kind} --checkpoint {checkpoint.path.stem}"
                            f" --results results/{kind}/world`"
                        ),
                    )
