"""The scheduler of a node: gives tape jobs to its idle drives."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import LifoQueue

from sqlalchemy import select
from sqlalchemy.orm import Session

from hsm.ekm.protocol.errors import EkmUnavailable
from hsm.errors import TaperigError
from rig.drive.drive import Drive
from rig.results.events import EventLog, WorkInterruptedError
from rig.ve.catalogue import bad_copies, operator_messages, settings
from rig.ve.catalogue.model import VolumeState
from rig.ve.catalogue.operator_messages import NO_KEY_MANAGER
from rig.ve.catalogue.schema import (
    CopyRow,
    DriveRow,
    LogicalRow,
    PhysicalRow,
    PoolRow,
    PremigrationRow,
)
from rig.ve.ekm.relay import NoKeyManager, OneAtATime, Relay
from rig.ve.prerequisites import PrerequisiteError
from rig.ve.reclaim_planner import ReclaimPlan, plan_reclaim
from rig.ve.tape.cartridge_contents import CartridgeContents
from rig.ve.tape.jobs import NodeParts, TapeJobs
from rig.ve.tape.rekey import RekeyReport, rekey_to_pool
from rig.ve.tape.sequences import DriveSequences, ReportProgress


class NoDriveError(TaperigError):
    """The node was opened without drives."""


@dataclass(frozen=True, slots=True)
class Task:
    """A tape job for one drive."""

    kind: str
    """`premigrate`, `copy`, `close` or `move`."""
    volser: str | None = None
    pool: int = 0

    def collides(self, other: Task) -> bool:
        """Whether both are about the same cartridge, or copies to the same pool."""
        if self.volser is not None:
            return self.volser == other.volser
        return self == other

    def run(self, work: TapeJobs) -> None:
        """Run the job on a drive."""
        match self.kind, self.volser:
            case "premigrate", None:
                work.premigrate(self.pool)
            case "copy", str(volser):
                work.copy_again(volser, self.pool)
            case "close", str(volser):
                work.close(volser)
            case "move", str(volser):
                work.move(volser, self.pool)
            case _:
                raise AssertionError(self)


@dataclass(slots=True)
class WorkReport:
    """The outcome of `work`: jobs run, and failures that stay ordered."""

    done: int = 0
    failures: list[TaperigError] = field(default_factory=list)


class Scheduler:
    """The drives of a node, each working in a thread of its own."""

    def __init__(
        self,
        parts: NodeParts,
        drives: Sequence[Drive],
        proxy: Relay | None,
        events: EventLog,
        refusals: Mapping[str, str],
    ) -> None:
        """Take over the drives; without `proxy` there is no key manager.

        `refusals` says by serial why a drive may not write encrypted.
        """
        self._refusals = refusals
        self._capable = sum(drive.serial not in refusals for drive in drives)
        self._parts = parts
        self._count = len(drives)
        self._idle: LifoQueue[TapeJobs] = LifoQueue()
        self._proxy = proxy
        relay: Relay = NoKeyManager()
        if proxy is not None:
            relay = OneAtATime(proxy, self._clear_no_key_manager)
        for drive in reversed(drives):
            sequences = DriveSequences(
                drive, relay, parts.cartridges, events, self._report_progress
            )
            self._idle.put(TapeJobs(parts, sequences))
        self.progress: ReportProgress = lambda done, total: None
        self._stopping = threading.Event()
        self._enter_drives(drives)

    def _report_progress(self, done: int, total: int) -> None:
        if self._stopping.is_set():
            raise WorkInterruptedError("The work of the drives was interrupted.")
        self.progress(done, total)

    def _enter_drives(self, drives: Sequence[Drive]) -> None:
        with self._parts.catalogue.transaction() as session:
            for drive in drives:
                row = session.get(DriveRow, drive.serial)
                if row is None:
                    session.add(DriveRow(serial=drive.serial, model=drive.model, mounts=0))
                else:
                    row.model = drive.model

    def recall(self, volser: str, copies: Sequence[CopyRow]) -> dict[str, str]:
        """Recall volumes from a cartridge into the cache with a drive.

        Returns why some of them cannot be read there, by name.
        """
        with self._drive() as work, self._reporting_no_key_manager():
            return work.recall(volser, copies)

    def verify(self, volser: str) -> list[str]:
        """Read all active copies on a cartridge with a drive.

        Returns what is not as it was written. Raises TaperigError when it cannot be read at all.
        """
        with self._drive() as work, self._reporting_no_key_manager():
            return work.verify(volser)

    @property
    def drives(self) -> int:
        """How many drives work."""
        return self._count

    def read_labels(self, volser: str) -> CartridgeContents:
        """Read the volume labels of a cartridge with a drive."""
        with self._drive() as work, self._reporting_no_key_manager():
            return work.read_labels(volser)

    def read_backup(self, volser: str) -> CartridgeContents:
        """Read the database backup of a cartridge, else its labels, with a drive."""
        with self._drive() as work, self._reporting_no_key_manager():
            return work.read_backup(volser)

    def rekey(self, volser: str) -> RekeyReport:
        """Rekey a cartridge, with a drive, to its pool's current keys."""
        with self._drive() as work, self._reporting_no_key_manager():
            return rekey_to_pool(work.parts, work.sequences, volser)

    def work(self, *, reclaim: bool = False) -> WorkReport:
        """Run the queued tape jobs on all drives, until none is left to run.

        With `reclaim`, eligible cartridges are reclaimed too, in the planner's order.
        """
        report = WorkReport()
        blocked: set[Task] = set()
        running: dict[Future[None], Task] = {}
        with ThreadPoolExecutor(max(1, self._count), "drive") as workers, self._interruptible():
            while True:
                if self._count:
                    for task in self._tasks(reclaim=reclaim):
                        if len(running) >= self._count:
                            break
                        if task not in blocked and not any(map(task.collides, running.values())):
                            running[workers.submit(self._carry_out, task)] = task
                if not running:
                    return report
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    task = running.pop(future)
                    try:
                        future.result()
                        report.done += 1
                        if task.kind == "move":
                            blocked.add(task)  # what could be moved was moved
                    except TaperigError as error:
                        blocked.add(task)
                        report.failures.append(error)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Stop the drives' jobs when this thread is interrupted."""
        self._stopping.clear()
        try:
            yield
        except BaseException:
            self._stopping.set()
            raise

    def _tasks(self, *, reclaim: bool) -> list[Task]:
        """Return the queued jobs: copies, closes, moves, then reclaim."""
        with self._parts.catalogue.reading() as session:
            pools = (
                select(PremigrationRow.pool)
                .join(LogicalRow, LogicalRow.name == PremigrationRow.name)
                .where(LogicalRow.in_cache)
                .distinct()
                .order_by(PremigrationRow.pool)
            )
            tasks = [Task("premigrate", None, pool) for pool in session.scalars(pools)]
            tasks += [Task("copy", *source) for source in bad_copies.sources(session)]
            free = PhysicalRow.writing_pool.is_(None)
            closing = select(PhysicalRow.volser).where(PhysicalRow.close_wanted, free)
            tasks += [Task("close", volser) for volser in session.scalars(closing)]
            moving = select(
                PhysicalRow.volser, PhysicalRow.move_pool, PhysicalRow.move_when_eligible
            ).where(PhysicalRow.move_pool.is_not(None), free)
            waiting = {}
            for volser, pool, when_eligible in session.execute(moving):
                if when_eligible:
                    waiting[volser] = pool or 0
                else:
                    tasks.append(Task("move", volser, pool or 0))
        if reclaim or waiting:
            plan = self.plan_reclaim()
            if plan.inhibited_until is None:
                for each in plan.candidates:
                    volser = each.volume.volser
                    if reclaim or volser in waiting:
                        tasks.append(Task("move", volser, waiting.get(volser, each.target_pool)))
        return tasks

    def _carry_out(self, task: Task) -> None:
        encrypt = False
        if task.pool:
            with self._parts.catalogue.reading() as session:
                encrypt = settings.pool(session, task.pool).encrypt
        with self._drive(encrypt=encrypt) as work, self._reporting_no_key_manager():
            task.run(work)

    @contextmanager
    def _drive(self, *, encrypt: bool = False) -> Iterator[TapeJobs]:
        """Wait for a free drive and use it.

        With `encrypt`, it is one that may write encrypted. Raises PrerequisiteError when none may
        (PRE-7).
        """
        if not self._count:
            raise NoDriveError(
                "No tape job can run: the node has no drive in use; see `rig ve interventions`."
            )
        if encrypt and not self._capable:
            raise PrerequisiteError(
                f"Nothing is written encrypted: {next(iter(self._refusals.values()))}"
            )
        passed: list[TapeJobs] = []
        work = self._idle.get()
        while encrypt and work.sequences.drive.serial in self._refusals:
            passed.append(work)
            work = self._idle.get()
        for each in passed:
            self._idle.put(each)
        try:
            yield work
        finally:
            self._idle.put(work)

    @contextmanager
    def _reporting_no_key_manager(self) -> Iterator[None]:
        """Raise an intervention when no key manager can be reached.

        It is cleared by the next exchange that is answered.
        """
        try:
            yield
        except EkmUnavailable as error:
            with self._parts.catalogue.transaction() as session:
                operator_messages.raise_intervention(
                    session,
                    NO_KEY_MANAGER,
                    f"No key manager can be reached: {error} What is bound for encrypted pools "
                    f"stays in the cache.",
                    self._parts.clock.now(),
                )
            raise

    def _clear_no_key_manager(self) -> None:
        """Clear what this or another process said of key managers (OPER-2)."""
        assert self._proxy is not None
        with self._parts.catalogue.transaction() as session:
            operator_messages.clear_key_managers(
                session, self._proxy.answering(), self._parts.clock.now()
            )

    def plan_reclaim(self, limit: int | None = None) -> ReclaimPlan:
        """Return which cartridges are eligible for reclaim now, in order."""
        with self._parts.catalogue.reading() as session:
            return current_reclaim_plan(session, self._parts.clock.now(), limit)


def current_reclaim_plan(session: Session, now: float, limit: int | None = None) -> ReclaimPlan:
    """Return the reclaim plan of a catalogue."""
    pools = {row.number: row.record() for row in session.scalars(select(PoolRow))}
    movable = select(CopyRow.volser).where(CopyRow.active, CopyRow.bad.is_(False))
    full = select(PhysicalRow).where(
        PhysicalRow.state == VolumeState.FULL.value,
        PhysicalRow.writing_pool.is_(None),
        PhysicalRow.volser.in_(movable),
    )
    volumes = (row.record() for row in session.scalars(full).yield_per(1000))
    inhibit = settings.inhibit_periods(session)
    return plan_reclaim(volumes, pools, now, inhibit=inhibit, limit=limit)
