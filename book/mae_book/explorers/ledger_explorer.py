"""The explorer of the ledger: every claim with its verdicts, its decisive test, the paper's numbers
beside ours. Three faces as the other explorers have; its page is whole without scripts, its figure
shows all tests on one scale.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlencode

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mae_book.chapters.evaluation_figures import LABELS
from mae_book.explorers.explorer import Explorer, Live, Options
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

PARTS = {"theory": "theory", "identify": "theory", "reconstruction": "§3.1", "attention": "§3.2"}
PARTS |= {"separability": "§3.3", "probe": "§3.3", "shape_bias": "§3.4", "detection": "§3.5"}
PARTS |= {"latents": "§3.6", "tree_world": "§3.6"}
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


class LedgerExplorer(Explorer):
    """The ledger to sort, filter and open.

    A state is the verdicts shown, a part of the paper and a text (all where they are empty), a
    column of `COLUMNS` to sort by, and whether it goes down.

    Args:
        rows: of `mae_book.verdicts.ledger.entries`, in the paper's order. pages: chapter label →
            its page; a chapter without one is named, not linked.

    Raises:
        InputError: no row, or two of one claim.
    """

    KIND, TITLE, CHAPTER = "ledger", "Explorer of the ledger", "notebooks/12_ledger.ipynb"
    ROLES: ClassVar = {"verdicts": "", "part": "part", "text": "", "sort": "sort by", "down": ""}
    SELECTS, DEPENDENT = ("part", "sort"), ("verdicts", "text", "down")

    def __init__(self, rows: Sequence[Entry], pages: Mapping[str, str] = {}) -> None:
        self.rows, self.pages = list(rows), dict(pages)
        if not self.rows:
            said = "the explorer of the ledger needs at least one row"
            raise InputError(f"{said}: give it those of ledger.entries()")
        if len({row.claim.id for row in self.rows}) < len(self.rows):
            raise InputError("two rows of the ledger are of one claim: give each claim once")
        self.start = (tuple(SIGNS), "", "", "order", False)

    def options(self, role: str, *before: Any) -> Options:
        if role == "sort":
            return {key: (words, key) for key, words in COLUMNS.items()}
        parts = dict.fromkeys(PARTS[row.claim.kind] for row in self.rows)
        return {"": ("all", ""), **{part: (part, part) for part in parts}}

    def nearest(self, role: str, wanted: Any, *before: Any) -> Any:
        return wanted

    def counts(self) -> dict[str, int]:
        """Verdict on the embedded world → how many claims have it."""
        said = [row.decision.verdict for row in self.rows]
        return {verdict: said.count(verdict) for verdict in SIGNS}

    def selected(
        self,
        verdicts: Collection[str] = tuple(SIGNS),
        part: str = "",
        text: str = "",
        sort: str = "order",
        down: bool = False,
    ) -> list[Entry]:
        """The rows of a state."""
        self.word("sort", sort)
        kept = [
            row
            for row in self.rows
            if row.decision.verdict in verdicts
            and part in ("", PARTS[row.claim.kind])
            and text.lower() in f"{row.claim.id} {row.claim.where} {row.claim.statement}".lower()
        ]
        return kept if sort == "order" else sorted(kept, key=_KEYS[sort], reverse=down)

    def link(self, *state: Any) -> str:
        verdicts, part, text, sort, down = state
        words = {"verdict": ",".join(v for v in SIGNS if v in verdicts), "part": part, "text": text}
        if len(verdicts) == len(SIGNS):
            del words["verdict"]
        if sort != "order":
            words["sort"] = "-" * down + sort
        return "#ledger?" + urlencode({k: w for k, w in words.items() if w or k == "verdict"})

    def state(self, link: str) -> tuple:
        kind, _, words = link.rpartition("#")[2].partition("?")
        asked = dict(parse_qsl(words, keep_blank_values=True))
        if kind != self.KIND or not asked.keys() <= {"verdict", "part", "text", "sort"}:
            raise InputError(f"{link!r} is no link to a state: they begin with #{self.KIND}?")
        chosen = asked.get("verdict", ",".join(SIGNS)).split(",")
        sort = asked.get("sort", "order")
        return (
            tuple(verdict for verdict in SIGNS if verdict in chosen),
            self.value("part", asked.get("part", "")),
            asked.get("text", ""),
            self.value("sort", sort.removeprefix("-")),
            sort.startswith("-"),
        )

    # ----------------------------------------------------------------------------------------------
    # The page and the widget

    def controls_html(self) -> str:
        boxes = "".join(
            f'<label><input type="checkbox" checked value="{v}">{_sign(v)}</label>' for v in SIGNS
        )
        return (
            f"<p>{self._counted()}</p>"
            f'<div class="actions" data-role="controls" hidden>{boxes}<label>part <select'
            ' data-role="part"></select></label><label>text <input type="search"'
            ' data-role="search"></label><button type="button" data-role="reset">all, in the'
            " paper's order</button></div>"
        )

    def picture(self, *state: Any) -> str:
        rows = self.selected(*state)
        body = "".join(self._body(row) for row in rows)
        heads = "".join(
            f'<th scope="col" data-sort="{key}">{name}</th>'
            for key, name in COLUMNS.items()
            if key != "order"
        )
        return (
            f'<p aria-live="polite"><span data-role="count">{len(rows)} of {len(self.rows)} claims'
            f"</span></p><table><thead><tr>{heads}</tr></thead>{body}</table>"
        )

    def tables(self) -> dict[str, object]:
        place = {row.claim.id: k for k, row in enumerate(self.rows)}
        order = lambda sort, down: [
            place[row.claim.id] for row in self.selected(sort=sort, down=down)
        ]
        return {"orders": {sort: [order(sort, down) for down in (False, True)] for sort in COLUMNS}}

    def live_controls(self, live: Live) -> list:
        """Boxes for the verdicts, a text, and the way down."""
        import ipywidgets as widgets

        boxes = [
            widgets.Checkbox(
                value=v in live.wanted["verdicts"], description=f"{sign} {v}", indent=False
            )
            for v, sign in SIGNS.items()
        ]
        text = widgets.Text(live.wanted["text"], description="text")
        down = widgets.Checkbox(live.wanted["down"], description="descending", indent=False)
        asked = lambda _: {
            "verdicts": tuple(verdict for verdict, box in zip(SIGNS, boxes) if box.value),
            "text": text.value,
            "down": down.value,
        }
        for control in (*boxes, text, down):
            control.observe(lambda _: live.choose(asked), "value")
        return [widgets.HBox(boxes), text, down]

    def figure(self) -> Figure:
        """The printed face: one row a claim, a marker with a bar of ±1 for each test at its
        `score`, hollow on photographs.

        A test decides when its bar is off zero. One whose interval has no width, or that lies
        beyond the axis, is a tick at the edge; one of a single seed has no place and is not drawn.
        Colours are the tests' own outcomes; the claim's verdict stands at the right.
        """
        count = len(self.rows)
        figure, axis = plt.subplots(figsize=(8, 0.27 * count + 1.1), layout="constrained")
        for place, row in enumerate(self.rows):
            said = row.decision.verdict
            said += f" · photographs: {row.real.verdict}" if row.real else ""
            across = axis.get_yaxis_transform()
            axis.text(1.01, place, said, transform=across, va="center", fontsize=7)
            if place % 2:
                axis.axhspan(place - 0.5, place + 0.5, color="0.95", lw=0, zorder=0)
            for decision, hollow in ((row.decision, False), (row.real, True)):
                drawn = decision.rows if decision else ()
                middle = place + (0.2 if hollow else -0.15 if row.real else 0)
                for k, (test, found, outcome) in enumerate(drawn):
                    y, at = middle + 0.3 * ((k + 0.5) / len(drawn) - 0.5), score(test, found)
                    look = {
                        "color": COLOURS[outcome],
                        "mfc": "white" if hollow else COLOURS[outcome],
                    }
                    if abs(at) > EDGE:
                        axis.plot(math.copysign(EDGE, at), y, "|", ms=6, mew=2 - hollow, **look)
                    else:  # NaN is not drawn
                        axis.errorbar(at, y, xerr=1, fmt="o", ms=3, mew=0.8, elinewidth=0.6, **look)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_yticks(range(count), [row.claim.id for row in self.rows], fontsize=7)
        axis.set(xlim=(-EDGE - 0.3, EDGE + 0.3), ylim=(count - 0.5, -0.5))
        axis.set_xlabel(
            "distance from deciding, in halves of the test's 95 % interval (right: as claimed;"
            " hollow: photographs)",
            fontsize=7,
        )
        return figure

    def live_html(self, *state: Any) -> str:
        """As of every explorer; where a kernel works, the chapters are notebooks."""
        shown = super().live_html(*state)
        return re.sub(r'href="([^"]+)\.html" data-page', r'href="\1.ipynb" data-page', shown)

    def _said(self, *state: Any) -> str:
        code = html.escape(f"explorer.widget({self.link(*state)!r})", quote=False)
        return (
            '<p class="remark" data-role="note" hidden></p>'
            '<p class="link"><a data-role="link" hidden>link to this state</a></p>'
            f'<p class="code">this state in Python: <code data-role="code">{code}</code></p>'
        )

    def _counted(self) -> str:
        return ", ".join(f"{number} {_sign(verdict)}" for verdict, number in self.counts().items())

    def _body(self, row: Entry) -> str:
        claim, found = row.claim, decisive(row.decision)
        name, page = html.escape(claim.id), self.pages.get(claim.chapter)
        chapter = html.escape(claim.chapter.removeprefix("chapter-").replace("-", " "))
        cells = {
            "id": f'<a href="#ledger-{name}">{name}</a>',
            "where": html.escape(claim.where),
            "claim": html.escape(claim.statement),
            "verdict": _sign(row.decision.verdict),
            "photographs": _sign(row.real.verdict) if row.real else "not tested there",
            "decisive": f"{_said(found[0])}: {_number(claim.kind, *found[:2])}" if found else "–",
            "chapter": f'<a href="{(to := html.escape(page))}" data-page="{to}">{chapter}</a>'
            if page
            else chapter,
        }
        shown = "".join(f'<td data-label="{COLUMNS[k]}">{text}</td>' for k, text in cells.items())
        title = "On the embedded world" if claim.data else "On graphs and processes"
        inside = _tests(title, row.decision) + _numbers(row)
        inside += _tests("On photographs", row.real) if row.real else ""
        return (
            f'<tbody id="ledger-{name}" data-part="{PARTS[claim.kind]}"'
            f' data-said="{row.decision.verdict}"><tr>{shown}</tr><tr class="more"><td colspan="7">'
            f"<details><summary>{name}: tests, numbers, command</summary>{inside}</details></td>"
            "</tr></tbody>"
        )


def _decisive_key(row: Entry) -> float:
    found = decisive(row.decision)
    worst = 1e9 if found is None else score(*found[:2])
    return 0.0 if math.isnan(worst) else max(-1e6, min(worst, 1e9 if found is None else 1e6))


_KEYS = {
    "id": lambda row: row.claim.id.lower(),
    "where": lambda row: row.claim.where.lower(),
    "claim": lambda row: row.claim.statement.lower(),
    "verdict": lambda row: list(SIGNS).index(row.decision.verdict),
    "photographs": lambda row: list(SIGNS).index(row.real.verdict) if row.real else len(SIGNS),
    "decisive": _decisive_key,
    "chapter": lambda row: row.claim.chapter,
}
"""Column → what its rows are sorted by."""


def _sign(verdict: str) -> str:
    return (
        f'<span class="verdict" data-is="{verdict}"><span'
        f' aria-hidden="true">{SIGNS[verdict]}</span> {verdict}</span>'
    )


def _said(test: Comparison) -> str:
    return html.escape(test.said(lambda run: LABELS.get(run, run)))


def _number(kind: str, test: Comparison | None, found: Interval) -> str:
    """A test's number, or a run's without one. A difference carries its sign; a share or an R² that
    is compared with a threshold is none."""
    sign = "+" * (test is not None and not isinstance(test, AtLeast))
    if kind not in PERCENT:
        return format(found, f"{sign}.4f")
    scaled = Interval(100 * found.value, 100 * found.low, 100 * found.high, found.n)
    return format(scaled, f"{sign}.2f") + (" points" if sign else "")


def _tests(title: str, decision: Decision) -> str:
    claim = decision.claim
    lines = "".join(
        f"<li>{_said(test)}: {_number(claim.kind, test, found)}, {found.n}"
        f" seed{'s' * (found.n != 1)} – {_sign(outcome)}</li>"
        for test, found, outcome in decision.rows
    )
    return (
        f"<h4>{title}: {_sign(decision.verdict)}</h4>"
        + (f"<ul>{lines}</ul>" if lines else "<p>There are no results yet.</p>")
        + f'<p>Results: <code class="inline">{html.escape(folder(claim))}</code>, made by</p>'
        f'<code tabindex="0">{html.escape(command(claim))}</code>'
    )


def _numbers(row: Entry) -> str:
    """The paper's numbers beside ours, in one format: percent for accuracies and AP."""
    percent = row.claim.kind in PERCENT
    lines = ""
    for measure, runs in row.claim.paper.items():
        for run, value in runs.items():
            ours = row.ours.get(measure, {}).get(run)
            lines += (
                f"<li>{html.escape(measure)}, {html.escape(LABELS.get(run, run))}: paper"
                f" {value:.{2 if percent else 4}f}, ours"
                f" {_number(row.claim.kind, None, ours) if ours else '–'}</li>"
            )
    title = "The paper's numbers and ours" + ", in percent" * percent
    return f"<h4>{title}</h4><ul>{lines}</ul>" if lines else ""
