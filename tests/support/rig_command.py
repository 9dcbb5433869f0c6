"""The ``rig`` command as a real process, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
RIG = Path(sys.executable).parent / "rig"
DEFAULT_LAB = (PROJECT / "lab.yaml").read_text()


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """Return the one line of standard error of a refusal."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert "Traceback" not in self.out + self.err
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("rig: ")
        return lines[0].removeprefix("rig: ")


def rig(
    *arguments: str | Path,
    timeout: float = 300,
    env: Mapping[str, str] | None = None,
    **environment: str,
) -> Ended:
    """Run ``rig`` to its end, with these changes of the environment."""
    done = subprocess.run(
        [RIG, *map(str, arguments)],
        env={**os.environ, **(env or {}), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def lab_file(folder: Path, *changes: tuple[str, str]) -> Path:
    """Write the default lab with any free port and with changes."""
    text = DEFAULT_LAB.replace("port: 3801", "port: 0")
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    path = folder / "lab.yaml"
    path.write_text(text)
    return path
