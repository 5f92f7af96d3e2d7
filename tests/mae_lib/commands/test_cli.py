"""The `mae` command: real processes for what only they can show, and the entry point itself for the
many kinds of bad input."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from mae_lib.base.tensors import read_safetensors
from mae_lib.commands.cli import main
from mae_lib.commands.options import Describe, Pretrain, Sweep
from mae_lib.training import pretrain as training
from mae_lib.training.store import read


def colours(path: Path, seed: int, side: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    ).save(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    for split, count in (("train", 6), ("val", 3)):
        for c, name in enumerate(("cat", "dog")):
            for k in range(count):
                colours(
                    tmp_path / "images" / split / name / f"{k}.jpg",
                    100 * c + k + 50 * (split == "val"),
                )
    return tmp_path / "images"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def interruptible():
    """A shell's background jobs are born deaf to Ctrl-C; these tests need it heard."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def mae(*words: object) -> int:
    """The entry point in this process; its exit status."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return caught.value.code or 0


def written(folder: Path) -> list[str]:
    return (
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        if folder.exists()
        else []
    )


# --------------------------------------------------------------------------------------------------
# From end to end


def test_pretraining_on_the_world_in_a_process_of_its_own(tmp_path, cache):
    done = subprocess.run(
        [sys.executable, "-m", "mae_lib", "pretrain", "--tier", "smoke", "--steps", "3"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    line = (
        "1 to have, 0 already stored: 1 to train, less than a minute here (an estimate from a few"
        " timed steps)"
    )
    assert (
        done.stdout.splitlines()[0] == line
        and "loss" in done.stdout
        and "img/s" in done.stderr
        and "Traceback" not in done.stderr
    )
    (record,) = (cache / "checkpoints").glob("*.json")
    checkpoint = read(record)
    assert (checkpoint.config.steps, checkpoint.config.ratio, checkpoint.config.data["kind"]) == (
        3,
        0.75,
        "world",
    )
    assert checkpoint.path.name in done.stdout and checkpoint.record["tier"] == "smoke"
    assert checkpoint.record["command"] == "python -m mae_lib pretrain --tier smoke --steps 3"
    assert [
        name for name in written(cache) if "states" in name and not name.endswith(".lock")
    ] == []


def test_pretraining_on_a_folder_stores_once_and_writes_complete_results(
    tmp_path, cache, folder, capsys, monkeypatch
):
    words = [
        "pretrain",
        "--tier",
        "smoke",
        "--steps",
        3,
        "--batch",
        8,
        "--data",
        folder,
        "--out",
        tmp_path / "out",
        "--results",
        tmp_path / "numbers",
    ]
    words += [
        "--ratio",
        0.5,
        "--unit",
        16,
        "--seed",
        3,
        "--base-lr",
        0.002,
        "--device",
        "cpu",
        "--threads",
        1,
    ]
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/mae", *map(str, words)])
    assert mae(*words) == 0
    record, weights = written(tmp_path / "out")
    assert record.startswith("r50-u16-p8-s3-") and weights == record.replace(
        ".json", ".safetensors"
    )
    assert not (cache / "checkpoints").exists()

    text = (tmp_path / "numbers" / record).read_text()
    result = json.loads(text)
    assert set(result) == {
        "name",
        "hash",
        "digest",
        "tier",
        "config",
        "seconds",
        "images_per_second",
        "curve",
        "held_out",
        "validation",
        "commit",
        "hardware",
        "versions",
        "command",
        "finished",
    }
    assert (
        str(tmp_path) not in text
        and '"/' not in text
        and " /" not in result["command"]
        and "=/" not in result["command"]
    )
    assert result["command"].startswith("mae pretrain --tier smoke --steps 3")
    assert result["curve"]["step"] == [1, 2, 3] and len(result["curve"]["loss"]) == 3
    config = result["config"]
    assert (
        config["steps"],
        config["batch"],
        config["base_lr"],
        config["unit"],
        config["seed"],
    ) == (3, 8, 0.002, 16, 3)
    assert (
        config["data"]["split"] == "train"
        and result["validation"]["split"] == "val"
        and result["validation"]["images"] == 6
    )
    held_out = result["held_out"]
    assert held_out["explained"] == pytest.approx(1 - held_out["loss"] / held_out["baseline"])
    assert result["name"] + "-" + result["hash"] + ".json" == record

    before = (tmp_path / "out" / weights).stat().st_mtime_ns
    monkeypatch.setattr(training.Run, "train_step", lambda *_: pytest.fail("it trained again"))
    (tmp_path / "numbers" / record).unlink()
    capsys.readouterr()
    assert mae(*words) == 0
    assert "1 to have, 1 already stored" in capsys.readouterr().out
    assert (tmp_path / "out" / weights).stat().st_mtime_ns == before and written(
        tmp_path / "numbers"
    ) == [record]


def test_a_folder_overwritten_by_other_images_of_the_same_size_is_trained_on_anew(tmp_path, capsys):
    root = tmp_path / "images"

    def fill_with(first: int) -> int:
        for split in ("train", "val"):
            for c, name in enumerate(("cat", "dog")):
                for k in range(3):
                    colours(
                        root / split / name / f"{k}.bmp", first + 10 * c + k + 50 * (split == "val")
                    )
        return sum(path.stat().st_size for path in root.rglob("*.bmp"))

    words = [
        "pretrain",
        "--tier",
        "smoke",
        "--steps",
        2,
        "--batch",
        4,
        "--data",
        root,
        "--out",
        tmp_path / "out",
    ]
    size = fill_with(0)
    assert mae(*words) == 0 and "0 already stored" in capsys.readouterr().out
    assert fill_with(1000) == size
    assert mae(*words) == 0 and "0 already stored" in capsys.readouterr().out
    first, second = (read(path) for path in sorted((tmp_path / "out").glob("*.json")))
    assert (
        first.record["digest"] != second.record["digest"]
        and first.config.data != second.config.data
    )
    fill_with(0)
    assert mae(*words) == 0 and "1 already stored" in capsys.readouterr().out


def test_the_sweep_in_two_processes_gives_what_each_run_alone_gives(tmp_path, folder, capsys):
    common = ["--tier", "smoke", "--steps", 2, "--batch", 4, "--data", folder]
    assert (
        mae(
            "pretrain",
            *common,
            "--sweep",
            "--jobs",
            2,
            "--out",
            tmp_path / "eight",
            "--results",
            tmp_path / "numbers",
        )
        == 0
    )
    printed = capsys.readouterr().out.splitlines()
    records = [
        read(tmp_path / "eight" / name)
        for name in written(tmp_path / "eight")
        if name.endswith(".json")
    ]
    settings = sorted((r.config.ratio, r.config.unit, r.config.model.patch) for r in records)
    assert settings == sorted(
        [(r, 8, 8) for r in (0.1, 0.25, 0.5, 0.75, 0.9)] + [(0.75, u, 4) for u in (4, 8, 16)]
    )
    assert len(printed) == 9 and len(written(tmp_path / "numbers")) == 8
    # Only the mask and the ViT patch differ between the eight.
    assert all(
        dataclasses.replace(r.config, ratio=0.5, unit=8, model=records[0].config.model)
        == dataclasses.replace(records[0].config, ratio=0.5, unit=8)
        for r in records
    )
    assert mae("pretrain", *common, "--ratio", 0.9, "--out", tmp_path / "one") == 0
    alone = read(
        tmp_path
        / "one"
        / next(name for name in written(tmp_path / "one") if name.endswith(".json"))
    )
    assert (
        alone.record["digest"] == next(r for r in records if r.config.ratio == 0.9).record["digest"]
    )
    capsys.readouterr()
    assert mae("pretrain", *common, "--sweep", "--out", tmp_path / "eight") == 0
    assert "8 to have, 8 already stored" in capsys.readouterr().out


def test_the_designs_of_section_3_6_from_the_command_line(tmp_path, cache):
    common = ["pretrain", "--tier", "smoke", "--steps", 2, "--batch", 4, "--out", tmp_path / "out"]
    for words in (
        ["--margin", 2],
        ["--unit", 16, "--margin", 4, "--strict"],
        ["--design", "parts"],
        ["--design", "groups", "--groups", 4],
    ):
        assert mae(*common, *words) == 0
    names = {name.rpartition("-")[0] for name in written(tmp_path / "out")}
    assert names == {
        "r75-u8-p8-margin2-s0",
        "r75-u16-p8-strict4-s0",
        "r75-u8-p8-parts-s0",
        "r75-u8-p8-groups4-s0",
    }


# --------------------------------------------------------------------------------------------------
# Bad input

BAD_RUNS = {
    "ratio 0": (["--ratio", "0"], ["ratio", "0"]),
    "ratio 1": (["--ratio", "1"], ["ratio", "1"]),
    "ratio 1.5": (["--ratio", "1.5"], ["ratio", "1.5"]),
    "ratio -1": (["--ratio", "-1"], ["ratio", "-1"]),
    "ratio nan": (["--ratio", "nan"], ["ratio", "nan"]),
    "ratio that hides no unit": (["--ratio", "0.001"], ["0.001", "hides no unit"]),
    "ratio that keeps no unit": (["--ratio", "0.999"], ["0.999", "keeps no unit"]),
    "unit 5": (["--unit", "5"], ["unit", "5", "patch"]),
    "unit that does not divide the grid": (["--unit", "24"], ["unit", "does not divide"]),
    "unit larger than the image": (["--unit", "64"], ["unit", "larger"]),
    "unit 0": (["--unit", "0"], ["unit"]),
    "patch that does not divide": (["--patch", "5"], ["patch", "5"]),
    "patch 0": (["--patch", "0"], ["patch"]),
    "steps 0": (["--steps", "0"], ["steps"]),
    "batch 0": (["--batch", "0"], ["batch"]),
    "learning rate": (["--base-lr", "-1"], ["learning rate"]),
    "missing GPU": (["--device", "cuda"], ["cuda", "cpu"]),
    "unknown device": (["--device", "abacus"], ["abacus", "cpu"]),
    "jobs 0": (["--jobs", "0"], ["--jobs"]),
    "threads 0": (["--threads", "0"], ["--threads"]),
    "sweep with a ratio": (["--sweep", "--ratio", "0.5"], ["--sweep", "--ratio"]),
    "sweep with a margin": (["--sweep", "--margin", "2"], ["--sweep", "--margin"]),
    "margin -1": (["--margin", "-1"], ["margin"]),
    "margin that leaves nothing": (["--margin", "40"], ["margin", "40 px", "nothing to predict"]),
    "strict without a margin": (["--strict"], ["strict", "margin"]),
    "parts of a folder's images": (
        ["--data", "{tmp}/images", "--design", "parts"],
        ["parts", "embedded world"],
    ),
    "groups with a unit": (
        ["--design", "groups", "--groups", "4", "--unit", "16"],
        ["groups", "unit"],
    ),
    "groups 1": (["--design", "groups", "--groups", "1"], ["1 groups"]),
    "missing folder": (["--data", "{tmp}/nowhere"], ["nowhere"]),
    "empty folder": (["--data", "{tmp}/empty"], ["empty"]),
    "truncated jpeg": (["--data", "{tmp}/cut"], ["2.jpg"]),
    "images smaller than a unit": (["--data", "{tmp}/tiny", "--unit", "16"], ["16"]),
    "unwritable out": (["--data", "{tmp}/images", "--out", "{tmp}/file/out"], ["file", "write"]),
    "unwritable results": (
        ["--data", "{tmp}/images", "--results", "{tmp}/file"],
        ["file", "write"],
    ),
    "accumulate": (["--data", "{tmp}/images", "--sweep", "--accumulate", "99"], ["accumulate 99"]),
    "accumulate 0": (["--accumulate", "0"], ["accumulate 0"]),
    "no val to measure on": (
        ["--data", "{tmp}/cut", "--results", "{tmp}/numbers"],
        ["no split 'val'"],
    ),
    "no val, in a sweep": (
        ["--data", "{tmp}/cut", "--sweep", "--results", "{tmp}/numbers"],
        ["no split 'val'"],
    ),
    "damaged image in val": (
        ["--data", "{tmp}/worn", "--sweep", "--results", "{tmp}/numbers"],
        ["val/dog/0.jpg"],
    ),
    "val smaller than the sweep's largest unit": (
        ["--data", "{tmp}/low", "--sweep", "--results", "{tmp}/numbers"],
        ["val", "mask unit (16)"],
    ),
    "images smaller than the sweep's largest unit": (
        ["--data", "{tmp}/tiny", "--sweep"],
        ["mask unit (16)"],
    ),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_bad_input_is_one_line_and_leaves_nothing(
    case, tmp_path, cache, folder, capsys, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(training.Run, "train_step", lambda *_: pytest.fail("it trained"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("not a folder")
    for k in range(3):
        for name in ("cat", "dog"):
            colours(tmp_path / "cut" / "train" / name / f"{k}.jpg", k)
            colours(tmp_path / "tiny" / "train" / name / f"{k}.png", k, side=9)
            for split in ("train", "val"):
                for root in ("worn", "low"):
                    colours(
                        tmp_path / root / split / name / f"{k}.jpg",
                        k,
                        side=9 if (root, split) == ("low", "val") else 40,
                    )
    (tmp_path / "worn" / "val" / "dog" / "0.jpg").write_bytes(b"worn")
    whole = (tmp_path / "cut" / "train" / "dog" / "2.jpg").read_bytes()
    (tmp_path / "cut" / "train" / "dog" / "2.jpg").write_bytes(whole[: len(whole) // 2])
    before = written(tmp_path)
    options, words = BAD_RUNS[case]
    assert (
        mae("pretrain", "--tier", "smoke", *(option.format(tmp=tmp_path) for option in options))
        == 2
    )
    # but for the bar of reading
    error = [
        line for line in capsys.readouterr().err.split("\n") if line and "image/s]" not in line
    ]
    assert (
        len(error) == 1 and error[0].startswith("mae: ") and all(word in error[0] for word in words)
    ), error
    assert [name for name in written(tmp_path) if name not in before] == []


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "--tier", "huge"],
        ["pretrain", "--ratio", "half"],
        ["pretrain", "--ratoi", "0.5"],
        ["pretend"],
        [],
        ["data"],
        ["data", "describe"],
        ["sweep"],
    ],
)
def test_a_mistyped_command_is_refused(words, capsys):
    assert mae(*words) == 2
    error = capsys.readouterr().err
    assert error and "Traceback" not in error
    if words:
        assert (
            words[-1].lstrip("-") in error
            or "required" in error.lower()
            or "Missing subcommand" in error
        ), error


def test_a_diverged_training_has_a_status_of_its_own(folder, capsys):
    with np.errstate(all="ignore"):
        assert (
            mae(
                "pretrain",
                "--tier",
                "smoke",
                "--data",
                folder,
                "--steps",
                20,
                "--batch",
                4,
                "--base-lr",
                "1e30",
            )
            == 3
        )
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("mae: ") and "not finite at step" in line and "base_lr" in line


@pytest.mark.parametrize(
    "words, kind, positional",
    [
        ("pretrain", Pretrain, ""),
        ("sweep", Sweep, "notebook"),
        ("data describe", Describe, "directory"),
    ],
)
def test_help_names_every_option(words, kind, positional, capsys):
    assert mae(*words.split(), "--help") == 0
    text = capsys.readouterr().out
    assert f"usage: mae {words}" in text
    for field in dataclasses.fields(kind):
        shown = (
            {"notebook": "NOTEBOOK", "directory": "DIR"}[positional]
            if field.name == positional
            else "--" + {"start": "from"}.get(field.name, field.name.replace("_", "-"))
        )
        assert shown in text, field.name


def test_help_names_every_command(capsys):
    assert mae("--help") == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("pretrain", "sweep", "data"))
    assert mae("data", "--help") == 0 and "describe" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------
# mae data describe


def test_describe(folder, tmp_path, capsys):
    assert mae("data", "describe", folder) == 0
    text = capsys.readouterr().out
    assert "cat" in text or "2 classes" in text
    assert mae("data", "describe", folder, "--as-json") == 0
    assert json.loads(capsys.readouterr().out)["usable"] is True
    colours(tmp_path / "single" / "cat" / "0.jpg", 0)
    assert mae("data", "describe", tmp_path / "single") == 0
    assert "no labels" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert mae("data", "describe", tmp_path / "empty") == 2
    assert mae("data", "describe", tmp_path / "nowhere") == 2
    captured = capsys.readouterr()
    assert "nowhere" in captured.err + captured.out and "Traceback" not in captured.err


# --------------------------------------------------------------------------------------------------
# Stopping and going on


def steps_done(cache: Path) -> dict[str, int]:
    return {
        path.name: int(read_safetensors(path)[1]["step"])
        for path in (cache / "states").glob("*.safetensors")
    }


def test_ctrl_c_keeps_the_state_and_the_same_command_goes_on(folder, cache, capsys, monkeypatch):
    words = [
        "pretrain",
        "--tier",
        "smoke",
        "--data",
        folder,
        "--batch",
        4,
        "--steps",
        50,
        "--save-every",
        3600,
    ]
    plain, seen = training.Run.train_step, []

    def interrupted(run, *arguments):
        seen.append(run.step)
        if run.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        plain(run, *arguments)

    monkeypatch.setattr(training.Run, "train_step", interrupted)
    assert mae(*words) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "mae: stopped; run the same command to go on"
    (step,) = steps_done(cache).values()
    assert (
        step in (7, 8)
        and max(seen) == 7
        and not list(cache.rglob("*.part"))
        and not (cache / "checkpoints").exists()
    )

    monkeypatch.setattr(
        training.Run,
        "train_step",
        lambda run, *arguments: (seen.append(run.step), plain(run, *arguments)),
    )
    seen.clear()
    assert mae(*words) == 0
    assert seen == list(range(step, 50)) and steps_done(cache) == {}


@pytest.mark.timeout(2 * tiny.PATIENCE + 60)  # waits for events; this ends a hang alone
def test_ctrl_c_stops_a_sweep_in_many_processes(folder, cache, tmp_path):
    words = [
        "pretrain",
        "--tier",
        "smoke",
        "--data",
        folder,
        "--batch",
        4,
        "--steps",
        50000,
        "--save-every",
        0,
        "--sweep",
        "--jobs",
        2,
    ]
    states = cache / "states"
    with open(tmp_path / "error", "w") as error:
        command = [sys.executable, "-m", "mae_lib", *map(str, words)]
        parent = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=error, start_new_session=True
        )
    try:
        # both children train
        tiny.wait_for(
            lambda: len(list(states.glob("*.safetensors"))) == 2 or parent.poll() is not None
        )
        assert parent.poll() is None, (tmp_path / "error").read_text()
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to the children as well
        assert parent.wait(tiny.PATIENCE) == 130  # it ends when its children have
        for lock in states.glob("*.lock"):  # which a training holds as long as it lives
            with filelock.FileLock(lock, timeout=0):
                pass
    finally:  # children that go on would train for long
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
    said = (tmp_path / "error").read_text()
    assert (
        said.splitlines()[-1] == "mae: stopped; run the same command to go on"
        and "Traceback" not in said
    )
    steps = steps_done(cache)
    assert len(steps) == 2 and all(0 < step < 50000 for step in steps.values())
    assert not list(cache.rglob("*.part")) and not (cache / "checkpoints").exists()
