"""The explorer of what a level is worth to the loss (chapter *Why 0.75*): EV and G_H of a Gaussian
quad-tree against the masking ratio, by correlation, noise and mask unit. Three faces from one
function as the other explorers have: live widget, self-contained HTML with every setting tabulated,
captioned figure.
"""

from __future__ import annotations

import html
from functools import lru_cache

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mae_book.chapters.why_75 import GRID, gains, top
from mae_book.explorers.explorer import fragment
from mae_lib.base.errors import InputError
from mae_lib.drawing.figures import PALETTE

CHAPTER = "notebooks/03b_why_75.ipynb"
RHOS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
NUS = (0.0, 0.2, 0.5)
UNITS = (0, 1, 2)
NAMES = {
    "EV": "EV, all that is visible",
    "G1": "G₁, from beyond 2 × 2 patches",
    "G2": "G₂, from beyond 4 × 4",
    "G3": "G₃, from beyond 8 × 8",
}


class WorthExplorer:
    """EV, G_1, G_2 and G_3 on the quad-tree of 16 × 16 patches.

    Args:
        rho, nu, unit_height: the opening setting; a ρ or ν between those of the sliders is added to
            them. masks: drawn for each ratio. seed: of these.

    Raises:
        InputError: ρ outside (0, 1), ν outside [0, 1), or a unit that is none of `UNITS`.
    """

    def __init__(
        self,
        rho: float = 0.8,
        nu: float = 0.2,
        unit_height: int = 0,
        masks: int = 32,
        seed: int = 0,
    ) -> None:
        if not 0 < rho < 1:
            raise InputError(f"rho {rho!r} must be a number between 0 and 1, for instance 0.8")
        if not 0 <= nu < 1:
            raise InputError(f"nu {nu!r} must be a number in [0, 1), for instance 0.2")
        if unit_height not in UNITS:
            raise InputError(
                f"unit_height {unit_height!r} must be one of {', '.join(map(str, UNITS))}: a mask"
                " unit of 2 ** unit_height patches a side"
            )
        self.rhos, self.nus = sorted({*RHOS, rho}), sorted({*NUS, nu})
        self.opening = rho, nu, unit_height
        self._gains = lru_cache(None)(lambda *setting: gains(*setting, masks, seed=seed))

    def curves(self, rho: float, nu: float, unit_height: int) -> dict[str, list[float]]:
        """Curve → its values at the ratios of `why_75.GRID`."""
        return self._gains(rho, nu, unit_height)

    def command(self, rho: float | str, nu: float | str, unit_height: int | str) -> str:
        """The papermill command whose page opens with a setting."""
        return f"papermill {CHAPTER} out.ipynb -p rho {rho} -p nu {nu} -p unit_height {unit_height}"

    def figure(self) -> Figure:
        """The printed face: the opening setting."""
        return self._drawn(*self.opening)

    def widget(self):
        """The live face: an ipywidgets box, its curves computed by the kernel at each change."""
        import ipywidgets as widgets

        names = ("rho", "nu", "unit_height")
        options = (self.rhos, self.nus, UNITS)
        sliders = [
            widgets.SelectionSlider(options=list(values), value=value, description=name)
            for name, values, value in zip(names, options, self.opening)
        ]
        picture, words = widgets.Output(), widgets.HTML()

        def show(_=None) -> None:
            setting = [slider.value for slider in sliders]
            picture.clear_output(wait=True)
            with picture:
                plt.show(self._drawn(*setting))
            words.value = f"<code>{html.escape(self.command(*setting))}</code>"

        for slider in sliders:
            slider.observe(show, "value")
        show()
        return widgets.VBox([*sliders, picture, words])

    def html(self) -> str:
        """The kernel-free face: one self-contained fragment with every setting tabulated."""
        rounded = lambda curves: [[round(v, 4) for v in curve] for curve in curves.values()]
        rho, nu, unit = self.opening
        sides = [f"{2**u} × {2**u} patches" if u else "single patches" for u in UNITS]
        data = {
            "rhos": self.rhos,
            "nus": self.nus,
            "units": UNITS,
            "ratios": GRID,
            "names": list(NAMES.values()),
            "words": {
                "rho": [f"{v:g}" for v in self.rhos],
                "nu": [f"{v:g}" for v in self.nus],
                "unit": sides,
                "ratio": [f"{v:g}" for v in GRID],
            },
            "opening": {
                "rho": self.rhos.index(rho),
                "nu": self.nus.index(nu),
                "unit": UNITS.index(unit),
                "ratio": GRID.index(0.75),
            },
            "command": self.command("RHO", "NU", "UNIT"),
            "table": [
                [[rounded(self.curves(r, n, u)) for u in UNITS] for n in self.nus]
                for r in self.rhos
            ],
        }
        return fragment("worth", data)

    def _repr_html_(self) -> str:
        return self.html()

    def _drawn(self, rho: float, nu: float, unit_height: int) -> Figure:
        figure, axis = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
        for k, (name, curve) in enumerate(self.curves(rho, nu, unit_height).items()):
            best = top(curve)
            axis.plot(GRID, curve, color=PALETTE[k], lw=1.4, label=NAMES[name])
            axis.plot([best], [curve[GRID.index(best)]], color=PALETTE[k], marker="o", ms=5)
        side = 2**unit_height
        axis.set_title(f"ρ = {rho:g}, ν = {nu:g}, mask unit {side} × {side}", fontsize=10)
        axis.set(xlabel="masking ratio", ylabel="of all patches' variance")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, frameon=False)
        return figure
