"""Compare the results of two runs.

A measurement is worse when it came nearer to its limit, or went beyond it, by more than is allowed:

- with a minimum, by more than TOLERANCE of the old value;
- with a maximum, by more than TOLERANCE of the maximum. The longest gap or latency of other records
  says little: where the seeds differ, it may be OTHER_SEEDS of the maximum.

Worse is too what turned from pass, and what is missing, no longer judged or has no limit any more.
Times are not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

TOLERANCE: Final = 0.01
OTHER_SEEDS: Final = 0.25
NAME: Final = "comparison"
"""The scenario of a run that holds its comparison; it is not compared."""

_TIMES: Final = ("duration_s", "started")
_NOT_COMPARED: Final = ("command", "cartridges", "phases_s", "scenarios", "notices", *_TIMES)


class DifferenceKind(StrEnum):
    """How something differs, the worst first."""

    MISSING = "missing"
    WORSE = "worse"
    BETTER = "better"
    CHANGED = "changed"
    NEW = "new"


BAD: Final = (DifferenceKind.MISSING, DifferenceKind.WORSE)


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between an old and a new run."""

    kind: DifferenceKind
    scenario: str
    """Empty for what is of the whole run."""
    name: str
    old: Any
    new: Any
    unit: str | None = None
    assumed_clock: bool = False
    """Whether it is a rate and a clock of the two was not measured."""

    @property
    def change(self) -> float | None:
        """The change as a share of the old value, between two numbers."""
        if self.unit is None or self.old is None or self.new is None or not self.old:
            return None
        return float((self.new - self.old) / abs(self.old))


@dataclass(slots=True)
class Comparison:
    """The differences of two runs."""

    differences: list[Difference] = field(default_factory=list)
    same: int = 0
    """Checks, measurements, steps and scenarios that are the same."""

    @property
    def bad(self) -> list[Difference]:
        """What makes the new run worse than the old one."""
        return [each for each in self.differences if each.kind in BAD]

    def count(self, kind: DifferenceKind) -> int:
        """Return how many differences there are of a kind."""
        return sum(each.kind is kind for each in self.differences)


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> Comparison:
    """Return what differs between two runs, as results.json has them."""
    found = Comparison()
    same_seeds = old["provenance"]["seeds"] == new["provenance"]["seeds"]
    before, after = (_named(_scenarios(run), "name") for run in (old, new))
    for name, (one, other) in _pairs(before, after):
        if one is None or other is None:
            verdicts = [None if each is None else each["verdict"] for each in (one, other)]
            _note(found, _verdict(name, "the scenario", *verdicts, good="pass"))
        else:
            _scenario(found, name, one, other, same_seeds)
    _note(found, _verdict("", "the run's error", old["error"], new["error"], good=None))
    for name, (was, now) in _pairs(dict(_made_with(old)), dict(_made_with(new))):
        if was != now:
            found.differences.append(Difference(DifferenceKind.CHANGED, "", name, was, now))
    found.differences.sort(key=lambda each: list(DifferenceKind).index(each.kind))
    return found


def _scenarios(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in run["scenarios"] if each["name"] != NAME]


def _scenario(
    found: Comparison, name: str, old: Mapping[str, Any], new: Mapping[str, Any], same_seeds: bool
) -> None:
    _note(found, _verdict(name, "verdict", old["verdict"], new["verdict"], good="pass"))
    for what, key, verdict, good in (
        ("checks", "name", "verdict", "pass"),
        ("steps", "step", "outcome", "ok"),
    ):
        for item, (one, other) in _pairs(_named(old[what], key), _named(new[what], key)):
            title = f"step {item}" if what == "steps" else item
            _note(
                found,
                _verdict(
                    name,
                    title,
                    *(None if each is None else each[verdict] for each in (one, other)),
                    good=good,
                ),
            )
    measured = (_named(run["measurements"], "name") for run in (old, new))
    for item, (one, other) in _pairs(*measured):
        _note(found, _measurement(name, item, one, other, same_seeds))


def _note(found: Comparison, difference: Difference | None) -> None:
    if difference is None:
        found.same += 1
    else:
        found.differences.append(difference)


def _verdict(scenario: str, name: str, old: Any, new: Any, *, good: Any) -> Difference | None:
    """Compare two verdicts, of which `good` is the best; None: the same."""
    if old == new:
        return None
    if old is None and good is not None:
        kind = DifferenceKind.NEW if new == good else DifferenceKind.WORSE
    elif new is None and good is not None:
        kind = DifferenceKind.MISSING
    else:
        kind = (
            DifferenceKind.WORSE
            if old == good
            else DifferenceKind.BETTER
            if new == good
            else DifferenceKind.CHANGED
        )
    return Difference(kind, scenario, name, old, new)


def _measurement(
    scenario: str,
    name: str,
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any] | None,
    same_seeds: bool,
) -> Difference | None:
    if old is None or new is None:
        present: Mapping[str, Any] = old or new or {}
        kind = DifferenceKind.MISSING if new is None else DifferenceKind.NEW
        if kind is DifferenceKind.NEW and present["verdict"] == "fail":
            kind = DifferenceKind.WORSE
        was, now = (None if each is None else each["value"] for each in (old, new))
        assumed = present["assumed_clock"]
        return Difference(kind, scenario, name, was, now, present["unit"], assumed)
    if old["unit"] != new["unit"]:
        was, now = (f"{each['value']} {each['unit']}" for each in (old, new))
        return Difference(DifferenceKind.WORSE, scenario, name, was, now)
    found = _measured_kind(old, new, same_seeds)
    if found is None:
        return None
    if old["value"] == new["value"] and old["verdict"] != new["verdict"]:
        return Difference(found, scenario, name, old["verdict"], new["verdict"])
    assumed = old["assumed_clock"] or new["assumed_clock"]
    return Difference(found, scenario, name, old["value"], new["value"], old["unit"], assumed)


def _measured_kind(
    old: Mapping[str, Any], new: Mapping[str, Any], same_seeds: bool
) -> DifferenceKind | None:
    if old["verdict"] != new["verdict"]:
        if "pass" in (old["verdict"], new["verdict"]):
            return DifferenceKind.WORSE if old["verdict"] == "pass" else DifferenceKind.BETTER
        return DifferenceKind.WORSE if new["verdict"] == "fail" else DifferenceKind.CHANGED
    if any(new[limit] is None and old[limit] is not None for limit in ("minimum", "maximum")):
        return DifferenceKind.WORSE
    was, now = old["value"], new["value"]
    if was == now:
        same_limits = all(old[limit] == new[limit] for limit in ("minimum", "maximum"))
        return None if same_limits else DifferenceKind.CHANGED
    if was is None or now is None or "not judged" in (old["verdict"], new["verdict"]):
        return DifferenceKind.CHANGED
    match old["minimum"], old["maximum"]:
        case float() | int(), None:
            gain, allowed = now - was, TOLERANCE * abs(was)
        case None, float() | int() as most:
            gain, allowed = was - now, (TOLERANCE if same_seeds else OTHER_SEEDS) * abs(most)
        case _:
            return DifferenceKind.CHANGED
    if abs(gain) <= allowed:
        return DifferenceKind.CHANGED
    return DifferenceKind.BETTER if gain > 0 else DifferenceKind.WORSE


def _named(items: Iterable[Mapping[str, Any]], key: str) -> dict[str, Mapping[str, Any]]:
    """Return items by name; the second of a name has its number behind it."""
    times: Counter[str] = Counter()
    named = {}
    for item in items:
        name = item[key]
        times[name] += 1
        named[name if times[name] == 1 else f"{name}, {times[name]}"] = item
    return named


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield what has the same name in both; None where one has it not."""
    for name in [*old, *(name for name in new if name not in old)]:
        yield name, (old.get(name), new.get(name))


def _made_with(run: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what the run was made with, by name."""
    for key, value in run.items():
        if key not in (*_NOT_COMPARED, "format", "verdict", "error"):
            yield from _leaves(key, value)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{name}.{key}", item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(f"{name}.{number}", item)
    else:
        yield name, value
