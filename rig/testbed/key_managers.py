"""Tokens, keys and key managers of a lab, from its lab file.

The rig makes its SoftHSM tokens itself; a token of the user's own is taken as it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hsm import provisioning
from hsm.ekm.client import EkmEndpoint, Resolve
from hsm.ekm.config import EkmConfig, enrol_drives, lab_config
from hsm.ekm.service.front_process import FrontProcess
from hsm.ekm.service.launch import EkmProcess, start_ekm
from hsm.keys.labels import label_key
from hsm.pkcs11 import softhsm
from hsm.pkcs11.config import TokenConfig
from hsm.provisioning import KekPlan, ProvisionedLab, ProvisioningPlan
from rig.lab.model import SOFTHSM, EkmUnit, Lab, LabError
from rig.results.events import EventLog
from rig.ve.ekm.proxy import EkmProxy


def plan(lab: Lab, state: Path, drives: Sequence[str] | None = None) -> ProvisioningPlan:
    """Return the plan of provisioning of a lab, by default for all drives.

    Tokens are those of the key managers that the rig starts, the first key manager's in any case.
    """
    names = lab.token_names
    started = {ekm.token for ekm in lab.ekms if ekm.start}
    keks = []
    for kek in lab.keks:
        home = lab.home_of(kek)
        # The token of a key manager that the rig does not start cannot be inspected.
        if home in names if kek.make else started and home in (*started, None):
            keks.append(KekPlan(label=kek.label, token=home, bits=kek.bits, make=kek.make))
    hosts = dict.fromkeys([*provisioning.EKM_HOSTS, *(ekm.host for ekm in lab.ekms)])
    return ProvisioningPlan(
        state_dir=state.absolute(),
        tokens={name: token_config(lab, name, state.absolute()) for name in names},
        keks=tuple(keks),
        drives=tuple(drive.serial for drive in lab.drives) if drives is None else tuple(drives),
        hosts=tuple(hosts),
    )


def provision(
    lab: Lab,
    state: Path,
    drives: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> ProvisionedLab:
    """Provision the lab's missing tokens, KEKs, certificates and drives.

    By default, all drives.
    """
    return provisioning.provision(plan(lab, state, drives), progress)


def require_keks(lab: Lab, node: str, provisioned: ProvisionedLab) -> None:
    """Raise LabError for a key of the node's pools that no token has.

    A key that may be made is not missing.
    """
    absent = {label_key(label) for label in provisioned.absent}
    for label in lab.labels_of(node):
        if label_key(label) in absent:
            raise LabError(
                f"The key {label!r} of node {node}'s pools is in no token of its key managers, and "
                "the lab says make: false; bring it in with the HSM's own tool or with "
                "`rig ekm key add`, or let it be made."
            )


def require_known_labels(lab: Lab, node: str, state: Path, labels: Sequence[str]) -> None:
    """Raise LabError for a key label that the node's key managers lack.

    Labels that keks lists are known. Others must be in a token of the key managers, unless one of
    these is not started by the rig: what it knows only `rig ekm verify` can tell.
    """
    known = {label_key(kek.label): kek.label for kek in lab.keks}
    unlisted = [label for label in labels if label_key(label) not in known]
    ekms = lab.ekms_of(node)
    if not unlisted or not all(ekm.start for ekm in ekms):
        return
    from hsm.keys.keystore import Keystore  # only here, because they take long to import
    from hsm.pkcs11.token import open_token

    for name in dict.fromkeys(ekm.token for ekm in ekms):
        with open_token(token_config(lab, name, state)) as token:
            known |= {label_key(kek.label): kek.label for kek in Keystore(token).list()}
    for label in unlisted:
        if label_key(label) not in known:
            near = difflib.get_close_matches(label, known.values(), n=1)
            raise LabError(
                f"The key {label!r} is neither in keks of the lab file nor in a token of node "
                f"{node}'s key managers; nothing was changed. "
                + (f"Did you mean {near[0]!r}? Else make it" if near else "Make it")
                + " with `rig ekm key add`."
            )


def token_config(lab: Lab, name: str, state: Path) -> TokenConfig:
    """Return how to open one of the lab's tokens.

    Raises ModuleAbsentError without SoftHSM.
    """
    token = lab.tokens[name]
    settings = {field: value for field, value in token if value is not None}
    module = settings.pop("module")
    if module == SOFTHSM:
        return softhsm.token_config(state, token.label).replace(**settings)
    return TokenConfig(module=Path(module), **settings)


def ekm_config(ekm: EkmUnit, provisioned: ProvisionedLab) -> EkmConfig:
    """Return the configuration of a key manager that the rig starts.

    Its drive table has the lab's drives.

    Raises LabError for one on a token that is not this lab's to prepare.
    """
    if ekm.token not in provisioned.tokens:
        raise LabError(
            f"The key manager '{ekm.name}' has start: false, so its token '{ekm.token}' is not "
            "prepared here; serve and administer it where it runs, or set start: true."
        )
    config = lab_config(provisioned, ekm.host, ekm.port, name=ekm.name, token=ekm.token)
    enrol_drives(config, provisioned)
    return config


def endpoint(
    ekm: EkmUnit, provisioned: ProvisionedLab, process: EkmProcess | None = None
) -> EkmEndpoint:
    """Return the address of a key manager, and the rig's certificate for it.

    ``process`` is that of one that the rig started; its port may be any.
    """
    if process is None:
        return EkmEndpoint(ekm.host, ekm.port, provisioned.rig_tls, ekm.name)
    return EkmEndpoint(ekm.host, process.port, provisioned.rig_tls, ekm.name, process.how_it_ended)


@dataclass(frozen=True, slots=True)
class StartedKeyManagers:
    """The key managers of a node; those that the lab starts are starting."""

    _lab: Lab
    _ekms: Sequence[EkmUnit]
    _provisioned: ProvisionedLab
    _processes: Mapping[str, EkmProcess]
    _stack: ExitStack

    def open(self, events: EventLog | None = None) -> EkmProxy:
        """Wait until all are ready, and connect; the first is the primary.

        ``events`` gets notices of those that are lost and return.
        """
        for process in self._processes.values():
            process.await_ready()
        endpoints = [
            endpoint(ekm, self._provisioned, self._processes.get(ekm.name)) for ekm in self._ekms
        ]
        proxy = EkmProxy(endpoints, events=events, resolve=_resolve(self._lab))
        return self._stack.enter_context(proxy)


@contextmanager
def start_key_managers(
    lab: Lab,
    ekms: Sequence[EkmUnit],
    provisioned: ProvisionedLab,
    fronts: Mapping[str, FrontProcess],
) -> Iterator[StartedKeyManagers]:
    """Start the key managers that the lab starts; stop them at the end.

    ``fronts`` are processes that have been started already.
    """
    with ExitStack() as stack:
        processes = {
            ekm.name: stack.enter_context(
                start_ekm(ekm_config(ekm, provisioned), fronts.get(ekm.name))
            )
            for ekm in ekms
            if ekm.start
        }
        yield StartedKeyManagers(lab, ekms, provisioned, processes, stack)


def _resolve(lab: Lab) -> Resolve | None:
    if not lab.dns:
        return None
    from rig.ve.ekm.resolver import resolver  # a tenth of a second for the library of DNS

    return resolver(lab.dns)
