"""One training step of mae_lib beside lightly's MAE and transformers' ViTMAE of the same size.

A step is: sample masks, forward, loss, backward, fused AdamW. All see the same float32 batch, take turns within one process and
each sample masks their own way. A second copy of our model, timed like a peer, shows what two equal things differ by here: a
difference smaller than that is noise, whatever its interval says.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata

import common
import torch
from torch import Tensor, nn

from mae_lib.model import MaskedAutoencoder, ModelConfig, sincos_positions
from mae_lib.tiers import PretrainConfig, tier

CONTROL = "mae_lib again"


@dataclass(frozen=True)
class Contender:
    """A model, its loss on images [B, C, H, W], and how many of its trainable numbers ours lacks, with the reason."""

    model: nn.Module
    loss: Callable[[Tensor], Tensor]
    extra: int = 0
    reason: str = ""


def cases() -> dict[str, PretrainConfig]:
    """The laptop tier's two patch sizes, its lightest mask too, and the 192/12/3 model of the ``gpu`` tier."""
    data = {"kind": "world"}
    laptop, gpu = tier("laptop"), tier("gpu")
    return {
        "laptop-p8-r10": laptop.config(data, 0.1),
        "laptop-p8-r75": laptop.config(data, 0.75),
        "laptop-p4-r75": laptop.config(data, 0.75, patch=laptop.small_patch),
        "gpu-p8-r75": gpu.config(data, 0.75),
    }


def ours(config: PretrainConfig, device: torch.device) -> Contender:
    """mae_lib's model."""
    model = MaskedAutoencoder(config.model).to(device)
    generator = torch.Generator(device).manual_seed(0)
    return Contender(model, lambda images: model(images, *config.mask.sample(len(images), generator))[0])


def _peer_ratio(config: PretrainConfig) -> float:
    """A ratio at which a peer, which rounds (1 − ratio) · L down, keeps as many patches as we do, who round to nearest."""
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
            img_size=sizes.image_size, patch_size=sizes.patch, in_chans=sizes.channels, num_classes=0, embed_dim=sizes.width,
            depth=sizes.depth, num_heads=sizes.heads, mlp_ratio=sizes.mlp_ratio,
        )
        decoder = MAEDecoderTIMM(
            num_patches=config.mask.patches, patch_size=sizes.patch, in_chans=sizes.channels, embed_dim=sizes.width,
            decoder_embed_dim=sizes.decoder_width, decoder_depth=sizes.decoder_depth, decoder_num_heads=sizes.decoder_heads, mlp_ratio=sizes.mlp_ratio,
        )
    encoder = MaskedVisionTransformerTIMM(vit=vit)
    model = nn.ModuleDict({"encoder": encoder, "decoder": decoder}).to(device)

    def loss(images: Tensor) -> Tensor:
        size = (len(images), encoder.sequence_length)
        keep, mask = utils.random_token_mask(size=size, mask_ratio=masked, device=images.device)
        seen = decoder.embed(encoder.encode(images=images, idx_keep=keep))
        tokens = utils.set_at_index(utils.repeat_token(decoder.mask_token, size).to(seen.dtype), keep, seen)
        prediction = decoder.predict(utils.get_at_index(decoder.decode(tokens), mask))
        assert prediction.shape[1] == config.mask.patches - config.mask.visible_patches
        target = utils.get_at_index(utils.patchify(images, sizes.patch), mask - 1)  # index 0 is [CLS]
        return nn.functional.mse_loss(prediction, target)

    return Contender(model, loss, sizes.width, "an encoder mask token that MAE does not use")


def vit_mae(config: PretrainConfig, device: torch.device) -> Contender:
    """transformers' ViTMAEForPreTraining."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    sizes = config.model
    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=sizes.image_size[0], patch_size=sizes.patch, num_channels=sizes.channels, hidden_size=sizes.width,
            num_hidden_layers=sizes.depth, num_attention_heads=sizes.heads, intermediate_size=int(sizes.width * sizes.mlp_ratio),
            decoder_hidden_size=sizes.decoder_width, decoder_num_hidden_layers=sizes.decoder_depth,
            decoder_num_attention_heads=sizes.decoder_heads, decoder_intermediate_size=int(sizes.decoder_width * sizes.mlp_ratio),
            mask_ratio=_peer_ratio(config), layer_norm_eps=1e-6, attn_implementation="sdpa",
        )
    )
    # Built from a config, its decoder's positions are all zero, and such a model cannot learn where a patch belongs.
    with torch.no_grad():
        model.decoder.decoder_pos_embed[0, 1:] = sincos_positions(sizes.decoder_width, sizes.grid)
    model.to(device).train()

    def loss(images: Tensor) -> Tensor:
        return model(pixel_values=images).loss

    with torch.no_grad():
        hidden = model(pixel_values=torch.zeros(1, sizes.channels, *sizes.image_size, device=device)).mask.sum()
    assert int(hidden) == config.mask.patches - config.mask.visible_patches
    return Contender(model, loss)


PEERS = {"lightly": lightly_mae, "transformers": vit_mae}


def trainable(model: nn.Module) -> int:
    """Numbers that the optimiser changes: fixed positions are not among them."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def step_of(contender: Contender, config: PretrainConfig, images: Tensor) -> Callable[[], None]:
    """The training step to time. The optimiser and its two groups of parameters are the same for all."""
    parameters = [p for p in contender.model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim in (2, 4)], "weight_decay": config.weight_decay},
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


def contenders(config: PretrainConfig, device: torch.device) -> tuple[dict[str, Contender], dict[str, str]]:
    """All that can be built, ours first, with equal sizes asserted; and for each peer that is missing, why."""
    present, missing = {"mae_lib": ours(config, device), CONTROL: ours(config, device)}, {}
    for name, build in PEERS.items():
        try:
            present[name] = build(config, device)
        except ImportError as error:
            missing[name] = str(error)
    own = trainable(present["mae_lib"].model)
    for name, contender in present.items():
        assert trainable(contender.model) == own + contender.extra, f"{name} has {trainable(contender.model)} parameters, mae_lib {own}"
    return present, missing


def verdict(times: dict[str, list[float]]) -> tuple[str, bool]:
    """One sentence about ours and the fastest peer; and whether ours is slower beyond the noise."""
    peers = [name for name in times if name in PEERS]
    if not peers:
        return "no peer is installed: nothing to compare with.", False
    fastest = min(peers, key=lambda name: common.ratio(times[name], times["mae_lib"]).median)
    against, control = common.ratio(times[fastest], times["mae_lib"]), common.ratio(times[CONTROL], times["mae_lib"])
    noise = max(abs(control.low - 1), abs(control.high - 1))
    gap = abs(against.median - 1)
    word = "faster" if against.median > 1 else "slower"
    beyond = not against.low <= 1 <= against.high and gap > noise
    if not beyond:
        return f"no difference from the fastest peer ({fastest}, {against}) beyond the noise (±{noise:.2f}).", False
    return f"mae_lib is {word} than the fastest peer ({fastest}): its time is {against} of ours, beyond the noise (±{noise:.2f}).", word == "slower"


def main() -> None:
    options = common.parser(__doc__, rounds=30)
    options.add_argument("--case", action="append", choices=list(cases()), help="only this case (may be repeated)")
    chosen = options.parse_args()
    device = common.prepare(chosen.threads, chosen.device)
    print(common.machine(device), end="\n\n")
    # One busy thread's processor time is its wall time, less the moments in which the system ran something else.
    clock = time.process_time if chosen.threads == 1 else time.perf_counter
    rows, result, sentences, slower, missing = [], {}, [], [], {}
    for label in chosen.case or cases():
        config = cases()[label]
        sizes: ModelConfig = config.model
        # On a CPU the larger model is timed at the laptop's batch too: its tier's 512 would only take longer.
        batch = chosen.batch or (config.batch if device.type == "cuda" else tier("laptop").training["batch"])
        images = torch.randn(batch, sizes.channels, *sizes.image_size, device=device)
        present, missing = contenders(config, device)
        steps = {name: step_of(c, config, images) for name, c in present.items()}
        times = common.alternate(steps, chosen.rounds, device, clock)
        for name, contender in present.items():
            against = "1" if name == "mae_lib" else str(common.ratio(times[name], times["mae_lib"]))
            speed = f"{batch / statistics.median(times[name]):.0f}"
            rows.append([label, name, f"{trainable(contender.model):,}", common.spread(times[name]), speed, against])
        rows += [[label, name, "", "not installed", "", ""] for name in missing]
        sentence, bad = verdict(times)
        sentences.append(f"{label}: {sentence}")
        slower += [label] * bad
        result[label] = {
            "model": asdict(sizes), "ratio": config.ratio, "visible_patches": config.mask.visible_patches, "batch": batch, "seconds": times,
            "ratios": {name: asdict(common.ratio(times[name], times["mae_lib"])) for name in times if name != "mae_lib"}, "verdict": sentence,
        }
    print(common.table(["case", "model", "parameters", "ms a step: median [quartiles]", "images/s", "time / ours [95 %]"], rows))
    print(f"\nBatch and visible patches are equal within a case; {chosen.rounds} rounds; above 1 in the last column, ours is faster.")
    for name, contender in present.items():
        if contender.extra:
            print(f"{name} has {contender.extra} more parameters at the last size: {contender.reason}. All other counts are equal (asserted).")
    for name, why in missing.items():
        print(f"{name} is not installed ({why}): python -m pip install '.[bench]'")
    print("\n" + "\n".join(sentences))
    if not missing:
        print(f"\nSlower than the fastest peer beyond the noise: {', '.join(slower) or 'in no case'}.")
    versions = {name: metadata.version(name) for name in PEERS if name not in missing}
    common.save(chosen.json, device, {"benchmark": "training_step", "rounds": chosen.rounds, "peers": versions, "cases": result})


if __name__ == "__main__":
    main()
