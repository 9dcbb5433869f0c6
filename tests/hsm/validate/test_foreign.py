"""Validations of opencryptoki and NSS softokn against known findings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hsm.validate.probes import AREAS, PROBES
from hsm.validate.report import SCHEMA_PATH
from tests.support.foreign_tokens import MAKERS, PIN_VARIABLE, SO_PIN_VARIABLE, ForeignToken

VALIDATE = Path(__file__).parents[2] / "support" / "validate_worker.py"
OMITTED_AREAS = {"rates"}
KNOWN: dict[str, dict[str, tuple[str, str]]] = {
    "opencryptoki": {
        "oaep.sha256_unwrap": ("good", "C_UnwrapKey: CKR_OK"),
        "key_wrap.key_wrap_wrap": ("lacks", "C_WrapKey: CKR_MECHANISM_INVALID"),
        "key_wrap.cbc_pad_wrap": ("good", "C_WrapKey: CKR_OK"),
        "rsa_keys.p256": ("lacks", "C_GenerateKeyPair: CKR_MECHANISM_INVALID"),
        "rsa_keys.default_extractable": ("note", "C_GetAttributeValue: CKR_OK"),
        "attributes.wrap_with_trusted": ("lacks", "C_GenerateKey: CKR_ATTRIBUTE_TYPE_INVALID"),
        "attributes.unwrap_honours": ("lacks", "C_UnwrapKey: CKR_ATTRIBUTE_READ_ONLY"),
        "attributes.set_afterwards": ("good", "C_GetAttributeValue: CKR_ATTRIBUTE_SENSITIVE"),
        "attacks.own_public_key": ("risk", "C_WrapKey: CKR_OK"),
        "attacks.wrap_kek": ("good", "C_WrapKey: CKR_KEY_UNEXTRACTABLE"),
        "attacks.raw_rsa": ("risk", "C_UnwrapKey: CKR_OK"),
        "faults.damaged": ("good", "C_UnwrapKey: CKR_FUNCTION_FAILED"),
        "faults.tells_length": ("good", "C_GetAttributeValue: CKR_OK"),
        "life.threads": ("good", "C_UnwrapKey: CKR_OK"),
    },
    "nss": {
        "oaep.sha256_unwrap": ("good", "C_UnwrapKey: CKR_OK"),
        "key_wrap.key_wrap_wrap": ("good", "C_WrapKey: CKR_OK"),
        "rsa_keys.p256": ("good", "C_Sign: CKR_OK"),
        "attributes.extractable": ("risk", "C_WrapKey: CKR_OK"),
        "attributes.wrap_with_trusted": ("risk", "C_WrapKey: CKR_OK"),
        "attributes.unwrap_honours": ("good", "C_UnwrapKey: CKR_OK"),
        "attacks.wrap_kek": ("risk", "C_WrapKey: CKR_OK"),
        "attacks.known_key": ("risk", "C_WrapKey: CKR_OK"),
        "attacks.copy_extractable": ("risk", "C_CopyObject: CKR_OK"),
        "attacks.trusted_create": ("risk", "C_CreateObject: CKR_OK"),
        "attacks.pkcs1_oracle": ("note", "C_UnwrapKey: CKR_OK"),
        "faults.damaged": ("good", "C_UnwrapKey: CKR_WRAPPED_KEY_INVALID"),
        "life.threads": ("good", "C_UnwrapKey: CKR_OK"),
    },
}
LIMITS: dict[str, set[str]] = {
    "opencryptoki": {
        "no signing key",
        "untrusted wrapping",
        "weaker unwrap templates",
        "KEKs decrypt",
        "PKCS#1 v1.5",
        "protection can be changed",
        "unwrap template not honoured",
    },
    "nss": {
        "untrusted wrapping",
        "weaker unwrap templates",
        "wraps non-extractable keys",
        "KEKs decrypt",
        "user can set TRUSTED",
        "protection can be changed",
    },
}


@pytest.fixture(scope="module", params=MAKERS)
def token(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ForeignToken:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def report(token: ForeignToken) -> dict[str, Any]:
    """Return the report of a validation of the token."""
    pins = [each for each in (PIN_VARIABLE, SO_PIN_VARIABLE) if each in token.pins]
    areas = [area for area in AREAS if area not in OMITTED_AREAS]
    ended = token.run(sys.executable, VALIDATE, token.module, token.label, *pins, *areas)
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def test_validate_finds_what_is_known_of_the_token(
    token: ForeignToken, report: dict[str, Any]
) -> None:
    findings = {each["probe"]: (each["status"], each["code"]) for each in report["findings"]}
    known = KNOWN[token.name]
    assert {name: findings[name] for name in known} == known


def test_validate_grades_the_token(token: ForeignToken, report: dict[str, Any]) -> None:
    verdict = report["verdict"]
    assert verdict["fitness"] == "fit with limits"
    assert verdict["complete"]
    assert {limit["name"] for limit in verdict["limits"]} == LIMITS[token.name]
    assert verdict["accept"] == list(token.accept)
    assert verdict["secure_element"]["fit"] is (token.name == "nss")


def test_validate_runs_every_probe_and_leaves_no_object(report: dict[str, Any]) -> None:
    probes = [name for name, probe in PROBES.items() if probe.area not in OMITTED_AREAS]
    assert [each["probe"] for each in report["findings"]] == probes
    assert not [each for each in report["findings"] if "itself failed" in each["does"]]
    assert report["left_behind"] == 0
    jsonschema.validate(report, json.loads(SCHEMA_PATH.read_text()))
