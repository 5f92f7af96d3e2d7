"""`tests/helpers/everywhere.py`: every arithmetic of this processor is there once, each is really
run under, and a failure under one fails the whole."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import everywhere

ASK = "import os, torch; print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())"


def test_the_settings_are_what_they_are_called(monkeypatch):
    monkeypatch.setenv(everywhere.CHOSEN, "default")  # whoever starts it
    found = everywhere.settings()
    assert {values["OMP_NUM_THREADS"] for values in found.values()} == {"1", "2"}
    assert len({tuple(sorted(values.items())) for values in found.values()}) == len(found)
    assert any("MKL_CBWR" in values for values in found.values())
    assert sum(everywhere.CHOSEN not in values for values in found.values()) == 2
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=os.environ | found["default, 1 thread"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["DEFAULT", "1"]


@pytest.mark.parametrize("fails", ["1", "2", "neither"])
def test_a_failure_under_one_setting_fails_the_whole_and_is_named(
    fails, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        everywhere, "settings", lambda: {f"{n} threads": {"OMP_NUM_THREADS": n} for n in ("1", "2")}
    )
    file = tmp_path / "test_order.py"
    file.write_text(
        f"import os\n\n\ndef test_order():\n    assert os.environ['OMP_NUM_THREADS'] != '{fails}'"
        f" and '{everywhere.CHOSEN}' not in os.environ\n"
    )
    monkeypatch.setenv(everywhere.CHOSEN, "default")
    assert everywhere.main([str(file), "-q", "-p", "no:cacheprovider"]) == (fails != "neither")
    table = capsys.readouterr().out.strip().splitlines()[-2:]
    for n, row in zip("12", table):
        assert row.startswith(
            f"{n} threads  tests  {'FAILED' if n == fails else 'passed'}"
        ) and row.split("  ")[-1].startswith("1 failed" if n == fails else "1 passed")


def test_the_book_is_built_anew_under_each_setting(tmp_path, monkeypatch, capsys):
    """With a stand-in for the builder, which is at its place beside the interpreter: what an
    earlier build left is gone, and its failure counts."""
    monkeypatch.setattr(everywhere, "settings", lambda: {"one": {"HOW": "1"}, "two": {"HOW": "2"}})
    monkeypatch.setattr(everywhere, "ROOT", tmp_path)
    (tmp_path / "python").write_text("#!/bin/sh\necho '1 passed'\n")
    (tmp_path / "jupyter-book").write_text(
        '#!/bin/sh\nfor folder; do :; done\n[ -e "$folder" ] && echo stale\n[ $HOW = 1 ] && echo'
        " built || { echo broken; exit 1; }\n"
    )
    for program in ("python", "jupyter-book"):
        (tmp_path / program).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "_build" / "everywhere" / "0").mkdir(parents=True)
    assert everywhere.main(["--book"]) == 1
    out = capsys.readouterr().out
    assert "stale" not in out
    assert [(row.split()[:3], row.split()[-1]) for row in out.strip().splitlines()[-4:]] == [
        (["one", "tests", "passed"], "passed"),
        (["one", "book", "passed"], "built"),
        (["two", "tests", "passed"], "passed"),
        (["two", "book", "FAILED"], "broken"),
    ]
