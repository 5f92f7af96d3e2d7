"""``mae data``: what a folder of images holds, and packing it into shards."""

from __future__ import annotations

import json

from mae_lib.commands.options import Describe, Shard
from mae_lib.data import describe as descriptions
from mae_lib.data.shards import pack


def describe(options: Describe) -> int:
    """``mae data describe``: the exit status, 2 where the folder cannot be used."""
    found = descriptions.describe(options.directory, channels=options.channels)
    print(json.dumps(found.to_dict(), indent=1) if options.as_json else found)
    return 0 if found.usable else 2


def shard(options: Shard) -> int:
    """``mae data shard``: the exit status."""
    print(pack(options.directory, options.out, options.split, options.megabytes))
    print(f"use them: mae pretrain --data {options.out}")
    return 0
