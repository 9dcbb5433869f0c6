"""``rig ve work``, interrupted during an encrypted write from BOT."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.rig_command import RIG, lab_file, rig

DATA_BYTES = 40_000_000
"""Some seconds of writing, so that a signal comes in the middle of it."""


def interrupt(lab: Path, how: signal.Signals) -> tuple[int, str, str]:
    """Run `rig ve work` and send a signal once the data key is set.

    Returns the exit code, the output and the errors.
    """
    process = subprocess.Popen(
        [RIG, "ve", "work", "--lab", lab],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert process.stdout is not None
    out = ""
    for line in process.stdout:
        out += line
        if line.startswith("BOT-2d"):
            process.send_signal(how)
            break
    rest, err = process.communicate(timeout=300)
    return process.returncode, out + rest, err


def cartridges_in_use(lab: Path) -> list[str]:
    rows = json.loads(rig("ve", "search", "--lab", lab, "--json").out)
    return [row["volser"] for row in rows if row["state"] != "scratch"]


@pytest.mark.usefixtures("interruptible", "state")
@pytest.mark.rule("BOT-4", "BOT-5")
def test_interrupted_write_from_bot_uses_up_no_cartridge(tmp_path: Path) -> None:
    lab = lab_file(tmp_path)
    data = tmp_path / "data"
    data.write_bytes(os.urandom(1 << 20) * (DATA_BYTES >> 20))
    assert rig("ve", "constructs", "--default-primary", "2", "--lab", lab).code == 0
    assert rig("ve", "write", data, "--lab", lab).code == 0
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        code, out, err = interrupt(lab, how)
        assert (code, err.strip()) == (128 + how, "rig: interrupted"), out
        steps = [line.split()[:2] for line in out.splitlines()]
        assert ["BOT-2e", "TAP001"] in steps
        assert ["BOT-4", "TAP001"] in steps
        assert cartridges_in_use(lab) == []
    done = rig("ve", "work", "--lab", lab)
    assert done.code == 0, done.err
    assert cartridges_in_use(lab) == ["TAP001"]
    assert "nothing wrong" in rig("ve", "check", "--deep", "--lab", lab).out
