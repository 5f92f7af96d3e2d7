"""Tables of chapter 11: the arms over seeds, readouts and their differences, and what each design
costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mae_book.chapters.evaluation_figures import LABELS, TICKS, sweep_table
from mae_book.verdicts.claim import Claim
from mae_book.verdicts.ledger import by_run
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, over_seeds
from mae_lib.base.tables import Table
from mae_lib.evaluation.latents import LATENTS
from mae_lib.theory.levels import MaskLevels


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
