"""The book's machinery: no page shows numbers of older code, no failure passes unseen, no half-made
environment is used.

The builds are real ones, of a book of two pages with the project's own configuration and
extensions; the Makefile's rule for the environment runs with stand-ins for Python and pip, which
would take minutes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[2]

COUNT = "from pathlib import Path; runs = Path('runs.txt'); runs.open('a').write('x')"
"""A line that leaves a trace of each execution beside the notebook."""


class Book:
    """A book of a text page and a chapter, built like the project's."""

    def __init__(self, root: Path):
        self.root = root
        shutil.copy(ROOT / "_config.yml", root)
        for name in ("_ext", "_static"):
            shutil.copytree(
                ROOT / "book" / name,
                root / "book" / name,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        (root / "book" / "references.bib").write_text("")
        (root / "_toc.yml").write_text(
            "format: jb-book\nroot: preface\nchapters:\n- file: notebooks/chapter\n"
        )
        (root / "preface.md").write_text("# Preface\n\nA formula, $a^2$.\n")
        (root / "requirements.txt").write_text("")
        for name in ("mae_lib", "notebooks", ".pytest_cache"):
            (root / name).mkdir()
        (root / ".pytest_cache" / "README.md").write_text("# No page\n")
        (root / "README.md").write_text("# No page\n")
        (root / "mae_lib" / "__init__.py").write_text("")
        self.set_number(1111)
        self.write_chapter(
            COUNT, "from mae_lib.number import NUMBER; print('the number is', NUMBER)"
        )

    def set_number(self, number: int) -> None:
        (self.root / "mae_lib" / "number.py").write_text(f"NUMBER = {number}\n")

    def write_chapter(self, *cells: str, text: str = "") -> None:
        notebook = new_notebook(
            cells=[new_markdown_cell(f"# Chapter\n\n{text}"), *map(new_code_cell, cells)]
        )
        notebook.metadata["kernelspec"] = {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        }
        nbformat.write(notebook, self.root / "notebooks" / "chapter.ipynb")

    def build(self) -> tuple[int, str]:
        """Build as the Makefile does; the exit status and what was on the screen."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "IPYTHONDIR": str(self.root / "ipython"),
        }
        command = [
            sys.executable,
            "-c",
            "from jupyter_book.cli.main import main; main()",
            "build",
            ".",
            "-n",
            "-W",
            "--keep-going",
        ]
        done = subprocess.run(
            command,
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout

    @property
    def page(self) -> str:
        return (self.root / "_build" / "html" / "notebooks" / "chapter.html").read_text(
            encoding="utf-8"
        )

    @property
    def executions(self) -> int:
        return len((self.root / "notebooks" / "runs.txt").read_text())

    @property
    def caches(self) -> list[str]:
        return sorted(path.name for path in (self.root / "_build" / ".jupyter_cache").iterdir())


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path)


def test_a_changed_library_changes_the_page_and_an_unchanged_one_runs_nothing(book: Book) -> None:
    status, screen = book.build()
    assert status == 0, screen
    assert "the number is 1111" in book.page
    first = book.caches
    archive = book.root / "_build" / "html" / "mae-book.zip"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert f"--sha256 {digest}" in book.page and 'href="../mae-book.zip"' in book.page
    # No page asks the network for a script, a style or an image.
    preface = (book.root / "_build" / "html" / "preface.html").read_text(encoding="utf-8")
    assert (
        "tex-svg-full.js" in preface
        and (book.root / "_build" / "html" / "_static" / "tex-svg-full.js").is_file()
    )
    for page in (preface, book.page):
        assert not re.search(r'<(script|link|img)[^>]*(src|href)="(https?:)?//', page)

    (book.root / "mae_lib" / "__pycache__").mkdir(exist_ok=True)
    (book.root / "mae_lib" / "__pycache__" / "number.pyc").write_bytes(b"means nothing")
    assert book.build()[0] == 0
    assert book.executions == 1

    book.set_number(2222)
    assert book.build()[0] == 0
    assert book.executions == 2
    assert "the number is 2222" in book.page and "1111" not in book.page
    assert len(book.caches) == 1 and book.caches != first


def test_a_failing_cell_fails_the_build_each_time_with_its_traceback_on_the_screen(
    book: Book,
) -> None:
    book.write_chapter("def halve(x):\n    return x / 0\nhalve(1)")
    for _ in range(2):
        status, screen = book.build()
        assert status != 0
        assert "ZeroDivisionError" in screen and "return x / 0" in screen


def test_a_warning_of_sphinx_fails_the_build(book: Book) -> None:
    book.write_chapter(COUNT, text="A reference to {ref}`nowhere`.")
    status, screen = book.build()
    assert status != 0 and "nowhere" in screen


def test_the_key_follows_names_and_contents_of_the_inputs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    from book_inputs import inputs_key

    keys = [inputs_key(tmp_path)]
    for name in ("mae_lib/a.py", "checkpoints/a.json", "results/deep/a.csv", "requirements.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one")
        keys.append(inputs_key(tmp_path))
        path.write_text("two")
        keys.append(inputs_key(tmp_path))
    (tmp_path / "mae_lib" / "a.py").rename(tmp_path / "mae_lib" / "b.py")
    keys.append(inputs_key(tmp_path))
    assert len(set(keys)) == len(keys)

    for name in (
        "mae_lib/__pycache__/b.pyc",
        "checkpoints/a.lock",
        "checkpoints/.partial/a",
        "README.md",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("means nothing")
    assert inputs_key(tmp_path) == keys[-1]


FAKE_PYTHON = r"""#!/bin/bash
# Stands in for Python: logs what it is asked for and makes environments that hold itself.
log="$(cd "$(dirname "$0")" && pwd)/log"
[ -n "$FAKE_LOG" ] && log="$FAKE_LOG"
case "$*" in
  "-c import sys"*) [ -z "$FAKE_OLD" ] ;;
  "-m venv"*) echo "venv" >> "$log"; rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip install"*) echo "install" >> "$log"; [ -z "$FAKE_BROKEN" ] ;;
  *) true ;;
esac
"""


@pytest.fixture
def make(tmp_path: Path):
    """Run make in a copy of the Makefile, in a folder with a space, with stand-ins: (target,
    **settings) -> (status, screen, log)."""
    root = tmp_path / "a folder"
    root.mkdir()
    shutil.copy(ROOT / "Makefile", root)
    (root / "requirements.txt").write_text("torch==1\n")
    (root / "pyproject.toml").write_text("")
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    log = tmp_path / "log.txt"

    def run(target: str, **settings: str) -> tuple[int, str, str]:
        log.write_text("")
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON")
        }
        environment |= {"FAKE_LOG": str(log), **settings}
        command = ["make", "-s", target, f"PYTHON={python}"]
        done = subprocess.run(
            command,
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        return done.returncode, done.stdout, log.read_text()

    run.root = root
    return run


def test_the_environment_is_made_once_and_again_when_its_requirements_change(make) -> None:
    status, screen, log = make("environment")
    assert (status, log) == (0, "venv\ninstall\ninstall\n"), screen
    assert make("environment") == (0, "", "")
    (make.root / "requirements.txt").write_text("torch==2\n")
    assert make("environment")[2] == "install\ninstall\n"


def test_an_interrupted_environment_is_never_taken_for_whole(make) -> None:
    status, _, log = make("environment", FAKE_BROKEN="yes")
    assert status != 0 and log == "venv\ninstall\n"
    assert make("environment")[2] == "venv\ninstall\ninstall\n"
    # A place that the environment's scripts do not know any more.
    moved = make.root / ".venv" / ".place"
    moved.write_text("/elsewhere\n")
    (make.root / ".venv" / ".ready").unlink()
    assert make("environment")[2].startswith("venv")


def test_an_old_python_is_refused_in_one_line(make) -> None:
    status, screen, log = make("book", FAKE_OLD="yes")
    assert status != 0 and log == ""
    assert screen.startswith("error: ") and "3.11" in screen and "PYTHON=" in screen


def test_make_book_passes_a_failure_on_and_shows_the_reports(make) -> None:
    make("environment")
    builder = make.root / ".venv" / "bin" / "jupyter-book"
    builder.write_text(
        "#!/bin/bash\nmkdir -p _build/html/reports/notebooks; echo 'KaboomError: 7' >"
        " _build/html/reports/notebooks/x.err.log; exit 1\n"
    )
    builder.chmod(0o755)
    status, screen, _ = make("book")
    assert status != 0 and "KaboomError: 7" in screen and "NOT built" in screen
    builder.write_text("#!/bin/bash\nexit 0\n")
    status, screen, _ = make("book")
    assert status == 0 and screen.rstrip().endswith(str(make.root / "_build/html/index.html"))


def test_make_single_puts_the_whole_book_on_one_page_that_finds_its_files(make) -> None:
    book = Book(make.root)
    (book.root / "preface.md").rename(book.root / "book" / "preface.md")
    (book.root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/preface\nchapters:\n- file: notebooks/chapter\n"
    )
    book.write_chapter(
        "import matplotlib.pyplot as plt\nfrom mae_lib.number import NUMBER\nprint('the number is',"
        " NUMBER)\nplt.plot([NUMBER]);"
    )
    make("environment")
    builder = book.root / ".venv" / "bin" / "jupyter-book"
    builder.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c 'from jupyter_book.cli.main import main; main()'"
        ' "$@"\n'
    )
    builder.chmod(0o755)
    status, screen, _ = make("single", PYTHONPATH=str(book.root))
    page = book.root / "_build" / "singlehtml" / "index.html"
    assert status == 0 and screen.rstrip().endswith(str(page)), screen
    text = page.read_text(encoding="utf-8")
    assert "A formula" in text and "the number is 1111" in text
    files = {
        address.split("?")[0] for address in re.findall(r'(?:src|link href)="([^"#:]+)"', text)
    } - {"searchindex.js"}
    assert any(name.endswith(".png") for name in files) and any(
        name.endswith(".css") for name in files
    )
    assert not [name for name in files if not (page.parent / name).is_file()]
