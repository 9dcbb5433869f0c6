"""Registers that synthesis must not merge are there after it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hdl.files import replace_once
from hdl.formal.prove import FORMAL_DIRECTORY
from hdl.fpga.tools import SYNTHESIS, require
from hdl.sources import RTL_DIRECTORY

# key_control with two parts of it that do not matter here replaced: a few seconds.
SOURCES = [
    *(RTL_DIRECTORY / name for name in ("aes_pkg.sv", "drive_crypto_pkg.sv", "control_twin.sv")),
    RTL_DIRECTORY / "key_control.sv",
    *(FORMAL_DIRECTORY / "abstract" / f"{name}.sv" for name in ("key_unwrap", "aes_key_expand")),
]
CLEARS = 8
TWINS = 24


def flip_flops(folder: Path) -> tuple[int, int, int]:
    """Synthesize; return the flip-flops of clear_o, of the twin and in all."""
    names = " ".join(path.name for path in SOURCES)
    script = f"read_verilog -sv -formal {names}; synth_ecp5 -top key_control -json netlist.json"
    require(SYNTHESIS, ["-q", "-p", script], folder, folder / "log", "Synthesis of key_control")
    module = json.loads((folder / "netlist.json").read_text())["modules"]["key_control"]
    registers = {
        cell["connections"]["Q"][0]
        for cell in module["cells"].values()
        if cell["type"] == "TRELLIS_FF"
    }
    clears = set(module["ports"]["clear_o"]["bits"])
    twin = module["netnames"].get("u_twin.twin_q", {"bits": []})["bits"]
    return len(clears & registers), len(set(twin) & registers), len(registers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in SOURCES:
        shutil.copy(path, tmp_path)
    return tmp_path


def test_synthesis_keeps_each_clear_and_each_twin(folder: Path) -> None:
    clears, twins, _ = flip_flops(folder)
    assert clears == CLEARS
    assert twins == TWINS


def test_synthesis_merges_clears_without_the_attribute(folder: Path) -> None:
    replace_once(folder / "key_control.sv", "    (* keep *)\n", "")
    assert flip_flops(folder)[0] == 1


def test_synthesis_merges_twins_that_are_not_complemented(folder: Path) -> None:
    """Merge equal registers, whatever attribute the second has."""
    _, _, complemented = flip_flops(folder)
    twin = folder / "control_twin.sv"
    replace_once(
        twin,
        "  always_ff @(posedge clk_i) begin\n    twin_q <= ~next_i;\n  end",
        "  always_ff @(posedge clk_i or negedge rst_ni) begin\n"
        "    if (!rst_ni) twin_q <= '0;\n    else twin_q <= next_i;\n  end",
    )
    replace_once(twin, "held_i ^ ~twin_q", "held_i ^ twin_q")
    assert flip_flops(folder)[2] <= complemented - TWINS
