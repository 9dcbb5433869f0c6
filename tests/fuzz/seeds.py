"""Write the corpus of the fuzzers: ``python tests/fuzz/seeds.py``.

Real messages of whole exchanges, of a site whose keys are public; what needs no signature differs
from run to run only where it is random.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from hsm.ekm.protocol import messages
from hsm.ekm.protocol.fields import KeyOperation
from hsm.ekm.protocol.messages import Error, Hello, KeyReply, KeyRequest, LabelQuery, Ping
from hsm.keys.eedk import ALGORITHM, EEDK_VERSION, Eedk, KeyLabel, KeyMode
from hsm.pkcs11.oaep import OaepHash
from tests.fuzz.targets import TARGETS, site

HERE = Path(__file__).parent


def seeds() -> dict[str, list[bytes]]:
    """Return some inputs of each target that it accepts."""
    drive, manager = site().drive, site().manager
    clear = Eedk(
        EEDK_VERSION,
        ALGORITHM,
        OaepHash.SHA1,
        KeyMode.CLEAR,
        "June 2007 Key",
        None,
        bytes(256),
        "VOL001",
        bytes(70),
    ).encode()
    hashed = Eedk(
        EEDK_VERSION,
        ALGORITHM,
        OaepHash.SHA256,
        KeyMode.HASH,
        None,
        bytes(32),
        bytes(512),
        "VOL001",
        bytes(72),
    ).encode()
    hello = Hello(drive.certificate_der, bytes(32)).encode()
    challenge = messages.Challenge(manager.certificate_der, bytes(32), bytes(16)).encode()
    labels = (KeyLabel("June 2007 Key"), KeyLabel("Other", KeyMode.HASH))

    def request(operation: KeyOperation, eedks: tuple[bytes, ...]) -> bytes:
        asked = () if operation is KeyOperation.TRANSLATE else labels
        return KeyRequest(
            bytes(16), operation, "VOL001", bytes(16), asked, False, eedks, 7, bytes(70)
        ).encode()

    requests = [
        request(KeyOperation.GENERATE, ()),
        request(KeyOperation.TRANSLATE, (clear, hashed)),
        request(KeyOperation.REKEY, (clear,)),
    ]
    ack = messages.Ack(bytes(16), 0, bytes(70)).encode()
    key_reply = KeyReply(bytes(16), bytes(256), (clear, hashed), 7, bytes(70)).encode()
    error = Error(14, "no").encode()
    query = LabelQuery(("June 2007 Key", "Other")).encode()
    everything = [hello, challenge, *requests, ack, key_reply, error, query, Ping().encode()]
    framed = [messages.frame(each) for each in everything]
    return {
        "message": everything,
        "eedk": [clear, hashed],
        "stream": [
            *framed,
            b"".join(framed),
            messages.frame(hello) + messages.frame(requests[0]),
            messages.frame(hello) * 2 + messages.frame(ack),
        ],
        "reply": [bytes([len(challenge) // 4]) + challenge + key_reply, b"\xff" + error],
        "admin": [
            b'{"secret": "s", "command": "drive list", "arguments": {}}',
            b'{"secret": "s", "command": "drive revoke", "arguments": {"serial": "D1"}}',
        ],
        "http_head": [
            b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /readyz?x HTTP/1.0\r\n\r\n",
        ],
    }


def main() -> None:
    made = seeds()
    assert made.keys() == TARGETS.keys()
    for target, inputs in made.items():
        folder = HERE / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(inputs):
            (folder / f"seed-{number:02d}").write_bytes(data)


if __name__ == "__main__":
    main()
