"""The key manager's half of an exchange, message by message, on a real token."""

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
from hsm.ekm.exchange import Answer, Exchange, KeyService, Steps
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
from tests.support.ekm_bench import PUBLIC_ONLY, Bench, decoded, error_of, reply_of
from tests.support.ekm_lab import CARTRIDGE_ID, DR_KEY, MAIN_KEY, SoftDrive, SoftKek, authority, der

VOLUME = "VOL001"
TWO_LABELS = (KeyLabel(MAIN_KEY), KeyLabel(DR_KEY, KeyMode.HASH))
ASK = Generate(VOLUME, CARTRIDGE_ID, TWO_LABELS)
OUTSIDE = Generate(VOLUME, CARTRIDGE_ID, (KeyLabel("Made Outside"), KeyLabel(MAIN_KEY)))


def begun(bench: Bench, request: DriveRequest = ASK) -> tuple[Exchange, DriveSession, bytes]:
    """Return an exchange up to where the drive's key request is on its way."""
    exchange, session = bench.connect(), bench.session(request)
    challenge = exchange.on_frame(session.hello()).frame
    assert challenge is not None
    key_request = session.on_message(challenge)
    assert key_request is not None
    return exchange, session, key_request


def last_record(bench: Bench) -> dict[str, Any]:
    return bench.records()[-1]


# What is served


@pytest.mark.rule("EKM-3", "KEY-2", "KEY-6")
def test_generate_gives_a_wrapped_key_and_two_eedks(bench: Bench) -> None:
    grant = bench.run(bench.session(ASK)).grant
    first, second = map(Eedk.decode, grant.eedks)
    assert (first.mode, first.label, first.kek_hash) == (KeyMode.CLEAR, MAIN_KEY, None)
    assert (second.mode, second.label) == (KeyMode.HASH, None)
    assert second.kek_hash == bench.site.keystore.find(DR_KEY).spki_hash
    assert {first.volume, second.volume} == {VOLUME}
    assert len(bench.drive.data_key(grant.sedk)) == 32


@pytest.mark.rule("EKM-3", "KEY-3")
def test_an_eedk_holds_the_key_that_the_drive_got(bench: Bench) -> None:
    grant = bench.run(bench.session(OUTSIDE)).grant
    eedk = Eedk.decode(grant.eedks[0])
    assert bench.site.outsiders.kek.open(eedk.wrapped) == bench.drive.data_key(grant.sedk)


@pytest.mark.rule("KEY-1")
def test_every_generate_makes_another_key(bench: Bench) -> None:
    keys = {bench.drive.data_key(bench.run(bench.session(ASK)).grant.sedk).hex() for _ in range(5)}
    assert len(keys) == 5


@pytest.mark.rule("KEY-11")
@pytest.mark.parametrize("mode", list(KeyMode))
def test_one_label_makes_both_eedks(bench: Bench, mode: KeyMode) -> None:
    grant = bench.run(
        bench.session(Generate(VOLUME, CARTRIDGE_ID, (KeyLabel(MAIN_KEY, mode),)))
    ).grant
    first, second = map(Eedk.decode, grant.eedks)
    assert (first.mode, first.label, first.kek_hash) == (second.mode, second.label, second.kek_hash)
    assert first.wrapped != second.wrapped, "each is wrapped afresh"


@pytest.mark.rule("KEY-5")
def test_a_label_is_found_whatever_its_case(bench: Bench) -> None:
    grant = bench.run(
        bench.session(Generate(VOLUME, CARTRIDGE_ID, (KeyLabel(MAIN_KEY.upper()),)))
    ).grant
    assert Eedk.decode(grant.eedks[0]).label == MAIN_KEY


@pytest.mark.rule("EKM-3", "KEY-1", "APP-2e", "READ-2d")
@pytest.mark.parametrize("which", [(0, 1), (1, 0), (0,), (1,)])
def test_translate_gives_the_same_key_from_either_eedk(
    bench: Bench, which: tuple[int, ...]
) -> None:
    made = bench.run(bench.session(ASK)).grant
    eedks = tuple(made.eedks[index] for index in which)
    grant = bench.run(bench.session(Translate(VOLUME, CARTRIDGE_ID, eedks))).grant
    assert bench.drive.data_key(grant.sedk) == bench.drive.data_key(made.sedk)
    assert grant.eedks == eedks


@pytest.mark.rule("READ-2d", "KEY-4")
def test_translate_takes_the_second_when_the_first_has_no_private_half_here(bench: Bench) -> None:
    labels = (KeyLabel(PUBLIC_ONLY[0]), KeyLabel(MAIN_KEY))
    made = bench.run(bench.session(Generate(VOLUME, CARTRIDGE_ID, labels))).grant
    grant = bench.run(bench.session(Translate(VOLUME, CARTRIDGE_ID, made.eedks))).grant
    assert bench.drive.data_key(grant.sedk) == bench.drive.data_key(made.sedk)
    assert last_record(bench)["keys"] == [f"{PUBLIC_ONLY[0]} (clear)", f"{MAIN_KEY} (clear)"]


@pytest.mark.rule("READ-2d")
@pytest.mark.parametrize("damage", ["garbage", "absent", "forged"])
def test_translate_takes_the_second_when_the_first_is_no_good(bench: Bench, damage: str) -> None:
    made = bench.run(bench.session(ASK)).grant
    good = Eedk.decode(made.eedks[1])
    first = {
        "garbage": b"\x00" * 300,
        "absent": partner_eedk(bench, label="Gone Since"),
        "forged": dataclasses.replace(good, volume=VOLUME, wrapped=b"\x01" * 256).encode(),
    }[damage]
    grant = bench.run(bench.session(Translate(VOLUME, CARTRIDGE_ID, (first, made.eedks[1])))).grant
    assert bench.drive.data_key(grant.sedk) == bench.drive.data_key(made.sedk)


def test_ping_is_answered_with_the_same_and_disturbs_nothing(bench: Bench) -> None:
    exchange, session, key_request = begun(bench)
    ping = Ping().encode()
    assert exchange.on_frame(ping) == Answer(ping)
    reply = exchange.on_frame(key_request).frame
    assert reply is not None
    assert session.on_message(reply) is not None
    assert session.grant


def test_one_connection_serves_exchanges_one_after_another(bench: Bench) -> None:
    exchange = bench.connect()
    for _ in range(3):
        assert bench.run(bench.session(ASK), exchange).grant


def test_no_data_key_is_left_in_the_token(bench: Bench) -> None:
    made = bench.run(bench.session(ASK)).grant
    bench.run(bench.session(Translate(VOLUME, CARTRIDGE_ID, made.eedks)))
    bench.refused(Translate(VOLUME, CARTRIDGE_ID, (b"\x00",)))
    assert not bench.site.token._data_keys


# What is recorded


@pytest.mark.rule("KEY-12")
def test_the_audit_log_tells_who_got_what_and_no_key(bench: Bench) -> None:
    made = bench.run(bench.session(ASK)).grant
    reply, ack = bench.records()
    for record in (reply, ack):
        assert record["serial"] == bench.drive.serial
        assert (record["operation"], record["volume"]) == ("generate", VOLUME)
        assert record["cartridge_id"] == CARTRIDGE_ID.hex()
        assert record["keys"] == [f"{MAIN_KEY} (clear)", f"{DR_KEY} (hash)"]
        assert (record["outcome"], record["code"]) == ("ok", 0)
    assert (reply["event"], ack["event"]) == ("key-reply", "ack")
    bench.run(bench.session(Translate(VOLUME, CARTRIDGE_ID, made.eedks)))
    hash_of_dr = bench.site.keystore.find(DR_KEY).spki_hash.hex()
    assert last_record(bench)["keys"] == [f"{MAIN_KEY} (clear)", f"{hash_of_dr} (hash)"]
    bench.manager.audit.write()
    text = bench.manager.audit.path.read_text()
    data_key = bench.drive.data_key(made.sedk)
    for secret in (data_key, made.sedk, Eedk.decode(made.eedks[0]).wrapped):
        assert secret.hex() not in text


def test_a_reply_without_an_ack_is_recorded(bench: Bench) -> None:
    exchange, _, key_request = begun(bench)
    reply_of(exchange.on_frame(key_request))
    exchange.connection_lost()
    assert [record["event"] for record in bench.records()] == ["key-reply", "no-ack"]
    exchange.connection_lost()
    assert len(bench.records()) == 2


def test_a_reply_forgotten_for_another_hello_is_recorded(bench: Bench) -> None:
    exchange, _, key_request = begun(bench)
    reply_of(exchange.on_frame(key_request))
    bench.run(bench.session(ASK), exchange)
    assert [r["event"] for r in bench.records()] == ["key-reply", "no-ack", "key-reply", "ack"]


def test_the_drives_refusal_is_recorded_and_not_answered(bench: Bench) -> None:
    exchange, _, key_request = begun(bench)
    reply_of(exchange.on_frame(key_request))
    answer = exchange.on_frame(Error(ErrorCode.BAD_REPLY, "No good.").encode())
    assert answer == Answer(None)
    record = last_record(bench)
    assert (record["event"], record["cause"], record["text"]) == (
        "drive-error",
        "BAD_REPLY",
        "No good.",
    )
    assert (record["serial"], record["volume"]) == (bench.drive.serial, VOLUME)


def test_an_error_code_of_the_future_is_recorded_too(bench: Bench) -> None:
    assert bench.connect().on_frame(Error(250, "?").encode()) == Answer(None)
    assert last_record(bench)["cause"] == "UNKNOWN"


# Who may ask (EKM-2)


def expect(bench: Bench, error: Error, code: ErrorCode, *words: str) -> None:
    """Check a refusal, on the wire and in the log."""
    assert ErrorCode(error.code) is code, error
    for word in words:
        assert word in error.text
    record = [r for r in bench.records() if r["event"] == "refusal"][-1]
    assert (record["outcome"], record["code"], record["cause"]) == ("refused", code, code.name)
    assert record["text"] == error.text


def foreign_drive(bench: Bench, kind: str, tmp_path: Path) -> SoftDrive:
    lab_authority = authority(bench.site.lab)
    if kind == "other authority":
        (tmp_path / "other").mkdir()
        return SoftDrive.issued_by(CertificateAuthority(tmp_path / "other"))
    if kind == "key manager's role":
        return SoftDrive.issued_by(lab_authority, role=Role.KEY_MANAGER)
    drive = SoftDrive.issued_by(lab_authority)
    if kind == "no certificate":
        return dataclasses.replace(drive, certificate_der=b"\x30\x03\x02\x01\x01")
    if kind == "TLS certificate":
        pem = bench.site.lab.rig_tls.certificate.read_bytes()
    elif kind == "authority itself":
        pem = bench.site.lab.ca.read_bytes()
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
def test_a_certificate_that_is_no_drives_is_refused(
    bench: Bench, tmp_path: Path, kind: str
) -> None:
    expect(
        bench,
        bench.refused(ASK, foreign_drive(bench, kind, tmp_path)),
        ErrorCode.UNTRUSTED_CERTIFICATE,
    )
    assert bench.watch.count == 0


@pytest.mark.rule("EKM-2")
def test_an_unknown_drive_is_refused(bench: Bench) -> None:
    stranger = SoftDrive.issued_by(authority(bench.site.lab), "STRANGER")
    expect(bench, bench.refused(ASK, stranger), ErrorCode.UNKNOWN_DRIVE, "STRANGER")
    assert last_record(bench)["serial"] == "STRANGER"
    assert bench.watch.count == 0


@pytest.mark.rule("EKM-2")
def test_a_revoked_drive_is_refused(bench: Bench) -> None:
    bench.drives.set_revoked(bench.drive.serial, True)
    expect(bench, bench.refused(ASK), ErrorCode.REVOKED_DRIVE, bench.drive.serial)
    assert bench.watch.count == 0


@pytest.mark.rule("EKM-2")
def test_a_drive_revoked_after_its_hello_is_refused(bench: Bench) -> None:
    exchange, _, key_request = begun(bench)
    bench.drives.set_revoked(bench.drive.serial, True)
    expect(bench, error_of(exchange.on_frame(key_request)), ErrorCode.REVOKED_DRIVE)
    assert bench.watch.count == 0


@pytest.mark.rule("EKM-2")
def test_another_certificate_than_the_enrolled_one_is_refused(bench: Bench) -> None:
    double = SoftDrive.issued_by(authority(bench.site.lab), bench.drive.serial)
    expect(bench, bench.refused(ASK, double), ErrorCode.CERTIFICATE_MISMATCH, bench.drive.serial)
    assert bench.watch.count == 0


@pytest.mark.rule("EKM-2")
def test_a_stolen_certificate_without_its_key_is_refused(bench: Bench) -> None:
    thief = dataclasses.replace(bench.drive, key=ec.generate_private_key(ec.SECP256R1()))
    expect(bench, bench.refused(ASK, thief), ErrorCode.BAD_SIGNATURE, bench.drive.serial)
    assert bench.watch.count == 0
    drive = bench.drives.find(bench.drive.serial)
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
def test_a_request_that_the_relay_changed_is_refused(bench: Bench, change: dict[str, Any]) -> None:
    exchange, _, key_request = begun(bench)
    request = messages.decode(key_request)
    assert isinstance(request, KeyRequest)
    forged = dataclasses.replace(request, **change).encode()
    expect(bench, error_of(exchange.on_frame(forged)), ErrorCode.BAD_SIGNATURE)
    assert bench.watch.count == 0


def test_a_challenge_that_the_relay_changed_spoils_the_request(bench: Bench) -> None:
    exchange, session = bench.connect(), bench.session(ASK)
    challenge = decoded(exchange.on_frame(session.hello()))
    assert isinstance(challenge, Challenge)
    altered = dataclasses.replace(challenge, nonce=bytes(32)).encode()
    key_request = session.on_message(altered)
    assert key_request is not None
    expect(bench, error_of(exchange.on_frame(key_request)), ErrorCode.BAD_SIGNATURE)


# Replays


@pytest.mark.rule("EKM-2")
def test_an_exchange_sent_again_is_refused(bench: Bench) -> None:
    session = bench.session(ASK)
    exchange = bench.connect()
    hello = session.hello()
    challenge = exchange.on_frame(hello).frame
    assert challenge is not None
    key_request = session.on_message(challenge)
    assert key_request is not None
    reply_of(exchange.on_frame(key_request))
    asked = bench.watch.count
    again = bench.connect()
    assert isinstance(decoded(again.on_frame(hello)), Challenge)
    expect(bench, error_of(again.on_frame(key_request)), ErrorCode.WRONG_SESSION)
    # Not even the drive itself may use its nonce again.
    said, request = messages.decode(hello), messages.decode(key_request)
    assert isinstance(said, Hello)
    assert isinstance(request, KeyRequest)
    later = dataclasses.replace(request, sequence=request.sequence + 1)
    refusal = error_of(bench.challenged(said.nonce).ask(later))
    expect(bench, refusal, ErrorCode.REPLAYED_NONCE)
    assert bench.watch.count == asked


@pytest.mark.rule("EKM-2")
def test_a_request_recorded_earlier_is_refused_under_another_challenge(bench: Bench) -> None:
    exchange, _, key_request = begun(bench)
    reply_of(exchange.on_frame(key_request))
    replay = bench.connect()
    assert isinstance(decoded(replay.on_frame(bench.session(ASK).hello())), Challenge)
    expect(bench, error_of(replay.on_frame(key_request)), ErrorCode.WRONG_SESSION)
    again = bench.connect()
    challenge = decoded(again.on_frame(bench.session(ASK).hello()))
    request = messages.decode(key_request)
    assert isinstance(challenge, Challenge)
    assert isinstance(request, KeyRequest)
    moved = dataclasses.replace(request, session=challenge.session).encode()
    expect(bench, error_of(again.on_frame(moved)), ErrorCode.BAD_SIGNATURE)


@pytest.mark.rule("EKM-2")
def test_one_nonce_in_two_exchanges_at_once_is_refused_in_the_second(bench: Bench) -> None:
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
    first, second = bench.challenged(nonce), bench.challenged(nonce)
    reply_of(first.ask(request))
    asked = bench.watch.count
    refusal = error_of(second.ask(dataclasses.replace(request, sequence=2)))
    expect(bench, refusal, ErrorCode.REPLAYED_NONCE)
    assert bench.watch.count == asked


@pytest.mark.rule("EKM-2")
@pytest.mark.parametrize("sequence", [9, 10])
def test_a_sequence_number_that_does_not_grow_is_refused(bench: Bench, sequence: int) -> None:
    numbers = iter([10, sequence, 11])

    def session() -> DriveSession:
        return DriveSession(bench.drive, bench.trust, bench.drive.serial, ASK, numbers.__next__)

    assert bench.run(session()).grant
    asked = bench.watch.count
    failure = bench.run(session()).failure
    assert failure is not None
    expect(bench, Error(failure.code, str(failure)), ErrorCode.STALE_SEQUENCE, "10")
    assert bench.watch.count == asked
    assert bench.run(session()).grant


@pytest.mark.rule("EKM-2")
def test_sequence_numbers_are_kept_across_restarts(bench: Bench) -> None:
    numbers = iter([10, 10])

    def session() -> DriveSession:
        return DriveSession(bench.drive, bench.trust, bench.drive.serial, ASK, numbers.__next__)

    assert bench.run(session()).grant
    bench.drives.close()
    with DriveTable(bench.drives.path) as reopened:
        bench.manager = dataclasses.replace(bench.manager, drives=reopened)
        failure = bench.run(session()).failure
    assert failure is not None
    assert failure.code is ErrorCode.STALE_SEQUENCE


# The messages' order


def test_messages_out_of_order_are_refused(bench: Bench) -> None:
    _, _, key_request = begun(bench)
    expect(bench, error_of(bench.connect().on_frame(key_request)), ErrorCode.UNEXPECTED_MESSAGE)
    ack = Ack(session=bytes(16), status=0, signature=bytes(70)).encode()
    answer = bench.connect().on_frame(ack)
    expect(bench, error_of(answer), ErrorCode.UNEXPECTED_MESSAGE)
    assert answer.close, "the relay waits for no answer to an Ack"
    exchange, _, key_request = begun(bench)
    expect(bench, error_of(exchange.on_frame(ack)), ErrorCode.UNEXPECTED_MESSAGE)
    exchange, _, key_request = begun(bench)
    reply = exchange.on_frame(key_request).frame
    assert reply is not None
    expect(bench, error_of(exchange.on_frame(key_request)), ErrorCode.UNEXPECTED_MESSAGE)
    for theirs in (reply, Challenge(b"c", bytes(32), bytes(16)).encode()):
        expect(bench, error_of(bench.connect().on_frame(theirs)), ErrorCode.UNEXPECTED_MESSAGE)


def test_after_a_refusal_the_exchange_is_over(bench: Bench) -> None:
    exchange, _, key_request = begun(bench)
    request = messages.decode(key_request)
    assert isinstance(request, KeyRequest)
    forged = dataclasses.replace(request, volume="VOL002").encode()
    assert ErrorCode(error_of(exchange.on_frame(forged)).code) is ErrorCode.BAD_SIGNATURE
    expect(bench, error_of(exchange.on_frame(key_request)), ErrorCode.UNEXPECTED_MESSAGE)
    assert bench.watch.count == 0


def test_another_version_is_refused(bench: Bench) -> None:
    hello = Hello(bench.drive.certificate_der, nonce=bytes(32), version=9).encode()
    expect(bench, error_of(bench.connect().on_frame(hello)), ErrorCode.UNSUPPORTED_VERSION, "9")


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff" * 100, Ping().encode() + b"\x00"])
def test_garbage_is_refused_and_ends_the_connection(bench: Bench, data: bytes) -> None:
    answer = bench.connect().on_frame(data)
    expect(bench, error_of(answer), ErrorCode.MALFORMED_MESSAGE)
    assert answer.close


@pytest.mark.parametrize("which", [slice(None), slice(1), slice(1, None)])
def test_rekey_wraps_the_same_key_to_other_keks(bench: Bench, which: slice) -> None:
    made = bench.run(bench.session(ASK)).grant
    kek = bench.site.outsiders.kek
    labels = (KeyLabel(kek.label, KeyMode.HASH), KeyLabel(MAIN_KEY))
    grant = bench.run(bench.session(Rekey(VOLUME, CARTRIDGE_ID, made.eedks[which], labels))).grant
    new = [Eedk.decode(data) for data in grant.eedks]
    assert [(eedk.mode, eedk.label) for eedk in new] == [
        (KeyMode.HASH, None),
        (KeyMode.CLEAR, MAIN_KEY),
    ]
    data_key = bench.drive.data_key(made.sedk)
    assert kek.open(new[0].wrapped) == data_key == bench.drive.data_key(grant.sedk)
    again = bench.run(bench.session(Translate(VOLUME, CARTRIDGE_ID, grant.eedks[1:]))).grant
    assert bench.drive.data_key(again.sedk) == data_key
    assert not set(grant.eedks) & set(made.eedks)
    rekeyed = [record for record in bench.records() if record.get("operation") == "rekey"]
    assert [record["event"] for record in rekeyed] == ["key-reply", "ack"]
    assert f"{MAIN_KEY} (clear)" in rekeyed[0]["keys"]


@pytest.mark.rule("KEY-9")
def test_rekey_to_an_unknown_label_is_refused_before_an_eedk_is_opened(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench.run(bench.session(ASK)).grant
    monkeypatch.delattr(Token, "unwrap_data_key")
    error = bench.refused(Rekey(VOLUME, CARTRIDGE_ID, made.eedks, (KeyLabel("No Such Key"),)))
    expect(bench, error, ErrorCode.UNKNOWN_LABEL, "No Such Key")


@pytest.mark.rule("KEY-11")
def test_rekey_to_keys_that_nobody_here_can_open_is_refused_unless_allowed(bench: Bench) -> None:
    made = bench.run(bench.session(ASK)).grant
    labels = (KeyLabel(PUBLIC_ONLY[0]),)
    refusal = bench.refused(Rekey(VOLUME, CARTRIDGE_ID, made.eedks, labels))
    expect(bench, refusal, ErrorCode.PUBLIC_ONLY_PAIR, PUBLIC_ONLY[0])
    allowed = Rekey(VOLUME, CARTRIDGE_ID, made.eedks, labels, allow_public_only=True)
    assert len(bench.run(bench.session(allowed)).grant.eedks) == 2


def test_rekey_for_another_volume_is_refused(bench: Bench) -> None:
    made = bench.run(bench.session(ASK)).grant
    expect(
        bench,
        bench.refused(Rekey("VOL002", CARTRIDGE_ID, made.eedks, TWO_LABELS)),
        ErrorCode.WRONG_VOLUME,
    )


@pytest.mark.rule("EKM-11")
def test_a_label_query_tells_what_is_known_and_disturbs_nothing(bench: Bench) -> None:
    exchange, session, key_request = begun(bench)
    asked = (MAIN_KEY.upper(), "No Such Key", PUBLIC_ONLY[0])
    answer = decoded(exchange.on_frame(LabelQuery(asked).encode()))
    assert isinstance(answer, LabelAnswer)
    assert [state.label for state in answer.states] == list(asked)
    assert [state.known for state in answer.states] == [True, False, True]
    assert [state.has_private for state in answer.states] == [True, False, False]
    assert answer.states[0].kek_hash == bench.site.keystore.find(MAIN_KEY).spki_hash
    assert last_record(bench)["unknown"] == ["No Such Key"]
    reply = exchange.on_frame(key_request).frame
    assert reply is not None
    session.on_message(reply)
    assert session.grant


def test_a_forged_ack_is_recorded_and_ends_the_connection(bench: Bench) -> None:
    exchange, session, key_request = begun(bench)
    reply = exchange.on_frame(key_request).frame
    assert reply is not None
    frame = session.on_message(reply)
    assert frame is not None
    ack = messages.decode(frame)
    assert isinstance(ack, Ack)
    answer = exchange.on_frame(dataclasses.replace(ack, status=1).encode())
    expect(bench, error_of(answer), ErrorCode.BAD_SIGNATURE)
    assert answer.close
    assert last_record(bench)["event"] == "no-ack"


def test_an_ack_for_another_exchange_is_refused(bench: Bench) -> None:
    exchange, _, key_request = begun(bench)
    reply_of(exchange.on_frame(key_request))
    ack = Ack(session=bytes(16), status=0, signature=bytes(70)).encode()
    expect(bench, error_of(exchange.on_frame(ack)), ErrorCode.WRONG_SESSION)


# What is asked for


@pytest.mark.rule("KEY-9", "KEY-8")
def test_an_unknown_label_is_refused_by_name_before_any_key_is_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(Token, "generate_data_key", lambda token: made.append("key"))
    labels = (KeyLabel(MAIN_KEY), KeyLabel("No Such Key", KeyMode.HASH))
    error = bench.refused(Generate(VOLUME, CARTRIDGE_ID, labels))
    expect(bench, error, ErrorCode.UNKNOWN_LABEL, "No Such Key")
    assert last_record(bench)["keys"] == [f"{MAIN_KEY} (clear)", "No Such Key (hash)"]
    assert not made


@pytest.mark.rule("KEY-11", "KEY-4")
def test_a_pair_that_nobody_here_can_open_is_refused_unless_allowed(bench: Bench) -> None:
    labels = (KeyLabel(PUBLIC_ONLY[0]), KeyLabel(PUBLIC_ONLY[1]))
    error = bench.refused(Generate(VOLUME, CARTRIDGE_ID, labels))
    expect(bench, error, ErrorCode.PUBLIC_ONLY_PAIR, *PUBLIC_ONLY)
    grant = bench.run(
        bench.session(Generate(VOLUME, CARTRIDGE_ID, labels, allow_public_only=True))
    ).grant
    opened = bench.site.outsiders.public_only[1].open(Eedk.decode(grant.eedks[1]).wrapped)
    assert opened == bench.drive.data_key(grant.sedk), "the other site reads it"
    error = bench.refused(Translate(VOLUME, CARTRIDGE_ID, grant.eedks))
    expect(bench, error, ErrorCode.KEK_PUBLIC_ONLY, *PUBLIC_ONLY)


@pytest.mark.rule("KEY-11")
def test_one_private_half_of_two_is_enough(bench: Bench) -> None:
    labels = (KeyLabel(PUBLIC_ONLY[0]), KeyLabel(MAIN_KEY))
    assert bench.run(bench.session(Generate(VOLUME, CARTRIDGE_ID, labels))).grant


@pytest.mark.rule("EKM-2")
def test_a_drive_whose_wrap_key_the_token_does_not_trust_gets_nothing(bench: Bench) -> None:
    drive = SoftDrive.issued_by(authority(bench.site.lab), "UNWRAPPED")
    bench.drives.enrol(drive.serial, drive.certificate_der, drive.wrap_spki, OaepHash.SHA1)
    expect(bench, bench.refused(ASK, drive), ErrorCode.DRIVE_KEY_ABSENT, "not enrolled")


def partner_eedk(
    bench: Bench,
    label: str | None = None,
    kek_hash: bytes | None = None,
    kek: SoftKek | None = None,
    data_key: bytes = b"k" * 32,
) -> bytes:
    """Return an EEDK for VOLUME that another, trusted key manager made with a KEK of its own."""
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
    signature = bench.site.outsiders.partner.sign(eedk.signed_bytes(), ec.ECDSA(hashes.SHA256()))
    return eedk.with_signature(signature).encode()


@pytest.mark.rule("KEY-8")
def test_a_kek_that_has_gone_is_named_in_clear_mode(bench: Bench) -> None:
    error = bench.refused(
        Translate(VOLUME, CARTRIDGE_ID, (partner_eedk(bench, label="Gone Since"),))
    )
    expect(bench, error, ErrorCode.KEK_ABSENT, "Gone Since")
    assert last_record(bench)["keys"] == ["Gone Since (clear)"]


@pytest.mark.rule("KEY-8")
def test_a_kek_that_has_gone_is_only_a_hash_in_hash_mode(bench: Bench) -> None:
    error = bench.refused(
        Translate(VOLUME, CARTRIDGE_ID, (partner_eedk(bench, kek_hash=b"\xab" * 32),))
    )
    expect(bench, error, ErrorCode.KEK_ABSENT, "ab" * 32)


@pytest.mark.rule("KEY-7")
def test_the_right_label_over_another_key_does_not_open_and_the_hash_does(bench: Bench) -> None:
    """The DR site calls a key by the name that main gave to another one."""
    theirs = bench.site.outsiders.kek
    clear = partner_eedk(bench, label=MAIN_KEY, kek=theirs)
    error = bench.refused(Translate(VOLUME, CARTRIDGE_ID, (clear,)))
    expect(bench, error, ErrorCode.WRONG_KEK, MAIN_KEY)
    by_hash = partner_eedk(
        bench, kek_hash=bench.site.keystore.find("Made Outside").spki_hash, kek=theirs
    )
    grant = bench.run(bench.session(Translate(VOLUME, CARTRIDGE_ID, (by_hash,)))).grant
    assert bench.drive.data_key(grant.sedk) == b"k" * 32


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
def test_an_eedk_that_holds_no_aes_256_key_is_refused(bench: Bench, length: int) -> None:
    eedk = partner_eedk(
        bench, label="Made Outside", kek=bench.site.outsiders.kek, data_key=b"k" * length
    )
    expect(bench, bench.refused(Translate(VOLUME, CARTRIDGE_ID, (eedk,))), ErrorCode.WRONG_KEK)


@pytest.mark.parametrize("damage", [b"\x00", b"\xa0", b"e" * 1024])
def test_a_corrupt_eedk_is_refused(bench: Bench, damage: bytes) -> None:
    expect(bench, bench.refused(Translate(VOLUME, CARTRIDGE_ID, (damage,))), ErrorCode.CORRUPT_EEDK)
    assert last_record(bench)["keys"] == ["unreadable EEDK"]


def test_an_eedk_with_any_field_changed_is_refused(bench: Bench) -> None:
    made = bench.run(bench.session(ASK)).grant
    eedk = Eedk.decode(made.eedks[0])
    asked = bench.watch.count
    for change in (
        {"wrapped": eedk.wrapped[:-1] + bytes([eedk.wrapped[-1] ^ 1])},
        {"label": "Made Outside"},
        {"oaep_hash": OaepHash.SHA256},
        {"signature": bytes(70)},
    ):
        forged = dataclasses.replace(eedk, **change).encode()
        expect(
            bench, bench.refused(Translate(VOLUME, CARTRIDGE_ID, (forged,))), ErrorCode.FORGED_EEDK
        )
    assert bench.watch.count == asked, "nothing of it reaches the token"


@pytest.mark.parametrize("place", [0, 1])
def test_an_eedk_of_another_volume_is_refused_whatever_the_other_says(
    bench: Bench, place: int
) -> None:
    mine = bench.run(bench.session(ASK)).grant.eedks
    other = bench.run(bench.session(Generate("VOL002", CARTRIDGE_ID, TWO_LABELS))).grant.eedks
    eedks = (other[0], mine[1]) if place == 0 else (b"\x00", other[1])
    error = bench.refused(Translate(VOLUME, CARTRIDGE_ID, eedks))
    expect(bench, error, ErrorCode.WRONG_VOLUME, VOLUME, "VOL002")


def test_both_reasons_are_told_when_neither_opens(bench: Bench) -> None:
    eedks = (partner_eedk(bench, label="Gone Since"), partner_eedk(bench, kek_hash=b"\xab" * 32))
    error = bench.refused(Translate(VOLUME, CARTRIDGE_ID, eedks))
    expect(bench, error, ErrorCode.KEK_ABSENT, "Gone Since", "ab" * 32)


# What goes wrong here


def test_a_token_that_fails_is_its_own_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(keys: DataKeys) -> None:
        raise TokenRefusedError("The token refused to make a data key (DeviceError).")

    monkeypatch.setattr(DataKeys, "generate", refuse)
    expect(bench, bench.refused(ASK), ErrorCode.KEYSTORE_FAILURE, "DeviceError")


class Surprised(KeyService):
    """A key service with a bug, whose exception quotes what must not be told."""

    def generate(self, *arguments: object) -> KeyGrant:
        raise RuntimeError("SEC" + "RET")  # a traceback quotes source lines

    def translate(self, *arguments: object) -> Steps[KeyGrant]:
        raise RuntimeError("SEC" + "RET")  # a traceback quotes source lines

    def rekey(self, *arguments: object) -> KeyGrant:
        raise RuntimeError("SEC" + "RET")

    def label_states(self, labels: object) -> tuple[LabelState, ...]:
        raise RuntimeError("SEC" + "RET")


def test_an_unforeseen_failure_tells_its_kind_and_no_more(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.manager = dataclasses.replace(bench.manager, keys=Surprised())
    error = bench.refused(ASK)
    expect(bench, error, ErrorCode.INTERNAL_FAILURE, "RuntimeError")
    told = error.text + caplog.text + json.dumps(bench.records())
    assert "SECRET" not in told
    assert "test_exchange.py" in caplog.text, "where it happened is told"


def test_no_record_no_key(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange, _, key_request = begun(bench)

    def full(log: audit_log.AuditLog, event: str, **details: object) -> None:
        raise audit_log.AuditError("Cannot write the audit log.")

    monkeypatch.setattr(audit_log.AuditLog, "note", full)
    answer = exchange.on_frame(key_request)
    assert ErrorCode(error_of(answer).code) is ErrorCode.INTERNAL_FAILURE
    assert answer.close


@pytest.mark.rule("EKM-6")
def test_exchange_ends_without_answer_when_another_worker_holds_the_table(bench: Bench) -> None:
    """One that hangs in the middle of a change; the relay then asks the other key manager."""
    exchange, _, key_request = begun(bench)
    bench.drives._database.execute("PRAGMA busy_timeout = 50")
    before = bench.watch.count
    holder = sqlite3.connect(bench.drives.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        answer = exchange.on_frame(key_request)
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert answer == Answer(None, close=True)
    assert bench.watch.count == before, "no key work"
    last = bench.records()[-1]
    assert (last["event"], last["cause"]) == ("refusal", "INTERNAL_FAILURE")
    assert "drive table" in last["text"]
    assert bench.run(bench.session(ASK)).grant
