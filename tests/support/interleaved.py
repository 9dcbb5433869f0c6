"""Run each module's tests in two halves, with all other modules between.

Use it by `pytest -p tests.support.interleaved`. It shows what depends on the order: a worker that
takes over tests of another sets up the fixtures of a module a second time, in the same session.
"""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put every second test of each module behind all others."""
    halves: tuple[list[pytest.Item], list[pytest.Item]] = ([], [])
    counts: dict[Path, int] = {}
    for item in items:
        counts[item.path] = counts.get(item.path, -1) + 1
        halves[counts[item.path] % 2].append(item)
    items[:] = halves[0] + halves[1]
