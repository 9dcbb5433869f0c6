"""Fixtures: the lab's SoftHSM token under validation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hsm.provisioning import ProvisionedLab
from hsm.validate.probes import PROBES
from hsm.validate.report import Validation
from hsm.validate.run import validate
from hsm.validate.session import Pins

SLOW = {"rsa_keys.generate_3072", "rsa_keys.generate_4096"}
QUICK = tuple(name for name, probe in PROBES.items() if probe.area != "rates" and name not in SLOW)
"""All probes but those that only measure or take long."""

Validate = Callable[..., Validation]


@pytest.fixture(scope="session")
def validate_softhsm(lab_state: ProvisionedLab) -> Validate:
    """Validate the lab's SoftHSM token with the probes named."""
    config = lab_state.ekm_token
    assert config.so_pin is not None
    pins = Pins(config.pin.read(), config.so_pin.read())

    def run(*probes: str) -> Validation:
        return validate(
            config.module, config.label, pins, softhsm_conf=config.softhsm_conf, probes=probes
        )

    return run


@pytest.fixture(scope="session")
def softhsm(validate_softhsm: Validate) -> Validation:
    """Return the validation of the lab's SoftHSM token."""
    return validate_softhsm(*QUICK)
