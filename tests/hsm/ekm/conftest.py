"""Fixtures: a provisioned lab, and a key manager on its token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hsm.ekm.audit.log import AuditLog
from hsm.ekm.config import EkmConfig
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.exchange import KeyManager
from hsm.ekm.key_service import TokenKeyService
from hsm.ekm.protocol.drive_side import DriveSession
from hsm.keys.data_keys import DataKeys
from hsm.keys.keystore import Keystore
from hsm.keys.pki import load_certificate
from hsm.pkcs11.token import Token, open_token
from hsm.provisioning import ProvisionedLab
from tests.support.ekm_lab import SoftDrive, SoftKek, TokenWatch, authority, der, make_lab
from tests.support.exchange_fixture import PUBLIC_ONLY, ExchangeFixture, Outsiders, Site
from tests.support.ports import reserve_port
from tests.support.running_ekm import REQUEST, make_config


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> ProvisionedLab:
    return make_lab(tmp_path_factory.mktemp("lab") / "state")


@pytest.fixture(scope="session")
def outsiders(lab: ProvisionedLab) -> Outsiders:
    return Outsiders(
        kek=SoftKek.make("Made Outside"),
        public_only=(SoftKek.make(PUBLIC_ONLY[0]), SoftKek.make(PUBLIC_ONLY[1])),
        drive=SoftDrive.issued_by(authority(lab)),
        partner=ec.generate_private_key(ec.SECP256R1()),
    )


@pytest.fixture(scope="module")
def site(lab: ProvisionedLab, outsiders: Outsiders) -> Iterator[Site]:
    with open_token(lab.ekm_token) as token:
        keystore = Keystore(token)
        kek = outsiders.kek
        keystore.import_kek(kek.label, kek.pem, kek.certificate)
        for public in outsiders.public_only:
            keystore.import_certificate(public.label, public.certificate)
        keystore.enroll_drive_key(outsiders.drive.serial, outsiders.drive.wrap_spki)
        yield Site(lab, token, keystore, outsiders)


@pytest.fixture
def exchanges(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ExchangeFixture]:
    data_keys = DataKeys(site.keystore, [site.outsiders.partner.public_key()])
    watch = TokenWatch(Token.translate_refusal)
    with AuditLog(tmp_path / "audit.jsonl") as log, DriveTable(tmp_path / "drives") as drives:
        drive = site.outsiders.drive
        drives.enrol(drive.serial, drive.certificate_der, drive.wrap_spki, drive.oaep_hash)
        manager = KeyManager(
            certificate_der=der(load_certificate(site.lab.ekm_certificate)),
            sign=data_keys.sign,
            drive_ca=load_certificate(site.lab.ca),
            drives=drives,
            audit=log,
            keys=TokenKeyService(data_keys),
        )
        monkeypatch.setattr(Token, "translate_refusal", lambda token, what: watch(token, what))
        yield ExchangeFixture(site, manager, drives, watch)


@pytest.fixture
def config(lab: ProvisionedLab, outsiders: Outsiders, tmp_path: Path) -> EkmConfig:
    return make_config(
        lab,
        outsiders,
        tmp_path,
        workers=2,
        metrics_port=reserve_port(),
        log_format="json",
        log_level="info",
    )


@pytest.fixture
def session(lab: ProvisionedLab, outsiders: Outsiders) -> DriveSession:
    return DriveSession(
        outsiders.drive, der(load_certificate(lab.ca)), outsiders.drive.serial, REQUEST
    )
