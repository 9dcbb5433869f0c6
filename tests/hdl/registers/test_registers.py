"""The register maps: the checked-in files match the .rdl files."""

from pathlib import Path

import pytest

from hdl.registers import engine_map as regs
from hdl.registers.generate import generated
from hdl.registers.types import RegisterField


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_register_generator_reproduces_the_checked_in_files(path: Path) -> None:
    assert path.read_text() == generated()[path], "run python -m hdl.registers.generate"


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
