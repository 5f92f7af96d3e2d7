"""The graded sets: the strongest is the set itself, each severity lies between the training law and
it, and no two share an image."""

from __future__ import annotations

import pytest
import torch

from mae_lib.base.errors import InputError
from mae_lib.worlds.graded import GRADED, SEVERITIES, Graded
from mae_lib.worlds.law import LAWS, TRAINING
from mae_lib.worlds.world import World

SOME = [3, 0, 41]


@pytest.mark.parametrize("split", GRADED)
def test_the_strongest_is_the_set_itself(split):
    graded, world = Graded(split, 32), World(split, 32)
    assert torch.equal(graded.images(SOME), world.images(SOME))
    assert torch.equal(graded.labels, world.labels)
    ours, theirs = graded.sample(SOME), world.sample(SOME)
    assert torch.equal(ours.images, theirs.images) and torch.equal(ours.box, theirs.box)


@pytest.mark.parametrize("split", GRADED)
def test_each_severity_has_images_and_labels_of_its_own(split):
    sets = [Graded(split, 32, severity=k, length=200) for k in SEVERITIES]
    images = torch.cat([each.images(range(20)) for each in sets]).flatten(1)
    assert len(images.unique(dim=0)) == len(images)
    labels = torch.stack([each.labels for each in sets])
    assert len(labels.unique(dim=0)) == len(SEVERITIES)
    for each in sets:
        assert torch.equal(each.sample(SOME).labels, each.labels[SOME])
        assert torch.equal(each.sample(SOME).images, each.images(SOME))
    assert len({str(each.identity) for each in sets}) == len(SEVERITIES)


def test_poses_lie_in_the_range_between_the_two_laws():
    """The viewpoint's law at severity k is uniform over ranges k fifths of the way."""
    far = LAWS["viewpoint"]
    for k in SEVERITIES:
        pose = Graded("viewpoint", 16, severity=k).sample(range(1000)).latents["pose"]
        for value, field in (
            (pose[:, 0], "scale"),
            (pose[:, 1].abs(), "turn"),
            (pose[:, 4], "squeeze"),
        ):
            low, high = (
                a + k / 5 * (b - a) for a, b in zip(getattr(TRAINING, field), getattr(far, field))
            )
            assert low - 1e-5 <= float(value.min()) < low + 0.05 * (high - low) + 1e-5
            assert high + 1e-5 >= float(value.max()) > high - 0.05 * (high - low) - 1e-5


@pytest.mark.parametrize("split", GRADED)
def test_each_step_leads_further_from_the_training_law(split):
    """Latents of one and the same noises, by the size of what has changed."""
    noise = World(split, 16)._noise(range(100))
    seen = []
    for k in SEVERITIES:
        graded = Graded(split, 16, severity=k)
        object.__setattr__(graded, "_noise", lambda _: noise)
        seen.append(graded._between(range(100))[1])
    for field in ("pose", "object_colour", "ink"):
        steps = [
            (getattr(b, field) - getattr(a, field)).abs().amax().item()
            for a, b in zip(seen, seen[1:])
        ]
        assert max(steps) <= min(steps) + 1e-5, field  # equal steps


def test_bad_input_is_named():
    with pytest.raises(InputError, match="'v2' has no severities: choose one of viewpoint"):
        Graded("v2", 32)
    with pytest.raises(InputError, match="severity 0: choose 1 to 5"):
        Graded("sketch", 32, severity=0)
    with pytest.raises(InputError, match="length 2001: a severity has 2000 images"):
        Graded("sketch", 32, length=2001)
