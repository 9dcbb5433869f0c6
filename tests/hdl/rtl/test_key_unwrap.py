"""Inverse cipher (bench_aes_decrypt.py), key unwrap (bench_key_unwrap.py)."""

from pathlib import Path

from hdl.verilator.bench import rtl, run_bench

HERE = Path(__file__).parent
VISIBLE = HERE / "registers_visible.vlt"
INVERSE_CIPHER = rtl(
    "drive_crypto_pkg.sv",
    "aes_pkg.sv",
    "control_twin.sv",
    "aes_sbox_rom.sv",
    "aes_key_expand.sv",
    "aes_inv_sbox_rom.sv",
    "aes_inv_cipher.sv",
)


def test_aes_inverse_cipher_decrypts_blocks() -> None:
    sources = [*INVERSE_CIPHER, HERE / "aes_decrypt_top.sv"]
    run_bench("aes_decrypt_top", sources, "bench_aes_decrypt", vlt=[VISIBLE])


def test_key_unwrap_opens_only_valid_blobs() -> None:
    sources = [*INVERSE_CIPHER, *rtl("key_unwrap.sv")]
    run_bench("key_unwrap", sources, "bench_key_unwrap", vlt=[VISIBLE])
