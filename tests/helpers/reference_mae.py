"""A masked autoencoder written to be read, not to be fast: eq. 2 image by image, patch by patch,
head by head.

It shares no code with `mae_lib` and calls no layer of PyTorch: only additions, products,
exponentials and `erf` of tensors, so that autograd can give the gradients. It reads the weights by
the names of the state dict. Positions are rounded to float32, as the model stores them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def cut(image: Tensor, patch: int) -> list[Tensor]:
    """[C, H, W] → the patches in reading order, each a vector: channel by channel, row by row."""
    _, height, width = image.shape
    patches = []
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            rows = [
                image[c, top + y, left : left + patch]
                for c in range(image.shape[0])
                for y in range(patch)
            ]
            patches.append(torch.cat(rows))
    return patches


def position(width: int, row: int, column: int, like: Tensor) -> Tensor:
    """Meta's `get_2d_sincos_pos_embed`: the first half of the vector encodes the column, the second
    the row; in each half sines, then cosines."""
    values = []
    for coordinate in (column, row):
        for wave in (math.sin, math.cos):
            for k in range(width // 4):
                values.append(wave(coordinate / 10000 ** (k / (width / 4))))
    return torch.tensor(values, dtype=torch.float32).to(like.dtype)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """One vector through one matrix."""
    return (w[f"{name}.weight"] * x).sum(1) + w[f"{name}.bias"]


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """Less the mean, over the (biased) deviation, with 1e-6 under the root; then scale and
    shift."""
    centred = x - x.sum() / len(x)
    variance = (centred * centred).sum() / len(x)
    return centred / (variance + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    """x Φ(x), with the normal distribution's exact Φ."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attend(w: Weights, name: str, tokens: list[Tensor], heads: int) -> list[Tensor]:
    """Multi-head self-attention, one head and one query at a time."""
    size = len(tokens[0]) // heads
    joint = [linear(w, f"{name}.qkv", x) for x in tokens]
    queries, keys, values = (
        [x[i * len(tokens[0]) : (i + 1) * len(tokens[0])] for x in joint] for i in range(3)
    )
    out = []
    for query in queries:
        parts = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = torch.stack(
                [(query[part] * key[part]).sum() / math.sqrt(size) for key in keys]
            )
            weights = (scores - scores.max()).exp()
            weights = weights / weights.sum()
            mixed = torch.zeros_like(query[part])
            for weight, value in zip(weights, values):
                mixed = mixed + weight * value[part]
            parts.append(mixed)
        out.append(linear(w, f"{name}.proj", torch.cat(parts)))
    return out


def transform(w: Weights, name: str, tokens: list[Tensor], depth: int, heads: int) -> list[Tensor]:
    """Pre-norm transformer blocks."""
    for i in range(depth):
        block = f"{name}.{i}"
        mixed = attend(
            w, f"{block}.attn", [layer_norm(w, f"{block}.norm1", x) for x in tokens], heads
        )
        tokens = [x + y for x, y in zip(tokens, mixed)]
        inner = [
            gelu(linear(w, f"{block}.mlp.fc1", layer_norm(w, f"{block}.norm2", x))) for x in tokens
        ]
        tokens = [x + linear(w, f"{block}.mlp.fc2", y) for x, y in zip(tokens, inner)]
    return tokens


def encode(w: Weights, config, image: Tensor, visible: list[int]) -> list[Tensor]:
    """[CLS] and the visible patches' tokens of one image."""
    columns = image.shape[2] // config.patch
    patches = cut(image, config.patch)
    tokens = [w["cls_token"][0, 0]]
    for index in visible:
        token = linear(w, "embed", patches[index])
        tokens.append(token + position(config.width, index // columns, index % columns, token))
    tokens = transform(w, "encoder", tokens, config.depth, config.heads)
    return [layer_norm(w, "encoder_norm", x) for x in tokens]


def decode(
    w: Weights, config, tokens: list[Tensor], visible: list[int], hidden: list[int], columns: int
) -> list[Tensor]:
    """The predicted patches, in the order of `hidden`."""
    seen = [linear(w, "to_decoder", x) for x in tokens]
    sequence = [seen[0]]
    for token, index in zip(seen[1:], visible):
        sequence.append(
            token + position(config.decoder_width, index // columns, index % columns, token)
        )
    for index in hidden:
        token = w["mask_token"][0, 0]
        sequence.append(
            token + position(config.decoder_width, index // columns, index % columns, token)
        )
    sequence = transform(w, "decoder", sequence, config.decoder_depth, config.decoder_heads)
    return [
        linear(w, "head", layer_norm(w, "decoder_norm", x)) for x in sequence[1 + len(visible) :]
    ]


def loss(w: Weights, config, images: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
    """Mean over images, hidden patches and pixels of the squared error."""
    total, count = 0, 0
    columns = images.shape[3] // config.patch
    for image, seen, unseen in zip(images, visible.tolist(), hidden.tolist()):
        predictions = decode(w, config, encode(w, config, image, seen), seen, unseen, columns)
        patches = cut(image, config.patch)
        for prediction, index in zip(predictions, unseen):
            target = patches[index]
            if config.normalise_target:
                centred = target - target.sum() / len(target)
                target = centred / ((centred * centred).sum() / (len(target) - 1) + 1e-6).sqrt()
            for wanted, given in zip(target, prediction):
                total = total + (wanted - given) ** 2
                count += 1
    return total / count
