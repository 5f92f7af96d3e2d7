"""The explorer of shared information: every entry of its tables is what `locate_shared` says, and
its faces agree. The browser is in another file."""

from __future__ import annotations

import base64
import html as markup
import re
import shlex

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import yaml

from looking import Page
from mae_book.explorers.shared_explorer import (
    CHAPTER,
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
from mae_lib.drawing.graph_figures import LOOKS, node_kinds
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import figure_4, quad_tree, random_dag, tree
from mae_lib.theory.shared import locate_shared

GRAPHS = explorer_graphs()
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


# --------------------------------------------------------------------------------------------------
# The tables


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
    found = tabulate(graph)
    assert (
        found.index.shape == (8,)
        and found.index.dtype == np.int64
        and len(found.kinds) == len(found.examples)
    )
    empty = {
        names: reading(found.examples[found.index[mask]])["words"]
        for mask, names in ((0, ""), (4, "c"), (3, "ab"), (7, "abc"))
    }
    assert "nothing is masked" in empty[""] and "nothing is visible" in empty["abc"]
    assert "independent" in empty["c"] and "independent" in empty["ab"]
    for mask in range(8):
        shared, example = (
            locate_shared(graph, names_of(graph.observables, mask)),
            found.examples[found.index[mask]],
        )
        assert (example.c, example.common, example.s_m & {"z"}) == (
            shared.c,
            shared.common,
            shared.s_m & {"z"},
        )


def test_masked_and_visible_can_change_places():
    for graph in (GRAPHS["figure-4"], GRAPHS["skip-edges"]):
        found = tabulate(graph)
        swapped = str.maketrans("mv", "vm")
        for mask in range(len(found.index)):
            assert found.kinds[found.index[len(found.index) - 1 - mask]] == found.kinds[
                found.index[mask]
            ].translate(swapped)


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


# --------------------------------------------------------------------------------------------------
# The page


def test_the_page_is_one_small_fragment_that_keeps_to_itself():
    text = SharedExplorer().html()
    page = Page(text)
    assert page.open == [] and len(page.scripts) == 1 and len(set(page.ids)) == len(page.ids)
    assert len(text.encode()) < 200_000  # the book's whole pages have a limit of 500 kB
    assert not re.search(r"https?:|//[a-z]|@import|url\(|innerHTML|fetch|XMLHttp", text)
    for _, attributes in page.elements:
        assert not {"src", "href", "onclick"} & attributes.keys()
    assert f'[id="{page.ids[0]}"]' in page.scripts[0]
    # the same at every build
    assert text == SharedExplorer().html() == SharedExplorer()._repr_html_()
    assert Page(SharedExplorer({"a": tree(2, 1)}).html()).ids[0] != page.ids[0]


def test_without_scripts_the_page_shows_its_first_state():
    explorer = SharedExplorer(selected="binary-tree", masked=["x0", "x4"])
    page = Page(explorer.html())
    hidden = [a for tag, a in page.elements if "data-drawing" in a and "hidden" in a]
    assert len(hidden) == len(GRAPHS) - 1
    assert markup.escape(explorer.shared().explanation) in explorer.html()
    kinds = [a["data-kind"] for tag, a in page.elements if tag == "g" and "data-node" in a]
    before = sum(
        len(graph.nodes) for graph in list(GRAPHS.values())[: list(GRAPHS).index("binary-tree")]
    )
    graph = GRAPHS["binary-tree"]
    assert kinds[before : before + len(graph.nodes)] == list(
        node_kinds(graph, explorer.shared()).values()
    )


def test_the_page_starts_where_it_is_told_to():
    data = page_of(selected="cross-edges", masked=["x9", "x1"])
    assert data["graphs"][data["selected"]]["name"] == "cross-edges"
    for table in data["graphs"]:
        graph = GRAPHS[table["name"]]
        masked = {"x1", "x9"} if table["name"] == "cross-edges" else first_mask(graph)
        assert set(names_of(graph.observables, table["mask"])) == set(masked)
    assert set(data["outlines"]) == set(LOOKS) & {"c", "common", "s_m", "s_mc", "masked", "visible"}
    assert page_of()["selected"] == 0


@pytest.mark.parametrize(
    "name",
    [
        "</script><b id=out>",
        "<!--<script>",
        '"}];alert(1);//',
        "$id ${data} $$",
        "日本 & <i>",
        "\u2028",
    ],
)
def test_a_name_cannot_break_out(name):
    graph = LatentGraph([("z", name), ("z", "x")], [name, "x"])
    page = Page(SharedExplorer({name: graph}).html())
    assert (
        page.open == []
        and len(page.ids) == len(Page(SharedExplorer().html()).ids)
        and len(page.scripts) == 1
    )
    (table,) = page.data()["graphs"]
    assert table["name"] == name and table["observables"] == [name, "x"]
    assert "<" not in page.scripts[0].split("const data")[1].split("const at")[0]
    assert page.scripts[0].rstrip().endswith("})();")


# --------------------------------------------------------------------------------------------------
# Units and random masks


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
    explorer, generator = SharedExplorer(), np.random.default_rng(0)
    for name, graph in GRAPHS.items():
        for hidden in generator.random((5, len(graph.observables))) < 0.5:
            masked = [x for x, h in zip(graph.observables, hidden) if h]
            drawing, words = explorer.live_html(name, masked)
            shared = locate_shared(graph, masked)
            kinds = [a["data-kind"] for tag, a in Page(drawing).elements if "data-node" in a]
            assert kinds == list(node_kinds(graph, shared).values())
            assert (
                markup.escape(shared.explanation) in words
                and markup.escape(explorer.command(name, masked)) in words
            )
            for part in (shared.s_m, shared.s_mc):
                assert (
                    not part
                    or f"noises of {', '.join(v for v in graph.nodes if v in part)}<" in words
                )


def test_the_widget_answers_every_control():
    explorer = SharedExplorer(selected="figure-4", masked=["x1"])
    graph, patches, unit, ratio, actions, drawing, words = explorer.widget().children
    draw, swap, clear = actions.children

    def masked() -> frozenset:
        found = frozenset(patch.description for patch in patches.children if patch.value)
        assert (drawing.value, words.value) == explorer.live_html(graph.value, found)
        return found

    assert masked() == {"x1"} and [patch.description for patch in patches.children] == list(
        GRAPHS["figure-4"].observables
    )
    patches.children[7].value = True
    assert masked() == {"x1", "x8"}
    swap.click()
    assert masked() == {f"x{k}" for k in range(2, 8)}
    clear.click()
    assert masked() == frozenset() and "nothing is masked" in words.value
    ratio.value = 3
    assert len(masked()) == 3
    unit.value = 4
    assert [k for _, k in ratio.options] == [0, 1, 2] and ratio.value == 1
    assert masked() in ({f"x{k}" for k in range(1, 5)}, {f"x{k}" for k in range(5, 9)})
    ratio.value = 2
    assert len(masked()) == 8
    graph.value = "quad-tree"
    assert (
        len(patches.children) == 16
        and masked() == {"x0", "x1", "x2", "x3"}
        and patches.layout.grid_template_columns == "repeat(4, 4em)"
    )
    unit.value = 2
    draw.click()
    assert len(masked()) == 4 * ratio.value and [k for _, k in ratio.options] == [0, 1, 2, 3, 4]
    graph.value = "figure-4"
    assert masked() == {"x1"}
    SharedExplorer({"one": ODD["one observable"]}).widget()


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


# --------------------------------------------------------------------------------------------------
# Bad input


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
    with pytest.raises(InputError, match="no graph 'figure4': did you mean 'figure-4'?"):
        SharedExplorer(selected="figure4")
    with pytest.raises(InputError, match="no graph 'something': choose one of figure-4"):
        SharedExplorer(selected="something")
    with pytest.raises(InputError, match="'figure-4' has no observable 'x11': did you mean 'x1'?"):
        SharedExplorer(masked=["x1", "x11"])
    with pytest.raises(InputError, match="no observable 'z1'"):
        SharedExplorer(masked=["z1"])
    with pytest.raises(InputError, match=r"write \['x1'\]"):
        SharedExplorer(masked="x1")
    with pytest.raises(InputError, match="masked must be a collection of names, not 3"):
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
