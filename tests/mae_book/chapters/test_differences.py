"""The experiments on why we differ: what is registered is what can be decided, made-up results of
which the answer is known, and the theory's side."""

from __future__ import annotations

import json

import pytest

from mae_book.chapters import differences
from mae_book.chapters.differences import agreement, claims_under, effects, predictions, verdict
from mae_book.sweep.experiments import EFFECTS, EXPERIMENTS, Experiment
from mae_book.sweep.experiments import RUNS as ENDS_AND_MIDDLE
from mae_book.verdicts import results
from mae_book.verdicts.claims import CLAIMS
from mae_book.verdicts.comparisons import Grows
from mae_lib.base.errors import InputError
from mae_lib.base.runs import RATIO_RUNS, RUNS, SIZE_RUNS
from mae_lib.evaluation.evaluate import SETTINGS
from mae_lib.model.autoencoder import ModelConfig
from mae_lib.training.config import PretrainConfig

MADE_UP = Experiment("long", "", "", "long", training={"steps": 9}, kinds=("probe",))
EFFECT = {"r10": 0.4, "r75": 0.5, "r90": 0.45}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for module in (results, differences):
        monkeypatch.setattr(module, "results_directory", lambda: tmp_path)
    return tmp_path


def write(
    folder, data: str, values: dict[str, float], seeds=(0, 1, 2), spread: float = 0.01
) -> None:
    """Each seed shifts all runs alike, and the middle one by ``spread`` more."""
    (folder / "probe" / data).mkdir(parents=True, exist_ok=True)
    for run, value in values.items():
        for seed in seeds:
            number = value + 0.1 * seed + spread * seed * (run == "r75")
            names = {test.measure for test in MADE_UP.tests["probe"]} | {
                test.measure for tests in MADE_UP.claims().values() for test in tests
            }
            record = {
                "name": f"{run}-s{seed}",
                "run": run,
                "seed": seed,
                "measures": {
                    name: {"value": number, "low": None, "high": None, "n": 1} for name in names
                },
            }
            (folder / "probe" / data / f"{run}-s{seed}.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("middle", "says"),
    [(0.9, "supported"), (0.2, "contradicted"), (0.5, "undecided")],
)
def test_a_cause_is_judged_by_whether_the_effect_grows(folder, middle, says):
    write(folder, "world", EFFECT)
    assert effects(MADE_UP) == [] and verdict([]) == "not run" and claims_under(MADE_UP) == []
    write(folder, "long", EFFECT | {"r75": middle}, spread=0.02)
    found = effects(MADE_UP)
    assert verdict(found) == says and len(found) == 2
    to_10 = next(e for e in found if e.test.low == "r10")
    assert to_10.sweep.value == pytest.approx(0.11) and to_10.changed.value == pytest.approx(
        middle - 0.4 + 0.02
    )
    assert to_10.found.value == pytest.approx(to_10.changed.value - to_10.sweep.value)
    assert {d.claim.id for d in claims_under(MADE_UP)} == {"T1r", "T1v"}


def test_what_all_runs_gain_alike_supports_nothing(folder):
    write(folder, "world", EFFECT)
    write(folder, "long", {run: value + 0.3 for run, value in EFFECT.items()})
    assert verdict(effects(MADE_UP)) == "undecided" and all(
        abs(e.found.value) < 1e-9 for e in effects(MADE_UP)
    )


def test_a_seed_counts_when_all_its_runs_are_there(folder):
    write(folder, "world", EFFECT)
    write(folder, "long", EFFECT | {"r75": 0.9}, spread=0.02)
    write(folder, "long", {"r75": 0.9}, seeds=(3,))
    (folder / "probe" / "long" / "r10-s2.json").unlink()
    assert {e.found.n for e in effects(MADE_UP)} == {2} and verdict(effects(MADE_UP)) == "undecided"


def test_every_experiment_changes_one_thing_that_exists():
    known = set(PretrainConfig.__dataclass_fields__) | set(ModelConfig.__dataclass_fields__)
    for each in EXPERIMENTS.values():
        assert len(each.training) + len(each.options) == (1 if each.grows else 0), each.id
        assert set(each.training) <= known and all(
            set(each.options) <= set(SETTINGS[kind]) for kind in each.kinds
        )
        assert (
            set(each.kinds) <= set(EFFECTS)
            and len(each.seeds) >= 3
            and each.runs in (ENDS_AND_MIDDLE, RATIO_RUNS)
        )
        assert each.tests.keys() == set(each.kinds) and all(
            isinstance(t, Grows) == each.grows for tests in each.tests.values() for t in tests
        )
        assert {"T1r"} <= each.claims().keys()
    changes = {}  # a folder holds the models of one change
    for each in EXPERIMENTS.values():
        assert each.data != "world" and changes.setdefault(
            each.data, (each.training, each.options)
        ) == (each.training, each.options)
    assert set(EXPERIMENTS["3,600 steps, five ratios"].claims()["T1r"]) == set(CLAIMS["T1r"].tests)


def test_the_theory_places_the_units_on_levels_and_lets_the_ratios_meet_higher_and_higher():
    found = predictions(masks=512)
    assert list(found) == list(RUNS)
    assert [round(found[run].level.value) for run in SIZE_RUNS] == [1, 2, 3]
    assert all(abs(found[run].level.value - 1) < 0.01 for run in RATIO_RUNS)
    nearest = [found[run].nearest.value for run in RATIO_RUNS]
    assert nearest == sorted(nearest) and nearest[-1] > nearest[0] + 0.5


def test_rank_agreement_is_of_ranks_within_a_seed():
    predicted = {"r10": 1.0, "r50": 1.1, "r90": 2.0}
    rising = {run: {s: 10.0 * s + rank**3 for s in range(3)} for rank, run in enumerate(predicted)}
    found = agreement(predicted, rising, list(predicted))
    assert (found.value, found.low, found.n) == pytest.approx((1, 1, 3))
    falling = {run: {s: -value for s, value in seeds.items()} for run, seeds in rising.items()}
    assert agreement(predicted, falling, list(predicted)).value == pytest.approx(-1)
    with pytest.raises(InputError, match="at least three runs"):
        agreement(predicted, rising, ["r10", "r90"])
    with pytest.raises(InputError, match="r75"):
        agreement(predicted, rising, ["r10", "r75", "r90"])
