"""``python -m mae_lib …`` is ``mae …``, and what `torchrun -m mae_lib …` starts."""

from mae_lib.commands.cli import main

if __name__ == "__main__":
    main()
