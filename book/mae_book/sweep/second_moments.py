"""Second moments of a data set's patches, and what linear context is worth at each masking ratio:
the prediction that *Why 0.75* holds against the linear probe (`mae_book.sweep.ratio_prediction`),
recorded in ``results/moments/DATA`` so that the chapter needs no photographs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mae_book.sweep.ratio_prediction import RATIOS
from mae_book.verdicts.results import results_directory
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval
from mae_lib.base.provenance import provenance
from mae_lib.base.records import own_record, write_result
from mae_lib.base.runs import RATIO_RUNS
from mae_lib.data.datasets import ImageSource
from mae_lib.data.sources import image_source
from mae_lib.identification.image_groups import patch_features
from mae_lib.identification.moments import linear_gain, one_map_explained, patch_covariance

SIDE, PATCH, IMAGES, MASKS, SEED = 64, 8, 8_192, 64, 0
"""Pixels of an image and of a patch, images looked at (all where there are fewer), masks of a
ratio, and the seed of both draws."""

DISTANCES = {"EV": None, "G1": 1, "G2": 2}
"""Curve → the distance in patches beyond which context is far; None: all context."""


def colours(source: ImageSource, images: int = IMAGES) -> torch.Tensor:
    """Mean colours of the patches, float64 [N, P, 3], of as many images drawn at random."""
    index = torch.randperm(len(source), generator=torch.Generator().manual_seed(SEED))[:images]
    parts = [patch_features(source.images(part), PATCH)[..., :3] for part in index.split(512)]
    return torch.cat(parts)


def correlations(covariance: torch.Tensor, side: int) -> dict[str, float]:
    """Correlation of two patches' colours, the three colours together, for each number of rows or
    columns that they are apart."""
    traces = torch.einsum("iaja->ij", covariance)
    row, column = torch.arange(side * side) // side, torch.arange(side * side) % side
    apart = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())
    own = traces.diagonal().mean()
    return {f"apart{k}": float(traces[apart == k].mean() / own) for k in range(1, side)}


def identity(data: str, source: ImageSource) -> dict:
    """The part of a record that is known before anything is computed."""
    config = {
        "seed": SEED,
        "data": source.identity,
        "side": SIDE,
        "patch": PATCH,
        "images": IMAGES,
        "masks": MASKS,
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    named = {"kind": "moments", "name": f"colours-{data}", "hash": digest}
    return named | {"run": "colours", "seed": SEED, "config": config}


def measure(source: ImageSource) -> dict[str, Interval]:
    """CURVE/RUN for EV, G1, G2 (mean over masks, 95 %) and ``one-map``; ``apartK``."""
    side = SIDE // PATCH
    covariance = patch_covariance(colours(source))
    found = {}
    for run, ratio in zip(RATIO_RUNS, RATIOS):
        for curve, distance in DISTANCES.items():
            mean, error = linear_gain(covariance, (side, side), ratio, distance, MASKS, SEED)
            half = 1.96 * error
            found[f"{curve}/{run}"] = Interval(mean, mean - half, mean + half, MASKS)
        found[f"one-map/{run}"] = _single(one_map_explained(covariance, (side, side), ratio))
    return found | {k: _single(v) for k, v in correlations(covariance, side).items()}


def _single(value: float) -> Interval:
    return Interval(value, math.nan, math.nan, 1)


def main(words: Sequence[str] | None = None) -> None:
    """``python -m mae_book.sweep.second_moments``: those of the embedded world, or of a folder,
    into results/moments/NAME. What is recorded is not computed again."""
    parser = argparse.ArgumentParser(
        prog="python -m mae_book.sweep.second_moments", description=main.__doc__
    )
    parser.add_argument("--data", help="folder of images with train/; the embedded world's if none")
    parser.add_argument("--name", default="world", help="of the folder under results/moments")
    parser.add_argument("--out", type=Path, help="folder of the record; that one by default")
    options = parser.parse_args(words)
    torch.set_num_threads(1)  # sums keep their order
    folder = options.out or results_directory() / "moments" / options.name
    try:
        source = image_source(options.data, "train", (SIDE, SIDE))
        record = identity(options.name, source)
        if own_record(folder, record) is not None:
            return
        began = time.perf_counter()
        measures = {name: found.to_dict() for name, found in measure(source).items()}
        took = round(time.perf_counter() - began, 1)
        write_result(folder, record | {"measures": measures, "seconds": took, **provenance()})
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    for curve in (*DISTANCES, "one-map"):
        values = " ".join(f"{measures[f'{curve}/{run}']['value']:.4f}" for run in RATIO_RUNS)
        print(f"{options.name}, {curve} at .1 .25 .5 .75 .9: {values}")


if __name__ == "__main__":
    main()
