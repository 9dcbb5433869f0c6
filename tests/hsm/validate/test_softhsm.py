"""SoftHSM validated: what is known of it is found, and nothing is left behind or touched."""

from __future__ import annotations

import json

import jsonschema
import pytest
from pkcs11 import Attribute
from pkcs11 import exceptions as refusals

from hsm.pkcs11.token import open_token
from hsm.provisioning import ProvisionedLab
from hsm.validate.findings import Status
from hsm.validate.report import SCHEMA, Validation
from hsm.validate.run import validate
from hsm.validate.session import Pins
from hsm.validate.verdict import Fitness
from tests.hsm.validate.conftest import QUICK, Validate

KNOWN = {  # SoftHSM 2.6, as section 9 of the design has it
    "oaep.sha1_wrap": (Status.GOOD, "C_WrapKey: CKR_OK"),
    "oaep.sha1_unwrap": (Status.GOOD, "C_UnwrapKey: CKR_OK"),
    "oaep.sha1_label_wrap": (Status.NOTE, "C_WrapKey: CKR_ARGUMENTS_BAD"),
    "oaep.sha256_wrap": (Status.LACKS, "C_WrapKey: CKR_ARGUMENTS_BAD"),
    "oaep.sha256_unwrap": (Status.LACKS, "C_UnwrapKey: CKR_ARGUMENTS_BAD"),
    "key_wrap.key_wrap_wrap": (Status.GOOD, "C_WrapKey: CKR_OK"),
    "key_wrap.cbc_pad_wrap": (Status.NOTE, "C_WrapKey: CKR_MECHANISM_INVALID"),
    "data_keys.as_rig": (Status.GOOD, "C_GenerateKey: CKR_OK"),
    "data_keys.value_hidden": (Status.GOOD, "C_GetAttributeValue: CKR_ATTRIBUTE_SENSITIVE"),
    "attributes.wrap_with_trusted": (Status.GOOD, "C_WrapKey: CKR_KEY_NOT_WRAPPABLE"),
    "attributes.trusted_by_officer": (Status.GOOD, "C_WrapKey: CKR_OK"),
    "attributes.unwrap_honours": (Status.GOOD, "C_UnwrapKey: CKR_OK"),
    "attacks.own_public_key": (Status.GOOD, "C_WrapKey: CKR_KEY_NOT_WRAPPABLE"),
    "attacks.trusted_create": (Status.GOOD, "C_CreateObject: CKR_ATTRIBUTE_READ_ONLY"),
    "attacks.pkcs1_oracle": (Status.GOOD, "C_UnwrapKey: CKR_MECHANISM_INVALID"),
    "attacks.raw_rsa": (Status.GOOD, "C_UnwrapKey: CKR_MECHANISM_INVALID"),
    "attacks.weaker_template": (Status.GOOD, "C_UnwrapKey: CKR_TEMPLATE_INCONSISTENT"),
    "attacks.drop_trusted": (Status.GOOD, "C_UnwrapKey: CKR_TEMPLATE_INCONSISTENT"),
    "attacks.decrypt": (Status.GOOD, "C_DecryptInit: CKR_KEY_FUNCTION_NOT_PERMITTED"),
    "attacks.let_decrypt": (Status.GOOD, "C_SetAttributeValue: CKR_ACTION_PROHIBITED"),
    "faults.tells_length": (Status.LACKS, "C_GetAttributeValue: CKR_OK"),
    "faults.length_31": (Status.LACKS, "C_UnwrapKey: CKR_OK"),
    "faults.damaged": (Status.GOOD, "C_UnwrapKey: CKR_GENERAL_ERROR"),
    "life.second_login": (Status.NOTE, "C_Login: CKR_USER_ALREADY_LOGGED_IN"),
    "life.restart": (Status.GOOD, "C_GetAttributeValue: CKR_CRYPTOKI_NOT_INITIALIZED"),
    "life.threads_locking": (Status.GOOD, "C_UnwrapKey: CKR_OK"),
}


@pytest.mark.parametrize("probe", KNOWN)
def test_known_of_softhsm(softhsm: Validation, probe: str) -> None:
    (finding,) = (found for found in softhsm.findings if found.probe == probe)
    assert (finding.status, finding.answer.code) == KNOWN[probe]


def test_every_probe_came_to_an_answer(softhsm: Validation) -> None:
    assert [finding.probe for finding in softhsm.findings] == list(QUICK)
    failed = [finding for finding in softhsm.findings if "itself failed" in finding.answer.does]
    assert not failed


def test_verdict_on_softhsm(softhsm: Validation) -> None:
    verdict = softhsm.verdict
    limits = {limit.name for limit in verdict.limits}
    assert verdict.fitness is Fitness.LIMITED
    assert {"SHA-1", "length untold"} <= limits
    assert not limits & {"untrusted wrapping", "hands out keys not extractable", "crashes"}
    assert not limits & {"unwraps weakly", "KEKs decrypt", "PKCS#1 v1.5"}, "KEKs are guarded"
    assert not verdict.secure_element


def test_threads_without_locks_are_survived(softhsm: Validation) -> None:
    """SoftHSM's heap does not outlive them; which way it dies is chance."""
    (threads,) = (found for found in softhsm.findings if found.probe == "life.threads")
    assert threads.status in (Status.CRASHED, Status.LACKS, Status.HUNG)
    assert "no threads" in {limit.name for limit in softhsm.verdict.limits}


def test_json_is_as_its_schema_says(softhsm: Validation) -> None:
    jsonschema.validate(json.loads(softhsm.to_json()), json.loads(SCHEMA.read_text()))


def _objects(lab: ProvisionedLab) -> list[dict[str, str]]:
    """All objects of the token with all that they tell."""
    with open_token(lab.ekm_token) as token:
        told = []
        for found in token.session.get_objects():
            attributes = {}
            for name in (Attribute.CLASS, Attribute.LABEL, Attribute.ID, *Attribute):
                try:
                    attributes[name.name] = repr(found[name])
                except (refusals.PKCS11Error, NotImplementedError, ValueError):
                    continue
            told.append(attributes)
    return sorted(told, key=repr)


def test_objects_of_others_stay_as_they_are(
    lab_state: ProvisionedLab, validate_softhsm: Validate
) -> None:
    before = _objects(lab_state)
    validation = validate_softhsm(*(name for name in QUICK if not name.startswith("life.threads")))
    assert validation.left_behind == 0
    assert len(before) > 4
    assert _objects(lab_state) == before


def test_the_token_taken_away(lab_state: ProvisionedLab) -> None:
    """Its folder moved away under the module, and back."""
    config = lab_state.ekm_token
    tokens = lab_state.state_dir / "tokens"
    away = tokens.with_name("tokens.away")
    removal = (f"mv {tokens} {away}", f"mv {away} {tokens}")
    validation = validate(
        config.module,
        config.label,
        Pins(config.pin.read(), None),
        softhsm_conf=config.softhsm_conf,
        removal=removal,
        probes=("life.removal",),
    )
    (finding,) = validation.findings
    assert finding.status is Status.GOOD, finding
    assert "when it is back" in finding.answer.does
    assert validation.left_behind == 0


def test_a_removal_that_fails_is_not_tried(lab_state: ProvisionedLab) -> None:
    config = lab_state.ekm_token
    validation = validate(
        config.module,
        config.label,
        Pins(config.pin.read(), None),
        softhsm_conf=config.softhsm_conf,
        removal=("exit 3", "true"),
        probes=("life.removal",),
    )
    (finding,) = validation.findings
    assert finding.status is Status.NOT_TRIED
    assert "'exit 3' ended with 3" in finding.answer.does
