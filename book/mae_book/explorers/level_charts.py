"""The charts of the explorer of levels, mean level of c against ratio, as SVG: their paths are in
ratios and levels (upside down), stretched to the axes, so that a page's script moves the mark by
numbers alone.
"""

from __future__ import annotations

import html
from collections.abc import Mapping

from mae_lib.base.intervals import Interval

LEAST_RANGE = 0.1
"""Levels that the stretched chart spans at least: a spread below it is drawn as flat as it is."""

TITLES = (
    "mean level of c against the ratio, all masks of this hierarchy",
    "mean level of c: the line of these masks alone, stretched",
)


def charts(
    rows: Mapping[str, Mapping[float, Interval]], here: str, ratio: float, height: int
) -> str:
    """Two figures: every row of masks on the levels 1 to ``height``, and each row's line on an axis
    of its own, one of them shown.

    Args:
        rows: name of a row → ratio → its mean level. here: the row that is marked, at ``ratio``.
    """
    top, ends = max(2, height), []
    together = "".join(_tick(level, 1, top, str(level)) for level in range(1, top + 1))
    apart = ""
    for k, (name, means) in enumerate(rows.items()):
        path = lambda key, means=means: [f"{r:g} {-getattr(p, key):.4f}" for r, p in means.items()]
        marked = ratio in means and name == here
        at = f"M{ratio:g} {-means[ratio].value:.4f}h0" if marked else ""
        line = f'<path class="line" d="M{"L".join(path("value"))}"/><path class="mark" d="{at}"/>'
        end = _up(list(means.values())[-1].value, 1, top) if means else 0.0
        while any(abs(end - other) < 12.5 for other in ends):  # names stand apart
            end -= 1
        ends.append(end)
        group = f'<g data-row="{k}"{" data-on" * (name == here)}>'
        words = f'<text class="name" x="292" y="{end + 4:g}">{html.escape(name)}</text>'
        together += f"{group}{_plane(line, 1, top)}{words}</g>"
        low = min([p.low for p in means.values()], default=1)
        high = max([p.high for p in means.values()], default=1)
        spare = max(0.0, LEAST_RANGE - (high - low)) / 2
        low, high = low - spare, high + spare
        band = f'<path class="band" d="M{"L".join(path("low") + path("high")[::-1])}z"/>'
        ticks = "".join(_tick(v, low, high, f"{v:.3f}") for v in (low, (low + high) / 2, high))
        apart += f"{group}{ticks}{_plane(band + line, low, high)}</g>"
    below = '<text x="163" y="187" text-anchor="middle">masking ratio</text>' + "".join(
        f'<text x="{40 + 246 * r:g}" y="172" text-anchor="middle">{r:g}</text>'
        for r in (0, 0.25, 0.5, 0.75, 1)
    )
    return "".join(
        f'<figure><svg class="chart" viewBox="0 0 360 190" role="img" aria-label="{title}">'
        f"{chart}{below}</svg><figcaption>{title}</figcaption></figure>"
        for title, chart in zip(TITLES, (together, apart))
    )


def _up(level: float, low: float, high: float) -> float:
    """Where a level stands in a chart of 190 pixels with 10 above the axes and 34 below."""
    return 156 - 146 * (level - low) / (high - low)


def _tick(level: float, low: float, high: float, words: str) -> str:
    y = _up(level, low, high)
    text = f'<text x="34" y="{y + 4:.1f}" text-anchor="end">{words}</text>'
    return f'<path class="tick" d="M40 {y:.1f}h246"/>{text}'


def _plane(inside: str, low: float, high: float) -> str:
    box = f'x="40" y="10" width="246" height="146" viewBox="0 {-high:g} 1 {high - low:g}"'
    return f'<svg {box} preserveAspectRatio="none">{inside}</svg>'
