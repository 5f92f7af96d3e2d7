"""What a sweep leaves behind: its runs, each with its parameters, its real status and the scalars
that its chapter recorded, as JSON, as CSV, and as a page with a table and a figure.

A chapter records a scalar by ``glue(NAME, value)`` of myst-nb, which the book's prose pastes too.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from mae_lib.base.errors import InputError
from mae_lib.base.files import write_json, write_text
from mae_lib.base.pages import Link, filter_field, page, table
from mae_lib.drawing.figures import MARKERS, PALETTE

MOST_PANELS = 12
"""Scalars that are drawn; the table holds all."""


@dataclass(frozen=True)
class RunReport:
    """What became of one run: its parameters, the executed notebook, papermill's exit code,
    minutes, the last line of its error, and the scalars that it recorded."""

    parameters: dict
    notebook: str
    exit_code: int
    minutes: float
    error: str = ""
    results: dict[str, float] = field(default_factory=dict)


def report_files(folder: Path) -> list[Path]:
    """All that :func:`write_report` writes."""
    return [folder / f"report.{kind}" for kind in ("json", "csv", "html")]


def read_report(folder: Path, notebook: str, code: str) -> list[RunReport]:
    """The runs that a folder's report lists. InputError if it is of another notebook, or of one
    whose code was different."""
    path = folder / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        of, of_code = report["notebook"], report["code"]
        runs = [RunReport(**run) for run in report["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no sweep's report: choose another folder with --out") from None
    if (of, of_code) != (notebook, code):
        change = f"of {of}" if of != notebook else f"of {of} before its code changed"
        raise InputError(f"{folder} holds a sweep {change}: choose another folder with --out")
    return runs


def write_report(
    folder: Path, notebook: str, code: str, runs: Sequence[RunReport], over: Sequence[str]
) -> None:
    """Writes report.json, report.csv and report.html; ``over``: the parameters that vary, in the
    order in which the figure takes them."""
    write_json(
        folder / "report.json",
        {"notebook": notebook, "code": code, "runs": [asdict(run) for run in runs]},
    )
    names = list(dict.fromkeys(name for run in runs for name in run.parameters))
    scalars = list(dict.fromkeys(name for run in runs for name in run.results))
    columns = [*names, *scalars, "minutes", "exit code", "notebook", "error"]
    rows = [
        [
            *(_word(run.parameters.get(name)) for name in names),
            *(run.results.get(name) for name in scalars),
            run.minutes,
            run.exit_code,
            run.notebook,
            run.error,
        ]
        for run in runs
    ]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    write_text(folder / "report.csv", text.getvalue())
    linked = [[*row[:-2], Link(row[-2], row[-2]), row[-1]] for row in rows]
    failed = sum(run.exit_code != 0 for run in runs)
    said = f"{len(runs)} runs" + (f", {failed} failed" if failed else "")
    drawn = figure(runs, over)
    write_text(
        folder / "report.html",
        page(
            f"{notebook}: a sweep over {', '.join(over) or 'nothing'}",
            f"<p>{html.escape(said)}.</p>"
            + (_svg(drawn) if drawn else "<p>No scalar was recorded.</p>")
            + filter_field("runs")
            + table("runs", columns, linked, ["bad" * (run.exit_code != 0) for run in runs]),
        ),
    )


def scalars(notebook: Mapping) -> dict[str, float]:
    """The finite numbers that an executed notebook recorded under a name."""
    found = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
                for mime, text in output.get("data", {}).items():
                    if (
                        mime.endswith("text/plain")
                        and (value := _number("".join(text))) is not None
                    ):
                        found[name] = value
    return found


def figure(runs: Sequence[RunReport], over: Sequence[str]) -> Figure | None:
    """Each scalar against the first parameter that varies, a line for each value of the second, a
    point for each run; None where nothing was recorded.

    A seed comes last: lines join the means over it, and over what else varies.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.results))[:MOST_PANELS]
    axes = sorted(over, key=lambda name: name == "seed")
    if not names or not axes:
        return None
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    drawn = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    panels = drawn.subplots(rows, columns, squeeze=False).ravel()
    words = list(dict.fromkeys(_word(run.parameters[axes[0]]) for run in runs))
    values = [_number(str(word)) for word in words]
    places = dict(zip(words, range(len(words)) if None in values else values))
    lines = (
        list(dict.fromkeys(_word(run.parameters[axes[1]]) for run in runs)) if axes[1:] else [""]
    )
    lines = [""] if axes[1:2] == ["seed"] else lines
    for panel, name in zip(panels, names):
        for k, line in enumerate(lines):
            points: dict[float, list[float]] = {}
            for run in runs:
                own = line == "" or _word(run.parameters[axes[1]]) == line
                if own and name in run.results:
                    place = places[_word(run.parameters[axes[0]])]
                    points.setdefault(place, []).append(run.results[name])
            look = {"color": PALETTE[k % len(PALETTE)], "marker": MARKERS[k % len(MARKERS)]}
            for place, found in points.items():
                panel.plot([place] * len(found), found, ls="", ms=4, alpha=0.5, **look)
            ordered = sorted(points)
            means = [float(np.mean(points[place])) for place in ordered]
            panel.plot(ordered, means, label=line, **look)
        if None in values:
            panel.set_xticks(range(len(words)), words)
        panel.set(title=name, xlabel=axes[0])
    for panel in panels[len(names) :]:
        panel.remove()
    if lines != [""]:
        panels[0].legend(title=axes[1], fontsize="small")
    return drawn


def _svg(drawn: Figure) -> str:
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "sweep"}):  # the same runs, the same bytes
        drawn.savefig(text, format="svg", metadata={"Date": None})
    label = "Each recorded scalar against the first parameter that varies; the table holds them too"
    return text.getvalue()[text.getvalue().index("<svg") :].replace(
        "<svg", f'<svg role="img" aria-label="{label}"', 1
    )


def _word(value: object) -> object:
    """A parameter as a table shows it."""
    return value if isinstance(value, (int, float, str)) else json.dumps(value)


def _number(text: str) -> float | None:
    """A number as it is printed, NumPy's ``np.float64(0.5)`` too."""
    try:
        value = float(re.sub(r"^np\.\w+\((.*)\)$", r"\1", text.strip()))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
