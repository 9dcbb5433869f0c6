"""A pool in the clear, then under one KEK, then under another (POOL-2).

This is the source's figure. Every month a part of the volumes is rewritten, so cartridges become
scratch and are written from BOT again, with the settings of that day. The node's clock is set
ahead; nothing waits.
"""

from __future__ import annotations

from rig.scenarios.base import Scenario, ScenarioContext
from rig.scenarios.lifecycle import (
    PER_CARTRIDGE,
    VOLUMES,
    Lifecycle,
    choose_two_keys,
    open_lifecycle,
    sample_contents,
)
from rig.ve import operator_views
from rig.ve.catalogue import settings
from rig.ve.catalogue.model import PoolSettings

MONTH_DAYS = 30
MONTHS = 9
POOL = 1


class PoolOverTime(Scenario):
    """A pool without encryption, then under a first KEK, then a second."""

    name = "pool_over_time"
    title = "A pool over time: in the clear, under one KEK, under another"

    def run(self, context: ScenarioContext) -> None:
        """Run month by month; show the cartridges by key as a table."""
        first, second = choose_two_keys(context)
        data = sample_contents(context, VOLUMES * 2)
        changes = {
            0: PoolSettings(POOL),
            3: PoolSettings(POOL, True, (first,)),
            6: PoolSettings(POOL, True, (second,)),
        }
        words = {0: "no encryption", 3: first.label, 6: second.label}
        rows: list[tuple[str, ...]] = [
            ("day", "the pool is set to", "none", first.label, second.label)
        ]
        seen: list[dict[str, int]] = []
        with open_lifecycle(context, self.name, [changes[0]], len(data[0])) as lifecycle:
            for month in range(MONTHS + 1):
                if month in changes:
                    with lifecycle.node.change() as session:
                        settings.set_pool(session, changes[month])
                before = lifecycle.tapes(POOL) if month in changes else None
                _rewrite(lifecycle, month, data)
                tapes = lifecycle.tapes(POOL)
                seen.append(tapes)
                now = words[max(each for each in words if each <= month)]
                counts = (str(tapes.get(key, 0)) for key in ("none", first.label, second.label))
                rows.append((str(month * MONTH_DAYS), now, *counts))
                if month and before is not None:
                    self._unchanged(context, lifecycle, month, before, seen[-2])
                lifecycle.node.advance(MONTH_DAYS)
            context.report.table(rows)
            self._judge(context, lifecycle, seen, first.label, second.label)
            lifecycle.judge("pool over time", ("POOL-2",))

    def _unchanged(
        self,
        context: ScenarioContext,
        lifecycle: Lifecycle,
        month: int,
        before: dict[str, int],
        last: dict[str, int],
    ) -> None:
        context.check(
            f"day {month * MONTH_DAYS}: changing the pool changed no tape",
            before == last,
            rules=("POOL-2", "BOT-5"),
        )

    def _judge(
        self,
        context: ScenarioContext,
        lifecycle: Lifecycle,
        seen: list[dict[str, int]],
        first: str,
        second: str,
    ) -> None:
        context.check(
            "at first all tapes are in the clear, then the pool is a mix, then all are encrypted",
            set(seen[2]) == {"none"}
            and set(seen[3]) == {"none", first}
            and set(seen[5]) == {first},
            rules=("POOL-2",),
        )
        context.check(
            "after the change of KEK the pool is a mix again, and at last all under the second",
            [set(seen[month]) for month in (6, MONTHS)] == [{first, second}, {second}],
            rules=("POOL-2",),
        )
        with lifecycle.node.catalogue.reading() as session:
            old, new = (
                operator_views.key_users(session, first),
                operator_views.key_users(session, second),
            )
        context.check(
            "no volume needs the first KEK any more, so it may go",
            not old and bool(new),
            f"{len(new)} volumes need the second",
            rules=("POOL-3",),
        )


def _rewrite(lifecycle: Lifecycle, month: int, data: list[bytes]) -> None:
    """Rewrite all volumes at first, then one half of them each month.

    The volumes of a cartridge are rewritten together.
    """
    half = VOLUMES // 2
    numbers = range(VOLUMES) if month == 0 else range(half * (month % 2), half * (month % 2 + 1))
    for number in numbers:
        lifecycle.write(f"V{number:05}", data[(number + month * 5) % len(data)])
        if number % PER_CARTRIDGE == PER_CARTRIDGE - 1:
            lifecycle.work()
    lifecycle.work()
