"""The command line: real processes, and one sentence for each error."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.rig_command import DEFAULT_LAB, RIG, lab_file, rig

KAT = """
[Keylen = 256]
[IVlen = 96]
[PTlen = 0]
[AADlen = 0]
[Taglen = 128]

Count = 0
Key = b52c505a37d78eda5dd34f20c22540ea1b58963cf8e5bf8ffa85f9f2492505b4
IV = 516c33929df5a3284ff463d7
PT =
AAD =
CT =
Tag = bdc1ac884d332457a1d2664f168c76f0
"""


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with the default lab's tokens and keys."""
    state = tmp_path_factory.mktemp("state")
    assert rig("hsm", "init", TAPERIG_STATE=str(state)).code == 0
    return state


def with_pin(folder: Path, pin: str) -> Path:
    return lab_file(folder, ("# pin: {env: NAME} ", f"pin: {pin} #"))


# What works -----------------------------------------------------------------------------------


def test_help_names_groups_examples_and_state() -> None:
    ended = rig("--help")
    assert ended.code == 0
    for word in ("run", "kat", "hsm", "ekm", "cartridge", "rules", "Examples", "TAPERIG_STATE"):
        assert word in ended.out
    for command in (["run"], ["kat"], ["hsm", "init"], ["hsm", "list"], ["ekm", "serve"]):
        assert rig(*command, "--help").code == 0


def test_completion_offers_commands() -> None:
    ended = rig(_RIG_COMPLETE="complete_bash", COMP_WORDS="rig h", COMP_CWORD="1")
    assert "hsm" in ended.out


def test_kat_counts_vectors_in_text_and_json(tmp_path: Path) -> None:
    file = tmp_path / "one.rsp"
    file.write_text(KAT + KAT.replace("[IVlen = 96]", "").replace("516c33929d", ""))
    ended = rig("kat", file, "--board", "sim")
    assert ended.code == 0
    assert "1 run, 1 passed, 0 failed" in ended.out
    assert "1 skipped: IV of 56 bits" in ended.out
    found = json.loads(rig("kat", file, "--board", "sim", "--json").out)
    assert found == {
        "file": str(file),
        "run": 1,
        "passed": 1,
        "failed": 0,
        "skipped": {"IV of 56 bits": 1},
        "failures": [],
    }


def test_kat_with_a_wrong_answer_fails(tmp_path: Path) -> None:
    file = tmp_path / "wrong.rsp"
    file.write_text(KAT.replace("bdc1ac88", "bdc1ac89"))
    ended = rig("kat", file)
    assert ended.code == 1
    assert "1 run, 0 passed, 1 failed" in ended.out
    assert "line 8, Count = 0" in ended.out


def test_kat_that_runs_nothing_fails(tmp_path: Path) -> None:
    file = tmp_path / "none.rsp"
    file.write_text(KAT.replace("516c33929d", ""))
    ended = rig("kat", file)
    assert ended.code == 1
    assert "no vector fits the engine" in ended.out


def test_kat_takes_nists_files_by_name_and_lists_them() -> None:
    listed = rig("kat", "--list").out.splitlines()
    assert "gcmDecrypt256.rsp" in listed
    ended = rig("kat", "gcmDecrypt256.rsp", "--board", "sim")
    assert ended.code == 0, ended.err
    assert " 0 failed" in ended.out
    sentence = rig("kat", "gcmDecrypt25.rsp").sentence()
    assert sentence.endswith("did you mean gcmDecrypt256.rsp?")
    for words in ([], ["--list", "--board", "sim"], ["--list", "gcmDecrypt256.rsp"]):
        assert "--list" in rig("kat", *words).sentence()


def test_hsm_list_shows_the_keks_of_the_token(provisioned: Path) -> None:
    ended = rig("hsm", "list", "--json", TAPERIG_STATE=str(provisioned))
    assert ended.code == 0
    listed = json.loads(ended.out)
    assert listed["token"] == "taperig-ekm"
    assert {kek["label"] for kek in listed["keks"]} == {"June 2007 Key", "June 2007 DR Site Key"}
    assert all(kek["private"] and kek["bits"] == 2048 for kek in listed["keks"])


def test_hsm_init_repeated_changes_nothing(provisioned: Path) -> None:
    before = rig("hsm", "list", "--json", TAPERIG_STATE=str(provisioned)).out
    assert rig("hsm", "init", TAPERIG_STATE=str(provisioned)).code == 0
    assert rig("hsm", "list", "--json", TAPERIG_STATE=str(provisioned)).out == before


@contextmanager
def serving(lab: Path, state: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``rig ekm serve``, with the port on which it listens."""
    process = subprocess.Popen(
        [RIG, "ekm", "serve", "--lab", lab],
        env={**os.environ, "TAPERIG_STATE": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        match = re.fullmatch(r"listening 127\.0\.0\.1:(\d+)\n", process.stdout.readline())
        assert match, process.communicate()
        yield process, int(match[1])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.rule("EKM-1")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_ekm_serve_ends_in_order_on_a_signal(
    tmp_path: Path, provisioned: Path, ending: signal.Signals
) -> None:
    with serving(lab_file(tmp_path), provisioned) as (process, port):
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass
        process.send_signal(ending)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out + err == ""


# What is wrong --------------------------------------------------------------------------------


def test_lab_file_with_a_mistake_is_refused_with_its_line(tmp_path: Path) -> None:
    lab = lab_file(tmp_path, ("clock_mhz: 62.5 ", "clok_mhz: 62.5 "))
    for command in (["run"], ["hsm", "list"], ["ekm", "serve"]):
        assert rig(*command, "--lab", lab).sentence() == (
            f"{lab}:9: 'clok_mhz' is not a key of boards.sim; did you mean 'clock_mhz'?"
        )


def test_lab_file_that_is_absent_is_refused(tmp_path: Path) -> None:
    assert (
        "nowhere.yaml cannot be read" in rig("run", "--lab", tmp_path / "nowhere.yaml").sentence()
    )


def test_run_refuses_an_unknown_board(tmp_path: Path) -> None:
    assert "did you mean 'sim'?" in rig("run", "--board", "simm").sentence()


def test_hsm_list_refuses_a_wrong_pin_and_does_not_print_it(
    tmp_path: Path, provisioned: Path
) -> None:
    pin = tmp_path / "pin"
    pin.write_text("0000000000000000\n")
    pin.chmod(0o600)
    lab = with_pin(tmp_path, "{file: pin}")
    sentence = rig("hsm", "list", "--lab", lab, TAPERIG_STATE=str(provisioned)).sentence()
    assert "taperig-ekm" in sentence
    assert "PIN" in sentence
    assert "0000000000000000" not in sentence


def test_hsm_list_names_an_absent_pin_source(tmp_path: Path, provisioned: Path) -> None:
    state = str(provisioned)
    lab = with_pin(tmp_path, "{env: NO_SUCH_VARIABLE}")
    assert "NO_SUCH_VARIABLE" in rig("hsm", "list", "--lab", lab, TAPERIG_STATE=state).sentence()
    lab = with_pin(tmp_path, "{file: no/such}")
    assert "no/such" in rig("hsm", "list", "--lab", lab, TAPERIG_STATE=state).sentence()


def test_hsm_list_names_an_absent_token(tmp_path: Path, provisioned: Path) -> None:
    lab = lab_file(tmp_path, ("label: taperig-ekm", "label: somebody-elses"))
    sentence = rig("hsm", "list", "--lab", lab, TAPERIG_STATE=str(provisioned)).sentence()
    assert "somebody-elses" in sentence


def test_hsm_list_names_an_absent_module(tmp_path: Path, provisioned: Path) -> None:
    lab = lab_file(
        tmp_path,
        ("module: softhsm ", "module: /no/such/module.so "),
        ("# pin: {env: NAME} ", "pin: {env: HOME} #"),
    )
    sentence = rig("hsm", "list", "--lab", lab, TAPERIG_STATE=str(provisioned)).sentence()
    assert "/no/such/module.so" in sentence


def test_ekm_serve_names_a_port_in_use(tmp_path: Path, provisioned: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "lab.yaml").write_text(DEFAULT_LAB.replace("port: 3801", f"port: {port}"))
        ended = rig("ekm", "serve", "--lab", tmp_path / "lab.yaml", TAPERIG_STATE=str(provisioned))
    assert f"127.0.0.1:{port}" in ended.sentence()


def test_hsm_init_names_a_state_folder_that_it_cannot_write() -> None:
    for folder in ("/proc/no", "/dev/null"):
        assert folder in rig("hsm", "init", TAPERIG_STATE=folder).sentence()


def test_kat_names_a_file_that_it_cannot_read(tmp_path: Path) -> None:
    assert "nowhere.rsp" in rig("kat", tmp_path / "nowhere.rsp").sentence()
    (tmp_path / "binary.rsp").write_bytes(b"Count = 0\nKey = \xff\n")
    assert "not ASCII" in rig("kat", tmp_path / "binary.rsp").sentence()


def test_kat_names_a_missing_compiler(tmp_path: Path) -> None:
    """Nothing is built yet, and the compiler is not on PATH."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("perl", "make", "python3"):
        found = shutil.which(name)
        assert found
        (tools / name).symlink_to(found)
    file = tmp_path / "one.rsp"
    file.write_text(KAT)
    ended = rig("kat", file, PATH=str(tools), XDG_CACHE_HOME=str(tmp_path / "cache"))
    sentence = ended.sentence()
    assert "g++" in sentence
    assert "apt-get install g++" in sentence
    assert not list((tmp_path / "cache").rglob("*.log"))


def test_run_refuses_an_unknown_option() -> None:
    ended = rig("run", "--no-such-option")
    assert ended.code == 2
    assert "No such option" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("ekm audit show --last -1", "greater than or equal to 1"),
        ("ekm audit show --last 99999999", "less than or equal to 10000"),
        ("ekm key add X --bits 1024", "greater than or equal to 2048"),
        ("ekm key add X --bits 2048 --certificate x.pem", "--bits is for a new key"),
        ("ekm key users X --config x.yaml --name main", "--config goes without --lab and --name"),
        ("ekm serve --config x.yaml --lab lab.yaml", "--config goes without --lab and --name"),
        ("board serve --port 65536", "less than or equal to 65535"),
        ("board build ulx3s --seed 0", "greater than or equal to 1"),
        ("run --scenario rates --data .", "rates writes no files"),
        ("runs clean --older-than nan", "less than or equal to 36500"),
        ("ve search --fill-above nan", "less than or equal to 100"),
        ("ve search --active-below 101", "less than or equal to 100"),
        ("ve search --written-before -1", "greater than or equal to 0"),
        ("ve search --accessed-within 1e99", "less than or equal to 36525"),
        ("ve reclaim plan --limit 99999999999999999999", "less than or equal to 10000"),
    ],
)
def test_option_out_of_bounds_or_without_effect_is_refused(command: str, words: str) -> None:
    ended = rig(*command.split())
    assert ended.code == 2
    assert words in ended.err
    assert "Traceback" not in ended.err
