"""The whole project in ruff's format, without a fault that ruff or mypy finds; chapters' code at 80
columns, files at 400 lines."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mae_book.verdicts.results import repository

CODE = ("mae_lib", "book", "tests", "benchmarks", "workflow", "conftest.py")
NARROW = 80
LONG = 400


@pytest.mark.parametrize("words", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff_finds_nothing(words):
    command = [sys.executable, "-m", "ruff", *words, "--no-cache", *CODE]
    done = subprocess.run(command, cwd=repository(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_types_agree():
    command = [sys.executable, "-m", "mypy"]
    done = subprocess.run(command, cwd=repository(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_code_on_the_books_pages_is_not_cut_off():
    wide = [
        f"{path.name}, cell {k}: {line}"
        for path in sorted((repository() / "notebooks").glob("*.ipynb"))
        for k, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"])
        for line in "".join(cell["source"]).splitlines()
        if cell["cell_type"] == "code" and len(line) > NARROW
    ]
    assert not wide, "\n".join(wide)


def test_no_file_of_the_packages_is_long():
    root = repository()
    files = [*(root / "mae_lib").rglob("*.py"), *(root / "book").rglob("*.py")]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    long = {path.name: count for path, count in lines.items() if count > LONG}
    assert not long
