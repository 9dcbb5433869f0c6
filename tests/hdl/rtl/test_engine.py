"""The whole engine: drive_crypto with record ports on a bench (engine_top.sv)."""

from pathlib import Path

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
SMALL_BANKS = {"BankBytes": 4096}
FLAGS = ("-LDFLAGS", "-rdynamic")


def test_nist_vectors() -> None:
    run_bench("engine_top", SOURCES, "bench_engine_vectors", flags=FLAGS)


def test_records() -> None:
    run_bench("engine_top", SOURCES, "bench_engine_records", flags=FLAGS)


def test_zeroize() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_zeroize",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_visible.vlt"],
        flags=FLAGS,
    )


def test_ring() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_ring",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_visible.vlt"],
        flags=FLAGS,
    )


def test_timing() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_timing",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_visible.vlt"],
        flags=FLAGS,
    )


def test_self_test() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_self_test",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_visible.vlt"],
        flags=FLAGS,
    )


def test_registers() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_registers",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_visible.vlt"],
        flags=FLAGS,
    )
