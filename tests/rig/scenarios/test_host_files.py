"""The files that a run writes when none are named."""

import sysconfig
from pathlib import Path

import pytest

from rig.scenarios import host_files


def test_machine_files_are_pythons_own_the_largest_first(
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
    monkeypatch.setattr(host_files, "LICENCES", tmp_path / "none")
    found = [str(path.relative_to(tmp_path)) for path in host_files.machine_files()]
    assert found == ["large.py", "package/deep/middle.py", "small.py"]
