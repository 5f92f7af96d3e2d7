"""One model by every measure (chapter 14): what its record knows, what can be measured of it on the
images that are given, and what cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval
from mae_lib.base.tables import Table
from mae_lib.data.sources import image_source
from mae_lib.evaluation.evaluate import evaluate
from mae_lib.evaluation.inputs import Options
from mae_lib.training.store import Checkpoint, find
from mae_lib.training.tiers import tier as sizes_of

KINDS = {
    "reconstruction": ("readout/ssim", "readout/psnr", "masked/mse"),
    "attention": ("cls/lift", "shuffled/cls/lift", "entropy", "distance"),
    "separability": ("mean/purity", "mean/silhouette"),
    "probe": ("mean/validation", "cls/validation", "pixels/validation"),
    "knn": ("mean/validation", "cls/validation"),
    "shape_bias": ("mean/bias", "mean/accuracy"),
    "latents": ("mean/class", "mean/position", "pixels/class", "untrained/class"),
}
"""kind → the measures that the table shows, the model's own first, then its controls."""


def ours(tier: str) -> Path:
    """The shipped model at ratio 0.75. InputError where the tier's is not at hand."""
    sizes = sizes_of(tier)
    config = sizes.config(image_source(None, "train", sizes.model.image_size).identity, 0.75)
    stored = find(config)
    if stored is None:
        raise InputError(
            f"the {tier} tier's model at ratio 0.75 is not at hand: name a checkpoint, or make it"
            f" by `mae pretrain --tier {tier} --ratio 0.75`"
        )
    return stored.path


def known(stored: Checkpoint) -> Table:
    """What the record says of a model, and what it does not know."""
    config = stored.config
    said = lambda value, unit="": "unknown" if value is None else f"{value}{unit}"
    sizes, trained = config.model, bool(stored.record["curve"]["step"])
    rows = [
        ["name", config.name],
        ["images", "×".join(map(str, (sizes.channels, *sizes.image_size))) + " px"],
        ["ViT patch", f"{sizes.patch} px"],
        ["encoder", f"{sizes.depth} blocks of width {sizes.width}, {sizes.heads} heads"],
        ["decoder", f"{sizes.decoder_depth} blocks" if sizes.has_decoder else "none"],
        ["masking ratio", said(config.ratio)],
        ["steps", said(config.steps if trained else None)],
        ["from", stored.record["config"].get("source", {}).get("library", "trained here")],
    ]
    return Table(["", "the model"], rows)


def measure(stored: Checkpoint, options: Options) -> tuple[dict[str, dict], dict[str, str]]:
    """kind → measures, of every evaluation of `KINDS` that this model and these images allow; and
    kind → why not, of the others."""
    found, refused = {}, {}
    for kind in KINDS:
        own = options if kind == "shape_bias" else replace(options, stimuli=None)
        try:
            found[kind] = evaluate(kind, stored, own)["measures"]
        except InputError as error:
            refused[kind] = str(error)
    return found, refused


def table(found: dict[str, dict]) -> Table:
    """A row a measure, with its interval over images."""
    return Table(
        ["measure of", "name", "value [95 % interval over images]"],
        [
            [kind, name, format(Interval.from_dict(measures[name]), ".3f")]
            for kind, measures in found.items()
            for name in KINDS[kind]
            if name in measures
        ],
    )


def refusals(refused: dict[str, str]) -> Table | str:
    """What cannot be asked, and why."""
    if not refused:
        return "nothing was left out"
    return Table(["cannot be asked", "because"], [list(pair) for pair in refused.items()])
