"""The paper's claims, and for each the test that decides it here: which runs are compared on which measure, in which direction, over how
many seeds. The tests were written before the runs that decide them (the repository's history shows the order); a verdict is computed from
`results/` and never typed. So far: the claims of chapters 6 to 11. Where the paper says less than a test needs, the test is ours: T3p (the
paper keeps its numbers for an appendix), T3b (a baseline that it lacks), and S1–S3, which it only suggests.

A run is named by its place in the sweep, so that a test reads the same at every tier: ``r10`` … ``r90`` for the ratio sweep, ``small``,
``middle`` and ``large`` for the mask units of the size sweep. ``scratch`` is training without pretraining, with the ratio sweep's ViT patch
(``scratch-small``: with the size sweep's). What §3.6 changes about the mask is named by the config's family, at the laptop tier's lengths in pixels.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from scipy import stats

from mae_lib.errors import InputError
from mae_lib.intervals import LEVEL, Interval, over_seeds
from mae_lib.tiers import PretrainConfig, tier

RATIO_RUNS = ("r10", "r25", "r50", "r75", "r90")
SIZE_RUNS = ("small", "middle", "large")
RUNS = RATIO_RUNS + SIZE_RUNS
SEEDS = 3
"""The least number of seeds that a verdict needs."""

Verdict = Literal["reproduced", "not reproduced", "undecided", "not attempted"]


@dataclass(frozen=True)
class Above:
    """``measure`` is larger for the run ``high`` than for ``low``: the mean difference over seeds, paired by seed, is above 0 with its interval."""

    measure: str
    high: str
    low: str

    def difference(self, values: Mapping[str, Mapping[int, float]]) -> Interval:
        """high − low over the seeds that both runs have. ``values``: run → seed → value."""
        seeds = sorted(values[self.high].keys() & values[self.low].keys())
        if not seeds:
            raise InputError(f"the runs {self.high} and {self.low} have no seed in common: evaluate both with the same seeds")
        return over_seeds([values[self.high][s] - values[self.low][s] for s in seeds])

    def outcome(self, found: Interval) -> Verdict:
        """What one comparison says."""
        if found.n < SEEDS:
            return "undecided"
        return "reproduced" if found.low > 0 else "not reproduced" if found.high < 0 else "undecided"


@dataclass(frozen=True)
class Alike(Above):
    """``measure`` differs by no more than ``margin`` between the two runs: reproduced if the whole interval lies within, not if all lies outside."""

    margin: float = 0.0

    def outcome(self, found: Interval) -> Verdict:
        if found.n < SEEDS:
            return "undecided"
        if -self.margin < found.low and found.high < self.margin:
            return "reproduced"
        return "not reproduced" if found.low > self.margin or found.high < -self.margin else "undecided"


@dataclass(frozen=True)
class NotBelow(Alike):
    """``measure`` of the run ``high`` is at most ``margin`` lower than that of ``low``: reproduced if the whole interval is above −margin, not if all is below."""

    def outcome(self, found: Interval) -> Verdict:
        if found.n < SEEDS:
            return "undecided"
        return "reproduced" if found.low > -self.margin else "not reproduced" if found.high < -self.margin else "undecided"


@dataclass(frozen=True)
class Claim:
    """One row of the ledger.

    Attributes:
        id, where, statement: the claim. kind: folder under results/ with its measures. chapter: its page. tests: all must come out.
        paper: measure → run → the paper's number, where it gives numbers (accuracies in percent).
    """

    id: str
    where: str
    statement: str
    kind: str
    chapter: str
    tests: tuple[Above, ...]
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """A claim's verdict, and for each of its tests the difference with its interval over seeds and what it says alone."""

    claim: Claim
    verdict: Verdict
    rows: tuple[tuple[Above, Interval, Verdict], ...]


def _peak(measure: str, peak: str, others: Iterable[str]) -> tuple[Above, ...]:
    return tuple(Above(measure, peak, other) for other in others)


def _rising(measure: str, runs: Sequence[str]) -> tuple[Above, ...]:
    return tuple(Above(measure, high, low) for low, high in zip(runs, runs[1:]))


def _percent(rows: Mapping[str, str], runs: Sequence[str]) -> dict[str, dict[str, float]]:
    return {measure: dict(zip(runs, map(float, numbers.split()))) for measure, numbers in rows.items()}


SHIFTED = ("v2", "viewpoint", "rendition", "hard", "sketch")
"""The embedded world's counterparts of ImageNet-v2, ObjectNet, ImageNet-R, ImageNet-A and ImageNet-Sketch, in the order of Table 1."""

TABLE_1_RATIO = _percent(
    {
        "mean/validation": "47.45 53.58 60.07 67.41 62.97",
        "mean/v2": "34.72 40.34 46.71 54.23 49.52",
        "mean/viewpoint": "9.42 11.54 13.94 18.24 15.87",
        "mean/rendition": "14.63 18.68 22.44 25.20 19.11",
        "mean/hard": "2.00 2.49 2.89 3.76 2.76",
        "mean/sketch": "7.25 10.27 12.58 15.51 10.46",
    },
    RATIO_RUNS,
)
TABLE_1_SIZE = _percent(
    {
        "mean/validation": "62.57 68.96 73.31",
        "mean/v2": "49.17 55.94 61.35",
        "mean/viewpoint": "13.44 13.73 19.03",
        "mean/rendition": "19.42 24.23 27.84",
        "mean/hard": "3.73 6.29 12.69",
        "mean/sketch": "10.73 18.81 28.30",
    },
    SIZE_RUNS,
)
TABLE_3 = _percent({"box/AP": "30.47 32.38 34.87 39.72 37.17", "mask/AP": "28.24 29.95 32.11 36.35 34.35"}, RATIO_RUNS)
TABLE_2 = {"mean/bias": dict(zip(RATIO_RUNS, (0.1352, 0.2545, 0.2458, 0.2563, 0.2014)))}

# Measures. reconstruction: PROTOCOL/METRIC. attention: TOKEN/MEASURE, lift being the share of attention on the object less the object's share
# of the area. separability: POOL/MEASURE. probe: POOL/SET, accuracy in [0, 1]. shape_bias: POOL/bias. detection: box or mask / one of COCO's
# twelve numbers, in [0, 1]. latents: POOL/LATENT, accuracy or R² of a linear readout.
CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for claim in (
        Claim(
            "F5a", "Fig. 5, row 1", "masking ratio 0.1 → 0.75: SSIM and FSIM rise; 0.9: they fall", "reconstruction", "chapter-reconstruction",
            tuple(test for metric in ("ssim", "fsim") for test in _peak(f"readout/{metric}", "r75", ("r10", "r90"))),
        ),
        Claim(
            "F5b", "Fig. 5, row 1", "PSNR and −MSE are higher at 0.9 and at 0.1 than at 0.75", "reconstruction", "chapter-reconstruction",
            tuple(test for end in ("r10", "r90") for test in (Above("readout/psnr", end, "r75"), Above("readout/mse", "r75", end))),
        ),
        Claim(
            "F5c", "Fig. 5, row 2", "larger mask units: SSIM and FSIM rise, PSNR and −MSE fall", "reconstruction", "chapter-reconstruction",
            (
                Above("readout/ssim", "large", "small"), Above("readout/fsim", "large", "small"),
                Above("readout/psnr", "small", "large"), Above("readout/mse", "large", "small"),
            ),
        ),
        Claim(
            "F6", "Fig. 6", "[CLS] attention is more object-centred from 0.1 to 0.75; 0.9 picks up background", "attention", "chapter-attention",
            _peak("cls/lift", "r75", ("r10", "r90")),
        ),
        Claim(
            "F7", "Fig. 7", "attention of an object token reaches the rest of the object best at intermediate ratios", "attention", "chapter-attention",
            _peak("object/lift", "r75", ("r10", "r90")),
        ),
        Claim(
            "F6p", "§3.2, appendix", "larger mask units are better, an extreme one hurts", "attention", "chapter-attention",
            (Above("cls/lift", "middle", "small"), Above("cls/lift", "middle", "large")),
        ),
        Claim(
            "F8a", "Fig. 8", "separability of ten classes rises from 0.1 to 0.75; 0.75 and 0.9 look alike", "separability", "chapter-separability",
            (*_rising("mean/purity", RATIO_RUNS[:4]), Alike("mean/purity", "r75", "r90", margin=0.02)),
        ),
        Claim("F8b", "Fig. 8", "separability rises with the mask unit", "separability", "chapter-separability", _rising("mean/purity", SIZE_RUNS)),
        Claim(
            "T1r", "Table 1", "linear probing over the ratio peaks at 0.75", "probe", "chapter-separability",
            _peak("mean/validation", "r75", ("r10", "r25", "r50", "r90")), {"mean/validation": TABLE_1_RATIO["mean/validation"]},
        ),
        Claim(
            "T1v", "Table 1", "the same peak on each of the five shifted sets", "probe", "chapter-separability",
            tuple(test for name in SHIFTED for test in _peak(f"mean/{name}", "r75", ("r10", "r25", "r50", "r90"))),
            {f"mean/{name}": TABLE_1_RATIO[f"mean/{name}"] for name in SHIFTED},
        ),
        Claim(
            "T1p", "Table 1", "linear probing rises with the mask unit, on every set", "probe", "chapter-separability",
            tuple(test for name in ("validation", *SHIFTED) for test in _rising(f"mean/{name}", SIZE_RUNS)), TABLE_1_SIZE,
        ),
        Claim(
            "T2s", "Table 2", "shape bias is low at both extremes and high between", "shape_bias", "chapter-shape-bias",
            tuple(Above("mean/bias", high, low) for low in ("r10", "r90") for high in ("r25", "r50", "r75")), TABLE_2,
        ),
        Claim(
            "T3", "Table 3", "detection and instance segmentation are best at 0.75", "detection", "chapter-transfer",
            tuple(test for measure in TABLE_3 for test in _peak(measure, "r75", ("r10", "r25", "r50", "r90"))), TABLE_3,
        ),
        Claim(
            "T3p", "§3.5, appendix", "transfer over the mask sizes: higher is better, but not extreme", "detection", "chapter-transfer",
            tuple(test for measure in TABLE_3 for test in _peak(measure, "middle", ("small", "large"))),
        ),
        Claim(
            "T3b", "ours", "pretraining at 0.75 beats training from scratch", "detection", "chapter-transfer",
            tuple(Above(measure, "r75", "scratch") for measure in TABLE_3),
        ),
        # S1: the mask unit is two ViT patches wide, so that a margin of one patch leaves something to predict; s: also left out on the encoder's
        # side; m: the margin on scattered masks, from which Theorem 1 expects less.
        Claim(
            "S1", "§3.6", "leaving the pixels next to the mask's boundary out of the loss favours high-level features", "latents", "chapter-improvements",
            (Above("mean/class", "r75-u16-p8-margin8", "r75-u16-p8"),),
        ),
        Claim(
            "S1s", "§3.6, stricter", "the same where these pixels are neither encoded nor predicted", "latents", "chapter-improvements",
            (Above("mean/class", "r75-u16-p8-strict4", "r75-u16-p8"),),
        ),
        Claim(
            "S1m", "§3.6, scattered", "the same on scattered masks", "latents", "chapter-improvements", (Above("mean/class", "r75-u8-p8-margin4", "r75"),),
        ),
        # S2: whole parts of the true object hidden; o: the whole object, which by Theorem 1 takes the class out of c; e: estimated groups of patches.
        Claim(
            "S2", "§3.6", "masks that follow the latent structure beat random ones", "latents", "chapter-improvements",
            (Above("mean/class", "r75-u8-p8-parts", "r75"),),
        ),
        Claim(
            "S2o", "ours", "masks that hide the whole object are worse than random ones", "latents", "chapter-improvements",
            (Above("mean/class", "r75", "r75-u8-p8-object"),),
        ),
        Claim(
            "S2e", "§3.6, estimated", "masks that follow a structure estimated from the images beat random ones", "latents", "chapter-improvements",
            (Above("mean/class", "r75-u8-p8-groups8", "r75"),),
        ),
        # S3: the cost is exact and needs no test: it is counted in the chapter.
        Claim(
            "S3", "§3.6", "ratio 0.9 keeps the low-level information that 0.1 has", "latents", "chapter-improvements",
            tuple(NotBelow(f"mean/{name}", "r90", "r10", margin=0.02) for name in ("texture", "colour", "position")),
        ),
    )
}


def run_name(config: PretrainConfig, tier_name: str) -> str:
    """A pretraining's place in the sweep of its tier, one of `RUNS`. InputError if it is none of the eight."""
    sizes = tier(tier_name).at(config.model.image_size[0])
    if config.design != "random" or config.margin:
        raise InputError(f"{config.name} is none of the eight pretrainings: its masks are of another design")
    if config.model.patch == sizes.small_patch and config.unit in sizes.units and config.ratio == 0.75:
        return SIZE_RUNS[sizes.units.index(config.unit)]
    name = f"r{round(config.ratio * 100)}"
    if config.model.patch == config.unit == sizes.model.patch and name in RATIO_RUNS:
        return name
    raise InputError(f"{config.name} is none of the eight pretrainings of tier {tier_name}")


def by_run(records: Iterable[dict], measure: str) -> dict[str, dict[int, float]]:
    """run → seed → value of one measure. InputError where a record lacks it, or two records are of the same run and seed."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        if measure not in record["measures"]:
            raise InputError(f"the result of {record['name']} has no measure {measure!r}: it has {', '.join(record['measures'])}")
        seeds = found.setdefault(record["run"], {})
        if record["seed"] in seeds:
            raise InputError(f"two results are of run {record['run']}, seed {record['seed']}: delete the older one")
        seeds[record["seed"]] = record["measures"][measure]["value"]
    return found


def decide(claim: Claim, records: Sequence[dict]) -> Decision:
    """The verdict on a claim from the records of `results/KIND/DATA` (see :mod:`mae_lib.evaluate`).

    *Reproduced*: every test comes out. *Not reproduced*: at least one test comes out the other way round, its whole interval on the wrong
    side. *Undecided*: neither, for instance with fewer than three seeds. *Not attempted*: there are no records.
    """
    if not records:
        return Decision(claim, "not attempted", ())
    rows = []
    for test in claim.tests:
        values = by_run(records, test.measure)
        if missing := {test.high, test.low} - values.keys():
            raise InputError(f"claim {claim.id} compares {test.high} with {test.low}, and there is no result of {', '.join(sorted(missing))}: evaluate it")
        found = test.difference(values)
        rows.append((test, found, test.outcome(found)))
    outcomes = {outcome for _, _, outcome in rows}
    verdict: Verdict = "not reproduced" if "not reproduced" in outcomes else "undecided" if "undecided" in outcomes else "reproduced"
    return Decision(claim, verdict, tuple(rows))


def claim(identity: str) -> Claim:
    """The claim called ``identity``; InputError with the known ones otherwise."""
    if identity not in CLAIMS:
        raise InputError(f"there is no claim {identity!r}: choose one of {', '.join(CLAIMS)}")
    return CLAIMS[identity]


def under(claim: Claim, prefix: str) -> Claim:
    """The same tests on measures of another prefix (another protocol, control or pooling): what these would have decided."""
    return replace(claim, tests=tuple(replace(test, measure=f"{prefix}/{test.measure.partition('/')[2]}") for test in claim.tests))


def spreads(values: Mapping[str, Mapping[int, float]]) -> tuple[float, float]:
    """How far a measure moves with the mask, and how far with the seed alone.

    Args:
        values: run → seed → value, as :func:`by_run` gives, at least two runs of at least two seeds each.

    Returns:
        the standard deviation of the runs' means over seeds, and the one over seeds within a run (root of the mean variance).
    """
    if len(values) < 2 or any(len(seeds) < 2 for seeds in values.values()):
        raise InputError("a spread needs at least two runs, each of at least two seeds")
    runs = [list(seeds.values()) for seeds in values.values()]
    return statistics.stdev(map(statistics.fmean, runs)), math.sqrt(statistics.fmean(map(statistics.variance, runs)))


def seeds_needed(difference: Interval) -> int:
    """From how many seeds on (at least `SEEDS`) a mean difference would be told from 0, if mean and deviation stayed as found.

    Args:
        difference: of :func:`mae_lib.intervals.over_seeds`, from at least two seeds. InputError without an interval or where the mean is 0.
    """
    if difference.value == 0 or not math.isfinite(difference.low):
        raise InputError(f"no number of seeds follows from {difference}: give a difference other than 0 with its interval")

    def half(n: int) -> float:  # of the interval, in standard deviations
        return float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) / math.sqrt(n)

    deviation = (difference.high - difference.value) / half(difference.n)
    return bisect.bisect_left(range(10**9), True, lo=SEEDS, key=lambda n: half(n) * deviation < abs(difference.value))
