"""Reclaim plans: eligible volumes, reasons and order (MIG-5 to MIG-11).

A plan is computed from plain records and the time, and does nothing. One pass over the volumes;
what it costs grows with their number and not with that of the logical volumes on them.

Where the source is silent, the decision taken here: a limit of N days is reached when N times 24
hours have gone by; a volume never recalled from counts from its last write; one on which nothing
was ever inactivated is not eligible by MIG-8. Of volumes with the same amount of active data, the
one with the lower VOLSER goes first.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rig.ve.catalogue.model import (
    DAY_S,
    InhibitPeriod,
    PhysicalVolume,
    PoolSettings,
    ReclaimPolicy,
    VolumeState,
)

_MINUTE_S = 60.0
_WEEK_S = 7 * DAY_S
_EPOCH_WEEKDAY = 3  # 1 January 1970 was a Thursday


class ReclaimReason(StrEnum):
    """The policy that makes a volume eligible."""

    THRESHOLD = "active data below the threshold"  # MIG-5
    ACCESS = "days since last access"  # MIG-6
    WRITE = "days since last write"  # MIG-7
    INACTIVATION = "days since last inactivation"  # MIG-8


@dataclass(frozen=True, slots=True)
class Candidate:
    """An eligible volume, its reasons, and the target pool of its data."""

    volume: PhysicalVolume
    reasons: tuple[ReclaimReason, ...]
    target_pool: int

    @property
    def active_percent(self) -> float:
        """Active data as a share of what was written."""
        return 100 * self.volume.active_bytes / max(1, self.volume.written_bytes)


@dataclass(frozen=True, slots=True)
class ReclaimPlan:
    """Eligible volumes, the one to reclaim first in front.

    `inhibited_until` is the time, in seconds since 1970, before which no reclaim begins (MIG-11):
    None when one may begin now, infinity when the periods leave no gap.
    """

    candidates: tuple[Candidate, ...]
    eligible: int  # how many there are in all
    inhibited_until: float | None


def plan_reclaim(
    volumes: Iterable[PhysicalVolume],
    pools: Mapping[int, PoolSettings],
    now: float,
    *,
    inhibit: Sequence[InhibitPeriod] = (),
    limit: int | None = None,
) -> ReclaimPlan:
    """Return which volumes to reclaim, least active data first (MIG-9).

    `limit` keeps the first so many only. A pool that `pools` lacks has the default policies.
    """
    candidates: list[Candidate] = []
    for volume in volumes:
        if volume.state is not VolumeState.FULL:  # MIG-10
            continue
        settings = pools.get(volume.pool) or PoolSettings(volume.pool)
        if reasons := reasons_to_reclaim(volume, settings.reclaim, now):
            candidates.append(Candidate(volume, reasons, settings.reclaim_target))
    ordered = (
        sorted(candidates, key=_urgency)
        if limit is None
        else heapq.nsmallest(limit, candidates, key=_urgency)
    )
    return ReclaimPlan(tuple(ordered), len(candidates), inhibited_until(now, inhibit))


def reasons_to_reclaim(
    volume: PhysicalVolume, policy: ReclaimPolicy, now: float
) -> tuple[ReclaimReason, ...]:
    """Return every policy that makes a filled volume eligible.

    Each policy is judged alone.
    """
    reasons = []
    if _active_below(volume, policy.threshold_percent):
        reasons.append(ReclaimReason.THRESHOLD)
    last_access = volume.last_accessed if volume.last_accessed is not None else volume.last_written
    if _elapsed(policy.days_since_access, last_access, now):
        reasons.append(ReclaimReason.ACCESS)
    if _elapsed(policy.days_since_write, volume.last_written, now):
        reasons.append(ReclaimReason.WRITE)
    if _elapsed(policy.days_since_inactivation, volume.last_inactivated, now) and _active_below(
        volume, policy.inactivation_max_active_percent
    ):
        reasons.append(ReclaimReason.INACTIVATION)
    return tuple(reasons)


def inhibited_until(now: float, periods: Sequence[InhibitPeriod]) -> float | None:
    """Return when a reclaim may begin again, or None when it may now (MIG-11).

    A period holds from its first second to before its last; periods may overlap or follow each
    other, and are taken together. Infinity when they fill the week.
    """
    until = now
    while until - now < _WEEK_S:
        later = max((_end_of(period, until) for period in periods), default=until)
        if later <= until:
            return until if until > now else None
        until = later
    return math.inf


def _end_of(period: InhibitPeriod, time: float) -> float:
    """Return the end of the period that `time` is in, else `time`."""
    start = period.weekday * DAY_S + period.start_minute * _MINUTE_S
    since_monday = (time + _EPOCH_WEEKDAY * DAY_S) % _WEEK_S
    elapsed = (since_monday - start) % _WEEK_S
    duration = period.minutes * _MINUTE_S
    return time + max(0.0, duration - elapsed)


def _active_below(volume: PhysicalVolume, percent: int) -> bool:
    return volume.active_bytes * 100 < percent * volume.written_bytes


def _elapsed(days: int, since: float | None, now: float) -> bool:
    return days > 0 and since is not None and now - since >= days * DAY_S


def _urgency(candidate: Candidate) -> tuple[int, str]:
    return candidate.volume.active_bytes, candidate.volume.volser
