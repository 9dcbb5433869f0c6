"""Generate the register block and the Python register map from regs.rdl.

Run as `python -m hdl.registers`; the results are checked in, and a test compares them.
"""

import itertools
import json
import re
import tempfile
import zlib
from pathlib import Path

from peakrdl_etana.cpuif.apb4 import APB4_Cpuif_flattened  # type: ignore[import-untyped]
from peakrdl_etana.exporter import RegblockExporter  # type: ignore[import-untyped]
from peakrdl_etana.udps import ALL_UDPS  # type: ignore[import-untyped]
from systemrdl.compiler import RDLCompiler
from systemrdl.node import AddrmapNode, RegNode

HDL_DIRECTORY = Path(__file__).parent
DESCRIPTION = HDL_DIRECTORY / "regs.rdl"
REGISTER_BLOCK = HDL_DIRECTORY / "rtl" / "generated" / "drive_crypto_regs.sv"
REGISTER_MAP = HDL_DIRECTORY / "register_map.py"

# Not registers but windows on the record streams, next to the registers in a board's address space.
RECORD_IN = 0x1000_0000
RECORD_OUT = 0x2000_0000


def map_hash() -> int:
    """Return the CRC-32 of the register description, as the MAP_HASH register shows it."""
    return zlib.crc32(DESCRIPTION.read_bytes())


def elaborate() -> AddrmapNode:
    """Compile regs.rdl."""
    compiler = RDLCompiler()
    for definition in ALL_UDPS:
        compiler.register_udp(definition)
    compiler.compile_file(str(DESCRIPTION))
    return compiler.elaborate(parameters={"MAP_CRC": map_hash()}).top


def register_block(top: AddrmapNode) -> str:
    """Return the SystemVerilog of the register block, with a flat APB4 port."""
    with tempfile.TemporaryDirectory(prefix="taperig-registers-") as directory:
        RegblockExporter().export(
            top,
            directory,
            cpuif_cls=APB4_Cpuif_flattened,
            default_reset_activelow=True,
            default_reset_async=True,
        )
        text = (Path(directory) / REGISTER_BLOCK.name).read_text()
    # No other module of ours has a time scale, and none has blanks at line ends.
    text = text.replace("`timescale 1ns / 1ps\n\n", "")
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).rstrip() + "\n"


def register_map(top: AddrmapNode) -> str:
    """Return the Python module with every address and field of the map."""
    lines = [
        '"""Addresses and fields of the engine\'s registers.',
        "",
        "Generated from regs.rdl by `python -m hdl.registers`; do not edit.",
        '"""',
        "",
        "from hdl.register_types import Counter, Field, Register",
        "",
        "# CRC-32 of regs.rdl; the engine's MAP_HASH register must read the same.",
        f"MAP_HASH_EXPECTED = 0x{map_hash():08X}",
        "",
        "# Windows on the record streams: 16-byte words, first in, first out.",
        f"RECORD_IN = {_address(RECORD_IN)}",
        f"RECORD_OUT = {_address(RECORD_OUT)}",
        "",
    ]
    names: list[str] = []
    registers = [child for child in top.children() if isinstance(child, RegNode)]
    for name, words in itertools.groupby(registers, _array_name):
        group = list(words)
        _check_contiguous(name, group)
        lines += [*_register_lines(name, group), ""]
        names.append(name)
    for low in [name for name in names if name.endswith("_LO")]:
        base = low.removesuffix("_LO")
        lines.append(f'{base} = Counter("{base}", {low}, {base}_HI)')
    lines += ["", "REGISTERS = (", *(f"    {name}," for name in names), ")"]
    return "\n".join(lines) + "\n"


def generated() -> dict[Path, str]:
    """Return every generated file with the text it must have."""
    top = elaborate()
    return {REGISTER_BLOCK: register_block(top), REGISTER_MAP: register_map(top)}


def main() -> None:
    """Write the generated files."""
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _array_name(register: RegNode) -> str:
    return re.sub(r"_\d+$", "", register.inst_name)


def _check_contiguous(name: str, group: list[RegNode]) -> None:
    start = group[0].absolute_address
    for index, word in enumerate(group):
        numbered = len(group) == 1 or word.inst_name == f"{name}_{index}"
        if not numbered or word.absolute_address != start + 4 * index:
            raise ValueError(f"regs.rdl: {word.inst_name} breaks the row of words named {name}")


def _register_lines(name: str, group: list[RegNode]) -> list[str]:
    register = group[0]
    arguments = [json.dumps(name), f"0x{register.absolute_address:02X}"]
    if len(group) > 1:
        arguments.append(f"count={len(group)}")
    if not register.has_sw_readable:
        arguments.append("readable=False")
    if register.has_sw_writable:
        arguments.append("writable=True")
    lines = [f"{name} = Register({', '.join(arguments)})"]
    for field in sorted(register.fields(), key=lambda field: field.low):
        if field.width < 32:
            constant = f"{name}_{field.inst_name.upper()}"
            lines.append(f'{constant} = Field("{constant}", {field.low}, {field.width})')
    return lines


def _address(value: int) -> str:
    return f"0x{value >> 16:04X}_{value & 0xFFFF:04X}"


if __name__ == "__main__":
    main()
