"""The fixed reference classifier of the embedded world, and the *hard* evaluation set that it
defines.

ImageNet-A holds images that a fixed ResNet-50 gets wrong. *hard* is made by the same rule: a small
convolutional network is trained once, with labels, on a stream of its own (``reference``), and the
first images of another stream (``candidates``) that it misclassifies are kept. Weights and list are
shipped in ``mae_lib/worlds/assets``; ``python -m mae_lib.training.reference`` makes both again.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mae_lib.base.files import write_json
from mae_lib.base.provenance import provenance
from mae_lib.base.tensors import read_safetensors, write_safetensors
from mae_lib.data.datasets import Resident
from mae_lib.model.autoencoder import normalise_pixels
from mae_lib.worlds.law import CLASSES, WORLD_VERSION
from mae_lib.worlds.world import EVALUATION_LENGTH, World

STEPS, BATCH, LEARNING_RATE = 500, 128, 2e-3


class ReferenceClassifier(nn.Module):
    """Four strided 3×3 convolutions, the mean over the image, one linear layer; on 64 px images of
    the embedded world."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 64, 96)
        layers = []
        for before, after in zip(widths, widths[1:]):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, 64, 64] → logits [B, 10]."""
        return self.head(self.features(normalise_pixels(images)).mean((2, 3)))


def load_reference() -> ReferenceClassifier:
    """The shipped classifier, in eval mode."""
    with resources.as_file(
        resources.files("mae_lib.worlds").joinpath("assets/reference.safetensors")
    ) as path:
        tensors, _ = read_safetensors(path)
    model = ReferenceClassifier()
    model.load_state_dict(tensors)
    return model.eval()


@torch.no_grad()
def predictions(model: ReferenceClassifier, world: World, count: int, chunk: int = 256) -> Tensor:
    """int64 [count]: the class that ``model`` gives to each of the first ``count`` images."""
    return torch.cat(
        [
            model(world.images(range(i, min(i + chunk, count)))).argmax(1)
            for i in range(0, count, chunk)
        ]
    )


def train_reference() -> ReferenceClassifier:
    """Trains the classifier on the ``reference`` stream, just under two passes; some two minutes on
    one core."""
    torch.manual_seed(0)
    model, world = ReferenceClassifier(), Resident(World("reference"))
    labels = world.labels
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, STEPS)
    for step in tqdm(range(STEPS), desc="reference classifier"):
        index = torch.arange(step * BATCH, (step + 1) * BATCH) % len(world)
        loss = nn.functional.cross_entropy(model(world.images(index)), labels[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def choose_hard(
    model: ReferenceClassifier, count: int = EVALUATION_LENGTH
) -> tuple[list[int], int]:
    """(the first ``count`` candidates that ``model`` misclassifies, how many candidates were looked
    at)."""
    world = World("candidates")
    labels, chosen, chunk = world.labels, [], 1024
    for start in tqdm(range(0, len(world), chunk), desc="hard set"):
        index = torch.arange(start, min(start + chunk, len(world)))
        with torch.no_grad():
            wrong = model(world.images(index)).argmax(1) != labels[index]
        chosen += index[wrong].tolist()
        if len(chosen) >= count:
            return chosen[:count], chosen[count - 1] + 1
    return chosen, len(world)


def main() -> None:
    """Trains the classifier, writes it and the hard set it defines into ``mae_lib/data``."""
    data = Path(__file__).resolve().parents[1] / "worlds" / "assets"
    model = train_reference()
    validation = World("validation")
    accuracy = float(
        (predictions(model, validation, len(validation)) == validation.labels).double().mean()
    )
    indices, seen = choose_hard(model)
    digest = write_safetensors(
        data / "reference.safetensors", dict(model.state_dict()), {"world_version": WORLD_VERSION}
    )
    record = {
        "world_version": WORLD_VERSION,
        "reference_digest": digest,
        "reference_accuracy": accuracy,
        "candidates_seen": seen,
        **provenance(),
    }
    write_json(data / "hard.json", record | {"indices": indices})
    print(
        f"reference classifier: {accuracy:.3f} on validation; {len(indices)} hard images among the"
        f" first {seen} candidates"
    )


if __name__ == "__main__":
    main()
