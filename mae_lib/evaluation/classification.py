"""Classifiers that were fine-tuned end to end: find one, else train it, and the record of what it
gets right, on validation images and on shifted sets (as a linear probe is scored,
:mod:`mae_lib.evaluation.probe`)."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.files import cache_directory
from mae_lib.base.image_source import ImageSource
from mae_lib.base.intervals import Interval, bootstrap
from mae_lib.base.provenance import provenance
from mae_lib.data.datasets import Subset
from mae_lib.data.sources import image_source
from mae_lib.evaluation.inputs import Options, probe_sources
from mae_lib.evaluation.probe import right
from mae_lib.model.autoencoder import normalise_pixels
from mae_lib.training.classifier import Classifier, StoredClassifier, classify
from mae_lib.training.once import obtain_once
from mae_lib.training.pretrain import resolve_device
from mae_lib.training.recipes import RECIPES, ClassifyConfig, encoder_alone
from mae_lib.training.store import Checkpoint
from mae_lib.training.stored import find_stored, search_path
from mae_lib.training.tiers import tier


def classify_config(
    source: ImageSource,
    checkpoint: Checkpoint | None = None,
    tier_name: str = "laptop",
    patch: int | None = None,
    seed: int | None = None,
    **changes,
) -> ClassifyConfig:
    """One fine-tuning by a tier's recipe.

    Args:
        source: the training images. checkpoint: the pretrained encoder; None: from scratch, with
            the tier's encoder and a ViT patch of ``patch`` pixels. seed: default: the checkpoint's
            own, 0 from scratch and for imported weights. changes: other fields of `ClassifyConfig`;
            None leaves the recipe's value.
    """
    own, start = None, {}
    if checkpoint is not None:
        model, own = checkpoint.config.model, checkpoint.config.seed
        start = {"pretrained": checkpoint.record["digest"], "origin": checkpoint.config.name}
    else:
        model = tier(tier_name).config({"kind": "world"}, unit=patch, patch=patch).model
    recipe = RECIPES[tier_name] | {k: v for k, v in changes.items() if v is not None}
    if source.identity["kind"] == "world":
        recipe |= {"crop_from": "image"}
    return ClassifyConfig(
        model=encoder_alone(model),
        classes=tuple(source.classes),
        data=source.identity,
        seed=(own or 0) if seed is None else seed,
        **start,
        **recipe,
    )


def training_images(options: Options, checkpoint: Checkpoint | None, tier_name: str) -> ImageSource:
    """What a classifier is trained on: the training images of ``options.data``, at the encoder's
    size."""
    model = tier(tier_name).model if checkpoint is None else checkpoint.config.model
    return image_source(options.data, "train", model.image_size, model.channels)


def obtain_classifier(
    config: ClassifyConfig,
    checkpoint: Checkpoint | None,
    source: ImageSource,
    *,
    tier_name: str,
    device: str = "auto",
    out: str | Path | None = None,
    progress: bool = True,
    save_every: float = 60.0,
) -> StoredClassifier:
    """The classifier of ``config``: as it is stored, else trained (or its training resumed) and
    stored in ``out`` (default: the cache)."""
    target = cache_directory() / "classifiers" if out is None else Path(out)
    folders = [*search_path(), target] if out is None else [target]

    def train(state: Path) -> tuple[Classifier, dict]:
        trained = classify(
            config,
            checkpoint,
            source,
            device=device,
            state=state,
            progress=progress,
            save_every=save_every,
        )
        record = {
            "tier": tier_name,
            "config": config.to_dict(),
            "seconds": round(trained.seconds, 1),
            "curve": trained.curve(),
            **provenance(next(trained.model.parameters()).device),
        }
        return trained.model, record

    return obtain_once(
        StoredClassifier,
        config,
        target,
        lambda: find_stored(StoredClassifier, config, folders),
        train,
    )


@torch.no_grad()
def evaluate_classifier(
    model: Classifier, sets: dict[str, tuple[ImageSource, Tensor]], batch: int = 250
) -> dict[str, Interval]:
    """Top-1 accuracy in [0, 1] on each set, with its interval over images.

    Args:
        model: in eval mode. sets: name → (images, bool [K, C]: whether class c counts as right for
            label k), as `mae_lib.evaluation.inputs.probe_sources` opens them.
    """
    device, found = next(model.parameters()).device, {}
    for name, (source, accepts) in sets.items():
        logits = torch.cat(
            [
                model(normalise_pixels(source.images(index)).to(device)).float().cpu()
                for index in torch.arange(len(source)).split(batch)
            ]
        )
        scored = accepts[source.labels].any(1)
        hit = right(logits[scored], source.labels[scored], accepts)
        found[f"top1/{name}"] = bootstrap(hit.double())
    return found


def _sets(
    config: ClassifyConfig, options: Options, images: int | None
) -> dict[str, tuple[ImageSource, Tensor]]:
    """What `evaluate_classifier` takes, at most ``images`` of each set."""
    model = config.model
    return {
        name: (
            source if images is None or images >= len(source) else Subset(source, images),
            accepts,
        )
        for name, (source, accepts) in probe_sources(
            options, model.image_size, model.channels
        ).items()
    }


def identity(
    config: ClassifyConfig, tier_name: str, options: Options, images: int | None = None
) -> dict:
    """The part of a record that is known before anything is trained. ``images``: of each set, at
    most. InputError for sets that the classifier cannot be scored on."""
    sets = _sets(config, options, images)
    classes = tuple(sets["validation"][0].classes)
    if classes != config.classes:
        raise InputError(
            f"the validation images have {len(classes)} classes, the training images"
            f" {len(config.classes)}: give both the same class folders"
        )
    data = {"train": config.data} | {
        name: source.identity | {"accepts": _digest(accepts.int().tolist())}
        for name, (source, accepts) in sets.items()
    }
    return {
        "kind": "classification",
        "name": config.name,
        "hash": config.hash,
        "run": config.origin or f"scratch-p{config.model.patch}",
        "seed": config.seed,
        "tier": tier_name,
        "config": config.to_dict(),
        "settings": {"images": images},
        "data": data,
        "key": _digest(["classification", config.hash, data]),
    }


def record_of(stored: StoredClassifier, options: Options, images: int | None = None) -> dict:
    """The record of a stored classifier: who it is, its measures ``top1/SET``, the seconds they
    took, the minutes of its training, and provenance."""
    device, began = resolve_device(options.device), time.perf_counter()
    measures = evaluate_classifier(stored.load(device), _sets(stored.config, options, images))
    return identity(stored.config, stored.record["tier"], options, images) | {
        "weights": stored.record["digest"],
        "measures": {name: interval.to_dict() for name, interval in measures.items()},
        "seconds": round(time.perf_counter() - began, 1),
        "minutes": round(stored.record["seconds"] / 60, 2),
        **provenance(device),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
