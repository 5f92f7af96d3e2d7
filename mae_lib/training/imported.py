"""What is known of a model whose weights come from elsewhere: `ImportedConfig`, which stands where
a `PretrainConfig` stands for a model that was trained here. What nobody told stays unknown.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from mae_lib.base.errors import InputError
from mae_lib.masks.masking import MaskSpec
from mae_lib.model.sizes import ModelConfig


@dataclass(frozen=True)
class ImportedConfig:
    """An imported model, completely.

    Attributes:
        model: its sizes. source: where it came from, as plain JSON values: ``library``, ``file``,
            ``sha256`` of that file, and how what the weights do not say was settled. name: of the
            checkpoint.
        ratio: share of patches that was hidden in its training, in (0, 1), where the file or the
            user told; None: unknown.
        data, seed: unknown, always.
    """

    model: ModelConfig
    source: dict
    name: str
    ratio: float | None = None
    data: ClassVar[dict] = {"kind": "unknown"}
    seed: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.ratio is not None:
            object.__setattr__(self, "ratio", float(self.ratio))
            _ = self.mask  # its own checks

    @property
    def family(self) -> str:
        """The name: there are no seeds of it."""
        return self.name

    @property
    def unit(self) -> int:
        """Mask unit in pixels: the ViT patch, in every masked autoencoder that can be imported."""
        return self.model.patch

    @property
    def mask(self) -> MaskSpec:
        """The law of its masks; InputError where the ratio is unknown."""
        if self.ratio is None:
            raise InputError(
                f"nobody knows at which masking ratio {self.name} was trained: import it again with"
                " --ratio, if you do"
            )
        return MaskSpec(self.model.grid, self.ratio)

    @cached_property
    def hash(self) -> str:
        """16 hex digits of SHA-256 over all of :meth:`to_dict`."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict:
        """As plain JSON values; :meth:`from_dict` undoes it."""
        return {
            "name": self.name,
            "model": self.model.to_dict(),
            "source": self.source,
            "ratio": self.ratio,
        }

    @classmethod
    def from_dict(cls, values: dict) -> ImportedConfig:
        """The config whose :meth:`to_dict` is ``values``; InputError for unknown or missing
        fields."""
        try:
            model = ModelConfig.from_dict(values["model"])
            return cls(**values | {"model": model, "ratio": values["ratio"]})
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"not an imported model's config of this version of mae_lib: {error}"
            ) from error
