"""The benchmarks: that each script runs to its end with the rows it promises, that what is compared
is the same model, and that what is said in words follows from the times. No test looks at a
measured time."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_book import Book
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mae_book.verdicts.results import results_directory
from mae_lib.masks.masking import MaskSpec
from mae_lib.model.autoencoder import MaskedAutoencoder, ModelConfig, training_flops
from mae_lib.training.config import PretrainConfig
from mae_lib.training.tiers import RATIOS, tier
from tiny import one_thread  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import common  # noqa: E402
import run  # noqa: E402
import scaling  # noqa: E402
import training_step  # noqa: E402

CPU = torch.device("cpu")
ROUNDS = 12


def rows(printed: str) -> list[list[str]]:
    """The cells of every row of the Markdown tables in an output, heads and rules left out."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in printed.splitlines()
        if line.startswith("|")
    ]
    rules = [k for k, cells in enumerate(lines) if set(cells[0]) == {"-"}]
    return [cells for k, cells in enumerate(lines) if k not in rules and k + 1 not in rules]


@pytest.fixture
def script(monkeypatch, capsys, tmp_path):
    """Runs a benchmark in this process: what it printed, and the record that it wrote."""

    def call(name: str, *options: str) -> tuple[str, dict]:
        file = tmp_path / f"{name}.json"
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *options, "--json", str(file)])
        importlib.import_module(name).main()
        return capsys.readouterr().out, json.loads(file.read_text())

    return call


# -- the scripts -----------------------------------------------------------------------------------


@pytest.fixture
def traced(monkeypatch):
    """Compiling without making kernels, which takes a minute: the model is traced as for them. The
    graphs made so far in the test."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    return lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_training_step_has_a_row_for_ours_twice_compiled_and_for_every_peer(script, traced):
    printed, record = script(
        "training_step", "--rounds", "1", "--compile", *run.QUICK["training_step"]
    )
    found = {cells[1]: cells for cells in rows(printed)}
    assert set(found) == {
        "mae_lib",
        training_step.CONTROL,
        training_step.COMPILED,
        *training_step.PEERS,
    }
    assert (
        found[training_step.COMPILED][6] == "not counted"
        and "cannot tell whether compiling helps" in printed
    )
    case = record["cases"]["laptop-p8-r75"]
    for name, cells in found.items():
        if cells[3] == "not installed":
            assert name not in record["peers"] and f"{name} is not installed" in printed
            continue
        assert float(cells[4].replace(",", "")) == pytest.approx(
            case["images_a_second"][name], rel=0.01
        )
        assert (
            cells[5]
            == f"{case['images_a_second'][name] * case['flops'] / record['ceiling_flops']:.0%}"
        )
        assert (
            cells[7] == "not measured"
            and case["peak_bytes"][name] is None
            and case["kept_bytes_an_image"].get(name, 1) > 0
        )
    assert found["mae_lib"][8] == "1" and "timm" in record["peers"]
    assert "not measured in this run; --device cuda" in printed and "fewer than 6 rounds" in printed


def test_masking_cost_has_a_row_for_every_ratio_and_design(script):
    printed, record = script("masking_cost", "--rounds", "1", *run.QUICK["masking_cost"])
    cases = [cells[0] for cells in rows(printed)]
    assert cases == list(record["tiers"]["smoke"]["cases"]) and {
        f"r{round(100 * ratio)}" for ratio in RATIOS
    } | {"r75-parts", "r75-object"} <= set(cases)


def test_data_has_a_row_for_each_of_the_eight_pretrainings(script):
    printed, record = script("data", "--rounds", "1", *run.QUICK["data"])
    names = {
        config.name for half in tier("smoke").sweep({"kind": "world"}).values() for config in half
    }
    assert (
        len(names) == 8
        and names <= {cells[0] for cells in rows(printed)}
        and set(record["pretrainings"]) == names
    )


def test_data_has_a_row_for_each_way_to_a_crop_and_says_which_holds_up_training(script):
    printed, record = script(
        "data", "--rounds", "1", "--tier", "smoke", "--batch", "4", "--synthetic", "24"
    )
    ways = {
        f"{way}, {place}{threads}"
        for way in ("decoding", "cropping")
        for place in ("", "shards, ")
        for threads in ("1 thread", "its pool")
    }
    assert ways < {cells[0] for cells in rows(printed)} and ways < set(record["seconds"])
    assert (
        record["images"] == record["synthetic"] == 24
        and not record["drawn"]
        and record["image_size"] == 32
    )
    for name in ("1 thread", "its pool", "shards, 1 thread", "shards, its pool"):
        least = min(
            (one["ratios"][f"cropping, {name}"]["median"], config)
            for config, one in record["pretrainings"].items()
        )
        held = "the training step" if least[0] > 1 else "the data path"
        assert (
            f"{name}: with nothing in memory the bottleneck would be {held}: crops come at"
            f" {least[0]:.2f}×" in printed
        )


def test_shared_has_a_row_for_every_way_and_size(script):
    printed, record = script("shared", "--rounds", "1", *run.QUICK["shared"])
    assert [cells[0] for cells in rows(printed)] == [
        *record["bound"],
        *record["quad_tree"],
        "100",
        "1,000",
        "10,000",
    ]
    assert len(record["bound"]) == 5 and len(record["quad_tree"]) == 4
    for bound in ("copy of the masks", "numpy.packbits"):
        assert record["bound"][bound]["share"][bound]["median"] == 1
        for one in record["bound"].values():
            (above,), (below,) = record["bound"][bound]["seconds_per_mask"], one["seconds_per_mask"]
            assert one["share"][bound]["median"] == pytest.approx(above / below), (
                "a rate over the bound's, in the same round"
            )


def test_scaling_has_a_row_for_every_size_of_every_factor(script, monkeypatch):
    monkeypatch.setattr(scaling.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(scaling, "MASKS", (64, 256))
    monkeypatch.setattr(scaling, "PATCHES", (16, 8))
    printed, record = script("scaling", "--rounds", "1", "--batch", "2")
    found = {}
    for cells in rows(printed):
        found.setdefault(cells[0], []).append(int(cells[1].replace(",", "")))
    laws = {f"masks, {law}": [64, 256] for law in ("random", "independent", "block")}
    assert found == {
        "image size": [32, 48, 64, 96, 128],
        "tokens": [16, 64],
        "visible patches": [6, 16, 32, 48, 58],
        **laws,
        "runs": [1, 2],
    }
    assert set(record["factors"]) == set(found) and all(
        f"{factor}: {each['words']}." in printed for factor, each in record["factors"].items()
    )


def test_book_time_has_a_row_a_chapter_and_leaves_the_notebook(script, tmp_path):
    (tmp_path / "book").mkdir()
    book = Book(tmp_path / "book")
    book.write_chapter(
        "import time; time.sleep(1.2)",
        "from mae_lib.number import NUMBER; print('the number is', NUMBER)",
    )
    notebook = tmp_path / "book" / "notebooks" / "chapter.ipynb"
    before = notebook.read_bytes()
    printed, record = script("book_time", "--book", str(book.root))
    assert [cells[0] for cells in rows(printed)] == [
        "chapter",
        "all chapters",
        "the pages, by Sphinx",
        "the whole build",
    ]
    [executed], [pages], [whole] = record["chapters"]["chapter"], record["pages"], record["build"]
    assert 1.2 < executed < whole and pages > 0 and executed + pages == pytest.approx(whole)
    assert notebook.read_bytes() == before and not (book.root / "_build").exists()
    book.write_chapter("raise ValueError('this chapter fails')")
    with pytest.raises(SystemExit, match="this chapter fails[^$]*not built"):
        script("book_time", "--book", str(book.root))


def test_book_time_lists_the_chapters_of_this_book():
    book_time = importlib.import_module("book_time")
    chapters = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert book_time.chapters(ROOT) == ["explorer", *chapters]


# -- all of them by one command --------------------------------------------------------------------


@pytest.fixture
def fakes(monkeypatch, tmp_path) -> Path:
    """Scripts in the place of the benchmarks, which write what they were called with; the second
    one fails."""
    for name in run.BENCHMARKS:
        end = "sys.exit(3)" if name == run.BENCHMARKS[1] else ""
        (tmp_path / f"{name}.py").write_text(
            "import sys\nfrom pathlib import"
            f" Path\nPath(__file__).with_suffix('.args').write_text(repr(sys.argv[1:]))\n{end}\n"
        )
    monkeypatch.setattr(run, "HERE", tmp_path)
    return tmp_path


def test_one_command_runs_all_to_the_end_and_says_which_failed(fakes, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "--results", str(fakes / "results")])
    assert run.main() == 1
    ended = {cells[0]: cells[2] for cells in rows(capsys.readouterr().out) if len(cells) == 3}
    assert ended == {
        name: "FAILED with status 3" if name == run.BENCHMARKS[1] else "done"
        for name in run.BENCHMARKS
    }
    called = {name: eval((fakes / f"{name}.args").read_text()) for name in run.BENCHMARKS}
    assert called["training_step"] == [
        "--device",
        "cpu",
        "--json",
        str(fakes / "results" / "training_step" / "cpu.json"),
    ]
    assert called["data"][-1].endswith("data/world.json") and "--device" not in called["book_time"]


def test_a_trial_writes_no_results_and_builds_no_book(fakes, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick"])
    run.main()
    assert (
        {path.stem for path in fakes.glob("*.args")}
        == set(run.QUICK)
        == set(run.BENCHMARKS) - {"book_time"}
    )
    assert all(
        "--json" not in path.read_text() and "'--rounds', '1'" in path.read_text()
        for path in fakes.glob("*.args")
    )
    assert not list(fakes.rglob("*.json"))


def record_of(device: str, gpu: str | None) -> str:
    hardware = {"device": device, "gpu": gpu, "cpu": "a CPU", "cores": 2, "threads": 1}
    return json.dumps(
        {
            "provenance": {
                "hardware": hardware,
                "commit": "abc",
                "finished": "2026-01-02T03:04:05+00:00",
            }
        }
    )


def test_what_no_gpu_has_measured_is_said_to_be_so(tmp_path):
    (tmp_path / "scaling").mkdir()
    (tmp_path / "scaling" / "cpu.json").write_text(record_of("cpu", None))
    found = run.measured(tmp_path)
    assert ["scaling", "a CPU, 1 thread(s)", "2026-01-02", "abc", "scaling/cpu.json"] in found and [
        "scaling",
        "a GPU",
        "not measured",
        "",
        "",
    ] in found
    (tmp_path / "scaling" / "a-gpu.json").write_text(record_of("cuda", "A GPU"))
    found = run.measured(tmp_path)
    assert ["scaling", "A GPU", "2026-01-02", "abc", "scaling/a-gpu.json"] in found and not any(
        row[:2] == ["scaling", "a GPU"] for row in found
    )
    assert [row[1] for row in found if row[0] == "book_time"] == ["a CPU"], "a book is built on one"


def test_stored_results_have_the_names_that_the_command_gives_them(monkeypatch):
    stored = sorted((results_directory() / "benchmarks").glob("*/*.json"))
    assert len(stored) >= 4
    for path in stored:
        hardware = json.loads(path.read_text())["provenance"]["hardware"]
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, gpu=hardware["gpu"]: gpu)
        assert path.parent.name in run.BENCHMARKS
        if path.parent.name != "data":  # a folder of images may be timed too
            assert path.name == run.file_of(
                path.parent.name, common.label(torch.device(hardware["device"]))
            )


def test_a_gpu_is_a_plain_file_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200 (80 GB)")
    assert common.label(torch.device("cuda")) == "nvidia-h200-80-gb" and common.label(CPU) == "cpu"


# -- what is compared is the same ------------------------------------------------------------------


def copy_weights(source: MaskedAutoencoder, target: training_step.TimmMAE) -> dict[str, str]:
    """Our weights into timm's model; its parameter → ours."""
    names = {
        "encoder.cls_token": "cls_token",
        "encoder.patch_embed.proj.weight": "embed.weight",
        "encoder.patch_embed.proj.bias": "embed.bias",
    }
    for name, parameter in target.named_parameters():
        if parameter.requires_grad:
            plain = (
                name.replace("encoder.blocks.", "encoder.")
                .replace("encoder.norm.", "encoder_norm.")
                .replace("bridge.", "to_decoder.")
            )
            names.setdefault(name, plain)
    ours, theirs = dict(source.named_parameters()), dict(target.named_parameters())
    assert sorted(names.values()) == sorted(ours)
    with torch.no_grad():
        for theirs_name, ours_name in names.items():
            theirs[theirs_name].copy_(ours[ours_name].view_as(theirs[theirs_name]))
    return names


@settings(max_examples=12, deadline=None)
@given(
    grid=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    patch=st.sampled_from([2, 4]),
    channels=st.integers(1, 3),
    ratio=st.sampled_from([0.25, 0.5, 0.75]),
    seed=st.integers(0, 99),
)
def test_the_recipe_in_timm_s_parts_has_our_loss_and_our_gradients(
    grid, patch, channels, ratio, seed
):
    torch.manual_seed(seed)
    size = (grid[0] * patch, grid[1] * patch)
    sizes = ModelConfig(
        size,
        patch,
        channels,
        width=16,
        depth=2,
        heads=2,
        decoder_width=8,
        decoder_depth=1,
        decoder_heads=2,
    )
    mask = MaskSpec(grid, ratio)
    model, peer = (
        MaskedAutoencoder(sizes).double(),
        training_step.TimmMAE(sizes, mask.visible_patches).double(),
    )
    names = copy_weights(model, peer)
    images, noise = (
        torch.randn(3, channels, *sizes.image_size, dtype=torch.float64),
        torch.rand(3, mask.patches),
    )
    order = noise.argsort(1)
    ours, _ = model(images, order[:, : mask.visible_patches], order[:, mask.visible_patches :])
    theirs = peer(images, noise)
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-12)
    assert peer(images, -noise).item() != pytest.approx(ours.item(), rel=1e-6), (
        "the mask makes no difference"
    )
    ours.backward(), theirs.backward()
    found, expected = dict(peer.named_parameters()), dict(model.named_parameters())
    for theirs_name, ours_name in names.items():
        torch.testing.assert_close(
            found[theirs_name].grad.flatten(),
            expected[ours_name].grad.flatten(),
            rtol=1e-9,
            atol=1e-12,
            msg=theirs_name,
        )


@pytest.mark.parametrize("name", training_step.VITS)
def test_the_large_cases_have_equal_parameters(name):
    sizes = training_step.VITS[name]
    with torch.device("meta"):
        ours, peer = MaskedAutoencoder(sizes), training_step.TimmMAE(sizes, 49)
    assert training_step.trainable(ours) == training_step.trainable(peer)
    assert (
        set(training_step.CPU_BATCHES)
        == {f"{each}-p16-r75" for each in training_step.VITS}
        < set(training_step.cases())
    )


def test_the_recipe_of_vit_base_takes_the_known_operations():
    sizes = training_step.VITS["base"]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        training_step.TimmMAE(sizes, 49)(torch.zeros(1, 3, 224, 224))
    executed = 3 * counter.get_total_flops()
    assert executed / 1e9 == pytest.approx(58.7, rel=0.003)
    # Ours embeds only the visible patches and predicts only the hidden ones.
    assert executed - training_flops(sizes, 49) == pytest.approx(
        3 * 2 * 768 * (147 * 768 + 49 * 512), rel=0.02
    )


def test_our_compiled_step_is_our_step(traced):
    config, losses = training_step.cases()["laptop-p8-r75"], {}
    images = torch.randn(2, 3, *config.model.image_size)
    for compiled in (False, True):
        torch.manual_seed(0)
        own = training_step.ours(config, CPU, compiled)
        step = training_step.step_of(own, config, images)
        for _ in range(3):
            step()
        losses[compiled] = own.loss(images).item()
        assert traced() == (1 if compiled else 0), "three steps and a look, one graph"
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


def test_unequal_sizes_are_not_compared(monkeypatch):
    wider = lambda config, device: training_step.Contender(
        nn.Linear(3, 3), lambda images: images.mean()
    )
    monkeypatch.setattr(training_step, "PEERS", {"timm": wider})
    with pytest.raises(AssertionError, match="timm has 12 parameters, mae_lib"):
        training_step.contenders(training_step.cases()["laptop-p8-r75"], CPU, compiled=False)


@pytest.mark.parametrize("name", ["lightly", "transformers"])
def test_installed_peers_have_equal_parameters_and_train(name):
    pytest.importorskip(name)
    config = training_step.cases()["laptop-p8-r75"]
    images = torch.randn(2, 3, *config.model.image_size)
    present, missing = training_step.contenders(config, CPU, compiled=False)
    assert name in present and name not in missing
    training_step.step_of(present[name], config, images)()
    idle = sum(
        parameter.numel()
        for parameter in present[name].model.parameters()
        if parameter.requires_grad and parameter.grad is None
    )
    assert idle == present[name].extra, "what a peer has more than we is what no gradient reaches"


# -- what is said follows from the times -----------------------------------------------------------


def synthetic(noise: float, **speeds: float) -> dict[str, list[float]]:
    """Times of ``ROUNDS`` rounds around each name's mean, with a relative noise."""
    generator = np.random.default_rng(0)
    return {
        name.replace("_", " ").replace("mae lib", "mae_lib"): list(
            mean * (1 + noise * generator.standard_normal(ROUNDS))
        )
        for name, mean in speeds.items()
    }


@pytest.mark.parametrize(
    ("noise", "timm", "transformers", "said", "slower"),
    [
        (0.002, 1.2, 1.3, "mae_lib is faster than the fastest peer (timm)", False),
        (0.002, 1.3, 0.8, "mae_lib is slower than the fastest peer (transformers)", True),
        (0.002, 1.0, 1.3, "no difference from the fastest peer (timm", False),
        (0.3, 0.97, 1.3, "no difference from the fastest peer (timm", False),
    ],
)
def test_the_verdict_follows_from_the_times(noise, timm, transformers, said, slower):
    times = synthetic(noise, mae_lib=1.0, mae_lib_again=1.0, timm=timm, transformers=transformers)
    sentence, bad = training_step.verdict(times)
    assert sentence.startswith(said) and bad is slower


@settings(max_examples=30, deadline=None)
@given(
    slow=st.lists(st.floats(0.5, 50), min_size=ROUNDS, max_size=ROUNDS),
    timm=st.sampled_from([0.8, 1.0, 1.2]),
)
def test_a_slow_round_is_slow_for_all_and_changes_no_verdict(slow, timm):
    times = synthetic(0.01, mae_lib=1.0, mae_lib_again=1.0, timm=timm)
    slowed = {name: [t * factor for t, factor in zip(taken, slow)] for name, taken in times.items()}
    assert training_step.verdict(slowed) == training_step.verdict(times)


def test_a_gap_within_the_control_s_is_noise():
    times = synthetic(0.002, mae_lib=1.0, mae_lib_again=1.1, timm=1.05)
    assert training_step.verdict(times)[0].startswith("no difference")
    assert training_step.verdict(times | {"timm": [1.2] * ROUNDS})[0].startswith(
        "mae_lib is faster"
    )


def test_few_rounds_and_missing_peers_allow_no_verdict():
    times = synthetic(0.001, mae_lib=1.0, mae_lib_again=1.0, timm=2.0, mae_lib_compiled=0.5)
    few = {name: taken[: common.ENOUGH_ROUNDS - 1] for name, taken in times.items()}
    assert (
        "cannot tell" in training_step.verdict(few)[0]
        and not training_step.verdict(few)[1]
        and "cannot tell" in training_step.compiled_verdict(few)
    )
    assert training_step.verdict(
        {name: times[name] for name in ("mae_lib", training_step.CONTROL)}
    ) == ("no peer is installed: nothing to compare with.", False)


@pytest.mark.parametrize(
    ("compiled", "said"),
    [
        (0.5, "compiled, mae_lib is faster"),
        (1.5, "compiled, mae_lib is slower"),
        (1.0, "compiling makes no difference"),
    ],
)
def test_a_compiled_step_is_set_against_our_own(compiled, said):
    times = synthetic(0.002, mae_lib=1.0, mae_lib_again=1.0, timm=1.0, mae_lib_compiled=compiled)
    assert training_step.compiled_verdict(times).startswith(said)
    assert training_step.verdict(times)[0].startswith("no difference"), "the peers are not compiled"


@settings(deadline=None)
@given(
    k=st.floats(-1, 3),
    constant=st.floats(1e-4, 1e3),
    x=st.lists(st.integers(1, 5000), min_size=2, max_size=6, unique=True),
    slow=st.lists(st.floats(0.5, 50), min_size=1, max_size=9),
)
def test_the_exponent_of_a_power_law_is_found_however_slow_single_rounds_are(k, constant, x, slow):
    found = scaling.exponent(x, [[constant * size**k * factor for factor in slow] for size in x])
    assert (
        found.median == pytest.approx(k, abs=1e-6)
        and found.low == pytest.approx(k, abs=1e-6)
        and found.high == pytest.approx(k, abs=1e-6)
    )
    assert found.rounds == len(slow)


def test_the_exponent_s_interval_holds_the_true_one_about_as_often_as_it_says():
    x, hits = [16, 64, 256, 1024], 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        found = scaling.exponent(
            x, [list(size**1.3 * np.exp(0.1 * generator.standard_normal(15))) for size in x]
        )
        hits += found.low <= 1.3 <= found.high
        assert found.low < found.median < found.high < found.low + 0.2
    assert 50 <= hits <= 60


def test_growth_in_words():
    # The last size is off the line, so that the two exponents differ.
    times = [[size**1.3] * ROUNDS for size in (16, 64, 256)] + [[1024**1.3 * 2] * ROUNDS]
    said = scaling.sentence("tokens", (16, 64, 256, 1024), times)
    assert (
        said
        == "time grows as tokens^1.45 [1.45, 1.45], between the two largest as tokens^1.80 [1.80,"
        " 1.80]"
    )
    assert (
        scaling.sentence("side", (1, 2), [[2.0] * ROUNDS, [1.0] * ROUNDS])
        == "time falls as side^-1.00 [-1.00, -1.00]"
    )
    flat = synthetic(0.1, one=1.0, two=1.0)
    assert scaling.sentence("side", (1, 2), list(flat.values())).startswith(
        "time does not grow with side beyond the noise"
    )
    assert (
        scaling.sentence("side", (1, 2), [[1.0], [2.0]])
        == "time as side^1.00, from fewer than 6 rounds"
    )


def test_runs_side_by_side_go_up_to_the_cores_and_once_beyond():
    assert [scaling.run_counts(cores) for cores in (1, 2, 3, 8, 100)] == [
        [1, 2],
        [1, 2, 4],
        [1, 2, 4],
        [1, 2, 4, 8, 16],
        [1, 2, 4, 8, 16, 32],
    ]


def test_each_factor_changes_one_thing():
    base = tier("laptop").config({"kind": "world"})

    def changed(config: PretrainConfig) -> set[str]:
        ours, theirs = (
            {**vars(c.model), "ratio": c.ratio, "design": c.design} for c in (config, base)
        )
        return {name for name in ours if ours[name] != theirs[name]}

    for factor, name in (
        ("image size", "image_size"),
        ("tokens", "patch"),
        ("visible patches", "ratio"),
    ):
        found = scaling.configs(factor)
        assert (
            list(found) == sorted(found)
            and all(changed(config) <= {name} for config in found.values())
            and len(set(found)) >= 4
        )


# -- the instruments -------------------------------------------------------------------------------


@given(batch=st.integers(1, 9))
def test_kept_bytes_count_each_storage_once_and_no_weights(batch):
    layer = nn.Linear(8, 4)
    x = torch.randn(batch, 8)
    kept = lambda work: common.kept_bytes(lambda: work().sum().backward(), layer)
    assert kept(lambda: layer(x)) == 4 * batch * 8
    assert kept(lambda: layer(x) + layer(x)) == 4 * batch * 8, "the same input twice"
    assert kept(lambda: layer(x).square()) == 4 * batch * (8 + 4)
    asked = x.clone().requires_grad_()  # for whose gradient the weights are kept too
    assert kept(lambda: layer(asked)) == 4 * batch * 8
    with torch.no_grad():
        assert common.kept_bytes(lambda: layer(x), layer) == 0


def test_the_ceiling_is_the_best_product_s_operations_a_second():
    ticks = count()
    assert (
        common.matmul_ceiling(CPU, clock=lambda: next(ticks), sides=(8, 16), turns=3) == 2 * 16**3
    )


def test_a_ratio_of_few_rounds_has_no_interval():
    few, many = (
        common.ratio([2.0] * n, [1.0] * n) for n in (common.ENOUGH_ROUNDS - 1, common.ENOUGH_ROUNDS)
    )
    assert (
        str(few) == "2.00"
        and not few.differs(1)
        and str(many) == "2.00 [2.00, 2.00]"
        and many.differs(1)
        and not many.differs(2)
    )


def test_on_a_gpu_short_work_is_repeated_and_long_work_is_not(monkeypatch):
    """No GPU is needed: the clock is replaced."""
    seen = {"short": [], "middle": [], "long": []}

    def clock(work, device, repeats, clock):
        seen[work()].append(repeats)
        return {"short": 1e-3, "middle": 0.1, "long": 2.0}[work()]

    monkeypatch.setattr(common, "seconds", clock)
    times = common.alternate(
        {name: lambda name=name: name for name in seen}, 4, torch.device("cuda")
    )
    assert {name: repeats[2:] for name, repeats in seen.items()} == {
        "short": [10] * 4,
        "middle": [3] * 4,
        "long": [1] * 4,
    }
    assert times == {"short": [1e-3] * 4, "middle": [0.1] * 4, "long": [2.0] * 4}
    seen["short"].clear()
    common.alternate({"short": lambda: "short"}, 4, CPU)
    assert seen["short"] == [1] * 6
