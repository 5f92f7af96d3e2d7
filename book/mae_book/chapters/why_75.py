"""What the chapter *Why 0.75* shows: the registered prediction (`mae_book.sweep.ratio_prediction`)
beside what was measured, on the quad-tree world and on images. Only seeds that are whole count: all
five ratios of them are there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from mae_book.sweep.ratio_prediction import (
    DECIDING,
    RATIOS,
    probe_claim,
    tree_claims,
)
from mae_book.verdicts.comparisons import Verdict
from mae_book.verdicts.ladder import RUNGS
from mae_book.verdicts.ledger import Decision, by_run, decide
from mae_book.verdicts.results import read_results, results_directory
from mae_lib.base.intervals import Interval, over_seeds
from mae_lib.base.runs import RATIO_RUNS
from mae_lib.base.tables import Table
from mae_lib.theory.worth import context_gain

TREE_RUNS = tuple(f"random-{run}" for run in RATIO_RUNS)
PIXELS = 64


GRID = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""Ratios at which curves are drawn and tops are looked for."""


def gains(
    rho: float, nu: float, unit_height: int = 0, masks: int = 64, depth: int = 4, seed: int = 0
) -> dict[str, list[float]]:
    """EV and G_1 … G_3 of the Gaussian quad-tree of ``4 ** depth`` patches at the ratios of
    `GRID`; NaN where a ratio hides no unit or all."""
    units = 4 ** (depth - unit_height)
    heights = {"EV": None, **{f"G{h}": h for h in range(1, depth)}}

    def gain(ratio: float, height: int | None) -> float:
        if not 0 < round((1 - ratio) * units) < units:
            return math.nan
        return context_gain(depth, 4, rho, nu, ratio, height, masks, seed, unit_height)[0]

    return {name: [gain(r, height) for r in GRID] for name, height in heights.items()}


def top(values: Sequence[float]) -> float:
    """The ratio of `GRID` at which a curve is highest."""
    return max(zip(values, GRID), key=lambda pair: -math.inf if math.isnan(pair[0]) else pair[0])[1]


def top_table(rhos: Sequence[float], nu: float, units: Sequence[int], masks: int = 64) -> Table:
    """Where EV, G_1 and G_2 have their tops: a row a ρ, a column a curve and mask unit (as the
    height of its subtree)."""
    names = ("EV", "G1", "G2")
    rows = []
    for rho in rhos:
        found = {unit: gains(rho, nu, unit, masks) for unit in units}
        cells = [f"{top(found[unit][name]):g}" for name in names for unit in units]
        rows.append([f"{rho:g}", *cells])
    head = [f"{name}, unit {2**unit} × {2**unit}" for name in names for unit in units]
    return Table(["ρ", *head], rows)


def whole(records: Sequence[dict], runs: Sequence[str], seeds: Sequence[int] = ()) -> list[dict]:
    """The records of these runs, of the seeds that have all of them; of ``seeds`` alone, where
    given."""
    own = [record for record in records if record["run"] in runs]
    there = {
        seed: {r["run"] for r in own if r["seed"] == seed} for seed in {r["seed"] for r in own}
    }
    kept = [seed for seed, found in there.items() if found == set(runs)]
    return [r for r in own if r["seed"] in kept and (not seeds or r["seed"] in seeds)]


def records(kind: str, data: str) -> list[dict]:
    """Those of ``results/KIND/DATA``; none where there are none yet."""
    folder = results_directory() / kind / data
    return read_results(kind, data) if any(folder.glob("*.json")) else []


def tree_records() -> list[dict]:
    """Of the quad-tree world under random masks, whole seeds."""
    return whole(records("tree_world", ""), TREE_RUNS)


def tree_decisions(prediction: Mapping[str, list[float]]) -> list[Decision]:
    """Whether each level agrees with the prediction."""
    return [decide(claim, tree_records()) for claim in tree_claims(prediction).values()]


def short(values: Mapping[str, Mapping[int, float]]) -> dict[str, Mapping[int, float]]:
    """run → seed → value with the quad-tree world's runs called as the sweep's are."""
    return {run.removeprefix("random-"): seeds for run, seeds in values.items()}


def readouts(prefix: str = "mean") -> dict[str, dict[str, Mapping[int, float]]]:
    """``level1`` … ``level3`` → run of the sweep → seed → R² of the quad-tree world's readout."""
    found = tree_records()
    return {f"level{k}": short(by_run(found, f"{prefix}/level{k}")) for k in (1, 2, 3)}


def learned() -> dict[str, dict[int, float]]:
    """run of the sweep → seed → what the trained model explains of the variance of all pixels of
    the quad-tree world: share hidden × (1 − loss)."""
    found: dict[str, dict[int, float]] = {run: {} for run in RATIO_RUNS}
    for record in tree_records():
        run = record["run"].removeprefix("random-")
        hidden = 1 - round((1 - record["config"]["ratio"]) * PIXELS) / PIXELS
        found[run][record["seed"]] = hidden * (1 - record["loss"])
    return found


def learned_shares(worlds: Mapping[int, Mapping[str, list[float]]]) -> dict[str, Interval]:
    """run of the sweep → the share that the trained model explains of Σ w_h v_h, the most that
    A1–A5 allow in its world; over seeds."""
    return {
        run: over_seeds([found / worlds[seed]["most"][k] for seed, found in seeds.items()])
        for k, (run, seeds) in enumerate(learned().items())
    }


def learned_table(worlds: Mapping[int, Mapping[str, list[float]]]) -> Table:
    """What the trained model explains beside EV of the Gaussian account and the most that A1–A5
    allow, means over the worlds of the whole seeds; and its share of the latter."""
    rows, shares = [], learned_shares(worlds)
    for k, (run, seeds) in enumerate(learned().items()):
        low, high = ([worlds[seed][name][k] for seed in seeds] for name in ("EV", "most"))
        own = [f"{statistics.fmean(v):.3f}" for v in (low, seeds.values(), high)]
        rows.append([f"{RATIOS[k]:g}", *own, format(shares[run], ".2f")])
    head = ["ratio", "EV, Gaussian account", "the trained model", "Σ w_h v_h, the most"]
    return Table([*head, "share of the most that is learned"], rows)


def linear_curves(data: str) -> dict[str, dict[str, Interval]]:
    """``EV``, ``G1``, ``G2`` and ``one-map`` → run → value, of results/moments/DATA."""
    (record,) = read_results("moments", data)
    curves: dict[str, dict[str, Interval]] = {}
    for name, value in record["measures"].items():
        curve, _, run = name.partition("/")
        if run:
            curves.setdefault(curve, {})[run] = Interval.from_dict(value)
    return curves


def far(data: str) -> dict[str, float]:
    """run → G_1 of results/moments/DATA, what was predicted."""
    return {run: found.value for run, found in linear_curves(data)["G1"].items()}


def probes(data: str, seeds: Sequence[int] = ()) -> dict[str, dict[int, float]]:
    """run → seed → accuracy of the linear probe, whole seeds of results/probe/DATA; {} where there
    is none."""
    found = whole(records("probe", data), RATIO_RUNS, seeds)
    return by_run(found, "mean/validation")


def probe_decisions() -> list[Decision]:
    """The registered tests on images: each length of training, on the seeds that decide."""
    curve = [far("world")[run] for run in RATIO_RUNS]
    return [
        decide(probe_claim(data, curve), whole(records("probe", data), RATIO_RUNS, seeds))
        for data, seeds in DECIDING.items()
    ]


def known(data: str, curves: str) -> Decision:
    """The same tests on records that had been seen: they decide nothing. ``curves``: the folder
    under results/moments of the same images."""
    curve = [far(curves)[run] for run in RATIO_RUNS]
    return decide(probe_claim(data, curve), whole(records("probe", data), RATIO_RUNS))


def said(decisions: Sequence[Decision]) -> dict[str, Verdict]:
    """claim → verdict."""
    return {decision.claim.id: decision.verdict for decision in decisions}


FIRST = "1,200 × 128"
"""The first sweep's steps and images a step."""


def by_length(kind: str, measure: str) -> dict[str, dict[str, dict[int, float]]]:
    """length, as "steps × images a step" → run of the ratio sweep → seed → value, of the seeds for
    which all five ratios are there; a length without any is left out."""
    folders = {FIRST: "world"} | {f"{one.steps:,} × 16": one.data for one in RUNGS.values()}
    found = {length: whole(records(kind, data), RATIO_RUNS) for length, data in folders.items()}
    return {length: by_run(some, measure) for length, some in found.items() if some}
