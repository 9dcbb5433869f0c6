"""AES-256 key expansion and cipher pipeline (bench_aes_encrypt.py)."""

from pathlib import Path

from width import WIDTH

from hdl.verilator.bench import rtl, run_bench

HERE = Path(__file__).parent
SOURCES = rtl(
    "drive_crypto_pkg.sv",
    "aes_pkg.sv",
    "control_twin.sv",
    "aes_sbox_rom.sv",
    "word_phase.sv",
    "aes_round.sv",
    "aes_rounds.sv",
    "aes_pipe.sv",
    "aes_key_expand.sv",
)


def test_aes_pipeline_encrypts_blocks() -> None:
    run_bench(
        "aes_encrypt_top",
        [*SOURCES, HERE / "aes_encrypt_top.sv"],
        "bench_aes_encrypt",
        parameters=WIDTH,
        vlt=[HERE / "registers_flippable.vlt"],
        plusargs=["+verilator+noassert"],  # bits are flipped
    )
