"""Values as text, the same in every report."""

from __future__ import annotations

from rig.results.measurement import Measurement


def number(value: float, unit: str) -> str:
    """Return a value with its unit: rates to 0.1, ratios to 0.0001."""
    if unit == "ratio":
        return f"{value:.4f}"
    if unit == "clocks":
        return f"{value:,.0f} clock{'' if value == 1 else 's'}"
    return f"{value:,.1f} {unit}"


def measured(item: Measurement) -> str:
    """Return a measurement as ``name: value (limit, margin)``."""
    value = number(item.value, item.unit) + (", assumed clock" if item.assumed_clock else "")
    if item.not_judged is not None:
        return f"{item.name}: {value} ({item.not_judged})"
    parts = []
    if item.minimum is not None and item.minimum == item.maximum:
        return f"{item.name}: {value} (must be {number(item.minimum, item.unit)})"
    if item.minimum is not None:
        parts.append(f"at least {number(item.minimum, item.unit)}")
    if item.maximum is not None:
        parts.append(f"at most {number(item.maximum, item.unit)}")
    if item.margin is not None:
        parts.append(f"margin {item.margin:+.1%}")
    limits = f" ({', '.join(parts)})" if parts else ""
    return f"{item.name}: {value}{limits}"


def printable(words: str) -> str:
    """Escape control characters; file names may hold any."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in words)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 copy``, ``2 copies``."""
    if count == 1:
        return f"{count:,} {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}s"


def seconds(duration: float) -> str:
    """Return a duration as ``12.3 s``, ``45 ms`` or ``0.3 ms``."""
    if duration >= 1:
        return f"{duration:.1f} s"
    milliseconds = duration * 1000
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def duration(left: float) -> str:
    """Return a long duration as ``40 s``, ``12 min`` or ``3 h 05 min``."""
    if left < 60:
        return f"{left:.0f} s"
    minutes = round(left / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02} min"


def size(count: float) -> str:
    """Return bytes as ``8.0 MB``, ``12.5 kB`` or ``7 B`` (decimal)."""
    if count >= 1e6:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e3:.1f} kB" if count >= 1e3 else f"{count:.0f} B"
