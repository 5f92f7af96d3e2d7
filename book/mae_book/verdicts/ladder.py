"""The second sweep: the eight pretrainings at three lengths, on seeds that nobody had looked at.
Registered before any of its runs.

Why. The first sweep's models (1,200 steps of 128 images) hardly differ with the mask because they
have hardly learned: at ratio 0.5 a linear probe reads the class at .58. The same 153,600 images in
batches of 16 give .83, three times as many .92, at one peak learning rate of 1.25e-3. So the sweep
is made again in batches of 16: a short rung of 9,600 steps, 28,800 steps, which decide, and 86,400
steps of the ratios alone. Data, steps, decoder and probe are equal for all eight, as before; the
tests are those of `mae_book.verdicts.claims`, unchanged, over the five seeds 3 to 7. Beside them
stand the same tests on a probe from few labels (`mae_lib.evaluation.probes.few_labels`), since the
full probe comes near its ceiling; and, added before any model had been measured so, T1v on the sets
that have severities, over the images of all five (`mae_lib.evaluation.probes.severity`), since
*viewpoint* and *sketch* are near chance at their full shift. At each length a verdict is of the
seeds for which every run is there, if they are three or more; with it goes the smallest effect that
so many seeds could have told.

What had been seen before, of seeds 0 to 2 alone. At ratio 0.5, seed 0, mean token, seven ways to
spend the images (steps × batch → probe): 1,200 × 128 .58, 4,800 × 32 .785, 9,600 × 16 .827, 3,600 ×
128 .812, 7,200 × 64 .844, 14,400 × 32 .892, 28,800 × 16 .919, 57,600 × 8 .936; seeds 1 and 2 of
9,600 × 16: .811, .801; a normalised target at 7,200 × 64: .828. After the lengths were fixed, seed
0 of 9,600 × 16 at every ratio: probe .649 .703 .827 .861 .693, shape bias .898 .941 .961 .975 .914,
purity .16 .19 .26 .33 .17; units of 4 and 16 px with ViT patch 4: probe .952 and .937. Ratios 0.1,
0.75 and 0.9 at 3,600 × 128 (`mae_book.sweep.experiments`). Of seeds 3 to 7 nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from mae_book.verdicts.claim import Claim, peak
from mae_book.verdicts.claims import CLAIMS
from mae_book.verdicts.ledger import Decision, decide
from mae_book.verdicts.results import read_results, results_directory
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval
from mae_lib.base.names import Evaluation
from mae_lib.base.runs import RATIO_RUNS, RUNS
from mae_lib.worlds.graded import GRADED

BATCH, BASE_LR = 16, 2e-2
FRESH = (3, 4, 5, 6, 7)
SCRATCH = ("scratch", "scratch-small")
ARMS = (
    "r75-u16-p8",
    "r75-u16-p8-margin8",
    "r75-u16-p8-strict4",
    "r75-u8-p8-margin4",
    "r75-u8-p8-parts",
    "r75-u8-p8-object",
    "r75-u8-p8-groups8",
)
"""§3.6's changes of the mask, by family (`mae_book.sweep.cells` trains them)."""
SPREAD_ARM = "r75-u8-p8-spread15"
"""A ratio drawn anew in each step (`mae_book.verdicts.registered`)."""


@dataclass(frozen=True)
class Rung:
    """One length of training.

    Attributes:
        steps: of `BATCH` images. runs: of the sweep. seeds: of all of them. arms: seeds of §3.6's
            arms and of the detectors from scratch.
    """

    steps: int
    runs: tuple[str, ...] = RUNS
    seeds: tuple[int, ...] = FRESH
    arms: tuple[int, ...] = ()

    @property
    def data(self) -> str:
        """Folder under results/KIND/ that holds its records."""
        return f"world-{self.steps}x{BATCH}"

    @property
    def training(self) -> dict[str, float]:
        """Fields of `PretrainConfig`."""
        return {"steps": self.steps, "batch": BATCH, "base_lr": BASE_LR}

    def __str__(self) -> str:
        return f"{self.steps:,} steps of {BATCH} images"

    def recorded(self) -> int:
        """How many of its pretrainings are in results/pretraining."""
        return sum(
            record["config"]["seed"] in self.seeds
            and record["name"].removesuffix(f"-s{record['config']['seed']}")
            not in (*ARMS, SPREAD_ARM)
            for record in _records("pretraining", self)
        )

    @property
    def planned(self) -> int:
        """How many these will be."""
        return len(self.runs) * len(self.seeds)

    def claims(self) -> dict[str, Claim]:
        """The claims that its runs can test, by the ledger's own tests; ``ID-few``: those of the
        linear probe, from few labels; ``T1v-graded``: T1v over all severities."""
        every = {*self.runs, *(ARMS + SCRATCH if self.arms else ())}
        own = {
            claim.id: replace(claim, data=self.data)
            for claim in CLAIMS.values()
            if claim.data and {run for test in claim.tests for run in test.runs} <= every
        }
        few = {
            f"{claim.id}-few": replace(claim, id=f"{claim.id}-few", kind="few_labels", paper={})
            for claim in own.values()
            if claim.kind == "probe"
        }
        graded = replace(
            CLAIMS["T1v"],
            id="T1v-graded",
            kind="severity",
            tests=tuple(
                test
                for name in GRADED
                for test in peak(f"mean/{name}", "r75", ("r10", "r25", "r50", "r90"))
            ),
            paper={},
            data=self.data,
        )
        return own | few | {graded.id: graded}

    def decisions(self) -> dict[str, Decision]:
        """claim → what its records say so far: see :func:`mae_book.verdicts.ledger.decide`."""
        return {
            identity: decide(claim, list(_whole(claim, self)))
            for identity, claim in self.claims().items()
        }


RUNGS: dict[int, Rung] = {
    rung.steps: rung
    for rung in (Rung(9_600), Rung(28_800, arms=(3, 4, 5)), Rung(86_400, RATIO_RUNS, (3, 4, 5)))
}
DECIDING = RUNGS[28_800]
MEASURED = tuple(kind for kind in get_args(Evaluation) if kind != "knn")
"""The evaluations of both sweeps; knn came after them."""
KINDS = ("pretraining", *MEASURED, "detection")
"""What is recorded of every run."""


def rung(steps: int) -> Rung:
    """The rung of so many steps; InputError if there is none."""
    if steps not in RUNGS:
        raise InputError(
            f"the second sweep has no rung of {steps} steps: choose {', '.join(map(str, RUNGS))}"
        )
    return RUNGS[steps]


def smallest_effect(found: Interval) -> float:
    """The smallest difference that would have been told from 0 with the spread that was seen: half
    the interval's width; NaN from a single seed."""
    return (found.high - found.low) / 2


def _records(kind: str, of: Rung) -> list[dict]:
    return (
        read_results(kind, of.data)
        if any((results_directory() / kind / of.data).glob("*.json"))
        else []
    )


def _whole(claim: Claim, of: Rung) -> Iterator[dict]:
    """Records of the seeds for which every run of the claim's tests is there."""
    needed = {run for test in claim.tests for run in test.runs}
    records = [
        record
        for record in _records(claim.kind, of)
        if record["run"] in needed and record["seed"] in of.seeds
    ]
    runs = {
        seed: {record["run"] for record in records if record["seed"] == seed} for seed in of.seeds
    }
    return (record for record in records if runs[record["seed"]] == needed)
