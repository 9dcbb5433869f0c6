"""The files that a run writes when none are named."""

import sysconfig
from pathlib import Path

import pytest

from rig.scenarios import host_files


def test_machine_files_are_licences_then_pythons_own_the_largest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (
        ("small.py", 1),
        ("large.py", 3),
        ("package/deep/middle.py", 2),
        ("package/data.txt", 4),
        ("package/tests/trial.py", 4),
        ("site-packages/installed/module.py", 4),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    licences = tmp_path / "licences"
    licences.mkdir()
    (licences / "GPL-3").touch()
    (licences / "GPL").symlink_to("GPL-3")
    monkeypatch.setattr(host_files, "LICENCES", licences)
    found = [str(path.relative_to(tmp_path)) for path in host_files.machine_files()]
    assert found == ["licences/GPL-3", "large.py", "package/deep/middle.py", "small.py"]
    monkeypatch.setattr(host_files, "LICENCES", tmp_path / "none")
    assert len(host_files.machine_files()) == 3


def test_capped_leaves_out_files_that_do_not_fit(tmp_path: Path) -> None:
    files: list[Path] = []
    for size in (4, 7, 5, 1, 1):
        files.append(tmp_path / f"file{len(files)}")
        files[-1].write_bytes(bytes(size))
    assert host_files.capped(files, 10) == [files[0], files[2], files[3]]
