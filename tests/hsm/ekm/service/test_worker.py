"""A worker flushes records once, before it sends their answers."""

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
from hsm.errors import TokenGoneError

REPLY, NONE = Answer(b"reply"), Answer(None)


class RecordingLog(AuditLog):
    """An audit log that records its flushes, and can be made to fail."""

    def __init__(self, path: Path, events: list[str]) -> None:
        self._events = events
        self.broken = False
        super().__init__(path)

    def sync(self) -> None:
        if self.broken:
            raise AuditError("The disk is gone.")
        if self.unsynced:
            self._events.append("flush")
        super().sync()


class FakeConnection:
    """A connection with one message, which may leave an audit record."""

    def __init__(self, name: str, log: AuditLog, answer: Answer | None, *, records: bool) -> None:
        self.name, self.log, self.reply, self.records = name, log, answer, records

    def answer(self) -> Steps[Answer | None]:
        events(self.log).append(f"{self.name} begins")
        yield
        if self.records:
            self.log.note("key-reply", drive=self.name)
        events(self.log).append(f"{self.name} ends")
        return self.reply

    def send(self, answer: Answer) -> None:
        events(self.log).append(self.name)


def events(log: Any) -> list[str]:
    words: list[str] = log._events
    return words


class BusyConnection:
    """A connection with an exchange under way."""

    @property
    def exchange(self) -> Any:
        return self

    under_way = True


class FakeMetrics:
    """Metrics that count nothing."""

    def __getattr__(self, name: str) -> Any:
        return self

    def inc(self) -> None: ...

    def flushed(self, held_seconds: float) -> None: ...


@pytest.fixture
def log(tmp_path: Path) -> Any:
    return RecordingLog(tmp_path / "audit", [])


def run_worker(log: RecordingLog, *peers: FakeConnection) -> Worker:
    """Run a worker until it has answered these connections."""
    worker: Any = object.__new__(Worker)

    class Manager:
        audit = log

    worker._manager, worker._metrics, worker._loop = Manager, FakeMetrics(), EventLoop(raised)
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


def sent(log: RecordingLog) -> list[str]:
    return [word for word in events(log) if not word.endswith((" begins", " ends"))]


def test_worker_flushes_once_for_several_answers(log: RecordingLog) -> None:
    peers = [FakeConnection(name, log, REPLY, records=True) for name in "abc"]
    run_worker(log, *peers)
    assert sent(log) == ["flush", "a", "b", "c"]


def test_worker_answers_messages_side_by_side(log: RecordingLog) -> None:
    run_worker(log, *(FakeConnection(name, log, REPLY, records=False) for name in "ab"))
    assert events(log) == ["a begins", "b begins", "a ends", "b ends", "a", "b"]


def test_worker_holds_no_answer_without_a_record(log: RecordingLog) -> None:
    run_worker(
        log,
        FakeConnection("ping", log, REPLY, records=False),
        FakeConnection("key", log, REPLY, records=True),
    )
    assert sent(log) == ["ping", "flush", "key"]


def test_worker_sends_a_challenge_before_an_earlier_record_is_flushed(log: RecordingLog) -> None:
    run_worker(
        log,
        FakeConnection("ack", log, NONE, records=True),
        FakeConnection("hello", log, REPLY, records=False),
    )
    assert sent(log) == ["ack", "hello", "flush"]


def test_worker_flushes_records_that_no_answer_waits_for(log: RecordingLog) -> None:
    run_worker(log, FakeConnection("ack", log, NONE, records=True))
    assert sent(log) == ["ack", "flush"]


def test_worker_ends_when_the_token_is_gone(log: RecordingLog) -> None:
    class GoneConnection(FakeConnection):
        def answer(self) -> Steps[Answer | None]:
            yield
            raise TokenGoneError("The token is gone.")

    worker: Any = run_worker(log, GoneConnection("key", log, None, records=False))
    assert sent(log) == []
    assert worker._stop
    assert isinstance(worker._failure, TokenGoneError)


def test_worker_sends_no_answer_when_the_log_fails(log: RecordingLog) -> None:
    log.broken = True
    worker: Any = run_worker(log, FakeConnection("key", log, REPLY, records=True))
    assert sent(log) == []
    assert worker._stop
    assert isinstance(worker._failure, AuditError)


def test_worker_skips_a_connection_that_has_ended(log: RecordingLog) -> None:
    run_worker(log, FakeConnection("gone", log, None, records=False))
    assert sent(log) == []


def test_worker_writes_records_that_no_answer_waits_for(log: RecordingLog) -> None:
    worker: Any = run_worker(log)
    worker.ready(FakeConnection("ack", log, NONE, records=True))
    until = time.monotonic() + 2 * LAZY_WRITE_SECONDS
    worker.call_later(2 * LAZY_WRITE_SECONDS, lambda: None)
    while time.monotonic() < until:
        worker._run_once()
    assert sent(log) == ["ack"]
    assert b'"event":"key-reply"' in log.path.read_bytes()


@pytest.mark.parametrize(
    ("in_hand", "others", "together"), [(1, 0, False), (1, 1, True), (_FULL_BATCH, 1, False)]
)
def test_worker_waits_for_messages_of_exchanges_under_way(
    log: RecordingLog, in_hand: int, others: int, together: bool
) -> None:
    """It does not wait without other exchanges, or with a full batch."""
    worker: Any = run_worker(log)
    late = FakeConnection("late", log, REPLY, records=False)
    worker._connections = {BusyConnection() for _ in range(in_hand + others)}
    for number in range(in_hand):
        worker.ready(FakeConnection(f"{number}", log, REPLY, records=False))
    worker.call_later(_COLLECT_SECONDS / 2, lambda: worker.ready(late))
    while "late" not in events(log):
        worker._run_once()
    assert (events(log).index("late begins") < events(log).index("0 ends")) is together
