"""The explorer in which one draws a mask, without a browser: what it says of a mask against the
theory's own statements, and its shipped models against the checkpoints that they were made from."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from explorers import explorer, mask_models
from mae_book.explorers import mask_models as module
from mae_book.explorers.mask_explorer import MaskExplorer
from mae_book.explorers.mask_scene import NU, RHO
from mae_book.verdicts.results import repository
from mae_lib.base.errors import InputError
from mae_lib.evaluation.latents import world_latents
from mae_lib.theory.worth import explained_variance
from mae_lib.training.store import checkpoints
from mae_lib.worlds.world import World

SHOWN = explorer("mask")
MASKS = [random.Random(k).randrange(2**16 - 1) for k in range(20)]


@pytest.mark.parametrize("mask", [0, 1, *MASKS])
def test_levels_share_out_what_is_hidden_and_all_that_is_explained(mask):
    levels, hidden = SHOWN.levels(mask), SHOWN.hidden(mask)
    assert sum(one.asked for one in levels) == pytest.approx(float(hidden.float().mean()))
    flags = hidden[SHOWN.order()][None].numpy()
    whole = explained_variance(flags, 4, RHO, NU).mean()
    assert sum(one.worth for one in levels) == pytest.approx(whole)
    assert all(one.worth >= 0 and one.shared <= one.latents for one in levels)
    swapped = SHOWN.levels(2**16 - 1 - mask) if mask else levels
    assert [one.shared for one in swapped] == [one.shared for one in levels]  # Theorem 1


def test_leaves_stand_block_by_block():
    order = np.array(SHOWN.order())
    rows, columns = order // 4, order % 4
    for h in (1, 2):
        blocks = set(zip(rows >> h, columns >> h))
        runs = np.array_split(np.arange(16), len(blocks))
        assert all(len({(rows[k] >> h, columns[k] >> h) for k in run}) == 1 for run in runs)


def test_the_image_s_own_c_is_the_parts_with_two_sides():
    parts = SHOWN.parts[0]
    part = int(parts.max())
    patches = (parts == part).nonzero()[:, 0].tolist()
    all_of_it, ground = sum(1 << k for k in patches), parts == 0
    assert SHOWN.own(0, all_of_it) == (["class"] if len(parts[parts > 0].unique()) > 1 else [])
    some = 1 << int(ground.nonzero()[0])
    assert SHOWN.own(0, some) == ["ground"] and SHOWN.own(0, 0) == []


@pytest.mark.parametrize("mask", [-1, 2**16 - 1, 2**16, "0f0f", 1.0])
def test_a_mask_that_leaves_nothing_or_is_none_is_refused(mask):
    with pytest.raises(InputError, match="no mask"):
        MaskExplorer(mask_models(), range(3), mask=mask)


def test_models_of_two_sizes_and_a_pair_that_is_not_there_are_refused():
    with pytest.raises(InputError, match="one size"):
        MaskExplorer([*mask_models(), *module.shipped()], range(3))
    with pytest.raises(InputError, match="no ratio 0.9"):
        MaskExplorer(mask_models(), range(3), ratio=0.9)


def test_a_file_of_models_gives_them_back(tmp_path, monkeypatch):
    monkeypatch.setattr(module.resources, "files", lambda _: tmp_path)
    (tmp_path / "assets").mkdir()
    module.write(mask_models(), tmp_path / "assets" / module.FILE)
    for found, given in zip(module.shipped(), mask_models(), strict=True):
        assert (found.config, found.errors, found.origin) == (
            given.config, given.errors, given.origin
        )  # fmt: skip
        assert torch.equal(found.readout, given.readout)
        assert all(torch.equal(found.weights[k], w) for k, w in given.weights.items())


def test_shipped_models_are_their_checkpoints_in_half_precision():
    stored = {run.path.stem: run for run in checkpoints(repository() / "checkpoints" / "world")}
    known = [model for model in module.shipped() if model.origin in stored]
    assert [m.config.ratio for m in known] == list(module.RATIOS)
    for model in known:
        weights = stored[model.origin].load().state_dict()
        assert model.config == stored[model.origin].config
        assert all(torch.equal(model.weights[k], w.half()) for k, w in weights.items())


def test_what_the_readouts_are_said_to_err_by_is_what_they_err_by():
    """On other images than those that the error was told from."""
    model, world, index = module.shipped()[-2], World("v2", 64), torch.arange(600)
    truth, share = world_latents(world, index), module.SHARES.index(0.5)
    codes = module.codes(model.model(), world, index, 0.5)
    said = (model.readout[0] + codes @ model.readout[1:]).split([*module.READ.values()], 1)
    found = dict(zip(module.READ, said))
    right = float((found["class"].argmax(1) == truth["class"]).float().mean())
    assert right == pytest.approx(model.errors["class"][share], abs=0.08)
    off = (found["position"] - truth["position"]).square().sum(1).mean().sqrt()
    assert 32 * float(off) == pytest.approx(model.errors["position"][share], rel=0.1)
    assert model.errors["position"][share] < model.spread["position"]
