"""The ``mae`` command: parses the command line and runs the subcommand.

Bad input ends with one line on standard error and exit status 2, a diverged training with status 3.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures.process import BrokenProcessPool
from importlib import metadata

import tyro

from mae_lib.base.errors import InputError, ProcessLost, TrainingDiverged
from mae_lib.commands.options import (
    Classify,
    Command,
    Data,
    Evaluate,
    Features,
    Finetune,
    Import,
    Pretrain,
    Show,
    Sweep,
)

COMMANDS = {
    "pretrain": Pretrain,
    "import": Import,
    "show": Show,
    "features": Features,
    "evaluate": Evaluate,
    "finetune": Finetune,
    "sweep": Sweep,
    "data": Data,
}
"""The library's own. Packages add theirs by the entry points ``mae.commands``, as the book does."""


def parse(arguments: list[str] | None = None) -> Command | Data:
    """The command that ``arguments`` (default: the command line's) spell; SystemExit for --help and
    for what they misspell."""
    added = {point.name: point.load() for point in metadata.entry_points(group="mae.commands")}
    words = sys.argv[1:] if arguments is None else arguments
    commands = COMMANDS | added
    if words[:1] == ["finetune"] and re.search(r"--task[ =]classify", " ".join(words)):
        commands |= {"finetune": Classify}
    return tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="mae",
        description="Masked autoencoders, pretrained and examined.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``mae``; ``arguments`` default to the command line's. Always ends by
    SystemExit."""
    command = parse(arguments)
    try:
        status = command.run()
    except (InputError, TrainingDiverged, ProcessLost) as error:
        print(f"mae: {error}", file=sys.stderr)
        status = error.status
    except BrokenProcessPool:
        print(
            "mae: a training process was killed, perhaps for memory: try fewer --jobs; run the same"
            " command to go on",
            file=sys.stderr,
        )
        status = 1
    except KeyboardInterrupt:
        print("mae: stopped; run the same command to go on", file=sys.stderr)
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
