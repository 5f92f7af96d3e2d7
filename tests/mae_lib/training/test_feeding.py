"""How images reach the training loop: read ahead by a thread, cropped out of their files, and
trained on by compiled kernels; none of it changes what is trained."""

from __future__ import annotations

import functools
import threading
import time
from pathlib import Path

import pytest
import torch

import image_folders
import tiny
from mae_lib.base.errors import InputError
from mae_lib.data.encoded import FolderImages
from mae_lib.training import pretrain as loop
from mae_lib.training.feeding import DataOrder, ahead, step_generator
from mae_lib.training.pretrain import pretrain


def test_what_is_read_ahead_comes_in_order_and_no_further_ahead_than_asked() -> None:
    begun: list[int] = []

    def read(step: int) -> torch.Tensor:
        begun.append(step)
        return torch.tensor(step)

    for seen, value in enumerate(ahead(read, range(5, 25), depth=3)):
        assert int(value) == 5 + seen and max(begun) <= 5 + seen + 3
        time.sleep(0.002)
    assert begun == list(range(5, 25))


def test_reading_goes_on_while_the_reader_of_the_batches_works() -> None:
    # passed only if the third batch is read while the first is being worked on
    both = threading.Barrier(2, timeout=20)

    def read(step: int) -> torch.Tensor:
        if step == 2:
            both.wait()
        return torch.tensor(step)

    for value in ahead(read, range(4)):
        if int(value) == 0:
            both.wait()


def test_an_error_while_reading_comes_at_its_step_and_a_stopped_reader_reads_no_more() -> None:
    begun: list[int] = []

    def read(step: int) -> torch.Tensor:
        begun.append(step)
        if step == 4:
            raise InputError("image 4 is damaged")
        return torch.tensor(step)

    seen = []
    with pytest.raises(InputError, match="image 4 is damaged"):
        for value in ahead(read, range(100)):
            seen.append(int(value))
    assert seen == [0, 1, 2, 3] and max(begun) < 10
    batches = ahead(read, range(50, 100))
    next(batches)
    batches.close()
    time.sleep(0.05)
    assert max(begun) <= 53


def test_images_read_ahead_train_the_same_model_as_resident_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resident = pretrain(tiny.config(), tiny.Ramps(), device="cpu", progress=False)
    monkeypatch.setattr(loop, "RESIDENT_LIMIT", 0)
    read = pretrain(tiny.config(), tiny.Ramps(), device="cpu", progress=False)
    assert torch.equal(read.losses, resident.losses)


@pytest.fixture
def folder(tmp_path: Path) -> FolderImages:
    image_folders.fill(tmp_path / "set", images=8)
    return FolderImages(tmp_path / "set", "train", 32)


def test_crops_out_of_files_are_the_steps_own_draws(
    folder: FolderImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.config(data=folder.identity, crop_from="file", crop=0.3, batch=6, steps=4)
    seen = []
    train_step = loop.Run.train_step
    monkeypatch.setattr(
        loop.Run,
        "train_step",
        lambda run, images, *rest: (seen.append(images.clone()), train_step(run, images, *rest))[1],
    )
    pretrain(config, folder, device="cpu", progress=False)
    order = DataOrder(len(folder), 6, config.seed)
    for step, images in enumerate(seen):
        draws = torch.rand(
            6, 4, dtype=torch.float64, generator=step_generator(config.seed, "crop", step)
        )
        assert torch.equal(images, folder.crops(order.at(step), draws, 0.3))
    assert len(seen) == 4 and not torch.equal(seen[0], folder.images(order.at(0)))


def test_a_crop_out_of_a_file_is_not_cropped_again(folder: FolderImages) -> None:
    """With draws that keep the whole file, what is trained on is what an uncropped training sees,
    flips included."""
    whole = tiny.config(data=folder.identity, crop=1.0, batch=6, steps=3)
    again = tiny.config(data=folder.identity, crop=1 - 1e-12, crop_from="file", batch=6, steps=3)

    class Uncropped(FolderImages):
        def crops(self, indices, draws, smallest):
            return self.images(indices)

    folder.__class__ = Uncropped
    losses = [
        pretrain(config, folder, device="cpu", progress=False).losses for config in (whole, again)
    ]
    assert torch.equal(*losses)


def test_crops_out_of_files_need_files() -> None:
    with pytest.raises(InputError, match="crop_from 'file'.*need a folder of images or shards"):
        pretrain(tiny.config(crop_from="file"), tiny.Ramps(), device="cpu", progress=False)
    with pytest.raises(InputError, match="crop_from 'both' is unknown"):
        tiny.config(crop_from="both")
    with pytest.raises(InputError, match="needs a crop below 1"):
        tiny.config(crop_from="file", crop=1.0)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_compiled_kernels_train_the_same_model(
    accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole model is one graph of fixed shapes (a break would raise). That graph is run as it
    is: making CPU kernels of it takes minutes."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    plain = pretrain(tiny.config(batch=12), tiny.Ramps(), device="cpu", progress=False)
    made = pretrain(
        tiny.config(batch=12),
        tiny.Ramps(),
        device="cpu",
        progress=False,
        compiled=True,
        accumulate=accumulate,
    )
    torch.testing.assert_close(made.losses, plain.losses, rtol=1e-5, atol=1e-6)
    assert set(made.model.state_dict()) == set(plain.model.state_dict())
