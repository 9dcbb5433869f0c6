"""Migration to encryption by recall, move and reclamation."""

from __future__ import annotations

from dataclasses import replace

from rig.scenarios.base import Scenario, ScenarioContext
from rig.scenarios.lifecycle import (
    VOLUMES,
    Lifecycle,
    choose_two_keys,
    open_lifecycle,
    sample_contents,
)
from rig.ve import operator_views
from rig.ve.catalogue import settings
from rig.ve.catalogue.model import PoolSettings, VolumeState
from rig.ve.operator_views import Search

OLD, NEW = 1, 2
DAYS = 30


class Migration(Scenario):
    """A clear pool's data moves to an encrypted pool, by three methods."""

    name = "migration"
    title = "Moving to encryption by recall, by move stacked volumes, by reclamation"

    def run(self, context: ScenarioContext) -> None:
        """Run the migration three times, by one method each."""
        for method in ("recall", "move", "reclamation"):
            self._migrate(context, method)

    def _migrate(self, context: ScenarioContext, method: str) -> None:
        key, _ = choose_two_keys(context)
        pools = [PoolSettings(OLD), PoolSettings(NEW, True, (key,))]
        data = sample_contents(context, VOLUMES + 1)
        context.report.title(f"by {method}")
        rows: list[tuple[str, ...]] = [
            ("day", "what happened", "old pool", "new pool", "scratch", "on encrypted tape")
        ]
        with open_lifecycle(context, f"migration by {method}", pools, len(data[0])) as lifecycle:
            for number in range(VOLUMES - 1):
                lifecycle.write(f"V{number:05}", data[number])
            lifecycle.work()
            rows.append(_row(lifecycle, 0, "volumes were written in the clear"))
            with lifecycle.node.change() as session:
                changes = settings.begin_migration(session, OLD, NEW)
            rows.append(_row(lifecycle, 0, "the three changes were made"))
            lifecycle.write("VNEW01", data[-1])
            lifecycle.work()
            rows.append(_row(lifecycle, 0, "a new volume was written"))
            getattr(self, f"_{method}")(lifecycle, rows)
            context.report.table(rows)
            for line in changes:
                context.report.line(f"  {line}")
            self._judge(context, lifecycle, method)

    def _recall(self, lifecycle: Lifecycle, rows: list[tuple[str, ...]]) -> None:
        """Recall in tape order; volumes go to the new pool at their unload."""
        lifecycle.node.free_cache(lifecycle.node.settings.cache_bytes)
        names = list(lifecycle.contents)
        half = len(names) // 2
        lifecycle.node.recall_job(names[:half])
        rows.append(_row(lifecycle, 0, f"{half} volumes were recalled and unloaded"))
        lifecycle.node.recall_job(names[half:])
        rows.append(_row(lifecycle, 0, "the others too"))

    def _move(self, lifecycle: Lifecycle, rows: list[tuple[str, ...]]) -> None:
        """Move the volumes stacked on every tape of the old pool."""
        lifecycle.node.move_stacked(_volsers(lifecycle), NEW)
        lifecycle.work()
        rows.append(_row(lifecycle, 0, "the stacked volumes were moved"))

    def _reclamation(self, lifecycle: Lifecycle, rows: list[tuple[str, ...]]) -> None:
        """Reclaim cartridges by age; then move those never filled."""
        with lifecycle.node.change() as session:
            pool = settings.pool(session, OLD)
            policy = replace(pool.reclaim, days_since_write=DAYS)
            settings.set_pool(session, replace(pool, reclaim=policy))
        lifecycle.node.advance(DAYS - 1)
        lifecycle.work(reclaim=True)
        rows.append(_row(lifecycle, DAYS - 1, "nothing is old enough for reclaim"))
        lifecycle.node.advance(1)
        lifecycle.work(reclaim=True)
        rows.append(_row(lifecycle, DAYS, f"filled tapes of {DAYS} days were reclaimed"))
        lifecycle.context.check(
            "by reclamation: tapes that were not filled are left",
            lifecycle.tapes(OLD) == {"none": 1},
            rules=("MIG-10",),
        )
        lifecycle.node.move_stacked(_volsers(lifecycle), NEW)
        lifecycle.work()
        rows.append(_row(lifecycle, DAYS, "clean-up: the tape not filled was moved"))

    def _judge(self, context: ScenarioContext, lifecycle: Lifecycle, method: str) -> None:
        rules = {"recall": "MIG-2", "move": "MIG-4", "reclamation": "MIG-7"}[method]
        with lifecycle.node.catalogue.reading() as session:
            left = list(
                operator_views.search(session, Search(pool=OLD), lifecycle.node.clock.now())
            )
        context.check(
            f"by {method}: the old pool is empty, its tapes are back in the scratch pool",
            not left,
            rules=("MIG-1", rules),
        )
        encrypted = lifecycle.on_encrypted()
        context.check(
            f"by {method}: every volume is on encrypted tape",
            encrypted == len(lifecycle.contents),
            f"{encrypted} of {len(lifecycle.contents)}",
            rules=("MIG-1", rules),
        )
        lifecycle.judge(f"by {method}", (rules,))


def _volsers(lifecycle: Lifecycle) -> list[str]:
    """Return the cartridges of the old pool that hold data."""
    with lifecycle.node.catalogue.reading() as session:
        rows = list(operator_views.search(session, Search(pool=OLD), lifecycle.node.clock.now()))
    return [row["volser"] for row in rows if row["state"] != VolumeState.SCRATCH.value]


def _row(lifecycle: Lifecycle, day: int, words: str) -> tuple[str, ...]:
    with lifecycle.node.catalogue.reading() as session:
        scratch = operator_views.scratch_left(session)
    return (
        str(day),
        words,
        str(sum(lifecycle.tapes(OLD).values())),
        str(sum(lifecycle.tapes(NEW).values())),
        str(scratch),
        f"{lifecycle.on_encrypted()} of {len(lifecycle.contents)}",
    )
