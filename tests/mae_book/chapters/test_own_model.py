"""One model by every measure: each is `mae evaluate`'s own, and what cannot be asked says why."""

from __future__ import annotations

import pytest

import tiny
from image_folders import picture, save
from mae_book.chapters import own_model
from mae_lib.base.errors import InputError
from mae_lib.data.sources import image_source
from mae_lib.evaluation.evaluate import evaluate
from mae_lib.evaluation.inputs import Options
from mae_lib.training.foreign.files import Said
from mae_lib.training.foreign.models import Told, import_weights


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))


def test_a_folder_without_classes_leaves_what_needs_no_labels(tmp_path):
    for k in range(12):
        save(picture(k), tmp_path / "photos" / f"{k}.png")
    config = tiny.config(data=image_source(tmp_path / "photos", "train", (16, 16)).identity)
    stored = tiny.checkpoint(tmp_path / "models", config)
    assert dict(own_model.known(stored).rows)["from"] == "trained here"
    options = Options(data=tmp_path / "photos", images=4, train_images=8, device="cpu")
    found, refused = own_model.measure(stored, options)
    assert set(found) == {"reconstruction", "attention"}
    assert set(found) | set(refused) == set(own_model.KINDS)
    assert "classes" in refused["probe"] and "latents" in refused["latents"]
    alone = evaluate("reconstruction", stored, options)["measures"]
    assert found["reconstruction"] == alone
    shown = {(row[0], row[1]) for row in own_model.table(found).rows}
    assert ("reconstruction", "readout/ssim") in shown
    assert [row[0] for row in own_model.refusals(refused).rows] == list(refused)


def test_an_imported_encoder_says_what_nobody_knows(tmp_path):
    foreign = pytest.importorskip("foreign")
    stored = import_weights(
        foreign.timm_file(tmp_path), tmp_path / "out", Told(known=Said(heads=4))
    )
    said = dict(own_model.known(stored).rows)
    assert said["from"] == "timm" and said["decoder"] == "none"
    assert said["masking ratio"] == said["steps"] == "unknown"
    for k in range(4):
        save(picture(k), tmp_path / "photos" / f"{k}.png")
    options = Options(data=tmp_path / "photos", images=4, device="cpu")
    found, refused = own_model.measure(stored, options)
    assert set(found) == {"attention"} and "ratio" in refused["reconstruction"]


def test_our_own_model_is_named_or_missed(monkeypatch):
    assert own_model.ours("laptop").name.startswith("r75-u8-p8-s0")
    monkeypatch.setattr(own_model, "find", lambda config: None)
    with pytest.raises(InputError, match="smoke tier's model at ratio 0.75 is not at hand"):
        own_model.ours("smoke")
