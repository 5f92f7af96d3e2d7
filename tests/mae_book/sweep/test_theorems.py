"""The theory's claims as records: oracles of the checks by brute force and by hand, algorithms that
are wrong on purpose, and what a stop leaves."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from mae_book.sweep import random_graphs as random_graphs_module
from mae_book.sweep import theorems as theory
from mae_book.sweep.random_graphs import (
    FAMILIES,
    check_mask,
    layered_hierarchies,
    mask_like_figure_4,
    random_hierarchies,
    random_masks,
)
from mae_book.sweep.theorems import (
    FIGURE_4,
    SEEDS,
    evaluate_identify,
    evaluate_theory,
    figure_4_run,
    random_graphs,
)
from mae_book.verdicts.claim import IDENTIFIED
from mae_book.verdicts.claims import CLAIMS
from mae_lib.base.errors import InputError
from mae_lib.identification.cases import FIGURES, Case, CaseResult, table_cases
from mae_lib.theory.conditions import linear_model
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import figure_4
from mae_lib.theory.shared import locate_shared

PAIR = LatentGraph([("z", "x"), ("z", "y")], ["x", "y"])
TINY = Case("tiny, one mask", PAIR, ("x.",), 1, width=4)
BOTH = Case("tiny, both", PAIR, ("x.", ".x"), 2, width=4, measured=("x.", ".x"))
HOLD = ("one minimal set", "c located", "s_m located", "one s_m", "s_mc located", "2^|CA| s_mc")
THEORY_CLAIMS = [claim for claim in CLAIMS.values() if claim.kind == "theory"]


def wrong(monkeypatch, change) -> None:
    """Has what is tested locate what ``change`` makes of the right answer."""
    changed = lambda graph, masked: change(locate_shared(graph, masked))
    for module in (theory, random_graphs_module):
        monkeypatch.setattr(module, "locate_shared", changed)


def measured(pair) -> dict[str, float]:
    return pair[1]()


def test_random_hierarchies_are_of_every_family_and_small_enough_to_enumerate() -> None:
    graphs = list(random_hierarchies(7))
    assert graphs == list(random_hierarchies(7)) != list(random_hierarchies(8))
    assert all(1 <= len(g.latents) <= 6 and 2 <= len(g.observables) <= 6 for g in graphs)
    trees, dags, roots, parts = (graphs[k :: len(FAMILIES)] for k in range(len(FAMILIES)))
    count = lambda graph: sum(not graph.parents[z] for z in graph.latents)
    assert all(len(parents) <= 1 for g in trees for parents in g.parents.values())
    assert any(len(parents) > 1 for g in dags for parents in g.parents.values())
    assert {count(g) for g in trees + dags} == {1} and {count(g) for g in roots + parts} == {2}
    assert all(len(g.ancestors[x] & {"z1a", "z1b"}) == 2 for g in roots for x in g.observables)
    assert all(len(g.ancestors[x] & {"z1a", "z1b"}) == 1 for g in parts for x in g.observables)
    dims = {(v in g.latents, d) for g in graphs for v, d in g.noise_dims.items()}
    assert dims == {(True, 1), (True, 2), (True, 3), (False, 0), (False, 1), (False, 2)}


def test_masks_hide_something_and_show_something() -> None:
    small, large = (
        LatentGraph([("z", f"x{k}") for k in range(3)], [f"x{k}" for k in range(3)]),
        figure_4()[0],
    )
    every = {c for n in (1, 2) for c in itertools.combinations(small.observables, n)}
    assert set(random_masks(small, 0)) == every and len(random_masks(small, 0)) == 6
    drawn = random_masks(large, 0, 10)
    assert len(set(drawn)) == len(drawn) == 10 and all(0 < len(mask) < 8 for mask in drawn)
    assert drawn == random_masks(large, 0, 10) != random_masks(large, 1, 10)


@pytest.mark.parametrize("mask", ["left", "middle", "right"])
def test_figure_4_itself(mask) -> None:
    graph, masks = figure_4()
    assert all(check_mask(graph, masks[mask], 0).values())


def test_where_nothing_is_shared_there_is_no_choice() -> None:
    graph = LatentGraph([("a", "x"), ("b", "y")], ["x", "y"], {"x": 0})
    found = check_mask(graph, ["x"], 0)
    assert (
        all(found[name] for name in HOLD)
        and not found["something shared"]
        and not found["s_mc not unique"]
    )


def test_as_many_s_mc_as_brute_force_finds() -> None:
    """All subsets of the noises, by ranks that NumPy finds itself: the sides are one-to-one, and
    s_m is in neither."""
    tried = 0
    for seed, graph in enumerate(random_hierarchies(3, 8)):
        own = [v for v in graph.nodes if graph.noise_dims[v]]
        if len(own) > 8:
            continue
        model, mask = linear_model(graph, seed), random_masks(graph, seed)[0]
        found = locate_shared(graph, mask)
        rows = dict(
            zip(
                graph.nodes,
                np.split(
                    np.eye(sum(graph.noise_dims.values())),
                    np.cumsum(list(graph.noise_dims.values()))[:-1],
                ),
            )
        )
        rank = lambda *parts: (
            np.linalg.matrix_rank(np.concatenate(parts), tol=1e-6) if sum(map(len, parts)) else 0
        )
        shown, c = (
            model.stack([x for x in graph.observables if x not in mask]),
            model.stack(found.c),
        )
        count = 0
        for chosen in itertools.chain.from_iterable(
            itertools.combinations(own, k) for k in range(len(own) + 1)
        ):
            s = [rows[v] for v in chosen]
            count += not found.s_m & set(chosen) and rank(c, *s) == rank(shown) == rank(
                c, *s, shown
            )
        found_it = check_mask(graph, mask, seed)
        assert (
            count == 2 ** len(found.common)
            and found_it["2^|CA| s_mc"]
            and found_it["s_mc not unique"] == (count > 1)
        )
        tried += 1
    assert tried >= 3


def test_on_random_graphs_every_case_comes_out() -> None:
    config, measure = random_graphs(11, 8, 4)
    shares = measure()
    assert config["cases"] > 20 and shares == measured(random_graphs(11, 8, 4)) != measured(
        random_graphs(12, 8, 4)
    )
    assert (
        all(shares[name] == 1 for name in (*HOLD, "s_mc not unique"))
        and 0.5 < shares["something shared"] < 1
    )


@pytest.mark.parametrize(
    "change, fails",
    [
        # all of CA, not its sinks alone
        (lambda found: replace(found, c=found.common), "c located"),
        (lambda found: replace(found, c=frozenset(sorted(found.c)[1:])), "c located"),
        (lambda found: replace(found, c=frozenset(sorted(found.c)[1:])), "s_m located"),
        (lambda found: replace(found, s_m=found.s_m | found.common), "s_m located"),
        (lambda found: replace(found, s_m=found.s_mc, s_mc=found.s_m), "s_m located"),
        (lambda found: replace(found, s_m=frozenset(sorted(found.s_m)[1:])), "s_m located"),
        (lambda found: replace(found, s_m=found.s_m | found.s_mc), "s_m located"),
        (lambda found: replace(found, s_m=frozenset(sorted(found.s_m)[1:])), "one s_m"),
        (lambda found: replace(found, s_mc=frozenset(sorted(found.s_mc)[1:])), "s_mc located"),
        (lambda found: replace(found, s_mc=found.s_mc | found.s_m), "s_mc located"),
    ],
)
def test_a_wrong_algorithm_is_caught(monkeypatch, change, fails) -> None:
    wrong(monkeypatch, change)
    assert measured(random_graphs(11, 8, 4))[fails] < 1


def test_any_of_the_choices_for_s_mc_is_accepted(monkeypatch) -> None:
    wrong(monkeypatch, lambda found: replace(found, s_mc=found.s_mc | found.common))
    shares = measured(random_graphs(11, 8, 4))
    assert shares["s_mc located"] == shares["s_mc not unique"] == 1


@pytest.mark.parametrize("several", [False, True])
def test_layered_hierarchies(several) -> None:
    graphs = layered_hierarchies(5, several=several)
    assert graphs == layered_hierarchies(5, several=several)
    assert {g.height for g in graphs} == {2, 3} and all(
        len(g.children[z]) >= 2 for g in graphs for z in g.latents
    )
    assert all(g.levels[w] == g.levels[z] - 1 for g in graphs for z, w in g.edges), (
        "so children of the lowest are observables, those of the others not"
    )
    assert max(len(parents) for g in graphs for parents in g.parents.values()) == 1 + several


def test_masks_around_a_latent_of_figure_4() -> None:
    graph, draw = figure_4()[0], np.random.default_rng(0)
    found = {
        run: {locate_shared(graph, mask_like_figure_4(graph, run, "z1", draw)).c for _ in range(40)}
        for run in FIGURE_4
    }
    assert found == {
        "small mask": {frozenset({"z3"}), frozenset({"z4"})},
        "small visible part": {frozenset({"z3"}), frozenset({"z4"})},
        "in between": {frozenset({"z1"})},
    }
    sizes = {run: len(mask_like_figure_4(graph, run, "z2", draw)) for run in FIGURE_4}
    assert sizes == {"small mask": 1, "small visible part": 7, "in between": 2}


@pytest.mark.parametrize("run", FIGURE_4)
def test_figure_4_on_random_trees(run) -> None:
    config, measure = figure_4_run(run, 9, count=12)
    shares = measure()
    assert 0 < config["checked"] < config["cases"] == 12 and shares == measured(
        figure_4_run(run, 9, count=12)
    )
    assert shares[FIGURE_4[run]] == shares["conditions agree"] == 1
    assert (
        shares["level of c"] == (shares["level of z"] if run == "in between" else 1)
        and shares["level of z"] >= 2
    )


def test_below_one_child_is_also_below_another_where_nodes_have_several_parents() -> None:
    shares = measured(figure_4_run("in between", 9, several=True))
    assert shares["high latent in c"] < 1 == shares["conditions agree"]


def test_figure_4_with_a_wrong_algorithm(monkeypatch) -> None:
    config, measure = figure_4_run("small mask", 9, count=12)
    wrong(
        monkeypatch,
        lambda found: replace(
            found, c=frozenset(z for z in found.common if not found.graph.parents[z])
        ),
    )
    assert measure()["lower latent in c"] == measure()["conditions agree"] == 0
    wrong(monkeypatch, lambda found: replace(found, c=found.common))
    assert measure()["lower latent in c"] == pytest.approx(1 - config["checked"] / 12), (
        "a c that the conditions do not confirm does not count"
    )
    wrong(monkeypatch, lambda found: replace(found, c=found.graph.latents[-1:]))
    assert measured(figure_4_run("in between", 9, count=12))["high latent in c"] == 0


def small(monkeypatch) -> None:
    monkeypatch.setattr(theory, "random_graphs", partial(random_graphs, graphs=4, masks=2))
    monkeypatch.setattr(theory, "figure_4_run", partial(figure_4_run, count=6))


def test_records_are_what_the_claims_ask_for_and_a_stop_loses_nothing(
    monkeypatch, tmp_path
) -> None:
    small(monkeypatch)
    made: list[dict] = []
    evaluate_theory(tmp_path, (0, 1), made.append)
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(made) == 2 * 7 and all(
        re.fullmatch(r"[a-z0-9-]+-s[01]-[0-9a-f]{8}\.json", f.name) for f in files
    )
    read = {(r["run"], r["seed"]): r for r in (json.loads(f.read_text()) for f in files)}
    for claim in THEORY_CLAIMS:
        for test in claim.tests:
            assert all(read[test.run, seed]["measures"][test.measure]["n"] == 1 for seed in (0, 1))
    assert all(
        {
            "kind",
            "name",
            "hash",
            "run",
            "seed",
            "config",
            "measures",
            "seconds",
            "commit",
            "hardware",
        }
        <= r.keys()
        for r in made
    )
    assert all(r["kind"] == "theory" and r["config"]["cases"] > 0 for r in made)
    gone = next(f for f in files if f.name.startswith("in-between-s1"))
    gone.unlink()
    again: list[dict] = []
    evaluate_theory(tmp_path, (0, 1), again.append)
    assert [(r["run"], r["seed"]) for r in again] == [("in between", 1)] and again[0][
        "measures"
    ] == read["in between", 1]["measures"]
    assert sorted(tmp_path.iterdir()) == files


def trained(case: Case, seed: int, steps: int, batch: int) -> list[CaseResult]:
    """In place of `run_case`, which takes seconds: other numbers for each figure, mask, seed and
    setting."""
    masks = case.measured or case.masks
    return [
        CaseResult(
            case,
            mask,
            seed,
            *(k + steps / 8 + batch / 64 + (k + seed) / 1024 + n for n in range(len(FIGURES))),
            1.5,
        )
        for k, mask in enumerate(masks)
    ]


def test_identify_records(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(theory, "run_case", trained)
    made: list[dict] = []
    of = ((TINY, 2), (BOTH, 2))
    evaluate_identify(tmp_path, (3,), of, batch=8, report=made.append)
    fold = made.pop(0)
    assert fold["run"] == "fold" and abs(fold["measures"]["c_to_code"]["value"]) < 0.1
    assert [r["run"] for r in made] == [
        "tiny, one mask",
        "tiny, one mask, untrained",
        "tiny, both, x.",
        "tiny, both, x., untrained",
        "tiny, both, .x",
        "tiny, both, .x, untrained",
    ]
    files = sorted(tmp_path.iterdir())
    assert len(files) == 7 and not any(set(f.name) & set(" ,=") for f in files)
    for full, bare in zip(made[::2], made[1::2]):
        assert (
            full["seconds"] == 1.5
            and bare["seconds"] == 0
            and tuple(full["measures"]) == (*FIGURES, "output_less_code")
            and tuple(bare["measures"]) == ("code_to_c",)
        )
        assert (
            bare["measures"]["code_to_c"]
            == full["measures"]["untrained_to_c"]
            != full["measures"]["code_to_c"]
        )
        assert (
            full["config"]["steps"] == 2
            and bare["config"]["steps"] == 0
            and full["hash"] != bare["hash"]
        )
    files[-1].unlink()
    again: list[dict] = []
    evaluate_identify(tmp_path, (3,), of, batch=8, report=again.append)
    assert 2 <= len(again) <= 4 and sorted(tmp_path.iterdir()) == files, (
        "the one model is trained again"
    )
    assert all(
        r["measures"] == next(m for m in made if m["hash"] == r["hash"])["measures"] for r in again
    )
    monkeypatch.setattr(theory, "run_case", lambda *_: pytest.fail("all is recorded"))
    evaluate_identify(tmp_path, (3,), of, batch=8)


def test_the_seeds_that_decide_have_not_been_shown() -> None:
    assert not {0, 1, 2} & set(SEEDS["identify"]) and min(map(len, SEEDS.values())) == 5
    assert tuple(case.name for case in table_cases()[:4]) == IDENTIFIED
    names = [theory._named(case.name, {"seed": 3})[0] for case in table_cases()]
    assert names[3] == "c-z2-z3-s3" and len(set(names)) == len(names)


def test_what_is_trained_is_what_the_claims_ask_for() -> None:
    asked = [claim for claim in CLAIMS.values() if claim.kind == "identify"]
    wanted = {run for claim in asked for test in claim.tests for run in test.runs}
    made = [run for run, _ in (theory.fold_run(3), *theory.identify_runs(3))]
    assert wanted <= set(made) and len(set(made)) == len(made)
    steps = {case.name: (count, case.width) for case, count in theory.trainings()}
    assert steps["one model, 500 steps"] == (500, 128) and steps["one model, width 32"] == (
        2000,
        32,
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (["--kind", "theorem"], "there is no kind 'theorem'"),
        (["--seeds", "-1"], "-1"),
        (["--seeds", "0", "half"], "seed 'half' must be a whole number"),
    ],
)
def test_bad_words_end_in_one_line(words, said, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        theory.main([*words, "--out", str(tmp_path)])
    message = capsys.readouterr().err
    assert (
        stop.value.code == 2
        and said in message
        and message.count("\n") == 1
        and not list(tmp_path.iterdir())
    )


def test_the_command(monkeypatch, tmp_path, capsys) -> None:
    small(monkeypatch)
    theory.main(["--kind", "theory", "--seeds", "4", "--out", str(tmp_path)])
    assert (
        len(list((tmp_path / "theory").iterdir())) == 7
        and "random graphs, seed 4: one minimal set 1.000" in capsys.readouterr().out
    )
    with pytest.raises(InputError, match="at least one case"):
        theory._share([])
