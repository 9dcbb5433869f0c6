"""The reference pages are those of the code, and the site builds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from docs import generate
from tests.support.rig_command import PROJECT


def test_reference_pages_are_current() -> None:
    wanted = generate.pages()
    stale = [
        path.name
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, "run `make docs`"
    assert set(generate.PAGES.iterdir()) == set(wanted)


def test_the_build_of_the_pages_has_no_warnings(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", ".", tmp_path],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, "")
    text = (tmp_path / "docs" / "architecture.html").read_text(encoding="utf-8")
    assert text.count('class="mermaid"') == 2
