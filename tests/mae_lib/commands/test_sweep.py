"""Sweeps of a notebook: the grid's algebra, parameters refused before anything runs, and real runs
that fail and die."""

from __future__ import annotations

import json
import math

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_lib.base.errors import InputError
from mae_lib.commands.cli import main
from mae_lib.commands.sweep import grid, parse_assignments, run_sweep

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
            "from mae_lib.base.parameters import check_parameters\ncheck_parameters(globals(),"
            " seed=int, name=str, quick=bool)"
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


def test_each_run_reports_its_true_status(notebook, tmp_path, capsys):
    out = tmp_path / "runs"
    assert run_sweep(notebook, ["seed=[0, 1, 2]"], ["name='b c'", "quick=true"], out, jobs=2) == 1
    report = json.loads((out / "report.json").read_text())
    assert [run["parameters"] for run in report] == [
        {"name": "b c", "quick": True, "seed": seed} for seed in range(3)
    ]
    assert report[0]["exit_code"] == 0 and report[0]["error"] == ""
    assert report[1]["exit_code"] != 0 and "seed one fails" in report[1]["error"]
    assert report[2]["exit_code"] != 0 and report[2]["error"]
    assert len({run["notebook"] for run in report}) == 3
    for run in report:
        assert (out / run["notebook"]).is_file() and run["minutes"] >= 0
    executed = nbformat.read(out / report[0]["notebook"], 4)
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

    def run(notebook, parameters, out, number):
        started.append(number)
        raise KeyboardInterrupt

    monkeypatch.setattr("mae_lib.commands.sweep._run", run)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(notebook, [f"seed={list(range(200))}"], [], tmp_path / "runs")
    assert len(started) < 200
