"""The explorer of shared information: every entry of its tables is what `locate_shared` says, and
its faces agree; in a browser, observables are pressed and masks drawn at random."""

from __future__ import annotations

import base64
import re
import shlex

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import yaml

from browser import Browser, in_browser, tab, tab_to, write  # noqa: F401 (tab is a fixture)
from explorers import explorer
from looking import Page
from mae_book.explorers.shared_explorer import (
    SharedExplorer,
    explorer_graphs,
    first_mask,
    mask_units,
    reading,
    tabulate,
)
from mae_book.verdicts.results import repository
from mae_lib.base.errors import InputError
from mae_lib.base.parameters import check_notebook_parameters
from mae_lib.drawing.graph_figures import node_kinds
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import figure_4, quad_tree, random_dag, tree
from mae_lib.theory.shared import locate_shared

GRAPHS = explorer_graphs()
CHAPTER = SharedExplorer.CHAPTER
ODD = {
    "skipping dag": random_dag(9, 8, 1, parents=3, skip=0.6),
    "many answers": random_dag(20, 10, 0),
    "dimensions": LatentGraph(
        figure_4()[0].edges, figure_4()[0].observables, {"z1": 3, "z5": 2, "x1": 0}
    ),
    "alone": LatentGraph([("z", "a"), ("z", "b")], ["a", "b", "c"]),
    "no latent": LatentGraph([], ["a", "b"]),
    "one observable": LatentGraph([], ["a"]),
    "numbers": LatentGraph([(10, 0), (10, 1)], [1, 0]),
}


def page_of(graphs=None, **arguments) -> dict:
    return Page(SharedExplorer(graphs, **arguments).html()).data()


def names_of(names, mask: int) -> list:
    return [x for k, x in enumerate(names) if mask >> k & 1]


@pytest.mark.parametrize("name", [*GRAPHS, *ODD])
def test_every_entry_of_a_page_is_what_locate_shared_says(name):
    graph = {**GRAPHS, **ODD}[name]
    data = page_of({name: graph})
    (table,) = data["graphs"]
    n = len(graph.observables)
    numbers = np.frombuffer(base64.b64decode(table["index"]), f"<u{table['width']}")
    assert (
        numbers.shape == (2**n,)
        and table["observables"] == [str(x) for x in graph.observables]
        and table["latents"] == [str(z) for z in graph.latents]
    )
    assert len(table["answers"]) == len(table["reading"]) == numbers.max() + 1
    masks = (
        range(2**n)
        if n <= 12
        else sorted({0, 1, 2**n - 1, *np.random.default_rng(0).integers(2**n, size=4000).tolist()})
    )
    for mask in masks:
        shared = locate_shared(graph, names_of(graph.observables, mask))
        kinds = node_kinds(graph, shared)
        letters = table["answers"][numbers[mask]]
        assert [data["kinds"][letter] for letter in letters] == [kinds[z] for z in graph.latents], (
            mask
        )
        words, c, levels, dims = table["readings"][table["reading"][numbers[mask]]]
        assert words == shared.explanation
        assert c == (", ".join(str(z) for z in graph.latents if z in shared.c) or "∅")
        assert dims == f"{shared.intrinsic_dim} intrinsic, {shared.coordinate_dim} as coordinates"
        assert [int(level) for level in re.findall(r"at level (\d+)", levels)] == list(
            shared.level_spectrum
        )
        assert [int(count) for count in re.findall(r"(\d+) at", levels)] == list(
            shared.level_spectrum.values()
        )
        assert levels == "–" if not shared.c else levels.endswith(f"mean {shared.mean_level:.3g}")


def test_masks_share_an_example_only_where_they_share_the_answer():
    graph = ODD["alone"]
    index, kinds, examples = tabulate(graph)
    assert index.shape == (8,) and index.dtype == np.int64 and len(kinds) == len(examples)
    empty = {
        names: reading(examples[index[mask]])["words"]
        for mask, names in ((0, ""), (4, "c"), (3, "ab"), (7, "abc"))
    }
    assert "nothing is masked" in empty[""] and "nothing is visible" in empty["abc"]
    assert "independent" in empty["c"] and "independent" in empty["ab"]
    for mask in range(8):
        shared = locate_shared(graph, names_of(graph.observables, mask))
        example = examples[index[mask]]
        assert (example.c, example.common) == (shared.c, shared.common)
        assert example.s_m & {"z"} == shared.s_m & {"z"}


def test_masked_and_visible_can_change_places():
    for graph in (GRAPHS["figure-4"], GRAPHS["skip-edges"]):
        index, kinds, _ = tabulate(graph)
        swapped = str.maketrans("mv", "vm")
        for mask, answer in enumerate(index):
            assert kinds[index[len(index) - 1 - mask]] == kinds[answer].translate(swapped)


def test_the_standard_graphs_are_small_and_figure_4_is_among_them():
    assert (
        GRAPHS["figure-4"] == figure_4()[0]
        and GRAPHS["quad-tree"] == quad_tree((4, 4))
        and len(GRAPHS) >= 4
    )
    for graph in GRAPHS.values():
        assert 8 <= len(graph.observables) <= 16 and graph.height >= 2
    several = [graph for graph in GRAPHS.values() if max(map(len, graph.parents.values())) > 1]
    skipping = [
        graph
        for graph in several
        if any(graph.levels[a] - graph.levels[b] > 1 for a, b in graph.edges)
    ]
    assert len(several) == 2 and len(skipping) == 1
    assert explorer_graphs() is not explorer_graphs()  # a caller may add to it


def test_the_page_starts_where_it_is_told_to():
    data = page_of(selected="cross-edges", masked=["x9", "x1"])
    assert data["selected"]["graph"] == "cross-edges"
    for table in data["graphs"]:
        graph = GRAPHS[table["name"]]
        masked = {"x1", "x9"} if table["name"] == "cross-edges" else first_mask(graph)
        assert set(names_of(graph.observables, table["mask"])) == set(masked)
    assert page_of()["selected"]["graph"] == "figure-4"


def test_units_divide_the_row_or_the_grid():
    runs = mask_units(GRAPHS["skip-edges"])
    assert list(runs) == [1, 2, 3, 4, 6] and runs[4] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    blocks = mask_units(GRAPHS["quad-tree"], (4, 4))
    assert list(blocks) == [1, 2] and blocks[2] == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]
    assert list(mask_units(quad_tree((2, 6)), (2, 6))) == [1, 2] and list(
        mask_units(quad_tree((3, 4)), (3, 4))
    ) == [1]
    assert mask_units(ODD["one observable"]) == {}
    data = page_of()
    for table in data["graphs"]:
        grid = (4, 4) if table["name"] == "quad-tree" else None
        assert table["units"] == [
            [unit, blocks] for unit, blocks in mask_units(GRAPHS[table["name"]], grid).items()
        ]
        assert table["columns"] == (4 if grid else 0)
        for _, blocks in table["units"]:
            assert sorted(k for block in blocks for k in block) == list(
                range(len(table["observables"]))
            )


def test_a_random_mask_is_of_whole_units():
    explorer, generator = SharedExplorer(), np.random.default_rng(1)
    drawn = {explorer.random_mask("quad-tree", 2, 2, generator) for _ in range(60)}
    corners = [{f"x{k}" for k in block} for block in mask_units(GRAPHS["quad-tree"], (4, 4))[2]]
    assert len(drawn) == 6 and all(
        len(mask) == 8 and sum(corner <= mask for corner in corners) == 2 for mask in drawn
    )
    assert (
        explorer.random_mask("figure-4", 1, 0, generator) == frozenset()
        and len(explorer.random_mask("figure-4", 4, 2, generator)) == 8
    )
    for unit, hidden in ((3, 1), (2, 5), (2, -1)):
        with pytest.raises(InputError, match=r"its units are 1 \(8 blocks\), 2 \(4 blocks\)"):
            explorer.random_mask("figure-4", unit, hidden, generator)


# --------------------------------------------------------------------------------------------------
# The command


def injected(command: str) -> dict:
    program, notebook, output, *options = shlex.split(command)
    assert (program, notebook, output) == ("papermill", CHAPTER, "out.ipynb")
    flags = list(zip(options[::2], options[1:], strict=False))
    assert [options[0], options[3]] == ["-p", "-y"] and len(flags) >= 2
    return {options[1]: options[2], **yaml.safe_load(options[4])}


@pytest.mark.parametrize(
    "name, masked",
    [("figure-4", ["x2", "x1"]), ("figure-4", []), ("quad-tree", [f"x{k}" for k in range(16)])],
)
def test_the_command_gives_the_state_back(tmp_path, name, masked):
    explorer = SharedExplorer(selected=name, masked=masked)
    found = injected(explorer.command())
    assert found == {"graph": name, "masked": sorted(masked, key=lambda x: int(x[1:]))}
    cell = "check_parameters(globals(), graph=str, masked=list)"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]),
        tmp_path / "chapter.ipynb",
    )
    check_notebook_parameters(tmp_path / "chapter.ipynb", found)
    if (chapter := repository() / CHAPTER).exists():
        check_notebook_parameters(chapter, found)
    assert explorer.command("binary-tree", ["x7"]).endswith(
        "-p graph binary-tree -y 'masked: [x7]'"
    )
    before, names, after = next(table for table in page_of()["graphs"] if table["name"] == name)[
        "command"
    ]
    assert (
        before
        + ", ".join(names_of(names, sum(1 << GRAPHS[name].observables.index(x) for x in masked)))
        + after
        == explorer.command()
    )


def test_a_graph_of_ones_own_has_a_call_instead():
    graph = ODD["numbers"]
    explorer = SharedExplorer({"figure-4": graph}, masked=[0])
    assert explorer.command() == "locate_shared(graph, [0])"
    assert eval(explorer.command()) == explorer.shared()
    quoted = LatentGraph([("z", "it's"), ("z", 'a "b"')], ["it's", 'a "b"'])
    explorer = SharedExplorer({"q": quoted}, masked=["it's", 'a "b"'])
    graph = quoted
    assert eval(explorer.command()) == explorer.shared()


# --------------------------------------------------------------------------------------------------
# The live face and the figure


def test_the_live_face_shows_what_locate_shared_says():
    shown, generator = explorer("shared"), np.random.default_rng(0)
    for name, graph in GRAPHS.items():
        for hidden in generator.random((5, len(graph.observables))) < 0.5:
            masked = frozenset(x for x, h in zip(graph.observables, hidden) if h)
            shared = locate_shared(graph, masked)
            drawn = Page(shown.picture(name, masked)).elements
            kinds = [a["data-kind"] for tag, a in drawn if "data-node" in a]
            assert kinds == list(node_kinds(graph, shared).values())
            says = shown.reading(name, masked)
            assert says["words"] == shared.explanation
            for key, part in (("s_m", shared.s_m), ("s_mc", shared.s_mc)):
                listed = ", ".join(v for v in graph.nodes if v in part)
                assert says[key] == (f"noises of {listed}" if part else "∅")


def test_the_widget_answers_every_control():
    shown = SharedExplorer(selected="figure-4", masked=["x1"])
    graph, observables, unit, ratio, actions, error, view = shown.widget().children
    draw, swap, clear = actions.children

    def masked() -> frozenset:
        pressed = [b.description for b in observables.children if b.button_style]
        assert view.value == shown.live_html(graph.value, frozenset(pressed)) and not error.value
        return frozenset(pressed)

    assert masked() == {"x1"}
    assert ratio.value == 1 / 8  # it starts where the mask is
    observables.children[7].click()
    assert masked() == {"x1", "x8"}
    swap.click()
    assert masked() == {f"x{k}" for k in range(2, 8)}
    clear.click()
    assert masked() == frozenset() and "nothing is masked" in view.value
    ratio.value = 0.4
    assert len(masked()) == 3  # of 8
    unit.value = 4
    assert masked() in ({f"x{k}" for k in range(1, 5)}, {f"x{k}" for k in range(5, 9)}, set())
    ratio.value = 1
    assert len(masked()) == 8
    graph.value = "quad-tree"
    assert len(observables.children) == 16 and masked() == {"x0", "x1", "x2", "x3"}
    assert observables.layout.grid_template_columns == "repeat(4, 4em)"
    ratio.value, unit.value = 0.5, 2
    draw.click()
    assert len(masked()) == 8
    graph.value = "figure-4"
    assert masked() == {"x1"}
    single = SharedExplorer({"one": ODD["one observable"]}).widget()
    assert single.children[4].children[0].disabled and not single.children[5].value


def test_the_figure_is_the_selected_state():
    explorer = SharedExplorer(selected="figure-4", masked=["x1", "x2", "x5", "x6"])
    (axis,) = (figure := explorer.figure()).axes
    assert {patch.get_gid() for patch in axis.patches if patch.get_gid()} >= {
        "z1: c",
        "z2: c",
        "z3: s_m",
        "z4: s_mc",
        "x1: masked",
        "x8: visible",
    }
    plt.close(figure)


def test_bad_input_is_named():
    with pytest.raises(
        InputError,
        match=(
            "'big' has 27 observables, and the explorer tabulates the masks of at most 16: take a"
            " smaller graph"
        ),
    ):
        SharedExplorer({"small": tree(2, 2), "big": tree(3, 3)})
    with pytest.raises(InputError, match="17 observables.*at most 16"):
        tabulate(LatentGraph([("z", k) for k in range(17)], range(17)))
    with pytest.raises(InputError, match="no graph 'figure4': choose one of figure-4"):
        SharedExplorer(selected="figure4")
    with pytest.raises(InputError, match="'figure-4' has no observable 'x11': choose of x1, x2"):
        SharedExplorer(masked=["x1", "x11"])
    with pytest.raises(InputError, match="no observable 'z1'"):
        SharedExplorer(masked=["z1"])
    with pytest.raises(InputError, match=r"write \['x1'\]"):
        SharedExplorer(masked="x1")
    with pytest.raises(InputError, match="masked must be a list of names, not 3"):
        SharedExplorer(masked=3)
    with pytest.raises(InputError, match="at least one graph"):
        SharedExplorer({})
    with pytest.raises(
        InputError, match="grid of 3 × 4 patches does not fit graph 'q', which has 16"
    ):
        SharedExplorer({"q": quad_tree((4, 4))}, grids={"q": (3, 4)})
    with pytest.raises(InputError, match="no graph 'r'"):
        SharedExplorer({"q": quad_tree((4, 4))}, grids={"r": (4, 4)})
    with pytest.raises(InputError, match="two nodes of graph 'n' are written alike"):
        SharedExplorer({"n": LatentGraph([("1", 1), ("1", 2)], [1, 2])})
    with pytest.raises(InputError, match="no observable 'x99'"):
        SharedExplorer().command("binary-tree", ["x99"])
    for call in (
        lambda e: e.live_html("nothing", []),
        lambda e: e.random_mask("nothing", 1, 1, np.random.default_rng(0)),
        lambda e: e.command("nothing"),
    ):
        with pytest.raises(InputError, match="no graph 'nothing'"):
            call(SharedExplorer())
