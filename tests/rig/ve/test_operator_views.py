"""The operator's views: search, key users, statistics, plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hsm.keys.eedk import KeyLabel, KeyMode
from rig.ve import operator_views
from rig.ve.catalogue import settings, transactions
from rig.ve.catalogue.model import PoolSettings, TapeEncryption, VolumeState
from rig.ve.node import Node
from rig.ve.operator_views import Search
from tests.support.nodes import CLEAR, KEK_1, NodeFactory, content, evict, put, work

KEK_2 = KeyLabel("KEK 2", KeyMode.HASH)


@pytest.fixture
def node(node_factory: NodeFactory) -> Node:
    """Return a node with two clear and two encrypted cartridges.

    TAP001 is clear and full, TAP002 clear, TAP003 under KEK 1 and, 40 days later, TAP004 under KEK
    2.
    """
    node = node_factory.node(PoolSettings(1), PoolSettings(2, True, (KEK_1,)), cartridge_bytes=7000)
    for number in range(3):
        put(node, f"CLEAR{number}", content(number), "SG1")
    put(node, "KEKONE", content(3), "SG2")
    work(node)
    node.advance(40)
    with node.change() as session:
        settings.set_pool(session, PoolSettings(2, True, (KEK_2,)))
    put(node, "KEKTW1", content(4), "SG2")
    put(node, "KEKTW2", content(5), "SG2")
    work(node)
    node.expire("CLEAR1")
    return node


def found(node: Node, **filters: Any) -> list[str]:
    with node.catalogue.reading() as session:
        rows = operator_views.search(session, Search(**filters), node.clock.now())
        return [row["volser"] for row in rows]


@pytest.mark.rule("POOL-7")
def test_search_database_by_every_filter(node: Node) -> None:
    everything = ["TAP001", "TAP002", "TAP003", "TAP004", "TAP005", "TAP006"]
    assert found(node) == everything
    assert found(node, pool=1) == ["TAP001", "TAP002"]
    assert found(node, pool=0) == ["TAP005", "TAP006"]
    assert found(node, encryption=TapeEncryption.CLEAR) == ["TAP001", "TAP002"]
    assert found(node, encryption=TapeEncryption.ENCRYPTED) == ["TAP003", "TAP004"]
    assert found(node, encryption=TapeEncryption.BLANK) == ["TAP005", "TAP006"]
    assert found(node, state=VolumeState.FULL) == ["TAP001", "TAP003"]
    assert found(node, key="kek 1") == ["TAP003"]
    assert found(node, key="KEK 2") == ["TAP004"]
    assert found(node, key="KEK") == []
    assert found(node, fill_above=50) == ["TAP001", "TAP003"]
    assert found(node, fill_below=50, pool=1) == ["TAP002"]
    assert found(node, active_below=60, pool=1) == ["TAP001"]
    assert found(node, written_before_days=39) == ["TAP001", "TAP002"]
    assert found(node, written_within_days=39) == ["TAP003", "TAP004"]
    evict(node)
    node.read("CLEAR0")
    assert found(node, accessed_within_days=1) == ["TAP001"]
    assert found(node, accessed_before_days=1) == everything[1:]


@pytest.mark.rule("POOL-3")
def test_kek_is_needed_until_no_volume_with_data_uses_it(node: Node) -> None:
    def needed(label: str) -> list[str]:
        with node.catalogue.reading() as session:
            return operator_views.key_users(session, label)

    assert needed("kek 1") == ["TAP003"]
    assert needed("KEK 2") == ["TAP004"]  # in hash mode too: the catalogue knows the label
    assert needed("KEK 3") == []
    node.expire("KEKONE")
    assert needed("KEK 1") == ["TAP003"]
    node.expire("KEKTW1")
    assert needed("KEK 1") == []
    assert needed("KEK 2") == ["TAP004"]


@pytest.mark.rule("MSG-2")
def test_statistics_count_by_pool_encrypted_and_clear_over_time(node: Node) -> None:
    with node.catalogue.reading() as session:
        rows = operator_views.statistics(session, 24)
    figures = [
        (
            row["pool"],
            row["encrypted_volumes"],
            row["encrypted_bytes"],
            row["clear_volumes"],
            row["clear_bytes"],
        )
        for row in rows
    ]
    # The pool's first tape had room for one more, so KEK 1 took a volume 40 days later too.
    assert figures == [(1, 0, 0, 3, 9000), (2, 1, 3000, 0, 0), (2, 2, 6000, 0, 0)]
    assert rows[1]["from"] < rows[2]["from"]


def test_status_pools_constructs_volumes_map_and_plan(node: Node) -> None:
    now = node.clock.now()
    with node.catalogue.reading() as session:
        status = operator_views.status(session, now, 10)
        pools = {row["pool"]: row for row in operator_views.pools(session)}
        constructs = operator_views.constructs(session)
        (volume,) = operator_views.volumes(session, ["CLEAR0"])
        rows = operator_views.tape_map(session, "TAP001")
    assert (status["logical_volumes"], status["waiting_for_tape"]) == (5, 0)
    assert {"pool": 0, "state": "scratch", "cartridges": 2} in status["cartridges"]
    assert (pools[1]["cartridges"], pools[1]["logical_volumes"]) == (2, 2)
    assert pools[2]["keys"] == ["KEK 2 (hash)"]
    assert constructs["storage_groups"] == {"SG1": 1, "SG2": 2}
    assert volume["copies"] == [
        {
            "role": "primary",
            "pool": 1,
            "volser": "TAP001",
            "block": 0,
            "ejected_to": None,
            "bad": False,
        }
    ]
    assert [(row["volume"], row["active"]) for row in rows] == [
        ("CLEAR0", True),
        ("CLEAR1", False),
        ("DBBKUP", None),
    ]
    with node.change() as session:
        pool = settings.pool(session, 1)
        settings.set_pool(
            session,
            replace(pool, reclaim_pool=2, reclaim=replace(pool.reclaim, threshold_percent=60)),
        )
    plan = operator_views.plan(node.scheduler.plan_reclaim())
    assert plan["inhibited_until"] is None
    assert [(each["volser"], each["to_pool"]) for each in plan["candidates"]] == [("TAP001", 2)]


def test_more_volumes_than_are_read_together_are_each_listed_once(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "_ROWS_AT_ONCE", 2)
    node = node_factory.node(CLEAR, cartridges=2)
    names = [f"L0000{number}" for number in range(1, 6)]
    for number, name in enumerate(names):
        put(node, name, content(number, 100), "SG1")
    work(node)
    with node.catalogue.reading() as session:
        rows = list(operator_views.volumes(session))
        assert [row["volume"] for row in rows] == names
        assert all(len(row["copies"]) == 1 for row in rows)
        assert [row["volume"] for row in operator_views.volumes(session, after="L00003")] == [
            *names[3:]
        ]
    assert node.check(deep=True).findings == ()
    node.parts.cache.path("L00005", 1).unlink()
    assert node.check().findings == ("L00005 is not in the cache, the catalogue says it is",)
