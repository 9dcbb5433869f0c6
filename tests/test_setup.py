"""``.ci/setup`` names what is missing, and does nothing twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
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


def set_up(
    place: Path, path: str, user: int | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [place / ".ci" / "setup"],
        env={"PATH": path, "HOME": str(place), **variables},
        user=user,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def stamp(place: Path, folder: Path) -> None:
    """Say that .venv is of this lock, and was made in ``folder``."""
    inputs = b"".join(
        (place / name).read_bytes() for name in ("requirements.lock", "pyproject.toml")
    )
    digest = hashlib.sha256(inputs).hexdigest()
    (place / ".venv" / "taperig.stamp").write_text(f"{digest} {folder}\n")


def test_without_apt_the_packages_are_named(place: Path) -> None:
    ended = set_up(place, tools(place))
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    for package in ("g++", "perl", "make", "softhsm2"):
        assert f" {package}" in line
    assert "no apt-get" in line
    assert not (place / ".venv").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_without_root_the_packages_are_named(place: Path) -> None:
    ended = set_up(place, tools(place, "apt-get"), user=NOBODY)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "need root" in line
    assert "apt-get install" in line
    assert "g++" in line


def test_a_machine_that_is_ready_waits_for_nothing(place: Path) -> None:
    """The stamp says that .venv is of this lock; a changed lock is seen."""
    (place / ".venv" / "bin").mkdir(parents=True)
    (place / ".venv" / "bin" / "python").symlink_to("/bin/true")
    path = os.environ["PATH"]
    stamp(place, place)
    began = time.monotonic()
    ended = set_up(place, path)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")
    assert time.monotonic() - began < 5  # a hundredth of that on a machine with nothing else to do
    with (place / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert "installing the Python packages" in set_up(place, path).stderr


def test_setup_names_the_libpython_of_the_python_that_is_there(place: Path) -> None:
    """Debian 12 has Python 3.11, Debian 13 has 3.13."""
    asked = (
        "import sysconfig as s; print(*map(s.get_config_var, ('LIBDIR', 'INSTSONAME', 'VERSION')))"
    )
    python = ["/usr/bin/python3", "-c", asked]
    answer = subprocess.run(python, capture_output=True, text=True, check=True)
    folder, name, version = answer.stdout.split()
    library = (Path(folder) / name).resolve()
    path = tools(place, "sh", "mount")
    command = 'mount --bind /dev/null "$0" && exec "$1"'
    ended = subprocess.run(
        ["/usr/bin/unshare", "--mount", "sh", "-c", command, library, place / ".ci" / "setup"],
        env={"PATH": path, "HOME": str(place)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "unshare" in ended.stderr:
        pytest.skip(f"no mount namespace here: {ended.stderr.strip()}")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert f" libpython{version}" in line


def test_setup_refuses_a_python_that_does_not_do(place: Path) -> None:
    ended = set_up(place, os.environ["PATH"], PYTHON="/bin/true")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "PYTHON is set to /bin/true" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_setup_names_a_checkout_that_cannot_be_written(place: Path) -> None:
    python = "/usr/bin/python3"
    ended = set_up(place, os.environ["PATH"], user=NOBODY, PYTHON=python)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert f"the folder {place} cannot be written" in line
    (place / ".venv" / "bin").mkdir(parents=True)
    (place / ".venv" / "bin" / "python").symlink_to(python)
    stamp(place, place)
    ended = set_up(place, os.environ["PATH"], user=NOBODY)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_setup_makes_venv_anew_where_the_checkout_was_moved(place: Path) -> None:
    """The programs of a .venv name its folder; here with a blank in it."""
    (place / "requirements.lock").write_text("")  # needs no network, and not a minute
    backend = place / "backend"
    backend.mkdir()
    found = find_spec("setuptools")
    assert found is not None
    assert found.origin is not None
    (backend / "setuptools").symlink_to(Path(found.origin).parent)
    (place / "README.md").touch()
    first, moved = place / "ein Prüfstand", place / "another"
    first.mkdir()
    for each in (".ci", "requirements.lock", "pyproject.toml", "README.md"):
        (place / each).rename(first / each)
    ended = set_up(first, os.environ["PATH"], PYTHONPATH=str(backend))
    assert ended.returncode == 0, ended.stderr
    assert "making .venv" in ended.stderr
    first.rename(moved)
    pip = moved / ".venv" / "bin" / "pip"
    assert str(first) in pip.read_text()
    ended = set_up(moved, os.environ["PATH"], PYTHONPATH=str(backend))
    assert ended.returncode == 0, ended.stderr
    assert "making .venv" in ended.stderr
    answer = subprocess.run([pip, "--version"], capture_output=True, text=True, check=True)
    assert str(moved) in answer.stdout
