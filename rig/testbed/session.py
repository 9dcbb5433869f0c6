"""A lab's parts, opened together for a run and closed in the opposite order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from hsm.keys.pki import load_certificate
from hsm.provisioning import ProvisionedLab
from rig.drive.drive import Drive
from rig.drive.secure_element import SecureElement, SecureElementConfig
from rig.engine.driver import Engine
from rig.engine.traffic_generator import TrafficGenerator
from rig.lab.model import DriveUnit, Lab
from rig.results.events import EventLog, TaskDisplay
from rig.testbed import key_managers
from rig.testbed.boards import open_board
from rig.testbed.key_managers import open_proxy
from rig.ve.ekm.proxy import EkmProxy

Phase = Callable[[str], AbstractContextManager[None]]
"""Times one part of the opening, by its name."""


@dataclass(frozen=True, slots=True)
class Station:
    """Everything that a scenario works with."""

    lab: Lab
    drive_unit: DriveUnit
    provisioned: ProvisionedLab
    engine: Engine
    element: SecureElement
    drive: Drive
    proxy: EkmProxy
    events: EventLog
    cartridges: Path
    traffic: TrafficGenerator | None
    """The board's own, when its link is slower than its engine."""


def choose_drive(lab: Lab, board: str) -> DriveUnit:
    """The run's first drive on a board; its first when the board was asked for by hand."""
    drives = lab.drives_of(lab.run_node)
    return next((drive for drive in drives if drive.board == board), drives[0])


@contextmanager
def open_station(
    lab: Lab,
    board_name: str,
    state: Path,
    run_folder: Path,
    report: TaskDisplay,
    phase: Phase,
    *,
    waves: bool = False,
    events: EventLog | None = None,
) -> Iterator[Station]:
    """Provision what is missing, start simulation, key managers and secure element; open all.

    ``events`` is told what happens from the beginning on; without it, a log is made.
    """
    events = EventLog() if events is None else events
    unit = choose_drive(lab, board_name)
    with ExitStack() as stack:
        with phase("keys"), report.task("preparing tokens, keys and certificates"):
            provisioned = key_managers.provision(lab, state, [unit.serial])
        # Started first, a simulation, the secure element and the key managers start side by side.
        with phase("board"):
            board = stack.enter_context(
                open_board(
                    lab,
                    board_name,
                    report,
                    transport_key=provisioned.drive(unit.serial).transport_key,
                    waves=run_folder / "waves.fst" if waves else None,
                    log=run_folder / "simulation.log",
                )
            )
        mine = SecureElementConfig.of(provisioned.drive(unit.serial))
        element = stack.enter_context(SecureElement.spawn(mine))
        with phase("key managers"), report.task("starting the key manager"):
            proxy = stack.enter_context(
                open_proxy(lab, lab.ekms_of(lab.run_node), provisioned, events)
            )
            proxy.connect()
            proxy.watch()
        with phase("self test"):
            engine = Engine(board)
            engine.lock_plain_key()
        with phase("drive"):
            element.await_open()
            authority = load_certificate(provisioned.ca).public_bytes(Encoding.DER)
            drive = Drive(engine, element, unit.serial, unit.model, ekm_ca_der=authority)
        cartridges = state / "cartridges"
        cartridges.mkdir(mode=0o700, exist_ok=True)
        yield Station(
            lab=lab,
            drive_unit=unit,
            provisioned=provisioned,
            engine=engine,
            element=element,
            drive=drive,
            proxy=proxy,
            events=events,
            cartridges=cartridges,
            traffic=TrafficGenerator(board) if board.generates_traffic else None,
        )
