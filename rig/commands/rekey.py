"""``rig cartridge rekey``: other keys for a cartridge, without rewriting its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rig.commands.options import BoardOption, JsonOption, LabOption, lab_of, print_json

if TYPE_CHECKING:
    from hsm.eedk import KeyLabel
    from rig.lab import Lab

KeyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="LABEL",
        help="Key of a new EEDK that bears its label (clear mode); once or twice with --hash-key.",
    ),
]
HashKeyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--hash-key", metavar="LABEL", help="Key of a new EEDK that bears its hash (hash mode)."
    ),
]


def cartridge_rekey(
    volser: Annotated[str, typer.Argument(help="Cartridge of the library, such as TAP002.")],
    key: KeyOption = None,
    hash_key: HashKeyOption = None,
    lab: LabOption = None,
    board: BoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a cartridge new EEDKs for other keys; by default those that its pool has now.

    The data is not touched; the old EEDKs are gone from cartridge memory and media afterwards.
    """
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from rig.boards import choose_board
    from rig.events import EventLog
    from rig.report.console import ConsoleReport
    from rig.report.results import untimed
    from rig.state import state_dir, used_alone
    from rig.station import open_station
    from rig.ve.library import Library
    from rig.ve.rekey import rekey

    checked, state = lab_of(lab), state_dir()
    library = Library(state / "cartridges")
    number = library[volser].pool
    keys = _keys(checked, number, key or [], hash_key or [])
    unit = checked.pools_of(checked.run_node).get(number)
    report, events = ConsoleReport(error_stream=as_json), EventLog()
    events.notice_listeners.append(report.notice)
    name = choose_board(checked, board)
    with (
        used_alone(state),
        TemporaryDirectory(prefix="taperig-rekey-") as folder,
        open_station(checked, name, state, Path(folder), report, untimed, events=events) as station,
    ):
        events.listeners.append(report.step)
        report.step_heading()
        done = rekey(
            station.drive,
            station.proxy,
            library,
            events,
            volser,
            keys,
            allow_public_only=unit is not None and unit.allow_public_only,
        )
    if as_json:
        print_json(
            {
                "volser": volser,
                "keys": [{"label": each.label, "mode": each.mode.value} for each in keys],
                "opened_here": list(done.opened),
            }
        )
        return
    words = " and ".join(f"{each.label!r} ({each.mode} mode)" for each in keys)
    report.line(f"{volser} is under {words}; {sum(done.opened)} of its 2 EEDKs opened here")


def _keys(lab: Lab, pool_number: int, clear: list[str], hashed: list[str]) -> tuple[KeyLabel, ...]:
    """The keys of the command line, clear ones first, else those of the cartridge's pool."""
    from hsm.eedk import KeyLabel, KeyMode
    from hsm.errors import TaperigError

    keys = tuple(
        [KeyLabel(label) for label in clear] + [KeyLabel(label, KeyMode.HASH) for label in hashed]
    )
    if len(keys) > 2:
        raise TaperigError(f"A cartridge takes one or two keys, not {len(keys)}; leave some out.")
    if keys:
        return keys
    pool = lab.pools_of(lab.run_node).get(pool_number)
    if pool is None or not pool.keys:
        raise TaperigError(
            f"Pool {pool_number} of the lab has no keys; name some with --key or --hash-key."
        )
    return tuple(KeyLabel(each.label, KeyMode(each.mode)) for each in pool.keys)
