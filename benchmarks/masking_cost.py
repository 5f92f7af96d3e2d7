"""What a masking ratio costs, and what the mask designs of §3.6 add (claims S1–S3): training steps
of this library, masks and optimiser included.

All models of a tier see the same images of the embedded world and take turns within one process.
Beside the time stand what is exact: the floating-point operations of an image, and the bytes that
the forward pass keeps for the backward pass.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import common
import torch
from torch import Tensor

from mae_lib.model.autoencoder import training_flops
from mae_lib.training.config import PretrainConfig
from mae_lib.training.loop import Run
from mae_lib.training.tiers import RATIOS, SIZE_RATIO, TIERS, tier
from mae_lib.worlds.world import World

BATCHES = {"paper": 256}
"""Images a step where the tier's own batch is meant for many GPUs."""


def cases(name: str) -> dict[str, PretrainConfig]:
    """case → config: the five ratios, and each design beside the random masks that it replaces."""
    sizes = tier(name)
    size, patch = sizes.model.image_size[0], sizes.model.patch
    rows, columns = sizes.model.grid
    # Eight blocks of neighbours, as large as estimated groups are: a design costs the same
    # whichever patches it groups.
    blocks = tuple(
        4 * r // rows * 2 + 2 * c // columns for r in range(rows) for c in range(columns)
    )
    data = World("train", size).identity
    plain = {f"r{round(ratio * 100)}": sizes.config(data, ratio) for ratio in RATIOS} | {
        "coarse": sizes.config(data, unit=2 * patch)
    }
    # Without crops and flips, under which no patch's part is known.
    found = {case: replace(config, crop=1.0, flip=False) for case, config in plain.items()}
    designs = {
        "parts": {"design": "parts"},
        "object": {"design": "object"},
        "groups8": {"design": "groups", "groups": blocks},
        f"margin{patch // 2}": {"margin": patch // 2},
    }
    found |= {f"r75-{label}": replace(found["r75"], **design) for label, design in designs.items()}
    found[f"coarse-margin{patch}"] = replace(found["coarse"], margin=patch)
    found[f"coarse-strict{patch // 2}"] = replace(found["coarse"], margin=patch // 2, strict=True)
    return found


def against(case: str) -> str:
    """The case that a case's time is divided by: the same masks without the design, and for a ratio
    the paper's 0.75."""
    return "coarse" if case.startswith("coarse-") else f"r{round(SIZE_RATIO * 100)}"


def step_of(run: Run, images: Tensor, parts: Tensor) -> Callable[[], None]:
    """One training step of ``run``."""
    parted = parts if run.config.design in ("parts", "object") else None
    return lambda: run.train_step(images, parted)


def seconds_once(work: Callable[[], object]) -> float:
    """Wall seconds of what a run does once."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    options = common.parser(__doc__, rounds=30)
    options.add_argument(
        "--tier",
        action="append",
        choices=list(TIERS),
        help="only this tier (may be repeated); default: laptop on a CPU, all but smoke on a GPU",
    )
    chosen = options.parse_args()
    device = common.prepare(chosen.threads, chosen.device)
    print(common.machine(device), end="\n\n")
    clock = common.processor_clock(chosen.threads)
    result = {}
    for name in chosen.tier or (["laptop"] if device.type == "cpu" else ["laptop", "gpu", "paper"]):
        configs, sizes = cases(name), tier(name)
        batch = chosen.batch or BATCHES.get(name, sizes.training["batch"])
        world = World("train", sizes.model.image_size[0], length=batch)
        images, parts = (
            world.images(range(batch)).to(device),
            world.patch_parts(sizes.model.patch).to(device, torch.int64),
        )
        runs = {
            case: Run(replace(config, precision=common.precision(device)), device)
            for case, config in configs.items()
        }
        steps = {case: step_of(run, images, parts) for case, run in runs.items()}
        for step in steps.values():  # the optimiser's moments are made in its first step
            step()
        kept = {case: common.kept_bytes(step, runs[case].model) for case, step in steps.items()}
        peak = {case: common.peak_bytes(step, device) for case, step in steps.items()}
        times = common.alternate(steps, chosen.rounds, device, clock)
        rows, found = [], {}
        for case, config in configs.items():
            flops = training_flops(config.model, config.mask.visible_patches)
            ratio = common.ratio(times[case], times[against(case)])
            median = statistics.median(times[case])
            rows.append(
                [
                    case,
                    f"{config.mask.visible_patches} of {config.mask.patches}",
                    f"{flops / 1e6:.0f}",
                    common.spread(times[case]),
                    f"{batch / median:.0f}",
                    f"{kept[case] / batch / 2**20:.2f}",
                    f"{ratio} of {against(case)}",
                ]
            )
            found[case] = {
                "ratio": config.ratio,
                "visible_patches": config.mask.visible_patches,
                "flops": flops,
                "seconds": times[case],
                "images_a_second": batch / median,
                "kept_bytes_an_image": kept[case] / batch,
                "peak_bytes": peak[case],
                "against": against(case),
                "time": asdict(ratio),
            }
        print(f"{name}: {batch} images a step, {chosen.rounds} rounds")
        print(
            common.table(
                [
                    "masks",
                    "visible",
                    "MFLOP an image",
                    "ms a step: median [quartiles]",
                    "images/s",
                    "MiB kept an image",
                    "time [95 %]",
                ],
                rows,
            ),
            end="\n\n",
        )
        some = World("train", sizes.model.image_size[0], length=1024)
        once = {
            "parts_of_an_image": (
                seconds_once(lambda: some.patch_parts(sizes.model.patch)) / len(some)
            )
        }
        print(
            f"Once a run, for the designs parts and object: {1e3 * once['parts_of_an_image']:.2f}"
            " ms for each training image's parts.\n"
        )
        result[name] = {
            "model": asdict(sizes.model),
            "batch": batch,
            "cases": found,
            "once_seconds": once,
        }
    common.save(
        chosen.json, device, {"benchmark": "masking_cost", "rounds": chosen.rounds, "tiers": result}
    )


if __name__ == "__main__":
    main()
