"""Nothing is overwritten: every command after every other one into the same folder, and disks and
processes that fail between two files.

What takes time is stood in for: trainings give their first weights, evaluations one number. What is
looked up, refused and written is the commands' own.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch

import tiny
from coco_folders import random_content, save_coco
from image_folders import fill, picture, save
from mae_book.sweep import theorems as theory
from mae_book.sweep import tree_world
from mae_lib.base import files
from mae_lib.base.errors import InputError
from mae_lib.base.files import write_json
from mae_lib.base.intervals import Interval
from mae_lib.base.records import own_record, write_result
from mae_lib.commands import cli
from mae_lib.commands import pretrain as pretrain_command
from mae_lib.commands.batch import sweep
from mae_lib.detection import detectors
from mae_lib.detection.finetune import Finetuned
from mae_lib.evaluation import evaluate
from mae_lib.evaluation.shape_bias import category_groups
from mae_lib.model.autoencoder import MaskedAutoencoder
from mae_lib.training import store
from mae_lib.training import stored as stored_files
from mae_lib.training.loop import Trained
from mae_lib.training.store import Checkpoint, checkpoints, find
from mae_lib.training.stored import require_free, stored_in

NUMBER = {"number": Interval(0.5, 0.25, 0.75, 4)}
EVALUATIONS = ("reconstruction", "probe", "shape_bias")


def _fast(patch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for kind in evaluate.EVALUATIONS:
        patch.setitem(evaluate.EVALUATIONS, kind, lambda *_: NUMBER)
    losses = torch.linspace(1, 0.5, 5)
    patch.setattr(
        store,
        "_train",
        lambda config, *_, **__: Trained(tiny.model(config.model, config.seed), losses, 1.0),
    )
    patch.setattr(pretrain_command, "held_out_error", lambda *_: {"loss": 0.5})

    def detector(config, *_, **__) -> Finetuned:
        torch.manual_seed(config.seed)
        return Finetuned(
            detectors.detector(
                config.detector, MaskedAutoencoder(config.model), len(config.classes)
            ),
            losses,
            1.0,
        )

    patch.setattr(detectors, "finetune", detector)
    patch.setattr(detectors, "evaluate_detector", lambda *_: NUMBER)

    def notebook(path, parameters, target) -> sweep.RunReport:
        target.write_text(json.dumps(parameters))
        return sweep.RunReport(parameters, target.name, 0, 0.0, "")

    patch.setattr(sweep, "_run", notebook)

    def trees(designs, seeds, settings, report) -> None:
        for name, seed in itertools.product(designs, seeds):
            report(
                tree_world.identity(name, seed, None)
                | {
                    "measures": {f"mean/level{k}": {"value": 0.5} for k in range(4)},
                    "loss": 0.5,
                    "seconds": 1.0,
                }
            )

    patch.setattr(tree_world, "evaluate_tree_world", trees)
    figures = dict.fromkeys((*theory.FIGURES, "untrained_to_c", "seconds"), 0.5)
    patch.setattr(
        theory,
        "run_case",
        lambda case, seed, *_: [
            SimpleNamespace(case=case, mask=mask, seed=seed, **figures)
            for mask in case.measured or case.masks
        ],
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two folders of images, one in COCO's layout, a checkpoint and a notebook to begin with; a
    cache; what takes time stood in for."""
    root = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAE_CACHE", str(root / "cache"))
        threads = torch.get_num_threads()
        _fast(patch)
        groups = category_groups()
        for name, suffix in (("images", 0), ("others", 5)):
            classes = (groups["dog"][0], groups["cat"][0])
            fill(root / name, classes=classes, images=2 + suffix)
        for k, (shape, texture) in enumerate((("cat", "dog"), ("dog", "cat"))):
            save(picture(k), root / "stimuli" / shape / f"{shape}1-{texture}1.png")
        for split in ("train", "val"):
            save_coco(root / "coco", random_content(3, images=3), split)
        cells = [nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]})]
        cells.append(
            nbformat.v4.new_code_cell(
                "from mae_lib.base.parameters import check_parameters\ncheck_parameters(globals(),"
                " seed=int)"
            )
        )
        book = nbformat.v4.new_notebook(cells=cells)
        nbformat.write(book, root / "chapter.ipynb")
        assert _run(COMMANDS["pretrain --out"], root, root / "begin") == 0
        yield root
        torch.set_num_threads(threads)


def _mae(*words: object) -> Callable[[Path, Path], None]:
    return lambda root, folder: cli.main([str(word).format(root=root, R=folder) for word in words])


def _evaluate(kind: str, *words: str, data: str = "images") -> Callable[[Path, Path], None]:
    stimuli = ("--stimuli", "{root}/stimuli") if kind == "shape_bias" else ()
    return _mae(
        "evaluate",
        kind,
        "--checkpoint",
        "{root}/begin",
        "--data",
        f"{{root}}/{data}",
        "--results",
        "{R}",
        *stimuli,
        *words,
    )


_PRETRAIN = ("pretrain", "--tier", "smoke", "--data", "{root}/images")
_FINETUNE = ("finetune", "--tier", "smoke", "--data", "{root}/coco", "--scratch", "8")
COMMANDS: dict[str, Callable[[Path, Path], None]] = {
    "pretrain --out": _mae(*_PRETRAIN, "--out", "{R}"),
    "pretrain --out, another seed": _mae(*_PRETRAIN, "--out", "{R}", "--seed", "1"),
    "pretrain --results": _mae(*_PRETRAIN, "--results", "{R}"),
    "pretrain --out --results": _mae(*_PRETRAIN, "--out", "{R}", "--results", "{R}"),
    **{f"evaluate {kind}": _evaluate(kind) for kind in EVALUATIONS},
    "evaluate probe of others": _evaluate("probe", data="others"),
    "evaluate probe, another seed": _evaluate("probe", "--seed", "1"),
    "evaluate what lies there": _mae(
        "evaluate", "probe", "--checkpoint", "{R}", "--data", "{root}/images", "--results", "{R}"
    ),
    "finetune --out": _mae(*_FINETUNE, "--out", "{R}"),
    "finetune --results": _mae(*_FINETUNE, "--results", "{R}"),
    "finetune --out --results": _mae(*_FINETUNE, "--out", "{R}", "--results", "{R}"),
    "finetune --results, fewer images": _mae(*_FINETUNE, "--results", "{R}", "--images", "1"),
    "sweep": _mae("sweep", "{root}/chapter.ipynb", "--over", "seed=[0, 1]", "--out", "{R}"),
    "shard": _mae("data", "shard", "{root}/images", "{R}"),
    "tree world": lambda root, folder: tree_world.main(
        ["--designs", "random", "--seeds", "0", "--out", str(folder)]
    ),
    "theory": lambda root, folder: theory.main(
        ["--kind", "identify", "--seeds", "3", "--out", str(folder)]
    ),
}
ONCE = ("shard",)
"""What wants a folder of its own each time."""
APART = ("pretrain --out --results", "finetune --out --results")
"""What is refused in any folder."""


def _run(command: Callable[[Path, Path], None], root: Path, folder: Path) -> int:
    try:
        command(root, folder)
    except SystemExit as ended:
        return ended.code or 0
    return 0


def _held(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def _checked(name: str, root: Path, folder: Path, capsys) -> bool:
    """Runs a command that must leave all that is in the folder, and either work or refuse in one
    line and write nothing; whether it worked."""
    before = _held(folder)
    capsys.readouterr()
    code = _run(COMMANDS[name], root, folder)
    after, said = (
        _held(folder),
        [
            line
            for line in capsys.readouterr().err.split("\n")
            if line and "run/s" not in line and "B/s" not in line
        ],
    )
    assert {path: after.get(path) for path in before} == before, f"{name} changed what was there"
    if code:
        assert code == 2 and len(said) == 1 and after == before, (
            name,
            code,
            said,
            set(after) ^ set(before),
        )
    return code == 0


@pytest.mark.parametrize("first", COMMANDS)
def test_every_command_after_every_other_leaves_what_is_there(first, place, tmp_path, capsys):
    assert _checked(first, place, tmp_path / "first", capsys) == (
        first not in (*APART, "evaluate what lies there")
    )
    made = len(checkpoints(tmp_path / "first"))
    for second in COMMANDS:
        folder = tmp_path / "second"
        shutil.copytree(tmp_path / "first", folder) if (tmp_path / "first").exists() else None
        worked = _checked(second, place, folder, capsys)
        if second == first and first not in (*APART, "evaluate what lies there"):
            assert worked == (first not in ONCE) and _held(folder) == _held(tmp_path / "first"), (
                "the same again finds what it made"
            )
        if made:  # the folder is still one of checkpoints
            assert [found.load() for found in checkpoints(folder)] and len(
                checkpoints(folder)
            ) >= made
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("seed", range(4))
def test_long_sequences_leave_what_is_there(seed, place, tmp_path, capsys):
    draw, worked = random.Random(seed), 0
    for _ in range(12):
        worked += _checked(
            draw.choice([name for name in COMMANDS if name not in APART]),
            place,
            tmp_path / "R",
            capsys,
        )
    assert worked >= 2


@pytest.mark.parametrize("content", ['{"mine": 1}', "[1]", "no JSON", ""])
def test_a_strangers_file_under_a_records_own_name_stays(content, place, tmp_path, capsys):
    """Whatever it holds: the command that would have written there refuses before it works, and
    says which file."""
    for name in COMMANDS:
        if name in (*APART, *ONCE, "evaluate what lies there"):
            continue
        folder = tmp_path / name.replace(" ", "-")
        assert _checked(name, place, folder, capsys)
        record, *_ = sorted(folder.rglob("*.json"))
        for path in folder.rglob("*"):
            path.unlink() if path.is_file() else None
        record.write_text(content)
        with pytest.MonkeyPatch.context() as patch:
            for module, work in (
                (store, "_train"),
                (detectors, "finetune"),
                (pretrain_command, "held_out_error"),
                (tree_world, "evaluate_tree_world"),
                (theory, "run_case"),
            ):
                patch.setattr(
                    module, work, lambda *_, **__: pytest.fail("it worked before it looked")
                )
            for kind in EVALUATIONS:
                patch.setitem(
                    evaluate.EVALUATIONS, kind, lambda *_: pytest.fail("it worked before it looked")
                )
            code = _run(COMMANDS[name], place, folder)
        said = capsys.readouterr().err.strip()
        assert (
            code == 2
            and "\n" not in said
            and record.name in said
            and _held(folder) == {str(record.relative_to(folder)): content.encode()}
        )


def test_a_folder_of_everything_is_a_folder_of_checkpoints(place, tmp_path, capsys):
    for name in (
        "pretrain --out",
        "pretrain --out, another seed",
        "finetune --out",
        "finetune --results, fewer images",
        "evaluate probe of others",
    ):
        _checked(name, place, tmp_path, capsys)
    (tmp_path / "mine.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    found = checkpoints(tmp_path)
    assert [one.config.seed for one in found] == [0, 1] and len(
        stored_in(detectors.StoredDetector, tmp_path)
    ) == 1
    found[0].path.with_suffix(".json").write_text("{")
    # a pair that is damaged is not passed over
    with pytest.raises(InputError, match=f"{found[0].path.stem}.json is damaged"):
        checkpoints(tmp_path)


def test_two_checkpoints_of_one_name_are_not_recorded_as_one(place, tmp_path, capsys):
    other = checkpoints(place / "begin")[0]
    store.save(
        Trained(tiny.model(other.config.model, 7), torch.ones(3), 1.0),
        other.config,
        tmp_path / "other",
        "smoke",
    )
    words = [
        "evaluate",
        "attention",
        "--checkpoint",
        str(place / "begin"),
        str(tmp_path / "other"),
        "--data",
        str(place / "images"),
    ]
    assert _run(_mae(*words, "--results", "{R}"), place, tmp_path / "R") == 2
    assert (
        f"both called {other.path.stem}" in capsys.readouterr().err
        and not (tmp_path / "R").exists()
    )
    assert _run(_mae(*words), place, tmp_path) == 0


def test_what_comes_in_between_is_not_replaced(tmp_path):
    """Another process writes the same record, or another one of its name, while this one
    measures."""
    record = {"kind": "probe", "name": "a", "hash": "1", "key": "k", "seconds": 1}
    assert own_record(tmp_path, record) is None
    path = write_result(tmp_path, record)
    first = path.read_bytes()
    assert write_result(tmp_path, record | {"seconds": 2}) == path and path.read_bytes() == first
    with pytest.raises(InputError, match="a-1.json holds something else"):
        write_result(tmp_path, record | {"key": "l"})
    assert path.read_bytes() == first and [each.name for each in tmp_path.iterdir()] == ["a-1.json"]


def test_states_of_unfinished_trainings_are_no_place_for_models(place, capsys):
    assert _run(COMMANDS["pretrain --out"], place, place / "cache" / "states") == 2
    assert "unfinished trainings are kept" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------
# Disks and processes that fail


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    return tiny.config(steps=2)


@pytest.mark.parametrize("links", [True, False])
def test_a_move_replaces_nothing_with_and_without_hard_links(links, tmp_path, monkeypatch):
    if not links:
        monkeypatch.setattr(
            os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here"))
        )
    path = tmp_path / "a.json"
    write_json(path, 1, replace=False)
    with pytest.raises(files.TakenName, match="a.json is there already"):
        write_json(path, 2, replace=False)
    assert json.loads(path.read_text()) == 1 and [each.name for each in tmp_path.iterdir()] == [
        "a.json"
    ]
    for k in ("", "-2", "-3"):
        if not path.exists():
            write_json(path, k, replace=False)
        assert files.set_aside(path).name == f"a.json.damaged{k}"
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        f"a.json.damaged{k}" for k in ("", "-2", "-3")
    ]


@pytest.mark.parametrize("write", range(2))
def test_a_full_disk_at_either_file_loses_nothing(write, tmp_path, config, monkeypatch):
    trained, calls, link = Trained(tiny.model(config.model), torch.ones(3), 1.0), [], os.link
    (tmp_path / "R").mkdir()
    (tmp_path / "R" / "other.json").write_text("other")

    def full(source, target) -> None:
        calls.append(target)
        if len(calls) == write + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        link(source, target)

    def replace(source, target) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        patch.setattr(os, "replace", replace)
        with pytest.raises(InputError, match="the disk is full"):
            store.save(trained, config, tmp_path / "R")
    names = [path.name for path in (tmp_path / "R").iterdir()]
    assert (
        len(names) == 1 + write
        and (tmp_path / "R" / "other.json").read_text() == "other"
        and checkpoints(tmp_path / "R") == []
    )
    # with space again: the weights that were written are kept
    stored = store.save(trained, config, tmp_path / "R")
    assert (
        find(config, [tmp_path / "R"]).record == stored.record
        and len(list((tmp_path / "R").iterdir())) == 3
    )


def test_weights_without_their_record_are_set_aside_if_they_are_others(tmp_path, config):
    first = store.save(Trained(tiny.model(config.model, 1), torch.ones(3), 1.0), config, tmp_path)
    before = first.path.read_bytes()
    first.path.with_suffix(".json").unlink()
    with pytest.warns(UserWarning, match="was half of a checkpoint. Set aside"):
        store.save(Trained(tiny.model(config.model, 2), torch.ones(3), 1.0), config, tmp_path)
    assert (
        Path(f"{first.path}.damaged").read_bytes() == before
        and find(config, [tmp_path]) is not None
    )


def test_a_kill_while_a_damaged_pair_is_set_aside_loses_neither_file(tmp_path, config, monkeypatch):
    stored = store.save(Trained(tiny.model(config.model, 1), torch.ones(3), 1.0), config, tmp_path)
    stored.path.write_bytes(stored.path.read_bytes()[:-1])
    before, aside = {path.read_bytes() for path in tmp_path.iterdir()}, stored_files.set_aside

    def once(path: Path) -> Path:
        aside(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stored_files, "set_aside", once)
        with pytest.raises(KeyboardInterrupt):
            find(config, [tmp_path])
    with pytest.warns(UserWarning, match="half of a checkpoint"):
        store.save(Trained(tiny.model(config.model, 2), torch.ones(3), 1.0), config, tmp_path)
    assert (
        before <= {path.read_bytes() for path in tmp_path.iterdir()}
        and find(config, [tmp_path]) is not None
    )


def test_a_record_of_another_kind_keeps_a_checkpoint_from_being_stored_and_is_not_set_aside(
    tmp_path, config
):
    for record in (
        {"kind": "probe", "measures": {}, "config": config.to_dict()},
        {"digest": "0", "curve": {}, "held_out": {}, "config": config.to_dict()},
    ):
        path = tmp_path / record.get("kind", "pretraining") / f"{config.name}-{config.hash}.json"
        write_json(path, record)
        if "kind" in record:
            path.with_suffix(".safetensors").write_bytes(b"weights")
        before = _held(path.parent)
        assert find(config, [path.parent]) is None and _held(path.parent) == before
        for refused in (
            lambda: require_free(Checkpoint, config, path.parent),
            lambda: store.obtain(config, tiny.Ramps(), folder=path.parent, device="cpu"),
        ):
            with pytest.raises(
                InputError, match=rf"{path.name} holds a record of {path.parent.name}"
            ):
                refused()
        assert _held(path.parent) == before
