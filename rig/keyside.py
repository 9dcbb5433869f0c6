"""The key side of a lab: what lab.yaml says, as the key modules want it.

The rig makes its SoftHSM token itself; a token of the user's own is taken as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from hsm import lab as provisioning
from hsm import softhsm
from hsm.ekm.client import EkmEndpoint
from hsm.ekm.config import EkmConfig, enrol_drives, lab_config
from hsm.files import private_directory
from hsm.keystore import MIN_KEK_BITS
from hsm.lab import ProvisionedLab
from hsm.pins import PinFromEnv, PinFromFile, PinSource
from hsm.token import TokenConfig
from rig.lab import EkmUnit, Lab, TokenUnit
from rig.lab import PinSource as LabPin


def provision(
    lab: Lab,
    state: Path,
    drives: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> ProvisionedLab:
    """Make what the lab lacks of tokens, KEKs, certificates and drives, by default all drives."""
    serials = [drive.serial for drive in lab.drives] if drives is None else list(drives)
    hosts = dict.fromkeys([*provisioning.EKM_HOSTS, *(ekm.host for ekm in lab.ekms)])
    by_bits: dict[int, list[str]] = {}
    for kek in lab.keks:
        by_bits.setdefault(kek.bits, []).append(kek.label)
    ekm_token = _own_token(lab, state)
    *others, (bits, labels) = by_bits.items() or [(MIN_KEK_BITS, [])]
    for other_bits, other_labels in others:
        provisioning.provision_lab(
            state,
            other_labels,
            (),
            ekm_hosts=tuple(hosts),
            kek_bits=other_bits,
            ekm_token=ekm_token,
            progress=progress,
        )
    return provisioning.provision_lab(
        state,
        labels,
        serials,
        ekm_hosts=tuple(hosts),
        kek_bits=bits,
        ekm_token=ekm_token,
        progress=progress,
    )


def _own_token(lab: Lab, state: Path) -> TokenConfig | None:
    """The token of the user's own that the first key manager uses; None for the rig's SoftHSM."""
    name = lab.ekms[0].token
    return None if lab.tokens[name].module == "softhsm" else token_config(lab, name, state)


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

    Its drive table and audit log are its own: the two of a pair share the token and nothing else.
    """
    config = lab_config(provisioned, ekm.host, ekm.port)
    folder = config.audit.parent / ekm.name
    private_directory(folder)
    config = dataclasses.replace(
        config,
        token=token_config(lab, ekm.token, provisioned.state_dir),
        drive_table=folder / config.drive_table.name,
        audit=folder / config.audit.name,
    )
    enrol_drives(config, provisioned)
    return config


def endpoint(ekm: EkmUnit, provisioned: ProvisionedLab, port: int | None = None) -> EkmEndpoint:
    """Where the rig finds a key manager; ``port`` is the real one when the lab says any (0)."""
    return EkmEndpoint(ekm.host, port or ekm.port, provisioned.rig_tls, ekm.name)
