"""Provision a lab with one token, or one SoftHSM token, in a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hsm.pkcs11.config import TokenConfig
from hsm.pkcs11.softhsm import EKM_TOKEN_LABEL, write_configuration
from hsm.pkcs11.softhsm_token import ensure_token
from hsm.provisioning import ONE_TOKEN, ProvisionedLab, one_token_plan, provision


def provision_lab(
    state_dir: Path,
    kek_labels: Sequence[str],
    drives: Sequence[str],
    *,
    token: TokenConfig | None = None,
    progress: Callable[[str], None] = lambda step: None,
    **wanted: Any,
) -> ProvisionedLab:
    """Provision one token, by default SoftHSM's.

    ``wanted`` is for ``one_token_plan``.
    """
    plan = one_token_plan(state_dir, kek_labels, drives, **wanted)
    if token is not None:
        plan = plan.replace(tokens={ONE_TOKEN: token})
    return provision(plan, progress)


def softhsm_token(state_dir: Path) -> TokenConfig:
    """Make the key manager's SoftHSM token alone, with nothing in it."""
    write_configuration(state_dir)
    return ensure_token(state_dir, EKM_TOKEN_LABEL)
