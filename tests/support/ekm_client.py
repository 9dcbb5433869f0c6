"""A client for tests: the first reachable key manager serves the exchange."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from hsm.ekm.client import ANSWER_SECONDS, EkmClient, EkmEndpoint
from hsm.ekm.protocol.drive_side import DriveSession
from hsm.ekm.protocol.errors import EkmUnavailable


class ExchangeClient:
    """Permanent connections to key managers; the first one is tried first."""

    def __init__(
        self,
        *endpoints: EkmEndpoint,
        answer_seconds: float = ANSWER_SECONDS,
        observer: Callable[[str, bytes], None] = lambda direction, data: None,
    ) -> None:
        """Prepare; ``observer`` gets "to-ekm" or "to-drive" and each message."""
        self.clients = [EkmClient(endpoint, answer_seconds) for endpoint in endpoints]
        self.failures: list[EkmUnavailable] = []
        """Why exchanges went to another key manager, or failed."""
        self._observer = observer

    def connect(self) -> None:
        """Open all connections."""
        for client in self.clients:
            client.connect()

    def exchange(self, session: DriveSession) -> None:
        """Run a drive's exchange; raises EkmUnavailable or ExchangeError."""
        for client in self.clients:
            try:
                client.ensure_connected()
                self._run(client, session)
            except EkmUnavailable as failure:
                self.failures.append(failure)
                continue
            if session.failure is not None:
                raise session.failure
            return
        raise self.failures[-1]

    def _run(self, client: EkmClient, session: DriveSession) -> None:
        outgoing: bytes | None = session.hello()
        while outgoing is not None and not session.finished:
            self._observer("to-ekm", outgoing)
            answer = client.request(outgoing, begins=False)
            self._observer("to-drive", answer)
            outgoing = session.on_message(answer)
        if outgoing is not None:
            self._observer("to-ekm", outgoing)
            try:
                client.send(outgoing, begins=False)
                client.ping()  # Ack gets no answer; the ping shows that it arrived
            except EkmUnavailable as failure:  # the drive has its key already
                self.failures.append(failure)
                client.close()

    def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            client.close()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all connections."""
        self.close()
