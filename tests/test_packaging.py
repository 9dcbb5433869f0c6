"""The installed package has all that it needs without a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hdl.sim.launch import build_simulation

PROJECT = Path(__file__).parents[1]
KNOWN_ANSWER = """[Keylen = 256]
[IVlen = 96]
[PTlen = 0]
[AADlen = 0]
[Taglen = 128]

Count = 0
Key = 0000000000000000000000000000000000000000000000000000000000000000
IV = 000000000000000000000000
PT =
AAD =
CT =
Tag = 530f8afbc74536b9a963b4f1c4cb738b
"""
SOURCES = ("rig", "hsm", "hdl", "lab.yaml", "pyproject.toml", "README.md")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip installed the package."""
    sources = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (PROJECT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PROJECT / name, sources / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(PROJECT / name, sources)
    target = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--target", target, sources),
        ],
        check=True,
    )
    return target


def rig(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed ``rig`` in a folder that has no lab.yaml."""
    return subprocess.run(
        [sys.executable, installed / "bin" / "rig", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(installed),
            "TAPERIG_STATE": str(folder / "state"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_package_has_the_default_lab_and_the_gates(installed: Path, tmp_path: Path) -> None:
    """The same build of the simulation serves package and checkout."""
    build_simulation()
    (tmp_path / "one.rsp").write_text(KNOWN_ANSWER)
    ended = rig(installed, tmp_path, "kat", "one.rsp")
    assert ended.returncode == 0, ended.stderr
    assert "1 run, 1 passed" in ended.stdout
    assert "Building the simulation" not in ended.stderr + ended.stdout


def test_package_has_the_schema_of_the_catalogue(installed: Path, tmp_path: Path) -> None:
    ended = rig(installed, tmp_path, "ve", "status")
    assert ended.returncode == 0, ended.stderr
    assert "0 volumes" in ended.stdout


def test_package_without_the_tests_refuses_to_list_rules(installed: Path, tmp_path: Path) -> None:
    ended = rig(installed, tmp_path, "rules")
    assert ended.returncode == 2
    assert "run this from a clone of the project" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_package_is_typed(installed: Path) -> None:
    assert [(installed / name / "py.typed").is_file() for name in ("rig", "hsm", "hdl")] == [
        True
    ] * 3
