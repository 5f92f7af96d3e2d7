"""What the embedded world's images are drawn from: the parts of its ten objects, and the law of
each of its sets."""

from __future__ import annotations

from dataclasses import dataclass, replace

WORLD_VERSION = "1"


# Each part: centre x, y; half-width; half-height; angle; squareness (0 ellipse, 1 box); taper (+1:
# apex on top); hole (share of the part).
TEMPLATES: dict[str, tuple[tuple[float, ...], ...]] = {
    "boat": (
        (0.00, 0.48, 0.62, 0.24, 0.00, 1.0, -0.35, 0.0),  # hull
        (0.02, -0.25, 0.05, 0.55, 0.00, 1.0, 0.0, 0.0),  # mast
        (0.34, -0.22, 0.24, 0.45, 0.00, 1.0, 0.95, 0.0),  # fore sail
        (-0.28, -0.12, 0.19, 0.34, 0.00, 1.0, 0.95, 0.0),  # aft sail
    ),
    "car": (
        (0.00, 0.15, 0.85, 0.25, 0.00, 0.8, 0.0, 0.0),  # body
        (-0.05, -0.22, 0.42, 0.22, 0.00, 0.9, 0.35, 0.0),  # cabin
        (-0.48, 0.42, 0.22, 0.22, 0.00, 0.0, 0.0, 0.0),  # rear wheel
        (0.48, 0.42, 0.22, 0.22, 0.00, 0.0, 0.0, 0.0),  # front wheel
    ),
    "dog": (
        (-0.08, 0.00, 0.55, 0.26, 0.00, 0.3, 0.0, 0.0),  # trunk
        (0.58, -0.34, 0.26, 0.21, 0.20, 0.1, 0.0, 0.0),  # head
        (-0.46, 0.48, 0.10, 0.36, 0.00, 0.8, 0.0, 0.0),  # hind leg
        (0.30, 0.48, 0.10, 0.36, 0.00, 0.8, 0.0, 0.0),  # fore leg
        (-0.70, -0.28, 0.07, 0.30, -0.60, 0.6, 0.0, 0.0),  # tail
        (0.48, -0.56, 0.10, 0.18, -0.30, 0.4, 0.6, 0.0),  # ear
    ),
    "fish": (
        (0.12, 0.00, 0.62, 0.36, 0.00, 0.0, 0.0, 0.0),  # body
        (-0.66, 0.00, 0.28, 0.26, 1.571, 1.0, 0.9, 0.0),  # tail
        (0.08, -0.42, 0.22, 0.16, -0.30, 0.9, 0.8, 0.0),  # back fin
        (0.05, 0.40, 0.14, 0.14, 0.30, 0.9, -0.8, 0.0),  # belly fin
        (0.46, -0.08, 0.08, 0.08, 0.00, 0.0, 0.0, 0.0),  # eye
    ),
    "flower": (
        (0.00, 0.46, 0.05, 0.48, 0.00, 1.0, 0.0, 0.0),  # stem
        (0.00, -0.36, 0.52, 0.20, 0.00, 0.0, 0.0, 0.0),  # petals across
        (0.00, -0.36, 0.52, 0.20, 1.047, 0.0, 0.0, 0.0),  # petals
        (0.00, -0.36, 0.52, 0.20, 2.094, 0.0, 0.0, 0.0),  # petals
        (0.00, -0.36, 0.18, 0.18, 0.00, 0.0, 0.0, 0.0),  # centre
        (0.22, 0.50, 0.24, 0.10, -0.60, 0.0, 0.0, 0.0),  # leaf
    ),
    "house": (
        (0.00, 0.35, 0.56, 0.45, 0.00, 1.0, 0.0, 0.0),  # walls
        (0.00, -0.36, 0.38, 0.30, 0.00, 1.0, 0.95, 0.0),  # roof
        (0.34, -0.52, 0.09, 0.24, 0.00, 1.0, 0.0, 0.0),  # chimney
        (-0.20, 0.52, 0.13, 0.28, 0.00, 1.0, 0.0, 0.0),  # door
        (0.24, 0.30, 0.14, 0.14, 0.00, 1.0, 0.0, 0.0),  # window
    ),
    "lamp": (
        (0.00, 0.72, 0.42, 0.12, 0.00, 0.3, 0.4, 0.0),  # foot
        (0.00, 0.20, 0.06, 0.48, 0.00, 1.0, 0.0, 0.0),  # pole
        (0.00, -0.46, 0.42, 0.36, 0.00, 1.0, 0.45, 0.0),  # shade
    ),
    "mug": (
        (-0.14, 0.06, 0.46, 0.56, 0.00, 0.9, -0.08, 0.0),  # body
        (0.42, 0.06, 0.32, 0.34, 0.00, 0.2, 0.0, 0.62),  # handle
        (-0.14, -0.50, 0.48, 0.12, 0.00, 0.0, 0.0, 0.0),  # rim
    ),
    "mushroom": (
        (0.00, 0.42, 0.19, 0.46, 0.00, 0.7, 0.15, 0.0),  # stem
        (0.00, -0.20, 0.62, 0.40, 0.00, 0.35, 0.55, 0.0),  # cap
        (-0.24, -0.20, 0.11, 0.10, 0.00, 0.0, 0.0, 0.0),  # spot
        (0.18, -0.34, 0.12, 0.10, 0.00, 0.0, 0.0, 0.0),  # spot
    ),
    "tree": (
        (0.00, 0.60, 0.12, 0.36, 0.00, 1.0, 0.2, 0.0),  # trunk
        (-0.32, 0.02, 0.34, 0.32, 0.00, 0.1, 0.0, 0.0),  # crown, left
        (0.34, 0.00, 0.34, 0.32, 0.00, 0.1, 0.0, 0.0),  # crown, right
        (0.00, -0.42, 0.38, 0.36, 0.00, 0.1, 0.0, 0.0),  # crown, top
    ),
}


CLASSES: tuple[str, ...] = tuple(TEMPLATES)


PARTS = max(len(parts) for parts in TEMPLATES.values())


@dataclass(frozen=True)
class Law:
    """Ranges of the exogenous noises; each evaluation set is the training law with some of them
    changed."""

    turn: tuple[float, float] = (0.0, 0.25)  # size of the rotation, radians, either sign
    scale: tuple[float, float] = (0.72, 0.92)  # half-images per object unit
    offset: float = 0.1  # largest shift of the centre, half-images
    squeeze: tuple[float, float] = (0.9, 1.1)  # foreshortening of the object's width
    joint: float = 0.05  # part centres, object units
    girth: float = 0.14  # part sizes, relative
    bend: float = 0.15  # part angles, radians
    texture_match: float = 0.7  # probability that the texture is the class's own
    amplitude: tuple[float, float] = (0.1, 0.16)  # texture contrast, brightness
    contrast: tuple[float, float] = (0.25, 0.45)  # |object − ground|, brightness; the sign is free
    chroma: float = 0.1  # colour away from grey
    clutter: float = 0.03  # amplitude of each ground wave
    # outline: half-width in pixels at 64 px, strength, brightness
    ink: tuple[float, float, float] = (0.0, 0.0, 0.0)
    flat: bool = False  # white ground and body, no texture: nothing but the outlines


TRAINING = Law()


LAWS: dict[str, Law] = {
    "train": TRAINING,
    "validation": TRAINING,
    "v2": TRAINING,
    "viewpoint": replace(
        TRAINING,
        turn=(0.5, 1.1),
        scale=(0.55, 0.72),
        offset=0.25,
        squeeze=(0.65, 0.9),
        clutter=0.08,
    ),
    "rendition": replace(
        TRAINING, amplitude=(0.0, 0.0), chroma=0.34, clutter=0.0, ink=(0.9, 1.0, 0.05)
    ),
    "sketch": replace(
        TRAINING, amplitude=(0.0, 0.0), chroma=0.0, clutter=0.0, ink=(0.7, 0.9, 0.05), flat=True
    ),
    "hard": TRAINING,
    "conflict": replace(TRAINING, texture_match=0.0),
    # Candidates from which the hard set is chosen (``mae_lib.training.reference``), and its
    # classifier's training images.
    "candidates": TRAINING,
    "reference": TRAINING,
}
