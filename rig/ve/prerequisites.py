"""Prerequisites of encryption and their order (PRE-1 to PRE-7).

An `Installation` is the installed hardware, as plain values. `findings` returns everything that is
wrong with it, each with its rule, the part that it is about and what to do; `drives_in_use` returns
which drives the VE uses; `next_step` the next step of the installation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from hsm.errors import TaperigError

ENCRYPTION_LICENSE = 9900
ENCRYPTION_CAPABLE = frozenset({5592, 9592})
ENCRYPTION_IN_3494 = frozenset({9596, 5596})  # plant, field
MIXED_MINIMUM = 4
"""Capable E05 drives that a VE must have which still has J1A drives beside them (PRE-1)."""


class PrerequisiteError(TaperigError):
    """A prerequisite of what was asked for is missing."""


class LibraryType(StrEnum):
    """The tape library that the drives are in."""

    TS3500 = "TS3500"
    L3494 = "3494"


class DriveModel(StrEnum):
    """A 3592 drive's model."""

    J1A = "J1A"
    E05 = "E05"


class EncryptionMethod(StrEnum):
    """Who manages a drive's encryption; the VE uses `SYSTEM` only (PRE-5)."""

    NONE = "none"
    SYSTEM = "system-managed"
    LIBRARY = "library-managed"
    APPLICATION = "application-managed"


MicrocodeLevel = tuple[int, ...]
"""A microcode level, number by number: 8.2.0.19 is (8, 2, 0, 19)."""

MICROCODE: dict[LibraryType, MicrocodeLevel] = {
    LibraryType.TS3500: (8, 2, 0, 19),
    LibraryType.L3494: (8, 2, 0, 27),
}
LIBRARY_MANAGER: MicrocodeLevel = (534, 31)


@dataclass(frozen=True, slots=True)
class InstalledDrive:
    """A drive attached to the VE."""

    serial: str
    model: DriveModel = DriveModel.E05
    features: frozenset[int] = ENCRYPTION_CAPABLE
    native: bool = True
    """Whether it runs in E05 mode; otherwise it emulates a J1A."""
    method: EncryptionMethod = EncryptionMethod.SYSTEM
    verified: bool = True
    """Whether it was verified, at the drive, that it is encryption-capable."""

    @property
    def capable(self) -> bool:
        """Whether it can encrypt: an E05 with feature 5592 or 9592 (PRE-1)."""
        return self.model is DriveModel.E05 and bool(self.features & ENCRYPTION_CAPABLE)


@dataclass(frozen=True, slots=True)
class Installation:
    """A VE with its library, drives, features and key managers."""

    drives: tuple[InstalledDrive, ...]
    library: LibraryType = LibraryType.TS3500
    microcode: MicrocodeLevel = MICROCODE[LibraryType.TS3500]
    library_manager: MicrocodeLevel = LIBRARY_MANAGER
    features: frozenset[int] = frozenset({ENCRYPTION_LICENSE})
    forces_j1a: bool = False
    """Whether the VE is configured to run its drives in J1A mode."""
    ekms: int = 1
    """Key managers whose addresses are configured."""
    connection_verified: bool = True
    """Whether "verify connection" found every key manager and every key label."""


@dataclass(frozen=True, slots=True)
class UnmetPrerequisite:
    """An unmet prerequisite: its rule, its subject and a remedy."""

    rule: str
    subject: str
    message: str

    def __str__(self) -> str:
        """Return the sentence with its rule."""
        return f"{self.message} ({self.rule})"


# What is wrong


def findings(installation: Installation) -> list[UnmetPrerequisite]:
    """Return everything that keeps a VE from encrypting, by rule."""
    return [
        *_drive_models(installation),
        *_features_in_3494(installation),
        *_levels(installation),
        *_license(installation),
        *_methods(installation),
    ]


def _drive_models(installation: Installation) -> Iterable[UnmetPrerequisite]:
    drives = installation.drives
    capable = [drive for drive in drives if drive.capable]
    old = [drive for drive in drives if drive.model is DriveModel.J1A]
    for drive in drives:
        if drive.model is DriveModel.E05 and not drive.capable:
            yield UnmetPrerequisite(
                "PRE-1",
                drive.serial,
                f"Drive {drive.serial} is an E05 without feature 5592 or 9592 and cannot encrypt; "
                f"have the feature installed, or detach the drive.",
            )
        elif drive.capable and not drive.native:
            yield UnmetPrerequisite(
                "PRE-1",
                drive.serial,
                f"Drive {drive.serial} emulates a J1A; have it set to native (E05) mode.",
            )
    if not capable:
        yield UnmetPrerequisite(
            "PRE-1",
            "drives",
            "No drive attached to the VE can encrypt; attach E05 drives with feature 5592 or 9592.",
        )
    elif old and len(capable) < MIXED_MINIMUM:
        names = ", ".join(drive.serial for drive in old)
        yield UnmetPrerequisite(
            "PRE-1",
            names,
            f"With J1A drives attached ({names}) the VE needs at least {MIXED_MINIMUM} capable E05 "
            f"drives and has {len(capable)}; detach the J1A drives, or attach more E05.",
        )


def _features_in_3494(installation: Installation) -> Iterable[UnmetPrerequisite]:
    if installation.library is not LibraryType.L3494:
        return
    for drive in installation.drives:
        if drive.capable and not drive.features & ENCRYPTION_IN_3494:
            yield UnmetPrerequisite(
                "PRE-2",
                drive.serial,
                f"Drive {drive.serial} is in a 3494 library without feature 9596 (plant) or 5596 "
                f"(field); have 5596 installed.",
            )


def _levels(installation: Installation) -> Iterable[UnmetPrerequisite]:
    needed = MICROCODE[installation.library]
    if installation.microcode < needed:
        yield UnmetPrerequisite(
            "PRE-3",
            "VE",
            f"The VE has microcode {level_text(installation.microcode)}; with a "
            f"{installation.library} library it needs {level_text(needed)} or higher: update it.",
        )
    if installation.library_manager < LIBRARY_MANAGER:
        yield UnmetPrerequisite(
            "PRE-3",
            "library manager",
            f"The library manager has microcode {level_text(installation.library_manager)} and "
            f"needs {level_text(LIBRARY_MANAGER)} or higher: update it.",
        )


def _license(installation: Installation) -> Iterable[UnmetPrerequisite]:
    if ENCRYPTION_LICENSE not in installation.features:
        yield UnmetPrerequisite(
            "PRE-4",
            "VE",
            f"The VE has no feature {ENCRYPTION_LICENSE}, so the encryption settings are closed; "
            f"install its license key.",
        )
    if installation.forces_j1a:
        yield UnmetPrerequisite(
            "PRE-4",
            "VE",
            "The VE is configured to force its drives into J1A mode, in which none encrypts; have "
            "service change that setting.",
        )


def _methods(installation: Installation) -> Iterable[UnmetPrerequisite]:
    for drive in installation.drives:
        if drive.capable and drive.method is not EncryptionMethod.SYSTEM:
            yield UnmetPrerequisite(
                "PRE-5",
                drive.serial,
                f"Drive {drive.serial} has the encryption method {drive.method}; the VE uses "
                f"system-managed drives only: set it so at the library.",
            )


def require_encryption_settings(installation: Installation) -> None:
    """Raise unless the encryption settings of pools may be used (PRE-4).

    Raises PrerequisiteError.
    """
    for finding in _license(installation):
        raise PrerequisiteError(str(finding))


def encryption_refusals(installation: Installation, serials: Iterable[str]) -> dict[str, str]:
    """Return why drives of these serials may not write encrypted (PRE-7).

    What is wrong with the VE or the library concerns every drive.
    """
    known = {drive.serial: drive for drive in installation.drives}
    wrong = findings(installation)
    single = {drive.serial for drive in installation.drives if drive.model is DriveModel.E05}
    general = [each for each in wrong if each.subject not in single]
    refusals = {}
    for serial in serials:
        drive = known.get(serial)
        own = [each for each in wrong if each.subject == serial]
        if drive is None:
            refusals[serial] = (
                f"Drive {serial} is not among the installed drives of the lab file; add it to "
                f"installation: drives. (PRE-7)"
            )
        elif general or own:
            refusals[serial] = str((*own, *general)[0])
        elif not drive.capable:
            refusals[serial] = f"Drive {serial} cannot encrypt; attach another. (PRE-1)"
    return refusals


# Which drives are used


@dataclass(frozen=True, slots=True)
class DriveUse:
    """Whether the VE uses a drive; `message` says why not."""

    drive: InstalledDrive
    online: bool
    message: str = ""


def drives_in_use(installation: Installation, *, encrypted_volumes: bool) -> list[DriveUse]:
    """Return which drives the VE uses, in their order.

    J1A drives are not used beside native E05 drives, since a VE has drives of one type (PRE-1).
    Once encrypted volumes are in use, so is no drive that is not enabled for them (PRE-5).
    """
    e05_in_use = any(drive.capable and drive.native for drive in installation.drives)
    return [
        _use(installation, drive, e05_in_use, encrypted_volumes) for drive in installation.drives
    ]


def _use(
    installation: Installation, drive: InstalledDrive, e05_in_use: bool, encrypted_volumes: bool
) -> DriveUse:
    if drive.model is DriveModel.J1A and e05_in_use:
        return DriveUse(
            drive,
            False,
            f"Drive {drive.serial} is a J1A and is not used beside native E05 drives; detach it. "
            f"(PRE-1)",
        )
    if encrypted_volumes:
        checks = (_features_in_3494, _methods, _drive_models)
        wrong = [
            str(finding)
            for check in checks
            for finding in check(installation)
            if finding.subject == drive.serial
        ]
        if wrong or not drive.capable:
            why = wrong[0] if wrong else f"Drive {drive.serial} cannot encrypt; detach it. (PRE-1)"
            return DriveUse(
                drive, False, f"Encrypted volumes are in use, so this is offline: {why}"
            )
    return DriveUse(drive, True)


# The order of installation


class Step(StrEnum):
    """The steps of installing encryption, in their order (PRE-6)."""

    CAPABLE_DRIVES = "find the encryption-capable drives"
    VERIFIED = "verify them at the drives"
    SYSTEM_MANAGED = "set them to system-managed encryption"
    LICENSE = "install the license key of feature 9900"
    EKM_ADDRESSES = "set the addresses of the key managers"
    VERIFY_CONNECTION = "verify the connection to the key managers"


def steps_done(installation: Installation) -> dict[Step, bool]:
    """Return for each step, in their order, whether what it is for is there."""
    capable = [drive for drive in installation.drives if drive.capable]
    return {
        Step.CAPABLE_DRIVES: bool(capable),
        Step.VERIFIED: all(drive.verified for drive in capable),
        Step.SYSTEM_MANAGED: not list(_methods(installation)),
        Step.LICENSE: not list(_license(installation)),
        Step.EKM_ADDRESSES: installation.ekms > 0,
        Step.VERIFY_CONNECTION: installation.connection_verified,
    }


def next_step(installation: Installation) -> Step | None:
    """Return the first step that is not done, or None when all are."""
    return next((step for step, done in steps_done(installation).items() if not done), None)


def require_step(installation: Installation, step: Step) -> None:
    """Raise PrerequisiteError unless all steps before `step` are done (PRE-6)."""
    for earlier, done in steps_done(installation).items():
        if earlier is step:
            return
        if not done:
            raise PrerequisiteError(
                f"It is too early to {step}: first {earlier}. `rig ve prerequisites` lists all. "
                f"(PRE-6)"
            )


# Levels


def parse_level(text: str) -> MicrocodeLevel:
    """Read a microcode level such as 8.2.0.19; raises PrerequisiteError."""
    parts = text.split(".")
    if not all(part.isascii() and part.isdigit() and len(part) <= 6 for part in parts):
        raise PrerequisiteError(
            f"{text[:40]!r} is no microcode level; give numbers with dots, such as 8.2.0.19."
        )
    return tuple(map(int, parts))


def level_text(level: MicrocodeLevel) -> str:
    """Return a level as it is written."""
    return ".".join(map(str, level))
