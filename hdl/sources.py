"""The SystemVerilog files, in an order that a compiler accepts."""

import hashlib
import re
from pathlib import Path

from hdl.errors import BuildError
from hdl.files import read_text

HDL_DIRECTORY = Path(__file__).parent
RTL_DIRECTORY = HDL_DIRECTORY / "rtl"
GENERATED_DIRECTORY = RTL_DIRECTORY / "generated"
SIM_DIRECTORY = HDL_DIRECTORY / "sim"
BOARD_DIRECTORY = HDL_DIRECTORY / "boards" / "common"
VIRTUAL_DIRECTORY = HDL_DIRECTORY / "boards" / "virtual"


def rtl_packages() -> list[Path]:
    """Return the packages of the design, each after those that it uses."""
    waiting = {path.stem: path for path in sorted(RTL_DIRECTORY.rglob("*_pkg.sv"))}
    needs = {name: _packages_used(path) & waiting.keys() for name, path in waiting.items()}
    ordered: list[Path] = []
    while waiting:
        free = [name for name in waiting if not (needs[name] - {name}) & waiting.keys()]
        for name in free or list(waiting):  # the compiler reports a circle
            ordered.append(waiting.pop(name))
    return ordered


def rtl_sources() -> list[Path]:
    """Return every file of the design: packages, generated, hand-written."""
    packages = rtl_packages()
    modules = sorted(set(RTL_DIRECTORY.rglob("*.sv")) - set(packages))
    return [*packages, *sorted(modules, key=lambda path: GENERATED_DIRECTORY not in path.parents)]


def rtl_sha256() -> str:
    """Return the SHA-256 over names and contents of every file of the design."""
    digest = hashlib.sha256()
    for path in sorted(rtl_sources()):
        content = path.read_bytes()
        name = path.relative_to(RTL_DIRECTORY).as_posix()
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def board_sources() -> list[Path]:
    """Return the files around the engine on every board, their package first."""
    package = BOARD_DIRECTORY / "board_pkg.sv"
    return [package, *sorted(set(BOARD_DIRECTORY.rglob("*.sv")) - {package})]


def _packages_used(path: Path) -> set[str]:
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"The source file {path} cannot be read ({error}); restore it.") from None
    return set(re.findall(r"\b(\w+_pkg)::", text))
