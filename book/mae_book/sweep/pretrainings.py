"""The pretrainings that cells need, of the sweep and of §3.6's designs, each with its command."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from mae_book.sweep.cell import Cell, Command
from mae_lib.data.sources import image_source
from mae_lib.identification.image_groups import estimate_groups
from mae_lib.training import tiers
from mae_lib.training.config import PretrainConfig
from mae_lib.training.tiers import Tier, run_name


@dataclass(frozen=True)
class Pretraining:
    """A pretraining of the list: where its record lies, and what is trained on which folder (None:
    the embedded world)."""

    data: str
    tier: str
    config: PretrainConfig
    folder: str | None = None

    @property
    def stem(self) -> str:
        return f"{self.config.name}-{self.config.hash}"

    @property
    def where(self) -> Command:
        return () if self.folder is None else ("--data", self.folder)

    @property
    def words(self) -> Command:
        """The command that trains it: what differs from the tier's own."""
        config, sizes = self.config, tiers.tier(self.tier)
        side = config.model.image_size[0]
        own = sizes.at(side).config(config.data)
        words = ["mae", "pretrain", "--tier", self.tier, *self.where]
        words += ["--image-size", side] if side != sizes.model.image_size[0] else []
        words += ["--ratio", config.ratio] if config.ratio != own.ratio else []
        words += ["--patch", config.model.patch] if config.model.patch != own.model.patch else []
        words += ["--unit", config.unit] if config.unit != config.model.patch else []
        words += ["--design", config.design] if config.design != "random" else []
        words += ["--groups", len(set(config.groups))] if config.groups else []
        words += ["--margin", config.margin] if config.margin else []
        words += ["--strict"] if config.strict else []
        words += ["--steps", config.steps] if config.steps != own.steps else []
        words += ["--batch", config.batch] if config.batch != own.batch else []
        words += ["--base-lr", config.base_lr] if config.base_lr != own.base_lr else []
        words += (
            ["--decoder-depth", config.model.decoder_depth]
            if config.model.decoder_depth != own.model.decoder_depth
            else []
        )
        return tuple(map(str, (*words, "--seed", config.seed)))

    def cell(self) -> Cell:
        return Cell(
            "pretraining", self.data, self.config.name, self.config.hash, (), (), self.words
        )


def sweep_of(sizes: Tier, data: dict, seed: int) -> dict[str, PretrainConfig]:
    """run → config of the paper's eight."""
    return {
        run_name(config, sizes.name): config
        for half in sizes.sweep(data, seed).values()
        for config in half
    }


def designs_of(sizes: Tier, data: dict, seed: int) -> list[PretrainConfig]:
    """The arms of §3.6 beside the sweep's own: margins on contiguous and on scattered masks, and
    masks that follow parts, the object, or groups."""
    patch = sizes.model.patch
    arms = [
        {"unit": 2 * patch},
        {"unit": 2 * patch, "margin": patch},
        {"unit": 2 * patch, "margin": patch // 2, "strict": True},
        {"margin": patch // 2},
        {"design": "parts"},
        {"design": "object"},
        {"design": "groups", "groups": estimated_groups(sizes.name)},
    ]
    return [sizes.config(data, seed=seed, **arm) for arm in arms]


@lru_cache(maxsize=4)
def estimated_groups(tier_name: str) -> tuple[int, ...]:
    model = tiers.tier(tier_name).model
    return estimate_groups(image_source(None, "train", model.image_size), model.patch, GROUPS)


GROUPS = 8
"""Groups of patches of the pretraining whose masks follow a structure estimated from the images
(§3.6)."""
