"""The prompt for a PIN: only on a terminal, and the PIN is seen nowhere."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm.pkcs11.softhsm import EKM_TOKEN_LABEL, find_module, token_config
from tests.support.provisioned import softhsm_token
from tests.support.rig_command import RIG

PROMPT = f"PIN of {EKM_TOKEN_LABEL}: "
WRONG = "314159265358"


class Terminal:
    """A command on a terminal of its own, and what is typed there."""

    def __init__(self, arguments: list[str], environment: dict[str, str], out: Path) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                # A shell without a terminal starts background processes with SIGINT ignored.
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                stdout = os.open(out, os.O_WRONLY | os.O_CREAT, 0o600)
                os.dup2(stdout, 1)
                os.execve(arguments[0], arguments, environment)
            finally:
                os._exit(127)
        self.seen = ""

    def until(self, text: str | None, seconds: float = 30) -> None:
        """Read what is shown up to a text; to the end, if none is given."""
        deadline = time.monotonic() + seconds
        while text is None or text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, f"not shown: {text!r}; shown: {self.seen!r}"
            try:
                part = os.read(self.master, 4096)
            except OSError:  # the other end is closed
                part = b""
            if not part:
                assert text is None, f"not shown: {text!r}; shown: {self.seen!r}"
                return
            self.seen += part.decode()

    def types(self, text: str) -> None:
        os.write(self.master, text.encode())

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.master)[3] & termios.ECHO)

    def code(self) -> int:
        """Wait for the end; return the exit code."""
        self.until(None)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("asked") / "state"
    softhsm_token(path)
    return path


@pytest.fixture
def pin(state: Path) -> str:
    return token_config(state, EKM_TOKEN_LABEL).pin.read()


def command(*options: str) -> list[str]:
    module = str(find_module())
    asked = ["--module", module, "--token", EKM_TOKEN_LABEL, "--area", "declared"]
    return [str(RIG), "hsm", "validate", *asked, *options]


def environment(state: Path) -> dict[str, str]:
    conf = str(state / "softhsm2.conf")
    return {**os.environ, "TAPERIG_STATE": str(state), "SOFTHSM2_CONF": conf, "COLUMNS": "200"}


@pytest.fixture
def terminal(state: Path, tmp_path: Path) -> Iterator[Terminal]:
    started = Terminal(command("--json"), environment(state), tmp_path / "out")
    yield started
    started.close()


def test_pin_prompt_does_not_show_the_pin(terminal: Terminal, pin: str, tmp_path: Path) -> None:
    terminal.until(PROMPT)
    assert not terminal.echoes
    terminal.types(f"{pin}\n")
    terminal.until("Declarations of the module")
    assert terminal.echoes, "what is typed afterwards is seen again"
    assert terminal.code() == 0
    assert pin not in terminal.seen
    assert "as far as was tried, fit" in terminal.seen
    out = (tmp_path / "out").read_text()
    assert json.loads(out)["token"] == EKM_TOKEN_LABEL, "nothing but the report"
    assert pin not in out


def test_pin_prompt_refuses_a_wrong_pin_in_one_sentence(terminal: Terminal, tmp_path: Path) -> None:
    terminal.until(PROMPT)
    terminal.types(f"{WRONG}\n")
    assert terminal.code() == 2
    (sentence,) = terminal.seen.replace(PROMPT, "").split("\r\n")[1:-1]
    assert sentence.startswith("rig: The token refused the user's PIN (CKR_PIN_INCORRECT); correct")
    assert WRONG not in terminal.seen
    assert (tmp_path / "out").read_text() == ""


@pytest.mark.parametrize(
    ("key", "code"), [("\x03", 130), ("\x04", 2), ("\n", 2)], ids=["interrupt", "end", "nothing"]
)
def test_pin_prompt_left_without_a_pin_gives_no_verdict(
    terminal: Terminal, key: str, code: int, tmp_path: Path
) -> None:
    terminal.until(PROMPT)
    terminal.types(key)
    assert terminal.code() == code
    assert "Traceback" not in terminal.seen
    assert ("No PIN was given" in terminal.seen) == (code == 2)
    assert (tmp_path / "out").read_text() == ""


def test_pin_prompt_needs_a_terminal_and_reads_no_pipe(state: Path, pin: str) -> None:
    """A PIN that is piped in would be in a shell's history."""
    for given in (None, f"{pin}\n"):
        done = subprocess.run(
            command(),
            env=environment(state),
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "name a variable with --pin-env or a file with --pin-file" in done.stderr
        assert PROMPT not in done.stderr
