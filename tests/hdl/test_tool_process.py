"""Tools that start processes of their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hdl.tool_process import run_with_children
from tests.support.waiting import has_ended, wait_until

START_A_CHILD = ["sh", "-c", "sleep 1000 & echo $! >child; echo started; wait"]

PROGRAM = f"""
import os
from pathlib import Path
from hdl.tool_process import ends_by_signal, run_with_children
with ends_by_signal():
    run_with_children({START_A_CHILD}, folder=Path.cwd(), environment=os.environ)
"""


def test_run_with_children_returns_exit_code_and_output(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo one; echo two >&2; exit 3"]
    answer = run_with_children(command, folder=tmp_path, environment=os.environ)
    assert answer == (3, "one\ntwo\n")


def test_run_with_children_ends_them_all_after_its_time(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_with_children(START_A_CHILD, folder=tmp_path, environment=os.environ, timeout=1)
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: has_ended(child))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_tools_end_with_the_program_that_runs_them(
    tmp_path: Path, number: signal.Signals, interruptible: None
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment)
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text() != "")
    child = int((tmp_path / "child").read_text())
    program.send_signal(number)
    assert program.wait(20) != 0
    wait_until(lambda: has_ended(child))
