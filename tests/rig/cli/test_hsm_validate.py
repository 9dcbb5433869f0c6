"""``rig hsm validate``: console, JSON, page, exit codes, PIN sources."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hsm.pkcs11.softhsm import EKM_TOKEN_LABEL
from tests.support.provisioned import softhsm_token
from tests.support.rig_command import Ended, rig


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with the key manager's token, and nothing on it."""
    path = tmp_path_factory.mktemp("validated") / "state"
    softhsm_token(path)
    return path


def _validate(state: Path, *options: str | Path, module: str = "softhsm") -> Ended:
    return rig(
        "hsm",
        "validate",
        "--module",
        module,
        "--token",
        EKM_TOKEN_LABEL,
        "--area",
        "declared",
        "--area",
        "oaep",
        *options,
        TAPERIG_STATE=str(state),
    )


def test_hsm_validate_writes_console_json_and_page(state: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    ended = _validate(state, "--json", "--html", page)
    assert ended.code == 0, ended.err
    printed = json.loads(ended.out)
    assert printed["verdict"]["fitness"] == "fit with limits"
    assert not printed["verdict"]["complete"]
    assert "Wrap, SHA-256: refused  [C_WrapKey: CKR_ARGUMENTS_BAD]" in ended.err
    assert ended.err.strip().endswith(
        f"{EKM_TOKEN_LABEL}: as far as was tried, fit with limits: SHA-1"
    )
    html = page.read_text()
    for finding in printed["findings"]:
        assert f'id="{finding["probe"]}"' in html
    assert "CKR_ARGUMENTS_BAD" in html
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!#)|@import|url\(", html), "not self-contained"


def test_hsm_validate_takes_a_library_path_and_a_pin_variable(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hsm.pkcs11.softhsm import find_module, token_config

    monkeypatch.setenv("SOFTHSM2_CONF", str(state / "softhsm2.conf"))
    monkeypatch.setenv("VALIDATE_PIN", token_config(state, EKM_TOKEN_LABEL).pin.read())
    ended = _validate(state, "--pin-env", "VALIDATE_PIN", module=str(find_module()))
    assert ended.code == 0, ended.err
    assert ended.out.strip().endswith("fit with limits: SHA-1")


def test_hsm_validate_needs_a_pin_without_a_terminal(state: Path) -> None:
    sentence = _validate(state, module="/usr/lib/softhsm/libsofthsm2.so").sentence()
    assert "--pin-env" in sentence


def test_hsm_validate_refuses_two_places_for_a_pin(state: Path) -> None:
    sentence = _validate(state, "--pin-env", "A", "--pin-file", "b").sentence()
    assert "not both" in sentence


def test_hsm_validate_refuses_an_unknown_area(state: Path) -> None:
    assert "no area 'colours'" in _validate(state, "--area", "colours").sentence()


def test_hsm_validate_names_a_page_that_cannot_be_written(state: Path, tmp_path: Path) -> None:
    ended = _validate(state, "--html", tmp_path / "no" / "report.html")
    assert ended.code == 2
    assert "cannot be written" in ended.err


def test_hsm_validate_names_a_token_that_the_rig_did_not_make(tmp_path: Path) -> None:
    for label, sentence in (("nosuch", "made no token 'nosuch'"), ("../x", "without '/'")):
        ended = rig(
            *("hsm", "validate", "--module", "softhsm", "--token", label),
            TAPERIG_STATE=str(tmp_path),
        )
        assert sentence in ended.sentence()
