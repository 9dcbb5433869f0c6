"""``rig board`` builds and loads bitstreams: real tools, a small design."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hdl.fpga import targets
from hdl.fpga.tools import run_tool
from hdl.fpga.transport_key import pattern
from hsm.errors import TaperigError
from rig.cli.main import app
from tests.support.rig_command import lab_file
from tests.support.small_boards import keyed_target, ram_contents

SERIAL = "TR0000000001"  # the drive of the default lab


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder, and one more board to build for: `keyed`."""
    source = tmp_path / "source"
    source.mkdir()
    monkeypatch.setitem(targets.TARGETS, "keyed", keyed_target(source))
    monkeypatch.setenv("TAPERIG_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def board(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["board", *map(str, arguments)])


def refusal(*arguments: str | Path) -> str:
    done = board(*arguments)
    assert isinstance(done.exception, TaperigError), done.output
    return str(done.exception)


def test_board_build_is_recorded_and_provisioned_for_a_drive(state: Path, tmp_path: Path) -> None:
    lab = lab_file(tmp_path)
    assert "no good build yet" in board("targets").output

    done = board("build", "keyed", "--record", "--seed", "3")
    assert done.exit_code == 0, done.output
    folder = state / "bitstreams/keyed"
    report = json.loads((folder / "report.json").read_text())
    assert f"Fmax      {report['fmax_mhz']} MHz, seed 3" in done.output
    assert report["fmax_mhz"] > 50
    assert report["ebr"] == 1
    assert json.loads((tmp_path / "source/last_build.json").read_text()) == report
    listed = next(line for line in board("targets").output.splitlines() if line.startswith("keyed"))
    assert listed.endswith(f"last good build {report['fmax_mhz']:g} MHz")

    done = board("provision", "keyed", "--lab", lab)
    assert done.exit_code == 0, done.output
    own = folder / f"keyed-{SERIAL}.bit"
    assert own.stat().st_mode & 0o777 == 0o600
    (key_file,) = state.glob(f"transport/{SERIAL}.hex")
    key = bytes.fromhex(key_file.read_text())
    assert key.hex() not in done.output
    unpacked = ["--input", own.name, "--textcfg", "unpacked.config"]
    assert run_tool("yowasp-ecpunpack", unpacked, folder).code == 0
    assert ram_contents((folder / "unpacked.config").read_text()) == [key + pattern()[32:]]


@pytest.mark.usefixtures("state")
def test_board_commands_refuse_in_one_sentence(tmp_path: Path) -> None:
    lab = lab_file(tmp_path)
    assert "did you mean 'keyed'?" in refusal("build", "kyed")
    assert board("build", "keyed", "--seed", "0").exit_code == 2
    assert "make it with: rig board build keyed" in refusal("provision", "keyed", "--lab", lab)
    unknown = refusal("provision", "keyed", "--drive", "TR7", "--lab", lab)
    assert unknown == f"There is no drive 'TR7' in the lab file; known: {SERIAL}."
    assert "keyed.bit" in refusal("program", "keyed")


def test_board_build_below_its_clock_is_reported_and_not_recorded(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = replace(targets.TARGETS["keyed"], clock_hz=900_000_000)
    monkeypatch.setitem(targets.TARGETS, "keyed", slow)
    done = board("build", "keyed")
    assert done.exit_code == 1
    assert "do not trust it on a board" in " ".join(done.output.split())
    assert "was not recorded: its clock is 900 MHz" in refusal("build", "keyed", "--record")
    assert not (tmp_path / "source/last_build.json").exists()
    assert (state / "bitstreams/keyed/keyed.bit").is_file()
