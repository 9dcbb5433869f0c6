"""Fixtures: a provisioned lab, made once a run because RSA keys are slow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hsm.keys.data_keys import DataKeys
from hsm.keys.keystore import Keystore
from hsm.pkcs11.token import Token, open_token
from hsm.provisioning import ProvisionedLab
from tests.support.outside import OutsidePair, outside_pair
from tests.support.provisioned import provision_lab

DRIVE = "TEST-DRIVE-1"


@pytest.fixture(scope="session")
def lab_state(tmp_path_factory: pytest.TempPathFactory) -> ProvisionedLab:
    """Provision a lab; tests may add keys, but not change KEK 1 and KEK 2."""
    return provision_lab(tmp_path_factory.mktemp("lab"), ["KEK 1", "KEK 2"], [DRIVE])


@pytest.fixture
def token(lab_state: ProvisionedLab) -> Iterator[Token]:
    with open_token(lab_state.ekm_token) as opened:
        yield opened


@pytest.fixture
def keystore(token: Token) -> Keystore:
    return Keystore(token)


@pytest.fixture
def data_keys(keystore: Keystore) -> DataKeys:
    return DataKeys(keystore)


@pytest.fixture(scope="session")
def outside() -> OutsidePair:
    return outside_pair("made outside")
