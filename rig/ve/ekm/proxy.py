"""The proxy between drives and key managers; it relays (BOT-2c)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from hsm.ekm.client import ANSWER_SECONDS, EkmClient, EkmEndpoint, Resolve
from hsm.ekm.protocol.errors import EkmUnavailable
from rig.results.events import EventLog
from rig.ve.ekm.connections import ConnectionTiming, EkmConnection, EkmConnections
from rig.ve.ekm.notices import EkmNotices
from rig.ve.ekm.relay import Relay, RelayedSession

Observer = Callable[[str, bytes], None]
"""Called with the direction (``to-ekm``, ``to-drive``) and the bytes of each relayed message."""


class EkmProxy:
    """A proxy with permanent connections to all key managers of a node.

    The first is the primary.

    The primary serves every exchange while it can be reached, else the secondary (EKM-6). So an
    exchange always tries the primary first, shortly when it was lost before.
    """

    def __init__(
        self,
        endpoints: Sequence[EkmEndpoint],
        answer_seconds: float = ANSWER_SECONDS,
        observer: Observer | None = None,
        *,
        events: EventLog | None = None,
        resolve: Resolve | None = None,
        timing: ConnectionTiming | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; ``connect`` or the first exchange opens the connections.

        ``events`` gets notices of lost and returned key managers; ``resolve`` looks up host names;
        ``timing`` and ``clock`` say when connections are tried.
        """
        if not endpoints:
            raise EkmUnavailable("No key manager is configured; name one in the lab file.")
        self._notices = EkmNotices(events)
        clients = [EkmClient(endpoint, answer_seconds, resolve) for endpoint in endpoints]
        self.connections = EkmConnections(clients, self._notices, timing, clock)
        self._observer = observer or (lambda direction, data: None)

    @property
    def endpoints(self) -> tuple[EkmEndpoint, ...]:
        """The configured key managers in their order."""
        return tuple(each.client.endpoint for each in self.connections.all)

    def connect(self) -> None:
        """Open the connections to all key managers.

        Raises EkmUnavailable when none answers.
        """
        self.ping()

    def watch(self) -> None:
        """Keep the connections alive from now on.

        They are pinged, and lost ones are tried again.
        """
        self.connections.watch()

    def ping(self) -> dict[EkmEndpoint, float]:
        """Return how long each key manager that answers took, in seconds.

        Raises EkmUnavailable when none answers.
        """
        outcomes = self.connections.check()
        answered = {
            each.client.endpoint: seconds
            for each, seconds in outcomes.items()
            if isinstance(seconds, float)
        }
        if not answered:
            raise _all_failed([f for f in outcomes.values() if isinstance(f, EkmUnavailable)])
        return answered

    def exchange(self, session: RelayedSession) -> None:
        """Relay a drive's exchange with the first key manager that answers.

        Contact lost before the drive has its key: the exchange goes, once and whole, to the other
        one. Raises EkmUnavailable when there is none left, ExchangeError when it was refused.
        """
        failures: list[EkmUnavailable] = []
        left = list(self.connections.all)
        was_cut = False
        while left:
            each = left.pop(0)
            try:
                self._attempt(each, session)
            except _ContactLost as failure:
                failures.append(failure)
                # The other one, whichever it is: it may have returned meanwhile.
                left = [] if was_cut else [o for o in self.connections.all if o is not each]
                was_cut = True
            except EkmUnavailable as failure:
                failures.append(failure)
            else:
                if session.failure is not None:
                    raise session.failure
                return
        none_left = _all_failed(failures)
        self._notices.call_home(str(none_left).removesuffix("."))
        raise none_left

    def each(self) -> Sequence[Relay]:
        """Return a way to each key manager alone."""
        return [_OneKeyManager(self, each) for each in self.connections.all]

    def answering(self) -> Sequence[str]:
        """Return the names of the key managers that answered when last asked."""
        return [each.name for each in self.connections.all if each.up]

    def exchange_with(self, each: EkmConnection, session: RelayedSession) -> None:
        """Relay a drive's exchange with one key manager."""
        self._attempt(each, session)
        if session.failure is not None:
            raise session.failure

    def _attempt(self, each: EkmConnection, session: RelayedSession) -> None:
        """Relay the whole exchange with one key manager.

        Raises _ContactLost once it has begun.
        """
        with each.exclusive() as client:
            try:
                each.revive()
            except EkmUnavailable as failure:
                self.connections.record_outcomes({each: failure})
                raise
            try:
                lost_after = self._relay(client, session)
            except EkmUnavailable as failure:
                self.connections.record_outcomes({each: failure})
                raise _ContactLost(str(failure)) from failure
        self.connections.record_outcomes({each: lost_after})

    def _relay(self, client: EkmClient, session: RelayedSession) -> EkmUnavailable | None:
        outgoing: bytes | None = session.hello()
        while outgoing is not None and not session.finished:
            self._observer("to-ekm", outgoing)
            answer = client.request(outgoing, begins=False)
            self._observer("to-drive", answer)
            outgoing = session.on_message(answer)
        return None if outgoing is None else self._send_last_message(client, outgoing)

    def _send_last_message(self, client: EkmClient, outgoing: bytes) -> EkmUnavailable | None:
        """Send the last message, which gets no answer, and ping.

        The drive has what it needs by now, so lost contact here fails nothing and is returned: the
        key manager records that it never heard from the drive.
        """
        self._observer("to-ekm", outgoing)
        try:
            client.send(outgoing, begins=False)
            client.ping()
        except EkmUnavailable as failure:
            client.close()
            return failure
        return None

    def close(self) -> None:
        """Stop the watch and close all connections."""
        self.connections.close()

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


@dataclass(frozen=True, slots=True)
class _OneKeyManager:
    """The way to one key manager."""

    proxy: EkmProxy
    connection: EkmConnection

    def exchange(self, session: RelayedSession) -> None:
        """Relay a drive's exchange."""
        self.proxy.exchange_with(self.connection, session)

    def each(self) -> Sequence[Relay]:
        """Return this alone."""
        return [self]

    def answering(self) -> Sequence[str]:
        """Return its name if it answered when last asked."""
        return [self.connection.name] if self.connection.up else []


class _ContactLost(EkmUnavailable):
    """Contact was lost in the middle of an exchange."""


def _all_failed(failures: Sequence[EkmUnavailable]) -> EkmUnavailable:
    if len(failures) == 1:
        return failures[0]
    return EkmUnavailable("No key manager is left: " + "; ".join(map(str, failures)))
