"""Boards with almost nothing on them, whose bitstreams take seconds."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

from hdl.fpga import targets
from hdl.fpga.families import GOWIN
from hdl.fpga.targets import Target

_TOP = """
module keyed #(parameter logic [31:0] BuildHash = 0)
             (input logic clk_i, input logic rst_ni, output logic bit_o);
  logic ready;
  logic [255:0] key, key_q;
  transport_key_rom u_rom (.clk_i, .rst_ni, .ready_o(ready), .key_o(key));
  always_ff @(posedge clk_i) key_q <= ready ? {key_q[254:0], key_q[255]} : key;
  assign bit_o = key_q[255];
endmodule
"""
_PINS = 'FREQUENCY PORT "clk_i" 50 MHZ ;\n' + "".join(
    f'LOCATE COMP "{port}" SITE "{site}" ;\nIOBUF PORT "{port}" IO_TYPE=LVCMOS33 ;\n'
    for port, site in (("clk_i", "G2"), ("rst_ni", "B2"), ("bit_o", "J1"))
)

_GOWIN_PINS = "".join(
    f'IO_LOC "{port}" {site};\nIO_PORT "{port}" IO_TYPE=LVCMOS33;\n'
    for port, site in (("clk_i", "H11"), ("rst_ni", "T13"), ("bit_o", "M11"))
)


def small_board(folder: Path, name: str, title: str, clock_hz: int, **parameters: int) -> Target:
    """Return the design in a folder as a board to build for.

    Its top has the board's name.
    """
    return Target(
        name=name,
        title=title,
        chip="25k",
        package="CABGA381",
        speed_grade=6,
        top=name,
        clock_hz=clock_hz,
        ebr=56,
        loader="ulx3s",
        parameters=parameters,
        folder=folder,
    )


def keyed_target(source: Path) -> Target:
    """Write a design with little but a transport key; return its board."""
    shutil.copy(targets.FPGA_DIRECTORY / "transport_key_rom.sv", source)
    (source / "keyed.sv").write_text(_TOP)
    (source / "keyed.lpf").write_text(_PINS)
    return small_board(source, "keyed", "A key", 50_000_000)


def keyed_gowin_target(source: Path) -> Target:
    """Write the same design for a Gowin chip; return its board."""
    (source / "keyed.cst").write_text(_GOWIN_PINS)
    return replace(
        keyed_target(source), family=GOWIN, chip="GW2A-18", package="GW2A-LV18PG256C8/I7", ebr=46
    )


def ram_contents(config: str) -> list[bytes]:
    """Return what block RAMs hold, by the text of a design."""
    return [
        bytes(int(word, 16) & 0xFF for word in found.split())
        for found in re.findall(r"^\.bram_init \d+\n((?:[0-9a-f ]+\n)+)", config, re.MULTILINE)
    ]
