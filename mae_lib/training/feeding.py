"""What each step of a training is fed: the order of the images, their augmentation, what a thread
reads ahead. All of it is a function of the config's seed and the step."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor


def step_generator(
    seed: int, purpose: str, step: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The random generator of one purpose in one step: a pure function of (seed, purpose, step)."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class DataOrder:
    """Which images each step sees: epoch after epoch of random permutations, cut into batches
    without loss at the epochs' seams."""

    def __init__(self, images: int, batch: int, seed: int) -> None:
        self.images, self.batch, self.seed = images, batch, seed
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            permutation = torch.randperm(
                self.images, generator=step_generator(self.seed, "order", epoch)
            )
            self._epochs = {e: p for e, p in self._epochs.items() if e >= epoch - 1} | {
                epoch: permutation
            }
        return self._epochs[epoch]

    def at(self, step: int) -> Tensor:
        """int64 [batch]: the image indices of step ``step`` (from 0)."""
        position = torch.arange(step * self.batch, (step + 1) * self.batch)
        epoch = position // self.images
        return torch.cat(
            [self._epoch(int(e))[position[epoch == e] % self.images] for e in epoch.unique()]
        )


def augment(
    images: Tensor,
    crop: float,
    flip: bool,
    generator: torch.Generator,
    rank: int = 0,
    world: int = 1,
) -> Tensor:
    """Random resized crops (area in [crop, 1], aspect in [3/4, 4/3], bilinear) and mirror images,
    one draw an image.

    Args:
        images: float [B, C, H, W]; generator: on the images' device. rank, world: the images are
            every ``world``-th of a batch from the ``rank``-th on, and get what they would get in
            the whole batch.
    """
    if crop >= 1 and not flip:
        return images
    b = images.shape[0]
    u = torch.rand(5, b * world, generator=generator, device=images.device)[:, rank::world]
    mirror = torch.where(u[0] < 0.5, -1.0, 1.0) if flip else torch.ones_like(u[0])
    if crop >= 1:
        return torch.where(mirror[:, None, None, None] < 0, images.flip(-1), images)
    area = crop + (1 - crop) * u[1]
    aspect = torch.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * u[2])
    wide, high = (area * aspect).sqrt().clamp_max(1), (area / aspect).sqrt().clamp_max(1)
    theta = torch.zeros(b, 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 0, 2] = wide * mirror, (2 * u[3] - 1) * (1 - wide)
    theta[:, 1, 1], theta[:, 1, 2] = high, (2 * u[4] - 1) * (1 - high)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(
        images, grid, padding_mode="reflection", align_corners=False
    )


def ahead(read: Callable[[int], Tensor], steps: Iterable[int], depth: int = 2) -> Iterator[Tensor]:
    """``read`` of each step in turn, made by a thread that is up to ``depth`` steps ahead: images
    are decoded while the model trains.

    An error of ``read`` is raised where its step would have come.
    """
    waiting: deque[Future[Tensor]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        for step in steps:
            waiting.append(pool.submit(read, step))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # an error, or a training that is stopped, does not wait for images that nobody will see
        pool.shutdown(wait=False, cancel_futures=True)
