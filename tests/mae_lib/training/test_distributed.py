"""Several processes on one training: on gloo and the CPU, they have to give what one process
gives."""

import datetime
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import tiny
from mae_lib.base.errors import InputError, ProcessLost
from mae_lib.base.tensors import read_safetensors, write_safetensors
from mae_lib.masks.designs import sample_design
from mae_lib.training import distributed
from mae_lib.training.config import PretrainConfig
from mae_lib.training.feeding import DataOrder, step_generator
from mae_lib.training.loop import Run
from mae_lib.training.pretrain import pretrain
from mae_lib.training.store import checkpoints
from mae_lib.worlds.world import World

KILLS = int(os.environ.get("MAE_KILLS", 3))
"""How many processes one test kills, one after another."""

WORLD = World("train", 32, length=40)


def designs() -> dict[str, PretrainConfig]:
    """Crops and flips; a mean over unequal numbers of pixels; masks that follow each image's
    parts."""
    world = dict(model=tiny.MODEL, ratio=0.5, data=WORLD.identity, steps=3, batch=8)
    return {
        "augmented": tiny.config(batch=12),
        "margin": PretrainConfig(unit=16, margin=3, **world),
        "strict": PretrainConfig(unit=16, margin=3, strict=True, **world),
        "parts": PretrainConfig(unit=8, design="parts", **world),
    }


def source(config: PretrainConfig):
    return WORLD if config.data["kind"] == "world" else tiny.Ramps()


def gradients(config: PretrainConfig, accumulate: int = 1) -> dict[str, torch.Tensor]:
    """Of the first step, before the optimiser moves anything; the loss is among them."""
    run, images = Run(config, torch.device("cpu")), source(config)
    batch = DataOrder(len(images), config.batch, config.seed).at(0)
    parts = (
        WORLD.patch_parts(config.model.patch)[batch].long() if config.design == "parts" else None
    )
    run.optimiser.step = lambda: None
    run.train_step(images.images(batch[run.rank :: run.world]), parts, accumulate)
    return {name: p.grad for name, p in run.model.named_parameters()} | {"loss": run.losses[0]}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _process(
    rank: int,
    world: int,
    port: int,
    out: str,
    task,
    patience: datetime.timedelta = distributed.PATIENCE,
) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
    }
    with distributed.joined(torch.device("cpu"), patience):
        task(Path(out))
        assert not dist.is_initialized() or distributed.world() == world
    assert not dist.is_initialized()


def together(task, out: Path, world: int = 2) -> None:
    port = free_port()
    for process in [
        tiny.start(_process, rank, world, port, str(out), task) for rank in range(world)
    ]:
        tiny.finish(process)


def _gradients(out: Path) -> None:
    for name, config in designs().items():
        for accumulate in (1, 3):
            write_safetensors(
                out / f"{name}-{accumulate}-{distributed.rank()}.safetensors",
                gradients(config, accumulate),
                {},
            )


def test_two_processes_and_pieces_of_a_batch_have_the_gradient_of_one(tmp_path):
    together(_gradients, tmp_path)
    for name, config in designs().items():
        alone = gradients(config)
        for found in [gradients(config, 3)] + [
            read_safetensors(tmp_path / f"{name}-{a}-{r}.safetensors")[0]
            for a in (1, 3)
            for r in (0, 1)
        ]:
            for key, value in alone.items():
                torch.testing.assert_close(
                    found[key],
                    value,
                    rtol=1e-5,
                    atol=1e-6,
                    msg=lambda text: f"{name}, {key}: {text}",
                )


def test_the_shares_of_a_step_are_the_batch_without_overlap_or_loss():
    """For any number of processes that divides the batch: images, and the masks that belong to
    them."""
    config = tiny.config(batch=12)
    whole = DataOrder(24, 12, 0).at(3)
    _, hidden = sample_design("random", config.mask, 12, step_generator(0, "mask", 3))
    for world in (1, 2, 3, 4, 6, 12):
        shares = [whole[rank::world] for rank in range(world)]
        assert sorted(torch.cat(shares).tolist()) == sorted(whole.tolist()) and {
            len(s) for s in shares
        } == {12 // world}
        assert torch.equal(
            torch.stack([hidden[rank::world] for rank in range(world)], 1).flatten(0, 1), hidden
        )


def _train_half(out: Path) -> None:
    def stop(run: Run) -> None:
        if run.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(
            tiny.config(batch=12),
            tiny.Ramps(),
            device="cpu",
            state=out / "state",
            progress=False,
            on_step=stop,
        )


def _train_rest(out: Path) -> None:
    trained = pretrain(
        tiny.config(batch=12), tiny.Ramps(), device="cpu", state=out / "state", progress=False
    )
    write_safetensors(out / f"rank{distributed.rank()}.safetensors", {"losses": trained.losses}, {})


def test_a_training_goes_on_with_another_number_of_processes(tmp_path):
    alone = pretrain(tiny.config(batch=12), tiny.Ramps(), device="cpu", progress=False).losses
    together(_train_half, tmp_path, 2)
    assert read_safetensors(tmp_path / "state")[1]["step"] == "3"
    together(_train_rest, tmp_path, 3)
    found = [
        read_safetensors(tmp_path / f"rank{rank}.safetensors")[0]["losses"] for rank in range(3)
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    torch.testing.assert_close(found[0], alone, rtol=1e-4, atol=1e-5)


def _unequal(out: Path) -> None:
    with pytest.raises(InputError, match="12 images cannot be shared by 5 processes"):
        pretrain(tiny.config(batch=12), tiny.Ramps(), device="cpu", progress=False)


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path):
    together(_unequal, tmp_path, 5)
    with pytest.raises(InputError, match="accumulate 13"):
        pretrain(tiny.config(batch=12), tiny.Ramps(), device="cpu", progress=False, accumulate=13)


def launch(root: Path, *words: str) -> subprocess.Popen:
    """`torchrun` on two processes, restarting them when one dies. What they say goes to
    ``root/said``: a pipe that nobody empties would stop them."""
    root.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "30",
        "--monitor-interval",
        "0.1",
        "--master-port",
        str(free_port()),
        "-m",
        "mae_lib",
        "pretrain",
        "--tier",
        "smoke",
        "--device",
        "cpu",
        *words,
    ]
    environment = os.environ | {"MAE_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    with open(root / "said", "w") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)


def workers(parent: int) -> list[int]:
    """Processes that ``parent`` started, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="finds the worker processes in /proc"
)
@pytest.mark.timeout(600 + 60 * KILLS)
def test_killing_processes_at_random_steps_loses_no_more_than_the_steps_since_the_last_state(
    tmp_path,
):
    """After each, `torchrun` starts both again, and both find what the dead have left behind."""
    draw = random.Random(0)
    words = ["--steps", str(40 + 20 * KILLS), "--save-every", "0.05", "--out"]
    run = launch(tmp_path, *words, str(tmp_path / "out"))
    state, killed, reached, wanted = tmp_path / "cache" / "states", [], 0, 1
    while run.poll() is None and len(killed) < KILLS:
        time.sleep(0.02)
        for path in state.glob("r*.safetensors"):
            step = int(read_safetensors(path)[1]["step"])
            assert step >= reached, "a saved step was lost"
            reached = step
        if reached >= wanted and len(children := workers(run.pid)) == 2:
            os.kill(draw.choice(children), signal.SIGKILL)
            killed.append(reached)
            wanted = reached + draw.randint(1, 12)
    run.wait(240)
    output = (tmp_path / "said").read_text()
    assert run.returncode == 0 and len(killed) == KILLS == output.count("closing signal SIGTERM"), (
        f"killed at {killed}\n{output}"
    )
    whole = launch(tmp_path / "whole", *words, str(tmp_path / "whole" / "out"))
    assert whole.wait(240) == 0, (tmp_path / "whole" / "said").read_text()
    (stored,), (other,) = checkpoints(tmp_path / "out"), checkpoints(tmp_path / "whole" / "out")
    torch.testing.assert_close(
        torch.tensor(stored.curve[1]), torch.tensor(other.curve[1]), rtol=1e-5, atol=1e-6
    )
    assert not list(state.glob("r*.safetensors"))


def _lingering(out: Path) -> None:
    """The first process waits for the gradients of the second, which does not come back from its
    second step."""
    os.dup2(os.open(out / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)

    def stay(run: Run) -> None:
        if run.rank == 1 and run.step == 2:
            if out.name == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(120)

    pretrain(tiny.config(batch=12), tiny.Ramps(), device="cpu", progress=False, on_step=stay)


@pytest.mark.parametrize("way", ["asleep", "stopped"])
def test_a_process_that_hangs_is_named_and_the_others_end(tmp_path, way):
    (tmp_path / way).mkdir()
    port, patience = free_port(), datetime.timedelta(seconds=12)  # of a busy machine's start, too
    processes = [
        tiny.start(_process, rank, 2, port, str(tmp_path / way), _lingering, patience)
        for rank in range(2)
    ]
    processes[0].join(60)
    assert processes[0].exitcode == 1
    if way == "stopped":
        processes[1].kill()
    processes[1].join(60)
    said = (tmp_path / way / "said").read_text()
    assert said.count("the training has stood still") == 1 and "Process 1 hangs" in said
    assert ("gives no sign of life any more" in said) == (way == "stopped")
    assert processes[1].exitcode == (-signal.SIGKILL if way == "stopped" else 1)


def _slow(out: Path) -> None:
    """Slower than the patience altogether, never in one step."""
    pretrain(
        tiny.config(batch=12, steps=12),
        tiny.Ramps(),
        device="cpu",
        progress=False,
        on_step=lambda run: time.sleep(1.2),
    )


def test_a_slow_training_is_not_taken_for_a_hung_one(tmp_path):
    port = free_port()
    for process in [
        tiny.start(_process, rank, 2, port, str(tmp_path), _slow, datetime.timedelta(seconds=12))
        for rank in range(2)
    ]:
        tiny.finish(process)


def test_blame_falls_on_who_is_silent_then_on_who_is_behind_then_on_who_does_not_wait():
    def pulses(*rows):
        return {
            n: distributed._Pulse(beat, signs, f"host{n}", f"place {n}", waits)
            for n, (beat, signs, waits) in enumerate(rows)
        }

    before = pulses((1, 5, True), (1, 5, False), (1, 4, True))
    assert "Process 2 hangs" in distributed._blame(
        before, pulses((4, 5, True), (4, 5, False), (4, 4, True)), 3
    )
    assert "Process 1 hangs" in distributed._blame(
        before, pulses((4, 5, True), (4, 5, False), (4, 5, True)), 3
    )
    assert "Process 0 hangs" in distributed._blame(
        before, pulses((1, 5, True), (4, 5, False), (4, 4, True)), 3
    )
    assert "Processes 2, 3 hang" in distributed._blame(
        before, pulses((4, 5, True), (4, 5, True), (1, 5, True)), 4
    )
    assert "No process stands out" in distributed._blame(
        before, pulses((4, 5, False), (4, 5, False), (4, 5, False)), 3
    )
    assert "  1 on host1: is busy at place 1" in distributed._blame(
        before, pulses((4, 5, True), (4, 5, False), (4, 5, True)), 3
    )


def _agree(store: dist.TCPStore, numbers: list[int], patience: float) -> dict[int, str]:
    """The word that each of some processes of three comes to, or what it complains of."""

    def agree(number: int) -> str:
        try:
            return distributed._round_of(
                store.clone(), number, 3, datetime.timedelta(seconds=patience)
            )
        except ProcessLost as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(numbers, pool.map(agree, numbers)))


def test_what_dead_processes_left_in_the_store_does_not_lead_astray():
    """A first attempt in which one process is missing, one in which the first is, then two whole
    ones, all on one store."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    first, second = _agree(store, [0, 1], 1), _agree(store, [1, 2], 1)
    assert (
        "of 3 processes, 2 did not join within" in first[0] and "process 1 of 3 waited" in first[1]
    )
    assert all("waited" in complaint for complaint in second.values())
    third, fourth = _agree(store, [0, 1, 2], 60), _agree(store, [0, 1, 2], 60)
    assert (
        len(set(third.values())) == 1 == len(set(fourth.values()))
        and third[0] != fourth[0]
        and len(third[0]) == len(fourth[0]) == 16
    )


def test_who_asked_a_first_process_that_died_asks_its_successor():
    """The second process has the first one's word already when the first, waiting for the third, is
    replaced."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(
            distributed._round_of, store.clone(), 1, 3, datetime.timedelta(seconds=60)
        )
        assert "2 did not join" in _agree(store, [0], 0.5)[0]
        assert len({*_agree(store, [0, 2], 60).values(), second.result(60)}) == 1
