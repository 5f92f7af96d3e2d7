"""Drawing and tabulating of chapter 11 (§3.6): which pixels count once a mask's boundary is left
out, comparisons of arms paired by seed, what can be read out and what it costs. Takes records,
numbers and images, returns Matplotlib figures and tables; reads no file and trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from mae_book.chapters.evaluation_figures import LABELS, TICKS, sweep_table
from mae_book.verdicts.claims import Claim
from mae_book.verdicts.ledger import by_run
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, over_seeds
from mae_lib.base.tables import Table
from mae_lib.drawing.figures import HIDDEN_GREY, MARKERS, PALETTE, image_rows
from mae_lib.evaluation.latents import LATENTS
from mae_lib.masks.designs import margin_maps
from mae_lib.masks.masking import hidden_map
from mae_lib.theory.levels import MaskLevels
from mae_lib.training.tiers import PretrainConfig

KINDS = {
    "shown to the encoder": None,
    "visible, but left out": "#F0E442",
    "hidden, but left out of the loss": PALETTE[4],
    "hidden and counted": PALETTE[0],
}
"""What becomes of a pixel under a mask with a margin, in the order of their numbers, and the colour
it is drawn in; None: its own."""


def pixel_kinds(hidden: Tensor, counted: Tensor, shown: Tensor | None = None) -> Tensor:
    """Each pixel's number in `KINDS`.

    Args:
        hidden: bool [B, 1, H, W], True where a pixel is hidden. counted, shown: as
            :func:`mae_lib.masks.designs.margin_maps` gives; without ``shown`` the encoder gets all
            visible pixels.

    Returns:
        uint8 [B, H, W].
    """
    if (
        hidden.shape != counted.shape
        or (shown is not None and shown.shape != hidden.shape)
        or hidden.ndim != 4
        or hidden.shape[1] != 1
    ):
        raise InputError(
            f"hidden {list(hidden.shape)} and counted {list(counted.shape)} must both be [B, 1, H,"
            " W], and shown too"
        )
    visible = torch.where(torch.ones_like(hidden) if shown is None else shown, 0, 1)
    return torch.where(hidden, torch.where(counted, 3, 2), visible)[:, 0].to(torch.uint8)


def drawn_kinds(config: PretrainConfig, masks: int, seed: int = 0) -> Tensor:
    """`pixel_kinds` under masks drawn as one pretraining draws them.

    Args:
        config: of random masks, with its margin, which may be 0. masks: how many. seed: of the
            masks.

    Returns:
        uint8 [masks, H, W].
    """
    hidden = config.mask.sample(masks, torch.Generator().manual_seed(seed))[1]
    patch, grid = config.model.patch, config.model.grid
    counted, shown = margin_maps(hidden, grid, patch, config.margin)
    covered = (
        hidden_map(hidden, config.mask.patches)
        .view(-1, 1, *grid)
        .repeat_interleave(patch, 2)
        .repeat_interleave(patch, 3)
    )
    return pixel_kinds(covered, counted, shown if config.strict else None)


def kept_shares(kinds: Tensor) -> tuple[float, float]:
    """What a margin leaves: the share of the hidden pixels that count, and of the visible ones that
    are shown to the encoder.

    Args:
        kinds: each pixel's number in `KINDS`, any shape. InputError where nothing is hidden, or
            everything.
    """
    hidden, visible = (kinds >= 2).sum(), (kinds < 2).sum()
    if not hidden or not visible:
        raise InputError(
            "the shares that a margin leaves need hidden pixels and visible ones: give masks that"
            " hide a part of the image"
        )
    return float((kinds == 3).sum() / hidden), float((kinds == 0).sum() / visible)


def margin_rows(images: Tensor, rows: Mapping[str, Tensor], size: float = 1.15) -> Figure:
    """Images under masks, each pixel in the colour of what becomes of it.

    Args:
        images: uint8 or float in [0, 1], [N, 3, H, W]. rows: name → :func:`pixel_kinds`, [N, H, W].
            size: inches a picture.
    """
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    painted = {"image": x}
    for name, kinds in rows.items():
        if kinds.shape != (len(x), *x.shape[2:]) or int(kinds.max()) >= len(KINDS):
            raise InputError(
                f"row {name!r} is {list(kinds.shape)}, for images {list(x.shape)}: give each"
                f" pixel's number, 0 … {len(KINDS) - 1}"
            )
        picture = x
        for number, colour in enumerate(KINDS.values()):
            if colour is not None:
                tint = 0.25 * x + 0.75 * torch.tensor(to_rgb(colour)).view(1, 3, 1, 1)
                picture = torch.where((kinds == number)[:, None], tint, picture)
        painted[name] = picture
    figure = image_rows(painted, size=size)
    numbers = torch.cat([kinds.flatten() for kinds in rows.values()]).unique().tolist()
    handles = [
        Patch(color=colour or str(HIDDEN_GREY), label=words)
        for k, (words, colour) in enumerate(KINDS.items())
        if k in numbers and colour is not None
    ]
    below = 0.3 / (figure.get_figheight() + 0.3)
    figure.set_figheight(figure.get_figheight() + 0.3)
    figure.subplots_adjust(bottom=below)
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), fontsize=8, frameon=False
    )
    return figure


def partitions(panels: Mapping[str, Tensor], size: float = 1.6) -> Figure:
    """Groups of patches on their grid, each group in a colour and with its number.

    Args:
        panels: title → int64 [rows, columns], group numbers from 0. size: inches a panel.
    """
    if not panels or not all(groups.ndim == 2 for groups in panels.values()):
        raise InputError("partitions need at least one panel of group numbers, [rows, columns]")
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(size * len(panels), size + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, groups) in zip(axes[0], panels.items()):
        few = int(groups.max()) < 8
        axis.imshow(
            groups.numpy(),
            cmap=ListedColormap(["#ffffff", *PALETTE[:7]]) if few else "turbo",
            vmin=0,
            vmax=7 if few else None,
            alpha=0.55,
        )
        for r, row in enumerate(groups.tolist()):
            for c, number in enumerate(row):
                axis.text(c, r, str(number), ha="center", va="center", fontsize=6)
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=9)
    return figure


def paired_differences(rows: Sequence[tuple[str, str, Sequence[float]]], xlabel: str) -> Figure:
    """One row a comparison: each seed's difference as a dot, their mean with its 95 % interval as a
    line, zero as a dashed line.

    Args:
        rows: (group, label, differences, one a seed); rows of a group share a colour and stand
            together. xlabel: what differs, with its unit.
    """
    if not rows or not all(len(values) for _, _, values in rows):
        raise InputError(
            "there are no differences to draw: give at least one comparison with one seed"
        )
    groups = list(dict.fromkeys(group for group, _, _ in rows))
    figure, axis = plt.subplots(figsize=(7.6, 0.34 * len(rows) + 0.9), layout="constrained")
    axis.axvline(0, color="black", lw=1, ls="--")
    for place, (group, _, values) in enumerate(rows):
        colour, found = PALETTE[groups.index(group) % 8], over_seeds(values)
        if found.n > 1:
            axis.plot(
                [found.low, found.high],
                [place, place],
                color=colour,
                lw=2,
                alpha=0.5,
                solid_capstyle="butt",
            )
        axis.plot([found.value], [place], ls="none", marker="|", ms=13, mew=2, color=colour)
        axis.plot(
            list(values),
            [place] * len(values),
            ls="none",
            marker=MARKERS[groups.index(group) % 8],
            ms=4.5,
            color=colour,
        )
    axis.set(
        yticks=range(len(rows)),
        yticklabels=[label for _, label, _ in rows],
        ylim=(len(rows) - 0.4, -0.6),
        xlabel=xlabel,
    )
    axis.tick_params(labelsize=8)
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right", "left"]].set_visible(False)
    return figure


def readout_against_cost(
    readouts: Mapping[str, Mapping[str, Interval]],
    costs: Mapping[str, float],
    ticks: Mapping[str, str],
    floors: Mapping[str, float],
    xlabel: str,
    size: float = 2.5,
) -> Figure:
    """What can be read out against what training an image costs: one panel a latent, a point a run,
    joined in the order of the cost.

    Args:
        readouts: title → run → value with its interval. costs: run → cost, above 0. ticks: run →
            what is written at its point. floors: title → what features that say nothing give, a
            dotted line. size: inches a panel.
    """
    if not readouts or not all(runs and runs.keys() <= costs.keys() for runs in readouts.values()):
        raise InputError(
            "readouts against cost need at least one panel, a run in each, and the cost of"
            " every run"
        )
    figure, axes = plt.subplots(
        1,
        len(readouts),
        figsize=(size * len(readouts) + 0.3, size + 0.35),
        squeeze=False,
        layout="constrained",
    )
    for k, (axis, (title, runs)) in enumerate(zip(axes[0], readouts.items())):
        order = sorted(runs, key=costs.get)
        x, found = [costs[run] for run in order], [runs[run] for run in order]
        errors = [
            [0.0 if i.n == 1 else i.value - i.low for i in found],
            [0.0 if i.n == 1 else i.high - i.value for i in found],
        ]
        axis.errorbar(
            x,
            [i.value for i in found],
            yerr=errors,
            color=PALETTE[k % 8],
            marker=MARKERS[k % 8],
            ms=5,
            lw=1.3,
            capsize=2.5,
        )
        for place, run, interval in zip(x, order, found):
            axis.annotate(
                ticks[run],
                (place, interval.value),
                xytext=(4, 5),
                textcoords="offset points",
                fontsize=7.5,
            )
        if title in floors:
            axis.axhline(floors[title], color="#555555", lw=0.9, ls=":")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(xlabel, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.16)
        axis.grid(alpha=0.25)
    return figure


# --------------------------------------------------------------------------------------------------
# Tables, and the numbers that figures are drawn from


def _control(records: Sequence[dict], run: str, measures: Sequence[str]) -> list[str]:
    """Means over the seeds of one run, without intervals: controls are the same for all arms of a
    seed."""
    return [
        f"{over_seeds(list(by_run(records, measure)[run].values())).value:.3f}"
        for measure in measures
    ]


def _require(records: Sequence[dict], runs: Sequence[str]) -> None:
    if missing := [run for run in runs if run not in {record["run"] for record in records}]:
        raise InputError(
            f"there is no result of {', '.join(missing)}: evaluate it, or leave it out"
        )


def arms_table(records: Sequence[dict], runs: Sequence[str], names: Sequence[str]) -> Table:
    """What can be read out from the mean token: one row an arm, mean [interval] over seeds; then
    the controls: the first weights and raw pixels of the first arm's records, and what features
    that say nothing give.

    Args:
        records: of ``results/latents``. runs: arms, in this order; InputError where one has no
            record. names: latents (`mae_lib.evaluation.latents.LATENTS`).
    """
    _require(records, runs)
    table = sweep_table(records, [f"mean/{name}" for name in names], names, runs=runs)
    control = lambda prefix: _control(records, runs[0], [f"{prefix}/{name}" for name in names])
    chance = [f"{LATENTS[name].chance:.3f}" for name in names]
    return Table(
        table.header,
        [
            *table.rows,
            ["first weights", "", *control("untrained")],
            ["raw pixels", "", *control("pixels")],
            ["nothing", "", *chance],
        ],
    )


def live_table(rows: Sequence[tuple[str, dict, str]], names: Sequence[str]) -> Table:
    """Readouts of single models: one row each, a column a latent.

    Args:
        rows: (what it is read out from, in words; a record of ``latents``; prefix of its measures,
            such as ``mean``). names: latents.
    """
    value = lambda record, measure: f"{record['measures'][measure]['value']:.3f}"
    return Table(
        ["read out from", *names],
        [
            [words, *(value(record, f"{prefix}/{name}") for name in names)]
            for words, record, prefix in rows
        ],
    )


def tree_table(
    records: Sequence[dict],
    exact: Mapping[str, MaskLevels],
    names: Sequence[str],
    levels: int = 3,
    ratio: float = 0.5,
    control: str = "random",
) -> Table:
    """The quad-tree world: one row a mask design with the exact level of c, the share of the hidden
    pixels that count, and the R² of each level's noises, the highest first, mean [interval] over
    seeds; then first weights and raw pixels, which all designs of a seed share.

    Args:
        records: of ``results/tree_world``. exact: design → its masks' levels. names: designs, in
            this order; InputError where one has no record.
        levels: of the tree above its pixels, whose level is 0. ratio: of the records' masks.
            control: the design whose records give the controls.
    """
    run = {name: f"{name}-r{round(100 * ratio)}" for name in (*names, control)}
    _require(records, list(run.values()))
    order = range(levels, -1, -1)
    table = sweep_table(
        records,
        [f"mean/level{k}" for k in order],
        [f"R² of level {k}" for k in order],
        runs=[run[name] for name in names],
    )
    rows = [
        [name, f"{exact[name].level.value:.2f}", f"{exact[name].predicted.value:.0%}", *row[1:]]
        for name, row in zip(names, table.rows)
    ]
    for words, prefix in (("first weights", "untrained"), ("raw pixels", "pixels")):
        rows.append(
            [
                words,
                "",
                "",
                "",
                *_control(records, run[control], [f"{prefix}/level{k}" for k in order]),
            ]
        )
    return Table(["masks", "level of c", "hidden pixels that count", *table.header[1:]], rows)


def readout_differences(
    records: Sequence[dict], claims: Sequence[Claim], names: Sequence[str]
) -> list[tuple[str, str, list[float]]]:
    """Rows of `paired_differences`: for every test of every claim, and every latent, the readout of
    the test's first run less that of its second, both of one seed, for the seeds that both have in
    ascending order.

    Args:
        records: of ``results/latents``. claims: their tests must compare two runs; what they
            measure does not matter. names: latents.

    Raises:
        InputError: a test does not compare two runs, a run has no record, or two have no seed in
            common.
    """
    values, rows = {name: by_run(records, f"mean/{name}") for name in names}, []
    for claim, test in ((one, test) for one in claims for test in one.tests):
        if len(test.runs) != 2:
            raise InputError(
                f"claim {claim.id} compares {', '.join(test.runs)}: give claims whose tests compare"
                " two runs"
            )
        high, low = test.runs
        _require(records, test.runs)
        for name in names:
            first, second = values[name][high], values[name][low]
            if not (seeds := sorted(first.keys() & second.keys())):
                raise InputError(
                    f"the runs {high} and {low} have no seed in common: evaluate both with the same"
                    " seeds"
                )
            label = f"{claim.id}: {name}, {LABELS.get(high, high)} − {LABELS.get(low, low)}"
            rows.append((claim.id, label, [first[s] - second[s] for s in seeds]))
    return rows


def readouts(records: Sequence[dict], names: Sequence[str]) -> dict[str, dict[str, Interval]]:
    """latent → run → what is read out from the mean token, mean with its interval over seeds: what
    `readout_against_cost` draws."""
    return {
        name: {
            run: over_seeds(list(seeds.values()))
            for run, seeds in by_run(records, f"mean/{name}").items()
        }
        for name in names
    }


BASELINES = {"r75": "unit 8 px", "coarse": "unit 16 px"}
"""Cases of ``benchmarks/masking_cost.py`` that others are timed against, in words."""


def _time(case: dict) -> str:
    return f"{case['time']['median']:.2f} [{case['time']['low']:.2f}, {case['time']['high']:.2f}]"


def _memory(case: dict) -> str:
    return f"{case['kept_bytes_an_image'] / 2**20:.2f}"


def cost_table(timed: Mapping[str, dict], cases: Mapping[str, str]) -> Table:
    """What a mask design costs: one row a case, with the time of a training step as a ratio to that
    of its baseline.

    Args:
        timed: case → its numbers, of ``results/benchmarks/masking_cost``. cases: what a row is
            called → its case; InputError for an unknown one.
    """
    if unknown := [case for case in cases.values() if case not in timed]:
        raise InputError(f"{unknown[0]} was not timed: choose of {', '.join(timed)}")
    rows = [(words, timed[case]) for words, case in cases.items()]
    return Table(
        ["masks", "images/s", "time of a step, ratio [95 %]", "of", "MiB kept an image"],
        [
            [
                words,
                f"{case['images_a_second']:.0f}",
                _time(case),
                BASELINES[case["against"]],
                _memory(case),
            ]
            for words, case in rows
        ],
    )


def ratio_cost_table(
    timed: Mapping[str, dict], large: Mapping[str, float], runs: Sequence[str]
) -> Table:
    """What a masking ratio costs: one row a ratio, its operations absolutely and as a share of the
    first row's.

    Args:
        timed: run → its numbers, of ``results/benchmarks/masking_cost``, timed against ratio 0.75.
            large: run → operations an image of the paper's model. runs: of the ratio sweep, in this
            order.
    """
    first = runs[0]
    return Table(
        [
            "ratio",
            "visible patches",
            "MFLOP an image",
            f"of ratio {TICKS[first]}'s",
            "the same for ViT-B at 224 px",
            "images/s",
            "time of a step, ratio 0.75's = 1",
            "MiB kept an image",
        ],
        [
            [
                TICKS[run],
                case["visible_patches"],
                f"{case['flops'] / 1e6:.0f}",
                f"{case['flops'] / timed[first]['flops']:.2f}",
                f"{large[run] / large[first]:.2f}",
                f"{case['images_a_second']:.0f}",
                _time(case),
                _memory(case),
            ]
            for run in runs
            for case in [timed[run]]
        ],
    )


def minutes_table(records: Sequence[dict], runs: Sequence[str]) -> Table:
    """How long trainings took: one row a family of runs that differ by seed alone, in the order of
    the records.

    Args:
        records: of ``results/pretraining``. runs: names without ``-s`` and the seed; others are
            left out.
    """
    minutes: dict[str, list[float]] = {}
    for record in records:
        family = record["name"].rsplit("-s", 1)[0]
        if family in runs:
            minutes.setdefault(family, []).append(record["seconds"] / 60)
    rows = [
        [family, len(m), f"{sum(m) / len(m):.1f}", f"{min(m):.1f}", f"{max(m):.1f}"]
        for family, m in minutes.items()
    ]
    return Table(["run", "seeds", "minutes, mean", "from", "to"], rows)
