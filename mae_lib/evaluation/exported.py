"""Features as a file that can be carried away: everything that the evaluations of frozen features
read, with a record of the weights and images that it is of; and these evaluations on such a file.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.files import DamagedFile, TakenName, write_json
from mae_lib.base.provenance import provenance
from mae_lib.base.tensors import read_safetensors, write_safetensors
from mae_lib.evaluation.evaluate import cued, identity, probed
from mae_lib.evaluation.features import Features
from mae_lib.evaluation.inputs import Options, digest
from mae_lib.evaluation.probe import evaluate_probe
from mae_lib.evaluation.probes.few_labels import evaluate_few_labels
from mae_lib.evaluation.probes.knn import evaluate_knn
from mae_lib.evaluation.separability import evaluate_separability
from mae_lib.evaluation.shape_bias import category_groups, evaluate_shape_bias
from mae_lib.training.pretrain import resolve_device
from mae_lib.training.store import Checkpoint

CUES = "stimuli"
"""Name of the cue-conflict stimuli among the sets of a file."""
_OWN = "world"  # their identity where the embedded world draws them


@dataclass(frozen=True)
class Exported:
    """A file of features: its ``record``; ``train``, the features that a classifier learns from;
    ``sets``, name → (features, which classes count as right for each label), of those that it is
    scored on; and of cue-conflict ``stimuli`` (features, shape, texture), or None."""

    record: dict
    train: Features
    sets: dict[str, tuple[Features, Tensor]]
    stimuli: tuple[Features, Tensor, Tensor] | None


def export_features(checkpoint: Checkpoint, options: Options, out: Path) -> Path:
    """Writes the features of one model into ``out``, a .safetensors, and their record beside it
    as .json.

    Sets: training images, validation images, and shifted sets; cue-conflict stimuli where
    ``options.stimuli`` names some, and on the embedded world, which brings its own.

    Raises:
        InputError: a name of another kind, or one that is taken; data that cannot be opened.
    """
    out = out.expanduser()
    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: give the file a name that ends in .safetensors")
    for file in (out, out.with_suffix(".json")):
        if file.exists():
            raise TakenName(f"{file} is there already, and is not replaced: give another name")
    read = {"data": options.data, "train_images": options.train_images}
    of = identity("knn", checkpoint, Options(shifted=options.shifted, neighbours=1, **read))
    data = dict(of["data"])
    if options.stimuli is not None:
        cues = identity("shape_bias", checkpoint, Options(stimuli=options.stimuli, **read))
        data[CUES] = cues["data"][CUES]
    elif options.data is None:
        data[CUES] = _OWN
    train, sets = probed(checkpoint, options)
    tensors = _tensors("train", train)
    for name, (found, accepts) in sets.items():
        tensors |= _tensors(name, found) | {f"{name}/accepts": accepts}
    if CUES in data:
        _, found, shape, texture = cued(checkpoint, options)
        tensors |= _tensors(CUES, found) | {f"{CUES}/shape": shape, f"{CUES}/texture": texture}
    written = write_safetensors(out, tensors, {"weights": checkpoint.record["digest"]}, False)
    record = {
        "kind": "features",
        **{name: of[name] for name in ("name", "hash", "run", "seed", "tier", "config")},
        "weights": checkpoint.record["digest"],
        "digest": written,
        "settings": {"train_images": options.train_images},
        "data": data,
        "classes": list(train.classes),
        "sets": list(sets),
        **provenance(resolve_device(options.device)),
    }
    write_json(out.with_suffix(".json"), record, replace=False)
    return out


def _tensors(name: str, found: Features) -> dict[str, Tensor]:
    return {f"{name}/{part}": getattr(found, part) for part in ("mean", "cls", "labels")}


def read_exported(path: Path) -> Exported:
    """The features in a file of :func:`export_features`; InputError for another file, DamagedFile
    where the two halves do not belong together."""
    path = path.expanduser()
    record_file = path.with_suffix(".json")
    for file in (path, record_file):
        if not file.is_file():
            raise InputError(f"no features at {path}: {file.name} is missing")
    tensors, metadata = read_safetensors(path)
    try:
        record = json.loads(record_file.read_text(encoding="utf-8"))
        if record["kind"] != "features":
            raise InputError(f"{record_file.name} is no record of `mae features`: name its file")
        if record["digest"] != metadata["digest"]:
            raise DamagedFile(f"{record_file.name} is not of the features beside it")
        classes = tuple(record["classes"])

        def features(name: str) -> Features:
            return Features(*(tensors[f"{name}/{p}"] for p in ("mean", "cls", "labels")), classes)

        stimuli = None
        if CUES in record["data"]:
            cues = (tensors[f"{CUES}/shape"], tensors[f"{CUES}/texture"])
            stimuli = (features(CUES), *cues)
        sets = {name: (features(name), tensors[f"{name}/accepts"]) for name in record["sets"]}
        return Exported(record, features("train"), sets, stimuli)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise DamagedFile(f"{record_file} is damaged: {error}") from error


def evaluate_exported(kind: str, exported: Exported, options: Options) -> dict:
    """The record of one evaluation of frozen features, as :func:`mae_lib.evaluation.evaluate`
    makes it, but without the controls that need images.

    Args:
        kind: probe, few_labels, knn, separability or shape_bias. options: its ``seed``,
            ``neighbours`` and ``device`` count.

    Raises:
        InputError: another kind, or a file without what it needs.
    """
    train, sets, seed, began = exported.train, exported.sets, options.seed, time.perf_counter()
    if kind == "separability":
        measures = evaluate_separability(sets["validation"][0], seed=seed)
    elif kind == "probe":
        measures = evaluate_probe(train, sets, seed, options.device)
    elif kind == "few_labels":
        measures = evaluate_few_labels(train, sets, seed, options.device)
    elif kind == "knn":
        measures = evaluate_knn(train, sets, options.neighbours, seed)
    elif kind == "shape_bias" and exported.stimuli is not None:
        groups = None if exported.record["data"][CUES] == _OWN else category_groups()
        measures = evaluate_shape_bias(train, *exported.stimuli, groups, seed, options.device)
    elif kind == "shape_bias":
        raise InputError("this file of features has no stimuli: export it with --stimuli")
    else:
        raise InputError(
            f"{kind} looks at the model or at the images themselves, not at features alone: run it"
            " with --checkpoint"
        )
    of = exported.record
    settings = of["settings"] | {"seed": seed}
    settings |= {"neighbours": options.neighbours} if kind == "knn" else {}
    return {
        "kind": kind,
        **{name: of[name] for name in ("name", "hash", "run", "seed", "tier", "config")},
        "settings": settings,
        "data": of["data"],
        "key": digest([kind, "features", of["digest"], settings]),
        "measures": {name: found.to_dict() for name, found in measures.items()},
        "seconds": round(time.perf_counter() - began, 1),
        **provenance(resolve_device(options.device)),
    }
