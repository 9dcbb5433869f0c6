"""Administration of a key manager: secret, commands, records."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hsm.admin_secret import AdminSecretError, ensure_admin_secret, secret_matches, write_hash
from hsm.ekm.admin import channel
from hsm.ekm.admin.administrator import Administrator, read_admin_secret
from hsm.ekm.admin.channel import administer
from hsm.ekm.admin.commands import Administration
from hsm.ekm.audit import hash_chain
from hsm.ekm.audit import log as audit_log
from hsm.ekm.audit.log import AuditLog
from hsm.ekm.client import EkmEndpoint
from hsm.ekm.config import EkmConfig, lab_config
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.protocol.drive_side import DriveSession, Generate, Translate
from hsm.ekm.protocol.errors import EkmError, ErrorCode, ExchangeError
from hsm.ekm.service.launch import EkmProcess, spawn_ekm
from hsm.errors import ProvisioningError, TaperigError
from hsm.keys.eedk import KeyLabel, KeyMode
from hsm.keys.keystore import Keystore
from hsm.keys.pki import Role, load_certificate
from hsm.pkcs11.token import open_token
from hsm.provisioning import ProvisionedLab
from tests.support.ekm_client import ExchangeClient
from tests.support.ekm_lab import CARTRIDGE_ID, MAIN_KEY, SoftDrive, authority, der
from tests.support.exchange_fixture import Outsiders

SERIAL = "ADMIN00001"


@pytest.fixture(scope="module")
def drive(lab: ProvisionedLab) -> SoftDrive:
    made = SoftDrive.issued_by(authority(lab), SERIAL)
    with open_token(lab.ekm_token) as token:
        Keystore(token).enroll_drive_key(made.serial, made.wrap_spki)
    return made


@pytest.fixture
def config(lab: ProvisionedLab, tmp_path: Path) -> EkmConfig:
    """Return a configuration whose socket path is over the kernel's limit."""
    folder = tmp_path / ("a" * 80)
    folder.mkdir()
    return lab_config(lab, port=0).replace(
        drive_table=folder / "drives.sqlite",
        audit=folder / "audit.jsonl",
    )


@pytest.fixture
def secret(lab: ProvisionedLab) -> str:
    return read_admin_secret(lab.admin_secret)


@pytest.fixture
def ekm(config: EkmConfig) -> Iterator[EkmProcess]:
    with spawn_ekm(config) as process:
        yield process


def add_drive(config: EkmConfig, secret: str, drive: SoftDrive) -> Any:
    return administer(
        config,
        secret,
        "drive add",
        serial=drive.serial,
        certificate=drive.certificate_der.hex(),
        wrap_key=drive.wrap_spki.hex(),
        oaep_hash="SHA-1",
    )


def exchange(
    ekm: EkmProcess, lab: ProvisionedLab, drive: SoftDrive, request: Generate | Translate
) -> DriveSession:
    session = DriveSession(drive, der(load_certificate(lab.ca)), drive.serial, request)
    with ExchangeClient(EkmEndpoint(ekm.host, ekm.port, lab.rig_tls)) as client:
        client.exchange(session)
    return session


def admin_records(config: EkmConfig) -> list[dict[str, Any]]:
    return [r for r in audit_log.records(config.audit) if r["event"] == "admin"]


# The admin secret


def test_admin_secret_is_made_once_and_stored_as_a_hash(tmp_path: Path) -> None:
    secret_path, hash_path = tmp_path / "pins" / "ekm-admin", tmp_path / "ekm" / "admin.scrypt"
    ensure_admin_secret(secret_path, hash_path)
    secret = read_admin_secret(secret_path)
    assert len(secret) == 32
    for path in (secret_path, hash_path):
        assert path.stat().st_mode & 0o777 == 0o600
    assert secret.encode() not in hash_path.read_bytes()
    assert secret_matches(hash_path, secret)
    assert not secret_matches(hash_path, secret[:-1])
    secret_path.unlink()  # taken away by its owner
    ensure_admin_secret(secret_path, hash_path)
    assert not secret_path.exists()
    assert secret_matches(hash_path, secret)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"salt": "zz", "scrypt": "00"}',
        b"[" * 3000,
        b" " * 5000,
        b'{"n": 1099511627776, "r": 8, "p": 1, "salt": "00", "scrypt": "00"}',
        b'{"n": 32768, "r": 8, "p": 60, "salt": "00", "scrypt": "00"}',
    ],
)
def test_admin_secret_reports_a_damaged_hash_in_one_sentence(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "admin.scrypt"
    path.write_bytes(content)
    with pytest.raises(ProvisioningError, match=r"cannot be used .* run `rig hsm init`"):
        secret_matches(path, "secret")


def test_admin_secret_is_read_from_file_or_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    path.write_text("from the file\n")
    path.chmod(0o600)
    monkeypatch.delenv("TAPERIG_EKM_ADMIN", raising=False)
    assert read_admin_secret(None, path) == "from the file"
    monkeypatch.setenv("TAPERIG_EKM_ADMIN", "from the environment")
    assert read_admin_secret(None, path) == "from the environment"
    assert read_admin_secret(path, path) == "from the file"
    path.chmod(0o644)
    with pytest.raises(TaperigError, match="chmod 600"):
        read_admin_secret(path)


def test_admin_secret_that_is_not_there_is_not_called_a_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPERIG_EKM_ADMIN", "")
    for file in (tmp_path / "absent", None):
        with pytest.raises(TaperigError, match="admin secret") as caught:
            read_admin_secret(file)
        assert "PIN" not in str(caught.value)
    (tmp_path / "absent").write_text("open to all\n")
    with pytest.raises(TaperigError, match=r"The admin secret file .* run chmod 600"):
        read_admin_secret(tmp_path / "absent")


def test_admin_secret_that_is_wrong_does_nothing_and_is_recorded(
    ekm: EkmProcess, config: EkmConfig, secret: str, lab: ProvisionedLab, drive: SoftDrive
) -> None:
    pin = (lab.state_dir / "pins" / lab.ekm_token.label).read_text().strip()
    for guess in ("", secret + "x", pin):
        began = time.monotonic()
        with pytest.raises(EkmError, match="admin secret is wrong"):
            add_drive(config, guess, drive)
        assert time.monotonic() - began > channel.WRONG_SECRET_SECONDS * 0.9
    with DriveTable(config.drive_table) as table:
        assert table.find(drive.serial) is None
    assert [r["outcome"] for r in admin_records(config)] == ["refused"] * 3
    log = config.audit.read_text()
    assert secret not in log
    assert pin not in log


def test_administration_needs_a_hash_of_the_admin_secret(config: EkmConfig, secret: str) -> None:
    with pytest.raises(EkmError, match="names no admin_secret"):
        administer(config.replace(admin_secret=None), secret, "drive list")


def test_administration_works_with_the_same_secret_while_no_manager_runs(
    config: EkmConfig, secret: str, drive: SoftDrive
) -> None:
    with pytest.raises(AdminSecretError):
        administer(config, "guess", "drive list")
    add_drive(config, secret, drive)
    assert [each["serial"] for each in administer(config, secret, "drive list")] == [SERIAL]
    assert [r["outcome"] for r in admin_records(config)] == ["refused", "ok", "ok"]


# Commands


@pytest.mark.rule("EKM-2")
def test_drives_are_added_revoked_and_admitted_while_the_key_manager_runs(
    ekm: EkmProcess, config: EkmConfig, secret: str, lab: ProvisionedLab, drive: SoftDrive
) -> None:
    ask = Generate("ADM001", CARTRIDGE_ID, (KeyLabel(MAIN_KEY),))
    with pytest.raises(ExchangeError) as refusal:
        exchange(ekm, lab, drive, ask)
    assert refusal.value.code is ErrorCode.UNKNOWN_DRIVE
    add_drive(config, secret, drive)
    assert exchange(ekm, lab, drive, ask).grant
    administer(config, secret, "drive revoke", serial=drive.serial)
    with pytest.raises(ExchangeError) as refusal:
        exchange(ekm, lab, drive, ask)
    assert refusal.value.code is ErrorCode.REVOKED_DRIVE
    (listed,) = administer(config, secret, "drive list")
    assert (listed["serial"], listed["revoked"]) == (SERIAL, True)
    administer(config, secret, "drive revoke", serial=drive.serial, revoked=False)
    assert exchange(ekm, lab, drive, ask).grant


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"serial": "no such serial!"}, "has not"),
        ({"serial": "OTHER00001"}, "is that of drive ADMIN00001 and not of OTHER00001"),
        ({"certificate": "zz"}, "hexadecimal"),
        ({"certificate": "00"}, "cannot be read"),
        ({"wrap_key": "00"}, "is not a public key"),
        ({"oaep_hash": "MD5"}, "OAEP hash is"),
    ],
)
def test_drive_add_refuses_invalid_input(
    config: EkmConfig, drive: SoftDrive, change: dict[str, str], words: str
) -> None:
    values = {
        "serial": drive.serial,
        "certificate": drive.certificate_der.hex(),
        "wrap_key": drive.wrap_spki.hex(),
        "oaep_hash": "SHA-1",
    }
    with AuditLog(config.audit) as log:
        administration = Administration(config, log)
        with pytest.raises(TaperigError, match=words):
            administration.run("drive add", values | change, "me")
        assert administration.run("drive list", {}, "me") == []


def test_drive_add_refuses_a_certificate_of_another_role(
    config: EkmConfig, lab: ProvisionedLab
) -> None:
    other = SoftDrive.issued_by(authority(lab), SERIAL, Role.KEY_MANAGER)
    with AuditLog(config.audit) as log, pytest.raises(TaperigError, match="not that of a drive"):
        Administration(config, log).run(
            "drive add",
            {
                "serial": SERIAL,
                "certificate": other.certificate_der.hex(),
                "wrap_key": other.wrap_spki.hex(),
                "oaep_hash": "SHA-1",
            },
            "me",
        )


def test_audit_commands_verify_and_show_the_log(
    ekm: EkmProcess, config: EkmConfig, secret: str
) -> None:
    summary = administer(config, secret, "audit verify")
    records = list(audit_log.records(config.audit))
    assert summary["head"] == records[summary["records"] - 1]["hash"]
    (start,) = administer(config, secret, "audit show", event="start")
    assert start["number"] == 1
    shown = administer(config, secret, "audit show", last=2)
    assert [record["event"] for record in shown] == ["admin", "admin"]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("drop table", {}), ("drive list", {"nonsense": 1}), ("drive revoke", {"serial": "D1"})],
)
def test_administration_refuses_malformed_requests_in_one_sentence(
    config: EkmConfig, secret: str, command: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(EkmError, match=r"no command|does not take|not in the drive table"):
        administer(config, secret, command, **arguments)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00",
        b"\xff\xff\xff\xff" + b"x" * 100,
        b"\x00\x00\x00\x04null",
        b"\x00\x00\x00\x03[[[",
        b"\x00\x00\xea\x60" + b"[" * 60000,
    ],
)
def test_admin_socket_survives_malformed_requests(
    ekm: EkmProcess, config: EkmConfig, secret: str, data: bytes
) -> None:
    with (
        socket.socket(socket.AF_UNIX) as connection,
        channel._short_path(config.admin_path) as name,
    ):
        connection.connect(name)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(5)
        answer = connection.recv(1000)
        assert not answer or "error" in json.loads(answer[4:])
    assert administer(config, secret, "drive list") == []


# Keys


@pytest.fixture
def admin(config: EkmConfig, lab: ProvisionedLab, secret: str) -> Administrator:
    return Administrator([config], secret, lab.ca.parent)


@pytest.mark.rule("POOL-3")
def test_key_is_retired_only_when_no_cartridge_needs_it(
    ekm: EkmProcess, config: EkmConfig, admin: Administrator, lab: ProvisionedLab, drive: SoftDrive
) -> None:
    label = "Retire Me"
    made = admin.add_key(label, 2048)
    add_drive(config, admin.secret, drive)
    hashed = (KeyLabel(MAIN_KEY), KeyLabel(label, KeyMode.HASH))
    eedks = exchange(ekm, lab, drive, Generate("RET001", CARTRIDGE_ID, hashed)).grant.eedks
    exchange(ekm, lab, drive, Generate("RET002", CARTRIDGE_ID, (KeyLabel(label),)))
    exchange(ekm, lab, drive, Translate("RET001", CARTRIDGE_ID, eedks))
    assert [user["volume"] for user in admin.users("retire me")] == ["RET001", "RET002"]
    with pytest.raises(EkmError, match=r"2 cartridges need it \(RET001 id 0001.*, RET002 id "):
        admin.retire(label)
    assert exchange(ekm, lab, drive, Translate("RET001", CARTRIDGE_ID, eedks)).grant

    exchange(ekm, lab, drive, Generate("RET001", CARTRIDGE_ID, (KeyLabel(MAIN_KEY),)))
    with pytest.raises(EkmError, match=r"1 cartridge needs it \(RET002 "):
        admin.retire(label)
    admin.ask("cartridge forget", cartridges=[("RET002", "")])
    assert admin.retire(label) == made
    with pytest.raises(ExchangeError) as refusal:
        exchange(ekm, lab, drive, Generate("RET003", CARTRIDGE_ID, (KeyLabel(label),)))
    assert refusal.value.code is ErrorCode.UNKNOWN_LABEL
    with open_token(lab.ekm_token) as token:
        keystore = Keystore(token)
        assert label not in [kek.label for kek in keystore.list()]
        assert token.private_half(made.public_key) is None
        assert token.trusted_public_key(made.spki_hash) is None


@pytest.mark.rule("CART-4", "POOL-3")
def test_key_usage_knows_two_cartridges_of_one_volser(
    ekm: EkmProcess, config: EkmConfig, admin: Administrator, lab: ProvisionedLab, drive: SoftDrive
) -> None:
    label, first, second, volume = "One Of Two", b"1" * 16, b"2" * 16, "TAP001"
    admin.add_key(label, 2048)
    add_drive(config, admin.secret, drive)
    eedks = exchange(ekm, lab, drive, Generate(volume, first, (KeyLabel(label),))).grant.eedks
    exchange(ekm, lab, drive, Generate(volume, second, (KeyLabel(MAIN_KEY),)))
    (user,) = admin.users(label)
    assert (user["volume"], user["cartridge_id"]) == (volume, first.hex())
    with pytest.raises(EkmError, match=f"1 cartridge needs it .TAP001 id {first.hex()}"):
        admin.retire(label)
    assert exchange(ekm, lab, drive, Translate(volume, first, eedks)).grant, "still readable"
    with pytest.raises(EkmError, match=f"2 cartridges of VOLSER TAP001 .* id {second.hex()}"):
        admin.ask("cartridge forget", cartridges=[(volume, "")])
    admin.forget_cartridges([(volume, first)])
    assert admin.users(label) == []
    assert second.hex() in [user["cartridge_id"] for user in admin.users(MAIN_KEY)]
    admin.retire(label)


@pytest.mark.rule("CART-4", "POOL-3")
def test_forget_cartridges_works_while_no_key_manager_runs(
    config: EkmConfig, lab: ProvisionedLab, drive: SoftDrive, secret: str, admin: Administrator
) -> None:
    with spawn_ekm(config) as ekm:
        add_drive(config, secret, drive)
        for number in range(3):
            exchange(
                ekm, lab, drive, Generate("TAP001", bytes([number] * 16), (KeyLabel(MAIN_KEY),))
            )
    admin.forget_cartridges([("TAP001", bytes(16)), ("TAP001", bytes([2] * 16))])
    assert [user["cartridge_id"] for user in admin.users(MAIN_KEY)] == ["01" * 16]


@pytest.mark.parametrize(
    ("cartridges", "text"),
    [
        ([("TAP001", "12")], "32 hexadecimal digits"),
        ([("TAP001", "z" * 32)], "32 hexadecimal digits"),
        ([("TAP001", "x" * 32)], "hexadecimal"),
        ([("TAP001", 5)], "32 hexadecimal digits"),
        ([("tap001", "")], "six characters"),
        ([("TAP001",)], "does not take"),
        ("TAP001", "does not take"),
    ],
)
def test_cartridge_forget_refuses_what_names_no_cartridge(
    config: EkmConfig, secret: str, cartridges: object, text: str
) -> None:
    AuditLog(config.audit).close()
    with pytest.raises(TaperigError, match=text):
        administer(config, secret, "cartridge forget", cartridges=cartridges)
    assert [r["event"] for r in audit_log.records(config.audit)] == ["admin"], "nothing forgotten"


@pytest.mark.rule("POOL-3")
def test_archived_segments_leave_key_usage_to_a_running_key_manager(
    config: EkmConfig, lab: ProvisionedLab, drive: SoftDrive, secret: str
) -> None:
    archive = config.audit.parent / "archive"
    config = config.replace(workers=2, audit_bytes=10_000)
    with spawn_ekm(config) as ekm:
        add_drive(config, secret, drive)
        admin = Administrator([config], secret, lab.ca.parent)
        for number in range(20):
            exchange(
                ekm, lab, drive, Generate(f"ROT{number:03}", CARTRIDGE_ID, (KeyLabel(MAIN_KEY),))
            )
        assert len(hash_chain.segments(config.audit)) >= 1, "by size"
        closed = administer(config, secret, "audit rotate")["segment"]
        assert Path(closed).exists()
        exchange(ekm, lab, drive, Generate("ROT020", CARTRIDGE_ID, (KeyLabel(MAIN_KEY),)))
        before = administer(config, secret, "audit verify", archive="")
        moved = administer(config, secret, "audit archive", directory=str(archive))
        assert Path(closed).name in moved["segments"]
        exchange(ekm, lab, drive, Generate("ROT021", CARTRIDGE_ID, (KeyLabel(MAIN_KEY),)))
        after = administer(config, secret, "audit verify")
        assert after["first"] == moved["through"] + 1
        assert after["archived"]
        whole = administer(config, secret, "audit verify", archive=str(archive))
        assert (whole["first"], whole["records"] > before["records"]) == (1, True)
        with pytest.raises(EkmError, match="22 cartridges need it"):
            admin.retire(MAIN_KEY)
        replies = [r for r in audit_log.records(config.audit, archive) if r["event"] == "key-reply"]
        assert [r["volume"] for r in replies] == [f"ROT{number:03}" for number in range(22)]
    with spawn_ekm(config) as ekm:
        exchange(ekm, lab, drive, Generate("ROT022", CARTRIDGE_ID, (KeyLabel(MAIN_KEY),)))


@pytest.mark.rule("POOL-3")
def test_key_used_while_it_is_being_retired_is_kept(
    config: EkmConfig, secret: str, outsiders: Outsiders
) -> None:
    """The exchange is recorded after the first check of the retirement."""
    kek_hash = bytes(32).hex()
    with AuditLog(config.audit) as log:

        def settle(seconds: float) -> None:
            with DriveTable(config.drive_table) as table:
                assert table.is_retiring(bytes(32))
            log.append("key-reply", operation="generate", volume="RET009", keys=["Racing (clear)"])

        administration = Administration(config, log, sleep=settle)
        with pytest.raises(EkmError, match="RET009"):
            administration.run("key retire", {"label": "Racing", "kek_hash": kek_hash}, "me")
    with DriveTable(config.drive_table) as table:
        assert not table.is_retiring(bytes(32))


@pytest.mark.rule("KEY-9", "POOL-3")
def test_key_that_is_retiring_wraps_no_new_data_key(
    ekm: EkmProcess, config: EkmConfig, admin: Administrator, lab: ProvisionedLab, drive: SoftDrive
) -> None:
    made = admin.add_key("Retiring", 2048)
    add_drive(config, admin.secret, drive)
    asked = Generate("RET004", CARTRIDGE_ID, (KeyLabel("Retiring"),))
    eedks = exchange(ekm, lab, drive, asked).grant.eedks
    with DriveTable(config.drive_table) as table:
        table.set_retiring(made.spki_hash, True)
    with pytest.raises(ExchangeError, match="is being retired"):
        exchange(ekm, lab, drive, asked)
    assert exchange(ekm, lab, drive, Translate("RET004", CARTRIDGE_ID, eedks)).grant
    admin.ask("key retired", label="Retiring", kek_hash=made.spki_hash.hex(), removed=False)
    assert exchange(ekm, lab, drive, asked).grant


def test_admin_secret_hash_file_may_be_configured(tmp_path: Path) -> None:
    write_hash(tmp_path / "hash", "my own secret")
    assert secret_matches(tmp_path / "hash", "my own secret")
