"""The experiment on Theorem 2: its measures against closed forms, its networks against what they
must learn, its results the same however run."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import pytest
import torch

from mae_lib.base.errors import InputError
from mae_lib.identification import identify
from mae_lib.identification.cases import (
    FIGURES,
    Case,
    CaseResult,
    elbow_cases,
    every_mask_case,
    masked_names,
    reference_graph,
    table_cases,
)
from mae_lib.identification.excess import determined_share
from mae_lib.identification.fold import run_fold
from mae_lib.identification.identify import elbow, resample, run_case, run_cases, table
from mae_lib.identification.process import CorrelatedNormal, Process
from mae_lib.identification.scores import DRAWS, FIT, energy_score, kernel_ridge_r2
from mae_lib.theory.graph import LatentGraph

PAIR = LatentGraph([("z", "x"), ("z", "y")], ["x", "y"])
TINY = Case("tiny", PAIR, ("x.",), 1, width=16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Identity:
    """A mechanism that does nothing, so that a normal process has closed forms."""

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        pass

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs

    inverse = forward


# The energy score.


def test_the_energy_score_is_its_definition():
    draws, target = (
        torch.randn(3, 5, 2, generator=generator()),
        torch.randn(5, 2, generator=generator(1)),
    )
    for b in range(5):
        error = sum(math.dist(draws[k, b], target[b]) for k in range(3)) / 3
        spread = (
            sum(math.dist(draws[k, b], draws[l, b]) for k in range(3) for l in range(3) if k != l)
            / 6
        )
        assert float(energy_score(draws, target)[b]) == pytest.approx(error - spread / 2, abs=1e-5)


def test_the_energy_score_of_normal_laws_in_closed_form():
    # E|N(0, v)| = √(2v/π): a prediction N(0, s²) of a target N(0, 1) scores √(2(1 + s²)/π) − s/√π.
    n = 200_000
    target = torch.randn(n, 1, generator=generator())
    for s in (0.0, 0.5, 1.0, 2.0):
        found = energy_score(s * torch.randn(2, n, 1, generator=generator(1)), target).mean()
        assert float(found) == pytest.approx(
            math.sqrt(2 * (1 + s * s) / math.pi) - s / math.sqrt(math.pi), abs=0.012
        )


def test_the_energy_score_is_least_at_the_true_law_where_the_squared_loss_sees_no_difference():
    # Targets on a circle: mean 0, as for a prediction that is 0 always, a normal, or half of the
    # circle's size.
    angle = 2 * math.pi * torch.rand(3, 40_000, generator=generator())
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    target, truth = circle[0], circle[1:]
    score = lambda draws: float(energy_score(draws, target).mean())
    others = (
        torch.zeros_like(truth),
        0.5 * truth,
        1.3 * truth,
        math.sqrt(0.5) * torch.randn(truth.shape, generator=generator(1)),
        truth + 0.3,
    )
    assert all(score(truth) < score(other) - 0.01 for other in others)


def test_the_energy_scores_gradient_is_that_of_finite_differences_and_finite_everywhere():
    draws = torch.randn(2, 4, 3, generator=generator(), dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 3, generator=generator(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda d: energy_score(d, target), draws)
    same = target.expand(2, 4, 3).clone().requires_grad_()
    energy_score(same, target).sum().backward()
    assert same.grad.isfinite().all()


# The regression.


def test_kernel_ridge_finds_what_is_a_function_and_nothing_where_nothing_is():
    x = torch.randn(DRAWS, 3, generator=generator())
    turned = x @ torch.linalg.qr(torch.randn(3, 3, generator=generator(1))).Q
    independent = torch.randn(DRAWS, 2, generator=generator(2))
    smooth = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:]
    noisy = x[:, :1] + torch.randn(DRAWS, 1, generator=generator(3))
    same, rotated, curved, half, none, empty = kernel_ridge_r2(
        x, x, turned, smooth, noisy, independent, x[:, :0]
    )
    assert same > 0.999 and rotated > 0.999 and curved > 0.97 and math.isnan(empty)
    assert half == pytest.approx(0.5, abs=0.07) and -0.05 < none < 0.02
    # Scales and shifts change nothing; a coordinate without variation does no harm; targets are
    # averaged alike, whatever their size.
    scaled = kernel_ridge_r2(torch.cat([1e4 * x + 7, torch.ones(DRAWS, 1)], 1), 1e-4 * smooth - 3)
    assert scaled[0] > 0.95
    assert kernel_ridge_r2(x, torch.cat([100 * x[:, :1], independent[:, :1]], 1))[
        0
    ] == pytest.approx(0.5, abs=0.03)


def test_kernel_ridge_scores_unseen_draws_and_chooses_without_them():
    x = torch.randn(DRAWS, 2, generator=generator())
    noise = torch.randn(DRAWS, 1, generator=generator(1))
    # a function of x where it fits, none where it is scored
    target = torch.where(torch.arange(DRAWS)[:, None] < FIT, x[:, :1], noise)
    assert kernel_ridge_r2(x, target)[0] < 0
    target = torch.where(torch.arange(DRAWS)[:, None] < FIT, noise, x[:, :1])
    assert kernel_ridge_r2(x, target)[0] < 0.1


# Draws in groups of one c.


def test_within_a_group_c_stands_still_and_all_else_has_its_own_law():
    case = table_cases()[3]
    shared, process = case.shared("x.x."), Process(case.graph, 0, dtype=torch.float64)
    sample, groups = resample(process, shared, 300, 8, generator())
    spread = lambda values: values.view(300, 8, -1).std(1).max()
    assert all(spread(sample.values[z]) < 1e-12 for z in shared.common)
    assert groups.tolist() == [k for k in range(300) for _ in range(8)]
    free = [v for v in case.graph.nodes if v not in shared.common]
    for v in free:
        rows = sample.noises[v].view(300, 8)
        between = 8 * rows.mean(1).var()
        assert between == pytest.approx(1, abs=0.3) and rows.var() == pytest.approx(1, abs=0.15)


def test_what_c_determines_is_exact_where_a_regression_has_a_ceiling():
    case = table_cases()[0]
    process, shared = Process(case.graph, 0), case.shared("xx..")
    sample, groups = resample(process, shared, 500, 8, generator())
    z = sample.values["z1"]
    other = torch.randn(z.shape, generator=generator(1))
    for share in (0.0, 0.5, 1.0):
        code = math.sqrt(share) * torch.sin(5 * z) / torch.sin(5 * z).std() + (
            math.sqrt(1 - share) * other
        )
        assert determined_share(code, groups) == pytest.approx(share, abs=0.05)


# What the networks learn.


def test_a_decoder_under_the_squared_loss_learns_the_conditional_mean():
    # x = (z, ε_x) and y = (z, ε_y): the best loss is that of (z, 0), half of the variance; the code
    # is z up to a one-to-one map.
    case = replace(TINY, special=dict.fromkeys(("z", "x", "y"), Identity))
    (result,) = run_case(case, seed=0, steps=600, batch=128)
    assert result.loss == pytest.approx(0.5, abs=0.03)
    assert (
        result.code_to_c > 0.97
        and result.c_to_code > 0.97
        and result.c_to_output > 0.97
        and abs(result.code_to_s_m) < 0.05
        and result.code_to_s_mc < 0.1
    )
    # Here L* is known: the excess is the loss above one half.
    assert result.excess == pytest.approx(result.loss - 0.5, abs=0.03)
    assert result.excess == pytest.approx(result.leak + result.misfit, abs=0.005)
    assert result.visible_to_c > 0.99 and result.visible_to_s_mc > 0.99


def test_a_partial_mean_in_closed_form():
    # Noises of correlation ρ: y tells z and ε_x up to 1 − ρ², and a code of two numbers can carry
    # both.
    case = replace(
        TINY,
        code_dim=2,
        special=dict.fromkeys(("z", "x", "y"), Identity),
        noise=CorrelatedNormal(0.8, (("x", "y"),)),
    )
    (result,) = run_case(case, seed=0, steps=600, batch=128)
    assert result.loss == pytest.approx((1 - 0.8**2) / 2, abs=0.03)
    assert result.code_to_s_m == pytest.approx(0.8**2, abs=0.08) and result.code_to_s_mc > 0.9
    # Of a code of (z, ε_y) c = z determines half. The gap says that c is not all that is shared.
    assert result.c_to_output < 0.8 and result.gap < -0.2


def test_the_energy_score_learns_the_law_and_not_only_its_mean():
    case = replace(TINY, special=dict.fromkeys(("z", "x", "y"), Identity), loss="energy")
    (result,) = run_case(case, seed=0, steps=600, batch=128)
    # Given z the standardised x is (z, N(0, 1)), whose own score is E|N(0, 1) − N(0, 1)|/2 = 1/√π.
    assert result.loss == pytest.approx(1 / math.sqrt(math.pi), abs=0.04)
    assert result.code_to_c > 0.97


def test_a_mean_that_says_nothing_about_c_teaches_nothing_and_the_energy_score_finds_c():
    squared, energy = (case for case in table_cases() if case.name.startswith("mean without c"))
    assert (squared.loss, energy.loss) == ("squared", "energy")
    (blind,), (seeing,) = run_case(squared, 0, steps=500), run_case(energy, 0, steps=500)
    assert (
        blind.loss == pytest.approx(1, abs=0.06)
        and blind.code_to_c < 0.8
        and seeing.code_to_c > 0.96
        and seeing.c_to_code > 0.96
    )
    assert blind.visible_to_c == seeing.visible_to_c > 0.97  # the same process, the same draws


def test_several_masks_hide_what_they_mask():
    case = every_mask_case()
    assert (
        len(set(case.masks)) == 14
        and not {"....", "xxxx"} & set(case.masks)
        and set(case.measured) < set(case.masks)
    )
    process = Process(case.graph, 0)
    views = identify._Views(case, process.sample(500, generator()))
    sample = process.sample(len(case.masks), generator(1))
    which = torch.arange(len(case.masks))
    inputs, told, target, weights = views(sample, which)
    x = torch.cat([sample.values[v] for v in case.graph.observables], 1)
    for k, mask in enumerate(case.masks):
        hidden = torch.tensor([sign == "x" for sign in mask])
        columns = hidden.repeat_interleave(4)
        assert torch.equal(told[k] > 0, hidden) and torch.equal(weights[k] > 0, columns)
        assert not inputs[k, :16][columns].any() and not target[k][~columns].any()
        assert inputs[k, :16][~columns].all() and target[k][columns].all()
        assert torch.equal(inputs[k, 16:], told[k]) and views.visible(sample, k).shape[1] == int(
            (~columns).sum()
        )
    for part in (inputs[:, :16] + target,):  # each coordinate once, on one scale
        assert torch.allclose(part * views._deviation + views._mean, x, atol=1e-5)


def test_dropped_coordinates_are_seen_by_no_one():
    case = next(case for case in table_cases() if case.dropped)
    process = Process(case.graph, 0)
    views = identify._Views(case, process.sample(500, generator()))
    sample = process.sample(3, generator(1))
    inputs, _, target, _ = views(sample, torch.zeros(3, dtype=torch.int64))
    assert inputs.shape[1] == 2 and target.shape[1] == 6 and views.visible(sample, 0).shape[1] == 2
    kept = (sample.values["x4"][:, :2] - views._mean[-2:]) / views._deviation[-2:]
    assert torch.allclose(inputs, kept)


# Cases, results and how they are run.


def test_the_table_has_the_rows_of_the_specification():
    found = {case.name: (case.shared(case.masks[0]), case) for case in table_cases()}
    assert len(found) == 10
    expected = {
        "c = z1": ({"z1"}, 2, 2),
        "c = z2": ({"z2"}, 3, 3),
        "c = z3": ({"z3"}, 3, 3),
        "c = z2, z3": ({"z2", "z3"}, 4, 6),
    }
    for name, (c, intrinsic, coordinates) in expected.items():
        shared, case = found[name]
        assert (shared.c, shared.intrinsic_dim, shared.coordinate_dim, case.code_dim) == (
            c,
            intrinsic,
            coordinates,
            intrinsic,
        )
    assert [
        found[name][1].code_dim - found[name][0].intrinsic_dim
        for name in ("code too small", "code too large")
    ] == [-1, 4]
    assert [case.code_dim for case in elbow_cases()] == [3, 4, 5]


def test_a_replicate_is_the_same_however_it_is_run():
    state = torch.get_rng_state()
    alone = run_cases([TINY], replicates=2, seed=5, steps=20, batch=32, workers=1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)  # a result depends on no state but its arguments
    pooled = run_cases([TINY], replicates=2, seed=5, steps=20, batch=32, workers=2)
    assert alone == pooled and [r.seed for r in pooled] == [5, 6]
    (other,) = run_case(replace(TINY, loss="energy"), 5, steps=20, batch=32)
    assert len({r.code_to_c for r in (*alone, other)}) == 3
    # one process a seed
    assert alone[0].visible_to_c == other.visible_to_c != alone[1].visible_to_c
    assert all(
        -1.5 < getattr(r, name) <= 1.0001
        for r in (*alone, other)
        for name in FIGURES
        if "_to_" in name
    )
    threads = torch.get_num_threads()
    run_fold(0)
    assert torch.get_num_threads() == threads


def test_a_case_survives_pickling():
    for case in (*table_cases(), every_mask_case()):
        assert pickle.loads(pickle.dumps(case)) == case


def result(case: Case, seed: int, **values: float) -> CaseResult:
    return CaseResult(
        case, case.masks[0], seed, **{**dict.fromkeys(FIGURES, 0.5), **values}, seconds=1.0
    )


def test_a_table_gives_mean_and_range_over_replicates():
    other = replace(TINY, name="other")
    rows = table([result(TINY, 0, code_to_c=0.9), result(other, 0), result(TINY, 1, code_to_c=0.6)])
    assert [(row.case.name, row.replicates) for row in rows] == [("tiny", 2), ("other", 1)]
    assert rows[0].mean["code_to_c"] == pytest.approx(0.75) and (
        rows[0].low["code_to_c"],
        rows[0].high["code_to_c"],
    ) == (0.6, 0.9)
    assert rows[1].mean == rows[1].low == rows[1].high == dict.fromkeys(FIGURES, 0.5)


def test_an_elbow_joins_cases_that_differ_in_the_code_alone():
    like = table_cases()[0]
    results = [
        result(case, 0, loss=float(case.code_dim)) for case in (*table_cases(), *elbow_cases())
    ]
    assert elbow(results, like) == {d: [float(d)] for d in range(1, 7)}


@pytest.mark.parametrize("case", table_cases()[:4], ids=lambda case: case.name)
def test_the_cases_that_meet_the_repaired_theorem_have_a_mean_that_tells_c(case):
    # H4 of the Proofs page for the squared loss: c can be read from E[x_m | c], here a mean over
    # 300 draws of all noises outside c.
    shared, draws = case.shared(case.masks[0]), generator(1)
    process = Process(case.graph, 0)
    sample = process.sample(DRAWS, draws)
    total = 0
    for _ in range(300):
        fresh = process.noise(case.graph, DRAWS, draws)
        values = process.generate(
            {v: (sample.noises if v in shared.common else fresh)[v] for v in case.graph.nodes}
        ).values
        total = total + torch.cat(
            [values[x] for x in case.graph.observables if x in shared.masked], 1
        )
    assert (
        kernel_ridge_r2(
            total / 300,
            torch.cat([sample.values[z] for z in case.graph.latents if z in shared.c], 1),
        )[0]
        > 0.97
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_the_folded_code_has_the_same_loss_gives_c_and_is_no_function_of_it(seed):
    found = run_fold(seed)
    assert (
        found.honest_loss == pytest.approx(found.folded_loss, rel=1e-6) and found.honest_loss > 0.01
    )
    assert found.code_to_c > 0.99 and abs(found.c_to_code) < 0.05


def test_wrong_input_is_refused_by_name():
    tree = reference_graph()
    for call, words in (
        (lambda: masked_names(tree, "xx."), "mask 'xx.' must have an x"),
        (lambda: masked_names(tree, "xX.."), "mask 'xX..'"),
        (lambda: Case("a", tree, "xx..", 2), "must be a tuple"),
        (lambda: Case("a", tree, (), 2), "must be a tuple"),
        (lambda: Case("a", tree, ("....",), 2), "nothing is masked"),
        (lambda: Case("a", tree, ("xxxx",), 2), "nothing is visible"),
        (lambda: Case("a", tree, ("xx..",), 0), "code_dim 0"),
        (lambda: Case("a", tree, ("xx..",), 2, loss="absolute"), "loss 'absolute'"),
        (lambda: Case("a", tree, ("xx..",), 2, dropped=4), "dropped 4"),
        (lambda: Case("a", tree, ("xx..",), 2, width=True), "width True"),
        (lambda: run_case(TINY, 0, steps=0), "steps 0"),
        (lambda: run_cases([TINY], replicates=0), "replicates 0"),
        (lambda: run_cases([TINY], workers=0), "workers 0"),
        (lambda: energy_score(torch.zeros(1, 3, 2), torch.zeros(3, 2)), "K of at least 2"),
        (lambda: energy_score(torch.zeros(2, 3, 2), torch.zeros(3, 1)), "draws of shape"),
        (lambda: kernel_ridge_r2(torch.zeros(5, 2), torch.zeros(5, 2)), "independent draws"),
        (lambda: kernel_ridge_r2(torch.zeros(DRAWS, 0), torch.zeros(DRAWS, 2)), "no coordinates"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert masked_names(tree, "x.x.") == ("x1", "x3")


def test_only_the_measured_masks_are_measured_and_the_training_does_not_depend_on_them():
    case = replace(every_mask_case(), width=16)
    both = run_case(replace(case, measured=("xxx.", "xx..")), 0, steps=20)
    assert [result.mask for result in both] == ["xxx.", "xx.."]
    (alone,) = run_case(replace(case, measured=("xxx.",)), 0, steps=20)
    assert alone.code_to_c == both[0].code_to_c
    with pytest.raises(InputError, match="measured names the mask 'xxxx'"):
        replace(case, measured=("xxxx",))
