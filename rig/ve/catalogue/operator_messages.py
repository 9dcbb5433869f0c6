"""Operator messages of a node: host notices, interventions, calls home.

They are kept in the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from rig.ve.catalogue.schema import EventRow

MESSAGE = "message"
INTERVENTION = "intervention"
CALL_HOME = "call-home"
NO_KEY_MANAGER = "no key manager"
"""The subject of the intervention for a node that reaches none."""
_LATEST = 10


def notify_hosts(session: Session, text: str, now: float, subject: str = "") -> None:
    """Send a notice to the hosts' consoles."""
    session.add(EventRow(at=now, kind=MESSAGE, subject=subject, text=text))


def notify_once(session: Session, text: str, now: float, subject: str) -> None:
    """Send a notice unless it is among the latest about the subject."""
    query = select(EventRow.text).where(EventRow.kind == MESSAGE, EventRow.subject == subject)
    if text not in session.scalars(query.order_by(EventRow.id.desc()).limit(_LATEST)).all():
        notify_hosts(session, text, now, subject)


def call_home(session: Session, text: str, now: float, subject: str = "") -> None:
    """Call home: alert the service organization."""
    session.add(EventRow(at=now, kind=CALL_HOME, subject=subject, text=text))


def raise_intervention(session: Session, subject: str, text: str, now: float) -> bool:
    """Raise an intervention, once for each subject until it is cleared.

    Returns False when one is open already.
    """
    if session.scalar(_open(subject)) is not None:
        return False
    session.add(EventRow(at=now, kind=INTERVENTION, subject=subject, text=text))
    session.flush()
    return True


def clear_intervention(session: Session, subject: str, now: float) -> bool:
    """Clear an intervention; return False when there was none."""
    row = session.scalar(_open(subject))
    if row is None:
        return False
    row.cleared = now
    return True


def key_manager_subject(name: str) -> str:
    """Return the subject of what is said about a key manager."""
    return f"key manager {name}"


def clear_key_managers(session: Session, answering: Iterable[str], now: float) -> None:
    """Clear the interventions for key managers that answer.

    When any does, so is that for having none.
    """
    names = list(answering)
    subjects = [key_manager_subject(name) for name in names]
    for subject in (*subjects, *([NO_KEY_MANAGER] if names else [])):
        clear_intervention(session, subject, now)


def open_subjects(session: Session, prefix: str) -> list[str]:
    """Return the subjects of open interventions that begin with `prefix`."""
    query = select(EventRow.subject).where(
        EventRow.kind == INTERVENTION,
        EventRow.subject.startswith(prefix, autoescape=True),
        EventRow.cleared.is_(None),
    )
    return list(session.scalars(query))


def _open(subject: str) -> Select[EventRow]:
    return select(EventRow).where(
        EventRow.kind == INTERVENTION, EventRow.subject == subject, EventRow.cleared.is_(None)
    )
