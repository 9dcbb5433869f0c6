"""Samples of an engine's busy clocks at times of the host."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from itertools import product

from rig.engine.driver import Engine, TimedCycles

_SAMPLE_EVERY_S = 0.01
_GROUP = 10
"""Samples at the begin and at the end of a run of which the best are taken."""


@dataclass(slots=True)
class TimedSamples:
    """Counts of busy clocks while records pass."""

    engine: Engine
    taken: list[TimedCycles] = field(default_factory=list)

    def take(self) -> None:
        """Take a sample, unless the last was taken just now.

        The one before was taken while the generator ran, since it runs still.
        """
        if self.taken and time.monotonic() < self.taken[-1].after + _SAMPLE_EVERY_S:
            return
        sample = self.engine.timed_cycles()
        if sample.cycles:
            self.taken.append(sample)

    def bounds(self) -> tuple[float, float, float]:
        """Return the seconds between samples, and bounds of the clock in hertz.

        The last sample is left out: the generator may have ended before it.
        """
        sure = self.taken[:-1]
        group = min(_GROUP, len(sure) // 2)
        seconds, least, most = 0.0, 0.0, math.inf
        for first, last in product(sure[:group], sure[len(sure) - group :]):
            cycles = last.cycles - first.cycles
            seconds = max(seconds, last.before - first.after)
            least = max(least, cycles / (last.after - first.before))
            if last.before > first.after:
                most = min(most, cycles / (last.before - first.after))
        return seconds, least, most
