"""Where we differ from the paper, in numbers (chapter 13): what the experiments of
`mae_book.sweep.experiments` found of each cause, what the paper's own tests say under each change,
and what Theorem 1 predicts for the eight masks beside what was measured. Reads `results/`; trains
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from scipy import stats

from mae_book.sweep.experiments import Experiment
from mae_book.verdicts.claims import CLAIMS
from mae_book.verdicts.comparisons import Above, Grows, Verdict
from mae_book.verdicts.ledger import Decision, by_run, decide
from mae_book.verdicts.results import read_results, results_directory
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, over_seeds
from mae_lib.base.runs import RATIO_RUNS, RUNS, SIZE_RUNS
from mae_lib.masks.masking import mask_batches
from mae_lib.theory.graphs import quad_tree
from mae_lib.theory.levels import MaskLevels, mask_levels
from mae_lib.training.tiers import tier


def as_variant(records: Iterable[dict], variant: str) -> list[dict]:
    """Records whose runs are called ``RUN@VARIANT``, as `comparisons.Grows` asks for them."""
    return [record | {"run": f"{record['run']}@{variant}"} for record in records]


@dataclass(frozen=True)
class Effect:
    """What a change does to the difference that a mask makes.

    Attributes:
        kind, test: what is compared. sweep: the difference in the sweep itself. changed: under the
            change. found: the number that the test looks at (for `Grows` changed − sweep, paired by
            seed; else changed). outcome: what it says.
    """

    kind: str
    test: Above | Grows
    sweep: Interval
    changed: Interval
    found: Interval
    outcome: Verdict


def _there(kind: str, experiment: Experiment) -> list[dict]:
    """The variant's records of a kind, of the seeds for which every run is there; [] before it is
    run."""
    if not any((results_directory() / kind / experiment.data).glob("*.json")):
        return []
    records = read_results(kind, experiment.data)
    whole = set.intersection(
        *({r["seed"] for r in records if r["run"] == run} for run in experiment.runs)
    )
    return [
        record for record in records if record["seed"] in whole and record["run"] in experiment.runs
    ]


def effects(experiment: Experiment) -> list[Effect]:
    """Every test on the cause, from `results/`; [] where the experiment has not been run."""
    found = []
    for kind, tests in experiment.tests.items():
        there = _there(kind, experiment)
        if not there:
            return []
        base = read_results(kind, experiment.baseline)
        for test in tests:
            sweep, changed = by_run(base, test.measure), by_run(there, test.measure)
            plain = Above(test.measure, test.high, test.low)
            if isinstance(test, Grows):
                result = test.difference(
                    sweep | by_run(as_variant(there, experiment.id), test.measure)
                )
            else:
                result = test.difference(changed)
            found.append(
                Effect(
                    kind,
                    test,
                    plain.difference(sweep),
                    plain.difference(changed),
                    result,
                    test.outcome(result),
                )
            )
    return found


def verdict(found: Sequence[Effect]) -> str:
    """On the cause, by the ledger's rule: *supported* if every test came out, *contradicted* if one
    came out the other way round, else *undecided*; *not run*."""
    outcomes = {effect.outcome for effect in found}
    if not found:
        return "not run"
    return (
        "contradicted"
        if "not reproduced" in outcomes
        else "undecided"
        if "undecided" in outcomes
        else "supported"
    )


def claims_under(experiment: Experiment) -> list[Decision]:
    """What the paper's own tests, as far as they need no other runs, say of the variant alone; []
    where it has not been run."""
    decisions = []
    for identity, tests in experiment.claims().items():
        if records := _there(CLAIMS[identity].kind, experiment):
            decisions.append(decide(replace(CLAIMS[identity], tests=tests), records))
    return decisions


def predictions(
    tier_name: str = "laptop", masks: int = 4096, seed: int = 0
) -> dict[str, MaskLevels]:
    """What Theorem 1 says of the eight masks on a quad-tree over the model's patches: run → levels
    of the shared latents.

    A level is a block of 2^level patches a side; the size sweep's patches are half as wide. Where
    the grid is no power of two, `graph.quad_tree` says how its tree is cut.
    """
    sizes, found = tier(tier_name), {}
    for half, configs in sizes.sweep({"kind": "world"}).items():
        graph = quad_tree(configs[0].mask.grid)
        for run, config in zip(RATIO_RUNS if half == "ratio" else SIZE_RUNS, configs):
            mask = config.mask
            found[run] = mask_levels(
                graph,
                mask_batches("random", mask.grid, mask.ratio, mask.unit, masks=masks, seed=seed),
                seed,
            )
    return found


def agreement(
    predicted: Mapping[str, float], measured: Mapping[str, Mapping[int, float]], runs: Sequence[str]
) -> Interval:
    """Spearman's rank correlation between a prediction and a measure over ``runs``, in each seed;
    its mean with the interval over seeds, not cut at ±1. InputError for fewer than three runs, or a
    run or seed that is missing."""
    if len(runs) < 3 or any(run not in predicted or run not in measured for run in runs):
        raise InputError(
            "a rank correlation needs at least three runs, each predicted and measured:"
            f" {', '.join(runs)}"
        )
    seeds = set.intersection(*(set(measured[run]) for run in runs))
    return over_seeds(
        [
            float(
                stats.spearmanr(
                    [predicted[run] for run in runs], [measured[run][s] for run in runs]
                ).statistic
            )
            for s in sorted(seeds)
        ]
    )


MEASURED = {
    "class, linear probe": ("probe", "mean/validation"),
    "object's scale, readout": ("latents", "mean/scale"),
    "colour, readout": ("latents", "mean/colour"),
    "purity": ("separability", "mean/purity"),
    "SSIM": ("reconstruction", "readout/ssim"),
    "[CLS] on the object": ("attention", "cls/lift"),
    "shape bias": ("shape_bias", "mean/bias"),
    "box AP": ("detection", "box/AP"),
}
"""What stands beside the prediction: name → (kind, measure)."""


def beside_theory(predicted: Mapping[str, float]) -> dict[str, dict[str, Interval]]:
    """`agreement` of the prediction with each of `MEASURED` on the embedded world: name → "ratio"
    or "size" → rank correlation."""
    found = {}
    for name, (kind, measure) in MEASURED.items():
        values = by_run(
            [record for record in read_results(kind, "world") if record["run"] in RUNS], measure
        )
        found[name] = {
            half: agreement(predicted, values, runs)
            for half, runs in (("ratio", RATIO_RUNS), ("size", SIZE_RUNS))
        }
    return found
