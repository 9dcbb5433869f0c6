"""A measured value against its limits, and the clock of rates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """One value against its limits; a value that is not a number fails."""

    name: str
    value: float
    unit: str
    minimum: float | None = None
    maximum: float | None = None
    rules: tuple[str, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)
    not_judged: str | None = None
    """Why the value is shown and not judged."""
    assumed_clock: bool = False
    """Whether the value is a rate at a clock that nothing measured."""

    @property
    def verdict(self) -> str:
        """``pass``, ``fail`` or ``not judged``."""
        if self.not_judged is not None:
            return "not judged"
        return "pass" if self.passed else "fail"

    @property
    def passed(self) -> bool:
        """Whether the value is within its limits, or is not judged."""
        if self.not_judged is not None:
            return True
        if math.isnan(self.value):
            return False
        above = self.minimum is None or self.value >= self.minimum
        return above and (self.maximum is None or self.value <= self.maximum)

    @property
    def margin(self) -> float | None:
        """Distance to the nearer limit as a share of it; negative when failed."""
        distances = []
        if self.minimum:
            distances.append((self.value - self.minimum) / abs(self.minimum))
        if self.maximum:
            distances.append((self.maximum - self.value) / abs(self.maximum))
        return min(distances) if distances else None


@dataclass(frozen=True, slots=True)
class EngineClock:
    """The clock that rates are computed at, in hertz, and how it is known."""

    hz: float
    configured_hz: float = 0.0
    """That of lab.yaml; by default the same."""
    measured_hz: float | None = None
    """None where the clock is assumed."""
    uncertainty: float | None = None
    """The most that the measured clock may be wrong, as a share of it."""
    measured_s: float | None = None
    why_assumed: str | None = None

    def __post_init__(self) -> None:
        """Take the configured clock by default."""
        if not self.configured_hz:
            object.__setattr__(self, "configured_hz", self.hz)

    @property
    def assumed(self) -> bool:
        """Return whether nothing measured it."""
        return self.measured_hz is None

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.hz / 1e6:.6g} MHz ({'assumed clock' if self.assumed else 'measured'})"
