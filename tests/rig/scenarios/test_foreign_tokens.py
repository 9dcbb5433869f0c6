"""`rig run` with the KEKs in tokens other than SoftHSM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.foreign_tokens import MAKERS, PIN_VARIABLE, ForeignToken
from tests.support.rig_command import DEFAULT_LAB, RIG


@pytest.fixture(scope="module", params=MAKERS)
def token(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ForeignToken:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


def _lab(folder: Path, token: ForeignToken, accept: tuple[str, ...]) -> Path:
    """Write the default lab with its KEKs in the token."""
    begin, end = DEFAULT_LAB.index("tokens:"), DEFAULT_LAB.index("ekms:")
    tokens = (
        f"tokens:\n  ekm:\n    module: {token.module}\n    label: {token.label}\n"
        f"    pin: {{env: {PIN_VARIABLE}}}\n    accept: [{', '.join(accept)}]\n\n"
    )
    path = folder / "lab.yaml"
    lab = DEFAULT_LAB[:begin] + tokens + DEFAULT_LAB[end:]
    path.write_text(lab.replace("port: 3801", "port: 0"))
    return path


@pytest.mark.parametrize("left_out", [0, 1])
def test_hsm_init_refuses_a_risk_that_is_not_accepted(
    token: ForeignToken, tmp_path: Path, left_out: int
) -> None:
    accept = tuple(word for word in token.accept if word != token.accept[left_out])
    ended = token.run(
        RIG,
        "hsm",
        "init",
        "--lab",
        _lab(tmp_path, token, accept),
        TAPERIG_STATE=str(tmp_path / "s"),
    )
    assert ended.returncode == 2
    assert f"accept: [{token.accept[left_out]}]" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.rule("KEY-1", "KEY-2", "KEY-3", "KEY-12")
def test_run_passes_with_the_keks_in_the_token(token: ForeignToken, tmp_path: Path) -> None:
    lab, state = _lab(tmp_path, token, token.accept), str(tmp_path / "state")
    data = tmp_path / "volumes"
    data.mkdir()
    for number in range(3):
        (data / f"volume {number}").write_bytes(bytes(range(256)) * 100 * (number + 1))
    ended = token.run(
        RIG,
        "run",
        "--lab",
        lab,
        "--data",
        data,
        "--scenario",
        "round_trip",
        "--out",
        tmp_path / "out",
        TAPERIG_STATE=state,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results: dict[str, Any] = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["verdict"] == "pass"
    listed = token.run(RIG, "hsm", "list", "--json", "--lab", lab, TAPERIG_STATE=state)
    keks = json.loads(listed.stdout)
    assert keks["token"] == token.label
    assert keks["oaep_hash"] == "SHA-256"
    assert all(kek["private"] for kek in keks["keks"])
    assert len(keks["keks"]) == 2
    assert not (tmp_path / "state" / "pins" / "taperig-ekm").exists(), "no SoftHSM token for KEKs"
    signing = (tmp_path / "state" / "pki" / "ekm-signing.key").exists()
    assert signing is ("signing-key-in-file" in token.accept)
