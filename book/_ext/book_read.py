"""Sphinx extension of `make read`: pages from the outputs that the notebooks hold, for who has no
PyTorch. With ``BOOK_READ`` set nothing is executed, the packages that only computing needs are
mocked for the library's docstrings, and every chapter says which run made its outputs."""

from __future__ import annotations

import html
import json
import os
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

MOCKED = [
    "faster_coco_eval",
    "piq",
    "safetensors",
    "scipy",
    "sklearn",
    "timm",
    "torch",
    "torchvision",
]
"""Packages that the environment of `make read` lacks."""


def read_only(app: Sphinx, config: Config) -> None:
    """Execute nothing, and mock what is missing."""
    config.nb_execution_mode = "off"
    config.autodoc_mock_imports = MOCKED


def name_the_run(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Say under a chapter which run its outputs come from (`run_notebooks` notes it)."""
    path = Path(app.srcdir) / f"{page}.ipynb"
    if doctree is None or not path.is_file():
        return
    run = json.loads(path.read_text(encoding="utf-8"))["metadata"]["made"]
    words = (
        f"This page was not executed: its outputs are those of the run of {run['finished']} at"
        f" commit {run['commit']}, on {run['hardware']}, PyTorch {run['torch']}."
    )
    context["body"] += f'<p class="made">{html.escape(words)}</p>'


def setup(app: Sphinx) -> dict[str, bool | str]:
    """Register with Sphinx, where the build is for reading only."""
    if os.environ.get("BOOK_READ"):
        app.connect("config-inited", read_only)
        app.connect("html-page-context", name_the_run)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
