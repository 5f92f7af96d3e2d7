"""What all tests share: a notebook's cell may take as long as the book gives it, longer than a
test."""

from __future__ import annotations

import pytest

NOTEBOOK_CELL_TIMEOUT = 1260
"""Seconds; a little more than nbval's own limit in the Makefile, which names the cell and stops the
kernel."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.timeout(NOTEBOOK_CELL_TIMEOUT))
