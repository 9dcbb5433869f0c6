"""How to open a token: module, label, PIN sources, accepted risks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from hsm.configuration.part import LocalPath, Part
from hsm.pkcs11.accepted_risks import TokenRisk
from hsm.pkcs11.pins import PIN_RULE, PinSource


class TokenSettings(Part):
    """Settings of a token that lab.yaml and ekm.yaml have in common."""

    label: str = Field(
        min_length=1, max_length=32, description="a token label of 1 to 32 characters"
    )
    so_pin: PinSource | None = Field(
        default=None, description=f"{PIN_RULE} of the security officer; needed to enrol keys only"
    )
    accept: frozenset[Annotated[TokenRisk, Field(strict=False)]] = Field(
        default=frozenset(),
        strict=False,
        description=f"a list of {', '.join(TokenRisk)}: what the token may do without",
    )


class TokenConfig(TokenSettings):
    """A token: its module, its label and the sources of its PINs."""

    module: LocalPath = Field(description="the path of a PKCS#11 library")
    pin: PinSource = Field(description=PIN_RULE)
    softhsm_conf: LocalPath | None = Field(
        default=None, description="the path of SoftHSM's configuration; for SoftHSM only"
    )

    @model_validator(mode="before")
    @classmethod
    def _flat_pin(cls, data: Any) -> Any:
        """Accept ``pin_env: NAME`` and ``pin_file: PATH`` of ekm.yaml."""
        if not isinstance(data, dict) or "pin" in data:
            return data
        flat = {key: data[f"pin_{key}"] for key in ("env", "file") if f"pin_{key}" in data}
        rest = {key: value for key, value in data.items() if key not in ("pin_env", "pin_file")}
        return {**rest, "pin": flat} if flat else data


class TokenIdentity(Part):
    """What a token says of itself (C_GetTokenInfo)."""

    manufacturer: str = Field(description="who made it")
    model: str = Field(description="its model")
    serial: str = Field(description="its serial number")
    firmware: str = Field(description="the version of its firmware")
