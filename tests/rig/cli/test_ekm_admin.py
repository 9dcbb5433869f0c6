"""Administration under ``rig ekm`` of a key manager that does not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from hsm.admin_secret import write_hash
from hsm.ekm.audit.hash_chain import AuditEvent
from hsm.ekm.audit.log import AuditLog
from hsm.ekm.drive_table import DriveTable
from hsm.errors import TaperigError
from hsm.pkcs11.oaep import OaepHash
from rig.cli.main import app

SECRET = "as the administrator has it"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key manager's file; its token and certificates are not needed."""
    with DriveTable(tmp_path / "drives") as table:
        table.enrol("DRIVE00001", b"certificate", b"spki", OaepHash.SHA1)
    with AuditLog(tmp_path / "audit") as log:
        log.append("key-reply", serial="DRIVE00001", volume="VOL001", keys=["June (clear)"])
    write_hash(tmp_path / "admin.scrypt", SECRET)
    path = tmp_path / "ekm.yaml"
    path.write_text(
        "token: {module: m.so, label: t, pin_file: pin}\n"
        "tls: {certificate: c, key: k, ca: a}\n"
        "certificate: e\ndrive_ca: d\ndrive_table: drives\naudit: audit\n"
        "admin_secret: admin.scrypt\n"
    )
    monkeypatch.setenv("TAPERIG_EKM_ADMIN", SECRET)
    return path


def rig(*arguments: str | Path) -> str:
    """Run a command; return what it prints."""
    done = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_ekm_drive_lists_and_revokes_drives(config: Path) -> None:
    assert "DRIVE00001  admitted" in rig("ekm", "drive", "list", "--config", config)
    assert "revoked" in rig("ekm", "drive", "revoke", "DRIVE00001", "--config", config)
    (drive,) = json.loads(rig("ekm", "drive", "list", "--json", "--config", config))
    assert drive["revoked"] is True
    rig("ekm", "drive", "revoke", "DRIVE00001", "--undo", "--config", config)
    assert "admitted" in rig("ekm", "drive", "list", "--config", config)


def test_ekm_audit_show_names_the_events_when_one_is_unknown(config: Path) -> None:
    with pytest.raises(TaperigError) as refusal:
        rig("ekm", "audit", "show", "--event", "nosuch", "--config", config)
    assert "There is no event 'nosuch' in an audit log; the events are ack, admin, " in str(
        refusal.value
    )
    for event in get_args(AuditEvent):
        rig("ekm", "audit", "show", "--event", event, "--config", config)


def test_ekm_audit_show_says_what_no_record_has(config: Path) -> None:
    found = rig("ekm", "audit", "show", "--event", "ack", "--drive", "D9", "--config", config)
    assert found == "no record has event 'ack', drive 'D9'\n"
    options = ("--volume", "VOL009", "--json", "--config", config)
    assert json.loads(rig("ekm", "audit", "show", *options)) == []


def test_ekm_audit_verifies_and_shows_the_log(config: Path) -> None:
    assert "records 1\n" in rig("ekm", "audit", "verify", "--config", config)
    shown = rig("ekm", "audit", "show", "--volume", "VOL001", "--config", config)
    assert "key-reply" in shown
    assert "keys=June (clear)" in shown
    (verified,) = json.loads(
        rig("ekm", "audit", "show", "--event", "admin", "--last", "1", "--json", "--config", config)
    )
    assert verified["command"] == "audit show"


def test_ekm_audit_rotates_archives_and_verifies_the_log(config: Path, tmp_path: Path) -> None:
    assert f"closed  {tmp_path}/audit.000000000001" in rig(
        "ekm", "audit", "rotate", "--config", config
    )
    assert " in 2 files\n" in rig("ekm", "audit", "verify", "--config", config)
    moved = rig("ekm", "audit", "archive", tmp_path / "old", "--config", config)
    assert moved == (f"moved   audit.000000000001\nthrough record 2, to {tmp_path / 'old'}\n")
    verified = rig("ekm", "audit", "verify", "--config", config)
    assert "from    record 3 on; the one before had the hash " in verified
    assert "missing" not in verified
    whole = rig("ekm", "audit", "verify", "--archive", tmp_path / "old", "--config", config)
    assert "from" not in whole
    rig("ekm", "audit", "rotate", "--config", config)
    (tmp_path / "audit.000000000003").unlink()
    assert "missing the records before; the log does not say that they were archived" in rig(
        "ekm", "audit", "verify", "--config", config
    )


def test_ekm_cartridge_forget_is_in_the_audit_log(config: Path) -> None:
    assert "VOL001 id none forgotten" in rig(
        "ekm", "cartridge", "forget", "VOL001", "--config", config
    )
    records = json.loads(rig("ekm", "audit", "show", "--json", "--config", config))
    assert "cartridge-forgotten" in [record["event"] for record in records]


def test_ekm_refuses_a_wrong_admin_secret(config: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("a guess\n")
    other.chmod(0o600)
    with pytest.raises(TaperigError, match="admin secret is wrong"):
        rig("ekm", "drive", "list", "--secret-file", other, "--config", config)


def test_ekm_names_the_admin_secret_that_is_missing(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TAPERIG_EKM_ADMIN")
    with pytest.raises(TaperigError, match="TAPERIG_EKM_ADMIN"):
        rig("ekm", "drive", "list", "--config", config)
