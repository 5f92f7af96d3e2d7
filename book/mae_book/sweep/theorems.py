"""The theory's claims, measured for the ledger: Theorem 1 and Figure 4 on random hierarchies
(``results/theory``), Theorem 2, stated and trained, as `mae_lib.identification.identify` tests it,
on seeds that no chapter has shown (``results/identify``).

What Algorithms 1 and 2 return is judged on random linear-Gaussian models of the same graphs, which
know no common ancestors: c by `conditions.minimal_sets`, s_m and s_mᶜ by ranks and correlations.
All is deterministic: the intervals over seeds say how far shares move from one draw of graphs to
the next, and a share of 1 says that no case of them failed. It is no proof; the book's *Proofs*
page has that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from mae_book.sweep.random_graphs import (
    CHECKED_LATENTS,
    GRAPHS,
    HIERARCHIES,
    MASKS,
    check_mask,
    layered_hierarchies,
    mask_like_figure_4,
    random_hierarchies,
    random_masks,
)
from mae_book.verdicts.results import results_directory
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import over_seeds
from mae_lib.base.provenance import provenance
from mae_lib.base.records import own_record, write_result
from mae_lib.identification.cases import FIGURES, Case, CaseResult, every_mask_case, table_cases
from mae_lib.identification.fold import run_fold
from mae_lib.identification.identify import BATCH, STEPS, run_case
from mae_lib.theory.conditions import linear_model, minimal_sets
from mae_lib.theory.shared import locate_shared

SEEDS = {"theory": (0, 1, 2, 3, 4), "identify": (3, 4, 5, 6, 7)}
"""Kind → its seeds. Chapter 4 shows seeds 0 to 2 of `identify`, which do not count; seed 100 was
the pilot of T2t."""


FIGURE_4 = {
    "small mask": "lower latent in c",
    "small visible part": "lower latent in c",
    "in between": "high latent in c",
}
"""Run → measure: Figure 4's left, middle and right."""

Report = Callable[[dict], None]
"""Called with each new record."""


def random_graphs(
    seed: int, graphs: int = GRAPHS, masks: int = MASKS
) -> tuple[dict, Callable[[], dict[str, float]]]:
    """The config of the run "random graphs", and what measures it: the share of (graph, mask) cases
    for each figure of `check_mask`; "s_mc not unique" of those in which something is shared."""
    cases = [
        (graph, mask)
        for graph in random_hierarchies(seed, graphs)
        for mask in random_masks(graph, seed, masks)
    ]

    def measure() -> dict[str, float]:
        checks = [check_mask(graph, mask, seed + k) for k, (graph, mask) in enumerate(cases)]
        shares = {name: _share(check[name] for check in checks) for name in checks[0]}
        return shares | {
            "s_mc not unique": _share(
                check["s_mc not unique"] for check in checks if check["something shared"]
            )
        }

    return {"seed": seed, "graphs": graphs, "masks": masks, "cases": len(cases)}, measure


def figure_4_run(
    run: str, seed: int, several: bool = False, count: int = HIERARCHIES
) -> tuple[dict, Callable[[], dict[str, float]]]:
    """The config of a run of `FIGURE_4`, and what measures it: one latent z above the lowest level
    a hierarchy, one mask around it.

    A case counts where c, as `locate_shared` finds it, holds a latent below z (or z itself, "in
    between") and, in hierarchies of at most `CHECKED_LATENTS` latents, is the one minimal set of a
    linear model too ("conditions agree": of these, the share where it is). "level of c" and "level
    of z" are means over cases (with a c), the observables being level 0.
    """
    graphs = layered_hierarchies(seed, count, several)
    small = [len(graph.latents) <= CHECKED_LATENTS for graph in graphs]

    def measure() -> dict[str, float]:
        draw, holds, agree, levels = np.random.default_rng([seed, 4]), [], [], []
        for k, graph in enumerate(graphs):
            high = [z for z in graph.latents if graph.levels[z] > 1]
            z = high[draw.integers(len(high))]
            mask = mask_like_figure_4(graph, run, z, draw)
            found = locate_shared(graph, mask)
            wanted = (
                z in found.c
                if run == "in between"
                else any(z in graph.ancestors[low] for low in found.c - {z})
            )
            same = not small[k] or minimal_sets(linear_model(graph, seed + k), mask) == [found.c]
            holds.append(wanted and same)
            agree += [same] * small[k]
            levels.append((found.mean_level, graph.levels[z]))
        of_c, of_z = np.nanmean(levels, axis=0).tolist()
        return {
            FIGURE_4[run]: _share(holds),
            "conditions agree": _share(agree),
            "level of c": of_c,
            "level of z": of_z,
        }

    return {"seed": seed, "cases": count, "checked": sum(small), "several": several}, measure


def _share(outcomes: Iterable[bool]) -> float:
    """Of outcomes that are true. InputError where there is none."""
    if not (outcomes := list(outcomes)):
        raise InputError("a share needs at least one case: draw more graphs")
    return sum(outcomes) / len(outcomes)


def evaluate_theory(
    folder: Path, seeds: Sequence[int] = SEEDS["theory"], report: Report | None = None
) -> None:
    """Writes into ``folder`` one record a run and seed: "random graphs", the three of `FIGURE_4` on
    trees, as the paper draws them, and beside these "RUN, several parents", which decide nothing:
    there, what is below one child of z can be below another, so that the other is neither wholly
    masked nor wholly visible. What is there is not computed again. ``report`` is called with each
    new record.
    """
    wanted = []
    for seed in seeds:
        wanted.append(("random graphs", *random_graphs(seed)))
        for several in (False, True):
            wanted += [
                (f"{run}, several parents" if several else run, *figure_4_run(run, seed, several))
                for run in FIGURE_4
            ]
    known = [_recorded(folder, "theory", run, config) for run, config, _ in wanted]
    for there, (run, config, measure) in zip(known, wanted):
        if not there:
            began = time.perf_counter()
            measures = measure()
            _write(folder, "theory", run, config, measures, time.perf_counter() - began, report)


def trainings() -> tuple[tuple[Case, int], ...]:
    """What is trained for T2t, each with its steps: the four cases that meet the theorem's
    conditions and the broken ones, the one wide model, and the same for fewer and more steps,
    narrower and wider."""
    wide = every_mask_case()
    named = lambda which, **change: replace(wide, name=f"one model, {which}", **change)
    return (
        *((case, STEPS) for case in (*table_cases(), wide)),
        *((named(f"{steps} steps"), steps) for steps in (500, 8000)),
        *((named(f"width {width}", width=width), STEPS) for width in (32, 256)),
    )


def identify_runs(
    seed: int, of: Sequence[tuple[Case, int]] | None = None, batch: int = BATCH
) -> list[tuple[str, dict]]:
    """Run and config of every record of a seed that comes from a training."""
    return [
        named
        for case, steps in (trainings() if of is None else of)
        for mask in case.measured or case.masks
        for named in _identify_runs(case, mask, seed, steps, batch)
    ]


def fold_run(seed: int) -> tuple[str, dict]:
    """Run and config of the fold, which is not trained."""
    return "fold", {"seed": seed, "case": "fold"}


def evaluate_identify(
    folder: Path,
    seeds: Sequence[int] = SEEDS["identify"],
    of: Sequence[tuple[Case, int]] | None = None,
    batch: int = BATCH,
    report: Report | None = None,
) -> None:
    """The fold, then every training with every seed, case by case: the four that meet the
    conditions first.

    Writes into ``folder`` a record a run, mask and seed. Its run is the case's name, with the mask
    where one model is measured under several; its measures are `identify.FIGURES` and
    ``output_less_code``, c → D(ĉ) less c → ĉ. Beside it, as the run ``NAME, untrained``:
    ``code_to_c`` of the same encoder before training, at no time of its own. The run "fold" has
    the figures of `identify.FoldResult`.

    Args:
        folder: of the records. What is there is not computed again, so that a stop loses no more
            than one training. of: cases and the steps of each; `trainings` by default. batch: of
            each training. report: called with each new record.
    """
    of = trainings() if of is None else of
    folds = {seed: _recorded(folder, "identify", *fold_run(seed)) for seed in seeds}
    known = {
        (case.name, seed): all(
            _recorded(folder, "identify", run, config)
            for run, config in identify_runs(seed, [(case, steps)], batch)
        )
        for case, steps in of
        for seed in seeds
    }
    for seed in seeds:
        if not folds[seed]:
            began = time.perf_counter()
            found = asdict(run_fold(seed))
            took = time.perf_counter() - began
            _write(folder, "identify", *fold_run(seed), found, took, report)
    for case, steps in of:
        for seed in seeds:
            if not known[case.name, seed]:
                for result in run_case(case, seed, steps, batch):
                    _write_identify(folder, result, steps, batch, report)


def _write_identify(
    folder: Path, result: CaseResult, steps: int, batch: int, report: Report | None
) -> None:
    trained, untrained = _identify_runs(result.case, result.mask, result.seed, steps, batch)
    figures = {name: getattr(result, name) for name in FIGURES}
    figures["output_less_code"] = result.c_to_output - result.c_to_code
    _write(folder, "identify", *trained, figures, result.seconds, report)
    before = {"code_to_c": result.untrained_to_c}
    _write(folder, "identify", *untrained, before, 0.0, report)


def _identify_runs(
    case: Case, mask: str, seed: int, steps: int, batch: int
) -> tuple[tuple[str, dict], tuple[str, dict]]:
    """Run and config, trained and untrained, of one mask of a case."""
    run = f"{case.name}, {mask}" if case.measured else case.name
    config = {
        "seed": seed,
        "case": case.name,
        "masks": case.masks,
        "mask": mask,
        "code_dim": case.code_dim,
        "loss": case.loss,
        "dropped": case.dropped,
        "width": case.width,
        "steps": steps,
        "batch": batch,
    }
    return (run, config), (f"{run}, untrained", config | {"steps": 0})


def _named(run: str, config: Mapping) -> tuple[str, str]:
    """Name and hash of a record; the name is fit for a file: "c = z2, z3" of seed 3 is
    "c-z2-z3-s3"."""
    name = re.sub(r"[^\w.]+", "-", run).strip("-")
    return (
        f"{name}-s{config['seed']}",
        hashlib.sha256(json.dumps([run, config]).encode()).hexdigest()[:8],
    )


def _recorded(folder: Path, kind: str, run: str, config: Mapping) -> bool:
    """Whether a run is recorded; InputError where another file has its name."""
    name, identity = _named(run, config)
    return own_record(folder, {"kind": kind, "name": name, "hash": identity}) is not None


def _write(
    folder: Path,
    kind: str,
    run: str,
    config: dict,
    measures: Mapping[str, float],
    seconds: float,
    report: Report | None,
) -> None:
    name, identity = _named(run, config)
    record = {
        "kind": kind,
        "name": name,
        "hash": identity,
        "run": run,
        "seed": config["seed"],
        "config": config,
        "measures": {key: over_seeds([value]).to_dict() for key, value in measures.items()},
        "seconds": round(seconds, 1),
        **provenance(),
    }
    write_result(folder, record)
    if report:
        report(record)


def main(words: Sequence[str] | None = None) -> None:
    """``python -m mae_book.sweep.theorems``: the theory's claims, into results/theory and
    results/identify. What is recorded is not computed again."""
    kinds = {"theory": evaluate_theory, "identify": evaluate_identify}
    parser = argparse.ArgumentParser(
        prog="python -m mae_book.sweep.theorems", description=main.__doc__
    )
    parser.add_argument(
        "--kind", nargs="+", default=list(kinds), help=f"of {', '.join(kinds)}; all by default"
    )
    parser.add_argument(
        "--seeds", nargs="+", help="0 1 2 3 4 for theory and 3 4 5 6 7 for identify by default"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=results_directory(),
        help="folder of the results; the project's by default",
    )
    options = parser.parse_args(words)

    def report(record: dict) -> None:
        numbers = ", ".join(
            f"{name} {value['value']:.3f}" for name, value in record["measures"].items()
        )
        print(
            f"{record['run']}, seed {record['seed']}: {numbers}; {record['seconds']} s", flush=True
        )

    torch.set_num_threads(1)  # small matrices gain nothing from more, and sums keep their order
    try:
        if unknown := [kind for kind in options.kind if kind not in kinds]:
            raise InputError(f"there is no kind {unknown[0]!r}: choose of {', '.join(kinds)}")
        if wrong := [seed for seed in options.seeds or () if not re.fullmatch("[0-9]{1,9}", seed)]:
            raise InputError(f"seed {wrong[0]!r} must be a whole number from 0 to 999999999")
        for kind in options.kind:
            kinds[kind](
                options.out / kind,
                [int(seed) for seed in options.seeds or SEEDS[kind]],
                report=report,
            )
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
