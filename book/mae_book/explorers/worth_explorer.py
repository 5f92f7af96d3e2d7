"""The explorer of what a level is worth to the loss (chapter *Why 0.75*): EV and G_h of a Gaussian
quad-tree against the masking ratio, by correlation, noise and mask unit. Three faces as the other
explorers have; its page tabulates every setting.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import ClassVar

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mae_book.chapters.why_75 import GRID, gains, top
from mae_book.explorers.explorer import Explorer, Options, filled
from mae_lib.base.errors import InputError
from mae_lib.drawing.figures import PALETTE

RHOS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
NUS = (0.0, 0.2, 0.5)
UNITS = {0: "single patches", 1: "2 × 2 patches", 2: "4 × 4 patches"}
HEIGHTS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1)
"""Of the page's chart: what is worth less than a hundredth is drawn as flat as it is."""


class WorthExplorer(Explorer):
    """EV, G_1, G_2 and G_3 on the quad-tree of 16 × 16 patches.

    A state is ρ, ν, the mask unit as the height of its subtree, and a masking ratio of
    `why_75.GRID`.

    Args:
        rho, nu, unit_height: the setting shown first; a ρ or ν between those of the sliders is
            added to them. masks: drawn for each ratio. seed: of these.

    Attributes:
        curves: of ρ, ν and a unit: curve → its values at the ratios, computed once.

    Raises:
        InputError: ρ outside (0, 1), ν outside [0, 1), or a unit that is none of `UNITS`.
    """

    KIND, TITLE = "worth", "Explorer of what a level is worth"
    CHAPTER = "notebooks/03b_why_75.ipynb"
    ROLES: ClassVar = {
        "rho": "correlation ρ", "nu": "noise ν", "unit": "mask unit", "ratio": "ratio"
    }  # fmt: skip
    SAYS: ClassVar = {
        "EV": "EV, all that is visible",
        "G1": "G₁, from beyond 2 × 2 patches",
        "G2": "G₂, from beyond 4 × 4",
        "G3": "G₃, from beyond 8 × 8",
    }

    _command = f"papermill {CHAPTER} out.ipynb -p rho <rho> -p nu <nu> -p unit_height <unit>"

    def __init__(
        self,
        rho: float = 0.8,
        nu: float = 0.2,
        unit_height: int = 0,
        masks: int = 32,
        seed: int = 0,
    ) -> None:
        self.curves = lru_cache(None)(lambda *setting: gains(*setting, masks, seed=seed))
        self.curves(rho, nu, unit_height)  # refuses what no tree has
        if rho <= 0:
            raise InputError(f"rho {rho!r} must be a number between 0 and 1, for instance 0.8")
        self.rhos, self.nus = sorted({*RHOS, rho}), sorted({*NUS, nu})
        self.start = self.checked(rho, nu, unit_height, 0.75)

    def options(self, role: str, *before) -> Options:
        if role == "unit":
            return {str(unit): (words, unit) for unit, words in UNITS.items()}
        values = {"rho": self.rhos, "nu": self.nus, "ratio": GRID}[role]
        return {str(value): (f"{value:g}", value) for value in values}

    def setting(self, rho: float, nu: float, unit: int) -> dict[str, object]:
        """Values of the curves in words, the places of their tops, and the chart's height."""
        curves = self.curves(rho, nu, unit).values()
        return {
            "curves": [[f"{value:.4f}" for value in curve] for curve in curves],
            "tops": [GRID.index(top(curve)) for curve in curves],
            "height": next(h for h in HEIGHTS if h >= max(map(max, curves))),
        }

    def reading(self, rho: float, nu: float, unit: int, ratio: float) -> dict[str, str]:
        setting, place = self.setting(rho, nu, unit), GRID.index(ratio)
        return {
            name: f"{curve[place]}, highest at ratio {GRID[best]}"
            for name, curve, best in zip(self.SAYS, setting["curves"], setting["tops"])
        }

    def command(self, rho: float, nu: float, unit: int, *_: float) -> str:
        return filled(self._command, rho=rho, nu=nu, unit=unit)

    def picture(self, rho: float, nu: float, unit: int, ratio: float) -> str:
        setting = self.setting(rho, nu, unit)
        height, drawn = setting["height"], ""
        for curve, best in zip(setting["curves"], setting["tops"]):
            points = [f"{r} {value}" for r, value in zip(GRID, curve)]
            drawn += f'<g><path class="curve" d="M{"L".join(points)}"/>'
            drawn += f'<path class="top" d="M{points[best]}h0"/></g>'
        ticks = "".join(
            f'<path class="tick" d="M44 {y}h424"/><text{role} x="38" y="{y + 4}" text-anchor="end">'
            f"{value:g}</text>"
            for y, role, value in (
                (210, "", 0),
                (110, ' data-role="half"', height / 2),
                (10, ' data-role="height"', height),
            )
        ) + "".join(
            f'<text x="{44 + 424 * r:g}" y="228" text-anchor="middle">{r:g}</text>'
            for r in (0, 0.25, 0.5, 0.75, 1)
        )
        title = "share of all patches' variance against the masking ratio, a dot at each top"
        box = f'x="44" y="10" width="424" height="200" viewBox="0 -{height} 1 {height}"'
        here = f'<path class="here" d="M{ratio} 0v{height}"/>'
        return (
            f'<figure><svg viewBox="0 0 480 232" role="img" aria-label="{title}">{ticks}<svg'
            f' class="plane" {box} preserveAspectRatio="none"><g transform="scale(1 -1)">{here}'
            f"{drawn}</g></svg></svg><figcaption>{title}</figcaption></figure>"
        )

    def tables(self) -> dict[str, object]:
        offered = [self.options(role).items() for role in ("rho", "nu", "unit")]
        settings = {
            ",".join(word for word, _ in chosen): self.setting(*(value for _, (_, value) in chosen))
            for chosen in product(*offered)
        }
        return {"settings": settings, "names": list(self.SAYS), "command": self._command}

    def figure(self) -> Figure:
        """The printed face: the first setting."""
        rho, nu, unit, _ = self.start
        figure, axis = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
        for k, (name, curve) in enumerate(self.curves(rho, nu, unit).items()):
            best = top(curve)
            axis.plot(GRID, curve, color=PALETTE[k], lw=1.4, label=self.SAYS[name])
            axis.plot([best], [curve[GRID.index(best)]], color=PALETTE[k], marker="o", ms=5)
        axis.set_title(f"ρ = {rho:g}, ν = {nu:g}, mask unit: {UNITS[unit]}", fontsize=10)
        axis.set(xlabel="masking ratio", ylabel="of all patches' variance")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, frameon=False)
        return figure
