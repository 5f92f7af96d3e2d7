"""The sweep as a list of cells: each one file under results/ and the commands that make it.
`world_cells` lists what the embedded world's results are made of, `real_cells` what those of
folders of photographs are; the workflow runs them, `mae rerun` makes single ones again. Nothing is
run here.

A cell's file is named by the hash of its config, as the commands themselves would name it, so a
changed config is another file and only what depends on it is missing. Every cell's commands can run
from an empty cache: an evaluation's begin with the pretraining that it needs, which is found if it
is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from mae_book.sweep import ratio_prediction, second_moments, tree_world
from mae_book.sweep.cell import FEWER, Cell, Command
from mae_book.sweep.experiments import EXPERIMENTS, Experiment
from mae_book.sweep.pretrainings import Pretraining, designs_of, sweep_of
from mae_book.sweep.theory_cells import moments_cell, theory_cells, tree_world_cell
from mae_book.verdicts.ladder import MEASURED, RUNGS, Rung
from mae_lib.base.errors import InputError
from mae_lib.data.coco import open_coco
from mae_lib.data.formats.coco_scenes import scenes_identity
from mae_lib.data.sources import image_source
from mae_lib.detection.detectors import finetune_config
from mae_lib.evaluation.evaluate import SETTINGS
from mae_lib.training import tiers
from mae_lib.training.config import PretrainConfig
from mae_lib.training.store import Checkpoint, named
from mae_lib.worlds.world import Scenes

SEEDS = (0, 1, 2)

REAL_EVALUATIONS = ("reconstruction", "attention", "separability", "probe")
"""Of twenty ImageNet classes: shape_bias needs the stimuli's own classes, latents the embedded
world."""


TINY_TRAINING = 40_000
"""Training images of the probes of Tiny-ImageNet: of two hundred classes, where 8,192 would be
forty a class."""

NUCLEI = {"image_size": 192, "anchors": (8, 16, 24, 40), "proposals": 300, "steps": 200}
"""Fine-tuning on nuclei: small, and many in an image."""


def world_cells(tier: str = "laptop", seeds: Sequence[int] = SEEDS) -> dict[str, Cell]:
    """id → cell of everything on the embedded world at a tier; at the laptop tier also what has no
    tier (the quad-tree world, the theory, with the seeds of its own), the experiments of
    `mae_book.sweep.experiments`, paired with the same ``seeds`` or on fresh ones, and the second
    sweep (`mae_book.verdicts.ladder`), which has its own. InputError for an unknown tier."""
    sizes = tiers.tier(tier)
    world = image_source(None, "train", sizes.model.image_size).identity
    sweep = {seed: sweep_of(sizes, world, seed) for seed in seeds}
    cells: list[Cell] = []
    for seed in seeds:
        trained = [Pretraining("world", tier, config) for config in sweep[seed].values()]
        arms = [Pretraining("designs", tier, config) for config in designs_of(sizes, world, seed)]
        cells += [each.cell() for each in (*trained, *arms)]
        # of the second sweep alone
        kinds = [kind for kind in MEASURED if kind not in ("few_labels", "severity")]
        cells += [
            _evaluation(kind, "world", each, FEWER.get(tier)) for kind in kinds for each in trained
        ]
        cells += [_evaluation("latents", "world", each, FEWER.get(tier)) for each in arms]
        scenes = _scenes(tier)
        cells += [_detector("world", scenes, tier, each) for each in trained]
        cells += [
            _detector("world", scenes, tier, patch=patch, seed=seed)
            for patch in (sizes.model.patch, sizes.small_patch)
        ]
    if tier == "laptop":
        cells += [tree_world_cell(design, seed) for seed in seeds for design in tree_world.DESIGNS]
        cells += [
            tree_world_cell("random", seed, ratio)
            for seed in tree_world.SEEDS
            for ratio in ratio_prediction.RATIOS
        ]
        cells += [
            moments_cell(
                "world", image_source(None, "train", (second_moments.SIDE, second_moments.SIDE))
            )
        ]
        cells += theory_cells()
        for experiment in EXPERIMENTS.values():
            cells += _experiment(experiment, tier, world, seeds)
        for rung in RUNGS.values():
            cells += _rung(rung, tier, world)
    return _by_id(cells)


def real_cells(
    in20: str | Path | None = None,
    tinyin32: str | Path | None = None,
    pacs: str | Path | None = None,
    stimuli: str | Path | None = None,
    dsb2018: str | Path | None = None,
    seeds: Sequence[int] = SEEDS,
) -> dict[str, Cell]:
    """id → cell of everything on photographs, of the folders that are given; all at the laptop
    tier.

    Args:
        in20: twenty ImageNet classes, train/ and val/. tinyin32: Tiny-ImageNet at 32 px, likewise.
            pacs: photo/ (with train/ and val/), art_painting/, cartoon/, sketch/; evaluated on the
            models of in20. stimuli: Geirhos's cue-conflict stimuli, on the models of tinyin32.
        dsb2018: nuclei in COCO's layout, from the model of in20 at ratio 0.75, seed 0; ``seeds``
            are of the fine-tuning.

    Raises:
        InputError: a folder that cannot be used, or one whose models' own images are missing.
    """
    for name, folder, needed, own in (
        ("pacs", pacs, "in20", in20),
        ("dsb2018", dsb2018, "in20", in20),
        ("stimuli", stimuli, "tinyin32", tinyin32),
    ):
        if folder is not None and own is None:
            raise InputError(
                f"{name} is evaluated on models of {needed}: give {needed} too, the folder of their"
                " images"
            )
    cells: list[Cell] = []
    twenty: dict[tuple[str, int], Pretraining] = {}
    if in20 is not None:
        sizes = tiers.tier("laptop")
        source = image_source(in20, "train", sizes.model.image_size)
        data = source.identity
        cells.append(moments_cell("in20", source, str(in20)))
        twenty = {
            (run, seed): Pretraining("in20", "laptop", c, str(in20))
            for seed in seeds
            for run, c in sweep_of(sizes, data, seed).items()
        }
        cells += [each.cell() for each in twenty.values()]
        cells += [
            _evaluation(kind, "in20", each) for kind in REAL_EVALUATIONS for each in twenty.values()
        ]
    if pacs is not None:
        styles = [
            f"{style}={Path(pacs) / style}" for style in ("art_painting", "cartoon", "sketch")
        ]
        where = ("--data", str(Path(pacs) / "photo"), "--shifted", *styles)
        cells += [_evaluation("probe", "pacs", each, words=where) for each in twenty.values()]
    if dsb2018 is not None:
        nuclei = open_coco(dsb2018, "train")
        start = Pretraining(
            "in20", "laptop", sweep_of(tiers.tier("laptop"), data, 0)["r75"], str(in20)
        )
        for seed in seeds:
            cells.append(
                _detector(
                    "dsb2018", nuclei, "laptop", start, seed=seed, folder=str(dsb2018), **NUCLEI
                )
            )
            cells.append(
                _detector(
                    "dsb2018",
                    nuclei,
                    "laptop",
                    patch=tiers.tier("laptop").model.patch,
                    seed=seed,
                    folder=str(dsb2018),
                    **NUCLEI,
                )
            )
        cells.append(start.cell())
    if tinyin32 is not None:
        sizes = tiers.tier("laptop").at(32)
        data = image_source(tinyin32, "train", sizes.model.image_size).identity
        configs = [
            replace(config, steps=1000)
            for seed in seeds
            for config in sizes.sweep(data, seed)["ratio"]
        ]
        tiny = [Pretraining("tinyin32", "laptop", config, str(tinyin32)) for config in configs]
        fuller = {"train_images": TINY_TRAINING}
        cells += [each.cell() for each in tiny] + [
            _evaluation("probe", "tinyin32", each, fuller) for each in tiny
        ]
        if stimuli is not None:
            cells += [
                _evaluation(
                    "shape_bias", "geirhos", each, fuller, (*each.where, "--stimuli", str(stimuli))
                )
                for each in tiny
            ]
    return _by_id(cells)


def _evaluation(
    kind: str,
    data: str,
    of: Pretraining,
    options: Mapping[str, int] | None = None,
    words: Command | None = None,
) -> Cell:
    """An evaluation of a pretraining on its own images, or on those that ``words`` name."""
    chosen = [
        word
        for name, value in (options or {}).items()
        if name in SETTINGS[kind]
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    last = (
        "mae",
        "evaluate",
        kind,
        "--checkpoint",
        of.stem,
        *(of.where if words is None else words),
        *chosen,
    )
    return Cell(kind, data, of.config.name, of.config.hash, (of.cell().id,), (of.words,), last)


def _scenes(tier_name: str) -> SimpleNamespace:
    """What names the training scenes of a tier, without drawing them."""
    sizes = tiers.tier(tier_name).detection["scenes"]
    scenes = Scenes("train", sizes["size"], length=sizes["train"])
    return SimpleNamespace(classes=scenes.classes, identity=scenes_identity(scenes))


def _detector(
    data: str,
    train,
    tier_name: str,
    of: Pretraining | None = None,
    patch: int | None = None,
    seed: int | None = None,
    folder: str | None = None,
    **sizes,
) -> Cell:
    """A detector from a pretraining, or from scratch with a ViT patch of ``patch`` pixels; on
    scenes, or on a folder."""
    words = [
        "--tier",
        tier_name,
        *(["--data", folder] if folder else []),
        *(["--seed", str(seed)] if seed is not None else []),
    ]
    for name, value in sizes.items():
        words += [
            f"--{name.replace('_', '-')}",
            *map(str, value if isinstance(value, tuple) else (value,)),
        ]
    if of is None:
        config = finetune_config(train, None, tier_name, patch, seed=seed, **sizes)
        return Cell(
            "detection",
            data,
            config.name,
            config.hash,
            (),
            (),
            ("mae", "finetune", "--scratch", str(patch), *words),
        )
    start = _stored(of.stem)
    config = finetune_config(
        train,
        start or SimpleNamespace(config=of.config, record={"digest": ""}),
        tier_name,
        seed=seed,
        **sizes,
    )
    last = ("mae", "finetune", "--checkpoint", of.stem, *words)
    return Cell(
        "detection",
        data,
        config.name,
        config.hash if start else "",
        (of.cell().id,),
        (of.words,),
        last,
    )


def _stored(stem: str) -> Checkpoint | None:
    try:
        return named(stem)
    except InputError:
        return None


def _experiment(
    experiment: Experiment, tier_name: str, world: dict, seeds: Sequence[int]
) -> list[Cell]:
    """The cells of one experiment. What only changes the options of an evaluation is evaluated on
    the baseline's own models."""
    data = (
        experiment.baseline if experiment.options and not experiment.training else experiment.data
    )
    model = {
        name: value
        for name, value in experiment.training.items()
        if name not in PretrainConfig.__dataclass_fields__
    }
    own = {name: value for name, value in experiment.training.items() if name not in model}
    cells: list[Cell] = []
    for seed in experiment.seeds:
        if experiment.grows and seed not in seeds:
            continue
        configs = sweep_of(tiers.tier(tier_name), world, seed)
        for run in experiment.runs:
            config = replace(configs[run], model=replace(configs[run].model, **model), **own)
            trained = Pretraining(data, tier_name, config)
            cells.append(trained.cell())
            cells += [
                _evaluation(kind, experiment.data, trained, experiment.options)
                for kind in experiment.kinds
            ]
    return cells


def _rung(rung: Rung, tier_name: str, world: dict) -> list[Cell]:
    """The cells of one length of the second sweep, seed by seed, the ratios before the units."""
    sizes, scenes, cells = tiers.tier(tier_name), _scenes(tier_name), []
    for seed in rung.seeds:
        swept = sweep_of(sizes, world, seed)
        trained = [
            Pretraining(rung.data, tier_name, replace(swept[run], **rung.training))
            for run in rung.runs
        ]
        arms = (
            [
                Pretraining(rung.data, tier_name, replace(c, **rung.training))
                for c in designs_of(sizes, world, seed)
            ]
            if seed in rung.arms
            else []
        )
        cells += [each.cell() for each in (*trained, *arms)]
        cells += [_evaluation(kind, rung.data, each) for kind in MEASURED for each in trained]
        cells += [_evaluation("latents", rung.data, each) for each in arms]
        cells += [_detector(rung.data, scenes, tier_name, each) for each in trained]
        if seed in rung.arms:
            cells += [
                _detector(rung.data, scenes, tier_name, patch=patch, seed=seed)
                for patch in (sizes.model.patch, sizes.small_patch)
            ]
    return cells


def _by_id(cells: Iterable[Cell]) -> dict[str, Cell]:
    """Each cell once, what is needed before what needs it."""
    found = {cell.id: cell for cell in cells}
    ordered = sorted(found.values(), key=lambda cell: len(cell.needs) > 0)
    return {cell.id: cell for cell in ordered}
