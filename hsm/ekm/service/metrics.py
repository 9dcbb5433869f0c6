"""The metrics of a key manager, for Prometheus.

Worker processes count into files of one folder (prometheus_client's multiprocess mode), so that the
front process can report the sum and the counts of a killed worker are kept.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that prometheus_client reads once, when imported."""


class WorkerMetrics:
    """The counters of one worker process; create one per process."""

    def __init__(self, folder: Path) -> None:
        """Begin at zero, in a folder that ``prepare_folder`` created."""
        os.environ[FOLDER_VARIABLE] = str(folder)
        from prometheus_client import Counter, Gauge, Histogram

        self.exchanges = Counter(
            "taperig_ekm_exchanges", "Key requests answered", ["operation", "outcome"]
        )
        self._served: dict[str, int] = {}
        self.refusals = Counter("taperig_ekm_refusals", "Refusals by cause", ["cause"])
        self.handshakes = Counter("taperig_ekm_handshakes", "TLS handshakes", ["outcome"])
        self.connections = Gauge(
            "taperig_ekm_connections", "Connections open", multiprocess_mode="livesum"
        )
        self.held_seconds = Histogram(
            "taperig_ekm_held_seconds",
            "How long the first answer of each flush of the audit log waited for it",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
        )
        self.flushes = Counter("taperig_ekm_audit_flushes", "Times the audit log was flushed")

    def observe(self, event: str, operation: str, cause: str) -> None:
        """Count a record of an exchange: a key reply or a refusal."""
        if event == "key-reply":
            self._served[operation] = self._served.get(operation, 0) + 1
        elif event == "refusal":
            self.refusals.labels(cause).inc()
            if operation:
                self.exchanges.labels(operation, "refused").inc()

    def flushed(self, held_seconds: float) -> None:
        """Count the answers sent after a flush, and the wait of the first."""
        self.held_seconds.observe(held_seconds)
        served, self._served = self._served, {}
        for operation, count in served.items():
            self.exchanges.labels(operation, "ok").inc(count)


def counts_folder(audit: Path) -> Path:
    """Return the folder of the workers' counts, beside the audit log."""
    return audit.parent / f"{audit.name}.counts"


def prepare_folder(folder: Path) -> None:
    """Create the empty folder of the workers' counts."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)


def forget_worker(folder: Path, pid: int) -> None:
    """Remove the gauges of a worker that ended from the sum."""
    from prometheus_client.multiprocess import mark_process_dead

    mark: Any = mark_process_dead  # untyped in the library
    mark(pid, str(folder))


class FrontMetrics:
    """The front's own counters, and the sum of its workers' counters."""

    def __init__(self, folder: Path) -> None:
        """Sum up the counts of workers in ``folder``."""
        from prometheus_client import CollectorRegistry, Counter, Gauge
        from prometheus_client.multiprocess import MultiProcessCollector

        # The collector would use the folder in the environment of the parent process.
        os.environ.pop(FOLDER_VARIABLE, None)
        self._own = CollectorRegistry()
        self._workers = CollectorRegistry()
        collector: Any = MultiProcessCollector  # untyped in the library
        collector(self._workers, path=str(folder))
        self.ready = Gauge("taperig_ekm_ready", "Whether exchanges are served", registry=self._own)
        self.workers = Gauge("taperig_ekm_workers", "Workers that serve", registry=self._own)
        self.workers_lost = Counter(
            "taperig_ekm_workers_lost", "Workers that ended unasked", registry=self._own
        )
        self.accepted = Counter(
            "taperig_ekm_connections_accepted", "TCP connections taken", registry=self._own
        )
        self.turned_away = Counter(
            "taperig_ekm_connections_turned_away",
            "TCP connections over the limit, or when no worker had served for a while",
            registry=self._own,
        )

    def page(self) -> bytes:
        """Return all counters in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self._own) + generate_latest(self._workers)
