"""The clock of a board is at most that of the last good build."""

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
    summary = {"target": "ulx3s", "fmax_mhz": 84.25, "clock_mhz": 80.0, "source_hash": "00" * 32}
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


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("clock", [40, 80, 84.25])
def test_board_clock_up_to_fmax_is_accepted(tmp_path: Path, clock: float) -> None:
    lab = load_lab(lab_with(tmp_path, **VISA, fpga="ulx3s", clock_mhz=clock))
    assert lab.boards["bench"].clock_hz == clock * 1e6


@pytest.mark.usefixtures("built")
def test_board_clock_above_fmax_is_refused_in_one_sentence(tmp_path: Path) -> None:
    file = lab_with(tmp_path, **VISA, fpga="ulx3s", clock_mhz=84.5)
    with pytest.raises(LabError) as caught:
        load_lab(file)
    assert str(caught.value) == (
        f"{file}:11: boards.bench.clock_mhz is 84.5, and the gates of the last good build of ulx3s "
        "work up to 84.25 MHz; write 80, the clock that this build runs at."
    )


def test_board_clock_is_checked_by_default_too(tmp_path: Path, built: Path) -> None:
    summary = json.loads((built / targets.LAST_BUILD).read_text())
    (built / targets.LAST_BUILD).write_text(json.dumps(summary | {"fmax_mhz": 60.0}))
    with pytest.raises(LabError, match=r"clock_mhz is 62\.5, .* up to 60 MHz"):
        load_lab(lab_with(tmp_path, **VISA, fpga="ulx3s"))


def test_board_without_a_build_is_refused(tmp_path: Path, built: Path) -> None:
    (built / targets.LAST_BUILD).unlink()
    with pytest.raises(LabError, match=r"no build of ulx3s has met .* rig board build ulx3s"):
        load_lab(lab_with(tmp_path, **VISA, fpga="ulx3s", clock_mhz=10))


@pytest.mark.usefixtures("built")
def test_board_with_a_mistaken_fpga_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"fpga: There is no FPGA board 'ulx4s'.*'ulx3s'"):
        load_lab(lab_with(tmp_path, **VISA, fpga="ulx4s"))
    with pytest.raises(LabError, match=r"bench is simulated and in no FPGA"):
        load_lab(lab_with(tmp_path, kind="sim", fpga="ulx3s"))


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
