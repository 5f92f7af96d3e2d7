"""A chapter that was downloaded alone runs wherever the library is installed from a clone, and says
what to do where it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PRETRAINED = "05_pretraining_sweep.ipynb"
"""A chapter that takes seconds as long as the checkpoints are found."""

RECORDED = "12_ledger.ipynb"
"""A chapter that is made from results."""


def run_alone(folder: Path, chapter: str, library: str = "") -> tuple[int, str, Path]:
    """The chapter, alone in ``folder`` and run there, with an empty cache; with the library that
    lies in ``library`` instead of the installed one."""
    folder.mkdir()
    shutil.copy(ROOT / "notebooks" / chapter, folder)
    environment = {
        **os.environ,
        "IPYTHONDIR": str(folder / "ipython"),
        "MAE_CACHE": str(folder / "cache"),
        "PYTHONPATH": library,
    }
    command = [sys.executable, "-m", "papermill", chapter, "out.ipynb", "--no-progress-bar"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout, folder / "out.ipynb"


@pytest.mark.timeout(600)
def test_a_chapter_alone_in_a_folder_finds_checkpoints_and_results(tmp_path: Path) -> None:
    status, screen, out = run_alone(tmp_path / "alone", PRETRAINED)
    assert status == 0, screen[-3000:]
    assert not list((tmp_path / "alone" / "cache").rglob("*.safetensors")), (
        "it trained what it should have found"
    )
    figures = [
        cell.metadata["mystnb"]["figure"]["name"]
        for cell in nbformat.read(ROOT / "notebooks" / PRETRAINED, as_version=4).cells
        if "figure" in cell.metadata.get("mystnb", {})
    ]
    drawn = [
        output
        for cell in nbformat.read(out, as_version=4).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(drawn) >= len(figures) > 0


@pytest.mark.timeout(600)
def test_a_library_without_the_projects_results_says_so_in_one_line(tmp_path: Path) -> None:
    for package in (ROOT / "mae_lib", ROOT / "book" / "mae_book"):
        shutil.copytree(
            package, tmp_path / "site" / package.name, ignore=shutil.ignore_patterns("__pycache__")
        )
    status, screen, _ = run_alone(tmp_path / "alone", RECORDED, library=str(tmp_path / "site"))
    assert status != 0
    assert (
        screen.rstrip().splitlines()[-1]
        == f"InputError: mae_book is installed in {tmp_path / 'site'}, which is no checkout of the"
        " project: run `pip install -e .` in the checkout"
    )
