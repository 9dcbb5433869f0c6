"""TCP ports for servers that must be at a known one."""

from __future__ import annotations

import socket

_RESERVED: list[socket.socket] = []


def reserve_port() -> int:
    """Reserve a free port for servers that ask for it by number.

    It stays reserved while this process lives.

    A socket holds it without listening. The kernel does not give it to a server that asks for any
    port, and a server with SO_REUSEADDR may still listen on it.
    """
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _RESERVED.append(holder)
    port: int = holder.getsockname()[1]
    return port
