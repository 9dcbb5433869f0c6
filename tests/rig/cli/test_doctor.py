"""``rig doctor`` and ``rig --version`` as processes."""

from __future__ import annotations

import json
import shutil
import socket
import stat
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from rig.cli.doctor import _folder, _key_manager, _python
from tests.support.rig_command import DEFAULT_LAB, PROJECT, lab_file, rig


def empty_environment(folder: Path) -> dict[str, str]:
    """An environment whose home, caches and temporary folder are empty."""
    home, temporary = folder / "home", folder / "tmp"
    for each in (home, temporary):
        each.mkdir()
    return {"HOME": str(home), "TMPDIR": str(temporary), "TAPERIG_STATE": str(home / "state")} | {
        f"XDG_{name}_HOME": str(home / name) for name in ("CACHE", "STATE", "CONFIG", "DATA")
    }


def run_doctor(
    folder: Path, *arguments: str | Path, code: int = 0, **changes: str
) -> dict[str, dict[str, Any]]:
    ended = rig("doctor", "--json", *arguments, env=empty_environment(folder) | changes)
    assert ended.code == code, ended.out + ended.err
    found = json.loads(ended.out)
    assert found["ok"] is (code == 0)
    return {each["name"]: each for each in found["requirements"]}


def files_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_doctor_finds_all_that_a_run_needs_and_makes_nothing(tmp_path: Path) -> None:
    lab = lab_file(tmp_path)
    environment = empty_environment(tmp_path)
    before = files_below(tmp_path)
    ended = rig("doctor", "--lab", lab, env=environment)
    assert ended.code == 0, ended.out
    assert ended.err == ""
    assert files_below(tmp_path) == before
    lines = ended.out.splitlines()
    for name in ("Python", "shared libpython", "C++ compiler", "make", "perl", "Verilator"):
        assert any(line.startswith(f"ok       {name} ") for line in lines), name
    assert "not built yet" in ended.out
    assert lines[-1] == "all that a run needs is there"


@pytest.mark.parametrize(
    ("program", "name", "cure"),
    [
        ("g++", "C++ compiler", "apt-get install g++"),
        ("make", "make", "apt-get install make"),
        ("perl", "perl", "apt-get install perl"),
    ],
)
def test_doctor_names_a_program_that_is_missing(
    tmp_path: Path, program: str, name: str, cure: str
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for each in {"g++", "make", "perl", "python3", "ldconfig"} - {program}:
        (tools / each).symlink_to(shutil.which(each) or "/sbin/ldconfig")
    found = run_doctor(tmp_path, "--lab", lab_file(tmp_path), code=1, PATH=str(tools))
    assert found[name]["status"] == "missing"
    assert found[name]["cure"] == cure


def test_doctor_names_missing_token_lab_and_folders(tmp_path: Path) -> None:
    closed = tmp_path / "file"
    closed.write_text("")
    found = run_doctor(
        tmp_path,
        "--lab",
        tmp_path / "none.yaml",
        code=1,
        TAPERIG_SOFTHSM="/no/softhsm.so",
        TAPERIG_STATE=str(closed / "state"),
    )
    assert {name for name, each in found.items() if each["status"] == "missing"} == {
        "SoftHSM library",
        "state folder",
        "lab file",
    }
    assert "TAPERIG_STATE" in found["state folder"]["cure"]


def test_doctor_reports_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lab = tmp_path / "lab.yaml"
        lab.write_text(DEFAULT_LAB.replace("port: 3801", f"port: {port}"))
        found = run_doctor(tmp_path, "--lab", lab, code=1)
    assert found["key manager main"]["status"] == "missing"
    assert f"127.0.0.1:{port} is not free" in found["key manager main"]["text"]


def test_doctor_reports_an_absent_token_and_board(tmp_path: Path) -> None:
    lab = lab_file(
        tmp_path,
        ("resource: TCPIP::127.0.0.1::3820::SOCKET", "resource: ASRL/dev/no-such::INSTR"),
        ("board: sim\n  #", "board: virtual\n  #"),
        ("module: softhsm ", "module: /no/module.so "),
        ("# pin: {env: NAME} ", "pin: {env: NO_SUCH_VARIABLE} #"),
    )
    found = run_doctor(tmp_path, "--lab", lab, code=1)
    assert "/dev/no-such does not exist" in found["board virtual"]["text"]
    assert "/no/module.so does not exist" in found["token ekm"]["text"]


def test_version_names_commit_gates_and_simulator(tmp_path: Path) -> None:
    environment = empty_environment(tmp_path)
    before = files_below(tmp_path)
    found = json.loads(rig("--version", "--json", env=environment).out)
    assert files_below(tmp_path) == before
    head = subprocess.run(
        ["git", "-C", PROJECT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if head:
        assert head.startswith(found["commit"].removesuffix("+dirty"))
    assert found["gates"].startswith("sim_top-plain-")
    assert found["built"] is False
    assert "5.48" in found["verilator"]
    assert found["version"] == version("taperig")
    assert found["version"] in rig("--version", env=environment).out.splitlines()[0]


def test_version_names_a_chosen_verilator_alone(tmp_path: Path) -> None:
    chosen = tmp_path / "verilator"
    chosen.write_text("#!/bin/sh\necho Verilator 9.999\n")
    chosen.chmod(0o755)
    found = json.loads(rig("--version", "--json", TAPERIG_VERILATOR=str(chosen)).out)
    assert found["verilator"] == "Verilator 9.999"


def test_version_marks_a_dirty_checkout_and_works_without_git(tmp_path: Path) -> None:
    from rig.cli.version import commit

    assert commit(tmp_path) is None
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x", "--allow-empty"]):
        subprocess.run(
            ["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x@x", *words], check=True
        )
    clean = commit(tmp_path)
    assert clean is not None
    assert "+dirty" not in clean
    (tmp_path / "new").touch()
    assert commit(tmp_path) == f"{clean}+dirty"


def test_version_is_refused_beside_a_command() -> None:
    for words in (["--json"], ["--version", "rules"], ["--json", "rules"]):
        ended = rig(*words)
        assert ended.code == 2
        assert "--version" in ended.err


@pytest.mark.parametrize(
    ("pin", "words"),
    [
        ("{env: NO_SUCH_VARIABLE}", "variable NO_SUCH_VARIABLE is not set"),
        ("{file: none}", "none cannot be read"),
        ("{file: open}", "open may be read by others (chmod 600)"),
    ],
)
def test_doctor_reports_a_pin_that_cannot_be_used(tmp_path: Path, pin: str, words: str) -> None:
    (tmp_path / "open").write_text("1234\n")
    (tmp_path / "open").chmod(stat.S_IRUSR | stat.S_IROTH)
    lab = lab_file(tmp_path, ("# pin: {env: NAME} ", f"pin: {pin} #"))
    assert words in run_doctor(tmp_path, "--lab", lab, code=1)["token ekm"]["text"]


def test_doctor_reports_a_folder_with_too_little_space(tmp_path: Path) -> None:
    found = _folder("state folder", lambda: tmp_path / "new", 10**12, "choose another")
    assert (found.status, found.cure) == ("missing", "free some space, or choose another")
    assert f"{tmp_path}/new has " in found.text
    assert _folder("state folder", lambda: tmp_path / "new", 0, "choose another").status == "ok"


def test_doctor_names_python_packages_that_are_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = ["pytest>=1", "no-such-package>=1", "no-such-extra; extra == 'fpga'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)
    found = {each.name: each for each in _python()}["Python packages"]
    assert (found.status, found.text) == ("missing", "not installed: no-such-package")


def test_doctor_reports_a_key_manager_host_without_address() -> None:
    found = _key_manager("main", "host.invalid", 3801, starts=False)
    assert found.status == "missing"
    assert "host.invalid has no address" in found.text


def test_doctor_names_a_state_folder_of_an_unknown_user(tmp_path: Path) -> None:
    found = run_doctor(tmp_path, code=1, TAPERIG_STATE="~no-such-user")
    assert found["state folder"]["status"] == "missing"
    assert "~no-such-user cannot be found" in found["state folder"]["text"]
