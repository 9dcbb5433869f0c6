"""What a supervisor (systemd, ``Type=notify``) is told: ready, stopping, how it is, still alive.

The protocol is that of sd_notify(3): datagrams of ``NAME=value`` lines to the Unix socket that
``NOTIFY_SOCKET`` names. Without that variable nothing is told. ``WATCHDOG_USEC`` says how long a
silence the supervisor bears; the event loop itself reports twice as often.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping

from hsm.ekm.logs import LOG


class Supervisor:
    """Who started this process and wants to hear of it; maybe nobody."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Take the variables out of ``environment``: they are not for the workers."""
        self._address = environment.pop("NOTIFY_SOCKET", "")
        silence, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        mine = pid in ("", str(os.getpid()))
        self._pause = int(silence) / 2e6 if silence.isdecimal() and mine else 0.0
        self._status = ""

    def ready(self, where: str) -> None:
        """Tell that connections are taken at ``where``."""
        self._status = f"serves at {where}"
        self._tell(f"READY=1\nSTATUS={self._status}")

    def status(self, text: str) -> None:
        """Tell how it is, in a few words, when that is news."""
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={text}")

    def stopping(self) -> None:
        """Tell that it ends as it was asked to."""
        self._tell("STOPPING=1\nSTATUS=stopping")

    async def keep_alive(self) -> None:
        """Report periodically that the event loop runs, if that is wanted; never return."""
        while True:
            if self._pause:
                self._tell("WATCHDOG=1")
            await asyncio.sleep(self._pause or 3600)

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        # A name that begins with @ is one in the abstract namespace.
        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)
            try:
                connection.sendto(text.encode(), address)
            except OSError as error:
                LOG.warning("supervisor not told", cause=error.strerror)
