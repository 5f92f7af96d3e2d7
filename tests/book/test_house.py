"""The house stands: no import upward, no ring, nothing of the book in the library; few rooms a
wing. And the check itself finds a breach that is planted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (ROOT / "mae_lib", ROOT / "book" / "mae_book")
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint(root: Path) -> tuple[int, str]:
    """Exit status and words of import-linter on the packages under ``root``, by its
    pyproject.toml."""
    paths = f"{root}:{root / 'book'}"
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=root,
        text=True,
        env={"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


def test_imports_run_one_way() -> None:
    status, said = lint(ROOT)
    assert status == 0, said


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("mae_lib/base/runs.py", "from mae_lib.training import tiers", "A wing of mae_lib"),
        (
            "mae_lib/base/runs.py",
            "from mae_book.verdicts import claims",
            "knows nothing of the book",
        ),
        (
            "book/mae_book/verdicts/claims.py",
            "from mae_book.sweep import cells",
            "A wing of mae_book",
        ),
        ("mae_lib/base/errors.py", "from mae_lib.base import files", "No ring"),
        ("mae_lib/base/errors.py", "def f():\n    from mae_lib.base import files", "No ring"),
    ],
)
def test_a_planted_breach_is_found(tmp_path: Path, module: str, line: str, contract: str) -> None:
    for package in PACKAGES:
        shutil.copytree(
            package,
            tmp_path / package.relative_to(ROOT),
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file = tmp_path / module
    file.write_text(file.read_text() + f"\n{line}\n")
    status, said = lint(tmp_path)
    assert status != 0 and any(contract in row and "BROKEN" in row for row in said.splitlines()), (
        said
    )


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_has_at_most_twelve_wings_of_at_most_twelve_rooms(package: Path) -> None:
    wings = [path for path in package.iterdir() if (path / "__init__.py").is_file()]
    assert len(wings) <= 12
    for wing in wings:
        rooms = [path for path in wing.glob("*.py") if path.stem != "__init__"]
        assert 1 <= len(rooms) <= 12, wing.name
        said = (wing / "__init__.py").read_text(encoding="utf-8")
        assert said.startswith('"""') and len(said) > 30, (
            f"{wing.name} does not say what lives there"
        )
