"""Insert the transport key into a bitstream.

    python -m hdl.fpga.transport_key KEYFILE ROUTED BITSTREAM

KEYFILE holds the key as 64 hexadecimal digits. ROUTED is the output of place and route. BITSTREAM
is written with mode 0600. The block RAM of transport_key_rom.sv is found by the pattern that it was
synthesized with, and its first 32 bytes are replaced. (yowasp-ecpbram could do this, but its
package lacks the database that it needs.) The key appears on no command line. This runs as a
process of its own, so that the key leaves memory when it ends; temporary files with the key are in
a folder of mode 0700 and are removed.

The bitstream is not encrypted: the file or the board reveals the key.
"""

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hdl.errors import HdlError
from hdl.files import read_text
from hdl.fpga.families import GOWIN, family_of
from hdl.fpga.tools import require

KEY_BYTES = 32
_ROM_BYTES = 2048
_MAX_KEY_FILE = 4096
_SEED = 0x54415045
# The content of a block RAM of an ECP5 in that output: nine-bit words, eight on a line.
_CONTENT = re.compile(r"(?<=^\.bram_init )(\d+)\n((?:[0-9a-f]{3}[ \n])+)", re.MULTILINE)
_LINE_WORDS = 8
# The same of a Gowin chip, in parameters: 32 nine-bit words each, the first on the right.
_INIT = "INIT_RAM_{:02X}"
_INIT_WORDS = 32
_WORD_BITS = 9


class TransportKeyError(HdlError):
    """The transport key was not inserted into a bitstream."""


def pattern() -> bytes:
    """Return the content of transport_key_rom.sv: low bytes of xorshift32."""

    def steps() -> Iterator[int]:
        x = _SEED
        for _ in range(_ROM_BYTES):
            x ^= x << 13 & 0xFFFFFFFF
            x ^= x >> 17
            x ^= x << 5 & 0xFFFFFFFF
            yield x & 0xFF

    return bytes(steps())


def read_key(file: Path) -> bytes:
    """Return the key that a file holds in hexadecimal digits."""
    try:
        text = read_text(file, _MAX_KEY_FILE, "ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TransportKeyError(f"The transport key file {file} cannot be read: {error}") from None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise TransportKeyError(
            f"The transport key file {file} does not hold {2 * KEY_BYTES} hexadecimal digits; "
            "remove it and run `rig hsm init` for a new key."
        )
    return bytes.fromhex(text)


def insert_key(config: str, key: bytes) -> str:
    """Return the output of place and route for an ECP5 with the key in it."""
    old = pattern()
    found = [
        match
        for match in _CONTENT.finditer(config)
        if bytes(int(word, 16) & 0xFF for word in match[2].split()) == old
    ]
    _require_one(len(found))
    words = [f"{byte:03x}" for byte in key + old[len(key) :]]
    lines = [" ".join(words[at : at + _LINE_WORDS]) for at in range(0, len(words), _LINE_WORDS)]
    return config[: found[0].start(2)] + "\n".join(lines) + "\n" + config[found[0].end(2) :]


def insert_key_gowin(netlist: str, key: bytes) -> str:
    """Return the routed netlist for a Gowin chip with the key in it."""
    design = json.loads(netlist)
    (module,) = design["modules"].values()
    cells: list[dict[str, Any]] = list(module["cells"].values())
    found = [cell["parameters"] for cell in cells if _gowin_content(cell) == pattern()]
    _require_one(len(found))
    words = [f"{byte:0{_WORD_BITS}b}" for byte in key + pattern()[len(key) : _INIT_WORDS]]
    found[0][_INIT.format(0)] = "".join(reversed(words))
    return json.dumps(design)


def _gowin_content(cell: dict[str, Any]) -> bytes:
    """Return the bytes of a block RAM of nine-bit words; none of another cell."""
    parameters = cell["parameters"]
    lines = [str(parameters.get(_INIT.format(n), "")) for n in range(_ROM_BYTES // _INIT_WORDS)]
    if any(len(line) != _INIT_WORDS * _WORD_BITS for line in lines):
        return b""
    return bytes(
        int(line[at - 8 : at], 2) for line in lines for at in range(len(line), 0, -_WORD_BITS)
    )


def _require_one(found: int) -> None:
    """Raise TransportKeyError unless one block RAM has the pattern."""
    if found != 1:
        raise TransportKeyError(
            "The design has no block RAM with the pattern of the transport key: the key is in it "
            "already, or it is another design; build it again with `rig board build`."
        )


def write_bitstream(key_file: Path, routed: Path, bitstream: Path) -> None:
    """Write a bitstream of mode 0600 with the key of `key_file`."""
    if not routed.is_file():
        raise TransportKeyError(f"There is no {routed}; build it with `rig board build`.")
    key = read_key(key_file)
    family = family_of(routed)
    insert = insert_key_gowin if family is GOWIN else insert_key
    with tempfile.TemporaryDirectory(prefix="taperig-") as name:
        folder = Path(name)  # mode 0700
        keyed = folder / f"new{family.routed_suffix}"
        keyed.write_text(insert(routed.read_text("utf-8"), key), "utf-8")
        arguments = family.pack_arguments(keyed, "new.bit")
        require(family.packer, arguments, folder, folder / "pack.log", "Packing the bitstream")
        bitstream.unlink(missing_ok=True)
        bitstream.touch(mode=0o600)
        bitstream.write_bytes((folder / "new.bit").read_bytes())


def main() -> int:
    """Run the command line; on failure print one sentence and return 2."""
    if len(sys.argv) != 4:
        print(f"usage: {Path(sys.argv[0]).name} KEYFILE ROUTED BITSTREAM", file=sys.stderr)
        return 2
    try:
        write_bitstream(*map(Path, sys.argv[1:]))
    except (HdlError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
