"""§2.1, the graph of latents and observables: what the builders build, what is refused by name, and
that a graph stays what it is."""

from __future__ import annotations

import copy
import pickle
import re

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_lib.base.errors import InputError
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import figure_4, quad_tree, random_dag, tree

DIAMOND = LatentGraph(
    [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("d", "x"), ("a", "y")],
    ["y", "x"],
    {"a": 2, "x": 0},
)


def test_a_graph_with_several_parents_by_hand() -> None:
    g = DIAMOND
    assert (
        g.latents == ("a", "b", "c", "d")
        and g.observables == ("y", "x")
        and g.nodes == g.latents + g.observables
    )
    assert (
        g.parents["d"] == ("b", "c")
        and g.parents["a"] == ()
        and g.children["a"] == ("b", "c", "y")
        and g.children["x"] == ()
    )
    assert dict(g.levels) == {"a": 3, "b": 2, "c": 2, "d": 1, "x": 0, "y": 0} and g.height == 3, (
        "the longest path down, whatever is shorter"
    )
    assert (
        g.descendants["a"] == {"x", "y"}
        and g.descendants["b"] == {"x"}
        and g.descendants["y"] == {"y"}
    )
    assert g.ancestors["x"] == {"x", "d", "b", "c", "a"} and g.ancestors["a"] == {"a"}
    assert dict(g.noise_dims) == {"a": 2, "b": 1, "c": 1, "d": 1, "y": 1, "x": 0}
    assert dict(g.dims) == {
        "a": 2,
        "b": 3,
        "c": 3,
        "d": 7,
        "x": 7,
        "y": 3,
    }, "a child has its parents' coordinates and its noise's"
    assert repr(g) == "LatentGraph(4 latents, 2 observables, 6 edges, height 3)"


def test_latents_come_parents_first_and_in_the_order_of_the_edges() -> None:
    g = LatentGraph([("low", "x"), ("other", "low"), ("top", "other"), ("free", "x")], ["x"])
    assert g.latents == ("top", "free", "other", "low")
    assert LatentGraph([("b", "x"), ("a", "x")], ["x"]).latents == ("b", "a")


def test_names_may_be_anything_hashable_and_an_observable_may_stand_alone() -> None:
    g = LatentGraph([(0, (1, 2)), (0, None)], [(1, 2), None, frozenset({7})])
    assert (
        g.latents == (0,) and g.descendants[0] == {(1, 2), None} and g.parents[frozenset({7})] == ()
    )
    alone = LatentGraph([], ["x"])
    assert alone.latents == () and alone.height == 0 and alone.positions["x"] == (0.0, 0.0)


@pytest.mark.parametrize("arity", [2, 3, 4, 9])
@pytest.mark.parametrize("height", [1, 2, 3])
def test_tree(arity: int, height: int) -> None:
    g = tree(arity, height)
    assert g.observables == tuple(f"x{k}" for k in range(arity**height)) and g.height == height
    assert len(g.latents) == sum(arity**k for k in range(height)) and g.latents[0] == f"z{height}_0"
    assert all(len(g.children[z]) == arity for z in g.latents)
    for z in g.latents:
        level, k = (int(part) for part in z[1:].split("_"))
        size = arity**level
        assert g.levels[z] == level and g.descendants[z] == {
            f"x{j}" for j in range(k * size, (k + 1) * size)
        }
        assert g.dims[z] == height - level + 1
    assert nx.is_arborescence(g.to_networkx())


@pytest.mark.parametrize("arity", [2, 4, 9])
@pytest.mark.parametrize(
    "grid", [(1, 2), (2, 1), (2, 2), (7, 5), (1, 9), (9, 1), (14, 14), (8, 8), (3, 16)]
)
def test_quad_tree_blocks(grid: tuple[int, int], arity: int) -> None:
    g, (rows, columns) = quad_tree(grid, arity), grid
    assert g.observables == tuple(f"x{k}" for k in range(rows * columns))
    assert nx.is_arborescence(g.to_networkx()), (
        "one root that reaches all patches, one parent a node"
    )
    step = {2: None, 4: 2, 9: 3}[arity]
    for level in range(1, g.height + 1):
        blocks = [g.descendants[z] for z in g.latents if g.levels[z] == level]
        assert sum(len(b) for b in blocks) == rows * columns and frozenset().union(*blocks) == set(
            g.observables
        ), "each level covers the grid once"
        for z in (z for z in g.latents if g.levels[z] == level):
            where = np.array([divmod(int(x[1:]), columns) for x in g.descendants[z]])
            low, high = where.min(0), where.max(0)
            assert (high - low + 1).prod() == len(where), "a block is a rectangle"
            assert len(g.children[z]) <= arity
            if step:
                size, (r, c) = step**level, (int(part) for part in z.split("_")[1:])
                assert z.startswith(f"z{level}_") and low.tolist() == [r * size, c * size]
                assert high.tolist() == [
                    min((r + 1) * size, rows) - 1,
                    min((c + 1) * size, columns) - 1,
                ], "smaller at the rim only"
    if step:
        assert g.height == next(h for h in range(1, 9) if step**h >= max(grid)), (
            "and no level more than needed"
        )
    else:
        assert g.height == sum(int(np.ceil(np.log2(side))) for side in grid)


def test_pairs_are_merged_in_turns() -> None:
    g = quad_tree((4, 8), 2)
    found = {}
    for z in g.latents:
        where = np.array([divmod(int(x[1:]), 8) for x in g.descendants[z]])
        found.setdefault(g.levels[z], set()).add(tuple((where.max(0) - where.min(0) + 1).tolist()))
    assert found == {1: {(1, 2)}, 2: {(2, 2)}, 3: {(2, 4)}, 4: {(4, 4)}, 5: {(4, 8)}}


def test_figure_4() -> None:
    g, masks = figure_4()
    assert set(g.latents) == {"z1", "z2", "z3", "z4", "z5", "z6"} and g.observables == tuple(
        f"x{k}" for k in range(1, 9)
    )
    assert g.children["z1"] == ("z3", "z4") and g.children["z2"] == ("z5", "z6") and g.height == 2
    assert [g.children[f"z{k}"] for k in (3, 4, 5, 6)] == [
        ("x1", "x2"),
        ("x3", "x4"),
        ("x5", "x6"),
        ("x7", "x8"),
    ]
    assert masks == {
        "left": {"x1"},
        "middle": set(g.observables) - {"x8"},
        "right": {"x1", "x2", "x5", "x6"},
    }


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.floats(0, 1),
)
def test_random_dag_is_valid_and_a_function_of_its_seed(
    latents: int, observables: int, seed: int, parents: int, skip: float
) -> None:
    g = random_dag(latents, observables, seed, parents, skip)
    assert set(g.latents) == {f"z{k + 1}" for k in range(latents)}
    assert g.observables == tuple(f"x{k}" for k in range(observables))
    assert all(g.descendants[z] for z in g.latents) and nx.is_directed_acyclic_graph(
        g.to_networkx()
    )
    assert all(len(g.parents[z]) <= parents for z in g.latents) and all(
        g.parents[x] for x in g.observables
    )
    childless = [z for z in g.latents if not any(w in g.latents for w in g.children[z])]
    if len(childless) <= observables:
        assert all(len(g.parents[x]) <= parents for x in g.observables)
    assert g == random_dag(latents, observables, seed, parents, skip)


def test_random_dags_differ_and_skip_levels() -> None:
    graphs = [random_dag(30, 30, seed, parents=3) for seed in range(20)]
    assert len({g.edges for g in graphs}) == 20
    assert any(g.levels[a] - g.levels[b] > 1 for g in graphs for a, b in g.edges), (
        "edges skip levels"
    )
    assert any(len(g.parents[v]) == 3 for g in graphs for v in g.nodes), (
        "as many parents as allowed"
    )
    near = [random_dag(40, 5, seed, parents=2, skip=0.0) for seed in range(10)]
    assert all(
        abs(int(a[1:]) - int(b[1:])) <= 10 for g in near for a, b in g.edges if b[0] == "z"
    ), "no skip: parents are among those just before"


@pytest.mark.parametrize(
    ("edges", "observables", "noise_dims", "message"),
    [
        (
            [("a", "b"), ("b", "c"), ("c", "a"), ("a", "x")],
            ["x"],
            None,
            r"cycle, '([abc])' → '[abc]' → '[abc]' → '\1': remove",
        ),
        ([("a", "a"), ("a", "x")], ["x"], None, r"cycle, 'a' → 'a'"),
        ([("a", "a")], ["x"], None, r"cycle, 'a' → 'a'"),
        (
            [("r", "a"), ("a", "b"), ("b", "a"), ("b", "x"), ("x2", "q")],
            ["x", "q"],
            None,
            r"cycle, '([ab])' → '[ab]' → '\1'",
        ),
        ([("a", "x"), ("x", "y")], ["x", "y"], None, r"observable 'x' has the child 'y'"),
        ([("a", "x"), ("a", "b")], ["x"], None, r"latent 'b' reaches no observable"),
        ([("a", "b"), ("c", "x")], ["x"], None, r"latent 'b' reaches no observable"),
        ([("a", "x"), ("a", "x")], ["x"], None, r"edge \('a', 'x'\) is given twice"),
        ([("a", "x")], ["x", "y", "x"], None, r"observable 'x' is given twice"),
        ([("a", "x")], [], None, r"at least one observable"),
        ([], [], None, r"at least one observable"),
        ([("a", "x")], "x", None, r"observables must be a list of names, not the text 'x'"),
        (["ax"], ["x"], None, r"edge 'ax' is no \(parent, child\) pair"),
        ([("a", "x", 1)], ["x"], None, r"edge \('a', 'x', 1\) is no \(parent, child\) pair"),
        ([3], ["x"], None, r"edge 3 is no \(parent, child\) pair"),
        ([("a", "x")], ["x"], {"b": 1}, r"noise_dims names 'b', which is no node"),
        (
            [("a", "x")],
            ["x"],
            {"a": 0},
            r"noise dimension of 'a' is 0.*at least 1: Theorem 1 needs a noise",
        ),
        ([("a", "x")], ["x"], {"x": -1}, r"noise dimension of 'x' is -1.*at least 0"),
        ([("a", "x")], ["x"], {"a": 1.5}, r"noise dimension of 'a' is 1\.5"),
        ([("a", "x")], ["x"], {"a": True}, r"noise dimension of 'a' is True"),
        ([("a", "x")], ["x"], {"a": "2"}, r"noise dimension of 'a' is '2'"),
    ],
)
def test_what_is_no_graph_of_assumption_1_is_refused_by_name(
    edges, observables, noise_dims, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        LatentGraph(edges, observables, noise_dims)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(0, 2**32), st.data())
def test_the_cycle_in_the_message_is_one(latents: int, seed: int, data) -> None:
    g = random_dag(latents, 3, seed)
    below, above = (data.draw(st.sampled_from(names)) for names in (g.latents, g.latents))
    edges = [*g.edges, *([(below, above)] if (below, above) not in g.edges else [])]
    if nx.is_directed_acyclic_graph(nx.DiGraph(edges)):
        LatentGraph(edges, g.observables)
        return
    with pytest.raises(InputError) as error:
        LatentGraph(edges, g.observables)
    cycle = re.findall(r"'(\w+)'", str(error.value))
    assert cycle[0] == cycle[-1] and all(step in edges for step in zip(cycle, cycle[1:])), str(
        error.value
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tree(1, 3), r"arity 1 must be"),
        (lambda: tree(2, 0), r"height 0 must be"),
        (lambda: tree(2.0, 3), r"arity 2\.0 must be"),
        (lambda: tree(True, 3), r"arity True must be"),
        (lambda: quad_tree((0, 4)), r"rows of the grid 0 must be"),
        (lambda: quad_tree((4, -1)), r"columns of the grid -1 must be"),
        (lambda: quad_tree((1, 1)), r"1×1 grid has no hierarchy"),
        (lambda: quad_tree((4, 4), 3), r"arity 3 .* square number"),
        (lambda: quad_tree((4, 4), 1), r"arity 1 must be"),
        (lambda: random_dag(0, 3, 0), r"latents 0 must be"),
        (lambda: random_dag(3, 0, 0), r"observables 0 must be"),
        (lambda: random_dag(3, 3, 0, parents=0), r"parents 0 must be"),
        (lambda: random_dag(3, 3, 0, skip=1.5), r"skip 1\.5 must be"),
        (lambda: random_dag(3, 3, 0, skip=float("nan")), r"skip nan must be"),
        (lambda: LatentGraph.from_networkx(nx.Graph([("a", "x")])), r"a DiGraph, not a Graph"),
        (
            lambda: LatentGraph.from_networkx(nx.MultiDiGraph([("a", "x")])),
            r"a DiGraph, not a MultiDiGraph",
        ),
        (
            lambda: LatentGraph.from_networkx(nx.DiGraph([("a", "x")]), ["y"]),
            r"observable 'y' is no node",
        ),
    ],
)
def test_builders_refuse_what_makes_no_sense(build, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_a_graph_is_immutable() -> None:
    for name, value in (
        ("edges", ()),
        ("observables", ("q",)),
        ("latents", ()),
        ("noise_dims", {}),
        ("levels", {}),
        ("colour", 1),
    ):
        with pytest.raises(AttributeError, match=name):
            setattr(DIAMOND, name, value)
    for name in (
        "noise_dims",
        "levels",
        "parents",
        "children",
        "descendants",
        "ancestors",
        "dims",
        "positions",
    ):
        with pytest.raises(TypeError):
            getattr(DIAMOND, name)["a"] = 3
    edges, observables, dims = [("a", "x")], ["x"], {"a": 2}
    g = LatentGraph(edges, observables, dims)
    edges.append(("b", "x")), observables.append("y"), dims.update(a=5)
    assert g.edges == (("a", "x"),) and g.observables == ("x",) and g.noise_dims["a"] == 2


def test_equality_and_hash() -> None:
    edges, xs = [("a", "x"), ("a", "y"), ("b", "y")], ["x", "y"]
    g = LatentGraph(edges, xs)
    same = [
        LatentGraph([edges[1], edges[0], edges[2]], xs),
        LatentGraph(iter(edges), iter(xs), {"a": 1}),
        LatentGraph([list(edge) for edge in edges], tuple(xs)),
    ]
    other = [
        LatentGraph(edges[:-1], xs),
        LatentGraph(edges, xs[::-1]),
        LatentGraph(edges, xs, {"b": 2}),
        LatentGraph([*edges, ("a", "b")], xs),
    ]
    assert all(g == h and hash(g) == hash(h) for h in same) and len({g, *same}) == 1
    assert all(g != h for h in other) and len({g, *other}) == 5
    assert g != "g" and g != edges


def test_a_graph_can_be_copied_and_pickled() -> None:
    for again in (copy.copy(DIAMOND), copy.deepcopy(DIAMOND), pickle.loads(pickle.dumps(DIAMOND))):
        assert (
            again == DIAMOND
            and again.latents == DIAMOND.latents
            and dict(again.noise_dims) == dict(DIAMOND.noise_dims)
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32))
def test_networkx_round_trip(latents: int, observables: int, seed: int) -> None:
    g = random_dag(latents, observables, seed, parents=3)
    draw = np.random.default_rng(seed)
    g = LatentGraph(
        g.edges, [*g.observables, "alone"], {v: int(draw.integers(1, 4)) for v in g.nodes}
    )
    other = g.to_networkx()
    assert set(other.edges) == set(g.edges) and set(other) == set(g.nodes)
    assert all(
        other.nodes[v] == {"observable": v in g.observables, "noise_dim": g.noise_dims[v]}
        for v in other
    )
    assert LatentGraph.from_networkx(other) == g
    assert all(g.ancestors[v] == nx.ancestors(other, v) | {v} for v in g.nodes)
    assert all(
        g.descendants[v] == (nx.descendants(other, v) | {v}) & set(g.observables) for v in g.nodes
    )
    assert all(g.latents.index(a) < g.latents.index(b) for a, b in g.edges if b in g.latents)
    for v in g.nodes[:8]:
        below = other.subgraph(nx.descendants(other, v) | {v})
        assert g.levels[v] == nx.dag_longest_path_length(below, weight=None), (
            "the longest path down, which begins at v"
        )


def test_from_networkx_takes_the_leaves_the_marked_or_the_given() -> None:
    plain = nx.DiGraph([("a", "x"), ("a", "y")])
    assert LatentGraph.from_networkx(plain) == LatentGraph([("a", "x"), ("a", "y")], ["x", "y"])
    assert LatentGraph.from_networkx(plain, ["y", "x"]).observables == ("y", "x")
    plain.nodes["x"]["observable"] = True
    with pytest.raises(InputError, match="latent 'y' reaches no observable"):
        LatentGraph.from_networkx(plain)
    plain.add_node("q", observable=False)
    with pytest.raises(InputError, match="node 'q' of the networkx graph"):
        LatentGraph.from_networkx(plain, ["x", "y"])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 25), st.integers(1, 25), st.integers(0, 2**32))
def test_positions_do_not_overlap(latents: int, observables: int, seed: int) -> None:
    g = random_dag(latents, observables, seed)
    assert set(g.positions) == set(g.nodes)
    assert [g.positions[x] for x in g.observables] == [(float(k), 0.0) for k in range(observables)]
    for level in range(1, g.height + 1):
        across = sorted(g.positions[z][0] for z in g.latents if g.levels[z] == level)
        assert all(g.positions[z][1] == level for z in g.latents if g.levels[z] == level)
        assert all(b - a >= 0.9 - 1e-9 for a, b in zip(across, across[1:]))


def test_positions_of_a_tree_are_the_middles() -> None:
    g = tree(2, 3)
    assert [g.positions[f"z1_{k}"] for k in range(4)] == [
        (0.5, 1.0),
        (2.5, 1.0),
        (4.5, 1.0),
        (6.5, 1.0),
    ]
    assert g.positions["z3_0"] == (3.5, 3.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LatentGraph([(["z"], "x")], ["x"]), r"\['z'\] cannot be the name of a node"),
        (
            lambda: LatentGraph(None, ["x"]),
            r"edges must be \(parent, child\) pairs of names, not None",
        ),
        (
            lambda: LatentGraph("zx", ["x"]),
            r"edges must be \(parent, child\) pairs of names, not 'zx'",
        ),
        (lambda: LatentGraph([("z", "x")], None), r"observables must be a list of names, not None"),
        (
            lambda: LatentGraph([("z", "x")], ["x"], [1, 1]),
            r"noise_dims must map names to dimensions, not \[1, 1\]",
        ),
        (lambda: quad_tree(8), r"grid 8 must be \(rows, columns\)"),
        (lambda: quad_tree("14"), r"grid '14' must be \(rows, columns\)"),
        (lambda: random_dag(3, 3, seed=-1), "seed -1 must be a whole number of at least 0"),
    ],
)
def test_arguments_of_another_kind_are_refused(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_equal_graphs_have_equal_columns() -> None:
    one = LatentGraph([("a", "x"), ("b", "x")], ["x"])
    other = LatentGraph([("b", "x"), ("a", "x")], ["x"])
    assert one != other and one.latents == other.latents[::-1]
    assert one == LatentGraph([("a", "x"), ("b", "x")], ["x"])
