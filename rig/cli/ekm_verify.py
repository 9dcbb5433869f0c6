"""``rig ekm verify``: does every key manager answer, and know every label of the node (EKM-11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rig.cli.options import JsonOption, LabOption, lab_of, print_json

if TYPE_CHECKING:
    from rig.ve.ekm.verify_connection import EkmVerification, Verification


def ekm_verify(
    lab: LabOption = None,
    node: Annotated[
        str | None,
        typer.Option("--node", metavar="NAME", help="Node of the lab file; by default the first."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check that every key manager answers and knows the pools' labels.

    One that the rig starts itself is started for this when nothing listens at its address. Exits 0
    only if all is well, 1 if not. The last step of an installation: refused before the others.
    """
    from contextlib import ExitStack

    from hsm.ekm.service.launch import spawn_ekm
    from rig.lab.model import LabError
    from rig.report.console import ConsoleReport
    from rig.testbed import key_managers
    from rig.testbed.state import state_dir
    from rig.ve.ekm.proxy import EkmProxy
    from rig.ve.ekm.resolver import resolver
    from rig.ve.ekm.verify_connection import verify_connection
    from rig.ve.prerequisites import Step, require_step

    checked = lab_of(lab)
    name = next(iter(checked.nodes)) if node is None else node
    if name not in checked.nodes:
        known = ", ".join(checked.nodes)
        raise LabError(f"There is no node '{name}' in the lab file; known: {known}.")
    labels = checked.labels_of(name)
    if checked.installation is not None:
        installed = checked.installation.record(ekms=len(checked.ekms_of(name)))
        require_step(installed, Step.VERIFY_CONNECTION)
    report = ConsoleReport(error_stream=as_json)
    with ExitStack() as stack:
        with report.task("preparing tokens, keys and certificates"):
            provisioned = key_managers.provision(checked, state_dir(), [])
        endpoints = []
        for ekm in checked.ekms_of(name):
            port = None
            if ekm.start and not _listens(ekm.host, ekm.port):
                config = key_managers.ekm_config(ekm, provisioned)
                port = stack.enter_context(spawn_ekm(config)).port
            endpoints.append(key_managers.endpoint(ekm, provisioned, port))
        proxy = stack.enter_context(EkmProxy(endpoints, resolve=resolver(checked.dns)))
        found = verify_connection(proxy.connections, labels)
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
        lines.append(f"{verdict}  {who}  {_words(ekm, len(labels))}")
    lines += [
        f"fail  the key managers have different keys under {label!r}; give both the same"
        for label in found.differing
    ]
    return lines


def _words(ekm: EkmVerification, count: int) -> str:
    if ekm.failure is not None:
        return ekm.failure
    words = f"answers in {1e3 * (ekm.seconds or 0):.1f} ms, knows "
    words += "every label" if not ekm.unknown else f"{count - len(ekm.unknown)} of {count} labels"
    if ekm.unknown:
        words += ", not " + " and ".join(map(repr, ekm.unknown))
    public = [state.label for state in ekm.states if state.known and not state.has_private]
    return words + (f"; public half only: {', '.join(public)}" if public else "")


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
