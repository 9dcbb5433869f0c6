"""Register map types: registers, their fields, counters of two registers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RegisterField:
    """Adjacent bits of a register."""

    name: str
    shift: int
    width: int
    values: tuple[str, ...] = ()
    """Names of its values from 0 on, if they have names."""

    @property
    def mask(self) -> int:
        """Return the mask of the field's bits in the register."""
        return ((1 << self.width) - 1) << self.shift

    def get(self, word: int) -> int:
        """Return the field's value from a register's value."""
        return (word & self.mask) >> self.shift

    def put(self, value: int) -> int:
        """Return `value` shifted to the field's bits, all other bits zero."""
        if value < 0 or value >> self.width:
            raise ValueError(f"{value} does not fit the {self.width} bits of {self.name}")
        return value << self.shift


@dataclass(frozen=True, slots=True)
class Register:
    """A 32-bit register, or `count` of them at rising addresses."""

    name: str
    address: int
    count: int = 1
    readable: bool = True
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Counter:
    """Two registers that hold the snapshot of a 64-bit counter."""

    name: str
    low: Register
    high: Register
