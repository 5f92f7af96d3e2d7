"""The `paper` tier is the recipe that the book's table says it is."""

from __future__ import annotations

import math
import re
from pathlib import Path

from mae_lib.training.loop import learning_rate
from mae_lib.training.tiers import RATIOS, SIZE_RATIO, tier

PAGE = Path(__file__).resolve().parents[3] / "book" / "scaling.md"
DATA = {"kind": "folder", "image_size": [224, 224], "images": 1281167}


def table() -> dict[str, str]:
    rows = re.findall(
        r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$",
        PAGE.read_text(encoding="utf-8").split("number by number")[1],
        re.MULTILINE,
    )
    return {name.strip(): value.strip() for name, value in rows[1:]}


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text.replace("ViT-B", ""))]


def test_every_number_of_the_table_is_the_tiers() -> None:
    sizes, said = tier("paper"), table()
    config, model = sizes.config(DATA), sizes.model
    assert numbers(said["backbone"]) == [model.width, model.depth, model.heads]
    assert numbers(said["ViT patch"]) == [model.patch, sizes.small_patch] and numbers(
        said["masking ratios"]
    ) == list(RATIOS)
    assert (
        numbers(said["mask units"]) == [*sizes.units, SIZE_RATIO]
        and (224, 224) == model.image_size == (numbers(said["image size"])[0],) * 2
    )
    assert (
        numbers(said["decoder"]) == [model.decoder_width, model.decoder_depth, model.decoder_heads]
        and model.normalise_target
    )
    assert numbers(said["optimiser"]) == list(config.betas) and numbers(said["weight decay"]) == [
        config.weight_decay
    ]
    assert (
        numbers(said["learning rate"]) == [config.base_lr, 256]
        and config.learning_rate == config.base_lr * 16
        and numbers(said["batch"]) == [config.batch]
    )
    share, warm, epochs = numbers(said["warm-up"])
    assert share == config.warmup == warm / epochs
    steps, again, millions, thousands, ones = numbers(said["steps"])
    assert (
        steps == config.steps
        and again == epochs
        and config.steps
        == math.ceil(epochs * (millions * 1e6 + thousands * 1e3 + ones) / config.batch)
    )
    assert (
        numbers(said["crops"]) == [config.crop, 1]
        and config.flip
        and config.crop_from == "file"
        and said["precision"] == config.precision
    )
    assert learning_rate(config, config.steps - 1) < 1e-6 * config.learning_rate


def test_the_decoder_is_the_same_for_all_eight() -> None:
    halves = tier("paper").sweep(DATA)
    assert (
        len(
            {
                (c.model.decoder_width, c.model.decoder_depth, c.model.decoder_heads)
                for half in halves.values()
                for c in half
            }
        )
        == 1
    )
