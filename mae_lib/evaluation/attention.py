"""Where the encoder looks (§3.2, Figures 6 and 7): its own attention maps, their scores against the
true object, and two measures that need no object. Fused attention kernels return no maps, so q·kᵀ
of the wanted block is computed once more from what that block was given.

The scores are taken on the mean over heads. Two controls stand beside them: the same model before
training, and the same maps scored against *another* image's object, which shows how much is won by
looking at the middle, or nearby, whatever is there.
"""

from __future__ import annotations

import math

import torch
from timm.layers import Attention
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.image_source import ImageSource
from mae_lib.base.intervals import Interval, bootstrap
from mae_lib.model.autoencoder import MaskedAutoencoder, normalise_pixels
from mae_lib.training.feeding import step_generator

OBJECT = 0.5
"""A patch is an object patch if at least this share of its pixels is the object's."""

THRESHOLDS = torch.linspace(0, 4, 41)
"""Multiples of the uniform attention at which a map is cut to be compared with the true mask; at 0
the whole image is selected."""

CONTROLLED = ("lift", "pointing")
"""The scores that are also taken of the controls."""


def block_attention(attention: Attention, tokens: Tensor) -> Tensor:
    """softmax(q·kᵀ) of one timm attention module: tokens [B, N, D] as it is given them → [B, heads,
    N, N], rows sum to 1."""
    q, k, _ = (
        attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    )
    return (attention.q_norm(q) * attention.scale @ attention.k_norm(k).transpose(-2, -1)).softmax(
        -1
    )


@torch.no_grad()
def attention_maps(
    model: MaskedAutoencoder, images: Tensor, layer: int | None = -1, visible: Tensor | None = None
) -> Tensor:
    """The encoder's attention: entry [b, h, i, j] is how much of token j goes into token i in head
    h; token 0 is [CLS].

    Args:
        images: float [B, C, H, W], as the model takes them. layer: which encoder block, counted
            from 0 or from the end; None: all, in one pass.
        visible: int64 [B, V] patches that the encoder sees, all of them in row-major order by
            default.

    Returns:
        [B, heads, 1 + V, 1 + V], each row summing to 1; for ``layer=None`` [B, layers, heads, 1 +
        V, 1 + V].

    Raises:
        InputError: no image, a layer or a patch that the model does not have, and whatever the
            model itself refuses.
    """
    depth, (rows, columns) = len(model.encoder), model.config.grid
    if layer is not None and not -depth <= layer < depth:
        raise InputError(
            f"there is no layer {layer}: the encoder has {depth} blocks, 0 … {depth - 1}, or -1 for"
            " the last"
        )
    if not len(images):
        raise InputError("no image was given: attention maps need at least one")
    if (
        visible is not None
        and visible.numel()
        and not (0 <= int(visible.min()) and int(visible.max()) < rows * columns)
    ):
        raise InputError(
            f"a visible patch is out of range: the {rows} × {columns} grid has patches 0 …"
            f" {rows * columns - 1}"
        )
    blocks = model.encoder if layer is None else [model.encoder[layer]]
    # What a block's attention is given is caught while the encoder runs as it always does: nothing
    # of the model is written down twice.
    given: list[Tensor] = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
        for block in blocks
    ]
    try:
        model.encode(images, visible)
    finally:
        for hook in hooks:
            hook.remove()
    maps = [block_attention(block.attn, tokens) for block, tokens in zip(blocks, given)]
    return torch.stack(maps, 1) if layer is None else maps[0]


@torch.no_grad()
def output_error(model: MaskedAutoencoder, images: Tensor, layer: int = -1) -> float:
    """The proof that `attention_maps` gives the model's own maps: largest difference between what
    the layer's attention adds to the tokens and the maps times the layer's values, projected.
    Rounding aside it is 0, whichever kernel ran. Raises as `attention_maps` does.
    """
    passed: list[tuple[Tensor, Tensor]] = []
    hooks = [
        block.attn.register_forward_hook(lambda _, given, made: passed.append((given[0], made)))
        for block in model.encoder
    ]
    try:
        maps = attention_maps(model, images, layer)
    finally:
        for hook in hooks:
            hook.remove()
    attention, (tokens, output) = model.encoder[layer].attn, passed[layer]
    values = (
        attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)[2]
    )
    return float((attention.proj((maps @ values).transpose(1, 2).flatten(2)) - output).abs().max())


def patch_coverage(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """bool [B, H, W] object masks → float [B, rows·columns]: the object's share of each patch's
    pixels. InputError where the grid does not divide them."""
    (rows, columns), (height, width) = grid, masks.shape[-2:]
    if masks.ndim != 3 or height % rows or width % columns:
        raise InputError(
            f"object masks {list(masks.shape)} do not fall into {rows} × {columns} patches: give"
            " [B, H, W] of the model's image size"
        )
    return (
        masks.float()
        .view(-1, rows, height // rows, columns, width // columns)
        .mean((2, 4))
        .flatten(1)
    )


def cls_attention(maps: Tensor) -> Tensor:
    """[B, heads, 1 + P, 1 + P] → [B, P]: attention of [CLS] to the patches, mean over heads,
    summing to 1 without [CLS]'s own share (Figure 6)."""
    return _normalised(maps.mean(1)[:, 0, 1:])


def patch_attention(maps: Tensor) -> Tensor:
    """[B, heads, 1 + P, 1 + P] → [B, P, P]: attention of each patch to the *other* patches, mean
    over heads, rows summing to 1 (Figure 7)."""
    between = maps.mean(1)[:, 1:, 1:]
    return _normalised(between * (1 - torch.eye(between.shape[-1], device=maps.device)))


def cls_scores(attention: Tensor, coverage: Tensor) -> dict[str, Tensor]:
    """How much of a map lies on the object.

    Args:
        attention: [B, P], rows summing to 1. coverage: [B, P], the object's share of each patch.

    Returns:
        ``share`` [B] of the attention on the object, Σ a·m; ``lift`` [B]: share less the object's
        share of the area; ``pointing`` [B]: 1 where the patch with most attention is an object
        patch; ``iou`` [B, T]: intersection over union, in pixels, of the object with the patches
        whose attention is at least each of `THRESHOLDS` times the uniform one. NaN for images with
        no object in view.
    """
    share = (attention * coverage).sum(-1)
    pointed = coverage.gather(-1, attention.argmax(-1, keepdim=True))[:, 0] >= OBJECT
    iou = _overlap(attention * attention.shape[-1], coverage, torch.ones_like(coverage))
    found = {
        "share": share,
        "lift": share - coverage.mean(-1),
        "pointing": pointed.to(share.dtype),
        "iou": iou,
    }
    empty = coverage.sum(-1) == 0
    return {
        name: values.masked_fill(empty.view(-1, *[1] * (values.ndim - 1)), torch.nan)
        for name, values in found.items()
    }


def object_scores(attention: Tensor, coverage: Tensor) -> dict[str, Tensor]:
    """How much an object patch attends to the *rest* of the object, which is the object without the
    patch itself; mean over the image's object patches.

    Args:
        attention: [B, P, P] from :func:`patch_attention`. coverage: [B, P].

    Returns:
        ``share``, ``lift`` [B] and ``iou`` [B, T] as in :func:`cls_scores`, with the image without
        the patch for the area; NaN for images without an object patch that has a rest.
    """
    patches = coverage.shape[-1]
    image, token = ((coverage >= OBJECT) & (coverage.sum(-1, keepdim=True) > coverage)).nonzero(
        as_tuple=True
    )
    around = 1 - torch.eye(patches, device=coverage.device)[token]
    rows, rest = attention[image, token], coverage[image] * around
    share = (rows * rest).sum(-1)
    found = {
        "share": share,
        "lift": share - rest.sum(-1) / (patches - 1),
        "iou": _overlap(rows * (patches - 1), rest, around),
    }

    def per_image(values: Tensor) -> Tensor:
        total = torch.zeros(len(coverage), *values.shape[1:], device=values.device).index_add_(
            0, image, values
        )
        return total / image.bincount(minlength=len(coverage)).view(-1, *[1] * (values.ndim - 1))

    return {name: per_image(values) for name, values in found.items()}


def patch_distances(grid: tuple[int, int]) -> Tensor:
    """[P, P]: distance between the centres of two patches, in patch sides."""
    places = torch.cartesian_prod(*(torch.arange(float(n)) for n in grid)).view(-1, 2)
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")


def spread_scores(maps: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Two measures without an object, of the attention between patches (mean over heads, [CLS] left
    out, each patch's own share included).

    Returns:
        ``distance`` [B]: mean distance that attention reaches, in patch sides; ``entropy`` [B]: of
        the rows, as a share of the uniform one's, in [0, 1].
    """
    between = _normalised(maps.mean(1)[:, 1:, 1:])
    distance = (between * patch_distances(grid).to(maps.device)).sum(-1).mean(-1)
    entropy = torch.special.entr(between).sum(-1).mean(-1) / math.log(between.shape[-1])
    return {"distance": distance, "entropy": entropy}


def untrained(model: MaskedAutoencoder, seed: int = 0) -> MaskedAutoencoder:
    """A model of the same sizes with the initial weights of a training run with ``seed``, on the
    same device: the control of `evaluate_attention`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_generator(seed, "weights", 0).initial_seed())
        return MaskedAutoencoder(model.config).to(next(model.parameters()).device).eval()


def evaluate_attention(
    model: MaskedAutoencoder,
    source: ImageSource,
    images: int = 1000,
    layer: int = -1,
    objects: bool | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """What §3.2 shows in pictures, as numbers: scores of the attention of [CLS] and of object
    patches, nothing masked, with their controls.

    Args:
        source: images; the embedded `World` has the object masks that most scores need. images: how
            many, from its first on.
        layer: the encoder block, the paper's last one by default. objects: whether to score against
            object masks; by default where there are some.
        seed: of the training run, for the untrained control: the very weights that this run began
            with.

    Returns:
        measure → mean over images with its bootstrap interval.

        - ``distance``, ``entropy``: :func:`spread_scores`. Control: ``uniform/distance``, of
          attention spread evenly (its entropy is 1).
        - ``cls/share``, ``cls/lift``, ``cls/pointing``, ``cls/iou`` by :func:`cls_scores`;
          ``object/share``, ``object/lift``, ``object/iou`` by :func:`object_scores`. ``iou`` cuts
          all maps at one threshold, the best of `THRESHOLDS` (chosen anew in each resampling, so
          that the interval knows of the choice); ``cls/threshold`` and ``object/threshold`` name
          it.
        - ``area``: the object's share of the image, which is the share of an even map and the iou
          of the whole image; ``area/pointing``: the share of object patches, which is what pointing
          at random scores.
        - ``untrained/…``: lift and pointing of the model before training. ``shuffled/…``: those of
          this model's maps against the *previous* image's object. ``net/cls/lift``,
          ``net/object/lift``: lift on the image's own object less that on the previous one's, image
          by image.

        Images with no object in view are left out wherever one is needed, those without an object
        patch out of ``object/…``: an Interval's ``n`` says how many were counted.

    Raises:
        InputError: ``images`` below 1 or beyond the source's, images of another size, object scores
            of a source without object masks, a model of a single patch, or no object in any image.
    """
    has_masks = hasattr(source, "sample")
    if objects and not has_masks:
        raise InputError(
            "these images have no object masks: score the embedded world's, or leave `objects` out"
            " for distance and entropy alone"
        )
    if not 1 <= images <= len(source):
        raise InputError(
            f"{images} images were asked for, and the source holds {len(source)}: ask for 1 to"
            f" {len(source)}"
        )
    grid, device = model.config.grid, next(model.parameters()).device
    if grid[0] * grid[1] < 2:
        raise InputError(
            "attention between patches needs at least two of them: take a model with a smaller"
            " patch"
        )
    before = untrained(model, seed)
    found: dict[str, list[Tensor]] = {}

    def note(prefix: str, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            found.setdefault(prefix + name, []).append(value.cpu())

    # the first image has none before it: an object of no pixels is not counted
    last = torch.zeros(1, grid[0] * grid[1], device=device)
    for index in torch.arange(images).split(40):
        batch = source.sample(index) if has_masks else None
        x = normalise_pixels(source.images(index) if batch is None else batch.images).to(device)
        maps = attention_maps(model, x, layer).float()
        note("", spread_scores(maps, grid))
        if batch is None or objects is False:
            continue
        coverage = patch_coverage(batch.object_mask, grid).to(device)
        previous = torch.cat([last, coverage[:-1]])
        last, first = coverage[-1:], attention_maps(before, x, layer).float()
        for token, focus, score in (
            ("cls", cls_attention, cls_scores),
            ("object", patch_attention, object_scores),
        ):
            attention = focus(maps)
            own, other = score(attention, coverage), score(attention, previous)
            note(f"{token}/", own)
            note(
                f"shuffled/{token}/",
                {name: values for name, values in other.items() if name in CONTROLLED},
            )
            note(f"net/{token}/", {"lift": own["lift"] - other["lift"]})
            naive = score(focus(first), coverage)
            note(
                f"untrained/{token}/",
                {name: values for name, values in naive.items() if name in CONTROLLED},
            )
        empty = coverage.sum(-1) == 0
        note(
            "area",
            {
                "": coverage.mean(-1).masked_fill(empty, torch.nan),
                "/pointing": (coverage >= OBJECT).float().mean(-1).masked_fill(empty, torch.nan),
            },
        )

    measures = {
        "uniform/distance": Interval(
            float(patch_distances(grid).mean()), torch.nan, torch.nan, images
        )
    }
    for name, parts in found.items():
        values = torch.cat(parts)
        values = (
            values[~values.flatten(1).isnan().any(1)]
            if values.ndim > 1
            else values[~values.isnan()]
        )
        if not len(values):
            if name.startswith(("shuffled/", "net/")):
                continue  # a single image has none before it
            raise InputError(
                f"no object is in view in any of the {images} images: score more of them, or other"
                " ones"
            )
        if name.endswith("/iou"):
            token, mean = name[: -len("iou")], values.double().mean(0)
            measures[f"{token}threshold"] = Interval(
                round(float(THRESHOLDS[mean.argmax()]), 6), torch.nan, torch.nan, len(values)
            )
            measures[name] = bootstrap(values, lambda drawn: drawn.mean(1).amax(1))
        else:
            measures[name] = bootstrap(values)
    return measures


def _normalised(rows: Tensor) -> Tensor:
    return rows / rows.sum(-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def _overlap(multiples: Tensor, coverage: Tensor, counted: Tensor) -> Tensor:
    """Intersection over union of the object and the patches at or above each threshold: [N, P] each
    → [N, T]. ``counted``: 0 leaves a patch out."""
    # Each patch falls into the bin of the highest threshold that it reaches; sums from the top give
    # what is selected at each threshold.
    bins = torch.bucketize(multiples, THRESHOLDS.to(multiples), right=True) - 1
    zeros = torch.zeros(len(multiples), len(THRESHOLDS), device=multiples.device)
    selected, inside = (
        zeros.scatter_add(1, bins, part).flip(1).cumsum(1).flip(1) for part in (counted, coverage)
    )
    return inside / (selected + coverage.sum(1, keepdim=True) - inside).clamp_min(1e-12)
