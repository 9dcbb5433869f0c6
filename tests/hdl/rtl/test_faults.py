"""Bit flips inside the engine: a few, the same each time; more with bench/fault_injection.py."""

from test_engine import FLAGS, HERE, SMALL_BANKS, SOURCES

from hdl.verilator.bench import run_bench


def test_no_flip_is_silent() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_faults",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_flippable.vlt"],
        flags=FLAGS,
        extra_env={"FAULT_TRIALS": "2", "FAULT_SEED": "7"},
    )
