"""The state folder: its errors, and what an earlier version left in it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from hdl.errors import BuildError
from hdl.verilator.verilate import cache_path
from hsm.crash_log import report
from rig.drive.cartridge import Cartridge
from rig.results.runs import stored_runs
from rig.testbed.state import StateError, locked_state, new_run_dir, state_dir


def older_state(state: Path) -> None:
    """Make a state folder of a version whose runs shared cartridges."""
    for folder in (state / "cartridges", state / "sites" / "cartridges"):
        folder.mkdir(parents=True)
        Cartridge.create(folder / "TAP001.tape", "TAP001")
        (folder / "library.json").write_text("damaged")


def take_over(state: Path) -> list[str]:
    sentences: list[str] = []
    with locked_state(state, sentences.append):
        pass
    return sentences


def test_state_moves_the_cartridges_of_an_earlier_version_into_a_run(tmp_path: Path) -> None:
    older_state(tmp_path)
    (sentence,) = take_over(tmp_path)
    (run,) = stored_runs(tmp_path / "runs")
    assert f"are in {run.folder} now" in sentence
    for scenario in ("round_trip", "two_sites"):
        Cartridge.open(run.folder / "nodes" / scenario / "cartridges" / "TAP001.tape").close()
    assert not (tmp_path / "cartridges").exists()
    assert not (tmp_path / "sites" / "cartridges").exists()
    assert take_over(tmp_path) == []
    assert len(stored_runs(tmp_path / "runs")) == 1


@pytest.mark.parametrize("name", ["results.json", "junit.xml"])
def test_new_run_dir_refuses_a_folder_that_holds_results(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    assert new_run_dir(tmp_path, out) == out
    (out / "notes").touch()
    assert new_run_dir(tmp_path, out) == out
    (out / name).symlink_to("nowhere")
    with pytest.raises(StateError, match=rf"{out} holds the results of a run already \({name}\)"):
        new_run_dir(tmp_path, out)
    assert sorted(path.name for path in out.iterdir()) == sorted([name, "notes"])


def test_state_that_cannot_be_taken_over_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older_state(tmp_path)

    def refused(path: Path, target: Path) -> Path:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "rename", refused)
    (sentence,) = take_over(tmp_path)
    assert "cannot be moved" in sentence
    assert "Operation not permitted" in sentence
    assert (tmp_path / "cartridges" / "TAP001.tape").exists()


def test_state_that_is_new_says_nothing(tmp_path: Path) -> None:
    assert take_over(tmp_path) == []
    assert not (tmp_path / "runs").exists()


def test_state_folder_that_cannot_be_made_is_blamed_on_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TAPERIG_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(StateError, match=r"file/state cannot be made \(Not a dir.*TAPERIG_STATE"):
        state_dir()


def test_results_folder_that_cannot_be_made_is_blamed_on_its_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"cannot be made \(Not a directory\); .*--out") as caught:
        new_run_dir(tmp_path, tmp_path / "file" / "out")
    assert "TAPERIG_STATE" not in str(caught.value)


@pytest.mark.parametrize("path", ["~no-such-user", "~no-such-user/state"])
def test_state_of_an_unknown_user_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPERIG_STATE", path)
    with pytest.raises(StateError, match=f"{path} cannot be found: .* set TAPERIG_STATE"):
        state_dir()
    with pytest.raises(StateError, match=f"{path} cannot be found: .* with --out"):
        new_run_dir(Path("unused"), Path(path))


def test_state_and_cache_of_a_user_without_home_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TAPERIG_STATE", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)  # in no password file
    with pytest.raises(StateError, match="no home folder; set TAPERIG_STATE"):
        state_dir()
    with pytest.raises(BuildError, match="no home folder; set XDG_CACHE_HOME"):
        cache_path()
    assert f"the traceback is in {tempfile.gettempdir()}" in report(KeyError(), "`rig`")
