"""Sizes of the engine with its board logic at each width: `make sizes`.

Also `python -m hdl.fpga.sizes [--check] [WIDTH ...]`.

Synthesizes `board_top` and packs it for an ECP5-25F, so the figures are those of the placer. They
are kept in hdl/fpga/sizes.json, each width with the hash of the sources that it was made from;
`--check` says whether these are the sources of now.
"""

import argparse
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hdl.errors import BuildError, HdlError
from hdl.files import file_hash, read_text
from hdl.fpga.families import ECP5
from hdl.fpga.tools import SYNTHESIS, require
from hdl.sources import board_sources, rtl_sources
from hdl.tool_process import ends_by_signal
from hdl.widths import PARAMETER, WIDTHS, require_width

SIZES_FILE = Path(__file__).with_name("sizes.json")
BANK_BYTES = 16384
CLOCK_MHZ = 62.5
NATIVE_MB_PER_S = 104
"""Native rate of a TS1120."""
CHIP = {"lut4": 24288, "ff": 24288, "ebr": 56}
"""What an LFE5U-25F has."""

_CELLS = dict(zip(CHIP, ECP5.cells, strict=True))
_TOP = "board_top"


@dataclass(frozen=True)
class Size:
    """What the engine takes with its board logic, at one width."""

    word_bytes: int
    lut4: int
    ff: int
    ebr: int
    source_hash: str

    @property
    def mb_per_s(self) -> float:
        """Return the highest rate at 62.5 MHz."""
        return self.word_bytes * CLOCK_MHZ

    @property
    def fits(self) -> bool:
        """Return whether an ECP5-25F has room for it."""
        return all(getattr(self, kind) <= most for kind, most in CHIP.items())


def sizes_hash() -> str:
    """Return the hash of the sources that the figures are of."""
    digest = hashlib.sha256(str(BANK_BYTES).encode())
    for path in (*rtl_sources(), *board_sources()):
        digest.update(f"\n{path.name} {file_hash(path)}".encode())
    return digest.hexdigest()


def measure(word_bytes: int) -> Size:
    """Synthesize and pack one width; takes minutes."""
    require_width(word_bytes)
    source_hash = sizes_hash()
    with tempfile.TemporaryDirectory(prefix="taperig-sizes-") as scratch:
        folder = Path(scratch)
        names = []
        for path in (*rtl_sources(), *board_sources()):
            (folder / path.name).write_bytes(path.read_bytes())
            names.append(path.name)
        settings = f"-set {PARAMETER} {word_bytes} -set BankBytes {BANK_BYTES}"
        (folder / "size.ys").write_text(
            f"read_verilog -sv {' '.join(names)}\n"
            f"chparam {settings} {_TOP}\n"
            f"synth_ecp5 -top {_TOP} -json size.json\n"
        )
        what = f"Synthesis of {_TOP} at {word_bytes} bytes a clock"
        require(SYNTHESIS, ["-q", "-s", "size.ys"], folder, folder / "size.out", what)
        arguments = ["--25k", "--package", "CABGA381", "--json", "size.json", "--pack-only"]
        log = folder / "pack.out"
        require(ECP5.placer, arguments, folder, log, f"Packing at {word_bytes} bytes a clock")
        return Size(word_bytes, **_used(log.read_text()), source_hash=source_hash)


def _used(log: str) -> dict[str, int]:
    used = {}
    for kind, cell in _CELLS.items():
        found = re.search(rf"\b{cell}: +(\d+)/", log)
        if found is None:
            raise BuildError(f"The log of {ECP5.placer} names no {cell}; its version is another.")
        used[kind] = int(found[1])
    return used


def kept_sizes() -> list[Size]:
    """Return the kept figures, the widest first."""
    if not SIZES_FILE.is_file():
        return []
    return [Size(**each) for each in json.loads(read_text(SIZES_FILE))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the named widths, or all; keep and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("widths", nargs="*", type=int, metavar="WIDTH", help="bytes a clock")
    parser.add_argument("--check", action="store_true", help="measure nothing: are they of now?")
    options = parser.parse_args(arguments)
    found = {size.word_bytes: size for size in kept_sizes()}
    if options.check:
        print("\n".join(table(kept_sizes())))
        now = sizes_hash()
        old = [width for width in WIDTHS if width not in found or found[width].source_hash != now]
        for width in old:
            print(f"{width} bytes a clock: not of these sources; run `make sizes ARGS={width}`")
        return 1 if old else 0
    for word_bytes in options.widths or WIDTHS:
        print(f"synthesizing {word_bytes} bytes a clock", flush=True)
        found[word_bytes] = measure(word_bytes)
        kept = [asdict(found[each]) for each in WIDTHS if each in found]
        SIZES_FILE.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    print("\n".join(table(kept_sizes())))
    return 0


def table(sizes: Sequence[Size]) -> list[str]:
    """Return the figures as a table in Markdown."""
    lines = [
        "| bytes a clock | LUT4 | FF | block RAM | MB/s at 62.5 MHz | RATE-2, TS1120 | ECP5-25F |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size in sizes:
        reached = "reached" if size.mb_per_s >= NATIVE_MB_PER_S else "not reached"
        fits = "fits" if size.fits else "does not fit"
        lines.append(
            f"| {size.word_bytes} | {size.lut4:,} | {size.ff:,} | {size.ebr} | {size.mb_per_s:,g} "
            f"| {reached} | {fits} |"
        )
    return lines


if __name__ == "__main__":
    try:
        with ends_by_signal():
            sys.exit(main())
    except HdlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
