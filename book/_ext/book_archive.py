"""Sphinx extension: every chapter offers the book's data beside its notebook, one archive with its
SHA-256, for who has the library from a wheel (`mae unpack` reads it)."""

from __future__ import annotations

import hashlib
import html
import os
import zipfile
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri

NAME = "mae-book.zip"
FOLDERS = ("results", "checkpoints", "notebooks")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # so that the same files make the same archive


def pack(root: Path, target: Path) -> str:
    """Write the archive of the project at ``root``, with a SHA256SUMS of its files, and return its
    SHA-256. Two archives of the same files are the same, byte for byte."""
    files = [
        path
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished, sums = target.with_name(f".{target.name}.part"), []
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            name, contents = path.relative_to(root).as_posix(), path.read_bytes()
            sums.append(f"{hashlib.sha256(contents).hexdigest()}  {name}\n")
            archive.writestr(_member(name), contents)
        archive.writestr(_member("SHA256SUMS"), "".join(sums))
    os.replace(unfinished, target)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED
    return member


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
