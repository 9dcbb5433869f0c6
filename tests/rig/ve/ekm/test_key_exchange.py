"""The drive's side of a key exchange, and its relay to a key manager."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hsm.ekm.audit import log as audit_log
from hsm.ekm.client import EkmEndpoint
from hsm.ekm.config import EkmConfig, enrol_drives, lab_config
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.protocol import messages
from hsm.ekm.protocol.drive_side import DriveSession, Generate, Translate
from hsm.ekm.protocol.errors import EkmUnavailable, ErrorCode, ExchangeError, ExchangeRefusedError
from hsm.ekm.protocol.messages import Ack, Challenge, Error, Hello, KeyReply, KeyRequest, Ping
from hsm.ekm.protocol.transcript import Transcript
from hsm.ekm.service.launch import EkmProcess, spawn_ekm
from hsm.keys.eedk import Eedk, KeyLabel, KeyMode
from hsm.keys.pki import CertificateAuthority, Role, load_certificate
from hsm.pkcs11.oaep import OaepHash
from hsm.provisioning import ProvisionedLab
from rig.drive.secure_element import SecureElement, SecureElementConfig, SedkError
from rig.ve.ekm.proxy import EkmProxy
from tests.support.ekm_lab import (
    CARTRIDGE_ID,
    DR_KEY,
    MAIN_KEY,
    REAL_SERIAL,
    SoftDrive,
    authority,
    der,
    make_lab,
    unsealed,
)

VOLUME = "VOL001"
LABELS = (KeyLabel(MAIN_KEY), KeyLabel(DR_KEY, KeyMode.HASH))
ASK = Generate(VOLUME, CARTRIDGE_ID, LABELS)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("ca"))


# A key manager made of software, which says whatever a test wants


def eedk(volume: str = VOLUME, label: KeyLabel = LABELS[0]) -> bytes:
    clear = label.mode is KeyMode.CLEAR
    return Eedk(
        version=1,
        algorithm="RSA-OAEP",
        oaep_hash=OaepHash.SHA1,
        mode=label.mode,
        label=label.label if clear else None,
        kek_hash=None if clear else bytes(32),
        wrapped=bytes(256),
        volume=volume,
        signature=bytes(70),
    ).encode()


GOOD_EEDKS = (eedk(), eedk(label=LABELS[1]))


@dataclasses.dataclass
class SoftEkm:
    """Answers one exchange; ``change`` edits the reply before it is signed."""

    ca: CertificateAuthority
    role: Role = Role.KEY_MANAGER
    eedks: tuple[bytes, ...] = GOOD_EEDKS
    change: Callable[[KeyReply], KeyReply] = lambda reply: reply

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        identity = self.ca.issue_identity("EKM", self._key.public_key(), self.role)
        self.transcript = Transcript()
        self.challenge = Challenge(der(identity), bytes(32), b"s" * 16)

    def on_hello(self, hello: bytes) -> bytes:
        answer = self.challenge.encode()
        self.transcript.add(hello)
        self.transcript.add(answer)
        return answer

    def on_request(self, data: bytes) -> bytes:
        request = messages.decode(data)
        assert isinstance(request, KeyRequest)
        self.transcript.add(data)
        reply = self.change(KeyReply(b"s" * 16, b"w" * 256, self.eedks, request.sequence))
        return self.transcript.signed(
            reply, lambda data: self._key.sign(data, ec.ECDSA(hashes.SHA256()))
        )


@pytest.fixture(scope="module")
def soft_drive(ca: CertificateAuthority) -> SoftDrive:
    return SoftDrive.issued_by(ca)


@dataclasses.dataclass
class DriveFixture:
    """A drive's session with a software key manager."""

    ca: CertificateAuthority
    drive: SoftDrive

    def session(self, request: Generate | Translate = ASK) -> DriveSession:
        return DriveSession(self.drive, der(self.ca.certificate), self.drive.serial, request)

    def run(self, ekm: SoftEkm, request: Generate | Translate = ASK) -> DriveSession:
        """Run the exchange until the drive has decided; keep its last message."""
        session = self.session(request)
        self.last_message = session.on_message(ekm.on_hello(session.hello()))
        if not session.finished:
            assert self.last_message is not None
            self.last_message = session.on_message(ekm.on_request(self.last_message))
        return session

    def refusal(self, ekm: SoftEkm, request: Generate | Translate = ASK) -> ErrorCode:
        """Run an exchange that the drive refuses; check its last message."""
        session = self.run(ekm, request)
        assert session.failure is not None
        with pytest.raises(ExchangeError) as failure:
            _ = session.grant
        assert failure.value is session.failure
        assert self.last_message is not None
        message = messages.decode(self.last_message)
        assert message == Error(session.failure.code, str(session.failure))
        return session.failure.code


@pytest.fixture
def drive_side(ca: CertificateAuthority, soft_drive: SoftDrive) -> DriveFixture:
    return DriveFixture(ca, soft_drive)


def test_drive_acknowledges_a_valid_reply_and_has_the_grant(drive_side: DriveFixture) -> None:
    ekm = SoftEkm(drive_side.ca)
    session = drive_side.run(ekm)
    assert session.finished
    assert session.grant.eedks == GOOD_EEDKS
    assert session.grant.sedk == b"w" * 256
    assert drive_side.last_message is not None
    ack = messages.decode(drive_side.last_message)
    assert isinstance(ack, Ack)
    assert (ack.session, ack.status) == (b"s" * 16, 0)
    drive_side.drive.key.public_key().verify(
        ack.signature, ekm.transcript.draft(ack).digest, ec.ECDSA(hashes.SHA256())
    )


def test_translate_keeps_the_eedks_of_the_request(drive_side: DriveFixture) -> None:
    session = drive_side.run(
        SoftEkm(drive_side.ca, eedks=()), Translate(VOLUME, CARTRIDGE_ID, GOOD_EEDKS)
    )
    assert session.grant.eedks == GOOD_EEDKS


def test_drive_accepts_one_label_for_both_eedks(drive_side: DriveFixture) -> None:
    ekm = SoftEkm(drive_side.ca, eedks=(eedk(), eedk()))
    assert drive_side.run(ekm, Generate(VOLUME, CARTRIDGE_ID, LABELS[:1])).grant


def test_drive_accepts_a_label_in_another_case(drive_side: DriveFixture) -> None:
    ekm = SoftEkm(drive_side.ca, eedks=(eedk(label=KeyLabel(MAIN_KEY.upper())), GOOD_EEDKS[1]))
    assert drive_side.run(ekm).grant


def test_drive_refuses_a_key_manager_of_another_authority(
    drive_side: DriveFixture, tmp_path: Path
) -> None:
    other = CertificateAuthority(tmp_path)
    assert drive_side.refusal(SoftEkm(other)) is ErrorCode.UNTRUSTED_CERTIFICATE


def test_drive_refuses_a_drive_as_a_key_manager(drive_side: DriveFixture) -> None:
    assert (
        drive_side.refusal(SoftEkm(drive_side.ca, role=Role.DRIVE))
        is ErrorCode.UNTRUSTED_CERTIFICATE
    )


def test_drive_refuses_an_expired_key_manager(
    drive_side: DriveFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Late:
            return cls(2999, 1, 1, tzinfo=tz)

    monkeypatch.setattr("hsm.ekm.protocol.identities.datetime", Late)
    assert drive_side.refusal(SoftEkm(drive_side.ca)) is ErrorCode.UNTRUSTED_CERTIFICATE


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sequence": 1}, ErrorCode.STALE_SEQUENCE),
        ({"session": b"t" * 16}, ErrorCode.WRONG_SESSION),
        ({"eedks": (eedk("VOL002"), GOOD_EEDKS[1])}, ErrorCode.WRONG_VOLUME),
        ({"eedks": (GOOD_EEDKS[0], eedk("VOL002", LABELS[1]))}, ErrorCode.WRONG_VOLUME),
        ({"eedks": (b"garbage", GOOD_EEDKS[1])}, ErrorCode.CORRUPT_EEDK),
        ({"eedks": GOOD_EEDKS[::-1]}, ErrorCode.BAD_REPLY),
        ({"eedks": GOOD_EEDKS[:1]}, ErrorCode.BAD_REPLY),
        ({"eedks": ()}, ErrorCode.BAD_REPLY),
        ({"eedks": (eedk(label=KeyLabel("Other")), GOOD_EEDKS[1])}, ErrorCode.BAD_REPLY),
        ({"eedks": (GOOD_EEDKS[0], GOOD_EEDKS[0])}, ErrorCode.BAD_REPLY),
    ],
)
def test_drive_refuses_a_reply_to_another_request(
    drive_side: DriveFixture, change: dict[str, Any], code: ErrorCode
) -> None:
    """Signed by the true key manager, and wrong all the same."""
    ekm = SoftEkm(drive_side.ca, change=lambda reply: dataclasses.replace(reply, **change))
    assert drive_side.refusal(ekm) is code


def test_drive_refuses_eedks_that_it_did_not_ask_for(drive_side: DriveFixture) -> None:
    assert (
        drive_side.refusal(SoftEkm(drive_side.ca), Translate(VOLUME, CARTRIDGE_ID, GOOD_EEDKS))
        is ErrorCode.BAD_REPLY
    )


@pytest.mark.rule("BOT-2c")
@pytest.mark.parametrize(
    "change",
    [
        {"sedk": b"x" * 256},
        {"eedks": ()},
        {"sequence": 1},
        {"signature": bytes(70)},
        {"signature": b"\x30\x06\x02\x01\x01\x02\x01\x01"},
    ],
)
def test_drive_refuses_a_reply_that_the_relay_changed(
    drive_side: DriveFixture, change: dict[str, Any]
) -> None:
    class Relayed(SoftEkm):
        def on_request(self, data: bytes) -> bytes:
            reply = messages.decode(super().on_request(data))
            assert isinstance(reply, KeyReply)
            return dataclasses.replace(reply, **change).encode()

    assert drive_side.refusal(Relayed(drive_side.ca)) is ErrorCode.BAD_SIGNATURE


def test_drive_refuses_a_reply_of_an_earlier_exchange(drive_side: DriveFixture) -> None:
    first = SoftEkm(drive_side.ca)
    session = drive_side.session()
    request = session.on_message(first.on_hello(session.hello()))
    assert request is not None
    old = first.on_request(request)
    again = SoftEkm(drive_side.ca)
    session.hello()
    session.on_message(again.challenge.encode())
    session.on_message(old)
    assert session.failure is not None
    assert session.failure.code is ErrorCode.BAD_SIGNATURE


@pytest.mark.parametrize(
    "answer",
    [
        Ping().encode(),
        Hello(b"c", bytes(32)).encode(),
        KeyReply(b"s" * 16, b"w", (), 1, bytes(70)).encode(),
        Ack(b"s" * 16, 0, bytes(70)).encode(),
    ],
    ids=["ping", "hello", "key-reply", "ack"],
)
def test_drive_refuses_messages_out_of_order(drive_side: DriveFixture, answer: bytes) -> None:
    session = drive_side.session()
    session.hello()
    assert session.on_message(answer) is not None
    assert session.failure is not None
    assert session.failure.code is ErrorCode.UNEXPECTED_MESSAGE


def test_drive_refuses_a_second_challenge(drive_side: DriveFixture) -> None:
    session = drive_side.session()
    challenge = SoftEkm(drive_side.ca).on_hello(session.hello())
    session.on_message(challenge)
    session.on_message(challenge)
    assert session.failure is not None
    assert session.failure.code is ErrorCode.UNEXPECTED_MESSAGE


@pytest.mark.parametrize("answer", [b"", b"garbage", b"\xff" * 70000])
def test_drive_refuses_invalid_messages(drive_side: DriveFixture, answer: bytes) -> None:
    session = drive_side.session()
    session.hello()
    assert session.on_message(answer) is not None
    assert session.failure is not None
    assert session.failure.code is ErrorCode.MALFORMED_MESSAGE


@pytest.mark.parametrize(
    ("code", "known"),
    [(ErrorCode.UNKNOWN_LABEL, ErrorCode.UNKNOWN_LABEL), (250, ErrorCode.INTERNAL_FAILURE)],
)
def test_drive_session_keeps_the_key_managers_refusal(
    drive_side: DriveFixture, code: int, known: ErrorCode
) -> None:
    session = drive_side.session()
    session.hello()
    assert session.on_message(Error(code, "No key labelled 'X'.").encode()) is None
    with pytest.raises(ExchangeRefusedError, match="No key labelled 'X'"):
        _ = session.grant
    assert session.failure is not None
    assert session.failure.code is known


def test_drive_session_takes_nothing_before_hello_or_after_its_end(
    drive_side: DriveFixture,
) -> None:
    challenge = SoftEkm(drive_side.ca).challenge.encode()
    with pytest.raises(ExchangeError, match="outside of a key exchange"):
        drive_side.session().on_message(challenge)
    with pytest.raises(ExchangeError, match="is not finished"):
        _ = drive_side.session().grant
    with pytest.raises(ExchangeError, match="outside of a key exchange"):
        drive_side.run(SoftEkm(drive_side.ca)).on_message(challenge)


def test_attempt_has_a_nonce_and_a_sequence_number_of_its_own(drive_side: DriveFixture) -> None:
    session = drive_side.session()
    nonces, sequences = set(), []
    for _ in range(50):
        hello = messages.decode(session.hello())
        assert isinstance(hello, Hello)
        nonces.add(hello.nonce)
        request_bytes = session.on_message(SoftEkm(drive_side.ca).challenge.encode())
        assert request_bytes is not None
        request = messages.decode(request_bytes)
        assert isinstance(request, KeyRequest)
        sequences.append(request.sequence)
    assert len(nonces) == 50
    assert sequences == sorted(set(sequences))


# Through the relay to a real key manager


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> ProvisionedLab:
    return make_lab(tmp_path_factory.mktemp("lab") / "state")


@pytest.fixture(scope="module")
def config(lab: ProvisionedLab) -> EkmConfig:
    config = lab_config(lab, port=0)
    enrol_drives(config, lab)
    return config


@pytest.fixture(scope="module")
def ekm(config: EkmConfig) -> Iterator[EkmProcess]:
    with spawn_ekm(config) as process:
        yield process


@pytest.fixture(scope="module")
def element(lab: ProvisionedLab) -> Iterator[SecureElement]:
    with SecureElement.start(SecureElementConfig.of(lab.drive(REAL_SERIAL))) as started:
        yield started


@pytest.fixture
def endpoint(lab: ProvisionedLab, ekm: EkmProcess) -> EkmEndpoint:
    return EkmEndpoint(ekm.host, ekm.port, lab.rig_tls)


@pytest.fixture
def proxy(endpoint: EkmEndpoint) -> Iterator[EkmProxy]:
    with EkmProxy([endpoint]) as opened:
        yield opened


AskFor = Callable[[Generate | Translate], DriveSession]


@pytest.fixture
def ask(lab: ProvisionedLab, element: SecureElement) -> AskFor:
    trust = der(load_certificate(lab.ca))
    return lambda request: DriveSession(element, trust, REAL_SERIAL, request)


@pytest.mark.rule("EKM-3", "BOT-2b", "BOT-2c", "BOT-2d", "KEY-12")
def test_data_key_reaches_the_drive_sealed_for_its_gates(
    lab: ProvisionedLab, proxy: EkmProxy, ask: AskFor, element: SecureElement
) -> None:
    session = ask(ASK)
    proxy.exchange(session)
    blob = element.rewrap_for_engine(session.grant.sedk)
    assert len(blob) == 40
    data_key = unsealed(lab.drive(REAL_SERIAL), blob)
    assert len(data_key) == 32
    assert data_key not in session.grant.sedk + b"".join(session.grant.eedks) + blob


@pytest.mark.rule("KEY-1", "APP-2d", "APP-2e", "READ-2b", "READ-2c", "READ-2d")
def test_translate_brings_the_same_data_key_back(
    lab: ProvisionedLab, proxy: EkmProxy, ask: AskFor, element: SecureElement
) -> None:
    def data_key(request: Generate | Translate) -> tuple[bytes, tuple[bytes, ...]]:
        session = ask(request)
        proxy.exchange(session)
        blob = element.rewrap_for_engine(session.grant.sedk)
        return unsealed(lab.drive(REAL_SERIAL), blob), session.grant.eedks

    written, eedks = data_key(ASK)
    for which in (eedks, eedks[::-1], eedks[:1], eedks[1:]):
        assert data_key(Translate(VOLUME, CARTRIDGE_ID, which))[0] == written
    assert data_key(ASK)[0] != written


@pytest.mark.rule("KEY-12")
def test_sedk_is_of_no_use_to_another_drive(
    lab: ProvisionedLab, proxy: EkmProxy, ask: AskFor, element: SecureElement
) -> None:
    session = ask(ASK)
    proxy.exchange(session)
    for foreign in (session.grant.sedk[::-1], Eedk.decode(session.grant.eedks[0]).wrapped):
        with pytest.raises(SedkError):
            element.rewrap_for_engine(foreign)


@pytest.mark.rule("KEY-9")
def test_refusal_reaches_the_engine_with_its_code_and_the_label(
    proxy: EkmProxy, ask: AskFor
) -> None:
    session = ask(Generate(VOLUME, CARTRIDGE_ID, (KeyLabel("No Such Key"),)))
    with pytest.raises(ExchangeRefusedError, match="No Such Key") as refusal:
        proxy.exchange(session)
    assert refusal.value.code is ErrorCode.UNKNOWN_LABEL
    proxy.exchange(ask(ASK))


@pytest.mark.rule("EKM-2")
def test_revoked_drive_gets_nothing_through_the_relay(
    proxy: EkmProxy, ask: AskFor, config: EkmConfig
) -> None:
    with DriveTable(config.drive_table) as table:
        table.set_revoked(REAL_SERIAL, True)
        try:
            with pytest.raises(ExchangeRefusedError) as refusal:
                proxy.exchange(ask(ASK))
        finally:
            table.set_revoked(REAL_SERIAL, False)
    assert refusal.value.code is ErrorCode.REVOKED_DRIVE


def test_drive_that_refuses_a_reply_reports_it_to_the_key_manager(
    proxy: EkmProxy, element: SecureElement, config: EkmConfig, tmp_path: Path
) -> None:
    stranger = der(CertificateAuthority(tmp_path).certificate)
    session = DriveSession(element, stranger, REAL_SERIAL, ASK)
    with pytest.raises(ExchangeError) as refusal:
        proxy.exchange(session)
    assert refusal.value.code is ErrorCode.UNTRUSTED_CERTIFICATE
    record = list(audit_log.records(config.audit))[-1]
    assert (record["event"], record["serial"]) == ("drive-error", REAL_SERIAL)
    assert record["cause"] == "UNTRUSTED_CERTIFICATE"


class OpaqueSession:
    """A session whose messages are not valid; a relay must not read them."""

    def __init__(self) -> None:
        self.answer = b""
        self.finished = False
        self.failure: ExchangeError | None = None

    def hello(self) -> bytes:
        return b"\x00 not a message"

    def on_message(self, data: bytes) -> bytes | None:
        self.answer = data
        self.finished = True
        return None


@pytest.mark.rule("BOT-2c", "APP-2d", "READ-2c")
def test_relay_carries_messages_unopened(endpoint: EkmEndpoint, ask: AskFor) -> None:
    relayed: list[tuple[str, bytes]] = []
    with EkmProxy([endpoint], observer=lambda *seen: relayed.append(seen)) as proxy:
        blind = OpaqueSession()
        proxy.exchange(blind)
        answer = messages.decode(blind.answer)
        assert isinstance(answer, Error)
        assert answer.code == ErrorCode.MALFORMED_MESSAGE
        relayed.clear()
        proxy.exchange(ask(ASK))
    assert [direction for direction, _ in relayed] == [
        "to-ekm",
        "to-drive",
        "to-ekm",
        "to-drive",
        "to-ekm",
    ]
    kinds = [type(messages.decode(data)) for _, data in relayed]
    assert kinds == [Hello, Challenge, KeyRequest, KeyReply, Ack]


@pytest.mark.rule("EKM-5")
def test_connection_serves_many_exchanges(proxy: EkmProxy, ask: AskFor, ekm: EkmProcess) -> None:
    def connections() -> int:
        links = [link.readlink() for link in Path(f"/proc/{ekm.pid}/fd").iterdir()]
        return sum(str(link).startswith("socket:") for link in links)

    proxy.exchange(ask(ASK))
    before = connections()
    for _ in range(3):
        proxy.exchange(ask(ASK))
        assert proxy.ping()
    assert connections() == before


# Several key managers


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_proxy_uses_the_next_key_manager_when_the_first_is_down(
    endpoint: EkmEndpoint, ask: AskFor
) -> None:
    down = dataclasses.replace(endpoint, port=closed_port())
    session = ask(ASK)
    with EkmProxy([down, endpoint]) as proxy:
        assert list(proxy.ping()) == [endpoint]
        proxy.exchange(session)
        assert proxy.endpoints == (down, endpoint)
    assert session.grant


def test_proxy_names_all_key_managers_when_none_is_left(endpoint: EkmEndpoint, ask: AskFor) -> None:
    down = [dataclasses.replace(endpoint, port=closed_port()) for _ in range(2)]
    with EkmProxy(down) as proxy:
        for call in (proxy.ping, proxy.connect, lambda: proxy.exchange(ask(ASK))):
            with pytest.raises(EkmUnavailable) as failure:
                call()
            assert all(str(each) in str(failure.value) for each in down)
    with EkmProxy(down[:1]) as proxy, pytest.raises(EkmUnavailable, match="nothing listens there"):
        proxy.exchange(ask(ASK))


def test_proxy_without_a_key_manager_is_refused_in_one_sentence() -> None:
    with pytest.raises(EkmUnavailable, match="No key manager is configured"):
        EkmProxy([])


class CuttingServer:
    """A TCP relay that breaks off as the answer numbered ``after`` comes back."""

    def __init__(self, target: tuple[str, int], after: int) -> None:
        self._target, self._after = target, after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        near, _ = self._listener.accept()
        self._listener.close()
        far = socket.create_connection(self._target)
        threading.Thread(target=self._pass_back, args=(far, near), daemon=True).start()
        try:
            while part := near.recv(65536):
                far.sendall(part)
        except OSError:
            pass
        finally:
            far.close()

    def _pass_back(self, far: socket.socket, near: socket.socket) -> None:
        """Count TLS application records from the key manager.

        The first is the handshake's own, then there is one for each answer.
        """
        pending, answers = b"", 0
        try:
            while part := far.recv(65536):
                pending += part
                while len(pending) >= 5 and len(pending) >= 5 + int.from_bytes(pending[3:5]):
                    length = 5 + int.from_bytes(pending[3:5])
                    record, pending = pending[:length], pending[length:]
                    answers += record[0] == 23 and length > 400
                    if answers > self._after:
                        return
                    near.sendall(record)
        except OSError:
            pass
        finally:
            near.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(("after", "heard"), [(1, 0), (2, 1)], ids=["challenge", "key-reply"])
def test_exchange_cut_anywhere_goes_whole_to_the_next_key_manager(
    endpoint: EkmEndpoint, ask: AskFor, element: SecureElement, after: int, heard: int
) -> None:
    cut = dataclasses.replace(
        endpoint, port=CuttingServer((endpoint.host, endpoint.port), after).port
    )
    relayed: list[type] = []
    with EkmProxy(
        [cut, endpoint], 5, lambda direction, data: relayed.append(type(messages.decode(data)))
    ) as proxy:
        session = ask(ASK)
        proxy.exchange(session)
    assert len(element.rewrap_for_engine(session.grant.sedk)) == 40
    first = [Hello, Challenge, KeyRequest][: 1 + 2 * heard]
    assert relayed == [*first, Hello, Challenge, KeyRequest, KeyReply, Ack]


def test_connection_that_died_unnoticed_is_replaced(
    endpoint: EkmEndpoint, ask: AskFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EkmProxy([endpoint]) as proxy:
        proxy.exchange(ask(ASK))
        # The end of it has not arrived yet, as far as this side can see.
        monkeypatch.setattr("hsm.ekm.client._is_idle", lambda connection: True)
        proxy.exchange(OpaqueSession())
        proxy.exchange(ask(ASK))


def test_proxy_names_the_only_key_manager_lost_in_an_exchange(
    endpoint: EkmEndpoint, ask: AskFor
) -> None:
    cut = dataclasses.replace(endpoint, port=CuttingServer((endpoint.host, endpoint.port), 2).port)
    with EkmProxy([cut]) as proxy, pytest.raises(EkmUnavailable, match="it closed the connection"):
        proxy.exchange(ask(ASK))


def test_proxy_stops_waiting_for_a_key_manager_that_does_not_answer(
    endpoint: EkmEndpoint, ask: AskFor
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = dataclasses.replace(endpoint, port=silent.getsockname()[1])
        with EkmProxy([mute, endpoint], answer_seconds=1) as proxy:
            proxy.exchange(ask(ASK))


def test_provisioning_issues_what_the_exchange_checks(lab: ProvisionedLab) -> None:
    drive = lab.drive(REAL_SERIAL)
    roles = x509.load_der_x509_certificate(drive.certificate_der).extensions
    assert list(roles.get_extension_for_class(x509.ExtendedKeyUsage).value) == [Role.DRIVE.value]
    assert authority(lab).certificate == load_certificate(lab.ca)


def test_children_of_the_rig_are_in_process_groups_of_their_own(
    ekm: EkmProcess, element: SecureElement
) -> None:
    """Ctrl-C would end them while they start, each with a traceback."""
    children = {ekm.pid, element.pid}
    workers = {
        int(each) for each in Path(f"/proc/{ekm.pid}/task/{ekm.pid}/children").read_text().split()
    }
    assert workers
    for pid in children | workers:
        assert os.getpgid(pid) == pid
