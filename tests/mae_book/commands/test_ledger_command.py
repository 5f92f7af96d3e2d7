"""`mae ledger` and `mae rerun`: what they print, what makes the check fail, and that it names the
claim."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mae_book.commands import rerun
from mae_book.verdicts import ledger, results, seals, staleness
from mae_book.verdicts.claims import CLAIMS
from mae_book.verdicts.fingerprints import fingerprint
from mae_book.verdicts.ledger import drift, entries, every_claim, state
from mae_book.verdicts.results import repository, results_directory
from mae_lib.commands.cli import main


def mae(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return caught.value.code or 0


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the project's results that a test may change."""
    shutil.copytree(
        results_directory(),
        tmp_path / "results",
        ignore=shutil.ignore_patterns("benchmarks", "pretraining"),
    )
    for module in (results, ledger, staleness, seals, rerun):
        monkeypatch.setattr(module, "results_directory", lambda: tmp_path / "results")
    seals.seal()
    return tmp_path / "results"


def test_every_claim_is_printed_with_its_verdict(capsys):
    assert mae("ledger") == 0
    table, sweep = capsys.readouterr().out.split("\n\n")
    lines = {line.split()[0]: line for line in table.splitlines()[1:]}
    assert set(lines) == set(every_claim())
    assert [line.split(" runs")[0].rpartition(" of ")[2] for line in sweep.splitlines()] == [
        "40",
        "40",
        "15",
    ]
    for row in entries():
        assert row.decision.verdict in lines[row.claim.id]


def test_no_claim_is_left_unattempted_on_the_embedded_world():
    assert {row.claim.id for row in entries() if row.decision.verdict == "not attempted"} == set()
    assert all(row.real.verdict != "not attempted" for row in entries() if row.real is not None)


def test_one_claim_is_printed_with_its_tests(capsys):
    assert mae("ledger", "T1r") == 0
    out = capsys.readouterr().out
    assert (
        out.count("r75 above") == 2 * len(CLAIMS["T1r"].tests)
        and "results/probe/world" in out
        and "mae evaluate probe" in out
    )


def test_json_and_csv_say_the_same(capsys):
    assert mae("ledger", "--as-json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert mae("ledger", "--as-csv") == 0
    flat = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["id"] for row in rows] == list(every_claim())
    for row in rows:
        for data, said in (("world", row), ("photographs", row["photographs"])):
            mine = [line for line in flat if (line["id"], line["data"]) == (row["id"], data)]
            assert [line["test"] for line in mine] == (
                [test["test"] for test in said["tests"]] if said else []
            )
            assert all(line["verdict"] == said["verdict"] for line in mine)
            assert [float(line["value"]) for line in mine] == (
                [test["value"] for test in said["tests"]] if said else []
            )
    table_1 = next(row for row in rows if row["id"] == "T1r")
    assert (
        table_1["paper"]["mean/validation"]["r75"] == 67.41
        and 0 < table_1["ours"]["mean/validation"]["r75"]["value"] < 1
    )


def test_the_readme_counts_as_the_ledger_does():
    verdicts = [row.decision.verdict for row in entries()]
    counted = (
        f"Of {len(verdicts)} claims and variants: {verdicts.count('reproduced')} reproduced,"
        f" {verdicts.count('not reproduced')} not reproduced, {verdicts.count('undecided')}"
        " undecided."
    )
    text = (repository() / "README.md").read_text(encoding="utf-8")
    assert counted in text
    found = [
        [cell.split() for cell in line.strip("|").split("|")[1:]]
        for line in text.splitlines()
        if line.startswith("| ") and line.count("|") == 5
    ]
    expected: dict[str, dict[str, list[str]]] = {}
    for row in entries():
        expected.setdefault(row.claim.chapter, {}).setdefault(row.decision.verdict, []).append(
            row.claim.id
        )
    said = [
        [verdicts.get(name, ["–"]) for name in ("reproduced", "not reproduced", "undecided")]
        for verdicts in expected.values()
    ]
    assert found[0] == [["reproduced"], ["not", "reproduced"], ["undecided"]] and found[1:] == said


@pytest.mark.parametrize(
    "words",
    [
        ("T9",),
        ("--as-json", "--as-csv"),
        ("T1r", "--state"),
        ("T1r", "--seal"),
        ("--check", "--seal"),
    ],
)
def test_bad_input_is_one_clear_line(words, capsys):
    assert mae("ledger", *words) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("mae: ") and "\n" not in error


def test_what_the_book_states_is_what_its_results_say():
    assert drift(entries()) == []


def test_a_result_changed_by_hand_fails_the_check_and_names_the_claim(copy, capsys):
    assert mae("ledger", "--check") == 0
    path = next((copy / "shape_bias" / "world").glob("r75-u8-p8-s1-*.json"))
    record = json.loads(path.read_text())
    record["measures"]["mean/bias"]["value"] += 0.05
    path.write_text(json.dumps(record))
    capsys.readouterr()
    assert mae("ledger", "--check") == 1
    out = capsys.readouterr().out
    assert "T2s: mean/bias: r75 above r10 is stated as" in out and not any(
        f"{other}:" in out for other in CLAIMS if other != "T2s"
    )
    record["measures"]["mean/bias"]["value"] -= 0.05 - 1e-5
    path.write_text(json.dumps(record))
    assert drift(entries()) == [], "a change that nobody would see in print"
    capsys.readouterr()
    assert mae("ledger", "--check") == 1, "but it is no longer what was sealed"
    file = path.relative_to(copy).as_posix()
    assert f"results/{file} is not what was sealed" in capsys.readouterr().out
    assert mae("ledger", "--seal") == 0
    assert capsys.readouterr().out.startswith(f"changed: results/{file}\n")
    assert mae("ledger", "--check") == 0


def test_a_verdict_that_turns_a_seed_that_is_gone_and_a_claim_unknown_are_named(copy):
    path = next((copy / "latents" / "world").glob("r75-u8-p8-object-s2-*.json"))
    record = json.loads(path.read_text())
    record["measures"]["mean/class"]["value"] = 0.9
    path.write_text(json.dumps(record))
    assert any(
        line.startswith("S2o: stated as reproduced, and the results say")
        for line in drift(entries(["S2o"]))
    )
    path.unlink()
    lines = drift(entries(["S2o"]))
    assert any("from 3 seeds, and the results say" in line and "from 2" in line for line in lines)
    stated = json.loads((copy / "stated.json").read_text())
    (copy / "stated.json").write_text(json.dumps({"T9": stated.pop("S3")} | stated))
    lines = drift(entries())
    assert "S3: nothing is stated of it yet" in lines and any(
        line.startswith("T9: it is stated") for line in lines
    )


def test_stating_anew_says_what_changes(copy, capsys):
    path = next((copy / "shape_bias" / "world").glob("r75-u8-p8-s1-*.json"))
    record = json.loads(path.read_text())
    record["measures"]["mean/bias"]["value"] = 0.2
    path.write_text(json.dumps(record))
    assert mae("ledger", "--state") == 0 and "T2s" in capsys.readouterr().out
    assert drift(entries()) == [] and mae("ledger", "--check") == 1, "stated, and not sealed"
    assert mae("ledger", "--seal") == 0 and mae("ledger", "--check") == 0
    (copy / "stated.json").unlink()
    assert mae("ledger", "--check") == 1, "nothing is stated"
    state(entries())
    assert mae("ledger", "--check") == 0


MAKES = """
import json, pathlib, sys
record = json.loads(sys.argv[1])
path = pathlib.Path(sys.argv[2])
path.parent.mkdir(parents=True)
path.write_text(json.dumps(record))
"""


@pytest.fixture
def cell(copy, monkeypatch):
    """A cell of made-up numbers, recorded, and what its command writes the next time: [record]."""
    record = {
        "name": "fold-s0",
        "hash": "1",
        "measures": {"a": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}},
        "seconds": 1.0,
        "commit": "abc",
        "finished": "now",
        "hardware": {"cpu": "one", "gpu": None, "instructions": "AVX2"},
    }
    (copy / "identify" / "fold-s0-1.json").write_text(json.dumps(record))
    writes = [json.loads(json.dumps(record))]

    def commands(folder: Path):
        return (
            ("python", "-c", "pass"),
            (
                "python",
                "-c",
                MAKES,
                json.dumps(writes[0]),
                str(folder / "identify" / "fold-s0-1.json"),
            ),
        )

    made = SimpleNamespace(
        id="identify/fold-s0",
        kind="identify",
        data="",
        path=lambda folder: folder / "identify" / "fold-s0-1.json",
        commands=commands,
    )
    monkeypatch.setattr(rerun, "world_cells", lambda: {made.id: made})
    monkeypatch.setattr(rerun, "SOURCES", {"identify": ("identify",)})
    (copy / "code.json").unlink(missing_ok=True)
    return writes


def test_a_cell_that_is_made_again_to_the_last_digit_is_noted(cell, copy, capsys):
    assert mae("rerun", "identify/fold-s0") == 0
    assert "1 numbers, all the same to nine digits" in capsys.readouterr().out
    noted = json.loads((copy / "code.json").read_text())["identify"]
    assert noted["code"] == fingerprint("identify") and noted["cell"] == "identify/fold-s0"
    assert mae("rerun", "--changed") == 0 and capsys.readouterr().out == "", (
        "nothing has changed since"
    )
    assert json.loads((copy / "identify" / "fold-s0-1.json").read_text())["seconds"] == 1.0


def test_a_cell_that_differs_is_not_noted(cell, copy, capsys):
    cell[0]["measures"]["a"]["value"] = 0.51
    assert mae("rerun", "--changed") == 1
    out = capsys.readouterr().out
    assert "1 outside (a)" in out and "recorded on" not in out, (
        "the same processor gives the same digits"
    )
    cell[0]["measures"]["a"]["value"], cell[0]["hardware"]["cpu"] = 90.0, "another"
    assert mae("rerun", "--changed") == 1
    out = capsys.readouterr().out
    assert (
        "1 outside (a)" in out
        and "recorded on one, AVX2, made again on another" in out
        and not (copy / "code.json").exists()
    )


def test_a_cell_that_another_processor_makes_nearly_the_same_is_noted(cell, copy, capsys):
    cell[0]["measures"]["a"]["value"], cell[0]["hardware"]["cpu"] = 0.51, "another"
    assert mae("rerun", "--changed") == 0
    out = capsys.readouterr().out
    assert (
        "1 as near as another processor comes, 0 outside" in out
        and "recorded on one, AVX2, made again on another" in out
    )
    assert json.loads((copy / "code.json").read_text())["identify"]["code"] == fingerprint(
        "identify"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "name a cell"),
        (("probe/world/r76",), "no cell 'probe/world/r76'"),
        (("identify/fold-s0",), "ended with status 1: KeyError: 'name'"),
        (("identify/fold-s0",), "is not recorded"),
    ],
)
def test_what_cannot_be_made_again_is_one_clear_line(words, says, cell, copy, capsys):
    if "KeyError" in says:
        cell[0].clear()
        cell[0]["x"] = 1
        rerun.world_cells()["identify/fold-s0"].commands = lambda folder: (
            ("python", "-c", "{}['name']"),
        )
    if "not recorded" in says:
        (copy / "identify" / "fold-s0-1.json").unlink()
    assert mae("rerun", *words) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error


def test_all_cells_are_shown(cell, copy, capsys):
    assert mae("rerun", "--show") == 0 and capsys.readouterr().out == "recorded identify/fold-s0\n"
