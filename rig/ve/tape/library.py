"""The library: cartridge files in a folder, the pool that each belongs to, and the mounting.

`library.json` beside the files tells the pool of each cartridge and whether it is scratch:

    {"version": 1, "volumes": {"TAP001": {"pool": 1, "scratch": false}}}

It is replaced whole, so a power cut leaves the old one or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hsm.errors import TaperigError
from hsm.files import sync_directory
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import SUFFIX, check_volser

CATALOGUE = "library.json"
_MAX_CATALOGUE_BYTES = 16 * 1024 * 1024


class LibraryError(TaperigError):
    """The library does not have what was asked for, or its catalogue cannot be used."""


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """What the library knows of a cartridge without mounting it."""

    volser: str
    pool: int
    scratch: bool = True


class Library:
    """The cartridges in one folder, of which one is mounted at a time."""

    def __init__(self, folder: Path) -> None:
        """Read the catalogue; an absent folder is made."""
        self.folder = folder
        self._mounted: str | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LibraryError(
                f"Cannot make the cartridge folder {folder}: {error.strerror}; choose another."
            ) from error
        self._volumes = {volume.volser: volume for volume in self._read()}

    def volumes(self, pool: int | None = None) -> list[PhysicalVolume]:
        """All cartridges, or those of a pool, by VOLSER."""
        return [
            volume
            for _, volume in sorted(self._volumes.items())
            if pool is None or volume.pool == pool
        ]

    def __getitem__(self, volser: str) -> PhysicalVolume:
        """Return what is known of a cartridge."""
        try:
            return self._volumes[volser]
        except KeyError:
            raise LibraryError(
                f"There is no cartridge {volser[:40]!r} in the library {self.folder}; it has "
                f"{len(self._volumes)}."
            ) from None

    def path(self, volser: str) -> Path:
        """Return the file of a cartridge."""
        return self.folder / f"{self[volser].volser}{SUFFIX}"

    def add(self, volser: str, pool: int) -> PhysicalVolume:
        """Make a blank scratch cartridge in a pool."""
        if check_volser(volser) in self._volumes:
            raise LibraryError(f"The library has a cartridge {volser} already; choose another.")
        Cartridge.create(self.folder / f"{volser}{SUFFIX}", volser)
        return self._set(PhysicalVolume(volser, pool))

    def scratch(self, pool: int) -> str:
        """Choose a scratch cartridge of a pool; when it has none, a new one is taken in."""
        for volume in self.volumes(pool):
            if volume.scratch:
                return volume.volser
        return self.add(self._next_volser(), pool).volser

    def to_write(self, pool: int, volser: str | None) -> str:
        """The cartridge to write from BOT for a pool: the one named, or a scratch one."""
        if volser is None:
            return self.scratch(pool)
        if self[volser].pool != pool:
            raise LibraryError(
                f"Cartridge {volser} is in pool {self[volser].pool}, not {pool}; name one of that "
                f"pool."
            )
        return volser

    def mark_written(self, volser: str) -> None:
        """Record that a cartridge holds data: it is no longer scratch."""
        self._set(replace(self[volser], scratch=False))

    def return_to_scratch(self, volser: str) -> None:
        """Let a cartridge be written from BOT again; its data stays until then."""
        self._set(replace(self[volser], scratch=True))

    @contextlib.contextmanager
    def mounted(self, volser: str, *, write: bool) -> Iterator[Cartridge]:
        """Mount a cartridge for as long as the context lasts."""
        path = self.path(volser)
        if self._mounted is not None:
            raise LibraryError(
                f"Cannot mount {volser}: {self._mounted} is mounted; demount it first."
            )
        with Cartridge.open(path, write=write) as cartridge:
            if cartridge.volser != volser:
                raise LibraryError(
                    f"The cartridge in {path} is {cartridge.volser}, not {volser}: files were "
                    f"exchanged; put them back."
                )
            self._mounted = volser
            try:
                yield cartridge
            finally:
                self._mounted = None

    def _next_volser(self) -> str:
        """TAP001 to TAP999, then T01000 and on: the first that no cartridge and no file has."""
        for number in range(1, 100_000):
            volser = f"TAP{number:03}" if number < 1000 else f"T{number:05}"
            if volser not in self._volumes and not (self.folder / f"{volser}{SUFFIX}").exists():
                return volser
        raise LibraryError(f"The library {self.folder} has no VOLSER left; use another folder.")

    def _set(self, volume: PhysicalVolume) -> PhysicalVolume:
        self._volumes[volume.volser] = volume
        self._write()
        return volume

    def _read(self) -> Iterator[PhysicalVolume]:
        path = self.folder / CATALOGUE
        try:
            if path.stat().st_size > _MAX_CATALOGUE_BYTES:
                raise self._broken(path, "it is too long")
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except OSError as error:
            raise LibraryError(f"Cannot read {path}: {error.strerror}.") from error
        except ValueError as error:
            raise self._broken(path, "it is not JSON") from error
        if not isinstance(content, dict) or content.get("version") != 1:
            raise self._broken(path, "it has no version 1")
        volumes = content.get("volumes")
        if not isinstance(volumes, dict):
            raise self._broken(path, "it has no volumes")
        for volser, entry in volumes.items():
            yield self._entry(path, volser, entry)

    def _entry(self, path: Path, volser: str, entry: Any) -> PhysicalVolume:
        match entry:
            case {"pool": int(pool), "scratch": bool(scratch)} if re.fullmatch(
                r"[A-Z0-9]{6}", volser
            ):
                return PhysicalVolume(volser, pool, scratch)
        raise self._broken(path, f"its entry {volser[:40]!r} is wrong")

    def _broken(self, path: Path, what: str) -> LibraryError:
        return LibraryError(
            f"The library's catalogue {path} is damaged ({what}); restore it, or remove it to begin"
            f" an empty library."
        )

    def _write(self) -> None:
        content = {
            "version": 1,
            "volumes": {
                volume.volser: {"pool": volume.pool, "scratch": volume.scratch}
                for volume in self.volumes()
            },
        }
        path = self.folder / CATALOGUE
        new = path.with_suffix(".new")
        try:
            with new.open("w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
            sync_directory(self.folder)
        except OSError as error:
            raise LibraryError(
                f"Cannot write {path}: {error.strerror}; check the folder and its free space."
            ) from error
