"""ekm.yaml: its example, the descriptions of its keys, its mistakes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from hsm.configuration.part import Part
from hsm.configuration.tls_files import TlsFiles
from hsm.ekm import config as config_module
from hsm.ekm.config import EkmConfig, dump_config, load_config
from hsm.ekm.protocol.errors import EkmError
from hsm.pkcs11.accepted_risks import TokenRisk
from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.pins import PinSource

EXAMPLE = Path(config_module.__file__).with_name("ekm.example.yaml")
TEXT = EXAMPLE.read_text()
SMALL = (
    "token: {module: m.so, label: t, pin: {file: pin}}\n"
    "tls: {certificate: c, key: k, ca: a}\n"
    "certificate: e\ndrive_ca: d\ndrive_table: s\naudit: l\n"
)


def load(folder: Path, text: str) -> EkmConfig:
    path = folder / "ekm.yaml"
    path.write_text(text)
    return load_config(path)


def refusal(folder: Path, text: str) -> list[str]:
    with pytest.raises(EkmError) as caught:
        load(folder, text)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def uncommented(text: str) -> str:
    return re.sub(r"^( *)# ((?:[a-z_]+): .*)$", r"\1\2", text, flags=re.MULTILINE)


def test_ekm_example_loads(tmp_path: Path) -> None:
    config = load_config(EXAMPLE)
    assert config.token.pin == PinSource(file=EXAMPLE.parent / "pins/taperig-ekm")
    assert config.admin_secret is None
    assert load(tmp_path, TEXT).audit == tmp_path / "ekm/audit.jsonl"


def test_ekm_example_shows_every_key_with_its_default(tmp_path: Path) -> None:
    text = uncommented(TEXT.split("\n", 3)[3])
    shown = yaml.safe_load(text)
    assert set(shown) == set(EkmConfig.model_fields)
    assert set(shown["token"]) == set(TokenConfig.model_fields)
    whole, small = load(tmp_path, text), load(tmp_path, TEXT)
    own = {"signing_key", "metrics_port", "admin_secret", "admin_socket", "token"}
    for name in EkmConfig.model_fields.keys() - own:
        assert getattr(whole, name) == getattr(small, name), name
    assert whole.admin_path == small.admin_path


@pytest.mark.parametrize("model", [EkmConfig, TokenConfig, TlsFiles, PinSource])
def test_ekm_fields_are_all_described(model: type[Part]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, name


def test_ekm_configuration_is_the_same_after_dump_and_load(tmp_path: Path) -> None:
    config = load(tmp_path, uncommented(TEXT.split("\n", 3)[3]))
    token = config.token.replace(
        accept=frozenset({TokenRisk.HANDS_OUT_KEYS}), pin=PinSource(env="X")
    )
    for each in (config, config.replace(token=token, partners=(tmp_path / "p",))):
        assert load(tmp_path / "..", dump_config(each)) == each


@pytest.mark.parametrize(
    ("before", "after", "sentences"),
    [
        (
            "drive_ca: d",
            "drive_ca: d\nport: 70000\nworkers: 0\nprot: 1",
            [
                "ekm.yaml:5: port is 70000; it must be a TCP port from 1 to 65535, or 0 for any "
                "free.",
                "ekm.yaml:6: workers is 0; it must be a number of worker processes from 1 to 64.",
                "ekm.yaml:7: 'prot' is not a key of the key manager's configuration; did you mean "
                "'port'?",
            ],
        ),
        (
            "certificate: e\n",
            "",
            [
                "ekm.yaml:1: the file lacks 'certificate'; it must be the path of its signing "
                "certificate (PEM); the key is in the token."
            ],
        ),
        (
            "pin: {file: pin}",
            "pin: 987654",
            [
                "ekm.yaml:1: token.pin: a PIN is never written into the key manager's "
                "configuration; write '{env: NAME}' or '{file: PATH}', the place of the PIN."
            ],
        ),
        (
            "label: t",
            "label: t, accept: [hands-out-keys, all]",
            [
                "ekm.yaml:1: token.accept[1] is 'all'; it must be a list of untrusted-wrapping, "
                "hands-out-keys, signing-key-in-file: what the token may do without."
            ],
        ),
        (
            "audit: l",
            "audit: l\naudit_bytes: 4k",
            [
                "ekm.yaml:7: audit_bytes is '4k'; it must be a number of bytes from 4096; a longer "
                "file of the audit log is closed."
            ],
        ),
    ],
)
def test_ekm_mistakes_are_reported_with_their_lines(
    tmp_path: Path, before: str, after: str, sentences: list[str]
) -> None:
    assert before in SMALL
    assert refusal(tmp_path, SMALL.replace(before, after)) == sentences


@pytest.mark.parametrize("written", ["pin_file: pin", "pin: {file: pin}"])
def test_ekm_token_reads_its_pin_from_a_file(tmp_path: Path, written: str) -> None:
    text = SMALL.replace("pin: {file: pin}", written)
    assert load(tmp_path, text).token.pin == PinSource(file=tmp_path / "pin")


@pytest.mark.parametrize(
    "written",
    ["pin_env: A, pin_file: b", "pin: {env: A, file: b}", "pin: {}", "pin_file: 7", "pin_env: ''"],
)
def test_ekm_token_has_exactly_one_source_of_its_pin(tmp_path: Path, written: str) -> None:
    (text,) = refusal(tmp_path, SMALL.replace("pin: {file: pin}", written))
    assert text.startswith("ekm.yaml:1: token.pin: a PIN is never written into")


def test_ekm_file_that_is_unreadable_is_reported(tmp_path: Path) -> None:
    with pytest.raises(EkmError, match=r"absent\.yaml cannot be read \(No such file.*--config"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(EkmError, match=r"zero cannot be read \(it has more than 262144 bytes\)"):
        load_config(tmp_path / "zero")
    with pytest.raises(EkmError, match="cannot be read"):
        load_config(tmp_path)
    (text,) = refusal(tmp_path, SMALL.replace("audit: l", 'audit: "l\\0"'))
    assert "audit is 'l\\x00'; it must be the path" in text
    (text,) = refusal(tmp_path, SMALL.replace("audit: l", "audit: ~nobody-of-that-name/l"))
    assert "audit is '~nobody-of-that-name/l'; it must be the path" in text
    many = SMALL + "".join(f"key{n}: 1\n" for n in range(200))
    sentences = refusal(tmp_path, many)
    assert len(sentences) == 101
    assert sentences[-1] == "ekm.yaml: and 100 more."
