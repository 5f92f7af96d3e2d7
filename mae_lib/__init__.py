"""Masked autoencoders as hierarchical latent variable models: the library under the executable
book.

Twelve wings, each a folder whose ``__init__`` says what lives there; a wing imports only from those
before it: ``base``, ``masks``, ``theory`` (§2.1), ``identification`` (§2.3), ``model`` (§2.2),
``worlds``, ``data``, ``training`` (§3), ``evaluation`` (§3.1–§3.4), ``detection`` (§3.5),
``drawing``, ``commands``. What people need most is importable from here, and loaded when it is
first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mae_lib.evaluation.reconstruction import scores as scores
    from mae_lib.evaluation.shape_bias import shape_bias as shape_bias
    from mae_lib.masks.masking import MaskSpec as MaskSpec
    from mae_lib.model.autoencoder import MaskedAutoencoder as MaskedAutoencoder
    from mae_lib.model.autoencoder import ModelConfig as ModelConfig
    from mae_lib.theory.graph import LatentGraph as LatentGraph
    from mae_lib.theory.shared import locate_shared as locate_shared
    from mae_lib.theory.shared import locate_shared_batch as locate_shared_batch
    from mae_lib.theory.worth import context_gain as context_gain
    from mae_lib.theory.worth import height_shares as height_shares
    from mae_lib.training.store import load as load
    from mae_lib.training.store import load_or_pretrain as load_or_pretrain

__version__ = "0.1.0"

_FACE = {
    "LatentGraph": "mae_lib.theory.graph",
    "MaskSpec": "mae_lib.masks.masking",
    "MaskedAutoencoder": "mae_lib.model.autoencoder",
    "ModelConfig": "mae_lib.model.autoencoder",
    "context_gain": "mae_lib.theory.worth",
    "height_shares": "mae_lib.theory.worth",
    "load": "mae_lib.training.store",
    "load_or_pretrain": "mae_lib.training.store",
    "locate_shared": "mae_lib.theory.shared",
    "locate_shared_batch": "mae_lib.theory.shared",
    "scores": "mae_lib.evaluation.reconstruction",
    "shape_bias": "mae_lib.evaluation.shape_bias",
}
"""Public name → the module that it lives in."""

__all__ = sorted(_FACE)


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'mae_lib' has no attribute {name!r}")
    found = getattr(importlib.import_module(_FACE[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACE})
