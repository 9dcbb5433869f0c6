"""Rounds of a worker: what was noted is on the disk before its answers go out, and once for all."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from hsm.ekm.audit.log import AuditError, AuditLog
from hsm.ekm.exchange import Answer, Steps
from hsm.ekm.service.event_loop import EventLoop
from hsm.ekm.service.worker import (
    _COLLECT_SECONDS,
    _FULL_BATCH,
    LAZY_FLUSH_SECONDS,
    LAZY_WRITE_SECONDS,
    Worker,
)

REPLY, NONE = Answer(b"reply"), Answer(None)


class Flushes(AuditLog):
    """A log that tells when it was flushed, or fails to be."""

    def __init__(self, path: Path, told: list[str]) -> None:
        self._told = told
        self.broken = False
        super().__init__(path)

    def sync(self) -> None:
        if self.broken:
            raise AuditError("The disk is gone.")
        if self.unsynced:
            self._told.append("flush")
        super().sync()


class Peer:
    """A connection with one message, which may leave a record."""

    def __init__(self, name: str, log: AuditLog, answer: Answer | None, *, notes: bool) -> None:
        self.name, self.log, self.reply, self.notes = name, log, answer, notes

    def answer(self) -> Steps[Answer | None]:
        told(self.log).append(f"{self.name} begins")
        yield
        if self.notes:
            self.log.note("key-reply", drive=self.name)
        told(self.log).append(f"{self.name} ends")
        return self.reply

    def send(self, answer: Answer) -> None:
        told(self.log).append(self.name)


def told(log: Any) -> list[str]:
    words: list[str] = log._told
    return words


class UnderWay:
    """A connection with an exchange under way."""

    @property
    def exchange(self) -> Any:
        return self

    under_way = True


class Counts:
    """Metrics that nobody reads."""

    def __getattr__(self, name: str) -> Any:
        return self

    def inc(self) -> None: ...

    def flushed(self, held_seconds: float) -> None: ...


@pytest.fixture
def log(tmp_path: Path) -> Any:
    return Flushes(tmp_path / "audit", [])


def rounds(log: Flushes, *peers: Peer) -> Worker:
    """Let a worker answer these peers."""
    worker: Any = object.__new__(Worker)

    class Manager:
        audit = log

    worker._manager, worker._metrics, worker._loop = Manager, Counts(), EventLoop(raised)
    worker._queue, worker._held, worker._connections = deque(), [], set()
    worker._lazy_write = worker._lazy_flush = None
    worker._failure, worker._stop = None, False
    for peer in peers:
        worker.ready(peer)
    until = time.monotonic() + LAZY_FLUSH_SECONDS + 0.1
    worker.call_later(LAZY_FLUSH_SECONDS + 0.1, lambda: None)
    while time.monotonic() < until and not worker._stop:
        worker._run_once()
    answered: Worker = worker
    return answered


def raised(error: Exception) -> None:
    raise error


def sent(log: Flushes) -> list[str]:
    return [word for word in told(log) if not word.endswith((" begins", " ends"))]


def test_answers_wait_for_one_flush(log: Flushes) -> None:
    peers = [Peer(name, log, REPLY, notes=True) for name in "abc"]
    rounds(log, *peers)
    assert sent(log) == ["flush", "a", "b", "c"]


def test_messages_are_answered_side_by_side(log: Flushes) -> None:
    rounds(log, *(Peer(name, log, REPLY, notes=False) for name in "ab"))
    assert told(log) == ["a begins", "b begins", "a ends", "b ends", "a", "b"]


def test_what_leaves_no_record_does_not_wait(log: Flushes) -> None:
    rounds(log, Peer("ping", log, REPLY, notes=False), Peer("key", log, REPLY, notes=True))
    assert sent(log) == ["ping", "flush", "key"]


def test_a_challenge_does_not_wait_for_a_record_of_before(log: Flushes) -> None:
    rounds(log, Peer("ack", log, NONE, notes=True), Peer("hello", log, REPLY, notes=False))
    assert sent(log) == ["ack", "hello", "flush"]


def test_records_that_nobody_waits_for_are_flushed_soon(log: Flushes) -> None:
    rounds(log, Peer("ack", log, NONE, notes=True))
    assert sent(log) == ["ack", "flush"]


def test_without_the_disk_no_answer_goes_out(log: Flushes) -> None:
    log.broken = True
    worker: Any = rounds(log, Peer("key", log, REPLY, notes=True))
    assert sent(log) == []
    assert worker._stop
    assert isinstance(worker._failure, AuditError)


def test_a_connection_that_ended_meanwhile_is_passed_over(log: Flushes) -> None:
    rounds(log, Peer("gone", log, None, notes=False))
    assert sent(log) == []


def test_a_record_that_nobody_waits_for_is_written_at_once_or_nearly(log: Flushes) -> None:
    worker: Any = rounds(log)
    worker.ready(Peer("ack", log, NONE, notes=True))
    until = time.monotonic() + 2 * LAZY_WRITE_SECONDS
    worker.call_later(2 * LAZY_WRITE_SECONDS, lambda: None)
    while time.monotonic() < until:
        worker._run_once()
    assert sent(log) == ["ack"]
    assert b'"event":"key-reply"' in log.path.read_bytes()


@pytest.mark.parametrize(
    ("in_hand", "others", "together"), [(1, 0, False), (1, 1, True), (_FULL_BATCH, 1, False)]
)
def test_messages_of_exchanges_under_way_are_waited_for(
    log: Flushes, in_hand: int, others: int, together: bool
) -> None:
    """But not when there is nobody else, or enough to do."""
    worker: Any = rounds(log)
    late = Peer("late", log, REPLY, notes=False)
    worker._connections = {UnderWay() for _ in range(in_hand + others)}
    for number in range(in_hand):
        worker.ready(Peer(f"{number}", log, REPLY, notes=False))
    worker.call_later(_COLLECT_SECONDS / 2, lambda: worker.ready(late))
    while "late" not in told(log):
        worker._run_once()
    assert (told(log).index("late begins") < told(log).index("0 ends")) is together
