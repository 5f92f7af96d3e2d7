"""Checkpoints: found by what they are, made once, and never used when a single bit of them is
wrong."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import warnings
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from mae_lib.base import tensors as tensor_files
from mae_lib.base.errors import InputError
from mae_lib.base.files import DamagedFile
from mae_lib.base.tensors import read_safetensors, write_safetensors
from mae_lib.masks.masking import MaskSpec
from mae_lib.model.autoencoder import ModelConfig, normalise_pixels
from mae_lib.training import store
from mae_lib.training.config import PretrainConfig
from mae_lib.training.loop import Run, Trained
from mae_lib.training.pretrain import pretrain
from mae_lib.training.store import (
    Checkpoint,
    checkpoints,
    find,
    load_or_pretrain,
    obtain,
    read,
    thin_curve,
)
from mae_lib.training.tiers import TIERS, tier
from mae_lib.worlds.world import World


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cache of the test's own, and one thread, as in the processes that these tests compare
    with."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MAE_CACHE", str(folder))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[PretrainConfig]:
    """The configs that were trained during the test, one entry a call of the training loop."""
    calls: list[PretrainConfig] = []
    monkeypatch.setattr(
        store, "pretrain", lambda config, *a, **k: calls.append(config) or pretrain(config, *a, **k)
    )
    return calls


SHORT = tiny.config(steps=3)
NAME = f"r50-u8-p8-s0-{SHORT.hash}"


def get(config: PretrainConfig = SHORT, **arguments) -> Checkpoint:
    return obtain(config, tiny.Ramps(), **dict(device="cpu", progress=False) | arguments)


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return checkpoint.load().state_dict()


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


# --- found, else trained --------------------------------------------------------------------------


def test_trained_once_then_found_with_bit_equal_outputs(cache: Path, trainings: list) -> None:
    made: list[Trained] = []
    original = store.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            store,
            "save",
            lambda trained, *a, **k: made.append(trained) or original(trained, *a, **k),
        )
        first = load_or_pretrain(SHORT, tiny.Ramps(), device="cpu", progress=False)
    again = load_or_pretrain(SHORT, device="cpu")  # needs no images
    assert len(trainings) == 1 and not first.training and not again.training
    images = normalise_pixels(tiny.Ramps().images(range(8)))
    visible, hidden = MaskSpec((4, 4), 0.5).sample(8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = [
            [model.encode(images), *model(images, visible, hidden), model.reconstruct(images)]
            for model in (made[0].model, first, again)
        ]
    for other in outputs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outputs[0], other))
    assert sorted(p.name for p in (cache / "checkpoints").iterdir()) == [
        f"{NAME}.json",
        f"{NAME}.safetensors",
    ]
    assert [p.name for p in (cache / "states").iterdir() if p.suffix != ".lock"] == [], (
        "the finished run's state is gone"
    )


def test_the_record_says_how_it_was_made(cache: Path, tmp_path: Path) -> None:
    checkpoint = get(tier="smoke")
    record = json.loads(checkpoint.path.with_suffix(".json").read_text())
    assert (
        record
        == json.loads(json.dumps(checkpoint.record))
        == json.loads(json.dumps(read(checkpoint.path).record))
    )
    assert (
        checkpoint.config == SHORT
        and record["tier"] == "smoke"
        and record["hash"] == SHORT.hash
        and record["name"] == SHORT.name
    )
    assert {
        "commit",
        "hardware",
        "versions",
        "command",
        "finished",
        "seconds",
        "images_per_second",
        "digest",
    } <= set(record)
    steps, losses = checkpoint.curve
    assert steps == [1, 2, 3] and all(isinstance(loss, float) for loss in losses)
    assert str(tmp_path) not in json.dumps(record), "no path of this machine"
    assert [c.path for c in checkpoints(cache / "checkpoints")] == [checkpoint.path]


def test_a_model_of_a_folder_that_is_not_stored_needs_its_images() -> None:
    with pytest.raises(
        InputError, match="r50-u8-p8-s0 was trained on a folder of images: open that folder"
    ):
        load_or_pretrain(SHORT, device="cpu", progress=False)


def test_the_embedded_world_is_made_when_it_is_needed(trainings: list) -> None:
    config = tiny.config(data=World(length=64, size=32).identity, steps=2)
    load_or_pretrain(config, device="cpu", progress=False)
    assert trainings == [config]
    other = replace(config, data=config.data | {"version": "0"})
    with pytest.raises(
        InputError, match="version 0 of the embedded world; this mae_lib draws version"
    ):
        load_or_pretrain(other, device="cpu", progress=False)


def test_a_missing_gpu_is_named_before_anything_is_written(cache: Path) -> None:
    with pytest.raises(InputError, match="device 'cuda:99' was asked for"):
        get(device="cuda:99")
    assert not list(cache.rglob("*.safetensors"))


def test_names_follow_the_config_and_not_the_folder(tmp_path: Path, trainings: list) -> None:
    here, there = tmp_path / "here", tmp_path / "a b" / "…ü"
    first, second = get(folder=here), get(folder=there)
    assert first.path.name == second.path.name == f"{NAME}.safetensors" and len(trainings) == 2
    assert first.record["digest"] == second.record["digest"]
    moved = there.rename(tmp_path / "moved")
    assert equal(weights(find(SHORT, [moved])), weights(first))
    assert find(replace(SHORT, seed=1), [moved]) is None
    assert get(folder=moved).path.parent == moved and len(trainings) == 2


def test_half_of_a_pair_is_no_checkpoint(trainings: list) -> None:
    checkpoint = get()
    for suffix, missing in ((".json", "json"), (".safetensors", "safetensors")):
        checkpoint.path.with_suffix(suffix).unlink()
        with pytest.raises(InputError, match=f"no checkpoint at .*{missing} is missing"):
            read(checkpoint.path)
        assert find(SHORT) is None
        get()
    assert len(trainings) == 3 and find(SHORT) is not None


def test_curves_are_thinned_without_loss_of_area() -> None:
    losses = torch.rand(1000)
    curve = thin_curve(losses, 120)
    ends = curve["step"]
    assert len(ends) == len(curve["loss"]) == 120 and ends[-1] == 1000 and ends == sorted(set(ends))
    counts = torch.tensor([0, *ends]).diff()
    assert float((torch.tensor(curve["loss"]) * counts).sum()) == pytest.approx(
        float(losses.sum()), rel=1e-4
    )
    assert thin_curve(torch.tensor([0.5, 0.25]))["loss"] == [0.5, 0.25]


# --- damage ---------------------------------------------------------------------------------------


def _edit(path: Path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def _flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


class _Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


DAMAGE = {
    "first byte of the weights": lambda w, r: _flip(w, 0.0),
    "a byte of the weights": lambda w, r: _flip(w, 0.6),
    "last byte of the weights": lambda w, r: _flip(w, 1.0),
    "weights cut short": lambda w, r: w.write_bytes(w.read_bytes()[:-1]),
    "weights cut to the header": lambda w, r: w.write_bytes(w.read_bytes()[:200]),
    "weights emptied": lambda w, r: w.write_bytes(b""),
    "weights grown": lambda w, r: w.write_bytes(w.read_bytes() + b"\0"),
    "a pickle for weights": lambda w, r: w.write_bytes(pickle.dumps(_Trap(w.parent / "sprung"))),
    "torch.save for weights": lambda w, r: torch.save({"a": _Trap(w.parent / "sprung")}, w),
    "others' weights": lambda w, r: write_safetensors(
        w, {k: v + 1 for k, v in read_safetensors(w)[0].items()}, {"config": SHORT.hash}
    ),
    "record cut short": lambda w, r: r.write_bytes(r.read_bytes()[:-9]),
    "record emptied": lambda w, r: r.write_bytes(b""),
    "record not text": lambda w, r: r.write_bytes(b"\xff\xfe\x00"),
    "record not a dict": lambda w, r: r.write_text("[1]"),
    "record's config edited": lambda w, r: _edit(r, lambda x: x["config"].update(ratio=0.75)),
    "record's config out of range": lambda w, r: _edit(r, lambda x: x["config"].update(ratio=7)),
    "record's config of another model": lambda w, r: _edit(
        r, lambda x: x["config"]["model"].update(depth=2)
    ),
    "record's config short of a field": lambda w, r: _edit(r, lambda x: x["config"].pop("seed")),
    "record's digest edited": lambda w, r: _edit(r, lambda x: x.update(digest="0" * 64)),
    "record without a digest": lambda w, r: _edit(r, lambda x: x.pop("digest")),
    "record without a curve": lambda w, r: _edit(r, lambda x: x.pop("curve")),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one whole checkpoint."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAE_CACHE", str(folder / "cache"))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        get(folder=folder)
        torch.set_num_threads(threads)
    return folder


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_set_aside_and_made_again(
    kind: str, good: Path, tmp_path: Path, trainings: list
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in (f"{NAME}.safetensors", f"{NAME}.json"):
        (folder / name).write_bytes((good / name).read_bytes())
    DAMAGE[kind](folder / f"{NAME}.safetensors", folder / f"{NAME}.json")
    damaged = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.warns(
        UserWarning,
        match=rf"{NAME}.* (is damaged|does not hold).*Set aside as .*\.damaged.* will not be used",
    ):
        checkpoint = get(folder=folder)
    assert len(trainings) == 1
    assert equal(weights(checkpoint), weights(read(good / f"{NAME}.json")))
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(
        [f"{NAME}{suffix}{end}" for suffix in (".json", ".safetensors") for end in ("", ".damaged")]
    ), "kept, and nothing else"
    assert {name: (folder / f"{name}.damaged").read_bytes() for name in damaged} == damaged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find(SHORT, [folder]) is not None


def test_a_second_damage_does_not_overwrite_the_first_set_aside(good: Path, tmp_path: Path) -> None:
    for name in (f"{NAME}.safetensors", f"{NAME}.json"):
        (tmp_path / name).write_bytes((good / name).read_bytes())
    for _ in range(2):
        (tmp_path / f"{NAME}.safetensors").write_bytes(b"")
        with pytest.warns(UserWarning, match="damaged"):
            get(folder=tmp_path)
    assert (tmp_path / f"{NAME}.json.damaged-2").exists() and (
        tmp_path / f"{NAME}.safetensors.damaged-2"
    ).exists()


def test_a_file_that_is_replaced_while_it_is_read_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors opens a file twice: its reader had the head of one state and the tensors of the
    next."""
    path, digest, turns = tmp_path / "state", tensor_files.content_digest, []
    write_safetensors(path, {"a": torch.zeros(3)}, {"step": "1"})

    def replaced(tensors, metadata):
        turns.append(metadata)
        if len(turns) == 1:
            monkeypatch.setattr(tensor_files, "content_digest", digest)
            write_safetensors(path, {"a": torch.ones(3)}, {"step": "2"})
            return "of neither"
        return digest(tensors, metadata)

    monkeypatch.setattr(tensor_files, "content_digest", replaced)
    tensors, metadata = read_safetensors(path)
    assert metadata["step"] == "2" and torch.equal(tensors["a"], torch.ones(3))


def test_no_single_bit_of_a_file_can_change_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {
        "a": torch.tensor([1.0, -2.0, float("nan")]),
        "b": torch.tensor([[3]], dtype=torch.int64),
        "c": torch.tensor(4.0),
    }
    write_safetensors(path, tensors, {"step": "120", "config": "0f"})
    whole = path.read_bytes()
    read_safetensors(path)
    other = tmp_path / "y.safetensors"
    for place in range(len(whole)):
        for bit in range(8):
            other.write_bytes(
                whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :]
            )
            try:
                read_safetensors(other)
            except DamagedFile:
                continue
            pytest.fail(
                f"bit {bit} of byte {place} changed, and nobody noticed:"
                f" {whole[max(0, place - 20) : place + 20]!r}"
            )


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5), st.lists(st.integers(0, 3), max_size=3), max_size=4
    ),
    st.sampled_from(
        [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    ),
)
def test_safetensors_round_trip(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict, dtype: torch.dtype
) -> None:
    path = tmp_path_factory.mktemp("round") / "x.safetensors"
    tensors = {
        name: torch.randn(shape).to(dtype)
        for name, shape in shapes.items()
        if name != "__metadata__"
    }
    digest = write_safetensors(path, tensors, {"a": "ü"})
    given, metadata = read_safetensors(path)
    assert metadata == {"a": "ü", "digest": digest}
    assert given.keys() == tensors.keys() and all(
        given[n].dtype == dtype and torch.equal(given[n], tensors[n]) for n in tensors
    )


STATE_DAMAGE = {
    "a byte": lambda s: _flip(s, 0.7),
    "a byte of the header": lambda s: _flip(s, 0.0),
    "cut short": lambda s: s.write_bytes(s.read_bytes()[:-100]),
    "emptied": lambda s: s.write_bytes(b""),
    "a pickle": lambda s: s.write_bytes(pickle.dumps(_Trap(s.parent / "sprung"))),
    "its step": lambda s: s.write_bytes(s.read_bytes().replace(b'"step":"2"', b'"step":"1"')),
    "its config": lambda s: s.write_bytes(s.read_bytes().replace(SHORT.hash.encode(), b"0" * 16)),
    "another model's": lambda s: write_safetensors(
        s, {"losses": torch.zeros(3)}, {"config": SHORT.hash, "step": "2", "seconds": "1.0"}
    ),
}


@pytest.mark.parametrize("kind", STATE_DAMAGE)
def test_a_damaged_state_is_named_set_aside_and_the_run_starts_over(
    kind: str, cache: Path, good: Path
) -> None:
    states = cache / "states"
    state = states / f"{NAME}.safetensors"

    def stop(run: Run) -> None:
        if run.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(SHORT, tiny.Ramps(), device="cpu", progress=False, state=state, on_step=stop)
    before = state.read_bytes()
    STATE_DAMAGE[kind](state)
    assert state.read_bytes() != before
    with pytest.warns(UserWarning, match=rf"{NAME}\.safetensors .*damaged; training starts over"):
        checkpoint = get()
    assert equal(weights(checkpoint), weights(read(good / f"{NAME}.json")))
    assert sorted(path.name for path in states.iterdir() if path.suffix != ".lock") == [
        f"{NAME}.safetensors.damaged"
    ]


def test_a_stopped_run_is_taken_up_where_it_was(
    cache: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(run: Run) -> None:
        if run.step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "pretrain", lambda *a, **k: pretrain(*a, **k, on_step=stop))
        with pytest.raises(KeyboardInterrupt):
            get()
    assert read_safetensors(cache / "states" / f"{NAME}.safetensors")[1]["step"] == "2"
    steps = []
    monkeypatch.setattr(
        store,
        "pretrain",
        lambda *a, **k: pretrain(*a, **k, on_step=lambda run: steps.append(run.step)),
    )
    assert equal(weights(get()), weights(read(good / f"{NAME}.json"))) and steps == [3]


# --- two processes --------------------------------------------------------------------------------


def _obtain(cache: str, log: str, barrier, pause: float) -> None:
    """In a process of its own: obtains the checkpoint, noting a training's begin and steps;
    ``pause`` slows each step."""
    import time

    os.environ["MAE_CACHE"] = cache

    def counted(*arguments, **named) -> Trained:
        tiny.note(Path(log), "begin")
        return pretrain(
            *arguments,
            **named,
            on_step=lambda run: (tiny.note(Path(log), f"step {run.step}"), time.sleep(pause)),
        )

    store.pretrain = counted
    if barrier is not None:
        barrier.wait()
    checkpoint = get(save_every=0.0)
    tiny.note(Path(log), f"digest {checkpoint.record['digest']}")


def test_two_processes_that_want_one_checkpoint_train_it_once(
    cache: Path, tmp_path: Path, good: Path
) -> None:
    log, barrier = tmp_path / "log", tiny.PROCESSES.Barrier(2)
    for process in [tiny.start(_obtain, str(cache), str(log), barrier, 0.05) for _ in range(2)]:
        tiny.finish(process)
    lines = tiny.notes(log)
    assert lines.count("begin") == 1 and [line for line in lines if line.startswith("step")] == [
        "step 1",
        "step 2",
        "step 3",
    ]
    assert [line for line in lines if line.startswith("digest")] == [
        f"digest {read(good / f'{NAME}.json').record['digest']}"
    ] * 2


def test_a_killed_holder_frees_the_lock_and_its_run_goes_on(
    cache: Path, tmp_path: Path, good: Path
) -> None:
    log = tmp_path / "log"
    holder = tiny.start(_obtain, str(cache), str(log), None, 600.0)
    assert tiny.wait_for(lambda: "step 1" in tiny.notes(log), holder)
    waiter = tiny.start(_obtain, str(cache), str(log), None, 0.0)
    waiter.join(0.5)
    assert waiter.is_alive() and tiny.notes(log).count("begin") == 1, (
        "it waits while the holder lives"
    )
    leftover = cache / "states" / f".{NAME}.safetensors.abc123.part"
    leftover.write_bytes(b"half a state, of a writer that was killed")
    stranger = cache / "states" / ".r50-u8-p8-s0-other.safetensors.abc123.part"
    stranger.write_bytes(b"another run's, being written")
    os.kill(holder.pid, signal.SIGKILL)
    tiny.finish(holder, code=-signal.SIGKILL)
    tiny.finish(waiter)
    lines = tiny.notes(log)
    assert (
        lines.count("begin") == 2
        and lines[-1] == f"digest {read(good / f'{NAME}.json').record['digest']}"
    )
    assert [line for line in lines if line.startswith("step")] == [
        "step 1",
        "step 2",
        "step 3",
    ], "step 1 was saved, and is not done again"
    assert not leftover.exists() and stranger.exists()


def _killed(folder: str, at: int) -> None:
    """In a process of its own: stores a model, and is killed at its ``at``-th renaming."""
    link, calls = os.link, []

    def kill(source, target) -> None:
        calls.append(target)
        if len(calls) == at + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        link(source, target)

    os.link = kill
    own = tiny.config(steps=3)
    store.save(Trained(tiny.model(own.model), torch.ones(3), 1.0), own, Path(folder))


@pytest.mark.parametrize("at", [0, 1])
def test_a_kill_between_two_files_is_made_good(at: int, tmp_path: Path) -> None:
    process = tiny.start(_killed, str(tmp_path / "R"), at)
    tiny.finish(process, -signal.SIGKILL)
    left = {path.name: path.read_bytes() for path in (tmp_path / "R").glob("*.safetensors")}
    assert (
        len(left) == at
        and find(SHORT, [tmp_path / "R"]) is None
        and checkpoints(tmp_path / "R") == []
    )
    store.save(Trained(tiny.model(SHORT.model), torch.ones(3), 1.0), SHORT, tmp_path / "R")
    assert find(SHORT, [tmp_path / "R"]) is not None and not list(
        (tmp_path / "R").glob("*.damaged")
    )
    assert {name: (tmp_path / "R" / name).read_bytes() for name in left} == left


# --- the hash -------------------------------------------------------------------------------------

OTHER_MODEL = {
    "image_size": (64, 32),
    "patch": 4,
    "channels": 1,
    "width": 64,
    "depth": 2,
    "heads": 4,
    "decoder_width": 64,
    "decoder_depth": 2,
    "decoder_heads": 4,
    "mlp_ratio": 2.0,
    "normalise_target": True,
    "norm_eps": 1e-12,
    "positions": "stored",
}
OTHER = {
    "ratio": 0.75,
    "unit": 16,
    "data": {"kind": "other"},
    "seed": 1,
    "steps": 7,
    "batch": 11,
    "base_lr": 1e-3,
    "warmup": 0.1,
    "weight_decay": 0.1,
    "betas": (0.9, 0.999),
    "crop": 0.6,
    "flip": False,
    "precision": "bfloat16",
    "margin": 2,
    "crop_from": "file",
    "spread": 0.25,
    "start": "0" * 64,
}


def test_every_field_changes_the_hash() -> None:
    together = {"pixel_mean", "pixel_deviation"}
    assert set(OTHER_MODEL) | together == {f.name for f in fields(ModelConfig)}, (
        "a new field of the model: give it another value above"
    )
    designed = {"design", "groups", "strict"}  # not to be changed alone: test_mask_designs.py
    assert set(OTHER) | {"model"} | designed == {f.name for f in fields(PretrainConfig)}, (
        "a new field of the config: give it another value above"
    )
    base = tiny.config()
    variants = [replace(base, **{name: value}) for name, value in OTHER.items()]
    variants += [
        replace(base, model=replace(base.model, **{name: value}))
        for name, value in OTHER_MODEL.items()
    ]
    variants += [
        replace(base, model=replace(base.model, pixel_mean=(0.5,) * 3, pixel_deviation=(k,) * 3))
        for k in (0.25, 0.5)
    ]
    variants += [replace(base, data=base.data | {key: 1234}) for key in base.data] + [
        replace(base, data=base.data | {"more": 1})
    ]
    variants += [replace(base, betas=(0.8, 0.95))]
    hashes = [config.hash for config in (base, *variants)]
    assert len(set(hashes)) == len(hashes)
    assert all(len(h) == 16 and int(h, 16) >= 0 for h in hashes)


@st.composite
def configs(draw) -> PretrainConfig:
    patch = draw(st.sampled_from([4, 8]))
    model = replace(
        tiny.MODEL,
        patch=patch,
        normalise_target=draw(st.booleans()),
        mlp_ratio=draw(st.sampled_from([2, 4, 4.0, 2.5])),
    )
    return tiny.config(
        model=model,
        ratio=draw(st.sampled_from([0.25, 0.5, 0.75])),
        unit=draw(st.sampled_from([8, 16])),
        seed=draw(st.integers(0, 9)),
        steps=draw(st.integers(1, 10**6)),
        base_lr=draw(st.floats(1e-6, 1)),
        warmup=draw(st.floats(0, 1)),
        crop=draw(st.sampled_from([1, 1.0, 0.2])),
        data=draw(
            st.dictionaries(
                st.text(max_size=4),
                st.one_of(st.integers(), st.text(max_size=4), st.none(), st.lists(st.integers())),
                max_size=4,
            )
        ),
    )


@settings(max_examples=60, deadline=None)
@given(configs())
def test_a_config_survives_json_with_its_hash(config: PretrainConfig) -> None:
    values = json.loads(json.dumps(config.to_dict()))
    back = PretrainConfig.from_dict(values)
    assert (
        back == config and back.hash == config.hash and back.to_dict() == config.to_dict() == values
    )

    def reordered(value):
        return (
            {key: reordered(value[key]) for key in reversed(list(value))}
            if isinstance(value, dict)
            else value
        )

    assert PretrainConfig.from_dict(reordered(values)).hash == config.hash


def test_equal_configs_have_equal_hashes() -> None:
    whole, real = (
        tiny.config(base_lr=1, crop=1, warmup=0, weight_decay=0),
        tiny.config(base_lr=1.0, crop=1.0, warmup=0.0, weight_decay=0.0),
    )
    assert whole == real and whole.hash == real.hash
    assert (
        tiny.config(model=replace(tiny.MODEL, mlp_ratio=4)).hash
        == tiny.config(model=replace(tiny.MODEL, mlp_ratio=4.0)).hash
    )
    assert tiny.config(betas=[0.9, 0.95]).hash == tiny.config(betas=(0.9, 0.95)).hash


def test_the_hash_is_the_same_in_another_process() -> None:
    code = (
        "import json, sys; from mae_lib.training.tiers import PretrainConfig;"
        " print(PretrainConfig.from_dict(json.loads(sys.argv[1])).hash)"
    )
    shuffled = dict(reversed(list(SHORT.to_dict().items())))
    root = Path(store.__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONHASHSEED": "4711", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(shuffled)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert done.stdout.strip() == SHORT.hash


def test_configs_with_other_fields_are_refused() -> None:
    values = SHORT.to_dict()
    for name in values:
        with pytest.raises(InputError, match=f"not a pretraining config of this version.*{name}"):
            PretrainConfig.from_dict({k: v for k, v in values.items() if k != name})
    for name in values["model"]:
        with pytest.raises(InputError, match=f"not a pretraining config of this version.*{name}"):
            PretrainConfig.from_dict(
                values | {"model": {k: v for k, v in values["model"].items() if k != name}}
            )
    for wrong in (
        values | {"extra": 1},
        values | {"model": values["model"] | {"extra": 1}},
        values | {"model": None},
        values | {"betas": 0.9},
        {},
        [],
    ):
        with pytest.raises(InputError, match="not a pretraining config of this version"):
            PretrainConfig.from_dict(wrong)


@pytest.mark.parametrize("name", TIERS)
def test_the_eight_of_a_tier_differ_in_the_mask_only(name: str) -> None:
    size = TIERS[name].model.image_size[0]
    data = {"kind": "world", "version": 1, "split": "train", "seed": 0, "size": size, "length": 64}
    sweep = tier(name).sweep(data)
    assert [len(half) for half in sweep.values()] == [5, 3]
    everything = [*sweep["ratio"], *sweep["size"]]
    assert (
        len({config.hash for config in everything})
        == len({config.name for config in everything})
        == 8
    )
    for half, free in (("ratio", {"ratio"}), ("size", {"unit"})):
        stripped = [
            {k: v for k, v in asdict(config).items() if k not in free} for config in sweep[half]
        ]
        assert all(values == stripped[0] for values in stripped)
    with pytest.raises(
        InputError, match="unknown tier 'huge': choose one of smoke, laptop, gpu, paper"
    ):
        tier("huge")
