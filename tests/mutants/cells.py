"""Mutants of the gates: one small error each, which a bench has to notice.

A mutant is a cell of its own, with a name and a seed, and can be run alone: `run_cell`.  It works
on a copy of hdl and of its benches, so any number run side by side.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from xml.etree import ElementTree

from hdl.files import replace_once

ROOT = Path(__file__).parents[2]
CELLS = Path(__file__).with_name("mutants.toml")
COPIED = ("hdl", "tests/hdl", "tests/support", "tests/conftest.py", "pyproject.toml", "rig", "hsm")
HANGS_AFTER_SECONDS = 900


class MutantError(Exception):
    """A mutant that cannot be made or run; mutants.toml has to be mended."""


class MutantVerdict(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"


@dataclass(frozen=True, slots=True)
class Mutant:
    """An error: `old`, unique in the source `file` of hdl/rtl, becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    benches: tuple[str, ...]
    """Tests of pytest below tests/hdl, the narrowest first; they run until one fails."""
    equivalent: str = ""
    """Why no bench can notice it; such a mutant has to survive."""


@dataclass(frozen=True, slots=True)
class MutantResult:
    """What a mutant came to."""

    name: str
    verdict: MutantVerdict
    by: str
    """The first failed test, with its cocotb test when it has one."""
    seconds: float


def mutants() -> dict[str, Mutant]:
    """Return all mutants by name, in the order of the file."""
    content = tomllib.loads(CELLS.read_text(encoding="utf-8"))
    return {
        name: Mutant(name, **{**entry, "benches": tuple(entry["benches"])})
        for name, entry in content.items()
    }


def run_cell(name: str, seed: int) -> MutantResult:
    """Run the benches of one mutant until the first fails.

    Raises MutantError when there is no such mutant, when its text is not unique in its source, and
    when it does not build.
    """
    known = mutants()
    if name not in known:
        raise MutantError(f"There is no mutant {name}; choose from: {', '.join(known)}.")
    mutant = known[name]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="taperig-mutant-") as scratch:
        root = Path(scratch)
        _copy(root)
        _mutate(root, mutant)
        failed = _run_benches(root, mutant, seed)
    verdict = MutantVerdict.KILLED if failed else MutantVerdict.SURVIVED
    return MutantResult(name, verdict, failed, time.monotonic() - begin)


def _copy(root: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copy(source, target)


def _mutate(root: Path, mutant: Mutant) -> None:
    path = root / "hdl" / "rtl" / mutant.file
    if not path.is_file():
        raise MutantError(f"{mutant.name}: hdl/rtl has no {mutant.file}; correct mutants.toml.")
    try:
        replace_once(path, mutant.old, mutant.new)
    except ValueError as error:
        raise MutantError(f"{mutant.name}: {error}; correct mutants.toml.") from None


def _run_benches(root: Path, mutant: Mutant, seed: int) -> str:
    """Run the benches on the copy; return the first failed test, or nothing."""
    results = root / "junit.xml"
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
        *(f"--seed={seed}", f"--junitxml={results}", f"--timeout={HANGS_AFTER_SECONDS}"),
        *(f"tests/hdl/{bench}" for bench in mutant.benches),
    ]
    # The copy comes before the checkout that is installed; a survivor needs no waveform.
    environment = {**os.environ, "PYTHONPATH": str(root), "WAVES": "0"}
    ended = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode not in (0, 1) or not results.is_file():
        raise MutantError(f"{mutant.name}: pytest cannot run its benches:\n{ended.stdout[-2000:]}")
    failed: list[str] = []
    for case in ElementTree.parse(results).iter("testcase"):
        for wrong in (*case.iter("failure"), *case.iter("error")):
            words = f"{wrong.get('message')}{wrong.text}"
            if "BuildError" in words:
                raise MutantError(f"{mutant.name} does not build:\n{words[-2000:]}")
            failed.append(case.get("name", "?"))
    # A cocotb test says more than the test of pytest that ran it.
    return next(iter(sorted(failed, key=lambda name: "[" not in name)), "")
