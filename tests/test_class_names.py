"""No two top-level classes of rig, hsm and hdl have one name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def test_class_names_have_one_meaning() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for package in ("rig", "hsm", "hdl"):
        for file in sorted((PROJECT / package).rglob("*.py")):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(str(file.relative_to(PROJECT)))
    assert len(found) > 100
    assert {name: files for name, files in found.items() if len(files) > 1} == {}
