"""The clock of a board is that of its last good build, or below."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hdl.fpga import targets
from rig.lab.load import load_lab
from rig.lab.model import LabError

PROJECT = Path(__file__).parents[3]
DEFAULT = (PROJECT / "lab.yaml").read_text()


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A board `ulx3s` whose last good build has Fmax 84.25 MHz and runs at 80."""
    folder = tmp_path / "ulx3s"
    folder.mkdir()
    summary = {
        "target": "ulx3s",
        "fmax_mhz": 84.25,
        "clock_mhz": 80.0,
        "source_hash": "00" * 32,
        "bitstream_sha256": "00" * 32,
    }
    (folder / targets.LAST_BUILD).write_text(json.dumps(summary))
    target = replace(targets.find_target("ulx3s"), folder=folder)
    monkeypatch.setitem(targets.TARGETS, "ulx3s", target)
    return folder


def lab_with(folder: Path, **keys: object) -> Path:
    lines = "".join(f"    {key}: {value}\n" for key, value in keys.items())
    file = folder / "lab.yaml"
    file.write_text(DEFAULT.replace("boards:\n", f"boards:\n  bench:\n{lines}", 1))
    return file


VISA = {"kind": "visa", "resource": "ASRL/dev/ttyUSB0::INSTR"}
SIM = {"kind": "sim"}


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("kind", [VISA, SIM])
def test_board_clock_is_by_default_that_of_its_build(
    tmp_path: Path, kind: dict[str, object]
) -> None:
    assert load_lab(lab_with(tmp_path, **kind, fpga="ulx3s")).boards["bench"].clock_hz == 80e6
    assert load_lab(lab_with(tmp_path, **kind)).boards["bench"].clock_hz == 62.5e6


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("kind", [VISA, SIM])
@pytest.mark.parametrize("clock", [40, 80])
def test_board_clock_up_to_that_of_its_build_is_accepted(
    tmp_path: Path, kind: dict[str, object], clock: float
) -> None:
    lab = load_lab(lab_with(tmp_path, **kind, fpga="ulx3s", clock_mhz=clock))
    assert lab.boards["bench"].clock_hz == clock * 1e6


@pytest.mark.rule("RATE-6")
@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("kind", [VISA, SIM])
def test_board_clock_above_that_of_its_build_is_refused(
    tmp_path: Path, kind: dict[str, object]
) -> None:
    file = lab_with(tmp_path, **kind, fpga="ulx3s", clock_mhz=84.25)
    line = file.read_text().splitlines().index("    clock_mhz: 84.25") + 1
    with pytest.raises(LabError) as caught:
        load_lab(file)
    assert str(caught.value) == (
        f"{file}:{line}: boards.bench.clock_mhz is 84.25, above the 80 MHz of the builds of "
        "ulx3s; write at most 80, or remove clock_mhz."
    )


@pytest.mark.rule("RATE-6")
def test_simulated_board_clock_above_the_assumed_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"is 1000, above the 62\.5 MHz of a board without fpga;"):
        load_lab(lab_with(tmp_path, kind="sim", clock_mhz=1000))
    measured = load_lab(lab_with(tmp_path, **VISA, clock_mhz=1000))
    assert measured.boards["bench"].clock_hz == 1e9


def test_board_without_a_recorded_build_has_the_assumed_clock(tmp_path: Path, built: Path) -> None:
    (built / targets.LAST_BUILD).unlink()
    assert load_lab(lab_with(tmp_path, **VISA, fpga="ulx3s")).boards["bench"].clock_hz == 62.5e6
    with pytest.raises(LabError, match=r"above the 62\.5 MHz"):
        load_lab(lab_with(tmp_path, **VISA, fpga="ulx3s", clock_mhz=63))


def test_board_with_a_broken_record_of_its_build_is_refused(tmp_path: Path, built: Path) -> None:
    (built / targets.LAST_BUILD).write_text("{}")
    with pytest.raises(LabError, match=r"bench\.fpga: .*last_build\.json is not a summary"):
        load_lab(lab_with(tmp_path, **VISA, fpga="ulx3s"))


@pytest.mark.usefixtures("built")
def test_board_with_a_mistaken_fpga_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"fpga: There is no FPGA board 'ulx4s'.*'ulx3s'"):
        load_lab(lab_with(tmp_path, **VISA, fpga="ulx4s"))


def test_width_of_gates_that_are_not_simulated_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"bench is not simulated here, .*gates; remove width"):
        load_lab(lab_with(tmp_path, **VISA, width=8))
    with pytest.raises(LabError, match=r"width"):
        load_lab(lab_with(tmp_path, kind="sim", width=2))
    for width in (16, 8, 4, 1):
        assert (
            load_lab(lab_with(tmp_path, kind="sim", width=width)).boards["bench"].word_bytes
            == width
        )
    assert load_lab(lab_with(tmp_path, kind="sim")).boards["bench"].word_bytes == 16
