"""Kill a node at random points of random work, and check it after each.

A round forks a process that opens the node (which recovers from the last kill) and works at
random: it writes, rewrites, reads, recalls, unloads, expires, premigrates, moves, reclaims and
changes settings. It says on a pipe what it is about to do and what was acknowledged. It is killed
with SIGKILL, half of the time by the clock, half of the time by itself at a random call that
changes the disk. Then another process opens the node, and three things must hold: `check` finds
nothing wrong; every copy on tape reads back as the catalogue says; every volume is exactly what was
last acknowledged (or what was just being written or expired when the kill came).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select as query

from hsm.errors import TaperigError
from hsm.keys.eedk import KeyLabel
from rig.drive.drive import Drive
from rig.ve.catalogue import settings
from rig.ve.catalogue.model import ManagementClass, PoolSettings, ReclaimPolicy, StorageGroup
from rig.ve.catalogue.schema import LogicalRow, PhysicalRow
from rig.ve.ekm.relay import Relay
from rig.ve.node import Node, NodeSettings
from rig.ve.volumes.logical_volume import VolumeFile
from tests.support.kill_points import KillPoints

NAMES = [f"L{number:05}" for number in range(14)]
GROUPS = ("SG1", "SG2")
CLASSES = ("ONCE", "TWICE")
CARTRIDGES = 16
SETTINGS = NodeSettings("kill", cache_bytes=24_000, cartridge_bytes=12_000)
LARGEST = 4_000
KEY = KeyLabel("KEK 1")

Equipment = Callable[[], contextlib.AbstractContextManager[tuple[Sequence[Drive], Relay | None]]]
"""Opens drives and a way to key managers, in the process that uses them."""

PossibleContents = dict[str, set[str | None]]
"""For each name, what may be there: the SHA-256 of its content, or None for nothing."""


@dataclass
class Outcome:
    """The outcome of a campaign."""

    kills: int = 0
    by_point: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    recovered: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Campaign:
    """A campaign in a folder of its own."""

    folder: Path
    equipment: Equipment
    seed: int
    seconds: float = 1.0
    """Mean time until a kill by the clock."""
    calls: int = 300
    """A kill by a call comes at one of so many."""
    possible: PossibleContents = field(default_factory=lambda: {name: {None} for name in NAMES})
    outcome: Outcome = field(default_factory=Outcome)

    def prepare(self) -> None:
        """Make the node: two pools, the second encrypted, and constructs."""

        def make(_say: Callable[[str], None]) -> None:
            with self._open() as node, node.change() as session:
                reclaim = ReclaimPolicy(threshold_percent=60)
                for pool in (
                    PoolSettings(1, return_borrowed=True, reclaim=reclaim),
                    PoolSettings(2, encrypted(self.equipment), keys(self.equipment)),
                ):
                    settings.set_pool(session, pool)
                for number, name in enumerate(GROUPS, 1):
                    settings.set_storage_group(session, StorageGroup(name, number))
                settings.set_management_class(session, ManagementClass("ONCE", 0))
                settings.set_management_class(session, ManagementClass("TWICE", 2))
            with self._open() as node:
                node.insert(f"TAP{number:03}" for number in range(CARTRIDGES))

        _, lines = _forked(make, None)
        assert lines == [], lines

    def round(self, number: int) -> bool:
        """Kill once and check what must hold; return whether all was right."""
        rng = random.Random(f"{self.seed}/{number}")
        at_call = rng.random() < 0.5
        seconds = None if at_call else rng.expovariate(1 / self.seconds)
        points = (rng.randint(1, self.calls), rng.random() < 0.5) if at_call else None

        def work(say: Callable[[str], None]) -> None:
            if points is not None:
                KillPoints(
                    points[0], after=points[1], note=lambda text: say(f"at {text}")
                ).install()
            with self._open() as node:
                say("open")
                Worker(node, rng, self.possible, say).run()

        killed, lines = _forked(work, seconds)
        point = "by the clock"
        for line in lines:
            word, _, rest = line.partition(" ")
            match word:
                case "at":
                    point = rest
                case "try":
                    name, sha256 = rest.split()
                    self.possible[name].add(_content(sha256))
                case "ack":
                    name, sha256 = rest.split()
                    self.possible[name] = {_content(sha256)}
                    self.outcome.acknowledged += 1
                case "did":
                    self.outcome.operations[rest] += 1
                case "wrong":
                    self.outcome.wrong.append(f"round {number}: {rest}")
        if "open" not in lines:
            point += ", in recovery"
        if killed:
            self.outcome.kills += 1
            self.outcome.by_point[point] += 1
        elif points is None:
            self.outcome.wrong.append(f"round {number}: the worker ended by itself: {lines[-3:]}")
        self._judge(number)
        return not self.outcome.wrong

    def _judge(self, number: int) -> None:
        def judge(say: Callable[[str], None]) -> None:
            with self._open() as node:
                for line in node.recovered:
                    say(f"recovered {line}")
                for finding in node.check(deep=True).findings:
                    say(f"wrong check: {finding}")
                for finding in node.verify_tapes():
                    say(f"wrong tape: {finding}")
                with node.catalogue.reading() as session:
                    for row in session.scalars(query(LogicalRow)):
                        say(f"is {row.name} {row.sha256}")
            say("judged")

        _, lines = _forked(judge, None)
        there: dict[str, str | None] = dict.fromkeys(NAMES)
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "recovered":
                self.outcome.recovered[_kind(rest)] += 1
            elif word == "wrong":
                self.outcome.wrong.append(f"round {number}: {rest}")
            elif word == "is":
                name, content = rest.split()
                there[name] = content
        if "judged" not in lines:
            self.outcome.wrong.append(f"round {number}: the judge ended early: {lines[-3:]}")
            return
        for name, sha256 in there.items():
            if sha256 not in self.possible[name]:
                self.outcome.wrong.append(
                    f"round {number}: {name} is {sha256}, acknowledged was {self.possible[name]}"
                )
            self.possible[name] = {sha256}

    @contextlib.contextmanager
    def _open(self) -> Iterator[Node]:
        with (
            self.equipment() as (drives, relay),
            Node(self.folder, drives, relay, settings=SETTINGS) as node,
        ):
            yield node


class Worker:
    """A process that works at random until it is killed."""

    def __init__(
        self,
        node: Node,
        rng: random.Random,
        acknowledged: PossibleContents,
        say: Callable[[str], None],
    ) -> None:
        """Work on `node`; `acknowledged` says what is there now."""
        self._node = node
        self._rng = rng
        self._say = say
        self._is = {name: next(iter(states)) for name, states in acknowledged.items()}

    def run(self) -> None:
        """Work."""
        choices: list[tuple[int, Callable[[], None]]] = [
            (25, self._write),
            (10, self._write_files),
            (12, self._unload),
            (8, self._read),
            (4, self._expire),
            (14, self._work),
            (4, self._move),
            (3, self._recall_job),
            (2, self._change),
        ]
        weights = [weight for weight, _ in choices]
        while True:
            ((_, operation),) = self._rng.choices(choices, weights)
            with contextlib.suppress(TaperigError):  # refused: full, mounted, no key manager
                operation()
                self._say(f"did {operation.__name__.removeprefix('_')}")

    def _write(self) -> None:
        name = self._rng.choice(NAMES)
        data = self._rng.randbytes(self._rng.randrange(LARGEST))
        sha256 = hashlib.sha256(data).hexdigest()
        self._say(f"try {name} {sha256}")
        try:
            self._node.write(
                name,
                [data],
                len(data),
                storage_group=self._rng.choice(GROUPS),
                management_class=self._rng.choice(CLASSES),
            )
        except TaperigError:  # refused, so what was there is there
            self._say(f"ack {name} {self._is[name]}")
            raise
        self._is[name] = sha256
        self._say(f"ack {name} {sha256}")
        if self._rng.random() < 0.8:
            self._node.unload(name)

    def _write_files(self) -> None:
        """Write several volumes together, some of which may be refused."""
        files = []
        with tempfile.TemporaryDirectory(dir=self._node.folder.parent) as folder:
            for name in self._rng.sample(NAMES, self._rng.randint(2, 5)):
                data = self._rng.randbytes(self._rng.randrange(LARGEST))
                path = Path(folder) / name
                path.write_bytes(data)
                files.append(VolumeFile.of(name, path))
                self._say(f"try {name} {hashlib.sha256(data).hexdigest()}")
            try:
                for batch in self._node.write_files(
                    files,
                    storage_group=self._rng.choice(GROUPS),
                    management_class=self._rng.choice(CLASSES),
                ):
                    for volume in batch:
                        self._is[volume.name] = volume.sha256
            finally:  # those not written are what they were
                for file in files:
                    self._say(f"ack {file.name} {self._is[file.name]}")

    def _expire(self) -> None:
        name = self._rng.choice(NAMES)
        self._say(f"try {name} None")
        try:
            self._node.expire(name)
        except TaperigError:
            self._say(f"ack {name} {self._is[name]}")
            raise
        self._is[name] = None
        self._say(f"ack {name} None")

    def _read(self) -> None:
        name = self._rng.choice([name for name, state in self._is.items() if state] or NAMES)
        data = self._node.read(name).read_bytes()
        if hashlib.sha256(data).hexdigest() != self._is[name]:
            self._say(f"wrong {name} reads differently from what was written")
        self._node.unload(name)

    def _unload(self) -> None:
        with self._node.catalogue.reading() as session:
            names = list(session.scalars(query(LogicalRow.name).where(LogicalRow.mounted)))
        for name in names:
            self._node.unload(name)

    def _work(self) -> None:
        self._node.work(reclaim=self._rng.random() < 0.5)

    def _move(self) -> None:
        with self._node.catalogue.reading() as session:
            volsers = list(
                session.scalars(query(PhysicalRow.volser).where(PhysicalRow.active_volumes > 0))
            )
        if volsers:
            self._node.move_stacked([self._rng.choice(volsers)], self._rng.choice((1, 2)))
            self._node.work()

    def _recall_job(self) -> None:
        there = [name for name, state in self._is.items() if state]
        self._node.recall_job(self._rng.sample(there, min(3, len(there))))

    def _change(self) -> None:
        with self._node.change() as session:
            for name in GROUPS:
                settings.set_storage_group(session, StorageGroup(name, self._rng.choice((1, 2))))


def encrypted(equipment: Equipment) -> bool:
    """Whether the equipment can encrypt."""
    return bool(getattr(equipment, "encrypts", False))


def keys(equipment: Equipment) -> tuple[KeyLabel, ...]:
    """Return the keys of the encrypted pool."""
    return (KEY,) if encrypted(equipment) else ()


def _content(word: str) -> str | None:
    return None if word == "None" else word


def _kind(message: str) -> str:
    """Return the kind of a recovery message, without names and numbers."""
    for words in (
        "nothing had been written",
        "begun from BOT",
        "blocks of a write that was cut off",
        "left over from an interrupted operation",
        "its host is gone",
        "not entered yet",
    ):
        if words in message:
            return words
    return message


def _forked(
    job: Callable[[Callable[[str], None]], None], kill_after: float | None
) -> tuple[bool, list[str]]:
    """Run a job in a child; return whether it was killed, and its output.

    It is killed after `kill_after` seconds, if that is not None.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        status = 1
        try:
            job(lambda line: _write_line(writing, line))
            status = 0
        except BaseException as error:
            traceback.print_exc()
            _write_line(writing, f"wrong {type(error).__name__}: {error}".replace("\n", " "))
        finally:
            os._exit(status)
    os.close(writing)
    text = b""
    deadline = None if kill_after is None else time.monotonic() + kill_after
    killed = False
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([reading], [], [], left)
        if not ready:
            os.kill(pid, signal.SIGKILL)
            deadline = None
            continue
        piece = os.read(reading, 65536)
        if not piece:
            break
        text += piece
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    lines = text.decode().splitlines()
    return killed, lines


def _write_line(fd: int, line: str) -> None:
    os.write(fd, (line + "\n").encode())


def report(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome, ready for JSON."""
    return {
        "kills": outcome.kills,
        "wrong": outcome.wrong,
        "acknowledged": outcome.acknowledged,
        "by_point": dict(outcome.by_point.most_common()),
        "operations": dict(outcome.operations.most_common()),
        "recovered": dict(outcome.recovered.most_common()),
    }


def print_report(outcome: Outcome) -> None:
    """Print the outcome as JSON."""
    print(json.dumps(report(outcome), indent=2), file=sys.stdout)
