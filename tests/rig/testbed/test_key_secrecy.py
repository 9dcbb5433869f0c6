"""The data key of a session is only in the token and in the gates.

The key is taken out of the gates' own registers, which only a test build shows, after the memory of
all processes was copied. Every round key is looked for as well: two of them are the key's halves.
The gates are Verilated into the simulator's process, so there the copies inside the model are the
gates themselves, and so are single round keys on the stack, in the word order that only the model's
C++ uses: it evaluates a cipher round with temporaries there. Everything else of that process
counts. The secure element is a token.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rig.drive.cartridge import Cartridge
from tests.support.key_rows import in_rows
from tests.support.process_memory import (
    Find,
    address_of,
    find_in_file,
    find_in_tree,
    main_stack,
    snapshot,
)

PROJECT = Path(__file__).parents[3]
NO_TOKEN = ("rig", "key manager", "simulator")
"""The processes in whose memory nothing may be found: the secure element is a token."""


def ask(worker: subprocess.Popen[str], words: str) -> str:
    assert worker.stdin
    assert worker.stdout
    worker.stdin.write(words + "\n")
    worker.stdin.flush()
    answer = worker.stdout.readline()
    assert answer, "the session ended early"
    return answer.strip()


@contextmanager
def session(folder: Path) -> Iterator[subprocess.Popen[str]]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.support.session_worker"],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.communicate()


def model_span(log: Path) -> tuple[int, int]:
    """Return where the gates are in the simulator's memory."""
    found = re.search(r"gates at 0x([0-9a-f]+), (\d+) bytes", log.read_text(errors="replace"))
    assert found, "the simulator does not say where the gates are"
    start = int(found[1], 16)
    return start, start + int(found[2])


def secrets_of(schedule: bytes) -> dict[str, bytes]:
    """Return the data key and every round key, by name.

    Round keys are also in the layout of the gates.
    """
    rounds = {f"round key {i}": schedule[16 * i : 16 * (i + 1)] for i in range(15)}
    rows = {f"{name} in rows": in_rows(key) for name, key in rounds.items()}
    return {"data key": schedule[:32], **rounds, **rows}


def assert_key_of(cartridge: Path, data_key: bytes) -> None:
    """Check that the key opens every record of the cartridge."""
    with Cartridge.open(cartridge) as opened:
        records = opened.read(0, opened.block_count)
        assert records
        for record in records:
            aad = record.header.aad(opened.volser)
            AESGCM(data_key).decrypt(record.header.iv, record.data + record.tag, aad)


def is_temporary(find: Find, address: int, stack: tuple[int, int]) -> bool:
    """Whether a find is one round key as the model holds it, on the stack."""
    in_stack = stack[0] <= address < stack[1]
    return in_stack and re.fullmatch(r"round key \d+ in rows \(reversed\)", find.what) is not None


@pytest.mark.rule("KEY-12", "KEY-1", "BOT-2d", "APP-2e", "READ-2d")
def test_data_key_is_only_in_the_token_and_the_gates(tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = run / "data"
    data.mkdir(parents=True)
    for name, size in (("a", 300_000), ("b", 5), ("c", 70_000)):
        (data / name).write_bytes(random.Random(name).randbytes(size))
    copies = tmp_path / "memory"
    copies.mkdir()

    with session(run) as worker:
        pids: dict[str, int] = json.loads(ask(worker, str(run)))
        regions = {who: snapshot(pid, copies / who) for who, pid in pids.items()}
        stack = main_stack(pids["simulator"])
        schedule = bytes.fromhex(ask(worker, "show the round keys"))
        secrets = secrets_of(schedule)
        after = copies / "rig, planted"
        snapshot(pids["rig"], after)
        assert ask(worker, "end") == "done"

    (cartridge,) = (run / "cartridges").glob("*.tape")
    assert_key_of(cartridge, schedule[:32])

    gates = model_span(run / "simulation.log")
    outside: dict[str, list[Find]] = {}
    in_gates = 0
    for who in NO_TOKEN:
        for find in find_in_file(copies / who, secrets):
            address = address_of(find, regions[who])
            if who == "simulator" and gates[0] <= address < gates[1]:
                in_gates += 1
            elif who == "simulator" and is_temporary(find, address, stack):
                continue
            else:
                outside.setdefault(who, []).append(find)
    assert outside == {}
    assert find_in_tree([run], secrets) == []

    # The search works: it sees the gates' own registers, and the copy that the session kept.
    assert in_gates >= 15
    assert {find.what for find in find_in_file(after, secrets)} >= {"data key (as it is)"}
