"""Small folders of images, sound and not, for the tests of image files, sources and descriptions."""

from pathlib import Path

import numpy as np
from PIL import Image

RAMP = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64)


def picture(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """Smooth colours, unlike for unlike seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def fill(root: Path, splits=("train", "val"), classes=("ant", "bee"), images: int = 3) -> Path:
    """DIR/<split>/<class>/<n>.png"""
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            for i in range(images):
                save(picture(100 * s + 10 * c + i), root / split / name / f"{i}.png")
    return root


def one_class(root):
    fill(root, splits=("train",), classes=("ant",))


def empty_class(root):
    fill(root)
    (root / "train" / "cat").mkdir()


def loose(root):
    save(picture(0), root / "a.png")


def flat_val(root):
    fill(root, splits=("train",))
    save(picture(0), root / "val" / "a.png")


def too_deep(root):
    fill(root / "archive")


def single_images(root):
    fill(root, splits=(".",), images=1)
