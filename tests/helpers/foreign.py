"""Masked autoencoders of other libraries with random weights, small, and stored as those libraries
store them: timm's, transformers', and Meta's files, whose names are public."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
SIZES = dict(
    image_size=32,
    patch_size=8,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    decoder_hidden_size=16,
    decoder_num_hidden_layers=2,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=64,
)
"""transformers' words for a model of 4 × 4 patches."""


def shaken(model: nn.Module) -> nn.Module:
    """A model with other weights, always the same: every tensor at random, positions, biases and
    norms too, as in a trained one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            parameter.copy_(norm + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def timm_vit(size=(32, 32), patch: int = 8) -> nn.Module:
    return shaken(
        timm.models.vision_transformer.VisionTransformer(
            img_size=size, patch_size=patch, embed_dim=32, depth=2, num_heads=4, num_classes=0
        )
    )


def timm_file(folder: Path, model: nn.Module | None = None) -> Path:
    path = folder / "vit_tiny.mae.safetensors"
    safetensors.torch.save_file((model or timm_vit()).state_dict(), path)
    return path


def vitmae(**changes) -> nn.Module:
    config = transformers.ViTMAEConfig(**(SIZES | changes))
    return shaken(transformers.ViTMAEForPreTraining(config))


def vitmae_folder(folder: Path, model: nn.Module | None = None) -> Path:
    """A folder as ``save_pretrained`` leaves it."""
    (model or vitmae()).save_pretrained(folder)
    return folder


_META = (
    (r"^vit\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^vit\.embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^vit\.embeddings\.", ""),
    (r"^vit\.layernorm", "norm"),
    (r"^vit\.layers", "blocks"),
    (r"^decoder\.decoder_layers", "decoder_blocks"),
    (r"^decoder\.", ""),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.o_proj", "attn.proj"),
)


def meta_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of transformers' model under the names of Meta's code."""
    found, given = {}, model.state_dict()
    for name, tensor in given.items():
        if re.search(r"\.[kv]_proj\.", name):
            continue
        if ".q_proj." in name:
            tensor = torch.cat([given[name.replace("q_proj", f"{k}_proj")] for k in "qkv"])
            name = name.replace("attention.q_proj", "attn.qkv")
        for pattern, replacement in _META:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor.clone()
    return found


def standardised(images: Tensor) -> Tensor:
    """Images in [0, 1] as these libraries take them."""
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
    return (images - mean) / deviation
