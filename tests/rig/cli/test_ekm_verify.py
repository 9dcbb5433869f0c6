"""``rig ekm verify``: key managers of a node and the labels they know."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hsm.keys.eedk import KeyLabel
from rig.lab.load import load_lab
from rig.ve.catalogue import operator_messages, settings
from rig.ve.catalogue.database import Catalogue
from tests.support.rig_command import Ended, lab_file, rig

NODES = """
nodes:
  one:
    drives: [TR0000000001]
    ekms: [main]
  two:
    drives: [TR0000000002]
    ekms: [backup]
    pools:
      7:
        encrypt: true
        keys:
          - {label: June 2007 Key}
          - {label: May 1999 Key}
"""
LABELS = ("keks:", "keks:\n  - {label: May 1999 Key, make: false}\n# ")
BACKUP = ("ekms:\n", "ekms:\n  - {name: backup, port: 0, token: ekm}\n")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A state folder of this module's own, provisioned by the first command."""
    return str(tmp_path_factory.mktemp("verify") / "state")


def verify(state: str, lab: Path, *options: str) -> Ended:
    return rig("ekm", "verify", "--lab", lab, *options, TAPERIG_STATE=state)


def printed(ended: Ended) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(ended.out)
    return result


@contextmanager
def mute_port() -> Iterator[int]:
    """A port where connections are taken and nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.rule("EKM-10", "EKM-11")
def test_ekm_verify_checks_key_managers_and_labels_of_each_node(state: str, tmp_path: Path) -> None:
    second = "drives:\n  - {serial: TR0000000002, model: TS1120, board: sim}\n"
    lab = lab_file(tmp_path, BACKUP, LABELS, ("drives:\n", second))
    lab.write_text(lab.read_text() + NODES)
    loaded = load_lab(lab)
    assert [ekm.name for ekm in loaded.ekms_of("one")] == ["main"]
    assert [ekm.name for ekm in loaded.ekms_of("two")] == ["backup"]
    assert list(loaded.pools_of("two")) == [7]
    assert loaded.labels_of("one") == ("June 2007 Key", "June 2007 DR Site Key")

    good = verify(state, lab)
    assert (good.code, good.err) == (0, "")
    assert "node one: 1 key manager, 2 key labels" in good.out
    assert "pass  main (127.0.0.1:" in good.out
    assert "knows every label" in good.out
    assert "backup" not in good.out

    bad = verify(state, lab, "--node", "two", "--json")
    assert bad.code == 1
    found = printed(bad)
    assert (found["node"], found["good"]) == ("two", False)
    (backup,) = found["ekms"]
    assert backup["name"] == "backup"
    assert [(each["label"], each["known"]) for each in backup["labels"]] == [
        ("June 2007 Key", True),
        ("May 1999 Key", False),
    ]
    assert "There is no node 'three'" in verify(state, lab, "--node", "three").sentence()


@pytest.mark.rule("EKM-11")
def test_ekm_verify_reports_a_key_manager_that_does_not_answer(state: str, tmp_path: Path) -> None:
    with mute_port() as port:
        dead = f"ekms:\n  - {{name: backup, port: {port}, start: false, token: ekm}}\n"
        ended = verify(state, lab_file(tmp_path, ("ekms:\n", dead)))
    assert (ended.code, ended.err) == (1, "")
    assert f"fail  backup (127.0.0.1:{port})" in ended.out
    assert "no answer in time" in ended.out
    assert "pass  main (127.0.0.1:" in ended.out


def test_ekm_verify_refuses_a_node_with_four_key_managers(tmp_path: Path) -> None:
    more = "ekms:\n" + "".join(f"  - {{name: e{n}, port: 0, token: ekm}}\n" for n in range(3))
    lab = lab_file(tmp_path, ("ekms:\n", more))
    sentence = rig("ekm", "verify", "--lab", lab).sentence()
    assert "node main would have 4 key managers; a node has one or two" in sentence


@pytest.mark.rule("OPER-2", "OPER-3")
def test_ekm_verify_asks_for_the_labels_that_pools_have_now(state: str, tmp_path: Path) -> None:
    lab = lab_file(tmp_path)
    assert rig("ve", "pools", "--lab", lab, TAPERIG_STATE=state).code == 0
    catalogue = Catalogue(Path(state) / "ve" / "main" / "catalogue.db")
    with catalogue.transaction() as session:
        pool = settings.pool(session, 2)
        settings.set_pool(session, replace(pool, keys=(KeyLabel("Set In The Panel"),)))
        for name in ("main", "elsewhere"):
            subject = operator_messages.key_manager_subject(name)
            operator_messages.raise_intervention(session, subject, "It is lost.", 0.0)
    found = printed(verify(state, lab, "--json"))
    assert found["labels"] == ["Set In The Panel"]
    assert not found["good"]
    with catalogue.reading() as session:
        left = operator_messages.open_subjects(session, "key manager")
    catalogue.close()
    assert left == ["key manager elsewhere"]
