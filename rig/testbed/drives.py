"""Open the drives of a lab."""

from __future__ import annotations

from contextlib import ExitStack

from cryptography.hazmat.primitives.serialization import Encoding

from hsm.keys.pki import load_certificate
from hsm.provisioning import ProvisionedLab
from rig.drive.drive import Drive
from rig.drive.secure_element import SecureElement, SecureElementConfig
from rig.engine.driver import Engine
from rig.lab.model import DriveUnit, Lab
from rig.results.events import TaskDisplay
from rig.testbed.boards import open_board


def open_drive(
    stack: ExitStack, lab: Lab, unit: DriveUnit, provisioned: ProvisionedLab, report: TaskDisplay
) -> Drive:
    """Open a drive of the lab on its board; it is closed with `stack`."""
    mine = provisioned.drive(unit.serial)
    board = stack.enter_context(
        open_board(lab, unit.board, report, transport_key=mine.transport_key)
    )
    engine = Engine(board)
    engine.lock_plain_key()
    element = stack.enter_context(SecureElement.start(SecureElementConfig.of(mine)))
    authority = load_certificate(provisioned.ca).public_bytes(Encoding.DER)
    return Drive(engine, element, unit.serial, unit.model, ekm_ca_der=authority)
