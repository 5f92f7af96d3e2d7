"""k nearest neighbours, and features carried away in a file: every evaluation of features says of
the file what it says of the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import tyro

import tiny
from image_folders import fill
from mae_lib.base.errors import InputError
from mae_lib.base.files import DamagedFile
from mae_lib.commands.options import Evaluate, Features
from mae_lib.evaluation import features as made
from mae_lib.evaluation.evaluate import evaluate
from mae_lib.evaluation.exported import evaluate_exported, export_features, read_exported
from mae_lib.evaluation.inputs import Options
from mae_lib.evaluation.probes.knn import evaluate_knn
from mae_lib.training import store
from tiny import one_thread  # noqa: F401

FLAT = (tyro.conf.OmitArgPrefixes,)


def mae(kind: type, *words: object) -> int:
    return tyro.cli(kind, args=[str(word) for word in words], config=FLAT).run()


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> store.Checkpoint:
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    return tiny.checkpoint(tmp_path / "own", tiny.config())


@pytest.fixture
def data(tmp_path) -> Path:
    return fill(tmp_path / "data", images=24)


def random_features(count: int, seed: int) -> made.Features:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    labels = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    return made.Features(x, -x, labels, ("a", "b", "c", "d"))


@pytest.mark.parametrize("k", [1, 7])
def test_neighbours_vote_by_cosine_near_ones_more(k: int) -> None:
    train, seen = random_features(60, 0), random_features(40, 1)
    found = evaluate_knn(train, {"all": (seen, torch.eye(4, dtype=torch.bool))}, k)
    for pool in ("mean", "cls"):
        x, y = train.pooled(pool).double(), seen.pooled(pool).double()
        centre, scale = x.mean(0), x.std(0, correction=0)
        a, b = (x - centre) / scale, (y - centre) / scale
        apart = 1 - torch.nn.functional.cosine_similarity(b[:, None], a[None], dim=2)
        near = apart.argsort(1)[:, :k]
        votes = torch.zeros(40, 4, dtype=torch.float64)
        votes.scatter_add_(1, train.labels[near], 1 / apart.gather(1, near))
        right = (votes.argmax(1) == seen.labels).double().mean()
        assert found[f"{pool}/all"].value == pytest.approx(float(right), abs=1e-12)


def test_neighbours_answer_with_classes_of_the_set_alone_and_their_number_is_checked() -> None:
    train, seen = random_features(60, 0), random_features(40, 1)
    accepts = torch.zeros(4, 4, dtype=torch.bool)
    accepts[0, 0] = accepts[1, 1] = True
    found = evaluate_knn(train, {"two": (seen, accepts)}, 60)
    assert found["mean/two"].n == int((seen.labels < 2).sum())
    alone = torch.zeros(4, 4, dtype=torch.bool)
    alone[2, 2] = True  # the only answer there is
    assert evaluate_knn(train, {"one": (seen, alone)}, 5)["mean/one"].value == 1
    for k in (0, 61):
        with pytest.raises(InputError, match=rf"{k} neighbours among 60 training images"):
            evaluate_knn(train, {"two": (seen, accepts)}, k)


@pytest.mark.parametrize("kind", ["probe", "few_labels", "knn", "separability"])
def test_a_file_says_what_the_model_says(kind, tmp_path, checkpoint, data, monkeypatch) -> None:
    options = Options(data, train_images=44, device="cpu", neighbours=3)
    wanted = evaluate(kind, checkpoint, options)
    out = export_features(checkpoint, options, tmp_path / "f.safetensors")
    for forbidden in ("encode", "pixel_features"):
        monkeypatch.setattr(made, forbidden, None)
    found = evaluate_exported(kind, read_exported(out), options)
    own = {k: v for k, v in wanted["measures"].items() if not k.startswith("pixels/")}
    assert found["measures"] == own and own
    assert found["config"] == wanted["config"] and found["name"] == wanted["name"]
    assert found["data"]["validation"] == wanted["data"]["validation"]


def test_features_are_written_and_read_by_commands(tmp_path, checkpoint, data, capsys) -> None:
    out = tmp_path / "f.safetensors"
    words = ("--checkpoint", checkpoint.path, "--data", data, "--out", out, "--device", "cpu")
    assert mae(Features, *words) == 0
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["weights"] == checkpoint.record["digest"] and record["sets"] == ["validation"]
    assert str(tmp_path) not in json.dumps({k: v for k, v in record.items() if k != "command"})
    capsys.readouterr()
    results = tmp_path / "results"
    read = ("--features", out, "--device", "cpu", "--results", results)
    assert mae(Evaluate, "knn", *read, "--neighbours", 5) == 0
    assert "cls/validation" in capsys.readouterr().out and len(list(results.iterdir())) == 1
    with pytest.raises(InputError, match="is there already, and is not replaced"):
        mae(Features, *words)
    with pytest.raises(InputError, match="ends in .safetensors"):
        mae(Features, *words[:-3], tmp_path / "f.pt")
    for what, message in (
        ("attention", "looks at the model or at the images themselves"),
        ("shape_bias", "has no stimuli"),
    ):
        with pytest.raises(InputError, match=message):
            mae(Evaluate, what, "--features", out, "--device", "cpu")
    with pytest.raises(InputError, match="in place of --checkpoint"):
        mae(Evaluate, "knn", *read, "--checkpoint", checkpoint.path)
    with pytest.raises(InputError, match="200 neighbours among"):
        mae(Evaluate, "knn", *read, "--neighbours", 200)


def test_a_damaged_file_of_features_is_named(tmp_path, checkpoint, data) -> None:
    out = export_features(checkpoint, Options(data, device="cpu"), tmp_path / "f.safetensors")
    record = out.with_suffix(".json")
    sound = record.read_text()
    values = json.loads(sound)
    for text, message in (
        ("{", "is damaged"),
        (json.dumps(values | {"digest": "0"}), "is not of the features beside it"),
        (json.dumps(values | {"sets": ["moon"]}), "is damaged"),
    ):
        record.write_text(text)
        with pytest.raises(DamagedFile, match=message):
            read_exported(out)
    record.write_text(json.dumps(values | {"kind": "probe"}))
    with pytest.raises(InputError, match="is no record of `mae features`"):
        read_exported(out)
    record.unlink()
    with pytest.raises(InputError, match=r"f.json is missing"):
        read_exported(out)
