"""Tables of text; every table of the command line is drawn here."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNLIMITED = 100_000
"""Columns of a table that goes to a file or a pipe: there no cell is folded."""


def table_lines(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table, its heading first.

    Columns of numbers are aligned to the right. Cells are folded where the table would be wider
    than ``width``.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, head in enumerate(heads):
        numbers = all(_is_number(row[index]) for row in rows)
        table.add_column(head, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    drawn = io.StringIO()
    Console(file=drawn, width=width, color_system=None, highlight=False).print(table)
    return [line.rstrip() for line in drawn.getvalue().splitlines()]


def output_width() -> int:
    """Return the width of tables on standard output."""
    return Console().width if sys.stdout.isatty() else _UNLIMITED


def _is_number(cell: str) -> bool:
    return not cell or cell.replace(".", "", 1).replace(",", "").lstrip("-").isdecimal()
