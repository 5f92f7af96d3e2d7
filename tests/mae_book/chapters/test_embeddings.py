"""The picture of features in the plane."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mae_book.chapters.separability import embeddings
from mae_lib.base.errors import InputError


def test_embeddings_are_drawn_one_colour_and_marker_a_class():
    labels = torch.arange(36) % 12
    points = {
        f"run {k}": torch.randn(36, 2, generator=torch.Generator().manual_seed(k)) for k in range(7)
    }
    figure = embeddings(points, labels, tuple("abcdefghijkl"), columns=5)
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == list(points)
    for axis, places in zip(panels, points.values()):
        assert len(axis.collections) == 12
        for k, dots in enumerate(axis.collections):
            assert np.allclose(np.asarray(dots.get_offsets()), places[labels == k].numpy())
        looks = {
            (tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes())
            for dots in axis.collections
        }
        assert len(looks) == 12
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list("abcdefghijkl")
    assert len(embeddings({"alone": points["run 0"]}, labels, tuple("abcdefghijkl")).axes) == 1
    for bad, match in (
        ({}, "no embeddings"),
        ({"x": torch.zeros(35, 2)}, "'x' is .35, 2., for 36"),
    ):
        with pytest.raises(InputError, match=match):
            embeddings(bad, labels, tuple("abcdefghijkl"))
