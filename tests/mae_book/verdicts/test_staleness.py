"""What counts as a change of the code behind a number, how a cell made again is compared, and that
the project's own results are up to date."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_book.verdicts import agreement, fingerprints, seals, staleness
from mae_book.verdicts.agreement import MAPPED, TRAINED, compare, same_arithmetic
from mae_book.verdicts.fingerprints import GLUE, SOURCES, essence, fingerprint, imported, modules
from mae_book.verdicts.results import results_directory
from mae_book.verdicts.staleness import confirm, confirmed, stale
from mae_lib.base.errors import InputError
from mae_lib.evaluation import evaluate

SOURCE = '''"""What lives here."""

import math  # sums


class Box:
    """A box."""

    side = "#not a comment"

    def area(self):
        """Its area."""
        return self.side * 2  # twice
'''


def test_comments_docstrings_and_formatting_are_no_change_and_code_is():
    changed = (
        SOURCE.replace("# twice", "# doubled")
        .replace("Its area", "The area")
        .replace("What lives here", "Boxes")
    )
    changed = changed.replace("import math  # sums", "import math\n\n# sums").replace(
        '"#not a comment"', "(\n    '#not a comment'\n)"
    )
    assert essence(changed) == essence(SOURCE)
    for old, new in (
        ("* 2", "* 3"),
        ("#not a", "#no"),
        ("area", "size"),
        ("import math", "import cmath"),
        ("side =", "wide ="),
    ):
        assert essence(SOURCE.replace(old, new)) != essence(SOURCE), new


def test_where_a_name_of_the_packages_lives_is_no_change_and_that_of_another_is():
    code = "from {}.{} import a\nx = a(1)\n"
    assert (
        essence(code.format("mae_lib", "old"))
        == essence(code.format("mae_book.wing", "new"))
        == essence("x = a(1)")
    )
    assert essence(code.format("torch", "old")) != essence(code.format("torch", "new"))


@given(st.text(alphabet="abc #'\"\n", max_size=30))
def test_whatever_a_comment_says_is_no_change(text):
    comment = "\n".join(f"# {line}" for line in text.split("\n"))
    assert essence(
        f"{comment}\nx = 1\n{comment}\ny = 2  #"
        f" {text.splitlines()[0] if text.splitlines() else ''}\n"
    ) == essence("x = 1\ny = 2\n")


def test_every_kind_of_result_has_its_sources_and_what_these_import():
    for kind in SOURCES:
        reached = modules(kind)
        assert {
            module
            for source in reached
            if not any(source in glue for glue in GLUE.values())
            for module in imported(source)
        } <= set(reached), kind
    assert set(GLUE) == set(evaluate.EVALUATIONS) and set(GLUE) < set(SOURCES)
    there = {folder.name for folder in results_directory().iterdir() if folder.is_dir()}
    assert there <= set(SOURCES) | {
        "benchmarks",
        "coco",
        "world",
    }, "a kind of result that no fingerprint watches"
    for kind, module in (
        ("probe", "mae_lib.worlds.world"),
        ("probe", "mae_lib.evaluation.evaluate"),
        ("pretraining", "mae_lib.masks.masking"),
        ("detection", "mae_lib.detection.average_precision"),
        ("attention", "mae_lib.model.autoencoder"),
    ):
        assert module in modules(kind)
    assert "mae_lib.evaluation.attention" not in modules("probe") and not any(
        ".commands." in name for name in modules("pretraining")
    )
    with pytest.raises(InputError, match="no kind of result 'prob'"):
        modules("prob")


def test_a_change_of_one_module_changes_the_fingerprints_of_those_that_use_it(monkeypatch):
    source = fingerprints._source
    before = {kind: fingerprint(kind) for kind in SOURCES}
    monkeypatch.setattr(
        fingerprints,
        "_source",
        lambda module: (
            source(module)
            + ("\nRATE = 2\n" if module == "mae_lib.evaluation.probe" else "\n# nothing\n")
        ),
    )
    fingerprint.cache_clear(), imported.cache_clear()
    try:
        changed = {kind for kind in SOURCES if fingerprint(kind) != before[kind]}
    finally:
        monkeypatch.undo()
        fingerprint.cache_clear(), imported.cache_clear()
    assert {"probe", "shape_bias", "latents"} <= changed and not changed & {
        "pretraining",
        "attention",
        "detection",
        "identify",
    }


def record(value: float = 0.5, low: float | None = 0.4, high: float | None = 0.6, **more) -> dict:
    measures = {
        "a": {"value": value, "low": low, "high": high, "n": 9},
        "b": {"value": None, "low": None, "high": None, "n": 0},
    }
    return {"name": "r75-s0", "hash": "0" * 16, "measures": measures | more}


def test_records_are_compared_to_nine_digits_or_as_widely_as_is_allowed():
    assert compare(record(), record()).exact and compare(record(), record()).numbers == 2
    assert (
        compare(record(), record(0.5 + 1e-13)).exact
        and not compare(record(), record(0.5 + 1e-8)).exact
    )
    assert compare(record(), record(0.5 + 1e-8)).outside == ("a",), (
        "within the interval, and yet not the same"
    )
    near = compare(record(), record(0.55), {"a": 0.06})
    assert (
        not near.exact
        and near.outside == ()
        and "1 as near as another processor comes" in str(near)
    )
    assert (
        compare(record(), record(0.57), {"a": 0.06}).outside
        == compare(record(), record(math.nan), {"a": 0.06}).outside
        == ("a",)
    )
    assert compare(record(low=None, high=None), record(0.51, None, None)).outside == ("a",)
    assert compare(record(), record(high=0.61)).equal == 1, "an interval is a number too"
    extra = {"c": {"value": 1.0, "low": None, "high": None, "n": 1}}
    assert compare(record(), record(**extra)).outside == ("c",) and compare(
        record(**extra), record()
    ).outside == ("c",)
    with pytest.raises(InputError, match="its config has changed"):
        compare(record(), record() | {"hash": "1" * 16})


def made(
    on: dict | None = None, *values: float, name: str = "r75-s0", half: float | None = None
) -> dict:
    """A record of measures a, b, … with intervals of this half-width or none, made on one processor
    with changes ``on``."""
    measures = {
        letter: {
            "value": v,
            "low": None if half is None else v - half,
            "high": None if half is None else v + half,
            "n": 9,
        }
        for letter, v in zip("abcd", values)
    }
    torch_version = (on or {}).get("torch", "2.15")
    hardware = {"gpu": None, "cpu": "one", "threads": 1, "cores": 2, "instructions": "AVX2"} | {
        k: v for k, v in (on or {}).items() if k != "torch"
    }
    return {
        "name": name,
        "hash": "0" * 16,
        "measures": measures,
        "hardware": hardware,
        "versions": {"torch": torch_version},
    }


ELSEWHERE = (
    {"cpu": "another"},
    {"instructions": "AVX512"},
    {"threads": 2},
    {"gpu": "a card"},
    {"torch": "2.16"},
)


@pytest.mark.parametrize("kind", SOURCES)
def test_the_same_arithmetic_has_to_give_nine_digits_and_another_need_not(kind, monkeypatch):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    old = made(None, 0.5, half=0.1)
    assert (agreement.allowed(kind, old, made({"cores": 64}, 0.5), [old]) == {}) == (
        kind not in MAPPED
    )
    unnamed = made(None, 0.5)
    # as records were before they named it: processors of one name differ
    del unnamed["hardware"]["instructions"]
    assert not same_arithmetic(unnamed, old) and same_arithmetic(old, old)
    for on in ELSEWHERE:
        widths = agreement.allowed(kind, old, made(on, 0.5), [old])
        assert widths == {"a": pytest.approx(0.1 if kind in TRAINED | MAPPED else 0.025)}, on


def test_a_training_elsewhere_may_move_as_seeds_do_and_given_weights_a_quarter_of_that():
    """Against draws: three measures of twelve runs of three seeds, each run with a mean of its own.
    Another draw of the same run is seldom outside; what lies eight deviations off is outside almost
    always."""
    generator, alarms, caught, times = random.Random(0), 0, 0, 400
    for _ in range(times):
        means = [[generator.uniform(0, 100) for _ in range(3)] for _ in range(12)]
        beside = [
            made(None, *(generator.gauss(m, 1) for m in own), name=f"run{k}-s{s}-detector")
            for k, own in enumerate(means)
            for s in range(3)
        ]
        again = made(
            ELSEWHERE[0], *(generator.gauss(m, 1) for m in means[0]), name="run0-s0-detector"
        )
        widths = agreement.allowed("detection", beside[0], again, beside)
        alarms += bool(compare(beside[0], again, widths).outside)
        broken = made(
            None, *(v["value"] + 8 for v in again["measures"].values()), name="run0-s0-detector"
        )
        caught += bool(compare(beside[0], broken, widths).outside)
    assert 0 < alarms < 0.1 * times and caught > 0.97 * times, (alarms, caught)
    given = agreement.allowed("theory", beside[0], again, beside)
    assert given == {name: pytest.approx(0.25 * width) for name, width in widths.items()}
    # A single seed says nothing of chance: what is left is a unit in the sixth digit.
    assert agreement.allowed("detection", beside[0], again, beside[::3]) == {
        name: pytest.approx(1e-6 * abs(v["value"])) for name, v in beside[0]["measures"].items()
    }


def test_a_pretraining_is_compared_by_its_curve_and_held_out_errors():
    path = next((results_directory() / "pretraining" / "world").glob("*.json"))
    pretraining = json.loads(path.read_text())
    found = agreement.numbers(pretraining)
    assert len(found) > len(pretraining["curve"]["loss"]) > 50 and all(
        math.isfinite(i.value) for i in found.values()
    )
    worse = json.loads(json.dumps(pretraining))
    worse["curve"]["loss"][-1] += 1e-6
    assert (
        not compare(pretraining, worse).exact
        and compare(pretraining, json.loads(path.read_text())).exact
    )


def test_only_an_agreement_is_noted(tmp_path, monkeypatch):
    for module in (staleness, seals):
        monkeypatch.setattr(module, "results_directory", lambda: tmp_path)
    (tmp_path / "identify").mkdir()
    assert (
        "results/identify is older than the code" in stale()["identify"]
        and "T2" in stale()["identify"]
    )
    origin = {"commit": "abc", "finished": "now"}
    with pytest.raises(InputError, match="was not made again"):
        confirm("identify", "identify/c-z1-s3", compare(record(), record(0.51)), record() | origin)
    assert not staleness.code_file().exists()
    confirm("identify", "identify/c-z1-s3", compare(record(), record()), record() | origin)
    assert "identify" not in stale()
    with pytest.raises(InputError, match="was not made again"):
        confirm(
            "separability",
            "separability/world/r75-u8-p8-s0",
            compare(record(), record(0.7), {"a": 0.1}),
            record() | origin,
        )
    confirm(
        "separability",
        "separability/world/r75-u8-p8-s0",
        compare(record(), record(0.51), {"a": 0.1}),
        record() | origin,
    )
    assert "1 as near as another processor comes" in confirmed()["separability"]["agreement"]
    monkeypatch.setattr(staleness, "fingerprint", lambda kind: "another")
    assert "identify" in stale()


def test_no_result_of_the_project_is_older_than_the_code_that_makes_it():
    assert stale() == {}
