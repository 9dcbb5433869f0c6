"""Storage pools: encryption is a property of the pool (POOL-1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hsm.errors import TaperigError
from hsm.keys.eedk import KeyLabel

POOL_NUMBERS = range(1, 33)  # POOL-6


class PoolError(TaperigError):
    """A pool is not there, or its settings cannot be."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool's settings. One key label makes both EEDKs, two make one each (KEY-11)."""

    number: int
    encrypt: bool = False
    keys: tuple[KeyLabel, ...] = ()
    allow_public_only: bool = False

    def __post_init__(self) -> None:
        """Check the number and the keys."""
        if self.number not in POOL_NUMBERS:
            raise PoolError(f"There is no pool {self.number}; pools have the numbers 1 to 32.")
        if self.encrypt and not 1 <= len(self.keys) <= 2:
            raise PoolError(
                f"Pool {self.number} encrypts, but has {len(self.keys)} key labels; give it one or "
                f"two."
            )


class Pools:
    """The pools of a VE. Settings change at any time (POOL-2); a cartridge's do not, until BOT."""

    def __init__(self, pools: Iterable[Pool] = ()) -> None:
        """Begin with these pools."""
        self._pools: dict[int, Pool] = {}
        for pool in pools:
            self.set(pool)

    def set(self, pool: Pool) -> None:
        """Set a pool anew; what is on its cartridges stays as it is until written from BOT."""
        self._pools[pool.number] = pool

    def __getitem__(self, number: int) -> Pool:
        """Return the settings that pool `number` has now."""
        try:
            return self._pools[number]
        except KeyError:
            known = ", ".join(map(str, sorted(self._pools))) or "none"
            raise PoolError(f"Pool {number} is not configured; configured: {known}.") from None

    def __iter__(self) -> Iterator[Pool]:
        """Go over the pools by number."""
        return iter(sorted(self._pools.values(), key=lambda pool: pool.number))
