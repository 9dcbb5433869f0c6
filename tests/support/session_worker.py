"""Child of test_key_secrecy: one encrypted session, stopped in its read.

Reads a folder on standard input. Writes, appends and reads a cartridge there with gates, secure
element, token and key manager of its own, and keeps all traffic in files. In the middle of the read
it prints the process ids (JSON) and waits for a line. Then it prints the round keys that are in the
gates' registers, keeps them (the planted copy), waits again, and ends the session.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.serialization import Encoding

from hsm.ekm.client import EkmEndpoint
from hsm.ekm.service.launch import spawn_ekm
from hsm.keys.eedk import KeyLabel, KeyMode
from hsm.keys.pki import load_certificate
from rig.board.sim import SimBoard
from rig.drive.cartridge import Cartridge
from rig.drive.drive import Drive
from rig.drive.secure_element import SecureElement, SecureElementConfig
from rig.engine.driver import Engine
from rig.results.events import EventLog
from rig.ve.catalogue.model import PoolSettings
from rig.ve.ekm.proxy import EkmProxy
from rig.ve.tape.cartridge_store import CartridgeStore
from rig.ve.tape.sequences import DriveSequences
from rig.ve.volumes.logical_volume import VolumeFile, VolumeHeader
from tests.support.boards import BoardWrapper, peek
from tests.support.key_rows import from_rows
from tests.support.provisioned import provision_lab
from tests.support.tape_site import ekm_settings
from tests.support.volume_sinks import CompareSink

SERIAL = "TAPE000001"
PROBES = Path(__file__).with_name("probes")
KEY_SCHEDULE = "u_drive_crypto.u_key_control.u_aes_key_expand.rows_q"
"""60 words of 32 bits, the first in the lowest place."""


class TappedBoard(BoardWrapper):
    """A board whose every byte, both ways, also goes to a file."""

    def __init__(self, board: SimBoard, capture: BinaryIO) -> None:
        super().__init__(board)
        self._capture = capture

    def read(self, address: int, size: int, count: int) -> bytes:
        data = super().read(address, size, count)
        self._capture.write(data)
        return data

    def write(self, address: int, size: int, data: bytes | bytearray | memoryview) -> None:
        self._capture.write(data)
        super().write(address, size, data)


class StopAtFirst(CompareSink):
    """Compares what is read, and stops at the first volume to be looked at."""

    def __init__(self, volumes: list[VolumeFile], pids: dict[str, int], board: SimBoard) -> None:
        super().__init__(volumes)
        self._pids = pids
        self._board = board
        self.planted = b""

    def begin(self, header: VolumeHeader) -> None:
        super().begin(header)
        if self.planted:
            return
        print(json.dumps(self._pids), flush=True)
        sys.stdin.readline()
        words = peek(self._board, KEY_SCHEDULE)
        # The first round key is the lowest 128 bits.
        self.planted = b"".join(from_rows(words[i - 16 : i]) for i in range(len(words), 0, -16))
        print(self.planted.hex(), flush=True)
        sys.stdin.readline()


def capture(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def main() -> None:
    folder = Path(sys.stdin.readline().strip())
    logging.basicConfig(filename=folder / "rig.log", level=logging.DEBUG)
    lab = provision_lab(folder / "state", ["KEK 1", "KEK 2"], [SERIAL])
    files = sorted((folder / "data").iterdir())
    volumes = [VolumeFile.of(f"L{i:05}", path) for i, path in enumerate(files)]
    with ExitStack() as stack:
        link = stack.enter_context((folder / "link.capture").open("wb"))
        relay = stack.enter_context((folder / "relay.capture").open("wb"))
        ekm = stack.enter_context(spawn_ekm(ekm_settings(lab, folder)))
        proxy = stack.enter_context(
            EkmProxy(
                [EkmEndpoint(ekm.host, ekm.port, lab.rig_tls)],
                observer=lambda _, data: capture(relay, data),
            )
        )
        board = stack.enter_context(
            SimBoard(
                transport_key=lab.drive(SERIAL).transport_key,
                probes=sorted(PROBES.iterdir()),
                log=folder / "simulation.log",
            )
        )
        engine = Engine(TappedBoard(board, link))
        engine.lock_plain_key()
        element = stack.enter_context(
            SecureElement.start(SecureElementConfig.of(lab.drive(SERIAL)))
        )
        ca = load_certificate(lab.ca).public_bytes(Encoding.DER)
        pool = PoolSettings(2, True, (KeyLabel("KEK 1"), KeyLabel("KEK 2", KeyMode.HASH)))
        cartridges = CartridgeStore(folder / "cartridges")
        volser = "TAP001"
        Cartridge.create(cartridges.path(volser), volser)
        drive = Drive(engine, element, SERIAL, "TS1120", ekm_ca_der=ca)
        sequences = DriveSequences(drive, proxy, cartridges, EventLog())
        sequences.write_from_bot(pool, volumes[:-1], volser)
        sequences.append(volser, volumes[-1:])
        pids = {
            "rig": os.getpid(),
            "key manager": ekm.pid,
            "simulator": board.pid,
            "secure element": element.pid,
        }
        sink = StopAtFirst(volumes, pids, board)
        sequences.read(volser, sink)
        assert sink.all_equal
        assert not engine.key_valid
    print("done", flush=True)


if __name__ == "__main__":
    main()
