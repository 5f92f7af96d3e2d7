"""The fold: Theorem 2 is false as it is stated, and this is the model that shows it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mae_lib.identification.cases import one_thread, polar_graph
from mae_lib.identification.process import (
    Process,
    standard_normal,
)
from mae_lib.identification.scores import DRAWS, kernel_ridge_r2
from mae_lib.theory.graph import LatentGraph, Name


@dataclass(frozen=True)
class FoldResult:
    """The fold, an analytic counterexample without training: losses of the honest and of the folded
    code, and R² of the folded one."""

    honest_loss: float
    folded_loss: float
    code_to_c: float
    c_to_code: float


def fold_noise(graph: LatentGraph, n: int, generator: torch.Generator) -> dict[Name, Tensor]:
    """Latent noises uniform on [1, 2], the last observable's on [−2, −1] ∪ [1, 2], the others'
    standard normal."""
    noises = standard_normal(graph, n, generator)
    for v in (*graph.latents, graph.observables[-1]):
        noises[v] = 1 + torch.rand(noises[v].shape, generator=generator)
    last = graph.observables[-1]
    noises[last] = noises[last] * (
        2 * torch.randint(2, noises[last].shape, generator=generator) - 1
    )
    return noises


def run_fold(seed: int, inner: int = 64) -> FoldResult:
    """A code that has the least loss and is no function of c, because s_mᶜ lives on two pieces
    (ours; "connected" is missing from the paper's conditions).

    On the two-leaf graph with x1 masked, c > 0 and s_mᶜ ∈ ±[1, 2]. The code sign(s_mᶜ)·c is a
    continuous function of x_mᶜ on its support, and a decoder that begins with |ĉ| predicts from it
    what it predicts from c. Both losses are of the best decoder, E[x_m | c], here the mean over
    ``inner`` draws of x_m's noise, the same for both codes.
    """
    graph = polar_graph()
    with one_thread():
        streams = torch.randint(2**62, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
        process = Process(graph, streams[0], noise=fold_noise)
        generator = torch.Generator().manual_seed(streams[1])
        sample = process.sample(DRAWS, generator)
        # what an encoder can know of x_mᶜ: everything
        seen = process.invert("x2", sample.values["x2"]).noises
        honest, folded = seen["z1"], seen["x2"].sign() * seen["z1"]
        noise = torch.randn(inner, generator=generator)

        def loss(code: Tensor) -> float:
            noises = {
                "z1": code.abs().repeat_interleave(inner, 0),
                "x1": noise.repeat(DRAWS)[:, None],
                "x2": torch.ones(DRAWS * inner, 1),
            }
            prediction = process.generate(noises).values["x1"].view(DRAWS, inner, -1).mean(1)
            return float((prediction - sample.values["x1"]).square().mean())

        (forth,), (back,) = (
            kernel_ridge_r2(folded, sample.values["z1"]),
            kernel_ridge_r2(sample.values["z1"], folded),
        )
        return FoldResult(loss(honest), loss(folded), forth, back)
