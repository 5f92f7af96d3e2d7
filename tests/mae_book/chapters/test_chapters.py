"""What chapters rely on: parameters are what they were declared to be, inside the notebook and from
outside."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import nbformat
import papermill
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_code_cell, new_notebook

from mae_book.chapters.pages import TIER_MEANINGS, chapter_pages, tier_badge
from mae_book.verdicts.ledger import every_claim
from mae_book.verdicts.results import repository
from mae_lib.base.errors import InputError
from mae_lib.base.parameters import (
    Natural,
    Positive,
    Ratio,
    Ratios,
    Units,
    check_notebook_parameters,
    check_parameters,
    declared_parameters,
)
from mae_lib.training.tiers import TIERS

Tier = Literal["smoke", "laptop", "gpu", "paper"]

PARAMETERS = """\
tier: str = "smoke"                     # compute tier
mask_ratios: list[float] = [0.1, 0.75]  # which ratios
seed: int = 0                           # of everything random
quick: bool = True                      # fewer images
"""
CHECK = """\
from typing import Literal
from mae_lib.base.parameters import check_parameters
check_parameters(
    globals(), tier=Literal["smoke", "laptop", "gpu", "paper"], mask_ratios=list[float], seed=int,
    quick=bool,
)
"""
SCIENCE = """\
import os
from mae_lib.base.errors import InputError
if seed == 1: raise InputError("too few images: give 10")
if seed == 2: 1 / 0
if seed == 3: os._exit(1)
print("reached the science")
"""


def write_notebook(path: Path, *cells: str) -> Path:
    """A notebook of code cells, the first tagged as papermill's parameters."""
    notebook = new_notebook(cells=list(map(new_code_cell, cells)))
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def chapter(tmp_path: Path) -> Path:
    return write_notebook(tmp_path / "chapter.ipynb", PARAMETERS, CHECK, SCIENCE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("smoke", str),
        ("smoke", Tier),
        (3, int),
        (3, float),
        (0.5, float),
        (True, bool),
        (None, None),
        (None, str | None),
        ("a", Optional[str]),
        ([1, 0.5], list[float]),
        ((1, 0.5), list[float]),
        ([], list[float]),
        ([[1], []], list[list[int]]),
        ((1, "a"), tuple[int, str]),
        ((1, 2, 3), tuple[int, ...]),
        ({"a": 1}, dict[str, float]),
        ({"a": 1}, dict),
        ([1, "a"], list),
        (4, Literal[4, 8]),
        ("auto", int | Literal["auto"]),
        (object(), Any),
        (16, Annotated[int, "at least 16"]),
        (0.5, Annotated[float, "above 0 and below 1"]),
        ([0.5, 0.9], Ratios),
        ([4], Units),
        (0, Natural),
        (None, Positive | None),
    ],
)
def test_values_of_the_declared_type_pass(value: Any, expected: Any) -> None:
    check_parameters({"name": value}, name=expected)


@pytest.mark.parametrize(
    ("value", "expected", "said"),
    [
        ("false", bool, "-p name False or -y 'name: false'"),
        ("True ", bool, "-p name True"),
        ("false", bool | None, "-p name False"),
        (1, bool, "not int 1"),
        (True, int, "not bool True"),
        (True, float, "not bool True"),
        (True, Literal[1, 2], "not bool True"),
        (1.0, int, "not float 1.0"),
        ("0.5", float, "not str '0.5'"),
        (0.5, list[float], "-y 'name: [first, second]'"),
        ("[0.1, 0.5]", list[float], "-y 'name: [first, second]'"),
        ([0.1, "0.5"], list[float], "list[float]"),
        ([True], list[int], "list[int]"),
        ((1,), tuple[int, str], "tuple[int, str]"),
        ({"a": "b"}, dict[str, int], "-y 'name: {key: value}'"),
        (2024, str, "-r name 2024"),
        (None, str, "not NoneType None"),
        ("labtop", Tier, "did you mean 'laptop'?"),
        ("huge", Tier, "'smoke' or 'laptop' or 'gpu' or 'paper'"),
        (0, str | None, "str or None"),
        (0, Positive, "int at least 1, not int 0"),
        (-1, Natural, "at least 0"),
        (True, Positive, "not bool True"),
        (0.0, Ratio, "float above 0 and below 1"),
        (1, Ratio, "float above 0 and below 1"),
        (float("nan"), Ratio, "float above 0 and below 1"),
        ([], Ratios, "not empty, not list []"),
        ([0.5, 1.5], Ratios, "list[float above 0 and below 1] not empty"),
        ([8, 0], Units, "list[int at least 1]"),
        (15, Annotated[int, "at least 16"] | None, "int at least 16 or None"),
    ],
)
def test_values_of_another_type_are_refused_with_the_remedy(
    value: Any, expected: Any, said: str
) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        check_parameters({"name": value}, name=expected)
    assert "'name'" in str(caught.value) and "\n" not in str(caught.value)


@given(
    st.one_of(
        st.integers(), st.floats(), st.booleans(), st.text(), st.none(), st.lists(st.integers())
    )
)
def test_a_value_matches_its_own_type_and_the_simple_types_exclude_each_other(value: Any) -> None:
    def passes(expected: Any) -> bool:
        try:
            check_parameters({"name": value}, name=expected)
        except InputError as error:
            assert "\n" not in str(error)
            return False
        return True

    accepted = {kind for kind in (bool, int, float, str, list, type(None)) if passes(kind)}
    assert type(value) in accepted
    assert accepted == {type(value)} | ({float} if type(value) is int else set())
    assert passes(Any) and passes(int | float | bool | str | list | None)


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(InputError, match="'seed' is missing"):
        check_parameters({"tier": "smoke"}, tier=str, seed=int)


def test_an_undeclared_name_is_refused_and_the_nearest_suggested() -> None:
    with pytest.raises(InputError, match="no parameter 'mask_ratio': did you mean 'mask_ratios'?"):
        check_parameters({"mask_ratios": [0.5], "mask_ratio": 0.9}, mask_ratios=list[float])
    with pytest.raises(InputError, match=r"no parameter 'zzz': remove it. \(parameters: seed\)"):
        check_parameters({"seed": 1, "zzz": 2}, seed=int)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InputError, match="'tier'.*; .*'quick'.*; .*'sed'"):
        check_parameters({"quick": "false", "sed": 1}, tier=str, quick=bool)


def test_a_declaration_that_is_no_type_is_the_authors_error() -> None:
    with pytest.raises(TypeError, match="no type"):
        check_parameters({"name": 1}, name=set)
    with pytest.raises(TypeError, match="no range"):
        check_parameters({"name": 1}, name=Annotated[int, "positive"])


def test_what_notebooks_hold_beside_parameters_is_passed_over() -> None:
    shell = InteractiveShell()
    for line in (
        "import numpy as np",
        "from pathlib import Path",
        "from typing import Literal, Any",
        "def f(): pass",
        "class C: pass",
        "seed = 1",
        "_x = 2",
    ):
        shell.run_cell(line, store_history=True).raise_error()
    check_parameters(shell.user_ns, seed=int)
    shell.run_cell("sede = 1")
    with pytest.raises(InputError, match="'sede': did you mean 'seed'"):
        check_parameters(shell.user_ns, seed=int)


def test_the_outside_check_reads_the_notebooks_own_declaration(chapter: Path) -> None:
    assert declared_parameters(chapter) == {
        "tier": Tier,
        "mask_ratios": list[float],
        "seed": int,
        "quick": bool,
    }
    check_notebook_parameters(chapter, {"mask_ratios": [0.1], "quick": False, "tier": "laptop"})
    with pytest.raises(
        InputError, match=r"chapter.ipynb: .*'mask_ratio': did you mean 'mask_ratios'"
    ):
        check_notebook_parameters(chapter, {"mask_ratio": [0.1]})
    with pytest.raises(InputError, match="-p quick False"):
        check_notebook_parameters(chapter, {"quick": "false"})
    with pytest.raises(InputError, match="did you mean 'laptop'"):
        check_notebook_parameters(chapter, {"tier": "lapto"})


def test_notebooks_that_cannot_be_checked_from_outside_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no notebook"):
        check_notebook_parameters(tmp_path / "absent.ipynb", {})
    broken = tmp_path / "broken.ipynb"
    for content in ("{", "[]", "{}"):
        broken.write_text(content)
        with pytest.raises(InputError, match="not a readable notebook"):
            check_notebook_parameters(broken, {})
    with pytest.raises(InputError, match="declares no parameters"):
        check_notebook_parameters(write_notebook(broken, PARAMETERS, "%matplotlib inline"), {})
    with pytest.raises(InputError, match="type 'Tier' of parameter 'tier'"):
        check_notebook_parameters(
            write_notebook(broken, PARAMETERS, "check_parameters(globals(), tier=Tier)"), {}
        )
    # Looking at a notebook runs nothing of it.
    with pytest.raises(InputError, match="cannot be read from outside"):
        check_notebook_parameters(
            write_notebook(
                broken,
                PARAMETERS,
                f"check_parameters(globals(), tier=open({str(tmp_path / 'x')!r}, 'w'))",
            ),
            {},
        )
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def entry_points(tmp_path_factory) -> Path:
    """A folder that declares the project's entry points of papermill, as an installation does."""
    folder = tmp_path_factory.mktemp("installed")
    project = tomllib.loads((repository() / "pyproject.toml").read_text())["project"]
    lines = [f"{k} = {v}" for k, v in project["entry-points"]["papermill.engine"].items()]
    info = folder / "of_the_test-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: of-the-test\nVersion: 0\n")
    (info / "entry_points.txt").write_text("\n".join(["[papermill.engine]", *lines]))
    return folder


@pytest.fixture
def run_papermill(chapter: Path, entry_points: Path):
    """papermill's own command on a notebook: exit status, and what it says."""

    def run(*arguments: str, out: str = "out.ipynb", notebook: Path = chapter) -> tuple[int, str]:
        paths = [str(repository()), str(repository() / "book"), str(entry_points)]
        done = subprocess.run(
            [sys.executable, "-m", "papermill", notebook.name, out, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=notebook.parent,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        return done.returncode, done.stdout

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-p", "mask_ratio", "0.5"), "did you mean 'mask_ratios'?"),
        (("-p", "quick", "false"), "use -p quick False or -y 'quick: false'"),
    ],
)
def test_papermill_stops_at_a_wrong_parameter(
    run_papermill, chapter: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = sorted(chapter.parent.iterdir())
    status, screen = run_papermill(*arguments)
    errors = [line for line in screen.splitlines() if line.startswith("papermill: ")]
    assert status != 0 and len(errors) == 1 and said in errors[0]
    assert "Traceback" not in screen and "Executing" not in screen  # no kernel was started
    assert sorted(chapter.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        (1, "papermill: too few images: give 10 (cell [4])"),
        (2, "papermill: ZeroDivisionError: division by zero (cell [4])"),
        (3, "papermill: the kernel died"),
    ],
)
def test_a_run_that_fails_is_one_line_and_leaves_the_output_s_name_alone(
    run_papermill, chapter: Path, seed: int, said: str
) -> None:
    chapter.with_name("out.ipynb").write_text("of an earlier run")
    status, screen = run_papermill("-p", "seed", str(seed), "--no-progress-bar")
    assert status != 0 and "Traceback" not in screen
    assert screen.splitlines()[-1].startswith(said)
    assert screen.splitlines()[-1].endswith("what was run is in out.failed.ipynb")
    assert chapter.with_name("out.ipynb").read_text() == "of an earlier run"
    failed = nbformat.read(chapter.with_name("out.failed.ipynb"), as_version=4)
    assert any(output for cell in failed.cells for output in cell.get("outputs", [])) == (seed < 3)
    assert not chapter.with_name("out.unfinished.ipynb").exists()


def test_papermill_runs_with_right_parameters_into_a_folder_that_is_not_there(
    run_papermill, chapter: Path
) -> None:
    words = ("-p", "quick", "False", "-y", "mask_ratios: [0.5, 1]", "-p", "tier", "laptop")
    status, screen = run_papermill(*words, "--log-output", out="new/folder/out.ipynb")
    assert status == 0, screen
    assert "reached the science" in screen
    assert [path.name for path in (chapter.parent / "new/folder").iterdir()] == ["out.ipynb"]
    chapter.with_name("taken").write_text("a file")
    status, screen = run_papermill(out="taken/out.ipynb")
    assert status != 0 and "cannot make the folder taken" in screen.splitlines()[-1]


def test_a_notebook_of_others_runs_as_papermill_always_runs_it(
    run_papermill, chapter: Path
) -> None:
    write_notebook(chapter, "seed = 1", "1 / 0")
    status, screen = run_papermill("-p", "seed", "2")
    assert status != 0 and "PapermillExecutionError" in screen
    assert chapter.with_name("out.ipynb").is_file()


def test_every_chapter_finds_values_out_of_range_before_it_starts() -> None:
    """Every number has a range, every list but two may not be empty, every word of few is named."""
    free = {"data_root", "stimuli_root", "train_split", "validation_split", "checkpoint"}
    free |= {"device", "run", "real_results"}  # folders, files and what is looked up later
    for path in sorted((repository() / "notebooks").glob("*.ipynb")):
        defaults = papermill.inspect_notebook(str(path))
        for name in declared_parameters(path):
            default = eval(defaults[name]["default"])
            if isinstance(default, bool) or name in free | {"claims", "masked"}:
                continue
            wrong = {int: [-2], float: [-0.5], list: [[], [0], [-1]], str: ["no such word"]}
            for value in wrong[type(default)]:
                with pytest.raises(InputError, match=f"parameter '{name}' has to be"):
                    check_notebook_parameters(path, {name: value})


def test_every_chapter_declares_the_parameters_that_papermill_sees() -> None:
    """papermill's help skips a parameter line it cannot parse; and a chapter's defaults have to
    pass its own check."""
    for path in sorted((repository() / "notebooks").glob("*.ipynb")):
        declared = declared_parameters(path)
        seen = papermill.inspect_notebook(str(path))
        assert set(seen) == set(declared), path.name
        cell = next(
            cell
            for cell in nbformat.read(path, as_version=4).cells
            if "parameters" in cell.metadata.get("tags", [])
        )
        defaults: dict[str, Any] = {}
        exec(cell.source, defaults)
        check_parameters(
            {name: value for name, value in defaults.items() if name != "__builtins__"}, **declared
        )


@pytest.mark.parametrize("tier", TIER_MEANINGS)
def test_the_badge_names_tier_and_time_on_every_face(tier: str) -> None:
    badge = tier_badge(tier, 75.2, "<2 cores>")
    for face in (badge._repr_html_(), badge._repr_markdown_(), str(badge)):
        assert f"tier {tier}" in face and TIER_MEANINGS[tier] in face and "75 s" in face
    assert (
        f'class="tier-badge tier-{tier}"' in badge._repr_html_()
        and "&lt;2 cores&gt;" in badge._repr_html_()
    )


def test_every_tier_of_the_library_has_a_badge() -> None:
    assert set(TIER_MEANINGS) == set(TIERS)


def test_the_badge_speaks_plainly_of_time_and_smoke() -> None:
    assert "numbers on this page mean nothing" in str(tier_badge("smoke"))
    assert "made in" not in str(tier_badge("laptop"))
    for seconds, said in ((3.21, "3.2 s"), (45, "45 s"), (600, "10 min"), (9000, "2.5 h")):
        assert str(tier_badge("laptop", seconds)).endswith(f"made in {said}")
    with pytest.raises(InputError, match="no tier 'huge'"):
        tier_badge("huge")


def test_the_repository_is_found_from_anywhere_and_its_absence_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (repository() / "_toc.yml").is_file() and (repository() / "mae_lib").is_dir()
    monkeypatch.setattr(
        "mae_book.verdicts.results.__file__",
        str(tmp_path / "site-packages" / "mae_book" / "verdicts" / "results.py"),
    )
    with pytest.raises(InputError, match="pip install -e"):
        repository()


def test_importing_chapters_does_not_import_torch() -> None:
    code = "import sys, mae_book.chapters.pages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository()).returncode == 0


def test_chapters_refer_to_each_other_by_links_that_jupyter_follows_too():
    """JupyterLab shows a role such as {ref} as it is written; a path leads on in both."""
    for path in sorted((repository() / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                assert "{ref}" not in cell.source, (path.name, cell.source[:200])
                for target in re.findall(r"\]\(([^)#:\s]+\.(?:ipynb|md))", cell.source):
                    assert (path.parent / target).is_file(), (path.name, target)


def test_every_claim_is_decided_in_a_chapter_that_exists():
    pages = chapter_pages()
    assert pages["chapter-separability"] == "08_linear_separability.html" and all(
        (repository() / "notebooks" / page.replace(".html", ".ipynb")).is_file()
        for page in pages.values()
    )
    assert {claim.chapter for claim in every_claim().values()} <= set(pages)


def test_no_chapter_trains_unasked() -> None:
    """Whatever calls `obtain` has been asked by `announce` with the chapter's own parameter, which
    is False unless it is given."""
    for path in sorted((repository() / "notebooks").glob("*.ipynb")):
        trees = [
            ast.parse(cell.source)
            for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == "code"
        ]
        calls = [
            (getattr(node.func, "id", getattr(node.func, "attr", "")), node)
            for tree in trees
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
        ]
        trained = [name for name, _ in calls if name in ("obtain", "obtain_detector")]
        asked = [node for name, node in calls if name in ("announce", "announce_detectors")]
        assert len(asked) == len(trained) and all(
            any(
                word.arg == "train_missing" and getattr(word.value, "id", "") == "train_missing"
                for word in node.keywords
            )
            for node in asked
        ), path.name
        if asked:
            given = [
                node
                for node in trees[0].body
                if isinstance(node, ast.AnnAssign) and node.target.id == "train_missing"
            ]
            assert [node.value.value for node in given] == [False], path.name


def test_a_chapter_that_misses_checkpoints_says_so_and_trains_nothing(
    run_papermill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    (sweep,) = (repository() / "notebooks").glob("05_*.ipynb")
    copy = Path(shutil.copy(sweep, tmp_path))
    status, screen = run_papermill("-p", "seed", "77", notebook=copy)
    last = screen.strip().splitlines()[-1]
    assert status != 0 and "8 to have, 0 already stored: 8 to train, about" in last, screen
    assert "r10-u8-p8-s77" in last and "train_missing=True" in last
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
