"""The record of second moments: what it holds, of which images, and that it is made once."""

from __future__ import annotations

import pytest
import torch

from mae_book.sweep import second_moments as moments
from mae_book.sweep.second_moments import DISTANCES, colours, correlations, main, measure
from mae_lib.base.intervals import Interval
from mae_lib.base.runs import RATIO_RUNS
from mae_lib.identification.moments import patch_covariance
from mae_lib.worlds.world import World

CURVES = (*DISTANCES, "one-map")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(moments, "IMAGES", 300)
    monkeypatch.setattr(moments, "MASKS", 4)


def test_colours_are_the_means_of_the_patches_of_images_drawn_without_repetition():
    world = World("train", 64)
    found = colours(world, 40)
    assert found.shape == (40, 64, 3) and len(found.flatten(1).unique(dim=0)) == 40
    index = torch.randperm(len(world), generator=torch.Generator().manual_seed(0))[:40]
    image = world.images(index)[7].double()
    assert torch.allclose(found[7, 10], image[:, 8:16, 16:24].mean((1, 2)))


def test_curves_are_ordered_and_neighbours_are_alike():
    found = measure(World("train", 64))
    value = lambda curve, run: found[f"{curve}/{run}"].value
    for run in RATIO_RUNS:
        assert value("EV", run) > value("G1", run) > value("G2", run) > 0
        assert value("EV", run) > value("one-map", run) - 0.01
    assert set(found) == {f"{c}/{r}" for c in CURVES for r in RATIO_RUNS} | {
        f"apart{k}" for k in range(1, 8)
    }
    apart = [found[f"apart{k}"].value for k in range(1, 8)]
    assert apart[0] > apart[1] > apart[2]
    assert apart[6] > apart[3], "ground meets ground across the picture"


def test_correlation_of_copies_is_one_and_of_strangers_none():
    same = torch.randn(500, 1, 3, generator=torch.Generator().manual_seed(0)).expand(-1, 16, -1)
    assert all(v == pytest.approx(1) for v in correlations(patch_covariance(same), 4).values())
    other = torch.randn(4000, 16, 3, generator=torch.Generator().manual_seed(1))
    assert all(abs(v) < 0.05 for v in correlations(patch_covariance(other), 4).values())


def test_the_command_writes_one_record_and_not_again(tmp_path, capsys, monkeypatch):
    numbers = {f"{c}/{r}": Interval(0.5, 0.4, 0.6, 4) for c in CURVES for r in RATIO_RUNS}
    monkeypatch.setattr(moments, "measure", lambda source: numbers)
    main(["--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("colours-world-") and "G1 at .1" in capsys.readouterr().out
    before = path.stat().st_mtime_ns
    main(["--out", str(tmp_path)])
    assert path.stat().st_mtime_ns == before and capsys.readouterr().out == ""
    with pytest.raises(SystemExit) as stop:
        main(["--data", str(tmp_path / "absent"), "--out", str(tmp_path)])
    assert stop.value.code == 2 and "absent" in capsys.readouterr().err
