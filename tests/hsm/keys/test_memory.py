"""No destroyed data key is left in the memory of its process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hsm.keys.eedk import Eedk
from hsm.keys.keystore import Keystore
from hsm.pkcs11.token import open_token
from hsm.provisioning import ProvisionedLab
from tests.support.outside import outside_pair
from tests.support.process_memory import Find, find_in_file, snapshot

WORKER = Path(__file__).parents[2] / "support" / "memory_worker.py"


def finds(pid: int, data_key: bytes, scratch: Path) -> list[Find]:
    regions = snapshot(pid, scratch)
    assert sum(length for _, length in regions.values()) > 1_000_000
    halves = {"first half": data_key[:16], "second half": data_key[16:]}
    return find_in_file(scratch, {"data key": data_key, **halves})


@pytest.mark.rule("KEY-12")
def test_data_key_is_not_in_the_memory_of_the_process(
    lab_state: ProvisionedLab, tmp_path: Path
) -> None:
    outside = outside_pair("looked at")
    with open_token(lab_state.ekm_token) as token:
        Keystore(token).import_certificate("seen outside", outside.certificate)
    request = {
        "state_dir": str(lab_state.state_dir),
        "labels": ["seen outside", "KEK 1"],
        "drive_key": lab_state.drives[0].wrap_public_der.hex(),
    }
    with subprocess.Popen(
        [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin
        assert worker.stdout
        print(json.dumps(request), file=worker.stdin, flush=True)
        first, _, _ = json.loads(worker.stdout.readline())
        # Only here, outside the process that is looked at, is the key ever opened.
        data_key = outside.unwrap(Eedk.decode(bytes.fromhex(first)).wrapped)
        assert len(data_key) == 32
        assert finds(worker.pid, data_key, tmp_path / "memory") == []

        for byte in data_key:
            print(byte, file=worker.stdin, flush=True)
        assert worker.stdout.readline() == "planted\n"
        assert finds(worker.pid, data_key, tmp_path / "memory") != []
        worker.stdin.close()
        assert worker.wait(timeout=10) == 0
