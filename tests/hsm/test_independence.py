"""Tests of hsm import nothing of rig, not even through a helper."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imported(source: Path) -> Iterator[str]:
    """Return all modules that a file imports, also within functions."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_tests_of_hsm_import_nothing_of_rig() -> None:
    found: list[str] = []
    known: set[Path] = set()
    left = sorted((ROOT / "tests" / "hsm").rglob("*.py"))
    while left:
        source = left.pop()
        if source in known:
            continue
        known.add(source)
        for name in imported(source):
            if name.split(".")[0] == "rig":
                found.append(f"{source.relative_to(ROOT)}: {name}")
            path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            if name.startswith("tests.") and path.is_file():
                left.append(path)
    assert found == []
    assert ROOT / "tests" / "support" / "ekm_client.py" in known, "helpers are looked into"
