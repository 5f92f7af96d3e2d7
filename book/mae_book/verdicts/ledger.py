"""From the results of the sweep to verdicts, and to the ledger: one entry a claim with the paper's
numbers, ours, the tests and what they say, on the embedded world and on photographs. Nothing here
is typed: a verdict is computed from `results/` when it is asked for.

What the book says of a claim is kept in ``results/stated.json``. `drift` compares it with what the
results say now, and names the claim whose verdict or numbers have moved; `state` writes it anew.
"""

from __future__ import annotations

import bisect
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mae_book.verdicts.claim import Claim

# chapters read these from here, and the runs
from mae_book.verdicts.claims import CLAIMS
from mae_book.verdicts.comparisons import SEEDS, Comparison, Verdict
from mae_book.verdicts.further_claims import REAL, TREE_CLAIMS
from mae_book.verdicts.results import read_results, results_directory
from mae_book.verdicts.seals import seal_again
from mae_lib.base.errors import InputError
from mae_lib.base.files import write_json
from mae_lib.base.intervals import Interval, half_width, over_seeds


@dataclass(frozen=True)
class Decision:
    """A claim's verdict, and for each of its tests the difference with its interval over seeds and
    what it says alone."""

    claim: Claim
    verdict: Verdict
    rows: tuple[tuple[Comparison, Interval, Verdict], ...]


def by_run(records: Iterable[dict], measure: str) -> dict[str, dict[int, float]]:
    """run → seed → value of one measure. InputError where a record lacks it, or two records are of
    the same run and seed."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        if measure not in record["measures"]:
            raise InputError(
                f"the result of {record['name']} has no measure {measure!r}: it has"
                f" {', '.join(record['measures'])}"
            )
        seeds = found.setdefault(record["run"], {})
        if record["seed"] in seeds:
            raise InputError(
                f"two results are of run {record['run']}, seed {record['seed']}: delete the"
                " older one"
            )
        seeds[record["seed"]] = record["measures"][measure]["value"]
    return found


def decide(claim: Claim, records: Sequence[dict]) -> Decision:
    """The verdict on a claim from the records of `results/KIND/DATA` (see
    :mod:`mae_lib.evaluation.evaluate`).

    *Reproduced*: every test comes out. *Not reproduced*: at least one test comes out the other way
    round, its whole interval on the wrong side. *Undecided*: neither, for instance with fewer than
    three seeds. *Not attempted*: there are no records.
    """
    if not records:
        return Decision(claim, "not attempted", ())
    rows = []
    for test in claim.tests:
        values = by_run((record for record in records if record["run"] in test.runs), test.measure)
        if missing := set(test.runs) - values.keys():
            raise InputError(
                f"claim {claim.id} needs {', '.join(test.runs)}, and there is no result of"
                f" {', '.join(sorted(missing))}: evaluate it"
            )
        found = test.difference(values)
        rows.append((test, found, test.outcome(found)))
    outcomes = {outcome for _, _, outcome in rows}
    verdict: Verdict = (
        "not reproduced"
        if "not reproduced" in outcomes
        else "undecided"
        if "undecided" in outcomes
        else "reproduced"
    )
    return Decision(claim, verdict, tuple(rows))


def under(claim: Claim, prefix: str) -> Claim:
    """The same tests on measures of another prefix (another protocol, control or pooling): what
    these would have decided."""
    return replace(
        claim,
        tests=tuple(
            replace(test, measure=f"{prefix}/{test.measure.partition('/')[2]}")
            for test in claim.tests
        ),
    )


def spreads(values: Mapping[str, Mapping[int, float]]) -> tuple[float, float]:
    """How far a measure moves with the mask, and how far with the seed alone.

    Args:
        values: run → seed → value, as :func:`by_run` gives, at least two runs of at least two seeds
            each.

    Returns:
        the standard deviation of the runs' means over seeds, and the one over seeds within a run
        (root of the mean variance).
    """
    if len(values) < 2 or any(len(seeds) < 2 for seeds in values.values()):
        raise InputError("a spread needs at least two runs, each of at least two seeds")
    runs = [list(seeds.values()) for seeds in values.values()]
    return statistics.stdev(map(statistics.fmean, runs)), math.sqrt(
        statistics.fmean(map(statistics.variance, runs))
    )


def seeds_needed(difference: Interval) -> int:
    """From how many seeds on (at least `SEEDS`) a mean difference would be told from 0, if mean and
    deviation stayed as found.

    Args:
        difference: of :func:`mae_lib.base.intervals.over_seeds`, from at least two seeds.
            InputError without an interval or where the mean is 0.
    """
    if difference.value == 0 or not math.isfinite(difference.low):
        raise InputError(
            f"no number of seeds follows from {difference}: give a difference other than 0 with its"
            " interval"
        )

    deviation = (difference.high - difference.value) / half_width(difference.n)
    return bisect.bisect_left(
        range(10**9),
        True,
        lo=SEEDS,
        key=lambda n: half_width(n) * deviation < abs(difference.value),
    )


def _evaluation(kind: str, checkpoints: str = "world", options: str = "", data: str = "") -> str:
    folders = " ".join(f"checkpoints/{name}" for name in checkpoints.split())
    return (
        f"mae evaluate {kind} --checkpoint {folders}{options} --results"
        f" results/{kind}/{data or checkpoints.split()[0]}"
    )


COMMANDS = {
    **{
        f"{kind}/world": _evaluation(kind)
        for kind in ("reconstruction", "attention", "separability", "probe", "shape_bias")
    },
    **{
        f"{kind}/in20": _evaluation(kind, "in20", " --data IN20")
        for kind in ("reconstruction", "separability", "probe")
    },
    "latents/world": _evaluation("latents", "world designs"),
    "probe/pacs": _evaluation(
        "probe",
        "in20",
        " --data PACS/photo --shifted art_painting=PACS/art_painting cartoon=PACS/cartoon"
        " sketch=PACS/sketch",
        "pacs",
    ),
    "shape_bias/geirhos": _evaluation(
        "shape_bias",
        "tinyin32",
        " --data TINY_IMAGENET --stimuli CUE_CONFLICT --train-images 40000",
        "geirhos",
    ),
    "detection/world": (
        "mae finetune --checkpoint checkpoints/world --results results/detection/world"
    ),
    "detection/dsb2018": (
        "mae finetune --checkpoint checkpoints/in20 --data DSB2018 --image-size 192 --anchors 8 16"
        " 24 40 --proposals 300 --steps 200 --results results/detection/dsb2018"
    ),
    "tree_world": "python -m mae_book.sweep.tree_world",
    "theory": "python -m mae_book.sweep.theorems --kind theory",
    "identify": "python -m mae_book.sweep.theorems --kind identify",
}
"""KIND/DATA → what makes these results (those that are there are not made again); `make results`
makes all of the embedded world's."""

TOLERANCE = 0.02
"""How far a number may move before it is no longer the one that is stated: this share of half its
interval, which no reader would see in print."""


@dataclass(frozen=True)
class Entry:
    """One row of the ledger.

    Attributes:
        claim: what is claimed, and the paper's numbers. decision: on the embedded world (of the
            theory's claims: on its graphs and processes).
        ours: measure → run → our number with its interval over seeds, for every measure and run in
            the claim's tests.
        real: on photographs; None where the claim is not tested there.
    """

    claim: Claim
    decision: Decision
    ours: Mapping[str, Mapping[str, Interval]]
    real: Decision | None

    def to_dict(self) -> dict:
        """As JSON holds it."""
        return {
            "id": self.claim.id,
            "where": self.claim.where,
            "claim": self.claim.statement,
            "chapter": self.claim.chapter,
            "paper": {measure: dict(runs) for measure, runs in self.claim.paper.items()},
            "ours": {
                measure: {run: found.to_dict() for run, found in runs.items()}
                for measure, runs in self.ours.items()
            },
            **_said(self.decision),
            "photographs": None if self.real is None else _said(self.real),
        }


def folder(claim: Claim) -> str:
    """Where the numbers of a claim lie, from the project's root."""
    return f"results/{claim.kind}/{claim.data}".rstrip("/")


def command(claim: Claim) -> str:
    """What makes the results of a claim; names in capitals stand for folders of images."""
    return COMMANDS[f"{claim.kind}/{claim.data}".rstrip("/")]


def _said(decision: Decision) -> dict:
    tests = [
        {"test": test.said(), **found.to_dict(), "outcome": outcome}
        for test, found, outcome in decision.rows
    ]
    return {
        "verdict": decision.verdict,
        "tests": tests,
        "results": folder(decision.claim),
        "command": command(decision.claim),
    }


def every_claim() -> dict[str, Claim]:
    """All claims: the paper's and ours (`mae_book.verdicts.claims`), and those on the quad-tree
    world."""
    return CLAIMS | TREE_CLAIMS


def _records(claim: Claim) -> list[dict]:
    folder = results_directory() / claim.kind / claim.data
    return read_results(claim.kind, claim.data) if any(folder.glob("*.json")) else []


def entry(claim: Claim) -> Entry:
    """The row of one claim, from `results/`."""
    records = _records(claim)
    ours: dict[str, dict[str, Interval]] = {}
    for test in claim.tests if records else ():
        values = by_run((record for record in records if record["run"] in test.runs), test.measure)
        ours.setdefault(test.measure, {}).update(
            {run: over_seeds(list(values[run].values())) for run in test.runs}
        )
    real = REAL.get(claim.id)
    return Entry(
        claim, decide(claim, records), ours, None if real is None else decide(real, _records(real))
    )


def entries(identities: Iterable[str] = ()) -> list[Entry]:
    """Rows of the ledger in its order: of all claims, or of those named. InputError for an unknown
    one."""
    known = every_claim()
    if unknown := [identity for identity in identities if identity not in known]:
        raise InputError(f"there is no claim {unknown[0]!r}: choose of {', '.join(known)}")
    return [entry(known[identity]) for identity in identities or known]


def as_rows(rows: Sequence[Entry]) -> list[dict[str, object]]:
    """One flat row a test, for CSV: the claim's columns are repeated, photographs follow the
    embedded world."""
    flat = []
    for row in rows:
        for data, decision in (("world", row.decision), ("photographs", row.real)):
            if decision is not None:
                said = _said(decision)
                named = {
                    "id": row.claim.id,
                    "where": row.claim.where,
                    "claim": row.claim.statement,
                    "data": data,
                    "verdict": said["verdict"],
                }
                flat += [
                    named | test | {"results": said["results"], "command": said["command"]}
                    for test in said["tests"]
                ]
    return flat


def stated_file() -> Path:
    """``results/stated.json``."""
    return results_directory() / "stated.json"


def state(rows: Sequence[Entry]) -> None:
    """Writes what the results say now as what the book states."""
    write_json(stated_file(), {row.claim.id: row.to_dict() for row in rows})
    seal_again(stated_file())


def drift(rows: Sequence[Entry]) -> list[str]:
    """What the book states and the results no longer say, one line each, beginning with the claim's
    id; [] where they agree."""
    if not stated_file().is_file():
        raise InputError(
            "results/stated.json is missing: restore it from Git, or write it by `mae ledger"
            " --state`"
        )
    stated, lines = json.loads(stated_file().read_text(encoding="utf-8")), []
    for row in rows:
        if row.claim.id not in stated:
            lines.append(f"{row.claim.id}: nothing is stated of it yet")
            continue
        then, now = stated[row.claim.id], row.to_dict()
        lines += _moved(row.claim.id, then, now)
        if then["photographs"] and now["photographs"]:
            lines += _moved(
                f"{row.claim.id} on photographs", then["photographs"], now["photographs"]
            )
    return lines + [
        f"{identity}: it is stated, and no claim of that name is left"
        for identity in stated.keys() - every_claim().keys()
    ]


def _moved(name: str, then: dict, now: dict) -> list[str]:
    lines = (
        []
        if then["verdict"] == now["verdict"]
        else [f"{name}: stated as {then['verdict']}, and the results say {now['verdict']}"]
    )
    if [test["test"] for test in then["tests"]] != [test["test"] for test in now["tests"]]:
        return [*lines, f"{name}: its tests are no longer those that are stated"]
    pairs = [(test["test"], test, other) for test, other in zip(then["tests"], now["tests"])]
    for measure, runs in then.get("ours", {}).items():
        pairs += [
            (f"{measure} of {run}", value, now["ours"][measure][run])
            for run, value in runs.items()
            if run in now["ours"].get(measure, {})
        ]
    for said, old, new in pairs:
        allowed = (
            TOLERANCE * ((old["high"] - old["low"]) / 2 if old["low"] is not None else 0) + 1e-9
        )
        if abs(new["value"] - old["value"]) > allowed or new["n"] != old["n"]:
            where = (
                ""
                if old["low"] is None
                else (
                    f", {'within' if old['low'] <= new['value'] <= old['high'] else 'outside'} the"
                    " stated interval"
                )
            )
            lines.append(
                f"{name}: {said} is stated as {old['value']:.4g} from {old['n']} seeds, and the"
                f" results say {new['value']:.4g} from {new['n']}{where}"
            )
    return lines
