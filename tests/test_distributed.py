"""Several processes on one training: on gloo and the CPU, they have to give what one process gives."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist

from mae_lib import distributed
from mae_lib.errors import InputError
from mae_lib.files import read_safetensors, write_safetensors
from mae_lib.mask_designs import sample_design
from mae_lib.pretrain import DataOrder, Run, pretrain, step_generator
from mae_lib.store import checkpoints
from mae_lib.tiers import PretrainConfig
from mae_lib.worlds import World

WORLD = World("train", 32, length=40)


def designs() -> dict[str, PretrainConfig]:
    """Crops and flips; a mean over unequal numbers of pixels; masks that follow each image's parts."""
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
    parts = WORLD.patch_parts(config.model.patch)[batch].long() if config.design == "parts" else None
    run.optimiser.step = lambda: None
    run.train_step(images.images(batch[run.rank :: run.world]), parts, accumulate)
    return {name: p.grad for name, p in run.model.named_parameters()} | {"loss": run.losses[0]}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _process(rank: int, world: int, port: int, out: str, task) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    with distributed.joined(torch.device("cpu")):
        task(Path(out))
        assert not dist.is_initialized() or distributed.world() == world
    assert not dist.is_initialized()


def together(task, out: Path, world: int = 2) -> None:
    port = free_port()
    for process in [tiny.start(_process, rank, world, port, str(out), task) for rank in range(world)]:
        tiny.finish(process)


def _gradients(out: Path) -> None:
    for name, config in designs().items():
        for accumulate in (1, 3):
            write_safetensors(out / f"{name}-{accumulate}-{distributed.rank()}.safetensors", gradients(config, accumulate), {})


def test_two_processes_and_pieces_of_a_batch_have_the_gradient_of_one(tmp_path):
    together(_gradients, tmp_path)
    for name, config in designs().items():
        alone = gradients(config)
        for found in [gradients(config, 3)] + [read_safetensors(tmp_path / f"{name}-{a}-{r}.safetensors")[0] for a in (1, 3) for r in (0, 1)]:
            for key, value in alone.items():
                torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6, msg=lambda text: f"{name}, {key}: {text}")


def test_the_shares_of_a_step_are_the_batch_without_overlap_or_loss():
    """For any number of processes that divides the batch: images, and the masks that belong to them."""
    config = tiny.config(batch=12)
    whole = DataOrder(24, 12, 0).at(3)
    _, hidden = sample_design("random", config.mask, 12, step_generator(0, "mask", 3))
    for world in (1, 2, 3, 4, 6, 12):
        shares = [whole[rank::world] for rank in range(world)]
        assert sorted(torch.cat(shares).tolist()) == sorted(whole.tolist()) and {len(s) for s in shares} == {12 // world}
        assert torch.equal(torch.stack([hidden[rank::world] for rank in range(world)], 1).flatten(0, 1), hidden)


def _train_half(out: Path) -> None:
    def stop(run: Run) -> None:
        if run.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny.config(batch=12), tiny.Ramps(), device="cpu", state=out / "state", progress=False, on_step=stop)


def _train_rest(out: Path) -> None:
    trained = pretrain(tiny.config(batch=12), tiny.Ramps(), device="cpu", state=out / "state", progress=False)
    write_safetensors(out / f"rank{distributed.rank()}.safetensors", {"losses": trained.losses}, {})


def test_a_training_goes_on_with_another_number_of_processes(tmp_path):
    alone = pretrain(tiny.config(batch=12), tiny.Ramps(), device="cpu", progress=False).losses
    together(_train_half, tmp_path, 2)
    assert read_safetensors(tmp_path / "state")[1]["step"] == "3"
    together(_train_rest, tmp_path, 3)
    found = [read_safetensors(tmp_path / f"rank{rank}.safetensors")[0]["losses"] for rank in range(3)]
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
    """`torchrun` on two processes, restarting them when one dies."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "30", "--monitor-interval", "0.1",
               "--master-port", str(free_port()), "-m", "mae_lib.pretrain", "--tier", "smoke", "--device", "cpu", *words]  # fmt: skip
    environment = os.environ | {"MAE_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


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


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the worker processes in /proc")
def test_killing_a_process_loses_no_more_than_the_steps_since_the_last_state(tmp_path):
    words = ["--steps", "80", "--save-every", "0.1", "--out"]
    run = launch(tmp_path, *words, str(tmp_path / "out"))
    state, draw, killed, steps = tmp_path / "cache" / "states", random.Random(0), 0, [0]
    while run.poll() is None and killed < 1:
        time.sleep(0.05)
        saved = [int(read_safetensors(path)[1]["step"]) for path in state.glob("r*.safetensors")]
        if saved and saved[0] >= steps[-1] + 5 and (children := workers(run.pid)):
            steps.append(saved[0])
            os.kill(draw.choice(children), signal.SIGKILL)
            killed += 1
            time.sleep(1)
    output = run.communicate(timeout=240)[0]
    assert run.returncode == 0 and killed == 1, output
    (stored,) = checkpoints(tmp_path / "out")
    alone = launch_alone(tmp_path, *words, str(tmp_path / "alone"))
    assert alone.returncode == 0, alone.stdout
    (other,) = checkpoints(tmp_path / "alone")
    torch.testing.assert_close(torch.tensor(stored.curve[1]), torch.tensor(other.curve[1]), rtol=0.02, atol=2e-3)
    assert not list(state.glob("r*.safetensors"))


def launch_alone(root: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mae_lib.pretrain", "--tier", "smoke", "--device", "cpu", *words]
    return subprocess.run(command, env=os.environ | {"MAE_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240)
