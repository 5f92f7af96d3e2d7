"""Sweeps of a notebook: the grid's algebra, parameters refused before anything runs, real runs that
fail and die, a sweep that goes on where it was killed, and the report of all this."""

from __future__ import annotations

import csv
import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_lib.base.errors import InputError
from mae_lib.commands.cli import main
from mae_lib.commands.sweep import grid, key, parse_assignments, run_sweep
from mae_lib.commands.sweep_report import RunReport, figure, scalars, write_report

NAMES = st.from_regex(r"[a-z][a-z_0-9]{0,6}", fullmatch=True)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-1000, 1000)
    | st.text("abc xyz", max_size=5)
    | st.sampled_from([0.5, -1.25, 1e-3])
)


@given(st.dictionaries(NAMES, st.lists(SCALARS, min_size=1, max_size=3), max_size=4))
@settings(deadline=None, max_examples=50)
def test_assignments_are_read_as_they_were_written(values):
    words = [f"{name}={json.dumps(value)}" for name, value in values.items()]
    assert parse_assignments(words, lists=True) == values == parse_assignments(words, lists=False)


@given(
    st.dictionaries(
        NAMES, st.lists(st.integers(), min_size=1, max_size=3, unique=True), max_size=3
    ),
    st.dictionaries(NAMES, SCALARS, max_size=3),
)
@settings(deadline=None, max_examples=50)
def test_the_grid_holds_every_combination_once(over, fixed):
    fixed = {name: value for name, value in fixed.items() if name not in over}
    runs = grid(over, fixed)
    assert (
        len(runs)
        == math.prod(map(len, over.values()))
        == len({json.dumps(run, sort_keys=True) for run in runs})
    )
    for run in runs:
        assert run.keys() == over.keys() | fixed.keys()
        assert all(run[name] in values for name, values in over.items()) and all(
            run[name] == value for name, value in fixed.items()
        )


@pytest.mark.parametrize(
    "words, lists, named",
    [
        (["seed"], True, "'seed'"),
        (["=3"], False, "'=3'"),
        (["my-seed=3"], False, "my-seed"),
        (["seed=[1"], True, "seed"),
        (["seed=3"], True, "list"),
        (["seed=[]"], True, "list"),
        (["seed={a: 1}"], True, "list"),
        (["seed=1", "seed=2"], False, "twice"),
    ],
)
def test_bad_assignments_are_named(words, lists, named):
    with pytest.raises(InputError, match=named):
        parse_assignments(words, lists)


def test_a_name_cannot_vary_and_stay():
    with pytest.raises(InputError, match="seed is in --over and in --set"):
        grid({"seed": [1]}, {"seed": 2})


@pytest.fixture
def notebook(tmp_path):
    cells = [
        nbformat.v4.new_code_cell(
            "seed = 0\nname = 'a'\nquick = False", metadata={"tags": ["parameters"]}
        ),
        nbformat.v4.new_code_cell(
            "from mae_lib.base.parameters import Natural, check_parameters\n"
            "check_parameters(globals(), seed=Natural, name=str, quick=bool)"
        ),
        nbformat.v4.new_code_cell(
            "import os\nif seed == 1:\n    raise ValueError('seed one fails')\nif seed == 2:\n   "
            " os._exit(7)\nprint(f'{seed} {name} {quick!r}')"
        ),
    ]
    book = nbformat.v4.new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )
    path = tmp_path / "chapter.ipynb"
    nbformat.write(book, path)
    return path


def rewritten(notebook: Path, code: str) -> Path:
    """The notebook with other code in its last cell."""
    book = nbformat.read(notebook, 4)
    book.cells[-1].source = code
    nbformat.write(book, notebook)
    return notebook


def test_each_run_reports_its_true_status(notebook, tmp_path, capsys):
    out = tmp_path / "runs"
    assert run_sweep(notebook, ["seed=[0, 1, 2]"], ["name='b c'", "quick=true"], out, jobs=2) == 1
    report = json.loads((out / "report.json").read_text())
    runs = report["runs"]
    assert [run["parameters"] for run in runs] == [
        {"name": "b c", "quick": True, "seed": seed} for seed in range(3)
    ]
    assert runs[0]["exit_code"] == 0 and runs[0]["error"] == ""
    assert runs[1]["exit_code"] != 0 and "seed one fails" in runs[1]["error"]
    assert runs[2]["exit_code"] != 0 and runs[2]["error"]
    assert len({run["notebook"] for run in runs}) == 3
    for run in runs:
        assert (out / run["notebook"]).is_file() and run["minutes"] >= 0
        assert run["notebook"].endswith(".failed.ipynb") == bool(run["exit_code"])
    executed = nbformat.read(out / runs[0]["notebook"], 4)
    assert executed.cells[-1].outputs[0].text.strip() == "0 b c True"  # the bool arrived as a bool
    captured = capsys.readouterr()
    assert (
        captured.out.startswith("3 runs of chapter.ipynb, 2 at a time")
        and "1 of 3 runs succeeded" in captured.out
        and captured.err.count("FAILED") == 2
    )
    assert str(tmp_path) not in json.dumps(report)


@pytest.mark.parametrize(
    "over, fixed, named",
    [
        (["sede=[0, 1]"], [], "sede"),
        (["seed=[0, one]"], [], "one"),
        (["seed=[0, 1]"], ["quick=perhaps"], "quick"),
        (["seed=[0, 1.5]"], [], "1.5"),
        (["seed=[0, -1]"], [], "at least 0"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(
    notebook, tmp_path, monkeypatch, capsys, over, fixed, named
):
    monkeypatch.setattr(
        "mae_lib.commands.sweep.subprocess.run", lambda *_, **__: pytest.fail("a run was started")
    )
    words = [
        "sweep",
        str(notebook),
        "--out",
        str(tmp_path / "runs"),
        "--over",
        *over,
        *(["--set", *fixed] if fixed else []),
    ]
    with pytest.raises(SystemExit) as caught:
        main(words)
    error = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and len(error) == 1 and named in error[0]
    assert not (tmp_path / "runs").exists()


def test_what_cannot_be_swept_is_named(notebook, tmp_path):
    with pytest.raises(InputError, match="missing.ipynb"):
        run_sweep(tmp_path / "missing.ipynb", [], [], tmp_path / "runs")
    with pytest.raises(InputError, match="--jobs 0"):
        run_sweep(notebook, [], [], tmp_path / "runs", jobs=0)
    with pytest.raises(InputError, match="chapter.ipynb"):
        run_sweep(notebook, [], [], notebook)


@pytest.mark.parametrize(
    "fixed, out, named",
    [
        ("data_root=nowhere", "runs", "nowhere: no such folder"),
        ("device=abacus", "runs", "unknown device"),
        ("data_root=''", "file/runs", "cannot write in"),
    ],
)
def test_folders_and_devices_that_are_not_there_are_named_before_anything_runs(
    tmp_path, monkeypatch, capsys, fixed, out, named
):
    monkeypatch.setattr(
        "mae_lib.commands.sweep.subprocess.run", lambda *_, **__: pytest.fail("a run was started")
    )
    source = (
        "from mae_lib.base.parameters import check_parameters\ncheck_parameters(globals(),"
        " data_root=str, device=str)"
    )
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]),
        tmp_path / "chapter.ipynb",
    )
    (tmp_path / "file").write_text("no folder")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as caught:
        main(
            ["sweep", str(tmp_path / "chapter.ipynb"), "--out", str(tmp_path / out), "--set", fixed]
        )
    error = capsys.readouterr().err.splitlines()
    assert (
        caught.value.code == 2
        and len(error) == 1
        and named in error[0]
        and sorted(tmp_path.iterdir()) == before
    )


def test_an_interrupt_starts_nothing_more(notebook, tmp_path, monkeypatch):
    started = []

    def run(notebook, parameters, target):
        started.append(target)
        raise KeyboardInterrupt

    monkeypatch.setattr("mae_lib.commands.sweep._run", run)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(notebook, [f"seed={list(range(200))}"], [], tmp_path / "runs")
    assert len(started) < 200


# -- a sweep that goes on --------------------------------------------------------------------------


LOGGED = """\
import time
from pathlib import Path
log = Path("log")
with log.open("a") as file: print("begun", seed, file=file)
time.sleep(1 + (seed == 1))
with log.open("a") as file: print("ended", seed, file=file)
"""


def test_a_sweep_that_was_killed_goes_on_and_repeats_nothing(notebook, tmp_path):
    """The sweep alone gets `kill -9`, in its second run: what it started ends with it, and the same
    command runs what had not ended, no more."""
    rewritten(notebook, LOGGED)
    command = [sys.executable, "-m", "mae_lib", "sweep", notebook.name]
    command += ["--out", "runs", "--over", "seed=[0, 1]"]
    lines = lambda: (
        (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
    )
    killed = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while "begun 1" not in lines():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(3)  # time enough for what it started to end its run, were it still there
    before = lines()
    assert before == ["begun 0", "ended 0", "begun 1"]
    whole = {path: path.read_bytes() for path in (tmp_path / "runs").glob("*seed-0*.ipynb")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert lines() == [*before, "begun 1", "ended 1"]
    said = r"1 runs of chapter.ipynb; 1 are there already; about \d+ min to go"
    assert re.search(said, done.stdout), done.stdout
    assert whole and all(path.read_bytes() == text for path, text in whole.items())
    report = json.loads((tmp_path / "runs/report.json").read_text())
    assert [run["parameters"]["seed"] for run in report["runs"]] == [0, 1]
    assert not list((tmp_path / "runs").glob("*unfinished*"))


def test_a_folder_goes_on_with_more_values_and_not_with_another_notebook(
    notebook, tmp_path, monkeypatch
):
    started = []

    def run(_, parameters, target):
        started.append(parameters["seed"])
        cells, metadata = [], {"papermill": {"duration": 60.0}}
        target.write_text(json.dumps({"cells": cells, "metadata": metadata}))
        return RunReport(parameters, target.name, int(parameters["seed"] == 1), 1.0)

    monkeypatch.setattr("mae_lib.commands.sweep._run", run)
    out = tmp_path / "runs"
    assert run_sweep(notebook, ["seed=[0, 1]"], [], out) == 1
    next(out.glob("*seed-1*.ipynb")).unlink()  # what failed leaves no notebook of this name
    assert run_sweep(notebook, ["seed=[0, 1, 2]"], [], out) == 1
    assert started == [0, 1, 1, 2]  # what failed is tried again, what is there is not
    report = json.loads((out / "report.json").read_text())
    assert [run["parameters"]["seed"] for run in report["runs"]] == [0, 1, 2]
    (out / "report.json").write_text(json.dumps(report | {"runs": report["runs"][:2]}))
    assert run_sweep(notebook, ["seed=[2]"], [], out) == 0 and len(started) == 4  # ended, not noted
    rewritten(notebook, "print('other code')")
    with pytest.raises(InputError, match="before its code changed: choose another folder"):
        run_sweep(notebook, ["seed=[0]"], [], out)
    (out / "report.json").write_text("[]")
    with pytest.raises(InputError, match="is no sweep's report"):
        run_sweep(notebook, ["seed=[0]"], [], out)


@pytest.mark.parametrize("name", ["report.csv", "report.html", "report.json"])
def test_a_file_of_ones_own_is_not_replaced(notebook, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=name):
        run_sweep(notebook, ["seed=[0]"], [], tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_two_sweeps_do_not_share_a_folder_at_once(notebook, tmp_path, monkeypatch):
    def run(_, parameters, target):
        with pytest.raises(InputError, match="another mae sweep is at work"):
            run_sweep(notebook, ["seed=[5]"], [], tmp_path / "runs")
        return RunReport(parameters, target.name, 0, 1.0)

    monkeypatch.setattr("mae_lib.commands.sweep._run", run)
    assert run_sweep(notebook, ["seed=[0]"], [], tmp_path / "runs") == 0


@given(st.dictionaries(NAMES, SCALARS, max_size=4))
@settings(deadline=None, max_examples=50)
def test_a_run_is_known_by_its_parameters_alone(parameters):
    backwards = dict(reversed(parameters.items()))
    assert key(parameters) == key(backwards) and len(key(parameters)) == 8
    assert key(parameters) != key(parameters | {"one_more": 1})


# -- its report ------------------------------------------------------------------------------------


def test_scalars_that_a_chapter_glues_are_a_column_in_every_format(notebook, tmp_path):
    rewritten(
        notebook,
        "import numpy as np\nfrom myst_nb import glue\nglue('loss', 0.5 + seed, display=False)\n"
        "glue('rate', np.float64(seed) / 8)\nglue('words', 'none', display=False)\n"
        "glue('nothing', float('nan'), display=False)",
    )
    out = tmp_path / "runs"
    assert run_sweep(notebook, ["seed=[0, 1]", "name=[a, '<b>']"], [], out) == 0
    report = json.loads((out / "report.json").read_text())
    found = {
        (run["parameters"]["seed"], run["parameters"]["name"]): run["results"]
        for run in report["runs"]
    }
    assert found == {
        (seed, name): {"loss": 0.5 + seed, "rate": seed / 8}
        for seed in (0, 1)
        for name in ("a", "<b>")
    }
    with (out / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["name"], float(row["loss"])) for row in rows] == [
        (str(seed), name, 0.5 + seed) for seed, name in found
    ]
    page = BeautifulSoup((out / "report.html").read_text(), "html.parser")
    heads = [head.get_text() for head in page.select("thead th")]
    assert heads[:5] == ["seed", "name", "loss", "rate", "minutes"]
    cells = [[cell.get_text() for cell in row.select("td")] for row in page.select("tbody tr")]
    assert [row[:4] for row in cells] == [
        [str(seed), name, f"{0.5 + seed:.6g}", f"{seed / 8:.6g}"] for seed, name in found
    ]
    assert page.select("svg[role=img]") and all(
        (out / link["href"]).is_file() for link in page.select("tbody a")
    )


def test_the_figure_has_a_panel_for_each_scalar_and_a_line_for_each_value(tmp_path):
    """A seed is averaged over, whichever place it has among the parameters; words get places in
    their order."""
    runs = [
        RunReport({"seed": s, "ratio": r, "law": w}, "", 0, 1.0, "", {"y": r + s, "z": 1.0})
        for s in (0, 2)
        for r in (0.25, 0.75)
        for w in ("random", "block")
    ]
    drawn = figure(runs, ["seed", "ratio", "law"])
    assert [axis.get_title() for axis in drawn.axes] == ["y", "z"]
    assert {axis.get_xlabel() for axis in drawn.axes} == {"ratio"}
    means = {line.get_label(): line for line in drawn.axes[0].lines if line.get_linestyle() == "-"}
    assert set(means) == {"random", "block"}
    for line in means.values():
        assert list(line.get_xdata()) == [0.25, 0.75] and list(line.get_ydata()) == [1.25, 1.75]
    drawn = figure(runs, ["law"])
    assert [label.get_text() for label in drawn.axes[0].get_xticklabels()] == ["random", "block"]
    assert figure(runs, []) is None
    assert figure([RunReport({"seed": 0}, "", 1, 1.0, "died")], ["seed"]) is None
    write_report(tmp_path, "c.ipynb", "code", [], [])
    assert "0 runs" in (tmp_path / "report.html").read_text()


def test_only_named_finite_numbers_are_scalars():
    output = lambda name, text: {
        "metadata": {"scrapbook": {"name": name}},
        "data": {"application/papermill.record/text/plain": text},
    }
    cells = [
        {"outputs": [output("a", "1.5"), output("b", ["np.float32(", "2)"]), output("c", "inf")]},
        {"outputs": [output("d", "'x'"), {"metadata": {}, "data": {"text/plain": "3"}}]},
        {"source": "no outputs"},
    ]
    assert scalars({"cells": cells}) == {"a": 1.5, "b": 2.0}
