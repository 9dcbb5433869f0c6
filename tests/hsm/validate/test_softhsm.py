"""Validation of SoftHSM against known findings; other objects stay as is."""

from __future__ import annotations

import json

import jsonschema
import pytest
from pkcs11 import Attribute
from pkcs11 import exceptions as refusals

from hsm.pkcs11.token import open_token
from hsm.provisioning import ProvisionedLab
from hsm.validate.findings import Status
from hsm.validate.report import SCHEMA_PATH, Validation
from hsm.validate.run import validate
from hsm.validate.session import Pins
from hsm.validate.verdict import Fitness
from tests.hsm.validate.conftest import QUICK, Validate

KNOWN = {  # SoftHSM 2.6
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
def test_validate_finds_what_is_known_of_softhsm(softhsm: Validation, probe: str) -> None:
    (finding,) = (each for each in softhsm.findings if each.probe == probe)
    assert (finding.status, finding.answer.code) == KNOWN[probe]


def test_validate_gets_an_answer_from_every_probe(softhsm: Validation) -> None:
    assert [finding.probe for finding in softhsm.findings] == list(QUICK)
    failed = [finding for finding in softhsm.findings if "itself failed" in finding.answer.does]
    assert not failed


def test_validate_grades_softhsm_as_fit_with_limits(softhsm: Validation) -> None:
    verdict = softhsm.verdict
    limits = {limit.name for limit in verdict.limits}
    assert verdict.fitness is Fitness.LIMITED
    assert {"SHA-1", "length not reported"} <= limits
    assert not limits & {"untrusted wrapping", "wraps non-extractable keys", "crashes"}
    assert not limits & {"weaker unwrap templates", "KEKs decrypt", "PKCS#1 v1.5"}, (
        "KEKs are restricted"
    )
    assert not verdict.secure_element


def test_validate_survives_threads_without_locking(softhsm: Validation) -> None:
    """Threads corrupt the heap of SoftHSM; how it fails is random."""
    (threads,) = (each for each in softhsm.findings if each.probe == "life.threads")
    assert threads.status in (Status.CRASHED, Status.LACKS, Status.HUNG)
    assert "not thread-safe" in {limit.name for limit in softhsm.verdict.limits}


def test_report_json_conforms_to_its_schema(softhsm: Validation) -> None:
    jsonschema.validate(json.loads(softhsm.to_json()), json.loads(SCHEMA_PATH.read_text()))


def _objects(lab: ProvisionedLab) -> list[dict[str, str]]:
    """Return all readable attributes of all objects on the token."""
    with open_token(lab.ekm_token) as token:
        objects = []
        for found in token.session.get_objects():
            attributes = {}
            for name in (Attribute.CLASS, Attribute.LABEL, Attribute.ID, *Attribute):
                try:
                    attributes[name.name] = repr(found[name])
                except (refusals.PKCS11Error, NotImplementedError, ValueError):
                    continue
            objects.append(attributes)
    return sorted(objects, key=repr)


def test_validate_leaves_other_objects_unchanged(
    lab_state: ProvisionedLab, validate_softhsm: Validate
) -> None:
    before = _objects(lab_state)
    validation = validate_softhsm(*(name for name in QUICK if not name.startswith("life.threads")))
    assert validation.left_behind == 0
    assert len(before) > 4
    assert _objects(lab_state) == before


def test_validate_runs_the_removal_probe(lab_state: ProvisionedLab) -> None:
    """The commands move the token's folder away and back."""
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


def test_validate_reports_a_removal_command_that_fails(lab_state: ProvisionedLab) -> None:
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
