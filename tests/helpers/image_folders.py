"""Small folders of images, sound and not, and the shifted sets' published layouts, for the tests of
image files, sources and descriptions."""

import json
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


def beside(root):
    fill(root, splits=(".",))
    save(picture(0), root / "a.png")


def flat_val(root):
    fill(root, splits=("train",))
    save(picture(0), root / "val" / "a.png")


def too_deep(root):
    fill(root / "archive")


def single_images(root):
    fill(root, splits=(".",), images=1)


# -- published layouts: each image of 8 × 8 pixels says in its colour which class it shows ---------


def numbered(number: int) -> Image.Image:
    """One colour, its red and green the two bytes of `number`."""
    return Image.new("RGB", (8, 8), (number // 256, number % 256, 90))


def number_of(images) -> list[int]:
    """The numbers in uint8 images [B, 3, H, W] made by `numbered`."""
    return (images[:, 0, 0, 0].long() * 256 + images[:, 1, 0, 0].long()).tolist()


def index_folders(root: Path, indices=range(1000)) -> Path:
    """ImageNet-v2: DIR/<index>/<hash>.jpeg (here PNG files: their colours stay)."""
    for index in indices:
        save(numbered(index), root / str(index) / f"{index * 7919:08x}.png")
    return root


def wnid_folders(root: Path, wnids) -> Path:
    """ImageNet-R, -A, -Sketch: DIR/<wnid>/<n>.jpg, with a README.txt beside the folders; images are
    numbered in the order of `wnids`."""
    for number, wnid in enumerate(wnids):
        save(numbered(number), root / wnid / f"art_{number}.png")
    (root / "README.txt").write_text("WordNet ids and names")
    return root


def framed(number: int) -> Image.Image:
    """`numbered` inside a red frame two pixels wide, as ObjectNet's images have."""
    image = Image.new("RGB", (12, 12), (255, 0, 0))
    image.paste(numbered(number), (2, 2))
    return image


def objectnet(
    root: Path, meant: dict[str, list[str]], names: list[str], line_of: list[int]
) -> Path:
    """ObjectNet: DIR/images/<folder>/<hash>.png in red frames, numbered in the order of `meant`,
    and DIR/mappings/ with its four files.

    `meant`: ImageNet names of each folder. `names`: the list of ImageNet's names. `line_of`: the
        line there, from 0, of each class.
    """
    for number, folder in enumerate(meant):
        save(framed(number), root / "images" / folder / f"{number:015x}.png")
    labels = {folder: folder.replace("_", " ").capitalize() for folder in meant}
    (root / "mappings").mkdir()
    for name, value in (
        ("folder_to_objectnet_label.json", labels),
        (
            "objectnet_to_imagenet_1k.json",
            {labels[folder]: "; ".join(right) for folder, right in meant.items() if right},
        ),
        (
            "pytorch_to_imagenet_2012_id.json",
            {str(index): line for index, line in enumerate(line_of)},
        ),
    ):
        (root / "mappings" / name).write_text(json.dumps(value))
    (root / "mappings" / "imagenet_to_label_2012_v2").write_text("\n".join(names) + "\n")
    return root
