"""Sphinx extension: what a chapter's numbers depend on decides whether the chapter is executed
again.

jupyter-cache recognises a notebook by its code cells alone, so a page would go on showing the
numbers of an older library. Here the cache's folder is named after a hash of everything else that
numbers come from (the library, the shipped checkpoints, the results of finished runs, the package
versions): another hash is another, empty, cache, and a changed configuration value, so that Sphinx
reads every page again. It runs inside the build, hence `jupyter-book build .` has it too.

Chapters that are not in the cache are executed side by side, one per core, before Sphinx reads the
first page; one that fails is executed again when its page is read, which reports it.

It also keeps a failure from being forgotten: Sphinx stores the pages it has read even when they
gave warnings, and a second build, reading nothing, would succeed. After a build with warnings the
store is dropped.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from sphinx.application import ENV_PICKLE_FILENAME, Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import logging as sphinx_logging

logger = sphinx_logging.getLogger(__name__)

INPUTS = ("mae_lib", "book/mae_book", "checkpoints", "results", "requirements.txt")
"""Files and folders, relative to the book's root, that the chapters' numbers depend on."""

IGNORED_SUFFIXES = (".pyc", ".pyo", ".lock", ".tmp")
"""Files that come and go without a meaning: compiled code, file locks, files half written."""


def input_files(root: Path) -> list[Path]:
    """Every file under `INPUTS` that counts, sorted by its name relative to `root`."""
    found = []
    for name in INPUTS:
        start = root / name
        for path in [start] if start.is_file() else start.rglob("*"):
            relative = path.relative_to(root)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
            if path.is_file() and not hidden and path.suffix not in IGNORED_SUFFIXES:
                found.append(path)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def inputs_key(root: Path) -> str:
    """The sha256 (hex) of the names and contents of all inputs under `root`, and of the Python
    version."""
    digest = hashlib.sha256(f"python {sys.version_info.major}.{sys.version_info.minor}\n".encode())
    for path in input_files(root):
        name = path.relative_to(root).as_posix().encode()
        content = path.read_bytes()
        # The lengths keep two different trees from giving the same stream of bytes.
        digest.update(b"%d %d\n" % (len(name), len(content)))
        digest.update(name)
        digest.update(content)
    return digest.hexdigest()


def choose_cache(app: Sphinx, config: Config) -> None:
    """Point myst-nb at the cache of the present inputs and remove the caches of older ones.

    myst-nb reads its configuration at `builder-inited`, and Sphinx compares it with the stored one
    between the two events, so `config-inited` is early enough for both.
    """
    key = inputs_key(Path(app.srcdir))
    caches = Path(app.outdir).parent / ".jupyter_cache"
    config.book_inputs_key = key
    config.nb_execution_cache_path = str(caches / key[:16])
    if caches.is_dir():
        for entry in caches.iterdir():
            if entry.name != key[:16]:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    logger.info("Chapters are cached under the key %s of %s.", key[:16], ", ".join(INPUTS))


def drop_old_reports(app: Sphinx) -> None:
    """Remove the tracebacks of an earlier build: what lies in reports/ after a build is that
    build's."""
    shutil.rmtree(Path(app.outdir) / "reports", ignore_errors=True)


def execute_side_by_side(app: Sphinx, env: BuildEnvironment, names: list[str]) -> None:
    """Fill the cache with the chapters among the pages that are about to be read."""
    chapters = [path for name in names if (path := str(env.doc2path(name))).endswith(".ipynb")]
    if app.config.nb_execution_mode != "cache" or len(chapters) < 2:
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on one core are slower than one
    cache = get_cache(app.config.nb_execution_cache_path)
    for path in chapters:
        cache.add_nb_to_project(path)
    executor = load_executor("local-parallel", cache, logging.getLogger("jupyter_cache"))
    executor.run_and_cache(filter_uris=chapters, timeout=app.config.nb_execution_timeout)


def forget_failed_reading(app: Sphinx, exception: Exception | None) -> None:
    """After warnings, make the next build read (and report) every page again; good executions stay
    cached."""
    if exception is not None or app._warncount:
        (Path(app.doctreedir) / ENV_PICKLE_FILENAME).unlink(missing_ok=True)


def setup(app: Sphinx) -> dict[str, bool | str]:
    """Register with Sphinx."""
    app.add_config_value("book_inputs_key", "", "env", types=(str,))
    app.connect("config-inited", choose_cache)
    app.connect("builder-inited", drop_old_reports)
    app.connect("env-before-read-docs", execute_side_by_side)
    app.connect("build-finished", forget_failed_reading)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
