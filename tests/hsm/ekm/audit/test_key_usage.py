"""What the audit log tells of the keys that cartridges need (POOL-3)."""

from __future__ import annotations

from typing import Any

import pytest

from hsm.ekm.audit.key_usage import known_cartridges, needs

HASH = bytes(range(32))
ONE, TWO, THREE = "KEK 1 (clear)", "KEK 2 (clear)", f"{HASH.hex()} (hash)"


def record(
    event: str, operation: str, *keys: str, outcome: str = "ok", volume: str = "VOL001"
) -> dict[str, Any]:
    return {
        "event": event,
        "operation": operation,
        "keys": list(keys),
        "outcome": outcome,
        "volume": volume,
        "time": 1.0,
    }


def keys(*records: dict[str, Any]) -> set[str]:
    return known_cartridges(records)["VOL001"].keys


def test_a_new_pair_replaces_the_old_one_once_acknowledged() -> None:
    old = record("key-reply", "translate", ONE, TWO)
    asked = record("key-reply", "generate", THREE, THREE)
    assert keys(old, asked) == {ONE, TWO, THREE}
    assert keys(old, asked, record("ack", "generate", THREE, THREE)) == {THREE}
    failed = record("ack", "generate", THREE, THREE, outcome="failed")
    assert keys(old, asked, failed) == {ONE, TWO, THREE}


def test_a_rekeyed_cartridge_needs_both_until_it_was_read() -> None:
    """Power may fail between the acknowledgement and the cartridge's own record of it."""
    old = record("key-reply", "translate", ONE, TWO)
    rekeyed = record("key-reply", "rekey", TWO, THREE)
    acknowledged = record("ack", "rekey", TWO, THREE)
    assert keys(old, rekeyed, acknowledged) == {ONE, TWO, THREE}
    assert keys(old, rekeyed, acknowledged, record("key-reply", "translate", TWO, THREE)) == {
        TWO,
        THREE,
    }


@pytest.mark.parametrize("seen", [(ONE,), (ONE, "unreadable EEDK")])
def test_a_damaged_pair_proves_nothing_about_what_was_not_read(seen: tuple[str, ...]) -> None:
    old = record("key-reply", "translate", ONE, TWO)
    assert keys(old, record("key-reply", "translate", *seen)) >= {ONE, TWO}


def test_refused_requests_tell_nothing() -> None:
    assert known_cartridges([record("refusal", "translate", ONE, TWO, outcome="refused")]) == {}


def test_a_forgotten_cartridge_is_unknown_until_it_is_written_again() -> None:
    old = record("key-reply", "translate", ONE, TWO)
    forgotten = {"event": "cartridge-forgotten", "volume": "VOL001", "outcome": "ok", "time": 2.0}
    assert known_cartridges([old, forgotten]) == {}
    assert keys(old, forgotten, record("key-reply", "generate", TWO, TWO)) == {TWO}


def test_a_key_is_known_by_its_label_in_any_case_and_by_its_hash() -> None:
    cartridge = known_cartridges([record("key-reply", "translate", ONE, THREE)])["VOL001"]
    assert needs(cartridge, "kek 1", bytes(32))
    assert needs(cartridge, "another label", HASH)
    assert not needs(cartridge, "KEK 2", bytes(32))
    by_label = known_cartridges([record("key-reply", "generate", "KEK 2 (hash)")])["VOL001"]
    assert needs(by_label, "KEK 2", bytes(32))
