"""The status of a key manager over HTTP on the loopback interface.

| path | answer |
| --- | --- |
| `/metrics` | counters, in Prometheus' text format |
| `/healthz` | 200 while the front process works |
| `/readyz` | 200 while at least one worker serves, else 503 |

Prometheus and watchdogs read it. A request is limited in size and time, and the connection ends
with the answer. No credential is needed, so no answer names a drive, a volume or a key.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from hsm.ekm.config import EkmConfig
from hsm.ekm.logs import LOG
from hsm.ekm.protocol.errors import EkmError
from hsm.ekm.service.worker_pool import WorkerPool
from hsm.listener import listen_remedy, open_listener

REQUEST_LIMIT = 8192
"""Longest request, in bytes."""
REQUEST_SECONDS = 5.0
_MAX_CONNECTIONS = 32
_HOST = "127.0.0.1"
_TEXT = "text/plain; charset=utf-8"


class StatusServer:
    """Serves the pages above on ``metrics_port``; does nothing without one."""

    def __init__(self, config: EkmConfig, pool: WorkerPool) -> None:
        """Prepare; a context manager serves."""
        self._port = config.metrics_port
        self._pool = pool
        self._connections = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen. Raises EkmError when the port is in use."""
        if self._port is None:
            return self
        try:
            listener = open_listener(_HOST, self._port)
        except OSError as error:
            raise EkmError(
                f"The key manager cannot listen for metrics on {_HOST}:{self._port} "
                f"({error.strerror}), its metrics_port; {listen_remedy(error)}."
            ) from error
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=REQUEST_LIMIT)
        LOG.info("serving metrics", host=_HOST, port=listener.getsockname()[1])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= _MAX_CONNECTIONS:
                async with asyncio.timeout(REQUEST_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass
        finally:
            self._connections -= 1
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        """Return the whole answer to a request's head."""
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or words[0] != b"GET":
            return _page(405, "Method Not Allowed", b"only GET is served here\n")
        match words[1].split(b"?", 1)[0]:
            case b"/metrics":
                kind = "text/plain; version=0.0.4; charset=utf-8"
                return _page(200, "OK", self._pool.metrics_page(), kind)
            case b"/healthz":
                return _page(200, "OK", b"ok\n")
            case b"/readyz" if self._pool.serving:
                return _page(200, "OK", b"ready, workers: %d\n" % self._pool.serving)
            case b"/readyz":
                return _page(503, "Service Unavailable", b"no worker serves\n")
            case _:
                return _page(404, "Not Found", b"there are /metrics, /healthz and /readyz\n")


def _page(status: int, reason: str, body: bytes, kind: str = _TEXT) -> bytes:
    head = (
        f"HTTP/1.0 {status} {reason}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
