"""The limits of settings, on both sides."""

from __future__ import annotations

import pytest

from hsm.keys.eedk import KeyLabel
from rig.ve.catalogue.model import InhibitPeriod, PoolSettings, ReclaimPolicy, SettingsError


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("threshold_percent", (5, 95), (4, 96, 0)),
        ("inactivation_max_active_percent", (5, 95), (4, 96)),
        ("days_since_access", (0, 1, 365), (-1, 366)),
        ("days_since_write", (0, 1, 365), (-1, 366)),
        ("days_since_inactivation", (0, 1, 365), (-1, 366)),
    ],
)
@pytest.mark.rule("MIG-5", "MIG-6", "MIG-7", "MIG-8")
def test_reclaim_policy_has_limits(name: str, good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    for value in good:
        assert getattr(ReclaimPolicy(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(SettingsError, match=name):
            ReclaimPolicy(**{name: value})


@pytest.mark.rule("MIG-5")
def test_reclaim_policy_is_the_threshold_by_default() -> None:
    policy = ReclaimPolicy()
    assert policy.threshold_percent == 35
    assert (policy.days_since_access, policy.days_since_write) == (0, 0)
    assert policy.days_since_inactivation == 0


@pytest.mark.rule("POOL-1", "POOL-6")
def test_pool_settings_are_checked() -> None:
    key = KeyLabel("KEK 1")
    pool = PoolSettings(7, True, (key,), reclaim_pool=8)
    assert pool.keys == (key,)
    assert (pool.reclaim_target, PoolSettings(7).reclaim_target) == (8, 7)
    assert [PoolSettings(number).number for number in (1, 32)] == [1, 32]
    for number in (0, 33, -1):
        with pytest.raises(SettingsError, match="1 to 32"):
            PoolSettings(number)
    for count in (0, 3):
        with pytest.raises(SettingsError, match=f"has {count} key labels"):
            PoolSettings(1, True, (key,) * count)
    for number in (0, 33):
        with pytest.raises(SettingsError, match="1 to 32"):
            PoolSettings(1, reclaim_pool=number)


@pytest.mark.parametrize("period", [(7, 0, 1), (-1, 0, 1), (0, 1440, 1), (0, 0, 0), (0, 0, 10081)])
@pytest.mark.rule("MIG-11")
def test_inhibit_periods_are_checked(period: tuple[int, int, int]) -> None:
    assert InhibitPeriod(6, 1439, 10080)
    with pytest.raises(SettingsError, match="inhibit period"):
        InhibitPeriod(*period)
