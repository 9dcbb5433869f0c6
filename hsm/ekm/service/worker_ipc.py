"""What front and workers of a key manager say to each other, over a pair of sockets.

The front sends a connection, with its descriptor, or a word; a worker sends JSON objects: that it
is ``ready``, ``closed`` connections, how many ``connections`` there are, why it ``failed``.
"""

from typing import Final

CONNECTION: Final = b"connection"
"""What the front sends with a connection's descriptor."""
STOP: Final = b"stop"
MESSAGE_LIMIT: Final = 4096
"""Longest message, in bytes."""


def beat_seconds(worker_seconds: float) -> float:
    """Return how often a worker gives a sign of life that is ended after so long a silence."""
    return min(1.0, worker_seconds / 8)
