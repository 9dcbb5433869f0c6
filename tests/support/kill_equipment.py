"""Drives and key managers of a kill campaign.

They are opened again in each process that uses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.serialization import Encoding

from hsm.ekm.client import EkmEndpoint
from hsm.ekm.service.launch import spawn_ekm
from hsm.keys.pki import load_certificate
from hsm.provisioning import ProvisionedLab
from rig.board.sim import SimBoard
from rig.drive.drive import Drive
from rig.drive.secure_element import SecureElement, SecureElementConfig
from rig.engine.driver import Engine
from rig.ve.ekm.proxy import EkmProxy
from rig.ve.ekm.relay import Relay
from tests.support.provisioned import provision_lab
from tests.support.soft_engine import SoftEngine
from tests.support.tape_site import SERIAL, ekm_settings
from tests.support.ve_kill_campaign import Equipment

Opened = tuple[Sequence[Drive], Relay | None]


class SoftEquipment:
    """Two drives with engines in software and nothing to encrypt with."""

    encrypts = False

    @contextmanager
    def __call__(self) -> Iterator[Opened]:
        """Open them."""
        element = cast(SecureElement, None)  # a clear cartridge needs none
        yield (
            [
                Drive(SoftEngine(), element, f"SOFT{number}", "TS1120", ekm_ca_der=b"")
                for number in (1, 2)
            ],
            None,
        )


class KeyedEquipment:
    """One drive with a real secure element, and a real key manager."""

    encrypts = True

    def __init__(self, lab: ProvisionedLab, endpoint: EkmEndpoint) -> None:
        """Take what was provisioned, and where the key manager listens."""
        self.lab = lab
        self.endpoint = endpoint

    @contextmanager
    def __call__(self) -> Iterator[Opened]:
        """Start the secure element, open the way to the key manager."""
        unit = self.lab.drive(SERIAL)
        ca = load_certificate(self.lab.ca).public_bytes(Encoding.DER)
        with (
            SecureElement.start(SecureElementConfig.of(unit)) as element,
            EkmProxy([self.endpoint]) as proxy,
            self.engine() as engine,
        ):
            yield [Drive(engine, element, SERIAL, "TS1120", ekm_ca_der=ca)], proxy

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """Open the engine."""
        yield SoftEngine(self.lab.drive(SERIAL).transport_key)


class GatesEquipment(KeyedEquipment):
    """The same on the simulated gates, powered on with each process."""

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """Power the gates on."""
        with SimBoard(transport_key=self.lab.drive(SERIAL).transport_key) as board:
            engine = Engine(board)
            engine.lock_plain_key()
            yield engine


@contextmanager
def equipment(engine: str, folder: Path) -> Iterator[Equipment]:
    """Open what outlives a campaign's kills: token, key manager, gates."""
    if engine == "soft":
        yield SoftEquipment()
        return
    with ExitStack() as stack:
        lab = provision_lab(folder / "state", ["KEK 1"], [SERIAL])
        ekm = stack.enter_context(spawn_ekm(ekm_settings(lab, folder), ready_seconds=120))
        endpoint = EkmEndpoint(ekm.host, ekm.port, lab.rig_tls)
        yield GatesEquipment(lab, endpoint) if engine == "gates" else KeyedEquipment(lab, endpoint)
