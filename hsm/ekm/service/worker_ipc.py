"""The messages between a key manager's front and its workers.

They pass over a socket pair. The front sends CONNECTION with a descriptor, or STOP. A worker sends
JSON objects with one of ``ready``, ``closed`` (connections), ``connections`` (their number) and
``failed`` (why).
"""

from typing import Final

CONNECTION: Final = b"connection"
"""Sent by the front with a connection's descriptor."""
STOP: Final = b"stop"
MESSAGE_LIMIT: Final = 4096
"""Longest message, in bytes."""


def heartbeat_seconds(worker_seconds: float) -> float:
    """Return the seconds between two heartbeats of a worker."""
    return min(1.0, worker_seconds / 8)
