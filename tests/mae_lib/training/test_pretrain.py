"""§3, "Pretraining overview": the loop's data order, augmentation and schedule, and that no stop,
of any kind, changes a run."""

from __future__ import annotations

import errno
import math
import os
import random
import re
import resource
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tiny
from mae_lib.base import files
from mae_lib.base.errors import InputError, TrainingDiverged
from mae_lib.base.files import DamagedFile, write_json
from mae_lib.base.tensors import read_safetensors, write_safetensors
from mae_lib.training import pretrain as loop
from mae_lib.training.feeding import DataOrder, augment, step_generator
from mae_lib.training.loop import Run, learning_rate
from mae_lib.training.pretrain import pretrain, resolve_device


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One thread, as in the processes that these tests compare with, and a cache of their own."""
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    threads, handler = (
        torch.get_num_threads(),
        signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, handler)


def train(config=None, **arguments) -> loop.Trained:
    arguments = dict(device="cpu", progress=False) | arguments
    return pretrain(config or tiny.config(), tiny.Ramps(), **arguments)


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name].view(torch.uint8), right[name].view(torch.uint8)), (
            f"{name} differs"
        )


def assert_same_runs(left: loop.Trained, right: loop.Trained) -> None:
    assert_same(
        left.model.state_dict() | {"losses": left.losses},
        right.model.state_dict() | {"losses": right.losses},
    )


def no_parts(folder: Path) -> bool:
    return not [p for p in folder.rglob("*") if p.name.endswith(".part")]


# --- data order, augmentation, schedule -----------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 1000))
def test_every_epoch_shows_every_image_once(images: int, batch: int, seed: int) -> None:
    order = DataOrder(images, batch, seed)
    steps = math.ceil(3 * images / batch)
    batches = [order.at(step) for step in range(steps)]
    assert all(b.shape == (batch,) and b.dtype == torch.int64 for b in batches)
    seen = torch.cat(batches).tolist()
    for epoch in range(3):
        assert sorted(seen[epoch * images : (epoch + 1) * images]) == list(range(images))
    # Any step alone, and in any order, is the same: this is what a resumed run relies on.
    for step in reversed(range(steps)):
        assert torch.equal(order.at(step), batches[step]) and torch.equal(
            DataOrder(images, batch, seed).at(step), batches[step]
        )


def test_epochs_and_seeds_have_other_orders() -> None:
    orders = {
        tuple(DataOrder(30, 30, seed).at(epoch).tolist()) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9


def test_generators_depend_on_seed_purpose_and_step_and_nothing_else() -> None:
    seeds = {
        (s, p, t): step_generator(s, p, t).initial_seed()
        for s in (0, 1)
        for p in ("order", "mask", "augment")
        for t in range(20)
    }
    assert len(set(seeds.values())) == len(seeds)
    # Pinned: another value would make shipped checkpoints impossible to train again.
    assert seeds[0, "order", 0] == int.from_bytes(bytes.fromhex(PINNED)[:8], "little") >> 1


PINNED = "6dcae06b2febca6e"  # printf 0/order/0 | sha256sum | cut -c 1-16


def pictures(batch: int = 6) -> Tensor:
    return torch.randn(batch, 3, 8, 10, generator=torch.Generator().manual_seed(1))


def test_augmentation_that_is_off_changes_nothing_and_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    images, before = pictures(), generator.get_state()
    assert augment(images, 1.0, False, generator) is images
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(("crop", "flip"), [(1.0, True), (0.35, False), (0.35, True)])
def test_augmentation_is_a_function_of_the_generator_and_of_each_image_alone(
    crop: float, flip: bool
) -> None:
    images = pictures()
    first, again = (augment(images, crop, flip, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again) and first.shape == images.shape
    other = images.clone()
    other[2] = 7
    changed = augment(other, crop, flip, torch.Generator().manual_seed(3))
    assert torch.equal(changed[[0, 1, 3, 4, 5]], first[[0, 1, 3, 4, 5]])
    torch.testing.assert_close(changed[2], torch.full_like(changed[2], 7.0))
    assert not torch.equal(first, augment(images, crop, flip, torch.Generator().manual_seed(4)))


def test_a_flip_alone_mirrors_about_half_of_the_images_exactly() -> None:
    images = pictures(400)
    flipped = augment(images, 1.0, True, torch.Generator().manual_seed(0))
    same = (flipped == images).flatten(1).all(1)
    assert (same | (flipped == images.flip(-1)).flatten(1).all(1)).all()
    assert 160 <= int(same.sum()) <= 240


def test_crops_are_windows_of_the_stated_area_and_shape_inside_the_image() -> None:
    """On an image whose pixels are their own coordinates, the crop shows where it was cut."""
    n, crop = 400, 0.35
    axis = (torch.arange(32) + 0.5) / 32
    images = torch.stack([axis.expand(32, 32), axis[:, None].expand(32, 32)]).expand(n, 2, 32, 32)
    out = augment(images, crop, True, torch.Generator().manual_seed(0))
    wide = (out[:, 0, 16, 24] - out[:, 0, 16, 8]) * 2
    high = (out[:, 1, 24, 16] - out[:, 1, 8, 16]) * 2
    area, aspect = (wide * high).abs(), (wide / high).abs()
    assert (
        area.min() >= crop - 1e-4
        and area.max() <= 1 + 1e-4
        and area.min() < 0.4
        and area.max() > 0.9
    )
    assert aspect.min() >= 3 / 4 - 1e-4 and aspect.max() <= 4 / 3 + 1e-4
    assert (high > 0).all() and 0.4 < float((wide < 0).float().mean()) < 0.6, (
        "mirrored left to right, never upside down"
    )
    assert out.min() >= 0 and out.max() <= 1
    centre = out[:, 0, 16, 15:17].mean(1)
    assert ((centre - wide.abs() / 2) > -0.02).all() and ((centre + wide.abs() / 2) < 1.02).all()


def test_learning_rate_warms_up_and_follows_half_a_cosine() -> None:
    config = tiny.config(steps=200, batch=512, base_lr=1e-3, warmup=0.1)
    rates = [learning_rate(config, step) for step in range(200)]
    assert config.learning_rate == pytest.approx(2e-3)
    assert rates[:20] == pytest.approx([2e-3 * (k + 1) / 20 for k in range(20)])
    assert rates[20] == pytest.approx(2e-3) and rates[110] == pytest.approx(1e-3)
    assert all(a > b for a, b in zip(rates[20:], rates[21:])) and 0 < rates[-1] < 1e-6
    for short in (
        tiny.config(steps=1),
        tiny.config(steps=3, warmup=0.0),
        tiny.config(steps=3, warmup=1.0),
    ):
        assert all(
            0 < learning_rate(short, step) <= short.learning_rate for step in range(short.steps)
        )


def test_weight_decay_is_for_matrices_only() -> None:
    run = Run(tiny.config(), torch.device("cpu"))
    decayed = {
        id(p)
        for group in run.optimiser.param_groups
        if group["weight_decay"]
        for p in group["params"]
    }
    named = dict(run.model.named_parameters())
    assert {n for n, p in named.items() if id(p) in decayed} == {
        n for n in named if n.endswith("weight") and "norm" not in n
    }
    assert sum(len(group["params"]) for group in run.optimiser.param_groups) == len(named)


def test_each_step_sees_the_images_and_masks_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop, seen from outside, feeds what DataOrder and MaskSpec say."""
    config, source, fed = tiny.config(crop=1.0, flip=False), tiny.Ramps(), []
    forward = loop.MaskedAutoencoder.forward
    monkeypatch.setattr(
        loop.MaskedAutoencoder,
        "forward",
        lambda self, *a: fed.append([x.detach().clone() for x in a[:3]]) or forward(self, *a),
    )
    train(config)
    assert len(fed) == config.steps
    for step, (images, visible, hidden) in enumerate(fed):
        wanted = source.images(DataOrder(24, 10, 0).at(step)).float() / 255
        torch.testing.assert_close(images, (wanted - 0.5) / 0.25)
        masks = config.mask.sample(10, step_generator(0, "mask", step))
        assert torch.equal(visible, masks[0]) and torch.equal(hidden, masks[1])


def test_training_learns_and_is_deterministic() -> None:
    torch.manual_seed(1)
    first = train(tiny.config(steps=40))
    torch.manual_seed(2)
    torch.rand(7)
    before = torch.get_rng_state()
    assert_same_runs(first, train(tiny.config(steps=40)))
    assert torch.equal(before, torch.get_rng_state()), "the caller's generator is left alone"
    assert first.losses.shape == (40,) and not first.model.training
    assert first.losses[-6:].mean() < 0.8 * first.losses[:6].mean()
    assert not torch.equal(train().losses, train(tiny.config(seed=1)).losses)


# --- stops ----------------------------------------------------------------------------------------

LONG = dict(steps=40)


def _train_to(out: str, state: str, steps_done, save_every: float) -> None:
    """In a process of its own: trains, counting its steps in shared memory."""

    def count(run: Run) -> None:
        steps_done.value = run.step

    trained = train(tiny.config(**LONG), state=Path(state), save_every=save_every, on_step=count)
    write_safetensors(Path(out), trained.model.state_dict() | {"losses": trained.losses}, {})


def _run(tmp_path: Path, name: str, save_every: float):
    counter = tiny.PROCESSES.Value("i", 0, lock=False)
    state = tmp_path / name / "state.safetensors"
    return (
        tiny.start(
            _train_to, str(tmp_path / f"{name}.safetensors"), str(state), counter, save_every
        ),
        counter,
        state,
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """(weights and losses, state) of a process that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    process, _, state = _run(folder, "whole", 1e9)
    tiny.finish(process)
    return read_safetensors(folder / "whole.safetensors")[0], read_safetensors(state)[0]


def test_sigkill_at_any_moment_changes_no_bit(
    tmp_path: Path, uninterrupted: tuple[dict, dict]
) -> None:
    chance, kills, reached = random.Random(0), 0, 0
    while not (tmp_path / "killed.safetensors").exists():
        # a save after every step: many kills hit one
        process, counter, state = _run(tmp_path, "killed", save_every=0.0)
        begun = tiny.wait_for(lambda: counter.value > 0, process)
        target = counter.value + chance.randint(3, 9)
        if begun and tiny.wait_for(lambda: counter.value >= target, process):
            time.sleep(chance.random() * 0.012)  # to any moment of a step or of a save
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join(tiny.PATIENCE)
            kills += process.exitcode == -signal.SIGKILL
            if process.exitcode == -signal.SIGKILL and state.exists():
                step = int(read_safetensors(state)[1]["step"])  # whole, whatever it was doing
                assert step >= reached, "a killed run never loses a state"
                reached = step
        else:
            tiny.finish(process)
        assert kills < 40, "no progress"
    assert kills >= 3
    assert_same(read_safetensors(tmp_path / "killed.safetensors")[0], uninterrupted[0])
    assert_same(read_safetensors(state)[0], uninterrupted[1])


def test_ctrl_c_saves_at_once_and_changes_no_bit(
    tmp_path: Path, uninterrupted: tuple[dict, dict]
) -> None:
    process, counter, state = _run(tmp_path, "stopped", save_every=1e9)
    assert tiny.wait_for(lambda: counter.value >= 7, process)
    os.kill(process.pid, signal.SIGINT)
    tiny.finish(process, code=1)
    assert counter.value <= int(read_safetensors(state)[1]["step"]) < 40
    process, _, _ = _run(tmp_path, "stopped", save_every=1e9)
    tiny.finish(process)
    assert_same(read_safetensors(tmp_path / "stopped.safetensors")[0], uninterrupted[0])
    assert_same(read_safetensors(state)[0], uninterrupted[1])


@pytest.mark.parametrize("stop_at", [1, 3, 5, 6])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_polite_stop_after_any_step_loses_nothing(
    tmp_path: Path, stop_at: int, kind: type[BaseException]
) -> None:
    state = tmp_path / "state.safetensors"

    def stop(run: Run) -> None:
        if run.step == stop_at:
            raise kind

    with pytest.raises(kind):
        train(state=state, on_step=stop)
    tensors, metadata = read_safetensors(state)
    assert metadata["step"] == str(stop_at) and int(tensors["losses"].isfinite().sum()) == stop_at
    seen = []
    resumed = train(state=state, on_step=lambda run: seen.append(run.step))
    assert seen == list(range(stop_at + 1, 7)), "done steps are not done again"
    assert_same_runs(resumed, train())
    assert resumed.seconds >= float(metadata["seconds"])


@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_in_the_middle_of_an_update_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Saved between the update and the count of the step, the state would repeat the step when
    resumed."""
    state, original, calls = tmp_path / "state.safetensors", torch.optim.AdamW.step, []

    def step(self, *arguments, **named):
        calls.append(None)
        if len(calls) == 3 and when == "before":
            signal.raise_signal(signal.SIGINT)
        result = original(self, *arguments, **named)
        if len(calls) == 3 and when == "after":
            signal.raise_signal(signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train(state=state)
    assert read_safetensors(state)[1]["step"] == "3"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_same_runs(train(state=state), train())


def test_a_finished_state_is_not_trained_on(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    first = train(state=state)
    assert_same_runs(first, train(state=state, on_step=lambda run: pytest.fail("trained again")))


def test_states_are_saved_as_often_as_asked(tmp_path: Path) -> None:
    state, steps = tmp_path / "state.safetensors", []
    train(
        state=state,
        save_every=0.0,
        on_step=lambda run: steps.append(int(read_safetensors(state)[1]["step"])),
    )
    assert steps == [1, 2, 3, 4, 5, 6]
    other = tmp_path / "other.safetensors"
    train(state=other, save_every=1e9, on_step=lambda run: steps.append(other.exists()))
    assert not any(steps[6:]) and other.exists()


def test_it_trains_outside_the_main_thread_too() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert_same_runs(pool.submit(train).result(), train())


# --- losses and weights that are not finite -------------------------------------------------------


def test_a_run_that_diverges_names_its_step_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    config = tiny.config(steps=40, base_lr=1e30)
    with pytest.raises(
        TrainingDiverged,
        match=(
            r"loss is not finite at step \d+ of 40; the last good state is kept in .*smaller"
            r" base_lr"
        ),
    ) as error:
        train(config, state=state, save_every=0.0)
    step = int(re.search(r"at step (\d+)", str(error.value))[1])
    assert str(state) in str(error.value)
    tensors, metadata = read_safetensors(state)
    assert 1 <= int(metadata["step"]) <= step
    assert all(bool(t.isfinite().all()) for name, t in tensors.items() if name.startswith("model."))
    assert bool(tensors["losses"][: int(metadata["step"])].isfinite().all())
    Run(config, torch.device("cpu")).restore(state)
    assert no_parts(tmp_path)
    with pytest.raises(TrainingDiverged, match="no state had been saved yet"):
        train(config)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_stops_the_run_and_is_never_saved(
    tmp_path: Path, value: float
) -> None:
    state, seen = tmp_path / "state.safetensors", []

    def spoil(run: Run) -> None:
        seen.append(run.step)
        if run.step == 4:
            with torch.no_grad():
                run.model.head.bias[0] = value

    with pytest.raises(TrainingDiverged, match=r"not finite at step 4 of 6"):
        train(state=state, save_every=0.0, on_step=spoil)
    assert seen == [1, 2, 3, 4], "it stops at that step"
    tensors, metadata = read_safetensors(state)
    assert metadata["step"] == "4" and bool(tensors["model.head.bias"].isfinite().all())
    assert_same_runs(train(state=state), train()), "from the good state on, all is well"


def test_weights_spoilt_by_the_last_update_are_no_result(tmp_path: Path) -> None:
    """No further loss would show them."""
    state = tmp_path / "state.safetensors"

    def spoil(run: Run) -> None:
        if run.step == 6:
            with torch.no_grad():
                run.model.head.bias[0] = math.nan

    with pytest.raises(TrainingDiverged, match="not finite at step 6 of 6"):
        train(state=state, save_every=0.0, on_step=spoil)
    assert bool(read_safetensors(state)[0]["model.head.bias"].isfinite().all())


def test_a_stop_does_not_save_spoilt_weights(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"

    def spoil(run: Run) -> None:
        if run.step == 4:
            with torch.no_grad():
                run.model.head.bias[0] = math.nan
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(state=state, save_every=0.0, on_step=spoil)
    assert bool(read_safetensors(state)[0]["model.head.bias"].isfinite().all())


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "device",
    [
        "cuda:99",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
        ),
    ],
)
def test_a_missing_gpu_is_named(device: str) -> None:
    with pytest.raises(
        InputError,
        match=rf"device '{device}' was asked for and this machine has none.*device=cpu or auto",
    ):
        train(device=device)


@pytest.mark.parametrize("device", ["tpu", "gpu", "", "cuda:x", "meta", "xla"])
def test_an_unknown_device_is_named(device: str) -> None:
    with pytest.raises(InputError, match=rf"unknown device '{device}': choose"):
        train(device=device)
    assert resolve_device("auto").type in ("cpu", "cuda") and resolve_device("cpu").type == "cpu"


def test_images_that_are_not_the_configs_are_refused() -> None:
    with pytest.raises(InputError, match="these images are not the config's"):
        pretrain(tiny.config(), tiny.Ramps(length=25), device="cpu", progress=False)
    source = tiny.Ramps(size=16)
    with pytest.raises(
        InputError, match=r"images are \[3, 16, 16\], the model takes \[3, 32, 32\]"
    ):
        pretrain(tiny.config(data=source.identity), source, device="cpu", progress=False)
    source = tiny.Ramps(length=0)
    with pytest.raises(InputError, match="no images"):
        pretrain(tiny.config(data=source.identity), source, device="cpu", progress=False)


def test_a_state_of_another_config_or_model_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    train(state=state)
    before = state.read_bytes()
    with pytest.raises(InputError, match=r"state\.safetensors was saved by another config"):
        train(tiny.config(seed=1), state=state)
    assert state.read_bytes() == before
    tensors, metadata = read_safetensors(state)
    for changed in (
        {k: v for k, v in tensors.items() if k != "exp_avg_sq.head.bias"},
        tensors | {"model.head.bias": torch.zeros(3)},
        tensors | {"model.extra": torch.zeros(3)},
    ):
        write_safetensors(state, changed, {k: v for k, v in metadata.items() if k != "digest"})
        with pytest.raises(DamagedFile, match="does not hold the state of"):
            train(state=state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"base_lr": 0.0}, "base learning rate 0"),
        ({"base_lr": math.nan}, "base learning rate nan"),
        ({"crop": 0.0}, "crop 0"),
        ({"crop": 1.5}, "crop 1.5"),
        ({"precision": "float16"}, "precision 'float16' is unknown"),
        ({"unit": 12}, "mask unit of 12 px is not a multiple of the 8 px ViT patch"),
        ({"unit": 64}, "mask unit of 8 patches is larger than the 4×4 grid"),
        ({"unit": 0}, "mask unit 0"),
        ({"ratio": 1}, "masking ratio 1"),
        ({"ratio": True}, "masking ratio"),
        ({"ratio": "0.5"}, "masking ratio '0.5'"),
        ({"ratio": 0.99}, "keeps no unit"),
    ],
)
def test_configs_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny.config(**changes)


# --- a full disk ----------------------------------------------------------------------------------


def _save_beyond_the_limit(state: str, log: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        train(state=Path(state), save_every=0.0)
    except InputError as error:
        tiny.note(Path(log), str(error))


def test_a_file_that_the_system_will_not_write_leaves_nothing_behind(tmp_path: Path) -> None:
    """The system's own refusal, as on a full disk, through a limit on file sizes that needs no
    root."""
    state, log = tmp_path / "states" / "state.safetensors", tmp_path / "log"
    state.parent.mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(state=state, on_step=_interrupt_at(2))
    before = state.read_bytes()
    tiny.finish(tiny.start(_save_beyond_the_limit, str(state), str(log)))
    (message,) = tiny.notes(log)
    assert (
        message.startswith(f"cannot write {state}: ")
        and "too large" in message
        and "untouched" in message
    )
    assert state.read_bytes() == before and os.listdir(state.parent) == [state.name]


def _interrupt_at(step: int):
    def stop(run: Run) -> None:
        if run.step == step:
            raise KeyboardInterrupt

    return stop


def test_a_full_disk_is_named_and_what_was_there_stays(tmp_path: Path) -> None:
    """A real full disk: a file system of a few pages. Where it cannot be mounted, the next test
    stands in."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "none", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting a file system takes root")
    try:
        state = disk / "state.safetensors"
        with pytest.raises(KeyboardInterrupt):
            train(state=state, on_step=_interrupt_at(2))
        before = state.read_bytes()
        assert 300_000 < len(before) < 600_000, "one state fits, two do not"
        with pytest.raises(
            InputError,
            match=(
                r"cannot write .*: the disk is full: free some space; what it held before is"
                r" untouched"
            ),
        ):
            train(state=state, save_every=0.0)
        assert state.read_bytes() == before and os.listdir(disk) == [state.name]
        with pytest.raises(InputError, match="the disk is full"):
            files.write_text(disk / "long.txt", "x" * 1_000_000)
        assert os.listdir(disk) == [state.name]
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("where", ["safetensors", "fsync", "replace"])
def test_errors_of_the_disk_at_any_point_leave_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"a": torch.ones(3)}, {})
    before = path.read_bytes()

    def fail(*arguments, **named):
        if where == "safetensors":
            Path(arguments[1]).write_bytes(b"half")
            raise safetensors.SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            )
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(
        *{
            "safetensors": (safetensors.torch, "save_file"),
            "fsync": (os, "fsync"),
            "replace": (os, "replace"),
        }[where],
        fail,
    )
    with pytest.raises(InputError, match="the disk is full: free some space"):
        write_safetensors(path, {"a": torch.zeros(3)}, {})
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write .*file.*choose another folder"):
        write_json(tmp_path / "file" / "record.json", {})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "nan.json", {"loss": math.nan})
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "x.txt", write)
    assert os.listdir(tmp_path) == []


def test_counts_of_images_over_a_run_are_even() -> None:
    """Over whole epochs every image is seen as often as every other, whatever the batch."""
    order = DataOrder(24, 10, 0)
    assert set(Counter(torch.cat([order.at(t) for t in range(12)]).tolist()).values()) == {5}
