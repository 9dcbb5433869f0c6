"""Notices of lost and returned key managers (EKM-7, EKM-8).

They go to operators, hosts and the service organization.
"""

from __future__ import annotations

from collections.abc import Sequence

from rig.results.events import EventLog, NoticeKind

NO_KEY_MANAGER = "no key manager"
"""What a call home is about."""


class EkmNotices:
    """Reports each change once; without an event log, to nobody."""

    def __init__(self, log: EventLog | None) -> None:
        """Begin with no key manager lost."""
        self._log = log
        self._open: set[str] = set()
        self._called_home = False

    def report_lost(self, name: str, where: str, reason: str) -> None:
        """Raise an intervention: a key manager is lost."""
        if name in self._open:
            return
        self._open.add(name)
        self._report(
            NoticeKind.INTERVENTION, name, f"Key manager {name} ({where}) is lost: {reason}"
        )

    def report_returned(self, name: str, where: str) -> None:
        """Clear the intervention: the key manager answers again."""
        self._called_home = False
        if name in self._open:
            self._open.remove(name)
            self._report(NoticeKind.CLEARED, name, f"Key manager {name} ({where}) answers again")

    def report_hosts(self, up: Sequence[str], down: Sequence[str]) -> None:
        """Report to the hosts which key managers serve."""
        if not down:
            mode = "recovered"
            text = f"Encryption is back to normal: {_names(up)} can be reached"
        elif up:
            mode = "degraded"
            text = f"Degraded mode: {_names(down)} is lost, {_names(up)} serves"
        else:
            mode = "none"
            text = (
                "No key manager can be reached: volumes in cache can be read, "
                "encrypted cartridges wait"
            )
        self._report(NoticeKind.HOSTS, NO_KEY_MANAGER, text, mode=mode, up=[*up], down=[*down])

    def call_home(self, reason: str) -> None:
        """Call home, once for as long as no key manager can be reached."""
        if self._called_home:
            return
        self._called_home = True
        self._report(
            NoticeKind.CALL_HOME,
            NO_KEY_MANAGER,
            f"A data key was needed and no key manager gave one: {reason}",
        )

    def _report(self, kind: NoticeKind, about: str, text: str, **detail: object) -> None:
        if self._log is not None:
            self._log.notice(kind, about, text, **detail)


def _names(names: Sequence[str]) -> str:
    return f"key manager{'s' if len(names) > 1 else ''} {' and '.join(names)}"
