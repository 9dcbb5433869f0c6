"""The worker processes of a key manager, as its front manages them."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hsm.child_process import wait_for_end
from hsm.ekm.audit.log import AuditError, AuditLog
from hsm.ekm.config import EkmConfig
from hsm.ekm.logs import LOG
from hsm.ekm.protocol.errors import EkmError
from hsm.ekm.service import metrics
from hsm.ekm.service.worker_ipc import CONNECTION, MESSAGE_LIMIT, STOP, heartbeat_seconds
from hsm.ekm.service.worker_process import WorkerProcess

READY_SECONDS = 60.0
_REAP_SECONDS = 1.0
"""How long to wait for a killed process; one stuck in the kernel is left after that."""
_STABLE_SECONDS = 10.0
"""A worker that ran this long is replaced at once; others with exponential backoff."""
_MAX_RESTART_DELAY = 30.0
_END_SECONDS = 6.0


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    link: socket.socket
    started: float
    last_message: float
    ready: bool = False
    connections: int = 0
    failure: str = ""
    hanging: bool = False


class WorkerPool:
    """All workers of one key manager."""

    def __init__(
        self, config: EkmConfig, audit: AuditLog, first: WorkerProcess | None = None
    ) -> None:
        """Prepare; ``start`` begins. ``first`` is a worker started already."""
        self._first = first
        self._config = config
        self._audit = audit
        self._workers: list[_Worker] = []
        self._stopping = False
        self._restart_delay = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        # Beside the event loop: a hanging worker may hold the log's lock until it is killed.
        self._recorder = ThreadPoolExecutor(1)
        self._folder = metrics.counts_folder(config.audit)
        metrics.prepare_folder(self._folder)
        self.metrics = metrics.FrontMetrics(self._folder)
        self.on_serving: Callable[[bool], None] = lambda serving: None

    @property
    def serving(self) -> int:
        """How many workers serve: they are ready and not silent."""
        return sum(worker.ready and not self._is_silent(worker) for worker in self._workers)

    @property
    def connections(self) -> int:
        """How many connections the workers have reported."""
        return sum(worker.connections for worker in self._workers)

    async def start(self, stop: asyncio.Event) -> None:
        """Start all workers and return when they serve, or when ``stop`` is set.

        Raises EkmError with a worker's own message when it cannot serve.
        """
        for _ in range(self._config.workers):
            self._spawn()
        until = time.monotonic() + READY_SECONDS
        while not stop.is_set() and not all(worker.ready for worker in self._workers):
            for worker in self._workers:
                if worker.failure or worker.process.poll() is not None:
                    self._receive(worker)
                    raise EkmError(
                        worker.failure
                        or "A worker process ended without a message; see the key manager's log."
                    )
            if time.monotonic() > until:
                raise EkmError(f"The workers are not ready after {READY_SECONDS:g} s.")
            await asyncio.sleep(0.01)
        self._start_task(self._watch())

    async def stop(self) -> None:
        """Ask all workers to end; kill those that do not."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        for worker in self._workers:
            with suppress(OSError):
                worker.link.send(STOP)
        until = time.monotonic() + _END_SECONDS
        while time.monotonic() < until and any(w.process.poll() is None for w in self._workers):
            await asyncio.sleep(0.01)
        for worker in list(self._workers):
            worker.process.kill()
            _reap(worker)
            self._remove(worker)
        self._recorder.shutdown()

    def hand_over(self, connection: socket.socket) -> None:
        """Give a connection to the worker with the fewest; reject over the limit."""
        self.metrics.accepted.inc()
        ready = sorted(
            (worker for worker in self._workers if worker.ready),
            key=lambda w: (self._is_silent(w), w.connections),
        )
        if self.connections >= self._config.connections:
            self.metrics.turned_away.inc()
            LOG.warning("connection rejected", limit=self._config.connections)
            return
        for worker in ready:
            with suppress(OSError):  # it has ended; the next reading finds that
                socket.send_fds(worker.link, [CONNECTION], [connection.fileno()])
                worker.connections += 1
                return

    def reject(self, connection: socket.socket) -> None:
        """Count a connection that ends unserved; its relay fails over."""
        self.metrics.accepted.inc()
        self.metrics.turned_away.inc()

    # Private

    def _spawn(self) -> None:
        started, self._first = self._first or WorkerProcess(), None
        started.configure(pickle.dumps(self._config))
        now = time.monotonic()
        worker = _Worker(started.process, started.link, now, now)
        self._workers.append(worker)
        asyncio.get_running_loop().add_reader(started.link, self._receive, worker)

    def _receive(self, worker: _Worker) -> None:
        """Read a worker's messages; at their end, replace the worker."""
        while True:
            try:
                data = worker.link.recv(MESSAGE_LIMIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                asyncio.get_running_loop().remove_reader(worker.link)
                if not self._stopping and worker.ready:
                    self._on_worker_lost(worker)
                return
            worker.last_message = time.monotonic()
            self._on_message(worker, json.loads(data))

    def _on_message(self, worker: _Worker, content: dict[str, Any]) -> None:
        if "failed" in content:
            worker.failure = str(content["failed"])
        if "closed" in content:
            worker.connections = max(0, worker.connections - 1)
        if "connections" in content:
            worker.connections = int(content["connections"])
        if content.get("ready"):
            worker.ready = True
            self._report_serving()

    def metrics_page(self) -> bytes:
        """Return all current metrics in Prometheus' text format."""
        self.metrics.workers.set(self.serving)
        self.metrics.ready.set(bool(self.serving))
        return self.metrics.page()

    def _report_serving(self) -> None:
        self.on_serving(bool(self.serving))

    def _on_worker_lost(self, worker: _Worker) -> None:
        """Replace a worker that ended unexpectedly."""
        worker.ready = False
        worker.process.kill()
        status = _reap(worker)
        self._remove(worker)
        self.metrics.workers_lost.inc()
        LOG.error("worker lost", pid=worker.process.pid, status=status, cause=worker.failure)
        self._recorder.submit(self._record_loss, worker.process.pid, worker.failure)
        self._report_serving()
        lived = time.monotonic() - worker.started
        self._restart_delay = (
            0.0
            if lived > _STABLE_SECONDS
            else min(_MAX_RESTART_DELAY, 2 * self._restart_delay + 0.1)
        )
        self._start_task(self._replace(self._restart_delay))

    def _record_loss(self, pid: int, cause: str) -> None:
        try:
            self._audit.append("worker-lost", outcome="failed", pid=pid, cause=cause)
        except AuditError as error:
            LOG.error("loss not recorded", pid=pid, cause=str(error))

    def _is_silent(self, worker: _Worker) -> bool:
        """Return whether a worker is silent for so long that others are preferred."""
        return time.monotonic() - worker.last_message > self._config.worker_seconds / 3

    async def _replace(self, delay: float) -> None:
        await asyncio.sleep(delay)
        self._spawn()

    def _remove(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
        asyncio.get_running_loop().remove_reader(worker.link)
        worker.link.close()
        metrics.forget_worker(self._folder, worker.process.pid)

    async def _watch(self) -> None:
        """Kill workers that hang (token, disk) or that never became ready."""
        silence = self._config.worker_seconds
        while True:
            await asyncio.sleep(heartbeat_seconds(silence))
            now = time.monotonic()
            for worker in self._workers:
                if now - worker.last_message > (silence if worker.ready else READY_SECONDS):
                    LOG.error("worker hangs", pid=worker.process.pid)
                    worker.failure = f"no sign of life for {now - worker.last_message:.1f} s"
                    worker.process.kill()  # kill all before waiting for any
                    worker.hanging = True
            for worker in list(self._workers):
                if worker.hanging or worker.process.poll() is not None:
                    self._on_worker_lost(worker)
            self._report_serving()

    def _start_task(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _reap(worker: _Worker) -> int | None:
    """Return the exit status of a killed worker; None if it does not end."""
    status = wait_for_end(worker.process, _REAP_SECONDS)
    if status is None:
        LOG.error("worker cannot be killed", pid=worker.process.pid)
    return status
