"""What a register map is made of: registers, fields of registers, pairs that form a counter."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RegisterField:
    """Some adjacent bits of a register."""

    name: str
    shift: int
    width: int

    @property
    def mask(self) -> int:
        """The field's bits, in place in the register."""
        return ((1 << self.width) - 1) << self.shift

    def get(self, word: int) -> int:
        """Take the field's value out of a register's value."""
        return (word & self.mask) >> self.shift

    def put(self, value: int) -> int:
        """Return `value` in the field's place, all other bits zero."""
        if value < 0 or value >> self.width:
            raise ValueError(f"{value} does not fit the {self.width} bits of {self.name}")
        return value << self.shift


@dataclass(frozen=True, slots=True)
class Register:
    """One 32-bit register, or `count` of them in a row."""

    name: str
    address: int
    count: int = 1
    readable: bool = True
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Counter:
    """Two registers that together show the snapshot of one 64-bit counter."""

    name: str
    low: Register
    high: Register
