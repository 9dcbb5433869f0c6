"""A few bit flips in the engine; bench/fault_injection.py runs more."""

from test_engine import FLAGS, HERE, NO_ASSERTIONS, SMALL_BANKS, SOURCES

from hdl.verilator.bench import run_bench


def test_engine_reports_bit_flips() -> None:
    run_bench(
        "engine_top",
        SOURCES,
        "bench_engine_faults",
        parameters=SMALL_BANKS,
        vlt=[HERE / "engine_flippable.vlt"],
        flags=FLAGS,
        plusargs=NO_ASSERTIONS,
        extra_env={"FAULT_TRIALS": "2", "FAULT_SEED": "7"},
    )
