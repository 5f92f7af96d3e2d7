"""Numbers in prose: what is measured is asserted by a cell of its chapter, and none changes without
being named."""

from __future__ import annotations

import ast
import json
import random
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

from mae_book.commands import prose
from mae_book.verdicts import seals
from mae_book.verdicts.claims import CLAIMS
from mae_book.verdicts.further_claims import REAL, TREE_CLAIMS
from mae_book.verdicts.results import repository, results_directory

sys.path.insert(0, str(repository() / "book" / "_ext"))
import run_notebooks

RATIOS = {0.1, 0.25, 0.5, 0.75, 0.9}
"""Masking ratios, which chapters name on every page."""

NINETY_FIVE = {"95": "the level of every interval"}
SETTINGS = "a setting of the embedded world"
ARITHMETIC = "worked out in the sentence itself"
PAPERS = "from the paper's numbers"
GIVEN = {
    "00_embedded_world": NINETY_FIVE
    | dict.fromkeys(("0.02", "0.72", "0.92", "1.1", "0.55", "0.7", "70"), SETTINGS)
    | {"92": "of an earlier law of the world, which is gone"},
    "02_masked_autoencoder": dict.fromkeys(("36.75", "12.25", "0.755"), ARITHMETIC),
    "03b_why_75": NINETY_FIVE
    | dict.fromkeys(("0.3", "0.8", "0.85", "0.95"), "a place on a drawn curve"),
    "05_pretraining_sweep": NINETY_FIVE,
    "06_reconstruction": NINETY_FIVE | dict.fromkeys(("0.53", "2.5", "58.9"), ARITHMETIC),
    "07_attention": NINETY_FIVE,
    "08_linear_separability": {"1.8": PAPERS},
    "09_shape_bias": {"0.221": "Geirhos's ResNet-50", "0.959": "Geirhos's humans"}
    | dict.fromkeys(("0.18", "6.7", "0.067", "2.26", "4.30"), ARITHMETIC),
    "10_transfer": NINETY_FIVE
    | dict.fromkeys(("6.7", "7.3"), PAPERS)
    | {"0.95": "COCO's last threshold", "0.7": "the paper's layer decay", "4.3": "Student's factor"}
    | dict.fromkeys(("0.6", "2.4"), ARITHMETIC),
    "11_improvements": NINETY_FIVE,
    "12_ledger": NINETY_FIVE | {"3.1": "a section", "3.5": "a section", "0.62": "of an exercise"},
    "13_differences": dict.fromkeys(("9.25", "0.121", "1.5"), PAPERS) | {"4.7": ARITHMETIC},
}
"""Chapter → numbers with decimals or in percent that nobody measured here, and what they are."""


def literals(source: str) -> set[float]:
    """The numbers that Python source spells, in strings too, without their signs."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            found.add(abs(float(node.value)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {float(digits) for digits in re.findall(r"\d+(?:\.\d+)?", node.value)}
    return found


def asserted(path: Path) -> set[float]:
    """The numbers in cells of a chapter that assert something."""
    sources = (
        "".join(cell["source"])
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    )
    return set().union(*(literals(source) for source in sources if "assert " in source))


def of_the_paper() -> set[float]:
    """The paper's own numbers, as the claims have them."""
    return {
        float(value)
        for claim in (*CLAIMS.values(), *REAL.values(), *TREE_CLAIMS.values())
        for runs in claim.paper.values()
        for value in runs.values()
    }


def held(number: prose.Number, by: set[float]) -> bool:
    """Whether one of the numbers ``by`` is this one, as precisely as it is said."""
    digits = re.sub(r"[^\d.]", "", number.said)
    places = len(digits.partition(".")[2])
    scales = (1, 100) if number.percent else (1,)
    return any(
        abs(float(digits) - scale * value) <= 0.5001 * 10**-places
        and (value == 0) == (float(digits) == 0)
        for value in by
        for scale in scales
    )


def unheld(path: Path) -> list[prose.Number]:
    """What a chapter's prose says that no cell of it asserts and that is not given."""
    given = {float(said) for said in GIVEN.get(path.stem, {})}
    by = asserted(path) | of_the_paper() | RATIOS | given
    return [
        number
        for cell in prose.cells(path)
        for number in prose.numbers(cell)
        if number.measured and not held(number, by)
    ]


CHAPTERS = sorted((repository() / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_what_a_chapter_measured_is_asserted_by_its_cells(path):
    found = [str(number) for number in unheld(path)]
    assert not found, (
        f"{path.name} says {found}: assert it in a cell, or name it in GIVEN if it is no result"
    )


def test_what_is_given_is_said():
    for chapter, given in GIVEN.items():
        said = {
            re.sub(r"[^\d.]", "", number.said)
            for cell in prose.cells(repository() / "notebooks" / f"{chapter}.ipynb")
            for number in prose.numbers(cell)
        }
        assert given.keys() <= said, f"{chapter} no longer says {given.keys() - said}"


def test_the_prose_says_the_numbers_that_it_was_sealed_with():
    assert prose.faults() == []


def changed_outputs(path: Path) -> list[str]:
    """The cells of a notebook whose outputs are not those of the run that its metadata names."""
    notebook = nbformat.read(path, as_version=4)
    made, now = notebook.metadata["made"]["outputs"], run_notebooks.digests(notebook)
    return sorted(cell for cell in made.keys() | now.keys() if made.get(cell) != now.get(cell))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_outputs_of_a_chapter_are_those_of_its_run(path):
    assert not changed_outputs(path), (
        f"cells of {path.name} with outputs that its run did not make: `make notebooks` runs it"
        f" again, `git checkout notebooks/{path.name}` brings them back"
    )


def test_a_run_notes_the_outputs_that_it_saves(tmp_path):
    source = "print(1 / 3)\nfrom mae_lib.base.tables import Table\nTable(['a'], [['1']])"
    path = tmp_path / "short.ipynb"
    cells = [nbformat.v4.new_code_cell(source), nbformat.v4.new_code_cell("x = 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    run_notebooks.run(path)
    assert changed_outputs(path) == [] and "0.333" in path.read_text()
    path.write_text(path.read_text().replace("0.333", "0.334"))
    assert len(changed_outputs(path)) == 1


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the book's text, outputs and some results, whose numbers a test may change."""
    for folder, pattern in (("notebooks", "*.ipynb"), ("book", "*.md"), ("book", "numbers.json")):
        (tmp_path / folder).mkdir(exist_ok=True)
        for path in (repository() / folder).glob(pattern):
            shutil.copy(path, tmp_path / folder)
    for name in ("README.md", "_toc.yml"):
        shutil.copy(repository() / name, tmp_path)
    shutil.copytree(results_directory() / "shape_bias", tmp_path / "results" / "shape_bias")
    monkeypatch.setattr(prose, "repository", lambda: tmp_path)
    monkeypatch.setattr(seals, "results_directory", lambda: tmp_path / "results")
    seals.seal()
    return tmp_path


def other_digit(draw: random.Random, text: str, spots: list[int]) -> str:
    """The text with one of the digits at ``spots`` changed."""
    spot = draw.choice(spots)
    digit = draw.choice([d for d in "123456789" if d != text[spot]])
    return text[:spot] + digit + text[spot + 1 :]


def prose_digits(cell: dict) -> list[int]:
    text = "".join(cell["source"])
    return [
        found.end() - 1
        for found in prose._NUMBER.finditer(prose._CODE.sub(lambda m: " " * len(m[0]), text))
    ]


def test_any_number_changed_in_prose_outputs_or_results_is_named(copy):
    draw = random.Random(19)
    chapters = sorted((copy / "notebooks").glob("*.ipynb"))
    for _ in range(8):  # in prose
        path = draw.choice(chapters)
        kept = path.read_text(encoding="utf-8")
        notebook = json.loads(kept)
        cell = draw.choice(
            [c for c in notebook["cells"] if c["cell_type"] == "markdown" and prose_digits(c)]
        )
        cell["source"] = other_digit(draw, "".join(cell["source"]), prose_digits(cell))
        path.write_text(json.dumps(notebook), encoding="utf-8")
        (fault,) = prose.faults()
        assert fault.startswith(f"notebooks/{path.name}: the prose says ")
        path.write_text(kept, encoding="utf-8")
    for _ in range(8):  # in outputs
        path = draw.choice(chapters)
        kept = path.read_text(encoding="utf-8")
        notebook = json.loads(kept)
        cell, text = draw.choice(
            [
                (cell, text)
                for cell in notebook["cells"]
                for output in cell.get("outputs", ())
                for text in (output.get("text"), output.get("data", {}).get("text/plain"))
                if text and re.search(r"\d", "".join(text))
            ]
        )
        whole = "".join(text)
        digits = [found.start() for found in re.finditer(r"\d", whole)]
        text[:] = [other_digit(draw, whole, digits)]
        path.write_text(json.dumps(notebook), encoding="utf-8")
        assert changed_outputs(path) == [cell["id"]]
        path.write_text(kept, encoding="utf-8")
    for path in draw.sample(sorted((copy / "results").rglob("*.json")), 4):
        kept = path.read_text()
        digits = [m.start() for m in re.finditer(r"\d", kept)]
        path.write_text(other_digit(draw, kept, digits))
        assert seals.changes().changed == (path.relative_to(copy / "results").as_posix(),)
        path.write_text(kept)
    assert prose.faults() == seals.changes().faults() == []
