"""Modules that crash, hang or are no modules: a finding, or one sentence."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hsm.errors import (
    ModuleAbsentError,
    TokenAbsentError,
    TokenError,
    TokenRefusedError,
    WrongPinError,
)
from hsm.pkcs11.token import open_token
from hsm.provisioning import ProvisionedLab
from hsm.validate import run
from hsm.validate.findings import Status
from hsm.validate.probes import PROBES
from hsm.validate.report import Validation
from hsm.validate.run import ModuleCrashedError, validate
from hsm.validate.session import Pins
from hsm.validate.verdict import Fitness
from tests.support import broken_module
from tests.support.broken_module import CALL_REPLACED

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


def _validate(
    lab: ProvisionedLab,
    module: Path,
    *probes: str,
    progress: run.OnFinding = lambda finding: None,
) -> Validation:
    config = lab.ekm_token
    return validate(
        module,
        config.label,
        Pins(config.pin.read(), None),
        softhsm_conf=config.softhsm_conf,
        probes=probes,
        progress=progress,
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


_ALONE = next(name for name, probe in PROBES.items() if probe.alone)


@pytest.mark.parametrize(
    ("function", "hangs_at", "statuses"),
    [
        # The first worker opens and closes the token without a probe.
        ("C_Login", 3, [Status.GOOD, Status.HUNG, Status.NOT_DETERMINED]),
        ("C_Logout", 2, [Status.GOOD, Status.HUNG, Status.NOT_DETERMINED]),
        ("C_Logout", 2, [Status.HUNG]),
    ],
)
def test_validate_keeps_its_findings_when_the_module_hangs_between_probes(
    lab_state: ProvisionedLab,
    build_module: BuildModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    hangs_at: int,
    statuses: list[Status],
) -> None:
    monkeypatch.setattr(run, "START_SECONDS", 5.0)
    count = f'FILE *calls = fopen("{tmp_path / "calls"}", "a"); fputc(1, calls); fflush(calls)'
    module = build_module(
        f"{count}; if (ftell(calls) >= {hangs_at}) sleep(60); fclose(calls); {CALL_REPLACED}",
        function,
    )
    names = ("data_keys.aes_256", _ALONE, "data_keys.value_hidden")[: len(statuses)]
    validation = _validate(lab_state, module, *names)
    assert [finding.status for finding in validation.findings] == statuses
    assert any("did not answer in 5 s" in each.answer.does for each in validation.findings)
    assert not validation.verdict.complete
    assert validation.verdict.fitness is not Fitness.FIT


@pytest.mark.parametrize("code", [0x6, 0x30])
def test_validate_takes_no_failure_for_a_refusal(
    lab_state: ProvisionedLab, build_module: BuildModule, tmp_path: Path, code: int
) -> None:
    flag = tmp_path / "flag"
    module = build_module(
        f'if (!access("{flag}", 0)) return {code}; {CALL_REPLACED}', "C_GetAttributeValue"
    )
    names = ("data_keys.aes_256", _ALONE, "attributes.sensitive")
    *_, finding = _validate(
        lab_state, module, *names, progress=lambda finding: flag.touch()
    ).findings
    assert finding.status is Status.NOT_DETERMINED
    assert finding.answer.code == ""
    assert "C_GetAttributeValue: CKR_" in finding.answer.does


@pytest.mark.parametrize("code", [0x6, 0x30])
def test_token_with_a_failing_wrap_is_not_taken_for_one_that_refuses(
    lab_state: ProvisionedLab, build_module: BuildModule, code: int
) -> None:
    """The first three calls look for the OAEP hash."""
    module = build_module(f"static int n; if (++n > 3) return {code}; {CALL_REPLACED}", "C_WrapKey")
    config = lab_state.ekm_token.replace(module=module)
    with pytest.raises(TokenRefusedError, match="to show what it can do"):
        open_token(config)


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
