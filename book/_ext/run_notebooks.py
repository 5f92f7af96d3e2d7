"""Runs notebooks with the present code, in a fresh kernel each, and saves their outputs in place:
`make notebooks`.

A notebook whose run fails stays as it was. What differs from run to run and tells a reader nothing
(times of cells, the Python version, what papermill or an editor left) is not saved, so that a
commit shows what changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from mae_lib.base.provenance import provenance

CELL_TIMEOUT = 1200
"""Seconds; the same as in _config.yml and for nbval."""

KEPT_CELL_METADATA = {"tags", "mystnb", "editable", "slideshow"}
KEPT_NOTEBOOK_METADATA = {"made", "mystnb", "title", "widgets"}


def digests(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """Cell → 16 hex digits of SHA-256 over its outputs: what a run has made, so that the tests name
    an output that was changed since."""
    return {
        cell.id: hashlib.sha256(json.dumps(cell.outputs, sort_keys=True).encode()).hexdigest()[:16]
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.outputs
    }


def run(path: Path) -> None:
    """Execute one notebook in its own folder and replace it by the result."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {
        key: value
        for key, value in notebook.metadata.items()
        if key in KEPT_NOTEBOOK_METADATA - {"widgets"}
    }
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    notebook.metadata = {
        key: value for key, value in notebook.metadata.items() if key in KEPT_NOTEBOOK_METADATA
    }
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata["language_info"] = {"name": "python"}
    origin = provenance("cpu")
    notebook.metadata["made"] = {
        "commit": origin["commit"],
        "finished": origin["finished"][:10],
        "hardware": f"{origin['hardware']['cpu']}, {origin['hardware']['cores']} cores",
        "torch": origin["versions"]["torch"],
        "outputs": digests(notebook),
    }
    for cell in notebook.cells:
        cell.metadata = {
            key: value for key, value in cell.metadata.items() if key in KEPT_CELL_METADATA
        }
    nbformat.validate(notebook)
    unfinished = path.with_suffix(".ipynb.tmp")
    nbformat.write(notebook, unfinished)
    os.replace(unfinished, path)


def main(paths: list[str]) -> int:
    """Run each; 1 if any failed."""
    failed = []
    for name in paths:
        start = time.monotonic()
        print(f"{name} ... ", end="", flush=True)
        try:
            run(Path(name))
            print(f"{time.monotonic() - start:.0f} s")
        except CellExecutionError as error:
            print(f"failed\n{error}", file=sys.stderr)
            failed.append(name)
    if failed:
        print(f"failed and left as they were: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
