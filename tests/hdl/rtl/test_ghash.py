"""GHASH, block by block (bench_ghash.py)."""

from pathlib import Path

from width import WIDTH

from hdl.verilator.bench import rtl, run_bench

VISIBLE = Path(__file__).parent / "registers_visible.vlt"


def test_ghash_hashes_records() -> None:
    sources = rtl("drive_crypto_pkg.sv", "clmul_32.sv", "gf128_mul.sv", "ghash.sv")
    run_bench("ghash", sources, "bench_ghash", parameters=WIDTH, vlt=[VISIBLE])
