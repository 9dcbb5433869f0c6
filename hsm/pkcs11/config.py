"""How to open a token: module, label, PIN sources, accepted risks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from hsm.configuration.part import LocalPath, Part
from hsm.pkcs11.accepted_risks import Limit
from hsm.pkcs11.pins import PIN_RULE, PinSource


class TokenSettings(Part):
    """What a lab file and a key manager's file say of a token in the same words."""

    label: str = Field(
        min_length=1, max_length=32, description="a token label of 1 to 32 characters"
    )
    so_pin: PinSource | None = Field(
        default=None, description=f"{PIN_RULE} of the security officer; needed to enrol keys only"
    )
    accept: frozenset[Annotated[Limit, Field(strict=False)]] = Field(
        default=frozenset(),
        strict=False,
        description=f"a list of {', '.join(Limit)}: what the token may do without",
    )


class TokenConfig(TokenSettings):
    """Which token, through which module, with whose PINs."""

    module: LocalPath = Field(description="the path of a PKCS#11 library")
    pin: PinSource = Field(description=PIN_RULE)
    softhsm_conf: LocalPath | None = Field(
        default=None, description="the path of SoftHSM's configuration; for SoftHSM only"
    )

    @model_validator(mode="before")
    @classmethod
    def _flat_pin(cls, data: Any) -> Any:
        """Take ``pin_env: NAME`` and ``pin_file: PATH`` as key managers' files have them too."""
        if not isinstance(data, dict) or "pin" in data:
            return data
        flat = {key: data[f"pin_{key}"] for key in ("env", "file") if f"pin_{key}" in data}
        rest = {key: value for key, value in data.items() if key not in ("pin_env", "pin_file")}
        return {**rest, "pin": flat} if flat else data
