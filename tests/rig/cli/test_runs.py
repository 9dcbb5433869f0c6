"""``rig runs`` as a process, on run folders with real results files."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import TapeFormat
from rig.results.measurement import EngineClock, Measurement
from rig.results.results import Check, RunResult, ScenarioResult, write_results
from rig.results.runs import under_way
from tests.support.keyed import keyed_by
from tests.support.rig_command import RIG, Ended, lab_file, rig

DAY = 86_400


def stored(state: Path, name: str, *, days: float = 0, good: bool = True) -> Path:
    """A run's folder with results, begun so many days ago."""
    folder = state / "runs" / name
    folder.mkdir(parents=True)
    run = RunResult(
        "default", "sim", EngineClock(62.5e6), {"serial": "T1"}, ["rig"], time.time() - days * DAY
    )
    run.duration_s = 12.3
    scenario = ScenarioResult("round_trip", "A round trip")
    scenario.checks.append(Check("the volume came back", good, "byte 7 differs"))
    least = 90 if good else 104
    rate = Measurement("to tape", 98.0, "MB/s", minimum=least, assumed_clock=True)
    scenario.measurements.append(rate)
    run.scenarios.append(scenario)
    write_results(run, folder)
    return folder


def runs(state: Path, *arguments: str) -> Ended:
    return rig("runs", *arguments, TAPERIG_STATE=str(state))


def listed(state: Path) -> dict[str, dict[str, Any]]:
    return {each["run"]: each for each in json.loads(runs(state, "list", "--json").out)}


def test_runs_list_shows_verdict_scenarios_seconds_and_size(tmp_path: Path) -> None:
    assert "no runs in" in runs(tmp_path, "list").out
    stored(tmp_path, "20260101-000000", days=2)
    (stored(tmp_path, "20260102-000000", days=1, good=False) / "waves.fst").write_bytes(b"x" * 9000)
    (tmp_path / "runs" / "20260103-000000-1").mkdir()
    os.utime(tmp_path / "runs" / "20260103-000000-1", (0, 0))
    (tmp_path / "runs" / "notes").mkdir()
    found = listed(tmp_path)
    assert "notes" not in found
    assert [found[f"2026010{number}-000000"]["verdict"] for number in (1, 2)] == ["pass", "fail"]
    assert found["20260103-000000-1"]["verdict"] == "unfinished"
    assert found["20260101-000000"]["scenarios"] == ["round_trip"]
    assert found["20260101-000000"]["seconds"] == 12.3
    assert found["20260102-000000"]["bytes"] > 9000
    assert "kB" in runs(tmp_path, "list").out


def test_runs_show_names_reasons_and_files(tmp_path: Path) -> None:
    folder = stored(tmp_path, "20260102-000000", good=False)
    found = json.loads(runs(tmp_path, "show", "--json").out)
    assert found["verdict"] == "fail"
    assert found["reasons"] == [
        "round_trip: the volume came back: byte 7 differs",
        "round_trip: to tape is 98 MB/s (assumed clock), not at least 104",
    ]
    assert found["files"] == [str(folder / "results.json")]
    text = runs(tmp_path, "show", "20260102-000000").out
    assert "reason   round_trip: the volume came back: byte 7 differs" in text
    assert "see `rig runs list`" in runs(tmp_path, "show", "20260102").sentence()


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--keep", "1"], [5]),
        (["--keep", "0"], []),
        (["--older-than", "2"], [4, 5]),
        (["--older-than", "2", "--keep", "4"], [2, 3, 4, 5]),
    ],
)
def test_runs_clean_removes_and_names_the_chosen_runs(
    tmp_path: Path, options: list[str], left: list[int]
) -> None:
    for number in range(1, 6):
        stored(tmp_path, f"2026010{number}-000000", days=5.5 - number)
    ended = runs(tmp_path, "clean", *options)
    assert ended.code == 0
    assert [int(name[7]) for name in listed(tmp_path)] == left
    gone = [line.split()[1].rstrip(",") for line in ended.out.splitlines()[:-1]]
    assert [int(name[7]) for name in gone] == [n for n in range(1, 6) if n not in left]
    noun = "run" if len(gone) == 1 else "runs"
    assert ended.out.splitlines()[-1].startswith(f"{len(gone)} {noun} removed, ")


def test_runs_clean_leaves_other_folders_and_runs_under_way(tmp_path: Path) -> None:
    elsewhere = stored(tmp_path / "elsewhere", "20260101-000000", days=9)
    working = stored(tmp_path, "20260102-000000", days=9)
    died = stored(tmp_path, "20260103-000000", days=9)
    (died / ".under-way").touch()
    beginning = tmp_path / "runs" / "20260104-000000"
    beginning.mkdir()
    (tmp_path / "runs" / "20260105-000000").symlink_to(elsewhere)
    (died / "link").symlink_to(elsewhere)
    (tmp_path / "runs" / "mine").mkdir()
    with under_way(working):
        assert listed(tmp_path)["20260102-000000"]["verdict"] == "under way"
        assert runs(tmp_path, "clean", "--keep", "0").code == 0
    assert working.is_dir()
    assert beginning.is_dir()
    assert not died.exists()
    assert (elsewhere / "results.json").is_file()
    assert (tmp_path / "runs" / "mine").is_dir()


def test_runs_clean_names_what_it_cannot_remove(tmp_path: Path) -> None:
    folder = stored(tmp_path, "20260101-000000", days=9)
    stored(tmp_path, "20260102-000000", days=8)
    (tmp_path / "sitecustomize.py").write_text(
        "import shutil\n"
        "remove = shutil.rmtree\n"
        "def refuse(path, **options):\n"
        "    if path.name == '20260101-000000':\n"
        "        raise PermissionError(13, 'Permission denied')\n"
        "    remove(path, **options)\n"
        "shutil.rmtree = refuse\n"
    )
    clean = ["runs", "clean", "--keep", "0"]
    ended = rig(*clean, TAPERIG_STATE=str(tmp_path), PYTHONPATH=str(tmp_path))
    assert ended.code == 1
    assert f"left     {folder} cannot be removed" in ended.out


def test_runs_clean_names_the_cartridges_to_forget(tmp_path: Path) -> None:
    folder = stored(tmp_path, "20260101-000000", days=9, good=False)
    for volser, kind in (("TAP001", TapeFormat.ENCRYPTED), ("TAP002", TapeFormat.CLEAR)):
        Cartridge.create(folder / f"{volser}.tape", volser)
        eedks = (b"one", b"two") if kind is TapeFormat.ENCRYPTED else ()
        with Cartridge.open(folder / f"{volser}.tape", write=True) as cartridge:
            cartridge.begin_from_bot(kind, eedks, keyed=keyed_by(bytes(16)))
    shown = json.loads(rig("cartridge", "show", "--json", folder / "TAP001.tape").out)
    out = runs(tmp_path, "clean", "--keep", "0").out
    identity = shown["memory"]["cartridge_id"]
    assert "not told its key managers are not known; have the administrator run:\n" in out
    assert f"forget   rig ekm cartridge forget TAP001 --id {identity}\n" in out
    assert "forgot " not in out
    assert "TAP002" not in out


def test_runs_clean_needs_a_choice_within_bounds(tmp_path: Path) -> None:
    stored(tmp_path, "20260101-000000", days=9)
    assert "--keep N" in runs(tmp_path, "clean").sentence()
    for options in (
        ["--keep", "-1"],
        ["--older-than", "-1"],
        ["--older-than", "1e99"],
        ["--older-than", "nan"],
    ):
        assert runs(tmp_path, "clean", *options).code == 2
    assert list(listed(tmp_path)) == ["20260101-000000"]


def is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.usefixtures("interruptible")
def test_runs_clean_leaves_a_real_run_that_is_under_way(tmp_path: Path) -> None:
    state, data = tmp_path / "state", tmp_path / "a.txt"
    data.write_bytes(b"x" * 100)
    process = subprocess.Popen(
        [RIG, "run", "--scenario", "round_trip", "--data", data, "--lab", lab_file(tmp_path)],
        env={**os.environ, "TAPERIG_STATE": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not any(map(is_locked, state.glob("runs/*/.under-way"))):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)  # so that it does not end meanwhile
        (run,) = (state / "runs").iterdir()
        os.utime(run, (0, 0))
        assert runs(state, "clean", "--keep", "0").code == 0
        assert run.is_dir()
        assert listed(state)[run.name]["verdict"] == "under way"
    finally:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "rig: interrupted\n")
    shown = json.loads(runs(state, "show", "--json").out)
    assert (shown["verdict"], shown["reasons"]) == ("interrupted", ["The run was interrupted."])
    assert listed(state)[run.name]["verdict"] == "interrupted"


def test_runs_list_of_a_state_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "file"
    state.touch()
    ended = runs(state, "list")
    assert ended.code == 2
    assert f"The runs in {state / 'runs'} cannot be read (Not a directory)" in ended.err
