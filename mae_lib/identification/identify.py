"""Theorem 2 as an experiment (§2.3): does an autoencoder trained on a process of Assumption 1
recover c, all of it and nothing else? And where a condition is broken, what is lost? Each case
trains an encoder ĉ = E(x_mᶜ) and a decoder D on fresh draws. How far ĉ determines c is asked by
regression; how far c determines ĉ, and the output D(ĉ), is exact: the noises of c are held and all
others drawn anew. So is where the excess loss goes (`mae_lib.identification.excess`).
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mae_lib.base.errors import InputError
from mae_lib.identification.cases import FIGURES, Case, CaseResult, one_thread
from mae_lib.identification.excess import determined_share, excess_loss
from mae_lib.identification.process import (
    Process,
    Sample,
)
from mae_lib.identification.scores import DRAWS, energy_score, kernel_ridge_r2
from mae_lib.theory.shared import SharedInformation

STEPS, BATCH, RATE = 2000, 384, 3e-3
"""Of the training: Adam at a rate that falls along half a cosine to 0; every step has fresh
draws."""

AT_ONCE = 100
"""Steps whose draws are made together."""

SCALE_DRAWS, LOSS_DRAWS = 10_000, 10_000
"""Draws that say how large each coordinate of x is, and draws that the loss is reported on."""

GROUPS, REPEATS = 512, 64
"""Values of c that are held, and draws of all else for each."""


def run_case(case: Case, seed: int, steps: int = STEPS, batch: int = BATCH) -> list[CaseResult]:
    """Draws a process, trains a model on it, and measures.

    Args:
        seed: of the process, the draws and the model. Cases of one graph and seed have the same
            mechanisms, so that they differ in nothing else.
        steps, batch: of the training, each ≥ 1.

    Returns:
        one result for each mask that is measured; the same for the same arguments, whatever the
        number of threads.
    """
    for what, value in (("steps", steps), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{what} {value!r} must be a whole number of at least 1")
    with one_thread():
        began = time.perf_counter()
        streams = torch.randint(2**62, (4,), generator=torch.Generator().manual_seed(seed)).tolist()
        process = Process(case.graph, streams[0], special=case.special, noise=case.noise)
        draws, test_draws = (torch.Generator().manual_seed(s) for s in streams[1:3])
        views = _Views(case, process.sample(SCALE_DRAWS, draws))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams[3])
            encoder = _network(views.input_dim, case.code_dim, case.width)
            decoder = _network(case.code_dim + views.side_dim, views.target_dim, case.width)
        model = _Model(encoder, decoder, views.noise_dim, draws)
        places = [case.masks.index(mask) for mask in case.measured or case.masks]
        tests = [process.sample(DRAWS, test_draws) for _ in places]
        before = [_code(encoder, views, test, k) for k, test in zip(places, tests)]
        _train(model, views, process, draws, steps, batch)
        after = [_code(encoder, views, test, k) for k, test in zip(places, tests)]
        fresh = process.sample(LOSS_DRAWS, test_draws)
        results = []
        for k, test, code_before, code_after in zip(places, tests, before, after):
            with torch.no_grad():
                loss = float(model(*views(fresh, torch.full((LOSS_DRAWS,), k))))
            shared = case.shared(case.masks[k])
            found = _measure(shared, test, views.visible(test, k), code_before, code_after)
            found |= _held(model, views, process, shared, k, test_draws)
            results.append(CaseResult(case, case.masks[k], seed, **found, loss=loss, seconds=0.0))
        share = (time.perf_counter() - began) / len(results)
        return [replace(result, seconds=share) for result in results]


def run_cases(
    cases: Sequence[Case],
    replicates: int = 3,
    seed: int = 0,
    steps: int = STEPS,
    batch: int = BATCH,
    workers: int = 2,
    progress: bool = False,
) -> list[CaseResult]:
    """Every case ``replicates`` times, each time with a process and a model of its own (seeds
    ``seed``, ``seed + 1``, …).

    Args:
        workers: processes, of one thread each. With 1 all runs in this process, and then mechanisms
            and noise laws that a notebook defines work too; with more they must be importable, and
            a script must guard its own code by ``if __name__ == "__main__":``.
        progress: whether to show a bar.

    Returns:
        the results in the order of cases, replicates and masks; the same for any number of workers.
    """
    for what, value in (("replicates", replicates), ("workers", workers)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{what} {value!r} must be a whole number of at least 1")
    jobs = [(case, seed + k, steps, batch) for case in cases for k in range(replicates)]
    with tqdm(total=len(jobs), unit="model", disable=not progress) as bar:
        found: list[list[CaseResult]] = []
        if workers == 1:
            for job in jobs:
                found.append(run_case(*job))
                bar.update()
        else:  # spawn: a fork of a process that has used its threads can hang
            with ProcessPoolExecutor(
                min(workers, len(jobs) or 1), multiprocessing.get_context("spawn")
            ) as pool:
                for results in pool.map(run_case, *zip(*jobs)):
                    found.append(results)
                    bar.update()
    return [result for results in found for result in results]


@dataclass(frozen=True)
class Row:
    """The replicates of one case under one mask: name of a figure → its mean, least and greatest
    value."""

    case: Case
    mask: str
    replicates: int
    mean: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]


def table(results: Sequence[CaseResult]) -> list[Row]:
    """Results grouped by case name and mask, in the order of their first appearance."""
    groups: dict[tuple[str, str], list[CaseResult]] = {}
    for result in results:
        groups.setdefault((result.case.name, result.mask), []).append(result)
    rows = []
    for (_, mask), members in groups.items():
        mean, low, high = (
            {name: summary([getattr(m, name) for m in members]) for name in FIGURES}
            for summary in (lambda values: math.fsum(values) / len(values), min, max)
        )
        rows.append(Row(members[0].case, mask, len(members), mean, low, high))
    return rows


def elbow(results: Sequence[CaseResult], like: Case) -> dict[int, list[float]]:
    """d̂ → the losses of all results whose case is ``like`` but for its name and code dimension, in
    ascending order of d̂."""
    found: dict[int, list[float]] = {}
    for result in results:
        if replace(result.case, name=like.name, code_dim=like.code_dim) == like:
            found.setdefault(result.case.code_dim, []).append(result.loss)
    return dict(sorted(found.items()))


class _Views:
    """What the networks get to see of a sample: standardised coordinates of x, with those that the
    draw's own mask hides set to 0.

    Attributes:
        input_dim, target_dim, side_dim: of what goes into the encoder, comes out of the decoder,
            and enters the decoder beside ĉ.
        noise_dim: of ŝ_m, 0 under the squared loss.
    """

    def __init__(self, case: Case, sample: Sample) -> None:
        self._case = case
        x = self._observed(sample)
        deviation, self._mean = torch.std_mean(x, dim=0)
        self._deviation = torch.where(deviation > 0, deviation, 1)
        graph = case.graph
        widths = torch.tensor([graph.dims[v] - case.dropped for v in graph.observables])
        # [masks, observables]
        hidden = torch.tensor([[sign == "x" for sign in mask] for mask in case.masks])
        columns = hidden.repeat_interleave(widths, dim=1)
        # Coordinates that no mask shows, or hides, need no place in the networks.
        self._inputs, self._targets = (~columns).any(0), columns.any(0)
        self._visible, self._hidden = (
            (~columns)[:, self._inputs].float(),
            columns[:, self._targets].float(),
        )
        several = len(case.masks) > 1
        self._which = hidden.float() if several else hidden.new_zeros(1, 0).float()
        self.noise_dim = (
            max(sum(graph.noise_dims[v] for v in case.shared(mask).s_m) for mask in case.masks)
            if case.loss == "energy"
            else 0
        )
        self.input_dim = int(self._inputs.sum()) + self._which.shape[1]
        self.target_dim = int(self._targets.sum())
        self.side_dim = self._which.shape[1] + self.noise_dim

    def __call__(self, sample: Sample, which: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """int64 [n] indices of masks → encoder inputs, which mask, targets, weights of the targets
        (1 where masked), each [n, ...]."""
        x = (self._observed(sample) - self._mean) / self._deviation
        told, weights = self._which[which], self._hidden[which]
        return (
            torch.cat([x[:, self._inputs] * self._visible[which], told], dim=1),
            told,
            x[:, self._targets] * weights,
            weights,
        )

    def visible(self, sample: Sample, which: int) -> Tensor:
        """x_mᶜ, standardised: [n, its coordinates]."""
        x = (self._observed(sample) - self._mean) / self._deviation
        return x[:, self._inputs][:, self._visible[which] > 0]

    def _observed(self, sample: Sample) -> Tensor:
        graph, dropped = self._case.graph, self._case.dropped
        return torch.cat(
            [sample.values[v][:, : graph.dims[v] - dropped] for v in graph.observables], dim=1
        )


class _Model(nn.Module):
    """Encoder and decoder with their loss; ŝ_m, where there is one, is drawn from ``generator``."""

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, noise_dim: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.noise_dim, self.generator = (
            encoder,
            decoder,
            noise_dim,
            generator,
        )

    def forward(self, inputs: Tensor, told: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        code = torch.cat([self.encoder(inputs), told], dim=1)
        if not self.noise_dim:
            return ((self.decoder(code) - target) * weights).square().sum() / weights.sum()
        noise = torch.randn(2 * len(code), self.noise_dim, generator=self.generator)
        draws = self.decoder(torch.cat([code.repeat(2, 1), noise], dim=1)).view(2, *target.shape)
        return energy_score(draws * weights, target).mean()


def _network(inputs: int, outputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, outputs),
    )


def _train(
    model: _Model,
    views: _Views,
    process: Process,
    generator: torch.Generator,
    steps: int,
    batch: int,
) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    for step, parts in enumerate(_batches(views, process, generator, steps, batch)):
        optimiser.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
        loss = model(*parts)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _batches(
    views: _Views, process: Process, generator: torch.Generator, steps: int, batch: int
) -> Iterator[tuple[Tensor, ...]]:
    masks = len(views._visible)
    for start in range(0, steps, AT_ONCE):
        count = min(AT_ONCE, steps - start)
        which = torch.randint(masks, (count * batch,), generator=generator)
        yield from zip(
            *(part.split(batch) for part in views(process.sample(count * batch, generator), which))
        )


@torch.no_grad()
def _code(encoder: nn.Module, views: _Views, sample: Sample, which: int) -> Tensor:
    inputs = views(sample, torch.full((DRAWS,), which))[0]
    return encoder(inputs)


def _measure(
    shared: SharedInformation, test: Sample, visible: Tensor, before: Tensor, after: Tensor
) -> dict[str, float]:
    """The R² of a `CaseResult`, from fresh draws, x_mᶜ and the codes before and after training."""
    c, s_m, s_mc = (
        torch.cat([parts[v] for v in shared.graph.nodes if v in members], dim=1)
        for parts, members in (
            (test.values, shared.c),
            (test.noises, shared.s_m),
            (test.noises, shared.s_mc),
        )
    )
    found = dict(
        zip(("code_to_c", "code_to_s_m", "code_to_s_mc"), kernel_ridge_r2(after, c, s_m, s_mc))
    )
    (found["untrained_to_c"],) = kernel_ridge_r2(before, c)
    found["visible_to_c"], found["visible_to_s_mc"] = kernel_ridge_r2(visible, c, s_mc)
    return found


def resample(
    process: Process, shared: SharedInformation, groups: int, repeats: int, draws: torch.Generator
) -> tuple[Sample, Tensor]:
    """Draws in groups of one c: the noises of CA held, all others drawn anew; and the number of
    each draw's group, int64 [groups · repeats].

    Within a group all else has its law given c, so long as the noises of CA are independent of the
    others; these may depend on one another.
    """
    noises = process.noise(process.graph, groups * repeats, draws)
    for v in shared.common:
        noises[v] = noises[v][::repeats].repeat_interleave(repeats, 0)
    return process.generate(noises), torch.arange(groups).repeat_interleave(repeats)


@torch.no_grad()
def _held(
    model: _Model,
    views: _Views,
    process: Process,
    shared: SharedInformation,
    which: int,
    draws: torch.Generator,
) -> dict[str, float]:
    """What c determines of code and output, and the parts of the excess loss."""
    sample, groups = resample(process, shared, GROUPS, REPEATS, draws)
    inputs, told, target, weights = views(sample, torch.full((len(groups),), which))
    code = model.encoder(inputs)
    still = code.new_zeros(len(code), model.noise_dim)
    output = model.decoder(torch.cat([code, told, still], dim=1))
    own = weights[0] > 0
    output, target = (part[:, own] / math.sqrt(int(own.sum())) for part in (output, target))
    split = excess_loss(output, target, groups)
    parts = {name: getattr(split, name).value for name in ("excess", "leak", "misfit", "gap")}
    return parts | {
        "c_to_code": determined_share(code, groups),
        "c_to_output": determined_share(output, groups),
    }
