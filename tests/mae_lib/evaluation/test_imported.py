"""What reads a checkpoint reads an imported one too: every evaluation, and the detector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import foreign
from image_folders import fill
from mae_lib.base.errors import InputError
from mae_lib.data.coco import write_scenes
from mae_lib.detection.detectors import StoredDetector, finetune_config, obtain_detector, run_of
from mae_lib.evaluation.evaluate import evaluate, identity
from mae_lib.evaluation.features import encode
from mae_lib.evaluation.inputs import Options
from mae_lib.training import store
from mae_lib.training.foreign.files import Said
from mae_lib.training.foreign.models import Told, import_weights
from mae_lib.worlds.world import Scenes, World

FEW = Options(images=12, train_images=400, device="cpu")


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """A cache of this test's own, and evaluation sets of 300 images."""
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mae_lib.worlds.world.EVALUATION_LENGTH", 300)
    monkeypatch.setattr("mae_lib.worlds.world.hard_indices", lambda every=torch.arange(300): every)
    torch.set_num_threads(1)


@pytest.fixture
def whole(tmp_path) -> store.Checkpoint:
    """With a decoder, and a ratio that its source says."""
    return import_weights(foreign.vitmae_folder(tmp_path / "hub"), tmp_path / "out")


@pytest.mark.parametrize(
    "kind", ["reconstruction", "attention", "separability", "probe", "shape_bias"]
)
def test_every_evaluation_reads_it(kind: str, whole: store.Checkpoint) -> None:
    record = evaluate(kind, whole, FEW)
    assert record["measures"] and record["tier"] == "imported" and record["seed"] is None
    assert record["run"] == record["name"] == "transformers-hub"
    assert record["config"]["source"]["library"] == "transformers"


def test_an_encoder_of_wide_images_reads_a_folder_and_rebuilds_nothing(tmp_path: Path) -> None:
    told = Told(image_size=(16, 40), known=Said(heads=4, ratio=0.5))
    source = foreign.timm_file(tmp_path, foreign.timm_vit((16, 40)))
    stored = import_weights(source, tmp_path / "out", told)
    options = replace(FEW, data=fill(tmp_path / "data", images=4), train_images=6)
    assert evaluate("attention", stored, options)["measures"]
    with pytest.raises(InputError, match="encoder alone"):
        identity("reconstruction", stored, options)


def test_an_unknown_ratio_is_asked_for_before_anything_is_measured(tmp_path: Path) -> None:
    torch.save(foreign.meta_tensors(foreign.vitmae()), tmp_path / "whole.pth")
    known = Said(heads=4, decoder_heads=2, normalise_target=True)
    stored = import_weights(tmp_path / "whole.pth", tmp_path / "out", Told(True, known=known))
    with pytest.raises(InputError, match=r"nobody knows at which masking ratio .*--ratio"):
        identity("reconstruction", stored, FEW)


def test_features_are_the_sources_own(whole: store.Checkpoint) -> None:
    world, theirs = World("validation", 32), foreign.vitmae().vit
    theirs.config.mask_ratio = 0.0
    with torch.no_grad():
        x = foreign.standardised(world.images(range(8)).float() / 255)
        noise = torch.arange(16.0).expand(8, -1)
        tokens = theirs(x, noise=noise).last_hidden_state
    found = encode(whole.load(), world, 300)
    torch.testing.assert_close(found.mean[:8], tokens[:, 1:].mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.cls[:8], tokens[:, 0], rtol=0, atol=1e-5)


def test_a_detector_is_fine_tuned_from_it(tmp_path: Path, whole: store.Checkpoint) -> None:
    folder = write_scenes(Scenes("train", 64, length=4), tmp_path / "scenes", "train")
    config = finetune_config(folder, whole, "smoke", steps=1, batch=2)
    assert config.seed == 0 and config.name == "transformers-hub-detector-s0"
    found = obtain_detector(config, whole, folder, tier_name="smoke", device="cpu", progress=False)
    assert isinstance(found, StoredDetector) and run_of(config, whole, "smoke") == whole.config.name
    model = found.load()
    assert tuple(model.transform.image_mean) == foreign.MEAN
    assert tuple(model.transform.image_std) == foreign.DEVIATION
