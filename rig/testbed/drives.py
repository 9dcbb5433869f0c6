"""Open the drives of a lab: board, engine and secure element of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from hsm.keys.pki import load_certificate
from hsm.provisioning import ProvisionedLab
from rig.board.protocol import Board
from rig.drive.drive import Drive
from rig.drive.secure_element import SecureElement, SecureElementConfig
from rig.engine.driver import Engine
from rig.engine.traffic_generator import TrafficGenerator
from rig.lab.model import DriveUnit, Lab
from rig.results.events import TaskDisplay
from rig.testbed.boards import open_board, require_clock
from rig.testbed.side_by_side import SideBySide


@dataclass(frozen=True, slots=True)
class OpenDrive:
    """A drive of the lab, open for use, with its hardware."""

    unit: DriveUnit
    engine: Engine
    element: SecureElement
    drive: Drive
    traffic: TrafficGenerator | None
    """The board's own, when its link is slower than its engine."""


class StartedDrive:
    """A drive whose board and secure element are starting.

    Each has a process of its own.
    """

    def __init__(
        self,
        parts: SideBySide,
        lab: Lab,
        unit: DriveUnit,
        provisioned: ProvisionedLab,
        report: TaskDisplay,
        *,
        board: str | None = None,
        waves: Path | None = None,
        log: Path | None = None,
    ) -> None:
        """Start both; `parts` closes them.

        `board` replaces the drive's own.
        """
        provisioned_drive = provisioned.drive(unit.serial)
        self._unit = unit
        self._lab, self._name = lab, board or unit.board
        self._authority = load_certificate(provisioned.ca).public_bytes(Encoding.DER)
        self._board: Board = parts.enter_context(
            open_board(
                lab,
                self._name,
                report,
                transport_key=provisioned_drive.transport_key,
                waves=waves,
                log=log,
            )
        )
        self._element = parts.enter_context(
            SecureElement.spawn(SecureElementConfig.of(provisioned_drive))
        )

    def engine(self) -> Engine:
        """Wait for the board; close the plain key port of its engine.

        Raises BoardChoiceError for simulated gates with a clock that nothing could measure.
        """
        engine = Engine(self._board)
        require_clock(engine, self._name, self._lab.boards[self._name])
        engine.lock_plain_key()
        return engine

    def open(self, engine: Engine) -> OpenDrive:
        """Wait for the secure element; return the drive."""
        self._element.await_open()
        unit = self._unit
        drive = Drive(engine, self._element, unit.serial, unit.model, ekm_ca_der=self._authority)
        traffic = TrafficGenerator(self._board) if self._board.generates_traffic else None
        return OpenDrive(unit, engine, self._element, drive, traffic)
