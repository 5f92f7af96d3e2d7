"""The command `mae data shard`: a folder of class folders packed into tar shards
(:mod:`mae_lib.data.shards`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mae_lib.data.shards import pack


@dataclass(frozen=True)
class Shard:
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

    def run(self) -> int:
        print(pack(self.directory, self.out, self.split, self.megabytes))
        print(f"use them: mae pretrain --data {self.out}")
        return 0
