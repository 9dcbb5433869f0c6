"""Docstrings begin with one short line, and names of tests are short.

The first line of a docstring is what ``--help`` and an editor show.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1]
LONGEST = 72
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Return every node of the project's Python, with file and line."""
    for folder in ("rig", "hsm", "hdl", "tests", "docs"):
        for file in sorted((PROJECT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                place = f"{file.relative_to(PROJECT)}:{getattr(node, 'lineno', 1)}"
                yield place, node


def test_docstrings_begin_with_a_line_of_at_most_72_characters() -> None:
    texts = {
        place: text.splitlines()[0]
        for place, node in nodes()
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node))
    }
    assert len(texts) > 2000
    assert {place: line for place, line in texts.items() if len(line) > LONGEST} == {}


def test_names_of_tests_have_at_most_72_characters() -> None:
    names = {
        place: node.name
        for place, node in nodes()
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert len(names) > 1000
    assert {place: name for place, name in names.items() if len(name) > LONGEST} == {}
