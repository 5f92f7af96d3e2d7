"""One training step of mae_lib beside lightly's MAE, transformers' ViTMAE and one made of timm's
parts alone, of the same size.

A step is: sample masks, forward, loss, backward, fused AdamW. All see the same float32 batch, take
turns within one process and each sample masks their own way. A second copy of our model, timed like
a peer, shows what two equal things differ by here: a difference smaller than that is noise,
whatever its interval says. A step's speed is also set against the fastest matrix product that the
machine did in the same run. On a GPU, steps are in bfloat16, and ours is timed once more, compiled.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata

import common
import torch
from torch import Tensor, nn

from mae_lib.model.autoencoder import (
    MaskedAutoencoder,
    ModelConfig,
    patchify,
    sincos_positions,
    training_flops,
)
from mae_lib.training.config import PretrainConfig
from mae_lib.training.tiers import tier

CONTROL, COMPILED = "mae_lib again", "mae_lib compiled"

VITS = {
    "tiny": ModelConfig(
        image_size=(224, 224),
        patch=16,
        width=192,
        depth=12,
        heads=3,
        decoder_width=128,
        decoder_depth=2,
        decoder_heads=4,
    ),
    "small": ModelConfig(
        image_size=(224, 224),
        patch=16,
        width=384,
        depth=12,
        heads=6,
        decoder_width=256,
        decoder_depth=4,
        decoder_heads=8,
    ),
    "base": replace(tier("paper").model, normalise_target=False),
}
"""The usual ViTs at 224 px. Base has MAE's decoder of 8 blocks; like it, the smaller decoders are
two thirds as wide as their encoders."""

CPU_BATCHES = {"tiny-p16-r75": 16, "small-p16-r75": 8, "base-p16-r75": 4}
"""Images a step of the large cases on a CPU, so that a round takes seconds; of the others, the
laptop tier's batch."""


@dataclass(frozen=True)
class Contender:
    """A model, its loss on images [B, C, H, W], and how many of its trainable numbers ours lacks,
    with the reason."""

    model: nn.Module
    loss: Callable[[Tensor], Tensor]
    extra: int = 0
    reason: str = ""


def cases() -> dict[str, PretrainConfig]:
    """The laptop tier's two patch sizes, its lightest mask too, the 192/12/3 model of the ``gpu``
    tier, and three ViTs at 224 px."""
    data = {"kind": "world"}
    laptop, gpu = tier("laptop"), tier("gpu")
    large = {
        f"{name}-p{model.patch}-r75": PretrainConfig(
            model=model, ratio=0.75, unit=model.patch, data=data, batch=256
        )
        for name, model in VITS.items()
    }
    return {
        "laptop-p8-r10": laptop.config(data, 0.1),
        "laptop-p8-r75": laptop.config(data, 0.75),
        "laptop-p4-r75": laptop.config(data, 0.75, patch=laptop.small_patch),
        "gpu-p8-r75": gpu.config(data, 0.75),
        **large,
    }


def ours(config: PretrainConfig, device: torch.device, compiled: bool = False) -> Contender:
    """mae_lib's model; ``compiled`` by torch.compile, for these shapes."""
    model = MaskedAutoencoder(config.model).to(device)
    call = torch.compile(model, dynamic=False, fullgraph=True) if compiled else model
    generator = torch.Generator(device).manual_seed(0)
    return Contender(
        model, lambda images: call(images, *config.mask.sample(len(images), generator))[0]
    )


def _peer_ratio(config: PretrainConfig) -> float:
    """A ratio at which a peer, which rounds (1 − ratio) · L down, keeps as many patches as we do,
    who round to nearest."""
    return 1 - (config.mask.visible_patches + 0.5) / config.mask.patches


def lightly_mae(config: PretrainConfig, device: torch.device) -> Contender:
    """lightly's MAE, put together from its modules as its documentation's example does."""
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    sizes, masked = config.model, _peer_ratio(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightly 1.6 means to rename the decoder in 1.7
        vit = VisionTransformer(
            img_size=sizes.image_size,
            patch_size=sizes.patch,
            in_chans=sizes.channels,
            num_classes=0,
            embed_dim=sizes.width,
            depth=sizes.depth,
            num_heads=sizes.heads,
            mlp_ratio=sizes.mlp_ratio,
        )
        decoder = MAEDecoderTIMM(
            num_patches=config.mask.patches,
            patch_size=sizes.patch,
            in_chans=sizes.channels,
            embed_dim=sizes.width,
            decoder_embed_dim=sizes.decoder_width,
            decoder_depth=sizes.decoder_depth,
            decoder_num_heads=sizes.decoder_heads,
            mlp_ratio=sizes.mlp_ratio,
        )
    encoder = MaskedVisionTransformerTIMM(vit=vit)
    model = nn.ModuleDict({"encoder": encoder, "decoder": decoder}).to(device)

    def loss(images: Tensor) -> Tensor:
        size = (len(images), encoder.sequence_length)
        keep, mask = utils.random_token_mask(size=size, mask_ratio=masked, device=images.device)
        seen = decoder.embed(encoder.encode(images=images, idx_keep=keep))
        tokens = utils.set_at_index(
            utils.repeat_token(decoder.mask_token, size).to(seen.dtype), keep, seen
        )
        prediction = decoder.predict(utils.get_at_index(decoder.decode(tokens), mask))
        assert prediction.shape[1] == config.mask.patches - config.mask.visible_patches
        # index 0 is [CLS]
        target = utils.get_at_index(utils.patchify(images, sizes.patch), mask - 1)
        return nn.functional.mse_loss(prediction, target)

    return Contender(model, loss, sizes.width, "an encoder mask token that MAE does not use")


def vit_mae(config: PretrainConfig, device: torch.device) -> Contender:
    """transformers' ViTMAEForPreTraining."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    sizes = config.model
    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=sizes.image_size[0],
            patch_size=sizes.patch,
            num_channels=sizes.channels,
            hidden_size=sizes.width,
            num_hidden_layers=sizes.depth,
            num_attention_heads=sizes.heads,
            intermediate_size=int(sizes.width * sizes.mlp_ratio),
            decoder_hidden_size=sizes.decoder_width,
            decoder_num_hidden_layers=sizes.decoder_depth,
            decoder_num_attention_heads=sizes.decoder_heads,
            decoder_intermediate_size=int(sizes.decoder_width * sizes.mlp_ratio),
            mask_ratio=_peer_ratio(config),
            layer_norm_eps=1e-6,
            attn_implementation="sdpa",
        )
    )
    # Built from a config, its decoder's positions are all zero, and such a model cannot learn where
    # a patch belongs.
    with torch.no_grad():
        model.decoder.decoder_pos_embed[0, 1:] = sincos_positions(sizes.decoder_width, sizes.grid)
    model.to(device).train()

    def loss(images: Tensor) -> Tensor:
        return model(pixel_values=images).loss

    with torch.no_grad():
        hidden = model(
            pixel_values=torch.zeros(1, sizes.channels, *sizes.image_size, device=device)
        ).mask.sum()
    assert int(hidden) == config.mask.patches - config.mask.visible_patches
    return Contender(model, loss)


class TimmMAE(nn.Module):
    """The usual recipe in timm's parts: a VisionTransformer that embeds all patches and gathers the
    visible tokens, mask tokens put in between by argsort, blocks over all tokens, a prediction for
    every patch, and the loss on the masked ones.
    """

    def __init__(self, sizes: ModelConfig, visible: int) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block, VisionTransformer

        self.patch, self.visible, width = sizes.patch, visible, sizes.decoder_width
        self.encoder = VisionTransformer(
            img_size=sizes.image_size,
            patch_size=sizes.patch,
            in_chans=sizes.channels,
            num_classes=0,
            embed_dim=sizes.width,
            depth=sizes.depth,
            num_heads=sizes.heads,
            mlp_ratio=sizes.mlp_ratio,
        )
        self.bridge = nn.Linear(sizes.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder = nn.Sequential(
            *(
                Block(
                    dim=width,
                    num_heads=sizes.decoder_heads,
                    mlp_ratio=sizes.mlp_ratio,
                    qkv_bias=True,
                )
                for _ in range(sizes.decoder_depth)
            )
        )
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, sizes.patch_values)
        nn.init.normal_(self.mask_token, std=0.02)
        positions = [
            torch.cat([torch.zeros(1, w), sincos_positions(w, sizes.grid)])[None]
            for w in (sizes.width, width)
        ]
        self.encoder.pos_embed = nn.Parameter(positions[0], requires_grad=False)
        self.decoder_position = nn.Parameter(positions[1], requires_grad=False)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """The loss on images [B, C, H, W]; the patches with the smallest ``noise`` [B, L], drawn
        where it is None, stay visible."""
        x = self.encoder.patch_embed(images) + self.encoder.pos_embed[:, 1:]
        b, patches, width = x.shape
        order = (torch.rand(b, patches, device=x.device) if noise is None else noise).argsort(1)
        back = order.argsort(1)
        x = x.gather(1, order[:, : self.visible, None].expand(-1, -1, width))
        x = torch.cat(
            [(self.encoder.cls_token + self.encoder.pos_embed[:, :1]).expand(b, -1, -1), x], 1
        )
        x = self.bridge(self.encoder.norm(self.encoder.blocks(x)))
        tokens = torch.cat(
            [x[:, 1:], self.mask_token.expand(b, patches - self.visible, -1).to(x.dtype)], 1
        )
        tokens = tokens.gather(1, back[..., None].expand(-1, -1, x.shape[2]))
        x = self.decoder(torch.cat([x[:, :1], tokens], 1) + self.decoder_position)
        prediction = self.head(self.decoder_norm(x))[:, 1:]
        masked = (back >= self.visible).float()
        error = (prediction - patchify(images, self.patch)).square().mean(2)
        return (error * masked).sum() / masked.sum()


def timm_mae(config: PretrainConfig, device: torch.device) -> Contender:
    """timm's parts, put together as one would without any of the libraries."""
    model = TimmMAE(config.model, config.mask.visible_patches).to(device)
    return Contender(model, model)


PEERS = {"lightly": lightly_mae, "transformers": vit_mae, "timm": timm_mae}


def trainable(model: nn.Module) -> int:
    """Numbers that the optimiser changes: fixed positions are not among them."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def step_of(contender: Contender, config: PretrainConfig, images: Tensor) -> Callable[[], None]:
    """The training step to time. The optimiser and its two groups of parameters are the same for
    all."""
    parameters = [p for p in contender.model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in parameters if p.ndim in (2, 4)],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim not in (2, 4)], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=1e-4, betas=config.betas, fused=True)
    cuda = images.device.type == "cuda"

    def step() -> None:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=cuda):
            loss = contender.loss(images)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def contenders(
    config: PretrainConfig, device: torch.device, compiled: bool
) -> tuple[dict[str, Contender], dict[str, str]]:
    """All that can be built, ours first and, if wanted, compiled too, with equal sizes asserted;
    and for each peer that is missing, why."""
    present, missing = {"mae_lib": ours(config, device), CONTROL: ours(config, device)}, {}
    if compiled:
        present[COMPILED] = ours(config, device, compiled=True)
    for name, build in PEERS.items():
        try:
            present[name] = build(config, device)
        except ImportError as error:
            missing[name] = str(error)
    own = trainable(present["mae_lib"].model)
    for name, contender in present.items():
        assert trainable(contender.model) == own + contender.extra, (
            f"{name} has {trainable(contender.model)} parameters, mae_lib {own}"
        )
    return present, missing


def _noise(times: dict[str, list[float]]) -> float:
    """How far from 1 the interval of our second copy reaches."""
    control = common.ratio(times[CONTROL], times["mae_lib"])
    return max(abs(control.low - 1), abs(control.high - 1))


def _beyond(against: common.Estimate, noise: float) -> bool:
    return against.differs(1) and abs(against.median - 1) > noise


def verdict(times: dict[str, list[float]]) -> tuple[str, bool]:
    """One sentence about ours, not compiled, and the fastest peer; and whether ours is slower
    beyond the noise."""
    peers = [name for name in times if name in PEERS]
    if not peers:
        return "no peer is installed: nothing to compare with.", False
    fastest = min(peers, key=lambda name: common.ratio(times[name], times["mae_lib"]).median)
    against, noise = common.ratio(times[fastest], times["mae_lib"]), _noise(times)
    if against.rounds < common.ENOUGH_ROUNDS:
        return (
            (
                f"fewer than {common.ENOUGH_ROUNDS} rounds cannot tell a difference from noise"
                f" (fastest peer: {fastest}, {against})."
            ),
            False,
        )
    if not _beyond(against, noise):
        return (
            (
                f"no difference from the fastest peer ({fastest}, {against}) beyond the noise"
                f" (±{noise:.2f})."
            ),
            False,
        )
    word = "faster" if against.median > 1 else "slower"
    return (
        (
            f"mae_lib is {word} than the fastest peer ({fastest}): its time is {against} of ours,"
            f" beyond the noise (±{noise:.2f})."
        ),
        word == "slower",
    )


def compiled_verdict(times: dict[str, list[float]]) -> str:
    """One sentence about our compiled step beside our own. It is not set against the peers, none of
    which is compiled."""
    against, noise = common.ratio(times[COMPILED], times["mae_lib"]), _noise(times)
    if against.rounds < common.ENOUGH_ROUNDS:
        return (
            f"fewer than {common.ENOUGH_ROUNDS} rounds cannot tell whether compiling helps"
            f" ({against})."
        )
    if not _beyond(against, noise):
        return f"compiling makes no difference ({against}) beyond the noise (±{noise:.2f})."
    return (
        f"compiled, mae_lib is {'faster' if against.median < 1 else 'slower'}: it takes {against}"
        f" of its time, beyond the noise (±{noise:.2f})."
    )


def measure(
    config: PretrainConfig,
    batch: int,
    rounds: int,
    device: torch.device,
    clock: Callable[[], float],
    compiled: bool,
) -> tuple[dict, dict[str, Contender], dict[str, str]]:
    """One case: what was measured, as its record holds it; who was there; and who was missing,
    why."""
    sizes, flops = config.model, training_flops(config.model, config.mask.visible_patches)
    images = torch.randn(batch, sizes.channels, *sizes.image_size, device=device)
    present, missing = contenders(config, device, compiled)
    steps = {name: step_of(contender, config, images) for name, contender in present.items()}
    for step in steps.values():  # the optimiser's moments are made in its first step
        step()
    # What a compiled graph keeps does not pass by the hooks that count.
    kept = {
        name: common.kept_bytes(step, present[name].model) / batch
        for name, step in steps.items()
        if name != COMPILED
    }
    peak = {name: common.peak_bytes(step, device) for name, step in steps.items()}
    times = common.alternate(steps, rounds, device, clock)
    record = {
        "model": asdict(sizes),
        "ratio": config.ratio,
        "visible_patches": config.mask.visible_patches,
        "batch": batch,
        "flops": flops,
        "parameters": {name: trainable(contender.model) for name, contender in present.items()},
        "seconds": times,
        "images_a_second": {
            name: batch / statistics.median(taken) for name, taken in times.items()
        },
        "kept_bytes_an_image": kept,
        "peak_bytes": peak,
        "ratios": {
            name: asdict(common.ratio(times[name], times["mae_lib"]))
            for name in times
            if name != "mae_lib"
        },
        "verdict": verdict(times)[0],
    }
    return record, present, missing


HEAD = [
    "case",
    "model",
    "parameters",
    "ms a step: median [quartiles]",
    "images/s",
    "of the ceiling",
    "MiB kept an image",
    "peak GiB a step",
    "time / ours [95 %]",
]


def rows_of(label: str, record: dict, ceiling: float) -> list[list[str]]:
    """A case's rows of the table."""
    rows = []
    for name, taken in record["seconds"].items():
        speed, kept, peak = (
            record["images_a_second"][name],
            record["kept_bytes_an_image"].get(name),
            record["peak_bytes"][name],
        )
        against = "1" if name == "mae_lib" else str(common.Estimate(**record["ratios"][name]))
        rows.append(
            [
                label,
                name,
                f"{record['parameters'][name]:,}",
                common.spread(taken),
                f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}",
                f"{speed * record['flops'] / ceiling:.0%}",
                "not counted" if kept is None else f"{kept / 2**20:.2f}",
                "not measured" if peak is None else f"{peak / 2**30:.2f}",
                against,
            ]
        )
    return rows


def main() -> None:
    options = common.parser(__doc__, rounds=10)
    options.add_argument(
        "--case", action="append", choices=list(cases()), help="only this case (may be repeated)"
    )
    options.add_argument(
        "--compile",
        action="store_true",
        help="time our compiled step on a CPU too; on a GPU it always is",
    )
    chosen = options.parse_args()
    device = common.prepare(chosen.threads, chosen.device)
    cuda = device.type == "cuda"
    print(common.machine(device), end="\n\n")
    clock = common.processor_clock(chosen.threads)
    ceiling = common.matmul_ceiling(device, clock)
    rows, result, sentences, slower, missing, extras = [], {}, [], [], {}, {}
    for label in chosen.case or cases():
        config = cases()[label]
        # On a CPU the gpu tier's model is timed at the laptop's batch too: its tier's 512 would
        # only take longer.
        batch = chosen.batch or (
            config.batch if cuda else CPU_BATCHES.get(label, tier("laptop").training["batch"])
        )
        result[label], present, missing = measure(
            config, batch, chosen.rounds, device, clock, cuda or chosen.compile
        )
        times = result[label]["seconds"]
        rows += rows_of(label, result[label], ceiling) + [
            [label, name, "", "not installed", *[""] * (len(HEAD) - 4)] for name in missing
        ]
        sentence, bad = verdict(times)
        sentences += [
            f"{label}: {each}"
            for each in (sentence, *([compiled_verdict(times)] if COMPILED in times else []))
        ]
        slower += [label] * bad
        extras |= {
            name: f"{contender.extra} more parameters in {label}: {contender.reason}"
            for name, contender in present.items()
            if contender.extra
        }
        del present  # its weights, before the next case's are made
    print(common.table(HEAD, rows))
    print(
        f"\nBatch and visible patches are equal within a case; {chosen.rounds} round(s); above 1 in"
        " the last column, ours is faster."
    )
    print(
        f"The ceiling is the fastest {common.precision(device)} matrix product of this run,"
        f" {ceiling / 1e9:,.0f} GFLOP/s. A step is credited with the operations of a model that"
        " embeds only visible patches and predicts only hidden ones, whatever it computes."
    )
    if not cuda:
        print(
            "GPU (bfloat16, compiled, batches of 128 to 512, peak memory): not measured in this"
            " run; --device cuda measures it."
        )
    for name, extra in extras.items():
        print(f"{name} has {extra}. All other counts are equal (asserted).")
    for name, why in missing.items():
        print(f"{name} is not installed ({why}): python -m pip install '.[bench]'")
    print("\n" + "\n".join(sentences))
    if not missing and chosen.rounds >= common.ENOUGH_ROUNDS:
        print(
            f"\nSlower than the fastest peer beyond the noise: {', '.join(slower) or 'in no case'}."
        )
    versions = {name: metadata.version(name) for name in PEERS if name not in missing}
    common.save(
        chosen.json,
        device,
        {
            "benchmark": "training_step",
            "rounds": chosen.rounds,
            "peers": versions,
            "ceiling_flops": ceiling,
            "cases": result,
        },
    )


if __name__ == "__main__":
    main()
