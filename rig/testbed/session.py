"""Open a lab's drives and key managers together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from hsm.ekm.config import EkmConfig
from hsm.ekm.service.front_process import FrontProcess
from hsm.provisioning import ProvisionedLab
from rig.lab.model import DriveUnit, Lab
from rig.results.events import EventLog, TaskDisplay
from rig.testbed import key_managers
from rig.testbed.drives import OpenDrive, StartedDrive
from rig.testbed.key_managers import StartedKeyManagers
from rig.testbed.side_by_side import SideBySide
from rig.ve.ekm.proxy import EkmProxy

Phase = Callable[[str], AbstractContextManager[object]]
"""Times one part of the opening, by its name."""


@dataclass(frozen=True, slots=True)
class LabSession:
    """The drives and key managers of a node of the lab, open for use."""

    lab: Lab
    node: str
    provisioned: ProvisionedLab
    drives: tuple[OpenDrive, ...]
    proxy: EkmProxy
    events: EventLog
    administered: Callable[[], Sequence[EkmConfig]]
    """The key managers that the rig started, and so may administer."""
    external: tuple[str, ...] = ()
    """The names of the others, to which the rig only connects."""

    @property
    def drive(self) -> OpenDrive:
        """The first drive: the one that a run uses."""
        return self.drives[0]


def choose_drive(lab: Lab, board: str) -> DriveUnit:
    """Return the first drive of a run on a board.

    When the board was asked for by hand and has no drive, it is the first drive of the run.
    """
    drives = lab.drives_of(lab.run_node)
    return next((drive for drive in drives if drive.board == board), drives[0])


@dataclass(frozen=True, slots=True)
class StartedSession:
    """A session whose processes are starting: simulations, elements, EKMs."""

    _lab: Lab
    _node: str
    _provisioned: ProvisionedLab
    _drives: Sequence[StartedDrive]
    _key_managers: StartedKeyManagers
    _report: TaskDisplay
    _events: EventLog
    _phase: Phase
    _reach_key_manager: bool

    def open(self) -> LabSession:
        """Wait until all processes are ready.

        Raises EkmUnavailable when a key manager is to be reached and none answers.
        """
        with self._phase("key managers"), self._report.task("starting the key managers"):
            proxy = self._key_managers.open(self._events)
            if self._reach_key_manager:
                proxy.connect()
            proxy.watch()
        with self._phase("self test"):
            engines = [each.engine() for each in self._drives]
        with self._phase("drive"):
            opened = [each.open(engine) for each, engine in zip(self._drives, engines, strict=True)]
        ekms = self._lab.ekms_of(self._node)

        def administered() -> list[EkmConfig]:
            return [key_managers.ekm_config(ekm, self._provisioned) for ekm in ekms if ekm.start]

        return LabSession(
            self._lab,
            self._node,
            self._provisioned,
            tuple(opened),
            proxy,
            self._events,
            administered,
            external=tuple(ekm.name for ekm in ekms if not ekm.start),
        )


@contextmanager
def start_session(
    lab: Lab,
    node: str,
    state: Path,
    report: TaskDisplay,
    events: EventLog,
    units: Sequence[DriveUnit],
    *,
    fronts: Mapping[str, FrontProcess] = MappingProxyType({}),
    board: str | None = None,
    reach_key_manager: bool = False,
    phase: Phase = nullcontext,
    waves: Path | None = None,
    log: Path | None = None,
) -> Iterator[StartedSession]:
    """Provision, and start boards, key managers and secure elements.

    They start side by side; while they do, the caller imports what it needs, and then it opens the
    session. `fronts` are processes of key managers that have been started already. `board` takes
    the place of the drives' own; `waves` and `log` are files for its simulation.
    """
    with SideBySide() as parts:
        with phase("keys"), report.task("preparing tokens, keys and certificates"):
            provisioned = key_managers.provision(lab, state, [unit.serial for unit in units])
            if reach_key_manager:
                key_managers.require_keks(lab, node, provisioned)
        # A key manager takes longest to start.
        started_ekms = parts.enter_context(
            key_managers.start_key_managers(lab, lab.ekms_of(node), provisioned, fronts)
        )
        with phase("board"):
            drives = [
                StartedDrive(
                    parts, lab, unit, provisioned, report, board=board, waves=waves, log=log
                )
                for unit in units
            ]
        yield StartedSession(
            lab, node, provisioned, drives, started_ekms, report, events, phase, reach_key_manager
        )
