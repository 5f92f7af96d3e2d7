"""Classifiers fine-tuned end to end: the recipe's parts, resuming, records, and bad input."""

from __future__ import annotations

import json
import random
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro

import tiny
from image_folders import fill
from mae_lib.base.errors import InputError
from mae_lib.commands.options import Classify
from mae_lib.data.sources import image_source
from mae_lib.evaluation.classification import classify_config, evaluate_classifier
from mae_lib.model.autoencoder import normalise_pixels
from mae_lib.training import store
from mae_lib.training.classifier import ClassifyRun, StoredClassifier, build, classify
from mae_lib.training.recipes import RECIPES, ClassifyConfig, encoder_alone
from mae_lib.training.stored import read_stored
from tiny import one_thread  # noqa: F401


class Shades:
    """Four classes, dark to bright, with a little noise."""

    classes = ("a", "b", "c", "d")
    shape = (3, 32, 32)

    def __init__(self, length: int = 32) -> None:
        self.labels = torch.arange(length) % 4
        self.identity = {"kind": "shades", "length": length}

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices) -> torch.Tensor:
        index = torch.as_tensor(indices)
        noise = torch.rand(len(self), 3, 32, 32, generator=torch.Generator().manual_seed(3))
        base = 30 + 60 * self.labels[index].float()[:, None, None, None]
        return (base + 10 * noise[index]).to(torch.uint8)


PLAIN = dict(mixup=0, cutmix=0, label_smoothing=0)


def config(**changes) -> ClassifyConfig:
    values = dict(
        model=encoder_alone(tiny.MODEL),
        classes=Shades.classes,
        data=Shades().identity,
        steps=4,
        batch=8,
        crop=0.5,
        flip=True,
        drop_path=0.2,
    )
    return ClassifyConfig(**(values | changes))


@pytest.fixture
def checkpoint(tmp_path) -> store.Checkpoint:
    return tiny.checkpoint(tmp_path / "own", tiny.config(seed=4))


def test_it_learns_and_is_scored_by_its_logits() -> None:
    own = config(steps=60, base_lr=0.1, crop=1, drop_path=0, **PLAIN)
    trained = classify(own, None, Shades(), device="cpu", progress=False)
    assert trained.losses[-5:].mean() < 0.5 * trained.losses[:3].mean()
    source, own_classes = Shades(16), torch.eye(4, dtype=torch.bool)
    with torch.no_grad():
        logits = trained.model(normalise_pixels(source.images(range(16))))
    wanted = float((logits.argmax(1) == source.labels).double().mean())
    found = evaluate_classifier(trained.model, {"all": (source, own_classes)})
    assert found["top1/all"].value == wanted and found["top1/all"].n == 16


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, checkpoint) -> None:
    start = {"pretrained": checkpoint.record["digest"], "origin": checkpoint.config.name}
    own, state = config(rand_augment="rand-m9-mstd0.5-inc1", **start), tmp_path / "state"

    def stop(run) -> None:
        if run.step == 2:
            raise KeyboardInterrupt

    arguments = dict(device="cpu", progress=False)
    with pytest.raises(KeyboardInterrupt):
        classify(own, checkpoint, Shades(), state=state, on_step=stop, **arguments)
    numpy_state, python_state = np.random.get_state()[1].tolist(), random.getstate()
    resumed = classify(own, checkpoint, Shades(), state=state, **arguments)
    assert np.random.get_state()[1].tolist() == numpy_state and random.getstate() == python_state
    whole = classify(own, checkpoint, Shades(), **arguments)
    assert torch.equal(resumed.losses, whole.losses)
    both = (resumed.model.state_dict(), whole.model.state_dict())
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])


def test_layers_learn_at_decayed_rates_and_the_encoder_is_the_checkpoints(checkpoint) -> None:
    start = {"pretrained": checkpoint.record["digest"], "origin": checkpoint.config.name}
    deep = replace(tiny.MODEL, depth=3)
    run = ClassifyRun(config(model=encoder_alone(deep)), None, Shades().labels, torch.device("cpu"))
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    scale = {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in run.optimiser.param_groups
        for parameter in group["params"]
    }
    assert scale.keys() == set(names.values())
    assert scale["head.weight"] == (1, 0.05) and scale["head.bias"] == (1, 0)
    blocks = [scale[f"encoder.encoder.{k}.attn.qkv.weight"][0] for k in range(3)]
    assert blocks == pytest.approx([0.75**3, 0.75**2, 0.75])
    assert scale["encoder.embed.weight"][0] == pytest.approx(0.75**4)
    assert scale["encoder.cls_token"][1] == 0
    built, encoder = build(config(**start), checkpoint), checkpoint.load()
    x = normalise_pixels(Shades().images(range(3)))
    assert torch.equal(built.eval().encoder.encode(x), encoder.encode(x))


def test_the_paper_tier_is_table_9() -> None:
    paper = ClassifyConfig(tiny.MODEL, ("a", "b"), {}, **RECIPES["paper"])
    assert (paper.base_lr, paper.layer_decay, paper.weight_decay) == (1e-3, 0.75, 0.05)
    assert (paper.betas, paper.batch, paper.drop_path) == ((0.9, 0.999), 1024, 0.1)
    assert (paper.mixup, paper.cutmix, paper.label_smoothing) == (0.8, 1.0, 0.1)
    assert paper.steps == round(100 * 1_281_167 / 1024) and paper.warmup == 5 / 100


def test_a_config_survives_json_and_every_field_changes_its_hash() -> None:
    own = config()
    assert ClassifyConfig.from_dict(json.loads(json.dumps(own.to_dict()))) == own
    others = dict(
        model=encoder_alone(replace(tiny.MODEL, depth=2)),
        classes=("x", "y"),
        data={},
        pretrained="0",
        origin="r",
        seed=1,
        steps=5,
        batch=10,
        base_lr=1,
        layer_decay=0.5,
        warmup=0.2,
        weight_decay=0,
        betas=(0.8, 0.9),
        crop=0.6,
        flip=False,
        crop_from="file",
        rand_augment="rand-m5",
        mixup=0.1,
        cutmix=0.2,
        label_smoothing=0,
        drop_path=0,
        precision="bfloat16",
    )
    assert set(others) == {each.name for each in fields(ClassifyConfig)}
    hashes = {replace(own, **{name: value}).hash for name, value in others.items()}
    assert len(hashes | {own.hash}) == len(others) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(classes=("a",)), "tells classes apart, and there is 1"),
        (dict(batch=7), "a batch of 7 must be even"),
        (dict(mixup=-1), "mixup is -1.0: it must be at least 0"),
        (dict(label_smoothing=1), "label_smoothing is 1.0: it must be at least 0 and below 1"),
        (dict(drop_path=float("nan")), "drop_path is nan"),
        (dict(base_lr=0), "base_lr is 0.0: it must be above 0"),
        (dict(layer_decay=1.5), "layer_decay is 1.5: it must be above 0 and at most 1"),
        (dict(crop_from="web"), "crop_from 'web'"),
        (
            dict(model=encoder_alone(replace(tiny.MODEL, channels=1)), rand_augment="rand-m9"),
            "RandAugment takes RGB",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes, message) -> None:
    with pytest.raises(InputError, match=message):
        config(**changes)


def test_a_folder_is_classified_recorded_and_not_trained_twice(
    tmp_path, monkeypatch, capsys, checkpoint
) -> None:
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    data = fill(tmp_path / "data", images=6)
    words = [
        *("--checkpoint", checkpoint.path, "--scratch", 8, "--data", data, "--tier", "smoke"),
        *("--device", "cpu", "--results", tmp_path / "results"),
    ]

    def run() -> str:
        flat = (tyro.conf.OmitArgPrefixes,)
        assert tyro.cli(Classify, args=[str(word) for word in words], config=flat).run() == 0
        return capsys.readouterr().out

    said = run()
    records = [json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")]
    assert {record["name"] for record in records} == {
        "r50-u8-p8-s4-classifier",
        "scratch-p8-s0-classifier",
    }
    for record in records:
        assert record["kind"] == "classification" and record["measures"]["top1/validation"]["n"]
    (weights,) = (tmp_path / "cache" / "classifiers").glob("r50*.safetensors")
    stored = read_stored(StoredClassifier, weights)
    assert stored.load().head.out_features == 2
    monkeypatch.setattr("mae_lib.evaluation.classification.classify", None)
    assert run() == said
    with pytest.raises(InputError, match="starts from fresh weights, and was given"):
        build(classify_config(image_source(data, "train", (32, 32)), None, "smoke"), checkpoint)
    assert not Path("classifiers").exists()
