"""Insertion of the transport key into a bitstream."""

import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from hdl.fpga.synthesis import build, copy_sources, place_and_route, synthesize
from hdl.fpga.tools import run_tool
from hdl.fpga.transport_key import (
    TransportKeyError,
    insert_key,
    insert_key_gowin,
    pattern,
    read_key,
    write_bitstream,
)
from tests.support.small_boards import keyed_gowin_target, keyed_target, ram_contents


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Place and route a design with the key's block RAM and a register."""
    source = tmp_path_factory.mktemp("keyed")
    target = keyed_target(source)
    folder = tmp_path_factory.mktemp("build")
    synthesize(target, folder, copy_sources(target, folder), build_hash=None)
    place_and_route(target, folder, 1, {"": "keyed"})
    return folder / "seed1.config"


def test_transport_key_is_in_the_bitstream_and_nowhere_else(config: Path, tmp_path: Path) -> None:
    key = secrets.token_bytes(32)
    key_file = tmp_path / "drive.hex"
    key_file.write_text(key.hex() + "\n")
    bitstream = tmp_path / "own.bit"
    bitstream.write_text("an older one, readable by all")
    command = [sys.executable, "-m", "hdl.fpga.transport_key", str(key_file), str(config)]
    ended = subprocess.run(
        [*command, str(bitstream)], capture_output=True, text=True, check=False, cwd=Path.cwd()
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert bitstream.stat().st_mode & 0o777 == 0o600
    assert key.hex() not in config.read_text()

    unpacked = ["--input", bitstream.name, "--textcfg", "unpacked.config"]
    assert run_tool("yowasp-ecpunpack", unpacked, tmp_path).code == 0
    assert ram_contents((tmp_path / "unpacked.config").read_text()) == [key + pattern()[32:]]


def test_transport_key_insertion_changes_nothing_else(config: Path) -> None:
    text = config.read_text()
    key = secrets.token_bytes(32)
    changed = [
        (old, new)
        for old, new in zip(text.splitlines(), insert_key(text, key).splitlines(), strict=True)
        if old != new
    ]
    assert len(changed) <= 4  # eight bytes on a line
    assert ram_contents(text) == [pattern()]
    with pytest.raises(TransportKeyError, match="the key is in it already"):
        insert_key(insert_key(text, key), secrets.token_bytes(32))


def test_transport_key_is_in_a_gowin_bitstream_and_nowhere_else(tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir()
    folder = tmp_path / "build"
    built = build(keyed_gowin_target(source), folder)
    assert built.bitstream == folder / "keyed.fs"
    assert built.report["ebr"] == 1
    routed = folder / "seed1.json"
    before = routed.read_text()
    key = secrets.token_bytes(32)
    (module,) = json.loads(before)["modules"].values()
    (changed,) = json.loads(insert_key_gowin(before, key))["modules"].values()
    words = [
        (new, old)
        for name, cell in module["cells"].items()
        for part, old in cell["parameters"].items()
        if (new := changed["cells"][name]["parameters"][part]) != old
    ]
    ((new, old),) = words
    assert [[int(line[at - 8 : at], 2) for at in range(288, 0, -9)] for line in (new, old)] == [
        list(key),
        list(pattern()[:32]),
    ]
    with pytest.raises(TransportKeyError, match="the key is in it already"):
        insert_key_gowin(insert_key_gowin(before, key), key)

    (key_file := tmp_path / "drive.hex").write_text(key.hex())
    own = tmp_path / "own.fs"
    write_bitstream(key_file, routed, own)
    assert own.stat().st_mode & 0o777 == 0o600
    assert routed.read_text() == before
    lines = [built.bitstream.read_text().splitlines(), own.read_text().splitlines()]
    assert len(lines[0]) == len(lines[1])
    assert 0 < sum(old != new for old, new in zip(*lines, strict=True)) < len(lines[0]) / 2


@pytest.mark.parametrize("text", ["", "12" * 31, "zz" * 32, "12" * 33])
def test_transport_key_file_without_a_key_is_refused_and_not_shown(
    text: str, tmp_path: Path
) -> None:
    file = tmp_path / "some.hex"
    file.write_text(text)
    with pytest.raises(TransportKeyError, match="does not hold 64 hexadecimal digits") as caught:
        read_key(file)
    assert not text or text not in str(caught.value)


def test_transport_key_command_reports_a_missing_build(tmp_path: Path) -> None:
    file = tmp_path / "some.hex"
    file.write_text("12" * 32)
    command = [
        sys.executable,
        "-m",
        "hdl.fpga.transport_key",
        str(file),
        str(tmp_path / "none.config"),
    ]
    ended = subprocess.run(
        [*command, str(tmp_path / "out.bit")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "build it with `rig board build`" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
