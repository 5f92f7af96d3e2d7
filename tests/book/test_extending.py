"""The programs on the page *Extending* run as they stand there, are as short as it says, and do
what the text around them promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from mae_lib.base.image_source import ImageSource
from mae_lib.base.intervals import Interval
from mae_lib.evaluation import evaluate
from mae_lib.masks.masking import MaskSpec, hidden_map
from mae_lib.training import store

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book" / "extending.md").read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
"""heading → program."""


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, the project's folder, and tables of evaluations that are put back."""
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(evaluate, "EVALUATIONS", dict(evaluate.EVALUATIONS))
    monkeypatch.setattr(evaluate, "SETTINGS", dict(evaluate.SETTINGS))


def run(heading: str) -> dict:
    """The program's names after it ran."""
    names: dict = {}
    exec(compile(PROGRAMS[heading], f"extending.md: {heading}", "exec"), names)
    return names


def test_the_page_holds_three_programs_of_fewer_than_thirty_lines() -> None:
    assert list(PROGRAMS) == ["A new mask sampler", "A new world", "A new evaluation"]
    assert PAGE.count("```python") == 3
    for heading, program in PROGRAMS.items():
        assert len([line for line in program.splitlines() if line.strip()]) < 30, heading
        assert max(map(len, program.splitlines())) <= 79, heading  # no wider than the page


def test_the_mask_sampler_hides_whole_columns_and_the_law_is_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = run("A new mask sampler")
    said = dict(
        re.findall(r"^(\w+): mean level of c ([\d.]+)$", capsys.readouterr().out, re.MULTILINE)
    )
    assert said.keys() == {"random", "stripes"} and all(
        1 <= float(level) <= 3 for level in said.values()
    )
    assert names["prediction"].shape == (4, 48, 192) and all(
        p.grad is not None for p in names["model"].parameters()
    )
    spec = MaskSpec((4, 8), 0.5)  # not square: a column is not a row
    visible, hidden = names["stripes"](spec, 200, torch.Generator().manual_seed(1))
    assert torch.equal(
        torch.cat([visible, hidden], 1).sort(1).values, torch.arange(32).expand(200, -1)
    )
    columns = hidden_map(hidden, 32).view(200, 4, 8)
    assert torch.equal(columns, columns[:, :1].expand(-1, 4, -1)) and bool(
        (columns[:, 0].sum(1) == 4).all()
    )
    again = names["stripes"](spec, 200, torch.Generator().manual_seed(1))
    assert torch.equal(again[1], hidden) and len(hidden.sort(1).values.unique(dim=0)) > 30


def test_the_world_is_a_source_of_images_and_learned_from() -> None:
    names = run("A new world")
    train = names["train"]
    assert isinstance(train, ImageSource)
    images = train.images(range(len(train)))
    assert images.shape == (512, *train.shape) and images.dtype == torch.uint8
    # the same alone and in a batch
    assert torch.equal(images[[3, 200]], train.images(torch.tensor([3, 200])))
    assert torch.equal(
        names["validation"].images([0]), names["Discs"](0, 600).images([512])
    ) and not torch.equal(images[0], images[2])
    bright = (images == 220).float().mean((1, 2, 3))
    assert float(bright[train.labels == 0].max()) < float(bright[train.labels == 1].min())
    # better than no learning
    assert (
        names["held_out_error"](
            names["trained"].model, names["config"].mask, names["validation"], images=128
        )["explained"]
        > 0
    )
    assert names["Discs"](0, 512).identity == train.identity and train.identity not in (
        names["Discs"](1, 512).identity,
        names["Discs"](0, 511).identity,
    )


def test_the_evaluation_is_recorded_as_the_others_are() -> None:
    names = run("A new evaluation")
    record, checkpoint = names["record"], names["checkpoint"]
    assert record["kind"] == "mirrored" and record["settings"] == {"images": 64}
    assert {"run", "seed", "key", "commit", "hardware"} <= record.keys()
    for measure in ("cls/cosine", "mean/cosine"):
        found = Interval.from_dict(record["measures"][measure])
        assert -1 <= found.low < found.value < found.high <= 1 and found.n == 64

    class Blind:
        """Sees the mean colour alone: a mirror changes nothing."""

        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))[:, None].expand(-1, 3, -1)

    class Loaded(store.Checkpoint):
        def load(self, device: str = "cpu") -> Blind:
            return Blind()

    blind = names["mirrored"](
        Loaded(checkpoint.path, checkpoint.record), names["Options"](images=16)
    )
    assert all(interval.value == pytest.approx(1, abs=1e-6) for interval in blind.values())
