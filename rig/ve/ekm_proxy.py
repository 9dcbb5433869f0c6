"""The virtualization engine between drive and key manager: relays, and does not look (BOT-2c)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from hsm.ekm.client import ANSWER_SECONDS, EkmClient, EkmEndpoint
from hsm.ekm.errors import EkmUnavailable, ExchangeError


class RelayedSession(Protocol):
    """A drive's key exchange, as far as the one who relays it knows it."""

    @property
    def finished(self) -> bool:
        """Whether the drive has nothing more to send or to hear."""

    @property
    def failure(self) -> ExchangeError | None:
        """Why the drive got no key, when it did not."""

    def hello(self) -> bytes:
        """Begin the exchange, from the beginning; return the message to send."""

    def on_message(self, data: bytes) -> bytes | None:
        """Take an answer; return what to send next, if anything."""


Observer = Callable[[str, bytes], None]
"""Called with the direction (``to-ekm``, ``to-drive``) and the bytes of each relayed message."""


class EkmProxy:
    """Permanent connections to all configured key managers, the first of which is the primary."""

    def __init__(
        self,
        endpoints: Sequence[EkmEndpoint],
        answer_seconds: float = ANSWER_SECONDS,
        observer: Observer | None = None,
    ) -> None:
        """Prepare; ``connect`` or the first exchange opens the connections."""
        if not endpoints:
            raise EkmUnavailable("No key manager is configured; name one in the lab file.")
        self._clients = [EkmClient(endpoint, answer_seconds) for endpoint in endpoints]
        self._observer = observer or (lambda direction, data: None)

    @property
    def endpoints(self) -> tuple[EkmEndpoint, ...]:
        """The configured key managers in their order."""
        return tuple(client.endpoint for client in self._clients)

    def connect(self) -> None:
        """Open the connections to all key managers; raise EkmUnavailable when none answers."""
        self.ping()

    def ping(self) -> dict[EkmEndpoint, float]:
        """Return how long each key manager that answers took, in seconds.

        Raises EkmUnavailable when none answers.
        """
        answered: dict[EkmEndpoint, float] = {}
        failures: list[EkmUnavailable] = []
        for client in self._clients:
            try:
                answered[client.endpoint] = client.ping()
            except EkmUnavailable as error:
                failures.append(error)
        if not answered:
            raise _all_failed(failures)
        return answered

    def exchange(self, session: RelayedSession) -> None:
        """Relay a drive's exchange, with the first key manager that can be reached.

        Contact lost before the drive has its key: the exchange goes, whole, to the next one.
        Raises EkmUnavailable when there is none left, ExchangeError when the exchange was refused.
        """
        failures: list[EkmUnavailable] = []
        for client in self._clients:
            try:
                self._relay(client, session)
            except EkmUnavailable as error:
                failures.append(error)
                continue
            if session.failure is not None:
                raise session.failure
            return
        raise _all_failed(failures)

    def _relay(self, client: EkmClient, session: RelayedSession) -> None:
        client.revive()
        outgoing: bytes | None = session.hello()
        while outgoing is not None and not session.finished:
            self._observer("to-ekm", outgoing)
            answer = client.request(outgoing)
            self._observer("to-drive", answer)
            outgoing = session.on_message(answer)
        if outgoing is not None:
            self._send_last_word(client, outgoing)

    def _send_last_word(self, client: EkmClient, outgoing: bytes) -> None:
        """Deliver what gets no answer; the ping shows that it was taken.

        The drive has what it needs by now, so lost contact here fails nothing: the key manager
        records that it never heard from the drive.
        """
        self._observer("to-ekm", outgoing)
        try:
            client.send(outgoing)
            client.ping()
        except EkmUnavailable:
            client.close()

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()

    def __enter__(self) -> Self:
        """Return the proxy."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all connections."""
        self.close()


def _all_failed(failures: Sequence[EkmUnavailable]) -> EkmUnavailable:
    if len(failures) == 1:
        return failures[0]
    return EkmUnavailable("No key manager is left: " + "; ".join(map(str, failures)))
