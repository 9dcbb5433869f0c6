"""What processes do not import before they have started others, or at all."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        # Imported while the processes of drives and key managers start.
        ("rig.cli.main, rig.testbed.node, rig.scenarios.runner", "sqlalchemy"),
        # Imported while the first worker starts.
        ("hsm.ekm.service.front", "asyncio"),
        ("hsm.ekm.service.front", "pydantic"),
        # A worker gets its configuration pickled.
        ("hsm.ekm.service.worker", "yaml"),
        ("rig.cli.main", "importlib.metadata"),
    ],
)
def test_process_starts_without_a_slow_import(modules: str, absent: str) -> None:
    code = f"import {modules}, sys; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
