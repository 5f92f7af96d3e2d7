"""Fine-tuning resumes to the same bits, gives the same weights on two processes as on one, sees
what it should of an image, and keeps what it trained."""

from __future__ import annotations

import json
import math
import os
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import tiny
from coco_folders import random_content, save_coco
from mae_lib.base.errors import InputError, TrainingDiverged
from mae_lib.base.files import DamagedFile
from mae_lib.base.intervals import Interval
from mae_lib.base.records import write_result
from mae_lib.base.tensors import read_safetensors, write_safetensors
from mae_lib.commands import cli
from mae_lib.data.coco import CocoFolder, Instances, write_scenes
from mae_lib.detection import detectors
from mae_lib.detection import finetune as tuning
from mae_lib.detection.config import DetectorConfig, FinetuneConfig
from mae_lib.detection.detectors import (
    evaluate_detector,
    find_detector,
    finetune_config,
    identity,
    obtain_detector,
    record_of,
    run_of,
)
from mae_lib.detection.examples import Examples, cropped, mirrored, scaled
from mae_lib.detection.finetune import FinetuneRun, build, finetune
from mae_lib.training.store import Checkpoint
from mae_lib.training.tiers import TIERS, run_name
from mae_lib.worlds.world import Scenes, boxes_of
from tiny import one_thread  # noqa: F401 (every test on one thread)

DETECTOR = DetectorConfig(
    image_size=64,
    strides=(8, 16),
    width=8,
    anchors=(16, 32),
    canonical=64,
    pre_nms=20,
    post_nms=20,
    rpn_samples=16,
    roi_samples=8,
    box_width=16,
    mask_layers=1,
    mask_width=8,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> CocoFolder:
    return write_scenes(Scenes("train", 64, length=10), tmp_path_factory.mktemp("scenes"), "train")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    return tiny.checkpoint(tmp_path_factory.mktemp("checkpoints"), tiny.config(seed=4))


def config(folder: CocoFolder, checkpoint: Checkpoint | None = None, **changes) -> FinetuneConfig:
    """One that meets every part of the loop: scales, crops, mirrors, warm-up, clipping, batches
    that do not divide the images."""
    start = (
        {}
        if checkpoint is None
        else {"pretrained": checkpoint.record["digest"], "origin": checkpoint.config.name}
    )
    values = dict(
        model=tiny.MODEL,
        detector=DETECTOR,
        classes=folder.classes,
        data=folder.identity,
        steps=4,
        batch=4,
        learning_rate=2e-3,
        warmup=0.3,
        jitter=(0.7, 1.5),
    )
    return FinetuneConfig(**(values | start | changes))


def weights(model) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


# --------------------------------------------------------------------------------------------------
# The loop


class Stop(Exception):
    """A run that ends without a word."""


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(folder, tmp_path):
    # the first block never drops
    own = config(
        folder, model=replace(tiny.MODEL, depth=2), detector=replace(DETECTOR, drop_path=0.5)
    )
    whole = finetune(own, None, folder, device="cpu", progress=False)

    def stop(run: FinetuneRun) -> None:
        if run.step == 2:
            run.save(tmp_path / "state.safetensors")
            raise Stop

    with pytest.raises(Stop):
        finetune(own, None, folder, device="cpu", progress=False, on_step=stop)
    torch.manual_seed(12345)  # nothing may come from the generator as it happens to stand
    steps = []
    resumed = finetune(
        own,
        None,
        folder,
        device="cpu",
        progress=False,
        state=tmp_path / "state.safetensors",
        on_step=lambda run: steps.append(run.step),
    )
    assert steps == [3, 4]
    assert same(weights(whole.model), weights(resumed.model)) and whole.losses.equal(resumed.losses)
    other = finetune(replace(own, seed=1), None, folder, device="cpu", progress=False)
    assert not same(weights(whole.model), weights(other.model))


def test_the_loss_falls(folder):
    losses = finetune(
        config(folder, steps=40, jitter=(1, 1), learning_rate=5e-3),
        None,
        folder,
        device="cpu",
        progress=False,
    ).losses
    assert losses.isfinite().all() and losses[-5:].mean() < 0.7 * losses[:3].mean()


def _two(rank: int, port: int, root: str, out: str) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": "2",
    }
    dist.init_process_group("gloo")
    folder = CocoFolder(Path(root) / "train", Path(root) / "annotations" / "instances_train.json")
    trained = finetune(config(folder), None, folder, device="cpu", progress=False)
    write_safetensors(
        Path(out) / f"rank{rank}.safetensors",
        weights(trained.model) | {"losses": trained.losses},
        {},
    )
    dist.destroy_process_group()


def test_two_processes_train_the_weights_of_one(folder, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = str(folder.annotations.parent.parent)
    processes = [tiny.start(_two, rank, port, root, str(tmp_path)) for rank in (0, 1)]
    alone = finetune(config(folder), None, folder, device="cpu", progress=False)
    for process in processes:
        tiny.finish(process)
    first, second = (read_safetensors(tmp_path / f"rank{rank}.safetensors")[0] for rank in (0, 1))
    assert same(first, second)
    torch.testing.assert_close(first.pop("losses"), alone.losses, rtol=1e-4, atol=1e-5)
    start = weights(build(config(folder), None))
    for name, value in weights(alone.model).items():
        moved = (value - start[name]).abs().max()
        # Adam magnifies the last bit of a gradient near zero
        assert (first[name] - value).abs().max() < 0.1 * moved + 1e-6, name


def test_a_pretrained_detector_starts_at_the_checkpoint_and_its_heads_at_the_seed(
    folder, checkpoint
):
    tuned, scratch = build(config(folder, checkpoint), checkpoint), build(config(folder), None)
    encoder = checkpoint.load()
    assert tuned.backbone.blocks.state_dict().keys() == encoder.encoder.state_dict().keys()
    assert same(dict(tuned.backbone.blocks.state_dict()), dict(encoder.encoder.state_dict()))
    differ = {
        name for name, value in weights(tuned).items() if not value.equal(weights(scratch)[name])
    }
    assert differ and all(
        name.startswith(("backbone.blocks.", "backbone.embed.")) for name in differ
    )


def test_a_diverging_run_is_named_and_keeps_its_last_state(folder, tmp_path):
    own, state = config(folder, steps=6), tmp_path / "state.safetensors"

    def poison(run: FinetuneRun) -> None:
        if run.step == 2:
            run.save(state)
            with torch.no_grad():
                run.model.backbone.levels["8"][-1].weight.fill_(math.nan)

    with pytest.raises(
        TrainingDiverged, match=r"not finite at step 2 of 6; the last good state .* learning rate"
    ):
        finetune(own, None, folder, device="cpu", progress=False, state=state, on_step=poison)
    assert read_safetensors(state)[1]["step"] == "2"


# --------------------------------------------------------------------------------------------------
# What a step sees


class Planted:
    """A folder of one image with a crowd, a box of no area, and one good instance."""

    image_ids, classes, identity = (7,), ("thing",), {"kind": "planted"}

    def __init__(self, empty: bool = False) -> None:
        boxes = torch.tensor([[0, 0, 30, 30], [5, 5, 5, 9], [8, 12, 20, 40]], dtype=torch.float32)
        masks = torch.zeros(3, 48, 60, dtype=torch.bool)
        masks[0, :30, :30] = masks[2, 12:40, 8:20] = True
        keep = slice(0, 0) if empty else slice(None)
        self.found = Instances(
            boxes[keep],
            torch.tensor([1, 1, 1])[keep],
            masks[keep],
            torch.tensor([True, False, False])[keep],
            torch.ones(3)[keep],
        )

    def __len__(self) -> int:
        return 1

    def image(self, index: int) -> Tensor:
        return torch.randint(
            0, 256, (3, 48, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(index)
        )

    def instances(self, index: int) -> Instances:
        return self.found


def test_crowds_and_boxes_of_no_area_are_no_targets(folder):
    image, target = Examples(config(folder, jitter=(1, 1), flip=False), Planted())(0, 0, 0)
    # the longer side is the detector's
    assert image.shape == (3, 51, 64) and len(target["labels"]) == 1
    torch.testing.assert_close(
        target["boxes"][0], torch.tensor([8, 12, 20, 40]) * torch.tensor([64 / 60, 51 / 48] * 2)
    )


def test_images_without_instances_train_the_background(folder):
    run = FinetuneRun(config(folder, batch=2), None, torch.device("cpu"))
    examples = Examples(run.config, Planted(empty=True))
    run.train_step([examples(0, place, 0) for place in range(2)])
    assert run.losses[0].isfinite() and run.finite()
    run.save(Path(os.environ["MAE_CACHE"]) / "state.safetensors")  # every parameter has its moments


def test_augmentation_is_a_pure_function_of_step_and_place(folder):
    def drawn(step: int, place: int) -> Tensor:
        return Examples(config(folder, jitter=(0.5, 2.0)), folder)(step, place, 3)[0]

    assert drawn(2, 1).equal(drawn(2, 1))
    assert (
        len(
            {
                tuple(drawn(step, place).flatten()[:50].tolist())
                for step in (0, 1)
                for place in (0, 1)
            }
        )
        == 4
    )


def test_boxes_and_masks_move_with_the_pixels(folder):
    """The box around the mask is the target's box, whatever was done to both, up to the pixel that
    rounding may cost."""
    examples = Examples(config(folder, jitter=(0.5, 2.0)), folder)
    seen = 0
    for step in range(30):
        image, target = examples(step, 0, step % len(folder))
        assert image.shape[1:] == target["masks"].shape[1:] and max(image.shape[1:]) <= 64
        assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
        whole = target["masks"].flatten(1).any(1).bool()
        around = boxes_of(target["masks"].bool())[whole]
        if len(around):
            assert (around - target["boxes"][whole]).abs().max() <= 1.5
            seen += len(around)
    assert seen > 20
    image, target = (
        torch.rand(3, 8, 8),
        {
            "boxes": torch.tensor([[1.0, 2, 4, 6]]),
            "labels": torch.tensor([1]),
            "masks": torch.zeros(1, 8, 8, dtype=torch.uint8),
        },
    )
    target["masks"][0, 2:6, 1:4] = 1
    flipped, moved = mirrored(image, target)
    assert (
        flipped.equal(image.flip(-1))
        and moved["boxes"].tolist() == [[4, 2, 7, 6]]
        and boxes_of(moved["masks"].bool()).tolist() == [[4, 2, 7, 6]]
    )
    assert torch.equal(mirrored(flipped, moved)[1]["boxes"], target["boxes"])
    piece, inside = cropped(image, target, 4, 0.99, 0.0)  # the upper right quarter
    assert piece.equal(image[:, :4, 4:]) and len(inside["labels"]) == 0
    piece, inside = cropped(image, target, 4, 0.0, 0.99)
    assert (
        piece.equal(image[:, 4:, :4])
        and inside["boxes"].tolist() == [[1, 0, 4, 2]]
        and boxes_of(inside["masks"].bool()).tolist() == [[1, 0, 4, 2]]
    )
    assert scaled(image, target, 1.0)[0] is image
    assert scaled(image, target, 2.0)[1]["boxes"].tolist() == [[2, 4, 8, 12]]


def test_threads_ahead_give_the_same_batches(folder):
    own = config(folder)
    one, many = (list(Examples(own, folder).batches(1, 0, 2, workers)) for workers in (0, 3))
    assert len(one) == len(many) == 3 and all(len(batch) == 2 for batch in one)
    for a, b in zip(one, many):
        assert all(x.equal(y) and s["boxes"].equal(t["boxes"]) for (x, s), (y, t) in zip(a, b))
    shares = [list(Examples(own, folder).batches(0, rank, 2, 0)) for rank in (0, 1)]
    whole = list(Examples(own, folder).batches(0, 0, 1, 0))
    assert all(whole[0][place][0].equal(shares[place % 2][0][place // 2][0]) for place in range(4))


# --------------------------------------------------------------------------------------------------
# Stored detectors and records


def test_a_detector_is_trained_once_and_found_again(folder, checkpoint, tmp_path, monkeypatch):
    own = config(folder, checkpoint, steps=2, seed=4)
    stored = obtain_detector(
        own,
        checkpoint,
        folder,
        device="cpu",
        out=tmp_path / "out",
        tier_name="smoke",
        progress=False,
    )
    assert (
        own.name == "r50-u8-p8-s4-detector"
        and stored.path.name == f"{own.name}-{own.hash}.safetensors"
    )
    assert stored.record["run"] == run_of(own, checkpoint, "smoke") == "r50"
    assert not list((tmp_path / "cache" / "states").glob("*.safetensors"))
    monkeypatch.setattr(detectors, "finetune", None)
    again = obtain_detector(own, checkpoint, folder, out=tmp_path / "out", tier_name="smoke")
    assert again.record == stored.record and again.config == own
    trained = finetune(own, checkpoint, folder, device="cpu", progress=False)
    assert same(weights(again.load()), weights(trained.model))
    record = record_of(again, folder, 3, "cpu")
    assert record["measures"] and all(
        0 <= v["value"] <= 1 and v["low"] is None and v["n"] == 3
        for v in record["measures"].values()
    )
    assert {name.partition("/")[0] for name in record["measures"]} == {
        "box",
        "mask",
    } and "box/AP" in record["measures"]
    assert (
        record["key"]
        == identity(own, "r50", "smoke", folder, 3)["key"]
        != identity(own, "r50", "smoke", folder, 4)["key"]
    )
    write_result(tmp_path / "results", record)  # valid JSON, without NaN
    with pytest.warns(UserWarning, match="Set aside"):
        path = again.path
        path.write_bytes(path.read_bytes()[:-4] + b"0000")
        assert find_detector(own, tmp_path / "out") is None
    with pytest.raises(InputError, match="missing"):
        detectors.read_detector(tmp_path / "nowhere.json")


def test_swapped_weights_are_noticed(folder, tmp_path):
    stored = obtain_detector(
        config(folder, steps=1),
        None,
        folder,
        tier_name="smoke",
        device="cpu",
        out=tmp_path,
        progress=False,
    )
    other = obtain_detector(
        config(folder, steps=1, seed=1),
        None,
        folder,
        tier_name="smoke",
        device="cpu",
        out=tmp_path,
        progress=False,
    )
    stored.path.write_bytes(other.path.read_bytes())
    with pytest.raises(DamagedFile, match="not those"):
        stored.load()


def test_what_coco_leaves_undefined_is_left_out(folder, monkeypatch):
    monkeypatch.setattr(
        detectors,
        "average_precision",
        lambda truth, found, indices: {"box/AP": 0.25, "box/APl": math.nan},
    )
    assert evaluate_detector(None, folder) == {
        "box/AP": Interval(
            0.25,
            pytest.approx(math.nan, nan_ok=True),
            pytest.approx(math.nan, nan_ok=True),
            len(folder),
        )
    }


def test_configs_are_named_hashed_and_read_back(folder, checkpoint):
    own = config(folder, checkpoint, seed=4)
    assert FinetuneConfig.from_dict(json.loads(json.dumps(own.to_dict()))) == own
    assert (
        replace(own, seed=5).name == "r50-u8-p8-s4-detector-s5"
        and config(folder, seed=2).name == "scratch-p8-s2-detector"
    )
    changed = {
        "seed": 1,
        "steps": 5,
        "batch": 2,
        "learning_rate": 1.0,
        "layer_decay": 1.0,
        "flip": False,
        "detector": replace(DETECTOR, width=4),
    }
    assert (
        len({own.hash, *(replace(own, **{name: value}).hash for name, value in changed.items())})
        == len(changed) + 1
    )
    assert replace(own, clip=1).hash == own.hash
    values = own.to_dict()
    del values["detector"]["window"]
    with pytest.raises(InputError, match="lacks window"):
        FinetuneConfig.from_dict(values)
    with pytest.raises(InputError, match="not a fine-tuning config"):
        FinetuneConfig.from_dict(own.to_dict() | {"colour": 1})


@pytest.mark.parametrize("name", TIERS)
def test_every_tier_has_its_detector(name, folder):
    for patch, run in ((None, "scratch"), (TIERS[name].small_patch, "scratch-small")):
        own = finetune_config(folder, tier_name=name, patch=patch)
        assert (
            own.layer_decay == 1.0
            and own.detector.image_size % TIERS[name].small_patch == 0
            and own.pretrained is None
        )
        assert run_of(own, None, name) == run
    doubled = finetune_config(
        folder,
        tier_name=name,
        image_size=2 * own.detector.image_size,
        learning_rate=0.5,
        steps=None,
    )
    assert (
        doubled.detector.anchors == tuple(2 * side for side in own.detector.anchors)
        and doubled.learning_rate == 0.5
    )


def test_the_ledgers_run_names(folder, checkpoint):
    assert (
        run_name(checkpoint.config, "smoke")
        == run_of(config(folder, checkpoint), checkpoint, "smoke")
        == "r50"
    )


# --------------------------------------------------------------------------------------------------
# Bad input and the command


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"learning_rate": 0}, "learning rate"),
        ({"layer_decay": 1.5}, "layer decay"),
        ({"jitter": (0, 1)}, "jitter"),
        ({"classes": ()}, "no class"),
        ({"precision": "half"}, "half"),
        ({"origin": "r50"}, "digest"),
    ],
)
def test_values_that_make_no_sense_are_named(folder, changes, named):
    with pytest.raises(InputError, match=named):
        config(folder, **changes)


def test_what_is_not_the_configs_is_refused(folder, checkpoint):
    with pytest.raises(InputError, match="no checkpoint"):
        finetune(config(folder, checkpoint), None, folder, device="cpu", progress=False)
    with pytest.raises(InputError, match="fresh weights"):
        finetune(config(folder), checkpoint, folder, device="cpu", progress=False)
    with pytest.raises(InputError, match="not the config's"):
        finetune(config(folder, data={"kind": "other"}), None, folder, device="cpu", progress=False)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["finetune", *arguments])
    return ended.value.code


def test_the_command_trains_scores_and_records_once(tmp_path, capsys, monkeypatch):
    arguments = (
        "--tier",
        "smoke",
        "--scratch",
        "8",
        "--steps",
        "2",
        "--batch",
        "2",
        "--images",
        "4",
        "--device",
        "cpu",
        "--results",
        str(tmp_path / "results"),
    )
    assert run(*arguments) == 0
    (path,) = (tmp_path / "results").glob("scratch-p8-s0-detector-*.json")
    record = json.loads(path.read_text())
    assert (
        record["kind"] == "detection"
        and record["run"] == "scratch"
        and record["settings"] == {"images": 4}
        and record["config"]["steps"] == 2
    )
    monkeypatch.setattr(detectors, "obtain_detector", None)
    monkeypatch.setattr(tuning, "finetune", None)
    assert run(*arguments) == 0
    assert capsys.readouterr().out.count("box/AP50") == 2


@pytest.mark.parametrize(
    "arguments, named",
    [
        ((), "nothing to fine-tune"),
        (("--scratch", "8", "--threads", "0"), "--threads 0"),
        (
            (
                "--scratch",
                "7",
            ),
            "7 px",
        ),
        (("--checkpoint", "nowhere.json"), "missing"),
    ],
)
def test_the_command_names_bad_input(arguments, named, capsys):
    assert run(*arguments, "--tier", "smoke") == 2
    assert named in capsys.readouterr().err


def coco(root: Path, val: list[dict]) -> Path:
    """A folder with a train split of the categories ant (id 2), bee (7) and cat (90), and a val
    split of the same pictures with others."""
    content = random_content(3, images=3)
    save_coco(root, content, "train")
    ids = {each["id"] for each in val}
    annotations = [each for each in content["annotations"] if each["category_id"] in ids]
    save_coco(root, content | {"categories": val, "annotations": annotations}, "val")
    return root


SAME = [{"id": 2, "name": "ant"}, {"id": 7, "name": "bee"}, {"id": 90, "name": "cat"}]
TINY = ("--tier", "smoke", "--steps", "1", "--batch", "1", "--device", "cpu")


@pytest.mark.parametrize(
    "val, damaged, words, named",
    [
        (SAME[:2], False, (), "lacks the category 'cat', which the training split has"),
        (
            [*SAME, {"id": 91, "name": "dog"}],
            False,
            (),
            "has the category 'dog', which the training split lacks",
        ),
        (SAME, True, (), "val/00010.png is not an image"),
        (SAME, False, ("--scratch", "8", "7"), "7 px"),
        (SAME, False, ("--scratch", "8", "32"), "1×1 grid"),
        (SAME, False, ("--batch", "0"), "batch"),
        (SAME, False, ("--results", "FILE"), "write"),
    ],
)
def test_what_can_be_known_is_said_before_the_first_step(
    val, damaged, words, named, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(FinetuneRun, "train_step", lambda *_: pytest.fail("it trained"))
    root = coco(tmp_path / "set", val)
    (tmp_path / "file").write_text("no folder")
    if damaged:
        (root / "val" / "00010.png").write_bytes(b"worn")
    spelt = [str(tmp_path / "file") if word == "FILE" else word for word in words]
    assert run("--scratch", "8", *TINY, "--data", str(root), *spelt) == 2
    error = capsys.readouterr().err.strip()
    assert named in error and error.startswith("mae: ") and "\n" not in error


def test_categories_are_matched_by_name_where_the_scored_split_swaps_them(
    tmp_path, capsys, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        detectors,
        "evaluate_detector",
        lambda model, folder, images: (
            seen.append(folder) or {"box/AP": Interval(0.0, math.nan, math.nan, 1)}
        ),
    )
    root = coco(
        tmp_path, [{"id": 2, "name": "cat"}, {"id": 7, "name": "ant"}, {"id": 90, "name": "bee"}]
    )
    assert run("--scratch", "8", *TINY, "--data", str(root)) == 0
    (val,) = seen
    assert val.classes == ("ant", "bee", "cat") and val.category_ids == (7, 90, 2)
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "1 to record, 0 already recorded",
        (
            "1 to have, 0 already stored: 1 to train, less than a minute here (an estimate from a"
            " few timed steps)"
        ),
    ]


def test_another_numbering_is_never_scored_in_silence(folder):
    other = SimpleNamespace(classes=folder.classes[::-1], annotations=Path("instances_val.json"))
    with pytest.raises(
        InputError, match="instances_val.json numbers its classes unlike the training images"
    ):
        identity(config(folder), "scratch", "smoke", other)
