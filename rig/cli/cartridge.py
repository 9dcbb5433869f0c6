"""``rig cartridge show``: what is on a cartridge file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from hsm.errors import EedkMalformedError
from hsm.keys.eedk import Eedk
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import Flags, RecordHeader, TapeFormat
from rig.report.text import printable
from rig.ve.operator_views import utc_text
from rig.ve.volumes.logical_volume import VolumeError, VolumeHeader, decode_label


def show(path: Path) -> dict[str, Any]:
    """Return what is on a cartridge file, ready for JSON.

    Raises CartridgeError. The logical volumes are listed for a clear cartridge only; those of an
    encrypted one cannot be read without its key.
    """
    with Cartridge.open(path) as cartridge:
        memory = cartridge.memory
        return {
            "file": str(path),
            "volser": cartridge.volser,
            "format": cartridge.format.name.lower(),
            "memory": {
                "version": memory.version,
                "cartridge_id": memory.cartridge_id.hex(),
                "sealed": memory.seal is not None,
                "kad": [field.hex() for field in memory.kad],
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
        "kind": _kind(header),
        "encrypted": header.encrypted,
        "epoch": header.epoch,
        "counter": header.counter,
    }


def _kind(header: RecordHeader) -> str:
    if Flags.TAPE_MARK in header.flags:
        return "tape mark"
    return "label" if Flags.LABEL in header.flags else "data"


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
                "generation": label.facts.generation or None,
                "storage_group": label.facts.storage_group,
                "management_class": label.facts.management_class,
                "written": utc_text(label.facts.written or None),
                "role": label.facts.role or None,
                "pool": label.facts.pool or None,
                "copied": utc_text(label.facts.copied or None),
            }


def render(shown: dict[str, Any]) -> str:
    """Return what `show` returned, as text.

    Records of one kind that follow each other are one line.
    """
    memory = shown["memory"]
    lines = [
        f"cartridge {shown['volser']}, {shown['format']}: {shown['blocks']} blocks, "
        f"{shown['data_bytes']:,} bytes of data",
        f"memory    id {memory['cartridge_id']}, sequence {memory['sequence']}, append epoch "
        f"{memory['epoch']} (the first since BOT is {memory['first_epoch']}), format version "
        f"{memory['version']}{', sealed' if memory['sealed'] else ''}",
    ]
    lines += [f"KAD {number}     {kad}" for number, kad in enumerate(memory["kad"], 1) if kad]
    lines += [
        f"EEDK {number}    {_eedk_text(eedk)}" for number, eedk in enumerate(shown["eedks"], 1)
    ]
    for volume in shown["logical_volumes"] or ():
        if "error" in volume:
            lines.append(f"volume    block {volume['block']}: {volume['error']}")
        else:
            lines.append(
                f"volume    {volume['name']}  {volume['size']:>12,} bytes  "
                f"{printable(volume['path'])}{_facts_text(volume)}"
            )
    lines += [f"records   {line}" for line in _record_lines(shown["records"])]
    lines += [f"note      {note}" for note in shown["notes"]]
    return "\n".join(lines)


def _facts_text(volume: dict[str, Any]) -> str:
    if volume["generation"] is None:
        return ""  # an older label
    words = [f"generation {volume['generation']}", f"written {volume['written']}"]
    words += [f"{volume['role']} copy of pool {volume['pool']}"] if volume["role"] else []
    words += [f"storage group {volume['storage_group']}"] if volume["storage_group"] else []
    if volume["management_class"]:
        words.append(f"management class {volume['management_class']}")
    return f"  ({', '.join(words)})"


def _eedk_text(eedk: dict[str, Any]) -> str:
    if "error" in eedk:
        return str(eedk["error"])
    key = f"label {eedk['label']!r}" if eedk["label"] else f"KEK SHA-256 {eedk['kek_sha256']}"
    return (
        f"{eedk['mode']} mode, {key}, {eedk['algorithm']} {eedk['oaep_hash']}, volume "
        f"{eedk['volume']}, {eedk['bytes']} bytes"
    )


def _record_lines(records: list[dict[str, Any]]) -> Iterator[str]:
    def kind_of(record: dict[str, Any]) -> tuple[Any, ...]:
        return (record["kind"], record["length"], record["encrypted"], record["epoch"])

    for (kind, length, encrypted, epoch), group in groupby(records, kind_of):
        run = list(group)
        first, last = run[0]["block"], run[-1]["block"]
        blocks = f"block {first}" if len(run) == 1 else f"blocks {first} to {last}"
        each = f"{length:,} bytes" + (" each" if len(run) > 1 else "")
        how = "encrypted" if encrypted else "clear"
        yield f"{blocks}: {kind}, {how}, {each}, epoch {epoch}, from byte {run[0]['offset']}"
