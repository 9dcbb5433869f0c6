"""Declarations of the module: versions, token, mechanisms, key sizes."""

from functools import partial
from typing import Final

from pkcs11 import Mechanism, MechanismFlag

from hsm.validate.findings import Probe, ProbeAnswer, Status
from hsm.validate.raw_pkcs11 import RefusedCallError
from hsm.validate.session import TokenUnderTest

NEEDED: Final = {
    "AES_KEY_GEN": (Mechanism.AES_KEY_GEN, "for making data keys", True),
    "RSA_PKCS_OAEP": (Mechanism.RSA_PKCS_OAEP, "for wrapping data keys", True),
    "RSA_PKCS_KEY_PAIR_GEN": (Mechanism.RSA_PKCS_KEY_PAIR_GEN, "for making KEKs", True),
    "EC_KEY_PAIR_GEN": (Mechanism.EC_KEY_PAIR_GEN, "for the key manager's signing key", True),
    "ECDSA": (Mechanism.ECDSA, "for the key manager's signatures", True),
    "AES_KEY_WRAP": (Mechanism.AES_KEY_WRAP, "for a drive's secure element", False),
    "AES_KEY_WRAP_PAD": (Mechanism.AES_KEY_WRAP_PAD, "not used", False),
    "AES_CBC_PAD": (Mechanism.AES_CBC_PAD, "not used", False),
    "RSA_PKCS": (Mechanism.RSA_PKCS, "not used; with KEKs a padding oracle", False),
    "RSA_X_509": (Mechanism.RSA_X_509, "not used; with KEKs raw RSA", False),
}
"""By name: mechanism, its purpose, and whether a key manager needs it."""

_USES: Final = (
    MechanismFlag.GENERATE,
    MechanismFlag.GENERATE_KEY_PAIR,
    MechanismFlag.ENCRYPT,
    MechanismFlag.DECRYPT,
    MechanismFlag.SIGN,
    MechanismFlag.VERIFY,
    MechanismFlag.WRAP,
    MechanismFlag.UNWRAP,
    MechanismFlag.DERIVE,
)


def _module(token: TokenUnderTest) -> ProbeAnswer:
    info = token.library.info()
    return ProbeAnswer(
        Status.NOTE,
        f"{info['description'] or 'no description'} {info['library']} of "
        f"{info['manufacturer'] or 'an unnamed manufacturer'}, Cryptoki {info['cryptoki']}",
        "C_GetInfo: CKR_OK",
    )


def _token(token: TokenUnderTest) -> ProbeAnswer:
    info = token.library.token_info(token.slot)
    shortest, longest = info["pin_lengths"]
    return ProbeAnswer(
        Status.NOTE,
        f"{info['model']} of {info['manufacturer']}, serial {info['serial'] or 'empty'}, hardware "
        f"{info['hardware']}, firmware {info['firmware']}, PINs of {shortest} to {longest} bytes",
        "C_GetTokenInfo: CKR_OK",
    )


def _label(token: TokenUnderTest) -> ProbeAnswer:
    labels, serials = [], []
    for slot in token.library.slots():
        try:
            info = token.library.token_info(slot)
        except RefusedCallError:
            continue
        labels.append(info["label"])
        serials.append(info["serial"])
    alone = labels.count(token.label) == 1
    serial = token.library.token_info(token.slot)["serial"]
    shared = serials.count(serial) - 1
    note = f"; {shared} others have the same serial number" if shared else ""
    if alone:
        return ProbeAnswer(Status.GOOD, f"unique among {len(labels)} tokens{note}")
    return ProbeAnswer(Status.LACKS, f"{labels.count(token.label)} tokens have this label{note}")


def _mechanism(mechanism: Mechanism, must: bool, token: TokenUnderTest) -> ProbeAnswer:
    absent = Status.LACKS if must else Status.NOTE
    if mechanism not in token.library.mechanisms(token.slot):
        return ProbeAnswer(absent, "not declared", "C_GetMechanismList: CKR_OK")
    try:
        smallest, largest, flags = token.library.mechanism_info(token.slot, mechanism)
    except RefusedCallError as refusal:
        return ProbeAnswer(absent, "declared, not described", f"{refusal.function}: {refusal.name}")
    uses = ", ".join(
        (use.name or "").lower().replace("_", " ") for use in _USES if flags & use.value
    )
    sizes = f", keys of {smallest} to {largest}" if largest else ""
    status = Status.GOOD if must else Status.NOTE
    return ProbeAnswer(status, f"{uses or 'no use'}{sizes}", "C_GetMechanismInfo: CKR_OK")


def _mechanism_count(token: TokenUnderTest) -> ProbeAnswer:
    return ProbeAnswer(
        Status.NOTE,
        f"{len(token.library.mechanisms(token.slot))} mechanisms",
        "C_GetMechanismList: CKR_OK",
    )


PROBES: Final = (
    Probe("declared.module", "Module and its versions", _module),
    Probe("declared.token", "Token and its versions", _token),
    Probe("declared.label", "Is the token's label unique?", _label),
    Probe("declared.mechanisms", "Mechanisms declared", _mechanism_count),
    *(
        Probe(
            f"declared.{name.lower()}",
            f"{name}, {purpose}",
            partial(_mechanism, mechanism, must),
        )
        for name, (mechanism, purpose, must) in NEEDED.items()
    ),
)
