"""``rig cartridge rekey``: other keys for a cartridge, without rewriting its data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsm.errors import EedkMalformedError
from hsm.keys.eedk import Eedk
from rig.cli.options import BoardOption, JsonOption, LabOption, lab_of, print_json
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import Flags, RecordHeader, TapeFormat
from rig.ve.volumes.logical_volume import VolumeError, VolumeHeader, decode_label

if TYPE_CHECKING:
    from hsm.keys.eedk import KeyLabel
    from rig.lab.model import Lab

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
    volser: Annotated[
        str, typer.Argument(metavar="VOLSER", help="Cartridge of the library, such as TAP002.")
    ],
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

    from rig.report.console import ConsoleReport
    from rig.results.events import EventLog
    from rig.results.results import untimed
    from rig.testbed.boards import choose_board
    from rig.testbed.session import open_station
    from rig.testbed.state import state_dir, used_alone
    from rig.ve.tape.library import Library
    from rig.ve.tape.rekey import rekey

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
    from hsm.errors import TaperigError
    from hsm.keys.eedk import KeyLabel, KeyMode

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


def show(path: Path) -> dict[str, Any]:
    """Return what is on a cartridge file, ready for JSON; raises CartridgeError.

    A clear cartridge also tells its logical volumes; an encrypted one does not, without its key.
    """
    with Cartridge.open(path) as cartridge:
        memory = cartridge.memory
        return {
            "file": str(path),
            "volser": cartridge.volser,
            "format": cartridge.format.name.lower(),
            "memory": {
                "cartridge_id": memory.cartridge_id.hex(),
                "sequence": memory.sequence,
                "epoch": memory.epoch,
                "first_epoch": memory.first_epoch,
                "block_count": memory.block_count,
                "end_offset": memory.end_offset,
            },
            "eedks": [_eedk(data) for data in memory.eedks],
            "blocks": cartridge.block_count,
            "data_bytes": cartridge.data_bytes,
            "logical_volumes": (
                list(_volumes(cartridge)) if cartridge.format is TapeFormat.CLEAR else None
            ),
            "records": [
                _record(header, cartridge.offset(header.block)) for header in cartridge.headers
            ],
            "notes": list(cartridge.notes),
            "damage": cartridge.damage or None,
        }


def _eedk(data: bytes) -> dict[str, Any]:
    try:
        eedk = Eedk.decode(data)
    except EedkMalformedError as error:
        return {"error": str(error), "bytes": len(data)}
    return {
        "mode": eedk.mode.value,
        "label": eedk.label,
        "kek_sha256": eedk.kek_hash.hex() if eedk.kek_hash else None,
        "algorithm": eedk.algorithm,
        "oaep_hash": eedk.oaep_hash.value,
        "volume": eedk.volume,
        "bytes": len(data),
    }


def _record(header: RecordHeader, offset: int) -> dict[str, Any]:
    return {
        "block": header.block,
        "offset": offset,
        "length": header.length,
        "kind": "label" if Flags.LABEL in header.flags else "data",
        "encrypted": header.encrypted,
        "epoch": header.epoch,
        "counter": header.counter,
    }


def _volumes(cartridge: Cartridge) -> Iterator[dict[str, Any]]:
    for header in cartridge.headers:
        if Flags.LABEL not in header.flags:
            continue
        (record,) = cartridge.read(header.block, 1)
        try:
            label = decode_label(record.data)
        except VolumeError as error:
            yield {"block": header.block, "error": str(error)}
            continue
        if isinstance(label, VolumeHeader):
            yield {
                "block": header.block,
                "name": label.name,
                "size": label.size,
                "path": label.path,
            }


def render(shown: dict[str, Any]) -> str:
    """Return what `show` told, as text; records alike that follow each other are one line."""
    memory = shown["memory"]
    lines = [
        f"cartridge {shown['volser']}, {shown['format']}: {shown['blocks']} blocks, "
        f"{shown['data_bytes']:,} bytes of data",
        f"memory    id {memory['cartridge_id']}, sequence {memory['sequence']}, append epoch "
        f"{memory['epoch']} (the first since BOT is {memory['first_epoch']})",
    ]
    lines += [
        f"EEDK {number}    {_eedk_words(eedk)}" for number, eedk in enumerate(shown["eedks"], 1)
    ]
    for volume in shown["logical_volumes"] or ():
        if "error" in volume:
            lines.append(f"volume    block {volume['block']}: {volume['error']}")
        else:
            lines.append(
                f"volume    {volume['name']}  {volume['size']:>12,} bytes  "
                f"{_printable(volume['path'])}"
            )
    lines += [f"records   {words}" for words in _runs(shown["records"])]
    lines += [f"note      {note}" for note in shown["notes"]]
    return "\n".join(lines)


def _eedk_words(eedk: dict[str, Any]) -> str:
    if "error" in eedk:
        return str(eedk["error"])
    key = f"label {eedk['label']!r}" if eedk["label"] else f"KEK SHA-256 {eedk['kek_sha256']}"
    return (
        f"{eedk['mode']} mode, {key}, {eedk['algorithm']} {eedk['oaep_hash']}, volume "
        f"{eedk['volume']}, {eedk['bytes']} bytes"
    )


def _runs(records: list[dict[str, Any]]) -> Iterator[str]:
    def alike(record: dict[str, Any]) -> tuple[Any, ...]:
        return (record["kind"], record["length"], record["encrypted"], record["epoch"])

    for (kind, length, encrypted, epoch), group in groupby(records, alike):
        run = list(group)
        first, last = run[0]["block"], run[-1]["block"]
        blocks = f"block {first}" if len(run) == 1 else f"blocks {first} to {last}"
        each = f"{length:,} bytes" + (" each" if len(run) > 1 else "")
        how = "encrypted" if encrypted else "clear"
        yield f"{blocks}: {kind}, {how}, {each}, epoch {epoch}, from byte {run[0]['offset']}"


def _printable(text: str) -> str:
    """A path name may hold anything; a terminal shall not."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
