"""Detectors that are kept (§3.5): find one, load it, else fine-tune it, and the record of what it
scores. As with checkpoints, a detector is two files, ``NAME-HASH.safetensors`` and
``NAME-HASH.json``, that count only if the weights' digest is the one the JSON states; two processes
that want the same one train it once.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.models.detection import MaskRCNN

from mae_lib.base.errors import InputError
from mae_lib.base.files import cache_directory
from mae_lib.base.intervals import Interval
from mae_lib.base.provenance import provenance
from mae_lib.data.coco import CocoFolder
from mae_lib.detection.average_precision import Detections, average_precision
from mae_lib.detection.config import DetectorConfig, FinetuneConfig
from mae_lib.detection.finetune import finetune
from mae_lib.detection.mask_rcnn import detect, detector
from mae_lib.model.autoencoder import MaskedAutoencoder
from mae_lib.training.once import obtain_once
from mae_lib.training.pretrain import resolve_device
from mae_lib.training.store import Checkpoint, thin_curve
from mae_lib.training.stored import Stored, find_stored, read_stored, search_path
from mae_lib.training.tiers import run_name, tier

DETECT_BATCH = 16


@dataclass(frozen=True)
class StoredDetector(Stored):
    """A stored detector; its record also says which ``run`` of the ledger it starts from."""

    what = "detector"
    mark = "detector"

    @staticmethod
    def config_of(values: dict) -> FinetuneConfig:
        return FinetuneConfig.from_dict(values)

    def fresh(self) -> MaskRCNN:
        config = self.config
        return detector(config.detector, MaskedAutoencoder(config.model), len(config.classes))


def read_detector(path: str | Path) -> StoredDetector:
    """The detector at ``path``: see :func:`mae_lib.training.stored.read_stored`."""
    return read_stored(StoredDetector, path)


def find_detector(
    config: FinetuneConfig, folder: str | Path | None = None
) -> StoredDetector | None:
    """The detector of ``config`` in ``folder`` (default: the project's checkpoints and the cache),
    or None: see :func:`mae_lib.training.stored.find_stored`."""
    return find_stored(
        StoredDetector,
        config,
        [*search_path(), cache_directory() / "detectors"] if folder is None else [Path(folder)],
    )


def obtain_detector(
    config: FinetuneConfig,
    checkpoint: Checkpoint | None,
    folder: CocoFolder,
    *,
    tier_name: str,
    device: str = "auto",
    out: str | Path | None = None,
    progress: bool = True,
    save_every: float = 60.0,
) -> StoredDetector:
    """The detector of ``config``: as it is stored, else trained (or its training resumed) and
    stored in ``out`` (default: the cache).

    Under `torchrun` every process calls it; the first one looks, locks and stores, and all train.
    Arguments as in :func:`mae_lib.finetune.finetune`.
    """
    target = cache_directory() / "detectors" if out is None else Path(out)

    def train(state: Path) -> tuple[MaskRCNN, dict]:
        trained = finetune(
            config,
            checkpoint,
            folder,
            device=device,
            state=state,
            save_every=save_every,
            progress=progress,
        )
        record = {
            "tier": tier_name,
            "run": run_of(config, checkpoint, tier_name),
            "config": config.to_dict(),
            "seconds": round(trained.seconds, 1),
            "images_per_second": round(config.steps * config.batch / max(trained.seconds, 1e-9), 1),
            "curve": thin_curve(trained.losses),
            **provenance(next(trained.model.parameters()).device),
        }
        return trained.model, record

    return obtain_once(StoredDetector, config, target, lambda: find_detector(config, out), train)


def run_of(config: FinetuneConfig, checkpoint: Checkpoint | None, tier_name: str) -> str:
    """The place in the ledger: the pretraining's, or ``scratch`` (``scratch-small`` with the size
    sweep's ViT patch)."""
    if checkpoint is None:
        sizes = tier(tier_name).at(config.model.image_size[0])
        return (
            "scratch-small"
            if config.model.patch == sizes.small_patch != sizes.model.patch
            else "scratch"
        )
    try:
        return run_name(checkpoint.config, checkpoint.record["tier"])
    except InputError:
        return checkpoint.config.family


# --------------------------------------------------------------------------------------------------
# Configs and records


def finetune_config(
    folder: CocoFolder,
    checkpoint: Checkpoint | None = None,
    tier_name: str = "laptop",
    patch: int | None = None,
    image_size: int | None = None,
    anchors: Sequence[float] = (),
    proposals: int | None = None,
    seed: int | None = None,
    **changes,
) -> FinetuneConfig:
    """One fine-tuning at a tier's sizes.

    Args:
        folder: the training images. checkpoint: the pretrained encoder; None: from scratch, with
            the tier's encoder and a ViT patch of ``patch`` pixels (default: the ratio sweep's).
            image_size: of the detector, the images' longer side. anchors: one side a level of the
            pyramid, pixels; by default the tier's, scaled as the images are. proposals: an image;
            how many enter the losses grows with it.
        seed: default: the checkpoint's own, 0 from scratch and for imported weights. changes:
            other fields of :class:`FinetuneConfig`; None leaves the tier's value.
    """
    sizes = tier(tier_name)
    own = sizes.detection
    fields = (
        dict(own["training"])
        | (dict(own["scratch"]) if checkpoint is None else {})
        | {k: v for k, v in changes.items() if v is not None}
    )
    shape = dict(own["detector"])
    if image_size is not None and image_size != shape["image_size"]:
        factor = image_size / shape["image_size"]
        shape |= {
            "image_size": image_size,
            "anchors": tuple(side * factor for side in shape["anchors"]),
            "canonical": shape["canonical"] * factor,
        }
    if anchors:
        shape["anchors"] = tuple(anchors)
    if proposals is not None:
        shape |= {
            "roi_samples": max(1, round(shape["roi_samples"] * proposals / shape["post_nms"])),
            "pre_nms": proposals,
            "post_nms": proposals,
        }
    if checkpoint is not None:
        model, start = (
            checkpoint.config.model,
            {"pretrained": checkpoint.record["digest"], "origin": checkpoint.config.name},
        )
    else:
        model, start = sizes.config({"kind": "world"}, unit=patch, patch=patch).model, {}
    own_seed = 0 if checkpoint is None else checkpoint.config.seed
    chosen = (own_seed or 0) if seed is None else seed  # an imported model's is unknown
    return FinetuneConfig(
        model=model,
        detector=DetectorConfig(**shape),
        classes=folder.classes,
        data=folder.identity,
        seed=chosen,
        **start,
        **fields,
    )


class _Found(Sequence):
    """A detector's detections in some images of a folder, made as they are asked for: the masks of
    one batch are in memory, never all."""

    def __init__(self, model: MaskRCNN, folder: CocoFolder, indices: Sequence[int]) -> None:
        self.model, self.folder, self.indices = model, folder, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, k: int) -> Detections:
        return detect(self.model, [self.folder.image(self.indices[k])])[0]

    def __iter__(self) -> Iterator[Detections]:
        for start in range(0, len(self), DETECT_BATCH):
            yield from detect(
                self.model,
                [self.folder.image(i) for i in self.indices[start : start + DETECT_BATCH]],
            )


def evaluate_detector(
    model: MaskRCNN, folder: CocoFolder, images: int | None = None
) -> dict[str, Interval]:
    """COCO's numbers of a detector on the first ``images`` images of a folder (default: all), in
    [0, 1]; what COCO leaves undefined is left out.

    An interval over seeds needs several detectors; one has none.
    """
    indices = range(min(len(folder), images or len(folder)))
    scores = average_precision(folder, _Found(model, folder, indices), indices)
    return {
        name: Interval(value, math.nan, math.nan, len(indices))
        for name, value in scores.items()
        if not math.isnan(value)
    }


def identity(
    config: FinetuneConfig,
    run: str,
    tier_name: str,
    validation: CocoFolder,
    images: int | None = None,
) -> dict:
    """The part of a record that is known before anything is trained. ``run``: see :func:`run_of`.
    InputError for classes that are not the config's."""
    if validation.classes != config.classes:
        raise InputError(
            f"{validation.annotations.name} numbers its classes unlike the training images: open it"
            " with their classes"
        )
    settings = {"images": min(len(validation), images or len(validation))}
    data = {"train": config.data, "validation": validation.identity}
    key = hashlib.sha256(
        json.dumps(["detection", config.hash, settings, data], sort_keys=True).encode()
    ).hexdigest()[:16]
    return {
        "kind": "detection",
        "name": config.name,
        "hash": config.hash,
        "run": run,
        "seed": config.seed,
        "tier": tier_name,
        "config": config.to_dict(),
        "settings": settings,
        "data": data,
        "key": key,
    }


def record_of(
    stored: StoredDetector, validation: CocoFolder, images: int | None = None, device: str = "auto"
) -> dict:
    """The record of a stored detector: who it is (as in :func:`mae_lib.evaluate.evaluate`), its
    measures, seconds of the evaluation, minutes of the training, and provenance."""
    began = time.perf_counter()
    measures = evaluate_detector(stored.load(resolve_device(device)), validation, images)
    return identity(
        stored.config, stored.record["run"], stored.record["tier"], validation, images
    ) | {
        "weights": stored.record["digest"],
        "measures": {name: interval.to_dict() for name, interval in measures.items()},
        "seconds": round(time.perf_counter() - began, 1),
        "minutes": round(stored.record["seconds"] / 60, 2),
        **provenance(resolve_device(device)),
    }
