"""How to open a token: module, label, PIN sources, accepted risks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsm.pkcs11.accepted_risks import Limit
from hsm.pkcs11.pins import PinSource, pin_as_plain, pin_from_plain


@dataclass(frozen=True, slots=True)
class TokenConfig:
    """Which token, through which module, with whose PINs.

    `so_pin` is needed only to enrol keys. `softhsm_conf` is set for SoftHSM and no other module.
    `accept` are the limits with which the token is taken.
    """

    module: Path
    label: str
    pin: PinSource
    so_pin: PinSource | None = None
    softhsm_conf: Path | None = None
    accept: frozenset[Limit] = frozenset()


def token_as_plain(config: TokenConfig) -> dict[str, Any]:
    """Return a configuration as plain values: where the PINs are, never the PINs."""
    return {
        "module": str(config.module.absolute()),
        "label": config.label,
        "pin": pin_as_plain(config.pin),
        "so_pin": None if config.so_pin is None else pin_as_plain(config.so_pin),
        "softhsm_conf": None if config.softhsm_conf is None else str(config.softhsm_conf),
        "accept": sorted(limit.value for limit in config.accept),
    }


def token_from_plain(plain: dict[str, Any]) -> TokenConfig:
    """Return the configuration that token_as_plain gave."""
    so_pin, conf = plain["so_pin"], plain["softhsm_conf"]
    return TokenConfig(
        module=Path(plain["module"]),
        label=plain["label"],
        pin=pin_from_plain(plain["pin"]),
        so_pin=None if so_pin is None else pin_from_plain(so_pin),
        softhsm_conf=None if conf is None else Path(conf),
        accept=frozenset(Limit(word) for word in plain["accept"]),
    )
