"""What the module says of itself: versions, token, mechanisms and key sizes."""

from functools import partial
from typing import Final

from pkcs11 import Mechanism, MechanismFlag

from hsm.validate.findings import Answer, Probe, Status
from hsm.validate.raw_pkcs11 import RefusedCallError
from hsm.validate.session import Bench

NEEDED: Final = {
    "AES_KEY_GEN": (Mechanism.AES_KEY_GEN, "making data keys", True),
    "RSA_PKCS_OAEP": (Mechanism.RSA_PKCS_OAEP, "wrapping data keys", True),
    "RSA_PKCS_KEY_PAIR_GEN": (Mechanism.RSA_PKCS_KEY_PAIR_GEN, "making KEKs", True),
    "EC_KEY_PAIR_GEN": (Mechanism.EC_KEY_PAIR_GEN, "the key manager's signing key", True),
    "ECDSA": (Mechanism.ECDSA, "the key manager's signatures", True),
    "AES_KEY_WRAP": (Mechanism.AES_KEY_WRAP, "a drive's secure element", False),
    "AES_KEY_WRAP_PAD": (Mechanism.AES_KEY_WRAP_PAD, "nothing here", False),
    "AES_CBC_PAD": (Mechanism.AES_CBC_PAD, "nothing here", False),
    "RSA_PKCS": (Mechanism.RSA_PKCS, "nothing here; on KEKs a padding oracle", False),
    "RSA_X_509": (Mechanism.RSA_X_509, "nothing here; on KEKs raw RSA", False),
}
"""Mechanism, what the rig needs it for, and whether a key manager's token must have it."""

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


def _module(bench: Bench) -> Answer:
    info = bench.library.info()
    return Answer(
        Status.NOTE,
        f"{info['description'] or 'no description'} {info['library']} of "
        f"{info['manufacturer'] or 'nobody'}, Cryptoki {info['cryptoki']}",
        "C_GetInfo: CKR_OK",
    )


def _token(bench: Bench) -> Answer:
    info = bench.library.token_info(bench.slot)
    shortest, longest = info["pin_lengths"]
    return Answer(
        Status.NOTE,
        f"{info['model']} of {info['manufacturer']}, serial {info['serial'] or 'empty'}, hardware "
        f"{info['hardware']}, firmware {info['firmware']}, PINs of {shortest} to {longest} bytes",
        "C_GetTokenInfo: CKR_OK",
    )


def _label(bench: Bench) -> Answer:
    labels, serials = [], []
    for slot in bench.library.slots():
        try:
            info = bench.library.token_info(slot)
        except RefusedCallError:
            continue
        labels.append(info["label"])
        serials.append(info["serial"])
    alone = labels.count(bench.label) == 1
    serial = bench.library.token_info(bench.slot)["serial"]
    shared = serials.count(serial) - 1
    told = f"; its serial number {shared} others have too" if shared else ""
    if alone:
        return Answer(Status.GOOD, f"one of {len(labels)} tokens, by its label{told}")
    return Answer(Status.LACKS, f"{labels.count(bench.label)} tokens have this label{told}")


def _mechanism(mechanism: Mechanism, must: bool, bench: Bench) -> Answer:
    absent = Status.LACKS if must else Status.NOTE
    if mechanism not in bench.library.mechanisms(bench.slot):
        return Answer(absent, "not declared", "C_GetMechanismList: CKR_OK")
    try:
        least, most, flags = bench.library.mechanism_info(bench.slot, mechanism)
    except RefusedCallError as refusal:
        return Answer(absent, "listed, not described", f"{refusal.function}: {refusal.name}")
    uses = ", ".join(
        (use.name or "").lower().replace("_", " ") for use in _USES if flags & use.value
    )
    sizes = f", keys of {least} to {most}" if most else ""
    status = Status.GOOD if must else Status.NOTE
    return Answer(status, f"{uses or 'no use'}{sizes}", "C_GetMechanismInfo: CKR_OK")


def _mechanism_count(bench: Bench) -> Answer:
    return Answer(
        Status.NOTE,
        f"{len(bench.library.mechanisms(bench.slot))} mechanisms",
        "C_GetMechanismList: CKR_OK",
    )


PROBES: Final = (
    Probe("declared.module", "Module and its versions", _module),
    Probe("declared.token", "Token and its versions", _token),
    Probe("declared.label", "Is the token's label its own?", _label),
    Probe("declared.mechanisms", "Mechanisms declared", _mechanism_count),
    *(
        Probe(
            f"declared.{name.lower()}",
            f"{name}, needed for {purpose}",
            partial(_mechanism, mechanism, must),
        )
        for name, (mechanism, purpose, must) in NEEDED.items()
    ),
)
