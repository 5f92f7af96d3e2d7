"""The theory's claims, measured for the ledger: the paper's Theorem 2 as `mae_lib.identify` tests it, on seeds that no chapter has shown."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from mae_lib.errors import InputError
from mae_lib.identify import BATCH, FIGURES, STEPS, Case, CaseResult, every_mask_case, run_case, table_cases
from mae_lib.intervals import over_seeds
from mae_lib.provenance import provenance
from mae_lib.results import recorded, results_directory, write_result

SEEDS = {"theory": (0, 1, 2, 3, 4), "identify": (3, 4, 5, 6, 7)}
"""Kind → its seeds. Chapter 4 shows seeds 0 to 2 of `identify`, and these were seen before the claim's thresholds were written: they do not count."""

Report = Callable[[str, dict], None]


def evaluate_identify(
    folder: Path, seeds: Sequence[int] = SEEDS["identify"], cases: Sequence[Case] | None = None, steps: int = STEPS, batch: int = BATCH, report: Report | None = None
) -> None:
    """Trains and measures every case with every seed, case by case: the four that decide T2 first, the broken ones and the one wide model after.

    Writes into ``folder`` a record a run, mask and seed. Its run is the case's name, with the mask where one model is measured under several; its
    measures are `identify.FIGURES`. Beside it, as the run ``NAME, untrained``: ``code_to_c`` of the same encoder before training, at no time of its own.

    Args:
        folder: of the records. What is there is not computed again, so that a stop loses no more than one training. cases: `identify.table_cases`
            and `identify.every_mask_case` by default. steps, batch: of each training. report: called with "identify" and each new record.
    """
    for case in (*table_cases(), every_mask_case()) if cases is None else cases:
        for seed in seeds:
            wanted = [_identify_runs(case, mask, seed, steps, batch) for mask in case.measured or case.masks]
            if all(recorded(folder, *_named(run, config)) for pair in wanted for run, config in pair):
                continue
            for result, ((run, config), (untrained, untrained_config)) in zip(run_case(case, seed, steps, batch), wanted):
                figures = {name: getattr(result, name) for name in FIGURES}
                _write(folder, "identify", run, config, figures, result.seconds, report)
                _write(folder, "identify", untrained, untrained_config, {"code_to_c": result.untrained_to_c}, 0.0, report)


def _identify_runs(case: Case, mask: str, seed: int, steps: int, batch: int) -> tuple[tuple[str, dict], tuple[str, dict]]:
    """Run and config, trained and untrained, of one mask of a case."""
    run = f"{case.name}, {mask}" if case.measured else case.name
    config = {
        "seed": seed, "case": case.name, "masks": case.masks, "mask": mask, "code_dim": case.code_dim, "loss": case.loss, "dropped": case.dropped,
        "width": case.width, "steps": steps, "batch": batch,
    }
    return (run, config), (f"{run}, untrained", config | {"steps": 0})


def _named(run: str, config: Mapping) -> tuple[str, str]:
    """Name and hash of a record; the name is fit for a file: "c = z2, z3" of seed 3 is "c-z2-z3-s3"."""
    name = re.sub(r"[^\w.]+", "-", run).strip("-")
    return f"{name}-s{config['seed']}", hashlib.sha256(json.dumps([run, config]).encode()).hexdigest()[:8]


def _write(folder: Path, kind: str, run: str, config: dict, measures: Mapping[str, float], seconds: float, report: Report | None) -> None:
    name, identity = _named(run, config)
    record = {
        "kind": kind, "name": name, "hash": identity, "run": run, "seed": config["seed"], "config": config,
        "measures": {key: over_seeds([value]).to_dict() for key, value in measures.items()}, "seconds": round(seconds, 1), **provenance(),
    }
    write_result(folder, record)
    if report:
        report(kind, record)


def main(words: Sequence[str] | None = None) -> None:
    """``python -m mae_lib.theory``: the theory's claims, into results/theory and results/identify. What is recorded is not computed again."""
    kinds = {"identify": evaluate_identify}
    parser = argparse.ArgumentParser(prog="python -m mae_lib.theory", description=main.__doc__)
    parser.add_argument("--kind", nargs="+", default=list(kinds), metavar="KIND", help=f"of {', '.join(kinds)}; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, help="0 to 4 for theory, 3 to 7 for identify by default")
    parser.add_argument("--out", type=Path, default=results_directory())
    options = parser.parse_args(words)

    def report(kind: str, record: dict) -> None:
        numbers = ", ".join(f"{name} {value['value']:.3f}" for name, value in record["measures"].items())
        print(f"{record['run']}, seed {record['seed']}: {numbers}; {record['seconds']} s", flush=True)

    torch.set_num_threads(1)  # small matrices gain nothing from more, and sums keep their order
    for kind in options.kind:
        kinds[kind](options.out / kind, options.seeds or SEEDS[kind], report=report)


if __name__ == "__main__":
    main()
