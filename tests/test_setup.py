"""``.ci/setup``: what is missing is named in one sentence, and nothing is done twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
NEEDED = ("bash", "cat", "cut", "dirname", "id", "python3", "rm", "sha256sum")
NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A copy of what set-up reads, in a folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="taperig-setup-") as folder:
        Path(folder).chmod(0o755)
        shutil.copytree(PROJECT / ".ci", Path(folder) / ".ci")
        for name in ("requirements.lock", "pyproject.toml"):
            shutil.copy(PROJECT / name, folder)
        yield Path(folder)


def tools(place: Path, *others: str) -> str:
    """A PATH with no more than set-up itself needs, and others."""
    folder = place / "bin"
    folder.mkdir()
    for name in (*NEEDED, *others):
        found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
        assert found, name
        (folder / name).symlink_to(found)
    return str(folder)


def set_up(place: Path, path: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [place / ".ci" / "setup"],
        env={"PATH": path, "HOME": str(place)},
        user=user,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_apt_the_packages_are_named(place: Path) -> None:
    ended = set_up(place, tools(place))
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    for package in ("g++", "perl", "make", "softhsm2"):
        assert f" {package}" in line
    assert "no apt-get" in line
    assert not (place / ".venv").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_without_root_the_packages_are_named(place: Path) -> None:
    ended = set_up(place, tools(place, "apt-get"), user=NOBODY)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "need root" in line
    assert "apt-get install" in line
    assert "g++" in line


def test_a_machine_that_is_ready_waits_for_nothing(place: Path) -> None:
    """The stamp says that .venv is of this lock; a changed lock is seen."""
    (place / ".venv" / "bin").mkdir(parents=True)
    (place / ".venv" / "bin" / "python").symlink_to("/bin/true")
    path = os.environ["PATH"]
    stamp = subprocess.run(
        'printf "%s %s" "$(cat requirements.lock pyproject.toml | sha256sum | cut -d" " -f1)" $PWD',
        shell=True,
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (place / ".venv" / "taperig.stamp").write_text(f"{stamp}\n")
    began = time.monotonic()
    ended = set_up(place, path)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")
    assert time.monotonic() - began < 5  # a hundredth of that on a machine with nothing else to do
    with (place / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert "installing the Python packages" in set_up(place, path).stderr
