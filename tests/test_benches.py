"""The benches in tests/bench say how they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "bench"
BENCHES = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("bench", BENCHES, ids=lambda path: path.stem)
def test_bench_prints_its_help(bench: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, bench, "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {bench.name}")
    assert list(tmp_path.iterdir()) == []
