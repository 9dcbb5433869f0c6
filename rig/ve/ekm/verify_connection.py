"""Verify that every key manager answers and knows every label (EKM-11)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from hsm.ekm.client import EkmClient
from hsm.ekm.protocol import messages
from hsm.ekm.protocol.errors import EkmUnavailable, MessageError
from hsm.ekm.protocol.fields import LabelState
from hsm.ekm.protocol.messages import Error, LabelAnswer, LabelQuery
from rig.ve.ekm.connections import EkmConnection, EkmConnections


@dataclass(frozen=True, slots=True)
class EkmVerification:
    """The answer of one key manager to "verify connection".

    ``failure`` says why it did not answer; else there is a state for each label.
    """

    name: str
    where: str
    seconds: float | None = None
    failure: str | None = None
    states: tuple[LabelState, ...] = ()

    @property
    def unknown(self) -> tuple[str, ...]:
        """The labels that it does not know."""
        return tuple(state.label for state in self.states if not state.known)

    @property
    def good(self) -> bool:
        """Whether it answered and knows every label."""
        return self.failure is None and not self.unknown


@dataclass(frozen=True, slots=True)
class Verification:
    """The answers of all key managers of a node."""

    ekms: tuple[EkmVerification, ...]

    @property
    def differing(self) -> tuple[str, ...]:
        """Labels under which key managers of one node have different keys."""
        hashes: dict[str, set[bytes]] = {}
        for ekm in self.ekms:
            for state in ekm.states:
                if state.known:
                    hashes.setdefault(state.label, set()).add(state.kek_hash)
        return tuple(label for label, kek_hashes in hashes.items() if len(kek_hashes) > 1)

    @property
    def good(self) -> bool:
        """Whether each key manager can serve every exchange of the node."""
        return all(ekm.good for ekm in self.ekms) and not self.differing


def verify_connection(connections: EkmConnections, labels: Sequence[str]) -> Verification:
    """Ask every key manager whether it knows each of the labels.

    Failures are in what is returned; nothing is raised.
    """
    return Verification(tuple(_ask(connections, each, labels) for each in connections.all))


def _ask(
    connections: EkmConnections, each: EkmConnection, labels: Sequence[str]
) -> EkmVerification:
    where = str(each.client.endpoint)
    failure: EkmUnavailable | None = None
    seconds = 0.0
    states: tuple[LabelState, ...] = ()
    try:
        with each.exclusive() as client:
            client.ensure_connected()
            began = time.perf_counter()
            states = _states(client, labels)
            seconds = time.perf_counter() - began
    except EkmUnavailable as error:
        failure = error
    connections.record_outcomes({each: failure})
    if failure is not None:
        return EkmVerification(each.name, where, failure=str(failure))
    return EkmVerification(each.name, where, seconds, states=states)


def _states(client: EkmClient, labels: Sequence[str]) -> tuple[LabelState, ...]:
    client.ping()
    found_states: list[LabelState] = []
    for first in range(0, len(labels), messages.LABELS_LIMIT):
        asked = tuple(labels[first : first + messages.LABELS_LIMIT])
        answer = _decoded(client.request(LabelQuery(asked).encode()))
        match answer:
            case LabelAnswer(states) if tuple(state.label for state in states) == asked:
                found_states += states
            case Error(_, text):
                raise EkmUnavailable(f"The key manager at {client.endpoint} refused: {text}")
            case _:
                client.close()
                raise EkmUnavailable(
                    f"The key manager at {client.endpoint} answered a query for labels with "
                    "something else; bring it to this version."
                )
    return tuple(found_states)


def _decoded(answer: bytes) -> messages.AnyMessage | None:
    try:
        return messages.decode(answer)
    except MessageError:
        return None
