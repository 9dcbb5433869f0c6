"""Notifications to a supervisor such as systemd (``Type=notify``).

The protocol is that of sd_notify(3): datagrams of ``NAME=value`` lines to the Unix socket that
``NOTIFY_SOCKET`` names. Without that variable nothing is sent. ``WATCHDOG_USEC`` is the watchdog's
timeout; the event loop itself reports at half of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping

from hsm.ekm.logs import LOG


class Supervisor:
    """The supervisor that started this process, if there is one."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Take the variables out of ``environment``: workers must not have them."""
        self._address = environment.pop("NOTIFY_SOCKET", "")
        silence, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        for_this_process = pid in ("", str(os.getpid()))
        self._report_seconds = (
            int(silence) / 2e6 if silence.isdecimal() and for_this_process else 0.0
        )
        self._status = ""

    def ready(self, where: str) -> None:
        """Report that connections are accepted at ``where``."""
        self._status = f"serves at {where}"
        self._notify(f"READY=1\nSTATUS={self._status}")

    def status(self, text: str) -> None:
        """Report a status text, when it has changed."""
        if text != self._status:
            self._status = text
            self._notify(f"STATUS={text}")

    def stopping(self) -> None:
        """Report that the process stops as requested."""
        self._notify("STOPPING=1\nSTATUS=stopping")

    async def keep_alive(self) -> None:
        """Report at intervals that the event loop runs; never return."""
        while True:
            if self._report_seconds:
                self._notify("WATCHDOG=1")
            await asyncio.sleep(self._report_seconds or 3600)

    def _notify(self, text: str) -> None:
        if not self._address:
            return
        # A name that begins with @ is in the abstract namespace.
        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)
            try:
                connection.sendto(text.encode(), address)
            except OSError as error:
                LOG.warning("supervisor not notified", cause=error.strerror)
