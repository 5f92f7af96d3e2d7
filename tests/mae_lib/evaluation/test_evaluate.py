"""From checkpoints and data to records, by the command and by the library: every evaluation at the
least size, on the world and on folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from image_folders import fill, picture, save
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval
from mae_lib.base.runs import RUNS
from mae_lib.commands.cli import main
from mae_lib.data.encoded import FolderImages
from mae_lib.data.shifted import ShiftedSet
from mae_lib.data.sources import image_source
from mae_lib.evaluation import evaluate as evaluation
from mae_lib.evaluation import inputs
from mae_lib.evaluation.evaluate import EVALUATIONS, SETTINGS, evaluate, identity
from mae_lib.evaluation.inputs import Options
from mae_lib.evaluation.shape_bias import category_groups
from mae_lib.model.autoencoder import MaskedAutoencoder
from mae_lib.training import store
from mae_lib.training.loop import Trained
from mae_lib.training.tiers import tier
from mae_lib.worlds.world import EVALUATION_SETS, World

SMOKE = tier("smoke")
FEW = Options(images=12, train_images=400, device="cpu")


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """A cache of this test's own, evaluation sets of 300 images, and nothing kept open from another
    test."""
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mae_lib.worlds.world.EVALUATION_LENGTH", 300)
    monkeypatch.setattr("mae_lib.worlds.world.hard_indices", lambda every=torch.arange(300): every)
    for kept in (inputs._held, inputs._world_stimuli):
        kept.cache_clear()
    torch.set_num_threads(1)


def stored(folder: Path, config) -> store.Checkpoint:
    torch.manual_seed(config.unit)
    return store.save(
        Trained(MaskedAutoencoder(config.model).eval(), torch.linspace(1, 0.5, 5), 1.0),
        config,
        folder,
        "smoke",
    )


@pytest.fixture
def checkpoint(tmp_path) -> store.Checkpoint:
    return stored(tmp_path / "checkpoints", SMOKE.config(World("train", 32).identity, 0.75))


def mae(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return caught.value.code or 0


@pytest.mark.parametrize("kind", EVALUATIONS)
def test_a_record_says_what_was_measured_of_what(kind, checkpoint):
    record = evaluate(kind, checkpoint, FEW)
    assert record["measures"]
    for interval in map(Interval.from_dict, record["measures"].values()):
        assert (
            interval.n >= 1
            and not interval.low > interval.value
            and not interval.high < interval.value
        )
    assert (
        record["run"] in RUNS
        and record["run"] == "r75"
        and (record["name"], record["hash"]) == (checkpoint.config.name, checkpoint.config.hash)
    )
    assert (
        set(record["settings"]) == set(SETTINGS[kind])
        and json.loads(json.dumps(record, allow_nan=False)) == record
    )
    assert identity(kind, checkpoint, FEW).items() <= record.items()


def test_the_probe_sees_all_six_sets_of_the_world(checkpoint):
    measures = evaluate("probe", checkpoint, FEW)["measures"]
    assert {
        f"{pool}/{name}" for pool in ("mean", "cls", "pixels") for name in EVALUATION_SETS
    } <= measures.keys()


def handed(monkeypatch, name: str) -> dict:
    """What the evaluation called ``name`` is given by position and by name, without running it."""
    given: dict = {}
    monkeypatch.setattr(
        evaluation, name, lambda *arguments, **named: given.update(named, arguments=arguments) or {}
    )
    return given


def test_no_more_images_are_used_than_were_asked_for(checkpoint, monkeypatch):
    assert {
        m["n"]
        for name, m in evaluate("reconstruction", checkpoint, FEW)["measures"].items()
        if name.startswith("readout/")
    } == {FEW.images}
    given = handed(monkeypatch, "evaluate_probe")
    evaluate("probe", checkpoint, FEW)
    train, sets, *_ = given["arguments"]
    assert len(train) == FEW.train_images and {
        name: len(seen) for name, (seen, _) in sets.items()
    } == dict.fromkeys(EVALUATION_SETS, 300)
    assert all(torch.equal(seen.labels, World(name, 32).labels) for name, (seen, _) in sets.items())


def test_each_cue_is_handed_over_as_what_it_is(checkpoint, monkeypatch):
    given = handed(monkeypatch, "evaluate_shape_bias")
    evaluate("shape_bias", checkpoint, FEW)
    world = World("conflict", 32)
    _, _, shape, texture, groups, *_ = given["arguments"]
    assert (
        torch.equal(shape, world.labels)
        and torch.equal(texture, world.sample(range(300)).textures)
        and groups is None
    )


def test_latents_are_of_the_images_that_are_looked_at(checkpoint, monkeypatch):
    given = handed(monkeypatch, "evaluate_latents")
    evaluation._controls_seen.clear()
    monkeypatch.setattr(evaluation, "readout", lambda *arguments: controls.append(arguments) or {})
    controls: list = []
    evaluate("latents", checkpoint, FEW)
    evaluate("latents", checkpoint, FEW)
    train, train_latents, test, test_latents, *_ = given["arguments"]
    for seen, latents, split, count in (
        (train, train_latents, "train", FEW.train_images),
        (test, test_latents, "validation", 300),
    ):
        index = torch.arange(count) * len(World(split, 32)) // count
        batch = World(split, 32).sample(index)
        assert torch.equal(seen.labels, batch.labels) and torch.equal(
            latents["class"], batch.labels
        )
        assert torch.equal(latents["texture"], batch.textures) and torch.equal(
            latents["position"], batch.latents["pose"][:, 2:4]
        )
    # The controls: pixels and first weights, each read out once however often it is asked for, and
    # neither is the encoder's own.
    assert (
        len(controls) == 2
        and controls[0][0].shape == (FEW.train_images, 3 * 16 * 16)
        and controls[1][0].shape == train.mean.shape
    )
    assert all(
        torch.equal(latents["position"], train_latents["position"]) for _, latents, *_ in controls
    )
    assert not torch.allclose(controls[1][0], train.mean)


def test_the_latents_class_is_the_probes(checkpoint):
    latents, probe = (evaluate(kind, checkpoint, FEW)["measures"] for kind in ("latents", "probe"))
    for pool in ("mean", "cls"):
        assert latents[f"{pool}/class"] == probe[f"{pool}/validation"]


def test_the_untrained_control_is_of_the_runs_own_seed(tmp_path, monkeypatch):
    given = handed(monkeypatch, "evaluate_attention")
    evaluate(
        "attention",
        stored(tmp_path / "seeds", SMOKE.config(World("train", 32).identity, 0.75, seed=2)),
        FEW,
    )
    assert given["seed"] == 2


@pytest.mark.parametrize("kind", EVALUATIONS)
def test_the_key_changes_with_all_that_decides_the_numbers(kind, checkpoint, tmp_path):
    key = identity(kind, checkpoint, FEW)["key"]
    # where it runs is no setting
    assert key == identity(kind, checkpoint, replace(FEW, device="auto"))["key"]
    for name in SETTINGS[kind]:
        assert (
            identity(kind, checkpoint, replace(FEW, **{name: getattr(FEW, name) + 1}))["key"] != key
        )
    other = replace(checkpoint, record=checkpoint.record | {"digest": "0"})
    assert identity(kind, other, FEW)["key"] != key


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Two classes that belong to two of the 16 categories, and one that belongs to none."""
    groups = category_groups()
    return fill(
        tmp_path / "photographs",
        classes=(groups["dog"][0], groups["cat"][0], "n01440764"),
        images=8,
    )


@pytest.fixture
def stimuli(tmp_path) -> Path:
    for k in range(3):
        for shape, texture in (("cat", "dog"), ("dog", "cat"), ("dog", "dog"), ("bear", "cat")):
            save(picture(k), tmp_path / "stimuli" / shape / f"{shape}{k + 1}-{texture}{k + 1}.png")
    return tmp_path / "stimuli"


def folder_checkpoint(tmp_path, photographs, channels: int = 3) -> store.Checkpoint:
    source = image_source(photographs, "train", (32, 32), channels)
    return stored(tmp_path / "real", SMOKE.at(32, channels).config(source.identity, 0.75))


def test_what_counts_as_right_is_part_of_the_key(tmp_path, photographs, monkeypatch):
    """ObjectNet says it in files beside its images: other files over the same images must give
    another record."""
    real, source = folder_checkpoint(tmp_path, photographs), FolderImages(photographs, "val", 32)
    options, keys = replace(FEW, data=photographs, shifted={"objectnet": tmp_path}), set()
    for right in (torch.eye(3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)):
        monkeypatch.setattr(
            evaluation, "open_shifted", lambda *_: ShiftedSet("objectnet", source, right)
        )
        keys.add(identity("probe", real, options)["key"])
    assert len(keys) == 2


@pytest.mark.parametrize("channels", [3, 1])
def test_every_evaluation_runs_on_a_folder(channels, tmp_path, photographs, stimuli, capsys):
    real = folder_checkpoint(tmp_path, photographs, channels)
    fill(
        tmp_path / "drawn",
        splits=("",),
        classes=sorted(p.name for p in (photographs / "train").iterdir())[:2],
        images=4,
    )
    options = {
        "probe": ("--shifted", f"drawn={tmp_path / 'drawn'}"),
        "shape_bias": ("--stimuli", stimuli),
    }
    for kind in ("reconstruction", "attention", "probe", "shape_bias"):
        results = tmp_path / "results" / kind
        assert (
            mae(
                "evaluate",
                kind,
                "--checkpoint",
                real.path,
                "--data",
                photographs,
                "--images",
                6,
                "--results",
                results,
                *options.get(kind, ()),
            )
            == 0
        )
        (path,) = results.glob("*.json")
        record = json.loads(path.read_text())
        assert record["kind"] == kind and str(tmp_path) not in path.read_text()
        if kind == "probe":
            assert record["measures"]["mean/drawn"]["n"] == 8
        if kind == "attention":
            assert not any("object" in name for name in record["measures"])
        if kind == "shape_bias":
            # congruent pairs and bears are dropped
            assert record["measures"]["mean/bias"]["n"] == 6
        shown = capsys.readouterr().out
        assert all(name in shown for name in record["measures"])


def test_what_is_recorded_is_not_measured_again(tmp_path, checkpoint, monkeypatch):
    words = (
        "evaluate",
        "separability",
        "--checkpoint",
        checkpoint.path.parent,
        "--results",
        tmp_path / "results",
    )
    assert mae(*words) == 0
    (path,) = (tmp_path / "results").glob("*.json")
    first = path.read_text()
    monkeypatch.setitem(
        evaluation.EVALUATIONS, "separability", lambda *_: pytest.fail("measured again")
    )
    assert mae(*words) == 0 and path.read_text() == first
    monkeypatch.undo()
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    # another record wants another folder
    assert mae(*words, "--seed", 1) == 2 and path.read_text() == first
    assert mae(*words[:-1], tmp_path / "others", "--seed", 1) == 0
    assert json.loads((tmp_path / "others" / path.name).read_text())["settings"]["seed"] == 1


def test_images_changed_between_two_commands_of_one_process_are_looked_at_anew(tmp_path):
    """Same names, same sizes: neither the images held in memory nor the features in the cache are
    those of before."""
    folder, seen = tmp_path / "pixels", []

    def pictures(first: int) -> None:
        for split, count in (("train", 40), ("val", 10)):
            for c, name in enumerate(("ant", "bee")):
                for k in range(count):
                    save(
                        picture(first + 100 * c + k + 1000 * (split == "val"), 32, 32),
                        folder / split / name / f"{k}.bmp",
                    )

    pictures(0)
    real = folder_checkpoint(tmp_path, folder)
    for turn in (0, 5000, 0):
        pictures(turn)
        held = {
            name: evaluation.images_of(real, replace(FEW, data=folder), name).images(range(3))
            for name in ("train", "validation")
        }
        assert all(
            torch.equal(images, image_source(folder, name, (32, 32)).images(range(3)))
            for name, images in held.items()
        )
        seen.append(evaluate("probe", real, replace(FEW, data=folder)))
    assert (
        seen[0]["key"] == seen[2]["key"] != seen[1]["key"]
        and seen[0]["measures"] == seen[2]["measures"] != seen[1]["measures"]
    )


def test_a_bare_name_is_looked_up_in_the_cache(tmp_path, checkpoint, monkeypatch, capsys):
    stem = checkpoint.path.stem
    assert mae("evaluate", "separability", "--checkpoint", stem) == 2
    assert f"no checkpoint {stem} in checkpoints/ or in the cache" in capsys.readouterr().err
    monkeypatch.setenv("MAE_CACHE", str(tmp_path))  # whose checkpoints/ holds it
    assert (
        mae("evaluate", "separability", "--checkpoint", stem) == 0
        and checkpoint.config.name in capsys.readouterr().out
    )


def test_json_on_standard_output(checkpoint, capsys):
    assert (
        mae("evaluate", "attention", "--checkpoint", checkpoint.path, "--images", 4, "--as-json")
        == 0
    )
    (record,) = json.loads(capsys.readouterr().out)
    assert record["kind"] == "attention"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("probe", "--checkpoint"), "no checkpoint was named"),
        (("probe", "--checkpoint", "nowhere.safetensors"), "no checkpoint at nowhere.safetensors"),
        (("probe", "--checkpoint", "EMPTY"), "there is no checkpoint in"),
        (("probe", "--checkpoint", "CHECKPOINT", "--shifted", "imagenet-r"), "must be NAME=DIR"),
        (
            ("probe", "--checkpoint", "CHECKPOINT", "--shifted", "imagenet-r=EMPTY"),
            "the embedded world brings its own",
        ),
        (("attention", "--checkpoint", "CHECKPOINT", "--images", "0"), "images is 0"),
        (("shape_bias", "--checkpoint", "CHECKPOINT", "--data", "PHOTOGRAPHS"), "needs --stimuli"),
        (("shape_bias", "--checkpoint", "CHECKPOINT", "--stimuli", "EMPTY"), "with --data"),
        (
            ("latents", "--checkpoint", "CHECKPOINT", "--data", "PHOTOGRAPHS"),
            "nobody knows the latents of photographs",
        ),
        (("severity", "--checkpoint", "CHECKPOINT", "--data", "PHOTOGRAPHS"), "without --data"),
        (("probe", "--checkpoint", "CHECKPOINT", "--data", "nowhere"), "nowhere"),
        (("probe", "--checkpoint", "CHECKPOINT", "--device", "tpu"), "unknown device"),
        (("probe", "--checkpoint", "CHECKPOINT", "--threads", "0"), "--threads 0"),
        (
            (
                "probe",
                "--checkpoint",
                "CHECKPOINT",
                "--data",
                "PHOTOGRAPHS",
                "--shifted",
                "imagenet-r=nowhere",
            ),
            "nowhere",
        ),
    ],
)
def test_bad_input_is_one_clear_line(words, says, checkpoint, photographs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    names = {"CHECKPOINT": checkpoint.path, "EMPTY": tmp_path / "empty", "PHOTOGRAPHS": photographs}
    spelt = [str(names.get(word, word)).replace("EMPTY", str(names["EMPTY"])) for word in words]
    assert mae("evaluate", *spelt, "--results", tmp_path / "results") == 2
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error and "Traceback" not in error
    assert not (tmp_path / "results").exists()


def test_an_unknown_evaluation_is_named(checkpoint):
    with pytest.raises(InputError, match="no evaluation 'tsne'"):
        evaluate("tsne", checkpoint)


def nothing_is_encoded(monkeypatch) -> None:
    monkeypatch.setattr(
        MaskedAutoencoder, "forward", lambda *_, **__: pytest.fail("it was measured")
    )
    monkeypatch.setattr(
        MaskedAutoencoder, "encode", lambda *_, **__: pytest.fail("it was measured")
    )


@pytest.mark.parametrize(
    ("kind", "images", "words", "says"),
    [
        ("few_labels", 8, (), "has 8 training images, and a probe from few labels takes 20"),
        ("separability", 8, (), "too few for purity among 10 neighbours"),
        ("probe", 8, ("--train-images", 2), "2 images for 3 classes"),
        ("probe", 1, (), "no class has two"),
        ("probe", 8, ("--train-images", 3), "no class has two"),
        ("shape_bias", 8, ("--stimuli", "STIMULI"), "cover 0 of the categories"),
    ],
)
def test_what_the_labels_cannot_give_is_said_before_anything_is_encoded(
    kind, images, words, says, stimuli, tmp_path, monkeypatch, capsys
):
    data = fill(tmp_path / "set", classes=("ant", "bee", "cat"), images=images)
    real = folder_checkpoint(tmp_path, data)
    nothing_is_encoded(monkeypatch)
    spelt = [stimuli if word == "STIMULI" else word for word in words]
    assert mae("evaluate", kind, "--checkpoint", real.path, "--data", data, *spelt) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error


@pytest.mark.parametrize("fault", ["other images", "weights"])
def test_the_last_of_several_checkpoints_is_checked_before_the_first_is_measured(
    fault, checkpoint, tmp_path, monkeypatch, capsys
):
    last = stored(tmp_path / "checkpoints", SMOKE.config(World("train", 32).identity, 0.9))
    if fault == "weights":
        content = bytearray(last.path.read_bytes())
        content[-1] ^= 1
        last.path.write_bytes(content)
        says = f"{last.path.name} is damaged"
    else:
        last = stored(
            tmp_path / "checkpoints",
            replace(last.config, model=replace(last.config.model, channels=1)),
        )
        says = "draws square RGB images"
    nothing_is_encoded(monkeypatch)
    assert mae("evaluate", "separability", "--checkpoint", checkpoint.path, last.path) == 2
    assert says in capsys.readouterr().err


def test_several_checkpoints_are_counted_and_the_time_left_is_told_after_the_first(
    checkpoint, tmp_path, capsys
):
    for ratio in (0.5, 0.9):
        stored(tmp_path / "checkpoints", SMOKE.config(World("train", 32).identity, ratio))
    words = (
        "evaluate",
        "separability",
        "--checkpoint",
        tmp_path / "checkpoints",
        "--results",
        tmp_path / "results",
    )
    assert mae(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "3 to measure, 0 already recorded"
        and lines.count("2 more to measure, less than a minute at the pace of the first") == 1
    )
    assert mae(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 to measure, 3 already recorded" and not any(
        "pace" in line for line in lines
    )
