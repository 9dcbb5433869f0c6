"""The register maps: the checked-in files match the .rdl files."""

import re
from pathlib import Path

import pytest

from hdl.registers import engine_map as regs
from hdl.registers.generate import generated
from hdl.registers.types import RegisterField
from hdl.sources import BOARD_DIRECTORY


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_register_generator_reproduces_the_checked_in_files(path: Path) -> None:
    assert path.read_text() == generated()[path], "run python -m hdl.registers.generate"


def test_board_package_has_the_addresses_of_the_engine_map() -> None:
    text = (BOARD_DIRECTORY / "board_pkg.sv").read_text()
    constants = {
        name: int(value.replace("_", ""), 16)
        for name, value in re.findall(r"localparam logic \[\d+:0\] (Engine\w+) = \d+'h(\w+);", text)
    }
    assert constants == {
        "EngineBase": 0,
        "EngineSealedKey": regs.SEALED_KEY.address,
        "EngineCtrl": regs.CTRL.address,
        "EngineLoadSealed": regs.CTRL_LOAD_SEALED.put(1),
    }


def test_registers_do_not_overlap() -> None:
    taken = [r.address + 4 * i for r in regs.REGISTERS for i in range(r.count)]
    assert len(taken) == len(set(taken))


def test_key_registers_are_write_only() -> None:
    assert not regs.SEALED_KEY.readable
    assert not regs.PLAIN_KEY.readable


def test_register_field_extracts_and_places_values() -> None:
    field = RegisterField("F", 4, 3)
    assert field.mask == 0x70
    assert field.get(0xFF) == 7
    assert field.put(5) == 0x50
    with pytest.raises(ValueError, match="does not fit the 3 bits of F"):
        field.put(8)
