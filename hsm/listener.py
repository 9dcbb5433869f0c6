"""Listening TCP sockets whose port no other process can take meanwhile."""

from __future__ import annotations

import errno
import socket

BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted."""


def listen_remedy(error: OSError) -> str:
    """Return what to do about an error of `open_listener`, as a phrase."""
    if isinstance(error, socket.gaierror):
        return "name a host that can be looked up, or an address of this machine"
    return {
        errno.EADDRINUSE: "stop what uses the port, or name another one",
        errno.EADDRNOTAVAIL: "name an address of this machine",
        errno.EACCES: "name a port from 1024 on, or let this user open lower ones",
    }.get(error.errno or 0, "correct the address and the port")


def open_listener(host: str, port: int, *, send_buffer: int | None = None) -> socket.socket:
    """Return a socket that listens on an address; port 0 takes any free one.

    ``send_buffer`` is the kernel's buffer for unread answers of a peer, in bytes. Raises OSError.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # SO_REUSEADDR makes a port free at once after a restart. But two sockets with it may bind
        # to one port until one listens; then the other cannot listen. A given port needs it from
        # the start. For a port that the kernel chooses it is set last, so no other can bind.
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
