"""Sphinx extension: every chapter offers the book's data beside its notebook, one archive with its
SHA-256, for who has the library from a wheel (`mae_book.verdicts.integrity.archive`)."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri

from mae_book.verdicts.integrity.archive import NAME, pack


def make(app: Sphinx) -> None:
    """Pack the archive into the pages' folder."""
    if app.builder.name == "html":
        app.config.book_archive = pack(Path(app.srcdir), Path(app.outdir) / NAME)


def offer(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Say under a chapter where the archive is, and how to check and use it."""
    digest = app.config.book_archive
    if doctree is None or not digest or not (Path(app.srcdir) / f"{page}.ipynb").is_file():
        return
    megabytes = (Path(app.outdir) / NAME).stat().st_size / 1e6
    link = relative_uri(app.builder.get_target_uri(page), NAME)
    context["body"] += (
        f'<p class="archive">To run this page\'s notebook with the library from a wheel: download'
        f' <a href="{html.escape(link)}" download>{NAME}</a> ({megabytes:.0f} MB: results and'
        f" checkpoints of all chapters), then <code>mae unpack {NAME} --sha256 {digest}</code>.</p>"
    )


def setup(app: Sphinx) -> dict[str, bool | str]:
    """Register with Sphinx."""
    app.add_config_value("book_archive", "", "")
    app.connect("builder-inited", make)
    app.connect("html-page-context", offer)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
