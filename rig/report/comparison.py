"""A comparison of runs as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rig.report.tables import table_lines
from rig.report.text import number, plural, printable
from rig.results.comparison import Comparison, Difference, DifferenceKind

_HEADS = ("", "what", "old", "new", "change")


def lines(found: Comparison, width: int) -> list[str]:
    """Return a table of the differences and a line that counts them."""
    rows = [_row(each) for each in found.differences]
    table = table_lines(_HEADS, rows, width) if rows else []
    return [*table, summary(found)]


def summary(found: Comparison) -> str:
    """Return how many differences there are of each kind."""
    counts = [f"{found.count(kind):,} {kind}" for kind in DifferenceKind if found.count(kind)]
    return ", ".join([*counts, f"{found.same:,} the same"])


def worse(differences: Sequence[Difference]) -> str:
    """Return what makes a run worse, in a line."""
    shown = [
        f"{row[0]}: {row[1]}, {row[2]} -> {row[3]}" for row in map(_row, differences[:_MOST_SHOWN])
    ]
    if len(differences) > _MOST_SHOWN:
        shown.append(f"and {plural(len(differences) - _MOST_SHOWN, 'other')}")
    return "; ".join(shown)


def as_json(found: Comparison) -> dict[str, Any]:
    """Return a comparison for JSON."""
    return {
        "verdict": "fail" if found.bad else "pass",
        "same": found.same,
        "differences": [
            {
                "kind": each.kind.value,
                "scenario": each.scenario or None,
                "name": each.name,
                "old": each.old,
                "new": each.new,
                "unit": each.unit,
                "assumed_clock": each.assumed_clock,
                "change": each.change,
            }
            for each in found.differences
        ],
    }


_MOST_SHOWN = 5


def _row(each: Difference) -> tuple[str, ...]:
    where = f"{each.scenario}: " if each.scenario else ""
    change = "" if each.change is None else f"{each.change:+.2%}"
    assumed = " (assumed clock)" if each.assumed_clock else ""
    values = (_value(value, each.unit) for value in (each.old, each.new))
    return (each.kind.value, printable(where + each.name + assumed), *values, change)


def _value(value: Any, unit: str | None) -> str:
    if value is None:
        return "-"
    if unit is not None and isinstance(value, int | float):
        return printable(number(value, unit))
    return printable(str(value))
