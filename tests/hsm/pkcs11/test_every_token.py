"""Operations of the rig on SoftHSM, opencryptoki and NSS.

A validation says what a token can do. A test of something else is skipped and names what the token
lacks, with the return code.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hsm.pkcs11.softhsm import EKM_TOKEN_LABEL
from tests.support.foreign_tokens import MAKERS, PIN_VARIABLE, SO_PIN_VARIABLE, ForeignToken
from tests.support.provisioned import softhsm_token

SUPPORT = Path(__file__).parents[2] / "support"
WORKER = SUPPORT / "any_token_worker.py"
VALIDATE = SUPPORT / "validate_worker.py"
TOKENS = ("softhsm", *MAKERS)


@dataclass(frozen=True)
class KnownToken:
    """A token and the findings of its validation."""

    token: ForeignToken
    findings: dict[str, dict[str, str]]

    def need(self, *probes: str) -> None:
        """Skip the test unless these probes are good; name the one that is not."""
        for name in probes:
            finding = self.findings[name]
            if finding["status"] != "good":
                pytest.skip(
                    f"{self.token.name} lacks '{finding['asks']}': {finding['does']} "
                    f"[{finding['code']}]"
                )

    def run(self, operation: str) -> str:
        """Run an operation of the worker; return what it prints."""
        token = self.token
        ended = token.run(
            sys.executable,
            WORKER,
            operation,
            token.module,
            token.label,
            PIN_VARIABLE,
            *token.accept,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


def _softhsm(folder: Path) -> ForeignToken:
    config = softhsm_token(folder)
    assert config.so_pin is not None
    return ForeignToken(
        "SoftHSM",
        config.module,
        EKM_TOKEN_LABEL,
        folder,
        f'export SOFTHSM2_CONF="{config.softhsm_conf}"; shift; exec "$@"',
        (),
        {PIN_VARIABLE: config.pin.read(), SO_PIN_VARIABLE: config.so_pin.read()},
        alone=False,
    )


@pytest.fixture(scope="module", params=TOKENS)
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> KnownToken:
    make = {"softhsm": _softhsm, **MAKERS}[request.param]
    token = make(tmp_path_factory.mktemp(request.param))
    ended = token.run(
        *(sys.executable, VALIDATE, token.module, token.label, PIN_VARIABLE),
        *("oaep", "key_wrap", "rsa_keys"),
    )
    assert ended.returncode == 0, ended.stderr
    return KnownToken(token, {each["probe"]: each for each in json.loads(ended.stdout)["findings"]})


@pytest.mark.rule("KEY-12")
def test_token_seals_a_data_key_for_the_gates(known: KnownToken) -> None:
    known.need("key_wrap.key_wrap_wrap")
    known.run("seal")


def test_token_signs_with_p256(known: KnownToken) -> None:
    known.need("rsa_keys.p256")
    known.run("sign")


@pytest.mark.rule("EKM-3")
def test_token_chooses_oaep_with_sha_256(known: KnownToken) -> None:
    known.need("oaep.sha256_wrap", "oaep.sha256_unwrap")
    known.run("sha256")


@pytest.mark.rule("KEY-12", "EKM-3")
def test_token_rewraps_a_data_key_on_the_fast_path(known: KnownToken) -> None:
    """The fast path verifies no keys, so only SoftHSM can use it."""
    assert known.run("rewrap") == ("able" if known.token.name == "SoftHSM" else "unable")
