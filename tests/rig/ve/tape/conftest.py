"""Fixtures of the tests with tapes."""

from __future__ import annotations

import pytest

from hsm.provisioning import import_certificates
from tests.support.ekm_lab import SoftKek, der
from tests.support.tape_site import ELSEWHERE, Site


@pytest.fixture(scope="session")
def partner(site: Site) -> SoftKek:
    """Return a KEK of which the site has only the certificate."""
    kek = SoftKek.make(ELSEWHERE)
    import_certificates(site.lab, {ELSEWHERE: der(kek.certificate)})
    return kek
