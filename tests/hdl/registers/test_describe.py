"""Register values in words."""

import pytest

from hdl.registers import engine_map as regs
from hdl.registers.describe import describe
from hdl.registers.types import Register


@pytest.mark.parametrize(
    ("register", "value", "words"),
    [
        (regs.STATUS, 0x82, "STATUS 0x00000082 (SELF_TEST_DONE, FAULT)"),
        (regs.STATUS, 0, "STATUS 0x00000000 (no bit is set)"),
        (regs.STATUS, 0x3082, "STATUS 0x00003082 (SELF_TEST_DONE, FAULT, SELF_TEST_STEP=ENCRYPT)"),
        (regs.STATUS, 0x7000, "STATUS 0x00007000 (SELF_TEST_STEP=7)"),
        (regs.PACE, 0x1234, "PACE 0x00001234 (RATE=0x1234)"),
    ],
)
def test_describe_names_the_fields_that_are_set(register: Register, value: int, words: str) -> None:
    assert describe(register, value) == words
