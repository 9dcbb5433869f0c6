"""The engine as an IP, tried outside the checkout."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from hdl.ip.package import CORE, FILE_LIST, TOP, generated
from hdl.registers import board_map, engine_map
from hdl.registers.generate import BOARD, CSR_CSV, ENGINE, IP_DIRECTORY
from hdl.registers.types import Register, RegisterField
from hdl.sources import HDL_DIRECTORY, rtl_sources
from hdl.verilator.toolchain import find_toolchain

HERE = Path(__file__).parent
HEADERS = [
    pytest.param(engine_map, "drive_crypto_regs", id="engine"),
    pytest.param(board_map, "board_regs", id="board"),
]
NAMESPACE = {"ipxact": "http://www.accellera.org/XMLSchema/IPXACT/1685-2014"}


def words_of(register: Register) -> list[str]:
    """Return the names of a register's words, as engine.rdl has them."""
    if register.count == 1:
        return [register.name]
    return [f"{register.name}_{index}" for index in range(register.count)]


def fields_of(module: ModuleType) -> list[tuple[str, RegisterField]]:
    """Return each field of a map with the name of its register."""
    found = []
    for register in module.REGISTERS:
        fields = (each for each in vars(module).values() if isinstance(each, RegisterField))
        names = [each.name for each in module.REGISTERS if each.name != register.name]
        for field in fields:
            longer = [name for name in names if field.name.startswith(f"{name}_")]
            if field.name.startswith(f"{register.name}_") and not any(
                len(name) > len(register.name) for name in longer
            ):
                found.append((register.name, field))
    return found


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_ip_package_reproduces_the_checked_in_files(path: Path) -> None:
    assert path.read_text() == generated()[path], "run python -m hdl.ip.package"


def test_file_list_names_every_source_of_the_engine() -> None:
    lines = [line for line in FILE_LIST.read_text().splitlines() if not line.startswith("//")]
    assert [HDL_DIRECTORY / line for line in lines] == rtl_sources()


@pytest.mark.parametrize(("module", "name"), HEADERS)
def test_c_header_has_the_addresses_of_the_register_map(
    module: ModuleType, name: str, tmp_path: Path
) -> None:
    base = module.REGISTERS[0].address
    checks = [
        f'_Static_assert(offsetof({name}_t, {word}) == {register.address - base + 4 * index}, "");'
        for register in module.REGISTERS
        for index, word in enumerate(words_of(register))
    ]
    checks += [
        f"_Static_assert({name.upper()}__{register}__{field.name.removeprefix(register + '_')}_bm "
        f'== {field.mask}u, "");'
        for register, field in fields_of(module)
    ]
    assert len(checks) > 30
    source = tmp_path / "driver.c"
    source.write_text("\n".join(["#include <stddef.h>", f'#include "{name}.h"', *checks]) + "\n")
    command = ["gcc", "-std=c11", "-Wall", "-Werror", "-fsyntax-only", f"-I{IP_DIRECTORY}"]
    ended = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert ended.stderr == ""


@pytest.mark.parametrize(("module", "name"), HEADERS)
def test_ip_xact_has_the_addresses_of_the_register_map(module: ModuleType, name: str) -> None:
    tree = ElementTree.parse(IP_DIRECTORY / f"{name}.xml")
    base = module.REGISTERS[0].address
    found = {}
    for register in tree.iterfind(".//ipxact:register", NAMESPACE):
        label = register.findtext("ipxact:name", "", NAMESPACE)
        offset = register.findtext("ipxact:addressOffset", "", NAMESPACE)
        found[label] = base + int(offset.removeprefix("'h"), 16)
    assert found == {
        word: register.address + 4 * index
        for register in module.REGISTERS
        for index, word in enumerate(words_of(register))
    }


def test_csr_csv_has_the_addresses_of_the_register_maps() -> None:
    rows = list(csv.reader(CSR_CSV.read_text().splitlines()))
    found = {row[1]: row[2:] for row in rows if row[0] == "csr_register"}
    wanted = {}
    for description, module in ((ENGINE, engine_map), (BOARD, board_map)):
        owner = f"{description.owner}_"
        for each in module.REGISTERS:
            access = "rw" if each.writable else "ro"
            name = owner + each.name.lower().removeprefix(owner)
            wanted[name] = [f"0x{each.address:08x}", str(each.count), access]
    assert found == wanted
    assert ["constant", "config_csr_data_width", "32", "", ""] in rows


def test_file_list_builds_a_design_outside_the_checkout(tmp_path: Path) -> None:
    top = tmp_path / "own_top.sv"
    top.write_bytes((HERE / top.name).read_bytes())
    toolchain = find_toolchain()
    environment = toolchain.full_environment()
    environment["MAKEFLAGS"] = f"{environment.get('MAKEFLAGS', '')} OPT_FAST=-O0 OPT_GLOBAL=-O0"
    subprocess.run(
        [
            *(str(toolchain.verilator), "--binary", "--timing", "-Wno-fatal", "-j", "1"),
            *("-F", str(FILE_LIST), str(top), "--top-module", "own_top"),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=True,
    )
    ended = subprocess.run(
        [tmp_path / "obj_dir" / "Vown_top"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout
    assert "one record is through" in ended.stdout


def test_fusesoc_core_is_linted_outside_the_checkout(tmp_path: Path) -> None:
    toolchain = find_toolchain()
    environment = toolchain.full_environment()
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    ended = subprocess.run(
        [
            *("fusesoc", "--cores-root", str(HDL_DIRECTORY), "run", "--target", "lint"),
            *("taperig:crypto:drive_crypto", "--BankBytes", "4096"),
        ],
        cwd=tmp_path,
        env={**environment, "PATH": path, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Warning" not in ended.stdout + ended.stderr
    assert "V e r i l a t i o n" in ended.stdout
    assert f"toplevel: {TOP}\n" in CORE.read_text()
