"""Cue conflict (§3.4, Table 2): does a classifier follow an object's shape or its texture where the
two disagree? The shape bias of Geirhos et al. (2019) from probabilities and true cues, the mapping
of ImageNet's classes to their 16 categories, readers of their stimuli and of the embedded world's,
and the evaluation of frozen features by a linear probe.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval, bootstrap
from mae_lib.evaluation import probe
from mae_lib.evaluation.features import POOLS, Features


class Counts(NamedTuple):
    """What became of the stimuli: answered by shape, by texture, by neither; dropped before (no
    conflict, or a cue without a category), and how many of the dropped are ``missing`` a
    category."""

    shape: int
    texture: int
    other: int
    dropped: int
    missing: int


def _bias(decisions: Tensor) -> Tensor:
    """[.., N, 2] decisions for shape and for texture → [..] shape / (shape + texture), NaN where
    there are none."""
    shape, texture = decisions.double().sum(-2).unbind(-1)
    return torch.where(shape + texture > 0, shape / (shape + texture), math.nan)


@dataclass(frozen=True, eq=False)
class ShapeBias:
    """How a classifier decided cue conflicts; unpacks into bias, accuracy, counts.

    Attributes:
        answer, shape, texture: int64 [M], for each stimulus with a conflict the category answered
            and those of its two cues.
        counts: of all stimuli.
    """

    answer: Tensor
    shape: Tensor
    texture: Tensor
    counts: Counts

    @property
    def decisions(self) -> Tensor:
        """bool [M, 2]: answered by the shape's category, by the texture's."""
        return torch.stack([self.answer == self.shape, self.answer == self.texture], dim=1)

    @property
    def bias(self) -> float:
        """Shape decisions over shape and texture decisions, in [0, 1]; NaN (undefined) if neither
        cue was ever followed."""
        return float(_bias(self.decisions))

    @property
    def accuracy(self) -> float:
        """Share of the M stimuli answered by shape or by texture: how many decisions the bias rests
        on. Guessing among C categories scores 2/C."""
        return float(self.decisions.any(1).double().mean())

    @property
    def blind(self) -> float:
        """What the bias would be if the answers took no notice of the texture: its mean over all
        ways to deal the answers out anew among the stimuli of the same shape. Shape decisions stay;
        texture decisions are then such as errors hit by chance. NaN if there are none of either.
        """
        by_shape, by_chance = float((self.answer == self.shape).sum()), 0.0
        for k in self.shape.unique():
            of_shape, size = self.shape == k, 1 + int(max(self.answer.max(), self.texture.max()))
            answers, textures = (
                x[of_shape].bincount(minlength=size).double() for x in (self.answer, self.texture)
            )
            by_chance += float(answers @ textures) / int(of_shape.sum())
        return by_shape / (by_shape + by_chance) if by_shape + by_chance else math.nan

    def bias_interval(self, seed: int = 0) -> Interval:
        """The bias with its bootstrap interval over stimuli, ``n`` = M."""
        return bootstrap(self.decisions, _bias, seed=seed)

    def accuracy_interval(self, seed: int = 0) -> Interval:
        """The accuracy with its bootstrap interval over stimuli, ``n`` = M."""
        return bootstrap(self.decisions.any(1), seed=seed)

    def by_category(self, names: Sequence[str], seed: int = 0) -> dict[str, Interval]:
        """Bias by *shape* category, as in Geirhos et al.'s figure, for the categories that have
        stimuli. ``names``: of the C categories."""
        rows = {name: self.decisions[self.shape == k] for k, name in enumerate(names)}
        return {
            name: bootstrap(decisions, _bias, seed=seed)
            for name, decisions in rows.items()
            if len(decisions)
        }

    def __iter__(self) -> Iterator[Any]:
        return iter((self.bias, self.accuracy, self.counts))

    def __str__(self) -> str:
        return (
            f"shape bias {self.bias_interval():.3f}, shape + texture accuracy"
            f" {self.accuracy_interval():.3f}, {self.counts}"
        )


def pull(bias: float, blind: float) -> float:
    """Texture decisions for each one that errors alone would make: 1 if the answers take no notice
    of the texture, 0 if none is by texture.

    Args:
        bias, blind: of a :class:`ShapeBias`, in [0, 1]; both rest on the same shape decisions, so
            the ratio of the texture decisions follows. NaN (undefined) where one of them is
            undefined, nothing was answered by shape, or errors would hit no texture.
    """
    by_chance = bias * (1 - blind)
    return (1 - bias) * blind / by_chance if by_chance else math.nan


def shape_bias(probabilities: Tensor, shape: Tensor, texture: Tensor) -> ShapeBias:
    """Shape bias of Geirhos et al. (2019), §3.1 there, for any number of categories: 16 for their
    stimuli, 10 for the embedded world's.

    A stimulus is answered by its most probable category (the first of equals). Stimuli whose cues
    agree hold no conflict and are dropped.

    Args:
        probabilities: float [N, C] in [0, 1], one column a category; rows need not sum to 1 (means
            over classes do not).
        shape, texture: int64 [N], the categories of the two cues in [0, C), or −1 where a cue's
            category has no column: such stimuli are dropped as missing.

    Raises:
        InputError: other shapes, types or ranges than these, or no stimulus with a conflict.
    """
    p = torch.as_tensor(probabilities).detach().cpu()
    if p.ndim != 2 or p.shape[1] < 2 or not p.is_floating_point():
        raise InputError(
            f"probabilities must be floats [N, C] with at least two categories, not {p.dtype}"
            f" {list(p.shape)}"
        )
    if not bool(((p >= 0) & (p <= 1 + 1e-4)).all()):  # false for NaN as well
        raise InputError(
            "probabilities must lie in [0, 1]: give the softmax of the scores, without NaN"
        )
    s, t = (_cue(name, cue, p) for name, cue in (("shape", shape), ("texture", texture)))
    missing = (s < 0) | (t < 0)
    kept = ~missing & (s != t)
    if not bool(kept.any()):
        raise InputError(
            f"none of the {len(p)} stimuli has a conflict between two known categories: shape bias"
            " needs stimuli with shape ≠ texture"
        )
    answer, s, t = p.argmax(1)[kept], s[kept], t[kept]
    by_shape, by_texture = int((answer == s).sum()), int((answer == t).sum())
    counts = Counts(
        by_shape,
        by_texture,
        len(answer) - by_shape - by_texture,
        len(p) - len(answer),
        int(missing.sum()),
    )
    return ShapeBias(answer, s, t, counts)


def _cue(name: str, cue: Tensor, probabilities: Tensor) -> Tensor:
    x = torch.as_tensor(cue).detach().cpu()
    if tuple(x.shape) != (len(probabilities),) or x.is_floating_point() or x.dtype == torch.bool:
        raise InputError(
            f"{name} categories must be whole numbers [{len(probabilities)}], one a stimulus, not"
            f" {x.dtype} {list(x.shape)}"
        )
    if len(x) and not -1 <= int(x.min()) <= int(x.max()) < probabilities.shape[1]:
        found = f"found {int(x.min())} … {int(x.max())}"
        raise InputError(
            f"{name} categories must be in 0 … {probabilities.shape[1] - 1}, or −1 for a category"
            f" without a column: {found}"
        )
    return x.to(torch.int64)


# --------------------------------------------------------------------------------------------------
# From classes to categories


@dataclass(frozen=True)
class Reference:
    """A published shape bias on Geirhos et al.'s stimuli, in [0, 1], and where it stands."""

    bias: float
    source: str


@cache
def _published() -> dict:
    return json.loads(
        resources.files("mae_lib.evaluation")
        .joinpath("assets/cue_conflict_categories.json")
        .read_text(encoding="utf-8")
    )


def category_groups() -> dict[str, tuple[str, ...]]:
    """The 16 categories of Geirhos et al. (2019), sorted by name → their ImageNet-1K classes as
    wnids; 207 of the 1 000 classes belong to one."""
    return {name: tuple(classes) for name, classes in _published()["categories"].items()}


def references() -> dict[str, Reference]:
    """Published shape biases by name: humans, ResNet-50."""
    return {name: Reference(**values) for name, values in _published()["references"].items()}


def category_probabilities(
    probabilities: Tensor,
    classes: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    categories: Sequence[str] | None = None,
) -> tuple[Tensor, tuple[str, ...]]:
    """Probability of a category: the *mean* over those of its classes that the classifier knows, so
    that a category gains nothing by having many.

    Args:
        probabilities: float [N, K], softmax over the classifier's classes. classes: their K names.
            groups: category → names of its classes.
        categories: which ones to return; by default all of ``groups`` that have a class among
            ``classes``, in the order of ``groups``.

    Returns:
        ([N, C], names of the C categories).

    Raises:
        InputError: a category asked for is unknown or has no class among ``classes``; no two
            categories have any; a class stands in two categories; as many columns as classes are
            not there.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise InputError(
            f"probabilities {list(probabilities.shape)} do not fit {len(classes)} classes: give one"
            " column a class"
        )
    members = [name for group in groups.values() for name in group]
    if doubled := sorted({name for name in members if members.count(name) > 1}):
        raise InputError(
            f"class {doubled[0]!r} stands in more than one category, or twice in one: give each"
            " class one category"
        )
    column = {name: k for k, name in enumerate(classes)}
    known = {
        category: [column[name] for name in group if name in column]
        for category, group in groups.items()
    }
    if categories is None:
        names = tuple(category for category, columns in known.items() if columns)
    else:
        names = tuple(categories)
        for name in names:
            if not known.get(name):
                what = (
                    "has no class among those of the classifier"
                    if name in known
                    else f"is unknown (there are {', '.join(known)})"
                )
                raise InputError(
                    f"category {name!r} {what}: leave it out, or train the probe on a data set that"
                    " has its classes"
                )
    if len(names) < 2:
        raise InputError(
            f"the classifier's {len(classes)} classes cover {len(names)} of the categories"
            f" {', '.join(known)}: shape bias needs at least two"
        )
    return torch.stack([probabilities[:, known[name]].mean(1) for name in names], dim=1), names


# --------------------------------------------------------------------------------------------------
# Stimuli


# --------------------------------------------------------------------------------------------------
# The evaluation


def evaluate_shape_bias(
    train: Features,
    stimuli: Features,
    shape: Tensor,
    texture: Tensor,
    groups: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Interval]:
    """Shape bias of a frozen encoder, by a linear probe on its features (§3.4, Table 2).

    Args:
        train: features and labels that the probe learns from, over all of their classes. stimuli:
            features of N cue-conflict images (their own labels are not used). shape, texture: int64
            [N], the cues, numbered by the categories.
        groups: category → names of its classes among ``train.classes``, see
            :func:`category_probabilities`; None: the classes are the categories.
        seed: of the probe and of the bootstrap. device: where to train the probe.

    Returns:
        for each pooling in ``mean`` and ``cls``: ``mean/bias``, ``mean/accuracy`` (shape +
        texture), and ``mean/bias/NAME`` for each shape category with stimuli, with intervals over
        stimuli, ``n`` of them after dropping; ``mean/blind`` (see :class:`ShapeBias`) and
        ``mean/pull`` (:func:`pull`) without one. An undefined bias is NaN.

    Raises:
        InputError: cues that do not fit the stimuli or the categories, and what
            :func:`category_probabilities` and the probe refuse.
    """
    measures: dict[str, Interval] = {}
    for pool in POOLS:
        fitted = probe.train_probe(
            train.pooled(pool), train.labels, len(train.classes), seed=seed, device=device
        )
        probabilities, names, cues = (
            fitted.probabilities(stimuli.pooled(pool)),
            tuple(train.classes),
            (shape, texture),
        )
        if groups is not None:
            probabilities, names = category_probabilities(probabilities, train.classes, groups)
            first, second = (_renumbered(cue, tuple(groups), names) for cue in cues)
            cues = first, second
        found = shape_bias(probabilities, *cues)
        measures[f"{pool}/bias"], measures[f"{pool}/accuracy"] = (
            found.bias_interval(seed),
            found.accuracy_interval(seed),
        )
        for name, value in (("blind", found.blind), ("pull", pull(found.bias, found.blind))):
            measures[f"{pool}/{name}"] = Interval(value, math.nan, math.nan, len(found.answer))
        measures |= {
            f"{pool}/bias/{name}": interval
            for name, interval in found.by_category(names, seed).items()
        }
    return measures


def cue_named(
    train: Features,
    train_cue: Tensor,
    stimuli: Features,
    cue: Tensor,
    categories: int,
    seed: int = 0,
    device: str = "auto",
) -> Interval:
    """Whether a cue can be read at all: the share of stimuli of which a probe trained to name this
    cue, on the mean token, names it.

    Args:
        train: features of N images, their labels not used. train_cue: int64 [N] in [0, categories).
            stimuli: features of M. cue: int64 [M].
        seed, device: of the probe.
    """
    fitted = probe.train_probe(train.mean, train_cue, categories, seed=seed, device=device)
    return bootstrap((fitted.predict(stimuli.mean) == cue).double(), seed=seed)


def _renumbered(cue: Tensor, names: Sequence[str], kept: Sequence[str]) -> Tensor:
    """Cues numbered by ``names`` as numbered by ``kept``, −1 for those left out."""
    if len(cue) and not 0 <= int(cue.min()) <= int(cue.max()) < len(names):
        raise InputError(
            f"cues must be in 0 … {len(names) - 1}, the categories {', '.join(names)}: found"
            f" {int(cue.min())} … {int(cue.max())}"
        )
    return torch.tensor([kept.index(name) if name in kept else -1 for name in names])[cue]
