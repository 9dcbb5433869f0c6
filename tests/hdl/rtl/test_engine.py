"""The engine, drive_crypto, with record ports on a bench (engine_top.sv)."""

from pathlib import Path

import pytest
from width import WIDTH

from hdl.errors import BenchError
from hdl.sources import SIM_DIRECTORY, rtl_sources
from hdl.verilator.bench import run_bench

HERE = Path(__file__).parent
SOURCES = [
    *rtl_sources(),
    SIM_DIRECTORY / "record_port.sv",
    SIM_DIRECTORY / "record_port.cpp",
    HERE / "engine_top.sv",
    HERE / "frame_ends.cpp",
]
SMALL_BANKS = {**WIDTH, "BankBytes": 4096}
FLAGS = ("-LDFLAGS", "-rdynamic")
NO_ASSERTIONS = ("+verilator+noassert",)
"""For benches that flip bits: an assertion of the RTL would end the simulation."""


def test_engine_bench_that_fails_says_what_status_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bench_broken.py").write_text(
        "from engine import EngineDriver, engine_test\n"
        "@engine_test\nasync def breaks(dut):\n"
        "    await EngineDriver(dut).power_on()\n    assert False, 'on purpose'\n"
    )
    monkeypatch.setenv("WAVES", "0")
    with pytest.raises(BenchError, match=r"breaks: on purpose(.*\n)*STATUS 0x\w+ \(READY, SELF"):
        run_bench(
            "engine_top",
            SOURCES,
            "bench_broken",
            parameters=WIDTH,
            flags=FLAGS,
            module_directory=tmp_path,
        )


def test_engine_matches_nist_vectors() -> None:
    run_bench("engine_top", SOURCES, "bench_engine_vectors", parameters=WIDTH, flags=FLAGS)


def test_engine_processes_records() -> None:
    run_bench("engine_top", SOURCES, "bench_engine_records", parameters=WIDTH, flags=FLAGS)


def test_engine_zeroizes_after_any_cause() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_zeroize",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_visible.vlt"],
        flags=FLAGS,
        plusargs=NO_ASSERTIONS,
    )


def test_engine_ring_loses_no_word() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_ring",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_visible.vlt"],
        flags=FLAGS,
    )


def test_engine_timing_depends_on_lengths_only() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_timing",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_visible.vlt"],
        flags=FLAGS,
    )


def test_engine_self_test_finds_stuck_signals() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_self_test",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_visible.vlt"],
        flags=FLAGS,
    )


def test_engine_registers_hold_every_bit() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_registers",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_visible.vlt"],
        flags=FLAGS,
    )


def test_engine_loses_one_record_to_a_lost_word() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_torn",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_visible.vlt"],
        flags=FLAGS,
    )


def test_engine_counts_gaps_and_latency() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_gaps",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_visible.vlt"],
        flags=FLAGS,
    )
