"""Generate register blocks, Python maps and headers from the .rdl files.

There are two maps: the engine's (engine.rdl) and the board's (board.rdl). For other tools
hdl/ip receives C headers and IP-XACT of each, and csr.csv, as LiteX has it, of both.
Run as `python -m hdl.registers.generate`. The results are checked in; a test compares them.
"""

import itertools
import json
import re
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peakrdl_cheader.exporter import CHeaderExporter
from peakrdl_etana.cpuif.apb4 import APB4_Cpuif_flattened  # type: ignore[import-untyped]
from peakrdl_etana.exporter import RegblockExporter  # type: ignore[import-untyped]
from peakrdl_etana.udps import ALL_UDPS  # type: ignore[import-untyped]
from peakrdl_ipxact import IPXACTExporter  # type: ignore[import-untyped]
from systemrdl.compiler import RDLCompiler
from systemrdl.node import AddrmapNode, RegNode

HERE = Path(__file__).parent
HDL_DIRECTORY = HERE.parent
IP_DIRECTORY = HDL_DIRECTORY / "ip"
CSR_CSV = IP_DIRECTORY / "csr.csv"


@dataclass(frozen=True, slots=True)
class Description:
    """One .rdl file and what is generated from it."""

    source: Path
    block: Path
    map: Path
    base: int
    """The bus address of its first register."""
    owner: str
    """"engine" or "board"; for comments in the generated map."""
    windows: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = ()
    """Addresses outside the register block: a comment, names and addresses."""

    @property
    def hash(self) -> int:
        """Return the CRC-32 of the description, as its hash register reads."""
        return zlib.crc32(self.source.read_bytes())


ENGINE = Description(
    source=HERE / "engine.rdl",
    block=HDL_DIRECTORY / "rtl" / "generated" / "drive_crypto_regs.sv",
    map=HERE / "engine_map.py",
    base=0,
    owner="engine",
    windows=(
        (
            "Windows on the record streams: 16-byte words, first in, first out.",
            (("RECORD_IN", 0x1000_0000), ("RECORD_OUT", 0x2000_0000)),
        ),
    ),
)
BOARD = Description(
    source=HERE / "board.rdl",
    block=HDL_DIRECTORY / "boards" / "common" / "generated" / "board_regs.sv",
    map=HERE / "board_map.py",
    base=0x0001_0000,
    owner="board",
    windows=(
        (
            "Commit and acknowledge words of the record windows (record_*_window.sv).",
            (("IN_COMMIT", 0x1000_0010), ("OUT_ACK", 0x2000_0010)),
        ),
    ),
)
DESCRIPTIONS = (ENGINE, BOARD)


def elaborate(description: Description) -> AddrmapNode:
    """Compile a description and return its register tree."""
    compiler = RDLCompiler()
    for definition in ALL_UDPS:
        compiler.register_udp(definition)
    compiler.compile_file(str(description.source))
    return compiler.elaborate(parameters={"MAP_CRC": description.hash}).top


def register_block(description: Description, top: AddrmapNode) -> str:
    """Return the SystemVerilog of the register block with a flat APB4 port."""
    with tempfile.TemporaryDirectory(prefix="taperig-registers-") as directory:
        RegblockExporter().export(
            top,
            directory,
            cpuif_cls=APB4_Cpuif_flattened,
            default_reset_activelow=True,
            default_reset_async=True,
            err_if_bad_addr=True,
        )
        text = (Path(directory) / description.block.name).read_text()
    # No other module has a timescale, and the lint refuses blanks at line ends.
    text = text.replace("`timescale 1ns / 1ps\n\n", "")
    text = _with_address_table(text)
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).rstrip() + "\n"


def _with_address_table(text: str) -> str:
    """Replace a comparison for each address by a table of all.

    The comparisons cost the simulation, which makes all of them at every clock.
    """
    line = re.compile(
        r"^ *is_valid_addr \|= cpuif_req_masked & \(cpuif_addr == (\d+)'h([0-9a-f]+)\);\n",
        re.MULTILINE,
    )
    found = line.findall(text)
    bits = int(found[0][0])
    table = sum(1 << int(address, 16) // 4 for _, address in found)
    words = 1 << bits - 2
    first = line.search(text)
    assert first is not None
    at = first.start()
    lookup = (
        f"        is_valid_addr = cpuif_req_masked & "
        f"((({words}'h{table:x} >> cpuif_addr[{bits - 1}:2]) & {words}'h1) != '0);\n"
    )
    return text[:at] + lookup + line.sub("", text[at:])


def register_map(description: Description, top: AddrmapNode) -> str:
    """Return the Python module with every address and field."""
    groups = _register_groups(top)
    names = [name for name, _ in groups]
    counters = [name.removesuffix("_LO") for name in names if name.endswith("_LO")]
    types = [*(["Counter"] if counters else []), "Register", "RegisterField"]
    source = description.source.name
    lines = [
        f'"""Addresses and fields of the {description.owner}\'s registers.',
        "",
        f"Generated from {source} by `python -m hdl.registers.generate`; do not edit.",
        '"""',
        "",
        f"from hdl.registers.types import {', '.join(types)}",
        "",
        f"# CRC-32 of {source}; the {description.owner}'s hash register must read the same.",
        f"MAP_HASH_EXPECTED = 0x{description.hash:08X}",
        "",
    ]
    for comment, addresses in description.windows:
        lines.append(f"# {comment}")
        lines += [*(f"{name} = {_address(value)}" for name, value in addresses), ""]
    for name, group in groups:
        _check_contiguous(name, group)
        lines += [*_register_lines(name, group, description.base), ""]
    lines += [f'{name} = Counter("{name}", {name}_LO, {name}_HI)' for name in counters]
    lines += [""] if counters else []
    lines += ["REGISTERS = (", *(f"    {name}," for name in names), ")"]
    return "\n".join(lines) + "\n"


def c_header(top: AddrmapNode) -> str:
    """Return a C header: offsets as a struct, and the place of each field."""
    # Without typedefs of types: their names would have the hash of the map in them.
    return _exported(top, CHeaderExporter(), ".h", reuse_typedefs=False)


def ip_xact(top: AddrmapNode) -> str:
    """Return the registers as IP-XACT (IEEE 1685-2014)."""
    exporter = IPXACTExporter(vendor="taperig", library="crypto", version="1.1")
    return _exported(top, exporter, ".xml", component_name=top.inst_name)


def csr_csv(tops: Sequence[tuple[Description, AddrmapNode]]) -> str:
    """Return csr.csv for LiteX's tools: name, address, words, access.

    A register of several words has its most significant word first, as LiteX has it.
    """
    lines = ["# Generated by `python -m hdl.registers.generate`; do not edit."]
    lines += ["constant,config_csr_data_width,32,,"]
    lines += [f"csr_base,{each.owner},0x{each.base:08x},," for each, _ in tops]
    for description, top in tops:
        for name, words in _register_groups(top):
            address = description.base + words[0].absolute_address
            access = "rw" if words[0].has_sw_writable else "ro"
            name = f"{description.owner}_{name.lower().removeprefix(f'{description.owner}_')}"
            lines.append(f"csr_register,{name},0x{address:08x},{len(words)},{access}")
    lines += [
        f"memory_region,{name.lower()},0x{address:08x},16,io"
        for description, _ in tops
        for _, windows in description.windows[:1]
        for name, address in windows
        if name.startswith("RECORD")
    ]
    return "\n".join(lines) + "\n"


def _exported(
    top: AddrmapNode, exporter: CHeaderExporter | IPXACTExporter, suffix: str, **options: object
) -> str:
    with tempfile.TemporaryDirectory(prefix="taperig-registers-") as directory:
        path = Path(directory) / f"{top.inst_name}{suffix}"
        exporter.export(top, str(path), **options)
        return re.sub(r"[ \t]+$", "", path.read_text(), flags=re.MULTILINE).rstrip() + "\n"


def generated() -> dict[Path, str]:
    """Return the text of every generated file by its path."""
    tops = [(description, elaborate(description)) for description in DESCRIPTIONS]
    texts = {CSR_CSV: csr_csv(tops)}
    for description, top in tops:
        texts[description.block] = register_block(description, top)
        texts[description.map] = register_map(description, top)
        texts[IP_DIRECTORY / f"{top.inst_name}.h"] = c_header(top)
        texts[IP_DIRECTORY / f"{top.inst_name}.xml"] = ip_xact(top)
    return texts


def main() -> None:
    """Write the generated files."""
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _register_groups(top: AddrmapNode) -> list[tuple[str, list[RegNode]]]:
    """Return the registers by name, the words of one in a list."""
    registers = (child for child in top.children() if isinstance(child, RegNode))
    return [(name, list(words)) for name, words in itertools.groupby(registers, _array_name)]


def _array_name(register: RegNode) -> str:
    return re.sub(r"_\d+$", "", register.inst_name)


def _check_contiguous(name: str, group: list[RegNode]) -> None:
    start = group[0].absolute_address
    for index, word in enumerate(group):
        numbered = len(group) == 1 or word.inst_name == f"{name}_{index}"
        if not numbered or word.absolute_address != start + 4 * index:
            raise ValueError(f"{word.inst_name} is not contiguous with the words named {name}")


def _register_lines(name: str, group: list[RegNode], base: int) -> list[str]:
    register = group[0]
    address = base + register.absolute_address
    arguments = [json.dumps(name), _address(address) if base else f"0x{address:02X}"]
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
            arguments = [json.dumps(constant), str(field.low), str(field.width)]
            if encoding := field.get_property("encode"):
                names = ", ".join(json.dumps(each.name.upper()) for each in encoding)
                arguments.append(f"values=({names})")
            lines += _wrapped(constant, "RegisterField", arguments)
    return lines


def _wrapped(name: str, kind: str, arguments: list[str]) -> list[str]:
    """Return an assignment as the formatter has it."""
    line = f"{name} = {kind}({', '.join(arguments)})"
    if len(line) <= 100:
        return [line]
    return [f"{name} = {kind}(", *(f"    {argument}," for argument in arguments), ")"]


def _address(value: int) -> str:
    return f"0x{value >> 16:04X}_{value & 0xFFFF:04X}"


if __name__ == "__main__":
    main()
