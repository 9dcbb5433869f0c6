"""The reclaim planner: every limit, and random plans against the rules."""

import datetime
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rig.ve.catalogue.model import (
    DAY_S,
    InhibitPeriod,
    PhysicalVolume,
    PoolSettings,
    ReclaimPolicy,
    SettingsError,
    VolumeState,
)
from rig.ve.reclaim_planner import (
    ReclaimPlan,
    ReclaimReason,
    inhibited_until,
    plan_reclaim,
)

NOW = datetime.datetime(2007, 6, 6, 12, 0, tzinfo=datetime.UTC).timestamp()  # a Wednesday


def full(
    volser: str = "TAP001",
    *,
    pool: int = 1,
    active: int = 100,
    written: int = 100,
    state: VolumeState = VolumeState.FULL,
    written_days: float = 0,
    accessed_days: float | None = None,
    inactivated_days: float | None = None,
) -> PhysicalVolume:
    """Return a full volume with its times, given in days ago."""
    return PhysicalVolume(
        volser,
        pool,
        state,
        written_bytes=written,
        active_bytes=active,
        active_volumes=1,
        last_written=NOW - written_days * DAY_S,
        last_accessed=None if accessed_days is None else NOW - accessed_days * DAY_S,
        last_inactivated=None if inactivated_days is None else NOW - inactivated_days * DAY_S,
    )


def plan(*volumes: PhysicalVolume, policy: ReclaimPolicy | None = None) -> ReclaimPlan:
    """Plan with one policy for pool 1."""
    return plan_reclaim(volumes, {1: PoolSettings(1, reclaim=policy or ReclaimPolicy())}, NOW)


def reasons(volume: PhysicalVolume, policy: ReclaimPolicy) -> tuple[ReclaimReason, ...]:
    """Return why a volume is eligible; empty when it is not."""
    found = plan(volume, policy=policy).candidates
    return found[0].reasons if found else ()


# Each policy, on both sides of its limit


@pytest.mark.rule("MIG-5")
@pytest.mark.parametrize("percent", [5, 35, 95])
def test_volume_is_eligible_strictly_below_the_threshold(percent: int) -> None:
    policy = ReclaimPolicy(threshold_percent=percent)
    written = 10**15  # one byte below counts, where floating point would not see it
    limit = written // 100 * percent
    assert reasons(full(active=limit - 1, written=written), policy) == (ReclaimReason.THRESHOLD,)
    assert reasons(full(active=limit, written=written), policy) == ()


@pytest.mark.rule("MIG-5")
def test_reclaim_threshold_is_35_percent_by_default() -> None:
    assert plan(full(active=34)).candidates
    assert not plan(full(active=35)).candidates


@pytest.mark.rule("MIG-5", "MIG-6", "MIG-7", "MIG-8")
@pytest.mark.parametrize(
    ("field", "lowest", "highest"),
    [
        ("threshold_percent", 5, 95),
        ("inactivation_max_active_percent", 5, 95),
        ("days_since_access", 0, 365),
        ("days_since_write", 0, 365),
        ("days_since_inactivation", 0, 365),
    ],
)
def test_reclaim_policy_has_limits(field: str, lowest: int, highest: int) -> None:
    for good in (lowest, highest):
        ReclaimPolicy(**{field: good})
    for bad in (lowest - 1, highest + 1):
        with pytest.raises(SettingsError, match=field):
            ReclaimPolicy(**{field: bad})


SECOND = 1 / DAY_S


@pytest.mark.rule("MIG-6")
@pytest.mark.parametrize("days", [1, 365])
def test_volume_is_eligible_by_days_since_last_access(days: int) -> None:
    policy = ReclaimPolicy(days_since_access=days)
    at_limit = full(accessed_days=days, written_days=400)
    assert reasons(at_limit, policy) == (ReclaimReason.ACCESS,)
    assert reasons(full(accessed_days=days - SECOND, written_days=400), policy) == ()
    assert reasons(full(accessed_days=400, written_days=400), ReclaimPolicy()) == ()


@pytest.mark.rule("MIG-6")
def test_volume_never_recalled_from_counts_from_its_last_write() -> None:
    policy = ReclaimPolicy(days_since_access=10)
    assert reasons(full(written_days=10), policy) == (ReclaimReason.ACCESS,)
    assert reasons(full(written_days=10 - SECOND), policy) == ()


@pytest.mark.rule("MIG-7")
@pytest.mark.parametrize("days", [1, 365])
def test_volume_is_eligible_by_days_since_last_write(days: int) -> None:
    policy = ReclaimPolicy(days_since_write=days)
    assert reasons(full(written_days=days, accessed_days=0), policy) == (ReclaimReason.WRITE,)
    assert reasons(full(written_days=days - SECOND, accessed_days=400), policy) == ()
    assert reasons(full(written_days=400), ReclaimPolicy()) == ()


@pytest.mark.rule("MIG-8")
@pytest.mark.parametrize("days", [1, 365])
@pytest.mark.parametrize("percent", [5, 95])
def test_volume_is_eligible_by_inactivation_below_a_maximum_of_its_own(
    days: int, percent: int
) -> None:
    policy = ReclaimPolicy(
        threshold_percent=5, days_since_inactivation=days, inactivation_max_active_percent=percent
    )
    below, at = 10 * percent - 1, 10 * percent

    def found(inactivated_days: float | None, active: int) -> bool:
        volume = full(active=active, written=1000, inactivated_days=inactivated_days)
        return ReclaimReason.INACTIVATION in reasons(volume, policy)

    assert found(days, below)
    assert not found(days - SECOND, below)
    assert not found(days, at)
    assert not found(None, below)


@pytest.mark.rule("MIG-8")
def test_reclaim_thresholds_are_independent() -> None:
    policy = ReclaimPolicy(
        threshold_percent=10, days_since_inactivation=1, inactivation_max_active_percent=90
    )
    assert reasons(full(active=80, inactivated_days=2), policy) == (ReclaimReason.INACTIVATION,)
    assert reasons(full(active=9), policy) == (ReclaimReason.THRESHOLD,)
    assert reasons(full(active=80), policy) == ()


# All pools together


@pytest.mark.rule("MIG-9")
def test_pool_is_judged_by_its_own_policies() -> None:
    pools = {
        1: PoolSettings(1, reclaim=ReclaimPolicy(threshold_percent=50)),
        2: PoolSettings(2, reclaim=ReclaimPolicy(threshold_percent=10)),
    }
    volumes = [full("AAA001", pool=1, active=40), full("BBB001", pool=2, active=40)]
    found = plan_reclaim(volumes, pools, NOW).candidates
    assert [each.volume.volser for each in found] == ["AAA001"]


@pytest.mark.rule("MIG-9")
def test_plan_takes_least_active_data_first_whatever_its_pool() -> None:
    pools = {n: PoolSettings(n, reclaim=ReclaimPolicy(threshold_percent=95)) for n in (1, 2)}
    volumes = [
        full("AAA001", pool=1, active=50, written=1000),  # 5 percent, but more to move
        full("BBB002", pool=2, active=40),
        full("BBB001", pool=2, active=40),
    ]
    found = plan_reclaim(volumes, pools, NOW).candidates
    assert [each.volume.volser for each in found] == ["BBB001", "BBB002", "AAA001"]
    first = plan_reclaim(volumes, pools, NOW, limit=1)
    assert first.candidates == found[:1]
    assert first.eligible == 3


@pytest.mark.rule("MIG-1")
def test_plan_moves_data_to_the_reclaim_pool() -> None:
    pools = {1: PoolSettings(1, reclaim_pool=2), 2: PoolSettings(2)}
    volumes = [full("AAA001", active=1), full("BBB001", pool=2, active=2)]
    found = plan_reclaim(volumes, pools, NOW).candidates
    assert [each.target_pool for each in found] == [2, 2]
    assert found[0].active_percent == pytest.approx(1.0)


@pytest.mark.rule("MIG-10")
@pytest.mark.parametrize("state", [VolumeState.FILLING, VolumeState.SCRATCH])
def test_volume_that_is_not_full_is_never_reclaimed(state: VolumeState) -> None:
    policy = ReclaimPolicy(
        threshold_percent=95, days_since_access=1, days_since_write=1, days_since_inactivation=1
    )
    volume = full(active=0, written_days=400, inactivated_days=400, state=state)
    assert not plan(volume, policy=policy).candidates


# Inhibit-reclaim schedule

HOUR_S = 3600.0
WEDNESDAY_NOON = InhibitPeriod(weekday=2, start_minute=12 * 60, minutes=60)


@pytest.mark.rule("MIG-11")
@pytest.mark.parametrize(
    ("offset_s", "until_s"),
    [
        (-1, None),
        (0, HOUR_S),
        (HOUR_S - 1, HOUR_S),
        (HOUR_S, None),
        (7 * DAY_S, 7 * DAY_S + HOUR_S),
    ],
)
def test_inhibit_period_holds_from_its_first_second_to_its_last(
    offset_s: float, until_s: float | None
) -> None:
    found = inhibited_until(NOW + offset_s, [WEDNESDAY_NOON])
    assert found == (None if until_s is None else NOW + until_s)


@pytest.mark.rule("MIG-11")
def test_inhibit_period_goes_on_past_midnight_and_past_sunday() -> None:
    sunday_night = InhibitPeriod(weekday=6, start_minute=23 * 60, minutes=120)
    monday = NOW - 2.5 * DAY_S  # 0:00
    assert inhibited_until(monday - HOUR_S, [sunday_night]) == monday + HOUR_S
    assert inhibited_until(monday, [sunday_night]) == monday + HOUR_S
    assert inhibited_until(monday + HOUR_S, [sunday_night]) is None


@pytest.mark.rule("MIG-11")
def test_inhibit_periods_that_follow_each_other_are_one() -> None:
    next_hour = InhibitPeriod(weekday=2, start_minute=13 * 60, minutes=60)
    assert inhibited_until(NOW, [WEDNESDAY_NOON, next_hour]) == NOW + 2 * HOUR_S


@pytest.mark.rule("MIG-11")
def test_inhibit_periods_without_a_gap_inhibit_for_ever() -> None:
    whole = InhibitPeriod(weekday=0, start_minute=0, minutes=7 * 1440)
    assert inhibited_until(NOW, [whole]) == math.inf
    days = [InhibitPeriod(weekday=day, start_minute=0, minutes=1440) for day in range(7)]
    assert inhibited_until(NOW, days) == math.inf


@pytest.mark.rule("MIG-11")
def test_plan_says_until_when_it_is_inhibited() -> None:
    found = plan_reclaim([full(active=1)], {}, NOW, inhibit=[WEDNESDAY_NOON])
    assert found.inhibited_until == NOW + HOUR_S
    assert found.candidates


# The whole against the rules, said slowly

WHOLE_DAYS = st.integers(-1, 400).map(lambda days: NOW - days * DAY_S)
NEAR_DAYS = st.builds(lambda time, s: time + s, WHOLE_DAYS, st.sampled_from([-1.0, 0.0, 1.0]))
POLICIES = st.builds(
    ReclaimPolicy,
    threshold_percent=st.integers(5, 95),
    days_since_access=st.integers(0, 365),
    days_since_write=st.integers(0, 365),
    days_since_inactivation=st.integers(0, 365),
    inactivation_max_active_percent=st.integers(5, 95),
)
POOLS = st.lists(POLICIES, min_size=4, max_size=4).map(
    lambda policies: {n: PoolSettings(n, reclaim=policy) for n, policy in enumerate(policies, 1)}
)


@st.composite
def volumes(draw: st.DrawFn) -> list[PhysicalVolume]:
    """Draw a random library, whose volumes are often exactly at a limit."""
    made = []
    for number in range(draw(st.integers(0, 12))):
        written = draw(st.sampled_from([0, 1, 100, 1000, 10**12]))
        share = draw(st.integers(0, 100))
        made.append(
            PhysicalVolume(
                f"TAP{number:03}",
                draw(st.integers(1, 4)),
                draw(st.sampled_from(list(VolumeState))),
                written_bytes=written,
                active_bytes=min(
                    written, max(0, written * share // 100 + draw(st.integers(-1, 1)))
                ),
                last_written=draw(NEAR_DAYS),
                last_accessed=draw(st.none() | NEAR_DAYS),
                last_inactivated=draw(st.none() | NEAR_DAYS),
            )
        )
    return draw(st.permutations(made))


def eligible_by_the_rules(volume: PhysicalVolume, policy: ReclaimPolicy) -> bool:
    """Apply MIG-5 to MIG-8 and MIG-10 as they are written."""
    if volume.state != "full":
        return False
    share = Fraction(volume.active_bytes, volume.written_bytes) if volume.written_bytes else None

    def below(percent: int) -> bool:
        return share is not None and share < Fraction(percent, 100)

    def days_gone(since: float | None) -> Fraction:
        return Fraction(-1) if since is None else (Fraction(NOW) - Fraction(since)) / 86_400

    accessed = volume.last_written if volume.last_accessed is None else volume.last_accessed
    mig_5 = below(policy.threshold_percent)
    mig_6 = policy.days_since_access != 0 and days_gone(accessed) >= policy.days_since_access
    mig_7 = policy.days_since_write != 0 and (
        days_gone(volume.last_written) >= policy.days_since_write
    )
    mig_8 = (
        policy.days_since_inactivation != 0
        and days_gone(volume.last_inactivated) >= policy.days_since_inactivation
        and below(policy.inactivation_max_active_percent)
    )
    return mig_5 or mig_6 or mig_7 or mig_8


@pytest.mark.rule("MIG-5", "MIG-6", "MIG-7", "MIG-8", "MIG-9", "MIG-10")
@settings(deadline=None, max_examples=300)
@given(library=volumes(), pools=POOLS, limit=st.none() | st.integers(0, 5))
def test_plan_is_what_the_rules_say(
    library: list[PhysicalVolume], pools: dict[int, PoolSettings], limit: int | None
) -> None:
    wanted = [v for v in library if eligible_by_the_rules(v, pools[v.pool].reclaim)]
    order: list[str] = []
    while wanted:
        least = min(volume.active_bytes for volume in wanted)
        first = min(volume.volser for volume in wanted if volume.active_bytes == least)
        order.append(first)
        wanted = [volume for volume in wanted if volume.volser != first]
    found = plan_reclaim(library, pools, NOW, limit=limit)
    assert [each.volume.volser for each in found.candidates] == order[:limit]
    assert found.eligible == len(order)


@pytest.mark.rule("MIG-11")
@settings(deadline=None)
@given(
    periods=st.lists(
        st.builds(
            InhibitPeriod,
            weekday=st.integers(0, 6),
            start_minute=st.integers(0, 1439),
            minutes=st.integers(1, 3000),
        ),
        max_size=4,
    ),
    minute=st.integers(0, 20_000),
)
def test_inhibit_schedule_is_what_a_calendar_says(
    periods: list[InhibitPeriod], minute: int
) -> None:
    monday = datetime.datetime(2007, 6, 4, tzinfo=datetime.UTC)

    def inhibited(time: datetime.datetime) -> bool:
        for period in periods:
            for week in (-1, 0, 1, 2, 3):
                start = monday + datetime.timedelta(
                    weeks=week, days=period.weekday, minutes=period.start_minute
                )
                if start <= time < start + datetime.timedelta(minutes=period.minutes):
                    return True
        return False

    time = monday + datetime.timedelta(minutes=minute)
    found = inhibited_until(time.timestamp(), periods)
    if found is None:
        assert not inhibited(time)
    elif found != math.inf:
        end = datetime.datetime.fromtimestamp(found, datetime.UTC)
        assert inhibited(time)
        assert not inhibited(end)
        assert inhibited(end - datetime.timedelta(minutes=1))
