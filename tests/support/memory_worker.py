"""Child of test_memory: the life of one data key, then a wait.

Reads a request (JSON) on standard input: where the token is, the labels, the drive's key.
Answers with the EEDKs and the SEDK, then takes bytes to keep until standard input closes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hsm.keys.data_keys import DataKeys
from hsm.keys.eedk import Eedk, KeyLabel
from hsm.keys.keystore import Keystore
from hsm.pkcs11.softhsm import EKM_TOKEN_LABEL, token_config
from hsm.pkcs11.token import open_token


def main() -> None:
    request = json.loads(sys.stdin.readline())
    with open_token(token_config(Path(request["state_dir"]), EKM_TOKEN_LABEL)) as token:
        keys = DataKeys(Keystore(token))
        drive_key = bytes.fromhex(request["drive_key"])
        with keys.generate() as data_key:
            labels = [KeyLabel(label) for label in request["labels"]]
            pair = keys.make_pair(data_key, labels, "VOL001")
            keys.wrap_for_drive(data_key, drive_key)
        with keys.open_eedk(Eedk.decode(pair[1].encode()), "VOL001") as data_key:
            sedk = keys.wrap_for_drive(data_key, drive_key)
        print(json.dumps([*(eedk.encode().hex() for eedk in pair), sedk.hex()]), flush=True)
        planted = bytearray()
        for line in sys.stdin:  # the test hands over what it wants to find, byte by byte
            planted.append(int(line))
            if len(planted) == 32:
                print("planted", flush=True)


if __name__ == "__main__":
    main()
