"""The theory's claims, measured for the ledger: Theorem 1 and Figure 4 on random hierarchies
(``results/theory``), Theorem 2, stated and trained, as `mae_lib.identification.identify` tests it, on seeds
that no chapter has shown (``results/identify``).

What Algorithms 1 and 2 return is judged on random linear-Gaussian models of the same graphs, which
know no common ancestors: c by `conditions.minimal_sets`, s_m and s_mᶜ by ranks and correlations.
All is deterministic: the intervals over seeds say how far shares move from one draw of graphs to
the next, and a share of 1 says that no case of them failed. It is no proof; the book's *Proofs*
page has that.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from mae_book.verdicts.results import results_directory
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import over_seeds
from mae_lib.base.provenance import provenance
from mae_lib.base.records import own_record, write_result
from mae_lib.identification.identify import (
    BATCH,
    FIGURES,
    STEPS,
    Case,
    CaseResult,
    every_mask_case,
    run_case,
    run_fold,
    table_cases,
)
from mae_lib.theory.conditions import TOLERANCE, LinearModel, linear_model, minimal_sets
from mae_lib.theory.graph import LatentGraph, Name, random_dag
from mae_lib.theory.shared import locate_shared

SEEDS = {"theory": (0, 1, 2, 3, 4), "identify": (3, 4, 5, 6, 7)}
"""Kind → its seeds. Chapter 4 shows seeds 0 to 2 of `identify`, which do not count; seed 100 was
the pilot of T2t."""

FAMILIES = ("tree", "several parents", "two roots", "two parts")
"""Of `random_hierarchies`: the first two have one root, the third has two above the same
observables, the last's parts have no edge between them, so that c can be empty."""

GRAPHS, MASKS = 24, 16
"""Graphs a seed, the families in turn, and masks of a graph: all of those that hide something and
show something, or so many drawn without repetition."""

HIERARCHIES, CHECKED_LATENTS = 40, 7
"""Hierarchies a seed for Figure 4, and the most latents of one whose c is also found by
`conditions.minimal_sets`."""

FIGURE_4 = {
    "small mask": "lower latent in c",
    "small visible part": "lower latent in c",
    "in between": "high latent in c",
}
"""Run → measure: Figure 4's left, middle and right."""

Draw = np.random.Generator
Report = Callable[[dict], None]
"""Called with each new record."""


def random_hierarchies(seed: int, count: int = GRAPHS) -> Iterator[LatentGraph]:
    """``count`` graphs, the `FAMILIES` in turn: 1 to 6 latents, 2 to 6 observables, noises of 1 to
    3 dimensions at latents and 0 to 2 at observables."""
    draw = np.random.default_rng([seed, 0])
    for k in range(count):
        family = FAMILIES[k % len(FAMILIES)]
        if family == "two parts":
            parts = [_dag(draw, draw.integers(1, 4), draw.integers(1, 4)) for _ in range(2)]
        else:
            observables = draw.integers(2, 7)
            if family == "tree":
                parts = [_dag(draw, draw.integers(1, observables + 1), observables, parents=1)]
            elif family == "several parents":
                parts = [_dag(draw, draw.integers(2, 7), observables)]
            else:
                parts = [_dag(draw, draw.integers(1, 4), observables) for _ in range(2)]

        def label(part: int, v: str, parts=parts, family=family) -> str:
            two = len(parts) > 1 and (family == "two parts" or v.startswith("z"))
            return f"{v}{'ab'[part]}" if two else v

        edges = [(label(i, p), label(i, v)) for i, part in enumerate(parts) for p, v in part.edges]
        yield _with_dims(
            draw,
            edges,
            list(
                dict.fromkeys(label(i, x) for i, part in enumerate(parts) for x in part.observables)
            ),
        )


def _dag(draw: Draw, latents: int, observables: int, parents: int = 3) -> LatentGraph:
    return random_dag(
        int(latents),
        int(observables),
        int(draw.integers(2**31)),
        parents,
        float(draw.uniform(0, 0.6)),
    )


def _with_dims(draw: Draw, edges: list[tuple[str, str]], observables: list[str]) -> LatentGraph:
    plain = LatentGraph(edges, observables)
    dims = {v: int(draw.integers(1, 4)) for v in plain.latents} | {
        x: int(draw.integers(0, 3)) for x in observables
    }
    return LatentGraph(edges, observables, dims)


def random_masks(graph: LatentGraph, seed: int, most: int = MASKS) -> list[tuple[Name, ...]]:
    """Masks that hide something and show something: all of them, or ``most`` drawn without
    repetition."""
    n = len(graph.observables)
    every = np.arange(1, 2**n - 1)
    chosen = (
        every
        if len(every) <= most
        else np.sort(np.random.default_rng([seed, 1]).choice(every, most, replace=False))
    )
    return [
        tuple(x for k, x in enumerate(graph.observables) if code >> k & 1)
        for code in chosen.tolist()
    ]


def check_mask(graph: LatentGraph, masked: Collection[Name], seed: int) -> dict[str, bool]:
    """What Algorithms 1 and 2 say of one mask, judged on the linear model that ``seed`` draws.

    Returns:
        "one minimal set": `conditions.minimal_sets` has one member. "c located": it is the located
        c. "s_m located": (c, s_m) and x_m determine one another, and s_m is uncorrelated with c,
        s_mᶜ and x_mᶜ. "one s_m": of all sets of noises that one alone meets the conditions on s_m.
        "s_mc located": (c, s_mᶜ) and x_mᶜ determine one another. "something shared":
        a noise is determined by both parts. "s_mc not unique": another set of noises would do for
        s_mᶜ, with this c and s_m. "2^|CA| s_mc": as many do as there are subsets of the noises that
        both parts determine.

        The first five hold for every mask, c = ∅ included: it is then the one minimal set, and s_m
        and s_mᶜ are all noises of their parts. "s_mc not unique" is claimed only where something is
        shared: otherwise exactly one set will do, as 2^|CA| says.
    """
    plain, found = linear_model(graph, seed), locate_shared(graph, masked)
    minimal = minimal_sets(plain, masked)
    # noises of no dimension say nothing, and would be counted as a choice
    own = [v for v in graph.nodes if graph.noise_dims[v]]
    rows = dict(
        zip(
            graph.nodes,
            np.split(
                np.eye(sum(graph.noise_dims.values())),
                np.cumsum([graph.noise_dims[v] for v in graph.nodes])[:-1],
            ),
        )
    )
    model = LinearModel(
        {**plain.maps, **{_noise(v): rows[v] for v in graph.nodes}}, plain.observables
    )
    hidden, shown = list(masked), [x for x in graph.observables if x not in masked]
    c, s_m, s_mc = list(found.c), [_noise(v) for v in found.s_m], [_noise(v) for v in found.s_mc]

    def determines(one: list, other: list) -> bool:
        return model.rank(one + other) == model.rank(one)

    def independent(one: list, other: list) -> bool:
        return np.abs(model.stack(one) @ model.stack(other).T).max(initial=0) < TOLERANCE

    def one_to_one(one: list, other: list) -> bool:
        return determines(one, other) and determines(other, one)

    # What could belong to s_m: a noise that x_m determines and that tells nothing of c and x_mᶜ. To
    # determine x_m is monotone in the set, so one is left if all are needed.
    own_s_m = [
        e for e in map(_noise, own) if determines(hidden, [e]) and independent([e], c + shown)
    ]
    one_s_m = determines(c + own_s_m, hidden) and not any(
        determines(c + [other for other in own_s_m if other != e], hidden) for e in own_s_m
    )
    common = [v for v in own if determines(hidden, [_noise(v)]) and determines(shown, [_noise(v)])]
    # What could belong to s_mᶜ: a noise that x_mᶜ determines and that is not in s_m. To determine
    # x_mᶜ is monotone in the set, so a noise whose absence cannot be made up for by all others is
    # in every valid set, and only subsets of the rest need be tried.
    possible = [_noise(v) for v in own if v not in found.s_m and determines(shown, [_noise(v)])]
    needed = [
        e
        for e in possible
        if not determines(c + [other for other in possible if other != e], shown)
    ]
    free = [e for e in possible if e not in needed]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(free, k) for k in range(len(free) + 1)
    )
    valid = [{*needed, *extra} for extra in subsets if one_to_one(c + needed + list(extra), shown)]
    located = {e for e in s_mc if e[1] in own}
    return {
        "one minimal set": len(minimal) == 1,
        "c located": minimal == [found.c],
        "s_m located": one_to_one(c + s_m, hidden) and independent(s_m, c + s_mc + shown),
        "one s_m": one_s_m and {e[1] for e in own_s_m} == found.s_m & set(own),
        "s_mc located": one_to_one(c + s_mc, shown),
        "something shared": bool(common),
        "s_mc not unique": any(other != located for other in valid),
        "2^|CA| s_mc": len(valid) == 2 ** len(common),
    }


def _noise(v: Name) -> tuple[str, Name]:
    return "noise", v


def random_graphs(
    seed: int, graphs: int = GRAPHS, masks: int = MASKS
) -> tuple[dict, Callable[[], dict[str, float]]]:
    """The config of the run "random graphs", and what measures it: the share of (graph, mask) cases
    for each figure of `check_mask`; "s_mc not unique" of those in which something is shared."""
    cases = [
        (graph, mask)
        for graph in random_hierarchies(seed, graphs)
        for mask in random_masks(graph, seed, masks)
    ]

    def measure() -> dict[str, float]:
        checks = [check_mask(graph, mask, seed + k) for k, (graph, mask) in enumerate(cases)]
        shares = {name: _share(check[name] for check in checks) for name in checks[0]}
        return shares | {
            "s_mc not unique": _share(
                check["s_mc not unique"] for check in checks if check["something shared"]
            )
        }

    return {"seed": seed, "graphs": graphs, "masks": masks, "cases": len(cases)}, measure


def layered_hierarchies(
    seed: int, count: int = HIERARCHIES, several: bool = False
) -> list[LatentGraph]:
    """Hierarchies as Figure 4 draws them: one or two roots, two or three levels of latents above
    the observables, 2 or 3 children each.

    Args:
        several: whether a node below the roots has a second parent with chance 0.3. Where not, they
            are trees, as in the figure, and what is below one child of a latent is not below
            another.
    """
    draw, graphs = np.random.default_rng([seed, 2 + several]), []
    for _ in range(count):
        height = int(draw.integers(2, 4))
        above, edges = [f"z{height}_{k}" for k in range(draw.integers(1, 3))], []
        for level in range(height - 1, -1, -1):
            below = []
            for parent in above:
                for _ in range(draw.integers(2, 4)):
                    below.append(f"z{level}_{len(below)}" if level else f"x{len(below)}")
                    edges.append((parent, below[-1]))
                    others = [other for other in above if other != parent]
                    if several and others and draw.random() < 0.3:
                        edges.append((others[draw.integers(len(others))], below[-1]))
            above = below
        graphs.append(_with_dims(draw, edges, above))
    return graphs


def mask_like_figure_4(graph: LatentGraph, run: str, z: Name, draw: Draw) -> frozenset[Name]:
    """A mask of Figure 4 around z: one observable below z ("small mask"), all of the graph but one
    below z ("small visible part"), or all below one latent child of z ("in between")."""
    pick = lambda names: names[draw.integers(len(names))]
    below = [x for x in graph.observables if x in graph.descendants[z]]
    if run == "small mask":
        return frozenset((pick(below),))
    if run == "small visible part":
        return frozenset(graph.observables) - {pick(below)}
    return graph.descendants[pick(graph.children[z])]


def figure_4_run(
    run: str, seed: int, several: bool = False, count: int = HIERARCHIES
) -> tuple[dict, Callable[[], dict[str, float]]]:
    """The config of a run of `FIGURE_4`, and what measures it: one latent z above the lowest level
    a hierarchy, one mask around it.

    A case counts where c, as `locate_shared` finds it, holds a latent below z (or z itself, "in
    between") and, in hierarchies of at most `CHECKED_LATENTS` latents, is the one minimal set of a
    linear model too ("conditions agree": of these, the share where it is). "level of c" and "level
    of z" are means over cases (with a c), the observables being level 0.
    """
    graphs = layered_hierarchies(seed, count, several)
    small = [len(graph.latents) <= CHECKED_LATENTS for graph in graphs]

    def measure() -> dict[str, float]:
        draw, holds, agree, levels = np.random.default_rng([seed, 4]), [], [], []
        for k, graph in enumerate(graphs):
            high = [z for z in graph.latents if graph.levels[z] > 1]
            z = high[draw.integers(len(high))]
            mask = mask_like_figure_4(graph, run, z, draw)
            found = locate_shared(graph, mask)
            wanted = (
                z in found.c
                if run == "in between"
                else any(z in graph.ancestors[low] for low in found.c - {z})
            )
            same = not small[k] or minimal_sets(linear_model(graph, seed + k), mask) == [found.c]
            holds.append(wanted and same)
            agree += [same] * small[k]
            levels.append((found.mean_level, graph.levels[z]))
        of_c, of_z = np.nanmean(levels, axis=0).tolist()
        return {
            FIGURE_4[run]: _share(holds),
            "conditions agree": _share(agree),
            "level of c": of_c,
            "level of z": of_z,
        }

    return {"seed": seed, "cases": count, "checked": sum(small), "several": several}, measure


def _share(outcomes: Iterable[bool]) -> float:
    """Of outcomes that are true. InputError where there is none."""
    if not (outcomes := list(outcomes)):
        raise InputError("a share needs at least one case: draw more graphs")
    return sum(outcomes) / len(outcomes)


def evaluate_theory(
    folder: Path, seeds: Sequence[int] = SEEDS["theory"], report: Report | None = None
) -> None:
    """Writes into ``folder`` one record a run and seed: "random graphs", the three of `FIGURE_4` on
    trees, as the paper draws them, and beside these "RUN, several parents", which decide nothing:
    there, what is below one child of z can be below another, so that the other is neither wholly
    masked nor wholly visible. What is there is not computed again. ``report`` is called with each
    new record.
    """
    wanted = []
    for seed in seeds:
        wanted.append(("random graphs", *random_graphs(seed)))
        for several in (False, True):
            wanted += [
                (f"{run}, several parents" if several else run, *figure_4_run(run, seed, several))
                for run in FIGURE_4
            ]
    known = [_recorded(folder, "theory", run, config) for run, config, _ in wanted]
    for there, (run, config, measure) in zip(known, wanted):
        if not there:
            began = time.perf_counter()
            measures = measure()
            _write(folder, "theory", run, config, measures, time.perf_counter() - began, report)


def trainings() -> tuple[tuple[Case, int], ...]:
    """What is trained for T2t, each with its steps: the four cases that meet the theorem's
    conditions and the broken ones, the one wide model, and the same for fewer and more steps,
    narrower and wider."""
    wide = every_mask_case()
    named = lambda which, **change: replace(wide, name=f"one model, {which}", **change)
    return (
        *((case, STEPS) for case in (*table_cases(), wide)),
        *((named(f"{steps} steps"), steps) for steps in (500, 8000)),
        *((named(f"width {width}", width=width), STEPS) for width in (32, 256)),
    )


def identify_runs(
    seed: int, of: Sequence[tuple[Case, int]] | None = None, batch: int = BATCH
) -> list[tuple[str, dict]]:
    """Run and config of every record of a seed that comes from a training."""
    return [
        named
        for case, steps in (trainings() if of is None else of)
        for mask in case.measured or case.masks
        for named in _identify_runs(case, mask, seed, steps, batch)
    ]


def fold_run(seed: int) -> tuple[str, dict]:
    """Run and config of the fold, which is not trained."""
    return "fold", {"seed": seed, "case": "fold"}


def evaluate_identify(
    folder: Path,
    seeds: Sequence[int] = SEEDS["identify"],
    of: Sequence[tuple[Case, int]] | None = None,
    batch: int = BATCH,
    report: Report | None = None,
) -> None:
    """The fold, then every training with every seed, case by case: the four that meet the
    conditions first.

    Writes into ``folder`` a record a run, mask and seed. Its run is the case's name, with the mask
    where one model is measured under several; its measures are `identify.FIGURES` and
    ``output_less_code``, c → D(ĉ) less c → ĉ. Beside it, as the run ``NAME, untrained``:
    ``code_to_c`` of the same encoder before training, at no time of its own. The run "fold" has
    the figures of `identify.FoldResult`.

    Args:
        folder: of the records. What is there is not computed again, so that a stop loses no more
            than one training. of: cases and the steps of each; `trainings` by default. batch: of
            each training. report: called with each new record.
    """
    of = trainings() if of is None else of
    folds = {seed: _recorded(folder, "identify", *fold_run(seed)) for seed in seeds}
    known = {
        (case.name, seed): all(
            _recorded(folder, "identify", run, config)
            for run, config in identify_runs(seed, [(case, steps)], batch)
        )
        for case, steps in of
        for seed in seeds
    }
    for seed in seeds:
        if not folds[seed]:
            began = time.perf_counter()
            found = asdict(run_fold(seed))
            took = time.perf_counter() - began
            _write(folder, "identify", *fold_run(seed), found, took, report)
    for case, steps in of:
        for seed in seeds:
            if not known[case.name, seed]:
                for result in run_case(case, seed, steps, batch):
                    _write_identify(folder, result, steps, batch, report)


def _write_identify(
    folder: Path, result: CaseResult, steps: int, batch: int, report: Report | None
) -> None:
    trained, untrained = _identify_runs(result.case, result.mask, result.seed, steps, batch)
    figures = {name: getattr(result, name) for name in FIGURES}
    figures["output_less_code"] = result.c_to_output - result.c_to_code
    _write(folder, "identify", *trained, figures, result.seconds, report)
    before = {"code_to_c": result.untrained_to_c}
    _write(folder, "identify", *untrained, before, 0.0, report)


def _identify_runs(
    case: Case, mask: str, seed: int, steps: int, batch: int
) -> tuple[tuple[str, dict], tuple[str, dict]]:
    """Run and config, trained and untrained, of one mask of a case."""
    run = f"{case.name}, {mask}" if case.measured else case.name
    config = {
        "seed": seed,
        "case": case.name,
        "masks": case.masks,
        "mask": mask,
        "code_dim": case.code_dim,
        "loss": case.loss,
        "dropped": case.dropped,
        "width": case.width,
        "steps": steps,
        "batch": batch,
    }
    return (run, config), (f"{run}, untrained", config | {"steps": 0})


def _named(run: str, config: Mapping) -> tuple[str, str]:
    """Name and hash of a record; the name is fit for a file: "c = z2, z3" of seed 3 is
    "c-z2-z3-s3"."""
    name = re.sub(r"[^\w.]+", "-", run).strip("-")
    return (
        f"{name}-s{config['seed']}",
        hashlib.sha256(json.dumps([run, config]).encode()).hexdigest()[:8],
    )


def _recorded(folder: Path, kind: str, run: str, config: Mapping) -> bool:
    """Whether a run is recorded; InputError where another file has its name."""
    name, identity = _named(run, config)
    return own_record(folder, {"kind": kind, "name": name, "hash": identity}) is not None


def _write(
    folder: Path,
    kind: str,
    run: str,
    config: dict,
    measures: Mapping[str, float],
    seconds: float,
    report: Report | None,
) -> None:
    name, identity = _named(run, config)
    record = {
        "kind": kind,
        "name": name,
        "hash": identity,
        "run": run,
        "seed": config["seed"],
        "config": config,
        "measures": {key: over_seeds([value]).to_dict() for key, value in measures.items()},
        "seconds": round(seconds, 1),
        **provenance(),
    }
    write_result(folder, record)
    if report:
        report(record)


def main(words: Sequence[str] | None = None) -> None:
    """``python -m mae_book.sweep.theorems``: the theory's claims, into results/theory and
    results/identify. What is recorded is not computed again."""
    kinds = {"theory": evaluate_theory, "identify": evaluate_identify}
    parser = argparse.ArgumentParser(
        prog="python -m mae_book.sweep.theorems", description=main.__doc__
    )
    parser.add_argument(
        "--kind", nargs="+", default=list(kinds), help=f"of {', '.join(kinds)}; all by default"
    )
    parser.add_argument(
        "--seeds", nargs="+", help="0 1 2 3 4 for theory and 3 4 5 6 7 for identify by default"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=results_directory(),
        help="folder of the results; the project's by default",
    )
    options = parser.parse_args(words)

    def report(record: dict) -> None:
        numbers = ", ".join(
            f"{name} {value['value']:.3f}" for name, value in record["measures"].items()
        )
        print(
            f"{record['run']}, seed {record['seed']}: {numbers}; {record['seconds']} s", flush=True
        )

    torch.set_num_threads(1)  # small matrices gain nothing from more, and sums keep their order
    try:
        if unknown := [kind for kind in options.kind if kind not in kinds]:
            raise InputError(f"there is no kind {unknown[0]!r}: choose of {', '.join(kinds)}")
        if wrong := [seed for seed in options.seeds or () if not re.fullmatch("[0-9]{1,9}", seed)]:
            raise InputError(f"seed {wrong[0]!r} must be a whole number from 0 to 999999999")
        for kind in options.kind:
            kinds[kind](
                options.out / kind,
                [int(seed) for seed in options.seeds or SEEDS[kind]],
                report=report,
            )
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
