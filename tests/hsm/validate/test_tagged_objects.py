"""A validation's own objects: found again, removed when their maker is dead, and no others."""

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

MAKER = """
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
    """A process that has put an object of a validation on the token and lives on."""
    config = lab_state.ekm_token
    process = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(config.module), config.label],
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


def test_a_dead_validation_is_cleaned_up_by_the_next(
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
        (LABEL, Owner(b"dead", 1, 1).tag()),  # another host's, and not a day old
        (OTHER_CASE_LABEL, Owner(b"dead", 1, 1).tag() + b"x"),
    ],
    # Names of their own, since a tag holds the time, and all test workers must see the same names.
    ids=["no-id", "other-id", "zeros", "other-label", "other-host", "other-case"],
)
def test_what_only_looks_like_its_own_is_left_alone(
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


def test_who_is_a_leftover() -> None:
    mine = Owner.current()
    now = time.time()
    assert not is_leftover(mine.tag(), now)
    assert is_leftover(Owner(mine.host, mine.pid, mine.started + 1).tag(), now)  # a pid used again
    assert is_leftover(Owner(mine.host, 2**22 + 1, 7).tag(), now)
    assert not is_leftover(Owner(b"xxxx", 1, 1).tag(), now)
    assert is_leftover(Owner(b"xxxx", 1, 1).tag(), now + 25 * 3600)
    assert not is_leftover(b"", now)


def test_no_two_objects_bear_one_tag() -> None:
    owner = tagged_objects.Owner.current()
    assert len({owner.tag() for _ in range(1000)}) == 1000
