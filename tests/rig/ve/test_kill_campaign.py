"""A short kill campaign; the long one is tests/bench/ve_kill.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.rig_command import PROJECT

KILLS = 8


def test_node_killed_at_random_points_loses_nothing(tmp_path: Path) -> None:
    """In a process of its own, since it forks."""
    done = subprocess.run(
        [
            sys.executable,
            PROJECT / "tests" / "bench" / "ve_kill.py",
            str(KILLS),
            "--json",
            tmp_path / "found.json",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["kills"] == KILLS
    assert found["wrong"] == []
    assert found["acknowledged"] > 0
    assert sum(found["by_point"].values()) == KILLS
