"""The explorer of the ledger: every claim with its verdicts, its decisive test, the paper's numbers
beside ours. Three faces as the other explorers have: live widget, self-contained HTML that is whole
without scripts, and a captioned figure of all tests on one scale.
"""

from __future__ import annotations

import hashlib
import html
import math
from collections.abc import Collection, Mapping, Sequence
from string import Template

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mae_book.chapters.evaluation_figures import LABELS
from mae_book.explorers.explorer import asset
from mae_book.verdicts.comparisons import Alike, AtLeast, Comparison, NotBelow
from mae_book.verdicts.ledger import Decision, Entry, command, folder
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval
from mae_lib.drawing.figures import PALETTE

SIGNS = {"reproduced": "✔", "not reproduced": "✘", "undecided": "?", "not attempted": "–"}
"""Verdict → the sign that says it without colour."""

COLOURS = {
    "reproduced": PALETTE[0],
    "not reproduced": PALETTE[1],
    "undecided": PALETTE[7],
    "not attempted": PALETTE[6],
}

PARTS = {
    "theory": "theory",
    "identify": "theory",
    "reconstruction": "§3.1",
    "attention": "§3.2",
    "separability": "§3.3",
    "probe": "§3.3",
    "shape_bias": "§3.4",
    "detection": "§3.5",
    "latents": "§3.6",
    "tree_world": "§3.6",
}
"""Kind of a claim's results → part of the paper."""

COLUMNS = {
    "order": "paper's order",
    "id": "id",
    "where": "where",
    "claim": "claim",
    "verdict": "embedded world",
    "photographs": "photographs",
    "decisive": "decisive test",
    "chapter": "chapter",
}
"""What the rows can be sorted by → its heading."""

PERCENT = ("probe", "detection")
"""Kinds whose measures are accuracies or AP: the paper says them in percent, our records in [0,
1]."""

EDGE = 6.0
"""Where the figure's axis ends, in half intervals: what lies beyond is drawn at the edge."""


def score(test: Comparison, found: Interval) -> float:
    """How far a test is from the point that would decide it, in halves of its own 95 % interval: it
    comes out above 1, and the other way below −1.

    ±inf where the interval has no width; NaN where there is none (a single seed). From two seeds a
    test is undecided whatever its score.
    """
    if isinstance(test, AtLeast):
        away = found.value - test.least
    elif isinstance(test, NotBelow):
        away = found.value + test.margin
    elif isinstance(test, Alike):
        away = test.margin - abs(found.value)
    else:
        away = found.value
    half = (found.high - found.low) / 2
    if half == 0:
        met = away > 0 or (away == 0 and isinstance(test, AtLeast))
        return math.inf if met else -math.inf if away < 0 else 0.0
    return away / half


def decisive(decision: Decision) -> tuple[Comparison, Interval, str] | None:
    """The test that failed by most or is nearest to failing; None where nothing was attempted."""
    return min(
        decision.rows,
        key=lambda row: 0.0 if math.isnan(s := score(row[0], row[1])) else s,
        default=None,
    )


class LedgerExplorer:
    """The ledger to sort, filter and open.

    Args:
        rows: of `mae_book.verdicts.ledger.entries`, in the paper's order. pages: chapter label →
            its page; a chapter without one is named, not linked.

    Raises:
        InputError: no row, or two of one claim.
    """

    def __init__(self, rows: Sequence[Entry], pages: Mapping[str, str] = {}) -> None:
        self.rows, self.pages = list(rows), dict(pages)
        if not self.rows:
            raise InputError(
                "the explorer of the ledger needs at least one row: give it those of"
                " ledger.entries()"
            )
        if len({row.claim.id for row in self.rows}) < len(self.rows):
            raise InputError("two rows of the ledger are of one claim: give each claim once")

    def counts(self) -> dict[str, int]:
        """Verdict on the embedded world → how many claims have it."""
        return {
            verdict: sum(row.decision.verdict == verdict for row in self.rows) for verdict in SIGNS
        }

    def selected(
        self,
        verdicts: Collection[str] = tuple(SIGNS),
        part: str = "",
        text: str = "",
        sort: str = "order",
        down: bool = False,
    ) -> list[Entry]:
        """The rows of some verdicts, a part of the paper (all where it is empty) and a text, sorted
        by one of `COLUMNS`."""
        if sort not in COLUMNS:
            raise InputError(
                f"the ledger has no column {sort!r} to sort by: choose of {', '.join(COLUMNS)}"
            )
        kept = [
            (self._keys(k, row)[sort], k, row)
            for k, row in enumerate(self.rows)
            if row.decision.verdict in verdicts
            and part in ("", PARTS[row.claim.kind])
            and text.lower() in f"{row.claim.id} {row.claim.where} {row.claim.statement}".lower()
        ]
        return [row for _, _, row in sorted(kept, key=lambda each: each[0], reverse=down)]

    def _keys(self, k: int, row: Entry) -> dict[str, float | str]:
        found = decisive(row.decision)
        rank = list(SIGNS).index
        worst = 1e9 if found is None else score(found[0], found[1])
        return {
            "order": k,
            "id": row.claim.id.lower(),
            "where": row.claim.where.lower(),
            "claim": row.claim.statement.lower(),
            "verdict": rank(row.decision.verdict),
            "photographs": rank(row.real.verdict) if row.real else len(SIGNS),
            "decisive": (
                0.0 if math.isnan(worst) else max(-1e6, min(worst, 1e9 if found is None else 1e6))
            ),
            "chapter": row.claim.chapter,
        }

    def html(self) -> str:
        """The kernel-free face: one self-contained fragment; its table is whole before, and
        without, the script."""
        body = "".join(self._body(k, row, anchor=True) for k, row in enumerate(self.rows))
        boxes = "".join(
            f'<label><input type="checkbox" checked value="{v}" data-verdict-box>{_sign(v)}</label>'
            for v in SIGNS
        )
        parts = "".join(
            f"<option>{part}</option>"
            for part in dict.fromkeys(PARTS[row.claim.kind] for row in self.rows)
        )
        identity = "ledger-explorer-" + hashlib.sha256(body.encode()).hexdigest()[:8]
        return Template(asset("ledger_explorer.html")).substitute(
            id=identity,
            style=asset("ledger_explorer.css"),
            counts=self._counted(),
            boxes=boxes,
            parts=parts,
            head=_head(),
            body=body,
            total=len(self.rows),
        )

    def _repr_html_(self) -> str:
        return self.html()

    def widget(self):
        """The live face: an ipywidgets box that the kernel answers by `selected`."""
        import ipywidgets as widgets

        boxes = [
            widgets.Checkbox(value=True, description=f"{sign} {verdict}", indent=False)
            for verdict, sign in SIGNS.items()
        ]
        parts = widgets.Dropdown(
            options=[
                ("all", ""),
                *((p, p) for p in dict.fromkeys(PARTS[row.claim.kind] for row in self.rows)),
            ],
            description="part",
        )
        text = widgets.Text(description="text")
        sort = widgets.Dropdown(
            options=[(name, key) for key, name in COLUMNS.items()], description="sort by"
        )
        down = widgets.Checkbox(description="descending", indent=False)
        table = widgets.HTML()

        def show(_=None) -> None:
            rows = self.selected(
                [v for v, box in zip(SIGNS, boxes) if box.value],
                parts.value,
                text.value,
                sort.value,
                down.value,
            )
            body = "".join(self._body(self.rows.index(row), row, anchor=False) for row in rows)
            table.value = (
                f'<div class="ledger-explorer"><style>{asset("ledger_explorer.css")}</style>'
                f"<p>{self._counted()}</p><p>{len(rows)} of {len(self.rows)} claims</p>"
                f"<table>{_head()}{body}</table></div>"
            )

        for control in (*boxes, parts, text, sort, down):
            control.observe(show, "value")
        show()
        return widgets.VBox([widgets.HBox(boxes), widgets.HBox([parts, text, sort, down]), table])

    def figure(self) -> Figure:
        """The face without scripts: one row a claim, a marker with a bar of ±1 for each test at its
        `score`, hollow on photographs.

        A test decides when its bar is off zero. One whose interval has no width, or that lies
        beyond the axis, is a tick at the edge; one of a single seed has no place and is not drawn.
        Colours are the tests' own outcomes; the claim's verdict stands at the right.
        """
        count = len(self.rows)
        figure, axis = plt.subplots(figsize=(8, 0.27 * count + 1.1), layout="constrained")
        for place, row in enumerate(self.rows):
            for decision, hollow in ((row.decision, False), (row.real, True)):
                drawn = decision.rows if decision else ()
                for k, (test, found, outcome) in enumerate(drawn):
                    at, colour = score(test, found), COLOURS[outcome]
                    y = (
                        place
                        + 0.3 * ((k + 0.5) / len(drawn) - 0.5)
                        + (0.2 if hollow else -0.15 if row.real else 0)
                    )
                    if abs(at) > EDGE:
                        axis.plot(
                            [math.copysign(EDGE, at)],
                            [y],
                            "|",
                            color=colour,
                            ms=6,
                            mew=1 if hollow else 2,
                        )
                    elif not math.isnan(at):
                        axis.plot([at - 1, at + 1], [y, y], color=colour, lw=0.6, alpha=0.6)
                        axis.plot(
                            [at],
                            [y],
                            "o",
                            color=colour,
                            ms=3,
                            mfc="white" if hollow else colour,
                            mew=0.8,
                        )
            said = f"{row.decision.verdict}" + (
                f" · photographs: {row.real.verdict}" if row.real else ""
            )
            axis.text(
                1.01, place, said, transform=axis.get_yaxis_transform(), va="center", fontsize=7
            )
            if place % 2:
                axis.axhspan(place - 0.5, place + 0.5, color="0.95", lw=0, zorder=0)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_yticks(range(count), [row.claim.id for row in self.rows], fontsize=7)
        axis.set(xlim=(-EDGE - 0.3, EDGE + 0.3), ylim=(count - 0.5, -0.5))
        axis.set_xlabel(
            "distance from deciding, in halves of the test's 95 % interval (right: as claimed;"
            " hollow: photographs)",
            fontsize=7,
        )
        return figure

    def _counted(self) -> str:
        return ", ".join(f"{number} {_sign(verdict)}" for verdict, number in self.counts().items())

    def _body(self, k: int, row: Entry, anchor: bool) -> str:
        claim, found = row.claim, decisive(row.decision)
        keys = " ".join(
            f'data-{name}="{html.escape(str(key))}"' for name, key in self._keys(k, row).items()
        )
        name = html.escape(claim.id)
        page = self.pages.get(claim.chapter)
        chapter = html.escape(claim.chapter.removeprefix("chapter-").replace("-", " "))
        cells = {
            "id": f'<a href="#ledger-{name}">{name}</a>' if anchor else name,
            "where": html.escape(claim.where),
            "claim": html.escape(claim.statement),
            "verdict": _sign(row.decision.verdict),
            "photographs": _sign(row.real.verdict) if row.real else "not tested there",
            "decisive": (
                f"{html.escape(_said(found[0]))}: {_number(claim.kind, found[1], _plus(found[0]))}"
                if found
                else "–"
            ),
            "chapter": f'<a href="{html.escape(page)}">{chapter}</a>' if page else chapter,
        }
        shown = "".join(
            f'<td data-label="{COLUMNS[key]}">{text}</td>' for key, text in cells.items()
        )
        inside = _tests(
            "On the embedded world" if claim.data else "On graphs and processes", row.decision
        ) + _numbers(row)
        inside += _tests("On photographs", row.real) if row.real else ""
        identity = f' id="ledger-{name}"' if anchor else ""
        part = PARTS[claim.kind]
        return (
            f'<tbody{identity} data-part="{part}" data-said="{row.decision.verdict}"'
            f' {keys}><tr>{shown}</tr><tr class="more"><td colspan="7"><details><summary>{name}:'
            f" tests, numbers, command</summary>{inside}</details></td></tr></tbody>"
        )


def _sign(verdict: str) -> str:
    return (
        f'<span class="verdict" data-is="{verdict}"><span'
        f' aria-hidden="true">{SIGNS[verdict]}</span> {verdict}</span>'
    )


def _said(test: Comparison) -> str:
    return test.said(lambda run: LABELS.get(run, run))


def _plus(test: Comparison) -> str:
    """A difference carries its sign; a share or an R² that is compared with a threshold is none."""
    return "" if isinstance(test, AtLeast) else "+"


def _number(kind: str, found: Interval, sign: str = "") -> str:
    if kind not in PERCENT:
        return format(found, f"{sign}.4f")
    scaled = Interval(100 * found.value, 100 * found.low, 100 * found.high, found.n)
    return format(scaled, f"{sign}.2f") + (" points" if sign else "")


def _tests(title: str, decision: Decision) -> str:
    kind = decision.claim.kind
    lines = "".join(
        f"<li>{html.escape(_said(test))}: {_number(kind, found, _plus(test))}, {found.n}"
        f" seed{'s' * (found.n != 1)} – {_sign(outcome)}</li>"
        for test, found, outcome in decision.rows
    )
    made = (
        f"<p>Results: <code>{html.escape(folder(decision.claim))}</code>, made by</p><code"
        f' class="command" tabindex="0">{html.escape(command(decision.claim))}</code>'
    )
    return (
        f"<h4>{title}: {_sign(decision.verdict)}</h4>"
        + (f"<ul>{lines}</ul>" if lines else "<p>There are no results yet.</p>")
        + made
    )


def _numbers(row: Entry) -> str:
    """The paper's numbers beside ours, in one format: percent for accuracies and AP."""
    lines = "".join(
        f"<li>{html.escape(measure)}, {html.escape(LABELS.get(run, run))}: paper"
        f" {value:.{2 if row.claim.kind in PERCENT else 4}f}, ours "
        + (_number(row.claim.kind, ours) if (ours := row.ours.get(measure, {}).get(run)) else "–")
        + "</li>"
        for measure, runs in row.claim.paper.items()
        for run, value in runs.items()
    )
    return (
        "<h4>The paper's numbers and"
        f" ours{', in percent' if row.claim.kind in PERCENT else ''}</h4><ul>{lines}</ul>"
        if lines
        else ""
    )


def _head() -> str:
    return (
        "<thead><tr>"
        + "".join(
            f'<th scope="col" data-sort="{key}">{name}</th>'
            for key, name in COLUMNS.items()
            if key != "order"
        )
        + "</tr></thead>"
    )
