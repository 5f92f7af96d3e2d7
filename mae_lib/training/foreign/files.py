"""Files of weights from elsewhere: a source's tensors under one set of names, and what it says of
its own model.

timm's MAE ViTs, transformers' `ViTMAEModel` and `ViTMAEForPreTraining`, and the files of Meta's own
code hold one model under different names. Meta's are taken as the common ones (timm's are the
same), and transformers' are translated into them. Pickles are opened with the user's word only, and
then for their tensors alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor

from mae_lib.base.errors import InputError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights' file in a folder of transformers or timm; the first that is there."""


@dataclass(frozen=True)
class Said:
    """What is said of a model beside its tensors; None where nothing is.

    Attributes:
        heads, decoder_heads: attention heads. norm_eps: of its layer norms. image_size: (H, W) in
            pixels. normalise_target: whether its decoder predicts normalised patches. ratio:
            masking ratio of its training. mean, deviation: of the pixels in [0, 1] that it is
            given, one a channel.
    """

    heads: int | None = None
    decoder_heads: int | None = None
    norm_eps: float | None = None
    image_size: tuple[int, int] | None = None
    normalise_target: bool | None = None
    ratio: float | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Source:
    """A source that was read: its ``file`` and ``sha256``, a readable ``name``, the ``library``
    (timm, transformers or mae), its ``tensors``, float32 under Meta's names, and what it ``said``
    of itself."""

    file: Path
    sha256: str
    name: str
    library: str
    tensors: dict[str, Tensor]
    said: Said


def read_source(source: str | Path, pickled: bool = False) -> Source:
    """Reads a file of weights, or a folder with config.json as transformers and timm write it.

    Args:
        pickled: whether a pickle (.pth, .bin) may be opened.

    Raises:
        InputError: no such file, one that is damaged or holds more than tensors, a pickle without
            permission, or a config of another kind of model.
    """
    file, config = _located(Path(source).expanduser())
    tensors, arguments = _tensors(file, pickled)
    name = file.stem if config is None else file.resolve().parent.name
    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if any(key.startswith(("vit.", "embeddings.")) for key in tensors):
        said, biased = _said_by_transformers(file, config)
        tensors = _from_transformers(tensors, biased, file)
        return Source(file, digest, name, "transformers", tensors, said)
    if config is not None and "architecture" in config:
        return Source(file, digest, name, "timm", tensors, _said_by_timm(config))
    alone = file.suffix == ".safetensors" and "decoder_embed.weight" not in tensors
    said = Said()
    if isinstance(arguments, Namespace) and hasattr(arguments, "norm_pix_loss"):
        # a training of Meta's code keeps its options beside the weights
        said = Said(
            normalise_target=bool(arguments.norm_pix_loss),
            ratio=getattr(arguments, "mask_ratio", None),
        )
    return Source(file, digest, name, "timm" if alone else "mae", tensors, said)


def _located(source: Path) -> tuple[Path, dict | None]:
    """The weights' file of a source, and the config.json that belongs to it."""
    file = source
    if source.is_dir():
        there = [source / name for name in WEIGHTS if (source / name).is_file()]
        if not there or not (source / "config.json").is_file():
            raise InputError(
                f"{source} is no model's folder of transformers or timm: it needs config.json, and"
                f" {' or '.join(WEIGHTS)} in one piece; or name a file of weights"
            )
        file = there[0]
    elif not source.is_file():
        raise InputError(f"{source}: no such file or folder; check the spelling")
    beside = file.parent / "config.json"
    return file, _json(beside) if file.name in WEIGHTS and beside.is_file() else None


def _json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}): download it again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no config: download it again")
    return values


def _tensors(file: Path, pickled: bool) -> tuple[dict[str, Tensor], object]:
    """A file's tensors as float32, and what a training of Meta's stored as its arguments."""
    arguments = None
    if file.suffix == ".safetensors":
        try:
            found = safetensors.torch.load_file(file)
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(f"{file} is damaged or no safetensors file ({error})") from error
    elif not pickled:
        raise InputError(
            f"{file.name} is a pickle, which is not opened without your word: give --pickled if you"
            " trust where it is from (its tensors alone are read), or take a .safetensors"
        )
    else:
        try:
            # a Namespace holds values and runs nothing
            with torch.serialization.safe_globals([Namespace]):
                found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # what the unpickler raises on bytes that are none is not fixed
            raise InputError(
                f"{file.name} was not read: it is damaged, or holds more than tensors"
                f" ({(str(error) or type(error).__name__).splitlines()[0]})"
            ) from error
        if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping):
            found, arguments = found["model"], found.get("args")
    if (
        not isinstance(found, Mapping)
        or not found
        or not all(isinstance(each, Tensor) for each in found.values())
    ):
        raise InputError(
            f"{file.name} holds no dictionary of tensors: export the model's state dict"
        )
    for name, each in found.items():
        if not each.is_floating_point() or not bool(each.isfinite().all()):
            raise InputError(f"{file.name}: {name} is not made of finite floats: take another file")
    return {str(name): each.float() for name, each in found.items()}, arguments


def _said_by_transformers(file: Path, config: dict | None) -> tuple[Said, bool]:
    """What config.json and preprocessor_config.json say of a ViTMAE, and whether its queries, keys
    and values have biases."""
    if config is None:
        raise InputError(
            f"{file.name} has transformers' names, and does not say its sizes: name its folder,"
            " with config.json in it"
        )
    for key, only in (("model_type", "vit_mae"), ("hidden_act", "gelu")):
        if config.get(key) != only:
            raise InputError(
                f"config.json has {key} {config.get(key)!r}: of transformers' models those of"
                f" {key} {only!r} can be imported"
            )
    pixels = file.parent / "preprocessor_config.json"
    values = _json(pixels) if pixels.is_file() else {}
    try:
        said = Said(
            heads=int(config["num_attention_heads"]),
            decoder_heads=int(config["decoder_num_attention_heads"]),
            norm_eps=float(config["layer_norm_eps"]),
            image_size=_pair(config["image_size"]),
            normalise_target=bool(config["norm_pix_loss"]),
            ratio=float(config["mask_ratio"]),
            mean=_numbers(values.get("image_mean")),
            deviation=_numbers(values.get("image_std")),
        )
        return said, bool(config["qkv_bias"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"config.json lacks or misstates {error}: download it again") from error


def _numbers(values: object) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)


def _pair(value: object) -> tuple[int, int]:
    height, width = value if isinstance(value, (list, tuple)) else (value, value)
    return int(height), int(width)


def _said_by_timm(config: dict) -> Said:
    """What timm's config.json says, and what its own model of that architecture shows."""
    try:
        with torch.device("meta"):
            model = timm.create_model(config["architecture"], **config.get("model_args", {}))
        pixels = config.get("pretrained_cfg", {})
        return Said(
            heads=model.blocks[0].attn.num_heads,
            norm_eps=model.norm.eps,
            image_size=_pair(model.patch_embed.img_size),
            mean=_numbers(pixels.get("mean")),
            deviation=_numbers(pixels.get("std")),
        )
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"config.json names the architecture {config['architecture']!r}: of timm's models plain"
            " ViTs can be imported, such as vit_base_patch16_224.mae"
        ) from error


_RENAMED = (
    (r"^vit\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(encoder\.layer|layers)\.", "blocks."),
    (r"^decoder\.decoder_(encoder\.layer|layers)\.", "decoder_blocks."),
    (r"^decoder\.", ""),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(attention\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(attention\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(attention\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
"""transformers' names, of its versions 4 and 5, to Meta's."""


def _from_transformers(
    tensors: Mapping[str, Tensor], biased: bool, file: Path
) -> dict[str, Tensor]:
    """Tensors under Meta's names, where queries, keys and values are one tensor."""
    found, parts = {}, {}
    for name, tensor in tensors.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        if match := re.fullmatch(r"(.*\.attn)\.([qkv])\.(weight|bias)", name):
            parts.setdefault(f"{match[1]}.qkv.{match[3]}", {})[match[2]] = tensor
        else:
            found[name] = tensor
    for name, three in parts.items():
        shapes = {tuple(part.shape) for part in three.values()}
        if set(three) != set("qkv") or len(shapes) > 1 or shapes == {()}:
            raise InputError(
                f"{file.name} lacks a part of {name}, or its parts differ: it is damaged, or of"
                " another architecture"
            )
        found[name] = torch.cat([three[part] for part in "qkv"])
        if not biased and name.endswith(".weight"):
            found[name.removesuffix("weight") + "bias"] = torch.zeros(len(found[name]))
    return found
