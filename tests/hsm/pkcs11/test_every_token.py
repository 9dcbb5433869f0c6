"""What the rig asks of a token, on every token that there is; skipped where the token cannot.

Whether it can, a validation says: a skipped test names what is missing, and the return code.
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
    """A token, and what a validation found of it."""

    token: ForeignToken
    found: dict[str, dict[str, str]]

    def need(self, *probes: str) -> None:
        """Skip the test unless these are good, saying what is not."""
        for name in probes:
            finding = self.found[name]
            if finding["status"] != "good":
                pytest.skip(
                    f"{self.token.name} lacks '{finding['asks']}': {finding['does']} "
                    f"[{finding['code']}]"
                )

    def do(self, what: str) -> str:
        """Have the worker do it; return what it says."""
        token = self.token
        ended = token.run(
            sys.executable, WORKER, what, token.module, token.label, PIN_VARIABLE, *token.accept
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
def test_a_data_key_sealed_for_the_gates(known: KnownToken) -> None:
    known.need("key_wrap.key_wrap_wrap")
    known.do("seal")


def test_a_signing_key_in_the_token(known: KnownToken) -> None:
    known.need("rsa_keys.p256")
    known.do("sign")


@pytest.mark.rule("EKM-3")
def test_data_keys_wrapped_with_sha_256(known: KnownToken) -> None:
    known.need("oaep.sha256_wrap", "oaep.sha256_unwrap")
    known.do("sha256")


@pytest.mark.rule("KEY-12", "EKM-3")
def test_a_data_key_rewrapped_in_one_go(known: KnownToken) -> None:
    """SoftHSM can do it; the others' keys need a look that is not made in one go."""
    assert known.do("rewrap") == ("able" if known.token.name == "SoftHSM" else "unable")
