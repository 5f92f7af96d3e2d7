"""`Table`, which shows itself as HTML in a page and as aligned text elsewhere."""

from __future__ import annotations

import html
from collections.abc import Sequence

from mae_lib.base.errors import InputError


class Table:
    """A table that shows itself as HTML in a page, and as aligned text elsewhere. Cells are shown
    as they are given."""

    def __init__(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.header, self.rows = (
            [str(h) for h in header],
            [[str(cell) for cell in row] for row in rows],
        )
        if any(len(row) != len(self.header) for row in self.rows):
            raise InputError(
                f"every row of a table must have {len(self.header)} cells, as its header has"
            )

    def _repr_html_(self) -> str:
        def line(tag: str, cells: Sequence[str]) -> str:
            return (
                "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
            )

        body = "".join(line("td", row) for row in self.rows)
        return (
            "<table"
            f' class="table"><thead>{line("th", self.header)}</thead><tbody>{body}</tbody></table>'
        )

    def __repr__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(row[k]) for row in lines) for k in range(len(self.header))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in lines
        )
