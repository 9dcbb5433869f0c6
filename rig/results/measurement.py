"""A measured value against its limits."""

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
