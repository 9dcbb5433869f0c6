"""The provenance of a run: its open lab, and the build of its gates."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hdl.errors import HdlError
from hsm.errors import TaperigError
from hsm.files import read_limited
from rig.engine.driver import Engine
from rig.lab.model import BoardUnit
from rig.results.provenance import (
    BoardAddress,
    Gates,
    KeyManagerFacts,
    LabFile,
    Origin,
    Provenance,
    TokenFacts,
)
from rig.testbed.session import LabSession
from rig.testbed.state import bitstream_folder

_MAX_LAB_BYTES = 4 << 20
_MAX_REPORT_BYTES = 16 << 20
_HASH_DIGITS = 8
"""Of the source hash, BUILD_HASH reads so many hexadecimal digits."""
_SERIAL_LINE = re.compile(r"ASRL(\S+)::INSTR")


class UnknownBuildError(TaperigError):
    """A board has gates that neither this checkout nor a recorded build has."""


@dataclass(frozen=True, slots=True)
class _KnownBuild:
    """A build that gates may have."""

    origin: Origin
    target: str | None
    source_hash: str
    bitstream_sha256: str | None = None

    @property
    def build_hash(self) -> str:
        return f"0x{self.source_hash[:_HASH_DIGITS]}"


def lab_file(path: Path) -> LabFile | None:
    """Return a lab file's path and hash; None where it cannot be read again."""
    if not path.is_file():  # a pipe is empty now
        return None
    try:
        content = read_limited(path, _MAX_LAB_BYTES)
    except OSError:
        return None
    return LabFile(str(path.absolute()), hashlib.sha256(content).hexdigest())


def board_address(unit: BoardUnit) -> BoardAddress:
    """Return where a board is."""
    return BoardAddress(unit.resource, usb_serial(unit.resource))


def usb_serial(resource: str | None) -> str | None:
    """Return the serial number of the USB adapter of a serial line.

    None for other resources, and where the system names none.
    """
    line = _SERIAL_LINE.fullmatch(resource or "")
    if line is None:
        return None
    from serial.tools import list_ports

    device = os.path.realpath(line[1])
    for port in list_ports.comports():
        if os.path.realpath(port.device) == device:
            return port.serial_number
    return None


def data_sha256(files: Iterable[Path]) -> str | None:
    """Return the SHA-256 over those of the files, in their order.

    It is that of a list with a line for each file. None where one cannot be read: what is wrong
    with it is said by what writes it to tape.
    """
    digest = hashlib.sha256()
    try:
        for path in files:
            with path.open("rb") as file:
                digest.update(f"{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    except OSError:
        return None
    return digest.hexdigest()


def describe_session(provenance: Provenance, session: LabSession) -> None:
    """Write into a provenance what an open session shows."""
    provisioned = session.provisioned
    provenance.tokens = [
        TokenFacts(name, token.config.label, **token.identity.model_dump())
        for name, token in provisioned.tokens.items()
    ] + [
        TokenFacts(f"drive {drive.serial}", drive.token.label, **drive.identity.model_dump())
        for drive in provisioned.drives
    ]
    provenance.key_managers = [
        KeyManagerFacts(each.name, str(each.client.endpoint), each.client.certificate_sha256)
        for each in session.proxy.connections.all
    ]
    provenance.link_faults = session.drive.engine.link_faults


def identify_gates(engine: Engine, unit: BoardUnit, state: Path, *, waves: bool = False) -> Gates:
    """Return the build of gates, by the hash that they report.

    ``waves`` says that they are simulated here with a waveform. Raises UnknownBuildError where the
    builds of this checkout cannot be told.
    """
    from hdl.sources import rtl_sha256

    found = f"{engine.build_hash:#010x}"
    try:
        builds = _known_builds(engine, unit, state, waves)
        known = next((each for each in builds if each.build_hash == found), None)
        here = known is not None and known.origin == "checkout"
        return Gates(
            build_hash=found,
            origin="other" if known is None else known.origin,
            target=None if known is None else known.target,
            source_hash=None if known is None else known.source_hash,
            rtl_sha256=rtl_sha256() if here else None,
            bitstream_sha256=None if known is None else known.bitstream_sha256,
            simulated=engine.simulated,
            word_bytes=engine.promise.word_bytes,
        )
    except (HdlError, OSError) as error:
        raise UnknownBuildError(f"The build of the gates cannot be told: {error}") from error


def require_known_build(
    gates: Gates, engine: Engine, name: str, unit: BoardUnit, state: Path
) -> None:
    """Raise UnknownBuildError for gates of an unknown build."""
    if gates.origin != "other":
        return
    expected: dict[Origin, list[str]] = {"checkout": [], "recorded build": []}
    for each in _known_builds(engine, unit, state, waves=False):
        board = "" if each.target is None else f" for {each.target}"
        expected[each.origin].append(f"{each.build_hash}{board}")
    recorded = ""
    if expected["recorded build"]:
        recorded = f" (recorded in last_build.json: {', '.join(expected['recorded build'])})"
    cure = "start its `rig board serve` anew from this checkout"
    if not gates.simulated:
        cure = "load them with `rig board build` and `rig board program`"
    raise UnknownBuildError(
        f"Board {name} has gates of build {gates.build_hash}, and this checkout's are "
        f"{', '.join(expected['checkout'])}{recorded}, so they were not judged; {cure}, or judge "
        "them as they are with --any-build."
    )


def _known_builds(
    engine: Engine, unit: BoardUnit, state: Path, waves: bool
) -> Iterator[_KnownBuild]:
    """Yield the builds that gates may have, those of this checkout first."""
    from hdl.verilator.toolchain import find_toolchain

    if unit.resource is None:
        from hdl.sim.launch import simulation_recipe

        recipe = simulation_recipe("waves" if waves else "plain", word_bytes=unit.word_bytes)
        yield _KnownBuild("checkout", None, recipe.digest(find_toolchain()))
    elif engine.simulated:
        from hdl.boards.virtual.launch import virtual_recipe

        recipe = virtual_recipe(
            bank_bytes=engine.max_data_bytes, word_bytes=engine.promise.word_bytes
        )
        yield _KnownBuild("checkout", None, recipe.digest(find_toolchain()))
    else:
        yield from _bitstreams(unit, state)


def _bitstreams(unit: BoardUnit, state: Path) -> Iterator[_KnownBuild]:
    from hdl.fpga.synthesis import REPORT, source_hash
    from hdl.fpga.targets import TARGETS, find_target, last_build

    targets = TARGETS.values() if unit.fpga is None else [find_target(unit.fpga)]
    recorded = {target.name: last_build(target) for target in targets}
    for target in targets:
        here, last = source_hash(target), recorded[target.name]
        if last is not None and last.source_hash == here:
            bitstream: str | None = last.bitstream_sha256
        else:
            bitstream = _built_here(bitstream_folder(state, target.name) / REPORT, here)
        yield _KnownBuild("checkout", target.name, here, bitstream)
    for name, last in recorded.items():
        if last is not None:
            yield _KnownBuild("recorded build", name, last.source_hash, last.bitstream_sha256)


def _built_here(report: Path, source_hash: str) -> str | None:
    """Return the hash of the bitstream in a report, if of these sources."""
    try:
        found = json.loads(read_limited(report, _MAX_REPORT_BYTES))
        return str(found["bitstream_sha256"]) if found["source_hash"] == source_hash else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
