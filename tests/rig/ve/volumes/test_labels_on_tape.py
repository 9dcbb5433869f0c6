"""The volume labels that a node writes to tape."""

from __future__ import annotations

from typing import Any

import pytest

from rig.cli.cartridge import render, show
from rig.ve.catalogue import settings
from rig.ve.catalogue.model import ManagementClass, PoolSettings
from rig.ve.node import Node
from tests.support.nodes import NodeFactory, content, put, work


def labels(node: Node, volser: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = show(node.parts.cartridges.path(volser))["logical_volumes"]
    return listed


@pytest.mark.rule("DR-2")
def test_labels_say_generation_constructs_role_pool_and_times(node_factory: NodeFactory) -> None:
    node = node_factory.node(PoolSettings(1), PoolSettings(3))
    with node.change() as session:
        settings.set_management_class(session, ManagementClass("COPIES", 3))
    put(node, "L00001", content(1))
    put(node, "L00001", content(2), "SG1", "COPIES")
    work(node)
    primary, secondary = labels(node, "TAP001")[0], labels(node, "TAP002")[0]
    assert (primary["role"], primary["pool"]) == ("primary", 1)
    assert (secondary["role"], secondary["pool"]) == ("secondary", 3)
    for label in (primary, secondary):
        constructs = (label["generation"], label["storage_group"], label["management_class"])
        assert constructs == (2, "SG1", "COPIES")
        assert label["written"] <= label["copied"]
    text = render(show(node.parts.cartridges.path("TAP002")))
    assert "generation 2, written 2" in text
    assert "secondary copy of pool 3, storage group SG1, management class COPIES" in text


@pytest.mark.rule("DR-2")
def test_labels_of_a_moved_volume_are_those_of_its_catalogue(node_factory: NodeFactory) -> None:
    node = node_factory.node(PoolSettings(1), PoolSettings(3))
    put(node, "L00001", content(1), "SG1")
    work(node)
    (before,) = labels(node, "TAP001")
    node.clock.advance(days=1)
    node.move_stacked(["TAP001"], 3)
    work(node)
    (after,) = labels(node, "TAP002")
    for name in ("generation", "storage_group", "management_class", "written", "role"):
        assert after[name] == before[name]
    assert after["pool"] == 3
    assert after["copied"] > before["copied"]
