"""The key manager's side of an exchange, on a real token."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import load_pem_x509_certificate

from hsm.ekm.audit import log as audit_log
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.exchange import Answer, KeyService, Steps
from hsm.ekm.protocol import messages
from hsm.ekm.protocol.drive_side import DriveRequest, DriveSession, Generate, Rekey, Translate
from hsm.ekm.protocol.errors import ErrorCode
from hsm.ekm.protocol.fields import KeyOperation, LabelState
from hsm.ekm.protocol.messages import (
    Ack,
    Challenge,
    Error,
    Hello,
    KeyGrant,
    KeyRequest,
    LabelAnswer,
    LabelQuery,
    Ping,
)
from hsm.errors import TokenRefusedError
from hsm.keys.data_keys import DataKeys
from hsm.keys.eedk import Eedk, KeyLabel, KeyMode
from hsm.keys.pki import CertificateAuthority, Role
from hsm.pkcs11.oaep import OaepHash
from hsm.pkcs11.token import Token
from tests.support.ekm_lab import CARTRIDGE_ID, DR_KEY, MAIN_KEY, SoftDrive, SoftKek, authority, der
from tests.support.exchange_fixture import (
    PUBLIC_ONLY,
    ExchangeFixture,
    UnbatchedExchange,
    decoded,
    error_of,
    reply_of,
)

VOLUME = "VOL001"
TWO_LABELS = (KeyLabel(MAIN_KEY), KeyLabel(DR_KEY, KeyMode.HASH))
REQUEST = Generate(VOLUME, CARTRIDGE_ID, TWO_LABELS)
OUTSIDE = Generate(VOLUME, CARTRIDGE_ID, (KeyLabel("Made Outside"), KeyLabel(MAIN_KEY)))


def start_exchange(
    exchanges: ExchangeFixture, request: DriveRequest = REQUEST
) -> tuple[UnbatchedExchange, DriveSession, bytes]:
    """Return an exchange after the challenge, with the drive's key request."""
    exchange, session = exchanges.connect(), exchanges.session(request)
    challenge = exchange.on_frame(session.hello()).frame
    assert challenge is not None
    key_request = session.on_message(challenge)
    assert key_request is not None
    return exchange, session, key_request


def last_record(exchanges: ExchangeFixture) -> dict[str, Any]:
    return exchanges.records()[-1]


# Operations


@pytest.mark.rule("EKM-3", "KEY-2", "KEY-6")
def test_generate_returns_a_wrapped_key_and_two_eedks(exchanges: ExchangeFixture) -> None:
    grant = exchanges.run(exchanges.session(REQUEST)).grant
    first, second = map(Eedk.decode, grant.eedks)
    assert (first.mode, first.label, first.kek_hash) == (KeyMode.CLEAR, MAIN_KEY, None)
    assert (second.mode, second.label) == (KeyMode.HASH, None)
    assert second.kek_hash == exchanges.site.keystore.find(DR_KEY).spki_hash
    assert {first.volume, second.volume} == {VOLUME}
    assert len(exchanges.drive.data_key(grant.sedk)) == 32


@pytest.mark.rule("EKM-3", "KEY-3")
def test_generate_puts_the_same_key_into_eedk_and_sedk(exchanges: ExchangeFixture) -> None:
    grant = exchanges.run(exchanges.session(OUTSIDE)).grant
    eedk = Eedk.decode(grant.eedks[0])
    assert exchanges.site.outsiders.kek.open(eedk.wrapped) == exchanges.drive.data_key(grant.sedk)


@pytest.mark.rule("KEY-1")
def test_generate_makes_a_new_key_every_time(exchanges: ExchangeFixture) -> None:
    keys = {
        exchanges.drive.data_key(exchanges.run(exchanges.session(REQUEST)).grant.sedk).hex()
        for _ in range(5)
    }
    assert len(keys) == 5


@pytest.mark.rule("KEY-11")
@pytest.mark.parametrize("mode", list(KeyMode))
def test_generate_makes_both_eedks_from_one_label(
    exchanges: ExchangeFixture, mode: KeyMode
) -> None:
    grant = exchanges.run(
        exchanges.session(Generate(VOLUME, CARTRIDGE_ID, (KeyLabel(MAIN_KEY, mode),)))
    ).grant
    first, second = map(Eedk.decode, grant.eedks)
    assert (first.mode, first.label, first.kek_hash) == (second.mode, second.label, second.kek_hash)
    assert first.wrapped != second.wrapped, "each is wrapped afresh"


@pytest.mark.rule("KEY-5")
def test_generate_finds_a_label_in_any_case(exchanges: ExchangeFixture) -> None:
    grant = exchanges.run(
        exchanges.session(Generate(VOLUME, CARTRIDGE_ID, (KeyLabel(MAIN_KEY.upper()),)))
    ).grant
    assert Eedk.decode(grant.eedks[0]).label == MAIN_KEY


@pytest.mark.rule("EKM-3", "KEY-1", "APP-2e", "READ-2d")
@pytest.mark.parametrize("which", [(0, 1), (1, 0), (0,), (1,)])
def test_translate_returns_the_same_key_from_either_eedk(
    exchanges: ExchangeFixture, which: tuple[int, ...]
) -> None:
    made = exchanges.run(exchanges.session(REQUEST)).grant
    eedks = tuple(made.eedks[index] for index in which)
    grant = exchanges.run(exchanges.session(Translate(VOLUME, CARTRIDGE_ID, eedks))).grant
    assert exchanges.drive.data_key(grant.sedk) == exchanges.drive.data_key(made.sedk)
    assert grant.eedks == eedks


@pytest.mark.rule("READ-2d", "KEY-4")
def test_translate_uses_the_second_eedk_when_the_first_kek_is_public_only(
    exchanges: ExchangeFixture,
) -> None:
    labels = (KeyLabel(PUBLIC_ONLY[0]), KeyLabel(MAIN_KEY))
    made = exchanges.run(exchanges.session(Generate(VOLUME, CARTRIDGE_ID, labels))).grant
    grant = exchanges.run(exchanges.session(Translate(VOLUME, CARTRIDGE_ID, made.eedks))).grant
    assert exchanges.drive.data_key(grant.sedk) == exchanges.drive.data_key(made.sedk)
    assert last_record(exchanges)["keys"] == [f"{PUBLIC_ONLY[0]} (clear)", f"{MAIN_KEY} (clear)"]


@pytest.mark.rule("READ-2d")
@pytest.mark.parametrize("damage", ["garbage", "absent", "forged"])
def test_translate_uses_the_second_eedk_when_the_first_is_unusable(
    exchanges: ExchangeFixture, damage: str
) -> None:
    made = exchanges.run(exchanges.session(REQUEST)).grant
    good = Eedk.decode(made.eedks[1])
    first = {
        "garbage": b"\x00" * 300,
        "absent": partner_eedk(exchanges, label="Gone Since"),
        "forged": dataclasses.replace(good, volume=VOLUME, wrapped=b"\x01" * 256).encode(),
    }[damage]
    grant = exchanges.run(
        exchanges.session(Translate(VOLUME, CARTRIDGE_ID, (first, made.eedks[1])))
    ).grant
    assert exchanges.drive.data_key(grant.sedk) == exchanges.drive.data_key(made.sedk)


def test_ping_is_answered_with_a_ping_and_leaves_the_exchange_under_way(
    exchanges: ExchangeFixture,
) -> None:
    exchange, session, key_request = start_exchange(exchanges)
    ping = Ping().encode()
    assert exchange.on_frame(ping) == Answer(ping)
    reply = exchange.on_frame(key_request).frame
    assert reply is not None
    assert session.on_message(reply) is not None
    assert session.grant


def test_exchanges_on_one_connection_are_served_one_after_another(
    exchanges: ExchangeFixture,
) -> None:
    exchange = exchanges.connect()
    for _ in range(3):
        assert exchanges.run(exchanges.session(REQUEST), exchange).grant


def test_exchange_leaves_no_data_key_in_the_token(exchanges: ExchangeFixture) -> None:
    made = exchanges.run(exchanges.session(REQUEST)).grant
    exchanges.run(exchanges.session(Translate(VOLUME, CARTRIDGE_ID, made.eedks)))
    exchanges.refused(Translate(VOLUME, CARTRIDGE_ID, (b"\x00",)))
    assert not exchanges.site.token._data_keys


# Audit records


@pytest.mark.rule("KEY-12")
def test_audit_log_names_drive_and_labels_and_no_key(exchanges: ExchangeFixture) -> None:
    made = exchanges.run(exchanges.session(REQUEST)).grant
    reply, ack = exchanges.records()
    for record in (reply, ack):
        assert record["serial"] == exchanges.drive.serial
        assert (record["operation"], record["volume"]) == ("generate", VOLUME)
        assert record["cartridge_id"] == CARTRIDGE_ID.hex()
        assert record["keys"] == [f"{MAIN_KEY} (clear)", f"{DR_KEY} (hash)"]
        assert (record["outcome"], record["code"]) == ("ok", 0)
    assert (reply["event"], ack["event"]) == ("key-reply", "ack")
    exchanges.run(exchanges.session(Translate(VOLUME, CARTRIDGE_ID, made.eedks)))
    hash_of_dr = exchanges.site.keystore.find(DR_KEY).spki_hash.hex()
    assert last_record(exchanges)["keys"] == [f"{MAIN_KEY} (clear)", f"{hash_of_dr} (hash)"]
    exchanges.manager.audit.write()
    text = exchanges.manager.audit.path.read_text()
    data_key = exchanges.drive.data_key(made.sedk)
    for secret in (data_key, made.sedk, Eedk.decode(made.eedks[0]).wrapped):
        assert secret.hex() not in text


def test_audit_log_records_a_reply_without_an_ack(exchanges: ExchangeFixture) -> None:
    exchange, _, key_request = start_exchange(exchanges)
    reply_of(exchange.on_frame(key_request))
    exchange.connection_lost()
    assert [record["event"] for record in exchanges.records()] == ["key-reply", "no-ack"]
    exchange.connection_lost()
    assert len(exchanges.records()) == 2


def test_audit_log_records_a_reply_abandoned_for_another_hello(exchanges: ExchangeFixture) -> None:
    exchange, _, key_request = start_exchange(exchanges)
    reply_of(exchange.on_frame(key_request))
    exchanges.run(exchanges.session(REQUEST), exchange)
    assert [r["event"] for r in exchanges.records()] == ["key-reply", "no-ack", "key-reply", "ack"]


def test_audit_log_records_the_drives_error_which_gets_no_answer(
    exchanges: ExchangeFixture,
) -> None:
    exchange, _, key_request = start_exchange(exchanges)
    reply_of(exchange.on_frame(key_request))
    answer = exchange.on_frame(Error(ErrorCode.BAD_REPLY, "No good.").encode())
    assert answer == Answer(None)
    record = last_record(exchanges)
    assert (record["event"], record["cause"], record["text"]) == (
        "drive-error",
        "BAD_REPLY",
        "No good.",
    )
    assert (record["serial"], record["volume"]) == (exchanges.drive.serial, VOLUME)


def test_audit_log_records_an_unknown_error_code(exchanges: ExchangeFixture) -> None:
    assert exchanges.connect().on_frame(Error(250, "?").encode()) == Answer(None)
    assert last_record(exchanges)["cause"] == "UNKNOWN"


# Authorization (EKM-2)


def assert_refused(exchanges: ExchangeFixture, error: Error, code: ErrorCode, *words: str) -> None:
    """Check a refusal in the Error message and in the audit log."""
    assert ErrorCode(error.code) is code, error
    for word in words:
        assert word in error.text
    record = [r for r in exchanges.records() if r["event"] == "refusal"][-1]
    assert (record["outcome"], record["code"], record["cause"]) == ("refused", code, code.name)
    assert record["text"] == error.text


def foreign_drive(exchanges: ExchangeFixture, kind: str, tmp_path: Path) -> SoftDrive:
    lab_authority = authority(exchanges.site.lab)
    if kind == "other authority":
        (tmp_path / "other").mkdir()
        return SoftDrive.issued_by(CertificateAuthority(tmp_path / "other"))
    if kind == "key manager's role":
        return SoftDrive.issued_by(lab_authority, role=Role.KEY_MANAGER)
    drive = SoftDrive.issued_by(lab_authority)
    if kind == "no certificate":
        return dataclasses.replace(drive, certificate_der=b"\x30\x03\x02\x01\x01")
    if kind == "TLS certificate":
        pem = exchanges.site.lab.rig_tls.certificate.read_bytes()
    elif kind == "authority itself":
        pem = exchanges.site.lab.ca.read_bytes()
    else:
        raise AssertionError(kind)
    return dataclasses.replace(drive, certificate_der=der(load_pem_x509_certificate(pem)))


@pytest.mark.rule("EKM-2")
@pytest.mark.parametrize(
    "kind",
    [
        "other authority",
        "key manager's role",
        "no certificate",
        "TLS certificate",
        "authority itself",
    ],
)
def test_hello_with_a_certificate_that_is_not_a_drives_is_refused(
    exchanges: ExchangeFixture, tmp_path: Path, kind: str
) -> None:
    assert_refused(
        exchanges,
        exchanges.refused(REQUEST, foreign_drive(exchanges, kind, tmp_path)),
        ErrorCode.UNTRUSTED_CERTIFICATE,
    )
    assert exchanges.watch.count == 0


@pytest.mark.rule("EKM-2")
def test_request_of_an_unknown_drive_is_refused(exchanges: ExchangeFixture) -> None:
    stranger = SoftDrive.issued_by(authority(exchanges.site.lab), "STRANGER")
    assert_refused(
        exchanges, exchanges.refused(REQUEST, stranger), ErrorCode.UNKNOWN_DRIVE, "STRANGER"
    )
    assert last_record(exchanges)["serial"] == "STRANGER"
    assert exchanges.watch.count == 0


@pytest.mark.rule("EKM-2")
def test_request_of_a_revoked_drive_is_refused(exchanges: ExchangeFixture) -> None:
    exchanges.drives.set_revoked(exchanges.drive.serial, True)
    assert_refused(
        exchanges, exchanges.refused(REQUEST), ErrorCode.REVOKED_DRIVE, exchanges.drive.serial
    )
    assert exchanges.watch.count == 0


@pytest.mark.rule("EKM-2")
def test_request_of_a_drive_revoked_after_its_hello_is_refused(exchanges: ExchangeFixture) -> None:
    exchange, _, key_request = start_exchange(exchanges)
    exchanges.drives.set_revoked(exchanges.drive.serial, True)
    assert_refused(exchanges, error_of(exchange.on_frame(key_request)), ErrorCode.REVOKED_DRIVE)
    assert exchanges.watch.count == 0


@pytest.mark.rule("EKM-2")
def test_request_with_a_certificate_that_is_not_enrolled_is_refused(
    exchanges: ExchangeFixture,
) -> None:
    double = SoftDrive.issued_by(authority(exchanges.site.lab), exchanges.drive.serial)
    assert_refused(
        exchanges,
        exchanges.refused(REQUEST, double),
        ErrorCode.CERTIFICATE_MISMATCH,
        exchanges.drive.serial,
    )
    assert exchanges.watch.count == 0


@pytest.mark.rule("EKM-2")
def test_request_without_the_certificates_key_is_refused(exchanges: ExchangeFixture) -> None:
    thief = dataclasses.replace(exchanges.drive, key=ec.generate_private_key(ec.SECP256R1()))
    assert_refused(
        exchanges,
        exchanges.refused(REQUEST, thief),
        ErrorCode.BAD_SIGNATURE,
        exchanges.drive.serial,
    )
    assert exchanges.watch.count == 0
    drive = exchanges.drives.find(exchanges.drive.serial)
    assert drive is not None
    assert drive.sequence == 0, "a forged request uses up no sequence number"


@pytest.mark.rule("EKM-2", "BOT-2c")
@pytest.mark.parametrize(
    "change",
    [
        {"volume": "VOL002"},
        {"cartridge_id": bytes(16)},
        {"labels": (KeyLabel("Made Outside"),)},
        {"labels": TWO_LABELS[::-1]},
        {"allow_public_only": True},
        {"sequence": 2**62},
        {"operation": KeyOperation.TRANSLATE, "labels": (), "eedks": (b"e",)},
        {"signature": b"\x30\x06\x02\x01\x01\x02\x01\x01"},
        {"signature": bytes(70)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_request_that_the_relay_changed_is_refused(
    exchanges: ExchangeFixture, change: dict[str, Any]
) -> None:
    exchange, _, key_request = start_exchange(exchanges)
    request = messages.decode(key_request)
    assert isinstance(request, KeyRequest)
    forged = dataclasses.replace(request, **change).encode()
    assert_refused(exchanges, error_of(exchange.on_frame(forged)), ErrorCode.BAD_SIGNATURE)
    assert exchanges.watch.count == 0


def test_request_after_a_challenge_that_the_relay_changed_is_refused(
    exchanges: ExchangeFixture,
) -> None:
    exchange, session = exchanges.connect(), exchanges.session(REQUEST)
    challenge = decoded(exchange.on_frame(session.hello()))
    assert isinstance(challenge, Challenge)
    altered = dataclasses.replace(challenge, nonce=bytes(32)).encode()
    key_request = session.on_message(altered)
    assert key_request is not None
    assert_refused(exchanges, error_of(exchange.on_frame(key_request)), ErrorCode.BAD_SIGNATURE)


# Replays


@pytest.mark.rule("EKM-2")
def test_exchange_that_is_replayed_is_refused(exchanges: ExchangeFixture) -> None:
    session = exchanges.session(REQUEST)
    exchange = exchanges.connect()
    hello = session.hello()
    challenge = exchange.on_frame(hello).frame
    assert challenge is not None
    key_request = session.on_message(challenge)
    assert key_request is not None
    reply_of(exchange.on_frame(key_request))
    asked = exchanges.watch.count
    again = exchanges.connect()
    assert isinstance(decoded(again.on_frame(hello)), Challenge)
    assert_refused(exchanges, error_of(again.on_frame(key_request)), ErrorCode.WRONG_SESSION)
    # The drive itself may not use its nonce again either.
    first, request = messages.decode(hello), messages.decode(key_request)
    assert isinstance(first, Hello)
    assert isinstance(request, KeyRequest)
    later = dataclasses.replace(request, sequence=request.sequence + 1)
    refusal = error_of(exchanges.challenged(first.nonce).ask(later))
    assert_refused(exchanges, refusal, ErrorCode.REPLAYED_NONCE)
    assert exchanges.watch.count == asked


@pytest.mark.rule("EKM-2")
def test_request_replayed_under_another_challenge_is_refused(exchanges: ExchangeFixture) -> None:
    exchange, _, key_request = start_exchange(exchanges)
    reply_of(exchange.on_frame(key_request))
    replay = exchanges.connect()
    assert isinstance(decoded(replay.on_frame(exchanges.session(REQUEST).hello())), Challenge)
    assert_refused(exchanges, error_of(replay.on_frame(key_request)), ErrorCode.WRONG_SESSION)
    again = exchanges.connect()
    challenge = decoded(again.on_frame(exchanges.session(REQUEST).hello()))
    request = messages.decode(key_request)
    assert isinstance(challenge, Challenge)
    assert isinstance(request, KeyRequest)
    moved = dataclasses.replace(request, session=challenge.session).encode()
    assert_refused(exchanges, error_of(again.on_frame(moved)), ErrorCode.BAD_SIGNATURE)


@pytest.mark.rule("EKM-2")
def test_nonce_in_two_exchanges_at_once_is_refused_in_the_second(
    exchanges: ExchangeFixture,
) -> None:
    request = KeyRequest(
        session=bytes(16),
        operation=KeyOperation.GENERATE,
        volume=VOLUME,
        cartridge_id=CARTRIDGE_ID,
        labels=TWO_LABELS,
        allow_public_only=False,
        eedks=(),
        sequence=1,
    )
    nonce = b"h" * 32
    first, second = exchanges.challenged(nonce), exchanges.challenged(nonce)
    reply_of(first.ask(request))
    asked = exchanges.watch.count
    refusal = error_of(second.ask(dataclasses.replace(request, sequence=2)))
    assert_refused(exchanges, refusal, ErrorCode.REPLAYED_NONCE)
    assert exchanges.watch.count == asked


@pytest.mark.rule("EKM-2")
@pytest.mark.parametrize("sequence", [9, 10])
def test_sequence_number_that_does_not_grow_is_refused(
    exchanges: ExchangeFixture, sequence: int
) -> None:
    numbers = iter([10, sequence, 11])

    def session() -> DriveSession:
        return DriveSession(
            exchanges.drive, exchanges.trust, exchanges.drive.serial, REQUEST, numbers.__next__
        )

    assert exchanges.run(session()).grant
    asked = exchanges.watch.count
    failure = exchanges.run(session()).failure
    assert failure is not None
    assert_refused(exchanges, Error(failure.code, str(failure)), ErrorCode.STALE_SEQUENCE, "10")
    assert exchanges.watch.count == asked
    assert exchanges.run(session()).grant


@pytest.mark.rule("EKM-2")
def test_sequence_numbers_are_kept_across_restarts(exchanges: ExchangeFixture) -> None:
    numbers = iter([10, 10])

    def session() -> DriveSession:
        return DriveSession(
            exchanges.drive, exchanges.trust, exchanges.drive.serial, REQUEST, numbers.__next__
        )

    assert exchanges.run(session()).grant
    exchanges.drives.close()
    with DriveTable(exchanges.drives.path) as reopened:
        exchanges.manager = dataclasses.replace(exchanges.manager, drives=reopened)
        failure = exchanges.run(session()).failure
    assert failure is not None
    assert failure.code is ErrorCode.STALE_SEQUENCE


# Order of messages


def test_messages_out_of_order_are_refused(exchanges: ExchangeFixture) -> None:
    _, _, key_request = start_exchange(exchanges)
    assert_refused(
        exchanges, error_of(exchanges.connect().on_frame(key_request)), ErrorCode.UNEXPECTED_MESSAGE
    )
    ack = Ack(session=bytes(16), status=0, signature=bytes(70)).encode()
    answer = exchanges.connect().on_frame(ack)
    assert_refused(exchanges, error_of(answer), ErrorCode.UNEXPECTED_MESSAGE)
    assert answer.close, "the relay waits for no answer to an Ack"
    exchange, _, key_request = start_exchange(exchanges)
    assert_refused(exchanges, error_of(exchange.on_frame(ack)), ErrorCode.UNEXPECTED_MESSAGE)
    exchange, _, key_request = start_exchange(exchanges)
    reply = exchange.on_frame(key_request).frame
    assert reply is not None
    assert_refused(
        exchanges, error_of(exchange.on_frame(key_request)), ErrorCode.UNEXPECTED_MESSAGE
    )
    for theirs in (reply, Challenge(b"c", bytes(32), bytes(16)).encode()):
        assert_refused(
            exchanges, error_of(exchanges.connect().on_frame(theirs)), ErrorCode.UNEXPECTED_MESSAGE
        )


def test_exchange_is_over_after_a_refusal(exchanges: ExchangeFixture) -> None:
    exchange, _, key_request = start_exchange(exchanges)
    request = messages.decode(key_request)
    assert isinstance(request, KeyRequest)
    forged = dataclasses.replace(request, volume="VOL002").encode()
    assert ErrorCode(error_of(exchange.on_frame(forged)).code) is ErrorCode.BAD_SIGNATURE
    assert_refused(
        exchanges, error_of(exchange.on_frame(key_request)), ErrorCode.UNEXPECTED_MESSAGE
    )
    assert exchanges.watch.count == 0


def test_hello_of_another_protocol_version_is_refused(exchanges: ExchangeFixture) -> None:
    hello = Hello(exchanges.drive.certificate_der, nonce=bytes(32), version=9).encode()
    assert_refused(
        exchanges, error_of(exchanges.connect().on_frame(hello)), ErrorCode.UNSUPPORTED_VERSION, "9"
    )


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff" * 100, Ping().encode() + b"\x00"])
def test_malformed_message_is_refused_and_ends_the_connection(
    exchanges: ExchangeFixture, data: bytes
) -> None:
    answer = exchanges.connect().on_frame(data)
    assert_refused(exchanges, error_of(answer), ErrorCode.MALFORMED_MESSAGE)
    assert answer.close


@pytest.mark.parametrize("which", [slice(None), slice(1), slice(1, None)])
def test_rekey_wraps_the_same_key_with_other_keks(exchanges: ExchangeFixture, which: slice) -> None:
    made = exchanges.run(exchanges.session(REQUEST)).grant
    kek = exchanges.site.outsiders.kek
    labels = (KeyLabel(kek.label, KeyMode.HASH), KeyLabel(MAIN_KEY))
    grant = exchanges.run(
        exchanges.session(Rekey(VOLUME, CARTRIDGE_ID, made.eedks[which], labels))
    ).grant
    new = [Eedk.decode(data) for data in grant.eedks]
    assert [(eedk.mode, eedk.label) for eedk in new] == [
        (KeyMode.HASH, None),
        (KeyMode.CLEAR, MAIN_KEY),
    ]
    data_key = exchanges.drive.data_key(made.sedk)
    assert kek.open(new[0].wrapped) == data_key == exchanges.drive.data_key(grant.sedk)
    again = exchanges.run(exchanges.session(Translate(VOLUME, CARTRIDGE_ID, grant.eedks[1:]))).grant
    assert exchanges.drive.data_key(again.sedk) == data_key
    assert not set(grant.eedks) & set(made.eedks)
    rekeyed = [record for record in exchanges.records() if record.get("operation") == "rekey"]
    assert [record["event"] for record in rekeyed] == ["key-reply", "ack"]
    assert f"{MAIN_KEY} (clear)" in rekeyed[0]["keys"]


@pytest.mark.rule("KEY-9")
def test_rekey_refuses_an_unknown_label_before_it_opens_an_eedk(
    exchanges: ExchangeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exchanges.run(exchanges.session(REQUEST)).grant
    monkeypatch.delattr(Token, "unwrap_data_key")
    error = exchanges.refused(Rekey(VOLUME, CARTRIDGE_ID, made.eedks, (KeyLabel("No Such Key"),)))
    assert_refused(exchanges, error, ErrorCode.UNKNOWN_LABEL, "No Such Key")


@pytest.mark.rule("KEY-11")
def test_rekey_refuses_public_only_keks_unless_allowed(exchanges: ExchangeFixture) -> None:
    made = exchanges.run(exchanges.session(REQUEST)).grant
    labels = (KeyLabel(PUBLIC_ONLY[0]),)
    refusal = exchanges.refused(Rekey(VOLUME, CARTRIDGE_ID, made.eedks, labels))
    assert_refused(exchanges, refusal, ErrorCode.PUBLIC_ONLY_PAIR, PUBLIC_ONLY[0])
    allowed = Rekey(VOLUME, CARTRIDGE_ID, made.eedks, labels, allow_public_only=True)
    assert len(exchanges.run(exchanges.session(allowed)).grant.eedks) == 2


def test_rekey_refuses_another_volume(exchanges: ExchangeFixture) -> None:
    made = exchanges.run(exchanges.session(REQUEST)).grant
    assert_refused(
        exchanges,
        exchanges.refused(Rekey("VOL002", CARTRIDGE_ID, made.eedks, TWO_LABELS)),
        ErrorCode.WRONG_VOLUME,
    )


@pytest.mark.rule("EKM-11")
def test_label_query_reports_known_labels_and_leaves_the_exchange_under_way(
    exchanges: ExchangeFixture,
) -> None:
    exchange, session, key_request = start_exchange(exchanges)
    asked = (MAIN_KEY.upper(), "No Such Key", PUBLIC_ONLY[0])
    answer = decoded(exchange.on_frame(LabelQuery(asked).encode()))
    assert isinstance(answer, LabelAnswer)
    assert [state.label for state in answer.states] == list(asked)
    assert [state.known for state in answer.states] == [True, False, True]
    assert [state.has_private for state in answer.states] == [True, False, False]
    assert answer.states[0].kek_hash == exchanges.site.keystore.find(MAIN_KEY).spki_hash
    assert last_record(exchanges)["unknown"] == ["No Such Key"]
    reply = exchange.on_frame(key_request).frame
    assert reply is not None
    session.on_message(reply)
    assert session.grant


def test_ack_that_is_forged_is_recorded_and_ends_the_connection(exchanges: ExchangeFixture) -> None:
    exchange, session, key_request = start_exchange(exchanges)
    reply = exchange.on_frame(key_request).frame
    assert reply is not None
    frame = session.on_message(reply)
    assert frame is not None
    ack = messages.decode(frame)
    assert isinstance(ack, Ack)
    answer = exchange.on_frame(dataclasses.replace(ack, status=1).encode())
    assert_refused(exchanges, error_of(answer), ErrorCode.BAD_SIGNATURE)
    assert answer.close
    assert last_record(exchanges)["event"] == "no-ack"


def test_ack_of_another_exchange_is_refused(exchanges: ExchangeFixture) -> None:
    exchange, _, key_request = start_exchange(exchanges)
    reply_of(exchange.on_frame(key_request))
    ack = Ack(session=bytes(16), status=0, signature=bytes(70)).encode()
    assert_refused(exchanges, error_of(exchange.on_frame(ack)), ErrorCode.WRONG_SESSION)


# Labels, KEKs and EEDKs


@pytest.mark.rule("KEY-9", "KEY-8")
def test_generate_names_an_unknown_label_before_it_makes_a_key(
    exchanges: ExchangeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(Token, "generate_data_key", lambda token: made.append("key"))
    labels = (KeyLabel(MAIN_KEY), KeyLabel("No Such Key", KeyMode.HASH))
    error = exchanges.refused(Generate(VOLUME, CARTRIDGE_ID, labels))
    assert_refused(exchanges, error, ErrorCode.UNKNOWN_LABEL, "No Such Key")
    assert last_record(exchanges)["keys"] == [f"{MAIN_KEY} (clear)", "No Such Key (hash)"]
    assert not made


@pytest.mark.rule("KEY-11", "KEY-4")
def test_generate_refuses_a_pair_of_public_only_keks_unless_allowed(
    exchanges: ExchangeFixture,
) -> None:
    labels = (KeyLabel(PUBLIC_ONLY[0]), KeyLabel(PUBLIC_ONLY[1]))
    error = exchanges.refused(Generate(VOLUME, CARTRIDGE_ID, labels))
    assert_refused(exchanges, error, ErrorCode.PUBLIC_ONLY_PAIR, *PUBLIC_ONLY)
    grant = exchanges.run(
        exchanges.session(Generate(VOLUME, CARTRIDGE_ID, labels, allow_public_only=True))
    ).grant
    opened = exchanges.site.outsiders.public_only[1].open(Eedk.decode(grant.eedks[1]).wrapped)
    assert opened == exchanges.drive.data_key(grant.sedk), "the other site reads it"
    error = exchanges.refused(Translate(VOLUME, CARTRIDGE_ID, grant.eedks))
    assert_refused(exchanges, error, ErrorCode.KEK_PUBLIC_ONLY, *PUBLIC_ONLY)


@pytest.mark.rule("KEY-11")
def test_generate_needs_one_private_half_of_two(exchanges: ExchangeFixture) -> None:
    labels = (KeyLabel(PUBLIC_ONLY[0]), KeyLabel(MAIN_KEY))
    assert exchanges.run(exchanges.session(Generate(VOLUME, CARTRIDGE_ID, labels))).grant


@pytest.mark.rule("EKM-2")
def test_generate_refuses_a_drive_whose_wrap_key_is_not_trusted(exchanges: ExchangeFixture) -> None:
    drive = SoftDrive.issued_by(authority(exchanges.site.lab), "UNWRAPPED")
    exchanges.drives.enrol(drive.serial, drive.certificate_der, drive.wrap_spki, OaepHash.SHA1)
    assert_refused(
        exchanges, exchanges.refused(REQUEST, drive), ErrorCode.DRIVE_KEY_ABSENT, "not enrolled"
    )


def partner_eedk(
    exchanges: ExchangeFixture,
    label: str | None = None,
    kek_hash: bytes | None = None,
    kek: SoftKek | None = None,
    data_key: bytes = b"k" * 32,
) -> bytes:
    """Return an EEDK for VOLUME by a partner's key manager, with its own KEK."""
    eedk = Eedk(
        version=1,
        algorithm="RSA-OAEP",
        oaep_hash=OaepHash.SHA1,
        mode=KeyMode.CLEAR if label else KeyMode.HASH,
        label=label,
        kek_hash=kek_hash,
        wrapped=(kek or SoftKek.make("theirs")).wrap(data_key),
        volume=VOLUME,
        signature=bytes(70),
    )
    signature = exchanges.site.outsiders.partner.sign(
        eedk.signed_bytes(), ec.ECDSA(hashes.SHA256())
    )
    return eedk.with_signature(signature).encode()


@pytest.mark.rule("KEY-8")
def test_translate_names_the_label_of_an_absent_kek_in_clear_mode(
    exchanges: ExchangeFixture,
) -> None:
    error = exchanges.refused(
        Translate(VOLUME, CARTRIDGE_ID, (partner_eedk(exchanges, label="Gone Since"),))
    )
    assert_refused(exchanges, error, ErrorCode.KEK_ABSENT, "Gone Since")
    assert last_record(exchanges)["keys"] == ["Gone Since (clear)"]


@pytest.mark.rule("KEY-8")
def test_translate_names_only_the_hash_of_an_absent_kek_in_hash_mode(
    exchanges: ExchangeFixture,
) -> None:
    error = exchanges.refused(
        Translate(VOLUME, CARTRIDGE_ID, (partner_eedk(exchanges, kek_hash=b"\xab" * 32),))
    )
    assert_refused(exchanges, error, ErrorCode.KEK_ABSENT, "ab" * 32)


@pytest.mark.rule("KEY-7")
def test_translate_finds_the_kek_by_hash_when_its_label_names_another(
    exchanges: ExchangeFixture,
) -> None:
    """The DR site has another key under the label that the main site uses."""
    theirs = exchanges.site.outsiders.kek
    clear = partner_eedk(exchanges, label=MAIN_KEY, kek=theirs)
    error = exchanges.refused(Translate(VOLUME, CARTRIDGE_ID, (clear,)))
    assert_refused(exchanges, error, ErrorCode.WRONG_KEK, MAIN_KEY)
    by_hash = partner_eedk(
        exchanges, kek_hash=exchanges.site.keystore.find("Made Outside").spki_hash, kek=theirs
    )
    grant = exchanges.run(exchanges.session(Translate(VOLUME, CARTRIDGE_ID, (by_hash,)))).grant
    assert exchanges.drive.data_key(grant.sedk) == b"k" * 32


@pytest.mark.parametrize(
    "length",
    [
        16,
        24,
        31,
        33,
        64,
    ],
)
def test_translate_refuses_an_eedk_without_an_aes_256_key(
    exchanges: ExchangeFixture, length: int
) -> None:
    eedk = partner_eedk(
        exchanges, label="Made Outside", kek=exchanges.site.outsiders.kek, data_key=b"k" * length
    )
    assert_refused(
        exchanges, exchanges.refused(Translate(VOLUME, CARTRIDGE_ID, (eedk,))), ErrorCode.WRONG_KEK
    )


@pytest.mark.parametrize("damage", [b"\x00", b"\xa0", b"e" * 1024])
def test_translate_refuses_a_corrupt_eedk(exchanges: ExchangeFixture, damage: bytes) -> None:
    assert_refused(
        exchanges,
        exchanges.refused(Translate(VOLUME, CARTRIDGE_ID, (damage,))),
        ErrorCode.CORRUPT_EEDK,
    )
    assert last_record(exchanges)["keys"] == ["unreadable EEDK"]


def test_translate_refuses_an_eedk_with_any_field_changed(exchanges: ExchangeFixture) -> None:
    made = exchanges.run(exchanges.session(REQUEST)).grant
    eedk = Eedk.decode(made.eedks[0])
    asked = exchanges.watch.count
    for change in (
        {"wrapped": eedk.wrapped[:-1] + bytes([eedk.wrapped[-1] ^ 1])},
        {"label": "Made Outside"},
        {"oaep_hash": OaepHash.SHA256},
        {"signature": bytes(70)},
    ):
        forged = dataclasses.replace(eedk, **change).encode()
        assert_refused(
            exchanges,
            exchanges.refused(Translate(VOLUME, CARTRIDGE_ID, (forged,))),
            ErrorCode.FORGED_EEDK,
        )
    assert exchanges.watch.count == asked, "the token is not used"


@pytest.mark.parametrize("place", [0, 1])
def test_translate_refuses_an_eedk_of_another_volume_beside_any_other(
    exchanges: ExchangeFixture, place: int
) -> None:
    eedks_of_volume = exchanges.run(exchanges.session(REQUEST)).grant.eedks
    other = exchanges.run(
        exchanges.session(Generate("VOL002", CARTRIDGE_ID, TWO_LABELS))
    ).grant.eedks
    eedks = (other[0], eedks_of_volume[1]) if place == 0 else (b"\x00", other[1])
    error = exchanges.refused(Translate(VOLUME, CARTRIDGE_ID, eedks))
    assert_refused(exchanges, error, ErrorCode.WRONG_VOLUME, VOLUME, "VOL002")


def test_translate_reports_both_causes_when_neither_eedk_opens(exchanges: ExchangeFixture) -> None:
    eedks = (
        partner_eedk(exchanges, label="Gone Since"),
        partner_eedk(exchanges, kek_hash=b"\xab" * 32),
    )
    error = exchanges.refused(Translate(VOLUME, CARTRIDGE_ID, eedks))
    assert_refused(exchanges, error, ErrorCode.KEK_ABSENT, "Gone Since", "ab" * 32)


# Failures of the key manager


def test_token_failure_has_its_own_error_code(
    exchanges: ExchangeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(keys: DataKeys) -> None:
        raise TokenRefusedError("The token refused to make a data key (DeviceError).")

    monkeypatch.setattr(DataKeys, "generate", refuse)
    assert_refused(exchanges, exchanges.refused(REQUEST), ErrorCode.KEYSTORE_FAILURE, "DeviceError")


class FailingKeyService(KeyService):
    """A key service with a bug, whose exception quotes a secret."""

    def generate(self, *arguments: object) -> KeyGrant:
        raise RuntimeError("SEC" + "RET")  # a traceback quotes source lines

    def translate(self, *arguments: object) -> Steps[KeyGrant]:
        raise RuntimeError("SEC" + "RET")  # a traceback quotes source lines

    def rekey(self, *arguments: object) -> KeyGrant:
        raise RuntimeError("SEC" + "RET")

    def label_states(self, labels: object) -> tuple[LabelState, ...]:
        raise RuntimeError("SEC" + "RET")


def test_unexpected_error_is_reported_by_type_only(
    exchanges: ExchangeFixture, caplog: pytest.LogCaptureFixture
) -> None:
    exchanges.manager = dataclasses.replace(exchanges.manager, keys=FailingKeyService())
    error = exchanges.refused(REQUEST)
    assert_refused(exchanges, error, ErrorCode.INTERNAL_FAILURE, "RuntimeError")
    output = error.text + caplog.text + json.dumps(exchanges.records())
    assert "SECRET" not in output
    assert "test_exchange.py" in caplog.text, "the place of the error is logged"


def test_key_reply_is_not_sent_without_an_audit_record(
    exchanges: ExchangeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, _, key_request = start_exchange(exchanges)

    def full(log: audit_log.AuditLog, event: str, **details: object) -> None:
        raise audit_log.AuditError("Cannot write the audit log.")

    monkeypatch.setattr(audit_log.AuditLog, "note", full)
    answer = exchange.on_frame(key_request)
    assert ErrorCode(error_of(answer).code) is ErrorCode.INTERNAL_FAILURE
    assert answer.close


@pytest.mark.rule("EKM-6")
def test_exchange_ends_without_answer_when_another_worker_locks_the_table(
    exchanges: ExchangeFixture,
) -> None:
    """A hanging worker may hold the lock; the relay then fails over."""
    exchange, _, key_request = start_exchange(exchanges)
    exchanges.drives._database.execute("PRAGMA busy_timeout = 50")
    before = exchanges.watch.count
    holder = sqlite3.connect(exchanges.drives.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        answer = exchange.on_frame(key_request)
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert answer == Answer(None, close=True)
    assert exchanges.watch.count == before, "no key work"
    last = exchanges.records()[-1]
    assert (last["event"], last["cause"]) == ("refusal", "INTERNAL_FAILURE")
    assert "drive table" in last["text"]
    assert exchanges.run(exchanges.session(REQUEST)).grant
