"""Tagged objects: found and removed when their process is dead; no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from pkcs11 import Attribute, KeyType

from hsm.pkcs11.token import Token, open_token
from hsm.provisioning import ProvisionedLab
from hsm.validate import tagged_objects
from hsm.validate.tagged_objects import LABEL, OTHER_CASE_LABEL, Owner, is_leftover
from tests.hsm.validate.conftest import Validate

MAKE_TAGGED_OBJECT = """
import json, sys, time
from pathlib import Path
from pkcs11 import Attribute
from hsm.validate.session import AES_256, TokenUnderTest, Pins
from hsm.validate.raw_pkcs11 import RawModule
module, label = sys.argv[1:]
library = RawModule(Path(module))
pins = Pins(sys.stdin.readline().strip(), None)
token = TokenUnderTest(library, library.slot_of(label), pins, label)
template = token.token_template({**token.aes_template(EXTRACTABLE=False), Attribute.VALUE_LEN: 32})
token.session.generate_key(AES_256, template)
print("made", flush=True)
time.sleep(60)
"""


@pytest.fixture
def maker(lab_state: ProvisionedLab) -> Iterator[subprocess.Popen[str]]:
    """Start a process that makes a tagged object on the token and stays alive."""
    config = lab_state.ekm_token
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE_TAGGED_OBJECT, str(config.module), config.label],
        env={**os.environ, "SOFTHSM2_CONF": str(config.softhsm_conf)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(config.pin.read() + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "made\n"
        yield process
        process.kill()


def _labelled(token: Token, label: str) -> int:
    return len(token.find({Attribute.LABEL: label}))


def test_validate_removes_objects_of_a_killed_validation(
    lab_state: ProvisionedLab, validate_softhsm: Validate, maker: subprocess.Popen[str]
) -> None:
    living = validate_softhsm("declared.token")
    assert (living.leftovers_removed, living.left_behind) == (0, 1)
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    dead = validate_softhsm("declared.token")
    assert (dead.leftovers_removed, dead.left_behind) == (1, 0)
    with open_token(lab_state.ekm_token) as token:
        assert _labelled(token, LABEL) == 0


@pytest.mark.parametrize(
    ("label", "identity"),
    [
        (LABEL, b""),
        (LABEL, b"somebody's own"),
        (LABEL, bytes(36)),
        ("something else", Owner(b"dead", 1, 1).tag()),
        (LABEL, Owner(b"dead", 1, 1).tag()),  # of another host, and not a day old
        (OTHER_CASE_LABEL, Owner(b"dead", 1, 1).tag() + b"x"),
    ],
    # Fixed ids: a tag holds the time, and all test workers must see the same ids.
    ids=["no-id", "other-id", "zeros", "other-label", "other-host", "other-case"],
)
def test_validate_leaves_objects_that_only_resemble_its_own(
    lab_state: ProvisionedLab, validate_softhsm: Validate, label: str, identity: bytes
) -> None:
    with open_token(lab_state.ekm_token) as token:
        token.session.generate_key(KeyType.AES, 256, store=True, label=label, id=identity)
    try:
        assert validate_softhsm("declared.token").leftovers_removed == 0
    finally:
        with open_token(lab_state.ekm_token) as token:
            assert _labelled(token, label) == 1
            for found in token.find({Attribute.LABEL: label}):
                found.destroy()


def test_is_leftover_needs_a_dead_owner() -> None:
    owner = Owner.current()
    now = time.time()
    assert not is_leftover(owner.tag(), now)
    reused_pid = Owner(owner.host, owner.pid, owner.started + 1)
    assert is_leftover(reused_pid.tag(), now)
    assert is_leftover(Owner(owner.host, 2**22 + 1, 7).tag(), now)
    assert not is_leftover(Owner(b"xxxx", 1, 1).tag(), now)
    assert is_leftover(Owner(b"xxxx", 1, 1).tag(), now + 25 * 3600)
    assert not is_leftover(b"", now)


def test_owner_never_repeats_a_tag() -> None:
    owner = tagged_objects.Owner.current()
    assert len({owner.tag() for _ in range(1000)}) == 1000
