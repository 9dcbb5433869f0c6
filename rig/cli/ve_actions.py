"""``rig ve``: the commands that change a node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rig.cli.options import (
    JsonOption,
    LabOption,
    NodeOption,
    OptionError,
    lab_of,
    print_json,
)
from rig.cli.ve_common import (
    SETTINGS,
    VOLUMES,
    ManagementClassOption,
    ReplaceOption,
    StorageGroupOption,
    open_catalogue_of,
    open_node_of,
    read_into_folder,
    reclaim_app,
    refuse_existing,
    ve_app,
)
from rig.report.text import plural

if TYPE_CHECKING:
    from hsm.keys.eedk import KeyLabel
    from rig.lab.model import Lab
    from rig.report.console import ConsoleReport
    from rig.ve.catalogue.model import InhibitPeriod
    from rig.ve.node import Node


_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _run_jobs(
    node: Node, report: ConsoleReport, *, reclaim: bool = False, as_json: bool = False
) -> None:
    """Run the queued tape jobs; name what is left undone and exit with 1."""
    done = node.work(reclaim=reclaim)
    if as_json:
        print_json({"done": done.done, "waiting": [str(each) for each in done.failures]})
    else:
        for failure in done.failures:
            report.error(str(failure))
    if done.failures:
        raise typer.Exit(1)


@ve_app.command("pools", rich_help_panel=SETTINGS)
def pools(
    number: Annotated[
        int | None,
        typer.Option("--set", metavar="POOL", help="Change the settings of this pool, 1 to 32."),
    ] = None,
    encrypt: Annotated[
        bool | None,
        typer.Option("--encrypt/--no-encrypt", help="Encrypt at the next write from BOT."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="LABEL", help="Key label, in clear mode; two keys at most."),
    ] = None,
    hash_key: Annotated[
        list[str] | None,
        typer.Option(
            "--hash-key", metavar="LABEL", help="Key label, in hash mode; two keys at most."
        ),
    ] = None,
    allow_public_only: Annotated[
        bool | None,
        typer.Option(
            "--allow-public-only/--require-private",
            help="Allow keys of which no key manager has the private half.",
        ),
    ] = None,
    borrow: Annotated[
        bool | None,
        typer.Option("--borrow/--no-borrow", help="Borrow from the common scratch pool."),
    ] = None,
    return_borrowed: Annotated[
        bool | None, typer.Option("--return/--keep", help="Return borrowed volumes once empty.")
    ] = None,
    reclaim_pool: Annotated[
        int | None,
        typer.Option(metavar="POOL", help="Pool to which reclaim moves the data."),
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option(
            metavar="PERCENT", help="Reclaim when active data falls below PERCENT (5 to 95)."
        ),
    ] = None,
    days_access: Annotated[
        int | None,
        typer.Option(metavar="DAYS", help="Reclaim DAYS after the last access (1 to 365; 0: off)."),
    ] = None,
    days_write: Annotated[
        int | None,
        typer.Option(metavar="DAYS", help="Reclaim DAYS after the last write (1 to 365; 0: off)."),
    ] = None,
    days_inactivation: Annotated[
        int | None,
        typer.Option(
            metavar="DAYS", help="Reclaim DAYS after data became inactive (1 to 365; 0: off)."
        ),
    ] = None,
    max_active: Annotated[
        int | None,
        typer.Option(
            metavar="PERCENT",
            help="With --days-inactivation: only below PERCENT of active data (5 to 95).",
        ),
    ] = None,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the pools' settings, or set one pool's.

    Settings apply at the next write from BOT; what is on tape stays as it is.
    """
    from dataclasses import replace

    from rig.cli.tables import print_table
    from rig.ve import operator_views
    from rig.ve.catalogue import settings
    from rig.ve.catalogue.model import PoolSettings, require_pool_number
    from rig.ve.catalogue.schema import PoolRow

    changes = (
        *(encrypt, key, hash_key, allow_public_only, borrow, return_borrowed, reclaim_pool),
        threshold,
        *(days_access, days_write, days_inactivation, max_active),
    )
    if number is None and any(each not in (None, []) for each in changes):
        raise OptionError("No pool was named to be changed; add --set POOL.")
    if number is not None:
        require_pool_number(number)
        if not any(each not in (None, []) for each in changes):
            raise OptionError(f"No setting of pool {number} was given; give one, or leave --set.")
        chosen = _keys(key or [], hash_key or [])
        checked = lab_of(lab)
        if encrypt or chosen:
            _require_license(checked)
        _require_known(checked, node, chosen)
        with open_node_of(lab, node, drives=False) as (opened, _), opened.change() as session:
            new = PoolSettings(number)
            row = session.get(PoolRow, number)
            before = new if row is None else row.record()
            keys = chosen or before.keys
            policy = replace(
                before.reclaim,
                **_given(
                    threshold_percent=threshold,
                    days_since_access=days_access,
                    days_since_write=days_write,
                    days_since_inactivation=days_inactivation,
                    inactivation_max_active_percent=max_active,
                ),
            )
            changed = replace(
                before,
                keys=keys,
                reclaim=policy,
                **_given(
                    encrypt=encrypt,
                    allow_public_only=allow_public_only,
                    borrow=borrow,
                    return_borrowed=return_borrowed,
                    reclaim_pool=reclaim_pool,
                ),
            )
            settings.set_pool(session, changed)
    with open_catalogue_of(lab_of(lab), node) as (session, _, _):
        rows = operator_views.pools(session)
    if as_json:
        print_json(rows)
        return
    for shown in rows:
        shown["reclaim"] = _policy_text(shown["reclaim"])
    columns = ("pool", "encrypt", "keys", "borrow", "return_borrowed", "reclaim_pool", "reclaim")
    print_table(rows, (*columns, "cartridges", "logical_volumes", "active_bytes"), "no pools")


@ve_app.command("constructs", rich_help_panel=SETTINGS)
def constructs(
    storage_group: Annotated[
        list[str] | None, typer.Option(metavar="NAME=POOL", help="Make or change a storage group.")
    ] = None,
    management_class: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=POOL", help="Make or change a management class; 0: no copy."),
    ] = None,
    default_primary: Annotated[
        int | None,
        typer.Option(metavar="POOL", help="Primary pool of volumes without constructs."),
    ] = None,
    default_secondary: Annotated[
        int | None,
        typer.Option(
            metavar="POOL",
            help="Secondary pool of volumes without constructs; 0: no copy.",
        ),
    ] = None,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show storage groups, management classes and defaults, or change them."""
    from rig.ve import operator_views
    from rig.ve.catalogue import settings
    from rig.ve.catalogue.model import ManagementClass, StorageGroup

    if storage_group or management_class or (default_primary, default_secondary) != (None, None):
        with open_node_of(lab, node, drives=False) as (opened, _), opened.change() as session:
            for word in storage_group or ():
                settings.set_storage_group(session, StorageGroup(*_mapping(word)))
            for word in management_class or ():
                settings.set_management_class(session, ManagementClass(*_mapping(word)))
            primary, secondary = settings.defaults(session)
            settings.set_defaults(
                session,
                primary if default_primary is None else default_primary,
                secondary if default_secondary is None else default_secondary,
            )
    with open_catalogue_of(lab_of(lab), node) as (session, _, _):
        shown = operator_views.constructs(session)
    if as_json:
        print_json(shown)
        return
    for name, pool in shown["storage_groups"].items():
        print(f"storage group     {name:<16} primary pool {pool}")
    for name, pool in shown["management_classes"].items():
        print(f"management class  {name:<16} " + (f"secondary pool {pool}" if pool else "no copy"))
    primary, secondary = shown["defaults"].values()
    copy = f"secondary pool {secondary}" if secondary else "no copy"
    print(f"without           {'':<16} primary pool {primary}, {copy}")


@ve_app.command("migrate", rich_help_panel=SETTINGS)
def migrate(
    old: Annotated[int, typer.Argument(metavar="OLD", help="Pool whose data is to move.")],
    new: Annotated[int, typer.Argument(metavar="NEW", help="New, empty, encrypted pool.")],
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the three changes that begin a move to an encrypted pool.

    Then move the volumes with recall, move or reclaim.
    """
    from rig.ve.catalogue import settings

    with open_node_of(lab, node, drives=False) as (opened, _), opened.change() as session:
        changes = settings.begin_migration(session, old, new)
    if as_json:
        print_json(changes)
    else:
        print("\n".join(changes))


@ve_app.command("clock", rich_help_panel=SETTINGS)
def clock(
    advance: Annotated[
        float,
        typer.Option(metavar="DAYS", help="Set the node's clock ahead, by 100 years at most."),
    ] = 0.0,
    reset: Annotated[
        bool, typer.Option("--reset", help="Set the node's clock back to real time.")
    ] = False,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the node's clock, set it ahead, or back to real time."""
    from rig.testbed.node import choose_node, node_folder
    from rig.testbed.state import state_dir
    from rig.ve.node import reset_clock
    from rig.ve.operator_views import utc_text

    if reset and advance:
        raise OptionError("--reset and --advance do not go together; give one after the other.")
    checked = lab_of(lab)
    if reset:
        reset_clock(node_folder(state_dir(), choose_node(checked, node)))
    if advance:
        with open_node_of(lab, node, drives=False) as (opened, _):
            opened.advance(advance)
    with open_catalogue_of(checked, node) as (_, now, _):
        print_json({"time": utc_text(now)}) if as_json else print(f"{utc_text(now)} UTC")


@ve_app.command("write", rich_help_panel=VOLUMES)
def write(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Files to write as logical volumes.")
    ],
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the volume; by default the next free one, as L00001."
        ),
    ] = None,
    replace: ReplaceOption = False,
    storage_group: StorageGroupOption = None,
    management_class: ManagementClassOption = None,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write files as logical volumes into the cache and unload them.

    `rig ve work` copies them to tape.
    """
    from hsm.errors import TaperigError
    from rig.ve.volumes.logical_volume import VolumeFile

    if name is not None and len(files) > 1:
        raise TaperigError("A name is for one file; leave --name out to write several.")
    if replace and name is None:
        raise OptionError("--replace is for the volume that --name names; give both, or neither.")
    written = []
    with open_node_of(lab, node, drives=False) as (opened, _):
        if name is not None and not replace:
            refuse_existing(opened, [name])
        names = [name] if name is not None else opened.free_names(len(files))
        volumes = [VolumeFile.of(*each) for each in zip(names, files, strict=True)]
        for batch in opened.write_files(
            volumes, storage_group=storage_group, management_class=management_class
        ):
            for volume in batch:
                row = {"volume": volume.name, "size": volume.size, "source": volume.source}
                written.append(row)
                if not as_json:
                    print(f"{volume.name}  {volume.size} bytes  {volume.source}")
    if as_json:
        print_json(written)


@ve_app.command("read", rich_help_panel=VOLUMES)
def read(
    names: Annotated[list[str], typer.Argument(metavar="VOLUME", help="Logical volumes.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the files.")] = Path(),
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read logical volumes into files, recalled from tape where needed."""
    import shutil

    def copy(_name: str, source: Path, target: Path, _now: float) -> None:
        shutil.copyfile(source, target)

    read_into_folder(out, names, copy, lab=lab, node=node, as_json=as_json)


@ve_app.command("expire", rich_help_panel=VOLUMES)
def expire(
    names: Annotated[list[str], typer.Argument(metavar="VOLUME", help="Logical volumes.")],
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Expire logical volumes: their data becomes inactive, their names free."""
    with open_node_of(lab, node, drives=False) as (opened, _):
        for name in names:
            opened.expire(name)
    print_json(names) if as_json else print(f"{plural(len(names), 'volume')} expired")


@ve_app.command("writable", rich_help_panel=VOLUMES)
def writable(
    volsers: Annotated[list[str], typer.Argument(metavar="VOLSER", help="Physical volumes.")],
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let physical volumes that were made read-only be written again."""
    with open_node_of(lab, node, drives=False) as (opened, _):
        opened.make_writable(volsers)
    print_json(volsers) if as_json else print(f"{plural(len(volsers), 'cartridge')} writable")


@ve_app.command("work", rich_help_panel=VOLUMES)
def work(
    reclaim: Annotated[bool, typer.Option("--reclaim", help="Also reclaim.")] = False,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the queued tape jobs: copies, database backups, moves."""
    with open_node_of(lab, node, drives=True, quiet=as_json) as (opened, report):
        _run_jobs(opened, report, reclaim=reclaim, as_json=as_json)


@ve_app.command("serve", rich_help_panel=VOLUMES)
def serve(lab: LabOption = None, node: NodeOption = None) -> None:
    """Run the queued tape jobs and reclaim until interrupted.

    What fails is tried again.
    """
    import threading

    with open_node_of(lab, node, drives=True) as (opened, report):
        report.line("serving; interrupt to end")
        try:
            opened.serve(threading.Event())
        except KeyboardInterrupt:
            report.line("ended")


@ve_app.command("recall", rich_help_panel=VOLUMES)
def recall(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="VOLUME", help="Logical volumes.")
    ] = None,
    volser: Annotated[
        list[str] | None,
        typer.Option("--volser", metavar="VOLSER", help="All volumes on this physical volume."),
    ] = None,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recall volumes by position on tape, and unload each.

    They go to the pool that their storage group names now.
    """
    from rig.ve.catalogue import transactions

    if not names and not volser:
        raise OptionError("No volume was named; give logical volumes, or --volser VOLSER.")

    with open_node_of(lab, node, drives=True, quiet=as_json) as (opened, _):
        wanted = list(names or ())
        with opened.catalogue.reading() as session:
            for each in volser or ():
                transactions.physical(session, each)
                wanted += [copy.name for copy in transactions.copies_on(session, each)]
        opened.recall_job(dict.fromkeys(wanted))
    if as_json:
        print_json(list(dict.fromkeys(wanted)))


@ve_app.command("move", rich_help_panel=VOLUMES)
def move(
    volsers: Annotated[
        list[str], typer.Argument(metavar="VOLSER", help="Physical volumes; FIRST-LAST is a range.")
    ],
    to: Annotated[int, typer.Option("--to", metavar="POOL", help="Target pool.")],
    when_eligible: Annotated[
        bool, typer.Option("--when-eligible", help="Move each when it is eligible for reclaim.")
    ] = False,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move the volumes stacked on physical volumes to a pool, tape to tape."""
    with open_node_of(lab, node, drives=not when_eligible, quiet=as_json) as (opened, report):
        opened.move_stacked(_expand_ranges(opened, volsers), to, when_eligible=when_eligible)
        if not when_eligible:
            _run_jobs(opened, report, as_json=as_json)
        elif as_json:
            print_json({"done": 0, "waiting": []})
        else:
            report.line("ordered; `rig ve work` moves each once it is eligible for reclaim")


@reclaim_app.command("run")
def reclaim_run(
    lab: LabOption = None, node: NodeOption = None, as_json: JsonOption = False
) -> None:
    """Reclaim what is eligible, and run the other queued jobs."""
    with open_node_of(lab, node, drives=True, quiet=as_json) as (opened, report):
        _run_jobs(opened, report, reclaim=True, as_json=as_json)


@reclaim_app.command("inhibit")
def reclaim_inhibit(
    periods: Annotated[
        list[str] | None,
        typer.Argument(metavar="DAY/HH:MM+MINUTES", help="Period in UTC, as mon/22:00+480."),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all periods.")] = False,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show or set the weekly periods in which no reclaim begins."""
    from rig.ve.catalogue import settings

    if clear and periods:
        raise OptionError("--clear removes all periods; give it, or the periods to set.")
    if clear or periods:
        chosen = [_period(word) for word in periods or ()]
        with open_node_of(lab, node, drives=False) as (opened, _), opened.change() as session:
            settings.set_inhibit_periods(session, chosen)
    with open_catalogue_of(lab_of(lab), node) as (session, _, _):
        shown = [_period_text(period) for period in settings.inhibit_periods(session)]
    if as_json:
        print_json(shown)
    else:
        print("\n".join(shown) or "reclaim is not inhibited at any time")


@ve_app.command("check", rich_help_panel=VOLUMES)
def check(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also hash the volumes in the cache.")
    ] = False,
    tapes: Annotated[
        bool, typer.Option("--tapes", help="Also read everything on tape, through the drives.")
    ] = False,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that catalogue, cache and cartridges agree.

    Exits 1 when they do not.
    """
    from dataclasses import asdict

    with open_node_of(lab, node, drives=tapes, quiet=as_json) as (opened, _):
        result = asdict(opened.check(deep=deep))
        if tapes:
            result["findings"] = [*result["findings"], *opened.verify_tapes()]
    if as_json:
        print_json(result)
    else:
        for line in result["findings"]:
            print(f"wrong  {line}")
        print(
            f"{plural(result['logical_volumes'], 'logical volume')}, "
            f"{result['in_cache']} in the cache, {plural(result['copies'], 'copy')} on "
            f"{plural(result['physical_volumes'], 'cartridge')}: "
            f"{len(result['findings']) or 'nothing'} wrong"
        )
    raise typer.Exit(1 if result["findings"] else 0)


@ve_app.command("scrub", rich_help_panel=VOLUMES)
def scrub(
    days: Annotated[
        int | None,
        typer.Option(
            metavar="DAYS", min=0, help="Read what was not read for DAYS; by default as set."
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            "--set",
            metavar="DAYS",
            min=0,
            help="Have `rig ve serve` read each copy every DAYS; 0: never.",
        ),
    ] = None,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read copies again that were not read for long, and repair bad ones.

    A bad copy is made anew from the cache or from the other copy. Exits 1 when one is left.
    """
    from rig.ve.catalogue import bad_copies, settings

    if every is not None:
        if days is not None:
            raise OptionError("--set and --days do not go together; give one after the other.")
        with open_node_of(lab, node, drives=False) as (opened, _), opened.change() as session:
            settings.set_scrub_days(session, every)
        print_json({"days": every}) if as_json else print(
            f"copies are read again after {plural(every, 'day')}" if every else "no scrub by itself"
        )
        return
    with open_node_of(lab, node, drives=True, quiet=as_json) as (opened, report):
        with opened.catalogue.reading() as session:
            chosen = settings.scrub_days(session) if days is None else days
        volsers = opened.due_to_scrub(chosen)
        findings = opened.verify_tapes(volsers)
        failures = [str(each) for each in opened.work().failures] if findings else []
        with opened.catalogue.reading() as session:
            left = bad_copies.remaining(session)
        if not as_json:
            for line in (*findings, *failures):
                report.error(line)
    if as_json:
        print_json({"cartridges": volsers, "findings": findings, "bad_copies": left})
    else:
        print(
            f"{plural(len(volsers), 'cartridge')} read, {len(findings) or 'nothing'} wrong, "
            f"{plural(left, 'bad copy')} left"
        )
    raise typer.Exit(1 if left or failures else 0)


def _require_license(lab: Lab) -> None:
    """Refuse encryption settings without a license for them (PRE-4)."""
    from rig.ve.prerequisites import require_encryption_settings

    if lab.installation is not None:
        require_encryption_settings(lab.installation.record(ekms=len(lab.ekms)))


def _require_known(lab: Lab, node: str | None, keys: Sequence[KeyLabel]) -> None:
    """Refuse key labels that the node's key managers lack."""
    from rig.testbed.key_managers import require_known_labels
    from rig.testbed.node import choose_node
    from rig.testbed.state import state_dir

    labels = [key.label for key in keys]
    require_known_labels(lab, choose_node(lab, node), state_dir(), labels)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _keys(clear: list[str], hashed: list[str]) -> tuple[KeyLabel, ...]:
    from hsm.keys.eedk import KeyLabel, KeyMode

    return tuple(
        [KeyLabel(label) for label in clear] + [KeyLabel(label, KeyMode.HASH) for label in hashed]
    )


def _policy_text(policy: dict[str, int]) -> str:
    words = [f"below {policy['threshold_percent']} %"]
    for name in ("access", "write", "inactivation"):
        if days := policy[f"days_since_{name}"]:
            words.append(f"{days} days since {name}")
    if policy["days_since_inactivation"]:
        words[-1] += f" below {policy['inactivation_max_active_percent']} %"
    return ", ".join(words)


def _mapping(word: str) -> tuple[str, int]:
    from hsm.errors import TaperigError

    name, sign, number = word.partition("=")
    if not (name and sign and number.isdecimal() and len(number) <= 2):
        raise TaperigError(
            f"'{word[:40]}' maps no construct to a pool of 1 to 32; write NAME=POOL, such as "
            f"PAYROLL=2."
        )
    return name, int(number)


def _expand_ranges(node: Node, words: list[str]) -> list[str]:
    """Return the VOLSERs; FIRST-LAST stands for the node's cartridges in it."""
    volsers: list[str] = []
    for word in words:
        first, sign, last = word.partition("-")
        if sign:
            inside = [each for each in node.parts.cartridges.volsers() if first <= each <= last]
            if not inside:
                raise OptionError(f"The node has no cartridge in the range {word[:40]}.")
            volsers += inside
        else:
            volsers.append(first)
    return volsers


def _period_text(period: InhibitPeriod) -> str:
    hours, minutes = divmod(period.start_minute, 60)
    return f"{_DAYS[period.weekday]}/{hours:02}:{minutes:02}+{period.minutes}"


def _period(word: str) -> InhibitPeriod:
    import re

    from hsm.errors import TaperigError
    from rig.ve.catalogue.model import InhibitPeriod

    match = re.fullmatch(r"([a-z]{3})/([01]\d|2[0-3]):([0-5]\d)\+(\d{1,5})", word)
    if match is None or match[1] not in _DAYS:
        raise TaperigError(
            f"'{word[:40]}' is no period; write DAY/HH:MM+MINUTES, as mon/22:00+480."
        )
    start = int(match[2]) * 60 + int(match[3])
    return InhibitPeriod(_DAYS.index(match[1]), start, int(match[4]))
