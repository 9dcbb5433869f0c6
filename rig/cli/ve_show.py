"""``rig ve``: the commands that show a node."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rig.cli.options import (
    JsonOption,
    LabOption,
    NodeOption,
    lab_of,
    print_json,
    print_json_rows,
)
from rig.cli.ve_common import VIEWS, open_catalogue_of, reclaim_app, ve_app

_TABLE_ROWS = 1000


@ve_app.command("status", rich_help_panel=VIEWS)
def status(lab: LabOption = None, node: NodeOption = None, as_json: JsonOption = False) -> None:
    """Show cache, copies that wait for tape, drives and cartridges."""
    from rig.cli.tables import print_table
    from rig.report.text import plural, size
    from rig.testbed.node_setup import node_settings
    from rig.ve import operator_views

    checked = lab_of(lab)
    with open_catalogue_of(checked, node) as (session, now, name):
        shown = {
            "node": name,
            **operator_views.status(session, now, node_settings(checked, name).cache_bytes),
        }
    if as_json:
        print_json(shown)
        return
    print(f"node           {name}, {shown['time']} UTC")
    print(f"volumes        {shown['logical_volumes']}, {size(shown['bytes'])}")
    limit = size(shown["cache_limit_bytes"])
    in_cache = plural(shown["in_cache"], "volume")
    print(f"cache          {in_cache}, {size(shown['cache_bytes'])} of {limit}")
    print(f"waits for tape {plural(shown['waiting_for_tape'], 'copy')}")
    print(f"interventions  {shown['interventions']} open")
    print()
    print_table(shown["drives"], ("serial", "model", "mounts", "last"), "no drive has worked yet")
    print()
    print_table(shown["cartridges"], ("pool", "state", "cartridges"), "no cartridges")


@ve_app.command("volumes", rich_help_panel=VIEWS)
def volumes(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="VOLUME", help="Logical volumes; by default all.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="At most N; by default 1000 in a table, all with --json."
        ),
    ] = None,
    after: Annotated[str, typer.Option(metavar="VOLUME", help="Only those behind this name.")] = "",
    storage_group: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only those of this storage group.")
    ] = None,
    in_cache: Annotated[
        bool | None,
        typer.Option("--in-cache/--not-in-cache", help="Only those in the cache, or not."),
    ] = None,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List logical volumes: where each is, and what it waits for."""
    from itertools import islice

    from rig.ve import operator_views

    with open_catalogue_of(lab_of(lab), node) as (session, _, _):
        found = operator_views.volumes(
            session, names, after=after, storage_group=storage_group, in_cache=in_cache
        )
        if as_json:
            print_json_rows(islice(found, limit))
            return
        most = limit or _TABLE_ROWS
        rows = list(islice(found, most))
        more = next(found, None) is not None
    for row in rows:
        row["copies"] = [
            f"{copy['role']} pool {copy['pool']} {copy['volser']}@{copy['block']}"
            + (f", ejected to {copy['ejected_to']}" if copy["ejected_to"] else "")
            + (", cannot be read" if copy["bad"] else "")
            for copy in row["copies"]
        ]
    columns: tuple[str, ...] = ("volume", "size", "storage_group", "in_cache", "mounted", "copies")
    if any(row["found_on_tape"] for row in rows):
        columns = (*columns, "found_on_tape")
    _show(rows, (*columns, "waiting_for_pools", "accessed"), "no logical volumes", as_json)
    if more:
        print(f"there are more: rig ve volumes --after {rows[-1]['volume']}")


def _percent(text: str) -> Any:
    return typer.Option(metavar="PERCENT", min=0, max=100, help=text)


def _days(text: str) -> Any:
    return typer.Option(metavar="DAYS", min=0, max=36_525, help=text)


@ve_app.command("search", rich_help_panel=VIEWS)
def search(
    pool: Annotated[
        int | None,
        typer.Option(metavar="POOL", min=0, max=32, help="Pool; 0 is the common scratch pool."),
    ] = None,
    encryption: Annotated[
        str | None, typer.Option(metavar="blank|clear|encrypted", help="How it was written.")
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(metavar="scratch|filling|full|ejected", help="How far it is written."),
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="LABEL", help="Key label.")] = None,
    fill_above: Annotated[
        float | None, _percent("More than PERCENT of the capacity is written.")
    ] = None,
    fill_below: Annotated[
        float | None, _percent("Less than PERCENT of the capacity is written.")
    ] = None,
    active_below: Annotated[
        float | None, _percent("Less than PERCENT of what is written is active.")
    ] = None,
    written_before: Annotated[float | None, _days("Last written DAYS ago or longer.")] = None,
    written_within: Annotated[float | None, _days("Last written within DAYS.")] = None,
    accessed_before: Annotated[
        float | None, _days("Last recalled from DAYS ago or longer.")
    ] = None,
    accessed_within: Annotated[float | None, _days("Last recalled from within DAYS.")] = None,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search the database of physical volumes; all filters must hold."""
    from rig.ve import operator_views
    from rig.ve.catalogue import settings
    from rig.ve.catalogue.model import TapeEncryption, VolumeState

    filters = operator_views.Search(
        pool=pool,
        encryption=None if encryption is None else _choice(TapeEncryption, encryption),
        state=None if state is None else _choice(VolumeState, state),
        key=key,
        fill_above=fill_above,
        fill_below=fill_below,
        active_below=active_below,
        written_before_days=written_before,
        written_within_days=written_within,
        accessed_before_days=accessed_before,
        accessed_within_days=accessed_within,
    )
    with open_catalogue_of(lab_of(lab), node) as (session, now, _):
        if pool:
            settings.pool(session, pool)  # raises for one that is not configured
        rows = list(operator_views.search(session, filters, now))
    columns = ("volser", "pool", "state", "encryption", "keys", "fill_percent", "active_percent")
    more: tuple[str, ...] = ("active_volumes", "borrowed", "last_written", "last_accessed")
    more += tuple(each for each in ("read_only", "ejected_to") if any(row[each] for row in rows))
    _show(rows, (*columns, *more), "no physical volume passes all filters", as_json)


@ve_app.command("map", rich_help_panel=VIEWS)
def tape_map(
    volser: Annotated[str, typer.Argument(metavar="VOLSER", help="Physical volume.")],
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a physical volume's logical volumes in tape order (BVIR map)."""
    from rig.ve import operator_views

    with open_catalogue_of(lab_of(lab), node) as (session, _, _):
        rows = operator_views.tape_map(session, volser)
    columns = ("block", "blocks", "volume", "generation", "size", "role", "active", "bad")
    _show(rows, (*columns, "last_read"), f"nothing is on {volser}", as_json)


@ve_app.command("needs-key", rich_help_panel=VIEWS)
def needs_key(
    label: Annotated[str, typer.Argument(metavar="LABEL", help="Key label.")],
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the physical volumes that still need a KEK.

    Exits 1 while there are any.
    """
    from rig.report.text import plural
    from rig.ve import operator_views

    with open_catalogue_of(lab_of(lab), node) as (session, _, _):
        volsers = operator_views.key_users(session, label)
    if as_json:
        print_json({"label": label, "volumes": volsers})
    elif volsers:
        verb = "needs" if len(volsers) == 1 else "need"
        count = plural(len(volsers), "physical volume")
        print(f"{count} {verb} the key {label!r}: {', '.join(volsers)}")
    else:
        print(f"no physical volume needs the key {label!r}")
    raise typer.Exit(1 if volsers else 0)


@ve_app.command("interventions", rich_help_panel=VIEWS)
def interventions(
    every: Annotated[bool, typer.Option("--all", help="Also show those that are cleared.")] = False,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the interventions that an operator must act on."""
    from rig.ve import operator_views
    from rig.ve.catalogue import operator_messages

    with open_catalogue_of(lab_of(lab), node) as (session, _, _):
        rows = operator_views.events(session, operator_messages.INTERVENTION, only_open=not every)
    columns = ("time", "subject", "text", "cleared") if every else ("time", "subject", "text")
    _show(rows, columns, "no intervention is open", as_json)


@ve_app.command("messages", rich_help_panel=VIEWS)
def messages(lab: LabOption = None, node: NodeOption = None, as_json: JsonOption = False) -> None:
    """List the host notices and the calls home."""
    from rig.ve import operator_views
    from rig.ve.catalogue import operator_messages

    with open_catalogue_of(lab_of(lab), node) as (session, _, _):
        rows = operator_views.events(
            session, operator_messages.MESSAGE, operator_messages.CALL_HOME
        )
    _show(rows, ("time", "kind", "text"), "no messages", as_json)


@ve_app.command("stats", rich_help_panel=VIEWS)
def stats(
    hours: Annotated[
        int, typer.Option(metavar="HOURS", min=1, max=100_000, help="Length of a period, in hours.")
    ] = 24,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was written over time, pool by pool, encrypted and clear."""
    from rig.ve import operator_views

    with open_catalogue_of(lab_of(lab), node) as (session, _, _):
        rows = operator_views.statistics(session, hours)
    columns = ("from", "pool", "encrypted_volumes", "encrypted_bytes", "clear_volumes")
    _show(rows, (*columns, "clear_bytes"), "nothing was written yet", as_json)


@ve_app.command("prerequisites", rich_help_panel=VIEWS)
def prerequisites(lab: LabOption = None, as_json: JsonOption = False) -> None:
    """Check the installation's prerequisites for encryption.

    Shows what is missing, which drives are used and which step comes next. Exits 1 when
    something is missing.
    """
    from dataclasses import asdict

    from hsm.errors import TaperigError
    from rig.cli.tables import print_table
    from rig.ve.prerequisites import drives_in_use, findings, next_step

    checked = lab_of(lab)
    if checked.installation is None:
        raise TaperigError(
            "The lab file does not say what is installed; add installation: with its drives."
        )
    installation = checked.installation.record(ekms=len(checked.ekms))
    wrong, step = findings(installation), next_step(installation)
    drives = [
        {"drive": use.drive.serial, "used": use.online, "why": use.message}
        for use in drives_in_use(installation, encrypted_volumes=True)
    ]
    if as_json:
        rows = [asdict(each) for each in wrong]
        print_json({"findings": rows, "drives": drives, "next_step": step})
    else:
        print_table([asdict(each) for each in wrong], ("rule", "message"), "nothing is missing")
        print()
        print_table(drives, ("drive", "used", "why"), "no drives")
        rest = "mend what is missing" if wrong else "none, all are done"
        print(f"\nnext step: {step or rest}")
    raise typer.Exit(1 if wrong else 0)


@reclaim_app.command("plan")
def reclaim_plan(
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=10_000, help="Show at most N volumes.")
    ] = None,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the physical volumes eligible for reclaim, in their order."""
    from rig.cli.tables import print_table
    from rig.ve import operator_views
    from rig.ve.scheduler import current_reclaim_plan

    with open_catalogue_of(lab_of(lab), node) as (session, now, _):
        shown = operator_views.plan(current_reclaim_plan(session, now, limit))
    if as_json:
        print_json(shown)
        return
    if shown["inhibited_until"]:
        print(f"reclaim is inhibited until {shown['inhibited_until']}")
    columns = ("volser", "pool", "to_pool", "active_percent", "active_bytes", "reasons")
    print_table(shown["candidates"], columns, "nothing is eligible for reclaim")


def _show(rows: list[dict[str, Any]], columns: tuple[str, ...], empty: str, as_json: bool) -> None:
    from rig.cli.tables import print_table

    if as_json:
        print_json(rows)
    else:
        print_table(rows, columns, empty)


def _choice(kind: Any, word: str) -> Any:
    from hsm.errors import TaperigError

    try:
        return kind(word)
    except ValueError:
        known = ", ".join(each.value for each in kind)
        raise TaperigError(f"'{word[:40]}' is none of: {known}.") from None
