"""Modules that crash, hang or are no modules: a finding, or one sentence."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hsm.errors import ModuleAbsentError, TokenAbsentError, TokenError, WrongPinError
from hsm.provisioning import ProvisionedLab
from hsm.validate.findings import Status
from hsm.validate.probes import PROBES
from hsm.validate.report import Validation
from hsm.validate.run import ModuleCrashedError, validate
from hsm.validate.session import Pins
from hsm.validate.verdict import Fitness
from tests.support import broken_module

PINS = Pins("1234", None)

GENERATE_RANDOM, INITIALIZE = "C_GenerateRandom", "C_Initialize"

BuildModule = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def build_module(
    tmp_path_factory: pytest.TempPathFactory, lab_state: ProvisionedLab
) -> BuildModule:
    """Build SoftHSM with one function, by its name, replaced by C code."""
    folder = tmp_path_factory.mktemp("modules")

    def build(code: str, function: str) -> Path:
        path = folder / f"module-{len(list(folder.iterdir()))}.so"
        return broken_module.build_module(path, lab_state.ekm_token.module, function, code)

    return build


def _validate(lab: ProvisionedLab, module: Path, *probes: str) -> Validation:
    config = lab.ekm_token
    return validate(
        module,
        config.label,
        Pins(config.pin.read(), None),
        softhsm_conf=config.softhsm_conf,
        probes=probes,
    )


def test_validate_reports_a_crash_and_runs_the_other_probes(
    lab_state: ProvisionedLab, build_module: BuildModule
) -> None:
    module = build_module("abort()", GENERATE_RANDOM)
    names = ("data_keys.aes_256", "data_keys.random", "data_keys.value_hidden")
    validation = _validate(lab_state, module, *names)
    statuses = [finding.status for finding in validation.findings]
    assert statuses == [Status.GOOD, Status.CRASHED, Status.GOOD]
    assert "SIGABRT" in validation.findings[1].answer.does
    assert validation.verdict.fitness is Fitness.LIMITED


def test_validate_reports_an_exit_as_a_crash(
    lab_state: ProvisionedLab, build_module: BuildModule
) -> None:
    module = build_module("_exit(0)", GENERATE_RANDOM)
    (finding,) = _validate(lab_state, module, "data_keys.random").findings
    assert finding.status is Status.CRASHED
    assert "exit status 0" in finding.answer.does


def test_validate_reports_a_probe_that_hangs(
    lab_state: ProvisionedLab, build_module: BuildModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = replace(PROBES["data_keys.random"], seconds=1.0)
    monkeypatch.setitem(PROBES, "data_keys.random", probe)
    module = build_module("sleep(60)", GENERATE_RANDOM)
    names = ("data_keys.random", "data_keys.value_hidden")
    first, second = _validate(lab_state, module, *names).findings
    assert (first.status, first.answer.does) == (Status.HUNG, "no answer in 1 s")
    assert second.status is Status.GOOD


def test_validate_reports_a_return_code_of_the_vendor(
    lab_state: ProvisionedLab, build_module: BuildModule
) -> None:
    module = build_module("return 0x80000123", GENERATE_RANDOM)
    (finding,) = _validate(lab_state, module, "data_keys.random").findings
    assert finding.answer.code == "C_GenerateRandom: CKR_0x80000123"


def test_validate_refuses_a_module_that_crashes_when_opened(
    lab_state: ProvisionedLab, build_module: BuildModule
) -> None:
    with pytest.raises(ModuleCrashedError, match="SIGABRT"):
        _validate(lab_state, build_module("abort()", INITIALIZE), "declared.token")


def test_validate_refuses_an_absent_module(tmp_path: Path) -> None:
    with pytest.raises(ModuleAbsentError, match="no PKCS#11 module at"):
        validate(tmp_path / "nothing.so", "any", PINS)


def test_validate_refuses_a_file_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("not a library")
    with pytest.raises(TokenError, match="cannot be loaded"):
        validate(tmp_path / "text.so", "any", PINS)


def test_validate_refuses_a_library_that_is_no_module(tmp_path: Path) -> None:
    subprocess.run(
        ["gcc", "-shared", "-x", "c", "-", "-o", tmp_path / "other.so"],
        input=b"int other;",
        check=True,
    )
    with pytest.raises(TokenError, match="no C_GetFunctionList"):
        validate(tmp_path / "other.so", "any", PINS)


def test_validate_names_an_absent_token(lab_state: ProvisionedLab) -> None:
    config = lab_state.ekm_token
    with pytest.raises(TokenError, match=f"no token other .*present: .*{config.label}"):
        validate(config.module, "other", PINS, softhsm_conf=config.softhsm_conf)
    assert issubclass(TokenAbsentError, TokenError)


def test_validate_refuses_a_wrong_pin(lab_state: ProvisionedLab) -> None:
    config = lab_state.ekm_token
    with pytest.raises(WrongPinError, match="CKR_PIN_INCORRECT"):
        validate(config.module, config.label, PINS, softhsm_conf=config.softhsm_conf)
