"""``rig board serve virtual``: scenarios pass on it, and it ends cleanly."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rig_command import RIG, lab_file, rig
from tests.support.waiting import has_ended, wait_until


class ServedBoard:
    """The command as a process, and what it printed."""

    def __init__(self, lab: Path) -> None:
        self.process = subprocess.Popen(
            [RIG, "board", "serve", "virtual", "--port", "0", "--lab", str(lab)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline().split() for _ in range(2)]
        assert [words[0] for words in lines] == ["serving", "serving"], lines
        self.socket, self.terminal = (words[1] for words in lines)

    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def served(tmp_path: Path, state: Path, interruptible: None) -> Iterator[ServedBoard]:
    command = ServedBoard(lab_file(tmp_path))
    yield command
    command.process.kill()
    command.process.wait()


def test_board_serve_passes_both_scenarios(served: ServedBoard, tmp_path: Path) -> None:
    data = tmp_path / "small"
    data.mkdir()
    (data / "text").write_bytes(b"logical volume " * 200)
    (data / "noise").write_bytes(os.urandom(4000))
    lab = lab_file(tmp_path, ("TCPIP::127.0.0.1::3820::SOCKET", served.socket))
    out = tmp_path / "out"
    ended = rig("run", "--lab", lab, "--board", "virtual", "--data", data, "--out", out)
    assert ended.code == 0, (ended.out, ended.err)
    results = json.loads((out / "results.json").read_text())
    assert {scenario["name"] for scenario in results["scenarios"]} == {"round_trip", "rates"}
    children = served.children()
    assert served.end(signal.SIGTERM) == 128 + signal.SIGTERM
    wait_until(lambda: all(map(has_ended, children)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_board_serve_leaves_no_process(served: ServedBoard, number: int) -> None:
    children = served.children()
    assert children
    served.end(number)
    wait_until(lambda: all(map(has_ended, children)))


def test_kat_names_a_board_that_is_not_served(tmp_path: Path, state: Path) -> None:
    lab = lab_file(tmp_path, ("127.0.0.1::3820", "127.0.0.1::1"))
    sentence = rig("kat", "--lab", lab, "--board", "virtual", nist_file()).sentence()
    assert "TCPIP::127.0.0.1::1::SOCKET" in sentence
    assert "rig board serve" in sentence


def nist_file() -> Path:
    """Any file of known answers; the board is looked for before one is run."""
    import cryptography_vectors

    folder = Path(cryptography_vectors.__file__).parent / "ciphers" / "AES" / "GCM"
    return folder / "gcmDecrypt256.rsp"


def test_run_writes_waves_of_simulations_only(tmp_path: Path, state: Path) -> None:
    lab = lab_file(tmp_path)
    ended = rig("run", "--lab", lab, "--board", "virtual", "--waves", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "has no waveform" in ended.err


def test_board_serve_refuses_a_board_that_is_not_virtual(tmp_path: Path, state: Path) -> None:
    sentence = rig("board", "serve", "ulx3s", "--lab", lab_file(tmp_path)).sentence()
    assert "there is 'virtual'" in sentence
