"""Known attacks that extract keys with the user's PIN.

Each attack is carried out to its end: a key counts as extracted only when its value is outside the
token. Data keys have a known value (wrapped outside, unwrapped as the rig does), so that the value
can be compared. KEKs have the restrictions that the token accepts (hsm.pkcs11.key_restrictions), as
those of the rig. The methods are those of Clulow (2003), Delaune, Kremer and Steel (2008), and
Bardou and others (2012).
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import (
    aes_key_unwrap,
    aes_key_unwrap_with_padding,
)
from cryptography.hazmat.primitives.padding import PKCS7
from pkcs11 import Attribute, KeyType, Mechanism

from hsm.pkcs11.structures import MechanismCall
from hsm.pkcs11.templates import BARE_DATA_KEY
from hsm.validate.attempt import Attempt, ProbeSkippedError, attempt
from hsm.validate.findings import Probe, ProbeAnswer, Status, good_if
from hsm.validate.session import UNWRAPPED, TokenUnderTest, outside_decrypt

_IV: Final = bytes(16)
_WRAPS: Final = (
    (MechanismCall(Mechanism.AES_KEY_WRAP), "AES-KEY-WRAP"),
    (MechanismCall(Mechanism.AES_CBC_PAD, _IV), "AES-CBC-PAD"),
    (MechanismCall(Mechanism.AES_CBC, _IV), "AES-CBC"),
    (MechanismCall(Mechanism.AES_ECB), "AES-ECB"),
)
_PKCS1: Final = MechanismCall(Mechanism.RSA_PKCS)
_RAW: Final = MechanismCall(Mechanism.RSA_X_509)


def _withstood(code: str) -> ProbeAnswer:
    return ProbeAnswer(Status.GOOD, "withstood", code)


def _extracted(how: str, code: str) -> ProbeAnswer:
    return ProbeAnswer(Status.RISK, f"key extracted: {how}", code)


def _first_out(tried: list[tuple[Attempt, str]], out: Callable[[Attempt], bool]) -> ProbeAnswer:
    """Return the first try that extracts the key, or the first refusal."""
    for way, how in tried:
        if not way.refused and out(way):
            return _extracted(how, way.code)
    return _withstood(tried[0][0].code)


def _wrap_decrypt(token: TokenUnderTest) -> ProbeAnswer:
    """Wrap the data key with a key that also decrypts; decrypt the result."""
    key, value = token.known_data_key()
    uses = {"WRAP": True, "DECRYPT": True, "ENCRYPT": True}
    creation = attempt(
        token.session.generate_key,
        MechanismCall(Mechanism.AES_KEY_GEN),
        {**token.aes_template(**uses), Attribute.VALUE_LEN: 32},
    )
    if creation.refused:
        return _withstood(creation.code)
    codes = []
    for mechanism, how in _WRAPS:
        wrapped = attempt(token.session.wrap, mechanism, creation.value, key)
        codes.append(wrapped.code)
        if wrapped.refused:
            continue
        opened = attempt(token.session.decrypt, mechanism, creation.value, wrapped.value)
        if opened.refused and how == "AES-KEY-WRAP":  # AES-ECB can invert RFC 3394
            opened = attempt(_undo_key_wrap, token, creation.value, wrapped.value)
        if not opened.refused and opened.value == value:
            return _extracted(f"wrapped and decrypted with {how}", wrapped.code)
    return _withstood(codes[0])


def _undo_key_wrap(token: TokenUnderTest, key: int, wrapped: bytes) -> bytes:
    """Unwrap as RFC 3394, 2.2.2, with AES-ECB decryptions by the token."""
    ecb = MechanismCall(Mechanism.AES_ECB)
    register, blocks = wrapped[:8], [wrapped[i : i + 8] for i in range(8, len(wrapped), 8)]
    for round_ in reversed(range(6)):
        for place in reversed(range(len(blocks))):
            count = (len(blocks) * round_ + place + 1).to_bytes(8, "big")
            mixed = bytes(a ^ b for a, b in zip(register, count, strict=True))
            block = token.session.decrypt(ecb, key, mixed + blocks[place])
            register, blocks[place] = block[:8], block[8:]
    return b"".join(blocks)


_undo_key_wrap.__name__ = "decrypt"  # attempt() looks up the PKCS#11 function by this name


def _known_wrapping_key(token: TokenUnderTest) -> ProbeAnswer:
    """Wrap the data key with an AES key that the attacker imported."""
    key, value = token.known_data_key()
    secret = os.urandom(32)
    wrapping = token.import_aes_key(secret, WRAP=True)
    tried = [(attempt(token.session.wrap, way, wrapping, key), how) for way, how in _WRAPS]
    return _first_out(tried, lambda way: _unwrap_outside(secret, way.value) == value)


def _unwrap_outside(secret: bytes, wrapped: bytes) -> bytes:
    if len(wrapped) == 40:
        return aes_key_unwrap(secret, wrapped)
    chained = Cipher(algorithms.AES(secret), modes.CBC(_IV)).decryptor()
    opened = chained.update(wrapped) + chained.finalize()
    return opened[:32] if len(wrapped) == 48 else opened


def _own_public_key(token: TokenUnderTest) -> ProbeAnswer:
    """Wrap the data key with a public key whose private half is outside."""
    key, value = token.known_data_key()
    wrapped = attempt(token.session.wrap, token.oaep, token.outside_public, key)
    return _first_out(
        [(wrapped, "wrapped to the attacker's own public key")],
        lambda way: outside_decrypt(token.outside, way.value, token.best_hash) == value,
    )


def _weak_rsa(token: TokenUnderTest) -> ProbeAnswer:
    """Wrap the data key with RSA of 512 bits, which can be factored."""
    key, value = token.known_data_key()
    public = attempt(token.session.create, token.public_template(_WEAK.public_numbers))
    if public.refused:
        return _withstood(public.code)
    wrapped = attempt(token.session.wrap, _PKCS1, public.value, key)
    return _first_out(
        [(wrapped, "wrapped with RSA of 512 bits, which can be factored")],
        lambda way: _weak_open(way.value) == value,
    )


def _weak_open(wrapped: bytes) -> bytes:
    block = pow(int.from_bytes(wrapped, "big"), _WEAK.d, _WEAK.public_numbers.n)
    return block.to_bytes(64, "big")[-32:]


def _weak_numbers() -> rsa.RSAPrivateNumbers:
    """Return a key pair of 512 bits, from fixed primes.

    `cryptography` no longer makes keys of this size.
    """
    p, q = (1 << 256) - 189, (1 << 256) - 357  # the two largest primes below 2^256
    d = pow(65537, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(65537, p * q)
    return rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)


_WEAK: Final = _weak_numbers()


def _weak_des(token: TokenUnderTest) -> ProbeAnswer:
    """Wrap the data key with single DES (56 bits)."""
    key, value = token.known_data_key()
    secret = bytes.fromhex("0123456789abcdef")
    creation = attempt(
        token.session.create,
        {
            **token.aes_template(WRAP=True),
            Attribute.KEY_TYPE: KeyType._DES,
            Attribute.VALUE: secret,
        },
    )
    if creation.refused:
        return _withstood(creation.code)
    wrapped = attempt(token.session.wrap, MechanismCall(Mechanism._DES_ECB), creation.value, key)
    return _first_out(
        [(wrapped, "wrapped with single DES")],
        lambda way: _des_open(secret, way.value)[:32] == value,
    )


def _des_open(secret: bytes, wrapped: bytes) -> bytes:
    """Decrypt single DES, as triple DES with the same key three times."""
    cipher = Cipher(TripleDES(secret * 3), modes.ECB()).decryptor()
    return cipher.update(wrapped) + cipher.finalize()


def _change(how: str, changes: dict[Attribute, Any], token: TokenUnderTest) -> ProbeAnswer:
    """Change attributes of a data key or of its copy, then read the value."""
    key, value = token.known_data_key()
    call = token.session.set if how == "set" else token.session.copy
    changed = attempt(call, key, changes)
    if changed.refused:
        return _withstood(changed.code)
    target = key if how == "set" else int(changed.value)
    wrong = [name.name for name, want in changes.items() if _has(token, target, name) is want]
    if not wrong:
        return ProbeAnswer(Status.GOOD, "accepted, without effect", changed.code)
    read = attempt(token.session.get, target, Attribute.VALUE)
    if not read.refused and read.value == value:
        return _extracted(f"{' and '.join(wrong)} changed, value read", changed.code)
    return ProbeAnswer(Status.RISK, f"{' and '.join(wrong)} can be changed", changed.code)


def _has(token: TokenUnderTest, key: int, name: Attribute) -> bool | None:
    answer = attempt(token.session.is_set, key, name)
    return None if answer.refused else bool(answer.value)


def _make_extractable(how: str, token: TokenUnderTest) -> ProbeAnswer:
    """Set EXTRACTABLE on a KEK's private half or on its copy."""
    private = token.restricted_kek.private
    change = {Attribute.EXTRACTABLE: True}
    call = token.session.set if how == "set" else token.session.copy
    changed = attempt(call, private, change)
    if changed.refused:
        return _withstood(changed.code)
    target = private if how == "set" else int(changed.value)
    return good_if(
        not token.session.is_set(target, Attribute.EXTRACTABLE),
        "accepted, without effect",
        "the private half is extractable now",
        changed.code,
        bad=Status.RISK,
    )


def _weaker_template(token: TokenUnderTest) -> ProbeAnswer:
    """Unwrap an EEDK with a template without SENSITIVE, then read the value."""
    value = os.urandom(32)
    wrapped = token.wrap_outside(value, token.restricted_kek)
    weak = (
        token.aes_template()
        if not token.honours_protection
        else token.aes_template(SENSITIVE=False)
    )
    opened = attempt(token.session.unwrap, token.oaep, token.restricted_kek.private, wrapped, weak)
    if opened.refused:
        return _withstood(opened.code)
    read = attempt(token.session.get, opened.value, Attribute.VALUE)
    if not read.refused and read.value == value:
        return _extracted("EEDK unwrapped as not sensitive, value read", opened.code)
    return _withstood(read.code)


def _pkcs1_oracle(token: TokenUnderTest) -> ProbeAnswer:
    """Unwrap right and wrong PKCS#1 v1.5 padding; compare the return codes."""
    kek = token.restricted_kek
    bits = kek.public_key.key_size
    template = {**token.aes_template(), Attribute.KEY_TYPE: KeyType.GENERIC_SECRET}
    good = kek.public_key.encrypt(os.urandom(32), padding.PKCS1v15())
    opened = attempt(token.session.unwrap, _PKCS1, kek.private, good, template)
    codes = set()
    for _ in range(16):
        wrong = os.urandom(bits // 8 - 1).rjust(bits // 8, b"\0")
        codes.add(attempt(token.session.unwrap, _PKCS1, kek.private, wrong, template).code)
    if opened.refused and opened.code in codes and len(codes) == 1:
        return _withstood(opened.code)
    if opened.code in codes:
        return ProbeAnswer(
            Status.NOTE, "PKCS#1 v1.5 unwraps; wrong padding gives a random key", opened.code
        )
    return ProbeAnswer(
        Status.RISK,
        f"an oracle: right padding {opened.code}, wrong {', '.join(sorted(codes))}",
        opened.code,
    )


def _raw_rsa(token: TokenUnderTest) -> ProbeAnswer:
    """Unwrap an EEDK with raw RSA as a generic secret; read the padded block."""
    wrapped = token.wrap_outside(os.urandom(32), token.restricted_kek)
    template = {**token.aes_template(), Attribute.KEY_TYPE: KeyType.GENERIC_SECRET}
    if token.honours_protection:
        template |= {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
    opened = attempt(token.session.unwrap, _RAW, token.restricted_kek.private, wrapped, template)
    if opened.refused:
        return _withstood(opened.code)
    read = attempt(token.session.get, opened.value, Attribute.VALUE)
    if read.refused:
        return _withstood(read.code)
    block = int.from_bytes(read.value, "big")
    numbers = token.restricted_kek.public_key.public_numbers()
    if pow(block, numbers.e, numbers.n) == int.from_bytes(wrapped, "big"):
        return _extracted("EEDK unwrapped with raw RSA", opened.code)
    return ProbeAnswer(Status.NOTE, "unwraps something else", opened.code)


def _decrypt_with_kek(token: TokenUnderTest) -> ProbeAnswer:
    """Decrypt an EEDK with a KEK that must only unwrap."""
    value = os.urandom(32)
    wrapped = token.wrap_outside(value, token.restricted_kek)
    opened = attempt(token.session.decrypt, token.oaep, token.restricted_kek.private, wrapped)
    if opened.refused:
        return _withstood(opened.code)
    return (
        _extracted("decrypted with the KEK", opened.code)
        if opened.value == value
        else _withstood("")
    )


def _let_kek_decrypt(token: TokenUnderTest) -> ProbeAnswer:
    """Set DECRYPT on a KEK or on its copy, then decrypt an EEDK with it."""
    kek, value = token.make_restricted_kek(), os.urandom(32)
    wrapped = token.wrap_outside(value, kek)
    decrypts = {Attribute.DECRYPT: True}
    changed = attempt(token.session.set, kek.private, decrypts)
    copied = attempt(token.session.copy, kek.private, token.session_template(decrypts))
    for gained, key, how in (
        (changed, kek.private, "DECRYPT set on the KEK"),
        (copied, copied.value, "the KEK copied with DECRYPT"),
    ):
        if gained.refused:
            continue
        opened = attempt(token.session.decrypt, token.oaep, int(key), wrapped)
        if not opened.refused and opened.value == value:
            return _extracted(f"{how}, EEDK decrypted", gained.code)
    return _withstood(changed.code)


def _wrap_kek(token: TokenUnderTest) -> ProbeAnswer:
    """Wrap a KEK's private half (EXTRACTABLE false) with a known AES key."""
    secret = os.urandom(32)
    wrapping = token.import_aes_key(secret, WRAP=True)
    ways = (
        (MechanismCall(Mechanism.AES_CBC_PAD, _IV), "AES-CBC-PAD", _open_cbc_pad),
        (
            MechanismCall(Mechanism.AES_KEY_WRAP_KWP),
            "AES-KEY-WRAP-KWP",
            aes_key_unwrap_with_padding,
        ),
        (
            MechanismCall(Mechanism.AES_KEY_WRAP_PAD),
            "AES-KEY-WRAP-PAD",
            aes_key_unwrap_with_padding,
        ),
        (MechanismCall(Mechanism.AES_KEY_WRAP), "AES-KEY-WRAP", aes_key_unwrap),
    )
    codes = []
    for mechanism, how, open_outside in ways:
        wrapped = attempt(token.session.wrap, mechanism, wrapping, token.restricted_kek.private)
        codes.append(wrapped.code)
        if wrapped.refused:
            continue
        if _is_kek(token, open_outside, secret, wrapped.value):
            return _extracted(f"a KEK's private half, wrapped with {how}", wrapped.code)
        return ProbeAnswer(
            Status.RISK, f"{how} wraps it, to a value that could not be read", wrapped.code
        )
    return _withstood(codes[0])


def _open_cbc_pad(secret: bytes, wrapped: bytes) -> bytes:
    chained, unpad = (
        Cipher(algorithms.AES(secret), modes.CBC(_IV)).decryptor(),
        PKCS7(128).unpadder(),
    )
    return unpad.update(chained.update(wrapped) + chained.finalize()) + unpad.finalize()


def _is_kek(
    token: TokenUnderTest,
    open_outside: Callable[[bytes, bytes], bytes],
    secret: bytes,
    wrapped: bytes,
) -> bool:
    try:
        key = serialization.load_der_private_key(open_outside(secret, wrapped), None)
    except Exception:  # not unwrapped, or not PKCS#8: then it is not proven to be the key
        return False
    return (
        isinstance(key, rsa.RSAPrivateKey)
        and key.public_key().public_numbers() == token.restricted_kek.public_key.public_numbers()
    )


def _trusted_by_user(how: str, token: TokenUnderTest) -> ProbeAnswer:
    """Set TRUSTED on a wrapping key as the user."""
    pair = rsa.generate_private_key(65537, 2048).public_key()
    if how == "create":
        template = token.public_template(pair.public_numbers(), TRUSTED=True)
        creation = attempt(token.session.create, template)
        target = creation.value
    else:
        target = token.import_public_key(pair)
        call = token.session.set if how == "set" else token.session.copy
        creation = attempt(call, target, {Attribute.TRUSTED: True})
        target = creation.value if how == "copy" else target
    if creation.refused:
        return _withstood(creation.code)
    if not _has(token, int(target), Attribute.TRUSTED):
        return ProbeAnswer(Status.GOOD, "accepted, without effect", creation.code)
    wrapped = attempt(token.session.wrap, token.oaep, int(target), token.data_key())
    does = "and it wraps data keys" if not wrapped.refused else "but it wraps no data key"
    return ProbeAnswer(Status.RISK, f"the user makes a key TRUSTED, {does}", creation.code)


def _drop_wrap_with_trusted(token: TokenUnderTest) -> ProbeAnswer:
    """Unwrap an EEDK without WRAP_WITH_TRUSTED; wrap the key to the outside."""
    if not token.keeps_wrap_with_trusted:
        raise ProbeSkippedError("WRAP_WITH_TRUSTED is unknown")
    value, kek = os.urandom(32), token.restricted_kek
    template = token.session_template({**UNWRAPPED, **BARE_DATA_KEY})
    opened = attempt(
        token.session.unwrap,
        token.oaep,
        kek.private,
        token.wrap_outside(value, kek),
        template,
    )
    if opened.refused:
        return _withstood(opened.code)
    wrapped = attempt(token.session.wrap, token.oaep, token.outside_public, opened.value)
    return _first_out(
        [(wrapped, "EEDK unwrapped without WRAP_WITH_TRUSTED, wrapped to the attacker's key")],
        lambda way: outside_decrypt(token.outside, way.value, token.best_hash) == value,
    )


def _derive(token: TokenUnderTest) -> ProbeAnswer:
    """Derive a readable key from a data key (DERIVE false)."""
    key, value = token.known_data_key()
    template = {
        **token.aes_template(SENSITIVE=False, EXTRACTABLE=True),
        Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
        Attribute.VALUE_LEN: 32,
    }
    derived = attempt(
        token.session.derive, MechanismCall(Mechanism.EXTRACT_KEY_FROM_KEY, bytes(8)), key, template
    )
    if derived.refused:
        return _withstood(derived.code)
    read = attempt(token.session.get, derived.value, Attribute.VALUE)
    if not read.refused and read.value == value:
        return _extracted("by derivation", derived.code)
    return ProbeAnswer(Status.RISK, "a key with DERIVE false derives", derived.code)


_WEAKER: Final = {
    "sensitive": {Attribute.SENSITIVE: False},
    "wrap_with_trusted": {Attribute.WRAP_WITH_TRUSTED: False},
    "uses": {Attribute.ENCRYPT: True, Attribute.DECRYPT: True},
}

PROBES: Final = (
    Probe("attacks.own_public_key", "Wrap a data key to the attacker's RSA key", _own_public_key),
    Probe("attacks.known_key", "Wrap a data key with a known AES key", _known_wrapping_key),
    Probe("attacks.wrap_decrypt", "Wrap a data key and decrypt it with one AES key", _wrap_decrypt),
    Probe("attacks.weak_rsa", "Wrap a data key with RSA of 512 bits", _weak_rsa),
    Probe("attacks.weak_des", "Wrap a data key with single DES", _weak_des),
    *(
        Probe(
            f"attacks.{how}_{what}",
            f"{' and '.join(f'{name.name} {value}' for name, value in changes.items())} "
            f"{'set on a data key' if how == 'set' else 'on a copy of a data key'}",
            partial(_change, how, changes),
        )
        for what, changes in _WEAKER.items()
        for how in ("set", "copy")
    ),
    *(
        Probe(
            f"attacks.{how}_extractable",
            f"EXTRACTABLE True {'set on a KEK' if how == 'set' else 'on a copy of a KEK'}",
            partial(_make_extractable, how),
        )
        for how in ("set", "copy")
    ),
    Probe("attacks.weaker_template", "Unwrap an EEDK as not sensitive", _weaker_template),
    Probe(
        "attacks.drop_trusted", "Unwrap an EEDK without WRAP_WITH_TRUSTED", _drop_wrap_with_trusted
    ),
    Probe("attacks.pkcs1_oracle", "Use a KEK as an oracle for PKCS#1 v1.5", _pkcs1_oracle),
    Probe("attacks.raw_rsa", "Unwrap an EEDK with raw RSA", _raw_rsa),
    Probe("attacks.decrypt", "Decrypt an EEDK with a KEK (DECRYPT false)", _decrypt_with_kek),
    Probe("attacks.let_decrypt", "Set DECRYPT on a KEK, then decrypt an EEDK", _let_kek_decrypt),
    Probe("attacks.wrap_kek", "Wrap a KEK (EXTRACTABLE false)", _wrap_kek),
    *(
        Probe(
            f"attacks.trusted_{how}",
            f"TRUSTED by the user, {name}",
            partial(_trusted_by_user, how),
        )
        for how, name in (("create", "in a new key"), ("set", "set"), ("copy", "on a copy"))
    ),
    Probe("attacks.derive", "Derive from a data key (DERIVE false)", _derive),
)
