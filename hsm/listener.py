"""Listening TCP sockets whose port nobody else can take before they listen."""

from __future__ import annotations

import socket

BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted."""


def open_listener(host: str, port: int, *, send_buffer: int | None = None) -> socket.socket:
    """Return a socket that listens on an address; port 0 takes any free one.

    ``send_buffer`` is how many bytes of unread answers the kernel keeps for a peer. Raises OSError.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # SO_REUSEADDR makes a port free at once after a restart. But two sockets that have it may
        # bind to one port, until one listens; the other then fails to. A given port needs it from
        # the start. With a port that the kernel chooses it comes last, so nobody else can bind.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(port != 0))
        if send_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except BaseException:
        listener.close()
        raise
    return listener
