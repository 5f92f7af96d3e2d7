"""A table as a page of its own: it sorts by a click on a head, filters by a word, and fits its
window. Reports of sweeps and of the workflow are such pages."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

STYLE = """
body{font:15px/1.4 sans-serif;margin:1.5em;color:#1a1a1a;background:#fff}
.wide{overflow:auto;max-height:85vh;border:1px solid #ccc}
table{border-collapse:collapse;width:100%}
th,td{padding:.25em .7em;text-align:left;vertical-align:top;overflow-wrap:anywhere}
td.number{text-align:right;font-variant-numeric:tabular-nums;overflow-wrap:normal}
thead th{position:sticky;top:0;background:#eee}
th button{all:unset;cursor:pointer;font-weight:bold}th button:focus-visible{outline:2px solid}
th[aria-sort=ascending] button::after{content:" ▲"}
th[aria-sort=descending] button::after{content:" ▼"}
tr.bad{background:#fbe3e0}tr.idle{color:#595959}
label{display:block;margin:1em 0 .5em}img,svg{max-width:100%;height:auto}
"""

SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const key = (row, k) => row.cells[k].textContent;
  [...table.tHead.rows[0].cells].forEach((head, k) => head.firstChild.onclick = () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => (key(a, k) === "") - (key(b, k) === "")
      || (up ? 1 : -1) * key(a, k).localeCompare(key(b, k), "en", {numeric: true});
    const number = (a, b) => (up ? 1 : -1) * (key(a, k) - key(b, k));
    const plain = rows.every(row => key(row, k) !== "" && !isNaN(key(row, k)));
    body.append(...rows.sort(plain ? number : order));
  });
  const filter = document.querySelector(`input[data-table="${table.id}"]`);
  if (filter) filter.oninput = () => {
    const words = filter.value.toLowerCase().split(/\\s+/);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      shown += !row.hidden;
    }
    filter.nextElementSibling.textContent = ` ${shown} of ${rows.length} rows`;
  };
}
"""


@dataclass(frozen=True)
class Link:
    """A cell that leads somewhere: its text, and an address relative to the page."""

    text: str
    address: str


def table(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[object]], looks: Sequence[str] = ()
) -> str:
    """A table of a page; ``name``: its id, ``looks``: for each row "", "bad" or "idle"."""
    head = "".join(
        f'<th scope="col"><button type="button">{html.escape(column)}</button></th>'
        for column in columns
    )
    body = "".join(
        f'<tr class="{look}">{"".join(map(_cell, row))}</tr>\n'
        for row, look in zip(rows, looks or [""] * len(rows), strict=True)
    )
    return (
        f'<div class="wide" tabindex="0"><table id="{name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def filter_field(name: str) -> str:
    """A field above the table ``name`` that leaves the rows with all the words typed into it."""
    return (
        f'<label>Only rows with <input type="search" data-table="{name}"><output></output></label>'
    )


def page(title: str, inside: str) -> str:
    """A self-contained page with a heading; ``inside`` is HTML."""
    shown = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport"'
        f' content="width=device-width"><title>{shown}</title><style>{STYLE}</style></head><body>'
        f"<h1>{shown}</h1>\n{inside}\n<script>{SCRIPT}</script></body></html>\n"
    )


def _cell(value: object) -> str:
    if isinstance(value, Link):
        text, address = html.escape(value.text), html.escape(value.address)
        return f'<td><a href="{address}">{text}</a></td>'
    if isinstance(value, float):
        return f'<td class="number">{value:.6g}</td>'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td class="number">{value}</td>'
    return f"<td>{html.escape('' if value is None else str(value))}</td>"
