"""From a stored encoder and data to a record of measures: the evaluations of §3.1–§3.4 and §3.6
without a notebook, as `mae evaluate` runs them. Here the images of each evaluation are opened and
handed to the module that measures; the record says what was measured on what, by which code.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.base.intervals import Interval
from mae_lib.base.provenance import provenance
from mae_lib.data.shifted import open_shifted
from mae_lib.data.sources import image_source
from mae_lib.evaluation.attention import evaluate_attention, untrained
from mae_lib.evaluation.features import Features, encode, features, pixel_features
from mae_lib.evaluation.inputs import (
    DEFAULTS,
    Options,
    digest,
    images_of,
    open_named,
    probe_sources,
    resident,
    stimuli_of,
    thinned,
)
from mae_lib.evaluation.latents import evaluate_latents, readout, world_latents
from mae_lib.evaluation.probe import check_labels, evaluate_pixels, evaluate_probe
from mae_lib.evaluation.probes.few_labels import (
    check_enough,
    evaluate_few_labels,
)
from mae_lib.evaluation.probes.knn import check_neighbours, evaluate_knn
from mae_lib.evaluation.probes.severity import evaluate_severity, graded_sets
from mae_lib.evaluation.reconstruction import evaluate_reconstruction
from mae_lib.evaluation.separability import check_enough as check_enough_to_separate
from mae_lib.evaluation.separability import evaluate_separability, ten_classes
from mae_lib.evaluation.shape_bias import (
    category_groups,
    category_probabilities,
    evaluate_shape_bias,
)
from mae_lib.training.pretrain import resolve_device
from mae_lib.training.store import Checkpoint
from mae_lib.training.tiers import run_name
from mae_lib.worlds.world import World

Measures = dict[str, Interval]

SETTINGS = {
    "reconstruction": ("images", "seed"),
    "attention": ("images",),
    "separability": ("seed",),
    "probe": ("train_images", "seed"),
    "few_labels": ("train_images", "seed"),
    "knn": ("train_images", "neighbours", "seed"),
    "severity": ("train_images", "seed"),
    "shape_bias": ("train_images", "seed"),
    "latents": ("train_images", "seed"),
}
"""Which options each evaluation depends on, beside its data."""

WORLD_ONLY = {
    "latents": "nobody knows the latents of photographs",
    "severity": "photographs cannot be drawn again with a shift of another strength",
}
"""Evaluations of the embedded world alone, and why."""

PROBES = ("probe", "few_labels", "knn")
"""Evaluations that score a classifier on shifted sets too."""


def evaluate(kind: str, checkpoint: Checkpoint, options: Options = DEFAULTS) -> dict:
    """The record of one evaluation of one stored model.

    Args:
        kind: one of `EVALUATIONS`.

    Returns:
        name, hash, run (its place in the sweep, or its name), seed, tier and config of the
        checkpoint; measures: name → value, low, high, n; settings and data: what they were measured
        on; key: a hash of all that decides them; seconds and provenance.

    Raises:
        InputError: an unknown kind, or data that the evaluation cannot be run on.
    """
    named, began = identity(kind, checkpoint, options), time.perf_counter()
    measures = EVALUATIONS[kind](checkpoint, options)
    return named | {
        "measures": {name: interval.to_dict() for name, interval in measures.items()},
        "seconds": round(time.perf_counter() - began, 1),
        **provenance(resolve_device(options.device)),
    }


def _check(kind: str, options: Options) -> None:
    if kind not in EVALUATIONS:
        raise InputError(f"there is no evaluation {kind!r}: choose one of {', '.join(EVALUATIONS)}")
    if options.shifted and (kind not in PROBES or options.data is None):
        raise InputError(
            "shifted sets are for probes on a folder of images: the embedded world brings its own,"
            " and nothing else uses them"
        )
    if options.stimuli is not None and (kind != "shape_bias" or options.data is None):
        raise InputError(
            "cue-conflict stimuli are for shape_bias with --data, the images that its probe is"
            " trained on"
        )
    if kind == "shape_bias" and options.data is not None and options.stimuli is None:
        raise InputError(
            "shape_bias on a folder of images needs --stimuli: the folder of cue-conflict stimuli,"
            " <shape>/<shape>N-<texture>N.png"
        )
    if kind in WORLD_ONLY and options.data is not None:
        raise InputError(
            f"{WORLD_ONLY[kind]}: run {kind} without --data, on the embedded world, which knows"
        )


def identity(kind: str, checkpoint: Checkpoint, options: Options) -> dict:
    """The part of a record that is known before anything is measured; InputError as in
    :func:`evaluate`."""
    _check(kind, options)
    config, tier_name = checkpoint.config, checkpoint.record["tier"]
    try:
        run = run_name(config, tier_name)
    except InputError:
        run = config.family
    if kind == "reconstruction":
        _ = config.mask  # refuses an unknown ratio
        config.model.require_decoder()
    settings = {name: getattr(options, name) for name in SETTINGS[kind]}
    model, data = config.model, {}
    for split in (
        ("validation", "train") if kind in (*PROBES, *WORLD_ONLY, "shape_bias") else ("validation",)
    ):
        source = image_source(options.data, split, model.image_size, model.channels)
        data[split] = source.identity
        _check_labels(kind, split, source, options)
    if kind in PROBES:
        classes = tuple(source.classes)
        opened = {
            name: open_shifted(name, folder, classes, model.image_size, model.channels)
            for name, folder in options.shifted.items()
        }
        # What counts as right is not the images' but, for ObjectNet, a file's beside them.
        data["shifted"] = {
            name: each.source.identity | {"accepts": digest(each.accepts.int().tolist())}
            for name, each in opened.items()
        }
    if kind == "shape_bias" and options.stimuli is not None:
        stimuli = stimuli_of(options, model.image_size, model.channels)
        data["stimuli"] = stimuli.source.identity
    named = [kind, checkpoint.record["digest"], settings, data]
    return {
        "kind": kind,
        "name": config.name,
        "hash": config.hash,
        "run": run,
        "seed": config.seed,
        "tier": tier_name,
        "config": config.to_dict(),
        "settings": settings,
        "data": data,
        "key": digest(named),
    }


def _check_labels(kind: str, split: str, source: ImageSource, options: Options) -> None:
    """What an evaluation asks of the labels, before any image is encoded."""
    if kind == "separability":
        check_enough_to_separate(source.labels[ten_classes(source.labels, seed=options.seed)])
    elif split != "train" and kind in PROBES:
        len(source.labels)  # InputError where there are none
    elif split == "train" and kind != "latents":
        labels, classes = thinned(source, options.train_images).labels, tuple(source.classes)
        if kind == "knn":
            check_neighbours(options.neighbours, len(labels))
            return
        check_labels(labels, len(labels), len(classes))
        if kind == "few_labels":
            check_enough(labels, classes)
        if kind == "shape_bias" and options.stimuli is not None:
            # refuses classes of fewer than two categories
            category_probabilities(torch.zeros(1, len(classes)), classes, category_groups())


def _features(
    checkpoint: Checkpoint, options: Options, split: str, count: int | None = None
) -> Features:
    return features(checkpoint, images_of(checkpoint, options, split, count), device=options.device)


def _reconstruction(checkpoint: Checkpoint, options: Options) -> Measures:
    source = images_of(checkpoint, options, "validation", options.images)
    return evaluate_reconstruction(
        checkpoint.load(resolve_device(options.device)),
        checkpoint.config.mask,
        source,
        len(source),
        options.seed,
    )


def _attention(checkpoint: Checkpoint, options: Options) -> Measures:
    # of the untrained control: this run's own first weights, which of an import nobody knows
    model, seed = checkpoint.load(resolve_device(options.device)), checkpoint.config.seed or 0
    if options.data is None:  # drawn anew for each model: the object masks come with the images
        world = World("validation", checkpoint.config.model.image_size[0])
        return evaluate_attention(model, world, min(options.images, len(world)), seed=seed)
    source = images_of(checkpoint, options, "validation", options.images)
    return evaluate_attention(model, source, len(source), seed=seed)


def _separability(checkpoint: Checkpoint, options: Options) -> Measures:
    return evaluate_separability(_features(checkpoint, options, "validation"), seed=options.seed)


def _probe(checkpoint: Checkpoint, options: Options) -> Measures:
    model = checkpoint.config.model
    return evaluate_probe(*probed(checkpoint, options), options.seed, options.device) | _pixels(
        options, model.image_size, model.channels
    )


def _few_labels(checkpoint: Checkpoint, options: Options) -> Measures:
    return evaluate_few_labels(*probed(checkpoint, options), options.seed, options.device)


def _knn(checkpoint: Checkpoint, options: Options) -> Measures:
    return evaluate_knn(*probed(checkpoint, options), options.neighbours, options.seed)


def _severity(checkpoint: Checkpoint, options: Options) -> Measures:
    sets = graded_sets(checkpoint.config.model.image_size[0])
    seen = {
        name: features(checkpoint, resident(source), device=options.device)
        for name, source in sets.items()
    }
    train = _features(checkpoint, options, "train", options.train_images)
    return evaluate_severity(train, seen, options.seed, options.device)


def probed(
    checkpoint: Checkpoint, options: Options
) -> tuple[Features, dict[str, tuple[Features, Tensor]]]:
    """Features that a probe is trained on, and of the sets that it is scored on."""
    model = checkpoint.config.model
    sources = probe_sources(options, model.image_size, model.channels)
    train = _features(checkpoint, options, "train", options.train_images)
    return train, {
        name: (features(checkpoint, source, device=options.device), accepts)
        for name, (source, accepts) in sources.items()
    }


_pixels_seen: dict[str, Measures] = {}


def _pixels(options: Options, size: tuple[int, int], channels: int) -> Measures:
    """The control on raw pixels: no encoder is in it, so it is measured once in a process for the
    same images."""
    sets = probe_sources(options, size, channels)
    train = open_named(options.data, "train", size, channels, options.train_images)
    key = digest(
        [
            train.identity,
            {name: source.identity for name, (source, _) in sets.items()},
            options.seed,
        ]
    )
    if key not in _pixels_seen:
        most = max(len(source) for source, _ in sets.values())
        _pixels_seen[key] = evaluate_pixels(
            train, sets, len(train), most, seed=options.seed, device=options.device
        )
    return _pixels_seen[key]


def _shape_bias(checkpoint: Checkpoint, options: Options) -> Measures:
    groups = None if options.stimuli is None else category_groups()
    return evaluate_shape_bias(*cued(checkpoint, options), groups, options.seed, options.device)


def cued(checkpoint: Checkpoint, options: Options) -> tuple[Features, Features, Tensor, Tensor]:
    """Features that a probe is trained on, those of the cue-conflict stimuli, and their cues."""
    model = checkpoint.config.model
    stimuli = stimuli_of(options, model.image_size, model.channels)
    train = _features(checkpoint, options, "train", options.train_images)
    seen = features(checkpoint, stimuli.source, device=options.device)
    return train, seen, stimuli.shape, stimuli.texture


_controls_seen: dict[str, Measures] = {}


def _latents(checkpoint: Checkpoint, options: Options) -> Measures:
    """The readout of both poolings, and the same readout of two encoders that learned nothing: the
    pixels themselves, and the mean over patch tokens of the run's own first weights. A control is
    measured once in a process for the same images and weights.
    """
    model, seed = checkpoint.config.model, checkpoint.config.seed or 0
    sources = {
        split: images_of(checkpoint, options, split, count)
        for split, count in (("train", options.train_images), ("validation", None))
    }
    truth = {
        split: _world_latents(split, model.image_size[0], len(source))
        for split, source in sources.items()
    }

    def control(name: str, key: list, vectors: Callable[[ImageSource], Tensor]) -> Measures:
        identities = [source.identity for source in sources.values()]
        kept = digest([name, key, identities, options.seed])
        if kept not in _controls_seen:
            seen = {split: vectors(source) for split, source in sources.items()}
            found = readout(
                seen["train"],
                truth["train"],
                seen["validation"],
                truth["validation"],
                options.seed,
                options.device,
            )
            _controls_seen[kept] = {
                f"{name}/{latent}": interval for latent, interval in found.items()
            }
        return _controls_seen[kept]

    def first_weights(source: ImageSource) -> Tensor:
        return encode(untrained(checkpoint.load(resolve_device(options.device)), seed), source).mean

    seen = {
        split: features(checkpoint, source, device=options.device)
        for split, source in sources.items()
    }
    measures = evaluate_latents(
        seen["train"],
        truth["train"],
        seen["validation"],
        truth["validation"],
        options.seed,
        options.device,
    )
    measures |= control("pixels", [], lambda source: pixel_features(source, len(source), 16))
    return measures | control(
        "untrained", [checkpoint.config.to_dict()["model"], seed], first_weights
    )


@lru_cache(maxsize=4)
def _world_latents(split: str, size: int, count: int) -> dict[str, Tensor]:
    world = World(split, size)
    return world_latents(world, torch.arange(count) * len(world) // count)  # the images of `Subset`


EVALUATIONS: dict[str, Callable[[Checkpoint, Options], Measures]] = {
    "reconstruction": _reconstruction,
    "attention": _attention,
    "separability": _separability,
    "probe": _probe,
    "few_labels": _few_labels,
    "knn": _knn,
    "severity": _severity,
    "shape_bias": _shape_bias,
    "latents": _latents,
}
