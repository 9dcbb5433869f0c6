"""The installation in a lab file, which decides if the VE may encrypt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from hsm.configuration.part import Part
from hsm.configuration.yaml_source import WrittenFloat
from rig.ve.prerequisites import (
    ENCRYPTION_LICENSE,
    LIBRARY_MANAGER,
    MICROCODE,
    DriveModel,
    EncryptionMethod,
    Installation,
    InstalledDrive,
    LibraryType,
    level_text,
    parse_level,
)


def _as_text(value: object) -> object:
    """Return a number as it is written: YAML reads 534.40 as 534.4."""
    if isinstance(value, WrittenFloat):
        return value.text
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


LEVEL_RULE = "a level of numbers with dots, quoted when there is one dot: '534.31'"
LevelText = Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^\d{1,6}(\.\d{1,6}){0,7}$")]
Feature = Annotated[int, Field(ge=1000, le=9999)]


class InstalledDriveUnit(Part):
    """A drive attached to the VE, with the features that it was ordered with."""

    serial: str = Field(
        pattern=r"^[A-Z0-9]{1,12}$",
        description="1 to 12 capital letters and digits, quoted when all are digits",
    )
    model: Literal["E05", "J1A"] = Field(default="E05", description="E05 or J1A")
    features: tuple[Feature, ...] = Field(
        default=(), strict=False, description="a list of feature codes, such as [9592]"
    )
    native: bool = Field(default=True, description="true (E05 mode) or false (J1A emulation)")
    method: Literal["none", "system-managed", "library-managed", "application-managed"] = Field(
        default="system-managed",
        description="none, system-managed, library-managed or application-managed",
    )
    verified: bool = Field(default=True, description="true or false")


class InstallationPart(Part):
    """The installation: library, microcode levels, features, drives."""

    library: Annotated[Literal["TS3500", "3494"], BeforeValidator(_as_text)] = Field(
        default="TS3500", description="TS3500 or 3494"
    )
    microcode: LevelText = Field(
        default=level_text(MICROCODE[LibraryType.TS3500]), description=LEVEL_RULE
    )
    library_manager: LevelText = Field(default=level_text(LIBRARY_MANAGER), description=LEVEL_RULE)
    features: tuple[Feature, ...] = Field(
        default=(ENCRYPTION_LICENSE,), strict=False, description="a list of feature codes: [9900]"
    )
    forces_j1a: bool = Field(default=False, description="true or false")
    drives: tuple[InstalledDriveUnit, ...] = Field(
        min_length=1, strict=False, description="a list of at least one drive"
    )

    def record(self, ekms: int, *, connection_verified: bool = True) -> Installation:
        """Return the record that the checks of the prerequisites take."""
        return Installation(
            drives=tuple(
                InstalledDrive(
                    serial=drive.serial,
                    model=DriveModel(drive.model),
                    features=frozenset(drive.features),
                    native=drive.native,
                    method=EncryptionMethod(drive.method),
                    verified=drive.verified,
                )
                for drive in self.drives
            ),
            library=LibraryType(self.library),
            microcode=parse_level(self.microcode),
            library_manager=parse_level(self.library_manager),
            features=frozenset(self.features),
            forces_j1a=self.forces_j1a,
            ekms=ekms,
            connection_verified=connection_verified,
        )
