"""Processes that share one training, as `torchrun` starts them: who am I, join, leave, and what the first process decides for all. With one
process everything here does nothing, so that the same code runs on one.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from mae_lib.errors import InputError

Answer = TypeVar("Answer")

PATIENCE = datetime.timedelta(minutes=30)
"""How long a process waits for the others before it takes one for hung and gives up; `torchrun` then stops or restarts them all."""


def rank() -> int:
    """The number of this process, from 0; 0 alone saves, prints and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes share the training."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def joined(device: torch.device, patience: datetime.timedelta = PATIENCE) -> Iterator[torch.device]:
    """Inside, the processes of `torchrun` are one group (nccl on GPUs, gloo on CPUs), each with its own GPU; yields this process's device.
    A process that waits for the others longer than ``patience`` gives up.

    InputError where there are more processes on this machine than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", 0))
        if local >= torch.cuda.device_count():
            raise InputError(f"process {local} of this machine has no GPU of its own, there are {torch.cuda.device_count()}: start torchrun with fewer processes a node")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def first_says(ask: Callable[[], Answer]) -> Answer:
    """What ``ask`` answers in the first process, in all of them; a point where they wait for one another."""
    if not dist.is_initialized():
        return ask()
    answer = [ask() if rank() == 0 else None]
    dist.broadcast_object_list(answer)
    return answer[0]


def summed(value: torch.Tensor) -> torch.Tensor:
    """The sum of ``value`` over all processes."""
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
    return value
