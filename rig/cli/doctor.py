"""``rig doctor``: check everything that a run needs; change nothing."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hsm.errors import TaperigError
from rig.cli.options import JsonOption, LabOption, lab_of, print_json

if TYPE_CHECKING:
    from rig.lab.model import Lab

_SPACE_MB = {"cache": 300, "state": 200, "temporary": 300}
_DEBIAN = "apt-get install {}"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing that a run needs, and whether it is there.

    ``status`` is ``ok``, ``missing`` or, where only a part of the rig needs it, ``lacks``.
    """

    name: str
    status: str
    text: str
    cure: str = ""


def doctor(lab: LabOption = None, as_json: JsonOption = False) -> None:
    """Check everything that a run needs; say what to do where it is missing.

    Makes, starts and opens nothing. Exits 0 when all that a run needs is there, else 1.
    """
    requirements = [*_python(), *_tools(), *_token_tools(), *_folders(), *_lab(lab), *_optional()]
    good = all(each.status != "missing" for each in requirements)
    if as_json:
        print_json({"ok": good, "requirements": [asdict(each) for each in requirements]})
    else:
        width = max(len(each.name) for each in requirements)
        for each in requirements:
            print(f"{each.status:<7}  {each.name:<{width}}  {each.text}")
            if each.cure:
                print(f"{'':<7}  {'':<{width}}  {each.cure}")
        missing = sum(each.status == "missing" for each in requirements)
        print("\nall that a run needs is there" if good else f"\n{missing} missing")
    raise typer.Exit(0 if good else 1)


def _ok(name: str, text: str) -> Requirement:
    return Requirement(name, "ok", text)


def _missing(name: str, text: str, cure: str, *, needed: bool = True) -> Requirement:
    return Requirement(name, "missing" if needed else "lacks", text, cure)


def _checked(name: str, check: Callable[[], object], *, needed: bool = True) -> Requirement:
    """Return the outcome of a check as a requirement.

    An error of the check says what is missing and, after a semicolon, what to do.
    """
    from hdl.errors import HdlError

    try:
        answer = check()
    except (HdlError, TaperigError) as error:
        text, _, cure = str(error).rpartition("; ")
        return _missing(name, text or cure, cure if text else "", needed=needed)
    return _ok(name, "found" if answer is None else str(answer))


def _python() -> Iterator[Requirement]:
    from importlib import metadata

    from hdl.verilator.toolchain import require_libpython

    yield _ok("Python", sys.version.split()[0] + f", {sys.executable}")
    yield _checked("shared libpython", require_libpython)
    try:
        required = [each for each in metadata.requires("taperig") or () if "extra ==" not in each]
    except metadata.PackageNotFoundError:
        yield _missing("Python packages", "this package is not installed", "make setup")
        return
    names = [re.split(r"[^\w.-]", each)[0] for each in required]
    absent = [name for name in names if not _installed(name)]
    if absent:
        yield _missing("Python packages", f"not installed: {', '.join(absent)}", "make setup")
    else:
        yield _ok("Python packages", f"all {len(names)}, cocotb {metadata.version('cocotb')}")


def _installed(name: str) -> bool:
    from importlib import metadata

    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _tools() -> Iterator[Requirement]:
    from hdl.verilator.toolchain import require_fst
    from rig.cli.version import describe
    from rig.results.provenance import simulator

    absent = False
    for name, program in (("C++ compiler", "g++"), ("make", "make"), ("perl", "perl")):
        path = shutil.which(program)
        absent |= path is None
        if path is None:
            yield _missing(name, f"{program} is not on PATH", _DEBIAN.format(program))
        else:
            yield _ok(name, path)
    if absent:
        yield _missing("Verilator", "not checked without the programs above", "install them first")
        return
    yield _checked("Verilator", simulator)
    yield _checked("zlib and lz4 headers", require_fst, needed=False)
    if (gates := describe())["gates"] is not None:
        built = "built" if gates["built"] else "not built yet; the first run builds it"
        yield _ok("simulation", f"{gates['gates']}, {built}")


def _token_tools() -> Iterator[Requirement]:
    from hsm.pkcs11.softhsm import find_module

    yield _checked("SoftHSM library", find_module)
    if path := shutil.which("softhsm2-util"):
        yield _ok("softhsm2-util", path)
    else:
        yield _missing("softhsm2-util", "not on PATH", _DEBIAN.format("softhsm2"), needed=False)


def _folders() -> Iterator[Requirement]:
    from hdl.verilator.verilate import cache_path
    from rig.testbed.state import state_path

    for name, path_of, cure in (
        ("cache", cache_path, "set XDG_CACHE_HOME to a folder that you can write"),
        ("state", state_path, "set TAPERIG_STATE to a folder that you can write"),
        ("temporary", _temporary_path, "set TMPDIR to a folder that you can write"),
    ):
        yield _folder(f"{name} folder", path_of, _SPACE_MB[name], cure)


def _temporary_path() -> Path:
    return Path(tempfile.gettempdir())


def _folder(name: str, path_of: Callable[[], Path], wanted_mb: int, cure: str) -> Requirement:
    from hdl.errors import HdlError

    try:
        nearest = path = path_of()
    except (HdlError, TaperigError, OSError) as error:
        return _missing(name, str(error).partition("; ")[0], cure)
    try:
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        free_mb = shutil.disk_usage(nearest).free / 1e6
    except OSError as error:
        return _missing(name, f"{path} cannot be used ({error.strerror})", cure)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return _missing(name, f"{path} cannot be written", cure)
    if free_mb < wanted_mb:
        text = f"{path} has {free_mb:.0f} MB free, less than {wanted_mb} MB"
        return _missing(name, text, f"free some space, or {cure}")
    when = "" if path.exists() else ", made when needed"
    return _ok(name, f"{path}, {free_mb / 1e3:,.1f} GB free{when}")


def _lab(path: Path | None) -> Iterator[Requirement]:
    try:
        lab = lab_of(path)
    except TaperigError as error:
        yield _missing("lab file", str(error), "correct it, or name another with --lab")
        return
    yield _ok("lab file", f"lab {lab.name}")
    for ekm in lab.ekms:
        yield _key_manager(ekm.name, ekm.host, ekm.port, starts=ekm.start)
    for name in sorted({drive.board for drive in lab.drives}):
        if resource := lab.boards[name].resource:
            yield _board(f"board {name}", resource)
    yield from _tokens(lab)


def _key_manager(name: str, host: str, port: int, *, starts: bool) -> Requirement:
    """Check that a key manager can listen, or that its host has an address."""
    title = f"key manager {name}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        return _missing(title, f"{host} has no address ({error.strerror})", "correct its host")
    if not starts:
        return _ok(title, f"{host}:{port}; not opened, `rig ekm verify` asks it")
    with socket.socket(family, kind) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            cure = "stop what uses the port, or give the key manager another one in the lab file"
            return _missing(title, f"{host}:{port} is not free ({error.strerror})", cure)
    return _ok(title, f"{host}:{port} is free" if port else f"{host}, any free port")


def _board(title: str, resource: str) -> Requirement:
    """Check a board's resource without opening it.

    Some boards take one connection only.
    """
    if match := re.fullmatch(r"TCPIP\d*::([^:]+)::(\d+)::SOCKET", resource, re.I):
        try:
            socket.getaddrinfo(match[1], int(match[2]), type=socket.SOCK_STREAM)
        except OSError as error:
            text = f"{match[1]} has no address ({error.strerror})"
            return _missing(title, text, "correct its resource in the lab file")
    if match := re.fullmatch(r"ASRL(/.+)::INSTR", resource, re.I):
        if not Path(match[1]).exists():
            cure = "connect it, or correct its resource"
            return _missing(title, f"{match[1]} does not exist", cure)
        if not os.access(match[1], os.R_OK | os.W_OK):
            cure = "add yourself to the group of the device (dialout)"
            return _missing(title, f"you may not open {match[1]}", cure)
    return _ok(title, f"{resource}, not opened")


def _tokens(lab: Lab) -> Iterator[Requirement]:
    for name, token in lab.tokens.items():
        title = f"token {name}"
        if token.module != "softhsm" and not Path(token.module).is_file():
            cure = "correct its module in the lab file"
            yield _missing(title, f"{token.module} does not exist", cure)
            continue
        wrong = [fault for pin in (token.pin, token.so_pin) if pin for fault in _pin_faults(pin)]
        if wrong:
            yield _missing(title, " and ".join(wrong), "provide it, or correct the lab file")
        else:
            yield _ok(title, f"{token.label}, {token.module}")


def _pin_faults(pin: object) -> Iterator[str]:
    env, file = getattr(pin, "env", None), getattr(pin, "file", None)
    if env is not None and not os.environ.get(env):
        yield f"the PIN's variable {env} is not set"
    if file is not None and not os.access(file, os.R_OK):
        yield f"the PIN's file {file} cannot be read"
    elif file is not None and file.stat().st_mode & 0o077:
        yield f"the PIN's file {file} may be read by others (chmod 600)"


def _optional() -> Iterator[Requirement]:
    from hdl.fpga import tools
    from hdl.fpga.families import FAMILIES

    placing = [tool for family in FAMILIES for tool in (family.placer, family.packer)]
    for program in (tools.SYNTHESIS, *placing, tools.LOADER):
        yield _checked(program, partial(tools.find_tool, program), needed=False)
    if _installed("cryptography-vectors"):
        yield _ok("NIST's vectors", "`rig kat --list` names them")
    else:
        cure = "pip install cryptography-vectors"
        yield _missing("NIST's vectors", "not installed", cure, needed=False)
