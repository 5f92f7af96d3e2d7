"""Processes that share one training, as `torchrun` starts them: who am I, join, leave, what the
first process decides for all, and what happens when one of them hangs. With one process everything
here does nothing, so that the same code runs on one.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from mae_lib.base.errors import InputError, ProcessLost

Answer = TypeVar("Answer")

PATIENCE = datetime.timedelta(minutes=30)
"""How long a process waits for the others before it takes one for hung and gives up; `torchrun`
then stops or restarts them all."""


def rank() -> int:
    """The number of this process, from 0; 0 alone saves, prints and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes share the training."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def joined(device: torch.device, patience: datetime.timedelta = PATIENCE) -> Iterator[torch.device]:
    """Inside, the processes of `torchrun` are one group (nccl on GPUs, gloo on CPUs), each with its
    own GPU; yields this process's device.

    A process that neither calls :func:`alive` nor comes through :func:`first_says` for ``patience``
    ends with exit status 1, whatever it waits for, and so do the others; one of them says on stderr
    which process hangs, and where each stands.

    Raises:
        InputError: there are more processes on this machine than GPUs. ProcessLost: some did not
            join within ``patience``.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", 0))
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} of this machine has no GPU of its own, there are"
                f" {torch.cuda.device_count()}: start torchrun with fewer processes a node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    store, number, count = next(dist.rendezvous("env://", timeout=patience))
    store = dist.PrefixStore(_round_of(store, number, count, patience), store)
    # Longer than the watch's patience: what the libraries report when a wait times out does not say
    # who was waited for.
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=number,
        world_size=count,
        timeout=2 * patience,
    )
    watch = _Watch(number, count, store, patience)
    try:
        yield device
    finally:
        watch.end()
        dist.destroy_process_group()


def _round_of(store: dist.Store, number: int, count: int, patience: datetime.timedelta) -> str:
    """A word that the processes which are here now agree on, and that no earlier ones had.

    `torchrun` keeps one store for all its restarts, and what processes that died have left there,
    their addresses first of all, looks like that of live ones. So each other process draws a word
    for itself and asks the first for the common one under it.
    """
    until = time.monotonic() + patience.total_seconds()
    if number == 0:
        word, greeted, missing = secrets.token_hex(8), {}, set(range(1, count))
        while missing:
            if time.monotonic() > until:
                raise ProcessLost(_absent(sorted(missing), count, patience))
            for other in sorted(missing):
                own = (
                    store.get(f"hello/{other}").decode()
                    if store.check([f"hello/{other}"])
                    else None
                )
                if own != greeted.get(other):  # perhaps a dead one's; then the live one's follows
                    store.set(f"welcome/{own}", word)
                    greeted[other] = own
                if store.check([f"here/{word}/{other}"]):
                    missing.discard(other)
            time.sleep(0.02)
        store.set(f"go/{word}", "")
        return word
    own = secrets.token_hex(8)
    store.set(f"hello/{number}", own)
    while True:
        if store.check([f"welcome/{own}"]):
            # read anew each time: a first process that waits for a dead one is itself replaced
            word = store.get(f"welcome/{own}").decode()
            store.set(f"here/{word}/{number}", "")
            if store.check([f"go/{word}"]):
                return word
        if time.monotonic() > until:
            raise ProcessLost(
                f"process {number} of {count} waited {_minutes(patience)} for the first process:"
                " look for its error, and start torchrun again"
            )
        time.sleep(0.02)


def _absent(missing: list[int], count: int, patience: datetime.timedelta) -> str:
    names = ", ".join(map(str, missing))
    return (
        f"of {count} processes, {names} did not join within {_minutes(patience)}: look at the"
        " output of their machines, and start torchrun again"
    )


def _minutes(span: datetime.timedelta) -> str:
    seconds = span.total_seconds()
    return f"{seconds / 60:.3g} minutes" if seconds >= 60 else f"{seconds:.3g} seconds"


@dataclass
class _Pulse:
    """What a process tells the others: how often it has, its signs of life, its machine, where its
    main thread is, and whether it waits there for others."""

    beat: int
    signs: int
    host: str
    place: str
    waits: bool


class _Watch:
    """A thread that tells the others that this process lives, and ends the process when its
    training has stood still for too long.

    All processes of a training wait for one another, so they stand still together; which one is to
    blame shows in what each is doing.
    """

    current: _Watch | None = None

    def __init__(
        self, number: int, count: int, store: dist.Store, patience: datetime.timedelta
    ) -> None:
        self.number, self.count, self.patience = number, count, patience
        self.every = min(10.0, patience.total_seconds() / 10)
        self.signs, self.last = 0, time.monotonic()
        # a connection of its own: while the main thread waits for a key on one, nobody else can use
        # it
        self.store = store.clone()
        self.main, self.over = threading.get_ident(), threading.Event()
        self.thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self.thread.start()
        _Watch.current = self

    def end(self) -> None:
        _Watch.current = None
        self.over.set()
        self.thread.join()

    def sign(self) -> None:
        self.signs, self.last = self.signs + 1, time.monotonic()

    def _look(self) -> None:
        beat, before, left = 0, None, 0
        while not self.over.wait(self.every if beat else 0):
            beat += 1
            pulse = _Pulse(beat, self.signs, socket.gethostname(), *_standing(self.main))
            try:
                self.store.set(f"pulse/{self.number}", json.dumps(dataclasses.asdict(pulse)))
                if self.store.check(["verdict"]):
                    os._exit(1)
                if time.monotonic() - self.last < self.patience.total_seconds():
                    before = None
                elif before is None:
                    before, left = self._pulses(), 3
                elif left := left - 1:
                    pass
                else:
                    text = (
                        f"the training has stood still for {_minutes(self.patience)}."
                        f" {_blame(before, self._pulses(), self.count)}"
                    )
                    if self.store.compare_set("verdict", "", str(self.number)).decode() == str(
                        self.number
                    ):
                        print(text, file=sys.stderr, flush=True)
                    # the main thread may wait inside a library for ever, where no exception reaches
                    # it
                    os._exit(1)
            except RuntimeError:
                # the store has gone: the first process, or torchrun, has ended, and so should this
                # one soon
                if not self.over.wait(self.patience.total_seconds()):
                    os._exit(1)

    def _pulses(self) -> dict[int, _Pulse]:
        keys = {other: f"pulse/{other}" for other in range(self.count)}
        return {
            other: _Pulse(**json.loads(self.store.get(key)))
            for other, key in keys.items()
            if self.store.check([key])
        }


_EXCHANGES = ("distributed", "autograd", "nn/parallel")
"""Where in PyTorch a process waits for others: in collectives, going backwards, which exchanges
gradients, and in DistributedDataParallel's own forward."""


def _standing(thread: int) -> tuple[str, bool]:
    """Where ``thread`` is: the innermost line of this package, and whether it waits there for other
    processes, by all that Python can see."""
    frame, inner = sys._current_frames().get(thread), None
    waits, here = False, Path(__file__).resolve().parents[1]
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        waits = waits or any(path.match(f"torch/{place}/*.py") for place in _EXCHANGES)
        if here in path.parents:
            return f"{path.name}:{frame.f_lineno} in {frame.f_code.co_name}", waits
        inner, frame = (
            inner or f"{path.name}:{frame.f_lineno} in {frame.f_code.co_name}",
            frame.f_back,
        )
    return inner or "nowhere", waits


def _blame(before: dict[int, _Pulse], now: dict[int, _Pulse], count: int) -> str:
    """Which processes hang, from what all of them told at two moments, and where each stands."""
    silent = [
        n for n in range(count) if n not in now or (n in before and now[n].beat == before[n].beat)
    ]
    alive = [n for n in range(count) if n not in silent]
    most = max((now[n].signs for n in alive), default=0)
    late = [n for n in alive if now[n].signs < most] or [n for n in alive if not now[n].waits]
    hang = silent or (late if len(late) < count else [])
    names = ", ".join(map(str, hang))
    first = (
        f"Process {names} hangs"
        if len(hang) == 1
        else f"Processes {names} hang"
        if hang
        else "No process stands out"
    )
    lines = [f"{first}. Each process:"]
    for n in range(count):
        if n not in now:
            lines.append(f"  {n}: never gave a sign of life")
        elif n in silent:
            lines.append(
                f"  {n} on {now[n].host}: gives no sign of life any more (stopped, or its machine"
                f" has gone); last at {now[n].place}"
            )
        else:
            lines.append(
                f"  {n} on {now[n].host}: {'waits for the others' if now[n].waits else 'is busy'}"
                f" at {now[n].place}"
            )
    return "\n".join(
        [
            *lines,
            (
                "The last saved state is kept. Look at that process's machine and disk; torchrun"
                " starts all again if --max-restarts is not used up."
            ),
        ]
    )


def alive() -> None:
    """A sign that the training goes on, to call once a step."""
    if _Watch.current is not None:
        _Watch.current.sign()


def first_says(ask: Callable[[], Answer]) -> Answer:
    """What ``ask`` answers in the first process, in all of them; a point where they wait for one
    another."""
    if not dist.is_initialized():
        return ask()
    alive()
    answer = [ask() if rank() == 0 else None]
    dist.broadcast_object_list(answer)
    alive()
    return answer[0]


def first_tries(ask: Callable[[], Answer]) -> Answer:
    """As :func:`first_says`; what the first process refuses with an InputError, all do, in place of
    waiting for it."""

    def attempt() -> tuple[Answer | None, str]:
        try:
            return ask(), ""
        except InputError as error:
            return None, str(error)

    answer, refused = first_says(attempt)
    if refused:
        raise InputError(refused)
    return answer


def summed(value: torch.Tensor) -> torch.Tensor:
    """The sum of ``value`` over all processes."""
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
    return value
