"""Results: written whole under the run's own name, read back in a fixed order, damage named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from mae_book.verdicts import results
from mae_book.verdicts.results import origins, read_results, results_directory
from mae_lib.base import provenance as origin
from mae_lib.base.errors import InputError
from mae_lib.base.files import write_atomically, write_text
from mae_lib.base.records import write_result


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "results_directory", lambda: tmp_path / "results")
    return tmp_path / "results"


def test_what_is_written_is_read(store):
    records = [
        {"name": name, "hash": "0123", "loss": [0.5, 1 / 3], "words": "é", "nested": {"a": None}}
        for name in ("r90", "r10", "r50")
    ]
    paths = [write_result(store / "pretrain" / "world", record) for record in records]
    assert [path.name for path in paths] == ["r90-0123.json", "r10-0123.json", "r50-0123.json"]
    assert read_results("pretrain", "world") == sorted(records, key=lambda record: record["name"])
    # the same run again: one file, the first
    write_result(store / "pretrain" / "world", records[0] | {"loss": [0]})
    assert [r["loss"] for r in read_results("pretrain", "world")] == [[0.5, 1 / 3]] * 3
    assert not list(store.rglob("*.part"))
    write_result(store / "timing", records[0])
    assert len(read_results("timing")) == 1


def test_a_number_that_is_none_is_not_written(store):
    with pytest.raises(ValueError):
        write_result(store / "pretrain", {"name": "a", "hash": "b", "loss": math.nan})
    assert not [path for path in store.rglob("*") if path.is_file()]


def test_missing_and_damaged_results_are_named(store):
    with pytest.raises(InputError, match="results/pretrain/world"):
        read_results("pretrain", "world")
    path = write_result(store / "pretrain" / "world", {"name": "a", "hash": "b"})
    path.write_text(path.read_text()[:-4])
    with pytest.raises(InputError, match="a-b.json is damaged"):
        read_results("pretrain", "world")
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="a-b.json is damaged"):
        read_results("pretrain", "world")


def test_unwritable_folders_are_named(store):
    store.parent.joinpath("file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_result(store.parent / "file" / "sub", {"name": "a", "hash": "b"})


def test_the_projects_results_are_free_of_machine_paths():
    files = list(results_directory().rglob("*.json"))
    for path in files:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        assert (
            '"/' not in text
            and "/home/" not in text
            and "/work/" not in text
            and "/tmp/" not in text
        ), path.name


@pytest.mark.parametrize("moment", ["as the file is made", "while it is written"])
def test_a_signal_at_any_moment_leaves_nothing_behind(moment, store, monkeypatch):
    """Such as Ctrl-C in the instant in which the temporary file appears."""
    path, made = store / "kept.json", Path.touch

    def interrupted(self, **arguments):
        made(self, **arguments)
        raise KeyboardInterrupt

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    write_text(path, "before")
    if moment == "as the file is made":
        monkeypatch.setattr(Path, "touch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert [file.name for file in store.iterdir()] == ["kept.json"] and path.read_text() == "before"


def test_every_folder_of_runs_says_where_it_comes_from(store):
    origin_of = {"hardware": {"cpu": "one", "gpu": None}, "commit": "a"}
    write_result(
        store / "probe" / "world",
        {"name": "r75-s0", "hash": "1", "seed": 0, "seconds": 1800.0} | origin_of,
    )
    write_result(
        store / "probe" / "world",
        {
            "name": "r75-s1",
            "hash": "2",
            "seed": 1,
            "seconds": 1800.0,
            "minutes": 60.0,
            "hardware": {"cpu": "one", "gpu": "fast"},
            "commit": "b",
        },
    )
    write_result(
        store / "pretraining" / "in20",
        {"name": "r75-s4", "hash": "3", "config": {"seed": 4}, "seconds": 36.0} | origin_of,
    )
    write_result(store / "benchmarks", {"name": "speed", "hash": "4"})
    first, second = origins()
    assert (first.folder, first.files, first.seeds, first.hours) == (
        "pretraining/in20",
        1,
        (4,),
        0.01,
    )
    assert (
        second.folder,
        second.files,
        second.seeds,
        second.hardware,
        second.commits,
        second.hours,
    ) == ("probe/world", 2, (0, 1), ("fast", "one"), ("a", "b"), 2.0)


def test_provenance_is_complete_and_names_no_folder(monkeypatch, tmp_path):
    words = [
        str(tmp_path / "mae"),
        "pretrain",
        "--data",
        str(tmp_path / "images"),
        f"--out={tmp_path / 'out put'}",
        "--ratio",
        "0.5",
        "name with space",
    ]
    monkeypatch.setattr("sys.argv", words)
    found = origin.provenance()
    assert (
        found["command"]
        == "mae pretrain --data images '--out=out put' --ratio 0.5 'name with space'"
    )
    assert set(found) == {"commit", "hardware", "versions", "command", "finished"}
    assert (
        found["hardware"]["device"] == "cpu"
        and found["hardware"]["gpu"] is None
        and found["hardware"]["cores"] >= 1
    )
    assert found["hardware"]["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert set(found["versions"]) == {"python", "torch", "timm", "numpy", "safetensors"}
    assert found["finished"].endswith("+00:00")
    assert found["commit"] is None or len(found["commit"].split("+")[0]) == 12
    json.dumps(found)
