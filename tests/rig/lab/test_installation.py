"""The installation in a lab file."""

from pathlib import Path

import pytest

from rig.lab.load import load_lab
from rig.lab.model import LabError
from rig.ve.prerequisites import EncryptionMethod, LibraryType, findings
from tests.support.rig_command import rig

DEFAULT = (Path(__file__).parents[3] / "lab.yaml").read_text(encoding="utf-8")


def lab(tmp_path: Path, installation: str) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text(f"{DEFAULT}\ninstallation:\n{installation}", encoding="utf-8")
    return path


def test_installation_is_read(tmp_path: Path) -> None:
    text = """\
  library: 3494
  microcode: 8.2.0.27
  library_manager: 534.31
  features: [9900]
  drives:
    - {serial: TR0000000001, features: [5592, 9596]}
    - {serial: J1, model: J1A, method: none}
"""
    part = load_lab(lab(tmp_path, text)).installation
    assert part is not None
    found = part.record(ekms=2)
    assert found.library is LibraryType.L3494
    assert (found.microcode, found.library_manager) == ((8, 2, 0, 27), (534, 31))
    assert found.drives[0].features == {5592, 9596}
    assert found.drives[1].method is EncryptionMethod.NONE
    assert [each.rule for each in findings(found)] == ["PRE-1"]  # one E05 beside a J1A


@pytest.mark.rule("PRE-4")
@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("features: []", r"pool 2 cannot encrypt: The VE has no feature 9900"),
        ("forces_j1a: true", r"pool 2 cannot encrypt: .* J1A mode"),
    ],
)
def test_installation_without_a_license_forbids_encrypted_pools(
    tmp_path: Path, line: str, what: str
) -> None:
    path = lab(tmp_path, f"  {line}\n  drives: [{{serial: TR0000000001, features: [9592]}}]\n")
    with pytest.raises(LabError, match=what):
        load_lab(path)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("library: TS4500", "installation.library is 'TS4500'; it must be TS3500 or 3494"),
        ("microcode: eight", "installation.microcode is 'eight'; it must be a level of numbers"),
        ("featurs: [9900]", "did you mean 'features'"),
    ],
)
def test_installation_mistake_is_named(tmp_path: Path, line: str, what: str) -> None:
    path = lab(tmp_path, f"  {line}\n  drives: [{{serial: TR0000000001}}]\n")
    with pytest.raises(LabError, match=what):
        load_lab(path)


def test_level_is_read_as_it_is_written(tmp_path: Path) -> None:
    text = "  library_manager: 534.40\n  drives: [{serial: TR0000000001}]\n"
    part = load_lab(lab(tmp_path, text)).installation
    assert part is not None
    assert part.record(ekms=1).library_manager == (534, 40)


def test_drive_installed_twice_is_refused(tmp_path: Path) -> None:
    path = lab(tmp_path, "  drives: [{serial: TR0000000001}, {serial: TR0000000001}]\n")
    with pytest.raises(LabError, match="has the serial number TR0000000001 twice"):
        load_lab(path)


@pytest.mark.rule("PRE-6")
def test_ekm_verify_is_refused_before_the_steps_before_it(tmp_path: Path) -> None:
    drive = "{serial: TR0000000001, features: [9592], verified: false}"
    path = lab(tmp_path, f"  drives: [{drive}]\n")
    error = rig("ekm", "verify", "--lab", path, TAPERIG_STATE=str(tmp_path / "state")).sentence()
    assert error.startswith("It is too early to verify the connection to the key managers: first")
    assert "verify them at the drives" in error
    assert not (tmp_path / "state").exists()
