"""Key managers of one node on two tokens of different makers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hsm.keys.keystore import Keystore
from hsm.keys.pki import CertificateAuthority
from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.token import open_token
from rig.lab.load import load_lab
from rig.lab.model import LabError
from rig.testbed.key_managers import ekm_config, provision, require_keks
from tests.support.foreign_tokens import PIN_VARIABLE, nss, opencryptoki
from tests.support.rig_command import DEFAULT_LAB, PROJECT

SOFT = "module: softhsm, label: taperig-second"
WORKER = [sys.executable, "-m", "tests.support.two_tokens_worker"]


def lab_text(second: str, first: str | None = None) -> str:
    """Return the default lab with a second key manager on its own token.

    That token has the DR key.
    """
    text = DEFAULT_LAB.replace("port: 3801", "port: 0")
    for before, after in (
        ("ekms:\n", f"  other: {{{second}}}\n\nekms:\n"),
        ("    token: ekm\n", "    token: ekm\n  - {name: backup, port: 0, token: other}\n"),
        (
            "  - label: June 2007 DR Site Key\n",
            "  - {label: June 2007 DR Site Key, token: other}\n",
        ),
    ):
        text = text.replace(before, after, 1)
    if first is not None:
        begin, end = text.index("  ekm:\n"), text.index("  other:")
        text = f"{text[:begin]}  ekm: {{{first}}}\n{text[end:]}"
    return text


def written(folder: Path, text: str) -> Path:
    path = folder / "lab.yaml"
    path.write_text(text)
    return path


def assert_same_keys(output: str) -> None:
    answer: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    assert answer["others"] == ["other"]
    blobs = answer["blobs"]
    assert sorted(blobs) == ["VOL000", "VOL001"]
    for wrote, read in blobs.values():
        assert wrote == read, "the same data key"
    assert blobs["VOL000"] != blobs["VOL001"]


@pytest.mark.rule("EKM-4", "KEY-4")
def test_two_softhsm_tokens_read_each_others_cartridges(tmp_path: Path) -> None:
    done = subprocess.run(
        [*WORKER, written(tmp_path, lab_text(SOFT)), tmp_path / "state"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_same_keys(done.stdout)


@pytest.mark.rule("EKM-4", "KEY-4")
def test_two_tokens_of_opencryptoki_and_nss_read_each_others_cartridges(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("ock", "nss")]
    for folder in folders:
        folder.mkdir()
    first, second = opencryptoki(folders[0]), nss(folders[1])
    pin = f"pin: {{env: {PIN_VARIABLE}}}"
    tokens = [
        f"module: {token.module}, label: {token.label}, {pin}, accept: [{', '.join(token.accept)}]"
        for token in (first, second)
    ]
    lab = written(tmp_path, lab_text(tokens[1], tokens[0]))
    inner = ["bash", "-c", second.script, "bash", str(second.folder)]
    done = first.run(*inner, *WORKER, lab, tmp_path / "state", PYTHONPATH=f"{PROJECT}", timeout=200)
    assert done.returncode == 0, done.stderr
    assert_same_keys(done.stdout)
    assert not (tmp_path / "state" / "pins" / "taperig-ekm").exists(), "no SoftHSM token for KEKs"


def labels_in(config: TokenConfig) -> dict[str, bool]:
    """Return the KEKs of a token, and whether it has their private halves."""
    with open_token(config) as token:
        return {kek.label: kek.has_private for kek in Keystore(token).list()}


def test_two_tokens_are_provisioned_by_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    class Counted(subprocess.Popen[str]):
        def __init__(self, arguments: Any, **options: Any) -> None:
            started.append(arguments)
            super().__init__(arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", Counted)
    made = provision(load_lab(written(tmp_path, lab_text(SOFT))), tmp_path / "state", [])
    assert len(started) == 1
    main, other = "June 2007 Key", "June 2007 DR Site Key"
    assert labels_in(made.tokens["ekm"].config) == {main: True, other: False}
    assert labels_in(made.tokens["other"].config) == {main: False, other: True}
    assert made.tokens["ekm"].certificate != made.tokens["other"].certificate


@pytest.mark.parametrize("steps", [2, 4, 5])
def test_two_tokens_interrupted_at_any_step_are_whole_when_repeated(
    tmp_path: Path, steps: int
) -> None:
    lab = load_lab(written(tmp_path, lab_text(SOFT)))
    reported: list[str] = []

    def interrupt(step: str) -> None:
        reported.append(step)
        if len(reported) == steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        provision(lab, tmp_path / "state", [], interrupt)
    made = provision(lab, tmp_path / "state", [])
    for token in made.tokens.values():
        assert len(labels_in(token.config)) == 2


@pytest.mark.rule("KEY-9")
def test_key_that_is_not_to_be_made_is_looked_for_in_the_tokens(tmp_path: Path) -> None:
    state = tmp_path / "state"
    text = lab_text(SOFT).replace("- label: June 2007 Key", "- {label: June 2007 Key, make: false}")
    lab = load_lab(written(tmp_path, text))
    made = provision(lab, state, [])
    assert made.absent == ("June 2007 Key",)
    assert labels_in(made.ekm_token) == {"June 2007 DR Site Key": False}
    with pytest.raises(LabError, match=r"The key 'June 2007 Key' of node main's pools is in no"):
        require_keks(lab, "main", made)
    with open_token(made.tokens["other"].config) as token:
        authority = CertificateAuthority(state / "pki")
        Keystore(token).create_kek("june 2007 KEY", 2048, authority=authority)
    made = provision(lab, state, [])
    assert made.absent == ()
    require_keks(lab, "main", made)
    assert labels_in(made.ekm_token) == {"June 2007 DR Site Key": False, "june 2007 KEY": False}


def test_key_manager_that_is_not_started_here_is_not_served_here(tmp_path: Path) -> None:
    text = lab_text(SOFT).replace("backup, port: 0", "backup, start: false, host: 192.0.2.7")
    lab = load_lab(written(tmp_path, text.replace("Site Key, token: other", "Site Key")))
    made = provision(lab, tmp_path / "state", [])
    assert list(made.tokens) == ["ekm"]
    with pytest.raises(LabError, match=r"'backup' has start: false, so its token 'other' is not"):
        ekm_config(lab.ekms[1], made)


def test_first_token_has_the_label_that_the_lab_gives_it(tmp_path: Path) -> None:
    text = DEFAULT_LAB.replace("label: taperig-ekm", "label: of my own").replace("3801", "0")
    made = provision(load_lab(written(tmp_path, text)), tmp_path / "state", [])
    assert made.ekm_token.label == "of my own"
    assert len(labels_in(made.ekm_token)) == 2


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(LabError) as caught:
        load_lab(written(folder, text))
    return str(caught.value)


def test_pool_that_one_of_two_tokens_cannot_serve_is_refused(tmp_path: Path) -> None:
    text = lab_text(SOFT).replace("Site Key, token: other}", "Site Key}")
    assert (
        "pool 2 has no key in token 'other', so key manager 'backup' could neither write nor read "
        "its tapes; give the pool a second key, of keks with token: other."
        in refusal(tmp_path, text)
    )
    load_lab(written(tmp_path, text.replace("port: 0, token: other", "port: 0, token: ekm")))
    absent = lab_text(SOFT).replace("Key, token: other", "Key, token: othr")
    assert "there is no token 'othr'; did you mean 'other'?" in refusal(tmp_path, absent)
    same = lab_text(SOFT.replace("taperig-second", "taperig-ekm"))
    assert "two tokens of key managers have the same label" in refusal(tmp_path, same)
