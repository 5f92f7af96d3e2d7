"""What is said of the length of trainings before they begin: as many as are missing, and no shorter
than the steps that were timed."""

import time
from dataclasses import replace

import pytest
import torch

import tiny
from mae_lib.base.errors import InputError
from mae_lib.commands import forecast as forecasting
from mae_lib.commands.forecast import announce, forecast, pretraining_seconds, spoken
from mae_lib.data.datasets import Resident
from mae_lib.model.autoencoder import MaskedAutoencoder
from mae_lib.training import pretrain as training
from mae_lib.training import store
from mae_lib.training.pretrain import pretrain
from tiny import one_thread  # noqa: F401

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("batch", [2, 10, 64])
def test_a_forecast_holds_the_time_of_every_step(batch, monkeypatch):
    plain = MaskedAutoencoder.forward

    def slow(model, images, *rest):
        time.sleep(0.002 * len(images))
        return plain(model, images, *rest)

    monkeypatch.setattr(MaskedAutoencoder, "forward", slow)
    (seconds,) = pretraining_seconds([tiny.config(steps=500, batch=batch)], tiny.Ramps(), CPU)
    assert 0.002 * 500 * batch <= seconds


def test_what_is_slow_to_read_counts_once_if_it_is_kept_and_with_every_step_if_not(monkeypatch):
    class Slow(tiny.Ramps):
        def images(self, indices):
            time.sleep(0.001 * len(indices))
            return super().images(indices)

    monkeypatch.setattr(forecasting, "_timed", lambda *_: 1e-6)
    config = tiny.config(steps=100)
    (kept,) = pretraining_seconds([config], Slow(), CPU)
    assert 0.024 <= kept
    (resident,) = pretraining_seconds([config], Resident(Slow(), progress=False), CPU)
    assert resident < 0.01
    monkeypatch.setattr(forecasting, "RESIDENT_LIMIT", 0)
    (every,) = pretraining_seconds([config], Slow(), CPU)
    assert 0.001 * 100 * config.batch <= every


def test_only_the_steps_that_are_left_count(tmp_path, monkeypatch):
    monkeypatch.setattr(forecasting, "_timed", lambda *_: 1.0)
    config = tiny.config(steps=6)
    (whole,) = pretraining_seconds([config], Resident(tiny.Ramps(), progress=False), CPU)

    def stop(run: training.Run) -> None:
        if run.step == 4:
            raise KeyboardInterrupt

    state = store.cache_directory() / "states" / f"{config.name}-{config.hash}.safetensors"
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tiny.Ramps(), device="cpu", state=state, progress=False, on_step=stop)
    assert forecasting.steps_done(config) == 4
    (left,) = pretraining_seconds([config], Resident(tiny.Ramps(), progress=False), CPU)
    assert left == pytest.approx(whole * 2 / 6) and whole >= 6
    state.write_bytes(b"worn")
    assert forecasting.steps_done(config) == 0


def test_side_by_side_is_no_shorter_than_the_longest_and_no_faster_than_the_cores(monkeypatch):
    monkeypatch.setattr(
        forecasting, "pretraining_seconds", lambda configs, *_: [600.0] * len(configs)
    )
    configs = [tiny.config(seed=s) for s in range(4)]
    monkeypatch.setattr(forecasting, "cores", lambda: 2)
    assert (
        forecast(configs, tiny.Ramps(), "cpu")
        == "4 to train, about 40 min here (an estimate from a few timed steps)"
    )
    assert (
        forecast(configs, tiny.Ramps(), "cpu", jobs=2)
        == "4 to train, about 20 min here (an estimate from a few timed steps), 2 at a time"
    )
    assert "about 20 min" in forecast(
        configs, tiny.Ramps(), "cpu", jobs=4
    ) and "about 10 min" in forecast(configs[:1], tiny.Ramps(), "cpu", jobs=4)


def test_a_notebook_is_told_what_is_missing_and_nothing_where_nothing_is(cache, capsys):
    first, second = tiny.config(seed=1), tiny.config(seed=2)
    tiny.checkpoint(cache / "checkpoints", first)
    announce([first, second], tiny.Ramps(), device="cpu")
    assert (
        capsys.readouterr().out
        == "2 to have, 1 already stored: 1 to train, less than a minute here (an estimate from a"
        " few timed steps)\n"
    )
    tiny.checkpoint(cache / "checkpoints", second)
    announce([first, second], tiny.Ramps(), device="cpu")
    assert capsys.readouterr().out == ""


def test_nothing_is_trained_unasked(cache, capsys):
    first, second = tiny.config(seed=1), tiny.config(seed=2)
    tiny.checkpoint(cache / "checkpoints", first)
    with pytest.raises(InputError) as caught:
        announce([first, second], tiny.Ramps(), device="cpu", train_missing=False)
    said = str(caught.value)
    assert (
        f"Not stored: {second.name}. " in said
        and "1 to train, less than a minute here" in said
        and "train_missing=True" in said
        and "`mae pretrain`" in said
        and "\n" not in said
        and first.name not in said.replace(second.name, "")
    )
    tiny.checkpoint(cache / "checkpoints", second)
    announce([first, second], tiny.Ramps(), device="cpu", train_missing=False)
    assert capsys.readouterr().out == ""


def test_timing_leaves_a_training_as_it_is():
    config = replace(tiny.config(), steps=3)
    before = pretrain(config, tiny.Ramps(), device="cpu", progress=False).losses
    torch.manual_seed(5)
    drawn = torch.rand(3, generator=torch.Generator().manual_seed(5))
    pretraining_seconds([config], tiny.Ramps(), CPU)
    assert torch.equal(torch.rand(3), drawn)  # PyTorch's own generator was not touched
    assert torch.equal(pretrain(config, tiny.Ramps(), device="cpu", progress=False).losses, before)


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.1, "less than a minute"),
        (59, "less than a minute"),
        (90, "about 2 min"),
        (5399, "about 90 min"),
        (9000, "about 2.5 h"),
    ],
)
def test_durations_in_words(seconds, words):
    assert spoken(seconds) == words
