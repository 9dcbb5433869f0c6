"""A cartridge of the main site at the DR site (KEY-4, KEY-7, KEY-8).

The DR site has a token, an authority and a key manager of its own; the drive is the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from hsm.ekm.client import EkmEndpoint
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.protocol.errors import ErrorCode, ExchangeError
from hsm.ekm.service.launch import spawn_ekm
from hsm.keys.eedk import KeyLabel, KeyMode
from hsm.keys.keystore import Keystore
from hsm.keys.pki import load_certificate
from hsm.pkcs11.token import open_token
from rig.drive.drive import Drive
from rig.ve.catalogue.model import PoolSettings
from rig.ve.ekm.proxy import EkmProxy
from tests.support.ekm_lab import SoftKek
from tests.support.provisioned import provision_lab
from tests.support.tape_site import SERIAL, DriveFixture, Site, ekm_settings
from tests.support.volume_sinks import CompareSink

MAIN_KEY = "June 2007 Key"
DR_KEY_AT_MAIN = "June 2007 DR Site Key"
MAIN_KEY_AT_DR = "June 2007 Main Site Key"
DR_KEY_AT_DR = "June 2007 Key"


@dataclass
class DrSite:
    """The other site: its key manager and the authority of its drive."""

    proxy: EkmProxy
    ca_der: bytes


@pytest.fixture(scope="session")
def keks(site: Site) -> tuple[SoftKek, SoftKek]:
    """Return the main site's KEK and the DR site's.

    The main site has the public half of the second.
    """
    main, other = SoftKek.make(MAIN_KEY), SoftKek.make(DR_KEY_AT_MAIN)
    with open_token(site.lab.ekm_token) as token:
        Keystore(token).import_kek(MAIN_KEY, main.pem, main.certificate)
        Keystore(token).import_certificate(DR_KEY_AT_MAIN, other.certificate)
    return main, other


@pytest.fixture(scope="module")
def dr_site(
    site: Site, keks: tuple[SoftKek, SoftKek], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DrSite]:
    folder = tmp_path_factory.mktemp("dr")
    lab = provision_lab(folder / "state", [], [])
    drive = site.lab.drive(SERIAL)
    main, other = keks
    with open_token(lab.ekm_token) as token:
        keystore = Keystore(token)
        keystore.import_certificate(MAIN_KEY_AT_DR, main.certificate)
        keystore.import_kek(DR_KEY_AT_DR, other.pem, other.certificate)
        keystore.enroll_drive_key(SERIAL, drive.wrap_public_der)
    config = ekm_settings(lab, folder).replace(
        drive_ca=site.lab.ca, partners=(site.lab.ekm_certificate,)
    )
    with DriveTable(config.drive_table) as table:
        table.enrol(SERIAL, drive.certificate_der, drive.wrap_public_der, drive.oaep_hash)
    with ExitStack() as stack:
        ekm = stack.enter_context(spawn_ekm(config))
        proxy = stack.enter_context(EkmProxy([EkmEndpoint(ekm.host, ekm.port, lab.rig_tls)]))
        yield DrSite(proxy, load_certificate(lab.ca).public_bytes(Encoding.DER))


def take_to(dr_site: DrSite, fixture: DriveFixture) -> None:
    """Move the fixture to the DR site."""
    drive = Drive(
        fixture.site.engine, fixture.site.element, SERIAL, "TS1120", ekm_ca_der=dr_site.ca_der
    )
    fixture.drive = fixture.sequences.drive = drive
    fixture.sequences.proxy = dr_site.proxy


def pool(mode: KeyMode) -> PoolSettings:
    return PoolSettings(1, True, (KeyLabel(MAIN_KEY, mode), KeyLabel(DR_KEY_AT_MAIN, mode)))


@pytest.mark.rule("KEY-4", "KEY-7", "READ-2d", "APP-2e")
def test_hash_mode_cartridge_is_read_and_appended_at_the_other_site(
    site: Site, dr_site: DrSite, tmp_path: Path
) -> None:
    fixture = site.fixture(tmp_path, pool(KeyMode.HASH))
    first, second = fixture.volumes(1000, 300_000), fixture.volumes(50)
    volser = fixture.write_from_bot(1, first)
    take_to(dr_site, fixture)
    sink = CompareSink(first)
    fixture.sequences.read(volser, sink)
    assert sink.all_equal
    fixture.sequences.append(volser, second)
    back = site.fixture(tmp_path, pool(KeyMode.HASH))
    sink = CompareSink([*first, *second])
    back.sequences.read(volser, sink)
    assert sink.all_equal


@pytest.mark.rule("KEY-7")
def test_clear_mode_cartridge_is_refused_where_labels_differ(
    site: Site, dr_site: DrSite, tmp_path: Path
) -> None:
    fixture = site.fixture(tmp_path, pool(KeyMode.CLEAR))
    volumes = fixture.volumes(1000)
    volser = fixture.write_from_bot(1, volumes)
    take_to(dr_site, fixture)
    fixture.steps()
    with pytest.raises(ExchangeError) as caught:
        fixture.sequences.read(volser)
    assert caught.value.code in (ErrorCode.KEK_ABSENT, ErrorCode.WRONG_KEK)
    assert fixture.steps() == ["READ-1", "READ-2a", "READ-2b", "READ-2c!", "READ-4"]
    back = site.fixture(tmp_path, pool(KeyMode.CLEAR))
    sink = CompareSink(volumes)
    back.sequences.read(volser, sink)
    assert sink.all_equal


@pytest.mark.rule("KEY-8")
@pytest.mark.parametrize("mode", [KeyMode.CLEAR, KeyMode.HASH])
def test_error_names_a_missing_kek_in_clear_mode_only(
    site: Site, dr_site: DrSite, tmp_path: Path, mode: KeyMode
) -> None:
    fixture = site.fixture(
        tmp_path, PoolSettings(1, True, (KeyLabel("KEK 1", mode), KeyLabel("KEK 2", mode)))
    )
    volser = fixture.write_from_bot(1, fixture.volumes(100))
    take_to(dr_site, fixture)
    with pytest.raises(ExchangeError) as caught:
        fixture.sequences.read(volser)
    assert caught.value.code is ErrorCode.KEK_ABSENT
    named = "KEK 1" in str(caught.value) or "KEK 2" in str(caught.value)
    assert named is (mode is KeyMode.CLEAR)


@pytest.mark.rule("KEY-4", "KEY-11")
def test_public_only_pair_is_refused_unless_the_pool_allows_it(
    site: Site, dr_site: DrSite, tmp_path: Path
) -> None:
    keys = (KeyLabel(DR_KEY_AT_MAIN, KeyMode.HASH),)
    fixture = site.fixture(
        tmp_path, PoolSettings(1, True, keys), PoolSettings(2, True, keys, allow_public_only=True)
    )
    volumes = fixture.volumes(100)
    with pytest.raises(ExchangeError) as caught:
        fixture.write_from_bot(1, volumes)
    assert caught.value.code is ErrorCode.PUBLIC_ONLY_PAIR
    volser = fixture.write_from_bot(2, volumes)
    with pytest.raises(ExchangeError) as caught:
        fixture.sequences.read(volser)
    assert caught.value.code is ErrorCode.KEK_PUBLIC_ONLY
    take_to(dr_site, fixture)
    sink = CompareSink(volumes)
    fixture.sequences.read(volser, sink)
    assert sink.all_equal
