"""Key usage of cartridges, read from audit records (POOL-3)."""

from __future__ import annotations

from typing import Any

import pytest

from hsm.ekm.audit.key_usage import known_cartridges, needs_key

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
    return known_cartridges(records)["VOL001", ""].keys


def test_key_usage_has_the_new_pair_after_its_acknowledgement() -> None:
    old = record("key-reply", "translate", ONE, TWO)
    asked = record("key-reply", "generate", THREE, THREE)
    assert keys(old, asked) == {ONE, TWO, THREE}
    assert keys(old, asked, record("ack", "generate", THREE, THREE)) == {THREE}
    failed = record("ack", "generate", THREE, THREE, outcome="failed")
    assert keys(old, asked, failed) == {ONE, TWO, THREE}


def test_key_usage_has_both_pairs_after_rekey_until_the_next_read() -> None:
    """Power may fail after the acknowledgement and before the write."""
    old = record("key-reply", "translate", ONE, TWO)
    rekeyed = record("key-reply", "rekey", TWO, THREE)
    acknowledged = record("ack", "rekey", TWO, THREE)
    assert keys(old, rekeyed, acknowledged) == {ONE, TWO, THREE}
    assert keys(old, rekeyed, acknowledged, record("key-reply", "translate", TWO, THREE)) == {
        TWO,
        THREE,
    }


@pytest.mark.parametrize("seen", [(ONE,), (ONE, "unreadable EEDK")])
def test_key_usage_keeps_the_pair_when_a_damaged_one_was_read(seen: tuple[str, ...]) -> None:
    old = record("key-reply", "translate", ONE, TWO)
    assert keys(old, record("key-reply", "translate", *seen)) >= {ONE, TWO}


def test_key_usage_ignores_refused_requests() -> None:
    assert known_cartridges([record("refusal", "translate", ONE, TWO, outcome="refused")]) == {}


def test_key_usage_has_no_forgotten_cartridge_until_it_is_written() -> None:
    old = record("key-reply", "translate", ONE, TWO)
    forgotten = {"event": "cartridge-forgotten", "volume": "VOL001", "outcome": "ok", "time": 2.0}
    assert known_cartridges([old, forgotten]) == {}
    assert keys(old, forgotten, record("key-reply", "generate", TWO, TWO)) == {TWO}


def test_key_usage_matches_label_in_any_case_or_hash() -> None:
    cartridge = known_cartridges([record("key-reply", "translate", ONE, THREE)])["VOL001", ""]
    assert needs_key(cartridge, "kek 1", bytes(32))
    assert needs_key(cartridge, "another label", HASH)
    assert not needs_key(cartridge, "KEK 2", bytes(32))
    by_label = known_cartridges([record("key-reply", "generate", "KEK 2 (hash)")])["VOL001", ""]
    assert needs_key(by_label, "KEK 2", bytes(32))


FIRST, SECOND = "01" * 16, "02" * 16


def of(cartridge_id: str, content: dict[str, Any]) -> dict[str, Any]:
    return content | {"cartridge_id": cartridge_id}


@pytest.mark.rule("CART-4", "POOL-3")
def test_key_usage_keeps_two_cartridges_of_one_volser_apart() -> None:
    known = known_cartridges(
        of(cartridge, record(event, "generate", key))
        for cartridge, key in ((FIRST, ONE), (SECOND, TWO))
        for event in ("key-reply", "ack")
    )
    assert known["VOL001", FIRST].keys == {ONE}
    assert known["VOL001", SECOND].keys == {TWO}


@pytest.mark.rule("CART-4", "BOT-5", "POOL-3")
def test_key_usage_of_a_cartridge_written_from_bot_again_is_the_new_pair() -> None:
    """The cartridge keeps its id, so the keys of its old data are not needed."""
    known = known_cartridges(
        of(FIRST, record(event, "generate", key))
        for key in (ONE, TWO)
        for event in ("key-reply", "ack")
    )
    assert [cartridge.keys for cartridge in known.values()] == [{TWO}]


@pytest.mark.rule("CART-4", "POOL-3")
def test_key_usage_reads_records_without_an_id_by_volser_alone() -> None:
    """A record without an id may be of any cartridge of its VOLSER."""
    old = [record("key-reply", "generate", ONE), record("ack", "generate", ONE)]
    new = [
        of(FIRST, record("key-reply", "generate", TWO)),
        of(FIRST, record("ack", "generate", TWO)),
    ]
    known = known_cartridges(old + new)
    assert {key: each.keys for key, each in known.items()} == {
        ("VOL001", ""): {ONE},
        ("VOL001", FIRST): {TWO},
    }
    forgotten = {"event": "cartridge-forgotten", "volume": "VOL001", "outcome": "ok", "time": 2.0}
    assert [*known_cartridges([*old, *new, forgotten])] == [("VOL001", FIRST)]
    assert [*known_cartridges([*old, *new, of(FIRST, forgotten)])] == [("VOL001", "")]
