"""What every chapter needs before and around its science: a badge that says which compute tier made
the page, and the way to the project's files. Parameters are checked by `mae_lib.base.parameters`.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass

from mae_book.verdicts.results import repository
from mae_lib.base.errors import InputError

TIER_MEANINGS = {
    "smoke": "numbers on this page mean nothing",
    "laptop": "the embedded world on two CPU cores",
    "gpu": "one GPU",
    "paper": "the paper's own setting",
}
"""The compute tiers and what each says about the numbers made by it."""


@dataclass(frozen=True)
class TierBadge:
    """The line at a chapter's top that says which tier made the page and how long it took; shows
    itself in a notebook."""

    tier: str
    seconds: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.tier not in TIER_MEANINGS:
            raise InputError(
                f"there is no tier {self.tier!r}: choose one of {', '.join(TIER_MEANINGS)}"
            )

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
        # The inline style is the least that makes it a badge in Jupyter, where the book's style
        # sheet is not loaded.
        style = (
            "display:inline-block;padding:.15em .8em;border:1px solid"
            " currentColor;border-radius:1em"
        )
        text = " · ".join(html.escape(part, quote=False) for part in self.parts)
        return (
            f'<span class="tier-badge tier-{self.tier}" style="{style}"><strong>tier'
            f" {self.tier}</strong> · {text}</span>"
        )


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


def chapter_pages() -> dict[str, str]:
    """Label of each chapter, such as ``chapter-separability`` → its page beside the other chapters,
    ``08_linear_separability.html``."""
    pages = {}
    for path in sorted((repository() / "notebooks").glob("*.ipynb")):
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        if label := re.match(r"\(([\w-]+)\)=\n", first):
            pages[label[1]] = f"{path.stem}.html"
    return pages
