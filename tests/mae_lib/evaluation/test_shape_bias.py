"""Shape bias equals its closed form, keeps its meaning at the edges (nothing decided, no conflict,
missing categories), uses the published mapping, reads the published layout, and finds 0 and 1 for
classifiers that follow one cue alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data import ImageNetInfo

from image_folders import picture, save
from looking import drawn  # noqa: F401 (renders and closes every figure)
from mae_lib.base.errors import InputError
from mae_lib.evaluation.features import POOLS, Features
from mae_lib.evaluation.inputs import Stimuli, read_stimuli, world_stimuli
from mae_lib.evaluation.shape_bias import (
    category_groups,
    category_probabilities,
    cue_named,
    evaluate_shape_bias,
    pull,
    references,
    shape_bias,
)
from mae_lib.worlds.law import CLASSES
from mae_lib.worlds.world import World


def answers(labels, categories: int, sure: float = 0.6) -> torch.Tensor:
    """float [N, C]: probabilities of which ``labels`` have the largest."""
    rows = torch.full((len(labels), categories), (1 - sure) / (categories - 1))
    rows[torch.arange(len(labels)), torch.as_tensor(labels)] = sure
    return rows


# --------------------------------------------------------------------------------------------------
# The measure


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bias_accuracy_and_counts_are_the_closed_form(data):
    categories = data.draw(st.integers(2, 16))
    one = st.integers(0, categories - 1)
    cues = data.draw(st.lists(st.tuples(one, one, one), min_size=1, max_size=40))
    shape, texture, answer = torch.tensor(cues).unbind(1)
    conflicts = [(s, t, a) for s, t, a in cues if s != t]
    if not conflicts:
        with pytest.raises(InputError, match="conflict"):
            shape_bias(answers(answer, categories), shape, texture)
        return
    by_shape, by_texture = (
        sum(a == s for s, _, a in conflicts),
        sum(a == t for _, t, a in conflicts),
    )
    bias, accuracy, counts = found = shape_bias(answers(answer, categories), shape, texture)
    assert (bias, accuracy, counts) == (found.bias, found.accuracy, found.counts) or math.isnan(
        bias
    )
    assert counts == (
        by_shape,
        by_texture,
        len(conflicts) - by_shape - by_texture,
        len(cues) - len(conflicts),
        0,
    )
    assert sum(counts[:4]) == len(cues)
    assert accuracy == pytest.approx((by_shape + by_texture) / len(conflicts))
    if by_shape + by_texture:
        assert bias == pytest.approx(by_shape / (by_shape + by_texture))
    else:
        assert math.isnan(bias)


def test_numbers_done_by_hand():
    #          shape, texture, shape, other, congruent, shape
    answer = [0, 3, 2, 1, 1, 1]
    bias, accuracy, counts = shape_bias(
        answers(answer, 4), torch.tensor([0, 2, 2, 0, 1, 1]), torch.tensor([1, 3, 0, 2, 1, 3])
    )
    assert (bias, accuracy) == (0.75, 0.8)
    assert (counts.shape, counts.texture, counts.other, counts.dropped, counts.missing) == (
        3,
        1,
        1,
        1,
        0,
    )


def test_classifiers_that_follow_one_cue_score_nought_and_one_on_the_worlds_stimuli():
    stimuli = world_stimuli(64)
    assert len(stimuli) == 2000 and stimuli.categories == CLASSES
    for cue, expected in ((stimuli.shape, 1.0), (stimuli.texture, 0.0)):
        found = shape_bias(answers(cue, 10), stimuli.shape, stimuli.texture)
        assert (found.bias, found.accuracy, found.counts.dropped) == (expected, 1.0, 0)
        interval = found.bias_interval()
        assert (interval.value, interval.low, interval.high, interval.n) == (
            expected,
            expected,
            expected,
            2000,
        )
        assert {i.value for i in found.by_category(CLASSES).values()} == {expected} and len(
            found.by_category(CLASSES)
        ) == 10


def test_a_bias_that_rests_on_no_decision_is_undefined():
    found = shape_bias(answers([2, 2, 2], 4), torch.tensor([0, 1, 0]), torch.tensor([1, 0, 3]))
    assert math.isnan(found.bias) and found.accuracy == 0 and found.counts[:3] == (0, 0, 3)
    interval = found.bias_interval()
    assert f"{interval:.3f}" == "undefined" and math.isnan(interval.low) and interval.n == 3
    assert "bias undefined" in str(found)
    # One decision among them: defined, though some resamplings are not.
    found = shape_bias(answers([0, 2, 2], 4), torch.tensor([0, 1, 0]), torch.tensor([1, 0, 3]))
    assert found.bias == 1.0 and found.bias_interval().low == 1.0
    categories = found.by_category("abcd")
    assert (
        set(categories) == {"a", "b"}
        and categories["a"].value == 1.0
        and f"{categories['b']:.2f}" == "undefined"
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_the_names_of_categories_do_not_matter(seed):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(60, 7, generator=generator, dtype=torch.float64)
    shape, texture = torch.randint(7, (2, 60), generator=generator)
    order = torch.randperm(7, generator=generator)
    place = order.argsort()
    one, other = (
        shape_bias(p, shape, texture),
        shape_bias(p[:, order], place[shape], place[texture]),
    )
    assert torch.equal(one.decisions, other.decisions) and one.counts == other.counts
    rows = torch.randperm(60, generator=generator)
    assert shape_bias(p[rows], shape[rows], texture[rows]).counts == one.counts


def test_blind_is_the_mean_over_deals_of_the_answers_within_each_shape():
    generator = torch.Generator().manual_seed(2)
    shape = torch.tensor([0, 0, 0, 1, 1, 2])
    texture, answer = torch.tensor([1, 2, 1, 0, 2, 0]), torch.tensor([1, 0, 2, 1, 0, 2])
    found = shape_bias(answers(answer, 3), shape, texture)
    textures = []
    for first in itertools.permutations([1, 0, 2]):
        for second in itertools.permutations([1, 0]):
            textures.append(sum(a == t for a, t in zip((*first, *second, 2), texture.tolist())))
    by_shape = 3  # of each deal: answers stay with their shape
    assert found.blind == pytest.approx(by_shape / (by_shape + sum(textures) / len(textures)))
    assert pull(found.bias, found.blind) == pytest.approx(
        found.counts.texture / (sum(textures) / len(textures))
    )
    # Uneven errors do not mislead it: answers drawn from the shape alone, near and far from it.
    shape, texture = torch.randint(5, (2, 20_000), generator=generator)
    confusion = torch.rand(5, 5, generator=generator).softmax(1) + torch.eye(5)
    careless = shape_bias(answers(careless_answers(confusion, shape, generator), 5), shape, texture)
    assert careless.blind == pytest.approx(careless.bias, abs=0.01)
    taken = torch.rand(20_000, generator=generator) < 0.2
    pulled = shape_bias(
        answers(torch.where(taken, texture, careless_answers(confusion, shape, generator)), 5),
        shape,
        texture,
    )
    assert pulled.blind > pulled.bias + 0.1
    assert (
        pull(careless.bias, careless.blind) == pytest.approx(1, abs=0.08)
        and pull(pulled.bias, pulled.blind) > 1.5
    )
    assert pull(1.0, 0.9) == 0.0 and all(
        map(math.isnan, (pull(math.nan, math.nan), pull(1.0, 1.0), pull(0.0, 0.0)))
    )
    assert math.isnan(
        shape_bias(answers([2, 2], 3), torch.tensor([0, 1]), torch.tensor([1, 0])).blind
    )


def careless_answers(
    confusion: torch.Tensor, shape: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """int64 [N]: answers drawn from the row of each stimulus's shape, whatever its texture."""
    return torch.multinomial(confusion[shape], 1, generator=generator)[:, 0]


def test_swapping_the_cues_mirrors_the_bias():
    generator = torch.Generator().manual_seed(1)
    p, (shape, texture) = (
        torch.rand(200, 5, generator=generator),
        torch.randint(5, (2, 200), generator=generator),
    )
    one, other = shape_bias(p, shape, texture), shape_bias(p, texture, shape)
    assert one.bias == pytest.approx(1 - other.bias) and one.accuracy == other.accuracy


def test_of_equal_probabilities_the_first_category_answers_as_in_the_published_code():
    found = shape_bias(torch.full((2, 3), 1 / 3), torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert (found.counts.shape, found.counts.texture) == (1, 1)


def test_cues_without_a_column_are_dropped_and_counted():
    shape, texture = torch.tensor([0, -1, 1, -1, 1]), torch.tensor([1, 0, -1, -1, 1])
    found = shape_bias(answers([0, 0, 1, 0, 1], 2), shape, texture)
    assert found.counts == (1, 0, 0, 4, 3)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth, hits = 0.3, 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        u = torch.rand(150, generator=generator)
        # six in ten decided, three in ten of these by shape
        answer = torch.where(u < 0.6 * truth, 0, torch.where(u < 0.6, 1, 2))
        found = shape_bias(
            answers(answer, 3),
            torch.zeros(150, dtype=torch.int64),
            torch.ones(150, dtype=torch.int64),
        ).bias_interval(seed)
        assert found.low <= found.value <= found.high
        hits += found.low <= truth <= found.high
    assert 50 <= hits <= 60


@pytest.mark.parametrize(
    ("probabilities", "shape", "texture", "message"),
    [
        (torch.rand(3), [0, 1, 0], [1, 0, 1], "at least two categories"),
        (torch.rand(3, 1), [0, 0, 0], [0, 0, 0], "at least two categories"),
        (torch.eye(3, dtype=torch.int64), [0, 1, 0], [1, 0, 1], "floats"),
        (torch.randn(3, 4) * 5, [0, 1, 0], [1, 0, 1], "softmax"),
        (torch.full((3, 4), math.nan), [0, 1, 0], [1, 0, 1], "softmax"),
        (torch.rand(3, 4), [0, 1], [1, 0, 1], "shape categories"),
        (torch.rand(3, 4), [0, 1, 0], [1.0, 0.0, 1.0], "texture categories"),
        (torch.rand(3, 4), [0, 1, 4], [1, 0, 1], "0 … 3"),
        (torch.rand(3, 4), [0, 1, 0], [1, 0, -2], "0 … 3"),
        (torch.rand(3, 4), [0, 1, 2], [0, 1, 2], "conflict"),
        (
            torch.rand(0, 4),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, dtype=torch.int64),
            "conflict",
        ),
    ],
)
def test_what_is_no_set_of_decisions_is_refused(probabilities, shape, texture, message):
    with pytest.raises(InputError, match=message):
        shape_bias(probabilities, torch.as_tensor(shape), torch.as_tensor(texture))


# --------------------------------------------------------------------------------------------------
# The published mapping


def test_the_mapping_is_the_published_one():
    groups = category_groups()
    assert list(groups) == sorted(groups) and len(groups) == 16
    members = [wnid for group in groups.values() for wnid in group]
    assert len(members) == len(set(members)) == 207  # no class in two categories
    known = ImageNetInfo().label_names()
    assert len(known) == 1000 and set(members) <= set(known)
    # From human_categories.py: sizes, and a few of its indices.
    sizes = dict(zip(groups, (1, 4, 2, 49, 5, 7, 3, 6, 4, 3, 109, 2, 2, 1, 1, 8)))
    assert {name: len(group) for name, group in groups.items()} == sizes
    for name, indices in {
        "airplane": [404],
        "bear": [294, 295, 296, 297],
        "knife": [499],
        "oven": [766],
        "elephant": [385, 386],
    }.items():
        assert groups[name] == tuple(known[k] for k in indices)


def test_the_references_are_quoted_with_their_source():
    found = references()
    assert found["humans"].bias == 0.959 and found["ResNet-50"].bias == 0.221
    assert all(
        0 <= r.bias <= 1 and ("1811.12231" in r.source or "README" in r.source)
        for r in found.values()
    )


def test_a_category_gets_the_mean_of_its_classes():
    groups = {"x": ("a", "b", "c"), "y": ("d",), "z": ("not known",)}
    p = torch.tensor([[0.2, 0.2, 0.2, 0.3, 0.1]])
    found, names = category_probabilities(p, ["a", "b", "c", "d", "of no category"], groups)
    # the sum and the maximum would answer otherwise
    assert names == ("x", "y") and torch.allclose(found, torch.tensor([[0.2, 0.3]]))
    # Over the classes present only, in the order of the groups, whatever the order of the classes.
    found, names = category_probabilities(torch.tensor([[0.5, 0.1]]), ["d", "b"], groups)
    assert names == ("x", "y") and torch.allclose(found, torch.tensor([[0.1, 0.5]]))
    found, names = category_probabilities(
        p, ["a", "b", "c", "d", "e"], groups, categories=["y", "x"]
    )
    assert names == ("y", "x") and torch.allclose(found, torch.tensor([[0.3, 0.2]]))


@pytest.mark.parametrize(
    ("classes", "groups", "categories", "message"),
    [
        (["a", "b"], {"x": ("a",), "y": ("b",), "z": ("c",)}, ["x", "z"], "'z' has no class"),
        (["a", "b"], {"x": ("a",), "y": ()}, ["x", "y"], "'y' has no class"),
        (["a", "b"], {"x": ("a",), "y": ("b",)}, ["x", "w"], "'w' is unknown"),
        (["a", "b"], {"x": ("a",), "y": ("c",)}, None, "cover 1 of"),
        (["a", "b"], {"x": ("a", "b"), "y": ("b",)}, None, "'b' stands in more"),
        (["a", "b", "c"], {"x": ("a",), "y": ("b",)}, None, "do not fit 3 classes"),
    ],
)
def test_categories_that_cannot_be_had_are_refused(classes, groups, categories, message):
    with pytest.raises(InputError, match=message):
        category_probabilities(torch.rand(4, 2), classes, groups, categories)


# --------------------------------------------------------------------------------------------------
# Stimuli


def test_the_published_layout_is_read(tmp_path):
    names = [
        "airplane/airplane10-bear3.png",
        "airplane/airplane1-airplane2.png",
        "truck/truck2-cat1.png",
        "cat/cat7-truck3.png",
    ]
    for seed, name in enumerate(names):
        save(picture(seed), tmp_path / name)
    stimuli = read_stimuli(tmp_path, 32)
    categories = tuple(category_groups())
    assert (
        stimuli.categories == categories
        and len(stimuli) == 4
        and stimuli.source.shape == (3, 32, 32)
    )
    found = {
        (
            str(stimuli.source.path(k).relative_to(tmp_path)),
            categories[stimuli.shape[k]],
            categories[stimuli.texture[k]],
        )
        for k in range(4)
    }
    assert found == {
        (names[0], "airplane", "bear"),
        (names[1], "airplane", "airplane"),
        (names[2], "truck", "cat"),
        (names[3], "cat", "truck"),
    }
    assert shape_bias(answers(stimuli.texture, 16), stimuli.shape, stimuli.texture).counts == (
        0,
        3,
        0,
        1,
        0,
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cat/cat1.png", "cat1.png is not called"),
        ("cat/cat1-dog.png", "cat1-dog.png is not called"),
        ("cat/1-2.png", "1-2.png is not called"),
        ("cat/cat1-unicorn2.png", "'unicorn', which is none of the 16"),
        ("cat/dog1-bear2.png", "dog1-bear2.png has the shape 'dog' and lies in 'cat'"),
        ("edges/cat1-dog2.png", "lies in 'edges'"),
    ],
)
def test_a_file_whose_cues_cannot_be_read_is_named(tmp_path, name, message):
    save(picture(0), tmp_path / "airplane" / "airplane1-bear2.png")
    save(picture(1), tmp_path / name)
    with pytest.raises(InputError, match=message) as caught:
        read_stimuli(tmp_path, 32)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such folder"):
        read_stimuli(tmp_path / "absent", 32)


def test_the_worlds_stimuli_carry_the_cues_they_were_drawn_with():
    stimuli = world_stimuli(32, 40)
    batch = World("conflict", 32).sample(range(40))
    assert torch.equal(stimuli.shape, batch.labels) and torch.equal(stimuli.texture, batch.textures)
    assert torch.equal(stimuli.shape, stimuli.source.labels) and bool(
        (stimuli.shape != stimuli.texture).all()
    )
    assert torch.equal(stimuli.source.images([7]), batch.images[7:8])
    training = world_stimuli(32, 3000, "train")
    assert abs(float((training.shape == training.texture).double().mean()) - 0.7) < 0.04


# --------------------------------------------------------------------------------------------------
# The evaluation


def two_cues(stimuli: Stimuli) -> Features:
    """Features that show both cues as one-hot columns (the mean), or the texture alone ([CLS])."""
    shape, texture = (
        torch.nn.functional.one_hot(cue, len(stimuli.categories)).float()
        for cue in (stimuli.shape, stimuli.texture)
    )
    return Features(torch.cat([shape, texture], 1), texture, stimuli.shape, stimuli.categories)


def test_features_that_show_one_cue_are_found_out():
    train, stimuli = world_stimuli(32, 2000, "train"), world_stimuli(32, 400)
    found = evaluate_shape_bias(
        two_cues(train), two_cues(stimuli), stimuli.shape, stimuli.texture, device="cpu"
    )
    assert set(found) == {
        f"{pool}/{name}"
        for pool in POOLS
        for name in ("bias", "accuracy", "blind", "pull", *(f"bias/{c}" for c in CLASSES))
    }
    assert (
        found["mean/bias"].value == 1.0
        and found["mean/accuracy"].value == 1.0
        and found["mean/bias"].n == 400
    )
    # the texture predicts the class in seven of ten
    assert found["cls/bias"].value == 0.0 and found["cls/accuracy"].value == 1.0
    # no errors to compare with; nothing but texture
    assert math.isnan(found["mean/pull"].value) and math.isnan(found["cls/pull"].value)
    assert (
        all(found[f"mean/bias/{c}"].value == 1.0 for c in CLASSES)
        and sum(found[f"mean/bias/{c}"].n for c in CLASSES) == 400
    )


def test_a_cue_is_named_where_the_features_show_it():
    train, stimuli = world_stimuli(32, 2000, "conflict", seed=1), world_stimuli(32, 400)
    texture_alone = (
        Features(f.cls, f.cls, f.labels, f.classes) for f in (two_cues(train), two_cues(stimuli))
    )
    shown, seen = texture_alone
    assert cue_named(shown, train.texture, seen, stimuli.texture, 10, device="cpu").value == 1.0
    # all that a texture says of the shape: it is another
    blind = cue_named(shown, train.shape, seen, stimuli.shape, 10, device="cpu")
    assert blind.n == 400 and blind.value < 0.2


def test_a_subset_of_the_classes_leaves_categories_out():
    groups = {"a": ("k0", "k1"), "b": ("absent",), "c": ("k2",), "d": ("k4",)}
    train = Features(
        torch.eye(5).repeat(20, 1),
        torch.eye(5).repeat(20, 1),
        torch.arange(5).repeat(20),
        ("k0", "k1", "k2", "k3", "k4"),
    )
    shape = torch.tensor([0, 2, 1, 3, 2, 0])  # a c b d c a
    # c d a d b d: two stimuli need category b, one has no conflict
    texture = torch.tensor([2, 3, 0, 3, 1, 3])
    looks = torch.eye(5)[[1, 2, 0, 4, 2, 4]]  # k1 k2 k0 k4 k2 k4: answered a c – – – d
    found = evaluate_shape_bias(
        train,
        Features(looks, looks, torch.zeros(6, dtype=torch.int64), ("x",)),
        shape,
        texture,
        groups,
    )
    assert found["mean/bias"].n == 3 and found["mean/accuracy"].value == 1.0
    assert found["mean/bias"].value == pytest.approx(2 / 3)
    assert {name for name in found if name.startswith("cls/bias/")} == {"cls/bias/a", "cls/bias/c"}
    with pytest.raises(InputError, match="cues must be in 0 … 3"):
        evaluate_shape_bias(
            train, Features(looks, looks, shape, ("x",)), shape + 2, texture, groups
        )
