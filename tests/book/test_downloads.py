"""A chapter that was downloaded alone runs wherever the library is installed from a clone, or from
a wheel with the book's archive, and says what to do where neither is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book" / "_ext"))
from book_archive import pack

ROOT = Path(__file__).resolve().parents[2]
PRETRAINED = "05_pretraining_sweep.ipynb"
"""A chapter that takes seconds as long as the checkpoints are found."""

RECORDED = "12_ledger.ipynb"
"""A chapter that is made from results."""


def run_alone(
    folder: Path, chapter: str, library: str = "", cache: Path | None = None
) -> tuple[int, str, Path]:
    """The chapter, alone in ``folder`` and run there, with an empty cache or that in ``cache``;
    with the library that lies in ``library`` instead of the installed one."""
    folder.mkdir()
    shutil.copy(ROOT / "notebooks" / chapter, folder)
    environment = {
        **os.environ,
        "IPYTHONDIR": str(folder / "ipython"),
        "MAE_CACHE": str(cache or folder / "cache"),
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
    status, screen, out = run_alone(tmp_path / "alone", RECORDED, library=str(tmp_path / "site"))
    assert status != 0
    assert (
        f"mae_book is installed in {tmp_path / 'site'}, which is no checkout of the project, and"
        " the book's results and checkpoints are not unpacked: download mae-book.zip from the"
        " chapter's page and run `mae unpack mae-book.zip`, or `pip install -e .` in a checkout"
        in screen.rstrip().splitlines()[-1]
    )
    left = nbformat.read(out.with_suffix(".failed.ipynb"), as_version=4)
    run = [cell for cell in left.cells if cell.get("outputs")]
    assert not out.exists() and "repository()" in run[-1].source, "the first cell says it"


@pytest.mark.timeout(900)
def test_a_chapter_runs_with_the_wheel_and_the_archive(tmp_path: Path) -> None:
    """The wheel as pip installs it, in an environment that has this one's other packages; the
    archive as the book's page offers it."""
    source = tmp_path / "source"
    for part in ("mae_lib", "book/mae_book"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    kept = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *kept, "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    assert not (site / "results").exists()
    digest = pack(ROOT, tmp_path / "mae-book.zip")
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "MAE_CACHE": str(tmp_path / "alone" / "cache"),
    }
    unpack = [sys.executable, "-P", "-m", "mae_lib", "unpack", "../mae-book.zip"]
    for given, said in ((digest[::-1], "not what was given"), (digest, "files are in")):
        done = subprocess.run(
            [*unpack, "--sha256", given],
            cwd=site,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert said in done.stdout, done.stdout
    for chapter in (RECORDED, PRETRAINED):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        status, screen, _ = run_alone(
            tmp_path / "run", chapter, library=str(site), cache=tmp_path / "alone" / "cache"
        )
        assert status == 0, screen[-3000:]
