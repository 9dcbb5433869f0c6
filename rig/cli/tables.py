"""Print records as a table on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rig.report.tables import output_width, table_lines
from rig.report.text import printable


def print_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], empty: str) -> None:
    """Print columns of rows, headed by their names; `empty` without rows."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    if not cells:
        print(empty)
        return
    heads = [column.replace("_", " ") for column in columns]
    for line in table_lines(heads, cells, output_width()):
        print(line)


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
