"""What the operator is told, and what is refused before a write."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hsm.ekm.protocol.errors import ErrorCode, ExchangeError
from hsm.errors import TaperigError
from hsm.keys.eedk import KeyLabel
from rig.ve.catalogue import operator_messages, settings
from rig.ve.catalogue.model import PoolSettings
from rig.ve.node import Node
from rig.ve.prerequisites import PrerequisiteError
from tests.support.nodes import (
    KEK_1,
    NodeFactory,
    content,
    copies,
    evict,
    open_interventions,
    put,
    tape,
    work,
)
from tests.support.tape_site import SERIAL


@pytest.mark.rule("OPER-2", "KEY-9")
def test_unknown_label_at_write_is_an_intervention_until_it_is_mended(
    node_factory: NodeFactory,
) -> None:
    node = node_factory.node(PoolSettings(2, True, (KeyLabel("No Such Key"),)))
    put(node, "L00001", content(1), "SG2")
    (failure,) = node.work().failures
    assert isinstance(failure, ExchangeError)
    assert open_interventions(node) == ["keys of pool 2"]
    with node.change() as session:
        pool = settings.pool(session, 2)
        settings.set_pool(session, replace(pool, keys=(KEK_1,)))
    work(node)
    assert open_interventions(node) == []


@pytest.mark.rule("OPER-2")
def test_recall_without_its_key_is_an_intervention(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    put(node, "L00001", content(1), "SG2")
    work(node)
    evict(node)
    path = node.parts.cartridges.path("TAP001")
    other = node_factory.folder / "other"
    other.mkdir()
    whole = path.read_bytes()

    class Refusing:
        """A key manager that refuses whatever is asked."""

        def exchange(self, session: object) -> None:
            raise ExchangeError(ErrorCode.KEK_ABSENT, "The key is absent.")

        def each(self) -> list[Refusing]:
            return [self]

        def answering(self) -> list[str]:
            return []

    folder, chosen = node.folder, node.settings
    node.close()
    drive = node_factory.site.drive()
    with Node(folder, [drive], Refusing(), settings=chosen) as refused:
        with pytest.raises(ExchangeError):
            refused.read("L00001")
        assert open_interventions(refused) == ["key of cartridge TAP001"]
    assert path.read_bytes() == whole
    again = node_factory.open()
    assert again.read("L00001").read_bytes() == content(1)
    assert open_interventions(again) == []


@pytest.mark.rule("OPER-2", "EKM-7")
def test_key_manager_that_another_process_saw_lost_is_cleared(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    (name,) = node_factory.site.proxy.answering()
    with node.change() as session:
        for subject in (f"key manager {name}", "key manager elsewhere", "no key manager"):
            operator_messages.raise_intervention(session, subject, "It is lost.", 0.0)
    put(node, "L00001", content(1), "SG2")
    work(node)  # an exchange is answered
    assert open_interventions(node) == ["key manager elsewhere"]
    with node.change() as session:
        operator_messages.raise_intervention(session, f"key manager {name}", "It is lost.", 0.0)
    node.close()
    again = node_factory.open()
    assert open_interventions(again) == ["key manager elsewhere"]


@pytest.mark.rule("PRE-7")
def test_drive_that_may_not_encrypt_writes_nothing_encrypted(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    put(node, "L00001", content(1), "SG2")
    put(node, "L00002", content(2), "SG1")
    folder, chosen = node.folder, node.settings
    node.close()
    why = f"Drive {SERIAL} is an E05 without feature 5592 or 9592 and cannot encrypt. (PRE-1)"
    drive = node_factory.site.drive()
    with Node(
        folder, [drive], node_factory.site.proxy, settings=chosen, refusals={SERIAL: why}
    ) as refused:
        (failure,) = refused.work().failures
        assert isinstance(failure, PrerequisiteError)
        assert why in str(failure)
        assert copies(refused, "L00001") == []
        assert tape(refused, copies(refused, "L00002")[0].volser).pool == 1
        assert all(event.step != "BOT-2a" for event in refused.events.events)
    again = node_factory.open()
    work(again)
    assert tape(again, copies(again, "L00001")[0].volser).pool == 2


def test_errors_of_several_volumes_are_said_once(node_factory: NodeFactory) -> None:
    node = node_factory.node()
    for number in (1, 2):
        put(node, f"L0000{number}", content(number), "SG1")
        node.parts.cache.path(f"L0000{number}", 1).unlink()
    with pytest.raises(TaperigError, match="2 logical volumes are lost: L00001: "):
        node.read_all(["L00001", "L00002"])
