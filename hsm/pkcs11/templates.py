"""Attribute templates of the keys that the rig makes, and OAEP parameters."""

from typing import Any, Final

from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass

from hsm.pkcs11.oaep import OaepHash

OAEP: Final[dict[OaepHash, Any]] = {  # python-pkcs11 declares bytes, but takes tuples
    OaepHash.SHA256: (Mechanism.SHA256, MGF.SHA256, None),
    OaepHash.SHA1: (Mechanism.SHA_1, MGF.SHA1, None),
}
"""Mechanism parameters of RSA-OAEP without a label, the better hash first."""


NO_USE: Final = {
    Attribute.ENCRYPT: False,
    Attribute.DECRYPT: False,
    Attribute.SIGN: False,
    Attribute.VERIFY: False,
    Attribute.WRAP: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}


DATA_KEY: Final[dict[Attribute, Any]] = {
    **NO_USE,
    Attribute.TOKEN: False,
    Attribute.PRIVATE: True,  # SoftHSM encrypts the value of private objects in memory
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: True,
    Attribute.WRAP_WITH_TRUSTED: True,
    Attribute.MODIFIABLE: False,
}


BARE_DATA_KEY: Final[dict[Attribute, Any]] = {
    name: value for name, value in DATA_KEY.items() if name is not Attribute.WRAP_WITH_TRUSTED
}
"""DATA_KEY for a token that does not enforce WRAP_WITH_TRUSTED."""


PRIVATE_HALF: Final = {
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.DECRYPT: False,
    Attribute.SIGN: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}


WRAPPING_PUBLIC: Final = {
    Attribute.CLASS: ObjectClass.PUBLIC_KEY,
    Attribute.KEY_TYPE: KeyType.RSA,
    Attribute.TOKEN: True,
    Attribute.PRIVATE: False,
    Attribute.TRUSTED: True,
    Attribute.WRAP: True,
    Attribute.ENCRYPT: False,
    Attribute.VERIFY: False,
}


UNTRUSTED_PUBLIC: Final[dict[Attribute, Any]] = {
    name: value for name, value in WRAPPING_PUBLIC.items() if name is not Attribute.TRUSTED
}
"""WRAPPING_PUBLIC for a token that does not enforce WRAP_WITH_TRUSTED.

The user makes it, not the security officer.
"""
