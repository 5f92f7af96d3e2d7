"""The list of cells: what is recorded is what it names, and its commands are the ones that make
just that."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from image_folders import fill
from mae_book.sweep import cells
from mae_book.sweep.cells import real_cells, world_cells
from mae_book.sweep.experiments import EXPERIMENTS
from mae_book.verdicts.ladder import ARMS, DECIDING, KINDS, RUNGS
from mae_book.verdicts.results import results_directory
from mae_lib.base.errors import InputError
from mae_lib.commands.cli import main, parse
from mae_lib.commands.options import Evaluate, Finetune, Pretrain
from mae_lib.commands.pretrain import _configs
from mae_lib.training import store

LADDER = {rung.data for rung in RUNGS.values()}
WORLD = ("world", "designs", *(each.data for each in EXPERIMENTS.values()), *LADDER)
FOLDERS = {
    name: f"photographs/{name}" for name in ("in20", "tinyin32", "pacs", "stimuli", "dsb2018")
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world() -> dict:
    return world_cells()


@pytest.fixture
def photographs(monkeypatch) -> dict:
    """The list of the photographs whose folders are not here, by what the records say of them."""
    said = {
        name: json.loads(
            next((results_directory() / "pretraining" / name).glob("*.json")).read_text()
        )["config"]["data"]
        for name in ("in20", "tinyin32")
    }
    nuclei = json.loads(
        next((results_directory() / "detection" / "dsb2018").glob("*.json")).read_text()
    )["config"]
    monkeypatch.setattr(
        cells, "image_source", lambda folder, *_: SimpleNamespace(identity=said[Path(folder).name])
    )
    monkeypatch.setattr(
        cells,
        "open_coco",
        lambda *_: SimpleNamespace(classes=tuple(nuclei["classes"]), identity=nuclei["data"]),
    )
    return real_cells(**FOLDERS)


def recorded(of: tuple[str, ...]) -> list[Path]:
    return [
        path
        for kind in KINDS
        for data in of
        for path in sorted((results_directory() / kind / data).glob("*.json"))
    ]


def words(command: tuple[str, ...]):
    assert command[0] == "mae"
    return parse(list(command[1:]))


def test_every_recorded_file_is_the_path_of_exactly_one_cell(world, photographs):
    paths = Counter(
        cell.path(results_directory()) for cell in (*world.values(), *photographs.values())
    )
    assert set(paths.values()) == {1}
    here = recorded(WORLD) + recorded(("in20", "tinyin32", "pacs", "geirhos", "dsb2018"))
    here += [
        path
        for kind in ("tree_world", "theory", "identify")
        for path in sorted((results_directory() / kind).glob("*.json"))
    ]
    assert len(here) >= 333
    assert [path for path in here if path not in paths] == []


def test_the_paper_s_sweep_is_recorded_whole(world):
    """The cells of the world's own sweep are not more than what is recorded either: the list asks
    for nothing that no page shows."""
    own = [
        cell
        for cell in world.values()
        if cell.data in ("world", "designs", "") and cell.kind not in ("theory", "identify")
    ]
    assert [cell.id for cell in own if not cell.path(results_directory()).is_file()] == []


def test_ids_name_places_and_what_is_needed_comes_first(world, photographs):
    for known in (world, photographs):
        seen = set()
        for identity, cell in known.items():
            assert identity == cell.id
            assert cell.path(Path("R")).parent == Path(
                "R", *identity.split("/")[:-1]
            ) and cell.path(Path("R")).name.startswith(f"{cell.name}-")
            assert set(cell.needs) <= seen, f"{identity} comes before what it needs"
            seen.add(identity)
    assert world["probe/world/r75-u8-p8-s0"].needs == ("pretraining/world/r75-u8-p8-s0",)
    assert world["latents/world/r75-u8-p8-parts-s1"].needs == (
        "pretraining/designs/r75-u8-p8-parts-s1",
    )
    assert world["tree_world/random-r50-s0"].needs == ()


def test_every_evaluation_makes_sure_of_its_weights_by_the_command_of_the_cell_that_it_needs(
    world, photographs
):
    known = world | photographs
    for cell in known.values():
        if not cell.needs:
            assert len(cell.commands()) == 1
            continue
        (needed,) = (known[name] for name in cell.needs)
        before, last = cell.commands(Path("R"))
        assert needed.commands(Path("R"))[-1] == (
            *before,
            "--results",
            str(Path("R") / "pretraining" / needed.data),
        )
        assert last[last.index("--checkpoint") + 1] == f"{needed.name}-{needed.hash}"


def test_pretraining_commands_train_the_config_that_the_file_is_named_by(world):
    chosen = [
        cell
        for cell in world.values()
        if cell.kind == "pretraining" and cell.name.endswith(("-s0", "r75-u4-p4-s2", "-s7"))
    ]
    assert len(chosen) >= 8 + 7 + 2 * 3 + 3
    for cell in chosen:
        command = words(cell.commands(Path("R"))[-1])
        assert (
            isinstance(command, Pretrain)
            and command.out is None
            and command.results == Path("R/pretraining") / cell.data
        )
        (config,) = _configs(command)
        assert (config.name, config.hash) == (cell.name, cell.hash)


def test_pretraining_commands_on_folders_train_the_config_that_the_file_is_named_by(tmp_path):
    in20, tiny = fill(tmp_path / "twenty images"), fill(tmp_path / "tiny", classes=("cat", "dog"))
    trained = [
        cell for cell in real_cells(in20, tiny, seeds=(1,)).values() if cell.kind == "pretraining"
    ]
    assert Counter(cell.data for cell in trained) == {"in20": 8, "tinyin32": 5}
    for cell in trained:
        (config,) = _configs(words(cell.commands()[-1]))
        assert (config.name, config.hash) == (cell.name, cell.hash)
        assert config.steps == {"in20": 500, "tinyin32": 1000}[cell.data]


def test_evaluation_commands_ask_for_the_settings_that_are_recorded(world, photographs):
    seen = Counter()
    for cell in (*world.values(), *photographs.values()):
        path = cell.path(results_directory())
        if (
            cell.kind in ("pretraining", "tree_world", "detection")
            or not path.is_file()
            or cell.name not in ("r75-u8-p8-s0", "r10-u4-p4-s0")
        ):
            continue
        command, record = words(cell.commands(Path("R"))[-1]), json.loads(path.read_text())
        assert (
            isinstance(command, Evaluate)
            and command.what == cell.kind
            and command.results == Path("R") / cell.kind / cell.data
        )
        assert record["settings"] == {name: getattr(command, name) for name in record["settings"]}
        assert [pair.partition("=")[0] for pair in command.shifted] == list(
            record["data"].get("shifted", {})
        )
        assert (command.stimuli is not None) == ("stimuli" in record["data"])
        seen[cell.data] += 1
    assert set(seen) >= {"world", "in20", "pacs", "tinyin32", "geirhos"}


def test_detection_commands_ask_for_what_is_recorded(world, photographs):
    chosen = (
        "r75-u8-p8-s0-detector",
        "r75-u8-p8-s0-detector-s2",
        "scratch-p8-s1-detector",
        "scratch-p4-s0-detector",
    )
    found = [
        cell
        for cell in (*world.values(), *photographs.values())
        if cell.kind == "detection" and cell.name in chosen
    ]
    assert len(found) == 6
    for cell in found:
        command, record = (
            words(cell.commands(Path("R"))[-1]),
            json.loads(cell.path(results_directory()).read_text()),
        )
        assert isinstance(command, Finetune) and command.results == Path("R/detection") / cell.data
        assert command.scratch == (() if cell.needs else (record["config"]["model"]["patch"],))
        assert command.seed in (None, record["seed"]) and (
            command.seed is not None or cell.name.endswith("-s0-detector")
        )
        assert command.steps in (None, record["config"]["steps"]) and command.anchors in (
            (),
            tuple(record["config"]["detector"]["anchors"]),
        )


def test_the_theory_s_cells_are_made_a_seed_at_once(world):
    cells = [cell for cell in world.values() if cell.kind in ("theory", "identify")]
    made = {cell.commands(Path("R")) for cell in cells}
    assert len(made) == len({(cell.kind, cell.name.rpartition("-s")[2]) for cell in cells}) == 10
    for ((*_, kind, _, seed, out, folder),) in made:
        assert kind in ("theory", "identify") and seed.isdigit() and (out, folder) == ("--out", "R")


def test_experiments_are_what_their_entries_say(world):
    for data in {each.data for each in EXPERIMENTS.values()}:  # two experiments may share a folder
        own = [each for each in EXPERIMENTS.values() if each.data == data]
        ids = {
            f"{kind}/{data}/{run}-u8-p8-s{seed}"
            for each in own
            for kind in each.kinds
            for run in each.runs
            for seed in each.seeds
        }
        assert ids == {
            name for name, cell in world.items() if cell.data == data and cell.kind != "pretraining"
        }
    probe = world["probe/world-probe1024/r90-u8-p8-s2"]
    assert words(probe.commands()[-1]).train_images == 1024 and probe.needs == (
        "pretraining/world/r90-u8-p8-s2",
    )
    long, usual = (
        world[f"pretraining/{data}/r90-u8-p8-s2"] for data in ("world-steps3600", "world")
    )
    assert long.hash != usual.hash and words(long.commands()[-1]).steps == 3600


@pytest.mark.parametrize("rung", RUNGS.values(), ids=str)
def test_a_rung_of_the_second_sweep_is_its_runs_and_seeds_in_every_kind(world, rung):
    own = Counter(cell.kind for cell in world.values() if cell.data == rung.data)
    arms, scratch = len(ARMS) * len(rung.arms), 2 * len(rung.arms)
    more = {"pretraining": arms, "latents": arms, "detection": scratch}
    assert own == {kind: rung.planned + more.get(kind, 0) for kind in KINDS}
    trained = [
        cell for cell in world.values() if (cell.kind, cell.data) == ("pretraining", rung.data)
    ]
    for cell in trained[:2] + trained[-1:]:
        (config,) = _configs(words(cell.commands()[-1]))
        assert (config.steps, config.batch) == (
            rung.steps,
            16,
        ) and config.learning_rate == pytest.approx(1.25e-3)


def test_the_second_sweep_s_arms_are_those_that_its_cells_train(world):
    names = {
        cell.name.rpartition("-s")[0]
        for cell in world.values()
        if (cell.kind, cell.data) == ("pretraining", DECIDING.data)
    }
    assert set(ARMS) < names and len(names - set(ARMS)) == 8


def test_fewer_seeds_are_part_of_the_list_and_other_tiers_have_other_files(world):
    one = world_cells(seeds=(1,))
    assert one.items() <= world.items()
    assert {
        cell.data for cell in one.values() if cell.data and cell.name.endswith(("-s3", "-s7"))
    } == {"world-fresh", *LADDER}
    smoke = world_cells("smoke", (0,))
    assert {cell.kind for cell in smoke.values()} == {
        cell.kind for cell in world.values() if cell.data in ("world", "designs")
    } - {"moments"}, "these are of no tier"
    assert not {cell.path(Path()) for cell in smoke.values()} & {
        cell.path(Path()) for cell in world.values()
    }


def test_a_detector_whose_weights_are_not_trained_yet_has_no_hash(monkeypatch, tmp_path, world):
    monkeypatch.setattr(store, "search_path", lambda: [tmp_path])
    later = world_cells(seeds=(0,))
    pending = {name for name, cell in later.items() if not cell.hash and cell.data not in LADDER}
    assert (
        pending == {name for name in later if name.startswith("detection/world/r")}
        and len(pending) == 8
    )
    assert all(
        later[name].name == world[name].name and later[name].commands() == world[name].commands()
        for name in pending
    )
    assert (
        later["detection/world/scratch-p8-s0-detector"]
        == world["detection/world/scratch-p8-s0-detector"]
    )


def test_bad_input_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="unknown tier 'desk'"):
        world_cells("desk")
    with pytest.raises(InputError, match="pacs is evaluated on models of in20"):
        real_cells(pacs=tmp_path)
    with pytest.raises(InputError, match="nowhere"):
        real_cells(in20=tmp_path / "nowhere")


def test_a_cell_s_commands_make_its_file_from_an_empty_cache(monkeypatch, tmp_path):
    """For real, at the smallest tier; a second time nothing is trained."""
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    cell = world_cells("smoke", (0,))["separability/world/r50-u8-p8-s0"]
    for command in cell.commands(tmp_path / "results"):
        with pytest.raises(SystemExit) as ended:
            main(list(command[1:]))
        assert ended.value.code == 0
    made = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert made == [cell.path(tmp_path / "results")]
    assert json.loads(made[0].read_text())["kind"] == "separability"
