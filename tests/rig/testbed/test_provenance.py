"""What a run says of its board, its gates and its data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

import pytest
from serial.tools.list_ports_common import ListPortInfo

import hdl.registers.engine_map as regs
from hdl import sources
from hdl.boards.virtual import launch
from hdl.fpga.synthesis import source_hash
from hdl.fpga.targets import TARGETS, find_target, last_build
from hdl.verilator.toolchain import find_toolchain
from rig.board.sim import SimBoard
from rig.board.virtual import VirtualBoard
from rig.engine.driver import Engine
from rig.lab.model import BoardUnit
from rig.testbed.provenance import (
    UnknownBuildError,
    data_sha256,
    identify_gates,
    lab_file,
    require_known_build,
    usb_serial,
)
from tests.support import rig_command
from tests.support.boards import BoardWrapper
from tests.support.rig_command import rig

LAB_BOARD = BoardUnit(kind="visa", resource="ASRL/dev/ttyUSB0::INSTR")


class BitstreamBoard(BoardWrapper):
    """The simulated board, which says that it is a bitstream of some build."""

    def __init__(self, board: SimBoard, build_hash: str) -> None:
        super().__init__(board)
        self._build_hash = build_hash

    def read(self, address: int, size: int, count: int) -> bytes:
        if address == regs.BUILD_HASH.address:
            return bytes.fromhex(self._build_hash)
        answer = super().read(address, size, count)
        if address == regs.FEATURES.address:
            features = int.from_bytes(answer, "big") & ~regs.FEATURES_SIMULATED.put(1)
            return features.to_bytes(len(answer), "big")
        return answer


def engine_of(board: SimBoard, source: str) -> Engine:
    return Engine(BitstreamBoard(board, source[:8]))


def last(name: str) -> str:
    found = last_build(find_target(name))
    assert found is not None
    return found.source_hash


def test_gates_of_a_recorded_build_have_its_bitstream(sim_board: SimBoard, tmp_path: Path) -> None:
    recorded = {name: last_build(target) for name, target in TARGETS.items()}
    name, build = next(
        (name, build)
        for name, build in recorded.items()
        if build is not None and build.source_hash != source_hash(TARGETS[name])
    )
    gates = identify_gates(engine_of(sim_board, build.source_hash), LAB_BOARD, tmp_path)
    assert (gates.origin, gates.target) == ("recorded build", name)
    assert gates.source_hash == build.source_hash
    assert gates.bitstream_sha256 == build.bitstream_sha256
    assert gates.rtl_sha256 is None
    assert not gates.simulated


def test_gates_of_the_checkout_have_the_bitstream_built_here(
    sim_board: SimBoard, tmp_path: Path
) -> None:
    here = source_hash(find_target("ecp5_evn"))
    engine = engine_of(sim_board, here)
    gates = identify_gates(engine, LAB_BOARD, tmp_path)
    assert (gates.origin, gates.target, gates.source_hash) == ("checkout", "ecp5_evn", here)
    assert gates.rtl_sha256 == sources.rtl_sha256()
    report = tmp_path / "bitstreams" / "ecp5_evn" / "report.json"
    report.parent.mkdir(parents=True)
    for written, expected in (
        ({"source_hash": here, "bitstream_sha256": "ab" * 32}, "ab" * 32),
        ({"source_hash": "00" * 32, "bitstream_sha256": "ab" * 32}, None),
        ([], None),
    ):
        report.write_text(json.dumps(written))
        assert identify_gates(engine, LAB_BOARD, tmp_path).bitstream_sha256 == expected


def test_gates_of_another_board_than_the_labs_are_of_an_unknown_build(
    sim_board: SimBoard, tmp_path: Path
) -> None:
    unit = LAB_BOARD.replace(fpga="ecp5_evn")
    engine = engine_of(sim_board, last("ulx3s"))
    gates = identify_gates(engine, unit, tmp_path)
    assert gates.origin == "other"
    assert gates.source_hash is gates.rtl_sha256 is gates.bitstream_sha256 is None
    with pytest.raises(UnknownBuildError) as caught:
        require_known_build(gates, engine, "bench", unit, tmp_path)
    sentence = str(caught.value)
    assert f"Board bench has gates of build 0x{last('ulx3s')[:8]}, and this checkout's" in sentence
    assert f"0x{source_hash(find_target('ecp5_evn'))[:8]} for ecp5_evn" in sentence
    assert f"recorded in last_build.json: 0x{last('ecp5_evn')[:8]} for ecp5_evn" in sentence
    assert "rig board program" in sentence
    assert "--any-build" in sentence
    assert "\n" not in sentence


def test_gates_cannot_be_identified_with_a_damaged_last_build(
    sim_board: SimBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "last_build.json").write_text("{}")
    damaged = replace(find_target("ulx3s"), folder=tmp_path)
    monkeypatch.setitem(TARGETS, "ulx3s", damaged)
    with pytest.raises(UnknownBuildError, match=r"last_build\.json is not a summary of a build"):
        identify_gates(engine_of(sim_board, "ab" * 4), LAB_BOARD, tmp_path)


def test_usb_serial_is_that_of_the_adapter_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, link = tmp_path / "ttyUSB7", tmp_path / "by-id"
    device.touch()
    link.symlink_to(device)
    adapter, other = ListPortInfo(str(device)), ListPortInfo("/dev/ttyS0")
    adapter.serial_number = "D00039"
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: [other, adapter])
    assert usb_serial(f"ASRL{link}::INSTR") == "D00039"
    assert usb_serial("ASRL/dev/ttyS0::INSTR") is None
    assert usb_serial("ASRL/dev/absent::INSTR") is None
    assert usb_serial("TCPIP::127.0.0.1::3820::SOCKET") is usb_serial(None) is None


def test_data_sha256_depends_on_contents_and_order_alone(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"")
    lines = "".join(f"{hashlib.sha256(each).hexdigest()}\n" for each in (b"1", b""))
    assert data_sha256([one, two]) == hashlib.sha256(lines.encode()).hexdigest()
    assert data_sha256([two, one]) != data_sha256([one, two])
    assert data_sha256([one.rename(tmp_path / "three"), two]) == (
        hashlib.sha256(lines.encode()).hexdigest()
    )
    assert data_sha256([Path("/proc/self/mem")]) is None


def test_lab_file_that_cannot_be_read_again_has_no_hash(tmp_path: Path) -> None:
    assert lab_file(tmp_path / "absent") is None
    os.mkfifo(tmp_path / "pipe")
    assert lab_file(tmp_path / "pipe") is None


@contextmanager
def changed_virtual_board(rtl: Path, transport_key: Path) -> Iterator[VirtualBoard]:
    """Serve a virtual board whose gates are a changed copy of the checkout's."""
    changed: dict[str, Any] = {"RTL_DIRECTORY": rtl, "GENERATED_DIRECTORY": rtl / "generated"}
    with patch.multiple(sources, **changed), patch.multiple(launch, **changed):
        board = VirtualBoard(transport_key=transport_key)
    with board:
        yield board


def test_run_judges_changed_gates_only_with_any_build(
    tmp_path: Path, state: Path, slow_rtl: Path
) -> None:
    lab = rig_command.lab_file(tmp_path)
    assert rig("hsm", "init", "--lab", lab).code == 0
    (tmp_path / "data").write_bytes(b"abc")

    def run(*options: str) -> tuple[rig_command.Ended, dict[str, Any], ElementTree.Element]:
        out = tmp_path / f"out{len(options)}"
        words = ("--lab", lab, "--board", "virtual", "--scenario", "round_trip", "--out", out)
        ended = rig("run", *words, "--data", tmp_path / "data", *options)
        results = json.loads((out / "results.json").read_text())
        return ended, results, ElementTree.parse(out / "junit.xml").getroot()

    with changed_virtual_board(slow_rtl, state / "transport" / "TR0000000001.hex") as board:
        change = ("TCPIP::127.0.0.1::3820::SOCKET", board.socket_resource)
        lab = rig_command.lab_file(tmp_path, change)
        ended, results, _ = run()
        sentence = ended.sentence()
        gates = results["provenance"]["gates"]
        here = launch.virtual_recipe().digest(find_toolchain())
        assert (
            f"has gates of build {gates['build_hash']}, and this checkout's are 0x{here[:8]}"
            in (sentence)
        )
        assert gates["build_hash"] != f"0x{here[:8]}"
        assert (gates["origin"], results["verdict"]) == ("other", "error")
        assert results["error"] == sentence
        assert [scenario["verdict"] for scenario in results["scenarios"]] == ["skipped"]
        ended, results, junit = run("--any-build")
    assert (ended.code, ended.err) == (0, "")
    assert f"PASS  gates of an unknown build, {gates['build_hash']}; " in ended.out
    assert results["provenance"]["gates"] == gates
    assert results["provenance"]["link_faults"] == 0
    assert results["provenance"]["board"]["resource"] == board.socket_resource
    origin = junit.find("testsuite/properties/property[@name='gates.origin']")
    assert origin is not None
    assert origin.get("value") == "other"
