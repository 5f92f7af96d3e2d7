"""The map between paper and code and the API pages: nothing of the paper is without code and tests,
every name on the map is there, and the docstrings become pages without a warning. And the messages
that the page *Troubleshooting* explains are messages that the library prints.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import docutils.core
import docutils.utils
import pytest
from docutils.parsers.rst import roles
from hypothesis import given
from hypothesis import strategies as st
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import book_api  # noqa: E402
import book_map  # noqa: E402
import map_sources  # noqa: E402
from paper_items import ITEMS, KINDS, Item  # noqa: E402

DOCUMENTS = [f"notebooks/{path.stem}" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))] + [
    "book/proofs"
]
MODULES = list(map_sources.modules(ROOT))


@pytest.fixture(scope="module")
def sources() -> map_sources.Sources:
    return map_sources.read_sources(ROOT, DOCUMENTS)


@pytest.fixture(scope="module")
def drawn(sources: map_sources.Sources) -> dict[str, book_map.Found]:
    return book_map.draw_map(sources)


def test_every_item_has_code_that_can_be_imported_and_tests_that_pytest_would_collect(
    drawn: dict,
) -> None:
    assert drawn.keys() == {item.id for item in ITEMS} and len(drawn) == len(ITEMS)
    for identity, found in drawn.items():
        assert found.code and found.tests, identity
        for code in found.code:
            assert book_api.find(code.entry) is not None and book_api.documented(code.entry), (
                f"{identity}: {code.entry}"
            )
            assert code.entry.startswith(code.module)
        for name, tests in found.tests.items():
            (path,) = (ROOT / "tests").rglob(name)
            text = path.read_text(encoding="utf-8")
            assert tests and all(
                re.search(rf"^\s*(async )?def {test}\(", text, re.MULTILINE) for test in tests
            ), f"{identity}: {name}"


def test_every_numbered_item_and_section_is_in_a_chapter(drawn: dict) -> None:
    assert not [identity for identity, found in drawn.items() if not found.pages]
    for number in ("1", "2"):
        assert any(f"eq-{number}" in page.equations for page in drawn[f"Equation {number}"].pages)


def test_every_claim_is_about_an_item_or_ours_and_decided_in_a_chapter_that_exists(
    sources: map_sources.Sources, drawn: dict
) -> None:
    of_paper = {
        identity for identity, where in sources.claims.items() if not where.startswith("ours")
    }
    assert of_paper == {identity for found in drawn.values() for identity in found.claims}
    labels = {page.label for page in sources.pages}
    assert {claim.chapter for claim in map_sources.claims().values()} <= labels


def test_known_places(drawn: dict) -> None:
    """A few that anybody would name: were these not found, the search would be broken however much
    else it found."""

    def entries(identity: str) -> set[str]:
        return {code.entry for code in drawn[identity].code}

    assert {
        "mae_lib.theory.shared.locate_shared",
        "mae_lib.theory.shared.locate_shared_batch",
    } <= entries("Algorithm 1")
    assert "mae_lib.theory.shared.locate_shared" in entries("Algorithm 2")
    assert "mae_lib.model.autoencoder.MaskedAutoencoder.forward" in entries("Equation 2")
    assert (
        "test_every_small_graph_mask_and_candidate" in drawn["Algorithm 1"].tests["test_shared.py"]
    )
    assert next(page.label for page in drawn["Table 2"].pages) == "chapter-shape-bias"
    assert [figure.label for figure in drawn["Figure 4"].figures] == ["fig-figure-4"]
    assert drawn["masking ratio"].code[0].name == "MaskSpec.ratio"
    # Geirhos's own §3.1 is not the paper's.
    assert not any(code.module.endswith("shape_bias") for code in drawn["§3.1"].code)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Algorithms 1 and 2, reconstructed", {"Algorithm 1", "Algorithm 2"}),
        ("(§3.2, Figures 6 and 7)", {"§3.2", "Figure 6", "Figure 7"}),
        ("the evaluations of §3.1–§3.4 and §3.6", {"§3.1", "§3.2", "§3.3", "§3.4", "§3.6"}),
        ("Tables 1 to 3", {"Table 1", "Table 2", "Table 3"}),
        ("Fig. 4, left", {"Figure 4"}),
        ("eq. 2, where; equation 1", {"Equation 1", "Equation 2"}),
        ("by {eq}`eq-2` and {eq}`eq-symmetry`", {"Equation 2"}),
        ("§3, the overview", {"§3"}),
        ("Geirhos et al., §3.1 there", set()),
        ("their Table 2 there and Figure 3 there", set()),
        ("He et al., Table 8; Table 10; {numref}`fig-1`", set()),
        ("Theorem 2\nand Assumption 1", {"Theorem 2", "Assumption 1"}),
    ],
)
def test_what_a_text_names(text: str, found: set[str]) -> None:
    assert map_sources.mentions(text) == found


@given(st.lists(st.integers(1, 8), min_size=1, max_size=5), st.sampled_from([", ", " and "]))
def test_lists_are_spelled_out(numbers: list[int], joint: str) -> None:
    assert map_sources.mentions(f"see Figures {joint.join(map(str, numbers))}.") == {
        f"Figure {number}" for number in numbers
    }


LIBRARY = '''"""A module (§2.2)."""

class Mask:
    """The law p_m."""

    ratio: float

    def sample(self):
        """Draws (Algorithm 1)."""

    def _hidden(self):
        """Figure 1."""
'''
TESTS = '''"""Tests."""
from mae_lib.masks import Mask

def helper():
    return Mask().sample()

def test_through_a_helper():
    helper()

def test_of_a_field():
    Mask().ratio

def test_of_nothing():
    """Table 2."""
'''


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A library of one module with its tests and a chapter."""
    for folder in ("mae_lib", "tests", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mae_lib" / "masks.py").write_text(LIBRARY)
    (tmp_path / "tests" / "test_masks.py").write_text(TESTS)
    cells = [
        {
            "cell_type": "markdown",
            "source": ["(a-chapter)=\n", "# 1 Chapter\n", "\n", "**§2.2**"],
            "metadata": {},
        },
        {"cell_type": "markdown", "source": ["Equation:\n\n$$\nx\n$$ (eq-2)\n"], "metadata": {}},
        {
            "cell_type": "code",
            "source": ["%matplotlib inline\n", "from mae_lib.masks import Mask\n", "Mask()"],
            "metadata": {
                "mystnb": {"figure": {"name": "fig-one", "caption": "The paper's Figure 2."}}
            },
        },
    ]
    (tmp_path / "notebooks" / "one.ipynb").write_text(json.dumps({"cells": cells}))
    return tmp_path


def test_each_way_to_an_item_on_a_small_library(small: Path) -> None:
    sources = map_sources.read_sources(small, ["notebooks/one"])
    ratio = Item("ratio", "symbol", "m", "2.2", "r", re.compile("no such text"), ("ratio",))
    law = Item("law", "symbol", "m", "2.2", "p", re.compile(r"\bp_m\b"))
    items = {item.id: item for item in (*ITEMS, ratio, law)}
    drawn = book_map.draw_map(
        sources, [items[name] for name in ("§2.2", "Algorithm 1", "ratio", "law")]
    )
    assert {name: [code.name for code in found.code] for name, found in drawn.items()} == {
        "§2.2": [""], "Algorithm 1": ["Mask.sample"], "ratio": ["Mask.ratio"], "law": ["Mask"],
    }  # fmt: skip
    assert drawn["§2.2"].tests == {
        "test_masks.py": ["test_through_a_helper", "test_of_a_field", "test_of_nothing"]
    }
    assert drawn["Algorithm 1"].tests == {"test_masks.py": ["test_through_a_helper"]}
    assert drawn["ratio"].tests == {"test_masks.py": ["test_of_a_field"]}
    page = sources.pages[0]
    assert (page.label, page.title, page.equations) == (
        "a-chapter",
        "1 Chapter",
        {"eq-2"},
    ) and "mae_lib.masks" in page.modules
    assert [figure.mentions for figure in page.figures] == [{"Figure 2"}]
    # A figure's code is what its cell draws it from, if that is of the item's section or draws.
    figure = Item("Figure 2", "figure", "m", "2.2")
    assert [code.name for code in book_map.draw_map(sources, [figure])["Figure 2"].code] == ["Mask"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("(Algorithm 1)", ""), "Algorithm 1 of the paper is in no docstring"),
        (("def sample", "def draw"), "Algorithm 1 of the paper has no test"),
    ],
)
def test_an_item_that_lost_its_code_or_its_test_stops_the_build_by_name(
    small: Path, change: tuple[str, str], said: str
) -> None:
    path = small / "mae_lib" / "masks.py"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(ExtensionError, match=said):
        book_map.draw_map(
            map_sources.read_sources(small, []),
            [item for item in ITEMS if item.id == "Algorithm 1"],
        )


def test_a_symbol_whose_name_left_the_code_stops_the_build_by_name(small: Path) -> None:
    item = Item("unit", "symbol", "m", "2.2", "s", None, ("unit",))
    with pytest.raises(
        ExtensionError, match="unit: no module of §2.2 has a function or field called unit"
    ):
        book_map.draw_map(map_sources.read_sources(small, []), [item])


def test_the_written_map_names_every_item_module_and_claim_and_nothing_that_is_missing(
    sources: map_sources.Sources, drawn: dict
) -> None:
    items, modules, claims = (
        book_map.write_items(drawn),
        book_map.write_modules(sources, drawn),
        book_map.write_claims(sources, drawn),
    )
    assert all(item.id in items for item in ITEMS) and all(
        f"### {heading}" in items for heading in KINDS.values()
    )
    assert re.findall(r"^\| \{py:obj\}`\w+ <([\w.]+)>`", modules, re.MULTILINE) == MODULES
    assert re.findall(r"^\| ([\w-]+) \|", claims, re.MULTILINE)[1:] == list(map_sources.claims())
    for text in (items, modules, claims):
        for target in re.findall(r"\{py:obj\}`[^`<]*<([\w.]+)>`", text):
            assert book_api.documented(target), target
        known = {page.label for page in sources.pages} | {"map-claims"}
        assert set(re.findall(r"\{ref\}`[^`<]*<([\w-]+)>`", text)) <= known
    assert "| – |" not in claims
    assert all(len(line.split("|")) == 6 for line in modules.splitlines()) and all(
        len(line.split("|")) == 7 for line in claims.splitlines()
    )


def test_every_module_is_on_one_api_page() -> None:
    listed = [
        name
        for page in sorted((ROOT / "book" / "api").glob("*.md"))
        for name in re.findall(
            r"^\.\. automodule:: (mae_\w+\.[\w.]+)$", page.read_text(), re.MULTILINE
        )
    ]
    missing, surplus = set(MODULES) - set(listed), set(listed) - set(MODULES)
    assert not missing, (
        f"add to a page of book/api, under a heading of its own: {', '.join(sorted(missing))}"
    )
    assert not surplus, f"no such module: {', '.join(sorted(surplus))}"
    assert len(listed) == len(set(listed))


def documented_things() -> list[tuple[str, str, object]]:
    """(what, dotted name, object) of all that the API pages show: modules, and what is public in
    them and has a docstring."""
    found: list[tuple[str, str, object]] = []
    for full, path in map_sources.modules(ROOT).items():
        found.append(("module", full, importlib.import_module(full)))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                what = "class" if isinstance(node, ast.ClassDef) else "function"
                found.append((what, f"{full}.{node.name}", book_api.find(f"{full}.{node.name}")))
                for part in node.body if what == "class" else ():
                    if isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
                        found.append(
                            (
                                "method",
                                f"{full}.{node.name}.{part.name}",
                                getattr(book_api.find(f"{full}.{node.name}"), part.name),
                            )
                        )
    return [each for each in found if inspect.getdoc(each[2])]


def test_every_docstring_becomes_text_without_a_warning() -> None:
    roles.register_generic_role("py:obj", docutils.nodes.literal)
    things = documented_things()
    assert len(things) > 400
    for what, name, thing in things:
        lines = inspect.getdoc(thing).splitlines()
        book_api.prepare(None, what, name, thing, None, lines)
        try:
            docutils.core.publish_doctree(
                "\n".join(lines),
                settings_overrides={"report_level": 2, "halt_level": 2, "warning_stream": False},
            )
        except docutils.utils.SystemMessage as error:
            pytest.fail(f"{name}: {error}")
        for target in re.findall(r":py:obj:`[^`<]*<([\w.]+)>`", "\n".join(lines)):
            assert book_api.documented(target), f"{name} links to {target}, which has no entry"


def test_entries_that_share_a_line_are_told_apart_and_sentences_are_not() -> None:
    def draw(masked: int, ignored: int, visible: int) -> None:
        """Draw.

        Args:
            masked: bool [B, N]; wrapped
                over two lines. ignored, visible: the same. note: no parameter.

        Returns:
            name: value, as it stands.
        """

    lines = inspect.getdoc(draw).splitlines()
    book_api.prepare(None, "function", "mae_lib.masks.masking.draw", draw, None, lines)
    text = "\n".join(lines)
    assert "**masked** -- bool [B, N]; wrapped over two lines." in text
    assert "**ignored, visible** -- the same. note: no parameter." in text
    assert re.search(r":Returns:\s+name: value, as it stands\.", text)


@pytest.mark.parametrize(
    ("line", "shielded"),
    [
        (
            "see `locate_shared` and `nothing`",
            "see :py:obj:`locate_shared <mae_lib.theory.shared.locate_shared>` and ``nothing``",
        ),
        (
            ":class:`mae_lib.masks.masking.MaskSpec` and ``a_``",
            ":py:obj:`mae_lib.masks.masking.MaskSpec <mae_lib.masks.masking.MaskSpec>` and ``a_``",
        ),
        ("max(|u|, |v|) of s_", r"max(\|u\|, \|v\|) of s\_"),
        ("or --sweep, s_m", "or ``--sweep``, s_m"),
        ("the *mask unit*", "the *mask unit*"),
    ],
)
def test_mathematics_and_options_are_no_markup(line: str, shielded: str) -> None:
    assert book_api.shield(line, "mae_lib.theory.shared") == shielded


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        (
            "(a: Annotated[Literal['x', 'y'], Arg(name='[z]')], b: int)",
            "(a: Literal['x', 'y'], b: int)",
        ),
        ("(a: Annotated[dict[str, int], 1] | Annotated[None, 2])", "(a: dict[str, int] | None)"),
        ("(a: list[int])", "(a: list[int])"),
    ],
)
def test_signatures_without_annotations_for_the_command_line(signature: str, expected: str) -> None:
    assert book_api.bare(signature) == expected


def printed() -> list[str]:
    """Every text in the library's code and in the Makefile; of a text with values in it, what
    stands around them."""
    found = [(ROOT / "Makefile").read_text(encoding="utf-8")]
    for path in map_sources.modules(ROOT).values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "\0".join(
                        part.value if isinstance(part, ast.Constant) else "" for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_the_messages_on_the_page_of_troubles_are_printed_by_the_library() -> None:
    page = (ROOT / "book" / "troubleshooting.md").read_text(encoding="utf-8")
    entries = re.findall(r"^(.+)\n: (.+)\n: (.+)$", page, re.MULTILINE)
    assert len(entries) == len(re.findall(r"^\S.*\n: ", page, re.MULTILINE)) >= 25, (
        "an entry has a symptom, a cause and a remedy"
    )
    texts = printed()
    quoted = [
        message
        for symptom, _, _ in entries
        for message in re.findall(r"^`([^`]+)`(?: appears)?$", symptom)
    ]
    assert len(quoted) >= 15
    for message in quoted:
        # a value's quotes are not in the text
        for piece in filter(None, (piece.strip(" '") for piece in message.split("<…>"))):
            assert any(piece in text for text in texts), f"nothing prints {piece!r}"
