"""What the subcommands of ``mae`` can be told: a dataclass a subcommand, its docstrings the help.
Imports nothing that works, so that help comes at once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, ClassVar, Literal

import tyro

from mae_lib.base.names import Design, Evaluation, Picture, TierName


class Command:
    """What was said on the command line; ``work`` names the function that does it, ``module:name``,
    which takes the command and gives its exit status."""

    work: ClassVar[str]

    def run(self) -> int:
        """Imports the function, and calls it, with `~` in paths taken for the user's folder."""
        changes = {field.name: _at_home(getattr(self, field.name)) for field in fields(self)}
        return resolve_name(self.work)(replace(self, **changes))


def _at_home(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_at_home, value))
    return value.expanduser() if isinstance(value, Path) else value


@dataclass(frozen=True)
class Pretrain(Command):
    """Pretrain one masked autoencoder, or with --sweep the paper's eight. What is already stored is
    not trained again; what was stopped goes on. For many GPUs: torchrun --nproc-per-node N -m
    mae_lib pretrain …, also with another N than before."""

    tier: TierName = "laptop"
    """sizes and lengths (mae_lib/training/tiers.py)"""
    data: Path | None = None
    """a folder of images, shards or a list of files; default: the embedded world"""
    image_size: str | None = None
    """side of the images, pixels, or HEIGHTxWIDTH; patches and units scale; default: the tier's"""
    channels: int = 3
    """3, 1 for grey images, or the number of bands"""
    sweep: bool = False
    """all eight: five ratios with unit = ViT patch, three units at 0.75 with the small patch"""
    ratio: float = 0.75
    """share of mask units that is hidden, between 0 and 1"""
    unit: int | None = None
    """mask unit in pixels, a multiple of the ViT patch; default: the patch"""
    patch: int | None = None
    """ViT patch in pixels; default: the tier's"""
    design: Design = "random"
    """which patches are hidden together (§3.6): random mask units; groups of patches estimated from
    the images; parts of the object or the whole object, which only the embedded world can tell"""
    groups: int = 8
    """how many groups, for --design groups"""
    margin: int = 0
    """pixels next to the mask's boundary that the loss leaves out (§3.6)"""
    strict: bool = False
    """leave the margin out on the encoder's side of the boundary too"""
    spread: float = 0.0
    """each step draws its masking ratio anew, from --ratio ± this much (R²MAE)"""
    start: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """a checkpoint, also an imported one, whose weights and sizes to go on from"""
    seed: int = 0
    """of weights, data order, masks and augmentation"""
    steps: int | None = None
    """optimiser steps; default: the tier's"""
    batch: int | None = None
    """images a step; default: the tier's"""
    base_lr: float | None = None
    """learning rate per 256 images of batch; default: the tier's"""
    decoder_depth: int | None = None
    """Transformer blocks of the decoder; default: the tier's"""
    out: Path | None = None
    """folder for the checkpoints; default: the cache ($MAE_CACHE)"""
    results: Path | None = None
    """folder for one JSON of numbers a run: curve, speed and the error on held-out images"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    jobs: int = 1
    """trainings side by side, each in a process of its own"""
    threads: int = 1
    """CPU threads a process; models of the smoke and laptop tiers are slower on two than on one"""
    save_every: float = 60.0
    """seconds between resumable states"""
    accumulate: int = 1
    """pieces of a batch, one after another, where memory is short; the result is the same"""
    compile: bool | None = None
    """make the model's kernels by torch.compile; default: on a GPU"""
    patience: float = 30.0
    """minutes without a step after which, under torchrun, a process is taken for hung and named"""

    work: ClassVar[str] = "mae_lib.commands.pretrain:run"


@dataclass(frozen=True)
class Evaluate(Command):
    """Measure what pretrained encoders have learned: reconstruction (§3.1), attention (§3.2),
    separability, probe, few_labels, knn, severity (§3.3), shape_bias (§3.4), latents (§3.6). What
    --results holds already of these weights, data and settings is not measured again.
    """

    what: Annotated[Evaluation, tyro.conf.Positional, tyro.conf.arg(metavar="WHAT")]
    """few_labels: 20 a class; latents, severity: of the embedded world"""
    checkpoint: tuple[Path, ...] = ()
    """checkpoints (their .safetensors or .json), folders of them, or bare names (NAME-HASH) of what
    is in checkpoints/ or in the cache"""
    features: Path | None = None
    """a file of `mae features`, in place of checkpoint and images"""
    data: Path | None = None
    """folder of images with train/ and val/; default: the embedded world"""
    shifted: tuple[str, ...] = ()
    """shifted sets for the probe: NAME=DIR, NAME one of imagenet-v2, imagenet-r, imagenet-a,
    imagenet-sketch, objectnet, or any other for a folder of the classes of --data"""
    stimuli: Path | None = None
    """folder of cue-conflict stimuli, <shape>/<shape>N-<texture>N.png, for shape_bias with
    --data"""
    images: int = 1000
    """validation images of reconstruction and attention, at most"""
    train_images: int = 8192
    """training images of a probe or of knn, at most"""
    neighbours: int = 20
    """training images that vote in knn"""
    seed: int = 0
    """of masks, probes and the draw of ten classes"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    threads: int = 1
    """CPU threads"""
    results: Path | None = None
    """folder for one JSON of numbers a checkpoint, for instance results/probe/world; each kind,
    data set and setting wants its own"""
    as_json: bool = False
    """print the records as JSON"""

    work: ClassVar[str] = "mae_lib.commands.evaluate:run"


@dataclass(frozen=True)
class Features(Command):
    """Write what an encoder makes of images into one file, with a record of what it is of; `mae
    evaluate WHAT --features F` reads it back, without the images and the weights."""

    checkpoint: Path
    """a checkpoint: its .safetensors or .json, a folder that holds one, or a bare name"""
    out: Path
    """the file, a .safetensors that is not there yet"""
    data: Path | None = None
    """folder of images with train/ and val/; default: the embedded world"""
    shifted: tuple[str, ...] = ()
    """shifted sets: NAME=DIR, as `mae evaluate probe` takes them"""
    stimuli: Path | None = None
    """folder of cue-conflict stimuli, with --data"""
    train_images: int = 8192
    """training images, at most"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    threads: int = 1
    """CPU threads"""

    work: ClassVar[str] = "mae_lib.commands.evaluate:export"


@dataclass(frozen=True)
class Finetune(Command):
    """Fine-tune a detector on each checkpoint, and from scratch, and score it by COCO's average
    precision (§3.5). What is already recorded in --results, or stored, is not trained again; what
    was stopped goes on. For many GPUs: torchrun --nproc-per-node N -m mae_lib finetune …
    """

    task: Literal["detect", "classify"] = "detect"
    """detect; or classify, with options of its own (mae finetune --task classify --help)"""
    checkpoint: tuple[Path, ...] = ()
    """pretrained encoders (their .safetensors or .json), folders of them, or bare names (NAME-HASH)
    of what is in checkpoints/ or in the cache"""
    scratch: tuple[int, ...] = ()
    """ViT patches, in pixels, of encoders that are trained from scratch at the tier's sizes"""
    data: Path | None = None
    """folder in COCO's layout; default: scenes of the embedded world, written to the cache"""
    train: str = "train"
    """split to train on: its name, or the beginning of it"""
    validation: str = "val"
    """split to score on"""
    tier: TierName = "laptop"
    """sizes and lengths (mae_lib/training/tiers.py)"""
    seed: int | None = None
    """of heads, data order and proposals; default: the checkpoint's own, 0 from scratch"""
    image_size: int | None = None
    """longer side of the images, pixels; default: the tier's"""
    anchors: tuple[float, ...] = ()
    """side of the anchors on each level of the pyramid (strides 4, 8, 16, 32), pixels; default: the
    tier's, scaled as the images are"""
    proposals: int | None = None
    """boxes an image that are looked at; more for crowded images; default: the tier's"""
    steps: int | None = None
    """optimiser steps; default: the tier's"""
    batch: int | None = None
    """images a step, of all processes together; default: the tier's"""
    lr: float | None = None
    """peak learning rate; default: the tier's"""
    layer_decay: float | None = None
    """factor on the rate from a block to the one below; default: the tier's, 1 from scratch"""
    images: int | None = None
    """validation images to score on, at most; default: all"""
    out: Path | None = None
    """folder for the detectors; default: the cache ($MAE_CACHE)"""
    results: Path | None = None
    """folder for one JSON of numbers a detector, for instance results/detection/world"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; under torchrun each process takes its own GPU"""
    threads: int = 1
    """CPU threads a process"""
    save_every: float = 60.0
    """seconds between resumable states"""

    work: ClassVar[str] = "mae_lib.commands.finetune:run"


@dataclass(frozen=True)
class Import(Command):
    """Make a checkpoint of weights from elsewhere: timm's MAE ViTs, transformers' ViTMAE, and the
    files of Meta's own code. Its features, reconstructions and loss are the source's; everything
    here that reads a checkpoint reads it."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """a .safetensors of timm's, a folder of transformers or timm (config.json and
    model.safetensors), or a .pth of Meta's"""
    out: Path
    """folder for the checkpoint"""
    pickled: bool = False
    """open a .pth or .bin, a pickle whose source you trust; its tensors alone are read"""
    image_size: str | None = None
    """HEIGHTxWIDTH in pixels, if not the source's own: positions are interpolated"""
    patch: int | None = None
    """ViT patch in pixels, if not the source's own: its embedding is resampled; no decoder's is"""
    encoder_only: bool = False
    """leave the decoder out"""
    ratio: float | None = None
    """masking ratio of its training, where you know it and the source does not say"""
    normalise_target: bool | None = None
    """whether its decoder predicts normalised patches (norm_pix_loss), where it does not say"""
    heads: int | None = None
    """the encoder's attention heads, where the source does not say; known for ViT-B, -L and -H"""
    decoder_heads: int | None = None
    """the decoder's, where the source does not say; known for 8 blocks of width 512"""
    mean: tuple[float, ...] = ()
    """of pixels in [0, 1], a number a channel, where the source does not say; else ImageNet's"""
    deviation: tuple[float, ...] = ()
    """the same, of their standard deviation"""

    work: ClassVar[str] = "mae_lib.commands.import_weights:run"


@dataclass(frozen=True)
class Show(Command):
    """Draw one picture: what a model rebuilds of images (reconstruction), where its encoder looks
    (attention), or which patches are hidden (mask)."""

    what: Annotated[Picture, tyro.conf.Positional, tyro.conf.arg(metavar="WHAT")]
    """reconstruction, attention or mask"""
    checkpoint: Path
    """a checkpoint: its .safetensors or .json, a folder that holds one, or a bare name"""
    image: tuple[Path, ...]
    """files of images; each is resized, and cut about its centre, to the model's own shape"""
    out: Path
    """the picture, a .png that is not there yet"""
    ratio: tuple[float, ...] = ()
    """masking ratios, a row each; default: the model's own"""
    unit: int | None = None
    """mask unit in pixels, a multiple of the ViT patch; default: the model's own"""
    layer: int = -1
    """the encoder block whose attention is drawn, from 0, or from the end: -1 is the last"""
    seed: int = 0
    """of the masks"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""

    work: ClassVar[str] = "mae_lib.commands.show:run"


@dataclass(frozen=True)
class Classify(Command):
    """Fine-tune a classifier end to end on each checkpoint, and from scratch, by MAE's recipe, and
    score its top-1 accuracy on validation images and shifted sets. What is already recorded in
    --results, or stored, is not trained again; what was stopped goes on.
    """

    task: Literal["classify"] = "classify"
    """what is trained"""
    checkpoint: tuple[Path, ...] = ()
    """pretrained encoders (their .safetensors or .json), folders of them, or bare names (NAME-HASH)
    of what is in checkpoints/ or in the cache"""
    scratch: tuple[int, ...] = ()
    """ViT patches, in pixels, of encoders that are trained from scratch at the tier's sizes"""
    data: Path | None = None
    """folder of images with train/ and val/ of class folders; default: the embedded world"""
    shifted: tuple[str, ...] = ()
    """shifted sets to score on: NAME=DIR, as `mae evaluate probe` takes them"""
    tier: TierName = "laptop"
    """the recipe; paper: Table 9 of He et al. 2022, for many GPUs"""
    seed: int | None = None
    """of the head, data order and augmentation; default: the checkpoint's own, 0 from scratch"""
    steps: int | None = None
    """optimiser steps; default: the tier's"""
    batch: int | None = None
    """images a step; default: the tier's"""
    base_lr: float | None = None
    """peak learning rate per 256 images of batch; default: the tier's"""
    layer_decay: float | None = None
    """factor on the learning rate from one block to the one below it; default: 0.75"""
    mixup: float | None = None
    """of its beta law, 0: none; default: 0.8"""
    cutmix: float | None = None
    """of its beta law, 0: none; default: 1"""
    label_smoothing: float | None = None
    """share of the target that all classes get alike; default: 0.1"""
    images: int | None = None
    """images of each set to score on, at most; default: all"""
    out: Path | None = None
    """folder for the classifiers; default: the cache ($MAE_CACHE)"""
    results: Path | None = None
    """folder for one JSON of numbers a classifier"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; under torchrun each process takes its own GPU"""
    threads: int = 1
    """CPU threads a process"""
    save_every: float = 60.0
    """seconds between resumable states"""

    work: ClassVar[str] = "mae_lib.commands.classify:run"


@dataclass(frozen=True)
class Sweep(Command):
    """Run one notebook by papermill for every combination of parameter values, each run in a
    process of its own."""

    notebook: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="NOTEBOOK")]
    """the chapter to run"""
    over: tuple[str, ...] = ()
    """what varies: NAME=[VALUE, …] in YAML, for instance 'seed=[0, 1, 2]'"""
    set: tuple[str, ...] = ()
    """what stays: NAME=VALUE in YAML, for instance tier=smoke"""
    out: Path = Path("runs")
    """folder for the executed notebooks and the report; another one for each sweep"""
    jobs: int = 1
    """runs side by side"""

    work: ClassVar[str] = "mae_lib.commands.batch.sweep:run"


@dataclass(frozen=True)
class Describe(Command):
    """Say what a folder of images holds, and whether it can be used."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """the data set's folder: class folders, or train/ and val/ with class folders or shards in
    them; or COCO's layout, with annotations/"""
    channels: int = 3
    """3, 1 for grey images, or the number of bands"""
    as_json: bool = False
    """print JSON"""

    work: ClassVar[str] = "mae_lib.commands.data:describe"


@dataclass(frozen=True)
class Shard(Command):
    """Pack a folder of class folders into a few large tar files, for storage that is slow at
    opening many small ones. The files' bytes stay as they are; training on the shards is training
    on the folder."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """the data set's folder: class folders, or train/ and val/ with class folders in them"""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """where the shards go: a new or an empty folder"""
    split: tuple[str, ...] = ()
    """which splits; default: all there are"""
    megabytes: float = 512
    """size at which the next shard begins, in 10⁶ bytes"""

    work: ClassVar[str] = "mae_lib.commands.data:shard"


@dataclass(frozen=True)
class Data:
    """Folders of images."""

    command: (
        Annotated[Describe, tyro.conf.subcommand(name="describe")]
        | Annotated[Shard, tyro.conf.subcommand(name="shard")]
    )

    def run(self) -> int:
        return self.command.run()
