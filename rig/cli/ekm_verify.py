"""``rig ekm verify``: verify the connections to the key managers (EKM-11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from rig.cli.options import JsonOption, LabOption, NodeOption, lab_of, print_json

if TYPE_CHECKING:
    from rig.ve.ekm.verify_connection import EkmVerification, Verification


def ekm_verify(
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that every key manager answers and knows the pools' labels.

    A key manager that the rig starts is started for this when nothing listens at its address. Exits
    0 only if all is well, 1 if not. It is the last step of an installation, refused before the
    others are done.
    """
    from contextlib import ExitStack

    from hsm.ekm.service.launch import spawn_ekm
    from rig.report.console import ConsoleReport
    from rig.testbed import key_managers
    from rig.testbed.node import choose_node, clear_lost_key_managers, labels_of
    from rig.testbed.state import state_dir
    from rig.ve.ekm.proxy import EkmProxy
    from rig.ve.ekm.resolver import resolver
    from rig.ve.ekm.verify_connection import verify_connection
    from rig.ve.prerequisites import Step, require_step

    checked = lab_of(lab)
    name = choose_node(checked, node)
    if checked.installation is not None:
        installed = checked.installation.record(ekms=len(checked.ekms_of(name)))
        require_step(installed, Step.VERIFY_CONNECTION)
    labels = labels_of(checked, name, state_dir())
    report = ConsoleReport(error_stream=as_json)
    with ExitStack() as stack:
        with report.task("preparing tokens, keys and certificates"):
            provisioned = key_managers.provision(checked, state_dir(), [])
        endpoints = []
        for ekm in checked.ekms_of(name):
            process = None
            if ekm.start and not _listens(ekm.host, ekm.port):
                config = key_managers.ekm_config(ekm, provisioned)
                process = stack.enter_context(spawn_ekm(config))
            endpoints.append(key_managers.endpoint(ekm, provisioned, process))
        proxy = stack.enter_context(EkmProxy(endpoints, resolve=resolver(checked.dns)))
        found = verify_connection(proxy.connections, labels)
    answering = [ekm.name for ekm in found.ekms if ekm.failure is None]
    clear_lost_key_managers(name, state_dir(), answering)
    if as_json:
        print_json(_as_json(name, labels, found))
    else:
        for line in _lines(name, labels, found):
            report.line(line)
    raise typer.Exit(0 if found.good else 1)


def _listens(host: str, port: int) -> bool:
    import socket

    if port == 0:
        return False
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _lines(node: str, labels: tuple[str, ...], found: Verification) -> list[str]:
    from rig.report.text import plural

    managers = plural(len(found.ekms), "key manager")
    lines = [f"node {node}: {managers}, {plural(len(labels), 'key label')}"]
    width = max(len(f"{ekm.name} ({ekm.where})") for ekm in found.ekms)
    for ekm in found.ekms:
        who = f"{ekm.name} ({ekm.where})".ljust(width)
        verdict = "pass" if ekm.good else "fail"
        lines.append(f"{verdict}  {who}  {_result(ekm, len(labels))}")
    lines += [
        f"fail  the key managers have different keys under {label!r}; give both the same"
        for label in found.differing
    ]
    return lines


def _result(ekm: EkmVerification, count: int) -> str:
    if ekm.failure is not None:
        return ekm.failure
    text = f"answers in {1e3 * (ekm.seconds or 0):.1f} ms, knows "
    text += "every label" if not ekm.unknown else f"{count - len(ekm.unknown)} of {count} labels"
    if ekm.unknown:
        text += ", not " + " and ".join(map(repr, ekm.unknown))
    public = [state.label for state in ekm.states if state.known and not state.has_private]
    return text + (f"; public half only: {', '.join(public)}" if public else "")


def _as_json(node: str, labels: tuple[str, ...], found: Verification) -> dict[str, object]:
    return {
        "node": node,
        "good": found.good,
        "labels": list(labels),
        "different_keys": list(found.differing),
        "ekms": [
            {
                "name": ekm.name,
                "address": ekm.where,
                "good": ekm.good,
                "failure": ekm.failure,
                "seconds": ekm.seconds,
                "labels": [
                    {
                        "label": state.label,
                        "known": state.known,
                        "private": state.has_private,
                        "sha256_of_public_key": state.kek_hash.hex() or None,
                    }
                    for state in ekm.states
                ],
            }
            for ekm in found.ekms
        ],
    }
