"""How papermill runs a chapter: parameters are checked before a kernel starts, a failure is one
line, and the output's name is taken only by a run that ended well.

The entry point ``papermill.engine`` makes it papermill's default, for notebooks that declare their
parameters by `check_parameters`; all others run as ever. ``python -m
mae_lib.commands.papermill_engine`` is papermill with it, wherever the package comes from.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines

from mae_lib.base.errors import InputError
from mae_lib.base.parameters import check_notebook_parameters, declares_parameters

DEAD_KERNEL = 138
"""papermill's own exit status of a run whose kernel died."""


class ChapterEngine(NBClientEngine):
    """papermill's engine, for a chapter: it is ``OUT.unfinished.ipynb`` while it runs, and
    ``OUT.failed.ipynb`` where it failed, which leaves what lies at ``OUT.ipynb`` untouched."""

    @classmethod
    def execute_notebook(cls, nb, kernel_name, output_path=None, **options):
        """The executed notebook; SystemExit, with one line, for a wrong parameter or a cell that
        failed."""
        if not declares_parameters(nb):
            return super().execute_notebook(nb, kernel_name, output_path, **options)
        try:
            check_notebook_parameters(nb, nb.metadata.papermill.get("parameters", {}))
        except InputError as error:
            sys.exit(f"papermill: {error}")
        if output_path is None or "://" in output_path:
            return super().execute_notebook(nb, kernel_name, output_path, **options)
        out = Path(output_path)
        unfinished, failed = (
            out.with_suffix(f".{word}.ipynb") for word in ("unfinished", "failed")
        )
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            sys.exit(f"papermill: cannot make the folder {out.parent}: {error.strerror}")
        try:
            done = super().execute_notebook(nb, kernel_name, str(unfinished), **options)
            said, status = _failure(done, unfinished), 1
        except DeadKernelError:
            said, status = "the kernel died, perhaps for want of memory", DEAD_KERNEL
        if said:
            unfinished.replace(failed)
            print(f"papermill: {said}; what was run is in {failed.name}", file=sys.stderr)
            sys.exit(status)
        unfinished.replace(out)
        failed.unlink(missing_ok=True)  # of an earlier try
        return done


def _failure(notebook, path: Path) -> str:
    """What a cell raised, in one line, or "" where none did; papermill's marks of the place are put
    into the file."""
    from papermill.exceptions import PapermillExecutionError
    from papermill.execute import raise_for_execution_errors  # which imports the engines

    try:
        raise_for_execution_errors(notebook, str(path))
    except PapermillExecutionError as error:
        said = " ".join(str(error.evalue).split())
        kind = "" if error.ename == InputError.__name__ else f"{error.ename}: "
        return f"{kind}{said} (cell [{error.exec_count}])"
    return ""


papermill_engines.register(None, ChapterEngine)


def papermill_for_a_parent() -> None:
    """papermill's command, which ends with the process that started it: what is killed goes on
    once, not twice."""
    from papermill.cli import papermill

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, args=[os.getppid()], daemon=True).start()
    papermill()


if __name__ == "__main__":
    from papermill.cli import papermill

    papermill()
