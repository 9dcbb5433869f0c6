"""The sequences end to end: files through VE, drive and gates onto a cartridge and back."""

from __future__ import annotations

from pathlib import Path

from hsm.eedk import KeyLabel
from rig.ve.pools import Pool
from rig.ve.volumes import CompareSink
from tests.rig.tape_site import Site

CLEAR = Pool(1)
ENCRYPTED = Pool(2, True, (KeyLabel("KEK 1"), KeyLabel("KEK 2", "hash")))

BOT_ENCRYPTED = ["BOT-1", "BOT-2a", "BOT-2b", "BOT-2c", "BOT-2d", "BOT-2e", "BOT-4"]


def test_smoke(site: Site, tmp_path: Path) -> None:
    room = site.room(tmp_path, CLEAR, ENCRYPTED)
    volumes = room.volumes(0, 1, 16, 262144, 300000)
    volser = room.ve.write_from_bot(2, volumes)
    assert room.steps() == BOT_ENCRYPTED
    sink = CompareSink(volumes)
    report = room.ve.read(volser, sink)
    assert sink.all_equal, vars(sink)
    assert not report.incomplete
    print(room.steps(), room.drive.figures)
