"""What tests share: whether two drawings are alike; for training and storing, a source of images, a
config that trains in a moment, a checkpoint after no step, a fixture for one thread, and real
processes to kill.

Processes come from a fork server that has imported the library once: starting one takes
milliseconds, and it is a process like any other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mae_lib.model.autoencoder import MaskedAutoencoder, ModelConfig
from mae_lib.training import store
from mae_lib.training.config import PretrainConfig
from mae_lib.training.loop import Trained

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["mae_lib.training.store"])
PATIENCE = 240.0  # seconds that a process may take on a busy machine


class Ramps:
    """An image source: colour ramps of random direction, so that hidden patches can be told from
    visible ones."""

    def __init__(self, length: int = 24, size: int = 32, channels: int = 3) -> None:
        slopes = torch.rand(length, channels, 2, generator=torch.Generator().manual_seed(5)) - 0.5
        axis = torch.linspace(-1, 1, size)
        ramp = slopes[..., 0, None, None] * axis[:, None] + slopes[..., 1, None, None] * axis
        self.pixels = ((ramp * 0.5 + 0.5) * 255).round().to(torch.uint8)
        self.shape = (channels, size, size)
        self.labels = torch.zeros(length, dtype=torch.int64)
        self.classes = ("ramp",)
        self.identity = {"kind": "ramps", "length": length, "size": size, "channels": channels}

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, indices) -> Tensor:
        return self.pixels[torch.as_tensor(indices)]


MODEL = ModelConfig(
    image_size=(32, 32),
    patch=8,
    width=32,
    depth=1,
    heads=2,
    decoder_width=32,
    decoder_depth=1,
    decoder_heads=2,
)


def config(**changes) -> PretrainConfig:
    """One that meets every part of the loop: crops, flips, warm-up, and batches of 10 that do not
    divide the 24 images."""
    values = dict(
        model=MODEL,
        ratio=0.5,
        unit=8,
        data=Ramps().identity,
        steps=6,
        batch=10,
        base_lr=4e-3,
        warmup=0.2,
        crop=0.5,
        flip=True,
    )
    return PretrainConfig(**(values | changes))


def model(sizes: ModelConfig, seed: int = 0) -> MaskedAutoencoder:
    """An untrained model of these sizes, in eval mode; its weights are of the seed."""
    torch.manual_seed(seed)
    return MaskedAutoencoder(sizes).eval()


def checkpoint(folder: Path, own: PretrainConfig) -> store.Checkpoint:
    """A model after no step, its weights of the config's seed, stored in ``folder`` as
    `mae_lib.training.store` stores a trained one of tier smoke."""
    return store.save(
        Trained(model(own.model, own.seed), torch.linspace(1, 0.5, 5), 1.0), own, folder, "smoke"
    )


def alike(found: Tensor, wanted: Tensor, most: int = 1) -> bool:
    """Whether two drawings of the embedded world, as integers or booleans, are one but for what its
    promise leaves open (`mae_lib.worlds.world`): another batch, thread count or processor may round
    single values, one in ten thousand at most, by ``most``."""
    apart = (found.int() - wanted.int()).abs()
    return (
        found.dtype == wanted.dtype
        and found.shape == wanted.shape
        and int(apart.max()) <= most
        and int(apart.count_nonzero()) <= 2 + apart.numel() // 10_000
    )


@pytest.fixture(autouse=True)
def one_thread():
    """For the modules that import it: every test on one thread, whatever the others use."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(target: Callable, *arguments) -> BaseProcess:
    """A process that runs ``target`` of a test module on one thread."""
    process = PROCESSES.Process(target=_single_threaded, args=(target, arguments), daemon=True)
    process.start()
    return process


def _single_threaded(target: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    # a shell's background jobs are born deaf to it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    target(*arguments)


def finish(process: BaseProcess, code: int = 0) -> None:
    """Waits for the end of a process, which must have this exit code."""
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == code


def wait_for(condition: Callable[[], bool], process: BaseProcess | None = None) -> bool:
    """Waits until ``condition``; False if the process ended before."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if process is not None and not process.is_alive():
            return condition()
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.001)
    return True


def note(log: Path, line: str) -> None:
    """Appends a line, in one write, to a file that several processes share."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def notes(log: Path) -> list[str]:
    """The lines noted so far."""
    return log.read_text().splitlines() if log.exists() else []
