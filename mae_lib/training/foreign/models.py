"""Weights from elsewhere as a checkpoint: a `MaskedAutoencoder` whose features, reconstructions and
loss are those of the library that the weights come from, up to rounding.

A patch's convolution becomes a product with the flattened patch. The [CLS] token takes its position
in. The decoder's [CLS] position goes into the bridge, from where all tokens have it, and is taken
off the others' positions. The prediction's numbers are put into our order. Positions and the
library's normalisation of pixels are kept with the weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.provenance import provenance
from mae_lib.model.autoencoder import MaskedAutoencoder, ModelConfig
from mae_lib.training.config import ImportedConfig
from mae_lib.training.foreign.files import Said, Source, read_source
from mae_lib.training.store import Checkpoint, find
from mae_lib.training.stored import require_free, store_model

HEADS = {(768, 12): 12, (1024, 24): 16, (1280, 32): 16, (512, 8): 16}
"""(width, depth) → attention heads of Meta's encoders (ViT-B, -L, -H) and of their decoder: tensors
do not show how many heads share them."""

NOTHING = Said()


@dataclass(frozen=True)
class Told:
    """What the user tells of a source; None: what the source says of itself.

    Attributes:
        pickled: whether a pickle may be opened, for its tensors alone.
        image_size: (H, W) in pixels, patch: in pixels. Other ones than the source's are reached by
            timm's bicubic resampling of positions and patch embedding, and by nothing else.
        known: what else the user knows of it.
        encoder_only: leave its decoder out.
    """

    pickled: bool = False
    image_size: tuple[int, int] | None = None
    patch: int | None = None
    known: Said = NOTHING
    encoder_only: bool = False


def import_weights(source: str | Path, folder: str | Path, told: Told = Told()) -> Checkpoint:
    """Weights from elsewhere as a checkpoint in ``folder``; what was imported there before is not
    made again.

    Args:
        source: a file of timm's or Meta's tensors, or a folder of transformers or timm, as
            :func:`mae_lib.training.foreign.files.read_source` takes it.

    Returns:
        the checkpoint. Its config is an `ImportedConfig`, its record lists what is ``unknown``.

    Raises:
        InputError: what cannot be read, another architecture, missing or further tensors, sizes
            that do not fit, or something that is needed and nobody says.
    """
    config, model = read_foreign(source, told)
    folder = Path(folder).expanduser()
    require_free(Checkpoint, config, folder)
    if (there := find(config, [folder])) is not None:
        return there
    record = {
        "tier": "imported",
        "config": config.to_dict(),
        "unknown": ["data", "steps", "seed", *(["ratio"] if config.ratio is None else [])],
        "curve": {"step": [], "loss": []},
        **provenance(),
    }
    return store_model(Checkpoint, model, config, folder, record)


def read_foreign(
    source: str | Path, told: Told = Told()
) -> tuple[ImportedConfig, MaskedAutoencoder]:
    """What :func:`import_weights` stores, and nothing written: the config, and the model, in eval
    mode. Errors as there."""
    found = read_source(source, told.pickled)
    if told.encoder_only:
        kept = {k: v for k, v in found.tensors.items() if not k.startswith(_OF_DECODER)}
        found = replace(found, tensors=kept)
    _check_names(found)
    tensors, size, resampled = _resampled(found, told)
    sizes, ratio, settled = _sizes(replace(found, tensors=tensors), told.known, size)
    model = MaskedAutoencoder(sizes)
    try:
        model.load_state_dict(_ours(tensors, sizes))
    except RuntimeError as error:
        raise InputError(
            f"{found.file.name} holds tensors that do not fit together"
            f" ({str(error).splitlines()[-1].strip()}): it is damaged, or of another architecture"
        ) from error
    origin = {
        "library": found.library,
        "file": found.file.name,
        "sha256": found.sha256,
        "settled": settled,
        "resampled": resampled,
    }
    name = f"{found.library}-{re.sub(r'[^A-Za-z0-9_]+', '-', found.name).strip('-')}"
    return ImportedConfig(sizes, origin, name, ratio), model.eval()


# --------------------------------------------------------------------------------------------------
# Names

_OF_DECODER = ("decoder_", "mask_token")
_DIMENSIONS = {
    "patch_embed.proj.weight": 4,
    "cls_token": 3,
    "pos_embed": 3,
    "mask_token": 3,
    "decoder_pos_embed": 3,
}
_LAYERS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


def _both(*layers: str) -> set[str]:
    return {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def _depth(tensors: Mapping[str, Tensor], blocks: str) -> int:
    """How many blocks there are: the first number that none has."""
    found = {match[1] for name in tensors if (match := re.match(rf"{blocks}\.(\d+)\.", name))}
    return next(k for k in range(len(found) + 1) if str(k) not in found)


def _has_decoder(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(_OF_DECODER) for name in tensors)


def _check_names(source: Source) -> None:
    """InputError unless the tensors are those of an MAE's encoder, with or without its decoder."""
    tensors, file = source.tensors, source.file.name
    if "patch_embed.proj.weight" not in tensors or not _depth(tensors, "blocks"):
        raise InputError(
            f"{file} is no ViT: it has no patch_embed.proj and blocks; the weights of timm's,"
            " transformers' and Meta's masked autoencoders can be imported"
        )
    wanted = {"cls_token", "pos_embed"} | _both("patch_embed.proj", "norm")
    for block in range(_depth(tensors, "blocks")):
        wanted |= _both(*(f"blocks.{block}.{layer}" for layer in _LAYERS))
    if _has_decoder(tensors):
        wanted |= {"mask_token", "decoder_pos_embed"}
        wanted |= _both("decoder_embed", "decoder_norm", "decoder_pred")
        for block in range(max(1, _depth(tensors, "decoder_blocks"))):
            wanted |= _both(*(f"decoder_blocks.{block}.{layer}" for layer in _LAYERS))
    lacks, more = sorted(wanted - set(tensors)), sorted(set(tensors) - wanted)
    if lacks:
        raise InputError(
            f"{file} lacks {_listed(lacks)}: it is cut short, or of another architecture"
        )
    if more:
        raise InputError(
            f"{file} also holds {_listed(more)}: it is of another architecture, or a classifier,"
            " which is to be exported without its head"
        )
    for name, tensor in tensors.items():
        vector = name.endswith("bias") or "norm" in name
        wanted = _DIMENSIONS.get(name, 1 if vector else 2)
        if tensor.ndim != wanted or not tensor.numel() or (wanted == 3 and len(tensor) > 1):
            raise InputError(
                f"{file} holds {name} of shape {list(tensor.shape)}: it is of another architecture"
            )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# --------------------------------------------------------------------------------------------------
# Sizes


def _resampled(
    source: Source, told: Told
) -> tuple[dict[str, Tensor], tuple[int, int], dict[str, list]]:
    """The tensors at the size and patch that were asked for, this size, and what was changed: what
    the source's own ``image_size`` and ``patch`` were."""
    tensors, file = dict(source.tensors), source.file.name
    weight, count = tensors["patch_embed.proj.weight"], tensors["pos_embed"].shape[1] - 1
    if weight.shape[2] != weight.shape[3]:
        raise InputError(f"{file} embeds patches by {list(weight.shape)}: they must be square")
    own_patch, side = weight.shape[2], math.isqrt(max(count, 0))
    own = source.said.image_size
    if own is None:
        square = (side * own_patch,) * 2
        own = square if side * side == count else told.image_size or square
    grid = own[0] // own_patch, own[1] // own_patch
    if not count or grid[0] * grid[1] != count:
        raise InputError(
            f"{file} has positions for {count} patches of {own_patch} px, which a"
            f" {own[0]}×{own[1]} image does not have: give its own --image-size, HxW"
        )
    size, patch = told.image_size or own, told.patch or own_patch
    if size[0] % patch or size[1] % patch or min(size) < patch:
        raise InputError(
            f"patches of {patch} px do not tile an image of {size[0]}×{size[1]} px: give an"
            " --image-size that they do"
        )
    if patch != own_patch:
        if _has_decoder(tensors):
            raise InputError(
                f"the decoder of {file} predicts patches of {own_patch} px, and no others: leave"
                " --patch out, or the decoder by --encoder-only"
            )
        tensors["patch_embed.proj.weight"] = resample_patch_embed(weight, [patch, patch])
    new = size[0] // patch, size[1] // patch
    if new != grid:
        for name in {"pos_embed", "decoder_pos_embed"} & set(tensors):
            tensors[name] = resample_abs_pos_embed(tensors[name], list(new), list(grid))
    changed = {"image_size": [list(own), list(size)], "patch": [own_patch, patch]}
    return tensors, size, {key: pair for key, pair in changed.items() if pair[0] != pair[1]}


def _sizes(
    source: Source, known: Said, image_size: tuple[int, int]
) -> tuple[ModelConfig, float | None, dict[str, str]]:
    """The model's sizes, its masking ratio, and who settled what the tensors do not show: the
    ``source``, the user (``told``), or else what its library always does (``usual``)."""
    tensors, said, file = source.tensors, source.said, source.file.name
    settled: dict[str, str] = {}

    def settle(name: str, usual: object, remedy: str | None = None) -> object:
        mine, theirs = getattr(known, name), getattr(said, name)
        if mine is not None and theirs is not None and _plain(mine) != _plain(theirs):
            raise InputError(
                f"{file} comes with {name} {theirs}, and you say {mine}: leave that option out"
            )
        for who, value in (("source", theirs), ("told", mine), ("usual", usual)):
            if value is not None:
                settled[name] = who
                return value
        if remedy is not None:
            raise InputError(f"{file} does not say {remedy}")
        return None

    def heads(name: str, width: int, depth: int) -> object:
        option = f"--{name.replace('_', '-')}"
        return settle(
            name,
            HEADS.get((width, depth)),
            f"how many attention heads share a width of {width}: give {option}",
        )

    weight = tensors["patch_embed.proj.weight"]
    width, channels, patch = weight.shape[:3]
    depth, hidden = _depth(tensors, "blocks"), len(tensors["blocks.0.mlp.fc1.bias"])
    decoder, normalised = (0, 0, 0), False
    if _has_decoder(tensors):
        wide, deep = len(tensors["decoder_embed.bias"]), _depth(tensors, "decoder_blocks")
        decoder = wide, deep, heads("decoder_heads", wide, deep)
        normalised = settle(
            "normalise_target",
            None,
            "whether its decoder predicts normalised patches: give --normalise-target True or False"
            " (Meta's norm_pix_loss)",
        )
        if len(tensors["decoder_blocks.0.mlp.fc1.bias"]) * width != hidden * wide:
            raise InputError(
                f"{file}: the MLPs of encoder and decoder are not of one ratio to their width, and"
                " only such models can be imported"
            )
    usual = (None, None) if channels != 3 else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    pixels = [
        settle(name, each, f"how its pixels were normalised: give --{name}")
        for name, each in zip(("mean", "deviation"), usual)
    ]
    model = ModelConfig(
        image_size=image_size,
        patch=patch,
        channels=channels,
        width=width,
        depth=depth,
        heads=heads("heads", width, depth),
        decoder_width=decoder[0],
        decoder_depth=decoder[1],
        decoder_heads=decoder[2],
        mlp_ratio=hidden / width,
        normalise_target=normalised,
        norm_eps=settle("norm_eps", 1e-6),
        positions="stored",
        pixel_mean=tuple(pixels[0]),
        pixel_deviation=tuple(pixels[1]),
    )
    return model, settle("ratio", None), settled


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _ours(tensors: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Meta's tensors as those of a `MaskedAutoencoder`."""
    position = tensors["pos_embed"][0]
    found = {
        "embed.weight": tensors["patch_embed.proj.weight"].flatten(1),
        "embed.bias": tensors["patch_embed.proj.bias"],
        "cls_token": tensors["cls_token"] + position[0],
        "position": position[1:],
    }
    moved = {"blocks.": "encoder.", "norm.": "encoder_norm."}
    if model.has_decoder:
        place = tensors["decoder_pos_embed"][0]
        p, c = model.patch, model.channels
        found |= {
            "to_decoder.weight": tensors["decoder_embed.weight"],
            "to_decoder.bias": tensors["decoder_embed.bias"] + place[0],
            "mask_token": tensors["mask_token"] + place[0],
            "decoder_position": place[1:] - place[0],
            # a patch is (row, column, channel) there, and (channel, row, column) here
            "head.weight": tensors["decoder_pred.weight"]
            .view(p, p, c, -1)
            .permute(2, 0, 1, 3)
            .flatten(0, 2),
            "head.bias": tensors["decoder_pred.bias"].view(p, p, c).permute(2, 0, 1).flatten(),
        }
        moved |= {"decoder_blocks.": "decoder.", "decoder_norm.": "decoder_norm."}
    for before, after in moved.items():
        found |= {
            after + name.removeprefix(before): tensor
            for name, tensor in tensors.items()
            if name.startswith(before)
        }
    return {name: tensor.contiguous() for name, tensor in found.items()}
