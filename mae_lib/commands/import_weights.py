"""What ``mae import`` does: reads the weights, stores them, and says what is known of them."""

from __future__ import annotations

from mae_lib.commands.options import Import
from mae_lib.training.foreign.files import Said
from mae_lib.training.foreign.models import Told, import_weights
from mae_lib.training.tiers import parse_size


def run(options: Import) -> int:
    """``mae import``: the exit status."""
    known = Said(
        heads=options.heads,
        decoder_heads=options.decoder_heads,
        normalise_target=options.normalise_target,
        ratio=options.ratio,
        mean=options.mean or None,
        deviation=options.deviation or None,
    )
    size = None if options.image_size is None else parse_size(options.image_size)
    told = Told(options.pickled, size, options.patch, known, options.encoder_only)
    stored = import_weights(options.source, options.out, told)
    config, record = stored.config, stored.record
    model, origin = config.model, config.source
    decoder = f"{model.decoder_depth} blocks of width {model.decoder_width}"
    print(
        f"{stored.path}",
        f"  from {origin['library']}: {origin['file']}, sha256 {origin['sha256'][:16]}…",
        f"  images {model.channels}×{model.image_size[0]}×{model.image_size[1]}, ViT patch"
        f" {model.patch} px; encoder {model.depth} blocks of width {model.width},"
        f" {model.heads} heads; decoder {decoder if model.has_decoder else 'none'}",
        *(f"  {name} resampled from {a} to {b}" for name, (a, b) in origin["resampled"].items()),
        *(f"  {name}: {_WHO[who]}" for name, who in origin["settled"].items()),
        f"  unknown: {', '.join(record['unknown'])}",
        sep="\n",
    )
    return 0


_WHO = {"told": "as you say", "source": "as the source says", "usual": "as such models have it"}
