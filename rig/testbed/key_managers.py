"""The key side of a lab: what lab.yaml says, as the key modules want it.

The rig makes its SoftHSM token itself; a token of the user's own is taken as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cryptography.x509 import Certificate

from hsm import provisioning
from hsm.ekm.client import EkmEndpoint
from hsm.ekm.config import EkmConfig, enrol_drives, lab_config
from hsm.ekm.service.launch import spawn_ekm
from hsm.files import private_directory
from hsm.keys.keystore import MIN_KEK_BITS
from hsm.pkcs11 import softhsm
from hsm.pkcs11.pins import PinFromEnv, PinFromFile, PinSource
from hsm.pkcs11.token import TokenConfig
from hsm.provisioning import ProvisionedLab
from rig.lab.model import EkmUnit, Lab, TokenUnit
from rig.lab.model import PinSource as LabPin
from rig.results.events import EventLog
from rig.testbed import key_managers
from rig.ve.ekm.proxy import EkmProxy
from rig.ve.ekm.resolver import resolver


def provision(
    lab: Lab,
    state: Path,
    drives: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> ProvisionedLab:
    """Make what the lab lacks of tokens, KEKs, certificates and drives, by default all drives.

    Key managers on further tokens get the same: the KEKs that are at home there, certificates of
    the others, and the drives. Tokens exchange certificates and nothing else.
    """
    serials = [drive.serial for drive in lab.drives] if drives is None else list(drives)
    first = lab.ekms[0].token
    others = lab.other_tokens
    made = _provision(lab, state, first, serials, {}, progress)
    if not others:
        return made
    wrapped_to = {drive.serial: drive.wrap_public_der for drive in made.drives}
    homes = {first: made}
    for name in others:
        homes[name] = _provision(lab, state, name, (), {}, progress, wrapped_to)
    for name in homes:
        foreign = {
            label: certificate
            for other, home in homes.items()
            if other != name
            for label, certificate in home.keks.items()
        }
        mine = serials if name == first else ()
        exchanged = _provision(lab, state, name, mine, foreign, progress, wrapped_to)
        homes[name] = dataclasses.replace(exchanged, keks=homes[name].keks)
    return dataclasses.replace(homes.pop(first), elsewhere=homes)


def _provision(
    lab: Lab,
    state: Path,
    name: str,
    serials: Sequence[str],
    foreign: Mapping[str, Certificate],
    progress: Callable[[str], None],
    wrapped_to: Mapping[str, bytes] | None = None,
) -> ProvisionedLab:
    """Provision one token of the lab; ``foreign`` are KEKs that are at home in others."""
    hosts = dict.fromkeys([*provisioning.EKM_HOSTS, *(ekm.host for ekm in lab.ekms)])
    first = name == lab.ekms[0].token
    by_bits: dict[int, list[str]] = {MIN_KEK_BITS: []}
    for kek in lab.keks:
        if lab.home_of(kek) == name:
            by_bits.setdefault(kek.bits, []).append(kek.label)
    keks: dict[str, Certificate] = {}
    for bits, labels in sorted(by_bits.items(), reverse=True):  # the least at last, with all else
        made = provisioning.provision_lab(
            state,
            labels,
            serials if bits == MIN_KEK_BITS else (),
            ekm_hosts=tuple(hosts),
            kek_bits=bits,
            ekm_token=_own_token(lab, name, state),
            partner_keks=foreign,
            partner_drives=None if first else wrapped_to,
            signing=provisioning.SIGNING if first else f"{provisioning.SIGNING}-{name}",
            progress=progress,
        )
        keks |= made.keks
    return dataclasses.replace(made, keks=keks)


def _own_token(lab: Lab, name: str, state: Path) -> TokenConfig | None:
    """A token as it is to be opened; None for the SoftHSM token that the rig makes first."""
    if name == lab.ekms[0].token and lab.tokens[name].module == "softhsm":
        return None
    return token_config(lab, name, state)


def token_config(lab: Lab, name: str, state: Path) -> TokenConfig:
    """How to open one of the lab's tokens; raises ModuleAbsentError without SoftHSM."""
    token = lab.tokens[name]
    pin = None if token.pin is None else _pin(token.pin)
    if token.module == "softhsm":
        config = softhsm.token_config(state, token.label)
        return config if pin is None else dataclasses.replace(config, pin=pin)
    return TokenConfig(
        Path(token.module),
        token.label,
        _required(token, pin),
        so_pin=None if token.so_pin is None else _pin(token.so_pin),
        accept=frozenset(token.accept),
    )


def _required(token: TokenUnit, pin: PinSource | None) -> PinSource:
    if pin is None:  # load_lab has refused this already
        raise ValueError(f"token {token.label} has no pin")
    return pin


def _pin(pin: LabPin) -> PinSource:
    return PinFromFile(pin.file) if pin.file is not None else PinFromEnv(pin.env or "")


def ekm_config(lab: Lab, ekm: EkmUnit, provisioned: ProvisionedLab) -> EkmConfig:
    """The configuration of a key manager that the rig starts; its drives are in its table.

    Its drive table and audit log are its own: the two of a pair share the token, if anything. It
    opens EEDKs of the key managers on the lab's other tokens too.
    """
    home = provisioned.elsewhere.get(ekm.token, provisioned)
    config = lab_config(home, ekm.host, ekm.port)
    folder = config.audit.parent / ekm.name
    private_directory(folder)
    config = dataclasses.replace(
        config,
        token=token_config(lab, ekm.token, provisioned.state_dir),
        drive_table=folder / config.drive_table.name,
        audit=folder / config.audit.name,
        partners=tuple(
            each.ekm_certificate
            for each in (provisioned, *provisioned.elsewhere.values())
            if each is not home
        ),
    )
    enrol_drives(config, provisioned)
    return config


def endpoint(ekm: EkmUnit, provisioned: ProvisionedLab, port: int | None = None) -> EkmEndpoint:
    """Where the rig finds a key manager; ``port`` is the real one when the lab says any (0)."""
    return EkmEndpoint(ekm.host, port or ekm.port, provisioned.rig_tls, ekm.name)


@contextmanager
def open_proxy(
    lab: Lab, ekms: Sequence[EkmUnit], provisioned: ProvisionedLab, events: EventLog | None = None
) -> Iterator[EkmProxy]:
    """Start these key managers where the lab says so; the first is the primary.

    ``events`` is told of those that are lost and come back.
    """
    with ExitStack() as stack:
        endpoints = [_endpoint(stack, lab, ekm, provisioned) for ekm in ekms]
        yield stack.enter_context(EkmProxy(endpoints, events=events, resolve=resolver(lab.dns)))


def _endpoint(stack: ExitStack, lab: Lab, ekm: EkmUnit, provisioned: ProvisionedLab) -> EkmEndpoint:
    if not ekm.start:
        return key_managers.endpoint(ekm, provisioned)
    process = stack.enter_context(spawn_ekm(key_managers.ekm_config(lab, ekm, provisioned)))
    return key_managers.endpoint(ekm, provisioned, process.port)
