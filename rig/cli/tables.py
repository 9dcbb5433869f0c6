"""Rows of values as a table of text; numbers to the right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rig.report.text import printable


def print_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], empty: str) -> None:
    """Print these columns of the rows, headed by their names; `empty` when there are no rows."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    if not cells:
        print(empty)
        return
    heads = [column.replace("_", " ") for column in columns]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    right = [
        all(line[index].replace(".", "", 1).isdecimal() or not line[index] for line in cells)
        for index in range(len(columns))
    ]
    for line in (heads, *cells):
        words = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        print("  ".join(words).rstrip())


def _cell(value: Any) -> str:
    match value:
        case None | False | "":
            return ""
        case True:
            return "yes"
        case list() | tuple():
            return ", ".join(map(_cell, value))
        case dict():
            return " ".join(f"{key}={_cell(each) or '-'}" for key, each in value.items())
    return printable(str(value))
