"""The administration commands of a key manager.

The key manager carries them out, or the command line while it does not run. Each command takes and
returns plain values, is recorded in the audit log with its outcome, and raises EkmError when it is
refused. No command uses the token: the command line makes and removes keys, with PINs that the key
manager does not have.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from hsm.ekm.audit import log as audit_log
from hsm.ekm.audit.archive import archive
from hsm.ekm.audit.hash_chain import AuditEvent
from hsm.ekm.audit.key_usage import (
    FORGOTTEN,
    UNKNOWN_ID,
    CartridgeKey,
    KnownCartridge,
    KnownCartridges,
    needs_key,
    read_known_cartridges,
)
from hsm.ekm.audit.log import AuditLog
from hsm.ekm.config import EkmConfig
from hsm.ekm.drive_table import DriveTable, note_sequence
from hsm.ekm.protocol import identities
from hsm.ekm.protocol.errors import EkmError
from hsm.ekm.protocol.fields import printable
from hsm.ekm.protocol.messages import CARTRIDGE_ID_BYTES
from hsm.errors import TaperigError
from hsm.keys.eedk import check_volume
from hsm.keys.keystore import check_drive_key
from hsm.keys.labels import normalize_label
from hsm.keys.pki import Role, load_certificate
from hsm.pkcs11.oaep import OaepHash
from hsm.provisioning import check_serial

SHOWN_RECORDS = 10_000
"""Most audit records in one answer."""
SETTLING_SECONDS = 1.0
"""After this time no exchange is under way that began before a key was set to retire."""
_LISTED_CARTRIDGES = 10
_CARTRIDGE_ID = re.compile(rf"[0-9a-fA-F]{{{2 * CARTRIDGE_ID_BYTES}}}")
_LOGGED_CHARACTERS = 100
"""Longest argument that is logged, in characters: no certificates, no keys."""


class KeyInUseError(EkmError):
    """A key cannot be retired because cartridges need it."""


class Administration:
    """The commands by name, on the files of one key manager."""

    def __init__(
        self, config: EkmConfig, log: AuditLog, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Work on the files that ``config`` names; ``log`` is the open audit log."""
        self._config = config
        self._log = log
        self._sleep = sleep
        self._commands: dict[str, Callable[..., Any]] = {
            "drive add": self.drive_add,
            "drive list": self.drive_list,
            "drive revoke": self.drive_revoke,
            "audit verify": self.audit_verify,
            "audit rotate": self.audit_rotate,
            "audit archive": self.audit_archive,
            "audit show": self.audit_show,
            "key add": self.key_add,
            "key added": self.key_added,
            "key users": self.key_users,
            "key retire": self.key_retire,
            "key retired": self.key_retired,
            "cartridge forget": self.cartridge_forget,
        }

    def run(self, command: str, arguments: dict[str, Any], who: str) -> Any:
        """Carry out a command for the user ``who`` and record its outcome."""
        act = self._commands.get(command)
        if act is None:
            raise EkmError(
                f"There is no command '{command[:40]}'; the commands are "
                f"{', '.join(self._commands)}."
            )
        details: dict[str, str | int | list[str]] = {
            "command": command,
            "who": who,
            "arguments": [
                f"{name}={value}"
                for name, value in arguments.items()
                if len(str(value)) <= _LOGGED_CHARACTERS
            ],
        }
        try:
            result = act(**arguments)
        except TypeError:
            # Another version of the command line; the text would quote Python names.
            self._log.append("admin", outcome="refused", **details)
            raise EkmError(
                f"The command '{command}' does not take these arguments; use a command line of "
                "the key manager's version."
            ) from None
        except TaperigError as error:
            self._log.append("admin", outcome="refused", text=str(error), **details)
            raise
        self._log.append("admin", outcome="ok", **details)
        return result

    def refused(self, who: str) -> None:
        """Record a request with a wrong secret."""
        self._log.append("admin", outcome="refused", who=who, text="wrong admin secret")

    # Drives

    def drive_add(
        self, serial: str, certificate: str, wrap_key: str, oaep_hash: str
    ) -> dict[str, Any]:
        """Enrol a drive; certificate and RSA wrapping key (SPKI) are DER in hex."""
        check_serial(serial)
        certificate_der, wrap_spki = _from_hex(certificate), _from_hex(wrap_key)
        identity = identities.verify_identity(
            certificate_der, load_certificate(self._config.drive_ca), Role.DRIVE
        )
        if identity.name != serial:
            raise EkmError(f"The certificate is that of drive {identity.name} and not of {serial}.")
        check_drive_key(serial, wrap_spki)
        if oaep_hash not in tuple(OaepHash):
            raise EkmError(f"A drive's OAEP hash is {' or '.join(OaepHash)}.")
        with DriveTable(self._config.drive_table) as table:
            table.enrol(serial, certificate_der, wrap_spki, OaepHash(oaep_hash))
            found = table.find(serial)
        return {"serial": serial, "revoked": bool(found and found.revoked)}

    def drive_list(self) -> list[dict[str, Any]]:
        """Return all drives, ordered by serial number."""
        with DriveTable(self._config.drive_table) as table:
            return [
                {
                    "serial": drive.serial,
                    "revoked": drive.revoked,
                    "sequence": drive.sequence,
                    "certificate_sha256": drive.fingerprint.hex(),
                    "oaep_hash": drive.oaep_hash.value,
                }
                for drive in table.drives()
            ]

    def drive_revoke(self, serial: str, revoked: bool = True) -> dict[str, Any]:
        """Revoke a drive from its next request on, or admit it again."""
        with DriveTable(self._config.drive_table) as table:
            table.set_revoked(serial, revoked)
        return {"serial": serial, "revoked": revoked}

    # Audit log

    def audit_verify(self, archive: str = "") -> dict[str, Any]:
        """Verify the whole chain; return its length and head, among others.

        Keep the head elsewhere: it proves that no record was cut off. ``archive`` is a folder with
        archived segments.
        """
        summary = audit_log.verify(self._log.path, Path(archive) if archive else None)
        return {
            "path": str(self._log.path),
            "records": summary.records,
            "head": summary.head,
            "torn_bytes": summary.torn_bytes,
            "first": summary.first,
            "anchor": summary.anchor,
            "archived": summary.archived,
            "files": summary.files,
        }

    def audit_rotate(self) -> dict[str, Any]:
        """Close the log's file and begin a new one; return the closed segment."""
        return {"segment": str(self._log.rotate())}

    def audit_archive(self, directory: str) -> dict[str, Any]:
        """Move all closed segments to a directory; return their names."""
        used: dict[str, int] = {}
        for record in audit_log.records(self._log.path):
            note_sequence(used, record)
        with DriveTable(self._config.drive_table) as table:
            table.raise_sequences(used)  # on the disk: the log no longer has all records
        return archive(self._log, Path(directory))

    def audit_show(
        self, last: int = 50, event: str = "", serial: str = "", volume: str = ""
    ) -> list[dict[str, Any]]:
        """Verify the log; return the last records that match what is given.

        Raises EkmError for an event that no record can be about.
        """
        events = get_args(AuditEvent)
        if event and event not in events:
            raise EkmError(
                f"There is no event '{printable(event[:40])}' in an audit log; the events are "
                f"{', '.join(sorted(events))}."
            )
        wanted = {"event": event, "serial": serial, "volume": volume}
        shown: deque[dict[str, Any]] = deque(maxlen=max(1, min(last, SHOWN_RECORDS)))
        for record in audit_log.records(self._log.path):
            if all(not value or record.get(name) == value for name, value in wanted.items()):
                shown.append(record)
        return list(shown)

    # Keys

    def key_add(self, label: str) -> dict[str, Any]:
        """Record that a key is about to be generated or imported."""
        return {"label": normalize_label(label)}

    def key_added(self, label: str, kek_hash: str) -> dict[str, Any]:
        """Record a new or imported key; end its retirement if it had begun."""
        label = normalize_label(label)
        with DriveTable(self._config.drive_table) as table:
            table.set_retiring(_from_hex(kek_hash), False)
        return {"label": label}

    def key_users(self, label: str, kek_hash: str) -> list[dict[str, Any]]:
        """Return the cartridges that need a key, by VOLSER and cartridge id."""
        return [
            {
                "volume": cartridge.volume,
                "cartridge_id": cartridge.cartridge_id,
                "keys": sorted(cartridge.keys),
                "last": cartridge.last,
            }
            for cartridge in self._users(label, _from_hex(kek_hash))
        ]

    def key_retire(self, label: str, kek_hash: str) -> dict[str, Any]:
        """Stop new use of a key, and check that no cartridge needs it.

        Afterwards it may be removed. Raises KeyInUseError, which lists cartridges; then the key
        stays in use.
        """
        identity = _from_hex(kek_hash)
        self._refuse_key_in_use(label, identity)
        with DriveTable(self._config.drive_table) as table:
            table.set_retiring(identity, True)
            try:
                self._sleep(SETTLING_SECONDS)
                self._refuse_key_in_use(label, identity)
            except BaseException:
                table.set_retiring(identity, False)
                raise
        return {"label": label}

    def key_retired(self, label: str, kek_hash: str, removed: bool) -> dict[str, Any]:
        """Record that a retiring key was removed, or that it stays in use."""
        if not removed:
            with DriveTable(self._config.drive_table) as table:
                table.set_retiring(_from_hex(kek_hash), False)
        return {"label": label, "removed": removed}

    def cartridge_forget(self, cartridges: list[list[str]]) -> list[dict[str, Any]]:
        """Forget cartridges that need no key: scrapped or overwritten in clear.

        Each is a pair of VOLSER and cartridge id (hexadecimal). An empty id stands for the only
        known cartridge of its VOLSER; "none" for one that is known from records without an id.
        Either all are forgotten or, with an EkmError, none.
        """
        try:
            pairs = [(volume, cartridge_id) for volume, cartridge_id in cartridges]
        except ValueError:
            raise TypeError from None  # the same as for other malformed arguments
        for volume, _ in pairs:
            check_volume(volume)
        known = read_known_cartridges(self._log.path) if any(not each for _, each in pairs) else {}
        chosen = [_select_cartridge(volume, cartridge_id, known) for volume, cartridge_id in pairs]
        for volume, cartridge_id in chosen:
            self._log.note(FORGOTTEN, outcome="ok", volume=volume, cartridge_id=cartridge_id)
        self._log.sync()
        return [{"volume": volume, "cartridge_id": cartridge_id} for volume, cartridge_id in chosen]

    def _users(self, label: str, kek_hash: bytes) -> list[KnownCartridge]:
        known = read_known_cartridges(self._log.path)
        return [known[each] for each in sorted(known) if needs_key(known[each], label, kek_hash)]

    def _refuse_key_in_use(self, label: str, kek_hash: bytes) -> None:
        users = list(map(str, self._users(label, kek_hash)))
        if users:
            more = (
                f" and {len(users) - _LISTED_CARTRIDGES} more"
                if len(users) > _LISTED_CARTRIDGES
                else ""
            )
            raise KeyInUseError(
                f"The key labelled {label!r} cannot be retired: "
                f"{len(users)} cartridge{'s need' if len(users) > 1 else ' needs'} it "
                f"({', '.join(users[:_LISTED_CARTRIDGES])}{more}); rekey or rewrite them, or run "
                "`rig ekm cartridge forget VOLSER --id ID` for one that is scrapped."
            )


def _select_cartridge(volume: str, cartridge_id: str, known: KnownCartridges) -> CartridgeKey:
    """Return the cartridge that is named; raise EkmError when it is ambiguous."""
    if cartridge_id == UNKNOWN_ID:
        return volume, ""
    if cartridge_id:
        if not _CARTRIDGE_ID.fullmatch(str(cartridge_id)):
            raise EkmError(
                f"A cartridge id is {2 * CARTRIDGE_ID_BYTES} hexadecimal digits or "
                f"'{UNKNOWN_ID}'; `rig ekm key users` shows it."
            )
        return volume, cartridge_id.lower()
    candidates = [each for each in sorted(known) if each[0] == volume]
    if len(candidates) > 1:
        listed = ", ".join(str(known[each]) for each in candidates[:_LISTED_CARTRIDGES])
        raise EkmError(
            f"{len(candidates)} cartridges of VOLSER {volume} are known ({listed}); nothing was "
            "forgotten. Name one with `--id`."
        )
    return candidates[0] if candidates else (volume, "")


def _from_hex(value: str) -> bytes:
    try:
        return bytes.fromhex(value)
    except (ValueError, TypeError):
        raise EkmError("A certificate, key or hash must be hexadecimal.") from None
