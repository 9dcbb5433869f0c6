"""A second process at the token, which counts the objects of one CKA_ID.

Arguments: module, label of the token, CKA_ID in hexadecimal. The PIN comes from standard input.
"""

import sys
from pathlib import Path

from pkcs11 import Attribute

from hsm.validate.raw_pkcs11 import RawModule


def main() -> int:
    """Print the number of objects with the CKA_ID of the last argument."""
    module, label, identity = sys.argv[1:]
    library = RawModule(Path(module))
    session = library.open_session(library.slot_of(label))
    session.login(sys.stdin.read())
    print(len(session.find({Attribute.ID: bytes.fromhex(identity)})))
    session.close()
    library.finalize()
    return 0


if __name__ == "__main__":
    sys.exit(main())
